"""Where two hands pass through each other, how deep, and two losses that part them.

Symbols of A2P's eq. 3 (section numbers of arXiv 2503.17788):

    v_i, v_j      vertices of one hand and of V_c     the two arguments of every function
    N_ij          |v_i - v_j|^2 < d_threshold         ``PrintedCriterion.d_threshold`` [m^2]
    theta_ij      angle of the two vertex normals     ``PrintedCriterion.cos_threshold``
    rho           scale of the robust function        ``PrintedCriterion.rho`` [m^2]
    L_collision   sum over the pairs                  ``printed_loss``, ``signed_loss``

The printed function d^2 / (d^2 - rho) falls as d grows towards sqrt(rho), so descent drives every
pair apart, and opposed normals are found in touching hands as in penetrating ones. ``signed_loss``
asks first whether a vertex is inside the other hand, and draws only those to the nearest point of
its surface, with Geman-McClure's r^2 / (r^2 + rho^2) (InterHandGen, CVPR 2024).
docs/interaction_experiments.md has what both do when measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2p_ros.errors import ConfigError, InputError
from a2p_ros.interaction.surface import Boxes, CollisionMesh, PosedMesh, SurfacePoints, within_bounds
from a2p_ros.types import Pair

#: Scale of the signed loss' robust function [m]: InterHandGen's rho.
SIGNED_RHO = 0.05
#: Parts of a hand: the wrist and three bones of each finger, one for each of MANO's joints.
PARTS = 16


@dataclass(frozen=True)
class PrintedCriterion:
    """Thresholds of eq. 3; the paper gives none, so all are ours.

    ``d_threshold`` [m^2] is compared with a squared distance and stays below ``rho`` [m^2], where the
    loss is singular. ``cos_threshold``: a pair counts when its normals' cosine is smaller.
    """

    d_threshold: float = 0.005**2
    cos_threshold: float = -0.5
    rho: float = 0.010**2

    def __post_init__(self) -> None:
        if not 0 < self.d_threshold < self.rho:
            raise ConfigError(
                "PrintedCriterion: expected 0 < d_threshold < rho, "
                f"got d_threshold={self.d_threshold!r}, rho={self.rho!r}"
            )
        if not -1 <= self.cos_threshold <= 1:
            raise ConfigError(f"PrintedCriterion.cos_threshold: expected a cosine, got {self.cos_threshold!r}")


class VertexPairs(NamedTuple):
    """Pairs (first, second) of vertices of the two meshes of element ``batch``."""

    batch: Int[Tensor, "pairs"]
    first: Int[Tensor, "pairs"]
    second: Int[Tensor, "pairs"]


class InsideVertices(NamedTuple):
    """Vertices of one hand inside the other: ``vertex`` of element ``batch``, and the nearest surface of the other."""

    batch: Int[Tensor, "inside"]
    vertex: Int[Tensor, "inside"]
    surface: SurfacePoints


def contact_possible(meshes: Pair[CollisionMesh], vertices: Pair[Tensor], margin: float = 0.0) -> Bool[Tensor, "batch"]:
    """False only where no point of one hand is within ``margin`` [m] of the other: broad phase.

    ``vertices`` are (B, V, 3) [m]. Two solids that share a point have surfaces that meet, in some pair of
    patches and so of their boxes, or one lies in the other, and so do their boxes: the latter meet too.
    """
    return _possible(meshes, Pair(*_closed(meshes, vertices)), margin)[0]


def penetration_depths(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> Pair[Tensor]:
    """Depth of each vertex in the other hand, (B, V) [m], 0 outside; gradients reach both hands.

    The depth is the distance to the nearest point of the other hand's surface.
    """
    closed = Pair(*_closed(meshes, vertices))
    found = inside_vertices(meshes, closed)
    depths = []
    for (_, mesh), (side, points), (_, hits) in zip(meshes.items(), closed.items(), found.items(), strict=True):
        out = points.new_zeros(points.shape[0], mesh.n_vertices)
        if len(hits.batch):
            gap = points[hits.batch, hits.vertex] - hits.surface.on(closed[side.other])
            out = out.index_put((hits.batch, hits.vertex), gap.norm(dim=-1))
        depths.append(out)
    return Pair(*depths)


def inside_vertices(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> Pair[InsideVertices]:
    """The left hand's vertices inside the right hand, and the right's inside the left; no gradients."""
    left, right = (v.detach() for v in _closed(meshes, vertices))
    possible, posed = _possible(meshes, Pair(left, right), 0.0)
    if posed is None:
        none = torch.zeros(0, dtype=torch.long, device=left.device)
        nowhere = SurfacePoints(none, none.view(0, 3), left.new_zeros(0, 3))
        return Pair(InsideVertices(none, none, nowhere), InsideVertices(none, none, nowhere))
    x, y = left.permute(2, 0, 1), right.permute(2, 0, 1)
    batch, vertex, points = [], [], []
    for own, other, mesh in ((x, y, meshes.left), (y, x, meshes.right)):
        own = own[..., : mesh.n_vertices]
        b, v = (within_bounds(own, other) & possible[:, None]).nonzero().unbind(1)
        batch.append(b)
        vertex.append(v)
        points.append(own.flatten(1).index_select(1, b * own.shape[2] + v))
    # One search for both hands: its many small steps cost as much for one. The right hands come first.
    both = PosedMesh.joined(posed.right, posed.left)
    target, p = torch.cat([batch[0], batch[1] + len(left)]), torch.cat(points, 1)
    hit = both.winding(p, target).nonzero()[:, 0]
    face, weights = both.nearest(p.index_select(1, hit), target.index_select(0, hit))
    n = int((hit < len(batch[0])).sum())
    found = []
    for b, v, h, f, w, mesh in (
        (batch[0], vertex[0], hit[:n], face[:n], weights[:n], meshes.right),
        (batch[1], vertex[1], hit[n:] - len(batch[0]), face[n:], weights[n:], meshes.left),
    ):
        b = b.index_select(0, h)
        found.append(InsideVertices(b, v.index_select(0, h), SurfacePoints(b, mesh.corners_of(f), w)))
    return Pair(*found)


def signed_loss(
    meshes: Pair[CollisionMesh],
    vertices: Pair[Tensor],
    rho: float = SIGNED_RHO,
    found: Pair[InsideVertices] | None = None,
) -> Float[Tensor, "batch"]:
    """L_collision of eq. 3, signed: sum of w r^2 / (r^2 + rho^2) over vertices inside the other hand.

    ``r`` [m] is the distance to the nearest surface, ``w`` the vertex' share of the area over the mean share:
    without it, finely meshed fingertips outweigh palms. Hands that only touch have zero loss and gradient.
    ``found`` is what ``inside_vertices`` gave for these hands, or for nearly the same ones a step ago.
    """
    closed = Pair(*_closed(meshes, vertices))
    total = _zero(closed.left, closed.right)
    found = inside_vertices(meshes, closed) if found is None else found
    for (side, points), (_, hits) in zip(closed.items(), found.items(), strict=True):
        if len(hits.batch):
            gap = points[hits.batch, hits.vertex] - hits.surface.on(closed[side.other])
            squared = gap.square().sum(-1)
            # Most pairs of a batch may be apart; their areas are not asked for.
            rows, row = hits.batch.unique_consecutive(return_inverse=True)
            weight = meshes[side].area_shares(points.detach()[rows])[row, hits.vertex]
            total = total.index_add(0, hits.batch, weight * squared / (squared + rho**2))
    return total


def contact_features(
    meshes: Pair[CollisionMesh],
    vertices: Pair[Tensor],
    found: Pair[InsideVertices],
    parts: Pair[Int[Tensor, "vertices"]],
) -> Pair[Tensor]:
    """Where and how each part of a hand is inside the other hand: (B, 16, 4) [m] a hand; no gradients.

    ``parts`` (V,) says which of the 16 parts a vertex belongs to. The first three numbers are the way out,
    nearest surface minus vertex, in the frame of ``vertices``: its area-weighted sum over the part's vertices
    inside, divided by the area weight of the whole part. The fourth is the greatest depth. Parts that no vertex
    of is inside, or that have no vertex, are 0.
    """
    closed = Pair(*(v.detach() for v in _closed(meshes, vertices)))
    features = []
    for (side, points), (_, hits) in zip(closed.items(), found.items(), strict=True):
        part, n = parts[side], meshes[side].n_vertices
        if part.shape != (n,):
            raise InputError(f"parts.{side.value}: expected a part for each vertex, ({n},), got {tuple(part.shape)}")
        area = meshes[side].area_shares(points)[:, :n]
        whole = points.new_zeros(len(points), PARTS).index_add_(1, part, area)
        gap = hits.surface.on(closed[side.other]) - points[hits.batch, hits.vertex]
        slot = hits.batch * PARTS + part[hits.vertex]
        way = points.new_zeros(len(points) * PARTS, 3)
        way.index_add_(0, slot, gap * area[hits.batch, hits.vertex, None])
        depth = points.new_zeros(len(points) * PARTS).scatter_reduce_(0, slot, gap.norm(dim=-1), "amax")
        mean = way.reshape(-1, PARTS, 3) / whole[..., None].clamp_min(torch.finfo(whole.dtype).tiny)
        features.append(torch.cat([mean, depth.reshape(-1, PARTS, 1)], -1))
    return Pair(*features)


def colliding_pairs(
    meshes: Pair[CollisionMesh], vertices: Pair[Tensor], criterion: PrintedCriterion | None = None
) -> VertexPairs:
    """Pairs (left, right) by A2P's criterion: N_ij, and normals whose cosine is below the threshold; no gradients."""
    criterion = criterion or PrintedCriterion()
    left, right = (v.detach() for v in _closed(meshes, vertices))
    reach = criterion.d_threshold**0.5
    normals = meshes.left.normals(left), meshes.right.normals(right)
    found: list[VertexPairs] = []
    for b in _possible(meshes, Pair(left, right), reach)[0].nonzero()[:, 0].tolist():
        first = _within(left[b, : meshes.left.n_vertices], right[b], reach)
        second = _within(right[b, : meshes.right.n_vertices], left[b], reach)
        # Squares of differences: cdist's expanded form loses millimetres a metre from the origin in float32.
        squared = (left[b, first][:, None] - right[b, second][None]).square().sum(-1)
        opposed = normals[0][b, first] @ normals[1][b, second].T < criterion.cos_threshold
        i, j = ((squared < criterion.d_threshold) & opposed).nonzero(as_tuple=True)
        found.append(VertexPairs(torch.full_like(i, b), first[i], second[j]))
    if not found:
        none = torch.zeros(0, dtype=torch.long, device=left.device)
        return VertexPairs(none, none, none)
    return VertexPairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def printed_loss(
    meshes: Pair[CollisionMesh],
    vertices: Pair[Tensor],
    criterion: PrintedCriterion | None = None,
    condition: Pair[Tensor] | None = None,
) -> Float[Tensor, "batch"]:
    """L_collision of eq. 3 as printed: sum of d^2 / (d^2 - rho) over the pairs, negative, repelling.

    V_c is the other hand; with ``condition``, the vertices of the penetrated condition's other hand,
    held fixed, so that each hand is repelled from where the condition had the other one.
    """
    criterion = criterion or PrintedCriterion()
    left, right = _closed(meshes, vertices)
    if condition is None:
        runs = [(left, right)]
    else:
        fixed_left, fixed_right = (v.detach() for v in _closed(meshes, condition))
        runs = [(left, fixed_right), (fixed_left, right)]
    total = _zero(left, right)
    for one, other in runs:
        pairs = colliding_pairs(meshes, Pair(one, other), criterion)
        if len(pairs.batch):
            squared = (one[pairs.batch, pairs.first] - other[pairs.batch, pairs.second]).square().sum(-1)
            total = total.index_add(0, pairs.batch, squared / (squared - criterion.rho))
    return total


