"""Which parts of an image meshes can cover: on a CPU the pixels are the cost of rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel

_MARGIN = 3


class Rect(NamedTuple):
    """Pixels x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def meets(self, other: Rect) -> bool:
        """Whether the two share a pixel."""
        return min(self.x1, other.x1) > max(self.x0, other.x0) and min(self.y1, other.y1) > max(self.y0, other.y0)

    def around(self, other: Rect) -> Rect:
        """The smallest rectangle that holds both."""
        return Rect(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))


def covered(
    meshes: Sequence[Float[np.ndarray, "v 3"]], camera: CameraModel, nearest: float
) -> list[tuple[Rect, list[int]]]:
    """Disjoint rectangles of the image that hold all that can be seen, each with the indices of its meshes.

    A mesh (vertices in the camera frame [m]) that comes closer than ``nearest`` [m] may be seen anywhere.
    """
    rects: list[tuple[Rect, list[int]]] = []
    for index, vertices in enumerate(meshes):
        if (vertices[:, 2] <= nearest).any():
            return [(Rect(0, 0, camera.width, camera.height), list(range(len(meshes))))]
        x, y = camera.project(vertices).T
        x0, x1 = np.clip([x.min() - _MARGIN, x.max() + _MARGIN], 0, camera.width).astype(int)
        y0, y1 = np.clip([y.min() - _MARGIN, y.max() + _MARGIN], 0, camera.height).astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        new, inside = Rect(int(x0), int(y0), int(x1), int(y1)), [index]
        while meeting := next((old for old in rects if old[0].meets(new)), None):
            rects.remove(meeting)
            new, inside = new.around(meeting[0]), sorted(inside + meeting[1])
        rects.append((new, inside))
    return rects
