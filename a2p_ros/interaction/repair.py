"""The repair: a pair of hands that penetrate in, the pair that was probably meant out (A2P section 3.3)."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.config import InteractionConfig
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import InsideVertices, PrintedCriterion
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.features import ConditionFeatures
from a2p_ros.interaction.guidance import CollisionGuide, GuidanceConfig
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import DIMS, PairCodec, wrists
from a2p_ros.interaction.sampler import sample
from a2p_ros.interaction.schedule import CosineSchedule
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.interaction.weights import Trained, load, shipped_for
from a2p_ros.types import Pair

_NOISE_SEED = 0


class PairRepair:
    """Denoiser and collision guidance for one hand model; guidance alone where there are no weights for it.

    Args:
        models: hand models.
        config: sampler and weights.
        device: where it runs.
        guidance, criterion: how the guidance steps.

    Raises:
        WeightsError: the weights asked for are missing, damaged or for another hand model.
    """

    def __init__(
        self,
        models: Pair[HandModel],
        config: InteractionConfig | None = None,
        device: torch.device | str = "cpu",
        guidance: GuidanceConfig | None = None,
        criterion: PrintedCriterion | None = None,
    ) -> None:
        self.config = config or InteractionConfig()
        self.guidance, self._criterion = guidance or GuidanceConfig(), criterion
        self.device = torch.device(device)
        self.models = Pair(models.left.to(self.device), models.right.to(self.device))
        meshes = CollisionMesh.from_model(models.left), CollisionMesh.from_model(models.right)
        self.meshes = Pair(meshes[0].to(self.device), meshes[1].to(self.device))
        folder = Path(self.config.weights) if self.config.weights else shipped_for(models)
        self.trained: Trained | None = load(folder, models) if folder is not None else None
        # Without training there are no spreads; a step of the guidance does not depend on them.
        codec = self.trained.codec if self.trained else PairCodec(models, torch.zeros(DIMS), torch.ones(DIMS))
        self.codec = codec.to(self.device)
        self.features = ConditionFeatures(self.models, self.meshes)
        self._schedule = CosineSchedule.make()
        self._noise = torch.randn(1, DIMS, generator=torch.Generator().manual_seed(_NOISE_SEED)).to(self.device)
        if self.trained:
            self.trained.denoiser.to(self.device)

    @property
    def model_id(self) -> str:
        """Names the repair in ``TwoHands.model_id``."""
        return self.trained.name if self.trained else "collision_guide"

    def __call__(
        self,
        pairs: HandPairs,
        found: Pair[InsideVertices] | None = None,
        seen: ImageEvidence | None = None,
        *,
        use_model: bool = True,
        use_guide: bool = True,
    ) -> HandPairs:
        """The repaired pairs, each right wrist where it was; the same pairs give the same result.

        ``found`` are the vertices inside the other hand, where the caller knows them. ``seen`` says that the pairs are
        in the frame of the camera that saw them, and what it saw; the direction of view follows from it. Without
        weights, ``use_model`` has no effect and the guidance steps as often as it would have with them.
        """
        pairs = pairs.to(self.device)
        with torch.no_grad():
            condition = self.codec.encode(pairs)
            view = view_of(self.models, pairs) if seen is not None else None
            guide = CollisionGuide(self.codec, self.meshes, pairs, self.guidance, self._criterion, view)
            if use_model and self.trained:
                x = self._sample(self.trained, condition, pairs, found, seen, guide if use_guide else None)
            else:
                x = condition
                for i in range(self.config.steps if use_guide else 0):
                    x = guide(x, (i + 1) / self.config.steps)
            return self.codec.decode(x, pairs)

    def _sample(
        self,
        trained: Trained,
        condition: Tensor,
        pairs: HandPairs,
        found: Pair[InsideVertices] | None,
        seen: ImageEvidence | None,
        guide: CollisionGuide | None,
    ) -> Tensor:
        both = pairs.forward(self.models)
        seen = seen.to(self.device) if seen is not None else None
        features = self.features(pairs, Pair(both.left.vertices, both.right.vertices), seen, found)
        given = trained.denoiser.embed(condition, *features)

        def denoise(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return trained.denoiser.denoise(x, t, condition, given)

        noise = self._noise.expand(len(pairs), -1)
        return sample(denoise, condition, self._schedule, self.config, guide=guide, noise=noise)


def view_of(models: Pair[HandModel], pairs: HandPairs) -> Float[Tensor, "batch 3"]:
    """Unit direction from the camera to the middle of the wrists of pairs in the camera frame."""
    both = wrists(models, pairs)
    return torch.nn.functional.normalize(both.left + both.right, dim=-1)
