"""Generated interactions: they touch, do not penetrate, keep the limits; conditions penetrate at the asked error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from a2p_ros.errors import ConfigError, InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.limits import JOINT_LIMITS, joint_angles, joint_axes, joint_rotations
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.training.contact_sites import contact_sites
from a2p_ros.training.hand_poses import GRASPS, HandAxes, sample_hand
from a2p_ros.training.interaction_kinds import HELD_OUT, KINDS, MEETING
from a2p_ros.training.interactions import InteractionGenerator, wrist_aligned_error
from a2p_ros.training.penetration import penetration_volume
from a2p_ros.types import Pair

HANDS = load_hand_models()
GENERATOR = InteractionGenerator(HANDS)


@pytest.fixture(scope="module")
def tries() -> list[tuple[HandPairs, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [GENERATOR.attempt(kind, 3, g) for kind in ("pointing_at_palm", "hand_on_back")]


@pytest.fixture(scope="module")
def pairs(tries: list[tuple[HandPairs, torch.Tensor]]) -> HandPairs:
    kept = HandPairs.joined([p[c] for p, c in tries])
    assert len(kept) >= 4
    return kept


def test_clean_pairs_touch_without_penetrating(pairs: HandPairs) -> None:
    vertices = GENERATOR.vertices(pairs)
    assert penetration_volume(GENERATOR.meshes, vertices).max() < 0.05
    for left, right in zip(vertices.left.numpy(), vertices.right.numpy(), strict=True):
        assert np.linalg.norm(left[:, None] - right[None], axis=-1).min() < 0.004


def test_hands_that_just_meet_touch_and_keep_their_shapes() -> None:
    pairs, clean = GENERATOR.attempt(MEETING, 8, torch.Generator().manual_seed(3))
    assert int(clean.sum()) >= 4 and set(pairs.kinds) == {MEETING}
    vertices = GENERATOR.vertices(pairs[clean])
    assert penetration_volume(GENERATOR.meshes, vertices).max() < 0.05
    for left, right in zip(vertices.left.numpy(), vertices.right.numpy(), strict=True):
        assert np.linalg.norm(left[:, None] - right[None], axis=-1).min() < 0.004
    # Of far more shapes than the named kinds have: no two alike.
    bends = torch.cat([pairs.rotations.left[:, 1:], pairs.rotations.right[:, 1:]]).flatten(1)
    assert float(torch.cdist(bends, bends).fill_diagonal_(9.0).min()) > 0.3


def test_pairs_keep_the_joint_limits(pairs: HandPairs) -> None:
    rest = HANDS.right.joints(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))[0].numpy()
    axes = {s: joint_axes(rest if s.value == "right" else rest * [-1, 1, 1], s) for s, _ in HANDS.items()}
    for side, rotations in pairs.rotations.items():
        angles = joint_angles(rotations[:, 1:].double().numpy(), axes[side], side)
        assert (angles > JOINT_LIMITS[..., 0] - 1e-3).all() and (angles < JOINT_LIMITS[..., 1] + 1e-3).all()


def test_mirroring_a_pair_mirrors_its_meshes(pairs: HandPairs) -> None:
    flip = torch.tensor([-1.0, 1.0, 1.0])
    ours, other = GENERATOR.vertices(pairs), GENERATOR.vertices(pairs.mirrored())
    assert torch.allclose(other.left, ours.right * flip, atol=1e-5)
    assert torch.allclose(other.right, ours.left * flip, atol=1e-5)
    assert torch.allclose(pairs.mirrored().mirrored().rotations.left, pairs.rotations.left)


@pytest.mark.parametrize("mpjpe", [0.004, 0.008])
def test_conditions_penetrate_at_the_asked_error(pairs: HandPairs, mpjpe: float) -> None:
    conditions, good = GENERATOR.disturb(pairs, torch.Generator().manual_seed(1), mpjpe)
    assert good.sum() >= len(pairs) - 1
    kept, clean = conditions[good], pairs[good]
    ours, truth = GENERATOR.joints(kept), GENERATOR.joints(clean)
    errors = [
        np.linalg.norm((j - j[:, :1] - t + t[:, :1]).numpy(), axis=-1).mean(1)
        for j, t in ((ours.left, truth.left), (ours.right, truth.right))
    ]
    assert np.allclose(sum(errors) / 2, mpjpe, rtol=0.01)
    assert penetration_volume(GENERATOR.meshes, GENERATOR.vertices(kept)).min() > 0
    moved = (ours.left[:, 0] - ours.right[:, 0] - truth.left[:, 0] + truth.right[:, 0]).norm(dim=-1)
    assert 0 < moved.mean() < 6 * mpjpe


def test_a_seed_gives_the_same_conditions(pairs: HandPairs) -> None:
    a, b = (GENERATOR.disturb(pairs, torch.Generator().manual_seed(5), tries=2)[0] for _ in range(2))
    assert torch.equal(a.rotations.left, b.rotations.left) and torch.equal(a.transl.left, b.transl.left)
    assert torch.equal(a.betas.left, b.betas.left)
    assert float(wrist_aligned_error(GENERATOR.joints(a), GENERATOR.joints(pairs)).max()) > 0


def test_torch_rotations_are_those_of_the_limits() -> None:
    angles = sample_hand(list(GRASPS), torch.Generator().manual_seed(2))
    for side, model in HANDS.items():
        rest = model.joints(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))[0].numpy()
        reference = joint_rotations(angles.double().numpy(), joint_axes(rest, side), side)
        assert np.allclose(HandAxes(model).rotations(angles).numpy(), reference, atol=1e-5)


def test_samples_vary_within_limits_and_fingers_move_together() -> None:
    angles = sample_hand(["relaxed"] * 400, torch.Generator().manual_seed(3), mix=0.0).numpy()
    assert (angles >= JOINT_LIMITS[..., 0].astype(np.float32)).all()
    assert (angles <= JOINT_LIMITS[..., 1].astype(np.float32)).all()
    together = np.corrcoef(angles[:, 3, 1], angles[:, 9, 1])[0, 1]
    assert 0.4 < together < 0.98
    assert np.corrcoef(angles[:, 4, 1], angles[:, 5, 1])[0, 1] > 0.99


def test_sites_lie_where_their_names_say() -> None:
    sites = {side: contact_sites(model) for side, model in HANDS.items()}
    for side, model in HANDS.items():
        joints = model.joints(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))[0]
        points = {name: model.template[vertex] for name, vertex in sites[side].items()}
        assert points["palm"][1] < joints[9, 1] - 0.008 and points["back"][1] > joints[9, 1] + 0.008
        for finger, tip in (("index", 8), ("middle", 12), ("ring", 16), ("little", 20)):
            assert (points[f"{finger}_tip"] - joints[tip]).norm() < 0.012
            assert points[f"{finger}_pad"][1] < points[f"{finger}_back_2"][1]
    flip = torch.tensor([-1.0, 1.0, 1.0])
    for name, vertex in sites[HANDS.right.side].items():
        mirrored = HANDS.left.template[sites[HANDS.left.side][name]] * flip
        assert torch.allclose(mirrored, HANDS.right.template[vertex], atol=1e-4), name


def test_kinds_name_sites_and_grasps_that_exist() -> None:
    sites = contact_sites(HANDS.right)
    for name, kind in KINDS.items():
        assert set(kind.left) | set(kind.right) <= set(GRASPS), name
        for a, b, weight in kind.contacts:
            assert weight > 0 and set(a.split("+")) | set(b.split("+")) <= set(sites), name
        assert abs(float(np.dot(kind.fingers, kind.palm))) < 1e-9, name
    assert 0 < len(HELD_OUT) < len(KINDS) and set(HELD_OUT) < set(KINDS)


def test_unknown_names_and_absurd_errors_are_refused() -> None:
    with pytest.raises(InputError, match=r"'juggling' is unknown; known are palm_to_palm"):
        GENERATOR.attempt("juggling", 1, torch.Generator())
    with pytest.raises(InputError, match=r"grasp: claw is unknown; known are flat"):
        sample_hand(["claw"], torch.Generator())
    empty = HandPairs(
        Pair(*[torch.zeros(0, 10)] * 2), Pair(*[torch.zeros(0, 16, 3, 3)] * 2), Pair(*[torch.zeros(0, 3)] * 2), ()
    )
    with pytest.raises(ConfigError, match=r"mpjpe: expected a distance in \(0, 0.05\] m, got 1.0"):
        GENERATOR.disturb(empty, torch.Generator(), 1.0)
