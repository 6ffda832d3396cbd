"""Keypoints against MediaPipe's own on real frames, from any kind of box, and on bad input."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from a2p_ros.config import DetectionConfig, DeviceConfig, LandmarkConfig
from a2p_ros.detection import tflite
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.landmarks import LandmarkModel
from a2p_ros.detection.regions import region_of
from a2p_ros.types import Box, Detection, Image

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or importlib.util.find_spec("ai_edge_litert") is None,
    reason=f"MediaPipe's models or LiteRT are not installed ({tflite.INSTALL}; pip install ai-edge-litert)",
)

DEVICE = DeviceConfig(threads=2)
STEP, FRAMES = 60, 11

#: MediaPipe runs in its own process: it brings its own copy of the runtime.
PEER = """
import json, sys, cv2, mediapipe
hands = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=1)
video, step, count = cv2.VideoCapture(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
answers = []
for i in range(count):
    video.set(cv2.CAP_PROP_POS_FRAMES, i * step)
    frame = cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB)
    height, width = frame.shape[:2]
    found = hands.process(frame)
    points = found.multi_hand_landmarks[0].landmark
    world = found.multi_hand_world_landmarks[0].landmark
    answers.append({"px": [[p.x * width - 0.5, p.y * height - 0.5] for p in points],
                    "world": [[p.x, p.y, p.z] for p in world],
                    "label": found.multi_handedness[0].classification[0].label})
