"""What a folder of shards holds, in figures: kinds, views, shapes, sizes, overlap, visibility, sides seen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from a2p_ros.training.synthetic.samples import Frame, HandLabel
from a2p_ros.types import Side

#: Edges of the histogram of IoU of the two boxes, as the detector's evaluation has them; the first bin is exactly 0.
OVERLAPS = ("0", "0-0.3", "0.3-0.6", "0.6-1")
_DIRECTIONS = ("palm", "back", "thumb edge", "little edge", "fingertips", "wrist")


def overlap_bin(iou: float) -> str:
    """The name of the overlap's bin, of ``OVERLAPS``."""
    return OVERLAPS[0] if iou <= 0 else OVERLAPS[1] if iou <= 0.3 else OVERLAPS[2] if iou <= 0.6 else OVERLAPS[3]


def facing(hand: HandLabel) -> str:
    """Which side of the hand the camera sees, of ``_DIRECTIONS``: the hand's axis that points most towards it."""
    mirror = -1.0 if hand.side is Side.LEFT else 1.0
    rest = {
        "palm": (0.0, -1.0, 0.0),
        "back": (0.0, 1.0, 0.0),
        "thumb edge": (0.0, 0.0, 1.0),
        "little edge": (0.0, 0.0, -1.0),
        "fingertips": (-mirror, 0.0, 0.0),
        "wrist": (mirror, 0.0, 0.0),
    }
    towards = -hand.joints[9].astype(float)
    towards /= np.linalg.norm(towards)
    return max(rest, key=lambda name: float(hand.rotations[0].astype(float) @ rest[name] @ towards))


@dataclass
class Statistics:
    """Counts over frames; ``add`` them one by one."""

    frames: int = 0
    hands: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    sides_seen: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)
    _shares: list[float] = field(default_factory=list)
    _sizes: list[float] = field(default_factory=list)
    _depths: list[float] = field(default_factory=list)
    _up: list[float] = field(default_factory=list)
    _joints: int = 0

    def add(self, frame: Frame) -> None:
        """Count one frame."""
        self.frames += 1
        self.kinds[str(frame.scene.get("kind", ""))] += 1
        self.views[str(frame.scene.get("view", ""))] += 1
        for name in frame.scene.get("shapes", {}).values():
            self.shapes[str(name)] += 1
        present = [hand for _, hand in frame.hands.items() if hand is not None]
        if len(present) == 2:
            self.overlaps[overlap_bin(present[0].box.iou(present[1].box))] += 1
        for hand in present:
            self.hands[hand.side.value] += 1
            self.sides_seen[facing(hand)] += 1
            self._shares.append(hand.visible_share)
            self._sizes.append(hand.box.size / frame.camera.height)
            self._depths.append(float(hand.joints[0, 2]))
            dx, dy = hand.keypoints_px[9] - hand.keypoints_px[0]
            self._up.append(math.degrees(math.atan2(dx, -dy)))
            self._joints += int(hand.visible.sum())

    def summary(self) -> dict[str, Any]:
        """Shares and percentiles, in JSON's types."""
        hands = sum(self.hands.values())
        angles = np.histogram(self._up, np.linspace(-180, 180, 9))[0]
        return {
            "frames": self.frames,
            "hands": dict(self.hands),
            "kinds": _shares(self.kinds, self.frames),
            "views": _shares(self.views, self.frames),
            "shapes": _shares(self.shapes, hands),
            "sides_seen": {name: self.sides_seen[name] / max(hands, 1) for name in _DIRECTIONS},
            "overlap": {name: self.overlaps[name] for name in OVERLAPS},
            "visible_share": _percentiles(self._shares),
            "hidden_more_than_half": float(np.mean(np.asarray(self._shares) < 0.5)) if hands else 0.0,
            "joints_visible": self._joints / max(21 * hands, 1),
            "box_share_of_height": _percentiles(self._sizes),
            "wrist_depth_m": _percentiles(self._depths),
            "rotation_deg": {
                f"{int(a)} to {int(a) + 45}": int(n) for a, n in zip(np.linspace(-180, 135, 8), angles, strict=True)
            },
        }


def statistics_of(frames: Iterable[Frame]) -> dict[str, Any]:
    """``Statistics.summary`` of some frames."""
    statistics = Statistics()
    for frame in frames:
        statistics.add(frame)
    return statistics.summary()


def as_text(summary: dict[str, Any]) -> list[str]:
    """A summary for people, a line a figure."""
    lines = []
    for name, value in summary.items():
        title = name.replace("_", " ")
        if not isinstance(value, dict):
            lines.append(f"{title}: {value:.3g}" if isinstance(value, float) else f"{title}: {value}")
            continue
        items = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()]
        lines.append(f"{title}: {', '.join(items)}")
    return lines


def _shares(counts: Counter[str], total: int) -> dict[str, float]:
    return {name: count / max(total, 1) for name, count in sorted(counts.items(), key=lambda item: -item[1])}


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{p}": float(np.percentile(values, p)) for p in (1, 10, 50, 90, 99)}
