"""Hands from a camera topic, or from a source that this launch file opens as a camera.

ros2 launch a2p_ros hands.launch.py image_topic:=/camera/image_raw
ros2 launch a2p_ros hands.launch.py source:=synthetic rviz:=true
ros2 launch a2p_ros hands.launch.py --show-args
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

SHARE = Path(__file__).parents[1]

#: name: (default, description, choices); the default "" leaves the value to params_file.
ARGUMENTS: dict[str, tuple[str, str, list[str] | None]] = {
    "image_topic": ("", "Topic of the images, e.g. /camera/image_raw.", None),
    "camera_info_topic": ("", "Topic of the CameraInfo; empty = camera_info beside the images.", None),
    "depth_topic": ("", "Topic of depth images aligned with the images; they set the metric scale.", None),
    "compressed": ("", "The images are JPEG or PNG pictures (image_transport compressed).", ["", "true", "false"]),
    "source": (
        "",
        "Empty: the images come from elsewhere. Otherwise a camera node publishes synthetic[:SEED], a video, a folder "
        "of pictures, a bag, or the webcam of this number.",
        None,
    ),
    "fps": ("", "Frames a second of the source [Hz].", None),
    "loop": ("", "Begin the source anew at its end.", ["", "true", "false"]),
    "params_file": (str(SHARE / "config" / "hands.yaml"), "YAML file with parameters of the nodes.", None),
    "namespace": ("", "Namespace of all nodes, one for each camera.", None),
    "tf_prefix": ("", "Put before left_wrist and right_wrist on /tf; two cameras need two, as left_camera/.", None),
    "device": (
        "",
        "Where the networks run; cuda and tensorrt go with detection.backend a2p or rtmdet.",
        ["", "auto", "cpu", "cuda", "tensorrt"],
    ),
    "hand_length": ("", "The user's hand, wrist to middle fingertip [m]; sets the metric scale.", None),
    "autostart": (
        "",
        "Configure and activate at once; with false a lifecycle manager or `ros2 lifecycle set` does it.",
        ["", "true", "false"],
    ),
    "use_sim_time": ("", "Take time from /clock, as for a bag played with --clock.", ["", "true", "false"]),
    "rviz": ("false", "Start RViz.", ["true", "false"]),
    "rviz_config": (str(SHARE / "rviz" / "hands.rviz"), "RViz configuration.", None),
    "fixed_frame": ("camera_link", "RViz's fixed frame, x forward and z up; a frame of the camera's TF tree.", None),
    "viewer": ("false", "Show the hands in a browser.", ["true", "false"]),
    "viewer_host": ("127.0.0.1", "Address the browser view listens on; 0.0.0.0 = every network.", None),
    "viewer_port": ("8080", "Port of the browser view; the next free one where it is in use.", None),
    "log_level": ("info", "Log level of the nodes.", ["debug", "info", "warn", "error", "fatal"]),
}

#: argument: (parameter of hands_node, type)
HANDS_PARAMETERS = {
    "image_topic": ("image_topic", str),
    "camera_info_topic": ("camera_info_topic", str),
    "depth_topic": ("depth_topic", str),
    "compressed": ("compressed", bool),
    "tf_prefix": ("tf_prefix", str),
    "device": ("device.device", str),
    "hand_length": ("placement.hand_length", float),
    "autostart": ("autostart", bool),
    "use_sim_time": ("use_sim_time", bool),
}
#: The camera node's own default.
CAMERA_FRAME = "camera_optical_frame"
CAMERA_PARAMETERS = {
    "source": ("source", str),
    "fps": ("fps", float),
    "loop": ("loop", bool),
    "compressed": ("compressed", bool),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and leave the rest to their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, (default, text, choices) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """The actions for the arguments' values."""
    value = {name: context.perform_substitution(LaunchConfiguration(name)) for name in ARGUMENTS}
    if not Path(value["params_file"]).is_file():
        raise FileNotFoundError(f"params_file: expected a YAML file, but {value['params_file']!r} does not exist")
    if value["image_topic"].endswith("/compressed"):
        value["compressed"] = "true"
    actions: list[Any] = fast_dds_profile()
    if value["source"]:
        moved = picture_topics(value) if value["image_topic"] else []
        actions.append(node(value, "camera_node", CAMERA_PARAMETERS, subspace="camera", remappings=moved))
    actions.append(node(value, "hands_node", HANDS_PARAMETERS))
    if value["viewer"] == "true":
        arguments = ["--host", value["viewer_host"], "--port", value["viewer_port"]]
        actions.append(node(value, "viewer_node", {}, arguments=arguments, remappings=picture_topics(value)))
    if value["rviz"] == "true":
        actions.append(rviz(value))
        if value["source"]:
            actions.append(camera_mount(value))
    return actions


