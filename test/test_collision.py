"""Collision against dense references in numpy and trimesh, and what its losses do to hands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from a2p_ros.errors import ConfigError, InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.collision import (
    PrintedCriterion,
    colliding_pairs,
    contact_features,
    contact_possible,
    inside_vertices,
    penetration_depths,
    printed_loss,
    signed_loss,
)
from a2p_ros.interaction.surface import CollisionMesh, boundary_loops, closest, inside
from a2p_ros.training.penetration import penetration_volume
from a2p_ros.types import Pair

HANDS = load_hand_models()
MESHES = Pair(*(CollisionMesh.from_model(m) for _, m in HANDS.items()))


def winding(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Generalised winding number by solid angles (van Oosterom and Strackee, 1983)."""
    a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    det = np.einsum("...i,...i->...", a, np.cross(b, c))
    dot = [np.einsum("...i,...i->...", u, v) for u, v in ((a, b), (b, c), (c, a))]
    return np.arctan2(det, la * lb * lc + dot[0] * lc + dot[1] * la + dot[2] * lb).sum(1) / (2 * np.pi)


def distance(point: np.ndarray, triangles: np.ndarray) -> float:
    near = trimesh.triangles.closest_point(triangles, np.repeat(point[None], len(triangles), 0))
    return float(np.linalg.norm(near - point, axis=1).min())


def pose(seed: int, spread: float, curl: float = 0.0) -> torch.Tensor:
    """Rotations (1, 16, 3, 3) of a hand with random joints; the wrist stays."""
    g = torch.Generator().manual_seed(seed)
    turn = spread * torch.randn(16, 3, generator=g)
    turn[0] = 0
    turn[1:13, 2] += curl
    return torch.linalg.matrix_exp(
        torch.stack([torch.linalg.cross(torch.eye(3).expand(16, 3, 3)[:, k], turn) for k in range(3)], 2)
    )[None]


def palms(gap: float, seed: int | None = None) -> tuple[Pair[torch.Tensor], Pair[torch.Tensor]]:
    """Rotations and translations of two hands palm to palm, palms ``gap`` [m] apart (the flat hands' extent)."""
    flat = torch.eye(3).expand(1, 16, 3, 3)
    rotations = flat if seed is None else pose(seed, 0.08)
    # Turned about z by half a turn the left hand's palm (-y) faces the right one's, fingers the same way.
    left = (pose(seed + 1, 0.08) if seed is not None else flat).clone()
    left[:, 0] = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    models = {s.value: m for s, m in HANDS.items()}
    zero, betas = torch.zeros(1, 3), torch.zeros(1, 10)
    high = models["right"].forward(betas, rotations, zero).vertices
    low = models["left"].forward(betas, left, zero).vertices
    shift = torch.tensor([[0.0, float(high[..., 1].min() - low[..., 1].max()) - gap, 0.0]])
    shift[0, 0] = float(high[..., 0].mean() - low[..., 0].mean())
    return Pair(left, rotations), Pair(shift, zero)


def meshes_of(rotations: Pair[torch.Tensor], transl: Pair[torch.Tensor]) -> Pair[torch.Tensor]:
    betas = torch.zeros(len(transl.left), 10)
    return Pair(*(m.forward(betas, rotations[s], transl[s]).vertices for s, m in HANDS.items()))


def opened(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The open hand cut off at the wrist, as MANO's mesh is: (vertices, faces) with one boundary loop."""
    model = getattr(HANDS, side)
    stub = model.template[:, 0].abs() > 0.100
    faces = model.faces[~stub[model.faces].any(1)]
    used = faces.unique()
    lookup = torch.full((model.n_vertices,), -1)
    lookup[used] = torch.arange(len(used))
    return model.template[used], lookup[faces]


@pytest.mark.parametrize("seed", range(4))
def test_inside_agrees_with_winding_numbers(seed: int) -> None:
    vertices = HANDS.right.forward(torch.zeros(1, 10), pose(seed, 0.15, 0.5), torch.zeros(1, 3)).vertices
    g = torch.Generator().manual_seed(seed)
    low, high = vertices[0].amin(0), vertices[0].amax(0)
    points = low + torch.rand(500, 3, generator=g) * (high - low)
    reference = np.round(winding(points.double().numpy(), vertices[0].double().numpy()[HANDS.right.faces])) != 0
    assert 10 < reference.sum() < 400
    assert np.array_equal(inside(points[None], MESHES.right, vertices)[0].numpy(), reference)


def test_inside_counts_rays_through_edges_and_vertices_once() -> None:
    box = trimesh.creation.box((2.0, 2.0, 2.0)).subdivide().subdivide()
    vertices, faces = torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces)
    mesh = CollisionMesh.from_faces(faces, vertices)
    grid = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 7)] * 3)
    strictly = (grid.abs() < 0.99).all(1)
    outside = (grid.abs() > 1.01).any(1)
    found = inside(grid[None], mesh, vertices[None])[0]
    assert found[strictly].all() and not found[outside].any()


