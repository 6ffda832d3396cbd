"""Levenberg-Marquardt on the pose of one or two hands, in numpy: the inner loop of the keypoint fit.

Everything is in the axes of a virtual camera that looks at each hand (``_view``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from a2p_ros.camera import CameraModel
from a2p_ros.rotations import axis_angle_to_matrix, nearest_rotation, rotation_between
from a2p_ros.skeleton import N_POSE, Posed, Skeleton, finger_limits
from a2p_ros.translation import linear_translation
from a2p_ros.types import HandKeypoints

_N = N_POSE + 3
_PALM = [0, 5, 9, 13, 17]
#: Standard deviation of a 2D keypoint, and from where on it is an outlier: shares of the hand's extent.
_SIGMA_2D = 0.02
_OUTLIER_2D = 0.10
#: Standard deviations of a 3D keypoint across and along the ray [m].
_SIGMA_3D = np.array([0.012, 0.012, 0.015])
#: How fast an angle may change from one frame to the next, and how soft its limits are [rad].
_SIGMA_TIME = 0.4
_SIGMA_LIMIT = 0.05
_BONES_FROM = np.array([0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19])
_NEAREST = 0.02


@dataclass(frozen=True)
class Measured:
    """What was measured of the hands of one frame.

    ``rays`` are (x/z, y/z); ``points`` are the landmark stage's 3D points in its own scale;
    ``weights`` are confidences in [0, 1].
    """

    R_camera_view: Float[np.ndarray, "hands 3 3"]
    rays: Float[np.ndarray, "hands 21 2"]
    points: Float[np.ndarray, "hands 21 3"]
    weights: Float[np.ndarray, "hands 21"]

    @classmethod
    def of(cls, hands: Sequence[HandKeypoints], camera: CameraModel) -> Measured:
        """Turn the keypoints of some hands into the axes of cameras along their crops' rays."""
        px = np.concatenate([np.asarray([hand.crop_centre_px, *hand.keypoints_px], np.float64) for hand in hands])
        rays = camera.rays(px).reshape(len(hands), 22, 2)
        directions = np.concatenate([rays, np.ones((len(hands), 22, 1))], axis=2)
        turns = rotation_between(np.array([0.0, 0.0, 1.0]), directions[:, 0])
        seen = directions[:, 1:] @ turns
        points = np.stack([hand.keypoints_3d for hand in hands]).astype(np.float64)
        weights = np.clip(np.stack([hand.confidence for hand in hands]).astype(np.float64), 0.0, 1.0)
        return cls(turns, seen[..., :2] / np.maximum(seen[..., 2:], 1e-3), points, weights)


@dataclass(frozen=True)
class State:
    """Global rotation, joint angles and wrist [m] of some hands."""

    root: Float[np.ndarray, "hands 3 3"]
    angles: Float[np.ndarray, "hands 5 3 3"]
    wrist: Float[np.ndarray, "hands 3"]

    def moved(self, step: Float[np.ndarray, "hands 51"]) -> State:
        """The state after a step of the unknowns."""
        return State(
            axis_angle_to_matrix(step[:, :3]) @ self.root,
            self.angles + step[:, 3:N_POSE].reshape(-1, 5, 3, 3),
            self.wrist + step[:, N_POSE:],
        )

    def replaced(self, mask: Bool[np.ndarray, "hands"], other: State) -> State:
        """``other`` where ``mask``, else this."""
        return State(
            np.where(mask[:, None, None], other.root, self.root),
            np.where(mask[:, None, None, None], other.angles, self.angles),
            np.where(mask[:, None], other.wrist, self.wrist),
        )


@dataclass(frozen=True)
class Linearised:
    """The problem at a state: normal equations, cost, and the mean reprojection error relative to the hand's extent."""

    state: State
    posed: Posed
    lhs: Float[np.ndarray, "hands 51 51"]
    rhs: Float[np.ndarray, "hands 51"]
    cost: Float[np.ndarray, "hands"]
    error: Float[np.ndarray, "hands"]
    rows: Float[np.ndarray, "hands 105 51"]
    residuals: Float[np.ndarray, "hands 105"]
    weights_2d: Float[np.ndarray, "hands 21"]

    def replaced(self, mask: Bool[np.ndarray, "hands"], other: Linearised) -> Linearised:
        """``other`` where ``mask``, else this."""
        if mask.all():
            return other

        def pick(mine: np.ndarray, its: np.ndarray) -> np.ndarray:
            return np.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), its, mine)

        posed = Posed(*(pick(getattr(self.posed, f), getattr(other.posed, f)) for f in ("points", "turns", "axes")))
        names = ("lhs", "rhs", "cost", "error", "rows", "residuals", "weights_2d")
        arrays = {name: pick(getattr(self, name), getattr(other, name)) for name in names}
        return Linearised(state=self.state.replaced(mask, other.state), posed=posed, **arrays)


