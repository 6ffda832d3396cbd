from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scripted import HEIGHT, WIDTH, placed_hand, two_hands

from a2p_ros.errors import SourceError
from a2p_ros.media.bags import BagSource, HandsBagWriter, hands_typestore, message_definitions
from a2p_ros.media.sources import open_source
from a2p_ros.message_fields import two_hand_fields
from a2p_ros.types import Side

STORE = get_typestore(Stores.ROS2_JAZZY)
BOTH = pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP], ids=["sqlite3", "mcap"])


def picture(number: int) -> np.ndarray:
    """RGB that is smooth enough for JPEG and different in each frame."""
    y, x = np.mgrid[:48, :64]
    return np.stack([2 * x + number, 3 * y, np.full_like(x, 20 * number)], -1).astype(np.uint8)


def header(seconds: float):
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="optical")


def raw_image(number: int, step_padding: int = 4):
    """rgb8 with padded rows."""
    pixels = picture(number)
    padded = np.zeros((48, 64 * 3 + step_padding), np.uint8)
    padded[:, : 64 * 3] = pixels.reshape(48, -1)
    return STORE.types["sensor_msgs/msg/Image"](
        header=header(100 + number / 30),
        height=48,
        width=64,
        encoding="rgb8",
        is_bigendian=0,
        step=padded.shape[1],
        data=padded.reshape(-1),
    )


def jpeg_image(number: int):
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert ok
    return STORE.types["sensor_msgs/msg/CompressedImage"](
        header=header(100 + number / 30), format="rgb8; jpeg compressed bgr8", data=data.reshape(-1)
    )


