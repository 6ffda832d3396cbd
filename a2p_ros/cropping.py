"""The rotated square crop between image and network, and the mirror: both live here and nowhere else."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.errors import InputError
from a2p_ros.types import Image

#: What lies outside the image: its edge pixels repeated, or black.
BORDERS = {"replicate": cv2.BORDER_REPLICATE, "black": cv2.BORDER_CONSTANT}


@dataclass(frozen=True)
class Crop:
    """A square of the image, turned, scaled and perhaps mirrored into a square picture.

    ``centre`` (x, y) and ``size``, the square's edge, are in image pixels [px]. ``rotation`` is
    clockwise in the image [rad]: the image direction (sin, -cos) of it points up in the crop.
    ``resolution`` is the crop's edge in its own pixels. ``mirrored`` flips the crop left to right
    after turning, so that a left hand looks like a right one.

    Integer coordinates are pixel centres on both sides, so edges map on edges: crop pixel
    (-0.5, -0.5) is the corner of the square.
    """

    centre: tuple[float, float]
    size: float
    rotation: float
    resolution: int
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.centre, self.size, self.rotation))) or self.size <= 0:
            raise InputError(f"crop: expected finite values and size > 0, got {self}")
        if self.resolution < 1:
            raise InputError(f"crop: expected resolution >= 1, got {self.resolution}")

    @classmethod
    def letterbox(cls, height: int, width: int, resolution: int) -> Crop:
        """The upright square that holds a whole image, the image centred in it."""
        return cls(((width - 1) / 2, (height - 1) / 2), float(max(height, width)), 0.0, resolution)

    @cached_property
    def matrix(self) -> Float[np.ndarray, "2 3"]:
        """Affine map, image pixel -> crop pixel."""
        scale = self.resolution / self.size
        cos, sin = math.cos(self.rotation) * scale, math.sin(self.rotation) * scale
        turn = np.array([[cos, sin], [-sin, cos]])
        if self.mirrored:
            turn[0] *= -1
        middle = (self.resolution - 1) / 2
        return np.column_stack([turn, middle - turn @ np.asarray(self.centre)])

    @cached_property
    def inverse(self) -> Float[np.ndarray, "2 3"]:
        """Affine map, crop pixel -> image pixel."""
        turn = self.matrix[:, :2].T * (self.size / self.resolution) ** 2
        return np.column_stack([turn, np.asarray(self.centre) - turn @ np.full(2, (self.resolution - 1) / 2)])

    def extract(self, image: Image, border: str = "replicate") -> UInt8[np.ndarray, "resolution resolution 3"]:
        """The crop's pixels, bilinear. ``border`` fills what lies outside: ``replicate`` or ``black``."""
        if border not in BORDERS:
            raise InputError(f"crop: expected border {' or '.join(BORDERS)}, got {border!r}")
        # Sampling reads the source in place; slicing or padding a 720p image first would copy it.
        return cv2.warpAffine(
            image,
            self.matrix,
            (self.resolution, self.resolution),
            flags=cv2.INTER_LINEAR,
            borderMode=BORDERS[border],
        )

    def extract_averaged(self, image: Image) -> UInt8[np.ndarray, "resolution resolution 3"]:
        """As `extract`, but where the image shrinks each pixel is the mean of what it covers, and so has no aliases."""
        factor = int(np.clip(round(self.size / self.resolution), 1, 8))
        if factor == 1:
            return self.extract(image)
        fine = dataclasses.replace(self, resolution=factor * self.resolution).extract(image)
        return cv2.resize(fine, (self.resolution, self.resolution), interpolation=cv2.INTER_AREA)

    def to_crop(self, points: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Image pixels -> crop pixels."""
        return _affine(self.matrix, points)

    def to_image(self, points: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Crop pixels -> image pixels."""
        return _affine(self.inverse, points)

    def vectors_to_image(self, vectors: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """3D vectors seen in the crop (x right, y down, z forward) -> the same with the image's x and y.

        Undoes the mirror and the turn in the image plane. The result is in the axes of a camera that
        looks along the crop's ray, see ``camera.rotation_to_ray``.
        """
        turned = vectors[..., :2] @ (self.inverse[:, :2].T * (self.resolution / self.size))
        return np.concatenate([turned, vectors[..., 2:]], axis=-1)


def _affine(matrix: Float[np.ndarray, "2 3"], points: Any) -> Float[np.ndarray, "*batch 2"]:
    points = np.asarray(points, dtype=np.float64)
    if points.shape[-1:] != (2,):
        raise InputError(f"crop: expected points (..., 2), got {points.shape}")
    return points @ matrix[:, :2].T + matrix[:, 2]
