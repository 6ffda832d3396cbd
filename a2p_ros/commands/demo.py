"""``a2p demo``: camera node, hands node and browser view, each a process of its own as ``ros2 launch`` starts them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from a2p_ros.commands import common
from a2p_ros.errors import A2PError, ConfigError

#: Seconds that the demo runs where nobody sits at a terminal.
_UNATTENDED = 20.0


def add_parser(verbs: Any) -> None:
    """Options of ``a2p demo``."""
    parser = verbs.add_parser("demo", help="live hands in a browser", description=__doc__)
    parser.add_argument(
        "--source", default="synthetic", help="synthetic[:SEED], crossing:SEED, a video, a folder, or a webcam number"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the page (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port of the page; the next free one if it is in use")
    parser.add_argument("--fps", type=float, default=30.0, help="camera frames a second [Hz]")
    parser.add_argument(
        "--seconds",
        type=float,
        help="stop after this long; 0 = until Ctrl-C (default: Ctrl-C at a terminal, else the variable SECONDS or 20)",
    )
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start the processes, say where the page is, watch them, sum up."""
    from a2p_ros.commands.processes import Children, read_json
    from a2p_ros.commands.ros_environment import private_environment, require_ros

    require_ros()
    limit = duration(args.seconds, os.environ.get("SECONDS"), attended=sys.stdin.isatty() and sys.stdout.isatty())
    env = private_environment()
    interrupted, status = False, {}
    with tempfile.TemporaryDirectory(prefix="a2p_demo_") as folder, Children() as children:
        file = Path(folder) / "status.json"
        try:
            start(children, args, file, env)
            status = watch(children, file, limit)
        except KeyboardInterrupt:
            interrupted = True
            status = read_json(file)
    result = {**status, "interrupted": interrupted}
    common.finish(args, result, summary(result))
    # Ctrl-C is how a demo at a terminal ends, so it is not a failure there.
    return 0 if status.get("frames") else 2


def start(children: Any, args: argparse.Namespace, status: Path, env: dict[str, str]) -> None:
    """The three processes, on the topics that the launch file has."""
    view = ["--host", args.host, "--port", str(args.port), "--status", str(status)]
    view += ["--ros-args", "-r", "image_raw:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
    children.start_module("camera_node", "a2p_ros.ros.camera_node", *camera_arguments(args.source, args.fps), env=env)
    children.start_module("hands_node", "a2p_ros.ros.hands_node", *hands_arguments(), env=env)
    children.start_module("viewer", "a2p_ros.ros.viewer_node", *view, env=env)


def camera_arguments(source: str, fps: float) -> list[str]:
    """Arguments of the camera node that publishes a source under /camera."""
    return ["--ros-args", "-r", "__ns:=/camera", "-p", f"source:={source}", "-p", f"fps:={float(fps)}"]


def hands_arguments() -> list[str]:
    """Arguments of the hands node that listens there."""
    return ["--ros-args", "-p", "image_topic:=/camera/image_raw"]


def watch(children: Any, file: Path, limit: float | None) -> dict[str, Any]:
    """Wait until the time is over; raises ChildDied when a process ends. Time counts from the first hands."""
    from a2p_ros.commands.processes import read_json

    told, first = False, None
    begin = time.monotonic()
    while True:
        children.check()
        status = read_json(file)
        if status.get("url") and not told:
            told = True
            common.say(f"hands are shown at {status['url']}" + ("" if limit else "  (Ctrl-C ends the demo)"))
        if status.get("frames") and first is None:
            first = time.monotonic()
        if first is None and time.monotonic() - begin > 60.0:
            raise A2PError("no hands message came within 60 s of the start; try `a2p doctor`")
        if limit is not None and first is not None and time.monotonic() - first > limit:
            return status
        time.sleep(0.1)


def duration(option: float | None, variable: str | None, *, attended: bool) -> float | None:
    """Seconds to run, None = until Ctrl-C. The shell's own SECONDS is not exported, so a value there was meant."""
    if option is None and variable:
        try:
            option = float(variable)
        except ValueError as error:
            raise ConfigError(f"SECONDS={variable}: expected a number of seconds") from error
    if option is None:
        return None if attended else _UNATTENDED
    if not 0 <= option < 1e7:
        raise ConfigError(f"seconds: expected 0 (until Ctrl-C) or more, got {option}")
    return option or None


def summary(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    frames = result.get("frames") or 0
    if not frames:
        return ["no hands message was received"]
    latency = result["latency_ms"]
    return [
        f"{frames} messages at {result['rate']:.1f} per second, image to view "
        + (f"{latency['p50']:.0f} ms (p99 {latency['p99']:.0f} ms)" if latency["p50"] is not None else "unknown"),
        f"left hand valid in {result['left_valid'] / frames:.1%}, right hand in {result['right_valid'] / frames:.1%}, "
        f"{result['model_id']}",
    ]
