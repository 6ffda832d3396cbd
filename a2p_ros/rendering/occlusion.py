"""Ambient occlusion and soft shadow of hands, from spheres that stand for their volume.

Blurred depth, the usual trick, draws a dark outline round every hand that no real picture has; spheres do not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from a2p_ros.hand.topology import BONES

#: Radius of each bone's spheres [m], as the rows of ``BONES``.
_RADII = (0.013, 0.012, 0.0095, 0.0085, *(0.011, 0.0085, 0.0075, 0.0068) * 3, 0.0105, 0.0075, 0.0065, 0.0058)
#: Spheres of the forearm: distance from the wrist, radius [m].
_FOREARM = ((0.03, 0.020), (0.07, 0.025), (0.12, 0.030), (0.18, 0.036))
_STRENGTH = 0.8
#: Points at a time: what is computed of them stays in the processor's cache.
_BLOCK = 512
#: The palm's long bones hold four spheres, the first well inside the hand; the fingers' hold two.
_ON_BONES = [
    (a, b, t, radius)
    for (a, b), radius in zip(BONES, _RADII, strict=True)
    for t in ((0.25, 0.45, 0.70, 0.95) if a == 0 else (0.25, 0.75))
]
_STARTS, _ENDS = (np.array([sphere[i] for sphere in _ON_BONES]) for i in (0, 1))
_STEPS = np.array([sphere[2] for sphere in _ON_BONES])
_SPHERE_RADII = np.array([*(sphere[3] for sphere in _ON_BONES), *(radius for _, radius in _FOREARM)])


def occluders(
    joints: Float[np.ndarray, "21 3"], axis: Float[np.ndarray, "3"], scale: float = 1.0
) -> Float[np.ndarray, "n 4"]:
    """Spheres (centre, radius) [m] inside a hand with these joints and a forearm along ``axis``."""
    start, step = joints[_STARTS], joints[_ENDS] - joints[_STARTS]
    along = np.array([distance for distance, _ in _FOREARM])[:, None]
    centres = np.concatenate([start + _STEPS[:, None] * step, joints[0] + along * axis])
    return np.column_stack([centres, _SPHERE_RADII * scale])


def received_light(
    points: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    spheres: Float[np.ndarray, "n 4"],
    key_direction: Float[np.ndarray, "3"],
) -> Float32[np.ndarray, "v 2"]:
    """Parts of the surrounding light and of the key light that reach each point, in [0, 1].

    A sphere of radius r at distance d hides max(0, n.d / |d|) (r / |d|)^2 of the hemisphere (I. Quilez, "Sphere
    ambient occlusion"); spheres below the surface hide nothing, so a finger does not darken itself.
    """
    if not len(spheres):
        return np.ones((len(points), 2), np.float32)
    origin = spheres[:, :3].mean(0)
    p, c = (points - origin).astype(np.float32), (spheres[:, :3] - origin).astype(np.float32)
    n, r, key = normals.astype(np.float32), spheres[:, 3].astype(np.float32), key_direction.astype(np.float32)
    out = np.empty((len(p), 2), np.float32)
    for first in range(0, len(p), _BLOCK):
        block = slice(first, first + _BLOCK)
        out[block] = _received(p[block], n[block], c, r[:, None], key)
    return out


def _received(p: np.ndarray, n: np.ndarray, c: np.ndarray, r: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Of some points; arrays have a row a sphere, because numpy reduces over rows fast."""
    squared = np.maximum((c * c).sum(1)[:, None] + (p * p).sum(1) - 2 * c @ p.T, 1e-8)
    inverse = 1 / np.sqrt(squared)
    hidden = np.maximum(c @ n.T - (n * p).sum(1), 0)
    hidden *= inverse
    inverse *= r
    inverse *= inverse
    hidden *= np.minimum(inverse, 1.0, out=inverse)
    hidden *= -_STRENGTH
    hidden += 1
    along = (c @ key)[:, None] - p @ key
    squared -= along * along
    miss = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
    miss -= r
    # Behind the point a sphere does not shade it, however near the ray's line it lies.
    miss[along <= 0] = 1.0
    miss /= 0.28 * np.maximum(along, 0) + 0.004
    t = ((miss.min(0) + 0.35) / 1.25).clip(0, 1)
    return np.stack([np.prod(hidden, axis=0), t * t * (3 - 2 * t)], axis=1)
