"""``config/hands.yaml``, written from the configuration classes so that it cannot say anything else.

python -m a2p_ros.ros.parameter_file > config/hands.yaml
python -m a2p_ros.ros.parameter_file --markdown  # the tables of docs/parameters.md
"""

from __future__ import annotations

import sys
import textwrap
import typing
from collections.abc import Iterable
from typing import Any, Literal

import yaml

from a2p_ros.config import PipelineConfig, Setting, settings_of
from a2p_ros.ros.camera_node import CameraConfig
from a2p_ros.ros.parameters import NodeConfig

_HEADER = """\
# Every parameter of the nodes with its default. Give a copy to the launch file: params_file:=my_hands.yaml; what it
# leaves out keeps its default. Those marked (run time) can be changed with `ros2 param set`, the others are read at
# the start. Written by `python -m a2p_ros.ros.parameter_file`; a test compares the two.
"""

Row = tuple[str, Any, Setting, Any]


def parameter_file() -> str:
    """The text of the file."""
    return _HEADER + "".join(_section(node, rows) for node, rows in parameters().items())


def parameter_tables() -> str:
    """The same as Markdown tables, for README.md."""
    return "\n".join(_table(node, rows) for node, rows in parameters().items())


def parameters() -> dict[str, list[Row]]:
    """(name, type, setting, default) of every parameter of each node."""
    pipeline = PipelineConfig().flat()
    stages = [(name, kind, info, pipeline[name]) for name, kind, info in PipelineConfig.flat_settings()]
    return {"hands_node": [*_rows(NodeConfig), *stages], "camera_node": _rows(CameraConfig)}


def _rows(config: type[Any]) -> list[Row]:
    defaults = config()
    return [(name, kind, info, getattr(defaults, name)) for name, kind, info in settings_of(config)]


def _section(node: str, rows: Iterable[Row]) -> str:
    lines, group = ["", f"/**/{node}:", "  ros__parameters:"], ""
    for name, kind, info, default in rows:
        stage, _, leaf = name.rpartition(".")
        if stage != group:
            lines.append(f"    {stage}:")
            group = stage
        indent = " " * (6 if stage else 4)
        about = f"{info.text}{_limits(kind, info)}{' (run time)' if info.runtime else ''}"
        lines += textwrap.wrap(about, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        lines.append(f"{indent}{leaf}: {_scalar(default)}")
    return "\n".join(lines) + "\n"


def _table(node: str, rows: Iterable[Row]) -> str:
    lines = ["", f"| `{node}` | default | meaning |", "|---|---|---|"]
    for name, kind, info, default in rows:
        mark = " \N{CLOCKWISE OPEN CIRCLE ARROW}" if info.runtime else ""
        lines.append(f"| `{name}`{mark} | `{_scalar(default)}` | {info.text}{_limits(kind, info)} |")
    return "\n".join(lines) + "\n"


def _limits(kind: Any, info: Setting) -> str:
    if typing.get_origin(kind) is Literal:
        return f" One of {', '.join(typing.get_args(kind))}."
    if info.low is None and info.high is None:
        return ""
    return f" In [{'-inf' if info.low is None else info.low}, {'inf' if info.high is None else info.high}]."


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None).removesuffix("...\n").strip()


if __name__ == "__main__":
    sys.stdout.write(parameter_tables() if "--markdown" in sys.argv[1:] else parameter_file())
