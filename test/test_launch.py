"""The launch file: what it starts for which arguments, and that it really brings hands up where launch is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY
from ros_helpers import free_domain, require_ros, wait_until

require_ros()

from a2p_ros.config import PipelineConfig, settings_of
from a2p_ros.ros.camera_node import CameraConfig
from a2p_ros.ros.parameters import NodeConfig

LAUNCH_FILE = REPOSITORY / "launch" / "hands.launch.py"


def has_launch() -> bool:
    # The folder launch/ of this repository is a namespace package for Python started here.
    return all(importlib.util.find_spec(name) is not None for name in ("launch_ros", "launch.actions"))


try:
    _HAS_LAUNCH = has_launch()
except ModuleNotFoundError:
    _HAS_LAUNCH = False
needs_launch = pytest.mark.skipif(not _HAS_LAUNCH, reason="launch and launch_ros are not installed (not on PyPI)")


def constant(name: str) -> Any:
    """A table of the launch file as text, read without importing launch: types become their names."""
    for node in ast.parse(LAUNCH_FILE.read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and target.id == name:
            tree = node.value
            for child in ast.walk(tree):
                for field, value in ast.iter_fields(child):
                    if isinstance(value, list):
                        setattr(child, field, [_plain(v) for v in value])
                    elif isinstance(value, ast.AST):
                        setattr(child, field, _plain(value))
            return ast.literal_eval(ast.fix_missing_locations(tree))
    raise AssertionError(f"the launch file has no {name}")


def _plain(node: Any) -> Any:
    if isinstance(node, ast.Name):
        return ast.Constant(node.id)
    if isinstance(node, ast.Call):
        return ast.Constant("(computed)")
    return node


def known_parameters() -> dict[str, dict[str, str]]:
    """Node -> parameter -> type name, as the configuration has them."""
    hands = {name: kind for name, kind, _ in settings_of(NodeConfig)}
    hands |= {name: kind for name, kind, _ in PipelineConfig.flat_settings()}
    camera = {name: kind for name, kind, _ in settings_of(CameraConfig)}
    return {
        node: {name: kind.__name__ if isinstance(kind, type) else "str" for name, kind in kinds.items()}
        | {"use_sim_time": "bool"}
        for node, kinds in {"HANDS_PARAMETERS": hands, "CAMERA_PARAMETERS": camera}.items()
    }


@pytest.mark.parametrize("table", ["HANDS_PARAMETERS", "CAMERA_PARAMETERS"])
def test_arguments_set_parameters_that_exist_with_their_type(table):
    known, arguments = known_parameters()[table], constant("ARGUMENTS")
    for argument, (parameter, kind) in constant(table).items():
        assert known.get(parameter) == kind, f"{argument} sets {parameter} as {kind}"
        assert arguments[argument][0] == "", f"{argument}: a default here would hide the parameter file's value"


def test_every_argument_is_described():
    for name, (_, text, _) in constant("ARGUMENTS").items():
        assert len(text) > 10 and text.endswith("."), name


def test_device_choices_are_those_of_the_parameter():
    kinds = {name: kind for name, kind, _ in PipelineConfig.flat_settings()}
    assert constant("ARGUMENTS")["device"][2] == ["", *typing.get_args(kinds["device.device"])]


def test_optical_frame_is_that_of_the_camera_node():
    assert constant("CAMERA_FRAME") == CameraConfig().frame_id


def launched(**arguments: str) -> list[Any]:
    """The nodes and variables that the launch file gives for these arguments; nothing is started."""
    from launch import LaunchContext, LaunchDescription
    from launch.actions import DeclareLaunchArgument

    spec = importlib.util.spec_from_file_location("hands_launch", LAUNCH_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    assert isinstance(description, LaunchDescription)
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    return module.start(context)


def executables(actions: list[Any]) -> list[str]:
    return [action.node_executable for action in actions if hasattr(action, "node_executable")]


@needs_launch
def test_a_topic_starts_the_hands_node_alone():
    assert executables(launched(image_topic="/camera/image_raw")) == ["hands_node"]


@needs_launch
def test_a_source_starts_a_camera_too():
    assert executables(launched(source="synthetic")) == ["camera_node", "hands_node"]


@needs_launch
@pytest.mark.parametrize(
    ("arguments", "image"),
    [
        ({"image_topic": "front/picture"}, "/front/picture"),
        ({"image_topic": "front/picture", "namespace": "/robot/"}, "/robot/front/picture"),
        ({"image_topic": "/front/picture", "namespace": "robot"}, "/front/picture"),
        ({"image_topic": "/front/picture/compressed"}, "/front/picture"),
    ],
)
def test_the_camera_publishes_where_the_hands_node_listens(arguments: dict[str, str], image: str):
    camera, hands = [a for a in launched(source="synthetic", **arguments) if hasattr(a, "node_executable")]
    given = {k[0].text: v[0].text for k, v in camera._Node__remappings}
    folder = image.rpartition("/")[0]
    assert given == {
        "image_raw": image,
        "image_raw/compressed": f"{image}/compressed",
        "camera_info": f"{folder}/camera_info",
    }
    compressed = [
        p
        for n in (camera, hands)
        for d in n._Node__parameters
        if isinstance(d, dict)
        for p in d
        if p[0].text == "compressed"
    ]
    assert len(compressed) == (2 if arguments["image_topic"].endswith("/compressed") else 0)


@needs_launch
def test_views_are_started_when_asked_for():
    expected = ["camera_node", "hands_node", "viewer_node", "rviz2", "static_transform_publisher"]
    assert executables(launched(source="synthetic", viewer="true", rviz="true")) == expected


@needs_launch
def test_the_users_fast_dds_profile_wins(monkeypatch):
    from launch.actions import SetEnvironmentVariable

    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    assert sum(isinstance(action, SetEnvironmentVariable) for action in launched()) == 2
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/mine.xml")
    assert not any(isinstance(action, SetEnvironmentVariable) for action in launched())


@needs_launch
def test_a_missing_parameter_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"params_file: .*/nowhere\.yaml"):
        launched(params_file="/nowhere.yaml")


@needs_launch
def test_a_number_that_is_none_is_named():
    with pytest.raises(ValueError, match="fps: expected a number, got 'fast'"):
        launched(source="synthetic", fps="fast")


#: `ros2 launch FILE NAME:=VALUE...` for machines that have launch and not the program ros2.
SERVICE = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

service = LaunchService()
arguments = [tuple(argument.split(":=")) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments))
sys.exit(service.run())
"""


