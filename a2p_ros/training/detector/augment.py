"""Pictures as they were never drawn: turned, scaled, tinted, blurred, covered and put beside one another.

Rendered hands must carry over to real ones, so what a renderer gets wrong is made unreliable (`looks`), while the shape
stays. All of it is arithmetic on 8 bit pictures and follows from the generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from a2p_ros.config import Checked, setting
from a2p_ros.training.detector.labels import Hands
from a2p_ros.training.distractors import paste, thing
from a2p_ros.training.looks import looks, near, patch
from a2p_ros.types import Box, Image

#: Draws any other frame of the training data.
Draw = Callable[[np.random.Generator], tuple[Image, Hands]]


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How much pictures are changed; chances are of each picture."""

    hand_low: float = setting(24.0, "Longer edge of the smallest hands [px].", low=4.0, high=1000.0)
    hand_high: float = setting(200.0, "Longer edge of the largest hands [px].", low=4.0, high=1000.0)
    enlarge: float = setting(2.5, "Frames are not enlarged more than this.", low=0.1, high=10.0)
    turn: float = setting(0.2, "Standard deviation of the turn [rad].", low=0.0, high=3.2)
    any_turn: float = setting(0.08, "Chance of any turn at all.", low=0.0, high=1.0)
    stretch: float = setting(0.08, "Standard deviation of the aspect's logarithm.", low=0.0, high=0.5)
    beside: float = setting(0.08, "Chance that two frames stand beside each other.", low=0.0, high=1.0)
    colour: float = setting(0.6, "Chance of other colours.", low=0.0, high=1.0)
    grey: float = setting(0.04, "Chance of no colours.", low=0.0, high=1.0)
    light: float = setting(0.2, "Chance of uneven light.", low=0.0, high=1.0)
    texture: float = setting(0.08, "Chance of a texture over all of it.", low=0.0, high=1.0)
    blur: float = setting(0.1, "Chance of blur, even or along a line.", low=0.0, high=1.0)
    sharp: float = setting(0.1, "Chance of more sharpness.", low=0.0, high=1.0)
    coarse: float = setting(0.06, "Chance of a detour over fewer pixels.", low=0.0, high=1.0)
    noise: float = setting(0.15, "Chance of noise.", low=0.0, high=1.0)
    jpeg: float = setting(0.2, "Chance of JPEG's losses.", low=0.0, high=1.0)
    shapes: float = setting(0.3, "Chance of shapes in skin's and other colours, around the hands.", low=0.0, high=1.0)
    things: float = setting(0.6, "Chance of things that are no hands, around the hands.", low=0.0, high=1.0)
    cover: float = setting(0.12, "Chance that a part of a hand is covered.", low=0.0, high=1.0)
    erase: float = setting(
        0.04, "Chance that every hand is covered wholly: a picture without hands.", low=0.0, high=1.0
    )


def augmented(
    draw: Draw, rng: np.random.Generator, height: int, width: int, config: AugmentConfig
) -> tuple[Image, Hands]:
    """One picture for training of the given size [px], and its hands."""
    if rng.random() < config.beside:
        split = int(width * rng.uniform(0.35, 0.65))
        left, hands_left = _placed(*draw(rng), rng, height, split, config)
        right, hands_right = _placed(*draw(rng), rng, height, width - split, config)
        image = np.concatenate([left, right], axis=1)
        # What leaves its half is cut off at the seam.
        parts = [_within(hands_left, 0, split), _within(hands_right.moved(_shift(split)), split, width)]
        hands = Hands.joined(parts)
    else:
        image, hands = _placed(*draw(rng), rng, height, width, config)
    colours = _colours(image, hands, rng)
    if rng.random() < config.shapes:
        _draw_shapes(image, hands, colours, rng)
    if rng.random() < config.things:
        for _ in range(rng.integers(1, 5)):
            other, theirs = draw(rng)
            source = other, theirs.boxes(*other.shape[:2])
            paste(image, thing(source, colours, height, rng), hands.boxes(height, width), rng)
    if len(hands) and rng.random() < config.erase:
        for box in hands.boxes(height, width):
            patch(image, box.scaled(1.15), colours, rng)
        hands = Hands.none()
    elif len(hands) and rng.random() < config.cover:
        image, hands = _partly_covered(image, hands, colours, rng)
    return looks(image, rng, config), hands


def letterboxed(image: Image, hands: Hands, height: int, width: int) -> tuple[Image, Hands]:
    """A whole frame shrunk or enlarged to fit at the top left, the rest grey: what run time sees of it."""
    ratio = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(round(edge * ratio), 1) for edge in image.shape[:2])
    out = np.full((height, width, 3), 114, np.uint8)
    out[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    x, y = columns / image.shape[1], rows / image.shape[0]
    return out, hands.moved(np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]]))


