"""JPEG and PNG bytes -> RGB, refusing what is too large, cut off or damaged before it is decoded.

libjpeg fills what is missing of a truncated picture with grey and says nothing to its caller, and a header of
a few bytes can ask for gigabytes; so the container is read first. JPEG carries no checksum: damage inside the
entropy-coded data that leaves its markers intact cannot be told from a picture.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from a2p_ros.errors import InputError
from a2p_ros.types import Image

#: Pictures with more pixels than this are refused (a 64-megapixel picture is 192 MB as RGB).
MAX_PIXELS = 64_000_000
#: OpenCV's warps count pixels in 16 bits; a picture with a longer edge [px] cannot be cropped.
MAX_EDGE = 32_766

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


def decode_image(data: bytes | memoryview, *, name: str = "image", orient: bool = False) -> Image:
    """Decode a whole JPEG or PNG to RGB.

    ``orient`` turns the picture by its EXIF orientation, which is right for photographs and wrong for camera
    topics, whose CameraInfo speaks of the pixels as they are. Raises InputError.
    """
    raw = bytes(data)
    check_size(*image_size(raw, name=name), name=name)
    flags = cv2.IMREAD_COLOR if orient else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{name}: OpenCV cannot decode its {len(raw)} bytes: {error}") from error
    if bgr is None:
        raise InputError(f"{name}: {len(raw)} bytes with a valid header that do not decode; the data is damaged")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def image_size(data: bytes, *, name: str = "image") -> tuple[int, int]:
    """(width, height) of a complete JPEG or PNG, read from its container; raises InputError if it is not one."""
    if not data:
        raise InputError(f"{name}: empty, expected JPEG or PNG data")
    if data.startswith(_PNG):
        return _png_size(data, name)
    if data.startswith(_JPEG):
        return _jpeg_size(data, name)
    raise InputError(f"{name}: starts with {data[:8].hex(' ')}, expected JPEG (ff d8 ff) or PNG (89 50 4e 47)")


def check_size(width: int, height: int, *, name: str = "image") -> None:
    """Raise InputError for a picture without pixels or with more than MAX_PIXELS."""
    if width <= 0 or height <= 0:
        raise InputError(f"{name}: {width} x {height} pixels, expected at least 1 x 1")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width} x {height} pixels, at most {MAX_PIXELS // 1_000_000} megapixels are taken; scale it down"
        )


def _png_size(data: bytes, name: str) -> tuple[int, int]:
    at, size = len(_PNG), None
    view = memoryview(data)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError(f"{name}: PNG chunk {kind!r} at byte {at} fails its checksum; the data is damaged")
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise InputError(f"{name}: PNG begins with chunk {kind!r}, expected IHDR; the data is damaged")
            width, height = struct.unpack_from(">II", data, at + 8)
            size = (int(width), int(height))
        if kind == b"IEND":
            return size
        at = end
    raise InputError(f"{name}: PNG of {len(data)} bytes ends before its IEND chunk; the data is cut off")


def _jpeg_size(data: bytes, name: str) -> tuple[int, int]:
    at, size = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise InputError(f"{name}: JPEG has {data[at]:#04x} at byte {at}, expected a marker; the data is damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _SOF and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (int(width), int(height))
        if marker == 0xDA:
            if size is None:
                raise InputError(f"{name}: JPEG without a frame header; the data is damaged")
            if data.rfind(b"\xff\xd9", at) < 0:
                raise InputError(f"{name}: JPEG of {len(data)} bytes has no end marker; the data is cut off")
            return size
        at += 2 + length
    raise InputError(f"{name}: JPEG of {len(data)} bytes ends inside its header; the data is cut off")


def check_image(image: Image) -> None:
    """Raise InputError unless this is an RGB image of 8 bit with at least one pixel and no edge over MAX_EDGE."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: expected RGB uint8 (height, width, 3), got {what}")
    if image.size == 0:
        raise InputError(f"image: expected at least one pixel, got {image.shape[1]} x {image.shape[0]}")
    if max(image.shape) > MAX_EDGE:
        raise InputError(
            f"image: expected edges of at most {MAX_EDGE} pixels, got {image.shape[1]} x {image.shape[0]}; "
            "scale it down"
        )
