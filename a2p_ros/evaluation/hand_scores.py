"""Errors of one hand under every protocol, and their means over the hands of a group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from a2p_ros.evaluation import metrics
from a2p_ros.evaluation.true_hands import TrueHand
from a2p_ros.types import Box, HandKeypoints, PlacedHand, Side

_ROOTS = {"wrist": metrics.WRIST, "mcp": metrics.MIDDLE_BASE}
#: Shares of the crop's edge; the smaller one is what a network's confidence of a joint is trained to mean.
CROP_SHARES = {"pck_crop_005": 0.05, "pck_crop_010": 0.10}
#: Shares of the hand's box: of the placed joints, and of the points that were measured before the fit.
BOX_SHARES = {"pck_010": 0.1, "pck_020": 0.2}
NAMES = (
    *(f"{kind}_{root}{scaled}_mm" for kind in ("mpjpe", "mpvpe") for root in _ROOTS for scaled in ("", "_scaled")),
    *("mpjpe_xy_mm", "mpjpe_z_mm", "pa_mpjpe_mm", "pa_mpvpe_mm", "wrist_error_mm"),
    *BOX_SHARES,
    *(f"measured_{name}" for name in BOX_SHARES),
    *CROP_SHARES,
)


def hand_errors(
    hand: PlacedHand, vertices: Float[np.ndarray, "v 3"], measured: HandKeypoints, true: TrueHand
) -> dict[str, float]:
    """Every number of ``NAMES``; those of vertices are NaN where the true hand is of another model.

    ``pck`` is relative to the box of the true joints, ``pck_crop`` to the edge of the true crop.
    """
    size, edge = Box.around(true.keypoints_px).size, true.region().square
    assert edge is not None
    errors: dict[str, float] = {}
    same_mesh = vertices.shape == true.vertices.shape
    for kind, found, truth in (("mpjpe", hand.joints, true.joints), ("mpvpe", vertices, true.vertices)):
        for root, joint in _ROOTS.items():
            for scaled in (False, True):
                name = f"{kind}_{root}{'_scaled' if scaled else ''}_mm"
                errors[name] = (
                    1e3 * metrics.root_aligned(found, truth, hand.joints, true.joints, root=joint, scaled=scaled)
                    if kind == "mpjpe" or same_mesh
                    else math.nan
                )
    across, along = metrics.xy_and_z(hand.joints, true.joints)
    errors |= {
        "mpjpe_xy_mm": 1e3 * across,
        "mpjpe_z_mm": 1e3 * along,
        "pa_mpjpe_mm": 1e3 * metrics.pa_mpjpe(hand.joints, true.joints),
        "pa_mpvpe_mm": 1e3 * metrics.pa_mpjpe(vertices, true.vertices) if same_mesh else math.nan,
        "wrist_error_mm": 1e3 * float(np.linalg.norm(hand.wrist - true.joints[0])),
    }
    for name, share in BOX_SHARES.items():
        errors[name] = _pck(hand.keypoints_px, true, share * size)
        errors[f"measured_{name}"] = _pck(measured.keypoints_px, true, share * size)
    for name, share in CROP_SHARES.items():
        errors[name] = _pck(measured.keypoints_px, true, share * edge[2])
    return errors


def _pck(points: Float[np.ndarray, "21 2"], true: TrueHand, distance: float) -> float:
    return float(metrics.within(points, true.keypoints_px, distance, 1.0).mean())


@dataclass(frozen=True)
class HandScore:
    """One true hand under one method; ``errors`` is None where there was no answer, ``accepted`` where it stood."""

    frame: int
    side: Side
    interacting: bool
    kind: str
    errors: dict[str, float] | None
    accepted: bool


@dataclass(frozen=True)
class PairScore:
    """The relative position of two hands that were both found in a frame; ``mrrpe`` [m] is that of the wrists."""

    frame: int
    interacting: bool
    kind: str
    mrrpe: float
    accepted: bool


def summary(hands: Sequence[HandScore], pairs: Iterable[PairScore]) -> dict[str, Any]:
    """Means over the hands that have errors, recall over all of them, MRRPE over the pairs."""
    found = [hand.errors for hand in hands if hand.errors is not None]
    relative = [1e3 * pair.mrrpe for pair in pairs]
    return {
        **{name: mean(errors[name] for errors in found) for name in NAMES},
        "mrrpe_mm": mean(relative),
        "recall": sum(hand.accepted for hand in hands) / len(hands) if hands else math.nan,
        "hands": len(hands),
        "measured": len(found),
        "pairs": len(relative),
    }


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of none."""
    array = np.asarray(list(values))
    return float(array.mean()) if array.size else math.nan
