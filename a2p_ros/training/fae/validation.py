"""How the network does on crops that it is not trained on, and what that looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float
from torch import Tensor

from a2p_ros.hand.model import HandModel
from a2p_ros.hand.topology import BONES
from a2p_ros.network.heads import CONFIDENT
from a2p_ros.network.model import HandOutputs
from a2p_ros.training.fae.batches import Batch
from a2p_ros.training.fae.losses import pose_joints
from a2p_ros.types import Image

#: A keypoint within this of its true place counts for PCK@0.1 of the crop [crop edges].
_PCK = 0.1


@dataclass
class Score:
    """Sums over batches; errors are means over joints and hands.

    ``mpjpe_mm`` and ``mpjpe_25d_mm``'s z are relative to the wrist. MRRPE is that of pairs.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, outputs: HandOutputs, relative: Float[Tensor, "slots 3"], batch: Batch, model: HandModel) -> None:
        """Count one batch; ``relative`` is left wrist minus right wrist [m] of its slots."""
        learns = batch.learns
        joints = pose_joints(model, outputs.rotations, outputs.betas)[0]
        pixels = (outputs.keypoints.float() - batch.keypoints).norm(dim=-1)[learns]
        trusted = outputs.joint_confidence.sigmoid()[learns] > 0.5
        values = {
            "mpjpe_mm": 1000 * (joints - batch.joints).norm(dim=-1)[learns].mean(-1),
            "depth_mm": 1000 * (outputs.depth.float() - batch.joints[..., 2]).abs()[learns].mean(-1),
            "pck_010": (pixels < _PCK).float().mean(-1),
            "keypoint_error": pixels.mean(-1),
            "mrrpe_mm": 1000 * (relative.float() - batch.relative).norm(dim=-1)[batch.pair],
            "confidence_right": (trusted == (pixels < CONFIDENT)).float().mean(-1),
            "presence_right": ((outputs.presence > 0) == batch.hand).float(),
            "side_kept": (outputs.as_assumed > 0).float()[batch.learns],
            "side_refused": (outputs.as_assumed <= 0).float()[batch.hand & ~batch.as_assumed],
        }
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.sum())
            self.counts[name] = self.counts.get(name, 0) + len(value)

    def result(self) -> dict[str, float]:
        """Means; a figure of nothing is left out. ``side_right`` is the mean of both sides: guessing gives 0.5."""
        found = {name: self.sums[name] / self.counts[name] for name in self.sums if self.counts[name]}
        sides = [found[name] for name in ("side_kept", "side_refused") if name in found]
        return found | ({"side_right": sum(sides) / len(sides)} if sides else {})


def overlay(batch: Batch, outputs: HandOutputs, columns: int = 8, edge: int = 192) -> Image:
    """Crops with the true skeleton thin in white, the heat maps' in colours, and a bar of the hand's presence."""
    tiles = []
    truth, found = batch.keypoints.cpu().numpy(), outputs.keypoints.detach().float().cpu().numpy()
    presence = outputs.presence.detach().sigmoid().cpu().numpy()
    for i, crop in enumerate(batch.pictures.cpu().numpy()):
        tile = cv2.resize(crop, (edge, edge), interpolation=cv2.INTER_LINEAR)
        if batch.learns[i]:
            _skeleton(tile, truth[i], [(255, 255, 255)] * 5, 1)
        _skeleton(tile, found[i], _FINGERS, 2)
        cv2.rectangle(tile, (0, edge - 5), (round(edge * float(presence[i])), edge), (80, 255, 80), -1)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)])


#: Thumb to little finger.
_FINGERS = [(255, 80, 80), (255, 200, 60), (90, 220, 90), (70, 160, 255), (210, 110, 255)]


def _skeleton(
    tile: Image, keypoints: Float[np.ndarray, "21 2"], colours: Sequence[tuple[int, int, int]], thickness: int
) -> None:
    points = np.clip((keypoints + 0.5) * len(tile) - 0.5, -4 * len(tile), 4 * len(tile))
    for a, b in BONES:
        ends = [tuple(int(v) for v in np.rint(points[k])) for k in (a, b)]
        cv2.line(tile, ends[0], ends[1], colours[(b - 1) // 4], thickness, cv2.LINE_AA)
