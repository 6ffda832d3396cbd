"""Geometry that the hand tests share, made by other means than the code under test."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def random_rotations(rng: np.random.Generator, count: int, angle: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Axis-angle (count, 16, 3) and the same as matrices (count, 16, 3, 3); the global ones are arbitrary."""
    axis_angle = rng.normal(size=(count, 16, 3))
    axis_angle *= rng.uniform(0, angle, (count, 16, 1)) / np.linalg.norm(axis_angle, axis=-1, keepdims=True)
    axis_angle[:, 0] = Rotation.random(count, random_state=int(rng.integers(2**31))).as_rotvec()
    return axis_angle, Rotation.from_rotvec(axis_angle.reshape(-1, 3)).as_matrix().reshape(count, 16, 3, 3)


def winding_number(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """How often a closed mesh winds round each point: 1 inside, 0 outside (van Oosterom and Strackee 1983)."""
    a, b, c = (vertices[faces[:, k]] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    numerator = np.einsum("pfi,pfi->pf", a, np.cross(b, c))
    ab, bc, ca = (np.einsum("pfi,pfi->pf", u, v) for u, v in ((a, b), (b, c), (c, a)))
    solid_angle = 2 * np.arctan2(numerator, la * lb * lc + ab * lc + bc * la + ca * lb)
    return solid_angle.sum(1) / (4 * np.pi)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed mesh."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)
