"""When two finds are one hand, and a region moved; where a hand is looked for is in ``a2p_ros.regions``."""

from __future__ import annotations

import math

import numpy as np

from a2p_ros.regions import MIDDLE_BASE, PALM, WRIST, hand_rotation, hand_square, region_of, square_of
from a2p_ros.types import Box, Detection, HandKeypoints

__all__ = [
    "MIDDLE_BASE",
    "PALM",
    "WRIST",
    "between",
    "hand_rotation",
    "hand_square",
    "moved",
    "region_of",
    "same_hand",
    "same_place",
    "square_of",
]


def moved(region: Detection, dx: float, dy: float) -> Detection:
    """The same region elsewhere in the image [px]."""
    box = Box(region.box.x0 + dx, region.box.y0 + dy, region.box.x1 + dx, region.box.y1 + dy)
    square = None if region.square is None else (region.square[0] + dx, region.square[1] + dy, region.square[2])
    return Detection(box, region.score, region.right, region.rotation, square)


def between(region: Detection, other: Detection, share: float) -> Detection:
    """A region, its square and turn moved towards another's by a share of the way."""
    (x, y, size), (x1, y1, size1) = square_of(region), square_of(other)
    square = (x + share * (x1 - x), y + share * (y1 - y), size * (size1 / size) ** share)
    rotation = region.rotation
    if rotation is not None and other.rotation is not None:
        rotation += share * math.remainder(other.rotation - rotation, 2 * math.pi)
    return Detection(region.box, region.score, region.right, rotation, square)


def same_place(a: Detection, b: Detection) -> bool:
    """Whether two regions are likely one hand: palms closer than a palm's width, and of like size."""
    (ax, ay, asize), (bx, by, bsize) = square_of(a), square_of(b)
    small, large = sorted((asize, bsize))
    return math.hypot(ax - bx, ay - by) < 0.35 * large and large < 2.0 * small


def same_hand(a: HandKeypoints, b: HandKeypoints) -> bool:
    """Whether two measured hands are one: their points coincide, or their palms and boxes do."""
    size = max(a.box.size, b.box.size)
    between = np.linalg.norm(a.keypoints_px - b.keypoints_px, axis=1).mean()
    palms = np.linalg.norm(a.keypoints_px[list(PALM)].mean(0) - b.keypoints_px[list(PALM)].mean(0))
    return bool(between < 0.2 * size or (palms < 0.15 * size and a.box.iou(b.box) > 0.6))
