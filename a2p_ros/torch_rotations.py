"""Rotations as networks give them: six numbers (Zhou et al., CVPR 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sixd_from_matrix(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """The first column, then the second."""
    return torch.cat([matrix[..., :, 0], matrix[..., :, 1]], -1)


def matrix_from_6d(sixd: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt of two columns; any six numbers whose columns are not parallel give a rotation."""
    a, b = sixd[..., :3], sixd[..., 3:]
    x = torch.nn.functional.normalize(a, dim=-1)
    y = torch.nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    # Written out, since torch.linalg.cross has no form in ONNX; rolled, since a captured CUDA graph cannot bring an
    # index that is made of a list to the device.
    z = x.roll(-1, -1) * y.roll(1, -1) - x.roll(1, -1) * y.roll(-1, -1)
    return torch.stack([x, y, z], -1)
