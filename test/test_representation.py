"""The diffusion model's numbers: exact both ways, free of the camera, alike for a pair and its mirror image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from a2p_ros.errors import InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import (
    DIMS,
    LEFT,
    RIGHT,
    PairCodec,
    mirrored_raw,
    raw,
)
from a2p_ros.torch_rotations import matrix_from_6d, sixd_from_matrix
from a2p_ros.types import Pair, Side

HANDS = load_hand_models()


def turns(rng: np.random.Generator, n: int, size: float) -> torch.Tensor:
    return torch.as_tensor(Rotation.from_rotvec(size * rng.standard_normal((n, 3))).as_matrix()).float()


def random_pairs(seed: int = 0, n: int = 6) -> HandPairs:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.as_tensor(rng.standard_normal(shape)).float()

    rotations = [
        torch.cat([turns(rng, n, 2.0)[:, None], turns(rng, n * 15, 0.4).reshape(n, 15, 3, 3)], 1) for _ in "lr"
    ]
    return HandPairs(
        Pair(normal(n, 10), normal(n, 10)), Pair(*rotations), Pair(0.1 * normal(n, 3), 0.1 * normal(n, 3) + 0.4)
    )


PAIRS = random_pairs()
CODEC = PairCodec.measured(HANDS, random_pairs(1, 40))


def test_decoding_gives_the_pair_back() -> None:
    x = CODEC.encode(PAIRS)
    assert x.shape == (6, DIMS)
    again = CODEC.decode(x, PAIRS)
    for side, output in again.forward(HANDS).items():
        assert torch.allclose(output.vertices, PAIRS.forward(HANDS)[side].vertices, atol=2e-6)
        assert torch.allclose(again.rotations[side], PAIRS.rotations[side], atol=1e-5)


def test_numbers_do_not_depend_on_where_the_pair_is() -> None:
    rng = np.random.default_rng(5)
    turn, shift = turns(rng, 1, 3.0)[0].double(), torch.tensor([0.3, -0.2, 0.7]).double()
    models = Pair(HANDS.left.to(torch.float64), HANDS.right.to(torch.float64))
    pairs = PAIRS.to(torch.float64)
    # Moved by an independent path: every vertex is turned, the parameters follow from MANO's definition.
    rotations = Pair(*(torch.cat([turn @ r[:, :1], r[:, 1:]], 1) for _, r in pairs.rotations.items()))
    transl = []
    for side, model in models.items():
        rest = model.joint_template[0] + pairs.betas[side] @ model.joint_shapedirs[0].T
        transl.append((rest + pairs.transl[side]) @ turn.T + shift - rest)
    elsewhere = HandPairs(pairs.betas, rotations, Pair(*transl))
    for side, output in elsewhere.forward(models).items():
        assert torch.allclose(output.vertices, pairs.forward(models)[side].vertices @ turn.T + shift, atol=1e-7)
    assert torch.allclose(raw(models, elsewhere), raw(models, pairs), atol=1e-7)


def test_a_right_wrist_stays_where_it_is_told() -> None:
    other = random_pairs(9)
    moved = CODEC.decode(CODEC.encode(PAIRS), other)
    assert torch.allclose(moved.joints(HANDS).right[:, 0], other.joints(HANDS).right[:, 0], atol=1e-6)
    assert torch.allclose(moved.rotations.right[:, 0], other.rotations.right[:, 0])
    gap = moved.joints(HANDS)
    wanted = PAIRS.joints(HANDS)
    assert torch.allclose(
        (gap.left[:, 0] - gap.right[:, 0]).norm(dim=1), (wanted.left[:, 0] - wanted.right[:, 0]).norm(dim=1), atol=1e-6
    )


def test_numbers_of_the_mirror_image() -> None:
    assert torch.allclose(mirrored_raw(raw(HANDS, PAIRS)), raw(HANDS, PAIRS.mirrored()), atol=1e-5)
    x = raw(HANDS, PAIRS)
    assert torch.allclose(mirrored_raw(mirrored_raw(x)), x, atol=1e-6)


def test_both_hands_share_their_mean_and_spread() -> None:
    assert torch.equal(CODEC.mean[LEFT], CODEC.mean[RIGHT]) and torch.equal(CODEC.spread[LEFT], CODEC.spread[RIGHT])
    assert float(CODEC.spread.min()) > 0


def test_6d_is_the_first_two_columns_and_any_six_numbers_are_a_rotation() -> None:
    matrix = Rotation.random(50, random_state=3).as_matrix()
    six = sixd_from_matrix(torch.as_tensor(matrix))
    assert np.array_equal(six.numpy(), np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], 1))
    assert np.allclose(matrix_from_6d(six).numpy(), matrix, atol=1e-12)
    made = matrix_from_6d(torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double())
    assert torch.allclose(made @ made.mT, torch.eye(3).double().expand(200, 3, 3), atol=1e-9)
    assert torch.allclose(torch.linalg.det(made), torch.ones(200).double(), atol=1e-9)


def test_gradients_reach_every_number() -> None:
    x = CODEC.encode(PAIRS).requires_grad_()
    out = CODEC.decode(x, PAIRS).forward(HANDS)
    weights = torch.randn(out.left.vertices.shape, generator=torch.Generator().manual_seed(1))
    ((out.left.vertices - out.right.vertices.flip(0)) * weights).sum().backward()
    assert x.grad is not None and bool((x.grad.abs().amax(0) > 0).all())


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(InputError, match=r"expected \(B, 209\), got \(6, 7\)"):
        CODEC.decode(torch.zeros(6, 7), PAIRS)


@pytest.mark.parametrize("chosen", [torch.tensor([True, False, True, False, False, False]), torch.tensor([0, 2])])
def test_pairs_are_chosen_by_mask_or_index(chosen: torch.Tensor) -> None:
    some = PAIRS[chosen]
    assert len(some) == 2
    for side in (Side.LEFT, Side.RIGHT):
        assert torch.equal(some.rotations[side], PAIRS.rotations[side][[0, 2]])
        assert torch.equal(some.betas[side], PAIRS.betas[side][[0, 2]])
