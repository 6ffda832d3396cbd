"""The position at which joints of known size and pose lie on the rays of their keypoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import InputError
from a2p_ros.fitting.small_systems import solve_spd
from a2p_ros.rotations import rotation_between

_REFINEMENTS = 4
#: Keypoints off by more than this share of the hand's extent count less and less (Geman-McClure).
_ROBUST_SCALE = 0.08
#: Standard deviation of a keypoint, as a share of the hand's extent, that ``Apart.sigma`` is weighed against.
_KEYPOINT_SIGMA = 0.01
#: No joint is ever put nearer to the camera than this [m].
_NEAREST = 0.01


@dataclasses.dataclass(frozen=True)
class Apart:
    """A soft constraint on where two hands are to each other: left wrist minus right wrist, camera axes [m].

    ``sigma`` [m] is its standard deviation; keypoints have one of 1 % of the hand's extent in the image.
    """

    translation: Float[np.ndarray, "3"]
    sigma: float = 0.01


def solve_translation(
    joints_rel: Float[np.ndarray, "21 3"], rays: Float[np.ndarray, "21 2"], weights: Float[np.ndarray, "21"]
) -> Float[np.ndarray, "3"]:
    """Wrist position [m] at which joints relative to the wrist (camera axes) lie on their rays.

    A linear least squares solution of ``ray x (joint + t) = 0`` (Hartley and Zisserman, section
    12.2) is refined by robust Gauss-Newton steps on the reprojection, in the axes of a camera
    that looks at the hand, so that the corner of a wide image counts like its centre.

    Raises InputError unless the shapes are right, all values finite and three weights positive.
    Depth is always positive.
    """
    return solve_translations([joints_rel], [rays], [weights])[0]


def solve_translations(
    joints_rel: Sequence[Float[np.ndarray, "21 3"]],
    rays: Sequence[Float[np.ndarray, "21 2"]],
    weights: Sequence[Float[np.ndarray, "21"]],
    apart: Apart | None = None,
) -> list[Float[np.ndarray, "3"]]:
    """``solve_translation`` of one or two hands; with ``apart`` the left one and then the right one, jointly."""
    if apart is not None and len(joints_rel) != 2:
        raise InputError(f"solve_translations: `apart` needs two hands, left and right, got {len(joints_rel)}")
    views = [_View(j, r, w) for j, r, w in zip(joints_rel, rays, weights, strict=True)]
    wrists = [view.linear() for view in views]
    for _ in range(_REFINEMENTS):
        blocks = [view.normal_equations(wrist) for view, wrist in zip(views, wrists, strict=True)]
        n = 3 * len(blocks)
        lhs, rhs = np.zeros((n, n)), np.zeros(n)
        for i, (a, b) in enumerate(blocks):
            lhs[3 * i : 3 * i + 3, 3 * i : 3 * i + 3], rhs[3 * i : 3 * i + 3] = a, b
        if apart is not None:
            precision = 1 / max(apart.sigma, 1e-6) ** 2
            lhs += precision * np.block([[np.eye(3), -np.eye(3)], [-np.eye(3), np.eye(3)]])
            gap = precision * (apart.translation - (wrists[0] - wrists[1]))
            rhs += np.concatenate([gap, -gap])
        steps = solve_spd(lhs, rhs[:, None]).reshape(-1, 3)
        wrists = [view.step(wrist, step) for view, wrist, step in zip(views, wrists, steps, strict=True)]
    return wrists


def linear_translation(
    points: Float[np.ndarray, "hands 21 3"],
    rays: Float[np.ndarray, "hands 21 2"],
    weights: Float[np.ndarray, "hands 21"],
) -> Float[np.ndarray, "hands 3"]:
    """Translations [m] that bring points onto rays (x/z, y/z): least squares of ``ray x (point + t) = 0``.

    Linear and without a guess (Hartley and Zisserman, section 12.2). Where no hand before the
    camera fits, a point on the optical axis at the distance that the size in the image suggests.
    """
    u, v = rays[..., 0], rays[..., 1]
    a = np.zeros((len(points), 42, 3))
    a[:, :21, 0] = a[:, 21:, 1] = 1.0
    a[:, :21, 2], a[:, 21:, 2] = -u, -v
    b = np.concatenate([u * points[..., 2] - points[..., 0], v * points[..., 2] - points[..., 1]], axis=1)
    weighted = a * np.tile(weights, 2)[..., None]
    lhs = np.swapaxes(weighted, 1, 2) @ a + 1e-12 * np.eye(3)
    solved = solve_spd(lhs, np.swapaxes(weighted, 1, 2) @ b[..., None])[..., 0]
    nearest = _NEAREST - points[..., 2].min(1)
    size = np.ptp(points[..., :2], axis=1).max(1) / np.maximum(np.ptp(rays, axis=1).max(1), 1e-6)
    guess = np.stack([0 * size, 0 * size, np.maximum(size, nearest)], axis=1)
    return np.where((solved[:, 2] < nearest)[:, None], guess, solved)


class _View:
    """One hand seen by a camera that looks at it."""

    def __init__(self, joints: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> None:
        for name, value, shape in (
            ("joints_rel", joints, (21, 3)),
            ("rays", rays, (21, 2)),
            ("weights", weights, (21,)),
        ):
            if np.shape(value) != shape:
                raise InputError(f"solve_translation: expected {name} {shape}, got {np.shape(value)}")
            if not np.isfinite(value).all():
                raise InputError(f"solve_translation: {name} has values that are not finite")
        if np.count_nonzero(weights > 0) < 3:
            raise InputError("solve_translation: expected at least three keypoints of positive weight")
        directions = np.column_stack([rays, np.ones(21)])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.R_view_camera = rotation_between(directions.mean(0), np.array([0.0, 0.0, 1.0]))
        turned = directions @ self.R_view_camera.T
        self.rays = turned[:, :2] / np.maximum(turned[:, 2:], 1e-3)
        self.joints = joints @ self.R_view_camera.T
        self.weights = np.maximum(weights, 0.0)
        self.extent = max(float(np.ptp(self.rays, axis=0).max()), 1e-6)
        self.nearest = _NEAREST - float(self.joints[:, 2].min())

    def linear(self) -> np.ndarray:
        """Least squares of the cross products, in camera axes."""
        return self.R_view_camera.T @ linear_translation(self.joints[None], self.rays[None], self.weights[None])[0]

    def normal_equations(self, wrist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss-Newton system of the robust reprojection error at a wrist, in camera axes."""
        p = self.joints + self.R_view_camera @ wrist
        inverse = 1 / np.maximum(p[:, 2], 1e-3)
        uv = p[:, :2] * inverse[:, None]
        error = self.rays - uv
        robust = 1 / (1 + np.sum(error**2, axis=1) / (_ROBUST_SCALE * self.extent) ** 2) ** 2
        weights = np.tile(self.weights * robust, 2) / (_KEYPOINT_SIGMA * self.extent) ** 2
        jacobian = np.zeros((42, 3))
        jacobian[:21, 0] = jacobian[21:, 1] = inverse
        jacobian[:, 2] = -(uv * inverse[:, None]).T.reshape(-1)
        jacobian = jacobian @ self.R_view_camera
        weighted = jacobian * weights[:, None]
        return weighted.T @ jacobian + 1e-9 * np.eye(3), weighted.T @ error.T.reshape(-1)

    def step(self, wrist: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The wrist moved, but never so near that a joint gets behind the camera."""
        moved = self.R_view_camera @ (wrist + step)
        moved[2] = max(moved[2], self.nearest)
        return self.R_view_camera.T @ moved
