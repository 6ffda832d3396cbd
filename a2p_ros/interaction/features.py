"""What the denoiser is told about the condition beside its numbers: where fingers are, where they penetrate, the view.

All of it follows from the condition in the camera frame. Each hand sees itself and the other in its own wrist's axes,
the left hand's mirrored, so both speak one language and one set of weights reads both. The direction of view is
there because a camera misjudges depth far more than what lies across the image; x itself stays free of the camera.
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
#: Of a finger: 4 joints seen from its own wrist and 4 from the other's, three parts' ways out and depths.
FINGER_FEATURES = 4 * 3 * 2 + 3 * 4
#: Of a palm: its way out and depth, the other wrist as it sees it, the direction of view, and how deep the hands are.
PALM_FEATURES = 4 + 3 + 3 + 1
_POSITION, _WAY_OUT, _DEPTH = 0.1, 0.005, 0.002


def condition_features(
    models: Pair[HandModel],
    meshes: Pair[CollisionMesh],
    pairs: HandPairs,
    vertices: Pair[Tensor],
    found: Pair[InsideVertices] | None = None,
    view: Float[Tensor, "batch 3"] | None = None,
) -> tuple[Float[Tensor, "batch 10 36"], Float[Tensor, "batch 2 11"]]:
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
            seen = (view[:, None] @ frames[0])[:, 0] * flip
            palms.append(torch.cat([felt[:, 0], wrist, seen, (deepest / _DEPTH).clamp_max(1.0)], -1))
        return torch.cat(fingers, 1), torch.stack(palms, 1)


def view_of(models: Pair[HandModel], pairs: HandPairs) -> Float[Tensor, "batch 3"]:
    """Unit direction from the camera to the middle of the wrists of pairs in the camera frame."""
    both = wrists(models, pairs)
    return torch.nn.functional.normalize(both.left + both.right, dim=-1)
