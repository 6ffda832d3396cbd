"""Training of the detector on packed frames.

Every batch follows from (seed, step, process) alone, so a run that was cut off goes on exactly as it would have.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from a2p_ros.config import Checked, setting
from a2p_ros.errors import ConfigError, MissingDependencyError
from a2p_ros.network.efficientnet import BLOCKS, UNIT
from a2p_ros.network.pictures import normalised
from a2p_ros.training.averages import average_into, rate_at
from a2p_ros.training.checkpoint import Checkpoint
from a2p_ros.training.detector.augment import AugmentConfig, augmented, letterboxed
from a2p_ros.training.detector.frames import PackedFrames
from a2p_ros.training.detector.labels import Hands, targets
from a2p_ros.training.detector.loss import losses
from a2p_ros.training.detector.network import ExportedHandNet, HandNet, NetworkConfig
from a2p_ros.training.detector.score import DetectionScore
from a2p_ros.training.imagenet import digest_of
from a2p_ros.types import Image

#: Validation frames, at most: it is there to watch, not to judge.
_VALIDATION = 200


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How the detector is trained."""

    seed: int = setting(0, "Of weights, batches and augmentation.", low=0, high=2**31)
    steps: int = setting(4_000, "Steps of the optimiser.", low=1)
    batch: int = setting(48, "Pictures a step, over all processes.", low=1)
    height: int = setting(160, "Of the pictures that are trained on, a multiple of 32 [px].", low=32, high=1024)
    width: int = setting(256, "Of the pictures that are trained on, a multiple of 32 [px].", low=32, high=1024)
    small_share: float = setting(
        0.6,
        "Share of the steps, the first ones, on small pictures: they teach as much for half of the time. The "
        "others need a good part of the learning rate.",
        low=0.0,
        high=1.0,
    )
    small_height: int = setting(128, "Of the small pictures, a multiple of 32 [px].", low=32, high=1024)
    small_width: int = setting(160, "Of the small pictures, a multiple of 32 [px].", low=32, high=1024)
    rate: float = setting(
        1e-3, "Highest learning rate; it rises over 3 % of the steps, then falls as a cosine.", low=0.0
    )
    frozen: int = setting(
        5,
        "First blocks of the backbone that stay as ImageNet taught them; only where the training begins with those "
        "weights.",
        low=0,
        high=BLOCKS,
    )
    decay: float = setting(0.02, "AdamW's weight decay.", low=0.0)
    ema: float = setting(0.998, "Decay of the averaged weights, which are what is kept.", low=0.0, high=1.0)
    precision: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "Of the network's products; float32 where the processor has no bfloat16."
    )
    every: int = setting(500, "Steps between validations and checkpoints.", low=1)
    workers: int = setting(2, "Threads that make pictures.", low=1, high=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        edges = (self.height, self.width, self.small_height, self.small_width)
        if any(edge % UNIT for edge in edges):
            raise ConfigError(f"TrainConfig: expected heights and widths that are multiples of {UNIT}, got {edges}")

    def picture(self, step: int) -> tuple[int, int]:
        """Height and width of a step's pictures [px]."""
        small = step < self.small_share * self.steps
        return (self.small_height, self.small_width) if small else (self.height, self.width)


class DetectorTrainer:
    """Holds what a training needs and runs it, alone or as one of several processes of ``accelerate launch``.

    Args:
        training, validation: packed frames.
        sizes, config, augment: of the network, the training and the pictures.
        folder: where checkpoints go.
        imagenet: weights trained on ImageNet that the backbone begins with.
    """

    def __init__(
        self,
        training: PackedFrames,
        validation: PackedFrames,
        sizes: NetworkConfig,
        config: TrainConfig,
        augment: AugmentConfig,
        folder: Path,
        imagenet: Mapping[str, Tensor] | None = None,
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingDependencyError("training needs accelerate: pip install 'a2p_ros[training]'") from error
        if len(training) == 0:
            raise ConfigError("training data: expected frames, got none; make some with `a2p synth`")
        self.config, self.augment, self.training, self.validation = config, augment, training, validation
        self.accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bfloat16" else "no")
        device = self.accelerator.device
        torch.manual_seed(config.seed)
        self.net = HandNet(sizes).to(device)
        if imagenet is not None:
            self.net.backbone.load_imagenet(imagenet)
            self.net.backbone.freeze(config.frozen)
        # Channels last is three times faster on processors.
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = HandNet(sizes).to(device).requires_grad_(False).eval()
        self.averaged.load_state_dict(self.net.state_dict())
        learnt = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learnt, config.rate, weight_decay=config.decay)
        self.network, self.optimiser = self.accelerator.prepare(self.net, optimiser)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        # The number of threads changes nothing of the result.
        identity = f"{sizes} {replace(config, workers=1)} {augment} {len(training)} frames"
        identity += "" if imagenet is None else f", from weights {digest_of(imagenet)}"
        self._checkpoint = Checkpoint(folder / "checkpoint.safetensors", identity)

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end from wherever the folder's checkpoint stands; yields a record at each validation."""
        note = self._checkpoint.load(self.net, self.averaged, self.optimiser)
        if note is not None:
            self.step, self.seconds, self.history = note["step"], note["seconds"], note["history"]
        begin, sums, count = time.monotonic() - self.seconds, dict[str, float](), 0
        for batch in self._batches():
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.rate * rate_at(self.step / self.config.steps)
            parts = self._losses(batch)
            self.optimiser.zero_grad()
            self.accelerator.backward(torch.stack(list(parts.values())).sum())
            self.accelerator.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimiser.step()
            self.step, count = self.step + 1, count + 1
            average_into(self.averaged, self.net, self.config.ema, self.step)
            sums = {name: sums.get(name, 0.0) + float(part.detach()) for name, part in parts.items()}
            if self.step % self.config.every == 0 or self.step == self.config.steps:
                self.seconds = time.monotonic() - begin
                record = {"step": self.step, "seconds": round(self.seconds, 1)}
                record |= {"loss": sum(sums.values()) / count}
                record |= {f"loss_{name}": value / count for name, value in sums.items()} | self.validate()
                self.history.append(record)
                sums, count = {}, 0
                if self.accelerator.is_main_process:
                    note = {"step": self.step, "seconds": self.seconds, "history": self.history}
                    self._checkpoint.save(self.net, self.averaged, self.optimiser, note)
                self.accelerator.wait_for_everyone()
                yield record

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Recall, precision and sides of the averaged weights on whole frames that are not trained on."""
        from a2p_ros.detection.hand_maps import decode

        score = DetectionScore()
        network = ExportedHandNet(self.averaged)
        height, width = self.config.height, self.config.width
        for index in range(min(len(self.validation), _VALIDATION)):
            image, hands = letterboxed(*self.validation[index], height, width)
            heat, numbers = network(torch.from_numpy(image[None]).to(self.accelerator.device))
            found = decode(heat[0].float().cpu().numpy(), numbers[0].float().cpu().numpy(), 0.5)
            score.add(found, hands, height, width)
        return score.total()

    def _batches(self) -> Iterator[list[Tensor]]:
        """The batches from this step to the end, each made while the one before it is learnt."""
        with ThreadPoolExecutor(self.config.workers) as pool:
            coming: list[Future[tuple[Image, Hands]]] = self._begin(pool, self.step)
            for step in range(self.step, self.config.steps):
                made = [future.result() for future in coming]
                coming = self._begin(pool, step + 1) if step + 1 < self.config.steps else []
                yield self._tensors(made)

    def _begin(self, pool: ThreadPoolExecutor, step: int) -> list[Future[tuple[Image, Hands]]]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = max(self.config.batch // world, 1)
        seeds = [[self.config.seed, step, rank * count + i] for i in range(count)]
        return [pool.submit(self._picture, np.random.default_rng(seed), *self.config.picture(step)) for seed in seeds]

    def _picture(self, rng: np.random.Generator, height: int, width: int) -> tuple[Image, Hands]:
        cv2.setNumThreads(1)  # each of these threads is one already
        return augmented(self._draw, rng, height, width, self.augment)

    def _draw(self, rng: np.random.Generator) -> tuple[Image, Hands]:
        return self.training[int(rng.integers(len(self.training)))]

    def _tensors(self, made: list[tuple[Image, Hands]]) -> list[Tensor]:
        """Pictures (n, h, w, 3) uint8, then the fields of `Targets`."""
        maps = [astuple(targets(hands, *image.shape[:2])) for image, hands in made]
        arrays = [np.stack([image for image, _ in made]), *(np.stack(field) for field in zip(*maps, strict=True))]
        return [torch.from_numpy(array).to(self.accelerator.device) for array in arrays]

    def _losses(self, batch: list[Tensor]) -> dict[str, Tensor]:
        pictures, *maps = batch
        with self.accelerator.autocast() if self.config.precision == "bfloat16" else nullcontext():
            outputs = self.network(normalised(pictures))
        return losses(*outputs, *maps)
