"""Things that are no hands, for a network that otherwise takes whatever stands out of a backdrop for one.

Trained on rendered backdrops alone, it found "hands" in toys, faces, balls and checked shirts. These have what hands
have (size, skin's colours, edges, shading, even the pixels of hands in the wrong order) but not their shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from a2p_ros.types import Box, Image

#: Edges of a thing relative to the picture's height.
SIZES = (0.1, 0.7)
#: Pieces along each edge of a hand that is put together wrongly.
_PIECES = (2, 3, 4)


def thing(
    source: tuple[Image, Sequence[Box]],
    colours: list[np.ndarray],
    height: int,
    rng: np.random.Generator,
    sizes: tuple[float, float] = SIZES,
) -> Image:
    """A square picture of something that is no hand, for a picture of this height [px].

    ``source`` is any picture and the boxes of the hands in it.
    """
    edge = max(int(height * math.exp(rng.uniform(math.log(sizes[0]), math.log(sizes[1])))), 8)
    image, boxes = source
    if len(boxes) and rng.random() < 0.4:
        return _jigsaw(image, boxes[int(rng.integers(len(boxes)))], edge, rng)
    return _patterned(edge, colours, rng)


def paste(image: Image, picture: Image, away_from: list[Box], rng: np.random.Generator) -> None:
    """Put a square picture somewhere into ``image``, through a mask of some outline; it may be cut off.

    Not where it would touch one of the boxes: a thing that ends at a hand's box would give the box away.
    """
    height, width = image.shape[:2]
    edge = len(picture)
    x, y = (int(v) for v in rng.uniform(-0.4 * edge, (width - 0.6 * edge, height - 0.6 * edge)))
    place = _part(image, edge, x, y)
    if place.area == 0 or any(place.iou(box) > 0 for box in away_from):
        return
    paste_at(image, picture, x, y, rng)


def paste_at(image: Image, picture: Image, x: int, y: int, rng: np.random.Generator) -> None:
    """Put a square picture with its top left corner at (x, y), through a mask of some outline."""
    edge = len(picture)
    x0, y0, x1, y1 = (int(v) for v in _part(image, edge, x, y))
    inner = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
    share = _outline(edge, rng)[inner][..., None]
    part = image[y0:y1, x0:x1]
    part[:] = (part + share * (picture[inner].astype(np.float32) - part)).astype(np.uint8)


def _part(image: Image, edge: int, x: int, y: int) -> Box:
    """What lies in the image of a square from (x, y)."""
    x0, y0 = min(max(x, 0), image.shape[1]), min(max(y, 0), image.shape[0])
    return Box(x0, y0, max(min(x + edge, image.shape[1]), x0), max(min(y + edge, image.shape[0]), y0))


def _jigsaw(image: Image, box: Box, edge: int, rng: np.random.Generator) -> Image:
    """A hand's picture in pieces that change places and turn."""
    x0, y0, x1, y1 = (round(v) for v in box.squared().scaled(1.1))
    part = image[max(y0, 0) : max(y1, y0 + 2, 2), max(x0, 0) : max(x1, x0 + 2, 2)]
    count = int(rng.choice(_PIECES))
    size = max(edge // count, 2)
    part = cv2.resize(part, (count * size, count * size), interpolation=cv2.INTER_LINEAR)
    pieces = [part[i * size : (i + 1) * size, j * size : (j + 1) * size] for i in range(count) for j in range(count)]
    turned = [np.rot90(pieces[k], int(rng.integers(4))) for k in rng.permutation(len(pieces))]
    return np.ascontiguousarray(np.block([[[p] for p in turned[i * count : (i + 1) * count]] for i in range(count)]))


def _patterned(edge: int, colours: list[np.ndarray], rng: np.random.Generator) -> Image:
    """Stripes, checks, plaid, dots or blotches, perhaps in folds, with light from one side, perhaps with a face."""
    grid = np.linspace(-1, 1, edge, dtype=np.float32)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    if folded := rng.random() < 0.4:
        folds = [_smooth(edge, rng) for _ in range(3)]
        x, y = x + 0.25 * folds[0], y + 0.25 * folds[1]
    first, second = (_colour(colours, rng) for _ in range(2))
    turn, rate = rng.uniform(0, math.pi), math.exp(rng.uniform(math.log(2), math.log(25)))
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    kind = rng.integers(6)
    if kind == 0:
        wave = np.sin(rate * along)
    elif kind == 1:
        wave = 0.5 * (np.sign(np.sin(rate * along)) + np.sign(np.sin(rate * across)))
    elif kind == 2:
        wave = np.where(np.sin(rate * along) * np.sin(rate * across) > 0.5, 1, -1)
    elif kind == 3:
        wave = _smooth(edge, rng)
    elif kind == 4:
        threads = [np.sin(rate * along), np.sin(rate * across), np.sin(3.1 * rate * along), np.sin(3.1 * rate * across)]
        wave = sum(np.sign(w + bias) for w, bias in zip(threads, rng.uniform(-0.8, 0.8, 4), strict=True)) / 4
    else:
        wave = np.full((edge, edge), -1.0, np.float32)
    share = np.clip(0.5 + 0.5 * wave, 0, 1)[..., None]
    out = first + share * (second - first)
    if rng.random() < 0.35:
        _draw_face(out, edge, rng)
    light = rng.normal(0, 0.35, 2)
    round_ = np.sqrt(np.clip(1 - 0.8 * (x * x + y * y), 0.05, 1)) if rng.random() < 0.6 else 1.0
    shade = np.clip((1 + light[0] * x + light[1] * y) * round_, 0.2, 1.6)
    if folded:
        shade = np.clip(shade * (1 + 0.4 * folds[2]), 0.1, 1.8)
    return np.clip(out * shade[..., None], 0, 255).astype(np.uint8)


def _smooth(edge: int, rng: np.random.Generator) -> Float32[np.ndarray, "edge edge"]:
    cells = rng.standard_normal((int(rng.integers(2, 9)),) * 2, np.float32)
    return cv2.resize(cells, (edge, edge), interpolation=cv2.INTER_CUBIC)


def _draw_face(out: Float32[np.ndarray, "edge edge 3"], edge: int, rng: np.random.Generator) -> None:
    colour = [float(v) for v in rng.uniform(0, 90, 3)]
    cx, cy, gap = (edge * v for v in (rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.2)))
    canvas = np.ascontiguousarray(out, np.float32)
    for side in (-1, 1):
        size = (max(int(edge * rng.uniform(0.03, 0.07)), 1), max(int(edge * rng.uniform(0.02, 0.06)), 1))
        cv2.ellipse(canvas, (int(cx + side * gap), int(cy)), size, 0, 0, 360, colour, -1, cv2.LINE_AA)
    mouth = (int(cx), int(cy + edge * rng.uniform(0.15, 0.3)))
    cv2.ellipse(canvas, mouth, (max(int(gap), 1), max(int(edge * 0.04), 1)), 0, 0, 180, colour, max(edge // 40, 1))
    out[:] = canvas


def _outline(edge: int, rng: np.random.Generator) -> Float32[np.ndarray, "edge edge"]:
    """Share of a thing at each pixel: an ellipse, a polygon or a box with soft edges."""
    mask = np.zeros((edge, edge), np.float32)
    middle, kind = (edge // 2, edge // 2), rng.integers(3)
    if kind == 0:
        axes = (max(int(edge * rng.uniform(0.25, 0.5)), 1), max(int(edge * rng.uniform(0.25, 0.5)), 1))
        cv2.ellipse(mask, middle, axes, float(rng.uniform(0, 180)), 0, 360, (1.0,), -1, cv2.LINE_AA)
    elif kind == 1:
        count = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * math.pi, count))
        reach = edge * rng.uniform(0.2, 0.5, count)
        corners = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], 1) + edge / 2
        cv2.fillPoly(mask, [corners.astype(np.int32)], (1.0,), cv2.LINE_AA)
    else:
        half = edge * rng.uniform(0.2, 0.5, 2)
        corners = cv2.boxPoints((middle, (float(2 * half[0]), float(2 * half[1])), float(rng.uniform(0, 90))))
        cv2.fillPoly(mask, [corners.astype(np.int32)], (1.0,), cv2.LINE_AA)
    return cv2.GaussianBlur(mask, (0, 0), 0.6)


def _colour(colours: list[np.ndarray], rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
    """Of the hands' skin, or any."""
    if rng.random() < 0.5:
        return (colours[rng.integers(len(colours))] + rng.normal(0, 20, 3)).clip(0, 255).astype(np.float32)
    return rng.uniform(0, 255, 3).astype(np.float32)
