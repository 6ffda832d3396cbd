"""Scripted motion of two hands: a seamless loop of hand shapes, wrist turns and paths, within joint limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import ConfigError
from a2p_ros.hand.limits import JOINT_LIMITS
from a2p_ros.rotations import axis_angle_to_matrix
from a2p_ros.types import Pair

#: Flexion of the three joints of a finger [rad].
_STRAIGHT, _RELAXED = (0.02, 0.05, 0.02), (0.22, 0.32, 0.18)
_HALF, _CURLED = (0.55, 0.75, 0.4), (1.25, 1.55, 0.85)
_SPREAD = (0.16, 0.0, -0.22, -0.10)
#: The thumb: twist, flexion and abduction of its base, flexion of the other two joints [rad].
_THUMB_OPEN, _THUMB_RELAXED = (0.0, -0.05, 0.05, 0.0, 0.0), (-0.15, 0.12, 0.15, 0.15, 0.15)
_THUMB_ACROSS = (-0.55, 0.55, 0.45, 0.55, 0.65)
_THUMB_PINCH = (-0.64, 0.74, 0.39, -0.17, -0.29)


def _shape(
    index: Sequence[float] = _STRAIGHT,
    middle: Sequence[float] = _STRAIGHT,
    ring: Sequence[float] = _STRAIGHT,
    little: Sequence[float] = _STRAIGHT,
    thumb: Sequence[float] = _THUMB_OPEN,
    spread: float = 0.0,
) -> Float[np.ndarray, "15 3"]:
    """Joint angles (twist, flexion, abduction) in MANO's order of a hand shape; ``spread`` 1 fans the fingers out."""
    angles = np.zeros((15, 3))
    for first, flexion, fan in zip((0, 3, 6, 9), (index, middle, little, ring), _SPREAD, strict=True):
        angles[first : first + 3, 1] = flexion
        angles[first, 2] = fan * spread
    angles[12] = thumb[:3]
    angles[13:15, 1] = thumb[3:]
    return angles


#: Hand shapes by name; each is within the joint limits.
SHAPES: dict[str, Float[np.ndarray, "15 3"]] = {
    "open": _shape(spread=1.0),
    "flat": _shape(thumb=(-0.1, 0.1, 0.0, 0.1, 0.0)),
    "relaxed": _shape(_RELAXED, (0.26, 0.36, 0.2), (0.3, 0.4, 0.22), (0.32, 0.4, 0.22), _THUMB_RELAXED, 0.3),
    "half closed": _shape(_HALF, _HALF, _HALF, _HALF, _THUMB_RELAXED, 0.3),
    "fist": _shape(_CURLED, _CURLED, _CURLED, _CURLED, _THUMB_ACROSS),
    "pinch": _shape((1.10, 0.66, 0.36), (0.55, 0.55, 0.3), (0.42, 0.45, 0.25), (0.32, 0.4, 0.2), _THUMB_PINCH, 0.35),
    "point": _shape(_STRAIGHT, _CURLED, _CURLED, _CURLED, _THUMB_ACROSS),
    "two": _shape(_STRAIGHT, _STRAIGHT, _CURLED, _CURLED, _THUMB_ACROSS, 0.8),
    "three": _shape(_STRAIGHT, _STRAIGHT, _STRAIGHT, _CURLED, _THUMB_ACROSS, 0.8),
    "four": _shape(_STRAIGHT, _STRAIGHT, _STRAIGHT, _STRAIGHT, _THUMB_ACROSS, 0.8),
}
SHAPES["pinch"][0, 2] = -0.21
#: How often hands that cross do so in a loop, how far beyond the middle their wrists go, and how far apart in depth
#: they pass [m].
ROUNDS, BEYOND, PASSING = 4, 0.03, 0.16
#: What the hands do, one after another; each script is a loop.
SCRIPTS: tuple[tuple[str, ...], ...] = (
    ("open", "relaxed", "pinch", "relaxed"),
    ("open", "half closed", "fist", "half closed"),
    ("point", "two", "three", "four", "open"),
    ("open", "pinch", "open", "two"),
    ("flat", "open", "relaxed", "half closed"),
)


@dataclass(frozen=True)
class HandState:
    """One hand at one time. Angles are those of ``hand.limits`` (twist, flexion, abduction) [rad].

    ``global_orient`` turns the hand model's rest axes into the camera frame; ``wrist`` is the wrist joint in the
    camera frame [m]; ``forearm`` is the unit vector from wrist to elbow there.
    """

    angles: Float[np.ndarray, "15 3"]
    global_orient: Float[np.ndarray, "3 3"]
    wrist: Float[np.ndarray, "3"]
    forearm: Float[np.ndarray, "3"]


