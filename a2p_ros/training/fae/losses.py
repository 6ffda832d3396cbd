"""The loss of the network (A2P, section 3.2, after InterWild): parts, weighted, each a mean over its crops."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from a2p_ros.hand.model import HandModel
from a2p_ros.network.heads import CONFIDENT
from a2p_ros.network.model import HandOutputs
from a2p_ros.training.fae.augment import AugmentConfig
from a2p_ros.training.fae.batches import Batch
from a2p_ros.training.fae.config import LossWeights

#: 2.5D joints are counted in cells of a heat map of so many cells an edge, as InterWild's.
_CELLS = 8
#: How many crops show the assumed side for each that does not.
_WRONG_SIDES = 1 / AugmentConfig().wrong_side - 1
#: Spread of the heat maps' Gaussians [crop edges], and the least in cells.
_SPREAD, _LEAST_SPREAD = 0.03, 0.6


def hand_losses(
    outputs: HandOutputs, batch: Batch, model: HandModel, depth_range: float, weights: LossWeights
) -> dict[str, Tensor]:
    """Parts of the loss of n crops; ``model`` is the right hand, ``depth_range`` the heat map's +- [m]."""
    learns = batch.learns
    inside = learns[:, None] & (batch.keypoints.abs() <= 0.5).all(-1)
    depth = batch.joints[..., 2]
    hand = pose_joints(model, outputs.rotations, outputs.betas)
    with torch.no_grad():
        true_vertices = pose_joints(model, batch.rotations, batch.betas)[1]
    joints, vertices = hand
    scale, shift = outputs.weak_camera[:, :1], outputs.weak_camera[:, 1:]
    projected = scale[..., None] * joints[..., :2] + shift[:, None]
    parts = {
        "keypoints": _CELLS * _l1(outputs.keypoints, batch.keypoints, inside),
        "depth": _CELLS / (2 * depth_range) * _l1(outputs.depth[..., None], depth[..., None], inside),
        "heat": heat_loss(outputs.heat, batch.keypoints, depth / (2 * depth_range), inside),
        "joints": _l1(joints, batch.joints, learns),
        "mesh": _l1(vertices, true_vertices, learns),
        "rotations": _l1(outputs.rotations, batch.rotations, learns),
        "betas": _l1(outputs.betas, batch.betas, learns),
        "camera": _l1(projected, batch.keypoints, inside),
        "confidence": _cross_entropy(outputs.joint_confidence, _trusted(outputs, batch), learns[:, None]),
        "presence": _cross_entropy(outputs.presence, batch.hand, torch.ones_like(batch.hand)),
        "side": _cross_entropy(outputs.as_assumed, batch.as_assumed, batch.hand * _evened(batch.as_assumed)),
    }
    return {name: getattr(weights, name) * part for name, part in parts.items()}


def pose_joints(
    model: HandModel, rotations: Float[Tensor, "n 16 3 3"], betas: Float[Tensor, "n 10"]
) -> tuple[Float[Tensor, "n 21 3"], Float[Tensor, "n vertices 3"]]:
    """Joints and vertices of hands relative to their wrists [m]."""
    with torch.autocast(rotations.device.type, enabled=False):
        posed = model.forward(betas.float(), rotations.float(), betas.new_zeros(len(betas), 3, dtype=torch.float32))
    wrist = posed.joints[:, :1]
    return posed.joints - wrist, posed.vertices - wrist


def heat_loss(
    heat: Float[Tensor, "n 21 d h w"],
    keypoints: Float[Tensor, "n 21 2"],
    depth: Float[Tensor, "n 21"],
    counts: Bool[Tensor, "n 21"],
) -> Float[Tensor, ""]:
    """Cross-entropy of heat maps (logits) with Gaussians about the true places [map edges, 0 = centre].

    Soft-argmax alone may put a joint between two places that it cannot decide between; this asks for one of them.
    """
    d, h, w = heat.shape[2:]
    log_share = heat.float().flatten(2).log_softmax(-1).unflatten(2, (d, h, w))
    over_w = torch.einsum("njdhw,njw->njdh", log_share, gaussian(keypoints[..., 0], w, _SPREAD))
    over_h = torch.einsum("njdh,njh->njd", over_w, gaussian(keypoints[..., 1], h, _SPREAD))
    value = -torch.einsum("njd,njd->nj", over_h, gaussian(depth.clamp(-0.5, 0.5), d, _SPREAD))
    return (value * counts).sum() / counts.sum().clamp_min(1)


def distillation_loss(student: Float[Tensor, "n l c"], target: Float[Tensor, "n l c"]) -> Float[Tensor, ""]:
    """MSE of the FAE's tokens with the aligned priors, which it does not move: both would shrink to a constant."""
    return functional.mse_loss(student.float(), target.detach().float())


def relative_loss(
    predicted: Float[Tensor, "slots 3"], true: Float[Tensor, "slots 3"], pair: Bool[Tensor, "slots"]
) -> Float[Tensor, ""]:
    """L1 of left wrist minus right wrist [m] over the slots that hold a pair."""
    return _l1(predicted, true, pair)


def gaussian(place: Float[Tensor, "n 21"], cells: int, spread: float) -> Float[Tensor, "n 21 cells"]:
    """A Gaussian of ``spread`` [edges] over the cells of an edge [-0.5, 0.5], of sum one."""
    centres = (torch.arange(cells, device=place.device) + 0.5) / cells - 0.5
    spread = max(spread, _LEAST_SPREAD / cells)
    return functional.softmax(-((centres - place[..., None]) / spread).square() / 2, -1)


def _evened(as_assumed: Bool[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Weights that make crops of the wrong side count as much as all the others: an answer must not presume any."""
    return torch.where(as_assumed, 1.0, _WRONG_SIDES)


def _trusted(outputs: HandOutputs, batch: Batch) -> Bool[Tensor, "n 21"]:
    return (outputs.keypoints.detach().float() - batch.keypoints).norm(dim=-1) < CONFIDENT


def _l1(value: Tensor, true: Tensor, counts: Tensor) -> Float[Tensor, ""]:
    """Mean absolute difference over what counts; ``counts`` has the leading axes of the values."""
    apart = (value.float() - true).abs().flatten(counts.ndim).mean(-1)
    return (apart * counts).sum() / counts.sum().clamp_min(1)


def _cross_entropy(logits: Tensor, true: Tensor, counts: Tensor) -> Float[Tensor, ""]:
    value = functional.binary_cross_entropy_with_logits(logits.float(), true.float(), reduction="none")
    counts = counts.expand_as(value)
    return (value * counts).sum() / counts.sum().clamp_min(1)
