"""The detector's network: picture -> maps at stride 8 of left and right hands.

EfficientNet-lite0, which begins with ImageNet's weights, a pyramid (Lin et al., 2017) back to stride 8, and a head that
answers for every cell and each side, in the manner of CenterNet and FCOS (Zhou et al., 2019; Tian et al., 2019): is a
palm's centre here, where are the box's edges, which way does the hand point, and in which square should the landmark
stage look. The sides have maps of their own, so that two hands with their palms on one another are two peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.config import Checked, setting
from a2p_ros.detection.hand_maps import BOX, CHANNELS, DIRECTION
from a2p_ros.errors import ConfigError
from a2p_ros.network.efficientnet import BLOCKS, LEAST_BLOCKS, UNIT, EfficientNetLite0
from a2p_ros.network.pictures import normalised

#: Heat with which training begins: nearly every cell is empty.
_PRIOR = 0.02
#: x and y of 21 joints.
JOINTS = 42


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Sizes of the network."""

    blocks: int = setting(
        15,
        "Blocks of EfficientNet-lite0; its last one widens to 320 channels what 64 are made of.",
        low=LEAST_BLOCKS,
        high=BLOCKS,
    )
    neck: int = setting(64, "Channels of pyramid and head.", low=16)


class HandNet(nn.Module):
    """Normalised pictures -> heat logits and numbers, one of each side at each cell.

    Inputs are `normalised` with edges that are multiples of 32.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or NetworkConfig()
        self.backbone = EfficientNetLite0(c.blocks)
        self.lateral = nn.ModuleList(nn.Conv2d(n, c.neck, 1) for n in self.backbone.channels)
        self.merge16, self.merge8 = _conv(c.neck), _conv(c.neck)
        self.head_heat, self.head_numbers = _conv(c.neck), _conv(c.neck)
        self.heat = nn.Conv2d(c.neck, 2, 1)
        self.numbers = nn.Conv2d(c.neck, 2 * CHANNELS, 1)
        self.joints = nn.Conv2d(c.neck, 2 * JOINTS, 1)
        self.palm = nn.Conv2d(c.neck, 2, 1)
        for layer in (self.heat, self.numbers, self.joints, self.palm):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(_bias(self.heat), float(torch.logit(torch.tensor(_PRIOR))))
        start = torch.zeros(CHANNELS)
        start[BOX] = 2.0  # half a box of 64 px
        start[DIRECTION.start] = 0.5  # mostly upright
        with torch.no_grad():
            _bias(self.numbers).copy_(start.repeat(2))

    def forward(
        self, pictures: Float[Tensor, "batch 3 height width"]
    ) -> tuple[
        Float[Tensor, "batch 2 rows columns"],
        Float[Tensor, "batch 2 9 rows columns"],
        Float[Tensor, "batch 2 42 rows columns"],
        Float[Tensor, "batch 2 rows columns"],
    ]:
        """Heat logits of the left and the right side, the numbers of `hand_maps` for each, joints and palm.

        The joints' places and whether the palm is seen (a logit) are asked for in training alone: they teach what
        the side hangs on.
        """
        if any(edge % UNIT for edge in pictures.shape[-2:]):
            raise ConfigError(f"pictures: expected edges that are multiples of {UNIT}, got {tuple(pictures.shape)}")
        x8, x16, x32 = self.backbone.pyramid(pictures)
        y = self.merge16(self.lateral[1](x16) + _twice(self.lateral[2](x32)))
        y = self.merge8(self.lateral[0](x8) + _twice(y))
        z = self.head_numbers(y)
        return (
            self.heat(self.head_heat(y)),
            self.numbers(z).unflatten(1, (2, CHANNELS)),
            self.joints(z).unflatten(1, (2, JOINTS)),
            self.palm(z),
        )


class ExportedHandNet(nn.Module):
    """What goes into the ONNX file: 8 bit pictures in, peaks and numbers as `hand_maps.decode` takes them out."""

    def __init__(self, net: HandNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(n, height, width, 3) uint8 RGB -> heat in [0, 1] and numbers."""
        logits, numbers, *_ = self.net(normalised(pictures))
        return logits.sigmoid(), numbers


def _conv(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
