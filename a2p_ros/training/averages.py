"""What the trainings of the image networks share: the learning rate over time, and the average of the weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

#: cosine: rises over 3 % of the steps, then falls to a hundredth. step: a tenth from `STEP_AT` on, as A2P's.
Schedule = Literal["cosine", "step"]
#: A2P lowers the rate at epoch 4; the number of epochs is not given, InterWild trains 6.
STEP_AT = 4 / 6


def rate_at(share: float, schedule: Schedule = "cosine") -> float:
    """Share of the highest learning rate, ``share`` of the steps done."""
    if schedule == "step":
        return 1.0 if share < STEP_AT else 0.1
    rise = 0.03
    if share < rise:
        return (share + 1e-6) / rise
    return 0.01 + 0.99 * (1 + float(np.cos((share - rise) / (1 - rise) * np.pi))) / 2


@torch.no_grad()
def average_into(averaged: nn.Module, now: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights and statistics towards those of now, the ``step``-th."""
    # Early on, an average over few steps: the first weights are far from any good ones.
    decay = min(decay, (1 + step) / (10 + step))
    means, values = [], []
    for mean, value in zip(averaged.state_dict().values(), now.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            means.append(mean)
            values.append(value)
        else:
            mean.copy_(value)
    torch._foreach_lerp_(means, values, 1 - decay)
