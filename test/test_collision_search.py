"""The collision search, which culls, against a test of every face in numpy, on pairs of many kinds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.collision import contact_possible, inside_vertices, penetration_depths
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.surface import CollisionMesh, closest, inside
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Pair

HANDS = load_hand_models()
MESHES = Pair(*(CollisionMesh.from_model(m) for _, m in HANDS.items()))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with single_thread():
        yield


def winding(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Winding numbers by the signs of the signed volumes that a line along +x makes with every face."""
    out = np.zeros(len(points), dtype=int)
    for k, p in enumerate(points):
        a, b, c = (triangles[:, i] - p for i in range(3))
        # Areas seen along x: of (a, b), (b, c), (c, a) with the line.
        s = np.stack([u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1] for u, v in ((a, b), (b, c), (c, a))])
        hit = (s > 0).all(0) | (s < 0).all(0)
        volume = np.einsum("fi,fi->f", a[hit], np.cross(b[hit], c[hit]))
        area = s[:, hit].sum(0)
        out[k] = np.sign(area[volume / area > 0]).sum()
    return out


def distance(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest of all faces (Ericson, Real-Time Collision Detection, 5.1.5)."""
    a, b, c = (triangles[:, i] for i in range(3))
    out = np.empty(len(points))
    normal = np.cross(b - a, c - a)
    square = np.einsum("fi,fi->f", normal, normal)
    for k, p in enumerate(points):
        inner = np.ones(len(a), dtype=bool)
        edges = np.full(len(a), np.inf)
        for u, v in ((a, b), (b, c), (c, a)):
            along = v - u
            inner &= np.einsum("fi,fi->f", np.cross(along, p - u), normal) >= 0
            length = np.einsum("fi,fi->f", along, along)
            t = np.clip(np.einsum("fi,fi->f", p - u, along) / length, 0, 1)
            edges = np.minimum(edges, np.linalg.norm(u + t[:, None] * along - p, axis=1))
        plane = np.abs(np.einsum("fi,fi->f", p - a, normal)) / np.sqrt(square)
        out[k] = np.where(inner, np.minimum(plane, edges), edges).min()
    return out


def turns(count: int, spread: float, g: torch.Generator) -> torch.Tensor:
    """Random joint rotations (count, 16, 3, 3), with wrists turned any way."""
    v = spread * torch.randn(count * 16, 3, generator=g)
    o = torch.zeros(count * 16)
    skew = torch.stack([o, -v[:, 2], v[:, 1], v[:, 2], o, -v[:, 0], -v[:, 1], v[:, 0], o], 1).reshape(-1, 3, 3)
    out = torch.linalg.matrix_exp(skew).reshape(count, 16, 3, 3)
    wrists = torch.linalg.qr(torch.randn(count, 3, 3, generator=g))[0]
    out[:, 0] = wrists * torch.linalg.det(wrists)[:, None, None]
    return out


def random_pairs(count: int, seed: int) -> HandPairs:
    """Hands in any pose through each other, wrists turned at random; many cut themselves."""
    g = torch.Generator().manual_seed(seed)
    rotations = Pair(turns(count, 0.3, g), turns(count, 0.3, g))
    betas = Pair(torch.randn(count, 10, generator=g), torch.randn(count, 10, generator=g))
    return met(HandPairs(betas, rotations, Pair(torch.zeros(count, 3), torch.zeros(count, 3))), 0.04, g)


def met(pairs: HandPairs, spread: float, g: torch.Generator) -> HandPairs:
    """The left hand moved to where the right one is, but for a random vector."""
    joints = pairs.joints(HANDS)
    shift = joints.right.mean(1) - joints.left.mean(1) + spread * torch.randn(len(pairs), 3, generator=g)
    return HandPairs(pairs.betas, pairs.rotations, Pair(pairs.transl.left + shift, pairs.transl.right))


def disturbed_pairs(count: int, seed: int) -> HandPairs:
    """Penetrating conditions as training has them: flat hands palm to palm, disturbed."""
    g = torch.Generator().manual_seed(seed)
    rotations = torch.eye(3).expand(count, 16, 3, 3)
    left = rotations.clone()
    left[:, 0] = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    zero, still = torch.zeros(count, 10), torch.zeros(count, 3)
    clean = met(HandPairs(Pair(zero, zero), Pair(left, rotations), Pair(still, still)), 0.02, g)
    return InteractionGenerator(HANDS).disturb(clean, g, mpjpe=0.008, tries=3)[0]


def vertices_of(pairs: HandPairs) -> Pair[torch.Tensor]:
    return Pair(*(o.vertices for _, o in pairs.forward(HANDS).items()))


@pytest.mark.parametrize("make", [random_pairs, disturbed_pairs])
def test_the_search_finds_what_a_test_of_every_face_finds(make) -> None:
    vertices = vertices_of(make(26, 4))
    found, depths = inside_vertices(MESHES, vertices), penetration_depths(MESHES, vertices)
    possible = contact_possible(MESHES, vertices)
    inside_count = 0
    for side, hits in found.items():
        faces = HANDS[side.other].faces.numpy()
        for b in range(26):
            points, other = (vertices[s][b].double().numpy() for s in (side, side.other))
            near = np.flatnonzero(((points >= other.min(0)) & (points <= other.max(0))).all(1))
            # The reference is dear: the vertices found, and every eighth of the others.
            mine = hits.vertex[hits.batch == b].numpy()
            asked = np.union1d(mine, near[::8])
            reference = asked[winding(points[asked], other[faces]) != 0]
            assert np.array_equal(np.intersect1d(mine, asked), reference)
            assert possible[b] or len(reference) == 0
            if len(mine):
                few = mine[::6]
                assert np.allclose(depths[side][b, few].numpy(), distance(points[few], other[faces]), atol=1e-6)
            inside_count += len(mine)
    assert inside_count > 1000


def test_one_pair_gives_what_a_batch_gives_and_in_its_order() -> None:
    vertices = vertices_of(random_pairs(40, 9))
    together = inside_vertices(MESHES, vertices)
    for b in range(0, 40, 3):
        alone = inside_vertices(MESHES, Pair(vertices.left[b : b + 1], vertices.right[b : b + 1]))
        for side, hits in alone.items():
            mask = together[side].batch == b
            assert torch.equal(hits.vertex, together[side].vertex[mask])
            assert torch.equal(hits.surface.corners, together[side].surface.corners[mask])
            assert torch.equal(hits.surface.weights, together[side].surface.weights[mask])


def test_meshes_of_different_sizes_share_a_search() -> None:
    vertices = HANDS.right.template[None]
    low, high = vertices[0].amin(0) - 0.01, vertices[0].amax(0) + 0.01
    box = torch.cartesian_prod(*torch.stack([low, high], 1))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    meshes = Pair(CollisionMesh.from_faces(faces, box), MESHES.right)
    for hands in (meshes, Pair(meshes.right, meshes.left)):
        found = inside_vertices(hands, Pair(*(box[None] if m is meshes.left else vertices for _, m in hands.items())))
        held, empty = (found.right, found.left) if hands is meshes else (found.left, found.right)
        assert torch.equal(held.vertex, torch.arange(HANDS.right.n_vertices)) and len(empty.vertex) == 0
        points = vertices[0]
        wall = torch.minimum(points - low, high - points).amin(1)
        assert torch.allclose((held.surface.on(box[None]) - points).norm(dim=1), wall, atol=1e-6)


def test_more_points_than_one_piece_of_a_search() -> None:
    g = torch.Generator().manual_seed(2)
    template = HANDS.right.template
    points = template.amin(0) + torch.rand(9000, 3, generator=g) * (template.amax(0) - template.amin(0))
    hit = inside(points[None], MESHES.right, template[None])[0]
    some = torch.arange(0, 9000, 60)
    assert np.array_equal(
        hit[some].numpy(), winding(points[some].double().numpy(), template.double().numpy()[HANDS.right.faces]) != 0
    )
    near = closest(points, torch.zeros(9000, dtype=torch.long), MESHES.right, template[None]).on(template[None])
    reference = distance(points[some].double().numpy(), template.double().numpy()[HANDS.right.faces])
    assert np.allclose((near - points)[some].norm(dim=1).numpy(), reference, atol=1e-6)


def test_no_points_give_no_surface() -> None:
    none = closest(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), MESHES.left, HANDS.left.template[None])
    assert none.corners.shape == (0, 3) and none.on(HANDS.left.template[None]).shape == (0, 3)
    assert not inside(torch.full((1, 5, 3), 9.0), MESHES.left, HANDS.left.template[None]).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_hands_that_are_not_finite_touch_nothing_and_absurd_ones_spoil_no_other(value: float) -> None:
    vertices = vertices_of(disturbed_pairs(2, 1))
    alone = inside_vertices(MESHES, Pair(*(v[1:] for _, v in vertices.items())))
    vertices.left[0, 100:300] = value
    vertices.left[0, 300:320] = -value
    found = inside_vertices(MESHES, vertices)
    for side, hits in found.items():
        assert len(alone[side].vertex) > 0
        assert torch.equal(hits.vertex[hits.batch == 1], alone[side].vertex)
        assert abs(value) == 1e30 or not (hits.batch == 0).any()
