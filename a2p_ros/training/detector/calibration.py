"""From which score on a detection counts: ``min_score`` should mean the same whatever the focal loss left of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.detection.hand_detector import fit_of
from a2p_ros.detection.hand_maps import STRIDE, decode
from a2p_ros.training.detector.augment import letterboxed
from a2p_ros.training.detector.frames import PackedFrames
from a2p_ros.training.detector.labels import Hands, palm_centre
from a2p_ros.training.detector.network import ExportedHandNet, HandNet
from a2p_ros.training.detector.score import DetectionScore, overlap_of

#: Validation frames that are looked at, at most.
FRAMES = 400
#: The score that the best threshold becomes: the default of ``detection.min_score``.
_THRESHOLD = 0.5
_TRIED = np.linspace(0.15, 0.7, 12)
#: A hand that is missed is lost, a false one costs a look of the landmark stage: recall counts twice as much.
_BETA = 2.0
#: Hands whose boxes overlap more may be hot in both maps at one place.
_APART = 0.1

#: Heat and numbers of a picture, its hands, its height and width.
Answer = tuple[Float[np.ndarray, "2 rows columns"], Float[np.ndarray, "2 9 rows columns"], Hands, int, int]


class Calibration(NamedTuple):
    """What validation frames say: the shift of the heat's logits, and how often the side of a hand found is right."""

    score_shift: float
    side_trust: float


@torch.no_grad()
def calibrate(net: HandNet, validation: PackedFrames, area: int) -> Calibration:
    """Shift the heat's logits so that 0.5 is the best threshold on validation frames.

    ``area`` is that of the pictures at run time [px^2].
    """
    whole, answers = ExportedHandNet(net).eval(), list[Answer]()
    device = next(net.parameters()).device
    for index in range(min(len(validation), FRAMES)):
        image, hands = validation[index]
        fit = fit_of(*image.shape[:2], area)
        picture, hands = letterboxed(image, hands, fit.height, fit.width)
        heat, numbers = whole(torch.from_numpy(picture[None]).to(device))
        answers.append((heat[0].float().cpu().numpy(), numbers[0].float().cpu().numpy(), hands, fit.height, fit.width))
    shift = best_shift(answers)
    assert net.heat.bias is not None
    net.heat.bias += shift
    return Calibration(shift, max(share_of_right_sides(answers), 0.5))


def best_shift(answers: Sequence[Answer]) -> float:
    """The shift of the heat's logits with the greatest F2 score at 0.5; 0 where no hand is found at any."""
    shifts = [-math.log(tried / (1 - tried)) for tried in _TRIED]
    worths = [_worth(answers, shift) for shift in shifts]
    return float(shifts[int(np.argmax(worths))]) if max(worths) > 0 else 0.0


def share_of_right_sides(answers: Sequence[Answer]) -> float:
    """Of the hands that lie on no other one, how many are hotter in the map of their own side; 0.5 where none is."""
    right = []
    for heat, _, hands, height, width in answers:
        boxes, wanted = hands.boxes(height, width), hands.wanted(height, width)
        for i in np.flatnonzero(wanted) if overlap_of(boxes) < _APART else []:
            x, y = (int(v) // STRIDE for v in palm_centre(hands.keypoints[i], boxes[i]))
            here = heat[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max((1, 2))
            own = int(hands.right[i])
            right.append(here[own] > here[1 - own])
    return float(np.mean(right)) if right else 0.5


def _worth(answers: Sequence[Answer], shift: float) -> float:
    total = _scored(answers, shift)
    recall, precision = np.nan_to_num(total["recall"]), np.nan_to_num(total["precision"])
    return float((1 + _BETA**2) * precision * recall / max(_BETA**2 * precision + recall, 1e-9))


def _scored(answers: Sequence[Answer], shift: float) -> dict[str, float]:
    score = DetectionScore()
    for heat, numbers, hands, height, width in answers:
        inner = np.clip(heat, 1e-6, 1 - 1e-6)
        moved = 1 / (1 + (1 - inner) / inner * math.exp(-shift))
        score.add(decode(moved, numbers, _THRESHOLD), hands, height, width)
    return score.total()
