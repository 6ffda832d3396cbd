"""What a renderer gets wrong of a picture (colour, light, texture, sharpness, noise), made unreliable.

All of it is arithmetic on 8 bit pictures and follows from the generator alone.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float

from a2p_ros.types import Box, Image


class Looks(Protocol):
    """Chances, of each picture, of what `looks` does to it; the configurations say more of each."""

    @property
    def colour(self) -> float:
        """Other colours."""

    @property
    def grey(self) -> float:
        """No colours."""

    @property
    def light(self) -> float:
        """Uneven light."""

    @property
    def texture(self) -> float:
        """A texture over all of it."""

    @property
    def blur(self) -> float:
        """Blur, even or along a line."""

    @property
    def sharp(self) -> float:
        """More sharpness."""

    @property
    def coarse(self) -> float:
        """A detour over fewer pixels."""

    @property
    def noise(self) -> float:
        """Noise."""

    @property
    def jpeg(self) -> float:
        """JPEG's losses."""


def looks(image: Image, rng: np.random.Generator, config: Looks) -> Image:
    """Colour, light, texture, sharpness, noise and compression."""
    height, width = image.shape[:2]
    if rng.random() < config.colour:
        image = _recoloured(image, rng)
    if rng.random() < config.light:
        cells = rng.uniform(0.6, 1.35, (rng.integers(2, 5), rng.integers(2, 5))).astype(np.float32)
        image = _times(image, cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC))
    if rng.random() < config.texture:
        image = _times(image, 1 + rng.uniform(0.03, 0.14) * _grain(height, width, rng))
    if rng.random() < config.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < config.coarse:
        factor = rng.uniform(0.5, 0.85)
        small = cv2.resize(image, (int(width * factor), int(height * factor)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < config.blur:
        image = _blurred(image, rng)
    elif rng.random() < config.sharp:
        soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 1.5)))
        amount = float(rng.uniform(0.3, 1.5))
        image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    if rng.random() < config.noise:
        fine = rng.integers(0, 256)  # a tile of noise costs a tenth of noise for each pixel
        image = cv2.add(image, _noise(height, width, int(fine), float(rng.uniform(1, 8))), dtype=cv2.CV_8U)
    if rng.random() < config.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


def _recoloured(image: Image, rng: np.random.Generator) -> Image:
    """Gain, contrast, gamma and saturation, and a tint of each channel."""
    levels = np.arange(256, dtype=np.float32) / 255
    table = np.empty((256, 1, 3), np.uint8)
    gamma, contrast, gain = np.exp(rng.normal(0, (0.18, 0.15, 0.15)))
    tint = np.exp(rng.normal(0, 0.08, 3))
    for channel in range(3):
        curve = (levels**gamma * gain * tint[channel] - 0.45) * contrast + 0.45 + rng.normal(0, 0.02)
        table[:, 0, channel] = np.clip(255 * curve, 0, 255)
    image = cv2.LUT(image, table)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    saturation = float(rng.uniform(0.4, 1.5))
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    if rng.random() < 0.08:  # gloves, coloured light: shape must do
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(180))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image


def _blurred(image: Image, rng: np.random.Generator) -> Image:
    if rng.random() < 0.6:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.3)))
    length = int(rng.integers(3, 7))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), float(rng.uniform(0, 180)), 1.0)
    turned = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(image, -1, turned / max(float(turned.sum()), 1e-6))


def _grain(height: int, width: int, rng: np.random.Generator) -> Float[np.ndarray, "height width"]:
    """Noise of one to four sizes of grain, of about unit spread."""
    out = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 4)):
        size = int(rng.choice([2, 3, 5, 9, 17]))
        cells = rng.standard_normal((height // size + 2, width // size + 2), np.float32)
        out += cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def _times(image: Image, factor: Float[np.ndarray, "height width"]) -> Image:
    return cv2.multiply(image, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


_TILE = np.random.default_rng(7).standard_normal((1024, 1024, 3), np.float32)


def _noise(height: int, width: int, place: int, spread: float) -> Float[np.ndarray, "height width 3"]:
    """A piece of a fixed tile of noise."""
    x, y = (place * 97) % max(1024 - width, 1), (place * 61) % max(1024 - height, 1)
    return _TILE[y : y + height, x : x + width] * np.float32(spread)


def patch(image: Image, box: Box, colours: list[np.ndarray], rng: np.random.Generator) -> None:
    """Cover a box with a plain or speckled colour, near one of ``colours``."""
    height, width = image.shape[:2]
    x0, x1 = (int(np.clip(round(v), 0, width)) for v in (box.x0, box.x1))
    y0, y1 = (int(np.clip(round(v), 0, height)) for v in (box.y0, box.y1))
    if x1 <= x0 or y1 <= y0:
        return
    colour = np.array(near(colours[rng.integers(len(colours))], rng, 30), np.float32)
    coarse = rng.normal(0, rng.uniform(2, 40), (rng.integers(1, 8), rng.integers(1, 8), 3)).astype(np.float32)
    speckle = cv2.resize(coarse, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    image[y0:y1, x0:x1] = np.clip(colour + speckle, 0, 255).astype(np.uint8)


def near(colour: np.ndarray, rng: np.random.Generator, spread: float) -> tuple[int, int, int]:
    """A colour like another: each channel, and all together, off by ``spread`` (standard deviation)."""
    changed = np.clip(colour.astype(float) + rng.normal(0, spread, 3) + rng.normal(0, spread), 0, 255)
    return int(changed[0]), int(changed[1]), int(changed[2])
