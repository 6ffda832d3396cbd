"""What the detector's network is trained on.

    L = heat                     CornerNet's focal loss (Law and Deng, 2018, eq. 1), alpha 2, beta 4
      + box (1 - GIoU)           Rezatofighi et al., 2019
      + direction |d - d_hat|^2  unit vectors in the picture
      + square                   distances and the logarithm of the edge, smooth L1
      + side                     cross entropy of left against right at the middle of a hand that is alone there
      + joints                   where all 21 are, smooth L1
      + palm                     cross entropy of palm against back, by how squarely it is seen

The numbers count at the cells around a hand's middle, by their heat. Nothing at run time asks for joints and palm. A
side is palm or back *and* thumb left or right; neither alone tells it, and a network that is asked for the side
only stays at chance for long after it finds every hand.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from a2p_ros.detection.hand_maps import BOX, DIRECTION, SQUARE

_ALPHA, _BETA = 2, 4
_WEIGHTS = {"heat": 1.0, "box": 2.0, "direction": 2.0, "square": 1.0, "side": 1.0, "joints": 1.0, "palm": 3.0}
#: A target of less than this is no peak.
_PEAK = 0.999
#: Where the other side's target is above this, two hands lie on one another and both sides are right.
_ALONE = 0.1


def losses(
    logits: Float[Tensor, "batch 2 rows columns"],
    numbers: Float[Tensor, "batch 2 9 rows columns"],
    joints: Float[Tensor, "batch 2 42 rows columns"],
    palm: Float[Tensor, "batch 2 rows columns"],
    heat: Float[Tensor, "batch 2 rows columns"],
    counts: Float[Tensor, "batch 2 rows columns"],
    wanted: Float[Tensor, "batch 2 9 rows columns"],
    weight: Float[Tensor, "batch 2 rows columns"],
    direction_weight: Float[Tensor, "batch 2 rows columns"],
    wanted_joints: Float[Tensor, "batch 2 42 rows columns"],
    wanted_palm: Float[Tensor, "batch 2 rows columns"],
) -> dict[str, Tensor]:
    """Parts of the loss, weighted, by name; inputs as `labels.Targets` names them."""
    found, asked = (x.movedim(2, -1)[weight > 0] for x in (numbers.float(), wanted))
    marks, wanted_marks = (x.movedim(2, -1)[weight > 0] for x in (joints.float(), wanted_joints))
    share, along = weight[weight > 0], direction_weight[weight > 0]
    faces, wanted_faces = palm.float()[weight > 0], wanted_palm[weight > 0]
    parts = {
        "heat": _focal(logits.float(), heat, counts),
        "box": _mean(1 - _giou(found[:, BOX], asked[:, BOX]), share),
        "direction": _mean((found[:, DIRECTION] - asked[:, DIRECTION]).square().sum(-1), along),
        "square": _mean(functional.smooth_l1_loss(found[:, SQUARE], asked[:, SQUARE], reduction="none").sum(-1), share),
        "side": _side(logits.float(), heat, counts),
        "joints": _mean(functional.smooth_l1_loss(marks, wanted_marks, reduction="none").mean(-1), share),
        "palm": _mean(functional.softplus(-faces * wanted_faces.sign()), share * wanted_faces.abs()),
    }
    return {name: _WEIGHTS[name] * part for name, part in parts.items()}


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def _focal(logits: Tensor, heat: Tensor, counts: Tensor) -> Tensor:
    peak = heat > _PEAK
    chance = logits.sigmoid()
    hit = (1 - chance) ** _ALPHA * functional.softplus(-logits)
    miss = (1 - heat) ** _BETA * chance**_ALPHA * functional.softplus(logits)
    return (torch.where(peak, hit, miss) * counts).sum() / peak.sum().clamp(min=1)


def _side(logits: Tensor, heat: Tensor, counts: Tensor) -> Tensor:
    alone = (heat > _PEAK) & (heat.flip(1) < _ALONE) & (counts.flip(1) > 0)
    return (functional.softplus(logits.flip(1) - logits) * alone).sum() / alone.sum().clamp(min=1)


def _giou(a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    """Generalised IoU of boxes that are given by their edges' distances from one point; turned-over ones have none."""
    a = torch.cat([a[:, :2], torch.maximum(a[:, 2:], -a[:, :2] + 1e-2)], 1)
    inside = (torch.minimum(a[:, :2], b[:, :2]) + torch.minimum(a[:, 2:], b[:, 2:])).clamp(min=0).prod(1)
    hull = (torch.maximum(a[:, :2], b[:, :2]) + torch.maximum(a[:, 2:], b[:, 2:])).prod(1)
    union = (a[:, :2] + a[:, 2:]).prod(1) + (b[:, :2] + b[:, 2:]).prod(1) - inside
    return inside / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
