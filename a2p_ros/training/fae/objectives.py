"""What the stages minimise: each takes a batch and gives the weighted parts of its loss."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from a2p_ros.hand.model import HandModel
from a2p_ros.network.fusion import FusionAlignmentEncoder, Projection
from a2p_ros.network.geometry import UNION_SCALE
from a2p_ros.network.model import A2PNetwork, HandOutputs
from a2p_ros.network.pictures import normalised
from a2p_ros.network.relative import flipped
from a2p_ros.network.teachers import Priors, Teacher
from a2p_ros.training.fae.batches import Batch
from a2p_ros.training.fae.config import LossWeights
from a2p_ros.training.fae.losses import distillation_loss, gaussian, hand_losses, relative_loss
from a2p_ros.training.fae.maps import metres

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


def teacher_loss(what: str, maps: Float[Tensor, "n channels h w"], batch: Batch) -> Float[Tensor, ""]:
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
    away = metres(target)
    counts = away.isfinite() & learns[:, None, None]
    apart = (maps[:, 0] - 10 * away.nan_to_num()).abs()
    return (apart * counts).sum() / counts.sum().clamp_min(1)


class NetworkObjective(nn.Module):
    """The network learns the task, and an FAE the aligned priors where there is one to learn them.

    Args:
        network: what is trained.
        model: the right hand.
        priors: the frozen encoders; None where they are not needed. They are no part of the state.
        student: in mode foundation, an FAE that learns what Proj makes of the priors.
        teacher: in mode distilled, a frozen Proj whose tokens the network's FAE goes on learning.
        distil_share: share of the batches on which it does.
    """

    def __init__(
        self,
        network: A2PNetwork,
        model: HandModel,
        weights: LossWeights,
        priors: Priors | None = None,
        *,
        student: FusionAlignmentEncoder | None = None,
        teacher: Projection | None = None,
        distil_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.student = network, student
        self._model, self._weights = model, weights
        self._frozen = (priors, teacher)  # in a tuple: modules would become part of this one
        self._share = distil_share if teacher is not None else 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted parts of the loss."""
        crops = normalised(batch.pictures)
        outputs = self.network.hand(crops, self._seen(batch))
        parts = hand_losses(outputs, batch, self._model, self.network.config.depth_range, self._weights)
        parts["relative"] = self._weights.relative * self._relative_loss(outputs, batch)
        pair = self._distilled(crops, outputs, batch)
        if pair is not None:
            parts["distillation"] = self._weights.distillation * distillation_loss(*pair)
        return parts

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[HandOutputs, Float[Tensor, "slots 3"]]:
        """The answers for a batch, and the relative translations of its slots [m]."""
        outputs = self.network.hand(normalised(batch.pictures), self._seen(batch))
        return outputs, self.network.relative(*placed_together(outputs, batch))

    @torch.no_grad()
    def distillation(self, batch: Batch) -> dict[str, float]:
        """How far the student is from the aligned priors, and their spread over crops and tokens: 0 is a collapse."""
        crops = normalised(batch.pictures)
        pair = self._distilled(crops, self.network.hand(crops, self._seen(batch)), batch, always=True)
        if pair is None:
            return {}
        student, target = (x.float() for x in pair)
        return {"distillation": float(distillation_loss(student, target)), "variance": float(variance(target))}

    def _seen(self, batch: Batch) -> Float[Tensor, "n p l c"] | None:
        return self._priors(batch) if self.network.config.mode == "foundation" else None

    def _distilled(
        self, crops: Tensor, outputs: HandOutputs, batch: Batch, always: bool = False
    ) -> tuple[Tensor, Tensor] | None:
        """Student's and teacher's tokens of a batch that is distilled."""
        if self.student is not None:
            assert outputs.aligned is not None
            return self.student(crops), outputs.aligned
        teacher = self._frozen[1]
        if teacher is None or not (always or float(torch.rand(())) < self._share):
            return None
        assert outputs.aligned is not None
        with torch.no_grad():
            return outputs.aligned, teacher(self._priors(batch))

    def _priors(self, batch: Batch) -> Float[Tensor, "n p l c"]:
        priors = self._frozen[0]
        assert priors is not None
        with torch.no_grad():
            return priors(batch.pictures, batch.pictures.shape[1] // self.network.config.stride)

    def _relative_loss(self, outputs: HandOutputs, batch: Batch) -> Tensor:
        keypoints, depth, width = placed_together(outputs, batch)
        mirrored = flipped(keypoints, depth, batch.relative)
        # Each slot as it is or mirrored; what else is random of a pair is in its crops already.
        flip = torch.rand(len(width), device=width.device) < 0.5
        keypoints = torch.where(flip[:, None, None, None], mirrored[0], keypoints)
        depth = torch.where(flip[:, None, None], mirrored[1], depth)
        true = torch.where(flip[:, None], mirrored[2], batch.relative)
        return relative_loss(self.network.relative(keypoints, depth, width), true, batch.pair)


def placed_together(
    outputs: HandOutputs, batch: Batch
) -> tuple[Float[Tensor, "slots 2 21 2"], Float[Tensor, "slots 2 21"], Float[Tensor, "slots"]]:
    """Keypoints, depth and width of each slot's hands in the square around both, as `geometry.union_view` has it."""
    keypoints, depth = outputs.keypoints.detach().float(), outputs.depth.detach().float()
    pixels = torch.einsum("nij,nkj->nki", batch.to_image[..., :2], keypoints) + batch.to_image[:, None, :, 2]
    both = pixels.unflatten(0, (-1, 2))
    low, high = both.amin((1, 2)), both.amax((1, 2))
    edge = UNION_SCALE * (high - low).amax(-1).clamp_min(1.0)
    placed = (both - ((low + high) / 2)[:, None, None]) / edge[:, None, None, None]
    return placed, depth.unflatten(0, (-1, 2)), edge / batch.focal[::2]


def variance(tokens: Float[Tensor, "n l c"]) -> Float[Tensor, ""]:
    """Mean variance of each feature over the crops and tokens of a batch."""
    return tokens.flatten(0, 1).float().var(0).mean()


def _resized(maps: UInt8[Tensor, "n h w"], edge: int) -> UInt8[Tensor, "n edge edge"]:
    """Maps of classes or steps at another size, by nearest pixels."""
    if maps.shape[-1] == edge:
        return maps
    return functional.interpolate(maps[:, None].float(), (edge, edge), mode="nearest-exact")[:, 0].to(maps.dtype)
