"""MediaPipe's palm model, decoded by us."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from a2p_ros.config import DetectionConfig, DeviceConfig, LandmarkConfig
from a2p_ros.detection import landmarks as landmarks_module
from a2p_ros.detection import palm as palm_module
from a2p_ros.detection import tflite
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.palm import decode, ssd_anchors, weighted_nms
from a2p_ros.errors import MissingDependencyError, WeightsError
from a2p_ros.types import Box, Image

DEVICE = DeviceConfig(threads=2)
#: Drawn by eye around the hand in frame 100 of the clip.
HAND_AT_100 = Box(603, 140, 915, 410)

needs_models = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or importlib.util.find_spec("ai_edge_litert") is None,
    reason=f"MediaPipe's models or LiteRT are not installed ({tflite.INSTALL}; pip install ai-edge-litert)",
)


@pytest.fixture(scope="module")
def palm():
    return make_detector(DetectionConfig(), DEVICE)


def clip_frame(path: Path, number: int) -> Image:
    video = cv2.VideoCapture(str(path))
    video.set(cv2.CAP_PROP_POS_FRAMES, number)
    ok, frame = video.read()
    assert ok
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def test_anchors_cover_both_grids() -> None:
    anchors = ssd_anchors()
    assert anchors.shape == (2016, 2)
    np.testing.assert_array_equal(anchors[:3], [[4, 4], [4, 4], [12, 4]])
    np.testing.assert_array_equal(anchors[1152:1159], [[8, 8]] * 6 + [[24, 8]])
    np.testing.assert_array_equal(anchors[-1], [184, 184])


def test_decode_places_boxes_and_points_about_the_anchor() -> None:
    row = np.arange(18.0)[None]
    corners, keypoints = decode(row, np.array([[100.0, 50.0]]))
    np.testing.assert_allclose(corners[0], [[99.0, 49.5], [101.0, 52.5]])  # centre (100, 51), size (2, 3)
    np.testing.assert_allclose(keypoints[0, :2], [[104, 55], [106, 57]])


def test_weighted_nms_averages_one_palm_and_keeps_two() -> None:
    corners = np.array([[[0, 0], [10, 10]], [[2, 0], [12, 10]], [[50, 50], [60, 60]]], float)
    merged = weighted_nms(np.array([0.6, 0.9, 0.7]), corners, np.zeros((3, 7, 2)))
    assert [score for score, _, _ in merged] == [0.9, 0.7]
    np.testing.assert_allclose(merged[0][1][0], [0.9 * 2 / 1.5, 0])
    assert weighted_nms(np.zeros(0), np.zeros((0, 2, 2)), np.zeros((0, 7, 2))) == []


def test_weighted_nms_survives_empty_boxes() -> None:
    assert len(weighted_nms(np.array([0.9, 0.8]), np.zeros((2, 2, 2)), np.zeros((2, 7, 2)))) == 2


@needs_models
def test_finds_the_hand_of_the_clip(palm, media) -> None:
    image = clip_frame(media("one_hand_pinches.mp4"), 100)
    (found,) = palm(image)
    assert found.score > 0.8
    assert found.right == 0.5
    assert found.box.iou(HAND_AT_100) > 0.55


@needs_models
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_rotation_follows_a_turned_image(palm, media, quarter) -> None:
    image = clip_frame(media("one_hand_pinches.mp4"), 100)
    upright = palm(image)[0].rotation
    turned = palm(np.ascontiguousarray(np.rot90(image, -quarter)))[0].rotation  # clockwise
    assert abs(math.remainder(turned - upright - quarter * math.pi / 2, 2 * math.pi)) < 0.2


@needs_models
def test_nothing_in_empty_pictures(palm) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for image in (np.zeros((720, 1280, 3), np.uint8), np.full((8, 2000, 3), 255, np.uint8), noise):
        assert palm(image) == []


@needs_models
def test_min_score_can_be_changed(palm, media, monkeypatch) -> None:
    monkeypatch.setattr(palm, "min_score", 0.9999)
    assert palm(clip_frame(media("one_hand_pinches.mp4"), 100)) == []


def test_without_mediapipe(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps mediapipe==0\.10\.21"):
        make_detector(DetectionConfig(), DEVICE)


def test_mediapipe_without_the_models(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(MissingDependencyError, match=r"has no modules/palm_detection/palm_detection_full\.tflite"):
        make_detector(DetectionConfig(), DEVICE)


@needs_models
def test_damaged_and_swapped_models(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite.mediapipe_file("modules/hand_landmark/hand_landmark_full.tflite").read_bytes())
    outputs = ((1, 2016, 18), (1, 2016, 1))
    with pytest.raises(WeightsError, match=r"expected input \(1, 192, 192, 3\).*got \[\(1, 224, 224, 3\)\]"):
        tflite.TfliteModel(path, 1, 192, outputs)
    for content in (b"not a model at all", b""):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="not a LiteRT model"):
            tflite.TfliteModel(path, 1, 192, outputs)


@needs_models
@pytest.mark.parametrize(
    ("name", "build"),
    [
        (palm_module.MODEL, lambda: make_detector(DetectionConfig(), DEVICE)),
        (landmarks_module.MODEL, lambda: landmarks_module.LandmarkModel(LandmarkConfig(), DEVICE)),
    ],
    ids=["palm", "landmarks"],
)
def test_a_model_whose_numbers_were_changed_is_refused(monkeypatch, tmp_path: Path, name: str, build) -> None:
    """One changed weight loads without complaint and gives another answer."""
    content = bytearray(tflite.mediapipe_file(name).read_bytes())
    content[len(content) // 2] ^= 0x40
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(WeightsError, match=r"expected the model with SHA-256 .* damaged, was changed .*Reinstall it"):
        build()


@needs_models
def test_mediapipe_is_not_imported() -> None:
    code = (
        "import sys; from a2p_ros.config import *; from a2p_ros.detection.detector import make_detector; "
        "make_detector(DetectionConfig(), DeviceConfig()); sys.exit('mediapipe' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
