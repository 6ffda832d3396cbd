"""Levenberg-Marquardt on the pose of one or two hands, in numpy: the inner loop of the keypoint fit.

Everything is in the axes of a virtual camera that looks at each hand (``_view``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from a2p_ros.camera import CameraModel, rotation_along
from a2p_ros.fitting.skeleton import Posed, Skeleton, finger_limits
from a2p_ros.fitting.small_systems import inverse_factor, solve_spd
from a2p_ros.rotations import axis_angle_to_matrix, nearest_rotation
from a2p_ros.translation import linear_translation
from a2p_ros.types import HandKeypoints

_EYE = np.eye(9)
#: Keeps the shared unknowns solvable where all keypoints are taken for outliers.
_RIDGE = 1e-6
_PALM = [0, 5, 9, 13, 17]
#: Standard deviation of a 2D keypoint, and from where on it is an outlier: shares of the hand's extent.
_SIGMA_2D = 0.02
_OUTLIER_2D = 0.10
#: Standard deviation of a 3D keypoint across the ray [m], and how much less its depth counts.
_SIGMA_3D = 0.015
_ALONG = np.array([1.0, 1.0, 0.6])
#: How fast an angle may change from one frame to the next, and how soft its limits are [rad].
_SIGMA_TIME = 0.4
#: How far a network's angles are from the true ones [rad]: a choice of ours, no paper gives one.
_SIGMA_REGRESSED = 0.25
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
        turns = rotation_along(directions[:, 0])
        seen = directions[:, 1:] @ turns
        points = np.stack([hand.keypoints_3d for hand in hands]).astype(np.float64)
        weights = np.clip(np.stack([hand.confidence for hand in hands]).astype(np.float64), 0.0, 1.0)
        return cls(turns, seen[..., :2] / np.maximum(seen[..., 2:], 1e-3), points, weights)


def _pick(mask: np.ndarray, mine: np.ndarray, its: np.ndarray) -> np.ndarray:
    return np.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), its, mine)


def _bone_lengths(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, 1:] - points[:, _BONES_FROM], axis=2)


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
            self.angles + step[:, 3:48].reshape(-1, 5, 3, 3),
            self.wrist + step[:, 48:],
        )

    def replaced(self, mask: Bool[np.ndarray, "hands"], other: State) -> State:
        """``other`` where ``mask``, else this."""
        return State(
            _pick(mask, self.root, other.root),
            _pick(mask, self.angles, other.angles),
            _pick(mask, self.wrist, other.wrist),
        )


@dataclass(frozen=True)
class Linearised:
    """The problem at a state, its error the mean reprojection error relative to the hand's extent.

    Fingers do not depend on one another, so the normal equations are an arrow: 5 x 9 angles, each
    finger coupled only to the 9 shared unknowns (turn, wrist, offset of the 3D points). Beyond speed,
    blocks of 9 stay below the size at which BLAS starts threads that wait for one another.
    """

    state: State
    posed: Posed
    cost: Float[np.ndarray, "hands"]
    error: Float[np.ndarray, "hands"]
    finger_rows: Float[np.ndarray, "hands 5 20 9"]
    shared_rows: Float[np.ndarray, "hands 5 20 9"]
    residuals: Float[np.ndarray, "hands 5 20"]
    wrist_rows: Float[np.ndarray, "hands 5 9"]
    wrist_residuals: Float[np.ndarray, "hands 5"]
    prior_lhs: Float[np.ndarray, "hands 5 9"]
    prior_rhs: Float[np.ndarray, "hands 5 9"]
    weights: Float[np.ndarray, "hands 21 2"]

    def replaced(self, mask: Bool[np.ndarray, "hands"], other: Linearised) -> Linearised:
        """``other`` where ``mask``, else this."""
        if mask.all() or not mask.any():
            return other if mask.all() else self
        picked = {
            f.name: _pick(mask, getattr(self, f.name), getattr(other, f.name))
            for f in dataclasses.fields(self)
            if f.name not in ("state", "posed")
        }
        posed = (
            _pick(mask, getattr(self.posed, f), getattr(other.posed, f))
            for f in ("points", "landmarks", "turns", "axes")
        )
        return Linearised(state=self.state.replaced(mask, other.state), posed=Posed(*posed), **picked)

    def step(self, damping: Float[np.ndarray, "hands"]) -> Float[np.ndarray, "hands 51"]:
        """The damped Gauss-Newton step: turn, angles, wrist."""
        stretch = damping[:, None, None] * _EYE + 1
        lhs, coupling, rhs = self.finger_equations(self.shared_rows)
        whitener = inverse_factor(lhs * stretch[:, None])
        columns, target = whitener @ coupling, whitener @ rhs[..., None]
        columns_t = np.swapaxes(columns, -1, -2)

        shared_t, wrist_t = np.swapaxes(self.shared_rows, -1, -2), np.swapaxes(self.wrist_rows, -1, -2)
        shared = ((shared_t @ self.shared_rows).sum(1) + wrist_t @ self.wrist_rows) * stretch + _RIDGE * _EYE
        shared_rhs = (shared_t @ self.residuals[..., None]).sum(1) + wrist_t @ self.wrist_residuals[..., None]
        common = solve_spd(shared - (columns_t @ columns).sum(1), shared_rhs - (columns_t @ target).sum(1))
        angles = np.swapaxes(whitener, -1, -2) @ (target - columns @ common[:, None])
        return np.concatenate([common[:, :3, 0], angles.reshape(-1, 45), common[:, 3:6, 0]], axis=1)

    def finger_equations(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal equations of each finger's angles: their matrix, their coupling to some columns, right-hand side."""
        transposed = np.swapaxes(self.finger_rows, -1, -2)
        lhs = transposed @ self.finger_rows + self.prior_lhs[..., None] * _EYE
        return lhs, transposed @ columns, (transposed @ self.residuals[..., None])[..., 0] + self.prior_rhs


