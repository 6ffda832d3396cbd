"""Pictures as the networks take them."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

#: Of ImageNet's pictures in [0, 1]: what weights trained there were fed with.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(crops: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """RGB of 8 bit less ImageNet's mean, over its spread, for the sake of weights trained there."""
    # Filled on the device: a captured graph cannot bring numbers to it.
    scale, shift = (
        torch.stack([torch.full((), value, device=crops.device) for value in values])
        for values in ([1 / (255 * s) for s in SPREAD], [-m / s for m, s in zip(MEAN, SPREAD, strict=True)])
    )
    return (crops.float() * scale + shift).permute(0, 3, 1, 2)
