"""Conditions before a camera, checked by OpenCV's projection, rigid alignment of meshes and rays through meshes."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from a2p_ros.errors import ConfigError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.conditions import Conditions, ViewConfig, fit_conditions, noise_conditions
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.training.penetration import penetration_distance, penetration_volume
from a2p_ros.types import Pair, Side

HANDS = load_hand_models()
GENERATOR = InteractionGenerator(HANDS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with single_thread():
        yield


@pytest.fixture(scope="module")
def clean() -> HandPairs:
    tried, kept = GENERATOR.attempt("hand_on_back", 6, torch.Generator().manual_seed(3))
    assert kept.sum() >= 5
    return tried[kept]


@pytest.fixture(scope="module")
def noisy(clean: HandPairs) -> Conditions:
    return noise_conditions(GENERATOR, clean, torch.Generator().manual_seed(1), 0.006)


@pytest.fixture(scope="module")
def fitted(clean: HandPairs) -> Conditions:
    return fit_conditions(GENERATOR, clean, torch.Generator().manual_seed(1))


def points(pairs: HandPairs) -> np.ndarray:
    """Both meshes of each pair, (B, V, 3)."""
    both = pairs.forward(HANDS)
    return torch.cat([both.left.vertices, both.right.vertices], 1).double().numpy()


def joints(pairs: HandPairs) -> np.ndarray:
    """(B, 2, 21, 3), left first."""
    both = pairs.forward(HANDS)
    return torch.stack([both.left.joints, both.right.joints], 1).double().numpy()


def residual(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two point sets after the best rotation and translation (Kabsch)."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    return float(np.linalg.norm(a @ turn.T - b, axis=1).max())


@pytest.mark.parametrize("name", ["noisy", "fitted"])
def test_conditions_penetrate_and_belong_to_their_clean_pairs(
    name: str, clean: HandPairs, request: pytest.FixtureRequest
) -> None:
    made: Conditions = request.getfixturevalue(name)
    assert len(made) >= 3 and len(made.rows) == len(made.condition) == len(made)
    vertices = GENERATOR.vertices(made.condition)
    assert penetration_volume(GENERATOR.meshes, vertices).min() > 0
    assert penetration_distance(GENERATOR.meshes, vertices)[1].min() >= 1.0
    for truth, source in zip(points(made.truth), points(clean[made.rows]), strict=True):
        assert residual(truth, source) < 1e-5, "the truth is the clean pair, moved as a whole"
    assert made.truth.kinds == tuple(clean.kinds[i] for i in made.rows.tolist())


@pytest.mark.parametrize("name", ["noisy", "fitted"])
def test_the_camera_sees_the_truth_where_the_pixels_say(name: str, request: pytest.FixtureRequest) -> None:
    made: Conditions = request.getfixturevalue(name)
    camera = made.camera
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    for i, side in ((0, Side.LEFT), (1, Side.RIGHT)):
        true = np.stack(
            [cv2.projectPoints(j, np.zeros(3), np.zeros(3), matrix, None)[0][:, 0] for j in joints(made.truth)[:, i]]
        )
        assert np.allclose(made.true_px[side].numpy(), true, atol=0.02)
        assert true.min() > 0 and (true.max((0, 1)) < [camera.width, camera.height]).all()
        off = np.linalg.norm(made.observed_px[side].numpy() - true, axis=-1)
        box = np.ptp(true, axis=1).max(1)
        visible = made.weights[side].numpy() == 1
        assert 0.5 * 0.012 < np.median((off / box[:, None])[visible]) < 2 * 0.012
    depth = joints(made.truth)[..., 2]
    assert depth.min() > 0.25 and depth.max() < 1.2


def first_hit(vertices: np.ndarray, faces: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Distance from the camera to a mesh along each of some directions, inf past it (Moeller and Trumbore)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    out = np.full(len(towards), np.inf)
    for i, d in enumerate(towards):
        p = np.cross(d, c - a)
        scale = np.einsum("fi,fi->f", b - a, p)
        q = np.cross(-a, b - a)
        u, v = -np.einsum("fi,fi->f", a, p) / scale, q @ d / scale
        t = np.einsum("fi,fi->f", c - a, q) / scale
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        out[i] = t[hit].min(initial=np.inf)
    return out


def test_hidden_joints_are_those_whose_ray_meets_the_other_hand_first(noisy: Conditions) -> None:
    said, behind = [], []
    both = noisy.truth.forward(HANDS)
    for i, seen in enumerate(joints(noisy.truth)):
        for k, side in ((0, Side.LEFT), (1, Side.RIGHT)):
            other = both.right if side is Side.LEFT else both.left
            away = np.linalg.norm(seen[k], axis=1)
            first = first_hit(
                other.vertices[i].double().numpy(), HANDS[side.other].faces.numpy(), seen[k] / away[:, None]
            )
            said.append(noisy.weights[side][i].numpy() < 1)
            behind.append(away - first)
    hidden, depth = np.concatenate(said), np.concatenate(behind)
    assert hidden[depth > 0.015].mean() > 0.97 and hidden[depth < 0].mean() < 0.1
    assert (depth > 0.015).sum() > 10


def test_noise_has_the_error_asked_for_and_sees_the_wrist_where_it_is(noisy: Conditions) -> None:
    ours, truth = joints(noisy.condition), joints(noisy.truth)
    error = np.linalg.norm((ours - ours[:, :, :1]) - (truth - truth[:, :, :1]), axis=-1).mean((1, 2))
    assert np.allclose(error, 0.006, rtol=0.02)
    # The true right wrist is where the disturbed one is, but for the change of shape.
    assert np.abs(ours[:, 1, 0] - truth[:, 1, 0]).max() < 0.006


def test_the_fit_is_exact_but_for_shape_without_noise_and_wrong_with_it(clean: HandPairs, fitted: Conditions) -> None:
    still = ViewConfig(pixel_noise=0.0, hidden_noise=0.0, noise_3d=0.0, noise_z=0.0, scale=0.0)
    same = HandPairs(Pair(*[torch.zeros_like(clean.betas.left)] * 2), clean.rotations, clean.transl, clean.kinds)
    exact = fit_conditions(GENERATOR, same, torch.Generator().manual_seed(2), still)
    errors = []
    for made in (exact, fitted):
        ours, truth = joints(made.condition), joints(made.truth)
        errors.append(np.linalg.norm((ours - ours[:, :, :1]) - (truth - truth[:, :, :1]), axis=-1).mean((1, 2)))
    assert 0.003 < errors[1].mean() < 0.02
    assert len(exact) == 0 or errors[0].max() < 0.003, "mean hands, seen without noise, are found again"


def test_a_seed_gives_the_same_conditions(clean: HandPairs) -> None:
    one, two, other = (fit_conditions(GENERATOR, clean[:3], torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(one.condition.rotations.left, two.condition.rotations.left)
    assert torch.equal(one.observed_px.right, two.observed_px.right)
    assert len(other) != len(one) or not torch.equal(one.true_px.left, other.true_px.left)


def test_some_conditions_can_be_chosen_and_none_at_all(noisy: Conditions, clean: HandPairs) -> None:
    two = noisy[torch.tensor([2, 0])]
    assert torch.equal(two.rows, noisy.rows[[2, 0]]) and torch.equal(two.true_px.left, noisy.true_px.left[[2, 0]])
    assert torch.equal(two.condition.transl.right, noisy.condition.transl.right[[2, 0]])
    empty = clean[torch.zeros(0, dtype=torch.long)]
    assert len(fit_conditions(GENERATOR, empty, torch.Generator())) == 0


def test_views_that_make_no_sense_are_refused(clean: HandPairs) -> None:
    with pytest.raises(ConfigError, match=r"expected near <= far, got 0.9 and 0.5"):
        noise_conditions(GENERATOR, clean, torch.Generator(), config=ViewConfig(near=0.9, far=0.5))
    with pytest.raises(ConfigError, match=r"ViewConfig.pixel_noise: expected a value in \[0.0, 1.0\], got -1"):
        ViewConfig(pixel_noise=-1.0)
