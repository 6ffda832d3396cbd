"""The package's files agree with one another: versions, dependencies, messages, executables, licence."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version

import a2p_ros

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PACKAGE_XML = ElementTree.parse(REPOSITORY / "package.xml").getroot()

HAND = """
    bool valid, uint8 status, float32 confidence, geometry_msgs/Pose wrist, float32[63] keypoints,
    float32[63] keypoints_wrist, float32[42] keypoints_px, float32[21] keypoint_confidence, float32[48] mano_pose,
    float32[10] mano_betas, float32[3] mano_transl, sensor_msgs/RegionOfInterest box
"""
TWO_HANDS = """
    std_msgs/Header header, HandMANO left, HandMANO right, bool interacting, bool repaired,
    float32 penetration_before, float32 penetration_after, float32[3] relative_translation, bool metric_scale,
    float32 latency, string model_id, string hand_model
"""
TWO_MESHES = """
    std_msgs/Header header, float32[] left_vertices, float32[] right_vertices, uint32[] left_faces,
    uint32[] right_faces, string hand_model
"""
MESSAGES = {
    name: tuple(tuple(field.split()) for field in fields.split(","))
    for name, fields in {"HandMANO": HAND, "TwoHandMANO": TWO_HANDS, "TwoHandMesh": TWO_MESHES}.items()
}


def message_lines(name: str) -> list[tuple[str, str, str]]:
    """(type, field, comment) of each field of a message file."""
    rows = []
    for line in (REPOSITORY / "msg" / f"{name}.msg").read_text().splitlines():
        declaration, _, comment = line.partition("#")
        if declaration.strip() and "=" not in declaration:
            kind, field = declaration.split()
            rows.append((kind, field, comment.strip()))
    return rows


@pytest.mark.parametrize("name", MESSAGES)
def test_message_has_exactly_the_fields_that_subscribers_were_promised(name):
    assert tuple((kind, field) for kind, field, _ in message_lines(name)) == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_field_is_commented(name):
    assert [field for _, field, comment in message_lines(name) if len(comment) < 10] == []


@pytest.mark.parametrize("name", MESSAGES)
def test_built_message_is_that_of_the_file(name):
    module = pytest.importorskip("a2p_ros.msg", reason="the messages are not built: make install")
    built = getattr(module, name).get_fields_and_field_types()
    spelled = {"bool": "boolean", "float32": "float", "HandMANO": "a2p_ros/HandMANO"}
    expected = {}
    for kind, field in MESSAGES[name]:
        base, _, size = kind.partition("[")
        base, size = spelled.get(base, base), size.rstrip("]")
        expected[field] = f"{base}[{size}]" if size else f"sequence<{base}>" if kind.endswith("[]") else base
    assert built == expected


def test_status_constants_are_those_of_the_types():
    from a2p_ros.types import Status

    text = (REPOSITORY / "msg" / "HandMANO.msg").read_text()
    assert {n: int(v) for n, v in re.findall(r"^uint8 (\w+)=(\d+)", text, re.M)} == {s.name: s.value for s in Status}


def test_bare_tf_message_is_that_of_tf2():
    folder = REPOSITORY / "ros_bare"
    text = (folder / "tf2_msgs" / "msg" / "TFMessage.msg").read_text()
    assert text.split() == ["geometry_msgs/TransformStamped[]", "transforms"]
    assert (folder / "COLCON_IGNORE").exists(), "colcon must never build it beside the real tf2_msgs"


@pytest.mark.parametrize("folder", [".", "ros_bare/tf2_msgs"])
def test_package_xml_is_valid(folder):
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg is not installed")
    warnings: list[str] = []
    package = catkin_pkg.parse_package(str(REPOSITORY / folder), warnings=warnings)
    package.validate(warnings=warnings)
    assert warnings == []
    assert package.package_format == 3
    assert [str(name) for name in package.licenses] == ["Apache-2.0"]
    assert package.get_build_type() == "ament_cmake"
    assert [group.name for group in package.member_of_groups] == ["rosidl_interface_packages"]


def test_versions_agree():
    assert PACKAGE_XML.findtext("version") == a2p_ros.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", a2p_ros.__version__)
    assert "version" not in PROJECT and "version" in PROJECT["dynamic"], "pip reads a2p_ros.__version__"


def test_installed_version_is_that_of_the_sources():
    try:
        installed = importlib.metadata.version("a2p_ros")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("a2p_ros is not installed by pip here")
    assert installed == a2p_ros.__version__


def test_licence_is_apache_2():
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == {"text": "Apache-2.0"}


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def is_ros(name: str) -> bool:
    return name in {"rclpy", "launch", "launch_ros", "std_srvs", "cv_bridge"} or name.endswith(("_msgs", "_interfaces"))


def test_every_ros_import_is_declared_in_package_xml():
    declared = {tag.text for tag in PACKAGE_XML if tag.tag in {"depend", "exec_depend"}}
    files = [*(REPOSITORY / "a2p_ros").rglob("*.py"), *(REPOSITORY / "launch").glob("*.py")]
    used = set().union(*(imports(path) for path in files))
    # builtin_interfaces comes with rclpy and with every message package.
    assert {name for name in used if is_ros(name)} - declared - {"builtin_interfaces"} == set()


def test_every_ros_message_dependency_is_declared():
    used = {kind.split("/")[0] for fields in MESSAGES.values() for kind, _ in fields if "/" in kind}
    declared = {tag.text for tag in PACKAGE_XML if tag.tag == "depend"}
    cmake = (REPOSITORY / "CMakeLists.txt").read_text()
    assert used == declared
    assert all(f"find_package({name} REQUIRED)" in cmake for name in used)


def requirements(*extras: str) -> dict[str, Requirement]:
    """Lower-case distribution name -> requirement, of the base and of extras."""
    base = (REPOSITORY / "requirements" / "run.txt").read_text().splitlines()
    lines = [line for line in base if not line.startswith("#")]
    lines += [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {normal(Requirement(line).name): Requirement(line) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_python_import_is_declared_in_pyproject():
    provided = importlib.metadata.packages_distributions() if sys.version_info >= (3, 10) else {}
    declared = {*requirements(*PROJECT["optional-dependencies"]), "mediapipe"}
    missing = {}
    for path in (REPOSITORY / "a2p_ros").rglob("*.py"):
        for name in imports(path) - set(sys.stdlib_module_names) - {"a2p_ros"}:
            if is_ros(name) or name in {"ament_index_python", "rosidl_runtime_py"}:
                continue
            distributions = {normal(d) for d in provided.get(name, [name])}
            if not distributions & declared:
                missing[name] = str(path.relative_to(REPOSITORY))
    assert missing == {}


def test_onnxruntime_is_chosen_by_exactly_one_extra():
    extras = PROJECT["optional-dependencies"]
    holders = {name for name in extras if any(r.startswith("onnxruntime") for r in requirements(name))}
    base = {name for name in requirements() if name.startswith("onnxruntime")}
    assert base == set()
    assert holders == {"cpu", "gpu"}
    assert set(requirements("cpu")) - set(requirements()) == {"onnxruntime"}
    assert set(requirements("gpu")) - set(requirements()) == {"onnxruntime-gpu"}
    assert "[${ONNX:-cpu}," in (REPOSITORY / "tools" / "install.sh").read_text()


def test_one_opencv_is_declared_and_installed():
    declared = {name for name in requirements(*PROJECT["optional-dependencies"]) if name.startswith("opencv")}
    installed = {normal(d.metadata["Name"]) for d in importlib.metadata.distributions() if d.metadata["Name"]}
    assert len(declared) == 1
    assert len({name for name in installed if name.startswith("opencv")}) <= 1


def test_pins_fulfil_the_requirements():
    pins: dict[str, list[Requirement]] = {}
    for line in (REPOSITORY / "requirements" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(normal(pin.name), []).append(pin)
    everything = requirements(*PROJECT["optional-dependencies"])
    # Left to the caller: the build of torch, and onnxruntime-gpu, which is chosen with the CUDA of the machine.
    assert set(everything) - set(pins) == {"torch", "onnxruntime-gpu"}
    for name, requirement in everything.items():
        for pin in pins.get(name, []):
            version = next(iter(pin.specifier)).version
            assert Version(version) in requirement.specifier, f"{pin} does not fulfil {requirement}"


def test_every_executable_has_a_main():
    cmake = (REPOSITORY / "CMakeLists.txt").read_text()
    programs = dict(re.findall(r"^a2p_ros_program\((\w+) ([\w.]+)\)", cmake, re.M))
    nodes = {path.stem for path in (REPOSITORY / "a2p_ros" / "ros").glob("*_node.py")}
    assert programs == {"a2p": "a2p_ros.cli"} | {name: f"a2p_ros.ros.{name}" for name in nodes}
    for module in programs.values():
        assert_has_main(REPOSITORY / f"{module.replace('.', '/')}.py")


def test_entry_point_has_a_main():
    assert PROJECT["scripts"] == {"a2p": "a2p_ros.cli:main"}
    assert_has_main(REPOSITORY / "a2p_ros" / "cli.py")


def assert_has_main(path: Path) -> None:
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "main"]
    assert len(functions) == 1, f"{path} has no main()"
    arguments = functions[0].args
    assert len(arguments.args) == len(arguments.defaults), f"{path}: main() needs arguments"


def test_parameter_file_says_what_the_configuration_says():
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from a2p_ros.ros.parameter_file import parameter_file

    assert (REPOSITORY / "config" / "hands.yaml").read_text() == parameter_file(), (
        "write it anew: python -m a2p_ros.ros.parameter_file > config/hands.yaml"
    )


def test_fast_dds_profile_has_room_for_camera_images():
    space = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    root = ElementTree.parse(REPOSITORY / "config" / "fastdds.xml").getroot()
    (size,) = root.iter(f"{space}segment_size")
    assert int(size.text or 0) == 64 * 2**20
    defined = {tag.text for tag in root.iter(f"{space}transport_id")}
    used = {tag.text for tag in root.find(f".//{space}userTransports") or []}
    assert len(used) == 2 and used <= defined


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def bare_machine(tmp_path):
    """A PATH with the shell's basic commands and nothing else."""
    for command in ("bash", "sh", "env", "dirname", "basename"):
        source = next(p for d in os.defpath.split(":") + ["/usr/bin", "/bin"] if (p := Path(d, command)).exists())
        (tmp_path / command).symlink_to(source)
    return tmp_path


