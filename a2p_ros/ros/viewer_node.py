"""The browser view as a ROS node: subscribes to hands, meshes and the camera picture and shows them in `HandViewer`.

``python -m a2p_ros.ros.viewer_node --help``; topics can be remapped with ``--ros-args``.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from a2p_ros.commands.processes import write_json
from a2p_ros.errors import A2PError
from a2p_ros.msg import TwoHandMANO, TwoHandMesh
from a2p_ros.ros.images import message_to_rgb
from a2p_ros.types import Pair, Side
from a2p_ros.viewer import HandViewer, ViewerHand, ViewerStats

_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Pictures a second that are taken over; each costs a copy of the whole image.
_PICTURE_RATE = 10.0
#: Without a message for this long [s] the hands are taken off the screen.
_SILENCE = 0.5


class Summary:
    """What the demo says at its end: messages, their rate and latency, and how often each hand was valid."""

    def __init__(self) -> None:
        self.frames = 0
        self.valid = dict.fromkeys(Side, 0)
        self.model_id = ""
        self.latencies: deque[float] = deque(maxlen=3000)
        self._times: deque[float] = deque(maxlen=60)
        self._first = self._last = math.nan

    def add(self, message: TwoHandMANO, latency: float) -> None:
        """Count one message."""
        now = time.monotonic()
        self._first, self._last = (now if self.frames == 0 else self._first), now
        self.frames += 1
        self._times.append(now)
        self.model_id = message.model_id or self.model_id
        if math.isfinite(latency):
            self.latencies.append(latency)
        for side in Side:
            self.valid[side] += bool(getattr(message, side.value).valid)

    @property
    def rate(self) -> float:
        """Messages a second over the last two seconds [Hz]."""
        return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9) if len(self._times) > 1 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        span = self._last - self._first
        latencies = np.asarray(self.latencies) * 1e3
        return {
            "frames": self.frames,
            "rate": (self.frames - 1) / span if self.frames > 1 and span > 0 else 0.0,
            "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) if latencies.size else None for p in (50, 99)},
            "left_valid": self.valid[Side.LEFT],
            "right_valid": self.valid[Side.RIGHT],
            "model_id": self.model_id,
        }


class ViewerNode(Node):
    """Feeds the view from ``hands`` and ``hands/mesh``."""

    def __init__(self, viewer: HandViewer) -> None:
        super().__init__("hands_viewer")
        self._viewer = viewer
        self.summary = Summary()
        self._stats = ViewerStats()
        self._hands: Pair[ViewerHand | None] = Pair(None, None)
        self._heard = -math.inf
        self._meshes: dict[Side, tuple[np.ndarray, np.ndarray]] = {}
        self.create_subscription(TwoHandMANO, "hands", self._on_hands, _QOS)
        self.create_subscription(TwoHandMesh, "hands/mesh", self._on_mesh, _QOS)
        self.create_timer(_SILENCE / 2, self._on_timer)

    def _on_hands(self, message: TwoHandMANO) -> None:
        self._heard = time.monotonic()
        stamp = message.header.stamp
        latency = self.get_clock().now().nanoseconds * 1e-9 - (stamp.sec + stamp.nanosec * 1e-9)
        # Stamps of another clock, as of a bag, say nothing about latency.
        latency = latency if -0.05 < latency < 10.0 else math.nan
        self.summary.add(message, latency)
        self._hands = Pair(*(self._hand(side, getattr(message, side.value)) for side in Side))
        self._stats = ViewerStats(
            rate=self.summary.rate,
            latency=latency if math.isfinite(latency) else float(message.latency),
            frames=self.summary.frames,
            model_id=message.model_id,
            metric_scale=message.metric_scale,
        )
        self._viewer.show_hands(self._hands, self._stats)

    def _hand(self, side: Side, hand: Any) -> ViewerHand | None:
        if not hand.valid:
            self._meshes.pop(side, None)
            return None
        vertices, faces = self._meshes.get(side, (None, None))
        joints = np.asarray(hand.keypoints, np.float32).reshape(21, 3)
        return ViewerHand(joints, float(hand.confidence), vertices, faces)

    def _on_mesh(self, message: TwoHandMesh) -> None:
        for side in Side:
            vertices = np.asarray(getattr(message, f"{side.value}_vertices"), np.float32).reshape(-1, 3)
            faces = np.asarray(getattr(message, f"{side.value}_faces"), np.uint32).reshape(-1, 3)
            if self._hands[side] is not None and len(vertices):
                self._meshes[side] = vertices, faces
        hands: dict[Side, ViewerHand | None] = {}
        for side, hand in self._hands.items():
            surface = self._meshes.get(side, (None, None))
            hands[side] = None if hand is None else ViewerHand(hand.joints, hand.confidence, *surface)
        self._hands = Pair(hands[Side.LEFT], hands[Side.RIGHT])
        self._viewer.show_hands(self._hands, self._stats)

    def _on_timer(self) -> None:
        if time.monotonic() - self._heard > _SILENCE:
            self._meshes.clear()
            self._hands = Pair(None, None)
            self._viewer.show_hands(self._hands, ViewerStats(frames=self.summary.frames, note="no messages arrive"))


class PictureNode(Node):
    """Takes over the newest camera picture, as often as it is spun and no oftener."""

    def __init__(self, viewer: HandViewer) -> None:
        super().__init__("hands_viewer_picture")
        self._viewer = viewer
        self._fov_y: float | None = None
        self.create_subscription(Image, "image_raw", self._on_image, _NEWEST)
        self.create_subscription(CameraInfo, "camera_info", self._on_camera, _NEWEST)

    def _on_camera(self, message: CameraInfo) -> None:
        if message.k[4] > 0 and message.height > 0:
            self._fov_y = 2 * math.atan(message.height / 2 / message.k[4])

    def _on_image(self, message: Image) -> None:
        try:
            self._viewer.show_image(message_to_rgb(message), self._fov_y)
        except A2PError as error:
            self.get_logger().warning(f"picture not shown: {error}", throttle_duration_sec=10.0)


def _poll_pictures(node: PictureNode, stop: threading.Event) -> None:
    """Spin at a low rate: a queue of depth one then holds the newest picture, and the others cost no Python."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.wait(1.0 / _PICTURE_RATE) and rclpy.ok():
            for _ in range(2):
                executor.spin_once(timeout_sec=0.0)
    except ExternalShutdownException:
        return


