"""Places on a hand that touch things, as vertices of its mesh."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.training.hand_poses import INDEX, LITTLE, MIDDLE, RING, THUMB, HandAxes
from a2p_ros.types import Side

FINGERS = {"thumb": THUMB, "index": INDEX, "middle": MIDDLE, "ring": RING, "little": LITTLE}
#: First OpenPose joint of each finger.
_BASE = {"thumb": 1, "index": 5, "middle": 9, "ring": 13, "little": 17}


def contact_sites(model: HandModel) -> dict[str, int]:
    """Name -> vertex: ``<finger>_pad``, ``<finger>_tip``, ``<finger>_{front,back}_{1,2}`` (towards the palm and the
    nail, first and second phalanx), ``palm``, ``palm_base``, ``back``, ``wrist_front``, ``wrist_back``, ``wrist_side``.

    A site is the vertex that a ray meets that starts in the bone and runs out of the skin of the flat hand.
    """
    joints = model.joints(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))[0]
    flip = torch.tensor([-1.0, 1.0, 1.0]) if model.side is Side.LEFT else torch.ones(3)
    axes = HandAxes(model).axes * flip[:, None]
    palmar, along = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0]) * flip
    wrist, middle, little, index = joints[0], joints[9], joints[17], joints[5]
    sites: dict[str, int] = {}

    def put(name: str, start: Tensor, direction: Tensor) -> None:
        sites[name] = _ray_vertex(model.template, start, direction)

    for finger, slot in FINGERS.items():
        base = _BASE[finger]
        bone, nail = axes[3 * slot + 2, :, 0], axes[3 * slot + 2, :, 2]
        put(f"{finger}_pad", 0.45 * joints[base + 2] + 0.55 * joints[base + 3], -nail)
        sites[f"{finger}_tip"] = int(
            (model.template @ bone - 1e3 * _off_axis(model.template, joints[base + 3], bone)).argmax()
        )
        for i in (0, 1):
            mid, out = (joints[base + i] + joints[base + i + 1]) / 2, axes[3 * slot + i, :, 2]
            put(f"{finger}_front_{i + 1}", mid, -out)
            put(f"{finger}_back_{i + 1}", mid, out)
    centre = 0.35 * wrist + 0.65 * (middle + little + index) / 3
    put("palm", centre, palmar)
    put("back", centre, -palmar)
    put("palm_base", 0.8 * wrist + 0.2 * little, palmar)
    arm = wrist - 0.008 * along
    put("wrist_front", arm, palmar)
    put("wrist_back", arm, -palmar)
    put("wrist_side", arm, torch.tensor([0.0, 0.0, 1.0]))
    return sites


def _off_axis(
    points: Float[Tensor, "n 3"], start: Float[Tensor, "3"], direction: Float[Tensor, "3"]
) -> Float[Tensor, "n"]:
    """Distance from a line, squared [m^2]."""
    gap = points - start
    return gap.square().sum(-1) - (gap @ direction) ** 2


def _ray_vertex(points: Float[Tensor, "n 3"], start: Float[Tensor, "3"], direction: Float[Tensor, "3"]) -> int:
    """The vertex nearest to the ray, the nearer one of two alike."""
    ahead = (points - start) @ direction
    cost = _off_axis(points, start, direction) + 0.02 * ahead.square()
    return int(torch.where(ahead > 0.001, cost, torch.inf).argmin())
