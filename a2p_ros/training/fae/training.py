"""The stages of the network's training, one after the other, each skipped where it is finished.

teacher_keypoints, teacher_segmentation, teacher_depth    stand-ins for Sapiens (modes distilled, foundation)
distillation                                              with the teachers; the FAE learns (mode distilled)
end_to_end                                                the network as it will run
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from a2p_ros.errors import ConfigError, InputError
from a2p_ros.hand.model import HandModel
from a2p_ros.network.backbone import ResNet
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.efficientnet import EfficientNetLite0
from a2p_ros.network.fusion import FusionAlignmentEncoder
from a2p_ros.network.model import A2PNetwork
from a2p_ros.network.pictures import normalised
from a2p_ros.network.teachers import PriorEncoder, Priors, Teacher
from a2p_ros.training.checkpoint import averaged_weights
from a2p_ros.training.fae.augment import AugmentConfig
from a2p_ros.training.fae.batches import Batch, BatchPlan, Loader, Slots, make_batch
from a2p_ros.training.fae.config import LossWeights, StageConfig, TrainConfig
from a2p_ros.training.fae.loop import Stage, make_accelerator
from a2p_ros.training.fae.objectives import NetworkObjective, TeacherObjective, teacher_loss
from a2p_ros.training.fae.packing import PackedCrops
from a2p_ros.training.fae.validation import Score, overlay
from a2p_ros.training.imagenet import digest_of

#: Crops of one validation batch.
_VALIDATION_BATCH = 32
#: Errors as tracking makes them; some crops are mirrored wrongly, and crops without a hand show things that are none,
#: so that what tells it is measured.
_VALIDATED = replace(AugmentConfig.tracked(), wrong_side=0.1, things=0.7)
_TEACHER, _DISTILLATION, _LAST = "teacher_", "distillation", "end_to_end"


class FaeTraining:
    """All stages of one training.

    Args:
        training, validation: packed crops.
        network: configuration of the network, whose mode and priors decide the stages.
        config, weights, augment: of the training.
        model: the right hand.
        folder: where checkpoints and pictures go.
        encoders: prior encoders that are given (Sapiens), by their names; the others are trained here.
        imagenet: weights trained on ImageNet that all backbones begin with, teachers' too.
        provenance: what runs where, kept with what it trains.

    Raises ConfigError where the network does not take crops of the sizes of ``config``, or where a batch cannot be
    divided among the processes.
    """

    def __init__(
        self,
        training: PackedCrops,
        validation: PackedCrops,
        network: NetworkConfig,
        config: TrainConfig,
        weights: LossWeights,
        augment: AugmentConfig,
        model: HandModel,
        folder: Path,
        encoders: Mapping[str, PriorEncoder] | None = None,
        imagenet: Mapping[str, torch.Tensor] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        self.network_config, self.config, self.folder = network, config, folder
        self._training, self._validation, self._augment, self._weights = training, validation, augment, weights
        self._given, self._imagenet = dict(encoders or {}), imagenet
        config.check_sizes(network.unit)
        if not len(validation):
            raise InputError(
                "validation: expected crops of hands, got none; one frame in 25 of a shard is kept for it; give more"
            )
        self.accelerator = make_accelerator(config.precision)
        if (config.batch // 2) % self.accelerator.num_processes:
            raise ConfigError(
                f"batch: expected pairs of crops that {self.accelerator.num_processes} processes share evenly, got "
                f"{config.batch // 2}; choose another --batch"
            )
        self._model = model.to(self.accelerator.device)
        self._slots = Slots(training, config.pairs, config.empty)
        # The number of threads changes nothing of the result.
        self._identity = f"{network} {replace(config, workers=1)} {weights} {augment} {len(training)} crops"
        self._identity += f" {training.digest()}"
        self._identity += "".join(f", prior {encoder.key}" for encoder in self._given.values())
        self._identity += "" if imagenet is None else f", from weights {digest_of(imagenet)}"
        self.history: dict[str, list[dict[str, Any]]] = {}
        #: Of every run that took part, in their order; `trained` says whether this one did.
        self.provenance: list[dict[str, str]] = []
        self.trained = False
        self._here = dict(provenance or {})
        self.seconds: dict[str, float] = {}
        self.teachers: dict[str, Teacher] = {}
        self._made: dict[tuple[int, bool], list[Batch]] = {}
        self.averaged: A2PNetwork | None = None
        self._student: FusionAlignmentEncoder | None = None

    @property
    def steps(self) -> dict[str, int]:
        """Steps of each stage, in their order."""
        return {stage.name: stage.steps for stage in self._plan()}

    def run_stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Train a stage of `steps` after the earlier ones, from wherever its checkpoint stands; yields records."""
        stage = next(stage for stage in self._plan() if stage.name == name)
        if name.startswith(_TEACHER):
            yield from self._train_teacher(name.removeprefix(_TEACHER), stage)
        else:
            yield from self._train_network(stage)

    def _plan(self) -> list[StageConfig]:
        mode, config = self.network_config.mode, self.config
        if mode == "none":
            return [config.stage(_LAST)]
        wanted = [config.teacher_stage(name) for name in self.network_config.priors if name not in self._given]
        if mode == "foundation" or config.distillation == 0:
            return [*wanted, config.stage(_LAST)]
        split = config.distillation
        return [*wanted, config.stage(_DISTILLATION, 0.0, split), config.stage(_LAST, split, 1.0)]

    def _train_teacher(self, name: str, config: StageConfig) -> Iterator[dict[str, Any]]:
        torch.manual_seed(config.seed)
        teacher = Teacher(name, self.network_config)
        self._know_imagenet(teacher)
        objective = TeacherObjective(teacher)

        def validate(averaged: TeacherObjective, resolution: int) -> dict[str, float]:
            batches = self._validation_batches(resolution, maps=True)
            with torch.no_grad():
                return {"validation": float(np.mean([float(_part(averaged, batch)) for batch in batches]))}

        yield from self._run(objective, config, validate, maps=name != "keypoints")
        self.teachers[name] = self._kept(objective, config).teacher.requires_grad_(False).eval()

    def _train_network(self, config: StageConfig) -> Iterator[dict[str, Any]]:
        torch.manual_seed(config.seed)
        objective = self._distilling() if config.name == _DISTILLATION else self._final()

        def validate(averaged: NetworkObjective, resolution: int) -> dict[str, float]:
            batches, score = self._validation_batches(resolution, maps=False), Score()
            for i, batch in enumerate(batches):
                outputs, relative = averaged.predict(batch)
                score.add(outputs, relative, batch, self._model)
                if i == 0:
                    self._picture(config.name, batch, outputs)
            return score.result() | averaged.distillation(batches[0])

        yield from self._run(objective, config, validate, maps=False)
        kept = self._kept(objective, config)
        self.averaged, self._student = kept.network, kept.student

    def _distilling(self) -> NetworkObjective:
        """The network with the priors themselves, beside an FAE that learns what it makes of them."""
        config = replace(self.network_config, mode="foundation")
        student = FusionAlignmentEncoder(config)
        network = A2PNetwork(config)
        self._know_imagenet(network, student)
        return NetworkObjective(network, self._model, self._weights, self._priors(), student=student)

    def _final(self) -> NetworkObjective:
        """The network in its own mode, from where the distillation left it."""
        network = A2PNetwork(self.network_config)
        self._know_imagenet(network)
        if self.averaged is None or self._student is None:
            return NetworkObjective(network, self._model, self._weights, self._priors())
        state = self.averaged.state_dict()
        state = {name: value for name, value in state.items() if not name.startswith("hand.project.")}
        network.load_state_dict(state | {f"hand.fae.{k}": v for k, v in self._student.state_dict().items()})
        teacher = self.averaged.hand.project if self.config.distil_share > 0 else None
        priors = self._priors() if teacher is not None else None
        return NetworkObjective(
            network, self._model, self._weights, priors, teacher=teacher, distil_share=self.config.distil_share
        )

    def _know_imagenet(self, *networks: nn.Module) -> None:
        """Begin all their backbones with ImageNet's weights, where they are given; first blocks stay so."""
        if self._imagenet is None:
            return
        for network in networks:
            for module in network.modules():
                if isinstance(module, ResNet | EfficientNetLite0):
                    module.load_imagenet(self._imagenet)
                if isinstance(module, EfficientNetLite0):
                    module.freeze(self.config.frozen)

    def _run(self, objective: nn.Module, config: StageConfig, validate: Any, *, maps: bool) -> Iterator[dict[str, Any]]:
        stage = Stage(objective, config, self._identity, self.folder, self.accelerator, validate, self._here)
        place, world = self.accelerator.process_index, self.accelerator.num_processes
        # Stages have their own batches.
        plan = BatchPlan(config.seed + zlib.crc32(config.name.encode()), config.batch // 2, maps, place, world)
        loader = Loader(self._training, self._slots, plan, self._augment, self.config.workers)
        self.history[config.name] = stage.history
        for record in stage.run(loader):
            self.seconds[config.name], self.trained = stage.seconds, True
            yield record
        self.seconds[config.name] = stage.seconds
        self.provenance += [run for run in stage.provenance if run not in self.provenance]

    def _kept(self, objective: nn.Module, config: StageConfig) -> Any:
        """The objective with the averaged weights that its stage left."""
        objective.load_state_dict(averaged_weights(self.folder / config.name / "checkpoint.safetensors"))
        return objective.to(self.accelerator.device).eval()

    def _priors(self) -> Priors | None:
        if self.network_config.mode == "none":
            return None
        encoders = {name: self._given.get(name) or self.teachers[name] for name in self.network_config.priors}
        return Priors(encoders).to(self.accelerator.device).eval()

    def _validation_batches(self, resolution: int, *, maps: bool) -> list[Batch]:
        if (resolution, maps) in self._made:
            return self._made[resolution, maps]
        slots = Slots(self._validation, 1.0, 0.0).in_order()
        slots = slots[:: max(len(slots) * 2 // self.config.validation, 1)][: self.config.validation // 2]
        out, size = [], _VALIDATION_BATCH // 2
        for i in range(0, len(slots), size):
            part = slots[i : i + size]
            rngs = [np.random.default_rng([i, j]) for j in range(len(part))]
            batch = make_batch(self._validation, part, rngs, resolution, _VALIDATED, maps=maps)
            out.append(batch.to(self.accelerator.device))
        self._made[resolution, maps] = out
        return out

    def _picture(self, name: str, batch: Batch, outputs: Any) -> None:
        path = self.folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(overlay(batch, outputs), cv2.COLOR_RGB2BGR))


def _part(objective: TeacherObjective, batch: Batch) -> torch.Tensor:
    return teacher_loss(objective.teacher.what, objective.teacher.predict(normalised(batch.pictures)).float(), batch)
