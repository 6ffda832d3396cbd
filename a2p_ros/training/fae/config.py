"""How the network is trained: stages, schedule, data, and the presets ``lite`` and ``full``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from a2p_ros.config import Checked, setting
from a2p_ros.errors import ConfigError
from a2p_ros.network.efficientnet import BLOCKS

#: Edges of the crops are multiples of it [px].
EDGE_UNIT = 16


@dataclass(frozen=True)
class LossWeights(Checked):
    """Weights of the parts of the loss.

    The paper's are 1 and 10 for what lies in metres (3D joints, mesh), after InterWild; what it does not name is ours.
    With 10, joints and mesh had a tenth of the gradient that the heat maps' depth has: more is asked of them here.
    2.5D joints are counted in cells of an 8 x 8 x 8 heat map, as there.
    """

    keypoints: float = setting(1.0, "2.5D joints: places in the crop.", low=0.0)
    depth: float = setting(1.0, "2.5D joints: depth.", low=0.0)
    heat: float = setting(1.0, "Cross-entropy of the heat maps with Gaussians; ours.", low=0.0)
    joints: float = setting(40.0, "3D joints [m] of the regressed hand; 10 in the paper.", low=0.0)
    mesh: float = setting(20.0, "Vertices [m] of the regressed hand; 10 in the paper.", low=0.0)
    rotations: float = setting(1.0, "Rotation matrices.", low=0.0)
    betas: float = setting(0.1, "Shape; ours: at 1 it outweighs what a picture tells of it.", low=0.0)
    camera: float = setting(1.0, "Regressed joints projected by the weak camera [crop edges]; ours.", low=0.0)
    relative: float = setting(1.0, "Relative translation [m]; its network shares nothing with the rest.", low=0.0)
    confidence: float = setting(0.2, "Cross-entropy of the joints' confidence; ours.", low=0.0)
    presence: float = setting(0.2, "Cross-entropy of the hand's presence; ours.", low=0.0)
    side: float = setting(0.2, "Cross-entropy of the assumed side; ours.", low=0.0)
    distillation: float = setting(1.0, "MSE of the FAE with the aligned priors.", low=0.0)


@dataclass(frozen=True)
class Optimisation(Checked):
    """What the whole training and each of its stages are told alike.

    Low resolution comes first, as it teaches most for a fraction of the time. The last size needs most of the steps: a
    network knows the size that it saw while the rate was high.
    """

    seed: int = setting(0, "Of weights, batches and augmentation.", low=0, high=2**31 - 1)
    batch: int = setting(48, "Crops a step, over all processes; even.", low=2)
    rate: float = setting(1e-3, "Highest learning rate.", low=0.0)
    decay: float = setting(0.02, "AdamW's weight decay.", low=0.0)
    schedule: Literal["cosine", "step"] = setting(
        "cosine", "Of the learning rate: cosine, or step (a tenth from two thirds on)."
    )
    ema: float = setting(0.999, "Decay of the averaged weights, which are what is kept.", low=0.0, high=1.0)
    precision: Literal["float32", "bfloat16"] = setting("bfloat16", "Of the network's products.")
    resolution: int = setting(96, "Edge of the crops in the last steps [px].", low=32, high=1024)
    low: int = setting(64, "Edge of the crops in the first steps [px].", low=32, high=1024)
    low_share: float = setting(0.3, "Share of the steps on the smallest crops.", low=0.0, high=1.0)
    middle: int = setting(96, "Edge of the crops between [px].", low=32, high=1024)
    middle_share: float = setting(0.0, "Share of the steps on middling crops.", low=0.0, high=1.0)
    every: int = setting(500, "Steps between validations and checkpoints.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        edges, name = (self.low, self.middle, self.resolution), type(self).__name__
        if any(edge % EDGE_UNIT for edge in edges):
            raise ConfigError(f"{name}: expected edges of crops that are multiples of {EDGE_UNIT}, got {edges}")
        if self.low_share + self.middle_share > 1:
            raise ConfigError(
                f"{name}: expected shares of small and middling crops of 1 together at most, got "
                f"{self.low_share} + {self.middle_share}"
            )
        if self.batch % 2:
            raise ConfigError(f"{name}: expected an even batch, as crops come in twos, got {self.batch}")

    def check_sizes(self, unit: int) -> None:
        """Raise ConfigError where crops have edges that are no multiples of ``unit``, as the network asks for."""
        edges = (self.low, self.middle, self.resolution)
        if any(edge % unit for edge in edges):
            raise ConfigError(f"sizes of crops: the network takes multiples of {unit} px, got {edges}")


@dataclass(frozen=True)
class StageConfig(Optimisation):
    """One stage: how long, how fast, on crops of which size."""

    name: str = setting("end_to_end", "Of the stage, and of its folder.")
    steps: int = setting(1000, "Steps of the optimiser.", low=1)

    def resolution_at(self, step: int) -> int:
        """Edge of a step's crops [px]."""
        if step < round(self.low_share * self.steps):
            return self.low
        return self.middle if step < round((self.low_share + self.middle_share) * self.steps) else self.resolution


