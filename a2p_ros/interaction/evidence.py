"""What the image shows of two hands: where along which rays their joints are, and how well each is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.types import Pair, PlacedHand, Side


@dataclass(frozen=True)
class ImageEvidence:
    """Observed joints of pairs in the camera frame.

    ``rays`` are x/z and y/z of the 21 joints, left hand first; ``confidence`` is in [0, 1], 0 = not seen at all.
    Raises InputError when the two do not belong together.
    """

    rays: Float[Tensor, "batch 2 21 2"]
    confidence: Float[Tensor, "batch 2 21"]

    def __post_init__(self) -> None:
        if self.rays.shape[1:] != (2, 21, 2) or self.confidence.shape != self.rays.shape[:3]:
            raise InputError(
                f"image evidence: expected rays (B, 2, 21, 2) and confidence (B, 2, 21), got {tuple(self.rays.shape)} "
                f"and {tuple(self.confidence.shape)}"
            )

    def __len__(self) -> int:
        return len(self.rays)

    def __getitem__(self, index: Tensor | slice) -> ImageEvidence:
        return ImageEvidence(self.rays[index], self.confidence[index])

    def to(self, target: torch.device | torch.dtype | str) -> ImageEvidence:
        """On another device or in another floating-point type."""
        return ImageEvidence(self.rays.to(target), self.confidence.to(target))

    @classmethod
    def none(cls, batch: int) -> ImageEvidence:
        """Nothing seen."""
        return cls(torch.zeros(batch, 2, 21, 2), torch.zeros(batch, 2, 21))

    @classmethod
    def joined(cls, parts: Sequence[ImageEvidence]) -> ImageEvidence:
        """One batch of several."""
        return cls(torch.cat([p.rays for p in parts]), torch.cat([p.confidence for p in parts]))

    @classmethod
    def of_pixels(cls, camera: CameraModel, pixels: Pair[Tensor], confidence: Pair[Tensor]) -> ImageEvidence:
        """Of the joints' pixels, (B, 21, 2) [px] a hand, and their confidence (B, 21)."""
        both = torch.stack([pixels.left, pixels.right], 1)
        rays = camera.rays(both.reshape(-1, 2).double().cpu().numpy()).reshape(both.shape)
        return cls(torch.as_tensor(rays).float(), torch.stack([confidence.left, confidence.right], 1).float())

    @classmethod
    def of_hands(cls, hands: Pair[PlacedHand], camera: CameraModel) -> ImageEvidence:
        """Of one placed pair; where keypoints other than the joints are seen, rays are moved by what lies between."""
        rays, confidence = [], []
        for _, hand in hands.items():
            seen = camera.rays(hand.pose.keypoints_px)
            if hand.pose.landmarks is not None:
                points = hand.wrist + hand.pose.landmarks
                seen = seen + hand.joints[:, :2] / hand.joints[:, 2:] - points[:, :2] / points[:, 2:]
            known = np.isfinite(seen).all(-1) & np.isfinite(hand.pose.keypoint_confidence)
            rays.append(np.where(known[:, None], seen, 0.0))
            confidence.append(np.where(known, hand.pose.keypoint_confidence, 0.0).clip(0.0, 1.0))
        return cls(torch.as_tensor(np.stack(rays)[None]).float(), torch.as_tensor(np.stack(confidence)[None]).float())

    def residuals(self, joints: Pair[Tensor]) -> Float[Tensor, "batch 2 21 3"]:
        """The nearest point of each joint's ray minus the joint [m], camera axes; 0 where nothing was seen."""
        points = torch.stack([joints[s] for s in (Side.LEFT, Side.RIGHT)], 1)
        along = torch.nn.functional.normalize(torch.nn.functional.pad(self.rays, (0, 1), value=1.0), dim=-1)
        gap = (points * along).sum(-1, keepdim=True) * along - points
        return gap * (self.confidence > 0)[..., None]
