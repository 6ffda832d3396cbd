"""Single hands as people hold them: a small grasp taxonomy, synergies between joints, joint limits.

Joint angles are those of ``a2p_ros.hand.limits`` (twist, flexion, abduction of joints 1 to 15 in MANO's order
index, middle, little, ring, thumb), here in torch so that contact can be optimised through them.

The shapes are a choice of the types in Feix et al., "The GRASP Taxonomy of Human Grasp Types" (2016), and of the
open and pointing hands of conversation. Variation follows the first synergies of Santello, Flanders and Soechting
(1998): fingers bend together, neighbours alike, and the last joint bends two thirds as far as the middle one.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.errors import InputError
from a2p_ros.hand.limits import JOINT_LIMITS, joint_axes
from a2p_ros.hand.model import HandModel
from a2p_ros.types import Side

INDEX, MIDDLE, LITTLE, RING, THUMB = range(5)
LIMITS: Float[Tensor, "15 3 2"] = torch.from_numpy(JOINT_LIMITS).float()
#: The last joint of a finger cannot be bent alone; it follows the middle one by this share.
DIP_PER_PIP = 0.67

_Finger = tuple[float, float, float]


def _degrees(
    fingers: _Finger | tuple[_Finger, _Finger, _Finger, _Finger],
    thumb: tuple[float, float, float, float, float],
    spread: float = 0.0,
) -> Float[Tensor, "15 3"]:
    """Angles [rad] from degrees: (base, middle, last) flexion of all or of (index, middle, ring, little) fingers;
    thumb (twist, flexion, abduction of its base, flexion of the next two); ``spread`` of the index finger.
    """
    table = fingers if isinstance(fingers[0], tuple) else (fingers,) * 4
    angles = torch.zeros(15, 3)
    share = (1.0, 0.15, -1.0, -0.5)
    for slot, bend, apart in zip(
        (INDEX, MIDDLE, RING, LITTLE), table, (share[0], share[1], share[3], share[2]), strict=True
    ):
        angles[3 * slot : 3 * slot + 3, 1] = torch.tensor(bend)
        angles[3 * slot, 2] = spread * apart
    twist, flexion, abduction, second, third = thumb
    angles[12] = torch.tensor([twist, flexion, abduction])
    angles[13, 1], angles[14, 1] = second, third
    return torch.deg2rad(angles)


_ALONG = (0.0, -5.0, -28.0, 5.0, 5.0)
_CURLED: _Finger = (75.0, 95.0, 55.0)
_STRAIGHT: _Finger = (3.0, 5.0, 3.0)

#: Name -> joint angles (15, 3) [rad] of either hand.
GRASPS: dict[str, Float[Tensor, "15 3"]] = {
    "flat": _degrees(_STRAIGHT, _ALONG),
    "relaxed": _degrees(((22, 28, 15), (28, 32, 18), (32, 35, 20), (35, 35, 20)), (0, 5, -10, 15, 15), 3),
    "spread": _degrees((0.0, 5.0, 3.0), (0, -15, -20, 0, 0), 14),
    "cup": _degrees((32.0, 28.0, 16.0), (0, 5, -5, 15, 15)),
    "wrap": _degrees((55.0, 55.0, 30.0), (-10, 15, 5, 20, 25)),
    "grip": _degrees((62.0, 72.0, 38.0), (-5, 31, 14, 15, 15)),
    "hook": _degrees((15.0, 85.0, 50.0), _ALONG),
    "fist": _degrees(_CURLED, (-5, 31, 14, 24, 31)),
    "thumb_up": _degrees(_CURLED, (0, -20, -28, -5, -10)),
    "point": _degrees((_STRAIGHT, _CURLED, _CURLED, _CURLED), (-4, 31, 14, 25, 30)),
    "two_fingers": _degrees((_STRAIGHT, _STRAIGHT, _CURLED, _CURLED), (-1, 44, 17, 23, 28), 2),
    "pinch": _degrees(((48, 45, 25), (40, 40, 20), (35, 35, 20), (30, 30, 18)), (-7, 40, 15, 2, -10)),
    "tripod": _degrees(((50, 45, 25), (55, 45, 25), (60, 60, 30), (60, 65, 30)), (-11, 45, 20, 2, -10)),
    "folded": _degrees((22.0, 22.0, 10.0), (0, 0, -20, 10, 10), 14),
}


class HandAxes:
    """Turns joint angles of one hand model into rotations, in torch."""

    def __init__(self, model: HandModel) -> None:
        rest = model.joints(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))[0]
        self.side = model.side
        self.axes: Float[Tensor, "15 3 3"] = torch.from_numpy(
            joint_axes(rest.numpy().astype(np.float64), model.side)
        ).float()
        signs = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
        self._signs = signs if model.side is Side.LEFT else torch.ones(3, 3)

    def rotations(self, angles: Float[Tensor, "batch 15 3"]) -> Float[Tensor, "batch 15 3 3"]:
        """The hand pose of joint angles [rad]: ``limits.joint_rotations`` with gradients."""
        (ct, cf, ca), (st, sf, sa) = angles.cos().unbind(-1), angles.sin().unbind(-1)
        local = torch.stack(
            [
                torch.stack([ca * cf, ca * sf * st - sa * ct, ca * sf * ct + sa * st], -1),
                torch.stack([sa * cf, sa * sf * st + ca * ct, sa * sf * ct - ca * st], -1),
                torch.stack([-sf, cf * st, cf * ct], -1),
            ],
            -2,
        )
        return self.axes @ local @ self.axes.transpose(-1, -2) * self._signs


def within_limits(angles: Float[Tensor, "*batch 15 3"]) -> Float[Tensor, "*batch 15 3"]:
    """The angles, each moved to the nearest that the joint reaches."""
    return torch.minimum(torch.maximum(angles, LIMITS[..., 0]), LIMITS[..., 1])


def vary(
    angles: Float[Tensor, "batch 15 3"], generator: torch.Generator, amount: float = 1.0
) -> Float[Tensor, "batch 15 3"]:
    """People's variants of a hand shape: correlated changes along synergies, then the limits.

    ``amount`` 1 bends fingers by 9 degrees (one standard deviation), two thirds of it together.
    """
    n, deg = len(angles), torch.pi / 180 * amount

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    out = angles.clone()
    bend = 6 * normal(1, 1) + 5 * normal(1, 2) + 4 * normal(4, 2)
    out[:, 0:12:3, 1] += deg * bend[..., 0]
    out[:, 1:12:3, 1] += deg * bend[..., 1]
    out[:, 2:12:3, 1] += deg * DIP_PER_PIP * bend[..., 1]
    spread = torch.tensor([1.0, 0.15, -1.0, -0.5])
    out[:, 0:12:3, 2] += deg * (3 * normal(1) * spread + 1.5 * normal(4))
    out[:, 12] += deg * torch.tensor([4.0, 6.0, 6.0]) * normal(3)
    out[:, 13:15, 1] += deg * 6 * normal(2)
    return within_limits(out)


def sample_hand(
    names: list[str], generator: torch.Generator, amount: float = 1.0, mix: float = 0.25
) -> Float[Tensor, "batch 15 3"]:
    """One varied hand for each grasp name; up to ``mix`` of it is drawn towards another grasp of the taxonomy.

    Raises InputError for a name that is not in ``GRASPS``.
    """
    unknown = sorted(set(names) - set(GRASPS))
    if unknown:
        raise InputError(f"grasp: {', '.join(unknown)} is unknown; known are {', '.join(GRASPS)}")
    own = torch.stack([GRASPS[name] for name in names])
    every = torch.stack(list(GRASPS.values()))
    other = every[torch.randint(len(every), (len(names),), generator=generator)]
    share = mix * torch.rand(len(names), 1, 1, generator=generator) ** 2
    return vary(torch.lerp(own, other, share), generator, amount)
