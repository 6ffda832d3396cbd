"""Meshes cut into patches: what collision needs to know of a hand that does not change with its pose.

A patch is a few neighbouring faces; its box is the box of their vertices. The patches cover the
surface, so tests of boxes cull without ever losing a face, whatever the pose: all results here
are those of a test against every face.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2p_ros.errors import InputError
from a2p_ros.hand.model import HandModel

PATCH_FACES = 24


@dataclass(frozen=True, eq=False)
class CollisionMesh:
    """A closed triangle mesh of fixed topology; make it with ``from_model`` or ``from_faces``.

    ``n_vertices`` are the model's own; each loop of an open wrist gets one more, the loop's mean
    (``cap_loops``), and a fan of faces. ``table`` holds each patch's faces, filled up with
    degenerate ones (a vertex three times), which no test counts.
    """

    n_vertices: int
    faces: Int[Tensor, "faces 3"]
    cap_loops: tuple[Int[Tensor, "loop"], ...]
    table: Int[Tensor, "patches size 3"]
    patch_vertices: Int[Tensor, "patches corners"]

    @classmethod
    def from_model(cls, model: HandModel) -> CollisionMesh:
        """Of a hand model; no patch spans two joints' parts, so patches stay small in every pose."""
        return cls.from_faces(model.faces, model.template, model.weights.argmax(1))

    @classmethod
    def from_faces(
        cls,
        faces: Int[Tensor, "faces 3"],
        template: Float[Tensor, "vertices 3"],
        labels: Int[Tensor, "vertices"] | None = None,
    ) -> CollisionMesh:
        """Of any oriented mesh with counter-clockwise faces; ``labels`` are parts that patches do not span.

        Raises InputError when an edge has more than two faces, or when boundary edges do not form simple loops.
        """
        n = len(template)
        loops = boundary_loops(faces)
        closed, points = [faces], [template]
        parts = torch.zeros(n, dtype=torch.long) if labels is None else labels
        extra = []
        for i, loop in enumerate(loops):
            # A boundary edge a -> b of a face is run through b -> a by the face that closes it.
            following = loop.roll(-1)
            closed.append(torch.stack([following, loop, torch.full_like(loop, n + i)], 1))
            points.append(template[loop].mean(0, keepdim=True))
            extra.append(parts[loop[0]])
        every, points_all = torch.cat(closed), torch.cat(points)
        parts = torch.cat([parts, torch.stack(extra)]) if extra else parts
        groups: list[Tensor] = []
        centres = points_all[every].mean(1)
        for part in parts.unique():
            groups += _split((parts[every[:, 0]] == part).nonzero()[:, 0], centres)
        table = torch.stack([_filled(every[g]) for g in groups])
        corners = [t.unique() for t in table]
        width = max(len(c) for c in corners)
        padded = torch.stack([torch.cat([c, c[:1].expand(width - len(c))]) for c in corners])
        return cls(n, every, loops, table, padded)

    def to(self, device: torch.device | str) -> CollisionMesh:
        """The same mesh on another device."""
        moved: dict[str, Any] = {"cap_loops": tuple(loop.to(device) for loop in self.cap_loops)}
        for name in ("faces", "table", "patch_vertices"):
            moved[name] = getattr(self, name).to(device)
        return dataclasses.replace(self, **moved)

    def close(self, vertices: Float[Tensor, "batch vertices 3"]) -> Float[Tensor, "batch closed 3"]:
        """The model's vertices with the caps' centres appended; vertices that have them are returned as they are."""
        if vertices.ndim != 3 or vertices.shape[1] not in (self.n_vertices, self.n_vertices + len(self.cap_loops)):
            raise InputError(f"vertices: expected (B, {self.n_vertices}, 3), got {tuple(vertices.shape)}")
        if not self.cap_loops or vertices.shape[1] != self.n_vertices:
            return vertices
        return torch.cat([vertices, *(vertices[:, loop].mean(1, keepdim=True) for loop in self.cap_loops)], 1)

    def normals(self, vertices: Float[Tensor, "batch closed 3"]) -> Float[Tensor, "batch closed 3"]:
        """Unit vertex normals, outward, weighted by the area of the faces."""
        corners = vertices[:, self.faces]
        face = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        summed = torch.zeros_like(vertices).index_add(1, self.faces.T.reshape(-1), face.repeat(1, 3, 1))
        return torch.nn.functional.normalize(summed, dim=-1)

    def area_shares(self, vertices: Float[Tensor, "batch closed 3"]) -> Float[Tensor, "batch closed"]:
        """A third of the area of each vertex' faces, divided by the mean over the vertices."""
        corners = vertices[:, self.faces]
        area = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]).norm(dim=-1)
        shares = torch.zeros_like(vertices[..., 0]).index_add(1, self.faces.T.reshape(-1), area.repeat(1, 3))
        return shares / shares.mean(1, keepdim=True)

    def boxes(self, vertices: Float[Tensor, "batch closed 3"]) -> Boxes:
        """The patches' boxes in this pose."""
        corners = vertices.detach()[:, self.patch_vertices]
        return Boxes(corners.amin(2), corners.amax(2))


