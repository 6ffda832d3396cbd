"""Recall, precision and sides of detections against true hands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from a2p_ros.detection.regions import MIDDLE_BASE, WRIST
from a2p_ros.training.detector.labels import Hands
from a2p_ros.types import Box, Detection

#: A detection is right where its box overlaps the true one as much.
MIN_IOU = 0.5
#: Lower bounds of the groups by the overlap of the two true boxes, and their names; the first is of none at all.
GROUPS = {"0": 0.0, "0-0.3": 0.0, "0.3-0.6": 0.3, "0.6-1": 0.6}


@dataclass
class Counts:
    """Counts of some frames; ``angles`` [rad] are those between the found and the true direction."""

    wanted: int = 0
    hits: int = 0
    sides: int = 0
    false: int = 0
    angles: list[float] = field(default_factory=list)

    def result(self) -> dict[str, float]:
        """Shares; NaN of none."""
        angles = np.degrees(self.angles) if self.angles else np.array([math.nan])
        return {
            "hands": self.wanted,
            "recall": _share(self.hits, self.wanted),
            "precision": _share(self.hits, self.hits + self.false),
            "side_accuracy": _share(self.sides, self.hits),
            "false_hands": self.false,
            "orientation_deg_p50": float(np.percentile(angles, 50)),
            "orientation_deg_p90": float(np.percentile(angles, 90)),
        }


@dataclass
class DetectionScore:
    """Counts by the overlap of the two true boxes."""

    groups: dict[str, Counts] = field(default_factory=lambda: {name: Counts() for name in GROUPS})

    def add(self, found: Sequence[Detection], hands: Hands, height: int, width: int) -> None:
        """Count one picture.

        A true hand that is small, cut off or hidden almost wholly is neither wanted nor is a detection on it false.
        Detections are matched to hands so that as many as possible have their box, and of those their side.
        """
        boxes, wanted = hands.boxes(height, width), hands.wanted(height, width)
        counts = self.groups[group_of(overlap_of(boxes))]
        pairs = matched(found, boxes, hands.right)
        for i, j in pairs:
            if not wanted[j]:
                continue
            counts.hits += 1
            counts.sides += (found[i].right > 0.5) == bool(hands.right[j])
            rotation = found[i].rotation
            if rotation is not None:
                dx, dy = hands.keypoints[j, MIDDLE_BASE] - hands.keypoints[j, WRIST]
                counts.angles.append(abs(math.remainder(rotation - math.atan2(dx, -dy), 2 * math.pi)))
        counts.wanted += int(wanted.sum())
        spared = [boxes[j] for j in np.flatnonzero(~wanted)]
        taken = {i for i, _ in pairs}
        for i, detection in enumerate(found):
            if i not in taken and not any(_mostly_in(detection.box, box) for box in spared):
                counts.false += 1

    def total(self) -> dict[str, float]:
        """Shares over all groups."""
        counts = Counts()
        for part in self.groups.values():
            for name in ("wanted", "hits", "sides", "false"):
                setattr(counts, name, getattr(counts, name) + getattr(part, name))
            counts.angles += part.angles
        return counts.result()

    def result(self) -> dict[str, dict[str, float]]:
        """Shares of each group."""
        return {name: counts.result() for name, counts in self.groups.items()}


def overlap_of(boxes: Sequence[Box]) -> float:
    """Intersection over union of the two boxes; 0 where there are not two."""
    return boxes[0].iou(boxes[1]) if len(boxes) == 2 else 0.0


def group_of(overlap: float) -> str:
    """Name of the group of an overlap."""
    return "0" if overlap <= 0 else [name for name, low in GROUPS.items() if name != "0" and overlap > low][-1]


def matched(found: Sequence[Detection], boxes: Sequence[Box], right: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (detection, hand) of boxes that overlap enough, each once: most pairs, then most sides, then overlap."""
    from scipy.optimize import linear_sum_assignment

    worth = np.zeros((len(found), len(boxes)))
    for i, detection in enumerate(found):
        for j, box in enumerate(boxes):
            overlap = detection.box.iou(box)
            if overlap >= MIN_IOU:
                worth[i, j] = 100 + ((detection.right > 0.5) == bool(right[j])) + 0.1 * overlap
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if worth[i, j] > 0]


def _mostly_in(box: Box, other: Box) -> bool:
    w = min(box.x1, other.x1) - max(box.x0, other.x0)
    h = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(w, 0.0) * max(h, 0.0) > 0.5 * min(box.area, max(other.area, 1e-6))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