def fast_dds_profile() -> list[Any]:
    """Shared memory that holds images, unless the user has chosen a profile."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    return [SetEnvironmentVariable(name, str(SHARE / "config" / "fastdds.xml")) for name in names]


def node(
    value: dict[str, str],
    executable: str,
    parameters: dict[str, tuple[str, type]],
    *,
    subspace: str = "",
    arguments: list[str] | None = None,
    remappings: list[tuple[str, str]] | None = None,
) -> Node:
    """One node of this package: the parameter file, then what was given on the command line.

    The lifecycle node is a plain ``Node`` here: it takes itself to active (parameter ``autostart``) on every
    distribution, while launch_ros can do it only on the newest.
    """
    given = {name: typed(key, value[key], kind) for key, (name, kind) in parameters.items() if value[key]}
    return Node(
        package="a2p_ros",
        executable=executable,
        namespace="/".join(part for part in (value["namespace"].rstrip("/"), subspace) if part),
        output="screen",
        emulate_tty=True,
        parameters=[ParameterFile(value["params_file"]), given],
        arguments=[*(arguments or []), "--ros-args", "--log-level", value["log_level"]],
        remappings=remappings or [],
    )


def typed(argument: str, text: str, kind: type) -> Any:
    """An argument's text as a parameter; launch would make an integer of 10 and of the webcam number "0"."""
    if kind is float:
        try:
            return float(text)
        except ValueError as error:
            raise ValueError(f"{argument}: expected a number, got {text!r}") from error
    return text == "true" if kind is bool else ParameterValue(text, value_type=str)


def picture_topics(value: dict[str, str]) -> list[tuple[str, str]]:
    """Where images and CameraInfo are, as remappings."""
    image = (value["image_topic"] or "camera/image_raw").removesuffix("/compressed")
    beside = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
    image, info = (absolute(topic, value["namespace"]) for topic in (image, value["camera_info_topic"] or beside))
    return [("image_raw", image), ("image_raw/compressed", f"{image}/compressed"), ("camera_info", info)]


def absolute(topic: str, namespace: str) -> str:
    """A topic as hands_node resolves it; the camera node, one namespace deeper, would make another of it."""
    return topic if topic[0] in "/~" else "/".join(["", *filter(None, namespace.split("/")), topic])


def rviz(value: dict[str, str]) -> Node:
    """RViz; its configuration names topics without a namespace."""
    topics = ("hands/markers", "hands/overlay")
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=value["namespace"],
        arguments=["-d", value["rviz_config"], "-f", value["fixed_frame"]],
        remappings=[(f"/{topic}", topic) for topic in topics],
    )


def camera_mount(value: dict[str, str]) -> Node:
    """The fixed frame -> optical frame of a source, which no robot description holds (REP 103 axes)."""
    quarter = "1.5707963267948966"
    turn = ["--roll", f"-{quarter}", "--yaw", f"-{quarter}"]
    return Node(
        package="tf2_ros",
        executable="static_transform_publisher",
        arguments=[*turn, "--frame-id", value["fixed_frame"], "--child-frame-id", CAMERA_FRAME],
    )
