"""Pictures behind the hands, made of nothing but a generator: rooms, clutter, gradients, people-like shapes.

What is like a hand but is none matters most: skin-coloured ovals with a face's features, arms without hands, wood.
"""

from __future__ import annotations

import cv2
import numpy as np

from a2p_ros.rendering.background import paint_room
from a2p_ros.types import Image

_SKINS = np.array([(0.90, 0.72, 0.62), (0.80, 0.60, 0.48), (0.65, 0.45, 0.34), (0.45, 0.30, 0.22), (0.30, 0.20, 0.15)])
#: Backdrops are painted at this height and enlarged [px].
_HEIGHT = 288


def paint_backdrop(width: int, height: int, rng: np.random.Generator) -> Image:
    """A backdrop (RGB) that the generator chooses."""
    w = max(2, round(_HEIGHT * width / height))
    kind = rng.choice(["room", "clutter", "gradient", "noise", "desk"], p=[0.2, 0.35, 0.15, 0.1, 0.2])
    if kind == "room":
        picture = paint_room(w, _HEIGHT, rng).astype(np.float32) / 255
    elif kind == "clutter":
        picture = _clutter(w, rng)
    elif kind == "noise":
        picture = _noise(w, rng)
    elif kind == "desk":
        picture = _desk(w, rng)
    else:
        picture = _gradient(w, rng)
    if rng.random() < 0.45:
        _person(picture, rng)
    if rng.random() < 0.25:
        _limb(picture, rng)
    if rng.random() < 0.6:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.004, 0.022)) * _HEIGHT), np.float32)
    # Half a grey level of noise hides the bands that 8 bits would show in so smooth a picture.
    small = (picture * 255 + rng.uniform(-0.5, 0.5, picture.shape)).clip(0, 255).round().astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def vary_backdrop(backdrop: Image, width: int, height: int, rng: np.random.Generator) -> Image:
    """A part of a backdrop, mirrored or not, lighter or darker: one backdrop serves many frames."""
    h, w = backdrop.shape[:2]
    zoom = rng.uniform(0.55, 1.0)
    part_w, part_h = zoom * w, zoom * h
    x, y = rng.uniform(0, w - part_w), rng.uniform(0, h - part_h)
    mirrored = rng.random() < 0.5
    sx, sy = width / part_w, height / part_h
    matrix = np.array([[-sx, 0, (x + part_w) * sx - 1] if mirrored else [sx, 0, -x * sx], [0, sy, -y * sy]])
    out = cv2.warpAffine(backdrop, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    gain = rng.uniform(0.45, 1.25) * (1 + rng.normal(0, 0.06, 3))
    levels = np.arange(256)[:, None] * gain
    return cv2.LUT(out, levels.clip(0, 255).astype(np.uint8).reshape(1, 256, 3))


def _colour(rng: np.random.Generator) -> np.ndarray:
    """sRGB, most often dull."""
    grey = rng.uniform(0.05, 0.95)
    return np.clip(grey + rng.normal(0, 0.14, 3) * rng.choice([0.3, 1.0, 2.0]), 0.0, 1.0)


def _gradient(w: int, rng: np.random.Generator) -> np.ndarray:
    corners = np.array([[_colour(rng) for _ in range(2)] for _ in range(2)], np.float32)
    if rng.random() < 0.6:
        corners = corners[:1, :1] + 0.35 * (corners - corners[:1, :1])
    return cv2.resize(corners, (w, _HEIGHT), interpolation=cv2.INTER_LINEAR)


def _noise(w: int, rng: np.random.Generator) -> np.ndarray:
    out = np.tile(_colour(rng).astype(np.float32), (_HEIGHT, w, 1))
    for cells in (3, 8, 24, 70):
        small = rng.normal(0, rng.uniform(0.02, 0.14), (cells, cells, 3)).astype(np.float32)
        small = 0.5 * small + 0.5 * small.mean(2, keepdims=True)
        out += cv2.resize(small, (w, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    return out.clip(0, 1)


def _clutter(w: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes, ovals, lines and lettering-like rows over a gradient, sharp ones last."""
    out = _gradient(w, rng)
    for _ in range(int(rng.integers(8, 45))):
        size = float(np.exp(rng.uniform(np.log(6), np.log(150))))
        centre = rng.uniform((0, 0), (w, _HEIGHT))
        colour = _SKINS[int(rng.integers(5))] if rng.random() < 0.15 else _colour(rng)
        _shape(out, centre, size, colour, rng)
    for _ in range(int(rng.integers(0, 4))):
        _rows(out, rng)
    return out


def _shape(out: np.ndarray, centre: np.ndarray, size: float, colour: np.ndarray, rng: np.random.Generator) -> None:
    angle = rng.choice([0.0, rng.uniform(0, 180)])
    aspect = rng.uniform(0.1, 1.0)
    shade = tuple(float(c) for c in colour)
    kind = rng.choice(["box", "oval", "line"], p=[0.5, 0.25, 0.25])
    at = (float(centre[0]), float(centre[1]))
    if kind == "box":
        corners = cv2.boxPoints((at, (size, size * aspect), float(angle))).astype(np.int32)
        cv2.fillConvexPoly(out, corners, shade, cv2.LINE_AA)
        if rng.random() < 0.4:
            dark = tuple(0.6 * c for c in shade)
            cv2.polylines(out, [corners], True, dark, int(rng.integers(1, 3)), cv2.LINE_AA)
    elif kind == "oval":
        axes = (max(1, int(size / 2)), max(1, int(size * aspect / 2)))
        cv2.ellipse(out, (int(at[0]), int(at[1])), axes, float(angle), 0, 360, shade, -1, cv2.LINE_AA)
    else:
        end = centre + rng.normal(0, size, 2)
        cv2.line(out, (int(at[0]), int(at[1])), (int(end[0]), int(end[1])), shade, int(rng.integers(1, 9)), cv2.LINE_AA)


def _rows(out: np.ndarray, rng: np.random.Generator) -> None:
    """Keys, books or lines of text: many equal small boxes."""
    x0, y0 = rng.uniform(0, 0.8 * out.shape[1]), rng.uniform(0, 0.8 * _HEIGHT)
    cell_w, cell_h = rng.uniform(3, 16), rng.uniform(3, 22)
    first, second = _colour(rng), _colour(rng)
    for row in range(int(rng.integers(1, 7))):
        for column in range(int(rng.integers(4, 16))):
            shade = first + (second - first) * rng.random()
            x, y = int(x0 + column * cell_w * 1.2), int(y0 + row * cell_h * 1.25)
            cv2.rectangle(out, (x, y), (int(x + cell_w), int(y + cell_h)), tuple(map(float, shade)), -1)


def _desk(w: int, rng: np.random.Generator) -> np.ndarray:
    """A table from above: grain, paper, keyboard, cups."""
    base = np.array(rng.choice([(0.62, 0.45, 0.30), (0.35, 0.24, 0.16), (0.8, 0.78, 0.74), (0.16, 0.16, 0.17)]))
    base = base * rng.uniform(0.7, 1.15)
    out = np.tile(base.astype(np.float32), (_HEIGHT, w, 1))
    grain = cv2.resize(rng.normal(0, 1, (60, 6)).astype(np.float32), (w, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 1, (200, 12)).astype(np.float32), (w, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = np.asarray(grain) + 0.5 * np.asarray(fine)
    out *= 1 + rng.uniform(0.0, 0.10) * grain[..., None]
    out = np.ascontiguousarray(out.transpose(1, 0, 2)) if w == _HEIGHT and rng.random() < 0.5 else out
    for _ in range(int(rng.integers(1, 9))):
        centre = rng.uniform((0, 0), (w, _HEIGHT))
        _shape(out, centre, float(rng.uniform(20, 120)), _colour(rng), rng)
    if rng.random() < 0.5:
        _rows(out, rng)
    light = _gradient(w, rng).mean(2, keepdims=True)
    return (out * (0.7 + 0.6 * light)).clip(0, 1).astype(np.float32)


def _person(out: np.ndarray, rng: np.random.Generator) -> None:
    """Head and shoulders: a hard negative as large as a hand and of its colour."""
    w = out.shape[1]
    tall = rng.uniform(0.18, 0.6) * _HEIGHT
    x, y = rng.uniform(0, w), rng.uniform(0.05, 0.75) * _HEIGHT
    skin = (_SKINS[int(rng.integers(5))] * rng.uniform(0.7, 1.1)).clip(0, 1)
    layer = out.copy()

    def oval(dx: float, dy: float, rx: float, ry: float, colour: np.ndarray) -> None:
        centre = (int(x + dx * tall), int(y + dy * tall))
        axes = (max(1, int(rx * tall)), max(1, int(ry * tall)))
        cv2.ellipse(layer, centre, axes, 0, 0, 360, tuple(map(float, colour)), -1, cv2.LINE_AA)

    hair = _SKINS[4] * rng.uniform(0.1, 1.6)
    oval(0, -0.12, 0.44, 0.50, hair)
    oval(0, 0.45, 0.20, 0.40, 0.85 * skin)
    oval(0, 1.45, 1.15, 0.85, _colour(rng))
    oval(0, 0, 0.36, 0.48, skin)
    if rng.random() < 0.8:
        for side in (-1, 1):
            oval(0.15 * side, -0.06, 0.055, 0.03, np.full(3, 0.12))
            oval(0.15 * side, -0.14, 0.08, 0.018, 0.5 * hair)
        oval(0, 0.08, 0.05, 0.09, 0.88 * skin)
        oval(0, 0.25, 0.12, 0.03, skin * (0.85, 0.55, 0.55))
    layer = cv2.GaussianBlur(layer, (0, 0), max(0.02 * tall, 0.6))
    # Light from one side over head and shoulders only.
    mask = (np.abs(layer - out).max(2, keepdims=True) > 0.02).astype(np.float32)
    slope = 1 + rng.uniform(-0.35, 0.35) * (np.arange(w, dtype=np.float32) - x)[None, :, None] / max(tall, 1.0)
    out[:] = layer * (1 + mask * (slope.clip(0.6, 1.3) - 1))


def _limb(out: np.ndarray, rng: np.random.Generator) -> None:
    """An arm or a leg without an end, shaded as a cylinder."""
    a, b = rng.uniform((0, 0), (out.shape[1], _HEIGHT), (2, 2))
    skin = _SKINS[int(rng.integers(5))] * rng.uniform(0.7, 1.1)
    thick = rng.uniform(8, 34)
    direction = (b - a) / max(np.linalg.norm(b - a), 1e-6)
    a, b = a - 300 * direction, b + 300 * direction * rng.integers(0, 2)
    side = np.array([-direction[1], direction[0]])
    for t in np.linspace(1, 0.1, 7):
        shade = (skin * (0.55 + 0.5 * (1 - t))).clip(0, 1)
        shift = 0.25 * (1 - t) * thick * side
        p, q = (a + shift).astype(int), (b + shift).astype(int)
        cv2.line(
            out, tuple(map(int, p)), tuple(map(int, q)), tuple(map(float, shade)), max(1, int(thick * t)), cv2.LINE_AA
        )
