"""The hand's 21 joints and their derivatives with respect to joint angles and shape, in numpy.

The arrays are read from a ``HandModel`` once. Numpy and not torch, because the fit works on one or
two hands of 21 points: there torch spends ten times longer on starting each operation than on
the arithmetic, and automatic differentiation longer still.

Fingers are in OpenPose order (thumb, index, middle, ring, little), three joints each; angles are
(twist, flexion, abduction) [rad] in the axes of ``hand.limits``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.hand.limits import JOINT_LIMITS, joint_axes
from a2p_ros.rotations import skew
from a2p_ros.types import Pair, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: MANO16 joints of each finger in OpenPose order.
FINGERS = np.array([[13, 14, 15], [1, 2, 3], [4, 5, 6], [10, 11, 12], [7, 8, 9]])
_TWIST, _FLEXION, _ABDUCTION = range(3)
#: Which of a finger's four points (base to tip) each of its three joints moves: those beyond it.
_MOVES = np.arange(4)[:, None] > np.arange(3)

#: MediaPipe's landmarks against the open hand's joints on the flat right hand, in its rest axes [mm]: its tips lie
#: inside the finger, its knuckles nearer to the palm's skin and towards the fingers. Measured on 390 rendered hands
#: with known joints; on others it takes the median distance from 3.8 to 2.8 % of the hand box.
# fmt: off
_SHIFT_MM = (
    (-3.4, -4.8, -3.3),  # wrist
    (5.1, -6.1, -2.0), (1.1, 2.2, -0.5), (4.8, 4.3, -5.0), (3.8, 0.3, -5.1),  # thumb
    (-9.1, -0.7, -1.1), (-1.5, -1.5, 0.4), (0.9, -0.3, 0.0), (5.3, -0.3, -1.0),  # index
    (-5.3, -5.1, -0.2), (-2.6, -4.1, 0.5), (0.6, -1.9, -0.2), (5.8, 0.0, -0.3),  # middle
    (-5.6, -4.5, -0.2), (-2.1, -3.2, 0.5), (0.5, -1.8, 0.8), (5.2, -1.9, 2.5),  # ring
    (-6.4, -2.8, 0.1), (-1.6, -2.4, 0.4), (0.3, -0.7, 0.2), (5.4, -0.1, 1.5),  # little
)
# fmt: on
#: The same in shares of the hand's length; each landmark moves with the bone that ends in its joint.
LANDMARK_SHIFT: Float[np.ndarray, "21 3"] = np.array(_SHIFT_MM) / 187.2


@dataclass(frozen=True)
class SideArrays:
    """What the kinematics needs of one side's hand model [m]: 21 rest points relative to the wrist, OpenPose order."""

    points: Float[np.ndarray, "21 3"]
    shape_dirs: Float[np.ndarray, "21 3 10"]
    axes: Float[np.ndarray, "5 3 3 3"]
    shift: Float[np.ndarray, "21 3"]

    @classmethod
    def of(cls, model: HandModel, landmark_shift: Float[np.ndarray, "21 3"]) -> SideArrays:
        """Read a model: the response of its rest points to each beta is exactly linear."""
        eye = torch.eye(3).expand(11, 16, 3, 3).to(model.template)
        betas = torch.cat([torch.zeros(1, 10), torch.eye(10)]).to(model.template)
        points = model.joints(betas, eye, eye.new_zeros(11, 3)).double().cpu().numpy()
        points = points - points[:, :1]
        axes = joint_axes(points[0], model.side)[FINGERS - 1]
        # The limits' axes are the right hand's; M R(A) M is the rotation by the same angles about -M A.
        axes = axes * np.array([1.0, -1.0, -1.0])[:, None] if model.side is Side.LEFT else axes
        shift = landmark_shift * np.linalg.norm(points[0, 12])
        shift = shift * np.array([-1.0, 1.0, 1.0]) if model.side is Side.LEFT else shift
        return cls(points[0], np.moveaxis(points[1:] - points[0], 0, -1), axes, shift)


