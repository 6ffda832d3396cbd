"""Meshes cut into patches: what collision needs to know of a hand that does not change with its pose.

A patch is a few neighbouring faces; its box is the box of their vertices. The patches cover the
surface, so tests of boxes cull without ever losing a face, whatever the pose: all results here
are those of a test against every face.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    (``cap_loops``), and a fan of faces. ``table`` holds the corners of each patch's faces, filled up
    with degenerate ones (a vertex three times), which no test counts.
    """

    n_vertices: int
    faces: Int[Tensor, "faces 3"]
    cap_loops: tuple[Int[Tensor, "loop"], ...]
    table: Int[Tensor, "3 patches size"]

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
        table = torch.stack([_filled(every[g]) for g in groups]).permute(2, 0, 1).contiguous()
        return cls(n, every, loops, table)

    def to(self, device: torch.device | str) -> CollisionMesh:
        """The same mesh on another device."""
        moved: dict[str, Any] = {"cap_loops": tuple(loop.to(device) for loop in self.cap_loops)}
        for name in ("faces", "table"):
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

    def pose(self, vertices: Float[Tensor, "batch closed 3"]) -> PosedMesh:
        """The faces in these poses, laid out for searches; carries no gradient."""
        flat = vertices.detach().permute(2, 0, 1).flatten(1)
        n, shape = len(vertices), self.table.shape
        index = self.table[:, None]
        if n > 1:
            index = index + (vertices.shape[1] * torch.arange(n, device=index.device))[:, None, None]
        corners = flat.index_select(1, index.flatten()).reshape(3, 3, n, *shape[1:])
        a, b, c = corners.unbind(1)
        faces = Boxes(torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c))
        return PosedMesh(corners, faces, Boxes(faces.low.amin(-1), faces.high.amax(-1)))


@dataclass(frozen=True)
class Boxes:
    """Axis-aligned boxes [m]; coordinates come first, so that tests run through memory in order."""

    low: Float[Tensor, "3 *boxes"]
    high: Float[Tensor, "3 *boxes"]

    def meet(self, other: Boxes, margin: float = 0.0) -> Bool[Tensor, "*boxes"]:
        """Which boxes come within ``margin`` [m] of each other along every axis; shapes are broadcast."""
        return _every((self.low <= other.high + margin) & (other.low <= self.high + margin))

    def squared_distance(self, points: Float[Tensor, "3 *boxes"]) -> Float[Tensor, "*boxes"]:
        """Squared distance of points [m^2], 0 inside; shapes are broadcast."""
        return _squared(torch.maximum(self.low - points, points - self.high).clamp_min_(0))

    def each(self, change: Callable[[Tensor], Tensor]) -> Boxes:
        """The same change of shape made to both corners."""
        return Boxes(change(self.low), change(self.high))


@dataclass(frozen=True)
class PosedMesh:
    """A mesh in a batch of poses: coordinates of the faces' ``corners``, and boxes around faces and patches."""

    corners: Float[Tensor, "3 corner=3 batch patches size"]
    faces: Boxes
    patches: Boxes

    def of_points(self, batch: Int[Tensor, "points"]) -> Boxes:
        """The boxes (3, points or 1, patches) of the patches of each point's mesh."""
        return self.patches if self.corners.shape[2] == 1 else self.patches.each(lambda t: t.index_select(1, batch))

    def within(self, patch: Int[Tensor, "rows"]) -> Boxes:
        """The boxes (3, rows, size) of the faces of patches, which are counted through the batch."""
        return self.faces.each(lambda t: t.flatten(1, 2).index_select(1, patch))


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
    posed: PosedMesh | None = None,
    possible: Bool[Tensor, "batch"] | None = None,
) -> Bool[Tensor, "batch points"]:
    """Whether points lie inside closed meshes: winding number not zero; only meshes that are ``possible`` are asked.

    The winding number is the signed count of the faces that a ray along +z crosses. A ray through
    an edge or a vertex is counted once: the test against an edge is half-open in y and changes
    its sign exactly, rounding included, when the edge is run through the other way.
    """
    points = points.detach()
    posed = mesh.pose(vertices) if posed is None else posed
    found = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    x = points.permute(2, 0, 1)
    low, high = posed.patches.low.amin(-1, keepdim=True), posed.patches.high.amax(-1, keepdim=True)
    asked = _every((x >= low) & (x <= high))
    batch, index = (asked if possible is None else asked & possible[:, None]).nonzero(as_tuple=True)
    size = _chunk(points.device)
    for one, other in zip(batch.split(size), index.split(size), strict=True):
        if len(one):
            found[one, other] = _winding(x[:, one, other], one, posed) != 0
    return found


