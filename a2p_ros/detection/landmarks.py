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

from a2p_ros.config import DeviceConfig, LandmarkConfig
from a2p_ros.cropping import Crop
from a2p_ros.detection.tflite import TfliteModel, mediapipe_file
from a2p_ros.inference import thread_count
from a2p_ros.regions import inside, is_seen, is_settled, region_of, square_of, touches
from a2p_ros.types import Detection, HandKeypoints, Image

MODEL = "modules/hand_landmark/hand_landmark_full.tflite"
SHA256 = "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3"
INPUT = 224
#: Turns tried on a box of unknown rotation until a hand is found [rad].
TURNS = (0.0, math.pi / 2, -math.pi / 2, math.pi)
#: A look must reach this presence to earn a second one on the square that its own points ask for.
FIRST_LOOK = 0.3
#: Looks after the first, at most.
MORE_LOOKS = 2


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
        return hand is not None and hand.presence >= self.min_presence and is_seen(hand, image, self.min_size)

    def _measure(self, image: Image, detection: Detection) -> HandKeypoints | None:
        if not touches(detection, image):
            return None
        searched = detection.rotation is None
        hand = self._search(image, detection) if searched else self._look(image, detection)
        for _ in range(MORE_LOOKS):
            # After a guessed turn the points may look settled and be wrong; both looks are then needed.
            if hand.presence < FIRST_LOOK or (is_settled(hand.detection, hand) and not searched):
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
        return HandKeypoints(
            detection=detection,
            keypoints_px=keypoints_px,
            keypoints_3d=crop.vectors_to_image(world.reshape(21, 3).astype(np.float64)),
            confidence=float(presence[0]) * inside(keypoints_px, image),
            presence=float(presence[0]),
            right=float(right[0]),
            crop_centre_px=(x, y),
        )