def test_closest_agrees_with_a_search_of_every_face() -> None:
    vertices = HANDS.left.forward(torch.zeros(1, 10), pose(3, 0.1, -0.6), torch.zeros(1, 3)).vertices
    g = torch.Generator().manual_seed(0)
    points = vertices[0, ::40] + 0.03 * torch.randn(len(vertices[0, ::40]), 3, generator=g)
    near = closest(points, torch.zeros(len(points), dtype=torch.long), MESHES.left, vertices)
    ours = (near.on(vertices) - points).norm(dim=1)
    reference = [distance(p, vertices[0].double().numpy()[HANDS.left.faces]) for p in points.double().numpy()]
    assert np.allclose(ours, reference, atol=1e-6)
    assert torch.allclose(near.weights.sum(1), torch.ones(len(points)), atol=1e-5) and (near.weights >= -1e-6).all()


def test_an_open_wrist_is_capped() -> None:
    vertices, faces = opened("right")
    assert [len(loop) > 5 for loop in boundary_loops(faces)] == [True]
    mesh = CollisionMesh.from_faces(faces, vertices)
    closed = mesh.close(vertices[None])
    assert closed.shape == (1, len(vertices) + 1, 3)
    solid = trimesh.Trimesh(closed[0].numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_volume and solid.volume > 0
    whole = trimesh.Trimesh(HANDS.right.template.numpy(), HANDS.right.faces.numpy(), process=False)
    assert 0.9 < solid.volume / whole.volume < 1.0


def test_hands_with_open_wrists_collide_like_closed_ones() -> None:
    parts = [opened(s) for s in ("left", "right")]
    meshes = Pair(*(CollisionMesh.from_faces(f, v) for v, f in parts))
    shift = torch.tensor([0.0, 0.02, 0.03])
    vertices = Pair((parts[0][0] * torch.tensor([1.0, 1.0, 1.0]) + shift)[None], parts[1][0][None])
    found = inside_vertices(meshes, vertices).left
    solid = trimesh.Trimesh(meshes.right.close(vertices.right)[0].numpy(), meshes.right.faces.numpy(), process=False)
    reference = np.round(winding(vertices.left[0].double().numpy(), solid.triangles)) != 0
    assert 20 < reference.sum() and np.array_equal(np.flatnonzero(reference), np.sort(found.vertex.numpy()))


def test_depths_are_distances_to_the_other_surface() -> None:
    rotations, transl = palms(-0.012, seed=5)
    vertices = meshes_of(rotations, transl)
    depths = penetration_depths(MESHES, vertices)
    for side, d in depths.items():
        triangles = vertices[side.other][0].double().numpy()[HANDS[side.other].faces]
        points = vertices[side][0].double().numpy()
        within = np.round(winding(points, triangles)) != 0
        reference = np.array([distance(p, triangles) if w else 0.0 for p, w in zip(points, within, strict=True)])
        assert within.sum() > 5
        assert np.allclose(d[0].numpy(), reference, atol=2e-6)


def test_broad_phase_never_misses_and_sees_hands_apart() -> None:
    g = torch.Generator().manual_seed(1)
    n = 60
    turns = torch.linalg.qr(torch.randn(n, 3, 3, generator=g))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    rotations = torch.cat([pose(i, 0.15, 0.3) for i in range(n)]).clone()
    rotations[:, 0] = turns
    transl = 0.09 * torch.randn(n, 3, generator=g)
    flat = torch.eye(3).expand(n, 16, 3, 3)
    vertices = meshes_of(Pair(rotations, flat), Pair(transl, torch.zeros(n, 3)))
    possible = contact_possible(MESHES, vertices)
    touching = []
    for i in range(n):
        solids = [trimesh.Trimesh(vertices[s][i].numpy(), m.faces.numpy(), process=False) for s, m in HANDS.items()]
        touching.append(len(trimesh.boolean.intersection(solids, engine="manifold").faces) > 0)
    touching_t = torch.tensor(touching)
    assert 10 < touching_t.sum() < n - 10
    assert (possible | ~touching_t).all()
    assert (~possible & ~touching_t).sum() > 0.4 * (~touching_t).sum()


def test_broad_phase_sees_one_solid_inside_another() -> None:
    big, small = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(1, 0.1)
    arrays = [(torch.tensor(m.vertices, dtype=torch.float32), torch.tensor(m.faces)) for m in (big, small)]
    meshes = Pair(*(CollisionMesh.from_faces(f, v) for v, f in arrays))
    assert contact_possible(meshes, Pair(arrays[0][0][None], arrays[1][0][None])).item()
    assert not contact_possible(meshes, Pair(arrays[0][0][None], arrays[1][0][None] + 1.5)).item()


def test_a_batch_gives_what_its_elements_give() -> None:
    several = [meshes_of(*palms(gap, seed=7)) for gap in (-0.01, 0.3, -0.02, 0.001)]
    batch = Pair(torch.cat([v.left for v in several]), torch.cat([v.right for v in several]))
    together, printed = signed_loss(MESHES, batch), printed_loss(MESHES, batch)
    assert together[0] > 0 and together[1] == 0 and together[3] == 0
    assert torch.allclose(together, torch.cat([signed_loss(MESHES, v) for v in several]))
    assert torch.allclose(printed, torch.cat([printed_loss(MESHES, v) for v in several]))


def test_contact_features_agree_with_a_loop_over_vertices() -> None:
    several = [meshes_of(*palms(gap, seed=seed)) for gap, seed in ((-0.012, 5), (0.3, 5), (-0.055, 6))]
    vertices = Pair(torch.cat([v.left for v in several]), torch.cat([v.right for v in several]))
    parts = Pair(*(m.weights.argmax(1) for _, m in HANDS.items()))
    features = contact_features(MESHES, vertices, inside_vertices(MESHES, vertices), parts)
    hit_parts = 0
    for side, ours in features.items():
        assert ours.shape == (3, 16, 4) and not ours.requires_grad
        for b in range(3):
            points, other = vertices[side][b].double().numpy(), vertices[side.other][b].double().numpy()
            triangles = other[HANDS[side.other].faces]
            area = np.zeros(len(points))
            for face in HANDS[side].faces.numpy():
                p = points[face]
                area[face] += np.linalg.norm(np.cross(p[1] - p[0], p[2] - p[0])) / 6
            reference = np.zeros((16, 4))
            for i in np.flatnonzero(np.round(winding(points, triangles)) != 0):
                near = trimesh.triangles.closest_point(triangles, np.repeat(points[i][None], len(triangles), 0))
                gap = near[np.linalg.norm(near - points[i], axis=1).argmin()] - points[i]
                part = int(parts[side][i])
                reference[part, :3] += area[i] * gap / area[parts[side].numpy() == part].sum()
                reference[part, 3] = max(reference[part, 3], np.linalg.norm(gap))
            hit_parts += int((reference[:, 3] > 0).sum())
            assert np.allclose(ours[b].numpy(), reference, atol=3e-6)
    assert hit_parts > 8
    with pytest.raises(InputError, match=r"parts\.left: expected a part for each vertex, \(1159,\), got \(3,\)"):
        contact_features(MESHES, vertices, inside_vertices(MESHES, vertices), Pair(torch.zeros(3).long(), parts.right))


def test_printed_pairs_agree_with_every_pair() -> None:
    vertices = meshes_of(*palms(-0.004, seed=9))
    criterion = PrintedCriterion(0.006**2, -0.3, 0.01**2)
    found = colliding_pairs(MESHES, vertices, criterion)
    solids = [
        trimesh.Trimesh(v[0].double().numpy(), m.faces.numpy(), process=False)
        for (_, v), (_, m) in zip(vertices.items(), HANDS.items(), strict=True)
    ]
    normals = []
    for solid in solids:
        cross = solid.triangles_cross
        summed = np.zeros_like(solid.vertices)
        for k in range(3):
            np.add.at(summed, solid.faces[:, k], cross)
        normals.append(summed / np.linalg.norm(summed, axis=1, keepdims=True))
    squared = ((solids[0].vertices[:, None] - solids[1].vertices[None]) ** 2).sum(-1)
    reference = np.argwhere((squared < 0.006**2) & (normals[0] @ normals[1].T < -0.3))
    assert len(reference) > 20
    assert np.array_equal(reference, torch.stack([found.first, found.second], 1).numpy())


@pytest.mark.parametrize("loss", [signed_loss, printed_loss])
def test_gradients_through_the_hand_model_are_right(loss) -> None:
    rotations, transl = palms(-0.006, seed=11)
    models = Pair(*(m.to(torch.float64) for _, m in HANDS.items()))
    betas = torch.zeros(1, 10, dtype=torch.float64)
    right = models.right.forward(betas, rotations.right.double(), transl.right.double()).vertices

    def value(x: torch.Tensor) -> torch.Tensor:
        turned = torch.linalg.matrix_exp(
            torch.stack(
                [
                    torch.linalg.cross(torch.eye(3, dtype=x.dtype).expand(16, 3, 3)[:, k], x[3:].reshape(16, 3))
                    for k in range(3)
                ],
                2,
            )
        )
        left = models.left.forward(
            betas, (rotations.left[0].double() @ turned)[None], transl.left.double() + x[:3]
        ).vertices
        return loss(MESHES, Pair(left, right)).sum()

    x = torch.zeros(51, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(x), x)
    assert gradient.abs().max() > 0
    for k in (0, 1, 2, 5, 12, 20):
        step = torch.zeros(51, dtype=torch.float64)
        step[k] = 1e-7
        numeric = (value(x.detach() + step) - value(x.detach() - step)) / 2e-7
        assert numeric.item() == pytest.approx(gradient[k].item(), rel=2e-3, abs=1e-4 * gradient.abs().max().item())


def descend(loss, rotations: Pair, transl: Pair, step: float = 2e-3) -> tuple[Pair[torch.Tensor], float]:
    """One step along the gradient of the left hand's pose and translation, none by over ``step`` [rad or m]."""
    turn = torch.zeros(1, 16, 3, requires_grad=True)
    shift = transl.left.clone().requires_grad_()
    generator = torch.stack([torch.linalg.cross(torch.eye(3).expand(1, 16, 3, 3)[..., k], turn) for k in range(3)], 3)
    rotated = rotations.left @ torch.linalg.matrix_exp(generator)
    vertices = meshes_of(Pair(rotated, rotations.right), Pair(shift, transl.right))
    gradients = torch.autograd.grad(loss(MESHES, vertices).sum(), (turn, shift))
    largest = max(float(g.abs().max()) for g in gradients)
    scale = step / largest if largest > 0 else 0.0
    moved = torch.linalg.matrix_exp(
        torch.stack(
            [torch.linalg.cross(torch.eye(3).expand(1, 16, 3, 3)[..., k], -scale * gradients[0]) for k in range(3)], 3
        )
    )
    after = meshes_of(
        Pair(rotations.left @ moved, rotations.right), Pair(transl.left - scale * gradients[1], transl.right)
    )
    return after, largest


@pytest.mark.parametrize(
    ("gap", "seed"), [(-0.004, None), (-0.012, None), (-0.04, None), (-0.01, 2), (-0.02, 4), (-0.05, 6)]
)
def test_a_signed_step_lowers_the_penetration_volume(gap: float, seed: int | None) -> None:
    rotations, transl = palms(gap, seed)
    before = penetration_volume(MESHES, meshes_of(rotations, transl))[0]
    after, _ = descend(signed_loss, rotations, transl)
    assert before > 0.01
    assert penetration_volume(MESHES, after)[0] < 0.95 * before


def test_a_signed_step_leaves_touching_hands_still_where_the_printed_one_does_not() -> None:
    rotations, transl = palms(0.0002)
    vertices = meshes_of(rotations, transl)
    assert penetration_volume(MESHES, vertices)[0] == 0
    assert len(colliding_pairs(MESHES, vertices).batch) > 0
    after, gradient = descend(signed_loss, rotations, transl)
    assert gradient == 0 and torch.equal(after.left, vertices.left)
    _, gradient = descend(printed_loss, rotations, transl)
    assert gradient > 0


def test_the_printed_step_drives_half_sunk_palms_deeper() -> None:
    rotations, transl = palms(-0.04)
    before = penetration_volume(MESHES, meshes_of(rotations, transl))[0]
    after, _ = descend(printed_loss, rotations, transl)
    assert penetration_volume(MESHES, after)[0] > 1.05 * before


def test_the_condition_may_stand_for_v_c() -> None:
    rotations, transl = palms(-0.005)
    vertices = meshes_of(rotations, transl)
    apart = Pair(vertices.left + 1.0, vertices.right)
    assert printed_loss(MESHES, apart).item() == 0
    assert printed_loss(MESHES, vertices, condition=vertices).item() == pytest.approx(
        2 * printed_loss(MESHES, vertices).item(), rel=1e-4
    )
    assert printed_loss(MESHES, apart, condition=vertices).item() == pytest.approx(
        printed_loss(MESHES, vertices).item(), rel=1e-4
    )


def test_hands_far_from_the_origin_collide_alike() -> None:
    vertices = meshes_of(*palms(-0.01, seed=3))
    away = Pair(*(v + torch.tensor([0.4, -0.3, 1.2]) for _, v in vertices.items()))
    here, there = penetration_depths(MESHES, vertices), penetration_depths(MESHES, away)
    assert math.isclose(here.left.sum(), there.left.sum(), rel_tol=1e-3)


def test_bad_criteria_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"d_threshold < rho, got d_threshold=0\.01, rho=0\.001"):
        PrintedCriterion(0.01, 0.0, 0.001)
    with pytest.raises(InputError, match=r"expected \(B, 1159, 3\), got \(1159, 3\)"):
        contact_possible(MESHES, Pair(HANDS.left.template, HANDS.right.template))
    with pytest.raises(InputError, match="same direction"):
        boundary_loops(torch.tensor([[0, 1, 2], [0, 1, 3]]))
