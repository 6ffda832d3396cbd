"""Meshes cut into patches: what collision needs to know of a hand that does not change with its pose.

A patch is a few neighbouring faces, a group a few neighbouring patches; their boxes are those of
their vertices. They cover the surface, so tests of boxes cull without ever losing a face, whatever
the pose: all results here are those of a test against every face. Coordinates come first in all
arrays of a search: elementwise steps then run through memory in order, several times as fast.
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
GROUP_PATCHES = 8


@dataclass(frozen=True, eq=False)
class CollisionMesh:
    """A closed triangle mesh of fixed topology; make it with ``from_model`` or ``from_faces``.

    ``n_vertices`` are the model's own; each loop of an open wrist gets one more, the loop's mean
    (``cap_loops``), and a fan of faces. ``table`` holds the corners of each patch's faces, filled up with
    degenerate ones (a vertex three times), which no test counts; so are groups filled up with patches.
    """

    n_vertices: int
    faces: Int[Tensor, "faces 3"]
    cap_loops: tuple[Int[Tensor, "loop"], ...]
    table: Int[Tensor, "3 groups patches size"]

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
        centres = points_all[every].mean(1)
        patches = []
        for part in parts.unique():
            for group in _split((parts[every[:, 0]] == part).nonzero()[:, 0], centres, PATCH_FACES * GROUP_PATCHES):
                own = [_filled(every[g]) for g in _split(group, centres, PATCH_FACES)]
                patches += own + [own[-1][:1, :1].expand_as(own[-1])] * (GROUP_PATCHES - len(own))
        table = torch.stack(patches).unflatten(0, (-1, GROUP_PATCHES)).permute(3, 0, 1, 2)
        return cls(n, every, loops, table.contiguous())

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
        """A third of the area of each vertex' faces, divided by the mean over the vertices; carries no gradient."""
        index = self.faces.T
        a, b, c = _corners(vertices, index).unbind(1)
        u, v = b - a, c - a
        area = _squared(torch.stack([u[i - 2] * v[i - 1] - u[i - 1] * v[i - 2] for i in range(3)])).sqrt_()
        shares = torch.zeros_like(vertices[..., 0])
        for corner in index:
            shares.index_add_(1, corner, area)
        return shares / shares.mean(1, keepdim=True)

    def corners_of(self, face: Int[Tensor, "n"]) -> Int[Tensor, "n 3"]:
        """The vertices of faces that a search named."""
        return self.table.flatten(1).index_select(1, face).T

    def pose(self, vertices: Float[Tensor, "batch closed 3"]) -> PosedMesh:
        """The faces in these poses, laid out for searches; carries no gradient."""
        corners = _corners(vertices, self.table)
        a, b, c = corners.unbind(1)
        faces = Boxes(torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c))
        patches = faces.around()
        return PosedMesh(corners, (patches.around(), patches, faces))


@dataclass(frozen=True)
class Boxes:
    """Axis-aligned boxes [m]."""

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

    def of(self, parent: Int[Tensor, "n"]) -> Boxes:
        """The boxes (3, n, m) along the last axis, of parents counted through the axes before it."""
        return self.each(lambda t: t.flatten(1, -2).index_select(1, parent))

    def squared_to_middle(self, points: Float[Tensor, "3 *boxes"]) -> Float[Tensor, "*boxes"]:
        """Squared distance of points from the boxes' middles [m^2]; shapes are broadcast."""
        return _squared((self.low + self.high) / 2 - points)

    def around(self) -> Boxes:
        """The boxes around those along the last axis."""
        return Boxes(self.low.amin(-1), self.high.amax(-1))

    def column(self, points: Float[Tensor, "3 *boxes"]) -> Bool[Tensor, "*boxes"]:
        """Which boxes a line along z through a point meets; shapes are broadcast."""
        (x0, y0), (x1, y1) = self.low[:2], self.high[:2]
        return (x0 <= points[0]) & (x1 >= points[0]) & (y0 <= points[1]) & (y1 >= points[1])