class HandProblem:
    """Residuals of some hands, each over its standard deviation, and their minimum.

    - projection of the joints against the keypoints, robust (Geman-McClure);
    - joints against 3D keypoints, both centred, the latter scaled to the model's bones;
    - angles against a relaxed hand, last frame's angles, and the limits of human joints.
    """

    _limits = finger_limits()
    _relaxed = np.zeros((5, 3, 3))
    _relaxed[1:, :, 1] = 0.3
    _relaxed[0, 1:, 1] = 0.2
    # Half the range of a joint, but a hinge's play is nearly none and twist follows the finger, it does not lead.
    _relaxed_sigma = np.clip((_limits[..., 1] - _limits[..., 0]) / 2, 0.03, 0.8) * np.array([0.5, 1.0, 0.7])

    def __init__(self, skeleton: Skeleton, betas: Float[np.ndarray, "10"], measured: Measured) -> None:
        self._skeleton = skeleton
        self._measured = measured
        self._rest = skeleton.rest(betas)
        self._extent = np.maximum(np.ptp(measured.rays, axis=1).max(1), 1e-6)
        self._last: np.ndarray | None = None
        self._last_weight = np.zeros(len(self._rest))
        bones = np.linalg.norm(measured.points[:, 1:] - measured.points[:, _BONES_FROM], axis=2)
        scale = np.median(self._bone_lengths / np.maximum(bones, 1e-6), axis=1)
        points = measured.points * scale[:, None, None]
        self._points = points - points.mean(1, keepdims=True)
        palm = points[:, _PALM] - points[:, _PALM].mean(1, keepdims=True)
        model_palm = self._rest[:, _PALM] - self._rest[:, _PALM].mean(1, keepdims=True)
        #: Global rotation that the 3D points of the palm alone give (Kabsch).
        self.palm_turn = nearest_rotation(np.swapaxes(palm, 1, 2) @ model_palm)

    @property
    def _bone_lengths(self) -> np.ndarray:
        return np.linalg.norm(self._rest[:, 1:] - self._rest[:, _BONES_FROM], axis=2)

    def first_guess(self) -> State:
        """Palm by Kabsch, fingers by their bones' directions in the 3D points, wrist by its linear solution."""
        angles = self._skeleton.angles_from_points(self._points, self.palm_turn, self._limits)
        return self.located(self.palm_turn, angles)

    def located(self, root: Float[np.ndarray, "hands 3 3"], angles: Float[np.ndarray, "hands 5 3 3"]) -> State:
        """A state whose wrists are the linear solutions for these poses."""
        points = self._skeleton.pose(self._rest, root, angles).points
        return State(root, angles, linear_translation(points, self._measured.rays, self._measured.weights))

    def follow(self, angles: Float[np.ndarray, "hands 5 3 3"], known: Bool[np.ndarray, "hands"]) -> None:
        """Hold the angles of ``known`` hands near those of the last frame."""
        self._last, self._last_weight = angles, known / _SIGMA_TIME**2

    def solve(self, state: State, steps: int) -> Linearised:
        """The state after so many Levenberg-Marquardt steps, none of which raises the cost."""
        best = self.linearise(state)
        damping = np.full(len(best.cost), 1e-3)
        diagonal = np.arange(_N)
        for _ in range(steps):
            lhs = best.lhs.copy()
            lhs[:, diagonal, diagonal] *= 1 + damping[:, None]
            step = np.linalg.solve(lhs, best.rhs[..., None])[..., 0]
            trial = self.linearise(best.state.moved(step))
            better = trial.cost <= best.cost
            best = best.replaced(better, trial)
            damping = np.where(better, damping / 5, damping * 10)
        return best

    def linearise(self, state: State) -> Linearised:
        """Residuals, Jacobian and normal equations at a state."""
        n = len(state.root)
        measured = self._measured
        posed = self._skeleton.pose(self._rest, state.root, state.angles)
        jacobian = self._skeleton.jacobian(posed)

        joints = posed.points + state.wrist[:, None]
        inverse = 1 / np.maximum(joints[..., 2], _NEAREST)
        uv = joints[..., :2] * inverse[..., None]
        error = measured.rays - uv
        squared = np.einsum("hkc,hkc->hk", error, error) / self._extent[:, None] ** 2
        robust = 1 / (1 + squared / _OUTLIER_2D**2)
        weights = measured.weights / _SIGMA_2D**2
        root_weight = np.sqrt(weights) * robust / self._extent[:, None]

        rows = np.zeros((n, 105, _N))
        residuals = np.empty((n, 105))
        projected = rows[:, :42].reshape(n, 21, 2, _N)
        projected[..., :N_POSE] = jacobian[:, :, :2] - uv[..., None] * jacobian[:, :, 2:]
        projected[:, :, 0, N_POSE] = projected[:, :, 1, N_POSE + 1] = 1.0
        projected[..., N_POSE + 2] = -uv
        projected *= (root_weight * inverse)[..., None, None]
        residuals[:, :42] = (error * root_weight[..., None]).reshape(n, 42)

        weight_3d = np.sqrt(measured.weights)[..., None] / _SIGMA_3D
        rows[:, 42:, :N_POSE] = (
            (jacobian - jacobian.mean(1, keepdims=True)) * weight_3d[..., None]
        ).reshape(n, 63, N_POSE)
        centred = posed.points - posed.points.mean(1, keepdims=True)
        residuals[:, 42:] = ((self._points - centred) * weight_3d).reshape(n, 63)

        transposed = np.swapaxes(rows, 1, 2)
        lhs = transposed @ rows
        rhs = (transposed @ residuals[..., None])[..., 0]
        prior_lhs, prior_rhs, prior_cost = self._angle_terms(state.angles)
        diagonal = np.arange(3, N_POSE)
        lhs[:, diagonal, diagonal] += prior_lhs
        rhs[:, 3:N_POSE] += prior_rhs
        # Geman-McClure's own cost, of which the squared reweighted residual is the local model.
        cost = np.sum(weights * squared * robust, axis=1) + np.sum(residuals[:, 42:] ** 2, axis=1) + prior_cost
        cost = np.where(np.isfinite(cost) & (joints[..., 2].min(1) > _NEAREST), cost, np.inf)
        return Linearised(
            state, posed, lhs, rhs, cost, np.sqrt(squared).mean(1), rows, residuals, (root_weight * inverse)
        )

    def _angle_terms(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = len(angles)
        weight = 1 / self._relaxed_sigma**2
        off = self._relaxed - angles
        outside = np.clip(angles, self._limits[..., 0], self._limits[..., 1]) - angles
        lhs = weight + (outside != 0) / _SIGMA_LIMIT**2
        rhs = weight * off + outside / _SIGMA_LIMIT**2
        cost = weight * off**2 + outside**2 / _SIGMA_LIMIT**2
        if self._last is not None:
            follow = self._last_weight[:, None, None, None]
            change = self._last - angles
            lhs, rhs, cost = lhs + follow, rhs + follow * change, cost + follow * change**2
        return lhs.reshape(n, 45), rhs.reshape(n, 45), cost.reshape(n, 45).sum(1)

    def shape_information(
        self, solved: Linearised
    ) -> tuple[Float[np.ndarray, "hands 10 10"], Float[np.ndarray, "hands 10"]]:
        """What the measurements say about betas once the pose is free to follow (Schur complement).

        A matrix S and a vector g: the best change of betas is ``S^-1 g``.
        """
        n = len(solved.cost)
        dirs = self._skeleton.shape_jacobian(solved.posed, solved.state.root)
        joints = solved.posed.points + solved.state.wrist[:, None]
        uv = joints[..., :2] / np.maximum(joints[..., 2:], _NEAREST)
        columns = np.empty((n, 105, 10))
        across = (dirs[:, :, :2] - uv[..., None] * dirs[:, :, 2:]) * solved.weights_2d[..., None, None]
        columns[:, :42] = across.reshape(n, 42, 10)
        weight_3d = np.sqrt(self._measured.weights)[..., None] / _SIGMA_3D
        columns[:, 42:] = ((dirs - dirs.mean(1, keepdims=True)) * weight_3d[..., None]).reshape(n, 63, 10)
        transposed = np.swapaxes(columns, 1, 2)
        coupling = transposed @ solved.rows
        eliminated = np.linalg.solve(
            solved.lhs, np.concatenate([np.swapaxes(coupling, 1, 2), solved.rhs[..., None]], axis=2)
        )
        information = transposed @ columns - coupling @ eliminated[..., :10]
        gradient = (transposed @ solved.residuals[..., None] - coupling @ eliminated[..., 10:])[..., 0]
        return information, gradient
