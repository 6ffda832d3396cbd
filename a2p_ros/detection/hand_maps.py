"""What the hand detector's maps mean: from heat and numbers at stride 8 to hands.

Row i, column j of a map stands for the point (8 j + 3.5, 8 i + 3.5) of the picture [px]. Each side (left, right)
has a heat, high where a palm's centre is, and nine numbers:

    0..3  the box's left, top, right and bottom edge, as distances from the cell's point outwards [16 px]
    4, 5  cosine and sine of the clockwise angle from straight up of wrist -> middle finger base
    6, 7  centre of the landmark stage's square, from the cell's point [16 px]
    8     logarithm of that square's edge [64 px]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from a2p_ros.types import Box, Detection, Side

STRIDE = 8
CHANNELS = 9
BOX, DIRECTION, SQUARE = slice(0, 4), slice(4, 6), slice(6, 9)
#: Units of the distances and of the square's edge [px].
DISTANCE_UNIT, SQUARE_UNIT = 16.0, 64.0
SIDES = (Side.LEFT, Side.RIGHT)

#: Boxes of one side that overlap more than this are one hand.
_SAME_SIDE_IOU = 0.5
#: Boxes of both sides that overlap more than this, with scores whose sum is below `_BOTH`, are one hand of unclear
#: side: of one hand the two scores add up to about one, of two hands to about two.
_OTHER_SIDE_IOU, _BOTH = 0.6, 1.1
#: Peaks that are looked at on each side, best first.
_MOST = 16
_LOG_RANGE = 3.0


@dataclass(frozen=True)
class _Peak:
    side: Side
    score: float
    box: Box
    rotation: float
    square: tuple[float, float, float]


def cell_points(rows: int, columns: int) -> Float[np.ndarray, "rows columns 2"]:
    """The points (x, y) of the picture that the cells stand for [px]."""
    y, x = np.mgrid[:rows, :columns] * float(STRIDE) + (STRIDE - 1) / 2
    return np.stack([x, y], -1)


def decode(
    heat: Float[np.ndarray, "2 rows columns"],
    numbers: Float[np.ndarray, "2 9 rows columns"],
    min_score: float,
) -> list[Detection]:
    """Hands of one picture, best first, in the picture's pixels; ``right`` is 0 or 1, or between where unclear.

    The score is the probability that either side's hand is there: 1 - (1 - left) (1 - right), of one hand and of two.
    """
    # Two equal scores may reach the threshold together.
    least = 1 - math.sqrt(1 - min_score)
    peaks: list[_Peak] = []
    for peak in sorted(
        (peak for i, side in enumerate(SIDES) for peak in _peaks(side, heat[i], numbers[i], least)),
        key=lambda peak: -peak.score,
    ):
        if not any(other.side is peak.side and other.box.iou(peak.box) > _SAME_SIDE_IOU for other in peaks):
            peaks.append(peak)
    found, told = list[Detection](), set[int]()
    for i, peak in enumerate(peaks):
        if i in told:
            continue
        j = _other_side(peak, peaks)
        against = 0.0 if j is None else peaks[j].score
        score = 1 - (1 - peak.score) * (1 - against)
        if j is not None and j > i and j not in told and peak.score + against < _BOTH:
            told.add(j)
            if score >= min_score:
                found.append(_detection(peak, score, peak.score / (peak.score + against)))
        elif peak.score >= min_score:
            found.append(_detection(peak, score, 1.0))
    return sorted(found, key=lambda hand: -hand.score)


def _other_side(peak: _Peak, peaks: list[_Peak]) -> int | None:
    """Which peak of the other side has most nearly the same box, if any."""
    overlaps = [other.box.iou(peak.box) if other.side is not peak.side else 0.0 for other in peaks]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] > _OTHER_SIDE_IOU else None


def _peaks(
    side: Side, heat: Float[np.ndarray, "rows columns"], numbers: Float[np.ndarray, "9 rows columns"], min_score: float
) -> list[_Peak]:
    heat = np.where(np.isfinite(heat), heat, 0).astype(np.float32)
    around = cv2.dilate(heat, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((heat >= max(min_score, 1e-3)) & (heat >= around))
    best = np.argsort(-heat[rows, columns], kind="stable")[:_MOST]
    return [_peak(side, heat, numbers, int(rows[i]), int(columns[i])) for i in best]


def _peak(side: Side, heat: np.ndarray, numbers: np.ndarray, row: int, column: int) -> _Peak:
    x, y = (STRIDE * i + (STRIDE - 1) / 2 for i in (column, row))
    values = numbers[:, row, column].astype(float)
    left, top, right, bottom = values[BOX] * DISTANCE_UNIT
    cos, sin = values[DIRECTION]
    dx, dy, log = values[SQUARE]
    return _Peak(
        side,
        float(heat[row, column]),
        Box(x - left, y - top, x + right, y + bottom),
        math.atan2(sin, cos),
        (
            x + dx * DISTANCE_UNIT,
            y + dy * DISTANCE_UNIT,
            SQUARE_UNIT * math.exp(min(max(log, -_LOG_RANGE), _LOG_RANGE)),
        ),
    )


def _detection(peak: _Peak, score: float, sure: float) -> Detection:
    right = sure if peak.side is Side.RIGHT else 1 - sure
    return Detection(peak.box, score, right, peak.rotation, peak.square)
