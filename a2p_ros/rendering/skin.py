"""Procedural skin: two pictures of the right hand at rest, seen from the palm's and from the back's side.

The hand at rest is flat, so looking along its y axis shows all of it; the left hand uses the mirrored
coordinates. RGB scales the skin's tone (128 = as it is), A is height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

#: Corners of the picture in the right hand's rest frame (x, z) [m].
_LOW, _HIGH = np.array([-0.115, -0.08]), np.array([0.605, 0.10])

#: Skin tones, linear RGB, light to dark.
#: A mark weaker than this changes no picture of 8 bits.
_FAINT = 1e-3
TONES: tuple[tuple[float, float, float], ...] = (
    (0.66, 0.40, 0.29),
    (0.58, 0.33, 0.22),
    (0.47, 0.25, 0.155),
    (0.34, 0.17, 0.10),
    (0.20, 0.095, 0.055),
)


@dataclass(frozen=True, eq=False)
class SkinTextures:
    """``palm`` and ``back`` as the renderer's ``Look`` wants them; A spans ``relief`` [m]."""

    palm: UInt8[np.ndarray, "h w 4"]
    back: UInt8[np.ndarray, "h w 4"]
    relief: float = 0.003


def texture_coordinates(rest: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 2"]:
    """(u, v) in [0, 1] of points of the right hand at rest [m]."""
    return (rest[:, [0, 2]] - _LOW) / (_HIGH - _LOW)


def paint_skin(
    joints: Float[np.ndarray, "21 3"], generator: np.random.Generator, darkness: float = 0.0, texel: float = 0.00045
) -> SkinTextures:
    """Skin for a hand whose rest joints (right hand, OpenPose order [m]) are ``joints``.

    ``darkness`` in [0, 1] (dark tones) makes the palm lighter than the back, as it is on dark skin. ``texel`` is the
    pictures' resolution [m]; the time grows with their area (0.4 s at the default).
    """
    palm, back = (_Canvas(joints, generator, texel) for _ in range(2))
    return SkinTextures(_palm(palm, darkness), _back(back))


class _Canvas:
    """Float layers over the picture: ``tint`` (h, w, 3) about 1 and ``height`` (h, w) [m]."""

    def __init__(self, joints: np.ndarray, generator: np.random.Generator, texel: float) -> None:
        self.texel = texel
        width, height = (int(v) for v in np.round((_HIGH - _LOW) / texel))
        self.size = (width, height)
        self.tint = np.ones((height, width, 3), np.float32)
        self.height = np.zeros((height, width), np.float32)
        self.joints, self.generator = joints[:, [0, 2]], generator

    def lines(self, paths: Sequence[np.ndarray], width: float, blur: float) -> np.ndarray:
        """Mask in [0, 1] of smooth curves through points (n, 2) [m]; ``width`` and ``blur`` [m]."""
        mask = np.zeros(self.height.shape, np.uint8)
        for path in paths:
            px = (smooth_path(path) - _LOW) / self.texel
            thickness = max(1, round(width / self.texel))
            cv2.polylines(mask, [np.round(px * 16).astype(np.int32)], False, (255,), thickness, cv2.LINE_AA, 4)
        out = mask.astype(np.float32) / 255
        return cv2.GaussianBlur(out, (0, 0), max(blur / self.texel, 0.5)) if blur > 0 else out

    def blob(self, centre: np.ndarray, radius: float | tuple[float, float]) -> np.ndarray:
        """Gaussian mask, 1 at ``centre`` [m], of standard deviation ``radius`` (x, z) [m]."""
        rx, rz = (radius, radius) if isinstance(radius, float) else radius
        x = (np.arange(self.size[0]) + 0.5) * self.texel + _LOW[0] - centre[0]
        z = (np.arange(self.size[1]) + 0.5) * self.texel + _LOW[1] - centre[1]
        return np.exp(-0.5 * (z / rz) ** 2)[:, None].astype(np.float32) * np.exp(-0.5 * (x / rx) ** 2)[None].astype(
            np.float32
        )

    def noise(self, size: float) -> np.ndarray:
        """Smooth noise of zero mean and unit deviation, with features of ``size`` [m]."""
        sigma = size / self.texel / 2
        step = max(1, int(sigma / 2))
        shape = (self.size[1] // step + 2, self.size[0] // step + 2)
        small = cv2.GaussianBlur(self.generator.standard_normal(shape).astype(np.float32), (0, 0), sigma / step)
        out = (
            cv2.resize(small, self.size, interpolation=cv2.INTER_CUBIC)
            if step > 1
            else small[: self.size[1], : self.size[0]]
        )
        return (out - out.mean()) / out.std()

    def colour(self, mask: np.ndarray, rgb: tuple[float, float, float]) -> None:
        """Multiply the tint by ``rgb`` where ``mask`` is 1."""
        # Most marks are small: what lies outside their rectangle stays as it is.
        rows, columns = (np.flatnonzero(np.abs(mask).max(axis) > _FAINT) for axis in (1, 0))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            self.tint[part] *= 1 + mask[part][..., None] * (np.array(rgb, np.float32) - 1)

    def across(self, joint: int, child: int, t: float, length: float, bow: float = 0.0) -> np.ndarray:
        """A curve across a finger at the fraction ``t`` from ``joint`` to ``child``; ``bow`` [m] bends it."""
        a, b = self.joints[joint], self.joints[child]
        bone = (b - a) / np.linalg.norm(b - a)
        side = np.array([-bone[1], bone[0]])
        wobble = self.generator.normal(0, 0.0003, 5)
        s = np.linspace(-1, 1, 5)
        return a + t * (b - a) + np.outer(s * length / 2, side) + np.outer(bow * (1 - s**2) + wobble, bone)

    def finish(self, relief: float) -> UInt8[np.ndarray, "h w 4"]:
        rgba = np.concatenate([self.tint * 0.5, (self.height / relief + 0.5)[..., None]], axis=2)
        return np.ascontiguousarray((rgba * 255).clip(0, 255).round().astype(np.uint8))


def smooth_path(points: np.ndarray, steps: int = 12) -> np.ndarray:
    """Catmull-Rom curve through points (n, 2)."""
    p = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*pieces, points[-1:]])