def installed_prefix() -> str:
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":"):
        if prefix and Path(prefix, "lib", "a2p_ros", "hands_node").exists():
            return prefix
    return ""


@pytest.fixture
def grey_pictures(tmp_path):
    """A folder of pictures without hands."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((120, 160, 3), 90 + i, np.uint8))
    return tmp_path


@needs_launch
@pytest.mark.skipif(not installed_prefix(), reason="a2p_ros is not installed on AMENT_PREFIX_PATH: make install")
def test_launch_brings_hands_up_and_down(grey_pictures, tmp_path):
    """A camera node on a folder, a hands node in a namespace: messages come, Ctrl-C ends all of it cleanly."""
    with free_domain() as domain:
        env = os.environ | {"ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(tmp_path / "log")}
        arguments = [f"source:={grey_pictures}", "fps:=10", "namespace:=operator", "device:=cpu"]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(LAUNCH_FILE), *arguments],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            received = first_hands("/operator/hands", domain, timeout=60.0)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        assert not received.left.valid and not received.right.valid, output
        assert received.header.frame_id == CameraConfig().frame_id
        assert process.returncode == 0, output
        assert output.count("process has finished cleanly") == 2, output


def first_hands(topic: str, domain: int, timeout: float) -> Any:
    """The first message on a topic that is about an image."""
    import rclpy
    from a2p_ros.msg import TwoHandMANO
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("launch_test", context=context)
    received: list[Any] = []
    node.create_subscription(TwoHandMANO, topic, received.append, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def arrived() -> Any:
        executor.spin_once(timeout_sec=0.1)
        return next((message for message in received if message.header.frame_id), None)

    try:
        return wait_until(arrived, timeout, f"hands on {topic}")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
