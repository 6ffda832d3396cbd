"""EfficientNet-lite0 (Tan and Le, 2019; its lite form by Liu, 2020) with the names of the weights trained on ImageNet.

The small networks' backbone: what it knows of ImageNet's pictures is worth more than hours of drawn ones
(``docs/training.md``, Tried).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from a2p_ros.errors import WeightsError
from a2p_ros.network.pictures import MEAN, SPREAD

#: Blocks, kernel, stride, expansion and channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
#: Of batch normalisation, in the released weights.
_EPSILON = 1e-3
#: What is left out of the released weights: the classifier, and the layer before it.
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
#: Kernel and average of the first convolution and norm.
_KERNEL, _AVERAGE = "_conv_stem.weight", "_bn0.running_mean"
_FIRST = {_KERNEL, _AVERAGE}
#: Blocks to the end of the stages at strides 8 and 16.
_TO_8, _TO_16 = (sum(stage[0] for stage in _STAGES[:stages]) for stages in (3, 5))
#: Blocks of the whole network, and the fewest that reach stride 32.
BLOCKS, LEAST_BLOCKS = sum(stage[0] for stage in _STAGES), _TO_16 + 1
#: Multiple of which the edges of crops must be [px].
UNIT = 32


class EfficientNetLite0(nn.Module):
    """Normalised crops -> features at strides 16 and 32 side by side, at a sixteenth of the edges.

    Of fewer ``blocks`` than `BLOCKS`, `LEAST_BLOCKS` at least, the last ones are left out. ``channels`` are those of
    strides 8, 16 and 32.
    """

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        self._frozen = 0
        self._conv_stem = _Conv(3, _STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(_STEM, _EPSILON)
        self._blocks = nn.ModuleList()
        before = _STEM
        for count, kernel, stride, expansion, channels in _STAGES:
            for i in range(count):
                self._blocks.append(_Block(before, channels, kernel, stride if i == 0 else 1, expansion))
                before = channels
        self._blocks = self._blocks[:blocks]
        last = self._blocks[-1]._project_conv
        assert isinstance(last, nn.Conv2d)
        self.channels = (_STAGES[2][4], _STAGES[4][4], last.out_channels)
        self.out_channels = self.channels[1] + self.channels[2]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def forward(self, crops: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n c h w"]:
        """Features of crops whose edges are multiples of `UNIT`."""
        _, finer, coarser = self.pyramid(crops)
        return torch.cat([finer, functional.interpolate(coarser, scale_factor=2.0, mode="nearest")], 1)

    def pyramid(
        self, pictures: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c8 h8 w8"], Float[Tensor, "n c16 h16 w16"], Float[Tensor, "n c32 h32 w32"]]:
        """Features at strides 8, 16 and 32 of pictures whose edges are multiples of `UNIT`."""
        x = functional.relu6(self._bn0(self._conv_stem(pictures)))
        ends = []
        for number, block in enumerate(self._blocks, 1):
            x = block(x)
            if number in (_TO_8, _TO_16):
                ends.append(x)
        return ends[0], ends[1], x

    def freeze(self, blocks: int) -> None:
        """Let the stem and the first blocks stay as they are, norms included; 0 lets all of them learn."""
        self._frozen = blocks
        self.requires_grad_(True)
        for module in self._kept():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """As of any module; what is frozen keeps its averages."""
        super().train(mode)
        for module in self._kept():
            module.eval()
        return self

    def _kept(self) -> list[nn.Module]:
        return [self._conv_stem, self._bn0, *self._blocks[: self._frozen]] if self._frozen else []

    def load_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the released weights, made for `normalised` crops; their classifier is left out.

        Raises WeightsError for those of another network.
        """
        left_out = (*_CLASSIFIER, *(f"_blocks.{number}." for number in range(len(self._blocks), BLOCKS)))
        wanted = {name: tensor for name, tensor in weights.items() if not name.startswith(left_out)}
        try:
            self.load_state_dict(_for_normalised(wanted) if _FIRST.issubset(wanted) else wanted, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"not the released weights of EfficientNet-lite0: {error}") from error


class _Block(nn.Module):
    """Wider by a 1x1 convolution, a depthwise one, narrower by another 1x1; a skip where the shape stays."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self._skips = before == after and stride == 1
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = _Conv(before, inner, 1, 1)
            self._bn0 = nn.BatchNorm2d(inner, _EPSILON)
        self._depthwise_conv = _Conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, _EPSILON)
        self._project_conv = _Conv(inner, after, 1, 1)
        self._bn2 = nn.BatchNorm2d(after, _EPSILON)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class _Conv(nn.Conv2d):
    """A convolution without bias, padded evenly.

    The weights were trained with TensorFlow's SAME, which at stride 2 pads right and lower sides more: the same
    features seen from a pixel of each layer aside. Even padding costs no copy.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        if self.groups == 1 or x.device.type != "cpu":
            return super().forward(x)
        # With bfloat16 on processors, the gradient of depthwise convolutions takes twice as long as all the rest.
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def _for_normalised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of pictures in [-1, 1] as those of `normalised` ones: what was a step before them goes into the stem."""
    kernel, average = weights[_KERNEL], weights[_AVERAGE]
    scale = 2 * kernel.new_tensor(SPREAD)[:, None, None]
    shift = (kernel * (2 * kernel.new_tensor(MEAN) - 1)[:, None, None]).sum((1, 2, 3))
    return weights | {_KERNEL: kernel * scale, _AVERAGE: average - shift}
