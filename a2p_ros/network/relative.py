"""Where the left wrist is from the right one, from both hands' 2.5D joints in the box around both (after InterWild)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.heads import N_JOINTS, sample

#: Cells of the maps along each edge of the box, planes of depth, spread of a joint [cells].
_EDGE, _PLANES, _SPREAD = 8, 8, 0.7


class RelativeNetwork(nn.Module):
    """2.5D joints -> left wrist minus right wrist [m] in the view of the box around both hands.

    As in InterWild: Gaussians on planes of depth, a small convolutional network, its features at both wrists, a linear
    layer. Ours, since cells of an eighth of the box blur what tells the distance: the numbers themselves beside the
    features, and how wide the box is seen, without which its size says nothing of metres.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        f = config.relative_features
        self.range = config.depth_range
        self.maps = nn.Sequential(
            nn.Conv2d(2 * N_JOINTS * _PLANES, f, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(f, f, 3, padding=1),
            nn.ReLU(),
        )
        self.relative = nn.Sequential(
            nn.Linear(2 * f + 2 * N_JOINTS * 3 + 1, 4 * f),
            nn.ReLU(),
            nn.Linear(4 * f, 2 * f),
            nn.ReLU(),
            nn.Linear(2 * f, 3),
        )

    def forward(
        self, keypoints: Float[Tensor, "n 2 21 2"], depth: Float[Tensor, "n 2 21"], width: Float[Tensor, "n"]
    ) -> Float[Tensor, "n 3"]:
        """Relative translation of hands in the order left, right.

        Args:
            keypoints: in edges of the square box from its centre, y down; not mirrored.
            depth: from each hand's own wrist [m].
            width: the box's edge divided by the focal length: the tangent of its width.
        """
        keypoints, depth = keypoints.detach(), depth.detach()
        features = self.maps(self._maps(keypoints, depth))
        at = sample(features, keypoints[:, :, 0]).flatten(1)
        numbers = torch.cat([keypoints.flatten(1), depth.flatten(1) / self.range, width[:, None]], 1)
        return self.relative(torch.cat([at.float(), numbers], 1)).float()

    def _maps(self, keypoints: Tensor, depth: Tensor) -> Float[Tensor, "n channels edge edge"]:
        across = [_falloff(keypoints[..., axis], 0.5, _EDGE) for axis in (0, 1)]
        planes = _falloff(depth, self.range, _PLANES)
        x, y = across
        maps = planes[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
        return maps.flatten(1, 3)


def _falloff(values: Float[Tensor, "n hands joints"], reach: float, count: int) -> Float[Tensor, "n hands joints c"]:
    """Gaussian of the distance to cells that fill -reach to reach."""
    cells = (torch.arange(count, device=values.device, dtype=values.dtype) + 0.5) / count * 2 - 1
    away = (values[..., None] / reach - cells) * (count / 2 / _SPREAD)
    return torch.exp(-0.5 * away.square())


def flipped(
    keypoints: Float[Tensor, "n 2 21 2"], depth: Float[Tensor, "n 2 21"], relative: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2 21 2"], Float[Tensor, "n 2 21"], Float[Tensor, "n 3"]]:
    """The mirror image: hands change places and the translation t becomes (x, -y, -z) (InterWild)."""
    mirror = keypoints.new_tensor([-1.0, 1.0])
    return keypoints.flip(1) * mirror, depth.flip(1), relative * relative.new_tensor([1.0, -1.0, -1.0])
