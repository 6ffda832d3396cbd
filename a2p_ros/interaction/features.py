"""What the denoiser is told of how two hands stand to each other: where they penetrate, and the way out; and the view.

All of it follows from the condition in the camera frame, in the axes of the wrists, the left hand's mirrored, so both
hands speak one language and one set of weights reads both. Where the hands are to each other is left out on purpose:
a model that saw it learnt where the hands of each kind of interaction belong, and moved those of other kinds there
(docs/interaction.md). The direction of view is there because a camera misjudges depth far more than the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import InsideVertices, contact_features, inside_vertices
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.types import Pair, Side

#: Joints of the fingers in OpenPose order, in MANO's order of fingers: index, middle, little, ring, thumb.
FINGER_POINTS = ((5, 6, 7, 8), (9, 10, 11, 12), (17, 18, 19, 20), (13, 14, 15, 16), (1, 2, 3, 4))
#: Of a finger: its 4 joints, and of three parts the way out and the depth, and the way out in the other's axes.
FINGER_FEATURES = 4 * 3 + 3 * 4 + 3 * 3
#: Of a palm: its way out and depth, the way out in the other's axes, the direction of view, and how deep the hands are.
PALM_FEATURES = 4 + 3 + 3 + 1
_POSITION, _WAY_OUT, _DEPTH = 0.1, 0.005, 0.002


def condition_features(
    models: Pair[HandModel],
    meshes: Pair[CollisionMesh],
    pairs: HandPairs,
    vertices: Pair[Tensor],
    found: Pair[InsideVertices] | None = None,
    view: Float[Tensor, "batch 3"] | None = None,
) -> tuple[Float[Tensor, "batch 10 33"], Float[Tensor, "batch 2 11"]]:
    """Features of the ten fingers (left first, MANO's order) and of the two palms, of order one; no gradients.

    ``found`` are the vertices inside the other hand where known; ``view`` is ``view_of`` the pairs, None = unknown.
    """
    with torch.no_grad():
        found = inside_vertices(meshes, vertices) if found is None else found
        parts = Pair(models.left.weights.argmax(1), models.right.weights.argmax(1))
        contact = contact_features(meshes, vertices, found, parts)
        joints = pairs.joints(models)
        view = torch.zeros_like(joints.left[:, 0]) if view is None else view
        deepest = torch.maximum(contact.left[..., 3].amax(1), contact.right[..., 3].amax(1))[:, None]
        fingers, palms = [], []
        for side in (Side.LEFT, Side.RIGHT):
            own, other = pairs.rotations[side][:, 0], pairs.rotations[side.other][:, 0]
            flip = vertices.left.new_tensor([-1.0, 1.0, 1.0])
            mine, theirs = (flip, 1.0) if side is Side.LEFT else (1.0, flip)
            points = joints[side][:, list(FINGER_POINTS)]
            at = ((points - joints[side][:, None, None, 0]) @ own[:, None]) * mine / _POSITION
            way = contact[side][..., :3] / _WAY_OUT
            felt = torch.cat([(way @ own) * mine, contact[side][..., 3:] / _WAY_OUT], -1).clamp(-4.0, 4.0)
            across = ((way @ other) * theirs).clamp(-4.0, 4.0)
            parts_of = felt[:, 1:].reshape(-1, 5, 12), across[:, 1:].reshape(-1, 5, 9)
            fingers.append(torch.cat([at.flatten(2), *parts_of], -1))
            seen = (view[:, None] @ own)[:, 0] * mine
            palms.append(torch.cat([felt[:, 0], across[:, 0], seen, (deepest / _DEPTH).clamp_max(1.0)], -1))
        return torch.cat(fingers, 1), torch.stack(palms, 1)


def view_of(models: Pair[HandModel], pairs: HandPairs) -> Float[Tensor, "batch 3"]:
    """Unit direction from the camera to the middle of the wrists of pairs in the camera frame."""
    both = wrists(models, pairs)
    return torch.nn.functional.normalize(both.left + both.right, dim=-1)
