"""Encodings against OpenCV's own conversions, written here from the definition of each layout."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2p_ros.errors import InputError
from a2p_ros.media.encodings import DIRECT_ENCODINGS, compressed_to_rgb, image_to_rgb

WIDTH, HEIGHT = 46, 30


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A smooth colourful picture, so that shared chroma costs little."""
    noise = np.random.default_rng(1).integers(60, 196, (3, 4, 3), np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def packed(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The rows of bytes of one encoding, unpadded."""
    if encoding in ("yuv422", "uyvy", "yuyv", "yuv422_yuy2", "nv12", "nv21"):
        i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
        luma = i420[:HEIGHT]
        u, v = (p.reshape(HEIGHT // 2, WIDTH // 2) for p in np.split(i420[HEIGHT:].reshape(2, -1), 2))
        if encoding in ("nv12", "nv21"):
            chroma = np.stack([u, v] if encoding == "nv12" else [v, u], -1).reshape(HEIGHT // 2, WIDTH)
            return np.concatenate([luma, chroma])
        u, v = np.repeat(u, 2, 0), np.repeat(v, 2, 0)
        even, odd = luma[:, ::2], luma[:, 1::2]
        order = [u, even, v, odd] if encoding in ("yuv422", "uyvy") else [even, u, odd, v]
        return np.stack(order, -1).reshape(HEIGHT, 2 * WIDTH)
    codes = {
        "rgb8": None,
        "bgr8": cv2.COLOR_RGB2BGR,
        "8UC3": cv2.COLOR_RGB2BGR,
        "rgba8": cv2.COLOR_RGB2RGBA,
        "bgra8": cv2.COLOR_RGB2BGRA,
        "mono8": cv2.COLOR_RGB2GRAY,
        "8UC1": cv2.COLOR_RGB2GRAY,
    }
    code = codes[encoding]
    return (rgb if code is None else cv2.cvtColor(rgb, code)).reshape(HEIGHT, -1)


def message(rows: np.ndarray, encoding: str, /, pad: int = 0, **changes) -> SimpleNamespace:
    """An Image with ``pad`` bytes of rubbish after each row."""
    padded = np.concatenate([rows, np.full((len(rows), pad), 0xA5, np.uint8)], 1)
    fields = {"width": WIDTH, "height": HEIGHT, "encoding": encoding, "step": padded.shape[1], "is_bigendian": 0}
    return SimpleNamespace(**{**fields, "data": array("B", padded.tobytes()), **changes})


@pytest.mark.parametrize("pad", [0, 1, 18])
@pytest.mark.parametrize("encoding", DIRECT_ENCODINGS)
def test_every_encoding_gives_the_picture_back(rgb: np.ndarray, encoding: str, pad: int) -> None:
    out = image_to_rgb(message(packed(rgb, encoding), encoding, pad))
    assert out.shape == (HEIGHT, WIDTH, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    if encoding in ("mono8", "8UC1"):
        expected = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        np.testing.assert_array_equal(out, expected)
    elif encoding.endswith("8") or encoding == "8UC3":
        np.testing.assert_array_equal(out, rgb)
    else:
        error = np.abs(out.astype(int) - rgb)
        assert error.mean() < 5 and np.percentile(error, 95) < 15, "chroma is lost, colours must not be swapped"


@pytest.mark.parametrize(
    ("encoding", "code"),
    [("uyvy", cv2.COLOR_YUV2RGB_UYVY), ("yuyv", cv2.COLOR_YUV2RGB_YUYV), ("nv12", cv2.COLOR_YUV2RGB_NV12)],
)
def test_yuv_is_opencv_to_the_bit(encoding: str, code: int) -> None:
    rows = HEIGHT * 3 // 2 if encoding == "nv12" else HEIGHT
    raw = np.random.default_rng(2).integers(0, 256, (rows, WIDTH * (1 if encoding == "nv12" else 2)), np.uint8)
    expected = cv2.cvtColor(raw if encoding == "nv12" else raw.reshape(HEIGHT, WIDTH, 2), code)
    np.testing.assert_array_equal(image_to_rgb(message(raw, encoding, pad=6)), expected)


def test_plain_rgb_is_a_view_and_the_last_row_may_lack_its_padding(rgb: np.ndarray) -> None:
    msg = message(packed(rgb, "rgb8"), "rgb8")
    assert np.shares_memory(image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))
    short = message(packed(rgb, "rgb8"), "rgb8", pad=10)
    short.data = short.data[:-10]
    np.testing.assert_array_equal(image_to_rgb(short), rgb)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": 0}, "0 x 30 pixels, expected at least 1 x 1"),
        ({"height": 0}, "46 x 0 pixels"),
        ({"data": b""}, "cut off: 0 bytes, expected 4140"),
        ({"data": bytes(4139)}, "cut off: 4139 bytes"),
        ({"data": bytes(5000)}, "too long: 5000 bytes"),
        ({"step": 137}, "step is 137 bytes, but a row of 46 pixels takes 138"),
        ({"step": 0}, "step is 0 bytes"),
        ({"width": 40_000, "height": 40_000, "step": 120_000}, "at most 64 megapixels"),
        ({"height": 31}, "cut off"),
        ({"encoding": "uyvy", "width": 45}, "must be even"),
        ({"encoding": "nv12", "height": 29}, "must be even"),
    ],
)
def test_contradictions_are_named(rgb: np.ndarray, changes: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        image_to_rgb(message(packed(rgb, "rgb8"), "rgb8", **changes))


def test_unknown_encoding_lists_what_is_known(rgb: np.ndarray) -> None:
    for encoding in ("bayer_rggb8", "mono16", "", "jpeg"):
        with pytest.raises(InputError, match=r"rgb8, bgr8, .*nv12.*need cv_bridge, which is not installed"):
            image_to_rgb(message(packed(rgb, "mono8"), encoding))


def test_other_encodings_go_through_cv_bridge(rgb: np.ndarray) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, msg, wanted: str) -> np.ndarray:
            if msg.encoding == "bayer_broken":
                raise RuntimeError("no such bayer")
            assert wanted == "rgb8"
            return rgb

    np.testing.assert_array_equal(image_to_rgb(message(packed(rgb, "mono8"), "bayer_rggb8"), bridge=Bridge), rgb)
    with pytest.raises(InputError, match="no such bayer"):
        image_to_rgb(message(packed(rgb, "mono8"), "bayer_broken"), bridge=Bridge)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_is_refused_not_turned_grey(rgb: np.ndarray, encoding: str) -> None:
    with pytest.raises(InputError, match="is depth"):
        image_to_rgb(message(packed(rgb, "mono8"), encoding))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kind", [bytes, lambda b: array("B", b)])
def test_compressed_pictures(rgb: np.ndarray, suffix: str, kind) -> None:
    data = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
    out = compressed_to_rgb(SimpleNamespace(format="bgr8; jpeg compressed bgr8", data=kind(data)))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("fmt", "data", "match"),
    [
        ("jpeg", b"", "empty"),
        ("jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off"),
        ("h264", b"\x00\x00\x00\x01\x67", "expected JPEG"),
        ("16UC1; compressedDepth png", b"\x89PNG\r\n\x1a\n", "is depth"),
        ("16UC1; png compressed ", b"\x89PNG\r\n\x1a\n", "is depth"),
    ],
)
def test_bad_compressed_pictures(fmt: str, data: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        compressed_to_rgb(SimpleNamespace(format=fmt, data=data))


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*DIRECT_ENCODINGS, "RGB8", "mono16"]),
    width=st.integers(0, 70),
    height=st.integers(0, 70),
    step=st.integers(0, 300),
    size=st.integers(0, 20_000),
)
def test_any_message_is_a_picture_or_an_input_error(
    encoding: str, width: int, height: int, step: int, size: int
) -> None:
    msg = SimpleNamespace(encoding=encoding, width=width, height=height, step=step, data=bytes(size))
    try:
        assert image_to_rgb(msg).shape == (height, width, 3)
    except InputError as error:
        assert str(error)


_JPEG = cv2.imencode(".jpg", np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes()
_PNG = cv2.imencode(".png", np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes()


@settings(max_examples=200, deadline=None)
@given(
    whole=st.sampled_from([_JPEG, _PNG]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
    keep=st.floats(0, 1),
)
def test_any_bytes_are_a_picture_or_an_input_error(whole: bytes, flips: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(whole)
    for where, mask in flips:
        data[int(where * (len(data) - 1))] ^= mask
    data = data[: len(data) if keep > 0.5 else int(2 * keep * len(data))]
    try:
        image = compressed_to_rgb(SimpleNamespace(format="jpeg", data=bytes(data)))
        assert image.ndim == 3 and image.dtype == np.uint8
    except InputError as error:
        assert str(error)
