"""The schedule against its closed form, and DDIM with denoisers whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from a2p_ros.config import InteractionConfig
from a2p_ros.errors import ConfigError, InputError
from a2p_ros.interaction.sampler import sample
from a2p_ros.interaction.schedule import CosineSchedule

SCHEDULE = CosineSchedule.make()


def seeded(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alpha_bar_is_the_cosine_until_beta_is_clipped() -> None:
    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    assert SCHEDULE.steps == 1000
    for t in (0, 1, 250, 500, 900, 997):
        assert float(SCHEDULE.alpha_bar[t]) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    betas = 1 - SCHEDULE.alpha_bar[1:] / SCHEDULE.alpha_bar[:-1]
    assert float(betas.max()) == pytest.approx(0.999) and float(betas.min()) > 0
    assert float(SCHEDULE.alpha_bar[-1]) == pytest.approx(float(SCHEDULE.alpha_bar[-2]) * 0.001, rel=1e-9)


def test_noise_is_added_with_the_schedules_variance() -> None:
    n = 20000
    x = SCHEDULE.add_noise(torch.full((n, 1), 2.0), seeded(0, n, 1).float(), torch.full((n,), 400))
    a = float(SCHEDULE.alpha_bar[400])
    assert float(x.mean()) == pytest.approx(2 * a**0.5, abs=0.03)
    assert float(x.var()) == pytest.approx(1 - a, rel=0.03)


@pytest.mark.parametrize("start", ["noise", "condition"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50, 1000])
def test_a_perfect_denoiser_is_recovered(start: str, steps: int) -> None:
    x0 = seeded(1, 4, 9)
    seen: list[int] = []

    def perfect(x: torch.Tensor, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        seen.append(int(t[0]))
        return x0

    config = InteractionConfig(steps=steps, start=start, strength=1.0)  # type: ignore[arg-type]
    assert torch.equal(sample(perfect, seeded(2, 4, 9), SCHEDULE, config, noise=seeded(3, 4, 9)), x0)
    assert seen == sorted(set(seen), reverse=True) and len(seen) == steps and seen[0] == 999


def test_the_path_stays_on_the_line_from_noise_to_x0() -> None:
    """With the true x0 given at every step, DDIM's x_t is exactly add_noise(x0, the first noise, t)."""
    x0, noise = seeded(4, 2, 5), seeded(5, 2, 5)
    for step in (0, 1, 2, 3):
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def perfect(x: torch.Tensor, t: torch.Tensor, _: torch.Tensor, seen: list = seen) -> torch.Tensor:
            seen.append((x, t))
            return x0

        sample(perfect, x0, SCHEDULE, InteractionConfig(steps=4, start="condition", strength=0.5), noise=noise)
        x, t = seen[step]
        assert torch.allclose(x, SCHEDULE.add_noise(x0, noise, t), atol=1e-9)


def test_ddim_draws_the_distribution_that_its_denoiser_knows() -> None:
    """For x0 ~ N(m, s^2) the best denoiser is linear; DDIM then maps unit noise onto that distribution."""
    m, s = 1.5, 0.3

    def posterior_mean(x: torch.Tensor, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        a = SCHEDULE.alpha_bar[t][:, None]
        return m + a.sqrt() * s**2 / (a * s**2 + 1 - a) * (x - a.sqrt() * m)

    x = sample(
        posterior_mean,
        torch.zeros(4000, 1).double(),
        SCHEDULE,
        InteractionConfig(steps=200, start="noise"),
        noise=seeded(6, 4000, 1),
    )
    assert float(x.mean()) == pytest.approx(m, abs=0.02)
    assert float(x.std()) == pytest.approx(s, rel=0.05)


def test_sampling_is_deterministic_on_demand() -> None:
    def shrink(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + 0.1 * c

    c = seeded(7, 3, 6)
    runs = [sample(shrink, c, SCHEDULE, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(sample(shrink, c, SCHEDULE, noise=c), sample(shrink, c, SCHEDULE, noise=c))


def test_the_guide_corrects_every_step_and_has_the_last_word() -> None:
    calls: list[float] = []

    def guide(clean: torch.Tensor, done: float) -> torch.Tensor:
        calls.append(done)
        return clean + 1.0

    zero = torch.zeros(1, 2)
    out = sample(lambda x, t, c: c, zero, SCHEDULE, InteractionConfig(steps=4), guide=guide, noise=zero)
    assert calls == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(out, zero + 1)


def test_bad_settings_and_noise_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"InteractionConfig.steps.*got 0"):
        InteractionConfig(steps=0)
    with pytest.raises(ConfigError, match=r"'noise', 'condition', got 'zero'"):
        InteractionConfig(start="zero")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"noise: expected \(2, 3\), got \(3, 2\)"):
        sample(lambda x, t, c: x, torch.zeros(2, 3), SCHEDULE, noise=torch.zeros(3, 2))
    with pytest.raises(ConfigError, match="expected 1 to 1000 steps, got 1001"):
        SCHEDULE.timesteps(1001)
