"""One stage of a training: steps of an optimiser on an objective, going on where it stopped.

Every batch follows from (seed, step, slot), and so does what is random in the network, so a run that was cut off goes
on exactly as it would have.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from a2p_ros.errors import MissingDependencyError
from a2p_ros.training.averages import average_into, rate_at
from a2p_ros.training.checkpoint import Checkpoint
from a2p_ros.training.fae.batches import Batch, Loader
from a2p_ros.training.fae.config import StageConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Gradients are shortened to this length: crops that cannot be read give steep ones early on.
_LONGEST_GRADIENT = 5.0


def make_accelerator(precision: str) -> Accelerator:
    """This process's device and place among the others; raises MissingDependencyError without accelerate."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependencyError("training needs accelerate: pip install 'a2p_ros[training]'") from error
    # A batch without pairs leaves the relative network without gradients, and a stage leaves parts out.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed = "bf16" if precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[parallel])


class Stage:
    """One objective trained for a number of steps.

    Args:
        objective: batch -> weighted parts of the loss; its parameters that require gradients are trained.
        config: of this stage.
        identity: names the whole training; another one's checkpoint is refused.
        folder: where the checkpoint goes.
        validate: the averaged objective and the edge of the crops [px] that it learns from -> figures, at each record;
            on the first process only.
        provenance: what runs where; the checkpoint keeps that of every run that took a step.
    """

    def __init__(
        self,
        objective: nn.Module,
        config: StageConfig,
        identity: str,
        folder: Path,
        accelerator: Accelerator,
        validate: Callable[[Any, int], dict[str, float]],
        provenance: Mapping[str, str],
    ) -> None:
        self.config, self._accelerator, self._validate = config, accelerator, validate
        self.objective = objective.to(accelerator.device)
        # Channels last is three times faster on processors.
        self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.objective).requires_grad_(False).eval()
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.provenance: list[dict[str, str]] = []
        self._here = dict(provenance)
        self._checkpoint = Checkpoint(folder / config.name / "checkpoint.safetensors", f"{config} {identity}")

    def run(self, loader: Loader) -> Iterator[dict[str, Any]]:
        """Train to the end from wherever the checkpoint stands; yields a record at each validation.

        Raises ConfigError for a checkpoint of another training, WeightsError for one that cannot be read.
        """
        optimiser = torch.optim.AdamW(
            [p for p in self.objective.parameters() if p.requires_grad],
            self.config.rate,
            weight_decay=self.config.decay,
        )
        note = self._checkpoint.load(self.objective, self.averaged, optimiser)
        if note is not None:
            self.step, self.seconds = note["step"], note["seconds"]
            self.history[:] = note["history"]  # whoever draws it holds this list
            self.provenance[:] = note.get("provenance", [])
        if self.step == self.config.steps:
            return
        if self._here not in self.provenance:
            self.provenance.append(self._here)
        network, optimiser_ = self._accelerator.prepare(self.objective, optimiser)
        begin, clock = time.monotonic() - self.seconds, _Clock()
        sums: dict[str, Tensor] = {}
        count = 0
        resolutions = {step: self.config.resolution_at(step) for step in range(self.step, self.config.steps)}
        for batch in clock.waiting(loader.batches(resolutions)):
            parts = self._learn(network, optimiser_, batch.to(self._accelerator.device))
            self.step, count = self.step + 1, count + 1
            average_into(self.averaged, self.objective, self.config.ema, self.step)
            # Sums stay on the device: reading a number waits for all that it has to do.
            sums = {name: sums.get(name, 0.0) + part for name, part in parts.items()}
            if self.step % self.config.every == 0 or self.step == self.config.steps:
                self.seconds = time.monotonic() - begin
                record: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 1)}
                resolution = self.config.resolution_at(self.step - 1)
                record |= {"resolution": resolution, "waited": clock.share()}
                losses = {name: float(value) / count for name, value in sums.items()}
                record |= {"loss": sum(losses.values())} | {f"loss_{name}": v for name, v in losses.items()}
                sums, count = {}, 0
                if self._accelerator.is_main_process:
                    record |= self._validate(self.averaged, resolution)
                    self.history.append(record)
                    note = {"step": self.step, "seconds": self.seconds, "history": self.history}
                    note["provenance"] = self.provenance
                    self._checkpoint.save(self.objective, self.averaged, optimiser, note)
                self._accelerator.wait_for_everyone()
                yield record

    def _learn(self, network: nn.Module, optimiser: Any, batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in optimiser.param_groups:
            group["lr"] = self.config.rate * rate_at(self.step / self.config.steps, self.config.schedule)
        network.train()
        with self._accelerator.autocast() if self.config.precision != "float32" else nullcontext():
            parts = network(batch)
        optimiser.zero_grad()
        self._accelerator.backward(torch.stack(list(parts.values())).sum())
        self._accelerator.clip_grad_norm_(network.parameters(), _LONGEST_GRADIENT)
        optimiser.step()
        return {name: part.detach() for name, part in parts.items()}


class _Clock:
    """Share of the time that is spent waiting for batches."""

    def __init__(self) -> None:
        self._start, self._waited = time.monotonic(), 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch

    def share(self) -> float:
        """Since the last call."""
        whole = max(time.monotonic() - self._start, 1e-9)
        share, self._start, self._waited = self._waited / whole, time.monotonic(), 0.0
        return round(share, 3)
