"""Errors of reconstructed hands against the truth; every name says root, scale and unit.

Protocols differ between papers: ``mpjpe_wrist`` is aligned at the wrist, not scaled (InterWild), ``mpjpe_mcp_scaled``
at the middle finger's base and scaled by the 9-0 bone (DIR, 4DHands), ``pa_mpjpe`` by a similarity (FreiHAND).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

WRIST, MIDDLE_BASE = 0, 9


def root_aligned(
    found: Float[np.ndarray, "n 3"],
    truth: Float[np.ndarray, "n 3"],
    found_joints: Float[np.ndarray, "21 3"],
    true_joints: Float[np.ndarray, "21 3"],
    *,
    root: int = WRIST,
    scaled: bool = False,
) -> float:
    """Mean error [m] of points (joints or vertices) with the hands' joint ``root`` laid on each other.

    ``scaled``: the found hand is first scaled so that its 9-0 bone is as long as the true one.
    """
    scale = 1.0
    if scaled:
        length, wanted = (float(np.linalg.norm(j[MIDDLE_BASE] - j[WRIST])) for j in (found_joints, true_joints))
        scale = wanted / length
    return _mean_distance((found - found_joints[root]) * scale, truth - true_joints[root])


def mpjpe_wrist(found: Float[np.ndarray, "21 3"], truth: Float[np.ndarray, "21 3"]) -> float:
    """Mean joint error [m] with the wrists laid on each other; all 21 joints count, the wrist's zero too."""
    return root_aligned(found, truth, found, truth)


def mpvpe_wrist(
    found: Float[np.ndarray, "v 3"],
    truth: Float[np.ndarray, "v 3"],
    found_wrist: Float[np.ndarray, "3"],
    truth_wrist: Float[np.ndarray, "3"],
) -> float:
    """Mean vertex error [m] with the wrists laid on each other."""
    return _mean_distance(found - found_wrist, truth - truth_wrist)


def mpjpe_mcp_scaled(found: Float[np.ndarray, "21 3"], truth: Float[np.ndarray, "21 3"]) -> float:
    """Mean joint error [m], aligned at the middle finger's base, scaled so that the wrist to it is as long."""
    return root_aligned(found, truth, found, truth, root=MIDDLE_BASE, scaled=True)


def xy_and_z(found: Float[np.ndarray, "21 3"], truth: Float[np.ndarray, "21 3"]) -> tuple[float, float]:
    """Parts of ``mpjpe_wrist`` [m] across and along the optical axis (A2P, table 4)."""
    error = (found - found[WRIST]) - (truth - truth[WRIST])
    return float(np.linalg.norm(error[:, :2], axis=1).mean()), float(np.abs(error[:, 2]).mean())


def pa_mpjpe(found: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"]) -> float:
    """Mean joint error [m] after the best similarity (Umeyama 1991), reflections excluded."""
    centre_found, centre_truth = found.mean(0), truth.mean(0)
    x, y = found - centre_found, truth - centre_truth
    u, singular, vt = np.linalg.svd(y.T @ x)
    sign = np.ones(3)
    sign[2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / max(float((x * x).sum()), 1e-12)
    return _mean_distance(scale * x @ rotation.T, y)


def mrrpe(
    left: Float[np.ndarray, "3"],
    right: Float[np.ndarray, "3"],
    true_left: Float[np.ndarray, "3"],
    true_right: Float[np.ndarray, "3"],
) -> float:
    """Error [m] of the left wrist relative to the right wrist."""
    return float(np.linalg.norm((left - right) - (true_left - true_right)))


def within(
    found: Float[np.ndarray, "n 2"], truth: Float[np.ndarray, "n 2"], size: float, share: float
) -> Bool[np.ndarray, "n"]:
    """Which points lie within ``share`` of the box ``size`` [px] from the truth: the terms of PCK."""
    return np.linalg.norm(found - truth, axis=1) <= share * size


def _mean_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> float:
    return float(np.linalg.norm(a - b, axis=1).mean())