def _speckle(canvas: _Canvas, strength: float) -> None:
    """Tone that varies at three scales, and pores."""
    for size, amount in ((0.035, 0.030), (0.011, 0.025), (0.0035, 0.020)):
        n = np.clip(canvas.noise(size), -2.5, 2.5)[..., None] * strength
        canvas.tint *= 1 + n * amount * np.array([0.45, 1.0, 1.05], np.float32)
    canvas.height += 0.00003 * canvas.noise(0.0011) + 0.00006 * canvas.noise(0.0028)


def _palm(canvas: _Canvas, darkness: float) -> UInt8[np.ndarray, "h w 4"]:
    j, generator = canvas.joints, canvas.generator
    _speckle(canvas, 1.2)
    hand = np.clip(1.2 - (np.arange(canvas.size[0]) * canvas.texel + _LOW[0] - j[0][0] + 0.015) / 0.03, 0, 1).astype(
        np.float32
    )[None]
    lighter = 1 + 0.04 * hand[..., None] + darkness * hand[..., None] * np.array([0.9, 1.0, 0.95], np.float32)
    canvas.tint *= lighter
    red = (1.03, 0.86, 0.84)
    for tip in (4, 8, 12, 16, 20):
        canvas.colour(canvas.blob(j[tip] + 0.15 * (j[tip - 1] - j[tip]), 0.008), red)
    for base in (5, 9, 13, 17):
        canvas.colour(0.7 * canvas.blob(j[base] + 0.15 * (j[base + 1] - j[base]), (0.008, 0.009)), red)
    canvas.colour(0.9 * canvas.blob(0.65 * j[1] + 0.35 * j[2], (0.018, 0.014)), (1.02, 0.88, 0.87))
    canvas.colour(0.9 * canvas.blob(0.55 * j[17] + 0.45 * j[0] + [0.0, -0.006], (0.024, 0.010)), (1.02, 0.88, 0.87))
    middle = 0.5 * (j[0] + j[9])
    canvas.colour(canvas.blob(middle + [-0.008, -0.004], (0.020, 0.014)), (1.03, 1.06, 1.05))

    fine, main = [], []
    for base in (5, 9, 13, 17):
        width = 0.019 if base != 17 else 0.016
        fine += [canvas.across(base, base + 1, t, width, 0.0008) for t in (0.50, 0.58)]
        fine += [canvas.across(base + 1, base + 2, t, width * 0.95, -0.0005) for t in (-0.05, 0.07)]
        fine += [canvas.across(base + 2, base + 3, 0.02, width * 0.9)]
    fine += [canvas.across(3, 4, t, 0.02) for t in (-0.02, 0.09)] + [canvas.across(2, 3, 0.05, 0.022)]
    fine += [
        np.array([[j[0][0] + dx, z] for z in (-0.024, -0.012, 0.0, 0.012, 0.022)]) + generator.normal(0, 0.0006, (5, 2))
        for dx in (-0.001, 0.005)
    ]
    index, middle_finger, ring, little = j[5], j[9], j[13], j[17]
    edge = little + [0.010, -0.011]
    main.append(
        np.array(
            [
                edge,
                little + [0.012, 0.004],
                ring + [0.0135, 0.002],
                middle_finger + [0.009, -0.002],
                0.5 * (index + middle_finger) + [-0.006, 0.0],
            ]
        )
    )
    start = index + [0.024, 0.016]
    main.append(
        np.array(
            [
                start,
                index + [0.026, -0.002],
                middle_finger + [0.032, -0.010],
                ring + [0.038, -0.012],
                little + [0.040, -0.004],
            ]
        )
    )
    main.append(
        np.array(
            [
                start,
                index + [0.030, -0.001],
                0.5 * (index + j[0]) + [-0.004, -0.010],
                0.25 * index + 0.75 * j[0] + [0.0, -0.007],
                j[0] + [-0.008, 0.0],
            ]
        )
    )
    for paths, width, dark, deep in ((main, 0.0008, 0.26, 0.0004), (fine, 0.0006, 0.24, 0.0004)):
        mask = canvas.lines(paths, width, 0.00045)
        soft = canvas.lines(paths, 0.003, 0.0018)
        canvas.colour(mask, (1 - 0.75 * dark, 1 - 1.15 * dark, 1 - 1.2 * dark))
        canvas.colour(soft, (0.985, 0.95, 0.94))
        canvas.height -= deep * mask + 0.0006 * soft
    small = []
    for _ in range(46):
        centre = middle + generator.normal(0, (0.022, 0.018))
        angle = generator.normal(0.5, 0.9)
        step = np.array([np.cos(angle), np.sin(angle)]) * generator.uniform(0.003, 0.010)
        small.append(np.array([centre - step, centre + generator.normal(0, 0.0008, 2), centre + step]))
    mask = canvas.lines(small, 0.00045, 0.0003)
    canvas.colour(mask, (0.95, 0.90, 0.90))
    canvas.height -= 0.00016 * mask
    return canvas.finish(SkinTextures.relief)


