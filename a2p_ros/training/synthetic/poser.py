"""A hand with its forearm as the scenes place it: the model's output, moved and turned as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.hand import HandModel
from a2p_ros.hand.limits import joint_axes, joint_rotations
from a2p_ros.rendering.occlusion import occluders
from a2p_ros.types import Pair, Side

#: Spheres of the forearm beyond those that shade: distance from the wrist, radius [m].
_FAR_FOREARM = ((0.25, 0.041), (0.33, 0.045), (0.41, 0.047), (0.49, 0.048))


@dataclass(frozen=True)
class PosedArm:
    """One hand in the camera frame [m]; ``forearm`` is the unit vector from wrist to elbow.

    ``rotations`` (global first), ``betas`` and ``transl`` are the hand model's parameters, ``shape`` names the hand's
    shape.
    """

    side: Side
    rotations: Float[np.ndarray, "16 3 3"]
    betas: Float[np.ndarray, "10"]
    transl: Float[np.ndarray, "3"]
    joints: Float[np.ndarray, "21 3"]
    vertices: Float[np.ndarray, "v 3"]
    forearm: Float[np.ndarray, "3"]
    shape: str = ""

    @property
    def wrist(self) -> Float[np.ndarray, "3"]:
        """The wrist joint [m]."""
        return self.joints[0]

    @property
    def rest_wrist(self) -> Float[np.ndarray, "3"]:
        """The wrist of the hand at rest [m]: MANO's global rotation turns about it."""
        return self.joints[0] - self.transl

    def moved(
        self, turn: Float[np.ndarray, "3 3"], about: Float[np.ndarray, "3"], to: Float[np.ndarray, "3"]
    ) -> PosedArm:
        """The same arm, turned about a point, which then goes ``to``."""
        joints = (self.joints - about) @ turn.T + to
        rotations = self.rotations.copy()
        rotations[0] = turn @ rotations[0]
        return replace(
            self,
            rotations=rotations,
            transl=joints[0] - self.rest_wrist,
            joints=joints,
            vertices=(self.vertices - about) @ turn.T + to,
            forearm=turn @ self.forearm,
        )

    def spheres(self, *, whole: bool = False) -> Float[np.ndarray, "n 4"]:
        """Spheres (centre, radius) [m] inside hand and forearm; ``whole``: up to the elbow."""
        near = occluders(self.joints, self.forearm)
        if not whole:
            return near
        far = np.array([(*(self.wrist + d * self.forearm), r) for d, r in _FAR_FOREARM])
        return np.concatenate([near, far])

    def elbow_depth(self) -> float:
        """z [m] of the forearm's end."""
        return float(self.wrist[2] + 0.49 * self.forearm[2])


def gap(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> float:
    """The smallest distance between spheres of two sets [m], negative where they meet."""
    apart = np.linalg.norm(a[:, None, :3] - b[None, :, :3], axis=-1) - a[:, None, 3] - b[None, :, 3]
    return float(apart.min())


class Poser:
    """Poses both hand models."""

    def __init__(self, models: Pair[HandModel]) -> None:
        self.models = models
        self.rest_joints = rest_joints(models.right)
        self._axes = joint_axes(self.rest_joints)

    def pose(
        self,
        side: Side,
        angles: Float[np.ndarray, "15 3"],
        orient: Float[np.ndarray, "3 3"],
        betas: Float[np.ndarray, "10"],
        forearm: Float[np.ndarray, "3"],
        shape: str = "",
    ) -> PosedArm:
        """A hand of joint angles [rad] whose wrist is the origin."""
        rotations = np.concatenate([orient[None], joint_rotations(angles, self._axes, side)])
        arm = self.from_parameters(side, rotations, betas, np.zeros(3), forearm, shape)
        return arm.moved(np.eye(3), arm.wrist, np.zeros(3))

    def from_parameters(
        self,
        side: Side,
        rotations: Float[np.ndarray, "16 3 3"],
        betas: Float[np.ndarray, "10"],
        transl: Float[np.ndarray, "3"],
        forearm: Float[np.ndarray, "3"],
        shape: str = "",
    ) -> PosedArm:
        """A hand of the model's own parameters."""
        values = [torch.from_numpy(np.asarray(v, np.float32))[None] for v in (betas, rotations, transl)]
        with torch.inference_mode():
            out = self.models[side].forward(*values)
        return PosedArm(
            side,
            np.asarray(rotations, np.float64),
            np.asarray(betas, np.float64),
            np.asarray(transl, np.float64),
            out.joints[0].numpy().astype(np.float64),
            out.vertices[0].numpy().astype(np.float64),
            forearm,
            shape,
        )


def rest_joints(model: HandModel) -> Float[np.ndarray, "21 3"]:
    """The 21 joints of the model's mean hand at rest [m]."""
    eye = torch.eye(3).expand(1, 16, 3, 3)
    return model.joints(torch.zeros(1, 10), eye, torch.zeros(1, 3))[0].numpy().astype(np.float64)
