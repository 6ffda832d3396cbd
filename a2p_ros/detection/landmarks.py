"""Hand box -> 21 keypoints, 3D shape, presence and side, with MediaPipe's landmark model.

Any box serves: a palm detection, a region carried from the last frame, or a plain box without
rotation. Model and constants: MediaPipe 0.10.21, ``modules/hand_landmark`` (Zhang et al.,
"MediaPipe Hands: On-device Real-time Hand Tracking", 2020). Checked against MediaPipe on real
video: output 0 = points in the crop [px], 1 = presence, 2 = probability of the person's right
hand in an image that is not mirrored (MediaPipe calls it "Left", since it assumes a mirrored
one), 3 = 3D points [m], x right, y down, z away from the camera.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from a2p_ros.config import DeviceConfig, LandmarkConfig
from a2p_ros.cropping import Crop
from a2p_ros.detection.regions import region_of, square_of
from a2p_ros.detection.tflite import TfliteModel, mediapipe_file
from a2p_ros.inference import thread_count
from a2p_ros.types import Box, Detection, HandKeypoints, Image

MODEL = "modules/hand_landmark/hand_landmark_full.tflite"
SHA256 = "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3"
INPUT = 224
#: Turns tried on a box of unknown rotation until a hand is found [rad].
TURNS = (0.0, math.pi / 2, -math.pi / 2, math.pi)
#: A look must reach this presence to earn a second one on the square that its own points ask for.
FIRST_LOOK = 0.3
#: A hand this far off the middle of its crop, relative to the crop's edge, or this much larger or smaller
#: than it should be in it, is looked at again: fast motion and coarse boxes otherwise give points that
#: are wrong by up to a quarter of the hand at full presence.
OFF_CENTRE, OFF_SCALE = 0.12, 1.5
#: The same for a hand turned this far from upright in its crop [rad].
OFF_TURN = 0.6
#: Looks after the first, at most.
MORE_LOOKS = 2
#: A hand with fewer of its 21 points inside the image is not reported.
MIN_INSIDE = 7
#: Confidence falls to OUTSIDE over this distance beyond the image's edge, relative to the hand box.
FALLOFF, OUTSIDE = 0.1, 0.1


class LandmarkModel:
    """Measures the keypoints of the hands in given boxes.

    ``min_presence`` and ``min_size`` may be changed between calls.
    """

    device = "cpu"
    name = "mediapipe_landmarks"

    def __init__(self, config: LandmarkConfig, device: DeviceConfig) -> None:
        outputs = ((1, 63), (1, 1), (1, 1), (1, 63))
        self._model = TfliteModel(mediapipe_file(MODEL, SHA256), thread_count(device), INPUT, outputs)
        self.min_presence = config.min_presence
        self.min_size = config.min_size

    def __call__(self, image: Image, detections: list[Detection]) -> list[HandKeypoints | None]:
        """One entry a detection: its hand in an RGB image, or None.

        None where presence or size is below its threshold, or the hand is mostly outside the image.
        """
        hands = [self._measure(image, detection) for detection in detections]
        return [hand if self._accepts(hand, image) else None for hand in hands]

    def _accepts(self, hand: HandKeypoints | None, image: Image) -> bool:
        if hand is None or not hand.presence >= self.min_presence:
            return False
        if hand.box.size < self.min_size * min(image.shape[:2]):
            return False
        return bool((_distance_outside(hand.keypoints_px, image) == 0).sum() >= MIN_INSIDE)

    def _measure(self, image: Image, detection: Detection) -> HandKeypoints | None:
        if not _touches(detection, image):
            return None
        searched = detection.rotation is None
        hand = self._search(image, detection) if searched else self._look(image, detection)
        for _ in range(MORE_LOOKS):
            # After a guessed turn the points may look settled and be wrong; both looks are then needed.
            if hand.presence < FIRST_LOOK or (_is_settled(hand) and not searched):
                break
            hand = self._look(image, region_of(hand))
        return replace(hand, detection=detection)

    def _search(self, image: Image, detection: Detection) -> HandKeypoints:
        """Try the turns of a box of unknown rotation; the first that shows a hand, else the best."""
        looks = []
        for turn in TURNS:
            looks.append(self._look(image, replace(detection, rotation=turn)))
            if looks[-1].presence >= self.min_presence:
                break
        return max(looks, key=lambda hand: hand.presence)

    def _look(self, image: Image, detection: Detection) -> HandKeypoints:
        """Run the network on the crop that a detection of known rotation asks for."""
        x, y, size = square_of(detection)
        assert detection.rotation is not None
        crop = Crop((x, y), size, detection.rotation, INPUT)
        points, presence, right, world = self._model(crop.extract(image))
        # Network coordinates have 0 at the crop's edge, ours at the first pixel's centre.
        keypoints_px = crop.to_image(points.reshape(21, 3)[:, :2] - 0.5)
        size = Box.around(keypoints_px).size
        inside = np.clip(1 - _distance_outside(keypoints_px, image) / max(FALLOFF * size, 1e-6), OUTSIDE, 1)
        return HandKeypoints(
            detection=detection,
            keypoints_px=keypoints_px,
            keypoints_3d=crop.vectors_to_image(world.reshape(21, 3).astype(np.float64)),
            confidence=float(presence[0]) * inside,
            presence=float(presence[0]),
            right=float(right[0]),
            crop_centre_px=(x, y),
        )


def _is_settled(hand: HandKeypoints) -> bool:
    """Whether a measured hand lies in the crop it was measured in about as the network expects."""
    crop, wanted = hand.detection, region_of(hand)
    (x, y, size), (wanted_x, wanted_y, wanted_size) = square_of(crop), square_of(wanted)
    assert crop.rotation is not None and wanted.rotation is not None
    turn = abs(math.remainder(wanted.rotation - crop.rotation, 2 * math.pi))
    near = math.hypot(wanted_x - x, wanted_y - y) < OFF_CENTRE * wanted_size
    return near and turn < OFF_TURN and 1 / OFF_SCALE < size / wanted_size < OFF_SCALE


def _distance_outside(points: Float[np.ndarray, "21 2"], image: Image) -> Float[np.ndarray, "21"]:
    """Distance of each point beyond the image's edge [px], 0 inside."""
    edge = np.array([image.shape[1], image.shape[0]]) - 0.5
    return np.linalg.norm(np.maximum(np.maximum(-0.5 - points, points - edge), 0), axis=1)


def _touches(detection: Detection, image: Image) -> bool:
    """Whether a detection is finite, not empty, and overlaps the image."""
    box = detection.box
    height, width = image.shape[:2]
    if not all(map(math.isfinite, (*box, *square_of(detection)))) or square_of(detection)[2] <= 0:
        return False
    return box.x1 > -0.5 and box.y1 > -0.5 and box.x0 < width - 0.5 and box.y0 < height - 0.5
