"""The network of A2P's first stage: eqs. 1 and 2 and the heads, on one screen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a2p_ros.errors import InputError
from a2p_ros.network.backbone import make_backbone
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.fusion import Fusion, FusionAlignmentEncoder, Projection
from a2p_ros.network.heads import JointHead, ParameterHead
from a2p_ros.network.relative import RelativeNetwork


@dataclass(frozen=True)
class HandOutputs:
    """What the network says of crops, each as if of a right hand, in the crop's view (`geometry`).

    Attributes:
        heat: logits over planes of depth, rows and columns.
        keypoints: in crop edges from the crop's centre; -0.5 and 0.5 are its edges.
        depth: from the wrist [m].
        rotations: of the right hand model; the first is global.
        betas: shape.
        weak_camera: scale and translation: a joint at (x, y) [m] from the wrist is seen at scale (x, y) + translation
            [crop edges].
        joint_confidence: logits that a keypoint is within ``heads.CONFIDENT`` of the truth.
        presence: logit that there is a hand.
        as_assumed: logit that the crop shows a right hand: one mirrored on a wrong guess does not.
        aligned: F_a as it was fused; None in mode none.
    """

    heat: Float[Tensor, "n 21 d h w"]
    keypoints: Float[Tensor, "n 21 2"]
    depth: Float[Tensor, "n 21"]
    rotations: Float[Tensor, "n 16 3 3"]
    betas: Float[Tensor, "n 10"]
    weak_camera: Float[Tensor, "n 3"]
    joint_confidence: Float[Tensor, "n 21"]
    presence: Float[Tensor, "n"]
    as_assumed: Float[Tensor, "n"]
    aligned: Float[Tensor, "n l c"] | None


class HandNetwork(nn.Module):
    """One crop -> one hand. Both hands of an image are two rows of a batch, the left one's crop mirrored."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config)
        self.reduce = nn.Conv2d(self.backbone.out_channels, config.token_dim, 1)
        self.fae = FusionAlignmentEncoder(config) if config.mode == "distilled" else None
        self.project = Projection(config) if config.mode == "foundation" else None
        self.fusion = Fusion(config)
        self.joints = JointHead(config)
        self.parameters_head = ParameterHead(config)

    def forward(self, crops: Float[Tensor, "n 3 r r"], priors: Float[Tensor, "n p l c"] | None = None) -> HandOutputs:
        """See `HandOutputs`; ``crops`` are `normalised`, ``priors`` those of the mode foundation.

        Raises InputError for crops whose edges are no multiples of ``config.unit``, and for priors that lack or are too
        many.
        """
        if any(edge % self.config.unit for edge in crops.shape[-2:]):
            raise InputError(
                f"crops: expected edges that are multiples of {self.config.unit}, got {tuple(crops.shape)}"
            )
        aligned = self.aligned(crops, priors)
        features = self.fusion(self.reduce(self.backbone(crops)), aligned)
        joints = self.joints(features)
        hand = self.parameters_head(features, joints)
        return HandOutputs(**joints._asdict(), **hand._asdict(), aligned=aligned)

    def aligned(
        self, crops: Float[Tensor, "n 3 r r"], priors: Float[Tensor, "n p l c"] | None = None
    ) -> Float[Tensor, "n l d"] | None:
        """F_a: of the FAE, or of eq. 1, or None, as the mode says."""
        if (priors is not None) != (self.project is not None):
            wanted = "priors" if self.project is not None else "none"
            raise InputError(f"priors: mode {self.config.mode} takes {wanted}")
        if self.fae is not None:
            return self.fae(crops)
        return None if self.project is None else self.project(priors)


class A2PNetwork(nn.Module):
    """Both parts: ``hand`` for each crop, ``relative`` for the two hands together."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.hand = HandNetwork(config)
        self.relative = RelativeNetwork(config)


def flops(network: A2PNetwork, hands: int = 2) -> int:
    """Multiplications and additions of one image with so many hands, the relative translation for two included."""
    from torch.utils.flop_counter import FlopCounterMode

    c, device = network.config, next(network.parameters()).device
    crops = torch.zeros(hands, 3, c.resolution, c.resolution, device=device)
    grid = (c.resolution // c.stride) ** 2
    priors = (
        torch.zeros(hands, len(c.priors), grid, c.prior_channels, device=device) if c.mode == "foundation" else None
    )
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.hand(crops, priors)
        if hands == 2:
            network.relative(crops.new_zeros(1, 2, 21, 2), crops.new_zeros(1, 2, 21), crops.new_zeros(1))
    network.train(training)
    return counter.get_total_flops()
