"""Frames whose hands are known, as evaluation takes them: whoever draws or reads them converts to these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.regions import hand_rotation, hand_square
from a2p_ros.types import Box, Detection, Image, Pair, Side

#: A hand of which less is seen (share of its silhouette), which has fewer joints inside the picture, or whose joints'
#: box is smaller (share of the picture's shorter edge, as ``landmarks.min_size``) is neither asked for nor counted.
LEAST_SHARE, LEAST_INSIDE, LEAST_SIZE = 0.15, 7, 0.12
#: Standard deviations of how a square carried from the last frame or given by a detector errs: centre (share of the
#: edge), logarithm of the edge, turn [rad].
JITTER_CENTRE, JITTER_SCALE, JITTER_TURN = 0.05, 0.10, 0.15


@dataclass(frozen=True)
class TrueHand:
    """One hand as it was drawn, camera frame [m].

    ``box`` [px] is that of its silhouette in the picture, hidden parts included, ``visible_share`` the share of it
    that is seen.
    """

    side: Side
    joints: Float[np.ndarray, "21 3"]
    vertices: Float[np.ndarray, "v 3"]
    keypoints_px: Float[np.ndarray, "21 2"]
    box: Box
    visible_share: float

    def counts(self, height: int, width: int) -> bool:
        """Whether enough of the hand is seen, and large enough, to ask for it."""
        points = self.keypoints_px
        if not np.isfinite(points).all() or self.visible_share < LEAST_SHARE:
            return False
        inside = ((points > -0.5) & (points < np.array([width, height]) - 0.5)).all(1)
        return bool(inside.sum() >= LEAST_INSIDE and Box.around(points).size >= LEAST_SIZE * min(height, width))

    def region(self, rng: np.random.Generator | None = None, jitter: float = 0.0) -> Detection:
        """The detection that a perfect detector would give; ``jitter`` times the errors of a real one."""
        rotation = hand_rotation(self.keypoints_px)
        x, y, edge = hand_square(self.keypoints_px, rotation)
        if rng is not None and jitter > 0:
            moved = rng.normal(0, jitter, 4)
            x, y = x + moved[0] * JITTER_CENTRE * edge, y + moved[1] * JITTER_CENTRE * edge
            edge, rotation = edge * math.exp(moved[2] * JITTER_SCALE), rotation + moved[3] * JITTER_TURN
        return Detection(
            Box.around(self.keypoints_px), 1.0, float(self.side is Side.RIGHT), rotation, (float(x), float(y), edge)
        )


@dataclass(frozen=True)
class TrueFrame:
    """A picture (RGB) and the hands in it; ``kind`` names what was drawn."""

    image: Image
    camera: CameraModel
    hands: Pair[TrueHand | None]
    kind: str

    @property
    def interacting(self) -> bool:
        """Whether the boxes of two hands overlap."""
        return (
            self.hands.left is not None
            and self.hands.right is not None
            and self.hands.left.box.iou(self.hands.right.box) > 0
        )
