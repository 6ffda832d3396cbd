"""Image messages -> RGB: the common encodings directly, the rest through cv_bridge where it is installed.

Rows may be padded (``step``), so the buffer is always read through it. Messages come from a network: every size is
checked against the bytes that arrived before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from a2p_ros.errors import InputError
from a2p_ros.media.image_io import check_size, decode_image
from a2p_ros.types import Image


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read."""

    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: Any
    data: Any


class CompressedMessage(Protocol):
    """The fields of ``sensor_msgs/CompressedImage`` that are read."""

    format: str
    data: Any


class _Layout(NamedTuple):
    """How one encoding lies in memory, and OpenCV's code to RGB (None: it is RGB)."""

    channels: int
    code: int | None
    even_width: bool = False
    planar_420: bool = False


_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)

_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3, None),
    "bgr8": _Layout(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8uc1": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8uc3": _Layout(3, cv2.COLOR_BGR2RGB),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": _Layout(1, cv2.COLOR_YUV2RGB_NV12, even_width=True, planar_420=True),
    "nv21": _Layout(1, cv2.COLOR_YUV2RGB_NV21, even_width=True, planar_420=True),
}

#: Encodings that need nothing but OpenCV, as ``sensor_msgs/image_encodings`` spells them.
DIRECT_ENCODINGS: tuple[str, ...] = tuple(name.replace("uc", "UC") for name in _LAYOUTS)

#: Measurements, not pictures: turning them into grey would give a wrong answer in silence.
_DEPTH = ("16UC1", "16SC1", "32SC1", "32FC1", "64FC1")


def depth_to_metres(message: ImageMessage) -> Float32[np.ndarray, "height width"]:
    """Depth [m] of a ``sensor_msgs/Image`` as REP 118 has it: 16UC1 [mm], 0 = not measured, or 32FC1 [m], NaN likewise.

    Raises:
        InputError: another encoding, or size, step and data contradict one another.
    """
    kind = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}.get(message.encoding)
    name = f"depth ({message.encoding})"
    if kind is None:
        raise InputError(f"{name}: expected a depth image of encoding 16UC1 [mm] or 32FC1 [m]")
    pixel = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    values = _rows(message, name, int(message.height), int(message.width) * pixel.itemsize)
    values = values.view(pixel).astype(np.float32)
    return values / np.float32(1000) if kind is np.uint16 else values


def image_to_rgb(message: ImageMessage, *, bridge: Callable[[], Any] | None = None) -> Image:
    """RGB of a ``sensor_msgs/Image``; an unpadded ``rgb8`` is a view of the message's own buffer.

    Args:
        message: the message, of rclpy or of a bag.
        bridge: gives a ``cv_bridge.CvBridge`` for the other encodings, or raises ImportError; None = there is none.

    Raises:
        InputError: the encoding is unknown, or size, step and data contradict one another.
    """
    layout = _LAYOUTS.get(message.encoding.lower())
    if layout is None:
        return _through_cv_bridge(message, bridge or _no_bridge)
    width, height = int(message.width), int(message.height)
    name = f"image ({message.encoding})"
    check_size(width, height, name=name)
    if layout.even_width and (width % 2 or (layout.planar_420 and height % 2)):
        raise InputError(f"{name}: {width} x {height} pixels, but chroma is shared by pairs, so the size must be even")
    rows = height * 3 // 2 if layout.planar_420 else height
    pixels = _rows(message, name, rows, width * layout.channels).reshape(rows, width, layout.channels)
    if layout.code is None:
        return pixels
    return cv2.cvtColor(pixels, layout.code)


def _rows(message: ImageMessage, name: str, rows: int, row_bytes: int) -> UInt8[np.ndarray, "rows row_bytes"]:
    """The bytes of each row without padding: a view of the message's buffer where there is none."""
    check_size(int(message.width), int(message.height), name=name)
    step = int(message.step)
    if step < row_bytes:
        raise InputError(f"{name}: step is {step} bytes, but a row of {message.width} pixels takes {row_bytes}")
    buffer = np.frombuffer(message.data, np.uint8)
    if buffer.size not in (step * rows, step * (rows - 1) + row_bytes):
        what = "cut off" if buffer.size < step * rows else "too long"
        raise InputError(
            f"{name}: data is {what}: {buffer.size} bytes, expected {step * rows} (step {step} x {rows} rows)"
        )
    padded = np.lib.stride_tricks.as_strided(buffer, (rows, row_bytes), (step, 1), writeable=False)
    return np.ascontiguousarray(padded)


def compressed_to_rgb(message: CompressedMessage) -> Image:
    """RGB of a ``sensor_msgs/CompressedImage`` that holds a JPEG or PNG picture.

    What the bytes are is read from the bytes; ``format`` only tells depth from pictures.

    Raises:
        InputError: not JPEG or PNG, cut off, damaged, too large, or a depth image.
    """
    encoding = message.format.split(";")[0].strip()
    if "compressedDepth" in message.format or encoding in _DEPTH:
        raise InputError(f"compressed image of format {message.format!r} is depth, expected a colour or grey picture")
    data = message.data
    return decode_image(data if isinstance(data, bytes) else memoryview(data), name=f"image ({message.format})")


def _through_cv_bridge(message: ImageMessage, bridge: Callable[[], Any]) -> Image:
    known = ", ".join(DIRECT_ENCODINGS)
    if message.encoding in _DEPTH:
        raise InputError(f"encoding {message.encoding!r} is depth, expected a colour or grey picture ({known})")
    try:
        converter = bridge()
    except ImportError as error:
        raise InputError(
            f"encoding {message.encoding!r} is not one of {known}; others (bayer, 16 bit) need cv_bridge, which is not "
            "installed here (ros-$ROS_DISTRO-cv-bridge): install it or set the camera to one of those"
        ) from error
    check_size(int(message.width), int(message.height), name=f"image ({message.encoding})")
    try:
        rgb = converter.imgmsg_to_cv2(message, "rgb8")
    except Exception as error:  # cv_bridge lets numpy's, OpenCV's and its own errors through
        raise InputError(
            f"encoding {message.encoding!r} is not one of {known}, and cv_bridge cannot convert it: {error}"
        ) from error
    return np.ascontiguousarray(rgb, np.uint8)


def _no_bridge() -> Any:
    raise ImportError("cv_bridge is used by ROS nodes only")
