"""What a repair changed, as numbers that can be scaled, filtered over time and applied to another frame's hands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.hand_frames import reposed
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from a2p_ros.types import HandPose, Pair, PlacedHand, Side

#: What a turn of the wrist moves on average, and what one of a finger's three joints moves at most [m/rad].
_HAND_LEVER, _FINGER_LEVERS = 0.1, np.array([0.09, 0.06, 0.03])


@dataclass(frozen=True)
class Correction:
    """The change of two hands' poses, shapes and of the way between them; nothing of where the pair is.

    ``turns`` are axis-angle, each in the joint's own axes before the change (left hand first); the left wrist's is
    its turn relative to the right wrist, whose own entry is zero. ``shift`` is the change of left wrist minus right
    wrist in the axes of the right hand's global rotation [m].
    """

    turns: Float[np.ndarray, "2 16 3"]
    betas: Float[np.ndarray, "2 10"]
    shift: Float[np.ndarray, "3"]

    @classmethod
    def none(cls) -> Correction:
        """No change."""
        return cls(np.zeros((2, 16, 3)), np.zeros((2, 10)), np.zeros(3))

    @classmethod
    def between(cls, before: HandPairs, after: HandPairs, models: Pair[HandModel]) -> Correction:
        """What made the first of ``after`` of the first of ``before``."""
        old, new = (Pair(*(_numpy(p.rotations[s])[0] for s in (Side.LEFT, Side.RIGHT))) for p in (before, after))
        left, right = (np.swapaxes(old[s], 1, 2) @ new[s] for s in (Side.LEFT, Side.RIGHT))
        left[0] = old.left[0].T @ old.right[0] @ new.right[0].T @ new.left[0]
        right[0] = np.eye(3)
        gaps = []
        for pairs, turn in ((before, old.right[0]), (after, new.right[0])):
            place = wrists(models, pairs)
            gaps.append(_numpy(place.left - place.right)[0] @ turn)
        betas = [_numpy(after.betas[s] - before.betas[s])[0] for s in (Side.LEFT, Side.RIGHT)]
        return cls(matrix_to_axis_angle(np.stack([left, right])), np.stack(betas), gaps[1] - gaps[0])

    def scaled(self, share: float) -> Correction:
        """A share of this correction."""
        return Correction.none().towards(self, share)

    def towards(self, other: Correction, share: float) -> Correction:
        """This correction with ``share`` of the way to another one gone."""
        return Correction(
            self.turns + share * (other.turns - self.turns),
            self.betas + share * (other.betas - self.betas),
            self.shift + share * (other.shift - self.shift),
        )

    def distance(self, other: Correction) -> float:
        """About how far the farthest joint is apart under the two corrections [m]."""
        turned = np.linalg.norm(self.turns - other.turns, axis=-1)
        fingers = (turned[:, 1:].reshape(2, 5, 3) * _FINGER_LEVERS).sum(-1).max()
        return float(np.linalg.norm(self.shift - other.shift) + turned[0, 0] * _HAND_LEVER + fingers)

    def applied(
        self, hands: Pair[PlacedHand], models: Pair[HandModel]
    ) -> tuple[Pair[HandPose], Float[np.ndarray, "3"]]:
        """Both poses corrected, and left wrist minus right wrist [m, camera axes], for hands in the camera frame."""
        turned = axis_angle_to_matrix(self.turns)
        poses = []
        for i, (side, hand) in enumerate(hands.items()):
            rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose]) @ turned[i]
            poses.append(reposed(hand.pose, rotations, hand.pose.betas + self.betas[i], models[side]))
        apart = hands.left.wrist - hands.right.wrist + hands.right.pose.global_orient @ self.shift
        return Pair(*poses), apart


def pairs_of(hands: Pair[PlacedHand], models: Pair[HandModel], *, in_camera: bool = False) -> HandPairs:
    """A batch of one for the networks, moved so that the right wrist is near the origin, where float32 is finest.

    With ``in_camera`` it stays in the camera frame, which tells the direction of view.
    """
    origin = np.zeros(3) if in_camera else hands.right.wrist

    def both(values: list[np.ndarray]) -> Pair[Tensor]:
        return Pair(*(torch.as_tensor(v[None]).to(models.left.template) for v in values))

    every = [hand for _, hand in hands.items()]
    return HandPairs(
        both([hand.pose.betas for hand in every]),
        both([np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose]) for hand in every]),
        both([hand.transl - origin for hand in every]),
    )


def _numpy(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return tensor.detach().double().cpu().numpy()
