"""The camera node: what it publishes of a source, at which rate, and what it says of one that cannot be read."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ros_helpers import Ros, free_domain, process_environment, require_ros, wait_until

require_ros()

import itertools

from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from a2p_ros.commands.processes import Children
from a2p_ros.errors import CameraError, ConfigError, SourceError
from a2p_ros.ros.camera_node import CameraNode, read_calibration

CALIBRATION = """
image_width: 64
image_height: 48
camera_name: test
camera_matrix: {rows: 3, cols: 3, data: [60.0, 0, 31.0, 0, 61.0, 23.0, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0.0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [58.0, 0, 31.5, 0, 0, 59.0, 23.5, 0, 0, 0, 1, 0]}
"""

Start = Callable[..., tuple[CameraNode, list[Any], list[CameraInfo]]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures whose red is their number; green and blue tell the channel order."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((48, 64, 3), (200, 100, 10 * i), np.uint8))
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a camera node and returns it with the lists that its messages arrive in."""
    with free_domain() as domain:
        ros = Ros(domain)

        def begin(source: object, kind: Any = Image, topic: str = "image_raw", **parameters: Any):
            images: list[Any] = []
            infos: list[CameraInfo] = []
            peer = ros.node()
            peer.create_subscription(kind, topic, images.append, 20)
            peer.create_subscription(CameraInfo, "camera_info", infos.append, 20)
            values = {"source": str(source), "fps": 50.0, **parameters}
            overrides = [Parameter(name, value=value) for name, value in values.items()]
            node = ros.add(CameraNode(threading.Event(), context=ros.context, parameter_overrides=overrides))
            return node, images, infos

        try:
            yield begin
        finally:
            ros.close()


def pixels(message: Image) -> np.ndarray:
    """The picture, as the message lays it out."""
    assert message.step == 3 * message.width and len(message.data) == message.step * message.height
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_pictures_come_in_order_with_their_camera_info(start: Start, pictures: Path, encoding: str) -> None:
    _, images, infos = start(pictures, encoding=encoding, loop=True)
    wait_until(lambda: len(images) >= 12 and len(infos) >= 12)
    numbers = [int(pixels(m)[0, 0, 0 if encoding == "rgb8" else 2]) // 10 for m in images]
    assert all((b - a) % 10 == 1 for a, b in itertools.pairwise(numbers)), "the folder loops"
    assert pixels(images[0])[0, 0, 1] == 100 and images[0].encoding == encoding
    stamps = {(i.header.stamp.sec, i.header.stamp.nanosec) for i in infos}
    shared = [m for m in images if (m.header.stamp.sec, m.header.stamp.nanosec) in stamps]
    assert len(shared) >= len(images) - 3
    assert images[0].header.frame_id == infos[0].header.frame_id == "camera_optical_frame"


def test_two_rendered_hands_come_with_their_camera(start: Start) -> None:
    """640 pixels across 1.05 rad: what the renderer was told, from the definition of a pinhole camera."""
    _, images, infos = start("synthetic")
    message, info = wait_until(lambda: images)[0], wait_until(lambda: infos)[0]
    assert pixels(message).std() > 10
    assert info.k[0] == pytest.approx(320 / math.tan(0.525), rel=1e-3) and (info.width, info.height) == (640, 480)


def test_rate_is_kept(start: Start, pictures: Path) -> None:
    _, images, _ = start(pictures, fps=20.0)
    wait_until(lambda: len(images) >= 21)
    seconds = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in images]
    assert np.median(np.diff(seconds)) == pytest.approx(0.05, rel=0.15)


def test_once_ends_with_the_source(start: Start, pictures: Path) -> None:
    node, _, _ = start(pictures, loop=False)
    assert node._stop.wait(10.0) and node.published == 10 and node.failure is None


def test_compressed(start: Start, pictures: Path) -> None:
    _, images, _ = start(pictures, CompressedImage, "image_raw/compressed", compressed=True)
    message = wait_until(lambda: images)[0]
    bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert "jpeg" in message.format and np.abs(bgr[..., :2].astype(int) - (200, 100)).max() < 8


def test_unknown_calibration_is_published_as_uncalibrated(start: Start, pictures: Path) -> None:
    _, _, infos = start(pictures)
    info = wait_until(lambda: infos)[0]
    assert (info.width, info.height, info.k[0]) == (64, 48, 0.0)


def test_field_of_view_gives_a_pinhole_camera(start: Start, pictures: Path) -> None:
    _, _, infos = start(pictures, horizontal_fov=1.0)
    info = wait_until(lambda: infos)[0]
    assert info.k[0] == pytest.approx(32 / math.tan(0.5)) and info.k[4] == info.k[0] == info.p[0]
    assert (info.k[2], info.k[5]) == (31.5, 23.5)


def test_calibration_file_is_published(start: Start, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(CALIBRATION)
    _, _, infos = start(pictures, calibration_file=str(file))
    info = wait_until(lambda: infos)[0]
    assert (info.k[0], info.k[4], info.p[0], list(info.d)) == (60.0, 61.0, 58.0, [0.1, -0.2, 0.001, 0.002, 0.0])
    assert info.distortion_model == "plumb_bob"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image_width: 64", "KeyError"),
        ("- 1", "as camera_calibration writes it"),
        ("{", "as camera_calibration writes it"),
        (CALIBRATION.replace("60.0, 0", "0.0, 0"), "uncalibrated"),
        (CALIBRATION.replace("plumb_bob", "magic"), "magic"),
        (CALIBRATION.replace("0, 0, 1]}\ndist", "0]}\ndist"), "as camera_calibration writes it"),
    ],
)
def test_bad_calibration_file_is_named(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(text)
    with pytest.raises(CameraError, match=match):
        read_calibration(str(file))


def test_bad_source_or_parameter_is_named(start: Start, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"does not exist; expected an image .*synthetic"):
        start(tmp_path / "nothing.mp4")
    with pytest.raises(ConfigError, match="expected one of 'rgb8', 'bgr8'"):
        start(tmp_path, encoding="mono8")


def test_picture_that_is_damaged_is_passed_over(start: Start, pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures / "5.png").write_bytes((pictures / "5.png").read_bytes()[:60])
    node, _, _ = start(pictures)
    wait_until(lambda: node.published > 2 * len(list(pictures.glob("*.png"))), what="a second round")
    assert node.failure is None and "5.png is skipped" in caplog.text


def test_pictures_that_are_all_damaged_end_the_node_with_a_name(start: Start, pictures: Path) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    node, _, _ = start(pictures)
    assert node._stop.wait(10.0) and ".png" in str(node.failure) and node.published == 0


def test_exit_codes_of_the_program(pictures: Path) -> None:
    with free_domain() as domain, Children() as children:
        environment = process_environment(domain)

        def begin(source: object) -> Any:
            options = ["--ros-args", "-p", f"source:={source}", "-p", "loop:=false", "-p", "fps:=50.0"]
            return children.start_module("camera", "a2p_ros.ros.camera_node", *options, env=environment)

        good, bad = begin(pictures), begin(pictures / "nothing")
        assert good.process.wait(20.0) == 0, good.tail()
        assert bad.process.wait(20.0) == 2 and "does not exist" in bad.tail()
        assert "Traceback" not in bad.tail(100)
