"""How far the joints of a human hand turn, in axes that anatomy would name.

A joint's rotation is written in the local axes of the right hand at rest:

    R = A  Rz(abduction) Ry(flexion) Rx(twist)  A^T,      A = [bone, flexion, back]

``bone`` points to the fingertip, ``flexion`` is the axis about which a positive turn bends the
finger to the palm, ``back`` = bone x flexion points out of the nail. A positive turn about
``back`` moves a finger to the thumb side; it moves the thumb in front of the palm (palmar
abduction). On the open hand at rest the middle finger's bone is -x, so flexion of the four
fingers is close to a positive rotation about z (on a left hand: about -z).

A left hand's rotations are mirrored, M R M with M = diag(-1, 1, 1), and use the same numbers.
Docs and sources of the ranges: docs/hand_model.md.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from a2p_ros.types import Side

#: Direction out of the nail of each finger of the right hand at rest (index, middle, little, ring, thumb),
#: the mean over its three joints' frames in the rig; made orthogonal to each bone before use.
BACK_OF_FINGER: Float[np.ndarray, "5 3"] = np.array(
    [
        [0.00, 1.00, 0.02],
        [0.00, 1.00, -0.05],
        [0.04, 0.96, -0.27],
        [0.02, 0.99, -0.14],
        [0.54, 0.30, 0.78],
    ]
)

_MCP = ((-0.15, 0.15), (-0.60, 1.75), (-0.40, 0.40))
_PIP = ((-0.08, 0.08), (-0.15, 2.00), (-0.08, 0.08))
_DIP = ((-0.08, 0.08), (-0.35, 1.50), (-0.08, 0.08))
_THUMB = (
    ((-0.80, 0.40), (-0.60, 0.90), (-0.60, 0.90)),
    ((-0.20, 0.20), (-0.35, 1.15), (-0.30, 0.30)),
    ((-0.08, 0.08), (-0.50, 1.45), (-0.08, 0.08)),
)

#: (15, 3, 2): joint 1 to 15 in MANO's order; twist, flexion, abduction; lower and upper [rad].
JOINT_LIMITS: Float[np.ndarray, "15 3 2"] = np.array([*(_MCP, _PIP, _DIP) * 4, *_THUMB])


def joint_axes(joints: Float[np.ndarray, "21 3"], side: Side = Side.RIGHT) -> Float[np.ndarray, "15 3 3"]:
    """Local axes of joints 1 to 15, columns (bone, flexion, back), in right-hand rest axes.

    ``joints`` are the model's own 21 joints at rest (OpenPose order, [m]); those of a left hand
    are mirrored first, so both hands of one model get the same axes.
    """
    points = np.asarray(joints, np.float64)
    if side is Side.LEFT:
        points = points * [-1.0, 1.0, 1.0]
    axes = np.empty((15, 3, 3))
    for finger, base in enumerate((5, 9, 17, 13, 1)):
        for i in range(3):
            bone = points[base + i + 1] - points[base + i]
            bone /= np.linalg.norm(bone)
            back = BACK_OF_FINGER[finger] - bone * (BACK_OF_FINGER[finger] @ bone)
            back /= np.linalg.norm(back)
            axes[3 * finger + i] = np.stack([bone, np.cross(back, bone), back], axis=1)
    return axes


def joint_rotations(
    angles: Float[np.ndarray, "*batch 15 3"], axes: Float[np.ndarray, "15 3 3"], side: Side = Side.RIGHT
) -> Float[np.ndarray, "*batch 15 3 3"]:
    """Rotation matrices (the hand pose of ``side``) of joint angles (twist, flexion, abduction) [rad]."""
    a = np.asarray(angles, np.float64)
    (ct, cf, ca), (st, sf, sa) = np.moveaxis(np.cos(a), -1, 0), np.moveaxis(np.sin(a), -1, 0)
    local = np.stack(
        [
            np.stack([ca * cf, ca * sf * st - sa * ct, ca * sf * ct + sa * st], -1),
            np.stack([sa * cf, sa * sf * st + ca * ct, sa * sf * ct - ca * st], -1),
            np.stack([-sf, cf * st, cf * ct], -1),
        ],
        -2,
    )
    return _mirror(axes @ local @ np.swapaxes(axes, -1, -2), side)


def joint_angles(
    rotations: Float[np.ndarray, "*batch 15 3 3"], axes: Float[np.ndarray, "15 3 3"], side: Side = Side.RIGHT
) -> Float[np.ndarray, "*batch 15 3"]:
    """Joint angles (twist, flexion, abduction) [rad] of a hand pose; the inverse of ``joint_rotations``.

    Flexion is the pitch of a yaw-pitch-roll decomposition, unique for |flexion| < pi/2 and, as
    fingers bend farther than that, continued past it: of the two solutions the one with the
    smaller abduction is returned.
    """
    r = np.swapaxes(axes, -1, -2) @ _mirror(np.asarray(rotations, np.float64), side) @ axes
    abduction = np.arctan2(r[..., 1, 0], r[..., 0, 0])
    twist = np.arctan2(r[..., 2, 1], r[..., 2, 2])
    flexion = np.arctan2(-r[..., 2, 0], np.hypot(r[..., 0, 0], r[..., 1, 0]))
    beyond = np.abs(abduction) > np.pi / 2
    turned = np.stack([_wrap(twist + np.pi), _wrap(np.pi - flexion), _wrap(abduction + np.pi)], -1)
    return np.where(beyond[..., None], turned, np.stack([twist, flexion, abduction], -1))


def _mirror(rotations: Float[np.ndarray, "*batch 3 3"], side: Side) -> Float[np.ndarray, "*batch 3 3"]:
    signs = np.array([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    return rotations * signs if side is Side.LEFT else rotations


def _wrap(angle: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    return (angle + np.pi) % (2 * np.pi) - np.pi
