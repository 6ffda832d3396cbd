"""The hands of one picture as the detector learns them, and the maps that it should answer with."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from a2p_ros.detection.hand_maps import (
    BOX,
    CHANNELS,
    DIRECTION,
    DISTANCE_UNIT,
    SQUARE,
    SQUARE_UNIT,
    STRIDE,
    cell_points,
)
from a2p_ros.detection.regions import MIDDLE_BASE, PALM, WRIST, hand_rotation, hand_square
from a2p_ros.types import Box

#: Directions in which the outline of a hand is kept: within 0.5 % of the true box whatever the turn.
DIRECTIONS = 32
_RAYS = np.stack([f(np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS) for f in (np.cos, np.sin)], -1)
#: A hand of which less is seen, or whose box is smaller, is neither asked for nor counted against.
LEAST_SHARE, LEAST_SIZE = 0.15, 8.0
#: A hand of which less lies in the picture likewise.
LEAST_INSIDE = 0.2
#: Spread of a heat's peak relative to the box, and its bounds [cells].
_SPREAD, _SPREAD_RANGE = 0.10, (0.6, 2.0)
#: Cells whose heat is above this learn the numbers too.
_NUMBERS_FROM = 0.5
#: Seen along its fingers, a hand has no direction: its weight falls below this length relative to its square.
_LEAST_LENGTH = 0.2


@dataclass(frozen=True)
class Hands:
    """The hands of one picture [px].

    ``outline`` are the extreme points of what lies in the picture of a hand's silhouette, hidden or not, in 32
    directions. ``share`` is the share of the whole silhouette that is seen.
    """

    right: Bool[np.ndarray, "n"]
    outline: Float[np.ndarray, "n 32 2"]
    keypoints: Float[np.ndarray, "n 21 2"]
    share: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.right)

    def __getitem__(self, rows: np.ndarray) -> Hands:
        return Hands(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Hands]) -> Hands:
        """The hands of several pictures in one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @classmethod
    def none(cls) -> Hands:
        """No hand."""
        return cls(np.zeros(0, bool), np.zeros((0, DIRECTIONS, 2)), np.zeros((0, 21, 2)), np.zeros(0))

    def moved(self, matrix: Float[np.ndarray, "2 3"]) -> Hands:
        """In a picture warped by an affine map; a map that mirrors changes the sides."""
        mirrors = bool(np.linalg.det(matrix[:, :2]) < 0)
        outline, keypoints = (x @ matrix[:, :2].T + matrix[:, 2] for x in (self.outline, self.keypoints))
        return Hands(self.right ^ mirrors, outline, keypoints, self.share)

    def boxes(self, height: int, width: int) -> list[Box]:
        """Boxes clipped to the picture; empty ones where nothing is in it."""
        low = np.clip(self.outline.min(1), -0.5, [width - 0.5, height - 0.5])
        high = np.clip(self.outline.max(1), -0.5, [width - 0.5, height - 0.5])
        return [Box(*map(float, row)) for row in np.concatenate([low, high], 1)]

    def wanted(self, height: int, width: int) -> Bool[np.ndarray, "n"]:
        """Which hands a detector should find; the others are hidden, cut off or small."""
        whole = np.prod(np.ptp(self.outline, axis=1), axis=1)
        boxes = self.boxes(height, width)
        inside = np.array([b.area for b in boxes]) / np.maximum(whole, 1e-6)
        size = np.array([b.size for b in boxes])
        return (self.share * inside >= LEAST_SHARE) & (inside >= LEAST_INSIDE) & (size >= LEAST_SIZE)


def outline_of(
    points: Float[np.ndarray, "n 2"], height: int, width: int
) -> tuple[Float[np.ndarray, "32 2"], float] | None:
    """Extreme points of a silhouette's points inside the picture, and the share of its hull that lies in it.

    None where nothing of it does, or the points are not finite.
    """
    if not np.isfinite(points).all():
        return None
    hull = cv2.convexHull(points.astype(np.float32))
    frame = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]], np.float32)
    area, inside = cv2.intersectConvexConvex(hull, frame)
    if inside is None or not area > 0:
        return None
    corners = inside.reshape(-1, 2).astype(float)
    return corners[np.argmax(corners @ _RAYS.T, axis=0)], float(area) / max(float(cv2.contourArea(hull)), 1e-6)


