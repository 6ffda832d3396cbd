"""The subscriber of ``a2p bench ros``: hands, the camera's own stamps and diagnostics, summed up into a JSON file."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from a2p_ros.msg import TwoHandMANO
from a2p_ros.ros.viewer_node import write_status

_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Seconds after the first hands before anything counts: discovery, first detections, page faults.
_SETTLE = 2.0
#: Measurements of the node that are not stages of the work on one image.
_NOT_STAGES = ("latency", "processing")


class HandsEvent(NamedTuple):
    """One message about an image, times of this machine's clock [s]."""

    stamp: float
    published: float
    received: float
    left: bool
    right: bool


class Receiver(Node):
    """Notes when what arrives."""

    def __init__(self) -> None:
        super().__init__("bench_receiver")
        self.hands: list[HandsEvent] = []
        self.images: list[tuple[float, float]] = []
        self.work_ms = math.nan
        self.model_id = ""
        self.not_about_images = 0
        self.create_subscription(TwoHandMANO, "hands", self._on_hands, _QOS)
        self.create_subscription(CameraInfo, "/camera/camera_info", self._on_camera, _QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_hands(self, message: TwoHandMANO) -> None:
        now = time.time()
        if math.isnan(message.latency):  # the watchdog's
            self.not_about_images += 1
            return
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.model_id = message.model_id
        event = HandsEvent(stamp, stamp + message.latency, now, message.left.valid, message.right.valid)
        self.hands.append(event)

    def _on_camera(self, message: CameraInfo) -> None:
        self.images.append((time.time(), message.header.stamp.sec + message.header.stamp.nanosec * 1e-9))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            stages = [k for k in values if k.endswith(" p50 [ms]") and not k.startswith(_NOT_STAGES)]
            if status.name.startswith("hands_node") and stages:
                self.work_ms = sum(float(values[k]) for k in stages)


def summarise(
    hands: Sequence[HandsEvent], images: Sequence[tuple[float, float]], work_ms: float, begin: float, end: float
) -> dict[str, Any]:
    """The promised keys of what arrived between ``begin`` and ``end`` [s].

    The work on an image began ``work_ms`` (the node's own medians by stage) before its hands were published. An image
    counts as there to be taken once it is as old as the images were that were taken soonest (10th percentile), which
    is what the transport takes.
    """
    counted = [h for h in hands if begin <= h.received < end]
    stamps = sorted(stamp for _, stamp in images)
    newest = np.zeros(0)
    if counted and stamps and math.isfinite(work_ms):
        begun = np.asarray([h.published for h in counted]) - work_ms / 1e3
        ages = begun - np.asarray([h.stamp for h in counted])
        # Half a millisecond for the rounding of stamps and clocks, to our disadvantage.
        there = np.searchsorted(stamps, begun - np.percentile(ages, 10) + 5e-4, side="right")
        newest = np.asarray([n == 0 or h.stamp >= stamps[n - 1] - 1e-6 for h, n in zip(counted, there, strict=True)])
    latencies = np.asarray([h.received - h.stamp for h in counted]) * 1e3
    span = counted[-1].received - counted[0].received if len(counted) > 1 else math.nan
    return {
        "frames_in": sum(begin <= r < end for r, _ in images),
        "frames_out": len(counted),
        "fps": (len(counted) - 1) / span if len(counted) > 1 else math.nan,
        "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) if len(counted) else math.nan for p in (50, 99)},
        "newest_frame_share": float(np.mean(newest)) if newest.size else math.nan,
        "work_ms": work_ms,
        "left_valid": sum(h.left for h in counted),
        "right_valid": sum(h.right for h in counted),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure once and leave."""
    parser = argparse.ArgumentParser(prog="bench_receiver", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of phase and result")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure")
    args = parser.parse_args(argv)
    rclpy.init(args=[])
    node = Receiver()
    try:
        write_status(args.out, {"phase": "waiting"})
        while not node.hands:
            rclpy.spin_once(node, timeout_sec=0.1)
        begin = time.time() + _SETTLE
        while time.time() < begin:
            rclpy.spin_once(node, timeout_sec=0.05)
        write_status(args.out, {"phase": "measuring"})
        while time.time() < begin + args.seconds:
            rclpy.spin_once(node, timeout_sec=0.05)
        result = summarise(node.hands, node.images, node.work_ms, begin, begin + args.seconds)
        result |= {"model_id": node.model_id, "watchdog_messages": node.not_about_images}
        write_status(args.out, {"phase": "done", "result": result})
        # The parent reads this process's end as a failure until it has read the result.
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if rclpy.ok():
            rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
