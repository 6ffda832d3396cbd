"""The subscriber of ``a2p bench ros``: notes when hands and the camera's own stamps arrive, into a JSON file."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from a2p_ros.commands.processes import write_json
from a2p_ros.evaluation.bench_summary import HandsEvent
from a2p_ros.msg import TwoHandMANO

_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Seconds after the first hands before anything counts: discovery, first detections, page faults.
_SETTLE = 2.0


class Receiver(Node):
    """Notes when what arrives."""

    def __init__(self) -> None:
        super().__init__("bench_receiver")
        self.hands: list[HandsEvent] = []
        self.images: list[tuple[int, float]] = []
        self.model_id = ""
        self.watchdog_messages = 0
        self.create_subscription(TwoHandMANO, "hands", self._on_hands, _QOS)
        self.create_subscription(CameraInfo, "/camera/camera_info", self._on_camera, _QOS)

    def _on_hands(self, message: TwoHandMANO) -> None:
        now = time.time()
        if math.isnan(message.latency):  # the watchdog's, about no image
            self.watchdog_messages += 1
            return
        self.model_id = message.model_id
        self.hands.append(HandsEvent(_nanoseconds(message), now, message.left.valid, message.right.valid))

    def _on_camera(self, message: CameraInfo) -> None:
        self.images.append((_nanoseconds(message), time.time()))


def _nanoseconds(message: Any) -> int:
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure once, and wait to be stopped."""
    parser = argparse.ArgumentParser(prog="bench_receiver", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the phase and of what arrived")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure")
    args = parser.parse_args(argv)
    rclpy.init(args=[])
    node = Receiver()
    try:
        write_json(args.out, {"phase": "waiting"})
        while not node.hands:
            rclpy.spin_once(node, timeout_sec=0.1)
        begin = time.time() + _SETTLE
        while time.time() < begin:
            rclpy.spin_once(node, timeout_sec=0.05)
        write_json(args.out, {"phase": "measuring"})
        while time.time() < begin + args.seconds:
            rclpy.spin_once(node, timeout_sec=0.05)
        arrived = {"hands": node.hands, "images": node.images, "begin": begin, "end": begin + args.seconds}
        named = {"model_id": node.model_id, "watchdog_messages": node.watchdog_messages}
        write_json(args.out, {"phase": "done", **arrived, **named})
        # Its end before the parent has read the file would count as a failure.
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if rclpy.ok():
            rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
