"""From 21 keypoints to where the same hand should be looked for; every stage that looks into a crop needs it."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from a2p_ros.types import Detection, HandKeypoints

WRIST, INDEX_BASE, MIDDLE_BASE, RING_BASE = 0, 5, 9, 13
#: Wrist, thumb without its tip, and each finger's base and middle joint: they move less than tips do.
STEADY = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
PALM = (0, 5, 9, 13, 17)
#: Edge of the square relative to the turned box of the steady points, and its shift towards the fingers
#: (MediaPipe, ``hand_landmark_landmarks_to_roi.pbtxt``).
SQUARE_SCALE, SQUARE_SHIFT = 2.0, 0.1
#: Edge of that square relative to the tight box of all points: 1.48, 1.53, 1.94 (percentiles 5, 50, 95) on
#: a clip of an open, pinching and folding hand.
BOX_SCALE = 1.6


def hand_rotation(keypoints_px: Float[np.ndarray, "21 2"]) -> float:
    """Clockwise angle [rad] from straight up of the direction wrist -> middle finger base.

    The neighbouring bases count half as much as the middle one, which steadies the angle.
    """
    sides = (keypoints_px[INDEX_BASE] + keypoints_px[RING_BASE]) / 2
    dx, dy = (sides + keypoints_px[MIDDLE_BASE]) / 2 - keypoints_px[WRIST]
    return math.atan2(dx, -dy)


def hand_square(keypoints_px: Float[np.ndarray, "21 2"], rotation: float) -> tuple[float, float, float]:
    """Square (centre x, centre y, edge) [px], turned by ``rotation``, in which to look for this hand again."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    turn = np.array([[cos, sin], [-sin, cos]])
    upright = keypoints_px[list(STEADY)] @ turn.T
    low, high = upright.min(0), upright.max(0)
    width, height = high - low
    centre = (low + high) / 2 - (0.0, SQUARE_SHIFT * height)
    x, y = centre @ turn
    return float(x), float(y), float(max(width, height)) * SQUARE_SCALE


def region_of(hand: HandKeypoints, *, right: float | None = None) -> Detection:
    """The detection that carries a measured hand to the next pass or frame."""
    rotation = hand_rotation(hand.keypoints_px)
    return Detection(
        box=hand.box,
        score=hand.presence,
        right=hand.right if right is None else right,
        rotation=rotation,
        square=hand_square(hand.keypoints_px, rotation),
    )


def square_of(region: Detection) -> tuple[float, float, float]:
    """The square that a detection asks for (centre x, centre y, edge) [px]; from the box where it names none."""
    if region.square is not None:
        return region.square
    return (*region.box.centre, region.box.size * BOX_SCALE)
