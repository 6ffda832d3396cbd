"""The frame that is published for a hand's wrist."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import InputError
from a2p_ros.types import Side

_INDEX_BASE, _MIDDLE_BASE, _LITTLE_BASE = 5, 9, 17


def wrist_frame(joints: Float[np.ndarray, "21 3"], side: Side) -> Float[np.ndarray, "3 3"]:
    """``R_camera_wrist`` of a hand's 21 joints [m], in whatever frame the joints are.

    Right-handed on both hands, origin at the wrist: x towards the middle finger's base, z out of
    the back of the hand, made orthogonal to x, y = z x x (thumb side on a right hand,
    little-finger side on a left one). All of it follows from points of the palm, so bending
    fingers does not turn it. It is not MANO's global rotation.

    Raises InputError where wrist and finger bases lie on one line or are not finite.
    """
    index, middle, little = (joints[i] - joints[0] for i in (_INDEX_BASE, _MIDDLE_BASE, _LITTLE_BASE))
    back = np.cross(little, index) if side is Side.RIGHT else np.cross(index, little)
    along = float(np.linalg.norm(middle))
    x = middle / max(along, 1e-12)
    z = back - (back @ x) * x
    height = float(np.linalg.norm(z))
    if not (along > 1e-6 and height > 1e-9):
        raise InputError("wrist_frame: expected finite joints whose wrist and finger bases span a plane")
    z = z / height
    return np.stack([x, np.cross(z, x), z], axis=1)