@dataclass(frozen=True)
class Boxes:
    """Axis-aligned boxes [m]."""

    low: Float[Tensor, "batch patches 3"]
    high: Float[Tensor, "batch patches 3"]

    def meet(self, other: Boxes, margin: float = 0.0) -> Bool[Tensor, "batch patches others"]:
        """Which boxes come within ``margin`` [m] of each other along every axis."""
        a, b, c, d = self.low, self.high + margin, other.low, other.high + margin
        return ((a[:, :, None] <= d[:, None]) & (c[:, None] <= b[:, :, None])).all(-1)

    def whole(self) -> Boxes:
        """One box around all."""
        return Boxes(self.low.amin(1, keepdim=True), self.high.amax(1, keepdim=True))


@dataclass(frozen=True)
class SurfacePoints:
    """Points on a batch of meshes: ``weights`` (barycentric) of the vertices ``corners`` of mesh ``batch``."""

    batch: Int[Tensor, "points"]
    corners: Int[Tensor, "points 3"]
    weights: Float[Tensor, "points 3"]

    def on(self, vertices: Float[Tensor, "batch closed 3"]) -> Float[Tensor, "points 3"]:
        """Where they are on these meshes [m]; gradients reach the vertices."""
        return (vertices[self.batch[:, None], self.corners] * self.weights[..., None]).sum(1)


