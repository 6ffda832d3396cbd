"""The noise schedule of the diffusion model: cosine, 1000 steps.

t          step, 0 (almost clean) to T - 1 (almost noise)
beta_t     share of new noise at step t
alpha_bar  product of (1 - beta) up to t: the signal's share of the variance of x_t
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2p_ros.errors import ConfigError

STEPS = 1000
MAX_BETA = 0.999


@dataclass(frozen=True, eq=False)
class CosineSchedule:
    """``alpha_bar[t]`` of Nichol and Dhariwal (2021), eq. 17, in double precision."""

    alpha_bar: Float[Tensor, "steps"]

    @classmethod
    def make(cls, steps: int = STEPS) -> CosineSchedule:
        """The schedule of ``steps`` steps; beta is clipped at 0.999 so that the last step keeps some signal."""
        if steps < 1:
            raise ConfigError(f"CosineSchedule.steps: expected at least 1, got {steps!r}")
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp_max(MAX_BETA)
        return cls(torch.cumprod(1 - beta, 0))

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bar)

    def add_noise(
        self, x0: Float[Tensor, "batch *dims"], noise: Float[Tensor, "batch *dims"], t: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch *dims"]:
        """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise (DDPM eq. 4)."""
        a = self.alpha_bar.to(x0.device)[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def timesteps(self, count: int, start: float = 1.0) -> list[int]:
        """Steps that fall evenly from share ``start`` of T to 0: ``count``, or as many as there are."""
        if not 1 <= count <= self.steps:
            raise ConfigError(f"timesteps: expected 1 to {self.steps} steps, got {count!r}")
        if not 0 < start <= 1:
            raise ConfigError(f"timesteps: expected start in (0, 1], got {start!r}")
        first = max(round(start * self.steps) - 1, 0)
        return sorted({int(t) for t in torch.linspace(first, 0, count, dtype=torch.float64).round()}, reverse=True)
