"""What the denoiser is told about the condition beside its numbers: where the fingers are, and where they penetrate.

All of it follows from the condition. Each hand sees itself and the other in its own wrist's axes, the left hand's
mirrored, so both speak one language and one set of weights reads both.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import InsideVertices, contact_features, inside_vertices
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.types import Pair, Side

#: Joints of the fingers in OpenPose order, in MANO's order of fingers: index, middle, little, ring, thumb.
FINGER_POINTS = ((5, 6, 7, 8), (9, 10, 11, 12), (17, 18, 19, 20), (13, 14, 15, 16), (1, 2, 3, 4))
#: Of a finger: 4 joints seen from its own wrist and 4 from the other's, three parts' ways out and depths.
FINGER_FEATURES = 4 * 3 * 2 + 3 * 4
#: Of a palm: its way out and depth, and the other wrist as it sees it.
PALM_FEATURES = 4 + 3
_POSITION, _WAY_OUT = 0.1, 0.005


def condition_features(
    models: Pair[HandModel],
    meshes: Pair[CollisionMesh],
    pairs: HandPairs,
    vertices: Pair[Tensor],
    found: Pair[InsideVertices] | None = None,
) -> tuple[Float[Tensor, "batch 10 36"], Float[Tensor, "batch 2 7"]]:
    """Features of the ten fingers (left first, MANO's order) and of the two palms, of order one; no gradients."""
    with torch.no_grad():
        found = inside_vertices(meshes, vertices) if found is None else found
        parts = Pair(models.left.weights.argmax(1), models.right.weights.argmax(1))
        contact = contact_features(meshes, vertices, found, parts)
        joints = pairs.joints(models)
        fingers, palms = [], []
        for side in (Side.LEFT, Side.RIGHT):
            flip = vertices.left.new_tensor([-1.0 if side is Side.LEFT else 1.0, 1.0, 1.0])
            frames = pairs.rotations[side][:, 0], pairs.rotations[side.other][:, 0]
            points = joints[side][:, list(FINGER_POINTS)]
            own, other = (
                (points - joints[s][:, None, None, 0]) @ frame[:, None] * flip / _POSITION
                for s, frame in zip((side, side.other), frames, strict=True)
            )
            out = (contact[side][..., :3] @ frames[0]) * flip / _WAY_OUT
            felt = torch.cat([out, contact[side][..., 3:] / _WAY_OUT], -1)
            felt = felt.clamp(-4.0, 4.0)
            fingers.append(torch.cat([own.flatten(2), other.flatten(2), felt[:, 1:].reshape(-1, 5, 12)], -1))
            wrist = ((joints[side.other][:, :1] - joints[side][:, :1]) @ frames[0])[:, 0] * flip / _POSITION
            palms.append(torch.cat([felt[:, 0], wrist], -1))
        return torch.cat(fingers, 1), torch.stack(palms, 1)
