"""Hand shapes of the scenes: the taxonomy of ``hand_poses``, counting, gestures, and anything joints allow.

Joint angles are those of ``a2p_ros.hand.limits``: (15, 3) twist, flexion, abduction [rad], MANO's order.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.hand.limits import JOINT_LIMITS
from a2p_ros.training.hand_poses import DIP_PER_PIP, GRASPS, INDEX, LITTLE, MIDDLE, RING, THUMB, vary

_STRAIGHT, _CURLED, _BENT = (2.0, 5.0, 3.0), (78.0, 95.0, 55.0), (35.0, 40.0, 22.0)
#: Thumbs: twist, flexion and abduction of the base, flexion of the next two joints [deg].
_OUT, _ACROSS, _ALONG = (0.0, -12.0, -18.0, 0.0, 0.0), (-4.0, 31.0, 14.0, 25.0, 30.0), (0.0, 0.0, -25.0, 5.0, 5.0)
_RING = (-7.0, 42.0, 17.0, 5.0, 0.0)


def _shape(
    straight: str = "",
    thumb: tuple[float, float, float, float, float] = _ACROSS,
    spread: float = 6.0,
    bent: str = "",
) -> Float[np.ndarray, "15 3"]:
    """Angles of a hand whose fingers i, m, r, l are straight, half bent or, else, curled; ``spread`` [deg]."""
    angles = np.zeros((15, 3))
    fan = (1.0, 0.15, -0.5, -1.0)
    for letter, slot, share in zip("imrl", (INDEX, MIDDLE, RING, LITTLE), fan, strict=True):
        flexion = _STRAIGHT if letter in straight else _BENT if letter in bent else _CURLED
        angles[3 * slot : 3 * slot + 3, 1] = flexion
        angles[3 * slot, 2] = spread * share if letter in straight + bent else 0.0
    base = 3 * THUMB
    angles[base] = thumb[:3]
    angles[base + 1 : base + 3, 1] = thumb[3:]
    return np.deg2rad(angles)


#: Beyond the taxonomy: counting with and without the thumb, and gestures.
GESTURES: dict[str, Float[np.ndarray, "15 3"]] = {
    "count_three": _shape("imr", spread=9),
    "count_four": _shape("imrl", spread=9),
    "count_five": _shape("imrl", _OUT, 12),
    "thumb_index": _shape("i", _OUT),
    "thumb_index_middle": _shape("im", _OUT, 9),
    "little_finger": _shape("l"),
    "horns": _shape("il", spread=9),
    "telephone": _shape("l", _OUT),
    "ok": _shape("mrl", _RING, 10, bent="i"),
    "key": _shape(bent="", thumb=(0.0, 12.0, -20.0, 10.0, 15.0)),
    "claw": _shape("", _OUT, 14, bent="imrl"),
    "half_closed": _shape("", _ALONG, 4, bent="imrl"),
}
#: Pinches with the other fingers nearly straight: flexion of the finger that meets the thumb, and the thumb, solved so
#: that the two joints at the tips are 13 mm apart, a finger's thickness [deg].
_PINCHES = {
    "i": ("index", INDEX, (54.0, 45.0, 27.0), (-8.0, 39.0, 19.0, 8.0, 4.0)),
    "m": ("middle", MIDDLE, (54.0, 45.0, 27.0), (-8.0, 42.0, 19.0, 10.0, 5.0)),
    "r": ("ring", RING, (52.0, 47.0, 28.0), (-6.0, 48.0, 25.0, 12.0, 6.0)),
    "l": ("little", LITTLE, (49.0, 42.0, 25.0), (-1.0, 52.0, 28.0, 19.0, 9.0)),
}
for _letter, (_name, _slot, _bend, _thumb) in _PINCHES.items():
    GESTURES[f"pinch_{_name}"] = _shape("imrl".replace(_letter, ""), _thumb, 8)
    GESTURES[f"pinch_{_name}"][3 * _slot : 3 * _slot + 3, 1] = np.deg2rad(_bend)
GESTURES["ok"][0:3, 1] = np.deg2rad((52.0, 50.0, 28.0))
GESTURES["claw"][:12, 1] = np.deg2rad(np.tile((5.0, 65.0, 45.0), 4))

SHAPES: dict[str, Float[np.ndarray, "15 3"]] = {
    **{name: angles.numpy().astype(np.float64) for name, angles in GRASPS.items()},
    **GESTURES,
}
#: Any fingers, each bent by its own amount.
ANYHOW = "anyhow"
#: How often each shape is drawn: what people do most comes most.
WEIGHTS: dict[str, float] = {
    **dict.fromkeys(SHAPES, 1.0),
    "relaxed": 3.0,
    "flat": 1.5,
    "spread": 2.0,
    "fist": 2.0,
    "pinch": 2.0,
    "pinch_index": 2.0,
    "tripod": 1.5,
    "point": 2.0,
    "half_closed": 1.5,
    ANYHOW: 5.0,
}
#: Shapes whose fingers hold something, and whether it lies across the palm (else between the fingertips).
HOLDING: dict[str, bool] = {
    **dict.fromkeys(("cup", "wrap", "grip", "claw", "relaxed", "half_closed"), True),
    **dict.fromkeys(("pinch", "pinch_index", "tripod"), False),
}


def draw_shape(generator: np.random.Generator, name: str = "") -> tuple[str, Float[np.ndarray, "15 3"]]:
    """A name (drawn by ``WEIGHTS`` unless given) and a varied hand of that shape, drawn towards another a little."""
    if not name:
        names = list(WEIGHTS)
        weights = np.array(list(WEIGHTS.values()))
        name = names[int(generator.choice(len(names), p=weights / weights.sum()))]
    if name == ANYHOW:
        angles = _anyhow(generator)
    else:
        other = list(SHAPES.values())[int(generator.integers(len(SHAPES)))]
        share = 0.3 * generator.random() ** 2 if generator.random() < 0.5 else 0.0
        angles = SHAPES[name] + share * (other - SHAPES[name])
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))
    return name, vary(torch.from_numpy(angles).float()[None], noise)[0].numpy().astype(np.float64)


def _anyhow(generator: np.random.Generator) -> Float[np.ndarray, "15 3"]:
    """Each finger somewhere between straight and curled, neighbours alike half the time."""
    low, high = np.moveaxis(JOINT_LIMITS, -1, 0)
    angles = np.zeros((15, 3))
    together = generator.random()
    common = generator.beta(0.7, 0.9, 2)
    for slot in (INDEX, MIDDLE, RING, LITTLE):
        own = generator.beta(0.6, 0.8, 2)
        base, middle = common + (own - common) * (together > 0.5)
        angles[3 * slot : 3 * slot + 3, 1] = np.deg2rad((85 * base - 5, 100 * middle, DIP_PER_PIP * 90 * middle))
        angles[3 * slot, 2] = generator.normal(0, 0.06)
    b = 3 * THUMB
    angles[b : b + 3] = low[b : b + 3] + generator.beta(2.0, 2.0, (3, 3)) * (high - low)[b : b + 3]
    return angles