class HandProblem:
    """Residuals of some hands, each over its standard deviation, and their minimum.

    - projection of the landmarks against the keypoints, robust (Geman-McClure);
    - landmarks against 3D keypoints, their scale the model's unless they are ``metric``, their origin free;
    - angles against a relaxed hand, or what a network says of this one, last frame's angles, and the limits of
      human joints.
    """

    _limits = finger_limits()
    _relaxed = np.zeros((5, 3, 3))
    _relaxed[1:, :, 1] = 0.3
    _relaxed[0, 1:, 1] = 0.2
    # Half the range of a joint, but a hinge's play is nearly none and twist follows the finger, it does not lead.
    _relaxed_sigma = np.clip((_limits[..., 1] - _limits[..., 0]) / 2, 0.03, 0.8) * np.array([0.5, 1.0, 0.7])

    def __init__(
        self, skeleton: Skeleton, betas: Float[np.ndarray, "10"], measured: Measured, *, metric: bool = False
    ) -> None:
        self._skeleton = skeleton
        self._measured = measured
        self._rest = skeleton.rest(betas)
        self._extent = np.maximum(np.ptp(measured.rays, axis=1).max(1), 1e-6)
        self._weight_2d = np.sqrt(measured.weights) / _SIGMA_2D
        self._weight_3d = np.sqrt(measured.weights) / _SIGMA_3D
        self._expected, self._expected_sigma = self._relaxed, self._relaxed_sigma
        self._last: np.ndarray | None = None
        self._last_weight = np.zeros(len(self._rest))
        flat = self._rest + skeleton.shift
        bones = _bone_lengths(measured.points)
        model_bones = _bone_lengths(flat)
        # Errors of depth make bones longer: points that are metric, of a hand of this size, must not be shrunk for it.
        scale = np.where(metric, 1.0, np.median(model_bones / np.maximum(bones, 1e-6), axis=1))
        points = self._points = measured.points * scale[:, None, None]
        palm = points[:, _PALM] - points[:, _PALM].mean(1, keepdims=True)
        model_palm = flat[:, _PALM] - flat[:, _PALM].mean(1, keepdims=True)
        #: Global rotation that the 3D points of the palm alone give (Kabsch).
        self.palm_turn = nearest_rotation(np.swapaxes(palm, 1, 2) @ model_palm)

    def first_guess(self) -> State:
        """Palm by Kabsch, fingers by their bones' directions in the 3D points, wrist by its linear solution."""
        angles = self._skeleton.angles_from_points(self._points, self.palm_turn, self._limits)
        return self.located(self.palm_turn, angles)

    def located(self, root: Float[np.ndarray, "hands 3 3"], angles: Float[np.ndarray, "hands 5 3 3"]) -> State:
        """A state whose wrists are the linear solutions for these poses."""
        points = self._skeleton.pose(self._rest, root, angles).landmarks
        return State(root, angles, linear_translation(points, self._measured.rays, self._measured.weights))

    def follow(self, angles: Float[np.ndarray, "hands 5 3 3"], known: Bool[np.ndarray, "hands"]) -> None:
        """Hold the angles of ``known`` hands near those of the last frame."""
        self._last, self._last_weight = angles, known / _SIGMA_TIME**2

    def expect(self, angles: Float[np.ndarray, "hands 5 3 3"], known: Bool[np.ndarray, "hands"]) -> None:
        """Hold the angles of ``known`` hands near these, which a network regressed, and not near a relaxed hand's.

        Within the limits of human joints: what a network says beyond them is its error.
        """
        chosen = known[:, None, None, None]
        possible = np.clip(angles, self._limits[..., 0], self._limits[..., 1])
        self._expected = np.where(chosen, possible, self._relaxed)
        self._expected_sigma = np.where(chosen, _SIGMA_REGRESSED, self._relaxed_sigma)

    def solve(self, start: Linearised, steps: int) -> Linearised:
        """The state after so many Levenberg-Marquardt steps, none of which raises the cost."""
        best = start
        damping = np.full(len(best.cost), 1e-3)
        for _ in range(steps):
            trial = self.linearise(best.state.moved(best.step(damping)))
            better = trial.cost <= best.cost
            best = best.replaced(better, trial)
            damping = np.where(better, damping / 5, damping * 10)
        return best

    def linearise(self, state: State) -> Linearised:
        """Residuals and Jacobian at a state."""
        n = len(state.root)
        posed = self._skeleton.pose(self._rest, state.root, state.angles)
        joints = posed.landmarks + state.wrist[:, None]
        inverse = 1 / np.maximum(joints[..., 2:], _NEAREST)
        uv = joints[..., :2] * inverse
        error = self._measured.rays - uv
        squared = np.einsum("hkc,hkc->hk", error, error) / self._extent[:, None] ** 2
        robust = 1 / (1 + squared / _OUTLIER_2D**2)
        # Geman-McClure: the squared weight is that of the locally equivalent least squares.
        across = (self._weight_2d * robust / self._extent[:, None])[..., None]
        weights = np.concatenate([across, self._weight_3d[..., None]], axis=2)

        offset = self._offset(posed.landmarks)
        residuals = np.empty((n, 21, 5))
        residuals[..., :2] = error * across
        residuals[..., 2:] = (self._points + offset - posed.landmarks) * self._weight_3d[..., None] * _ALONG
        shared = np.zeros((n, 21, 5, 9))
        shared[..., :3] = self._rows(self._skeleton.turn_jacobian(posed), uv, inverse, weights)
        shared[..., 0, 3] = shared[..., 1, 4] = across[..., 0] * inverse[..., 0]
        shared[..., :2, 5] = -uv * across * inverse
        shared[..., 2:, 6:] = -np.eye(3) * (self._weight_3d[..., None] * _ALONG)[..., None]
        chain = (n, 5, 4)
        fingers = self._rows(
            self._skeleton.finger_jacobian(posed).reshape(n, 20, 3, 9), uv[:, 1:], inverse[:, 1:], weights[:, 1:]
        )
        prior_lhs, prior_rhs, prior_cost = self._angle_terms(state.angles)
        cost = np.sum(self._weight_2d**2 * squared * robust, axis=1) + np.sum(residuals[..., 2:] ** 2, axis=(1, 2))
        cost = cost + prior_cost
        return Linearised(
            state=state,
            posed=posed,
            cost=np.where(np.isfinite(cost) & (joints[..., 2].min(1) > _NEAREST), cost, np.inf),
            error=np.sqrt(squared).mean(1),
            finger_rows=fingers.reshape(n, 5, 20, 9),
            shared_rows=shared[:, 1:].reshape(n, 5, 20, 9),
            residuals=residuals[:, 1:].reshape(*chain, 5).reshape(n, 5, 20),
            wrist_rows=shared[:, 0],
            wrist_residuals=residuals[:, 0],
            prior_lhs=prior_lhs,
            prior_rhs=prior_rhs,
            weights=weights,
        )

    def _offset(self, points: np.ndarray) -> np.ndarray:
        """Where the 3D points' arbitrary origin lies: best for given joints, so it needs no memory between steps."""
        weight = self._weight_3d[..., None] ** 2
        return np.sum(weight * (points - self._points), axis=1, keepdims=True) / np.sum(weight, axis=1, keepdims=True)

    @staticmethod
    def _rows(jacobian: np.ndarray, uv: np.ndarray, inverse: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted derivatives of projection and 3D point from those of the joints (..., 3, k) -> (..., 5, k)."""
        rows = np.empty((*jacobian.shape[:-2], 5, jacobian.shape[-1]))
        scaled = weights[..., :1] * inverse
        rows[..., :2, :] = (jacobian[..., :2, :] - uv[..., None] * jacobian[..., 2:, :]) * scaled[..., None]
        rows[..., 2:, :] = jacobian * (weights[..., 1:] * _ALONG)[..., None]
        return rows

    def _angle_terms(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = len(angles)
        weight = np.broadcast_to(1 / self._expected_sigma**2, angles.shape)
        off = self._expected - angles
        outside = np.clip(angles, self._limits[..., 0], self._limits[..., 1]) - angles
        lhs = weight + (outside != 0) / _SIGMA_LIMIT**2
        rhs = weight * off + outside / _SIGMA_LIMIT**2
        cost = weight * off**2 + outside**2 / _SIGMA_LIMIT**2
        if self._last is not None:
            follow = self._last_weight[:, None, None, None]
            change = self._last - angles
            lhs, rhs, cost = lhs + follow, rhs + follow * change, cost + follow * change**2
        return lhs.reshape(n, 5, 9), rhs.reshape(n, 5, 9), cost.reshape(n, 45).sum(1)

    def shape_information(
        self, solved: Linearised
    ) -> tuple[Float[np.ndarray, "hands 10 10"], Float[np.ndarray, "hands 10"]]:
        """What the measurements say about betas once the pose is free to follow (Schur complement).

        A matrix S and a vector g: the best change of betas is ``S^-1 g``.
        """
        n = len(solved.cost)
        joints = solved.posed.landmarks + solved.state.wrist[:, None]
        inverse = 1 / np.maximum(joints[..., 2:], _NEAREST)
        dirs = self._skeleton.shape_jacobian(solved.posed, solved.state.root)
        betas = self._rows(dirs, joints[..., :2] * inverse, inverse, solved.weights)
        columns = np.concatenate([solved.shared_rows, betas[:, 1:].reshape(n, 5, 20, 10)], axis=-1)
        wrist = np.concatenate([solved.wrist_rows, betas[:, 0]], axis=-1)

        lhs, coupling, rhs = solved.finger_equations(columns)
        whitener = inverse_factor(lhs)
        inner, target = whitener @ coupling, whitener @ rhs[..., None]
        inner_t, columns_t = np.swapaxes(inner, -1, -2), np.swapaxes(columns, -1, -2)
        wrist_t = np.swapaxes(wrist, 1, 2)
        whole = (columns_t @ columns - inner_t @ inner).sum(1) + wrist_t @ wrist
        gradient = (columns_t @ solved.residuals[..., None] - inner_t @ target).sum(1)
        gradient = gradient + wrist_t @ solved.wrist_residuals[..., None]

        outer = solve_spd(whole[:, :9, :9], np.concatenate([whole[:, :9, 9:], gradient[:, :9]], axis=-1))
        information = whole[:, 9:, 9:] - whole[:, 9:, :9] @ outer[..., :10]
        return information, (gradient[:, 9:] - whole[:, 9:, :9] @ outer[..., 10:])[..., 0]
