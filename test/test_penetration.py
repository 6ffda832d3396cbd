"""Penetration metrics against closed forms and dense sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from a2p_ros.errors import InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.training import penetration
from a2p_ros.training.penetration import (
    BooleanError,
    penetration_distance,
    penetration_metrics,
    penetration_volume,
    voxel_volume,
)
from a2p_ros.types import Pair

HANDS = load_hand_models()
MESHES = Pair(*(CollisionMesh.from_model(m) for _, m in HANDS.items()))


def pair_of(one: trimesh.Trimesh, other: trimesh.Trimesh) -> tuple[Pair[CollisionMesh], Pair[torch.Tensor]]:
    arrays = [(torch.tensor(m.vertices, dtype=torch.float64), torch.tensor(m.faces)) for m in (one, other)]
    return Pair(*(CollisionMesh.from_faces(f, v) for v, f in arrays)), Pair(*(v[None] for v, _ in arrays))


def boxes(shift: tuple[float, float, float]) -> tuple[Pair[CollisionMesh], Pair[torch.Tensor]]:
    """Two boxes of 4 x 4 x 4 cm; the right one moved by ``shift`` [m]."""
    one, other = (trimesh.creation.box((0.04, 0.04, 0.04)) for _ in range(2))
    other.apply_translation(shift)
    return pair_of(one, other)


def hands(shift: tuple[float, float, float]) -> Pair[torch.Tensor]:
    flat = torch.eye(3).expand(1, 16, 3, 3)
    zero = torch.zeros(1, 10)
    return Pair(
        HANDS.left.forward(zero, flat, torch.tensor([shift])).vertices,
        HANDS.right.forward(zero, flat, torch.zeros(1, 3)).vertices,
    )


def test_boxes_overlap_by_their_common_box() -> None:
    found = penetration_metrics(*boxes((0.03, 0.02, 0.01)))[0]
    assert found.penvol_cm3 == pytest.approx(1 * 2 * 3, rel=1e-9)
    # One corner of each is inside the other, 1 cm from the nearest face; 16 vertices in all.
    assert found.pendist_max_mm == pytest.approx(10.0, rel=1e-6)
    assert found.pendist_mean_mm == pytest.approx(20 / 16, rel=1e-6)
    assert found.iv_cm3 == pytest.approx(6.0, rel=1e-6)


@pytest.mark.parametrize("gap", [-0.01, -0.03, -0.002])
def test_spheres_overlap_by_two_caps(gap: float) -> None:
    r = 0.04
    one, other = (trimesh.creation.icosphere(4, r) for _ in range(2))
    other.apply_translation((0.0, 0.0, 2 * r + gap))
    meshes, vertices = pair_of(one, other)
    h = -gap / 2
    caps = 2 * np.pi * h**2 * (3 * r - h) / 3 * 1e6
    tolerance = 0.03 + 0.03 * 0.002 / -gap * 5
    assert penetration_volume(meshes, vertices)[0] == pytest.approx(caps, rel=tolerance)
    assert penetration_distance(meshes, vertices)[1][0] == pytest.approx(-gap * 1e3, rel=0.02)
    if gap < -0.005:
        assert voxel_volume(meshes, vertices)[0] == pytest.approx(caps, rel=0.15)


def test_one_box_in_another_counts_whole() -> None:
    big, small = trimesh.creation.box((0.06, 0.06, 0.06)), trimesh.creation.box((0.02, 0.02, 0.02))
    found = penetration_metrics(*pair_of(big, small))[0]
    assert found.penvol_cm3 == pytest.approx(8.0, rel=1e-9)
    assert found.pendist_max_mm == pytest.approx(20.0, rel=1e-6)


def test_hands_agree_with_dense_sampling() -> None:
    vertices = hands((0.0, 0.02, 0.03))
    solids = [
        trimesh.Trimesh(v[0].double().numpy(), m.faces.numpy())
        for v, m in zip((vertices.left, vertices.right), (HANDS.left, HANDS.right), strict=True)
    ]
    low = np.maximum(*(s.bounds[0] for s in solids))
    high = np.minimum(*(s.bounds[1] for s in solids))
    points = np.random.default_rng(0).uniform(low, high, (4000, 3))

    def within(solid: trimesh.Trimesh) -> np.ndarray:
        a, b, c = (solid.triangles[None, :, k] - points[:, None] for k in range(3))
        la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
        det = np.einsum("...i,...i->...", a, np.cross(b, c))
        dot = [np.einsum("...i,...i->...", u, v) for u, v in ((a, b), (b, c), (c, a))]
        return np.arctan2(det, la * lb * lc + dot[0] * lc + dot[1] * la + dot[2] * lb).sum(1) > np.pi

    share = (within(solids[0]) & within(solids[1])).mean()
    sampled = share * np.prod(high - low) * 1e6
    assert sampled > 5
    assert penetration_volume(MESHES, vertices)[0] == pytest.approx(sampled, rel=0.1)
    assert voxel_volume(MESHES, vertices)[0] == pytest.approx(sampled, rel=0.1)


def test_hands_apart_do_not_penetrate_and_a_hand_in_itself_is_its_volume() -> None:
    apart = penetration_metrics(MESHES, hands((0.0, 0.10, 0.0)))[0]
    assert apart == penetration.PenetrationMetrics(0.0, 0.0, 0.0, 0.0)
    vertices = hands((0.0, 0.0, 0.0)).right
    volume = trimesh.Trimesh(vertices[0].numpy(), HANDS.right.faces.numpy()).volume * 1e6
    same = Pair(MESHES.right, MESHES.right)
    assert penetration_volume(same, Pair(vertices, vertices))[0] == pytest.approx(volume, rel=1e-3)


def test_a_failed_boolean_is_an_error_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    meshes, vertices = boxes((0.01, 0.0, 0.0))
    turned = Pair(vertices.left[:, :, [1, 0, 2]], vertices.right)
    with pytest.raises(BooleanError, match="pair 0: the left hand is not a closed, consistently oriented"):
        penetration_volume(meshes, turned)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("not manifold")

    monkeypatch.setattr(trimesh.boolean, "intersection", broken)
    with pytest.raises(BooleanError, match="boolean intersection failed: RuntimeError: not manifold"):
        penetration_volume(meshes, vertices)
    monkeypatch.setattr(trimesh.boolean, "intersection", lambda *_, **__: None)
    with pytest.raises(BooleanError, match="gave no mesh at all"):
        penetration_volume(meshes, vertices)


def test_vertices_that_are_not_finite_are_refused() -> None:
    meshes, vertices = boxes((0.01, 0.0, 0.0))
    vertices.left[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="left hand: expected finite vertices"):
        penetration_metrics(meshes, vertices)