def camera_info(fx: float = 80.0):
    k = np.array([fx, 0, 31.5, 0, fx, 23.5, 0, 0, 1.0])
    roi = STORE.types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return STORE.types["sensor_msgs/msg/CameraInfo"](
        header=header(100.0),
        height=48,
        width=64,
        distortion_model="plumb_bob",
        d=np.array([0.1, 0, 0, 0, 0.0]),
        k=k,
        r=np.eye(3).reshape(-1),
        p=np.array([fx + 5, 0, 31.5, 0, 0, fx + 5, 23.5, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def write_bag(folder: Path, topics: dict[str, list], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag of messages by topic, a thirtieth of a second apart; CameraInfo after the images of its time."""
    with Writer(folder, version=9, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(topic, messages[0].__msgtype__, typestore=STORE)
            for topic, messages in topics.items()
            if messages
        }
        for number in range(max(map(len, topics.values()))):
            for topic, messages in topics.items():
                if number < len(messages):
                    message = messages[number]
                    data = STORE.serialize_cdr(message, message.__msgtype__)
                    writer.write(connections[topic], round((100 + number / 30) * 1e9), data)
    return folder


@BOTH
def test_raw_images_with_padded_rows_come_back_exactly(tmp_path, storage) -> None:
    bag = write_bag(
        tmp_path / "bag",
        {"/cam/image_raw": [raw_image(i) for i in range(5)], "/cam/camera_info": [camera_info()] * 5},
        storage,
    )
    with open_source(str(bag)) as source:
        assert source.length == 5 and source.fps == pytest.approx(30.0, rel=1e-3)
        frames = list(source)
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(number))
        assert frame.stamp == pytest.approx(100 + number / 30, abs=1e-6)
        assert frame.frame_id == "optical"
        assert frame.camera is not None and frame.camera.fx == 80.0 and frame.camera.distortion_model == "plumb_bob"
    assert len(frames) == 5


@BOTH
def test_compressed_images_are_decoded(tmp_path, storage) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw/compressed": [jpeg_image(i) for i in range(3)]}, storage)
    frames = list(BagSource(bag))
    assert [f.camera for f in frames] == [None] * 3
    for number, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - picture(number)).mean() < 3


@BOTH
def test_the_single_file_of_a_bag_reads_too(tmp_path, storage) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw": [raw_image(i) for i in range(3)]}, storage)
    file = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    assert len(list(open_source(str(file)))) == 3


def test_a_source_of_a_bag_can_be_read_twice(tmp_path) -> None:
    source = BagSource(write_bag(tmp_path / "bag", {"/cam/image_raw": [raw_image(0), raw_image(1)]}))
    assert len(list(source)) == len(list(source)) == 2


def test_a_rectified_topic_takes_the_projection_matrix(tmp_path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_rect": [raw_image(0)], "/cam/camera_info": [camera_info()]})
    (frame,) = BagSource(bag)
    assert frame.camera is not None and (frame.camera.fx, frame.camera.distortion_model) == (85.0, "none")


def test_of_two_cameras_one_must_be_named(tmp_path) -> None:
    bag = write_bag(tmp_path / "bag", {"/left/image_raw": [raw_image(0)], "/right/image_raw": [raw_image(1)]})
    with pytest.raises(SourceError, match=r"several image topics.*/left/image_raw.*/right/image_raw"):
        BagSource(bag)
    (frame,) = BagSource(bag, topic="/right/image_raw")
    np.testing.assert_array_equal(frame.image, picture(1))
    with pytest.raises(SourceError, match=r"no image topic '/other'; its image topics are: /left/image_raw"):
        BagSource(bag, topic="/other")


def test_of_one_camera_recorded_twice_the_raw_topic_is_taken(tmp_path) -> None:
    bag = write_bag(
        tmp_path / "bag",
        {
            "/cam/image_raw/compressed": [jpeg_image(0)],
            "/cam/image_raw": [raw_image(0)],
            "/cam/depth/image_raw": [raw_image(1)],
        },
    )
    assert BagSource(bag).topic == "/cam/image_raw"


def test_a_bag_without_images_says_what_it_holds(tmp_path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/camera_info": [camera_info()]})
    with pytest.raises(SourceError, match=r"no sensor_msgs Image.*/cam/camera_info \(sensor_msgs/msg/CameraInfo\)"):
        open_source(str(bag))


@BOTH
def test_a_truncated_bag_is_an_error_that_names_it(tmp_path, storage) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw": [raw_image(i) for i in range(40)]}, storage)
    file = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"bag .*bag.* cannot be read"):
        list(open_source(str(bag)))


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
@pytest.mark.parametrize("content", [b"", b"not a bag at all" * 50, b"\x89MCAP0\r\n" + b"\xff" * 64])
def test_a_file_that_is_no_bag_is_an_error_that_names_it(tmp_path, suffix, content) -> None:
    file = tmp_path / f"thing{suffix}"
    file.write_bytes(content)
    with pytest.raises(SourceError, match="thing"):
        list(open_source(str(file)))


def test_a_folder_with_broken_metadata_is_an_error(tmp_path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw": [raw_image(0)]})
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: [")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(str(bag))


def test_a_damaged_image_is_skipped_and_told(tmp_path, caplog) -> None:
    bad = raw_image(1)
    bad.step = 7
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw": [raw_image(0), bad, raw_image(2)]})
    frames = list(BagSource(bag))
    assert [round((f.stamp - 100) * 30) for f in frames] == [0, 2]
    assert "is skipped" in caplog.text and "step" in caplog.text


def test_only_damaged_images_are_an_error(tmp_path) -> None:
    bad = raw_image(0)
    bad.encoding = "bayer_unknown"
    with pytest.raises(SourceError, match="not one of the 1 images"):
        list(BagSource(write_bag(tmp_path / "bag", {"/cam/image_raw": [bad]})))


@pytest.mark.parametrize(("fx", "says"), [(0.0, "uncalibrated"), (math.nan, "uncalibrated|finite")])
def test_an_unusable_camera_is_told_once_and_assumed(tmp_path, caplog, fx: float, says: str) -> None:
    topics = {"/c/image_raw": [raw_image(n) for n in range(3)], "/c/camera_info": [camera_info(fx) for _ in range(3)]}
    frames = list(BagSource(write_bag(tmp_path / "bag", topics)))
    assert len(frames) == 3 and all(frame.camera is None for frame in frames)
    told = [record.message for record in caplog.records if "the camera is assumed" in record.message]
    assert len(told) == 1 and re.search(says, told[0])


def test_a_camera_of_pictures_of_another_size_is_told_and_assumed(tmp_path, caplog) -> None:
    info = camera_info()
    info.width, info.height = 2 * info.width, 2 * info.height
    frames = list(BagSource(write_bag(tmp_path / "bag", {"/c/image_raw": [raw_image(0)], "/c/camera_info": [info]})))
    assert [frame.camera for frame in frames] == [None]
    assert "the camera is assumed" in caplog.text


def fields_of(left=None, right=None, stamp: float = 12.25):
    return two_hand_fields(two_hands(left, right, stamp), image_size=(WIDTH, HEIGHT), frame_id="optical")


def test_hands_written_to_mcap_read_back_the_same(tmp_path) -> None:
    hand, _ = placed_hand(Side.RIGHT, (0.1, 0.05, 0.5))
    with HandsBagWriter(tmp_path / "hands_bag") as writer:
        for number in range(3):
            writer.write(fields_of(right=hand, stamp=12.25 + number))
    assert (tmp_path / "hands_bag" / "hands_bag.mcap").is_file()
    with AnyReader([tmp_path / "hands_bag"]) as reader:  # no type store of ours: the bag brings its own definitions
        messages = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()]
        assert reader.connections[0].msgtype == "a2p_ros/msg/TwoHandMANO"
        assert reader.connections[0].topic == "/hands"
    assert [m.header.stamp.sec for m in messages] == [12, 13, 14]
    first = messages[0]
    assert first.header.stamp.nanosec == 250_000_000 and first.header.frame_id == "optical"
    assert first.right.valid and first.right.status == 1 and not first.left.valid
    np.testing.assert_allclose(first.right.keypoints.reshape(21, 3), hand.joints, atol=1e-6)
    np.testing.assert_allclose(first.right.keypoints_px.reshape(21, 2), hand.keypoints_px, rtol=1e-6)
    assert np.isnan(first.left.keypoints).all() and np.isnan(first.left.wrist.position.x)
    assert first.left.box.width == 0 and first.right.box.width > 50
    assert np.isnan(first.relative_translation).all()
    assert first.model_id == "scripted"


def test_the_wrist_frame_in_the_bag_is_the_documented_one(tmp_path) -> None:
    """Palm to the camera, fingers up: x is up in the image, z away from the camera."""
    for side in Side:
        hand, _ = placed_hand(side, (0.0, 0.1, 0.5))
        q = fields_of(**{side.value: hand})[side.value]["wrist"]["orientation"]
        x, y, z, w = (q[k] for k in "xyzw")
        x_axis = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)])
        z_axis = np.array([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)])
        assert x_axis @ (0, -1, 0) > 0.97 and z_axis @ (0, 0, 1) > 0.97


def test_an_earlier_bag_is_replaced_and_anything_else_is_not(tmp_path) -> None:
    folder = tmp_path / "hands_bag"
    for _ in range(2):
        with HandsBagWriter(folder) as writer:
            writer.write(fields_of())
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SourceError, match=r"exists and holds .*notes\.txt"):
        HandsBagWriter(folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_file_reads_without_its_folder(tmp_path) -> None:
    folder = tmp_path / "hands_bag"
    with HandsBagWriter(folder) as writer:
        for number in range(50):
            writer.write(fields_of(stamp=1.0 + number))
    copy = shutil.copy(folder / "hands_bag.mcap", tmp_path / "copy.mcap")
    with AnyReader([Path(copy)]) as reader:
        assert sum(1 for _ in reader.messages()) == 50


def rosidl_hash(name: str) -> str | None:
    """The type hash that rosidl wrote when it built this message; None where it is not installed."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for file in (Path(prefix) / "share" / "a2p_ros" / "msg" / f"{name}.json" for prefix in prefixes if prefix):
        if file.is_file():
            hashes = json.loads(file.read_text())["type_hashes"]
            return next(h["hash_string"] for h in hashes if h["type_name"] == f"a2p_ros/msg/{name}")
    return None


def test_the_type_hash_is_the_one_that_rosidl_computes() -> None:
    """Written by rosbags from our text and built by rosidl from the same files: ROS must see one type."""
    pytest.importorskip("rclpy", reason="no ROS here: nothing to compare the type hash with")
    messages = pytest.importorskip("a2p_ros.msg", reason="the messages of a2p_ros are not built")
    store = hands_typestore()
    for name in message_definitions():
        expected = rosidl_hash(name)
        if expected is None:
            pytest.skip(f"no {name}.json of rosidl in AMENT_PREFIX_PATH or the Python prefix")
        assert hasattr(messages, name)
        assert store.hash_rihs01(f"a2p_ros/msg/{name}") == expected