def boundary_loops(faces: Int[Tensor, "faces 3"]) -> tuple[Int[Tensor, "loop"], ...]:
    """The closed loops of edges that have one face only, in the direction of those faces."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    directed = {(a, b) for a, b in edges}
    if len(directed) != len(edges):
        raise InputError(
            "mesh: an edge is used twice in the same direction; faces must be oriented alike, two at an edge"
        )
    following: dict[int, int] = {}
    for a, b in sorted(directed):
        if (b, a) not in directed:
            if a in following:
                raise InputError(f"mesh: boundary loops touch in vertex {a}; they cannot be capped")
            following[a] = b
    loops = []
    while following:
        start, here = next(iter(following.items()))
        loop = [start]
        del following[start]
        while here != start:
            loop.append(here)
            here = following.pop(here)
        loops.append(torch.tensor(loop, device=faces.device))
    return tuple(loops)


def inside(
    points: Float[Tensor, "batch points 3"],
    mesh: CollisionMesh,
    vertices: Float[Tensor, "batch closed 3"],
    boxes: Boxes | None = None,
) -> Bool[Tensor, "batch points"]:
    """Whether points lie inside closed meshes: winding number not zero.

    The winding number is the signed count of the faces that a ray along +z crosses. A ray through
    an edge or a vertex is counted once: the test against an edge is half-open in y and changes
    its sign exactly, rounding included, when the edge is run through the other way.
    """
    points, vertices = points.detach(), vertices.detach()
    boxes = mesh.boxes(vertices) if boxes is None else boxes
    found = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    whole = boxes.whole()
    batch, index = ((points >= whole.low) & (points <= whole.high)).all(-1).nonzero(as_tuple=True)
    if len(batch) == 0:
        return found
    p = points[batch, index]
    low, high = boxes.low[batch], boxes.high[batch]
    reached = ((low[..., :2] <= p[:, None, :2]) & (high[..., :2] >= p[:, None, :2])).all(-1)
    row, patch = (reached & (high[..., 2] >= p[:, None, 2])).nonzero(as_tuple=True)
    q = p[row][:, None]
    corners = vertices[batch[row][:, None, None], mesh.table[patch]] - q[..., None, :]
    a, b, c = corners.unbind(2)
    turns = _crossing(a, b) + _crossing(b, c) + _crossing(c, a)
    normal = torch.linalg.cross(b - a, c - a)
    above = (normal * a).sum(-1) * normal[..., 2] > 0
    winding = torch.zeros(len(p), dtype=torch.long, device=p.device)
    winding.index_add_(0, row, (turns * above).sum(-1))
    found[batch, index] = winding != 0
    return found


def closest(
    points: Float[Tensor, "points 3"],
    batch: Int[Tensor, "points"],
    mesh: CollisionMesh,
    vertices: Float[Tensor, "batch closed 3"],
    boxes: Boxes | None = None,
) -> SurfacePoints:
    """The nearest point of the surface of mesh ``batch[i]`` to point i; carries no gradient itself."""
    points, vertices = points.detach(), vertices.detach()
    boxes = mesh.boxes(vertices) if boxes is None else boxes
    if len(points) == 0:
        empty = torch.zeros((0, 3), device=points.device)
        return SurfacePoints(batch, empty.long(), empty.to(points))
    low, high = boxes.low[batch], boxes.high[batch]
    p = points[:, None]
    least = (torch.relu(low - p) + torch.relu(p - high)).square().sum(-1)
    # The nearest surface is no farther than any vertex; a few of each patch bound it well enough.
    few = mesh.patch_vertices[:, ::7].reshape(-1)
    most = (vertices[batch[:, None], few] - p).square().sum(-1).amin(1)
    row, patch = (least <= most[:, None]).nonzero(as_tuple=True)
    corners = mesh.table[patch]
    triangles = vertices[batch[row][:, None, None], corners]
    weights = _nearest_weights(triangles, points[row][:, None])
    squared = ((triangles * weights[..., None]).sum(2) - points[row][:, None]).square().sum(-1)
    value, slot = squared.min(1)
    best = torch.full((len(points),), torch.inf, dtype=value.dtype, device=value.device)
    best.scatter_reduce_(0, row, value, "amin")
    winner = (value == best[row]).nonzero()[:, 0]
    chosen = torch.empty(len(points), dtype=torch.long, device=points.device)
    chosen[row[winner]] = winner
    s = slot[chosen]
    return SurfacePoints(batch, corners[chosen, s], weights[chosen, s])


def _crossing(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Int[Tensor, "*n"]:
    """+1 or -1 where the edge from a to b crosses the half-line y = 0, x > 0 upwards or downwards, else 0."""
    side = a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1]
    up = (a[..., 1] <= 0) & (b[..., 1] > 0) & (side > 0)
    down = (b[..., 1] <= 0) & (a[..., 1] > 0) & (side < 0)
    return up.long() - down.long()


def _nearest_weights(triangles: Float[Tensor, "*n 3 3"], points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Barycentric weights of the nearest point of each triangle; degenerate triangles are allowed."""
    a, b, c = triangles.unbind(-2)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    tiny = torch.finfo(triangles.dtype).tiny
    area = (d00 * d11 - d01 * d01).clamp_min(tiny)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    face = torch.stack([1 - v - w, v, w], -1)
    # Where the plane's foot lies outside, the nearest point is on one of the three edges.
    t_ab = (d20 / d00.clamp_min(tiny)).clamp(0, 1)
    t_ac = (d21 / d11.clamp_min(tiny)).clamp(0, 1)
    bc = c - b
    t_bc = (((points - b) * bc).sum(-1) / (bc * bc).sum(-1).clamp_min(tiny)).clamp(0, 1)
    zero = torch.zeros_like(v)
    edges = torch.stack(
        [
            torch.stack([1 - t_ab, t_ab, zero], -1),
            torch.stack([1 - t_ac, zero, t_ac], -1),
            torch.stack([zero, 1 - t_bc, t_bc], -1),
        ],
        -2,
    )
    feet = edges @ triangles
    nearest = (feet - points[..., None, :]).square().sum(-1).argmin(-1)
    edge = edges.gather(-2, nearest[..., None, None].expand(*nearest.shape, 1, 3))[..., 0, :]
    inner = (face >= 0).all(-1) & torch.isfinite(face).all(-1) & (d00 * d11 - d01 * d01 > 0)
    return torch.where(inner[..., None], face, edge)


def _split(faces: Int[Tensor, "n"], centres: Float[Tensor, "faces 3"]) -> list[Tensor]:
    """Halve a set of faces along its longest extent until every piece fits a patch."""
    if len(faces) == 0:
        return []
    if len(faces) <= PATCH_FACES:
        return [faces]
    points = centres[faces]
    axis = int((points.amax(0) - points.amin(0)).argmax())
    order = faces[points[:, axis].argsort(stable=True)]
    half = len(order) // 2
    return _split(order[:half], centres) + _split(order[half:], centres)


def _filled(faces: Int[Tensor, "n 3"]) -> Int[Tensor, "size 3"]:
    return torch.cat([faces, faces[:1, :1].expand(PATCH_FACES - len(faces), 3)])
