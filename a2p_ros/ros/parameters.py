"""ROS parameters derived from configuration dataclasses: type, default, range, text and whether it may change.

A parameter is read-only unless its setting is marked ``runtime``; a change is checked by the same dataclass that
checks a configuration file, so no second set of rules exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from a2p_ros.config import Checked, PipelineConfig, Setting, setting, settings_of
from a2p_ros.errors import ConfigError

_TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}
#: How a value of the right type is written where YAML takes it for another.
_HINTS = {
    ParameterType.PARAMETER_DOUBLE: " (write 1.0, not 1)",
    ParameterType.PARAMETER_STRING: ' (in a shell write -p "name:=\'0\'", in a file name: "0")',
}


@dataclass(frozen=True)
class NodeConfig(Checked):
    """What the node itself needs beside the pipeline's settings."""

    image_topic: str = setting(
        "camera/image_raw", "Topic of the images; one that ends in `/compressed` is subscribed as JPEG or PNG pictures."
    )
    compressed: bool = setting(
        False, "Subscribe to JPEG or PNG pictures (sensor_msgs/CompressedImage) on `/compressed` under the image topic."
    )
    camera_info_topic: str = setting("", "Topic of the CameraInfo; empty = `camera_info` beside the image topic.")
    depth_topic: str = setting(
        "",
        "Topic of depth images aligned with the colour images, of the same stamps, 16UC1 [mm] or 32FC1 [m]: the hand "
        "is measured in them, which sets the metric scale unless placement.hand_length does. Empty = none.",
    )
    image_rectified: Literal["auto", "yes", "no"] = setting(
        "auto",
        "Whether the images are rectified, so that P holds and not K and D; auto = when the topic's last part has "
        "`rect`.",
    )
    require_camera_info: bool = setting(
        False, "Without a usable CameraInfo publish no valid hand, instead of assuming a field of view.", runtime=True
    )
    frame_id: str = setting("", "Optical frame of images that name none; a frame named by the image always wins.")
    max_age: float = setting(
        0.5,
        "Images older than this by their stamp [s] give no valid hand; 0 = any age. Not applied to stamps that are not "
        "of this machine's clock (in the future, or older than 10 s from the first on), as in a bag played without "
        "simulated time.",
        low=0.0,
        high=10.0,
        runtime=True,
    )
    watchdog_timeout: float = setting(
        0.2,
        "Time without an image [s] after which hands are published as not valid; 2.5 periods of the images if longer.",
        low=0.05,
        high=10.0,
        runtime=True,
    )
    coast_valid: bool = setting(
        False,
        "Whether a hand that is predicted, not seen in this image, counts as valid; nothing in this release predicts.",
        runtime=True,
    )
    publish_tf: bool = setting(True, "Publish the wrists as frames on /tf while they are valid.", runtime=True)
    tf_prefix: str = setting(
        "", "Put before `left_wrist` and `right_wrist`, as `operator/`; empty = the node's namespace, if it has one."
    )
    markers: Literal["mesh", "skeleton", "none"] = setting(
        "mesh", "What the marker topic shows when someone subscribes.", runtime=True
    )
    marker_lifetime: float = setting(
        0.5, "Seconds after which a viewer drops a marker that was not renewed [s].", low=0.0, high=60.0, runtime=True
    )
    autostart: bool = setting(True, "Configure and activate at once, without a lifecycle manager.")


class Settings:
    """The node's and the pipeline's configuration as ROS parameters of ``node``.

    ``on_change(changed)`` is called after a change was accepted, with the names that changed.

    Raises:
        ConfigError: a value given at start is of the wrong type or out of range.
    """

    def __init__(self, node: Node, on_change: Callable[[frozenset[str]], None]) -> None:
        rows = [(name, kind, info, default) for (name, kind, info), default in _node_rows(NodeConfig)]
        defaults = PipelineConfig().flat()
        rows += [(name, kind, info, defaults[name]) for name, kind, info in PipelineConfig.flat_settings()]
        values = declare(node, rows)
        own = {name for name, _, _ in settings_of(NodeConfig)}
        self.node = NodeConfig(**{name: values[name] for name in own})
        self.pipeline = PipelineConfig.from_flat({n: v for n, v in values.items() if n not in own})
        self._own, self._on_change = own, on_change
        node.add_on_set_parameters_callback(self._set)

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changed = self._replace({p.name: p.value for p in parameters})
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if changed:
            self._on_change(changed)
        return SetParametersResult(successful=True)

    def _replace(self, values: Mapping[str, Any]) -> frozenset[str]:
        flat = self.pipeline.flat()
        ours = {n: v for n, v in values.items() if n in self._own}
        stages = {n: v for n, v in values.items() if n in flat}
        node = dataclasses.replace(self.node, **ours)
        pipeline = self.pipeline.replace_flat(stages)
        changed = {n for n, v in stages.items() if v != flat[n]}
        changed |= {n for n, v in ours.items() if v != getattr(self.node, n)}
        self.node, self.pipeline = node, pipeline
        return frozenset(changed)


def declare(node: Node, rows: Iterable[tuple[str, Any, Setting, Any]]) -> dict[str, Any]:
    """Declare (name, type, setting, default) as parameters and return their values.

    Raises:
        ConfigError: a value given at start is of the wrong type or out of range.
    """
    values = {}
    for name, kind, info, default in rows:
        description = descriptor(name, kind, info)
        try:
            values[name] = node.declare_parameter(name, default, description).value
        except InvalidParameterTypeException as error:
            hint = _HINTS.get(description.type, "")
            wanted = Parameter.Type(description.type).name.lower()
            raise ConfigError(f"parameter {name}: expected {wanted}{hint}: {error}") from error
        except InvalidParameterValueException as error:
            raise ConfigError(f"parameter {name}: {error}; {_range_text(kind, info)}") from error
    _name_strangers(node, set(values))
    return values


def _name_strangers(node: Node, known: set[str]) -> None:
    """Warn of values given at start for parameters that do not exist: rclpy passes over them in silence."""
    for name in sorted(set(node._parameter_overrides) - known):
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            near = difflib.get_close_matches(name, known, 1, 0.5) or [n for n in known if n.endswith(f".{name}")]
            hint = f"; did you mean {near[0]}?" if near else ""
            node.get_logger().warning(f"parameter {name} is not one of this node's and has no effect{hint}")


def declare_config(node: Node, config: type[Any]) -> Any:
    """Declare every setting of one flat configuration class and return it filled with their values."""
    return config(**declare(node, [(n, kind, info, default) for (n, kind, info), default in _node_rows(config)]))


def descriptor(name: str, kind: Any, info: Setting) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows of one setting."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    plain = str if choices else kind
    described = ParameterDescriptor(
        name=name,
        type=_TYPES[plain],
        description=info.text,
        additional_constraints=_range_text(kind, info) if choices else "",
        read_only=not info.runtime,
    )
    if info.low is None and info.high is None:
        return described
    if plain is float:
        low = -sys.float_info.max if info.low is None else float(info.low)
        high = sys.float_info.max if info.high is None else float(info.high)
        described.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    elif plain is int:
        low_int = -(2**63) if info.low is None else int(info.low)
        high_int = 2**63 - 1 if info.high is None else int(info.high)
        described.integer_range = [IntegerRange(from_value=low_int, to_value=high_int, step=1)]
    return described


def _range_text(kind: Any, info: Setting) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return f"expected a value in [{info.low}, {info.high}]"


def _node_rows(config: type) -> list[tuple[tuple[str, Any, Setting], Any]]:
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return [((name, kind, info), defaults[name]) for name, kind, info in settings_of(config)]
