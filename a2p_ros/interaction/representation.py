"""What the diffusion model sees of two hands: numbers that do not depend on where the pair is in the camera frame.

    x (209)   left articulation   15 joints x 6D, mirrored so that it reads like a right hand's
              right articulation  15 joints x 6D
              left shape, right shape   10 each
              left to right       rotation 6D and translation 3 [m]: the left wrist in the right wrist's axes

Each number is divided by its spread over the training pairs, after its mean is taken off. 6D: the first two columns
of the matrix (Zhou et al., CVPR 2019). The right hand's own rotation and position are the pair's place, and absent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.errors import InputError
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.torch_rotations import matrix_from_6d, sixd_from_matrix
from a2p_ros.types import Pair, Side

ARTICULATION = 90
SHAPE = 10
RELATIVE = 9
DIMS = 2 * ARTICULATION + 2 * SHAPE + RELATIVE
LEFT, RIGHT = slice(0, ARTICULATION), slice(ARTICULATION, 2 * ARTICULATION)
LEFT_SHAPE, RIGHT_SHAPE = slice(180, 190), slice(190, 200)
ROTATION, TRANSLATION = slice(200, 206), slice(206, 209)
#: No number is stretched by more than one over this: joints barely turn about some axes, noise does (6D units).
_LEAST_SPREAD = 0.08


@dataclass(frozen=True)
class PairCodec:
    """Pairs of hands to normalised numbers and back, for one hand model.

    ``mean`` and ``spread`` are (209,); make them with ``measured``.
    """

    models: Pair[HandModel]
    mean: Float[Tensor, "209"]
    spread: Float[Tensor, "209"]

    @classmethod
    def measured(cls, models: Pair[HandModel], pairs: HandPairs) -> PairCodec:
        """Mean and spread of these pairs and their mirror images; both hands share those of articulation and shape."""
        return cls.of_numbers(models, raw(models, pairs))

    @classmethod
    def of_numbers(cls, models: Pair[HandModel], numbers: Float[Tensor, "batch 209"]) -> PairCodec:
        """The same from what ``raw`` gave."""
        both = torch.cat([numbers, mirrored_raw(numbers)])
        mean, spread = both.mean(0), both.std(0)
        for left, right in ((LEFT, RIGHT), (LEFT_SHAPE, RIGHT_SHAPE)):
            mean[left] = mean[right] = (mean[left] + mean[right]) / 2
            spread[left] = spread[right] = (spread[left] + spread[right]) / 2
        spread[: ROTATION.stop] = spread[: ROTATION.stop].clamp_min(_LEAST_SPREAD)
        spread[TRANSLATION] = spread[TRANSLATION].mean()
        return cls(models, mean, spread)

    def to(self, device: torch.device | str) -> PairCodec:
        """On another device."""
        models = Pair(self.models.left.to(device), self.models.right.to(device))
        return dataclasses.replace(self, models=models, mean=self.mean.to(device), spread=self.spread.to(device))

    def encode(self, pairs: HandPairs) -> Float[Tensor, "batch 209"]:
        """x of pairs in any frame."""
        return (raw(self.models, pairs) - self.mean) / self.spread

    def decode(self, x: Float[Tensor, "batch 209"], like: HandPairs) -> HandPairs:
        """The pairs that x stands for, each right wrist where ``like`` has it; gradients reach x.

        Raises InputError when x is not (B, 209).
        """
        if x.ndim != 2 or x.shape[1] != DIMS:
            raise InputError(f"x: expected (B, {DIMS}), got {tuple(x.shape)}")
        turn, wrist = like.rotations.right[:, 0], wrists(self.models, like).right
        return pairs_of_raw(self.models, x * self.spread + self.mean, turn, wrist, like.kinds)


def pairs_of_raw(
    models: Pair[HandModel],
    x: Float[Tensor, "batch 209"],
    turn: Float[Tensor, "batch 3 3"],
    wrist: Float[Tensor, "batch 3"],
    kinds: tuple[str, ...] = (),
) -> HandPairs:
    """The pairs whose ``raw`` is x, with the right hand's global rotation and wrist joint [m] given."""
    betas = Pair(x[:, LEFT_SHAPE], x[:, RIGHT_SHAPE])
    roots = Pair(turn @ matrix_from_6d(x[:, ROTATION]), turn)
    local = Pair(
        _mirrored(matrix_from_6d(x[:, LEFT].unflatten(1, (15, 6)))),
        matrix_from_6d(x[:, RIGHT].unflatten(1, (15, 6))),
    )
    rotations = Pair(*(torch.cat([roots[s][:, None], turns], 1) for s, turns in local.items()))
    moved = wrist + (turn @ x[:, TRANSLATION, None])[..., 0]
    transl = Pair(
        moved - models.left.with_shape(betas.left).joints[:, 0],
        wrist - models.right.with_shape(betas.right).joints[:, 0],
    )
    return HandPairs(betas, rotations, transl, kinds)


def raw(models: Pair[HandModel], pairs: HandPairs) -> Float[Tensor, "batch 209"]:
    """x before normalisation."""
    place = wrists(models, pairs)
    inverse = pairs.rotations.right[:, 0].transpose(1, 2)
    relative = inverse @ pairs.rotations.left[:, 0]
    shift = (inverse @ (place.left - place.right)[..., None])[..., 0]
    return torch.cat(
        [
            sixd_from_matrix(_mirrored(pairs.rotations.left[:, 1:])).flatten(1),
            sixd_from_matrix(pairs.rotations.right[:, 1:]).flatten(1),
            pairs.betas.left,
            pairs.betas.right,
            sixd_from_matrix(relative),
            shift,
        ],
        1,
    )


def mirrored_raw(x: Float[Tensor, "batch 209"]) -> Float[Tensor, "batch 209"]:
    """``raw`` of the mirror image, each hand as the other: R -> M R^T M, t -> -M R^T t."""
    turn = matrix_from_6d(x[:, ROTATION]).transpose(1, 2)
    shift = -(turn @ x[:, TRANSLATION, None])[..., 0] * x.new_tensor([-1.0, 1.0, 1.0])
    swapped = [x[:, part] for part in (RIGHT, LEFT, RIGHT_SHAPE, LEFT_SHAPE)]
    return torch.cat([*swapped, sixd_from_matrix(_mirrored(turn)), shift], 1)


def wrists(models: Pair[HandModel], pairs: HandPairs) -> Pair[Tensor]:
    """Both wrist joints, (B, 3) [m]."""
    left, right = (models[s].with_shape(pairs.betas[s]).joints[:, 0] + pairs.transl[s] for s in (Side.LEFT, Side.RIGHT))
    return Pair(left, right)


def _mirrored(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """M R M with M = diag(-1, 1, 1)."""
    return rotations * rotations.new_tensor([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]])
