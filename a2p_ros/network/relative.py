"""Where the left wrist is from the right one, from both hands' 2.5D joints in the box around both (after InterWild)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.heads import N_JOINTS, sample

#: Bones of the open hand's mean hand [m], to the millimetre: of each finger from the thumb on, from the wrist out.
_BONE_LENGTHS = (
    0.049,
    0.032,
    0.033,
    0.024,
    0.090,
    0.044,
    0.024,
    0.022,
    0.090,
    0.046,
    0.027,
    0.024,
    0.085,
    0.042,
    0.026,
    0.023,
    0.082,
    0.034,
    0.020,
    0.021,
)
#: Wrists are taken to be within this of the camera [m].
_REACH = (0.1, 3.0)
#: Cells of the maps along each edge of the box, planes of depth, spread of a joint [cells].
_EDGE, _PLANES, _SPREAD = 8, 8, 0.7


class RelativeNetwork(nn.Module):
    """2.5D joints -> left wrist minus right wrist [m] in the view of the box around both hands.

    As in InterWild: Gaussians on planes of depth, a small convolutional network, its features at both wrists, a linear
    layer. Ours, since cells of an eighth of the box blur what tells the distance: the numbers themselves beside the
    features, how wide the box is seen, without which its size says nothing of metres, and where the wrists are if both
    hands were of mean size (`wrists_by_size`), which the answer is added to.
    """

    bones: Tensor

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
            nn.Linear(2 * f + 2 * N_JOINTS * 3 + 1 + 6, 4 * f),
            nn.ReLU(),
            nn.Linear(4 * f, 2 * f),
            nn.ReLU(),
            nn.Linear(2 * f, 3),
        )
        self.register_buffer("bones", torch.tensor(_BONE_LENGTHS))

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
        wrists = wrists_by_size(keypoints, depth, width, self.bones)
        numbers = torch.cat([keypoints.flatten(1), depth.flatten(1) / self.range, width[:, None], wrists.flatten(1)], 1)
        learnt = self.relative(torch.cat([at.float(), numbers], 1)).float()
        return wrists[:, 0] - wrists[:, 1] + learnt

    def _maps(self, keypoints: Tensor, depth: Tensor) -> Float[Tensor, "n channels edge edge"]:
        across = [_falloff(keypoints[..., axis], 0.5, _EDGE) for axis in (0, 1)]
        planes = _falloff(depth, self.range, _PLANES)
        x, y = across
        maps = planes[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
        return maps.flatten(1, 3)


def wrists_by_size(
    keypoints: Float[Tensor, "n 2 21 2"],
    depth: Float[Tensor, "n 2 21"],
    width: Float[Tensor, "n"],
    bones: Float[Tensor, "20"],
) -> Float[Tensor, "n 2 3"]:
    """Wrists [m] of hands whose bones have these lengths [m]: weak perspective, all bones of a hand together.

    ``keypoints`` are in edges of the view, ``width`` its tangent, ``depth`` from the wrist [m]. With s_i the length of
    bone i as seen (tangent) and a_i its true length across the view, z = sum(a_i s_i) / sum(s_i^2): least squares of
    z s_i = a_i, weighted by s_i / a_i.
    """
    keypoints, depth = keypoints.float(), depth.float()
    tangents = keypoints * width[:, None, None, None]
    seen = _along_bones(tangents).square().sum(-1)
    along = _along_bones(depth[..., None])[..., 0].square()
    # A bone that points at the camera is seen by its foreshortened rest at least.
    across = (bones.square() - along).clamp_min(0.1 * bones.square().mean()).sqrt()
    z = (across * seen.sqrt()).sum(-1) / seen.sum(-1).clamp_min(1e-8)
    z = z.clamp(*_REACH)
    return torch.cat([tangents[:, :, 0] * z[..., None], z[..., None]], -1)


def _along_bones(points: Float[Tensor, "n 2 21 c"]) -> Float[Tensor, "n 2 20 c"]:
    """Ends of the bones minus their starts, in the order of the bones' lengths."""
    fingers = points[:, :, 1:].unflatten(2, (5, 4))
    wrist = points[:, :, :1, None].expand(-1, -1, 5, -1, -1)
    return (fingers - torch.cat([wrist, fingers[:, :, :, :3]], 3)).flatten(2, 3)


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
