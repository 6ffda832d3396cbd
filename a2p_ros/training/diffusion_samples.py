"""What the denoiser is trained on: shards' numbers with the features that follow from them, and their augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.features import (
    FINGER_CONFIDENCE,
    FINGER_WAYS,
    PALM_CONFIDENCE,
    PALM_WAYS,
    ConditionFeatures,
)
from a2p_ros.interaction.representation import mirrored_raw, pairs_of_raw
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.diffusion_data import PairData
from a2p_ros.types import Pair

_CHUNK = 64
#: Share of samples that are seen without any image, and of those whose confidences are not known.
_UNSEEN, _UNSURE = 0.15, 0.25


@dataclass(frozen=True)
class Samples:
    """Numbers before normalisation, features of the condition, touching vertices and sources."""

    clean: Float[Tensor, "samples 209"]
    condition: Float[Tensor, "samples 209"]
    fingers: Float[Tensor, "samples 10 73"]
    palms: Float[Tensor, "samples 2 29"]
    contacts: Int[Tensor, "samples 12 2"]
    source: Int[Tensor, "samples"]

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: Tensor) -> Samples:
        return self._each(lambda t: t[index])

    def to(self, device: torch.device | str) -> Samples:
        """On another device."""
        return self._each(lambda t: t.to(device))

    @classmethod
    def joined(cls, parts: list[Samples]) -> Samples:
        """One of several."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(cls)))

    @classmethod
    def of(
        cls, models: Pair[HandModel], data: PairData, progress: Callable[[int], object] = lambda count: None
    ) -> Samples:
        """Compute the features, about 4 ms a sample; ``progress`` is told how many samples are done each time."""
        features = ConditionFeatures(models, Pair(*(CollisionMesh.from_model(m) for _, m in models.items())))
        fingers, palms = [], []
        with single_thread(), torch.no_grad():
            for i in range(0, len(data), _CHUNK):
                part = data[slice(i, i + _CHUNK)]
                pairs = pairs_of_raw(models, part.condition, part.place[:, :9].reshape(-1, 3, 3), part.place[:, 9:])
                both = pairs.forward(models)
                vertices = Pair(both.left.vertices, both.right.vertices)
                f, p = features(pairs, vertices, ImageEvidence(part.rays, part.confidence))
                fingers.append(f)
                palms.append(p)
                progress(len(part))
        return cls(data.clean, data.condition, torch.cat(fingers), torch.cat(palms), data.contacts, data.source)

    def mirrored(self) -> Samples:
        """Each pair with its hands exchanged and mirrored; features already speak of either hand as of a right one."""
        return Samples(
            mirrored_raw(self.clean),
            mirrored_raw(self.condition),
            self.fingers.roll(5, 1),
            self.palms.flip(1),
            self.contacts.flip(2),
            self.source,
        )

    def less_seen(self, generator: torch.Generator) -> Samples:
        """Some without image evidence, and some whose confidences say nothing, as of a regressor that has none."""
        drawn = torch.rand(len(self), generator=generator).to(self.fingers.device)
        unseen, unsure = drawn < _UNSEEN, drawn > 1 - _UNSURE
        fingers, palms = self.fingers.clone(), self.palms.clone()
        fingers[unsure, :, FINGER_CONFIDENCE] = (fingers[unsure, :, FINGER_CONFIDENCE] > 0).to(fingers)
        palms[unsure, :, PALM_CONFIDENCE] = (palms[unsure, :, PALM_CONFIDENCE] > 0).to(palms)
        for part in (FINGER_WAYS, FINGER_CONFIDENCE):
            fingers[unseen, :, part] = 0
        for part in (*PALM_WAYS, PALM_CONFIDENCE):
            palms[unseen, :, part] = 0
        return dataclasses.replace(self, fingers=fingers, palms=palms)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        return Samples(*(change(getattr(self, f.name)) for f in dataclasses.fields(self)))
