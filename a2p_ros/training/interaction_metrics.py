"""What a repair is measured by, pair by pair: penetration, accuracy, contact, and where the image shows the hands.

penvol_cm3, pendist_*, iv_cm3   see ``penetration``
mpjpe_mm           mean joint error of both hands, each with its wrist on the true one, camera axes
mrrpe_mm           error of left wrist minus right wrist, camera axes
mrrpe_aligned_mm   the same in each pair's own axes of the right hand's global rotation
reprojection_px    mean distance of both hands' joints from the true ones in the image, as the pair was placed
reprojection_fitted_px  the same with the pair moved as one body to where it fits the observed 2D joints best
contact_kept       of the vertices that lie within ``TOUCHING`` of the other hand's surface in truth, the share
                   that lies within ``KEPT`` of it, on either side of the surface
contact_pairs_kept of the pairs of vertices of the two hands within ``TOUCHING_PAIR`` of each other in truth, the share
                   still within ``KEPT``: the strict reading, where on the hands contact is counts as well
contact_hands_kept whether any vertex lies within ``KEPT`` of the other hand's surface
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.interaction.surface import CollisionMesh, closest
from a2p_ros.training.conditions import Conditions
from a2p_ros.training.interactions import wrist_aligned_error
from a2p_ros.training.penetration import BooleanError, PenetrationMetrics, penetration_metrics
from a2p_ros.translation import Apart, solve_translations
from a2p_ros.types import Pair, Side

#: Hands touch where their surfaces are this near in truth, and still do where they are that near afterwards [m].
TOUCHING, KEPT = 0.002, 0.005
#: And two vertices, one of each hand, where they are this near to each other [m].
TOUCHING_PAIR = 0.0025
#: No vertex farther from the other hand's vertices than this [m] is near its surface: edges are 10 mm at most.
_FAR = 0.015
#: What is measured, in this order.
METRICS = (
    "penvol_cm3",
    "pendist_mean_mm",
    "pendist_max_mm",
    "iv_cm3",
    "mpjpe_mm",
    "mrrpe_mm",
    "mrrpe_aligned_mm",
    "reprojection_px",
    "reprojection_fitted_px",
    "contact_kept",
    "contact_pairs_kept",
    "contact_hands_kept",
)

#: A share of vertices, or of pairs of them, is one of all that were measured: what counts them in a pair of hands.
COUNTS = {"contact_kept": "contact_vertices", "contact_pairs_kept": "contact_pairs"}
#: The two hands as one body [m]: what the fit may leave between them.
_RIGID = 1e-5


class Measured(NamedTuple):
    """``METRICS`` and ``COUNTS`` of one pair; where a volume failed, why, and no number of the penetration."""

    values: dict[str, float]
    failed: str = ""


@dataclass(frozen=True)
class Contact:
    """Where the two hands of one pair touch: vertices of each, and pairs (left, right) of vertices."""

    touching: Pair[Int[Tensor, "n"]]
    pairs: tuple[Int[Tensor, "m"], Int[Tensor, "m"]]

    @classmethod
    def of(cls, meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> Contact:
        """Of true hands; ``vertices`` are (V, 3) [m]."""
        apart = _distances(vertices.left, vertices.right)
        touching = Pair(*(_near_surface(meshes, vertices, apart, side, TOUCHING) for side in (Side.LEFT, Side.RIGHT)))
        left, right = (apart <= TOUCHING_PAIR).nonzero().unbind(1)
        return cls(touching, (left, right))

    @property
    def counts(self) -> tuple[int, int]:
        """How many vertices touch, and how many pairs of vertices."""
        return len(self.touching.left) + len(self.touching.right), len(self.pairs[0])

    def kept(self, meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> tuple[float, float, float]:
        """``contact_kept``, ``contact_pairs_kept``, ``contact_hands_kept``; NaN where nothing touches in truth."""
        gaps = torch.cat([_gaps(meshes, vertices, side, chosen) for side, chosen in self.touching.items()])
        first, second = self.pairs
        pairs = (vertices.left[first] - vertices.right[second]).norm(dim=-1)
        apart = _distances(vertices.left, vertices.right)
        hands = any(len(_near_surface(meshes, vertices, apart, side, KEPT)) > 0 for side in Side)
        return _share(gaps), _share(pairs), float(hands)


class PairMeasures:
    """Measures answers against the truth of a batch of conditions."""

    def __init__(self, models: Pair[HandModel], meshes: Pair[CollisionMesh], made: Conditions) -> None:
        self._models, self._meshes, self._made = models, meshes, made
        truth = made.truth.forward(models)
        self._joints = Pair(truth.left.joints, truth.right.joints)
        self._contacts = [
            Contact.of(meshes, Pair(left, right))
            for left, right in zip(truth.left.vertices, truth.right.vertices, strict=True)
        ]

    def of(self, answer: HandPairs, projected: Pair[Tensor]) -> list[Measured]:
        """Each pair; ``projected`` are the answer's joints in the image, (B, 21, 2) a hand [px]."""
        both = answer.forward(self._models)
        joints = Pair(both.left.joints, both.right.joints)
        mpjpe = 1e3 * wrist_aligned_error(joints, self._joints)
        placed = self._reprojection(projected)
        best = self._reprojection(fitted(self._models, answer, self._made))
        found = []
        for i in range(len(answer)):
            vertices = Pair(both.left.vertices[i : i + 1], both.right.vertices[i : i + 1])
            penetration, failed = _penetration(self._meshes, vertices)
            camera, own = self._apart(joints, answer, i)
            contact = self._contacts[i]
            values = (
                *dataclasses.astuple(penetration),
                float(mpjpe[i]),
                camera,
                own,
                float(placed[i]),
                float(best[i]),
                *contact.kept(self._meshes, Pair(vertices.left[0], vertices.right[0])),
                *map(float, contact.counts),
            )
            found.append(Measured(dict(zip((*METRICS, *COUNTS.values()), values, strict=True)), failed))
        return found

    def _reprojection(self, projected: Pair[Tensor]) -> Float[Tensor, "batch"]:
        true = self._made.true_px
        return torch.cat([(projected[s] - true[s]).norm(dim=-1) for s in (Side.LEFT, Side.RIGHT)], 1).mean(1)

    def _apart(self, joints: Pair[Tensor], answer: HandPairs, i: int) -> tuple[float, float]:
        """Error of left wrist minus right wrist [mm]: camera axes, and each in its own right hand's axes."""
        ours, true = (p.left[i, 0] - p.right[i, 0] for p in (joints, self._joints))
        turn, true_turn = (p.rotations.right[i, 0] for p in (answer, self._made.truth))
        return 1e3 * float((ours - true).norm()), 1e3 * float((turn.T @ ours - true_turn.T @ true).norm())


