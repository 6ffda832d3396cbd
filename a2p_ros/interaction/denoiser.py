"""The denoiser: x_t, t and the penetrating pair -> the clean pair x0 (A2P section 3.3, in the style of MDM).

    tokens   t | left fingers (5) | right fingers (5) | left shape, right shape | left to right
    in       linear layers for x_t's numbers, for the condition's and for its features, added
    body     transformer encoder, GELU (Tevet et al., ICLR 2023)
    out      linear layers -> x0_hat = condition + share * output

Of the numbers between the wrists only x_t's distance from the condition goes in, not where the hands are to each other
(``features`` says why). The two hands share their layers and differ by an embedding. ``share`` rises with the
condition's deepest penetration from 0 to 1 at 2 mm: hands with nothing wrong stay as they are, and a repair sets in
without a jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from a2p_ros.config import Checked, setting
from a2p_ros.interaction.features import FINGER_FEATURES, PALM_FEATURES
from a2p_ros.interaction.representation import ARTICULATION, DIMS, LEFT_SHAPE, RELATIVE, RIGHT_SHAPE, ROTATION, SHAPE
from a2p_ros.interaction.schedule import CosineSchedule

_FINGER = ARTICULATION // 5


@dataclass(frozen=True)
class DenoiserConfig(Checked):
    """Sizes of the transformer; MDM's are those of ``full``."""

    width: int = setting(128, "Numbers of a token.", low=8, high=4096)
    feedforward: int = setting(256, "Width inside a layer.", low=8, high=16384)
    layers: int = setting(4, "Layers.", low=1, high=64)
    heads: int = setting(4, "Heads of attention.", low=1, high=64)
    dropout: float = setting(0.1, "Share of values dropped in training.", low=0.0, high=0.9)

    @classmethod
    def lite(cls) -> DenoiserConfig:
        """For two CPU cores."""
        return cls()

    @classmethod
    def full(cls) -> DenoiserConfig:
        """MDM's size."""
        return cls(width=512, feedforward=1024, layers=8, heads=4)


class Given(NamedTuple):
    """What is known of the condition at every step: its part of the tokens, and the share of the output to add."""

    tokens: Float[Tensor, "batch 13 width"]
    share: Float[Tensor, "batch 1"]


class Denoiser(nn.Module):
    """``forward(x_t, t, condition, fingers, palms)`` -> x0_hat, (B, 209) all; features by ``ConditionFeatures``."""

    signal: Tensor

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DenoiserConfig.lite()
        self.time = nn.Sequential(nn.Linear(c.width, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.noisy = _Tokens(c.width, 0, 0)
        self.given = _Tokens(c.width, FINGER_FEATURES, PALM_FEATURES)
        self.place = nn.Parameter(torch.randn(14, c.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            c.width, c.heads, c.feedforward, c.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(c.width)
        self.finger, self.shape = nn.Linear(c.width, _FINGER), nn.Linear(c.width, SHAPE)
        self.relative = nn.Linear(c.width, RELATIVE)
        self.register_buffer("signal", CosineSchedule.make().alpha_bar.sqrt().float(), persistent=False)
        for last in (self.finger, self.shape, self.relative):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def embed(
        self,
        condition: Float[Tensor, "batch 209"],
        fingers: Float[Tensor, "batch 10 73"],
        palms: Float[Tensor, "batch 2 29"],
    ) -> Given:
        """What the condition says, the same at every step."""
        hidden = torch.cat([condition[:, : ROTATION.start], torch.zeros_like(condition[:, ROTATION.start :])], 1)
        return Given(self.given(hidden, fingers, palms), palms[:, 0, -1:])

    def denoise(
        self,
        x: Float[Tensor, "batch 209"],
        t: Int[Tensor, "batch"],
        condition: Float[Tensor, "batch 209"],
        given: Given,
    ) -> Float[Tensor, "batch 209"]:
        """x0_hat of x_t at step t, with ``given`` from ``embed``."""
        time = self.time(step_embedding(t, self.config.width))[:, None]
        between = x[:, ROTATION.start :] - self.signal[t][:, None] * condition[:, ROTATION.start :]
        noisy = self.noisy(torch.cat([x[:, : ROTATION.start], between], 1))
        tokens = self.norm(self.body(torch.cat([time, noisy + given.tokens], 1) + self.place))
        change = [self.finger(tokens[:, 1:11]).flatten(1), self.shape(tokens[:, 11:13]).flatten(1)]
        return condition + given.share * torch.cat([*change, self.relative(tokens[:, 13])], 1)

    def forward(
        self,
        x: Float[Tensor, "batch 209"],
        t: Int[Tensor, "batch"],
        condition: Float[Tensor, "batch 209"],
        fingers: Float[Tensor, "batch 10 73"],
        palms: Float[Tensor, "batch 2 29"],
    ) -> Float[Tensor, "batch 209"]:
        """x0_hat of x_t at step t."""
        return self.denoise(x, t, condition, self.embed(condition, fingers, palms))


class _Tokens(nn.Module):
    """Numbers of a pair, and what else is known of its parts -> 13 tokens."""

    def __init__(self, width: int, finger_features: int, palm_features: int) -> None:
        super().__init__()
        self.finger = nn.Linear(_FINGER + finger_features, width)
        self.shape = nn.Linear(SHAPE, width)
        self.relative = nn.Linear(RELATIVE + 2 * palm_features, width)

    def forward(self, x: Tensor, fingers: Tensor | None = None, palms: Tensor | None = None) -> Tensor:
        own = x[:, : 2 * ARTICULATION].unflatten(1, (10, _FINGER))
        shapes = torch.stack([x[:, LEFT_SHAPE], x[:, RIGHT_SHAPE]], 1)
        relative = x[:, ROTATION.start : DIMS]
        if fingers is not None and palms is not None:
            own = torch.cat([own, fingers], -1)
            relative = torch.cat([relative, palms.flatten(1)], -1)
        return torch.cat([self.finger(own), self.shape(shapes), self.relative(relative)[:, None]], 1)


def step_embedding(t: Int[Tensor, "batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines and cosines of the step at falling frequencies (Vaswani et al., 2017, section 3.5)."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    angle = t[:, None] * frequency
    return nn.functional.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, width - 2 * half))
