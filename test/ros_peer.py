"""A camera and a subscriber beside a hands node, on a domain of their own."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ros_helpers import Ros, ScriptedPipeline, free_domain, require_ros, wait_until

require_ros()

from a2p_ros.msg import TwoHandMANO
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from a2p_ros.config import PipelineConfig
from a2p_ros.ros.hands_node import HandsNode

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
WIDTH, HEIGHT = 64, 48


class Peer:
    """A camera and a subscriber beside a node, on a domain of their own."""

    def __init__(self, ros: Ros) -> None:
        self.ros, self.node = ros, ros.node("peer")
        self.messages: list[TwoHandMANO] = []
        self.times: list[float] = []
        self.info = self.node.create_publisher(CameraInfo, "camera/camera_info", 5)
        self.images = self.node.create_publisher(Image, "camera/image_raw", BEST_EFFORT)
        self.node.create_subscription(TwoHandMANO, "hands", self._on_hands, 10)

    def _on_hands(self, message: TwoHandMANO) -> None:
        self.messages.append(message)
        self.times.append(time.monotonic())

    def start(self, pipeline: Any | None = None, *, activate: bool = True, **parameters: Any) -> HandsNode:
        """A hands node; waits until it hears this peer. Its watchdog is patient unless the test is about it."""
        parameters.setdefault("watchdog_timeout", 2.0)
        self.pipeline = pipeline or ScriptedPipeline()

        def make(config: PipelineConfig) -> Any:
            self.pipeline.config = config
            return self.pipeline

        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = HandsNode(make_pipeline=make, context=self.ros.context, parameter_overrides=overrides)
        self.hands = self.ros.add(node)
        if activate:
            assert node.autostart()
            wait_until(self.images.get_subscription_count, what="the node to hear the camera")
            wait_until(node._outputs._hands.get_subscription_count, what="the peer to hear the node")
        return node

    def image(self, stamp: float | None = None, **changes: Any) -> Image:
        """Publish a picture stamped now, or at ``stamp`` [s]."""
        message = Image(encoding="rgb8", width=WIDTH, height=HEIGHT, step=3 * WIDTH)
        message.data = array("B", bytes(3 * WIDTH * HEIGHT))
        nanoseconds = self.node.get_clock().now().nanoseconds if stamp is None else round(stamp * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)
        message.header.frame_id = "optical"
        for name, value in changes.items():
            setattr(message, name, value)
        self.images.publish(message)
        return message

    def answer(self, stamp: float | None = None, **changes: Any) -> TwoHandMANO:
        """Publish a picture and wait for the message with its stamp."""
        image = self.image(stamp, **changes)
        return self.message_of(image)

    def message_of(self, image: Any) -> TwoHandMANO:
        """The message about one image."""
        found = wait_until(
            lambda: [m for m in self.messages if m.header.stamp == image.header.stamp], what="the message of an image"
        )
        return found[0]

    def stream(self, seconds: float, rate: float = 30.0) -> Image:
        """Publish pictures at a rate; returns the last."""
        end, period = time.monotonic() + seconds, 1.0 / rate
        while time.monotonic() < end:
            last = self.image()
            time.sleep(period)
        return last

    def calibrate(self, width: int = WIDTH, height: int = HEIGHT, focal: float = 50.0, **changes: Any) -> None:
        """Publish a CameraInfo and wait until the node has it."""
        info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1], float)
        info.header.frame_id = "optical"
        for name, value in changes.items():
            setattr(info, name, value)
        wait_until(lambda: self.info.get_subscription_count())
        self.info.publish(info)
        keeper = self.hands._calibration
        wait_until(lambda: keeper._info is not None and np.array_equal(keeper._info.k, info.k, equal_nan=True))

    def status(self, wanted: Callable[[DiagnosticStatus], bool] = lambda _: True) -> DiagnosticStatus:
        """The node's next diagnostics that are as wanted."""
        found: list[DiagnosticStatus] = []
        subscription = self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: found.extend(s for s in m.status if wanted(s)), 10
        )
        try:
            return wait_until(lambda: found, what="diagnostics")[-1]
        finally:
            self.node.destroy_subscription(subscription)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service of the node."""
        client = self.node.create_client(kind, f"/hands_node/{name}")
        assert client.wait_for_service(timeout_sec=10.0)
        future = client.call_async(request)
        return wait_until(lambda: future.done() and future.result(), what=name)


@contextmanager
def new_peer() -> Iterator[Peer]:
    """A peer whose nodes end with it."""
    with free_domain() as domain:
        ros = Ros(domain)
        try:
            yield Peer(ros)
        finally:
            ros.close()


def nobody(message: TwoHandMANO) -> bool:
    """Neither hand is valid."""
    return not message.left.valid and not message.right.valid