def fitted(models: Pair[HandModel], pairs: HandPairs, made: Conditions) -> Pair[Tensor]:
    """Joints in the image, (B, 21, 2) a hand [px], of each pair moved as one body to fit the observed ones best."""
    joints, place = pairs.joints(models), wrists(models, pairs)
    projected: list[list[Tensor]] = [[], []]
    for i in range(len(pairs)):
        ours, rays, weights = [], [], []
        for side in (Side.LEFT, Side.RIGHT):
            ours.append((joints[side][i] - place[side][i]).double().numpy())
            rays.append(made.camera.rays(made.observed_px[side][i].double().numpy()))
            weights.append(made.weights[side][i].double().numpy())
        apart = Apart((place.left[i] - place.right[i]).double().numpy(), _RIGID)
        for pixels, points, wrist in zip(projected, ours, solve_translations(ours, rays, weights, apart), strict=True):
            pixels.append(torch.as_tensor(made.camera.project(points + wrist)))
    return Pair(torch.stack(projected[0]), torch.stack(projected[1]))


def _penetration(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> tuple[PenetrationMetrics, str]:
    try:
        return penetration_metrics(meshes, vertices)[0], ""
    except BooleanError as error:
        return PenetrationMetrics(math.nan, math.nan, math.nan, math.nan), str(error).removeprefix("pair 0: ")


def _near_surface(
    meshes: Pair[CollisionMesh], vertices: Pair[Tensor], apart: Tensor, side: Side, reach: float
) -> Int[Tensor, "n"]:
    """Vertices of one hand within ``reach`` [m] of the other hand's surface."""
    near = (apart.amin(1 if side is Side.LEFT else 0) < _FAR + reach).nonzero()[:, 0]
    return near[_gaps(meshes, vertices, side, near) <= reach]


def _gaps(
    meshes: Pair[CollisionMesh], vertices: Pair[Tensor], side: Side, chosen: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """Distances [m] of some vertices of one hand from the other hand's surface."""
    if len(chosen) == 0:
        return vertices.left.new_zeros(0)
    other = meshes[side.other].close(vertices[side.other][None])
    points = vertices[side][chosen]
    surface = closest(points, torch.zeros_like(chosen), meshes[side.other], other)
    return (points - surface.on(other)).norm(dim=-1)


def _distances(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Float[Tensor, "n m"]:
    # By differences: the expanded form of cdist loses millimetres away from the origin in float32.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _share(gaps: Float[Tensor, "n"]) -> float:
    return float((gaps <= KEPT).float().mean()) if len(gaps) else math.nan
