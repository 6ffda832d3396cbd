"""The weights that ship: on real frames of a known hand, mirrored and turned, and where there is no hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from a2p_ros.camera import CameraModel
from a2p_ros.config import DetectionConfig, DeviceConfig, PipelineConfig
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.hand_weights import CARD, SHIPPED, find
from a2p_ros.pipeline import TwoHandPipeline
from a2p_ros.types import Image

pytestmark = pytest.mark.skipif(not (SHIPPED / CARD).exists(), reason="no weights ship: a2p train detector")

#: Frames of the clip; it shows one right hand, palm to the camera, fingers up.
NUMBERS = range(10, 620, 40)


@pytest.fixture(scope="module")
def detector():
    return make_detector(DetectionConfig(backend="a2p"), DeviceConfig(device="cpu", threads=2))


@pytest.fixture(scope="module")
def images(media) -> list[Image]:
    video, images = cv2.VideoCapture(str(media("one_hand_pinches.mp4"))), []
    for number in range(620):
        assert video.grab()
        if number in NUMBERS:
            images.append(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
    return images


def best(detector, image: Image):
    return max(detector(np.ascontiguousarray(image)), key=lambda hand: hand.score, default=None)


def test_the_card_says_what_they_are() -> None:
    card = find().card
    assert card["data"]["synthetic"] is True and card["data"]["frames"] > 1000
    assert {"training", "network", "commit", "machine", "training_seconds", "validation"} <= set(card)


def test_one_hand_pointing_up(detector, images) -> None:
    hands = [best(detector, image) for image in images]
    assert np.mean([hand is not None and abs(hand.rotation) < 0.8 for hand in hands]) >= 0.9


def test_its_mirror_image_lies_and_points_mirrored(detector, images) -> None:
    good = []
    for image in images:
        hand, mirrored = best(detector, image), best(detector, image[:, ::-1])
        if hand is None or mirrored is None:
            good.append(False)
            continue
        place = image.shape[1] - 1 - mirrored.box.centre[0]
        near = abs(place - hand.box.centre[0]) < 0.25 * hand.box.size
        good.append(near and abs(math.remainder(mirrored.rotation + hand.rotation, 2 * math.pi)) < 0.35)
    assert np.mean(good) >= 0.85


@pytest.mark.parametrize("mirrored", [False, True])
def test_with_the_landmark_stage_every_hand_is_found_on_its_side_and_no_other(images, mirrored: bool) -> None:
    """What the detector alone cannot say of real hands; things that it takes for hands are dropped."""
    pipeline = TwoHandPipeline(PipelineConfig().replace_flat({"detection.backend": "a2p", "device.device": "cpu"}))
    for image in images:
        pipeline.reset()
        seen = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
        found = pipeline(seen, CameraModel.assume(seen.shape[1], seen.shape[0], math.radians(60)), 0.0)
        assert (found.left is not None, found.right is not None) == (mirrored, not mirrored)


def test_upside_down_it_is_the_same_hand_turned(detector, images) -> None:
    """Half a turn changes no side: a network that took a mirror image for it would say left."""
    good = []
    for image in images:
        hand, turned = best(detector, image), best(detector, image[::-1, ::-1])
        if hand is None or turned is None:
            good.append(False)
            continue
        half = abs(math.remainder(turned.rotation - hand.rotation - math.pi, 2 * math.pi))
        good.append(half < 0.6 and turned.box.centre[1] > image.shape[0] - 1 - hand.box.y1)
    assert np.mean(good) >= 0.6


def test_no_hands_in_empty_pictures(detector) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for image in (np.zeros((720, 1280, 3), np.uint8), np.full((8, 2000, 3), 255, np.uint8), noise):
        assert detector(image) == []