def _winding(
    points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"], posed: PosedMesh
) -> Int[Tensor, "points"]:
    boxes, p = posed.of_points(batch), points[..., None]
    column = (boxes.low[0] <= p[0]) & (boxes.high[0] >= p[0]) & (boxes.low[1] <= p[1]) & (boxes.high[1] >= p[1])
    above = column & (boxes.high[2] >= p[2])
    # The crossings of a whole line sum to 0: where nothing lies below, the crossings above do so too.
    above &= (column & (boxes.low[2] <= p[2])).any(1, keepdim=True)
    row, patch = above.nonzero(as_tuple=True)
    patch = patch + batch[row] * boxes.low.shape[-1]
    boxes, p = posed.within(patch), points[:, row, None]
    reached = (boxes.low[0] <= p[0]) & (boxes.high[0] >= p[0]) & (boxes.low[1] <= p[1]) & (boxes.high[1] >= p[1])
    pair, slot = (reached & (boxes.high[2] >= p[2])).nonzero(as_tuple=True)
    row = row[pair]
    face = posed.corners.flatten(2).index_select(2, patch[pair] * boxes.low.shape[-1] + slot)
    corners = face - points[:, None, row]
    ahead = corners.roll(-1, 1)
    # +1 or -1 where an edge crosses the half-line y = 0, x > 0 upwards or downwards.
    side = corners[0] * ahead[1] - ahead[0] * corners[1]
    up = (corners[1] <= 0) & (ahead[1] > 0) & (side > 0)
    down = (ahead[1] <= 0) & (corners[1] > 0) & (side < 0)
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a, dim=0)
    over = _dot(normal, a) * normal[2] > 0
    turns = (up.sum(0) - down.sum(0)) * over
    return torch.zeros(len(batch), dtype=torch.long, device=batch.device).index_add_(0, row, turns)


def closest(
    points: Float[Tensor, "points 3"],
    batch: Int[Tensor, "points"],
    mesh: CollisionMesh,
    vertices: Float[Tensor, "batch closed 3"],
    posed: PosedMesh | None = None,
) -> SurfacePoints:
    """The nearest point of the surface of mesh ``batch[i]`` to point i; carries no gradient itself."""
    points = points.detach()
    posed = mesh.pose(vertices) if posed is None else posed
    size = _chunk(points.device)
    parts = [_nearest_face(p.T, b, posed) for p, b in zip(points.split(size), batch.split(size), strict=True)]
    face, weights = (torch.cat(t) for t in zip(*parts, strict=True))
    return SurfacePoints(batch, mesh.table.flatten(1)[:, face].T, weights)


def _nearest_face(
    points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"], posed: PosedMesh
) -> tuple[Int[Tensor, "points"], Float[Tensor, "points 3"]]:
    """Which face of its mesh is nearest to each point, and where on it: barycentric weights."""
    boxes, p = posed.of_points(batch), points[..., None]
    n_patches, n_slots = posed.corners.shape[3:]
    # The nearest surface is no farther than any vertex; those of the patch around the point bound it well.
    middle = _squared((boxes.low + boxes.high) / 2 - p).argmin(1) + batch * n_patches
    most = _squared(posed.corners[:, 0].flatten(1, 2).index_select(1, middle) - p).amin(1, keepdim=True)
    row, patch = (boxes.squared_distance(p) <= most).nonzero(as_tuple=True)
    patch = patch + batch[row] * n_patches
    near = posed.within(patch).squared_distance(points[:, row, None]) <= most[row]
    pair, slot = near.nonzero(as_tuple=True)
    row, face = row[pair], patch[pair] * n_slots + slot
    squared, weights = _nearest_weights(posed.corners.flatten(2).index_select(2, face), points[:, row])
    best = squared.new_full((len(batch),), torch.inf).scatter_reduce_(0, row, squared, "amin")
    winner = (squared == best[row]).nonzero()[:, 0]
    chosen = torch.empty_like(batch)
    chosen[row[winner]] = winner
    return face[chosen] % (n_patches * n_slots), weights[:, chosen].T


def _nearest_weights(
    triangles: Float[Tensor, "3 corner=3 n"], points: Float[Tensor, "3 n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "3 n"]]:
    """Squared distance and barycentric weights of the nearest point of each triangle, which may be degenerate."""
    tiny = torch.finfo(triangles.dtype).tiny
    along = triangles.roll(-1, 1) - triangles
    gap = points[:, None] - triangles
    lengths = _dot(along, along)
    share = (_dot(gap, along) / lengths.clamp_min(tiny)).clamp_(0, 1)
    on_edge, edge = _squared(gap - share * along).min(0)
    t = share.gather(0, edge[None])
    weights = torch.zeros_like(share).scatter_(0, edge[None], 1 - t).scatter_(0, (edge[None] + 1) % 3, t)
    # The foot on the plane is nearer where it lies inside the triangle.
    ab, ac, ap = along[:, 0], -along[:, 2], gap[:, 0]
    d00, d01, d11 = lengths[0], _dot(ab, ac), lengths[2]
    d20, d21 = _dot(ap, ab), _dot(ap, ac)
    area = d00 * d11 - d01 * d01
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    u = 1 - v - w
    on_plane = _squared(ap - v * ab - w * ac)
    inner = (area > 0) & (u >= 0) & (v >= 0) & (w >= 0) & (on_plane < on_edge)
    return torch.where(inner, on_plane, on_edge), torch.where(inner, torch.stack([u, v, w]), weights)


def _every(of_axes: Bool[Tensor, "3 *n"]) -> Bool[Tensor, "*n"]:
    return of_axes[0] & of_axes[1] & of_axes[2]


def _dot(a: Float[Tensor, "3 *n"], b: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _squared(a: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    # In one order everywhere: the bounds above hold to the last bit.
    return a[0] * a[0] + a[1] * a[1] + a[2] * a[2]


def _chunk(device: torch.device) -> int:
    """Points searched at once: what the tests of their patches take stays in a processor's cache."""
    return 1024 if device.type == "cpu" else 1 << 16


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
