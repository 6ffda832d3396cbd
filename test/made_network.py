"""Networks whose numbers are random and whose answers are not all alike."""

from __future__ import annotations

import torch
from torch import nn

from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.model import A2PNetwork

#: Small sizes, with crops whose token grid is not the one that positions are learnt on.
SMALL = NetworkConfig(
    backbone="resnet18",
    resolution=64,
    width=16,
    last_width=32,
    token_dim=32,
    fusion_heads=2,
    depth_bins=4,
    joint_features=16,
    relative_features=16,
    prior_channels=24,
)


def random_network(config: NetworkConfig, seed: int = 0) -> A2PNetwork:
    """Random weights, and random statistics as a training would have gathered them."""
    torch.manual_seed(seed)
    network = A2PNetwork(config).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
        network.hand.joints.heat.weight.normal_()
        for layer in (network.hand.parameters_head.rotations, network.hand.parameters_head.whole):
            layer.weight.normal_(std=0.1)
    return network.requires_grad_(False)
