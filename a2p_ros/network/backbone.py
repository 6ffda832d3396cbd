"""Backbones: ResNet (He et al., 2016) with torchvision's parameter names, so that weights trained on ImageNet load.

Written here because torchvision has no build for processors alone, and because small ones are narrower than its.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from a2p_ros.errors import WeightsError
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.efficientnet import EfficientNetLite0

#: Blocks of each stage.
_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
#: What torchvision's networks have and this one has not.
_CLASSIFIER = ("fc.weight", "fc.bias")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, 1), nn.BatchNorm2d(width)
        self.downsample = _downsample(before, width, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features at the block's stride."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a skip; the stride is in the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1, self.bn1 = _conv(before, width, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, after, 1, 1), nn.BatchNorm2d(after)
        self.downsample = _downsample(before, after, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features at the block's stride."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Normalised crops -> features of the last stage.

    ``layers`` is 18 or 50; the stages have ``width``, 2 and 4 times as many channels, and ``last_width``.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, layers: int, width: int, last_width: int, last_stride: int) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = BasicBlock if layers == 18 else Bottleneck
        self.conv1, self.bn1 = _conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths, strides = (width, 2 * width, 4 * width, last_width), (1, 2, 2, last_stride)
        before = width
        for number, (blocks, w, stride) in enumerate(zip(_BLOCKS[layers], widths, strides, strict=True), 1):
            stage: list[nn.Module] = [block(before, w, stride)]
            before = w * block.expansion
            stage += [block(before, w, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.out_channels = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, crops: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n c h w"]:
        """Features at a sixteenth (``last_stride`` 1) or a thirty-second of the crops' edges."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(crops))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def load_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Take over torchvision's weights of a network of this size; its classifier is left out.

        Raises WeightsError for those of another network.
        """
        wanted = {name: tensor for name, tensor in weights.items() if name not in _CLASSIFIER}
        try:
            self.load_state_dict(wanted, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"not the weights of torchvision's ResNet of these sizes: {error}") from error


def read_imagenet(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a file that torchvision, timm or a user gives: safetensors, or what ``torch.save`` writes.

    Nothing in the file is run. Raises WeightsError where it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: cannot be read as tensors ({error}); expected a backbone's state dict") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{path}: expected a state dict, tensors by name, got {type(found).__name__}")
    return found


def make_backbone(config: NetworkConfig) -> ResNet | EfficientNetLite0:
    """The image network of a configuration: the backbone, and the FAE's too."""
    if config.backbone == "efficientnet_lite0":
        return EfficientNetLite0()
    layers = 18 if config.backbone == "resnet18" else 50
    return ResNet(layers, config.width, config.last_width, config.last_stride)


def fold_norms(network: nn.Module) -> None:
    """Fold each normalisation that follows a convolution into it, in place: the same answers in fewer steps.

    The network is for evaluation only from then on, and its parameters have other names.
    """
    for module in network.modules():
        children = list(module.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                turned = isinstance(conv, nn.ConvTranspose2d)
                setattr(module, name, nn.utils.fuse_conv_bn_eval(conv, norm, transpose=turned))
                setattr(module, norm_name, nn.Identity())


def _conv(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def _downsample(before: int, after: int, stride: int) -> nn.Sequential | None:
    if before == after and stride == 1:
        return None
    return nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))
