"""Penetrating pairs over time: does the repair add jumps to hands that jitter, or go on and off?

One condition of the keypoint fit for each kind, 300 frames of it at 30 Hz: the left hand goes slowly to and fro along
the view, so that contact comes and goes, and each frame has noise of its own in joints, wrists and keypoints.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from a2p_ros.errors import InputError
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.interaction.stage import InteractionStage
from a2p_ros.training.conditions import Conditions, as_placed, fit_conditions
from a2p_ros.training.interactions import InteractionGenerator, exponential
from a2p_ros.types import Pair, PlacedHand, Side

RATE = 30.0
#: Noise of a frame: turns of joints [rad], wrists across and along the view [m], keypoints [px].
_TURN, _ACROSS, _ALONG, _PIXELS = 0.004, 0.0003, 0.001, 0.3
#: The slow way to and fro [m] and its period [s].
_SWAY, _PERIOD = 0.004, 4.0
_TRIES = 12


@dataclass(frozen=True)
class Jitter:
    """One pair: the largest step of a joint between two frames before and after [mm]; how often the repair set in."""

    kind: str
    before_mm: float
    after_mm: float
    repaired: float
    switched_on: int

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after_mm / self.before_mm


def jitter(
    generator: InteractionGenerator, stage: InteractionStage, kind: str, seed: int = 0, frames: int = 300
) -> Jitter:
    """The stage on one jittering pair of a kind.

    Raises InputError where no penetrating condition of the kind comes about.
    """
    rng = torch.Generator().manual_seed(seed)
    tried, kept = generator.attempt(kind, _TRIES, rng)
    made = fit_conditions(generator, tried[kept], rng)
    if len(made) == 0:
        raise InputError(f"kind {kind}: none of {_TRIES} tries gave a penetrating condition")
    made = made[torch.tensor([0])]
    stage.reset()
    came, went, on = [], [], []
    for n in range(frames):
        pair = _frame(generator, made, n, rng)
        answer = stage(Pair(pair.left, pair.right), made.camera, n / RATE)
        left, right = answer.hands.left, answer.hands.right
        assert left is not None and right is not None, "the stage drops no hand"
        came.append(_joints(pair))
        went.append(_joints(Pair(left, right)))
        on.append(answer.repaired)
    starts = sum(now and not before for before, now in itertools.pairwise([False, *on]))
    return Jitter(kind, _largest_step(came), _largest_step(went), float(np.mean(on)), starts)


def _frame(generator: InteractionGenerator, made: Conditions, n: int, rng: torch.Generator) -> Pair[PlacedHand]:
    one, view = made.condition, torch.nn.functional.normalize(wrists(generator.models, made.condition).left, dim=-1)
    sway = _SWAY * float(np.sin(2 * np.pi * n / RATE / _PERIOD))
    rotations, transl = [], []
    for side in (Side.LEFT, Side.RIGHT):
        turn = exponential(_TURN * torch.randn(16, 3, generator=rng)).reshape(1, 16, 3, 3)
        rotations.append(one.rotations[side] @ turn)
        along = view * (_ALONG * torch.randn(1, generator=rng) + (sway if side is Side.LEFT else 0.0))
        transl.append(one.transl[side] + _ACROSS * torch.randn(1, 3, generator=rng) + along)
    noisy = HandPairs(one.betas, Pair(*rotations), Pair(*transl), one.kinds)
    seen = Pair(*(px[0] + _PIXELS * torch.randn(px[0].shape, generator=rng) for _, px in made.observed_px.items()))
    return as_placed(generator.models, noisy, made.camera, seen, Pair(made.weights.left[0], made.weights.right[0]))


def _joints(hands: Pair[PlacedHand]) -> np.ndarray:
    return np.concatenate([hands.left.joints, hands.right.joints])


def _largest_step(frames: list[np.ndarray]) -> float:
    return 1e3 * float(np.linalg.norm(np.diff(np.stack(frames), axis=0), axis=-1).max())
