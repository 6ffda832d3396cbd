"""Depth images beside the pictures: decoded, matched by stamp, and never a reason to lose a hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ros_helpers import require_ros, wait_until

require_ros()

from ros_peer import HEIGHT, WIDTH, Peer, new_peer
from sensor_msgs.msg import Image

from a2p_ros.errors import InputError
from a2p_ros.media.encodings import depth_to_metres
from a2p_ros.ros.depth import DepthKeeper


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A camera and a subscriber."""
    with new_peer() as made:
        yield made


def test_millimetres_and_metres_are_read_through_the_step() -> None:
    rng = np.random.default_rng(0)
    metres = rng.uniform(0.2, 3.0, (5, 7))
    millimetres = np.rint(metres * 1000).astype("<u2")
    padded = np.full((5, 20), 255, np.uint8)
    padded[:, :14] = millimetres.view(np.uint8)
    message = SimpleNamespace(encoding="16UC1", height=5, width=7, step=20, is_bigendian=0, data=padded.tobytes())
    assert np.allclose(depth_to_metres(message), millimetres / 1000)
    swapped = SimpleNamespace(
        **vars(message) | {"is_bigendian": 1, "step": 14, "data": millimetres.astype(">u2").tobytes()}
    )
    assert np.allclose(depth_to_metres(swapped), millimetres / 1000)
    metres[2, 3] = np.nan
    floats = SimpleNamespace(
        encoding="32FC1", height=5, width=7, step=28, is_bigendian=0, data=metres.astype("<f4").tobytes()
    )
    assert np.allclose(depth_to_metres(floats), metres, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "rgb8"}, "expected a depth image of encoding 16UC1"),
        ({"step": 6}, "step is 6 bytes, but a row of 7 pixels takes 14"),
        ({"data": b"123"}, "cut off: 3 bytes, expected 70"),
        ({"height": 0}, "0"),
    ],
)
def test_a_contradiction_is_named(changes: dict[str, Any], text: str) -> None:
    fields = {"encoding": "16UC1", "height": 5, "width": 7, "step": 14, "is_bigendian": 0, "data": bytes(70)}
    with pytest.raises(InputError, match=text):
        depth_to_metres(SimpleNamespace(**fields | changes))


def test_the_depth_of_the_same_moment_reaches_the_pipeline(peer: Peer) -> None:
    depth = peer.node.create_publisher(Image, "camera/depth", 5)
    node = peer.start(depth_topic="camera/depth", max_age=0.0)
    keeper = node._processor._depth
    wait_until(depth.get_subscription_count, what="the node to hear the depth camera")
    now = peer.node.get_clock().now().nanoseconds / 1e9

    def publish(stamp: float, millimetres: int, **changes: Any) -> None:
        data = np.full((HEIGHT, WIDTH), millimetres, "<u2").tobytes()
        message = Image(encoding="16UC1", width=WIDTH, height=HEIGHT, step=2 * WIDTH, data=data)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp * 1e9), 1_000_000_000)
        for name, value in changes.items():
            setattr(message, name, value)
        before = len(keeper._messages)
        depth.publish(message)
        wait_until(lambda: len(keeper._messages) > before, what="the depth image")

    publish(now, 700)
    publish(now + 0.033, 900)
    assert peer.answer(now + 0.002).left.valid
    assert np.allclose(peer.pipeline.depths[-1], 0.7)
    assert peer.answer(now + 0.033).left.valid
    assert np.allclose(peer.pipeline.depths[-1], 0.9)

    assert peer.answer(now + 0.2).left.valid and peer.pipeline.depths[-1] is None
    assert peer.status(lambda s: "no depth image of the pictures' stamps on camera/depth" in s.message)
    publish(now + 0.3, 900, width=WIDTH // 2, step=WIDTH, data=bytes(WIDTH * HEIGHT))
    assert peer.answer(now + 0.3).left.valid and peer.pipeline.depths[-1] is None
    assert peer.status(lambda s: "use the driver's aligned depth" in s.message)
    publish(now + 0.4, 900, encoding="rgb8", step=3 * WIDTH, data=bytes(3 * WIDTH * HEIGHT))
    assert peer.answer(now + 0.4).left.valid and peer.pipeline.depths[-1] is None
    assert peer.status(lambda s: "expected a depth image of encoding 16UC1" in s.message)

    publish(now + 0.42, 800)
    peer.pipeline.wants_depth = False
    assert peer.answer(now + 0.42).left.valid and peer.pipeline.depths[-1] is None
    assert peer.status(lambda s: "depth" not in s.message)


def test_depth_image_that_comes_after_its_picture_is_waited_for() -> None:
    """Drivers publish the picture first; nothing is waited for that does not come."""
    keeper = DepthKeeper()

    def store(milliseconds: int) -> None:
        message = Image(encoding="16UC1", width=2, height=1, step=4, data=np.array([milliseconds] * 2, "<u2").tobytes())
        message.header.stamp.nanosec = milliseconds * 1_000_000
        keeper.store(message)

    assert keeper.of_image(100_000_000) is None, "without any depth image"
    store(100)
    for stamp in range(133, 533, 33):
        late = threading.Timer(0.01, store, (stamp,))
        late.start()
        found = keeper.of_image(stamp * 1_000_000)
        late.join()
        assert found is not None and np.allclose(found, stamp / 1000)
    begun = time.monotonic()
    for number in range(40):
        assert keeper.of_image((550 + number) * 1_000_000) is None
    assert time.monotonic() - begun < 1.0, "ten waits in vain are enough"
    store(700)
    assert keeper.of_image(700_000_000) is not None