class Motion:
    """Both hands as functions of time, the same for the same arguments.

    Args:
        seed: which motion.
        loop_seconds: its period [s].
        distance: nearest and farthest depth of the wrists [m].
        fov: horizontal field of view that the hands stay in [rad].
        aspect: width by height of the image.
        crossing: the hands go over to each other's side and back, ``ROUNDS`` times a loop, and pass without contact;
            in every other round the left hand is in front.

    Raises ConfigError for a distance or period that makes no sense.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        loop_seconds: float = 12.0,
        distance: tuple[float, float] = (0.50, 0.66),
        fov: float = 1.05,
        aspect: float = 16 / 9,
        crossing: bool = False,
    ) -> None:
        near, far = distance
        if not 0.2 <= near <= far <= 3.0:
            raise ConfigError(f"distance: expected 0.2 <= nearest <= farthest <= 3.0 m, got {distance}")
        if not 1.0 <= loop_seconds <= 600.0:
            raise ConfigError(f"loop_seconds: expected 1 to 600 s, got {loop_seconds}")
        self.loop_seconds = loop_seconds
        self._half_width = math.tan(fov / 2)
        self._half_height = self._half_width / aspect
        self._near, self._far, self._crossing = near, far, crossing
        generator = np.random.default_rng([seed, 0x68616E64])
        self._shows_back = seed > 0 and generator.random() < 0.25
        self._hands = Pair(*(_Script(generator, loop_seconds) for _ in range(2)))

    def at(self, t: float) -> Pair[HandState]:
        """Both hands at time ``t`` [s]."""
        right = self._right_hand(self._hands.right, t)
        left = _mirrored(self._right_hand(self._hands.left, t))
        return self._crossed(left, right, t / self.loop_seconds * ROUNDS) if self._crossing else Pair(left, right)

    def _crossed(self, left: HandState, right: HandState, rounds: float) -> Pair[HandState]:
        share = (1 - math.cos(2 * math.pi * rounds)) / 2
        early = 1 - (1 - share) ** 4  # one before the other before they meet
        front = -1.0 if math.floor(rounds) % 2 == 0 else 1.0
        depth = (left.wrist[2] + right.wrist[2]) / 2

        def moved(state: HandState, before: float) -> HandState:
            x, y, z = state.wrist
            beyond = -math.copysign(BEYOND, x)
            wrist = np.array([x + share * (beyond - x), y, z + early * (depth + before * PASSING / 2 - z)])
            return replace(state, wrist=wrist)

        return Pair(moved(left, front), moved(right, -front))

    def _right_hand(self, script: _Script, t: float) -> HandState:
        """A right hand in the left half of the image, as of a person who faces the camera."""
        phase = 2 * np.pi * t / self.loop_seconds
        x, y, z, tilt, lean, roll, bend, aside = script.waves(phase)
        depth = (self._near + self._far) / 2 + z * (self._far - self._near) / 2
        # The hand reaches 0.19 m above the wrist and the thumb 0.1 m to the middle; both stay in the picture.
        room = max(self._half_width * depth - 0.10, 0.105)
        across = np.clip(0.155 + 0.025 * x, 0.105, room)
        lowest = max(self._half_height * depth - 0.03, 0.07)
        down = min(0.085 + 0.022 * y, lowest)
        forearm = np.array([-0.26 + 0.10 * lean, 1.0, 0.30 + 0.15 * tilt])
        forearm /= np.linalg.norm(forearm)
        fingers = -forearm
        palm = np.array([0.0, 0.0, -1.0]) - fingers * -fingers[2]
        palm /= np.linalg.norm(palm)
        # Columns are where the rest hand's x (to the wrist), y (out of the back) and z (thumb side) go.
        arm = np.stack([-fingers, -palm, np.cross(fingers, palm)], axis=1)
        turn = 0.15 + 0.55 * roll + (np.pi if self._shows_back else 0.0)
        spun = axis_angle_to_matrix(forearm * turn) @ arm
        flexion, deviation = -0.22 + 0.28 * bend, 0.14 * aside
        if self._shows_back:
            flexion = 0.15 + 0.25 * bend
        orient = spun @ axis_angle_to_matrix(np.array([0.0, deviation, flexion]))
        return HandState(script.angles(t), orient, np.array([-across, down, depth]), forearm)


class _Script:
    """A loop of hand shapes with holds, and eight smooth periodic waves in [-1, 1]."""

    def __init__(self, generator: np.random.Generator, loop_seconds: float) -> None:
        self._loop = loop_seconds
        shapes: list[np.ndarray] = []
        wanted = max(2, round(loop_seconds / 1.05))
        while len(shapes) < wanted:
            shapes += [SHAPES[name] for name in SCRIPTS[int(generator.integers(len(SCRIPTS)))]]
        self._shapes = np.stack(shapes[:wanted])
        self._shapes = np.clip(
            self._shapes + generator.normal(0, 0.03, self._shapes.shape) * [0.0, 1.0, 1.0],
            *np.moveaxis(JOINT_LIMITS, -1, 0),
        )
        self._offset = generator.uniform(0, loop_seconds)
        # Fingers do not start together: the little finger leads or the index does.
        self._delays = np.repeat(generator.permutation(np.linspace(-0.05, 0.05, 5)), 3)
        self._orders = generator.integers(1, 3, (8, 2)) * [1, 2]
        self._phases = generator.uniform(0, 2 * np.pi, (8, 2))

    def waves(self, phase: float) -> Float[np.ndarray, "8"]:
        return (np.sin(self._orders * phase + self._phases) * [0.68, 0.32]).sum(1)

    def angles(self, t: float) -> Float[np.ndarray, "15 3"]:
        """Joint angles at time ``t`` [s]: hold, then move with zero speed at both ends."""
        u = ((t + self._offset + self._delays) / self._loop) % 1.0 * len(self._shapes)
        start = np.floor(u).astype(int) % len(self._shapes)
        s = np.clip((u - np.floor(u) - 0.25) / 0.75, 0, 1)
        s = (s**3 * (10 - 15 * s + 6 * s * s))[:, None]
        joint = np.arange(15)
        now, following = self._shapes[start, joint], self._shapes[(start + 1) % len(self._shapes), joint]
        return now + s * (following - now)


def _mirrored(state: HandState) -> HandState:
    """The left hand that a mirror across x = 0 shows."""
    sign = np.array([-1.0, 1.0, 1.0])
    orient = state.global_orient * np.outer(sign, sign)
    return HandState(state.angles, orient, state.wrist * sign, state.forearm * sign)
