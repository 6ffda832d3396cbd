"""From fused features to one hand: 2.5D joints, MANO parameters, weak camera, confidences (after InterWild)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.network.config import NetworkConfig
from a2p_ros.torch_rotations import matrix_from_6d

N_JOINTS = 21
_N_ROTATIONS = 16
#: Keypoints below this error [crop edges] count as found by the joints' confidence.
CONFIDENT = 0.05


class Joints(NamedTuple):
    """2.5D joints: ``keypoints`` in crop edges from the crop's centre, ``depth`` [m] from the wrist's."""

    heat: Float[Tensor, "n 21 d h w"]
    keypoints: Float[Tensor, "n 21 2"]
    depth: Float[Tensor, "n 21"]


class JointHead(nn.Module):
    """Heat maps over planes of depth, and their mean by soft-argmax."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.token_dim
        self.bins, self.range = config.depth_bins, config.depth_range
        self.finer = nn.Identity() if config.heat_scale == 1 else _twice(d)
        self.heat = nn.Conv2d(d, N_JOINTS * self.bins, 1)

    def forward(self, features: Float[Tensor, "n d h w"]) -> Joints:
        """2.5D joints in OpenPose order."""
        heat = self.heat(self.finer(features)).unflatten(1, (N_JOINTS, self.bins)).float()
        share = heat.flatten(2).softmax(-1).view_as(heat)
        x = (share.sum((2, 3)) * _cells(share.shape[4], share)).sum(-1)
        y = (share.sum((2, 4)) * _cells(share.shape[3], share)).sum(-1)
        z = (share.sum((3, 4)) * _cells(self.bins, share)).sum(-1) * 2 * self.range
        return Joints(heat, torch.stack([x, y], -1), z - z[:, :1])


class HandParameters(NamedTuple):
    """See `model.HandOutputs`."""

    rotations: Float[Tensor, "n 16 3 3"]
    betas: Float[Tensor, "n 10"]
    weak_camera: Float[Tensor, "n 3"]
    joint_confidence: Float[Tensor, "n 21"]
    presence: Float[Tensor, "n"]
    as_assumed: Float[Tensor, "n"]


class ParameterHead(nn.Module):
    """Rotations from features at the joints; shape, camera, presence and side from the mean of the features.

    The joints are detached: that they fit the rotations is no reason to move them (InterWild, section 3). Ours: a
    hidden layer, and places scaled to the features' size. From true joints with little noise InterWild's linear layer
    found hands to 14.8 mm, this one to 7.4.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, f = config.token_dim, config.joint_features
        self.range = config.depth_range
        self.reduce = nn.Conv2d(d, f, 1)
        self.hidden = nn.Sequential(nn.Linear(N_JOINTS * (f + 3), config.rotation_hidden), nn.GELU())
        self.rotations = nn.Linear(config.rotation_hidden, 6 * _N_ROTATIONS)
        self.confidence = nn.Parameter(torch.randn(N_JOINTS, f + 3) * 0.01)
        self.confidence_bias = nn.Parameter(torch.zeros(N_JOINTS))
        self.whole = nn.Linear(d, 10 + 3 + 2)
        nn.init.normal_(self.rotations.weight, std=0.01)
        nn.init.normal_(self.whole.weight, std=0.01)
        with torch.no_grad():
            # The flat hand, upright, its palm towards the camera, and a hand of half the crop.
            start = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(_N_ROTATIONS, 1)
            start[0] = _UPRIGHT
            self.rotations.bias.copy_(start.flatten())
            self.whole.bias.zero_()
            self.whole.bias[10] = 3.0

    def forward(self, features: Float[Tensor, "n d h w"], joints: Joints) -> HandParameters:
        """Parameters of a right hand in the crop's view."""
        where = joints.keypoints.detach()
        sampled = sample(self.reduce(features), where)
        points = torch.cat([_PLACES * where, _PLACES / 2 / self.range * joints.depth.detach()[..., None]], -1)
        at = torch.cat([sampled.float(), points], -1)
        whole = self.whole(features.mean((2, 3))).float()
        return HandParameters(
            rotations=matrix_from_6d(
                self.rotations(self.hidden(at.flatten(1))).float().unflatten(1, (_N_ROTATIONS, 6))
            ),
            betas=whole[:, :10],
            weak_camera=whole[:, 10:13],
            joint_confidence=(at * self.confidence).sum(-1) + self.confidence_bias,
            presence=whole[:, 13],
            as_assumed=whole[:, 14],
        )


#: Places in a crop, in edges, and depths, in the heat maps' range, times this are about as large as features.
_PLACES = 8.0
#: First two columns of the global rotation of a right hand that points up with its palm to the camera.
_UPRIGHT = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])


def sample(features: Float[Tensor, "n c h w"], points: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """Features at points [edges from the centre], bilinear, zero outside."""
    grid = (2 * points)[:, :, None].to(features.dtype)
    found = nn.functional.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found[..., 0].transpose(1, 2)


def _cells(count: int, like: Tensor) -> Float[Tensor, "count"]:
    """Middles of cells that fill -0.5 to 0.5."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count - 0.5


def _twice(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
