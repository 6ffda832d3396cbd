"""This package's own detector: both hands with side and orientation, also where one lies over the other.

The network and what it was trained on are in ``docs/detector.md``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.detection.hand_maps import CHANNELS, STRIDE, decode
from a2p_ros.detection.hand_weights import find
from a2p_ros.errors import DeviceError, WeightsError
from a2p_ros.inference import open_onnx
from a2p_ros.types import Box, Detection, Image

#: Edges of the network's picture are multiples of this [px].
DEEPEST = 32
PADDING = 114
_INPUT = "pictures"


class Fit(NamedTuple):
    """How an image lies in the network's picture: at the top left of ``height`` x ``width``, ``rows`` x ``columns``."""

    height: int
    width: int
    rows: int
    columns: int


class HandDetector:
    """Finds left and right hands, each with its orientation and the square for the landmark stage.

    ``min_score`` may be changed between calls. ``device`` is the provider that was granted.

    Raises:
        WeightsError: the files are missing, tampered with, or not a detector's.
        DeviceError: the device asked for was not granted.
    """

    def __init__(self, config: DetectionConfig, device: DeviceConfig) -> None:
        files = find(config.weights)
        self._model = open_onnx(files.network, device)
        self._area, self._side_trust = files.area, files.side_trust
        self.name = files.name
        self.device = self._model.device
        self.min_score = config.min_score
        self._canvas = np.zeros((0, 0, 3), np.uint8)
        self._fit = Fit(0, 0, 0, 0)
        inputs = [(entry.name, entry.type) for entry in self._model.session.get_inputs()]
        if inputs != [(_INPUT, "tensor(uint8)")]:
            raise WeightsError(f"{files.network}: expected one input {_INPUT} of 8 bit, got {inputs}")
        try:  # A first run shows a file with other outputs now, not on the first frame.
            self(np.zeros((64, 64, 3), np.uint8))
        except DeviceError as error:
            if self.device != "cpu":
                raise
            raise WeightsError(f"{files.network}: the network does not run: {error}") from error

    def __call__(self, image: Image) -> list[Detection]:
        """Hands of an RGB image, best first, boxes clipped to it."""
        height, width = image.shape[:2]
        fit = fit_of(height, width, self._area)
        if fit != self._fit:
            self._canvas, self._fit = np.full((fit.height, fit.width, 3), PADDING, np.uint8), fit
        inner = self._canvas[: fit.rows, : fit.columns]
        if inner.shape == image.shape:
            inner[:] = image
        else:
            near = _halved(image, fit)
            odd = near.shape[0] >= 2 * fit.rows and near.shape[1] >= 2 * fit.columns
            how = cv2.INTER_AREA if odd else cv2.INTER_LINEAR
            cv2.resize(near, (fit.columns, fit.rows), dst=inner, interpolation=how)
        outputs = self._model(**{_INPUT: self._canvas[None]})
        rows, columns = fit.height // STRIDE, fit.width // STRIDE
        shapes = [output.shape for output in outputs]
        if shapes != [(1, 2, rows, columns), (1, 2, CHANNELS, rows, columns)]:
            raise WeightsError(
                f"{self._model.path}: expected heat (1, 2, {rows}, {columns}) and numbers "
                f"(1, 2, {CHANNELS}, {rows}, {columns}), got {shapes}; train it with `a2p train detector`"
            )
        found = decode(outputs[0][0], outputs[1][0], self.min_score)
        inside = (_in_image(hand, image, fit) for hand in found)
        return [self._doubted(hand) for hand in inside if hand is not None]

    def _doubted(self, hand: Detection) -> Detection:
        """Surer of its side than the network was right on validation frames no hand is."""
        return replace(hand, right=float(np.clip(hand.right, 1 - self._side_trust, self._side_trust)))


@lru_cache(maxsize=8)
def fit_of(height: int, width: int, area: int) -> Fit:
    """The network's picture of about ``area`` [px^2] that an image of this size is shrunk or enlarged into."""
    ratio = math.sqrt(area / (height * width))
    # A very long image would otherwise be enlarged along its short edge alone.
    whole_height, whole_width = (max(DEEPEST, DEEPEST * round(edge * ratio / DEEPEST)) for edge in (height, width))
    ratio = min(whole_height / height, whole_width / width)
    rows = min(max(round(height * ratio), 1), whole_height)
    columns = min(max(round(width * ratio), 1), whole_width)
    return Fit(whole_height, whole_width, rows, columns)


def _halved(image: Image, fit: Fit) -> Image:
    """The image halved while it stays larger than the picture: 0.5 ms at 720p, where averaging in one step takes 3."""
    while image.shape[0] >= 2 * fit.rows and image.shape[1] >= 2 * fit.columns:
        if image.shape[0] % 2 or image.shape[1] % 2:
            break
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return image


def _in_image(hand: Detection, image: Image, fit: Fit) -> Detection | None:
    """A detection in the image's own pixels; None where its box lies outside or is turned over."""
    height, width = image.shape[:2]
    scale_x, scale_y = width / fit.columns, height / fit.rows
    assert hand.square is not None
    numbers = np.array([*hand.box, *hand.square])
    if not np.isfinite(numbers).all():
        return None
    # Pixel centres are whole numbers on both sides, so edges map on edges.
    x0, x1 = (float(np.clip((x + 0.5) * scale_x - 0.5, -0.5, width - 0.5)) for x in (hand.box.x0, hand.box.x1))
    y0, y1 = (float(np.clip((y + 0.5) * scale_y - 0.5, -0.5, height - 0.5)) for y in (hand.box.y0, hand.box.y1))
    if x1 <= x0 or y1 <= y0:
        return None
    x, y, edge = hand.square
    square = ((x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5, edge * math.sqrt(scale_x * scale_y))
    return Detection(Box(x0, y0, x1, y1), hand.score, hand.right, hand.rotation, square)