def tool(name: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "bash"), str(REPOSITORY / "tools" / name), *arguments],
        env={"PATH": str(folder), "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_python_of_another_version_is_passed_over(bare_machine):
    script(bare_machine / "python3", "exit 0")  # as a Python that is too new: it prints nothing
    script(bare_machine / "python3.12", "echo command not found >&2; exit 127")  # as a shim without its Python
    script(bare_machine / "python3.11", "echo /opt/python3.11/bin/python3")
    assert tool("find_python.sh", bare_machine).stdout.strip() == "/opt/python3.11/bin/python3"


def test_the_default_python_is_preferred(bare_machine):
    script(bare_machine / "python3", "echo /usr/bin/python3.10")
    script(bare_machine / "python3.12", "echo /usr/bin/python3.12")
    assert tool("find_python.sh", bare_machine).stdout.strip() == "/usr/bin/python3.10"


def test_no_python_names_the_way_out(bare_machine):
    found = tool("find_python.sh", bare_machine, PYTHON="/nowhere/python3")
    assert found.returncode == 1
    assert "PYTHON=" in found.stderr and "apt-get install" in found.stderr


def test_missing_system_packages_are_named_in_one_line_without_root(bare_machine):
    script(bare_machine / "python3", "echo python3.11")
    script(bare_machine / "id", "echo 1000")
    script(bare_machine / "sudo", "exit 1")
    script(bare_machine / "apt-get", "exit 1")
    found = tool("system_packages.sh", bare_machine, "build", str(bare_machine / "python3"))
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert re.search(r"sudo apt-get install -y .*\bcmake g\+\+", line)


def test_missing_optional_packages_do_not_fail_the_installation(bare_machine):
    script(bare_machine / "id", "echo 0")
    script(bare_machine / "apt-get", "exit 100")
    found = tool("system_packages.sh", bare_machine, "test")
    assert found.returncode == 0, found.stderr
    assert "chromium could not be installed" in found.stderr


@pytest.mark.parametrize("path", [*sorted((REPOSITORY / "tools").glob("*.sh")), REPOSITORY / ".ci" / "run"], ids=str)
def test_shell_scripts_parse(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_installed_nodes_start_with_the_python_that_built_them():
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    found = [p for prefix in prefixes if (p := Path(prefix, "lib", "a2p_ros", "hands_node")).exists()]
    if not found:
        pytest.skip("no installed a2p_ros on AMENT_PREFIX_PATH")
    first = found[0].read_text().splitlines()[0]
    assert first.startswith("#!") and "@" not in first
    assert importlib.util.find_spec("a2p_ros.ros.hands_node") is not None