@dataclass(frozen=True)
class Posed:
    """Joints and landmarks relative to the wrist [m] and what their derivatives need."""

    points: Float[np.ndarray, "hands 21 3"]
    landmarks: Float[np.ndarray, "hands 21 3"]
    turns: Float[np.ndarray, "hands 5 3 3 3"]
    axes: Float[np.ndarray, "hands 5 3 3 3"]


class Skeleton:
    """Batched forward kinematics of some hands, each of its own side.

    Args:
        sides: arrays of each hand in the batch.
    """

    def __init__(self, sides: list[SideArrays]) -> None:
        self._points = np.stack([s.points for s in sides])
        self._shape_dirs = np.stack([s.shape_dirs for s in sides])
        self._axes = np.stack([s.axes for s in sides])
        self._shift = np.stack([s.shift for s in sides])
        # The mirrored axes of a left hand have the bone along -x.
        self._along = np.sign(
            np.einsum("ni,ni->n", self._points[:, 10] - self._points[:, 9], self._axes[:, 2, 0, :, 0])
        )
        self._axes_t = np.ascontiguousarray(np.swapaxes(self._axes, -1, -2))

    @property
    def shift(self) -> Float[np.ndarray, "hands 21 3"]:
        """Landmarks from joints on the flat hands [m]."""
        return self._shift

    def rest(self, betas: Float[np.ndarray, "10"]) -> Float[np.ndarray, "hands 21 3"]:
        """Points of the shaped flat hands relative to the wrist [m]."""
        return self._points + self._shape_dirs @ betas

    def pose(
        self,
        rest: Float[np.ndarray, "hands 21 3"],
        root: Float[np.ndarray, "hands 3 3"],
        angles: Float[np.ndarray, "hands 5 3 3"],
    ) -> Posed:
        """Points at a global rotation and joint angles."""
        n = len(rest)
        cos, sin = np.cos(angles), np.sin(angles)
        ct, cf, ca = (cos[..., i] for i in range(3))
        st, sf, sa = (sin[..., i] for i in range(3))
        local = np.empty((n, 5, 3, 3, 3))
        local[..., 0, 0], local[..., 0, 1], local[..., 0, 2] = ca * cf, ca * sf * st - sa * ct, ca * sf * ct + sa * st
        local[..., 1, 0], local[..., 1, 1], local[..., 1, 2] = sa * cf, sa * sf * st + ca * ct, sa * sf * ct - ca * st
        local[..., 2, 0], local[..., 2, 1], local[..., 2, 2] = -sf, cf * st, cf * ct
        # Axes of R = Rz(abduction) Ry(flexion) Rx(twist), in the joint's own frame A.
        spin = np.zeros((n, 5, 3, 3, 3))
        spin[..., :, _TWIST] = local[..., :, 0]
        spin[..., 0, _FLEXION], spin[..., 1, _FLEXION] = -sa, ca
        spin[..., 2, _ABDUCTION] = 1.0
        rotations = self._axes @ local @ self._axes_t
        spin = self._axes @ spin

        offsets = rest[:, 1:].reshape(n, 5, 4, 3)
        bones = np.diff(offsets, axis=2)[..., None]
        points = np.zeros((n, 21, 3))
        chain = points[:, 1:].reshape(n, 5, 4, 3)
        landmarks = np.empty_like(points)
        landmarks[:, 0] = (root @ self._shift[:, 0, :, None])[..., 0]
        shown = landmarks[:, 1:].reshape(n, 5, 4, 3)
        shift = self._shift[:, 1:].reshape(n, 5, 4, 3, 1)
        turns, axes = np.empty_like(rotations), np.empty_like(spin)
        turn = root[:, None]
        chain[:, :, 0] = (turn @ offsets[:, :, 0, :, None])[..., 0]
        shown[:, :, 0] = chain[:, :, 0] + (turn @ shift[:, :, 0])[..., 0]
        for j in range(3):
            axes[:, :, j] = turn @ spin[:, :, j]
            turn = turns[:, :, j] = turn @ rotations[:, :, j]
            chain[:, :, j + 1] = chain[:, :, j] + (turn @ bones[:, :, j])[..., 0]
            shown[:, :, j + 1] = chain[:, :, j + 1] + (turn @ shift[:, :, j + 1])[..., 0]
        return Posed(points, landmarks, turns, axes)

    def turn_jacobian(self, posed: Posed) -> Float[np.ndarray, "hands 21 3 3"]:
        """Derivatives of the landmarks for turns of the whole hand about the wrist, in output axes [m/rad]."""
        return -skew(posed.landmarks)

    def finger_jacobian(self, posed: Posed) -> Float[np.ndarray, "hands 5 4 3 9"]:
        """Derivatives of each finger's landmarks for its own angles, joint by joint [m/rad].

        The geometric Jacobian: axis x (landmark - joint), for landmarks beyond the joint.
        """
        n = len(posed.points)
        chain = posed.points[:, 1:].reshape(n, 5, 4, 3)
        shown = posed.landmarks[:, 1:].reshape(n, 5, 4, 3)
        lever = (shown[:, :, :, None] - chain[:, :, None, :3]) * _MOVES[..., None]
        ax, ay, az = (posed.axes[:, :, None, :, i] for i in range(3))
        px, py, pz = (lever[..., i, None] for i in range(3))
        out = np.empty((n, 5, 4, 3, 3, 3))
        out[:, :, :, 0] = ay * pz - az * py
        out[:, :, :, 1] = az * px - ax * pz
        out[:, :, :, 2] = ax * py - ay * px
        return out.reshape(n, 5, 4, 3, 9)

    def shape_jacobian(self, posed: Posed, root: Float[np.ndarray, "hands 3 3"]) -> Float[np.ndarray, "hands 21 3 10"]:
        """Derivatives of joints and landmarks with respect to betas [m]."""
        n = len(posed.points)
        dirs = self._shape_dirs[:, 1:].reshape(n, 5, 4, 3, 10)
        out = np.zeros((n, 21, 3, 10))
        chain = out[:, 1:].reshape(n, 5, 4, 3, 10)
        chain[:, :, 0] = root[:, None] @ dirs[:, :, 0]
        for j in range(3):
            chain[:, :, j + 1] = chain[:, :, j] + posed.turns[:, :, j] @ (dirs[:, :, j + 1] - dirs[:, :, j])
        return out

    def local_rotations(self, posed: Posed, root: Float[np.ndarray, "hands 3 3"]) -> Float[np.ndarray, "hands 15 3 3"]:
        """Joint rotations in MANO's order, as ``HandPose.hand_pose`` holds them."""
        n = len(posed.points)
        parents = np.concatenate([np.broadcast_to(root[:, None, None], (n, 5, 1, 3, 3)), posed.turns[:, :, :2]], axis=2)
        out = np.empty((n, 15, 3, 3))
        out[:, FINGERS - 1] = np.swapaxes(parents, -1, -2) @ posed.turns
        return out

    def angles_from_rotations(self, rotations: Float[np.ndarray, "hands 15 3 3"]) -> Float[np.ndarray, "hands 5 3 3"]:
        """Joint angles of joint rotations in MANO's order: the inverse of ``local_rotations``.

        Of the two triples of angles that give one rotation the one with less twist and abduction, so that flexion may
        exceed 90 degrees.
        """
        local = self._axes_t @ np.asarray(rotations, np.float64)[:, FINGERS - 1] @ self._axes
        flexion = np.arcsin(np.clip(-local[..., 2, 0], -1.0, 1.0))
        twist = np.arctan2(local[..., 2, 1], local[..., 2, 2])
        abduction = np.arctan2(local[..., 1, 0], local[..., 0, 0])
        first = np.stack([twist, flexion, abduction], axis=-1)
        other = np.stack([_half_turn(twist), np.copysign(np.pi, flexion) - flexion, _half_turn(abduction)], axis=-1)
        sideways = np.abs(first[..., [_TWIST, _ABDUCTION]]).sum(-1) <= np.abs(other[..., [_TWIST, _ABDUCTION]]).sum(-1)
        return np.where(sideways[..., None], first, other)

    def angles_from_points(
        self,
        points: Float[np.ndarray, "hands 21 3"],
        root: Float[np.ndarray, "hands 3 3"],
        limits: Float[np.ndarray, "5 3 3 2"],
    ) -> Float[np.ndarray, "hands 5 3 3"]:
        """Joint angles that turn each bone into the direction it has in a cloud of 21 points.

        Twist stays zero; each angle is clipped to its limits before the next joint is looked at,
        so that one bad point does not bend the rest of a finger backwards.
        """
        n = len(points)
        bones = np.diff(points[:, 1:].reshape(n, 5, 4, 3), axis=2)
        angles = np.zeros((n, 5, 3, 3))
        turn = np.broadcast_to(root[:, None], (n, 5, 3, 3))
        for j in range(3):
            axes = self._axes[:, :, j]
            d = (np.swapaxes(turn @ axes, -1, -2) @ bones[:, :, j, :, None])[..., 0] * self._along[:, None, None]
            d = d / np.maximum(np.linalg.norm(d, axis=-1, keepdims=True), 1e-9)
            # d = Rz(a) Ry(f) x = (cos a cos f, sin a cos f, -sin f); at f = 90 degrees a has no meaning.
            level = np.hypot(d[..., 0], d[..., 1])
            abduction = np.arctan2(np.where(d[..., 0] < 0, -d[..., 1], d[..., 1]), np.abs(d[..., 0]))
            abduction *= np.minimum(1.0, level / 0.3)
            flexion = np.arctan2(-d[..., 2], np.copysign(level, d[..., 0]))
            angles[:, :, j, _FLEXION] = np.clip(flexion, *np.moveaxis(limits[:, j, _FLEXION], -1, 0))
            angles[:, :, j, _ABDUCTION] = np.clip(abduction, *np.moveaxis(limits[:, j, _ABDUCTION], -1, 0))
            f, a = angles[:, :, j, _FLEXION], angles[:, :, j, _ABDUCTION]
            cf, sf, ca, sa = np.cos(f), np.sin(f), np.cos(a), np.sin(a)
            zero = np.zeros_like(cf)
            local = np.stack([ca * cf, -sa, ca * sf, sa * cf, ca, sa * sf, -sf, zero, cf], -1).reshape(n, 5, 3, 3)
            turn = turn @ axes @ local @ np.swapaxes(axes, -1, -2)
        return angles


def _half_turn(angle: np.ndarray) -> np.ndarray:
    """The angle half a turn away, in [-pi, pi]."""
    return angle - np.copysign(np.pi, angle)


def finger_limits() -> Float[np.ndarray, "5 3 3 2"]:
    """``JOINT_LIMITS`` by finger in OpenPose order."""
    return JOINT_LIMITS[FINGERS - 1]


def side_arrays(
    models: Pair[HandModel], landmark_shift: Float[np.ndarray, "21 3"] = LANDMARK_SHIFT
) -> Pair[SideArrays]:
    """``SideArrays`` of both models."""
    return Pair(SideArrays.of(models.left, landmark_shift), SideArrays.of(models.right, landmark_shift))


def has_rigid_tips(model: HandModel) -> bool:
    """Whether the fingertips are fixed to the last bones, as this skeleton assumes: skinned MANO tips are nearly so."""
    weights = model.weights[list(model.tip_vertices)][:, FINGERS[:, 2].tolist()].diagonal()
    return model.posedirs is None and bool((weights > 1 - 1e-6).all())
