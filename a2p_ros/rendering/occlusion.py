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


def occluders(
    joints: Float[np.ndarray, "21 3"], axis: Float[np.ndarray, "3"], scale: float = 1.0
) -> Float[np.ndarray, "n 4"]:
    """Spheres (centre, radius) [m] inside a hand with these joints and a forearm along ``axis``."""
    spheres = []
    for (a, b), radius in zip(BONES, _RADII, strict=True):
        # The palm's long bones hold four spheres, the first well inside the hand; the fingers' hold two.
        steps = (0.25, 0.45, 0.70, 0.95) if a == 0 else (0.25, 0.75)
        spheres += [(*(joints[a] + t * (joints[b] - joints[a])), radius * scale) for t in steps]
    spheres += [(*(joints[0] + distance * axis), radius * scale) for distance, radius in _FOREARM]
    return np.array(spheres)


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
    squared = np.maximum((p * p).sum(1)[:, None] + (c * c).sum(1) - 2 * p @ c.T, 1e-8)
    facing = np.maximum(n @ c.T - (n * p).sum(1)[:, None], 0) / np.sqrt(squared)
    hidden = facing * np.minimum(r * r / squared, 1.0)
    ambient = np.prod(1 - _STRENGTH * hidden, axis=1)
    along = (c @ key) - (p @ key)[:, None]
    miss = np.sqrt(np.maximum(squared - along * along, 0)) - r
    t = np.clip((miss / (0.28 * np.maximum(along, 0) + 0.004) + 0.35) / 1.25, 0, 1)
    lit = np.where(along > 0, t * t * (3 - 2 * t), 1.0).min(1)
    return np.stack([ambient, lit], axis=1)