def main(argv: Sequence[str] | None = None) -> int:
    """Show hands until interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="viewer_node", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=8080, help="port; the next free one where it is in use")
    parser.add_argument("--status", type=Path, help="file that is kept up to date with a JSON summary")
    split = arguments.index("--ros-args") if "--ros-args" in arguments else len(arguments)
    args = parser.parse_args(arguments[:split])
    rclpy.init(args=arguments[split:])
    stop = threading.Event()
    try:
        with HandViewer(host=args.host, port=args.port) as viewer:
            hands, pictures = ViewerNode(viewer), PictureNode(viewer)
            hands.get_logger().info(f"hands are shown at {viewer.url}")

            def tell() -> None:
                if args.status is not None:
                    write_json(args.status, {"url": viewer.url, **hands.summary.as_dict()})

            tell()
            hands.create_timer(0.25, tell)
            thread = threading.Thread(target=_poll_pictures, args=(pictures, stop), daemon=True)
            thread.start()
            try:
                rclpy.spin(hands)
            except (KeyboardInterrupt, ExternalShutdownException):
                tell()
            finally:
                stop.set()
                thread.join(timeout=2.0)
    except A2PError as error:
        sys.stderr.write(f"viewer_node: error: {error}\n")
        return 2
    finally:
        if rclpy.ok():
            rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
