"""The detector's network: picture -> maps at stride 8 of left and right hands.

A small residual network with a pyramid (Lin et al., 2017) down to stride 32 and a head that answers for every cell
and each side, in the manner of CenterNet and FCOS (Zhou et al., 2019; Tian et al., 2019): is a palm's centre here,
where are the box's edges, which way does the hand point, and in which square should the landmark stage look. The sides
have maps of their own, so that two hands with their palms on one another are two peaks.

Plain 3x3 convolutions with channels in multiples of 16: on processors they are as fast as depthwise ones of a fifth
of the parameters (onnxruntime, 2 cores), and train faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.config import Checked, setting
from a2p_ros.detection.hand_maps import BOX, CHANNELS, DIRECTION
from a2p_ros.errors import ConfigError

#: Deepest stride: edges of the input are multiples of it.
DEEPEST = 32
#: Heat with which training begins: nearly every cell is empty.
_PRIOR = 0.02
#: x and y of 21 joints.
JOINTS = 42


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Sizes of the network.

    With 8 channels, oneDNN's convolutions of torch 2.13 crash in training on a processor.
    """

    stem: int = setting(16, "Channels at stride 2.", low=16)
    stride4: int = setting(24, "Channels at stride 4.", low=16)
    stride8: int = setting(48, "Channels at stride 8.", low=16)
    stride16: int = setting(96, "Channels at stride 16.", low=16)
    stride32: int = setting(160, "Channels at stride 32.", low=16)
    blocks: int = setting(2, "Residual blocks at strides 8, 16 and 32; stride 4 has one.", low=1, high=16)
    neck: int = setting(64, "Channels of pyramid and head.", low=16)


class HandNet(nn.Module):
    """Normalised pictures -> heat logits and numbers, one of each side at each cell.

    Inputs are RGB / 127.5 - 1 with edges that are multiples of 32.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or NetworkConfig()
        self.stem = _conv(3, c.stem, stride=2)
        self.stride4 = _stage(c.stem, c.stride4, 1)
        self.stride8 = _stage(c.stride4, c.stride8, c.blocks)
        self.stride16 = _stage(c.stride8, c.stride16, c.blocks)
        self.stride32 = _stage(c.stride16, c.stride32, c.blocks)
        self.lateral = nn.ModuleList(nn.Conv2d(n, c.neck, 1) for n in (c.stride8, c.stride16, c.stride32))
        self.merge16, self.merge8 = _conv(c.neck, c.neck), _conv(c.neck, c.neck)
        self.head_heat, self.head_numbers = _conv(c.neck, c.neck), _conv(c.neck, c.neck)
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
        if any(edge % DEEPEST for edge in pictures.shape[-2:]):
            raise ConfigError(f"pictures: expected edges that are multiples of {DEEPEST}, got {tuple(pictures.shape)}")
        x8 = self.stride8(self.stride4(self.stem(pictures)))
        x16 = self.stride16(x8)
        x32 = self.stride32(x16)
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
        logits, numbers, *_ = self.net(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return logits.sigmoid(), numbers


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(before, after, stride=stride), _conv(after, after, relu=False)
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else _conv(before, after, kernel=1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.skip(x))


def _conv(before: int, after: int, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, after, 2), *(_Residual(after, after, 1) for _ in range(blocks - 1)))


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
