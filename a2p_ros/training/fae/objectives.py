"""What the stages minimise: each takes a batch and gives the weighted parts of its loss."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from a2p_ros.hand.model import HandModel
from a2p_ros.network.model import A2PNetwork, HandOutputs, normalised
from a2p_ros.network.teachers import MeanPrior, Teacher
from a2p_ros.training.fae.batches import Batch
from a2p_ros.training.fae.config import LossWeights
from a2p_ros.training.fae.losses import distillation_loss, gaussian, hand_losses, relative_loss
from a2p_ros.training.fae.maps import NO_DEPTH, metres

#: Spread of the teacher's heat maps [crop edges].
_TEACHER_SPREAD = 0.03


class TeacherObjective(nn.Module):
    """A stand-in teacher learns its maps from the engine's labels."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The one part of its loss."""
        maps = self.teacher.predict(normalised(batch.pictures)).float()
        return {"maps": teacher_loss(self.teacher.what, maps, batch)}


def teacher_loss(what: str, maps: Float[Tensor, "n channels h w"], batch: Batch) -> Tensor:
    """Cross-entropy of heat maps and part classes, L1 of depth [dm] where something is drawn; of hands as assumed."""
    learns = batch.learns
    if what == "keypoints":
        inside = learns[:, None] & (batch.keypoints.abs() <= 0.5).all(-1)
        share = maps.flatten(2).log_softmax(-1).unflatten(2, maps.shape[2:])
        x, y = (gaussian(batch.keypoints[..., i], maps.shape[3 - i], _TEACHER_SPREAD) for i in range(2))
        value = -torch.einsum("njhw,njh,njw->nj", share, y, x)
        return (value * inside).sum() / inside.sum().clamp_min(1)
    target = _resized(batch.parts if what == "segmentation" else batch.depth, maps.shape[-1])
    if what == "segmentation":
        value = functional.cross_entropy(maps, target.long(), reduction="none").mean((1, 2))
        return (value * learns).sum() / learns.sum().clamp_min(1)
    counts = (target != NO_DEPTH) & learns[:, None, None]
    apart = (maps[:, 0] - 10 * metres(target)).abs()
    return torch.where(counts, apart, 0).sum() / counts.sum().clamp_min(1)


class NetworkObjective(nn.Module):
    """The network learns the task, and its FAE the aligned priors.

    Args:
        network: what is trained.
        model: the right hand.
        priors: the frozen encoders; None where no stage needs them. They are no part of the state.
        foundation: the network sees the priors themselves, not what the FAE makes of the crop.
        distil_share: share of the batches on which the FAE learns the aligned priors.
    """

    def __init__(
        self,
        network: A2PNetwork,
        model: HandModel,
        weights: LossWeights,
        priors: MeanPrior | None,
        *,
        foundation: bool,
        distil_share: float,
    ) -> None:
        super().__init__()
        self.network = network
        self._model, self._weights = model, weights
        self._priors = [priors]  # in a list: a module would become part of this one
        self._foundation, self._distil_share = foundation, distil_share

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted parts of the loss."""
        distils = self._distil_share > 0 and float(torch.rand(())) < self._distil_share
        pixels = normalised(batch.pictures)
        priors = self.priors_of(batch) if self._foundation or distils else None
        outputs = self.network.hand(pixels, priors if self._foundation else None)
        parts = hand_losses(outputs, batch, self._model, self.network.config.depth_range, self._weights)
        relative = relative_of(self.network, outputs, batch)
        parts["relative"] = self._weights.relative * relative_loss(relative, batch.relative, batch.pair)
        if distils:
            assert priors is not None
            hand = self.network.hand
            student = hand.fae(pixels) if self._foundation else outputs.aligned
            target = outputs.aligned if self._foundation else hand.project(priors)
            parts["distillation"] = self._weights.distillation * distillation_loss(student, target)
        else:
            parts["distillation"] = relative.new_zeros(())
        return parts

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[HandOutputs, Float[Tensor, "slots 3"]]:
        """The answers for a batch, and the relative translations of its slots [m]."""
        outputs = self.network.hand(normalised(batch.pictures), self.priors_of(batch) if self._foundation else None)
        return outputs, relative_of(self.network, outputs, batch)

    def priors_of(self, batch: Batch) -> Float[Tensor, "n tokens c"]:
        """The average of the frozen encoders' features."""
        priors = self._priors[0]
        assert priors is not None
        with torch.no_grad():
            return priors(batch.pictures, self.network.hand.grid(batch.pictures.shape[1]))


def relative_of(network: A2PNetwork, outputs: HandOutputs, batch: Batch) -> Float[Tensor, "slots 3"]:
    """Relative translations [m] of a batch's slots, from the hands' 2.5D joints, which it does not move."""
    keypoints, depth = outputs.keypoints.detach().float(), outputs.depth.detach().float()
    pixels = torch.einsum("nij,nkj->nki", batch.to_image[..., :2], keypoints) + batch.to_image[:, None, :, 2]
    both = pixels.unflatten(0, (-1, 2))
    low, high = both.amin((1, 2)), both.amax((1, 2))
    edge = (high - low).amax(-1).clamp_min(1.0)
    placed = (both - ((low + high) / 2)[:, None, None]) / edge[:, None, None, None]
    return network.relative(placed, depth.unflatten(0, (-1, 2)))


def _resized(maps: UInt8[Tensor, "n h w"], edge: int) -> UInt8[Tensor, "n edge edge"]:
    """Maps of classes or steps at another size, by nearest pixels."""
    if maps.shape[-1] == edge:
        return maps
    return functional.interpolate(maps[:, None].float(), (edge, edge), mode="nearest-exact")[:, 0].to(maps.dtype)
