"""rosbag2 folders, MCAP and SQLite files, read and written through ``rosbags``: no ROS needed.

A bag is untrusted: whatever its parser raises becomes a SourceError that names the file.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from a2p_ros.camera import CameraModel, is_rectified_topic
from a2p_ros.errors import CameraError, InputError, MissingDependencyError, SourceError
from a2p_ros.media.encodings import compressed_to_rgb, image_to_rgb
from a2p_ros.media.sources import Frame, Source
from a2p_ros.types import Image

log = logging.getLogger(__name__)

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
MESSAGES = ("HandMANO", "TwoHandMANO", "TwoHandMesh")


class BagSource(Source):
    """The images of one topic of a bag, each with the newest CameraInfo of the same camera.

    Args:
        path: rosbag2 folder, ``.mcap`` or ``.db3``.
        topic: image topic; empty takes the only camera there is.

    Raises:
        SourceError: not a readable bag, no image topic, or several and none named; the text lists them.
    """

    def __init__(self, path: Path, *, topic: str = "") -> None:
        self.path, self.name = path, str(path)
        self._said: set[str] = set()
        with _reading(path), AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            chosen = choose_topic(reader.connections, topic, str(path))
            self.topic = chosen.topic
            self.camera_topic = _camera_topic(reader.connections, chosen.topic)
            self.length = sum(c.msgcount for c in reader.connections if c.topic == chosen.topic)
            seconds = reader.duration * 1e-9
        if not self.length:
            raise SourceError(f"bag {path}: topic {self.topic} has no messages")
        self.fps = (self.length - 1) / seconds if self.length > 1 and seconds > 0 else 30.0
        self.fps = float(np.clip(self.fps, 1.0, 1000.0))

    def __iter__(self) -> Iterator[Frame]:
        rectified = is_rectified_topic(self.topic)
        given = 0
        with _reading(self.path), AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            wanted = [c for c in reader.connections if c.topic == self.topic and c.msgtype in (RAW, COMPRESSED)]
            infos = [c for c in reader.connections if c.topic == self.camera_topic and c.msgtype == CAMERA_INFO]
            camera = self._first_camera(reader, infos, rectified)
            for connection, time, data in reader.messages([*wanted, *infos]):
                message: Any = reader.deserialize(data, connection.msgtype)
                if connection.msgtype == CAMERA_INFO:
                    camera = self._camera(message, rectified)
                    continue
                try:
                    image = decode(message)
                except InputError as error:
                    log.warning("bag %s: message at %.3f s is skipped: %s", self.path, time * 1e-9, error)
                    continue
                given += 1
                camera = self._fitting(camera, image)
                stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
                yield Frame(image, stamp or time * 1e-9, camera, frame_id=message.header.frame_id)
        if not given:
            raise SourceError(f"bag {self.path}: not one of the {self.length} images on {self.topic} can be decoded")

    def _first_camera(self, reader: AnyReader, infos: list[Connection], rectified: bool) -> CameraModel | None:
        """The first CameraInfo, which may have been recorded after the first image."""
        for connection, _, data in reader.messages(infos) if infos else ():
            return self._camera(reader.deserialize(data, connection.msgtype), rectified)
        self._assume(f"no CameraInfo for {self.topic}")
        return None

    def _camera(self, info: Any, rectified: bool) -> CameraModel | None:
        """The camera of a CameraInfo message; None where it cannot be used."""
        try:
            return camera_of(info, rectified=rectified)
        except CameraError as error:
            self._assume(str(error))
            return None

    def _fitting(self, camera: CameraModel | None, image: Image) -> CameraModel | None:
        """The camera, unless it belongs to images of another size."""
        try:
            if camera is not None:
                camera.check_image(*image.shape[:2])
            return camera
        except CameraError as error:
            self._assume(str(error))
            return None

    def _assume(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning("bag %s: %s; the camera is assumed", self.path, reason)


def choose_topic(connections: list[Connection], topic: str, name: str) -> Connection:
    """The image connection to read; raises SourceError with the list of topics when it is not clear."""
    images = [c for c in connections if c.msgtype in (RAW, COMPRESSED)]
    listing = ", ".join(f"{c.topic} ({c.msgtype.rsplit('/')[-1]}, {c.msgcount})" for c in images) or "none"
    if topic:
        named = [c for c in images if c.topic == topic]
        if not named:
            raise SourceError(f"bag {name} has no image topic {topic!r}; its image topics are: {listing}")
        return named[0]
    if not images:
        others = ", ".join(sorted({f"{c.topic} ({c.msgtype})" for c in connections})) or "none at all"
        raise SourceError(f"bag {name} holds no sensor_msgs Image or CompressedImage topic; its topics are: {others}")
    pictures = [c for c in images if "depth" not in c.topic.lower()] or images
    cameras: dict[str, Connection] = {}
    for connection in pictures:
        base = connection.topic.removesuffix("/compressed")
        # Of a camera recorded twice the raw topic is taken: it carries no JPEG noise.
        if base not in cameras or connection.msgtype == RAW:
            cameras[base] = connection
    if len(cameras) > 1:
        raise SourceError(f"bag {name} holds several image topics, choose one with --topic: {listing}")
    return next(iter(cameras.values()))


def decode(message: Any) -> Image:
    """RGB of an Image or CompressedImage message; raises InputError."""
    return image_to_rgb(message) if hasattr(message, "encoding") else compressed_to_rgb(message)


def camera_of(info: Any, *, rectified: bool) -> CameraModel:
    """The camera of a CameraInfo message; raises CameraError for one that is not calibrated."""
    roi = info.roi
    return CameraModel.from_calibration(
        info.width,
        info.height,
        info.k.tolist(),
        info.d.tolist(),
        info.distortion_model,
        info.r.tolist(),
        info.p.tolist(),
        info.binning_x,
        info.binning_y,
        (roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify),
        rectified=rectified,
    )


class HandsBagWriter:
    """A rosbag2 folder with one MCAP file of ``a2p_ros/msg/TwoHandMANO``; use it as a context manager.

    Args:
        folder: is created; an earlier bag of this writer there is replaced, anything else is not touched.
        topic: topic name of the messages.

    Raises:
        SourceError: the folder exists and is not such a bag.
    """

    TYPE = "a2p_ros/msg/TwoHandMANO"

    def __init__(self, folder: Path, *, topic: str = "/hands") -> None:
        if folder.exists():
            held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else ["a file"]
            if held not in ([], ["metadata.yaml"], [f"{folder.name}.mcap"], [f"{folder.name}.mcap", "metadata.yaml"]):
                raise SourceError(f"{folder} exists and holds {', '.join(held[:5])}; give another --out")
            shutil.rmtree(folder)
        self.folder = folder
        self.typestore = hands_typestore()
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connection = self._writer.add_connection(topic, self.TYPE, typestore=self.typestore)

    def write(self, fields: Mapping[str, Any]) -> None:
        """One message of `message_fields.two_hand_fields`, at its own stamp."""
        stamp = fields["header"]["stamp"]
        data = self.typestore.serialize_cdr(self._message(self.TYPE, fields), self.TYPE)
        self._writer.write(self._connection, stamp["sec"] * 1_000_000_000 + stamp["nanosec"], data)

    def _message(self, kind: str, fields: Mapping[str, Any]) -> object:
        nested = {name: _nested_type(description) for name, description in self.typestore.fielddefs[kind][1]}
        values: dict[str, Any] = {
            name: self._message(nested[name], value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
        }
        return self.typestore.types[kind](**values)

    def close(self) -> None:
        """Write the index; without it the file still reads, slowly."""
        self._writer.close()

    def __enter__(self) -> HandsBagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def message_definitions() -> dict[str, str]:
    """Text of the package's own messages by name, from the package data, the source tree or a ROS install space.

    Raises MissingDependencyError when none of them holds the files.
    """
    places: list[Any] = [resources.files("a2p_ros") / "msg_definitions", Path(__file__).resolve().parents[2] / "msg"]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    places += [Path(prefix) / "share" / "a2p_ros" / "msg" for prefix in prefixes if prefix]
    for place in places:
        files = {name: place / f"{name}.msg" for name in MESSAGES}
        if all(file.is_file() for file in files.values()):
            return {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    raise MissingDependencyError(
        f"the message definitions {', '.join(MESSAGES)} are in none of {', '.join(map(str, places))}; "
        "install the package again (pip install, or colcon build)"
    )


def hands_typestore() -> Typestore:
    """ROS 2 Jazzy's message types and those of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, text in message_definitions().items():
        types.update(get_types_from_msg(text, f"a2p_ros/msg/{name}"))
    store.register(types)
    return store


def _nested_type(description: Any) -> str:
    """Name of a nested message type, of rosbags' field description (node kind, (name, ...))."""
    return str(description[1]) if isinstance(description[1], str) else str(description[1][0])


def _camera_topic(connections: list[Connection], image_topic: str) -> str:
    """The CameraInfo topic beside the image topic, else the only one, else none."""
    infos = sorted({c.topic for c in connections if c.msgtype == CAMERA_INFO})
    base = image_topic.removesuffix("/compressed")
    for candidate in (base.rsplit("/", 1)[0] + "/camera_info", base + "/camera_info"):
        if candidate in infos:
            return candidate
    return infos[0] if len(infos) == 1 else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the bag's parsers raise on damaged bytes becomes a SourceError."""
    try:
        yield
    except (InputError, SourceError, GeneratorExit):
        raise
    except Exception as error:  # rosbags, its YAML, SQLite and zstd readers share no base class
        text = str(error) or type(error).__name__
        raise SourceError(
            f"bag {path} cannot be read: {text}. Is it complete? `ros2 bag reindex` or `mcap recover` can repair a "
            "recording that was cut off"
        ) from error