def _closed(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> tuple[Tensor, Tensor]:
    left, right = meshes.left.close(vertices.left), meshes.right.close(vertices.right)
    if left.shape[0] != right.shape[0]:
        raise InputError(
            f"vertices: expected one batch size, got {left.shape[0]} left and {right.shape[0]} right hands"
        )
    return left, right


def _zero(left: Tensor, right: Tensor) -> Float[Tensor, "batch"]:
    """Zero that belongs to both hands' graphs, so that hands apart have a gradient of zero and not none."""
    return 0 * (left[:, 0, 0] + right[:, 0, 0])


def _possible(
    meshes: Pair[CollisionMesh], closed: Pair[Tensor], margin: float
) -> tuple[Bool[Tensor, "batch"], Pair[PosedMesh] | None]:
    """Which hands may touch, and both posed, unless all are far apart."""
    one, other = (Boxes(v.amin(1).T, v.amax(1).T) for v in (closed.left.detach(), closed.right.detach()))
    # Hands that are not finite touch nothing.
    possible = one.meet(other, margin) & (one.high - one.low + other.high - other.low).isfinite().all(0)
    if not possible.any():
        return possible, None
    within = ((one.low >= other.low) & (one.high <= other.high)).all(0)
    around = ((one.low <= other.low) & (one.high >= other.high)).all(0)
    posed = Pair(meshes.left.pose(closed.left), meshes.right.pose(closed.right))
    return possible & (posed.left.meets(posed.right, margin) | within | around), posed


def _within(points: Float[Tensor, "n 3"], others: Float[Tensor, "m 3"], reach: float) -> Int[Tensor, "k"]:
    """Indices of the points within ``reach`` [m] of the others' box."""
    low, high = others.amin(0) - reach, others.amax(0) + reach
    return ((points >= low) & (points <= high)).all(-1).nonzero()[:, 0]
