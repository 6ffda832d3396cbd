"""Sizes of the network, and the presets ``LITE`` and ``FULL``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from a2p_ros.config import Checked, setting
from a2p_ros.errors import ConfigError
from a2p_ros.network.efficientnet import UNIT

#: What the prior encoders were taught, in the order of the paper's table 4.
PRIORS = ("keypoints", "segmentation", "depth")
#: Edges of the token grid at which positions are learnt; crops of other sizes interpolate them.
GRID = 8


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Sizes of the network; the paper's are those of ``FULL``, and what it does not give is said to be ours."""

    mode: Literal["none", "distilled", "foundation"] = setting(
        "distilled",
        "Where the aligned priors come from. none: there are none (the paper's baseline); distilled: from the Fusion "
        "Alignment Encoder; foundation: from the prior encoders themselves.",
    )
    keypoints: bool = setting(True, "The prior encoder for keypoints takes part.")
    segmentation: bool = setting(True, "The prior encoder for part segmentation takes part.")
    depth: bool = setting(True, "The prior encoder for depth takes part.")
    prior_channels: int = setting(432, "Features a token of the prior encoders.", low=1)
    resolution: int = setting(96, "Edge of the crops [px].", low=32, high=1024)
    backbone: Literal["resnet18", "resnet50", "efficientnet_lite0"] = setting(
        "efficientnet_lite0", "ResNet-50 in the paper; ResNet-18 and EfficientNet-lite0 are small ones."
    )
    width: int = setting(64, "Channels of a ResNet's first stage.", low=16)
    last_width: int = setting(512, "Channels of a ResNet's last stage, before a bottleneck's expansion.", low=16)
    last_stride: int = setting(
        1,
        "Stride of a ResNet's last stage: 1 gives 6 x 6 tokens of 96 px, 2 gives 8 x 8 of 256 px. EfficientNet-lite0 "
        "has 1.",
        low=1,
        high=2,
    )
    token_dim: int = setting(128, "Channels of a token.", low=16)
    fusion_layers: int = setting(2, "Layers of the transformer encoder of eq. 2; ours.", low=1, high=32)
    fusion_heads: int = setting(4, "Its heads; ours.", low=1, high=64)
    heat_scale: int = setting(2, "Cells of the heat maps to a token along each edge; 1 in InterWild.", low=1, high=2)
    depth_bins: int = setting(8, "Planes of the heat maps.", low=2, high=64)
    depth_range: float = setting(
        0.2,
        "Depths relative to the wrist lie within this [m]; 0.15 in InterWild, which a hand that points exceeds.",
        low=0.05,
        high=1.0,
    )
    joint_features: int = setting(128, "Channels that are sampled at the joints; 512 in InterWild.", low=16)
    rotation_hidden: int = setting(256, "Units between what is sampled at the joints and the rotations; ours.", low=16)
    relative_features: int = setting(64, "Channels of the small network for the relative translation; ours.", low=16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_dim % self.fusion_heads:
            raise ConfigError(
                f"NetworkConfig: expected token_dim that is a multiple of fusion_heads, got {self.token_dim} and "
                f"{self.fusion_heads}"
            )
        if self.resolution % self.unit:
            raise ConfigError(
                f"NetworkConfig.resolution: expected a multiple of {self.unit} with the backbone {self.backbone}, got "
                f"{self.resolution}"
            )
        if self.backbone == "efficientnet_lite0" and self.last_stride != 1:
            raise ConfigError(f"NetworkConfig.last_stride: expected 1 with efficientnet_lite0, got {self.last_stride}")
        if self.mode != "none" and not self.priors:
            raise ConfigError(f"NetworkConfig: mode {self.mode} needs a prior encoder: {' or '.join(PRIORS)}")

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of the prior encoders that take part."""
        return () if self.mode == "none" else tuple(name for name in PRIORS if getattr(self, name))

    @property
    def stride(self) -> int:
        """Pixels of a crop to a token along each edge."""
        return 16 * self.last_stride

    @property
    def unit(self) -> int:
        """Multiple of which a crop's edges must be [px]."""
        return UNIT if self.backbone == "efficientnet_lite0" else self.stride


LITE = NetworkConfig()
FULL = NetworkConfig(
    resolution=256,
    backbone="resnet50",
    last_stride=2,
    token_dim=512,
    fusion_layers=4,
    fusion_heads=8,
    heat_scale=1,
    joint_features=512,
    relative_features=128,
    prior_channels=1536,
)
