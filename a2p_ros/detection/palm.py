"""MediaPipe's palm detector: image -> hand boxes with rotation; it does not tell the side.

Model and constants: MediaPipe 0.10.21, ``modules/palm_detection`` and
``modules/hand_landmark/palm_detection_detection_to_roi.pbtxt`` (Zhang et al., "MediaPipe
Hands: On-device Real-time Hand Tracking", 2020).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.cropping import Crop
from a2p_ros.detection.tflite import TfliteModel, mediapipe_file
from a2p_ros.inference import thread_count
from a2p_ros.types import Box, Detection, Image

MODEL = "modules/palm_detection/palm_detection_full.tflite"
SHA256 = "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54"
INPUT = 192
ANCHORS = 2016
#: Columns of the box regressor: centre x, y, width, height, then 7 keypoints x, y [input px].
COLUMNS = 18
WRIST, MIDDLE_BASE = 0, 2
#: Overlap above which two boxes are one palm.
MERGE_IOU = 0.3
#: Edge of the landmark stage's square relative to the palm's, and its shift towards the fingers.
SQUARE_SCALE, SQUARE_SHIFT = 2.6, 0.5
#: Width and height of the tight hand box relative to that square, along the turned axes: least squares over
#: a clip of an open, pinching and folding hand.
TIGHT_WIDTH, TIGHT_HEIGHT = 0.41, 0.56


class PalmDetector:
    """Finds hands of any side with MediaPipe's palm model on the processor.

    ``min_score`` may be changed between calls.
    """

    device = "cpu"
    name = "mediapipe_palm"

    def __init__(self, config: DetectionConfig, device: DeviceConfig) -> None:
        outputs = ((1, ANCHORS, COLUMNS), (1, ANCHORS, 1))
        self._model = TfliteModel(mediapipe_file(MODEL, SHA256), thread_count(device), INPUT, outputs)
        self._anchors = ssd_anchors()
        self.min_score = config.min_score

    def __call__(self, image: Image) -> list[Detection]:
        """Hands of an RGB image, best first; ``right`` is 0.5 (unknown) in each."""
        crop = Crop.letterbox(image.shape[0], image.shape[1], INPUT)
        regressors, logits = self._model(crop.extract(image, border="black"))
        scores = _sigmoid(logits[:, 0])
        chosen = np.flatnonzero(scores >= self.min_score)
        corners, keypoints = decode(regressors[chosen], self._anchors[chosen])
        found = []
        for score, box, points in weighted_nms(scores[chosen], corners, keypoints):
            # Network coordinates have 0 at the picture's edge, ours at the first pixel's centre.
            found.append(_detection(score, crop.to_image(box - 0.5), crop.to_image(points - 0.5)))
        return found


def ssd_anchors() -> Float[np.ndarray, "2016 2"]:
    """Anchor centres [input px]: two a cell at stride 8, six a cell at stride 16, row by row."""
    grids = []
    for stride, per_cell in ((8, 2), (16, 6)):
        centres = (np.arange(INPUT // stride) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0))
    return np.concatenate(grids)


def decode(
    regressors: Float[np.ndarray, "n 18"], anchors: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "n 2 2"], Float[np.ndarray, "n 7 2"]]:
    """Raw rows -> box corners and keypoints [input px]."""
    centre = regressors[:, :2] + anchors
    half = regressors[:, 2:4] / 2
    corners = np.stack([centre - half, centre + half], axis=1)
    keypoints = regressors[:, 4:].reshape(-1, 7, 2) + anchors[:, None]
    return corners, keypoints


def weighted_nms(
    scores: Float[np.ndarray, "n"],
    corners: Float[np.ndarray, "n 2 2"],
    keypoints: Float[np.ndarray, "n k 2"],
    merge_iou: float = MERGE_IOU,
) -> list[tuple[float, Float[np.ndarray, "2 2"], Float[np.ndarray, "k 2"]]]:
    """Merge overlapping candidates into their score-weighted mean, best first, with the best's score."""
    rest = np.argsort(-scores, kind="stable")
    merged = []
    while len(rest):
        low = np.maximum(corners[rest, 0], corners[rest[0], 0])
        high = np.minimum(corners[rest, 1], corners[rest[0], 1])
        inter = np.prod(np.maximum(high - low, 0), axis=1)
        area = np.prod(np.maximum(corners[rest, 1] - corners[rest, 0], 0), axis=1)
        union = area + area[0] - inter
        same = inter > merge_iou * union
        same[0] = True
        group, weight = rest[same], scores[rest[same]]
        mean = np.tensordot(weight / weight.sum(), np.concatenate([corners, keypoints], axis=1)[group], axes=1)
        merged.append((float(scores[rest[0]]), mean[:2], mean[2:]))
        rest = rest[~same]
    return merged


def _detection(score: float, corners: Float[np.ndarray, "2 2"], keypoints: Float[np.ndarray, "7 2"]) -> Detection:
    along = keypoints[MIDDLE_BASE] - keypoints[WRIST]
    rotation = math.atan2(along[0], -along[1])
    edge = float((corners[1] - corners[0]).max())
    up = np.array([math.sin(rotation), -math.cos(rotation)])
    x, y = corners.mean(0) + SQUARE_SHIFT * float(corners[1, 1] - corners[0, 1]) * up
    size = SQUARE_SCALE * edge
    # Half-extents along the image's axes of the turned tight rectangle.
    dx, dy = size / 2 * (np.abs(up[::-1]) * TIGHT_WIDTH + np.abs(up) * TIGHT_HEIGHT)
    box = Box(*map(float, (x - dx, y - dy, x + dx, y + dy)))
    return Detection(box, score, rotation=rotation, square=(float(x), float(y), size))


def _sigmoid(logits: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return 1 / (1 + np.exp(-np.clip(logits, -100, 100)))
