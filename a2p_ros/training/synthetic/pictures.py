"""From drawn layers to what a camera gives: shadow, blur, exposure, white balance, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from a2p_ros.training.synthetic.config import SynthConfig
from a2p_ros.types import Image

#: Noise: blur [px] and standard deviation [grey levels].
_NOISES = ((0.5, 0.7), (0.5, 1.5), (0.7, 2.5), (0.6, 4.0), (0.9, 6.0), (0.9, 9.0))


class Camera:
    """The part of a camera behind its lens, for frames of one size."""

    _SPARE = 64

    def __init__(self, config: SynthConfig) -> None:
        self._config = config
        noise = np.random.default_rng([config.seed, 0x6E6F6973]).standard_normal(
            (config.height + self._SPARE, config.width + self._SPARE, 3), np.float32
        )
        # Demosaicing leaves noise a little coarser than a pixel; that of high gain is coarser still.
        self._tiles = []
        for sigma, deviation in _NOISES:
            tile = cv2.GaussianBlur(noise, (0, 0), sigma)
            self._tiles.append(np.rint(tile * (deviation / tile.std())).astype(np.int16))

    def expose(
        self,
        layer: UInt8[np.ndarray, "h w 4"],
        backdrop: Image,
        rng: np.random.Generator,
    ) -> tuple[Image, bytes, dict[str, float]]:
        """The picture as a receiver decodes it, its JPEG bytes, and what was done to it."""
        about: dict[str, float] = {}
        backdrop = self._shadow(layer, backdrop, rng)
        # No lens is sharper than this; the layer, which is drawn without anti-aliasing, needs it too.
        blur = float(rng.uniform(0.45, 0.75))
        if rng.random() < self._config.defocus:
            blur = about["defocus_px"] = round(blur + float(rng.uniform(0.3, 2.4)) * self._config.height / 480, 2)
        layer = cv2.GaussianBlur(layer, (0, 0), blur)
        moving = rng.random() < self._config.motion_blur
        whole = rng.random() < 0.3
        if moving:
            about["motion_px"] = round(float(rng.uniform(2, 16)) * self._config.height / 480, 2)
            kernel = _line(about["motion_px"], rng.uniform(0, np.pi))
            if not whole:
                layer = cv2.filter2D(layer, -1, kernel)
        image = _over(layer, backdrop)
        if moving and whole:
            image = cv2.filter2D(image, -1, kernel)
        if rng.random() < 0.15:
            # Webcams sharpen.
            soft = cv2.GaussianBlur(image, (0, 0), 1.0)
            amount = float(rng.uniform(0.3, 1.2))
            image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
        image = cv2.LUT(image, _curve(rng))
        if rng.random() < 0.06:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        image = self._noisy(image, rng)
        about["jpeg"] = int(rng.integers(45, 97))
        packed = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(about["jpeg"])]
        )[1]
        decoded = cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return decoded, packed.tobytes(), about

    def _shadow(self, layer: np.ndarray, backdrop: Image, rng: np.random.Generator) -> Image:
        """In a third of the frames the hands throw a soft shadow on what is behind them, aside and not round them."""
        strength, angle = rng.uniform(0.15, 0.6), rng.uniform(-np.pi, np.pi)
        distance, soft = rng.uniform(0.04, 0.25), rng.uniform(0.012, 0.05)
        if rng.random() > 0.35:
            return backdrop
        height = backdrop.shape[0]
        small = cv2.resize(layer[..., 3], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        shift = np.array([[1, 0, np.cos(angle)], [0, 1, np.sin(angle)]]) * [[1, 1, distance * height / 4]]
        small = cv2.warpAffine(small, shift, small.shape[::-1])
        small = cv2.GaussianBlur(small, (0, 0), soft * height / 4)
        shade = cv2.resize(small, backdrop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        keep = cv2.LUT(shade, (255 - strength * np.arange(256)).astype(np.uint8))
        return cv2.multiply(backdrop, cv2.merge([keep] * 3), scale=1 / 255)

    def _noisy(self, image: Image, rng: np.random.Generator) -> Image:
        tile = self._tiles[int(rng.integers(len(self._tiles)))]
        x, y = rng.integers(0, self._SPARE, 2)
        h, w = image.shape[:2]
        return cv2.add(image, tile[y : y + h, x : x + w], dtype=cv2.CV_8U)


def _line(length: float, angle: float) -> np.ndarray:
    """Kernel of a straight motion, its weights adding up to one."""
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 4 * reach + 3):
        x, y = reach + t * np.cos(angle), reach + t * np.sin(angle)
        x0, y0 = min(int(x), 2 * reach - 1), min(int(y), 2 * reach - 1)
        fx, fy = x - x0, y - y0
        kernel[y0 : y0 + 2, x0 : x0 + 2] += np.outer([1 - fy, fy], [1 - fx, fx])
    return kernel / kernel.sum()


def _over(layer: UInt8[np.ndarray, "h w 4"], backdrop: Image) -> Image:
    """A layer whose colours are multiplied by its alpha, in front of a backdrop."""
    rest = cv2.bitwise_not(layer[..., 3])
    behind = cv2.multiply(backdrop, cv2.merge([rest] * 3), scale=1 / 255)
    return cv2.add(behind, cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB))


def _curve(rng: np.random.Generator) -> UInt8[np.ndarray, "1 256 3"]:
    """Exposure, white balance, gamma, contrast and black level as one table."""
    v = np.arange(256) / 255
    exposure = np.exp(rng.normal(0.0, 0.25))
    warmth, tint = rng.normal(0, 0.08), rng.normal(0, 0.03)
    gains = exposure * np.array([1 + warmth, 1 + tint, 1 - warmth])
    gamma = np.exp(rng.normal(0, 0.12))
    table = np.power((v[:, None] * gains).clip(0, 2), gamma)
    contrast, black = np.exp(rng.normal(0, 0.12)), rng.uniform(-0.04, 0.06)
    # A shoulder instead of a hard limit: highlights of skin fade to white.
    table = (table - 0.4) * contrast + 0.4 + black
    table = np.where(table > 0.85, 0.85 + 0.15 * np.tanh((table - 0.85) / 0.15), table)
    return (table * 255).clip(0, 255).round().astype(np.uint8).reshape(1, 256, 3)
