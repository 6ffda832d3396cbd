"""How far the hands of a moving synthetic camera are from the truth; by hand, distance and interaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import SourceError
from a2p_ros.evaluation import metrics
from a2p_ros.media.sources import Frame
from a2p_ros.types import PlacedHand, Side, TwoHands

if TYPE_CHECKING:
    from a2p_ros.pipeline import TwoHandPipeline

#: Edges of the classes of distance, camera to true wrist [m].
DISTANCES = (0.0, 0.4, 0.6, 0.9, math.inf)
#: A reconstruction elsewhere than this (intersection over union of the boxes) is not of this hand.
_SAME_HAND = 0.15
_MM = ("mpjpe_wrist_mm", "mpvpe_wrist_mm", "mpjpe_mcp_scaled_mm", "pa_mpjpe_mm", "wrist_error_mm")


@dataclass(frozen=True)
class Sample:
    """One true hand in one frame; ``errors`` is None where it was not found on its side."""

    side: Side
    distance: float
    interacting: bool
    errors: dict[str, float] | None


class SyntheticScore:
    """Gathers samples of one pipeline; ``method`` is its name in the result.

    ``wrist_error_mm`` is the error of the wrist's position in the camera frame: without a known length of the hand it
    grows with the difference between the true hand and the mean one.
    """

    def __init__(self, pipeline: TwoHandPipeline, method: str = "keypoint_fit") -> None:
        self._pipeline, self._method = pipeline, method
        self.samples: list[Sample] = []
        self.relative: list[tuple[bool, float]] = []
        self.frames = 0
        self.false_hands = 0
        #: Hands in the place of the other one, and how far each wrist's error moved from frame to frame [m].
        self.swaps = 0
        self.jumps: list[float] = []
        self._before: dict[Side, Float[np.ndarray, "3"]] = {}

    def add(self, frame: Frame, hands: TwoHands) -> None:
        """Count one frame of the synthetic camera."""
        truth = _truth(frame)
        self.frames += 1
        touching = truth.left.box.iou(truth.right.box) > 0
        found: dict[Side, PlacedHand] = {}
        for side, true in truth.items():
            hand = hands[side]
            errors = None
            if hand is not None and hand.box.iou(true.box) > _SAME_HAND:
                found[side] = hand
                errors = self._errors(hand, true)
            elif hand is not None:
                self.false_hands += 1
            self._follow(side, hand, truth)
            self.samples.append(Sample(side, float(np.linalg.norm(true.wrist)), touching, errors))
        if len(found) == 2:
            wrists = found[Side.LEFT].wrist, found[Side.RIGHT].wrist
            self.relative.append((touching, metrics.mrrpe(*wrists, truth.left.wrist, truth.right.wrist)))

    def _follow(self, side: Side, hand: PlacedHand | None, truth: Any) -> None:
        before = self._before.pop(side, None)
        if hand is None:
            return
        own, other = (
            np.linalg.norm(hand.keypoints_px - truth[s].keypoints_px, axis=1).mean() for s in (side, side.other)
        )
        self.swaps += bool(other < own)
        error = self._before[side] = hand.wrist - truth[side].wrist
        if before is not None:
            self.jumps.append(float(np.linalg.norm(error - before)))

    def _errors(self, hand: PlacedHand, true: Any) -> dict[str, float]:
        vertices = self._pipeline.mesh(hand)
        same_mesh = vertices.shape == true.vertices.shape
        return {
            "mpjpe_wrist_mm": 1e3 * metrics.mpjpe_wrist(hand.joints, true.joints),
            "mpvpe_wrist_mm": 1e3 * metrics.mpvpe_wrist(vertices, true.vertices, hand.joints[0], true.wrist)
            if same_mesh
            else math.nan,
            "mpjpe_mcp_scaled_mm": 1e3 * metrics.mpjpe_mcp_scaled(hand.joints, true.joints),
            "pa_mpjpe_mm": 1e3 * metrics.pa_mpjpe(hand.joints, true.joints),
            "wrist_error_mm": 1e3 * float(np.linalg.norm(hand.wrist - true.wrist)),
            "wrist_depth_rel": float(hand.wrist[2] / true.wrist[2] - 1),
            "pck_010": float(metrics.within(hand.keypoints_px, true.keypoints_px, true.box.size, 0.1).mean()),
        }

    def result(self) -> dict[str, Any]:
        """Summaries of the one method, by interaction, hand and distance."""
        return {
            "n": self.frames,
            "single": {self._method: self._summary(lambda s: not s.interacting, interacting=False)},
            "interacting": {self._method: self._summary(lambda s: s.interacting, interacting=True)},
            "by_hand": {side.value: self._summary(partial(_is_of, side)) for side in Side},
            "by_distance": {
                _range(low, high): self._summary(partial(_is_between, low, high)) for low, high in pairwise(DISTANCES)
            },
            "false_hands": self.false_hands,
            "swaps": self.swaps,
            "jump_mm": {f"p{q}": 1e3 * float(np.percentile(self.jumps, q)) for q in (50, 95, 99)}
            if self.jumps
            else None,
        }

    def _summary(self, chosen: Callable[[Sample], bool], interacting: bool | None = None) -> dict[str, Any]:
        samples = [s for s in self.samples if chosen(s)]
        errors = [s.errors for s in samples if s.errors is not None]
        summary: dict[str, Any] = {name: _mean(e[name] for e in errors) for name in (*_MM, "pck_010")}
        summary["wrist_error_median_mm"] = _median(e["wrist_error_mm"] for e in errors)
        summary["wrist_depth_rel"] = _mean(e["wrist_depth_rel"] for e in errors)
        summary["recall"] = len(errors) / len(samples) if samples else math.nan
        summary["hands"] = len(samples)
        if interacting is not None:
            summary["mrrpe_mm"] = _mean(1e3 * error for touching, error in self.relative if touching is interacting)
        return summary

    def lines(self) -> list[str]:
        """A table for people."""
        result = self.result()
        rows = {f"{name}, {self._method}": result[name][self._method] for name in ("single", "interacting")}
        rows |= {f"{name} hand": row for name, row in result["by_hand"].items()}
        rows |= {f"{name} m": row for name, row in result["by_distance"].items()}
        head = f"{'':<26}{'hands':>6}{'recall':>8}{'MPJPE':>8}{'MPVPE':>8}{'PA':>7}{'wrist':>8}{'MRRPE':>8}   [mm]"
        lines = [head]
        for name, row in rows.items():
            if row["hands"]:
                numbers = (row["mpjpe_wrist_mm"], row["mpvpe_wrist_mm"], row["pa_mpjpe_mm"], row["wrist_error_mm"])
                cells = "".join(f"{n:{w}.1f}" for n, w in zip(numbers, (8, 8, 7, 8), strict=True))
                relative = f"{row['mrrpe_mm']:8.1f}" if "mrrpe_mm" in row else ""
                lines.append(f"{name:<26}{row['hands']:>6}{row['recall']:>8.1%}{cells}{relative}")
        jumps = result["jump_mm"] or dict.fromkeys(("p50", "p95", "p99"), math.nan)
        return [
            *lines,
            f"{result['n']} frames, {result['false_hands']} hands where none is, "
            f"{result['swaps']} in the other's place",
            "change of a wrist's error from frame to frame: "
            f"p50 {jumps['p50']:.1f}, p95 {jumps['p95']:.1f}, p99 {jumps['p99']:.1f} mm",
        ]


def true_hand_length(frame: Frame) -> float:
    """Wrist to middle fingertip of the rendered hands, flat [m]: what a user would measure of their own."""
    import torch

    from a2p_ros.hand import hand_length, load_hand_models

    betas = torch.as_tensor(_truth(frame).right.betas, dtype=torch.float32)[None]
    return float(hand_length(load_hand_models().right, betas)[0])


def _truth(frame: Frame) -> Any:
    """Both true hands of a frame; raises SourceError where the source has none."""
    if frame.truth is None:
        raise SourceError(
            "the synthetic camera shows its recorded clip, which has no truth: rendering needs EGL, see a2p doctor"
        )
    return frame.truth


def _is_of(side: Side, sample: Sample) -> bool:
    return sample.side is side


def _is_between(low: float, high: float, sample: Sample) -> bool:
    return low <= sample.distance < high


def _range(low: float, high: float) -> str:
    return f"{low:g}-{high:g}" if math.isfinite(high) else f"{low:g}-"


def _mean(values: Iterable[float]) -> float:
    array = np.asarray(list(values))
    return float(array.mean()) if array.size else math.nan


def _median(values: Iterable[float]) -> float:
    array = np.asarray(list(values))
    return float(np.median(array)) if array.size else math.nan
