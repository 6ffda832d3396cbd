"""A kept crop as run time might cut it, and as it was never drawn: placed with errors, recoloured, covered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.config import Checked, setting
from a2p_ros.cropping import Crop
from a2p_ros.training.distractors import paste_at, thing
from a2p_ros.training.fae.packing import PackedCrops
from a2p_ros.training.looks import looks, patch
from a2p_ros.types import Box, Image

#: Edges of things relative to the crop that they are put into.
_THINGS = (0.4, 1.2)


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How much crops are changed; chances are of each crop.

    Shift and turn are ours: crops are upright, so only what detection and tracking err by is left of InterWild's 60
    degrees. Scale is more than A2P's 0.25 (after InterWild): with that, a network answered half of a wrong size with
    the usual one, and a followed hand's crop grew with it.
    """

    scale: float = setting(
        0.4, "Largest change of the crop's edge; half of it is the standard deviation.", low=0.0, high=0.9
    )
    shift: float = setting(0.06, "Standard deviation of the crop's place [edges].", low=0.0, high=0.5)
    most_shift: float = setting(0.2, "Largest shift [edges].", low=0.0, high=0.5)
    turn: float = setting(math.radians(18), "Largest common turn [rad].", low=0.0, high=math.pi)
    far_turn: float = setting(0.06, "Chance of a turn of up to a right angle.", low=0.0, high=1.0)
    wrong_side: float = setting(
        0.1, "Chance that the crops of a slot are mirrored as for the other hand.", low=0.0, high=1.0
    )
    colour: float = setting(0.85, "Chance of other colours.", low=0.0, high=1.0)
    grey: float = setting(0.06, "Chance of no colours.", low=0.0, high=1.0)
    light: float = setting(0.3, "Chance of uneven light.", low=0.0, high=1.0)
    texture: float = setting(0.15, "Chance of a texture over all of it.", low=0.0, high=1.0)
    blur: float = setting(0.25, "Chance of blur, even or along a line.", low=0.0, high=1.0)
    sharp: float = setting(0.2, "Chance of more sharpness.", low=0.0, high=1.0)
    coarse: float = setting(0.2, "Chance of a detour over fewer pixels.", low=0.0, high=1.0)
    noise: float = setting(0.3, "Chance of noise.", low=0.0, high=1.0)
    jpeg: float = setting(0.2, "Chance of JPEG's losses.", low=0.0, high=1.0)
    cover: float = setting(0.2, "Chance that a part of the crop is covered.", low=0.0, high=1.0)
    things: float = setting(
        0.7, "Chance that a crop without a hand shows something that stands out and is none.", low=0.0, high=1.0
    )

    @classmethod
    def tracked(cls) -> AugmentConfig:
        """What tracking errs by and nothing else: for validation."""
        chances = (
            "far_turn",
            "wrong_side",
            "colour",
            "grey",
            "light",
            "texture",
            "blur",
            "sharp",
            "coarse",
            "noise",
            "jpeg",
            "things",
        )
        return cls(scale=0.1, shift=0.03, turn=math.radians(9), cover=0.0, **dict.fromkeys(chances, 0.0))


def placed(
    kept: Crop, margin: float, resolution: int, rng: np.random.Generator, config: AugmentConfig, *, wrong_side: bool
) -> Crop:
    """The crop, in the frame, that is cut instead of the hand's true square, of which ``kept`` is ``margin`` times.

    ``wrong_side``: mirrored as for the other hand.
    """
    square = kept.size / margin
    scale = 1 + config.scale * float(np.clip(rng.normal(0, 0.5), -1, 1))
    shift = np.clip(rng.normal(0, config.shift, 2), -config.most_shift, config.most_shift) * square
    turn = config.turn * rng.uniform(-1, 1)
    if rng.random() < config.far_turn:
        turn = rng.uniform(-math.pi / 2, math.pi / 2)
    centre = (kept.centre[0] + float(shift[0]), kept.centre[1] + float(shift[1]))
    return Crop(centre, square * scale, kept.rotation + float(turn), resolution, kept.mirrored ^ wrong_side)


def picture(
    packed: PackedCrops, row: int, crop: Crop, rng: np.random.Generator, config: AugmentConfig
) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """The pixels of ``crop``, taken from the kept crop, recoloured and covered."""
    out = _cut(packed, row, crop)
    if rng.random() < config.cover:
        _cover(out, rng)
    return looks(out, rng, config)


def without_hand(
    packed: PackedCrops, row: int, crop: Crop, other: int, rng: np.random.Generator, config: AugmentConfig
) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """The pixels of a crop without a hand, in which things stand of the colours and parts of the crop ``other``.

    On places beside rendered hands alone, a network took a checked shirt for a hand, as surely as any hand.
    """
    out = _cut(packed, row, crop)
    if rng.random() < config.things:
        hand, edge = packed.picture(other, True), crop.resolution
        middle, half = hand.shape[0] / 2, hand.shape[0] / packed.config.margin / 4
        box = Box(middle - half, middle - half, middle + half, middle + half)
        places = rng.uniform(middle - half, middle + half, (3, 2))
        colours = [hand[int(y), int(x)] for x, y in places] + [out[rng.integers(edge), rng.integers(edge)]]
        for _ in range(rng.integers(1, 4)):
            made = thing((hand, [box]), colours, edge, rng, _THINGS)
            x, y = (edge * rng.uniform(0.25, 0.75, 2) - len(made) / 2).astype(int)
            paste_at(out, made, int(x), int(y), rng)
    return looks(out, rng, config)


def between(kept: Crop, crop: Crop) -> Float[np.ndarray, "2 3"]:
    """Affine map from the pixels of one crop to those of another of the same frame."""
    linear = crop.matrix[:, :2] @ kept.inverse[:, :2]
    return np.column_stack([linear, crop.matrix[:, :2] @ kept.inverse[:, 2] + crop.matrix[:, 2]])


def _cut(packed: PackedCrops, row: int, crop: Crop) -> Image:
    # Half the pixels are enough where the crop would have to shrink them anyway.
    reduced = crop.resolution * packed.config.margin <= 0.55 * packed.config.edge
    image = packed.picture(row, reduced)
    kept = packed.crop_of(row, image.shape[0])
    size = (crop.resolution, crop.resolution)
    return cv2.warpAffine(image, between(kept, crop), size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _cover(image: Image, rng: np.random.Generator) -> None:
    """Something over up to a fifth of the crop, often in a colour of it."""
    edge = image.shape[0]
    colours = [image[int(y), int(x)] for x, y in rng.uniform(0.2, 0.8, (2, 2)) * edge]
    colours.append(rng.integers(0, 256, 3))
    w, h = edge * rng.uniform(0.1, 0.45, 2)
    x, y = rng.uniform(0, edge - w), rng.uniform(0, edge - h)
    patch(image, Box(x, y, x + w, y + h), colours, rng)
