"""Procedural rooms, out of focus: a wall with soft light, a few blurred things, a desk."""

from __future__ import annotations

import cv2
import numpy as np

from a2p_ros.types import Image

#: sRGB colours in [0, 1]: wall, and what stands in front of it.
_WALLS = ((0.72, 0.74, 0.76), (0.78, 0.74, 0.68), (0.62, 0.68, 0.72), (0.70, 0.73, 0.66), (0.55, 0.57, 0.62))
_THINGS = (
    (0.24, 0.30, 0.38),
    (0.62, 0.42, 0.28),
    (0.30, 0.42, 0.34),
    (0.74, 0.62, 0.36),
    (0.50, 0.26, 0.24),
    (0.85, 0.84, 0.80),
    (0.20, 0.21, 0.24),
)
_DESKS = ((0.52, 0.40, 0.30), (0.38, 0.36, 0.35), (0.68, 0.60, 0.50))


def paint_room(width: int, height: int, generator: np.random.Generator) -> Image:
    """An RGB picture of a room that the generator chooses."""
    h = 360
    w = max(2, round(h * width / height))
    x, y = np.meshgrid((np.arange(w) + 0.5) / h, (np.arange(h) + 0.5) / h)
    wide = w / h
    light_x = generator.uniform(0.05, 0.35) * wide
    if generator.random() < 0.5:
        light_x = wide - light_x
    wall = np.asarray(_WALLS[int(generator.integers(len(_WALLS)))])
    glow = np.exp(-(((x - light_x) / 0.75) ** 2 + ((y + 0.05) / 0.8) ** 2))
    room = wall * (0.62 + 0.42 * glow - 0.10 * y)[..., None] + glow[..., None] * [0.03, 0.015, 0.0]
    corner = generator.uniform(0.12, 0.2) * wide if light_x > wide / 2 else generator.uniform(0.8, 0.88) * wide
    side = x < corner if light_x > wide / 2 else x > corner
    room *= np.where(side, 0.84, 1.0)[..., None]
    room = cv2.GaussianBlur(room.astype(np.float32), (0, 0), 3)

    window_x = np.clip(light_x - 0.16, 0.02, wide - 0.34)
    if generator.random() < 0.6:
        _rectangle(room, (window_x, 0.0), (window_x + 0.32, 0.34), (0.93, 0.95, 0.98), 5)
        _rectangle(room, (window_x + 0.15, 0.0), (window_x + 0.165, 0.34), (0.70, 0.71, 0.72), 3)
    shelf_y = generator.uniform(0.30, 0.40)
    shelf_x = generator.uniform(0.05, 0.2) * wide if light_x > wide / 2 else generator.uniform(0.5, 0.62) * wide
    shelf_w = 0.32 * wide
    at = shelf_x + 0.02
    while at < shelf_x + shelf_w - 0.08:
        thick, tall = generator.uniform(0.02, 0.06), generator.uniform(0.08, 0.17)
        colour = np.asarray(_THINGS[int(generator.integers(len(_THINGS)))]) * generator.uniform(0.8, 1.15)
        if generator.random() < 0.8:
            _rectangle(room, (at, shelf_y - tall), (at + thick, shelf_y), colour, 3)
        at += thick + generator.uniform(0.0, 0.012)
    _rectangle(room, (shelf_x, shelf_y), (shelf_x + shelf_w, shelf_y + 0.022), (0.42, 0.33, 0.26), 3)
    _rectangle(room, (shelf_x, shelf_y + 0.022), (shelf_x + shelf_w, shelf_y + 0.05), wall * 0.55, 9)

    desk_y = generator.uniform(0.80, 0.88)
    desk = np.asarray(_DESKS[int(generator.integers(len(_DESKS)))])
    for _ in range(3):
        left = generator.uniform(0.0, wide)
        size = generator.uniform(0.05, 0.13)
        colour = np.asarray(_THINGS[int(generator.integers(len(_THINGS)))])
        if generator.random() < 0.5:
            _rectangle(room, (left, desk_y - 1.4 * size), (left + 0.6 * size, desk_y + 0.02), colour, 4)
        else:
            _ellipse(room, (left, desk_y - 0.6 * size), (0.6 * size, 0.75 * size), colour, 5)
    _rectangle(room, (-0.1, desk_y), (wide + 0.1, 1.2), desk, 3)
    shine = np.exp(-(((x - light_x) / 0.5) ** 2)) * np.clip((y - desk_y) / 0.1, 0, 1)
    room *= (1 + 0.25 * shine * (y > desk_y))[..., None].astype(np.float32)

    room = cv2.GaussianBlur(room, (0, 0), 5.0)
    vignette = 1 - 0.20 * (((x - wide / 2) / wide) ** 2 + ((y - 0.5) / 1.4) ** 2)
    out = cv2.resize(room * vignette[..., None].astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    # Half a grey level of noise hides the bands that 8 bits would show in so smooth a picture.
    out = out * 255 + generator.uniform(-0.5, 0.5, out.shape)
    return np.ascontiguousarray(out.clip(0, 255).round().astype(np.uint8))


def _rectangle(
    room: np.ndarray, low: tuple[float, float], high: tuple[float, float], colour: object, blur: float
) -> None:
    """Corners in units of the picture's height."""
    mask = np.zeros(room.shape[:2], np.float32)
    x0, y0, x1, y1 = (round(v * room.shape[0]) for v in (*low, *high))
    cv2.rectangle(mask, (x0, y0), (x1, y1), (1.0,), -1)
    _blend(room, mask, colour, blur)


def _ellipse(
    room: np.ndarray, centre: tuple[float, float], axes: tuple[float, float], colour: object, blur: float
) -> None:
    mask = np.zeros(room.shape[:2], np.float32)
    x, y, half_width, half_height = (round(v * room.shape[0]) for v in (*centre, *axes))
    cv2.ellipse(mask, (x, y), (half_width, half_height), 0, 0, 360, (1.0,), -1)
    _blend(room, mask, colour, blur)


def _blend(room: np.ndarray, mask: np.ndarray, colour: object, blur: float) -> None:
    mask = cv2.GaussianBlur(mask, (0, 0), blur)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    under = room[part]
    shade = 0.75 + 0.5 * (under[..., :1] + under[..., 1:2] + under[..., 2:]) / 3
    under += mask[part][..., None] * (np.asarray(colour, np.float32) * shade - under)
