"""DDIM sampling with a correction after each step.

Symbols, and what they are here (DDIM: Song, Meng, Ermon, ICLR 2021; A2P: arXiv 2503.17788):

    x_t          the noisy two-hand parameters          ``x``
    x0_hat       what the denoiser takes them for       ``clean``
    eps_hat      the noise that this implies            ``noise``
    alpha_bar_t  see ``schedule``                       ``now``, ``then`` (the next, cleaner step)
    sigma_t      eta = 0: no new noise, deterministic   absent
    lambda grad L_collision (A2P eq. 4)                 inside ``guide``
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.config import InteractionConfig
from a2p_ros.errors import InputError
from a2p_ros.interaction.schedule import CosineSchedule

#: (x_t, t (B,), condition) -> x0_hat.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
#: (x0_hat, share of the steps done in (0, 1]) -> corrected x0_hat.
Guide = Callable[[Tensor, float], Tensor]


def sample(
    denoiser: Denoiser,
    condition: Float[Tensor, "batch dims"],
    schedule: CosineSchedule,
    config: InteractionConfig | None = None,
    *,
    guide: Guide | None = None,
    noise: Float[Tensor, "batch dims"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch dims"]:
    """x0 given the condition. The same ``noise`` (or seeded ``generator``) gives the same x0, bit for bit.

    Raises InputError when ``noise`` does not have the condition's shape.
    """
    config = config or InteractionConfig()
    if noise is None:
        where = generator.device if generator is not None else condition.device
        noise = torch.randn(condition.shape, generator=generator, dtype=condition.dtype, device=where)
        noise = noise.to(condition.device)
    if noise.shape != condition.shape:
        raise InputError(f"noise: expected {tuple(condition.shape)}, got {tuple(noise.shape)}")
    times = schedule.timesteps(config.steps, 1.0 if config.start == "noise" else config.strength)
    batch = torch.ones(len(condition), dtype=torch.long, device=condition.device)
    x = noise if config.start == "noise" else schedule.add_noise(condition, noise, batch * times[0])
    clean = x
    for i, t in enumerate(times):
        # 1. x0_hat = denoiser(x_t, t, c), a prediction of the clean sample (MDM).
        clean = denoiser(x, batch * t, condition)
        # 2. x0_hat <- x0_hat - lambda grad L_collision (A2P eq. 4).
        if guide is not None:
            clean = guide(clean, (i + 1) / len(times))
        if i + 1 == len(times):
            break
        # 3. eps_hat = (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 - alpha_bar_t) (DDIM eq. 9, solved for the noise).
        now, then = (float(schedule.alpha_bar[s]) for s in (t, times[i + 1]))
        noise = (x - now**0.5 * clean) / (1 - now) ** 0.5
        # 4. x_t' = sqrt(alpha_bar_t') x0_hat + sqrt(1 - alpha_bar_t') eps_hat (DDIM eq. 12, sigma = 0).
        x = then**0.5 * clean + (1 - then) ** 0.5 * noise
    return clean
