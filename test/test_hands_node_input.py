"""What goes into the node: stamps, old and bad images, CameraInfo, and silence.

The pipeline is scripted (``ros_helpers.ScriptedPipeline``); images and messages go over real DDS.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from ros_helpers import ScriptedPipeline, hand, require_ros, wait_until

require_ros()

from diagnostic_msgs.msg import DiagnosticStatus
from ros_peer import BEST_EFFORT, HEIGHT, WIDTH, Peer, new_peer, nobody
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from a2p_ros.errors import A2PError, DeviceError
from a2p_ros.types import Side


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A camera and a subscriber."""
    with new_peer() as made:
        yield made


# Images in, hands out


def test_stamp_and_frame_are_copied_and_latency_is_from_the_stamp(peer: Peer) -> None:
    peer.start()
    image = peer.image()
    message = peer.message_of(image)
    assert message.header == image.header and message.left.valid and message.right.valid
    assert message.model_id == "scripted" and message.hand_model == "scripted_hand"
    now = peer.node.get_clock().now().nanoseconds * 1e-9
    stamp = image.header.stamp.sec + image.header.stamp.nanosec * 1e-9
    assert 0 <= message.latency < now - stamp


def test_hand_that_is_not_seen_is_not_valid_in_the_very_next_message(peer: Peer) -> None:
    peer.start()
    assert peer.answer().left.valid
    peer.pipeline.sides = (Side.RIGHT,)
    message = peer.answer()
    assert not message.left.valid and math.isnan(message.left.keypoints[0]) and message.right.valid
    peer.pipeline.sides = ()
    assert nobody(peer.answer())


def test_pixels_arrive_with_row_padding_and_as_compressed_pictures(peer: Peer) -> None:
    peer.start()
    rows = np.zeros((HEIGHT, 3 * WIDTH + 8), np.uint8)
    rows[:, 0 : 3 * WIDTH : 3] = np.arange(HEIGHT)[:, None]
    peer.answer(step=rows.shape[1], data=array("B", rows.tobytes()))
    np.testing.assert_array_equal(peer.pipeline.images[-1][:, :, 0], np.repeat(np.arange(HEIGHT)[:, None], WIDTH, 1))
    assert not peer.pipeline.images[-1][:, :, 1:].any()


@pytest.mark.parametrize("parameters", [{"compressed": True}, {"image_topic": "camera/image_raw/compressed"}])
def test_compressed_topic(peer: Peer, parameters: dict[str, Any]) -> None:
    node = peer.start(activate=False, **parameters)
    assert node.autostart()
    publisher = peer.node.create_publisher(CompressedImage, "camera/image_raw/compressed", BEST_EFFORT)
    wait_until(lambda: publisher.get_subscription_count() and node._outputs._hands.get_subscription_count())
    for data, valid in (
        (cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes(), True),
        (b"\xff\xd8\xff", False),
    ):
        message = CompressedImage(format="jpeg", data=array("B", data))
        message.header.stamp = peer.node.get_clock().now().to_msg()
        publisher.publish(message)
        assert peer.message_of(message).left.valid is valid


def test_only_the_newest_image_is_worked_on(peer: Peer) -> None:
    peer.start(ScriptedPipeline(delay=0.1))
    peer.answer()
    images = []
    for _ in range(10):
        images.append(peer.image())
        time.sleep(0.01)
    peer.message_of(images[-1])
    assert len(peer.pipeline.stamps) <= 4
    assert peer.hands._worker.dropped >= 6


def test_old_images_give_no_valid_hand(peer: Peer) -> None:
    peer.start(max_age=0.3)
    now = time.time()
    assert peer.answer(now).left.valid
    assert nobody(peer.answer(now - 0.6))
    status = peer.status(lambda s: "max_age" in s.message)
    assert status.level == DiagnosticStatus.ERROR


def test_stamps_of_another_clock_are_taken_and_said(peer: Peer) -> None:
    peer.start()
    message = peer.answer(1234.5)
    assert message.left.valid and 0 <= message.latency < 1.0
    assert "not of this node's clock" in peer.status(lambda s: "clock" in s.message).message