@dataclass(frozen=True)
class TrainConfig(Optimisation):
    """The whole training; `StageConfig` of each stage follows from it.

    The shares of small crops are those of the stages of the network; teachers stay on small and middling ones.
    """

    steps: int = setting(14_000, "Steps of the network, the distillation's included.", low=1)
    distillation: float = setting(
        0.1,
        "Share of the steps with the teachers in the network: Proj learns the task, the FAE learns Proj's tokens. "
        "Only in mode distilled; the network's budget is the same in all modes.",
        low=0.0,
        high=0.9,
    )
    distil_share: float = setting(
        0.0, "Share of the later batches that are still distilled, for which the teachers run.", low=0.0, high=1.0
    )
    teacher_steps: int = setting(800, "Steps of each stand-in teacher, beside those of the network.", low=1)
    frozen: int = setting(
        5,
        "First blocks of EfficientNet-lite0 that stay as ImageNet taught them: edges and textures of photographs, not "
        "of renders, at a third less of the time. Only where the training begins with those weights.",
        low=0,
        high=BLOCKS,
    )
    pairs: float = setting(0.7, "Share of the crops that come as both hands of a frame.", low=0.0, high=1.0)
    empty: float = setting(0.1, "Share of the crops without a hand.", low=0.0, high=1.0)
    validation: int = setting(400, "Crops that are validated on, at most.", low=2)
    workers: int = setting(1, "Threads that make pictures.", low=1, high=64)

    @property
    def last_resolution(self) -> int:
        """Edge of the crops that the network learns from last [px], for which it is made."""
        return self._stage("", steps=self.steps).resolution_at(self.steps - 1)

    @classmethod
    def lite(cls) -> TrainConfig:
        """About two hours of two processor cores (docs/training.md)."""
        return cls()

    @classmethod
    def full(cls) -> TrainConfig:
        """The paper's schedule, on GPUs: AdamW at 1e-4, a tenth from epoch 4 of 6 on, batches of 48 (each epoch one
        look at each hand of 100,000 frames)."""
        return cls(
            teacher_steps=12_000,
            steps=25_000,
            rate=1e-4,
            decay=0.01,
            schedule="step",
            resolution=256,
            low=128,
            low_share=0.0,
            middle=192,
            middle_share=0.0,
            every=1000,
        )

    def stage(self, name: str, first: float = 0.0, last: float = 1.0) -> StageConfig:
        """The stage of the network from one share of its steps to another."""
        whole = max(last - first, 1e-9)
        ends = [
            min(max((end - first) / whole, 0.0), 1.0) for end in (self.low_share, self.low_share + self.middle_share)
        ]
        steps = round(last * self.steps) - round(first * self.steps)
        return self._stage(name, steps=max(steps, 1), low_share=ends[0], middle_share=ends[1] - ends[0])

    def teacher_stage(self, name: str) -> StageConfig:
        """A stand-in teacher's stage: its features are wanted, not its last pixel, so large crops are left out."""
        return self._stage(
            f"teacher_{name}", steps=self.teacher_steps, resolution=self.middle, low_share=0.7, middle_share=0.0
        )

    def _stage(self, name: str, **changes: int | float) -> StageConfig:
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(Optimisation)}
        return StageConfig(**(shared | {"name": name} | changes))
