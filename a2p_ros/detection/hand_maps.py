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
#: side: of one hand the two scores add up to about one, which is then its score, of two hands to about two.
_OTHER_SIDE_IOU, _BOTH = 0.6, 1.25
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
    """Hands of one picture, best first, in the picture's pixels; ``right`` is near 0 or 1, or between where unclear."""
    # What is unclear shows only below the threshold: half of it is enough where the other side has the other half.
    peaks = [peak for i, side in enumerate(SIDES) for peak in _peaks(side, heat[i], numbers[i], min_score / 2)]
    peaks.sort(key=lambda peak: -peak.score)
    kept: list[tuple[_Peak, float]] = []
    for peak in peaks:
        same = [k for k, _ in kept if k.side is peak.side and k.box.iou(peak.box) > _SAME_SIDE_IOU]
        unclear = [i for i, (k, _) in enumerate(kept) if k.side is not peak.side and _one_hand(k, peak)]
        if same:
            continue
        if unclear:
            first, _ = kept[unclear[0]]
            kept[unclear[0]] = first, peak.score
        else:
            kept.append((peak, 0.0))
    kept.sort(key=lambda hand: -(hand[0].score + hand[1]))
    return [_detection(peak, against) for peak, against in kept if peak.score + against >= min_score]


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


def _one_hand(a: _Peak, b: _Peak) -> bool:
    return a.box.iou(b.box) > _OTHER_SIDE_IOU and a.score + b.score < _BOTH


def _detection(peak: _Peak, against: float) -> Detection:
    score = peak.score + against
    sure = peak.score / max(score, 1e-9)
    right = sure if peak.side is Side.RIGHT else 1 - sure
    return Detection(peak.box, min(score, 1.0), right, peak.rotation, peak.square)