def _placed(
    image: Image, hands: Hands, rng: np.random.Generator, height: int, width: int, config: AugmentConfig
) -> tuple[Image, Hands]:
    """A frame scaled, turned, mirrored and shifted into a picture."""
    rows, columns = image.shape[:2]
    which = int(rng.integers(len(hands))) if len(hands) else None
    scale = _scale(None if which is None else hands.boxes(rows, columns)[which], 0.95 * height, rng, config)
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < config.any_turn else rng.normal(0, config.turn)
    stretch = math.exp(rng.normal(0, config.stretch) / 2)
    matrix = np.eye(2) * scale * [stretch, 1 / stretch]
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ matrix
    if rng.random() < 0.5:
        matrix = matrix @ np.diag([-1.0, 1.0])
    # A point of a hand, or of the frame where there is none, lands somewhere in the picture.
    anchor = np.array([columns / 2, rows / 2])
    if which is not None and rng.random() < 0.95:
        anchor = hands.keypoints[which, rng.integers(21)]
    spread = 0.5 if rng.random() < 0.25 else 0.35
    target = np.array([width, height]) * (0.5 + rng.uniform(-spread, spread, 2))
    whole = np.column_stack([matrix, target - matrix @ anchor])
    drawn = whole
    if scale < 0.7:  # bilinear sampling reads four pixels however many lie between
        small = tuple(max(round(edge * scale / 0.8), 1) for edge in (columns, rows))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        ratio = np.array([columns / small[0], rows / small[1]])
        drawn = np.column_stack([matrix * ratio, whole[:, 2] + matrix @ (ratio - 1) / 2])
    border = int(rng.choice([cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT]))
    fill = [int(v) for v in rng.integers(0, 256, 3)] if rng.random() < 0.6 else [114] * 3
    out = cv2.warpAffine(image, drawn, (width, height), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill)
    return out, hands.moved(whole)


def _scale(box: Box | None, most: float, rng: np.random.Generator, config: AugmentConfig) -> float:
    """Such that hands of all sizes up to ``most`` [px] are as frequent; frames without hands as they come."""
    low, high = math.log(config.hand_low), math.log(max(min(config.hand_high, most), config.hand_low))
    if box is None:
        return math.exp(rng.uniform(math.log(0.3), math.log(config.enlarge)))
    return min(math.exp(rng.uniform(low, high)) / max(box.size, 1.0), config.enlarge)


def _within(hands: Hands, x0: float, x1: float) -> Hands:
    outline = hands.outline.copy()
    seen = (outline[..., 0].max(1) > x0) & (outline[..., 0].min(1) < x1)
    whole = np.maximum(np.ptp(outline[..., 0], axis=1), 1e-6)
    outline[..., 0] = np.clip(outline[..., 0], x0 - 0.5, x1 - 0.5)
    share = hands.share * np.ptp(outline[..., 0], axis=1) / whole
    return Hands(hands.right, outline, hands.keypoints, share)[np.flatnonzero(seen)]


def _shift(x: float) -> Float[np.ndarray, "2 3"]:
    return np.array([[1.0, 0, x], [0, 1, 0]])


def _colours(image: Image, hands: Hands, rng: np.random.Generator) -> list[np.ndarray]:
    """Colours of the hands' skin in the picture, and one of elsewhere."""
    height, width = image.shape[:2]
    points = hands.keypoints.reshape(-1, 2)
    points = points[((points >= 0) & (points <= (width - 1, height - 1))).all(1)]
    skin = [image[int(y), int(x)] for x, y in rng.permutation(points)[:3]]
    return [*skin, image[rng.integers(height), rng.integers(width)]]


def _draw_shapes(image: Image, hands: Hands, colours: list[np.ndarray], rng: np.random.Generator) -> None:
    """Ellipses, limbs and polygons that are no hands; they stay off the hands' middles."""
    height, width = image.shape[:2]
    before = image.copy()
    for _ in range(rng.integers(1, 6)):
        colour = near(colours[rng.integers(len(colours))], rng, 18)
        x, y = (int(v) for v in rng.uniform(-0.1, 1.1, 2) * (width, height))
        size = height * rng.uniform(0.05, 0.4)
        kind = rng.integers(3)
        if kind == 0:
            axes = (int(size * rng.uniform(0.3, 0.7)) + 1, int(size / 2) + 1)
            cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 1:  # an arm or a few fingers without a palm
            angle, thick = rng.uniform(0, 2 * math.pi), max(int(size * rng.uniform(0.08, 0.35)), 1)
            for _ in range(rng.integers(1, 4)):
                end = (int(x + 1.6 * size * math.cos(angle)), int(y + 1.6 * size * math.sin(angle)))
                cv2.line(image, (x, y), end, colour, thick, cv2.LINE_AA)
                angle += rng.normal(0, 0.5)
        else:
            corners = (np.array([x, y]) + rng.normal(0, size / 2, (rng.integers(3, 7), 2))).astype(np.int32)
            cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)
    shade = rng.uniform(0.6, 1.2, (4, 4, 1)).astype(np.float32)
    drawn = (image != before).any(-1)
    lit = image * cv2.resize(shade, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    image[drawn] = np.clip(lit, 0, 255).astype(np.uint8)[drawn]
    for box in hands.boxes(height, width):
        x0, y0, x1, y1 = (round(v) for v in box)
        image[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = before[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1]


def _partly_covered(
    image: Image, hands: Hands, colours: list[np.ndarray], rng: np.random.Generator
) -> tuple[Image, Hands]:
    """Something over up to half of a hand's box; its share that is seen falls accordingly."""
    which = int(rng.integers(len(hands)))
    box = hands.boxes(*image.shape[:2])[which]
    if box.area < 1:
        return image, hands
    share_x, share_y = rng.uniform(0.2, 1.0), rng.uniform(0.2, 0.6)
    if rng.random() < 0.5:
        share_x, share_y = share_y, share_x
    w, h = box.width * share_x, box.height * share_y
    x, y = box.x0 + rng.uniform(0, box.width - w), box.y0 + rng.uniform(0, box.height - h)
    patch(image, Box(x, y, x + w, y + h), colours, rng)
    share = hands.share.copy()
    share[which] *= 1 - share_x * share_y
    return image, Hands(hands.right, hands.outline, hands.keypoints, share)
