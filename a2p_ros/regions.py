"""Where a hand is looked for, and what makes a look a good one: shared by all that look at hands in crops."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from a2p_ros.types import Box, Detection, HandKeypoints, Image

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
#: A hand this far off the middle of its crop, relative to the crop's edge, or this much larger or smaller
#: than it should be in it, is looked at again: fast motion and coarse boxes otherwise give points that
#: are wrong by up to a quarter of the hand at full presence.
OFF_CENTRE, OFF_SCALE = 0.12, 1.5
#: The same for a hand turned this far from upright in its crop [rad].
OFF_TURN = 0.6
#: A hand with fewer of its 21 points inside the image is not reported.
MIN_INSIDE = 7
#: Confidence falls to OUTSIDE over this distance beyond the image's edge, relative to the hand box.
FALLOFF, OUTSIDE = 0.1, 0.1


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


def is_settled(looked: Detection, hand: HandKeypoints) -> bool:
    """Whether a measured hand lies in the crop that it was measured in about as it should."""
    wanted = region_of(hand)
    (x, y, size), (wanted_x, wanted_y, wanted_size) = square_of(looked), square_of(wanted)
    assert looked.rotation is not None and wanted.rotation is not None
    turn = abs(math.remainder(wanted.rotation - looked.rotation, 2 * math.pi))
    near = math.hypot(wanted_x - x, wanted_y - y) < OFF_CENTRE * wanted_size
    return near and turn < OFF_TURN and 1 / OFF_SCALE < size / wanted_size < OFF_SCALE


def is_seen(hand: HandKeypoints, image: Image, min_size: float) -> bool:
    """Whether a hand is not mostly outside the image, nor smaller than this share of the image's shorter edge."""
    if hand.box.size < min_size * min(image.shape[:2]):
        return False
    return bool((_distance_outside(hand.keypoints_px, image) == 0).sum() >= MIN_INSIDE)


def inside(points: Float[np.ndarray, "21 2"], image: Image) -> Float[np.ndarray, "21"]:
    """Factor of the confidence of each point of a hand [px]: 1 in the image, ``OUTSIDE`` well beyond its edge."""
    falloff = max(FALLOFF * Box.around(points).size, 1e-6)
    return np.clip(1 - _distance_outside(points, image) / falloff, OUTSIDE, 1)


def touches(detection: Detection, image: Image) -> bool:
    """Whether a detection is finite, not empty, and overlaps the image."""
    box, turn = detection.box, detection.rotation or 0.0
    height, width = image.shape[:2]
    if not all(map(math.isfinite, (*box, *square_of(detection), turn))) or square_of(detection)[2] <= 0:
        return False
    return box.x1 > -0.5 and box.y1 > -0.5 and box.x0 < width - 0.5 and box.y0 < height - 0.5


def _distance_outside(points: Float[np.ndarray, "21 2"], image: Image) -> Float[np.ndarray, "21"]:
    """Distance of each point beyond the image's edge [px], 0 inside."""
    edge = np.array([image.shape[1], image.shape[0]]) - 0.5
    return np.linalg.norm(np.maximum(np.maximum(-0.5 - points, points - edge), 0), axis=1)