@dataclass(frozen=True)
class PosedMesh:
    """A mesh in a batch of poses: where the faces' ``corners`` are, and the boxes of groups, patches and faces."""

    corners: Float[Tensor, "3 corner=3 batch groups patches size"]
    levels: tuple[Boxes, Boxes, Boxes]

    def meets(self, other: PosedMesh, margin: float = 0.0) -> Bool[Tensor, "batch"]:
        """Whether any patch's box comes within ``margin`` [m] of a patch's box of the other mesh."""
        groups, others = self.levels[0], other.levels[0]
        pairs = groups.each(lambda t: t[..., None]).meet(others.each(lambda t: t[..., None, :]), margin)
        batch, one, two = pairs.nonzero().unbind(1)
        patches = self.levels[1].of(batch * pairs.shape[1] + one).each(lambda t: t[..., None])
        near = patches.meet(other.levels[1].of(batch * pairs.shape[2] + two).each(lambda t: t[..., None, :]), margin)
        hit = batch.index_select(0, near.flatten(1).any(1).nonzero()[:, 0])
        return torch.zeros_like(pairs[:, 0, 0]).index_fill_(0, hit, True)

    @classmethod
    def joined(cls, first: PosedMesh, second: PosedMesh) -> PosedMesh:
        """One batch of two, one after the other; the smaller mesh gets groups at infinity, which no search reaches."""
        most = max(first.corners.shape[3], second.corners.shape[3])

        def cat(a: Tensor, b: Tensor, axis: int) -> Tensor:
            def padded(t: Tensor) -> Tensor:
                lacking = [*t.shape[: axis + 1], most - t.shape[axis + 1], *t.shape[axis + 2 :]]
                return torch.cat([t, t.new_full(lacking, torch.inf)], axis + 1) if lacking[axis + 1] else t

            return torch.cat([padded(a), padded(b)], axis)

        groups, patches, faces = (
            Boxes(cat(a.low, b.low, 1), cat(a.high, b.high, 1))
            for a, b in zip(first.levels, second.levels, strict=True)
        )
        return cls(cat(first.corners, second.corners, 2), (groups, patches, faces))

    def winding(self, points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"]) -> Int[Tensor, "points"]:
        """Winding number of mesh ``batch[i]`` around point i.

        The signed count of the faces that a ray along +z crosses. A ray through an edge or a vertex is
        counted once: the test against an edge is half-open in y and changes its sign exactly, rounding
        included, when the edge is run through the other way.
        """
        if len(batch) == 0:
            return batch
        size = _chunk(points.device)
        parts = [self._winding(p, b) for p, b in zip(points.split(size, 1), batch.split(size), strict=True)]
        return torch.cat(parts)

    def nearest(
        self, points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"]
    ) -> tuple[Int[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Which face (place in the table) of mesh ``batch[i]`` is nearest to point i; barycentric weights."""
        if len(batch) == 0:
            return batch, points.T
        size = _chunk(points.device)
        parts = [self._nearest(p, b) for p, b in zip(points.split(size, 1), batch.split(size), strict=True)]
        face, weights = (torch.cat(t) for t in zip(*parts, strict=True))
        return face, weights

    def _winding(self, points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"]) -> Int[Tensor, "points"]:
        boxes, p = self._groups(batch), points[..., None]
        row, node = boxes.column(p).nonzero().unbind(1)
        node = node + batch.index_select(0, row) * boxes.low.shape[2]
        boxes, p = self.levels[1].of(node), points.index_select(1, row)[..., None]
        column = boxes.column(p)
        # The crossings of a whole line sum to 0: where nothing lies below, those above do so too.
        below = (column & (boxes.low[2] <= p[2])).any(1).nonzero()[:, 0]
        crossed = torch.zeros_like(batch, dtype=torch.bool).index_fill_(0, row.index_select(0, below), True)
        row, node = _followed(column & (boxes.high[2] >= p[2]), row, node)
        kept = crossed.index_select(0, row).nonzero()[:, 0]
        row, node = row.index_select(0, kept), node.index_select(0, kept)
        boxes, p = self.levels[2].of(node), points.index_select(1, row)[..., None]
        row, node = _followed(boxes.column(p) & (boxes.high[2] >= p[2]), row, node)
        corners = self._faces(node) - points.index_select(1, row)[:, None]
        ahead = corners.roll(-1, 1)
        # +1 or -1 where an edge crosses the half-line y = 0, x > 0 upwards or downwards.
        side = corners[0] * ahead[1] - ahead[0] * corners[1]
        up = (corners[1] <= 0) & (ahead[1] > 0) & (side > 0)
        down = (ahead[1] <= 0) & (corners[1] > 0) & (side < 0)
        a, b, c = corners.unbind(1)
        normal = torch.linalg.cross(b - a, c - a, dim=0)
        above = _dot(normal, a) * normal[2] > 0
        turns = (up.to(torch.int8) - down.to(torch.int8)) * above
        return torch.zeros_like(batch).index_add_(0, row, (turns[0] + turns[1] + turns[2]).long())

    def _nearest(
        self, points: Float[Tensor, "3 points"], batch: Int[Tensor, "points"]
    ) -> tuple[Int[Tensor, "points"], Float[Tensor, "points 3"]]:
        boxes, p = self._groups(batch), points[..., None]
        n_groups, n_patches, n_faces = self.corners.shape[3:]
        # The nearest surface is no farther than any vertex; those of the patch around the point bound it well.
        few = min(3, n_groups)
        middle = boxes.squared_to_middle(p).topk(few, 1, largest=False).indices + (batch * n_groups)[:, None]
        patches = self.levels[1].of(middle.flatten()).each(lambda t: t.reshape(3, len(batch), -1))
        best = patches.squared_to_middle(p).argmin(1, keepdim=True)
        middle = (middle.gather(1, best // n_patches) * n_patches + best % n_patches)[:, 0]
        vertices = self.corners[:, 0].flatten(1, 3).index_select(1, middle)
        most = _squared(vertices - p).amin(1)
        row, node = (boxes.squared_distance(p) <= most[:, None]).nonzero().unbind(1)
        node = node + batch.index_select(0, row) * n_groups
        for level in self.levels[1:]:
            boxes, p = level.of(node), points.index_select(1, row)[..., None]
            row, node = _followed(boxes.squared_distance(p) <= most.index_select(0, row)[:, None], row, node)
        squared, weights = _nearest_weights(self._faces(node), points.index_select(1, row))
        best = torch.full_like(most, torch.inf).scatter_reduce_(0, row, squared, "amin")
        winner = (squared == best.index_select(0, row)).nonzero()[:, 0]
        chosen = torch.zeros_like(batch).index_copy_(0, row.index_select(0, winner), winner)
        face = node.index_select(0, chosen) % (n_groups * n_patches * n_faces)
        return face, weights.index_select(1, chosen).T

    def _groups(self, batch: Int[Tensor, "points"]) -> Boxes:
        """The boxes (3, points or 1, groups) of the groups of each point's mesh."""
        groups = self.levels[0]
        return groups if groups.low.shape[1] == 1 else groups.each(lambda t: t.index_select(1, batch))

    def _faces(self, face: Int[Tensor, "n"]) -> Float[Tensor, "3 corner=3 n"]:
        """The corners of faces, counted through the batch."""
        return self.corners.reshape(9, -1).index_select(1, face).unflatten(0, (3, 3))


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
    points: Float[Tensor, "batch points 3"], mesh: CollisionMesh, vertices: Float[Tensor, "batch closed 3"]
) -> Bool[Tensor, "batch points"]:
    """Whether points lie inside closed meshes: winding number not zero."""
    x, found = points.detach().permute(2, 0, 1), torch.zeros_like(points[..., 0], dtype=torch.bool)
    batch, index = within_bounds(x, vertices.detach().permute(2, 0, 1)).nonzero().unbind(1)
    if len(batch):
        found[batch, index] = mesh.pose(vertices).winding(x[:, batch, index], batch) != 0
    return found


def closest(
    points: Float[Tensor, "points 3"],
    batch: Int[Tensor, "points"],
    mesh: CollisionMesh,
    vertices: Float[Tensor, "batch closed 3"],
) -> SurfacePoints:
    """The nearest point of the surface of mesh ``batch[i]`` to point i; carries no gradient itself."""
    face, weights = mesh.pose(vertices).nearest(points.detach().T, batch)
    return SurfacePoints(batch, mesh.corners_of(face), weights)


def within_bounds(
    points: Float[Tensor, "3 batch points"], others: Float[Tensor, "3 batch others"]
) -> Bool[Tensor, "batch points"]:
    """Which points are in the box of the others."""
    low, high = others.amin(-1, keepdim=True), others.amax(-1, keepdim=True)
    return _every((points >= low) & (points <= high))


def _followed(
    test: Bool[Tensor, "n m"], row: Int[Tensor, "n"], parent: Int[Tensor, "n"]
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Point and child of each test that holds."""
    pair, slot = test.nonzero().unbind(1)
    return row.index_select(0, pair), parent.index_select(0, pair) * test.shape[1] + slot


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


def _corners(
    vertices: Float[Tensor, "batch closed 3"], index: Int[Tensor, "3 *faces"]
) -> Float[Tensor, "3 corner=3 batch *faces"]:
    """Where the corners of faces are; no gradient."""
    n, step = vertices.shape[:2]
    offsets = step * torch.arange(n, device=index.device).view(-1, *[1] * (index.ndim - 1))
    every = index[:, None] + offsets if n > 1 else index[:, None]
    flat = vertices.detach().permute(2, 0, 1).flatten(1)
    return flat.index_select(1, every.flatten()).reshape(3, 3, n, *index.shape[1:])


def _every(of_axes: Bool[Tensor, "3 *n"]) -> Bool[Tensor, "*n"]:
    return of_axes[0] & of_axes[1] & of_axes[2]


def _dot(a: Float[Tensor, "3 *n"], b: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _squared(a: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    # In one order everywhere: the bounds above hold to the last bit.
    return a[0] * a[0] + a[1] * a[1] + a[2] * a[2]


def _chunk(device: torch.device) -> int:
    """Points searched at once: what the tests of their patches take stays in a processor's cache."""
    return 4096 if device.type == "cpu" else 1 << 16


def _split(faces: Int[Tensor, "n"], centres: Float[Tensor, "faces 3"], most: int) -> list[Tensor]:
    """Halve a set of faces along its longest extent until no piece has more than ``most``."""
    if len(faces) == 0:
        return []
    if len(faces) <= most:
        return [faces]
    points = centres[faces]
    axis = int((points.amax(0) - points.amin(0)).argmax())
    order = faces[points[:, axis].argsort(stable=True)]
    half = len(order) // 2
    return _split(order[:half], centres, most) + _split(order[half:], centres, most)


def _filled(faces: Int[Tensor, "n 3"]) -> Int[Tensor, "size 3"]:
    return torch.cat([faces, faces[:1, :1].expand(PATCH_FACES - len(faces), 3)])