print("ANSWERS" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def palm():
    return make_detector(DetectionConfig(), DEVICE)


@pytest.fixture(scope="module")
def landmarks():
    return LandmarkModel(LandmarkConfig(), DEVICE)


@pytest.fixture(scope="module")
def frames(media) -> list[Image]:
    video = cv2.VideoCapture(str(media("one_hand_pinches.mp4")))
    images = []
    for i in range(FRAMES):
        video.set(cv2.CAP_PROP_POS_FRAMES, i * STEP)
        images.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
    return images


@pytest.fixture(scope="module")
def hands(frames, palm, landmarks):
    return [landmarks(image, palm(image)[:1])[0] for image in frames]


@pytest.fixture(scope="module")
def peer(media):
    command = [sys.executable, "-c", PEER, str(media("one_hand_pinches.mp4")), str(STEP), str(FRAMES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "ANSWERS" not in run.stdout:
        pytest.skip(f"MediaPipe itself does not run here: {run.stderr.strip().splitlines()[-1:]}")
    return json.loads(run.stdout.split("ANSWERS")[1])


def distance(hand, px) -> float:
    """Mean distance of the points relative to the hand box."""
    return float(np.linalg.norm(hand.keypoints_px - np.asarray(px), axis=1).mean() / hand.box.size)


def test_points_are_those_of_mediapipe(hands, peer) -> None:
    assert np.median([distance(hand, answer["px"]) for hand, answer in zip(hands, peer, strict=True)]) < 0.015
    for hand, answer in zip(hands, peer, strict=True):
        assert distance(hand, answer["px"]) < 0.05


def test_3d_points_are_those_of_mediapipe(hands, peer) -> None:
    """Axes, signs and the turn of the crop: a swapped sign would cost centimetres."""
    apart = [np.linalg.norm(h.keypoints_3d - a["world"], axis=1).mean() for h, a in zip(hands, peer, strict=True)]
    assert np.median(apart) < 0.003
    assert np.abs([h.keypoints_3d[:, 2] for h in hands]).max() > 0.02


def test_side_is_the_persons_not_the_mirrors(hands, peer, frames, palm, landmarks) -> None:
    assert {answer["label"] for answer in peer} == {"Left"}  # MediaPipe assumes a mirrored image
    assert all(hand.right > 0.6 for hand in hands)
    for image in frames[::3]:
        flipped = np.ascontiguousarray(image[:, ::-1])
        (hand,) = landmarks(flipped, palm(flipped)[:1])
        assert hand.right < 0.4


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_plain_box_of_unknown_rotation_will_do(frames, hands, landmarks, quarter) -> None:
    """Boxes as RTMDet gives them, on a turned image."""
    errors = []
    for image, hand in zip(frames, hands, strict=True):
        turned = np.ascontiguousarray(np.rot90(image, -quarter))
        px = hand.keypoints_px
        for _ in range(quarter):  # a quarter turn clockwise: x' = height - 1 - y, y' = x
            px = np.stack([719 - px[:, 1], px[:, 0]] if _ % 2 == 0 else [1279 - px[:, 1], px[:, 0]], axis=1)
        (found,) = landmarks(turned, [Detection(Box.around(px), 0.9)])
        assert found is not None
        assert found.right > 0.5
        errors.append(distance(found, px))
    assert np.median(errors) < 0.02
    assert max(errors) < 0.2


def test_3d_points_turn_with_the_image(frames, hands, palm, landmarks) -> None:
    turned = np.ascontiguousarray(np.rot90(frames[2], -1))
    (hand,) = landmarks(turned, palm(turned)[:1])
    x, y, z = hands[2].keypoints_3d.T
    assert np.linalg.norm(hand.keypoints_3d - np.stack([-y, x, z], axis=1), axis=1).mean() < 0.006


def test_carried_regions_give_the_same_hand(frames, hands, landmarks) -> None:
    for image, hand in zip(frames, hands, strict=True):
        (again,) = landmarks(image, [region_of(hand)])
        assert distance(again, hand.keypoints_px) < 0.03
        assert again.crop_centre_px == pytest.approx(region_of(hand).square[:2])


@pytest.mark.parametrize("shift", [0.2, -0.25])
def test_a_hand_off_the_middle_of_its_region_is_looked_at_again(frames, hands, landmarks, shift) -> None:
    region = region_of(hands[3])
    x, y, size = region.square
    late = Detection(region.box, 0.9, rotation=region.rotation, square=(x + shift * size, y, size))
    (hand,) = landmarks(frames[3], [late])
    assert distance(hand, hands[3].keypoints_px) < 0.03
    assert hand.detection is late


def test_confidence_falls_outside_the_image(frames, hands, landmarks) -> None:
    """The image is cut through the hand; what is cut away is guessed, and says so."""
    hand = hands[2]
    middle = int(hand.box.centre[0])
    cut = np.ascontiguousarray(frames[2][:, :middle])
    (half,) = landmarks(cut, [hand.detection])
    assert half is not None
    gone, kept = half.keypoints_px[:, 0] > middle + 40, half.keypoints_px[:, 0] < middle
    assert gone.any() and kept.any()
    assert half.confidence[gone].max() < 0.15
    np.testing.assert_allclose(half.confidence[kept], half.presence)
    assert (hand.confidence > 0.9).all()


def test_hands_mostly_outside_are_not_reported(frames, hands, landmarks) -> None:
    cut = np.ascontiguousarray(frames[2][:, : int(hands[2].box.x0) + 30])
    assert landmarks(cut, [hands[2].detection]) == [None]


@pytest.mark.parametrize(
    "detection",
    [
        Detection(Box(5000, 5000, 5100, 5100), 0.9, rotation=0.3),
        Detection(Box(-300, -300, -200, -200), 0.9),
        Detection(Box(math.nan, 0, 10, 10), 0.9),
        Detection(Box(0, 0, math.inf, 10), 0.9, rotation=0.0),
        Detection(Box(50, 50, 50, 50), 0.9, rotation=0.0),
        Detection(Box(0, 0, 3, 3), 0.9),
        Detection(Box(100, 100, 1e9, 1e9), 0.9),
        Detection(Box(10, 10, 60, 60), 0.9, rotation=0.0, square=(1e7, 1e7, 40.0)),
    ],
)
def test_bad_boxes_give_no_hand(landmarks, detection) -> None:
    assert landmarks(np.full((240, 320, 3), 90, np.uint8), [detection]) == [None]


def test_no_hand_where_there_is_none(frames, landmarks) -> None:
    wall = Detection(Box(250, 250, 450, 450), 0.9, rotation=0.0)
    head = Detection(Box(270, 640, 370, 719), 0.9)
    assert landmarks(frames[0], [wall, head]) == [None, None]
    assert landmarks(frames[0], []) == []


def test_order_is_that_of_the_detections(frames, hands, landmarks) -> None:
    wall = Detection(Box(250, 250, 450, 450), 0.9, rotation=0.0)
    answers = landmarks(frames[1], [wall, hands[1].detection, wall])
    assert [hand is not None for hand in answers] == [False, True, False]


def test_thresholds_can_be_changed(frames, hands, landmarks, monkeypatch) -> None:
    region = [hands[0].detection]
    monkeypatch.setattr(landmarks, "min_presence", 0.99999)
    assert landmarks(frames[0], region) == [None]
    monkeypatch.setattr(landmarks, "min_presence", 0.5)
    monkeypatch.setattr(landmarks, "min_size", 0.9)
    assert landmarks(frames[0], region) == [None]


def test_hands_far_away_are_not_reported(palm, landmarks, media, monkeypatch) -> None:
    """Players' hands, 66 pixels long: nothing to drive a robot with, though the model sees them."""
    image = cv2.cvtColor(cv2.imread(str(media("football.jpg"))), cv2.COLOR_BGR2RGB)
    found = palm(image)
    assert not any(landmarks(image, found))
    monkeypatch.setattr(landmarks, "min_size", 0.0)
    assert any(landmarks(image, found))


def test_models_are_found_without_importing_mediapipe() -> None:
    assert tflite.mediapipe_file("modules/hand_landmark/hand_landmark_full.tflite") == Path(
        importlib.util.find_spec("mediapipe").origin
    ).parent.joinpath("modules/hand_landmark/hand_landmark_full.tflite")
