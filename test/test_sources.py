"""Sources: order, stamps, and what they say of bad files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from a2p_ros.errors import InputError, SourceError
from a2p_ros.media.image_io import decode_image, image_size
from a2p_ros.media.sources import open_source


@pytest.fixture
def picture() -> np.ndarray:
    """A BGR picture with detail, of odd size."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (13, 17, 3), np.uint8), (171, 121), interpolation=cv2.INTER_CUBIC)


def write_video(path: Path, frames: int, fps: float = 25.0) -> None:
    """A small video whose frame i has brightness 8 i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()


def test_folder_is_read_in_natural_order_as_rgb(tmp_path: Path) -> None:
    for i in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), np.full((4, 6, 3), (0, 0, i), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    frames = list(open_source(str(tmp_path), fps=10.0))
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 9, 10]
    assert [f.stamp for f in frames] == pytest.approx([0.0, 0.1, 0.2])
    assert frames[0].image.shape == (4, 6, 3) and frames[0].camera is None


def test_one_image_is_a_source_of_length_one(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((4, 6, 3), np.uint8))
    source = open_source(str(tmp_path / "a.jpg"))
    assert source.length == 1 and len(list(source)) == 1


def test_video_keeps_its_times_and_can_be_read_twice(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 12)
    with open_source(str(tmp_path / "v.avi")) as source:
        assert source.fps == pytest.approx(25.0) and source.length == 12
        first, second = list(source), list(source)
    assert [f.stamp for f in first] == pytest.approx([i / 25 for i in range(12)], abs=1e-3)
    assert [int(f.image.mean().round()) for f in first] == pytest.approx([8 * i for i in range(12)], abs=3)
    assert len(second) == 12


def test_a_video_that_is_cut_off_says_so(tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    whole = tmp_path / "whole.mkv"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (160, 120))
    for i in range(20):
        writer.write(np.ascontiguousarray(np.roll(picture, 9 * i, axis=1)[:120, :160]))
    writer.release()
    assert len(list(open_source(str(whole)))) == 20
    assert not caplog.records
    # Matroska's header, which tells the duration, comes first, and what comes after the cut is lost.
    data = whole.read_bytes()
    count = len(list(open_source(str(_file(tmp_path / "cut.mkv", data[: len(data) // 2])))))
    assert 0 < count < 18
    assert f"{count} of its 20 frames could be decoded; it is cut off or damaged" in caplog.text


def test_given_rate_replaces_that_of_the_video(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 3)
    assert [f.stamp for f in open_source(str(tmp_path / "v.avi"), fps=10.0)] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p / "missing.mp4", "does not exist; expected an image"),
        (lambda p: p, "holds no image"),
        (lambda p: _file(p / "noise.mp4", b"not a video" * 99), "cannot open .* as a video"),
        (lambda p: _file(p / "cut.png", b"\x89PNG\r\n\x1a\n"), "cut off"),
        (lambda p: "synthetic:four", "whole number"),
        (lambda p: "987", "webcam 987 cannot be opened"),
    ],
)
def test_bad_source_says_what_and_what_else(tmp_path: Path, make, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        list(open_source(str(make(tmp_path))))


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_decode_agrees_with_opencv_and_the_container_says_the_size(picture: np.ndarray, suffix: str) -> None:
    data = cv2.imencode(suffix, picture)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_image(data), expected)
    assert image_size(data) == (171, 121)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.999])
def test_cut_off_pictures_are_refused(picture: np.ndarray, suffix: str, keep: float) -> None:
    data = cv2.imencode(suffix, picture)[1].tobytes()
    with pytest.raises(InputError, match=r"cut off|damaged|header|expected JPEG"):
        decode_image(data[: int(len(data) * keep)])


def test_padding_after_a_jpeg_is_harmless(picture: np.ndarray) -> None:
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data + bytes(64)), decode_image(data))


def test_damaged_png_is_refused(picture: np.ndarray) -> None:
    data = bytearray(cv2.imencode(".png", picture)[1].tobytes())
    data[len(data) // 2] ^= 0x55
    with pytest.raises(InputError, match="checksum"):
        decode_image(bytes(data))


def test_header_that_asks_for_gigabytes_is_refused_before_decoding() -> None:
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(InputError, match="65535 x 65535 pixels, at most 64 megapixels"):
        decode_image(bytes(data))


def test_other_formats_are_named_as_unknown() -> None:
    with pytest.raises(InputError, match="expected JPEG"):
        decode_image(b"GIF89a" + bytes(20))
    with pytest.raises(InputError, match="empty"):
        decode_image(b"")


def test_synthetic_in_real_time_plays_the_packaged_clip_with_its_camera() -> None:
    with open_source("synthetic", realtime=True, fps=20.0) as source:
        frames = list(islice(source, 3))
    camera = frames[0].camera
    assert camera is not None and frames[0].image.shape == (camera.height, camera.width, 3)
    assert not camera.assumed and frames[0].truth is None
    assert [f.stamp for f in frames] == pytest.approx([0.0, 0.05, 0.1])


def test_a_damaged_picture_of_a_folder_is_skipped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), 10 * number, np.uint8))
    (tmp_path / "2.png").write_bytes(b"no picture")
    frames = list(open_source(str(tmp_path), fps=10.0))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 30]
    assert [frame.stamp for frame in frames] == [0.0, 0.2]
    assert "2.png is skipped" in caplog.text


def test_a_folder_of_damaged_pictures_is_an_error(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"cannot read .*2\.png"):
        list(open_source(str(tmp_path)))


@pytest.mark.parametrize("spec", ["synthetic:3", "crossing:3"])
def test_drawn_hands_have_no_end_and_a_truth(spec: str) -> None:
    with open_source(spec, width=160, height=120) as source:
        assert source.endless and source.length is None and not source.live and source.name == spec
        assert next(iter(source)).truth is not None
