"""Processes over real DDS with the real pipeline: camera node -> hands node -> subscribers of two vendors."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import media_folder
from ros_helpers import Ros, free_domain, process_environment, require_ros, wait_until

require_ros()

from a2p_ros.msg import HandMANO, TwoHandMANO
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo

from a2p_ros.commands.processes import Child, Children
from a2p_ros.ros.conversions import message_to_fields

HERE = Path(__file__).parent
ARRAYS = (
    "keypoints",
    "keypoints_wrist",
    "keypoints_px",
    "keypoint_confidence",
    "mano_pose",
    "mano_betas",
    "mano_transl",
)


def source() -> str:
    """A clip with a right hand: a real one where there is one, else that of the package."""
    clip = media_folder() / "one_hand_pinches.mp4"
    return str(clip) if clip.is_file() else "synthetic"


@dataclass
class Run:
    """Two processes and what a third heard of them."""

    camera: Child
    hands: Child
    children: Children
    domain: int
    environment: dict[str, str]
    messages: list[TwoHandMANO] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    stamps: set[tuple[int, int]] = field(default_factory=set)
    info: CameraInfo | None = None

    def on_hands(self, message: TwoHandMANO) -> None:
        self.messages.append(message)
        self.times.append(time.time())

    def on_camera(self, message: CameraInfo) -> None:
        self.stamps.add((message.header.stamp.sec, message.header.stamp.nanosec))
        self.info = message

    @property
    def of_images(self) -> list[TwoHandMANO]:
        """Messages about an image, as the field ``latency`` tells."""
        return [m for m in self.messages if not math.isnan(m.latency)]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with free_domain() as domain, Children() as children:
        environment = process_environment(domain)
        ros = Ros(domain)
        camera_arguments = [
            "-r",
            "__ns:=/camera",
            "-p",
            f"source:={source()}",
            "-p",
            "horizontal_fov:=1.2",
            "-p",
            "fps:=15.0",
        ]
        hands = children.start_module("hands", "a2p_ros.ros.hands_node", env=environment)
        camera = children.start_module(
            "camera", "a2p_ros.ros.camera_node", "--ros-args", *camera_arguments, env=environment
        )
        made = Run(camera, hands, children, domain, environment)
        node = ros.node("listener")
        node.create_subscription(CameraInfo, "/camera/camera_info", made.on_camera, 50)
        node.create_subscription(TwoHandMANO, "/hands", made.on_hands, 50)
        try:
            wait_until(
                lambda: sum(m.right.valid for m in made.messages) >= 30 or children.check(), 60.0, "30 valid hands"
            )
            yield made
        finally:
            ros.close()


def check_hand(hand: HandMANO) -> None:
    """What a robot relies on: numbers when valid, NaN when not."""
    values = np.concatenate([np.asarray(getattr(hand, name)) for name in ARRAYS])
    q = hand.wrist.orientation
    if not hand.valid:
        assert np.isnan(values).all() and math.isnan(q.w) and hand.box.width == 0
        return
    assert hand.status == HandMANO.TRACKED and 0 <= hand.confidence <= 1
    assert np.isfinite(values).all()
    assert math.hypot(q.x, q.y, q.z, q.w) == pytest.approx(1.0, abs=1e-6)
    points = np.reshape(hand.keypoints, (21, 3))
    p = hand.wrist.position
    np.testing.assert_allclose(points[0], (p.x, p.y, p.z), atol=1e-5)
    assert (points[:, 2] > 0.05).all() and (points[:, 2] < 5.0).all()
    assert 0 < hand.box.width <= 1280 and 0 < hand.box.height <= 720


def test_stamp_frame_and_numbers_of_every_message(run: Run) -> None:
    messages = run.of_images
    assert len(messages) >= 30
    for message in messages:
        assert message.header.frame_id == "camera_optical_frame"
        check_hand(message.left)
        check_hand(message.right)
        assert message.model_id and message.hand_model
        assert not message.metric_scale and message.latency > 0
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages]
    assert stamps == sorted(set(stamps))
    known = [s for s in stamps if s >= min(run.stamps)]
    assert len(known) >= 20 and sum(s in run.stamps for s in known) / len(known) > 0.95, "stamps are the camera's own"


def test_keypoints_project_onto_their_pixels_through_the_published_camera(run: Run) -> None:
    """The pinhole camera of 1.2 rad that the camera node was told to publish; the packaged clip knows its own."""
    assert run.info is not None
    fx, cx, fy, cy = np.asarray(run.info.k)[[0, 2, 4, 5]]
    if source() != "synthetic":
        assert fx == fy == pytest.approx(640 / math.tan(0.6)) and (cx, cy) == (639.5, 359.5)
    for message in [m for m in run.of_images if m.right.valid][-10:]:
        points = np.reshape(message.right.keypoints, (21, 3))
        px = points[:, :2] / points[:, 2:] * (fx, fy) + (cx, cy)
        np.testing.assert_allclose(px, np.reshape(message.right.keypoints_px, (21, 2)), atol=0.1)


def test_cyclonedds_decodes_the_same_message(run: Run) -> None:
    pytest.importorskip("cyclonedds", reason="no cyclonedds here to listen as another vendor")
    command = [sys.executable, str(HERE / "cyclone_listener.py"), str(run.domain), "5", "30"]
    listener = run.children.start("cyclone", command, env=run.environment)
    assert (
        wait_until(lambda: listener.process.poll() is not None, 40.0, "cyclonedds") and listener.process.returncode == 0
    ), listener.tail()
    lines = [line for line in listener.log.read_text().splitlines() if line.startswith("{")]
    ours = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in run.messages}
    compared = 0
    for theirs in map(json.loads, lines):
        stamp = theirs["header"]["stamp"]
        message = ours.get((stamp["sec"], stamp["nanosec"]))
        if message is not None:
            assert_same(message_to_fields(message), theirs)
            compared += 1
    assert compared >= 3


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal field by field; NaN equals NaN."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif isinstance(ours, str):
        assert ours == theirs
    else:
        np.testing.assert_array_equal(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))


def test_rosbags_reads_and_writes_it_with_the_same_type_hash(run: Run) -> None:
    pytest.importorskip("rosbags", reason="no rosbags here to read the message as a third party")
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("HandMANO", "TwoHandMANO"):
        text = (HERE.parent / "msg" / f"{name}.msg").read_text()
        store.register(get_types_from_msg(text, f"a2p_ros/msg/{name}"))
    name = "a2p_ros/msg/TwoHandMANO"
    message = next(m for m in run.of_images if m.right.valid)
    raw = serialize_message(message)
    theirs = store.deserialize_cdr(raw, name)
    np.testing.assert_array_equal(theirs.right.keypoints, message.right.keypoints)
    assert theirs.header.stamp.nanosec == message.header.stamp.nanosec
    again = deserialize_message(bytes(store.serialize_cdr(theirs, name)), TwoHandMANO)
    assert_same(message_to_fields(again), message_to_fields(message))
    published = run_hash(run)
    assert published is None or store.hash_rihs01(name) == published


def run_hash(run: Run) -> str | None:
    """RIHS01 hash that the hands node announces, None on distributions that announce none."""
    ros = Ros(run.domain)
    try:
        node = ros.node("asker")
        infos = wait_until(lambda: node.get_publishers_info_by_topic("/hands"))
        announced = getattr(infos[0], "topic_type_hash", None)
        return None if announced is None else f"RIHS01_{bytes(announced.value).hex()}"
    finally:
        ros.close()


def test_killed_camera_gives_not_valid_at_once_and_no_pose_again(run: Run) -> None:
    """Last in the file: it ends the camera."""
    wait_until(lambda: run.messages[-1].right.valid)
    run.camera.process.send_signal(signal.SIGKILL)
    killed = time.time()
    run.camera.process.wait(5.0)
    wait_until(lambda: time.time() - killed > 0.3 and math.isnan(run.messages[-1].latency))
    first = next(
        i for i, (m, t) in enumerate(zip(run.messages, run.times, strict=True)) if t > killed and math.isnan(m.latency)
    )
    took = run.times[first] - killed
    print(f"camera killed -> not valid after {took:.3f} s")
    assert took < 1.0
    count = len(run.messages)
    wait_until(lambda: len(run.messages) >= count + 3)
    for message in run.messages[first:]:
        assert not message.left.valid and not message.right.valid and message.header.frame_id == "camera_optical_frame"


def test_two_interrupts_end_the_node_cleanly(run: Run) -> None:
    process = run.hands.process
    count = len(run.messages)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(15.0) == 0, run.hands.tail()
    assert "Traceback" not in run.hands.tail(200)
    assert all(not m.right.valid for m in run.messages[count:])
