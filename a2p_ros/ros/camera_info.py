"""The newest CameraInfo -> the camera of the images, or why there is none."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from sensor_msgs.msg import CameraInfo

from a2p_ros.camera import CameraModel, is_rectified_topic
from a2p_ros.errors import CameraError

Rectified = Literal["auto", "yes", "no"]


@dataclass(frozen=True)
class Calibration:
    """A camera, or None and what is wrong.

    ``warning`` is about a camera that is used all the same; ``waiting`` says that nothing has come yet.
    """

    camera: CameraModel | None
    problem: str = ""
    warning: str = ""
    waiting: bool = False


def camera_info_topic(image_topic: str) -> str:
    """``camera_info`` beside an image topic, as image_transport places it."""
    folder, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{folder}{slash}camera_info"


def is_rectified(image_topic: str, choice: Rectified) -> bool:
    """Whether P describes the images of this topic; ``auto`` looks for a word in `rect` in its last part."""
    if choice == "auto":
        return is_rectified_topic(image_topic)
    return choice == "yes"


def camera_model(info: CameraInfo, *, rectified: bool) -> CameraModel:
    """``CameraModel`` of the images that ``info`` belongs to. Raises CameraError."""
    roi = info.roi
    return CameraModel.from_calibration(
        int(info.width),
        int(info.height),
        tuple(map(float, info.k)),
        tuple(map(float, info.d)),
        info.distortion_model,
        tuple(map(float, info.r)),
        tuple(map(float, info.p)),
        int(info.binning_x),
        int(info.binning_y),
        (int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height), bool(roi.do_rectify)),
        rectified=rectified,
    )


class CalibrationKeeper:
    """Keeps the newest CameraInfo and turns it into a camera once for each change of its content."""

    def __init__(self, topic: str, *, rectified: bool) -> None:
        self.topic, self._rectified = topic, rectified
        self._lock = threading.Lock()
        self._info: CameraInfo | None = None
        self._key: tuple[object, ...] | None = None
        self._made = Calibration(None)

    def store(self, info: CameraInfo) -> None:
        """Remember a message; nothing else, for this is called where images are received."""
        with self._lock:
            self._info = info

    @property
    def frame_id(self) -> str:
        """Frame of the newest CameraInfo; empty before the first."""
        with self._lock:
            return self._info.header.frame_id if self._info is not None else ""

    def of_image(self, width: int, height: int, frame_id: str) -> Calibration:
        """The camera of an image of this size [px] and frame."""
        with self._lock:
            info = self._info
        if info is None:
            return Calibration(None, f"no CameraInfo has come on {self.topic}", waiting=True)
        key = (_content(info), width, height, frame_id)
        if key != self._key:
            self._key, self._made = key, self._make(info, width, height, frame_id)
        return self._made

    def _make(self, info: CameraInfo, width: int, height: int, frame_id: str) -> Calibration:
        try:
            camera = camera_model(info, rectified=self._rectified)
            camera.check_image(height, width)
        except CameraError as error:
            return Calibration(None, f"CameraInfo on {self.topic} cannot be used: {error}")
        warning = ""
        if info.header.frame_id != frame_id:
            warning = f"CameraInfo is of frame {info.header.frame_id!r}, the images are of {frame_id!r}"
        return Calibration(camera, warning=warning)


def _content(info: CameraInfo) -> tuple[object, ...]:
    roi = info.roi
    arrays = (bytes(memoryview(a)) for a in (info.k, info.r, info.p))
    return (
        info.header.frame_id,
        info.width,
        info.height,
        info.distortion_model,
        tuple(info.d),
        *arrays,
        info.binning_x,
        info.binning_y,
        (roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify),
    )
