"""Training of the diffusion model: x0 from x_t, t and the penetrating condition (A2P section 3.3, MDM eq. 2).

    L = |x0 - x0_hat|^2                      MDM eq. 2, on the normalised numbers
      + weight |J(x0) - J(x0_hat)|           joints [cm]: each hand from its own wrist, and the left from the right's
      + weight |C(x0) - C(x0_hat)|           [cm] from vertex to vertex where the clean hands touch

Every batch follows from (seed, step, process) alone, so a run that was cut off goes on exactly as it would have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from a2p_ros.config import Checked, setting
from a2p_ros.errors import ConfigError, MissingDependencyError, WeightsError
from a2p_ros.hand.model import HandModel, PosedHand
from a2p_ros.interaction.denoiser import Denoiser, DenoiserConfig
from a2p_ros.interaction.representation import PairCodec, pairs_of_raw
from a2p_ros.interaction.schedule import CosineSchedule
from a2p_ros.training.diffusion_data import SOURCES
from a2p_ros.training.diffusion_samples import Samples
from a2p_ros.types import Pair, Side

_SIDES = (Side.LEFT, Side.RIGHT)


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How the denoiser is trained."""

    seed: int = setting(0, "Of weights, batches and noise.", low=0, high=2**31)
    steps: int = setting(3000, "Steps of the optimiser.", low=1)
    batch: int = setting(256, "Pairs a step, over all processes.", low=1)
    rate: float = setting(
        1e-3, "Highest learning rate; it rises over 3 % of the steps, then falls as a cosine.", low=0.0
    )
    decay: float = setting(0.01, "AdamW's weight decay.", low=0.0)
    ema: float = setting(0.998, "Decay of the averaged weights, which are what is kept.", low=0.0, high=1.0)
    joints: float = setting(2.0, "Weight of the joints' error [1/cm].", low=0.0)
    contact: float = setting(1.0, "Weight of the error between touching vertices [1/cm].", low=0.0)
    clean: float = setting(0.12, "Share of each batch whose condition has nothing wrong.", low=0.0, high=1.0)
    conditions: str = setting("noise,fit", "Sources of conditions that are trained on: some of noise, fit, network.")
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "Of the network's products; bfloat16 is three times faster on processors and GPUs that have it."
    )
    every: int = setting(500, "Steps between validations and checkpoints.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.conditions.split(",")) - set(SOURCES[1:]):
            raise ConfigError(
                f"TrainConfig.conditions: expected some of {','.join(SOURCES[1:])}, got {self.conditions!r}"
            )


class DiffusionTrainer:
    """Holds what a training needs and runs it, alone or as one of several processes of ``accelerate launch``.

    Args:
        models: hand models.
        training, validation: data with numbers before normalisation.
        sizes, config: of the network and of the training.
        folder: where checkpoints go.
    """

    def __init__(
        self,
        models: Pair[HandModel],
        training: Samples,
        validation: Samples,
        sizes: DenoiserConfig,
        config: TrainConfig,
        folder: Path,
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingDependencyError("training needs accelerate: pip install 'a2p_ros[training]'") from error
        self.config, self.folder = config, folder
        self.accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bfloat16" else "no")
        device = self.accelerator.device
        wanted = torch.tensor([SOURCES.index(s) for s in ("clean", *config.conditions.split(","))])
        training = training[torch.isin(training.source, wanted)]
        if not bool((training.source > 0).any()):
            raise ConfigError(f"training data: none of its conditions are of {config.conditions!r}")
        self.codec = _codec(models, training).to(device)
        self.training = training.to(device)
        self.validation = validation.to(device)
        self._clean = (self.training.source == 0).nonzero()[:, 0]
        self._wrong = [rows for i in range(1, len(SOURCES)) if len(rows := (self.training.source == i).nonzero()[:, 0])]
        self._alpha = CosineSchedule.make()
        torch.manual_seed(config.seed)
        self.denoiser = Denoiser(sizes).to(device)
        self.averaged = Denoiser(sizes).to(device).requires_grad_(False).eval()
        self.averaged.load_state_dict(self.denoiser.state_dict())
        optimiser = torch.optim.AdamW(self.denoiser.parameters(), config.rate, weight_decay=config.decay)
        self.network, self.optimiser = self.accelerator.prepare(self.denoiser, optimiser)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end from wherever the folder's checkpoint stands; yields a record at each validation."""
        self._resume()
        begin, loss_sum, loss_count = time.monotonic() - self.seconds, 0.0, 0
        while self.step < self.config.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.rate * _rate(self.step / self.config.steps)
            loss = self._loss(self._batch())
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            self._average()
            loss_sum, loss_count = loss_sum + float(loss.detach()), loss_count + 1
            if self.step % self.config.every == 0 or self.step == self.config.steps:
                self.seconds = time.monotonic() - begin
                record = {"step": self.step, "seconds": round(self.seconds, 1), "loss": loss_sum / loss_count}
                record |= self.validate()
                self.history.append(record)
                loss_sum, loss_count = 0.0, 0
                if self.accelerator.is_main_process:
                    self._save()
                self.accelerator.wait_for_everyone()
                yield record

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """MPJPE and MRRPE [mm] of one estimate from the noised condition, by source, and of the conditions."""
        out: dict[str, float] = {}
        for index, source in enumerate(SOURCES):
            data = self.validation[self.validation.source == index]
            if len(data) == 0:
                continue
            condition, clean = ((x - self.codec.mean) / self.codec.spread for x in (data.condition, data.clean))
            noise = torch.randn(condition.shape, generator=torch.Generator().manual_seed(0)).to(condition)
            t = torch.full((len(data),), 299, device=condition.device)
            noisy = self._alpha.add_noise(condition, noise, t)
            answer = self.averaged(noisy, t, condition, data.fingers, data.palms)
            for name, x in (("before", condition), ("after", answer)):
                fingers, apart = _gaps(*(_centimetres(self._posed(y)) for y in (x, clean)))
                out[f"{source}_mpjpe_{name}"] = 10 * float(fingers.norm(dim=-1).mean())
                out[f"{source}_mrrpe_{name}"] = 10 * float(apart[:, 0].norm(dim=-1).mean())
        return out

    def _batch(self) -> tuple[Samples, Tensor, Tensor]:
        """Samples, their t and noise; half of them mirrored."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = max(self.config.batch // world, 1)
        g = torch.Generator().manual_seed((self.config.seed * 1_000_003 + self.step) * 64 + rank)
        n_clean = round(count * self.config.clean) if len(self._clean) else 0
        device = self.training.source.device
        # As many of one source as of the other, however many there are of each.
        shares = [len(range(i, count - n_clean, len(self._wrong))) for i in range(len(self._wrong))]
        rows = [
            pool[torch.randint(len(pool), (n,), generator=g).to(device)]
            for pool, n in ((self._clean, n_clean), *zip(self._wrong, shares, strict=True))
            if n
        ]
        data = self.training[torch.cat(rows)]
        half = torch.randperm(count, generator=g).to(device)
        data = Samples.joined([data[half[: count // 2]], data[half[count // 2 :]].mirrored()]).less_seen(g)
        t = torch.randint(self._alpha.steps, (count,), generator=g).to(device)
        noise = torch.randn(data.clean.shape, generator=g).to(device)
        return data, t, noise

    def _loss(self, batch: tuple[Samples, Tensor, Tensor]) -> Tensor:
        data, t, noise = batch
        clean, condition = ((x - self.codec.mean) / self.codec.spread for x in (data.clean, data.condition))
        # Of 14 tokens, plain products: the fused kernel's backward pass in bfloat16 takes half of a step on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            answer = self.network(self._alpha.add_noise(clean, noise, t), t, condition, data.fingers, data.palms)
        loss = (answer - clean).square().mean()
        if self.config.joints or self.config.contact:
            ours, true = self._posed(answer), self._posed(clean)
            fingers, apart = _gaps(_centimetres(ours), _centimetres(true))
            loss = loss + self.config.joints * (_length(fingers).mean() + _length(apart).mean()) / 2
            wrong = self._touching(ours, data.contacts) - self._touching(true, data.contacts)
            loss = loss + self.config.contact * _length(wrong).mean()
        return loss

    def _posed(self, x: Tensor) -> Pair[PosedHand]:
        """Both hands' skeletons in the right wrist's axes."""
        n = len(x)
        eye, zeros = torch.eye(3, device=x.device).expand(n, 3, 3), x.new_zeros(n, 3)
        pairs = pairs_of_raw(self.codec.models, x * self.codec.spread + self.codec.mean, eye, zeros)
        return Pair(
            *(
                m.with_pose(m.with_shape(pairs.betas[s]), pairs.rotations[s], pairs.transl[s])
                for s, m in self.codec.models.items()
            )
        )

    def _touching(self, posed: Pair[PosedHand], contacts: Tensor) -> Tensor:
        """From right to left vertex of each pair that touches in the clean hands [cm], 0 where there is none."""
        known = contacts[..., 0] >= 0
        at = [self.codec.models[s].points(posed[s], contacts[..., i].clamp_min(0)) for i, s in enumerate(_SIDES)]
        return 100 * (at[0] - at[1]) * known[..., None]

    @torch.no_grad()
    def _average(self) -> None:
        # Early on, an average over few steps: the first weights are far from any good ones.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.averaged.parameters(), self.denoiser.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _state(self) -> dict[str, Tensor]:
        state = {f"now.{k}": v for k, v in self.denoiser.state_dict().items()}
        state |= {f"mean.{k}": v for k, v in self.averaged.state_dict().items()}
        for i, p in enumerate(self.denoiser.parameters()):
            for name, value in self.optimiser.state[p].items():
                state[f"adam.{i}.{name}"] = torch.as_tensor(value)
        return state

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        note = {"step": self.step, "seconds": self.seconds, "history": self.history, "config": self._identity}
        unfinished = self._checkpoint.with_suffix(".part")
        state = {k: v.detach().cpu().clone().contiguous() for k, v in self._state().items()}
        save_file(state, unfinished, metadata={"note": json.dumps(note)})
        unfinished.rename(self._checkpoint)

    @property
    def _identity(self) -> str:
        return f"{self.denoiser.config} {self.config} {len(self.training)} samples"

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        from safetensors import safe_open

        try:
            with safe_open(self._checkpoint, framework="pt") as file:
                note = json.loads(file.metadata()["note"])
            # Onto the processor first: of several processes accelerate calls it cpu:0, which safetensors does not know.
            state = load_file(self._checkpoint)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{self._checkpoint}: cannot be read: {error}; delete it to start anew") from error
        if note["config"] != self._identity:
            raise ConfigError(
                f"{self._checkpoint} belongs to another training ({note['config']}), not to this one "
                f"({self._identity}); choose another folder, or delete it to start anew"
            )
        for prefix, network in (("now.", self.denoiser), ("mean.", self.averaged)):
            network.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        for i, p in enumerate(self.denoiser.parameters()):
            prefix = f"adam.{i}."
            mine = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            # AdamW counts its steps on the CPU.
            self.optimiser.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in mine.items()}
        self.step, self.seconds, self.history = note["step"], note["seconds"], note["history"]


def _codec(models: Pair[HandModel], data: Samples) -> PairCodec:
    clean = data[data.source == 0].clean if bool((data.source == 0).any()) else data.clean
    return PairCodec.of_numbers(models, clean)


def _length(error: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """|error| [cm], rounded off below a millimetre: squares would follow the long tails of a regressor's errors."""
    return (error.square().sum(-1) + 0.1**2).sqrt() - 0.1


def _centimetres(posed: Pair[PosedHand]) -> Pair[Tensor]:
    return Pair(100 * posed.left.joints, 100 * posed.right.joints)


def _gaps(a: Pair[Tensor], b: Pair[Tensor]) -> tuple[Tensor, Tensor]:
    """Errors of both hands' joints from their own wrists (B, 2, 21, 3), and of the left's in the right wrist's axes."""
    own = torch.stack([(x - x[:, :1]) - (y - y[:, :1]) for x, y in ((a.left, b.left), (a.right, b.right))], 1)
    return own, (a.left - a.right[:, :1]) - (b.left - b.right[:, :1])


def _rate(share: float) -> float:
    """Share of the learning rate, ``share`` of the steps done."""
    rise = 0.03
    if share < rise:
        return share / rise
    return 0.01 + 0.99 * (1 + float(torch.cos(torch.tensor((share - rise) / (1 - rise) * torch.pi)))) / 2
