"""The aligned priors and their fusion with the image's features: eqs. 1 and 2 of A2P."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.network.backbone import make_backbone
from a2p_ros.network.config import GRID, NetworkConfig


class Projection(nn.Module):
    """Eq. 1: F_a = Proj((F_k + F_s + F_d) / 3), of however many prior encoders take part.

    Each encoder's features are normalised first: their scales differ, and the largest would be the mean.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({name: nn.LayerNorm(config.prior_channels) for name in config.priors})
        self.proj = nn.Linear(config.prior_channels, config.token_dim)
        self.norm = nn.LayerNorm(config.token_dim, elementwise_affine=False)

    def forward(self, priors: Float[Tensor, "n p l c"]) -> Float[Tensor, "n l d"]:
        """Features of the prior encoders, in the order of ``NetworkConfig.priors``."""
        normed = [norm(priors[:, i]) for i, norm in enumerate(self.norms.values())]
        # Of fixed scale, so that the target of the distillation cannot shrink to nothing.
        return self.norm(self.proj(torch.stack(normed).mean(0)))


class FusionAlignmentEncoder(nn.Module):
    """FAE(I) ~ F_a: an image network that gives the aligned priors without the prior encoders (A2P, section 3.2)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.backbone = make_backbone(config)
        self.reduce = nn.Conv2d(self.backbone.out_channels, config.token_dim, 1)

    def forward(self, crops: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n l d"]:
        """Tokens, row by row."""
        return tokens(self.reduce(self.backbone(crops)))


class EncoderLayer(nn.Module):
    """One layer of a transformer encoder, normalised before its parts (Xiong et al., 2020).

    Not torch's own, whose fast path in evaluation has no form in ONNX.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        """Each token after it has looked at all."""
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, 2))
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.mlp(self.norm2(x))


class Fusion(nn.Module):
    """Eq. 2: F = TransEnc(< F_i , F_a >)[0:l], tokens joined one after the other, the first l kept.

    Without aligned priors the encoder sees F_i alone.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.token_dim
        self.place = nn.Parameter(torch.randn(1, d, GRID, GRID) * 0.02)
        self.kind = nn.Parameter(torch.randn(2, 1, 1, d) * 0.02)
        self.encoder = nn.Sequential(
            *(EncoderLayer(d, config.fusion_heads) for _ in range(config.fusion_layers)), nn.LayerNorm(d)
        )

    def forward(
        self, image: Float[Tensor, "n d h w"], aligned: Float[Tensor, "n l d"] | None
    ) -> Float[Tensor, "n d h w"]:
        """Fused features on the grid of the image's."""
        height, width = image.shape[-2:]
        place: Tensor = self.place
        if (height, width) != (GRID, GRID):
            place = nn.functional.interpolate(place, (height, width), mode="bilinear", align_corners=False)
        where = tokens(place)
        joined = tokens(image) + where + self.kind[0]
        if aligned is not None:
            joined = torch.cat([joined, aligned.to(joined.dtype) + where + self.kind[1]], 1)
        fused = self.encoder(joined)[:, : height * width]
        return fused.transpose(1, 2).unflatten(2, (height, width))


def tokens(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n l c"]:
    """A grid as a sequence, row by row."""
    return features.flatten(2).transpose(1, 2)