def test_stream_that_lags_more_and_more_stays_too_old(peer: Peer) -> None:
    clock = peer.node.create_publisher(Clock, "/clock", 1)
    node = peer.start(use_sim_time=True)
    wait_until(lambda: clock.get_subscription_count())
    valid = []
    for now, stamp in ((5000, 4999.9), (5009, 5000.0), (5020, 5000.1), (5060, 5000.2)):
        message = Clock()
        message.clock.sec = now
        clock.publish(message)
        wait_until(lambda: node.get_clock().now().nanoseconds == now * 1_000_000_000)  # noqa: B023
        valid.append(peer.answer(stamp).left.valid)
    assert valid == [True, False, False, False]
    assert "max_age" in peer.status(lambda s: "old" in s.message).message


# Bad input


BAD_IMAGES = {
    "unknown encoding": {"encoding": "bayer_what"},
    "depth": {"encoding": "32FC1"},
    "no pixels": {"width": 0, "height": 0, "step": 0, "data": array("B")},
    "cut off": {"data": array("B", bytes(100))},
    "no data": {"data": array("B")},
    "step too small": {"step": 10},
    "absurd size": {"width": 4_000_000, "height": 4_000_000},
}


@pytest.mark.parametrize("changes", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image_is_not_valid_with_its_own_stamp_and_the_node_goes_on(peer: Peer, changes: dict[str, Any]) -> None:
    peer.start()
    assert peer.answer().left.valid
    image = peer.image(**changes)
    message = peer.message_of(image)
    assert nobody(message) and message.header == image.header
    assert peer.status(lambda s: "image" in s.message).level == DiagnosticStatus.ERROR
    assert peer.answer().left.valid


def test_changing_size_starts_the_pipeline_anew(peer: Peer) -> None:
    peer.start()
    peer.answer()
    before = peer.pipeline.resets
    message = peer.answer(width=32, height=24, step=96, data=array("B", bytes(32 * 24 * 3)))
    assert message.left.valid and peer.pipeline.images[-1].shape == (24, 32, 3)
    assert peer.pipeline.resets == before + 1


def test_stamps_that_go_back_reset_and_go_on(peer: Peer) -> None:
    peer.start()
    for i in range(5):
        peer.answer(1000.0 + i / 30)
    before = peer.pipeline.resets
    assert peer.answer(1000.01).left.valid and peer.pipeline.resets == before + 1
    assert peer.answer(1000.1).left.valid and peer.pipeline.resets == before + 1


def test_repeated_stamp_is_answered_once(peer: Peer) -> None:
    peer.start()
    first = peer.answer(1000.0)
    peer.image(1000.0)
    peer.answer(1000.1)
    assert [m.header.stamp for m in peer.messages].count(first.header.stamp) == 1
    assert len(peer.pipeline.stamps) == 2


def test_images_without_stamp_are_timed_by_arrival(peer: Peer) -> None:
    peer.start()
    for count in range(1, 4):
        peer.image(0.0)
        wait_until(lambda: len(peer.pipeline.stamps) == count)  # noqa: B023
    assert np.all(np.diff(peer.pipeline.stamps) > 0)
    wait_until(lambda: any(m.left.valid and m.header.stamp.sec == 0 for m in peer.messages))


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), DeviceError("device failed"), A2PError("other")])
def test_fault_in_the_pipeline_is_not_valid_and_the_node_goes_on(peer: Peer, error: Exception) -> None:
    peer.start()
    assert peer.answer().left.valid
    peer.pipeline.error = error
    assert nobody(peer.answer())
    status = peer.status(lambda s: str(error) in s.message)
    assert status.level == DiagnosticStatus.ERROR and type(error).__name__ in status.message
    peer.pipeline.error = None
    before = peer.pipeline.resets
    assert peer.answer().left.valid and peer.pipeline.resets == before + 1


def test_numbers_that_are_not_finite_are_not_valid(peer: Peer) -> None:
    peer.start()
    broken = hand(Side.LEFT)
    broken.joints[5, 1] = np.nan
    peer.pipeline.changes = {"left": broken}
    message = peer.answer()
    assert not message.left.valid and message.right.valid


