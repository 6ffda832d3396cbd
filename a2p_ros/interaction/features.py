"""What the denoiser is told beside the condition's numbers: where the hands collide or nearly do, and what was seen.

All of it follows from the condition in the camera frame, in the axes of the wrists, the left hand's mirrored, so both
hands speak one language and one set of weights reads both. Where the hands are to each other is left out on purpose: a
model that saw it learnt where the hands of each kind of interaction belong, and moved those of other kinds there
(docs/interaction_experiments.md). What is near the surface of a finger is there instead, and where along its ray the
image shows each joint, beside what all joints share: it is the only thing that tells a wrong pose from a rare one. The
direction of view and the distance are there because a camera misjudges depth far more than the rest, and what of the
other hand lies before and behind each joint, because together with what was not seen it tells which hand is in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import InsideVertices, contact_features, inside_vertices
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.types import Pair, Side

#: Joints of the fingers in OpenPose order, in MANO's order of fingers: index, middle, little, ring, thumb.
FINGER_POINTS = ((5, 6, 7, 8), (9, 10, 11, 12), (17, 18, 19, 20), (13, 14, 15, 16), (1, 2, 3, 4))
#: Of a finger's 4 joints: place, way to the ray, confidence, what lies on its ray. Of its three parts: the way out and
#: the depth, the way out in the other's axes, the way to the other hand's nearest surface and how near that is.
FINGER_FEATURES = 4 * 3 + 4 * 3 + 4 + 4 * 3 + 3 * 4 + 3 * 3 + 3 * 4
#: Of a palm: way out and depth, way out in the other's axes, nearest surface, how near; the wrist's way to its ray,
#: its confidence; the mean way of all joints to their rays in both hands' axes; what lies on the wrist's ray;
#: direction and distance of view; and how deep the hands are in each other.
PALM_FEATURES = 4 + 3 + 4 + 3 + 1 + 3 + 3 + 3 + 3 + 1 + 1
#: Where in a finger's and a palm's features the ways to the rays and the confidences are.
FINGER_WAYS, FINGER_CONFIDENCE = slice(12, 24), slice(24, 28)
PALM_WAYS, PALM_CONFIDENCE = (slice(11, 14), slice(15, 21)), slice(14, 15)
_POSITION, _WAY_OUT, _DEPTH, _RAY, _NEAR, _DISTANCE = 0.1, 0.005, 0.002, 0.005, 0.010, 0.5
#: Vertices of a hand that are looked at for what is near, and over which range the nearest of a part are averaged [m].
_SAMPLES, _SOFT = 320, 0.003
#: How near to a joint's ray a vertex is that hides it or is hidden by it, and the scale of how far before it [m].
_BESIDE, _BEHIND = 0.006, 0.02


@dataclass(frozen=True)
class _Axes:
    """Turns vectors (B, n, 3) of the pairs' frame into the wrists' axes, those of a left hand mirrored."""

    rotation: Float[Tensor, "batch 3 3"]
    rotation_other: Float[Tensor, "batch 3 3"]
    sign: Float[Tensor, "3"]
    sign_other: Float[Tensor, "3"]

    @classmethod
    def of(cls, pairs: HandPairs, side: Side) -> _Axes:
        """Of a hand of pairs and the other one."""
        rotations = [pairs.rotations[s][:, 0] for s in (side, side.other)]
        flip, same = (rotations[0].new_tensor([x, 1.0, 1.0]) for x in (-1.0, 1.0))
        return cls(rotations[0], rotations[1], *((flip, same) if side is Side.LEFT else (same, flip)))

    def own(self, vectors: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """In the axes of the hand itself."""
        return (vectors @ self.rotation) * self.sign

    def other(self, vectors: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """In the axes of the other hand."""
        return (vectors @ self.rotation_other) * self.sign_other


class _Image(NamedTuple):
    """What the image shows: of joints, of hands, and of the pair."""

    to_ray: Float[Tensor, "batch 2 21 3"]
    confidence: Float[Tensor, "batch 2 21"]
    mean_way: Float[Tensor, "batch 2 3"]
    on_ray: Pair[Tensor]
    view: Float[Tensor, "batch 3"]
    distance: Float[Tensor, "batch 1"]


class ConditionFeatures:
    """Computes the features of pairs of one hand model.

    Args:
        models, meshes: both hands' models and collision meshes, on one device.
    """

    def __init__(self, models: Pair[HandModel], meshes: Pair[CollisionMesh]) -> None:
        self._models, self._meshes = models, meshes
        self._parts = Pair(*(m.weights.argmax(1) for _, m in models.items()))
        self._samples = Pair(*(_spread(m.template, _SAMPLES) for _, m in models.items()))

    def __call__(
        self,
        pairs: HandPairs,
        vertices: Pair[Tensor],
        seen: ImageEvidence | None = None,
        found: Pair[InsideVertices] | None = None,
    ) -> tuple[Float[Tensor, "batch 10 73"], Float[Tensor, "batch 2 29"]]:
        """Features of the ten fingers (left first, MANO's order) and of the two palms, of order one; no gradients.

        ``found`` are the vertices inside the other hand where known. Without ``seen``, which says that the pairs are
        in the frame of a camera, nothing is known of the view either, and its features are 0.
        """
        with torch.no_grad():
            found = inside_vertices(self._meshes, vertices) if found is None else found
            contact = contact_features(self._meshes, vertices, found, self._parts)
            deepest = torch.maximum(contact.left[..., 3].amax(1), contact.right[..., 3].amax(1))[:, None]
            near, joints = self._near(vertices), pairs.joints(self._models)
            image = self._image(pairs, joints, vertices, seen)
            fingers, palms = [], []
            for i, side in enumerate((Side.LEFT, Side.RIGHT)):
                axes = _Axes.of(pairs, side)
                at = axes.own(joints[side] - joints[side][:, :1]) / _POSITION
                ray = (axes.own(image.to_ray[:, i]) / _RAY).clamp(-4.0, 4.0)
                sure, on_ray = image.confidence[:, i, :, None], image.on_ray[side]
                of_joints = [at, ray, sure, on_ray]
                of_parts = [*_collision(contact[side], axes), _nearness(near[side], axes)]
                own = [x[:, list(FINGER_POINTS)].flatten(2) for x in of_joints]
                own += [x[:, 1:].unflatten(1, (5, 3)).flatten(2) for x in of_parts]
                fingers.append(torch.cat(own, -1))
                mean = image.mean_way[:, None, i]
                ways = [(way[:, 0] / _RAY).clamp(-4.0, 4.0) for way in (axes.own(mean), axes.other(mean))]
                whole = [x[:, 0] for x in (*of_parts, ray, sure)] + [*ways, on_ray[:, 0]]
                whole += [axes.own(image.view[:, None])[:, 0], image.distance, (deepest / _DEPTH).clamp_max(1.0)]
                palms.append(torch.cat(whole, -1))
            return torch.cat(fingers, 1), torch.stack(palms, 1)

    def _image(
        self, pairs: HandPairs, joints: Pair[Tensor], vertices: Pair[Tensor], seen: ImageEvidence | None
    ) -> _Image:
        """What the image shows, in camera axes; nothing where it was not seen."""
        nothing = joints.left.new_zeros(len(pairs), 2, 21, 3)
        if seen is None:
            none = Pair(nothing[:, 0], nothing[:, 1])
            return _Image(nothing, nothing[..., 0], nothing[:, :, 0], none, nothing[:, 0, 0], nothing[:, 0, 0, :1])
        to_ray, weight = seen.residuals(joints).to(nothing), seen.confidence.to(nothing)[..., None]
        # What all joints share is where the pair is, which smoothing may have left behind, and not how it is.
        common = (weight * to_ray).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp_min(1e-6)
        to_ray = (to_ray - common) * (weight > 0)
        mean = (weight * to_ray).sum(2) / weight.sum(2).clamp_min(1e-6)
        return _Image(to_ray, weight[..., 0], mean, self._hiding(joints, vertices), *self._view(pairs))

    def _view(self, pairs: HandPairs) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, "batch 1"]]:
        """Unit direction from the camera to the middle of the wrists, and how far that is from half a metre, as log."""
        both = wrists(self._models, pairs)
        middle = (both.left + both.right) / 2
        distance = middle.norm(dim=-1, keepdim=True)
        return middle / distance.clamp_min(1e-6), (distance / _DISTANCE).clamp(0.1, 10.0).log()

    def _hiding(self, joints: Pair[Tensor], vertices: Pair[Tensor]) -> Pair[Tensor]:
        """For each joint, (B, 21, 3): whether the other hand is on its ray, and how far before and behind it."""
        out = []
        for side in (Side.LEFT, Side.RIGHT):
            along = torch.nn.functional.normalize(joints[side], dim=-1)
            other = vertices[side.other]
            depth = along @ other.transpose(1, 2) - joints[side].norm(dim=-1)[..., None]
            # Where each vertex crosses the plane of the joint that faces the camera.
            scale = joints[side].norm(dim=-1)[..., None] / (along @ other.transpose(1, 2)).clamp_min(1e-3)
            squared = (other.square().sum(-1)[:, None] * scale**2 - joints[side].square().sum(-1)[..., None]).clamp_min(
                0
            )
            nearest, which = squared.min(-1, keepdim=True)
            on = squared < _BESIDE**2
            at = depth.gather(-1, which)
            first = torch.where(on, depth, torch.inf).amin(-1, keepdim=True).minimum(at)
            last = torch.where(on, depth, -torch.inf).amax(-1, keepdim=True).maximum(at)
            by = torch.exp(-nearest / (2 * _BESIDE**2))
            out.append(
                by * torch.cat([torch.ones_like(by), *((z / _BEHIND).clamp(-4.0, 4.0) for z in (first, last))], -1)
            )
        return Pair(*out)

    def _near(self, vertices: Pair[Tensor]) -> Pair[Tensor]:
        """For each part of each hand the way to the other hand's nearest vertices, (B, 16, 3) [m]."""
        # About their common middle, where the expanded form of cdist is exact enough.
        points = Pair(*(vertices[s][:, self._samples[s]] for s in (Side.LEFT, Side.RIGHT)))
        middle = (points.left.mean(1, keepdim=True) + points.right.mean(1, keepdim=True)) / 2
        points = Pair(points.left - middle, points.right - middle)
        apart = torch.cdist(points.left, points.right)
        out = []
        for side, axis in ((Side.LEFT, 2), (Side.RIGHT, 1)):
            gap, nearest = apart.min(axis)
            way = points[side.other].gather(1, nearest[..., None].expand(-1, -1, 3)) - points[side]
            part = self._parts[side][self._samples[side]].expand(len(gap), -1)
            least = gap.new_full((len(gap), 16), torch.inf).scatter_reduce(1, part, gap, "amin")
            weight = torch.exp((least.gather(1, part) - gap) / _SOFT)
            total = gap.new_zeros(len(gap), 16).scatter_add(1, part, weight)
            summed = gap.new_zeros(len(gap), 16, 3).scatter_add(
                1, part[..., None].expand(-1, -1, 3), weight[..., None] * way
            )
            out.append(torch.where(total[..., None] > 0, summed / total[..., None].clamp_min(1e-9), 1.0))
        return Pair(*out)


def _collision(contact: Float[Tensor, "batch 16 4"], axes: _Axes) -> tuple[Tensor, Tensor]:
    """Way out and depth of each part, (B, 16, 4), and the way out in the other hand's axes, (B, 16, 3)."""
    way, depth = contact[..., :3] / _WAY_OUT, contact[..., 3:] / _WAY_OUT
    return torch.cat([axes.own(way), depth], -1).clamp(-4.0, 4.0), axes.other(way).clamp(-4.0, 4.0)


def _nearness(near: Float[Tensor, "batch 16 3"], axes: _Axes) -> Float[Tensor, "batch 16 4"]:
    """Direction to the nearest surface, the longer the nearer, and how near."""
    way = axes.own(near)
    gap = way.norm(dim=-1, keepdim=True)
    by = torch.exp(-gap / _NEAR)
    return torch.cat([by * way / gap.clamp_min(1e-6), by], -1)


def _spread(points: Float[Tensor, "n 3"], count: int) -> Int[Tensor, "count"]:
    """Indices of ``count`` points, each the farthest from those before it."""
    chosen = [0]
    gap = (points - points[0]).square().sum(-1)
    for _ in range(min(count, len(points)) - 1):
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, (points - points[chosen[-1]]).square().sum(-1))
    return torch.tensor(chosen, device=points.device)