def _back(canvas: _Canvas) -> UInt8[np.ndarray, "h w 4"]:
    j, generator = canvas.joints, canvas.generator
    _speckle(canvas, 1.0)
    red = (1.0, 0.86, 0.84)
    wrinkles = []
    for base in (5, 9, 13, 17):
        canvas.colour(0.8 * canvas.blob(j[base], (0.009, 0.008)), red)
        canvas.colour(canvas.blob(j[base + 1], (0.006, 0.007)), red)
        canvas.colour(0.8 * canvas.blob(j[base + 2], (0.004, 0.006)), red)
        canvas.height += 0.0006 * canvas.blob(j[base], (0.007, 0.006))
        wrinkles += [
            canvas.across(base + 1, base + 2, t, 0.0125 - 0.05 * abs(t) * 0.1, b)
            for t, b in ((-0.14, 0.0016), (-0.05, 0.0006), (0.04, -0.0004), (0.13, -0.0014))
        ]
        wrinkles += [canvas.across(base + 2, base + 3, t, 0.010, b) for t, b in ((-0.06, 0.0006), (0.06, -0.0006))]
    wrinkles += [canvas.across(3, 4, t, 0.014, b) for t, b in ((-0.08, 0.001), (0.0, 0.0), (0.08, -0.001))]
    canvas.colour(canvas.blob(j[3], (0.006, 0.006)), red)
    mask = canvas.lines(wrinkles, 0.0006, 0.0004)
    canvas.colour(mask, (0.86, 0.78, 0.76))
    canvas.height -= 0.0004 * mask
    tendons = [
        np.array([j[0] * 0.85 + 0.15 * j[base], 0.5 * (j[0] + j[base]), 0.93 * j[base] + 0.07 * j[0]])
        for base in (5, 9, 13, 17)
    ]
    canvas.height += 0.0009 * canvas.lines(tendons, 0.0028, 0.0018)
    veins = []
    for a, b in ((5, 9), (9, 13), (13, 17)):
        root = 0.55 * j[a] + 0.45 * j[b] + [0.006, 0.0]
        points = [root + s * (j[0] - root) + generator.normal(0, (0.002, 0.0028)) for s in (0.0, 0.25, 0.5, 0.75, 1.1)]
        veins.append(
            np.array(points + [j[0] + [0.06, generator.normal(0, 0.012)], j[0] + [0.12, generator.normal(0, 0.014)]])
        )
    mask = canvas.lines(veins, 0.0022, 0.0014)
    canvas.colour(mask, (0.93, 0.97, 0.985))
    canvas.height += 0.0004 * mask
    return canvas.finish(SkinTextures.relief)
