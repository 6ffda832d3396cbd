"""Part and depth maps of a hand's crop: what the stand-in teachers of segmentation and depth learn."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from a2p_ros.cropping import Crop
from a2p_ros.training.synthetic.samples import FOREARM, N_PARTS, Frame, part_id
from a2p_ros.types import Side

#: Classes of the part map: what is no hand; the crop's own hand by MANO's 16 joints; its forearm and sleeve; the other.
BACKGROUND, OWN_HAND, OWN_ARM, OTHER_HAND = 0, 1, 17, 18
N_CLASSES = 19
#: The depth map holds steps of this [m] from the own wrist, -127 to 127, shifted by 128; 0 = nothing drawn.
DEPTH_STEP = 2e-3
NO_DEPTH = 0


def crop_maps(frame: Frame, crop: Crop, side: Side, edge: int) -> UInt8[np.ndarray, "2 edge edge"]:
    """Part classes and depth steps of a crop of ``frame``, which has its maps, at ``edge`` x ``edge`` pixels.

    Depth is that of the camera axis, relative to the wrist of the hand of ``side``: positive is farther.
    """
    label = frame.hands[side]
    assert frame.parts is not None and frame.depth is not None and label is not None
    small = Crop(crop.centre, crop.size, crop.rotation, edge, crop.mirrored)
    # Nearest pixels: classes have no mean, and depth none across an outline.
    parts = _warped(_classes(side)[frame.parts], small, BACKGROUND)
    away = np.where(np.isfinite(frame.depth), frame.depth - label.joints[0, 2], np.float32(np.nan))
    steps = _warped(away.astype(np.float32), small, float("nan")) / DEPTH_STEP
    depth = np.where(np.isfinite(steps), np.clip(np.rint(steps), -127, 127) + 128, NO_DEPTH)
    return np.stack([parts, depth.astype(np.uint8)])


def metres(depth: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Depth relative to the wrist [m] of the map's steps; NaN where nothing is drawn or it lies farther than 0.25 m."""
    known = (depth > 1) & (depth < 255)
    return torch.where(known, (depth.float() - 128) * DEPTH_STEP, torch.nan)


def _classes(side: Side) -> UInt8[np.ndarray, "256"]:
    """Class of each number in ``Frame.parts`` for the crop of a hand."""
    table = np.full(256, BACKGROUND, np.uint8)
    for part in range(N_PARTS):
        table[part_id(side, part)] = OWN_HAND + part if part < FOREARM else OWN_ARM
        table[part_id(side.other, part)] = OTHER_HAND
    return table


def _warped(values: np.ndarray, crop: Crop, outside: float) -> np.ndarray:
    size = (crop.resolution, crop.resolution)
    return cv2.warpAffine(
        values, crop.matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,)
    )


def warped_maps(
    maps: UInt8[np.ndarray, "2 kept kept"], matrix: Float[np.ndarray, "2 3"], edge: int
) -> UInt8[np.ndarray, "2 edge edge"]:
    """The maps under an affine map of their pixels (map pixel -> pixel of the result); nothing outside."""
    pair = cv2.warpAffine(
        np.ascontiguousarray(maps.transpose(1, 2, 0)),
        matrix,
        (edge, edge),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(BACKGROUND, NO_DEPTH),
    )
    return pair.transpose(2, 0, 1)