@dataclass(frozen=True)
class Targets:
    """What the maps of one picture should be; ``counts`` is 0 where any heat is as good.

    ``joints`` are x, y of each keypoint from the cell's point [16 px]. ``palm`` is 1 where the palm is seen from before
    it, -1 where the back is, and 0 for edges.
    """

    heat: Float32[np.ndarray, "2 rows columns"]
    counts: Float32[np.ndarray, "2 rows columns"]
    numbers: Float32[np.ndarray, "2 9 rows columns"]
    weight: Float32[np.ndarray, "2 rows columns"]
    direction_weight: Float32[np.ndarray, "2 rows columns"]
    joints: Float32[np.ndarray, "2 42 rows columns"]
    palm: Float32[np.ndarray, "2 rows columns"]


def targets(hands: Hands, height: int, width: int) -> Targets:
    """Maps of a picture; its edges [px] are multiples of the stride."""
    rows, columns = height // STRIDE, width // STRIDE
    heat, weight, along = (np.zeros((2, rows, columns), np.float32) for _ in range(3))
    counts = np.ones((2, rows, columns), np.float32)
    numbers = np.zeros((2, CHANNELS, rows, columns), np.float32)
    joints, palm = np.zeros((2, 42, rows, columns), np.float32), np.zeros((2, rows, columns), np.float32)
    points = cell_points(rows, columns)
    boxes, wanted = hands.boxes(height, width), hands.wanted(height, width)
    for i in np.argsort([box.area for box in boxes])[::-1]:  # the smallest hand last: it wins shared cells
        side, box, marks = int(hands.right[i]), boxes[i], hands.keypoints[i]
        if not wanted[i]:
            inside = ((points >= (box.x0 - STRIDE, box.y0 - STRIDE)) & (points <= (box.x1, box.y1))).all(-1)
            counts[side][inside] = 0
            continue
        middle = palm_centre(marks, box)
        spread = float(np.clip(_SPREAD * box.size / STRIDE, *_SPREAD_RANGE))
        cell = np.clip(np.rint((middle - (STRIDE - 1) / 2) / STRIDE), 0, [columns - 1, rows - 1])
        away = (points - (STRIDE * cell + (STRIDE - 1) / 2)) / STRIDE
        peak = np.exp(-np.square(away).sum(-1) / (2 * spread**2)).astype(np.float32)
        np.maximum(heat[side], peak, out=heat[side])
        learns = (peak > _NUMBERS_FROM) & (peak >= weight[side])
        numbers[side][:, learns] = _numbers(points[learns], box, marks).T
        joints[side][:, learns] = ((marks[:, None] - points[learns]) / DISTANCE_UNIT).swapaxes(1, 2).reshape(42, -1)
        palm[side][learns] = palm_seen(marks, bool(side))
        weight[side][learns] = peak[learns]
        length = np.linalg.norm(marks[MIDDLE_BASE] - marks[WRIST]) / hand_square(marks, hand_rotation(marks))[2]
        along[side][learns] = peak[learns] * min(length / _LEAST_LENGTH, 1.0)
    counts[(heat > 0.99) & (counts == 0)] = 1
    return Targets(heat, counts, numbers, weight, along, joints, palm)


def palm_centre(keypoints: Float[np.ndarray, "21 2"], box: Box) -> Float[np.ndarray, "2"]:
    """Mean of wrist and finger bases, moved into the hand's box."""
    return np.clip(keypoints[list(PALM)].mean(0), (box.x0, box.y0), (box.x1, box.y1))


def palm_seen(keypoints: Float[np.ndarray, "21 2"], right: bool) -> float:
    """Sine of the angle at the wrist between the outer finger bases: positive where the palm is seen."""
    a, b = keypoints[PALM[1]] - keypoints[WRIST], keypoints[PALM[-1]] - keypoints[WRIST]
    sine = float(a[0] * b[1] - a[1] * b[0]) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-6)
    return -sine if right else sine


def _numbers(
    points: Float[np.ndarray, "n 2"], box: Box, keypoints: Float[np.ndarray, "21 2"]
) -> Float[np.ndarray, "n 9"]:
    out = np.empty((len(points), CHANNELS))
    out[:, BOX] = np.concatenate([points - (box.x0, box.y0), (box.x1, box.y1) - points], 1) / DISTANCE_UNIT
    along = keypoints[MIDDLE_BASE] - keypoints[WRIST]
    out[:, DIRECTION] = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-6)
    x, y, edge = hand_square(keypoints, hand_rotation(keypoints))
    out[:, SQUARE.start : SQUARE.stop - 1] = (np.array([x, y]) - points) / DISTANCE_UNIT
    out[:, SQUARE.stop - 1] = np.log(max(edge, 1.0) / SQUARE_UNIT)
    return out