def test_images_that_name_no_frame_get_the_configured_one_or_are_said(peer: Peer) -> None:
    peer.start()
    nameless = Header()
    nameless.stamp = peer.node.get_clock().now().to_msg()
    message = peer.message_of(peer.image(header=nameless))
    assert message.left.valid and message.header.frame_id == ""
    assert "parameter frame_id" in peer.status(lambda s: "no frame" in s.message).message


def test_configured_frame_is_for_nameless_images_only(peer: Peer) -> None:
    peer.start(frame_id="my_optical")
    nameless = Header()
    nameless.stamp = peer.node.get_clock().now().to_msg()
    assert peer.message_of(peer.image(header=nameless)).header.frame_id == "my_optical"
    assert peer.answer().header.frame_id == "optical"


# CameraInfo


def test_calibration_reaches_the_pipeline(peer: Peer) -> None:
    peer.start()
    peer.calibrate(focal=55.0)
    peer.answer()
    camera = peer.pipeline.cameras[-1]
    assert (camera.fx, camera.width, camera.height, camera.assumed) == (55.0, WIDTH, HEIGHT, False)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"focal": 0.0}, "uncalibrated"),
        ({"focal": math.nan}, "not finite"),
        ({"distortion_model": "wide_angle_x", "d": [0.1]}, "unknown"),
        ({"width": 99}, "the image is 64 x 48"),
    ],
)
def test_unusable_calibration_is_refused_said_and_a_view_assumed(peer: Peer, changes: dict, match: str) -> None:
    peer.start()
    focal = changes.pop("focal", 50.0)
    width = changes.pop("width", WIDTH)
    peer.calibrate(width=width, focal=focal, **changes)
    message = peer.answer()
    assert message.left.valid and not message.metric_scale and peer.pipeline.cameras[-1] is None
    status = peer.status(lambda s: "assumed" in s.message)
    assert match in status.message and status.level != DiagnosticStatus.OK


def test_require_camera_info_refuses_to_assume(peer: Peer) -> None:
    peer.start(require_camera_info=True)
    assert nobody(peer.answer())
    peer.calibrate()
    assert peer.answer().left.valid


def test_calibration_of_another_frame_is_said(peer: Peer) -> None:
    peer.start()
    peer.calibrate(header=Header(frame_id="elsewhere"))
    assert peer.answer().left.valid and peer.pipeline.cameras[-1] is not None
    assert "'elsewhere'" in peer.status(lambda s: "frame" in s.message).message


# Silence


def test_watchdog_speaks_when_images_stop_and_never_repeats_a_pose(peer: Peer) -> None:
    peer.start(watchdog_timeout=0.2)
    last = peer.stream(0.8)
    stopped = time.monotonic()
    message_of_last = peer.message_of(last)
    assert message_of_last.left.valid
    count = len(peer.messages)
    wait_until(lambda: len(peer.messages) >= count + 4)
    after = peer.messages[count:]
    assert all(map(nobody, after)) and all(m.header.frame_id == "optical" for m in after)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in after]
    assert np.all(np.diff(stamps) > 0.05) and abs(stamps[0] - time.time()) < 2.0
    assert 0.1 < peer.times[count] - stopped < 0.6
    assert math.isnan(after[0].latency)
    assert "stopped" in peer.status(lambda s: s.level == DiagnosticStatus.ERROR).message
    assert peer.answer().left.valid


def test_hanging_pipeline_is_silence_and_its_late_answer_is_not_published(peer: Peer) -> None:
    peer.start(watchdog_timeout=0.2)
    peer.stream(0.5)
    peer.pipeline.delay = 0.7
    image = peer.image()
    count = len(peer.messages)
    wait_until(lambda: len(peer.messages) > count and nobody(peer.messages[-1]))
    wait_until(lambda: "answers too late" in peer.hands.statistics.counts())
    assert not [m for m in peer.messages if m.header.stamp == image.header.stamp]
    peer.pipeline.delay = 0.0
    wait_until(lambda: peer.answer().left.valid)


def test_nothing_is_published_before_the_first_image(peer: Peer) -> None:
    peer.start()
    status = peer.status()
    assert "no image yet" in status.message and status.level == DiagnosticStatus.WARN
    assert not peer.messages
