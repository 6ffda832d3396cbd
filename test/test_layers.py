"""Imports point one way; read from the sources, so that a lazy import counts as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "a2p_ros"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Each stage and the modules that are its own; what is not named here is shared.
STAGES = {
    "detection": {"detection"},
    "fitting": {"fitting"},
    "network": {"network"},
    "interaction": {"interaction"},
    "placement": {"placement", "depth_scale"},
    "smoothing": {"smoothing"},
    "rendering": {"rendering"},
    "viewer": {"viewer"},
}
#: What wires stages or serves people; no stage may know it.
SHELL = {"pipeline", "measuring", "media", "cli", "commands", "ros", "evaluation", "training"}


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of the modules (and of what is taken from them) that a file imports anywhere."""
    names: set[str] = set()
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def is_ros(name: str) -> bool:
    top = name.split(".")[0]
    ours = name.startswith("a2p_ros.msg.") or name == "a2p_ros.msg"
    return (
        ours
        or top in {"rclpy", "std_srvs", "cv_bridge", "tf2_ros", "launch", "launch_ros", "ament_index_python"}
        or (top.endswith(("_msgs", "_interfaces")) or top.startswith("rosidl"))
    )


def inner(name: str) -> str:
    """``a2p_ros.ros.markers`` -> ``ros``; empty for what is not ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == "a2p_ros" and len(parts) > 1 else ""


@pytest.mark.parametrize("path", [f for f in FILES if f.parent.name != "ros"], ids=module_of)
def test_only_the_ros_folder_imports_ros(path):
    assert {name for name in imported(path) if is_ros(name)} == set()


def test_the_ros_folder_does_import_ros():
    names = set().union(*(imported(path) for path in (PACKAGE / "ros").glob("*.py")))
    assert {"rclpy.node.Node", "a2p_ros.msg.TwoHandMANO"} <= {name for name in names if is_ros(name)}


@pytest.mark.parametrize(
    "path", [f for f in FILES if "training" not in f.parts and "commands" not in f.parts], ids=module_of
)
def test_nothing_at_run_time_imports_training(path):
    assert {name for name in imported(path) if inner(name) == "training"} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_know_one_another(stage):
    others = set().union(*(modules for name, modules in STAGES.items() if name != stage)) | SHELL
    files = [f for f in FILES if inner(module_of(f)) in STAGES[stage]]
    known = {f"{module_of(f)} imports {name}" for f in files for name in imported(f) if inner(name) in others}
    assert known == set()


def test_stages_named_here_exist():
    there = {inner(module_of(path)) for path in FILES}
    assert set().union(*STAGES.values()) <= there


@pytest.mark.parametrize("module", ["types", "errors", "config"])
def test_the_ground_floor_imports_only_itself(module):
    below = {inner(name) for name in imported(PACKAGE / f"{module}.py")} - {""}
    assert below <= {"types", "errors"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_of_the_package_is_light():
    assert loaded_by("import a2p_ros") & {"numpy", "torch", "cv2", "rclpy", "jaxtyping", "scipy"} == set()


def test_import_of_the_program_is_light():
    heavy = {"torch", "cv2", "rclpy", "scipy", "onnxruntime", "viser", "moderngl"}
    assert loaded_by("import a2p_ros.cli") & heavy == set()


def test_the_pipeline_needs_no_ros():
    loaded = loaded_by("import a2p_ros.pipeline")
    assert "torch" in loaded
    assert {name for name in loaded if is_ros(name)} == set()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) < 500
