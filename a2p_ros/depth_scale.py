"""The user's hand length from a depth image aligned with the colour image.

One camera cannot tell a small hand that is near from a large one that is far: both cast the same
picture, all of whose depths differ by one factor. A depth image measures that factor wherever it
sees the hand's surface.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.types import PlacedHand

#: Hands measured before the length is set anew; after the last it stays, so that bones keep their length.
UPDATES = (10, 30, 90)
#: Fewer surface points than this say nothing [points].
MIN_POINTS = 40
#: Half of the points must agree on the factor to this share, or the depth image shows something else.
MAX_SPREAD = 0.08
#: No adult's or child's hand is shorter or longer, wrist joint to middle fingertip [m].
LENGTH_RANGE = (0.10, 0.25)


class DepthScale:
    """Hand length [m] by the median over surface points of a hand, then over hands.

    ``length`` is 0 until `UPDATES[0]` hands have been measured.
    """

    def __init__(self) -> None:
        self.length = 0.0
        self._measured: list[float] = []

    @property
    def frozen(self) -> bool:
        """Whether the length has been settled."""
        return len(self._measured) >= UPDATES[-1]

    def reset(self) -> None:
        """Forget the person."""
        self.length = 0.0
        self._measured.clear()

    def add(
        self,
        hand: PlacedHand,
        length: float,
        mesh: Callable[[PlacedHand], Float[np.ndarray, "vertices 3"]],
        faces: Int[np.ndarray, "faces 3"],
        camera: CameraModel,
        depth: Float[np.ndarray, "height width"],
    ) -> None:
        """Take in what a depth image says about a hand.

        Args:
            hand: as placed by assuming ``length``.
            length: wrist to middle fingertip of that hand as assumed [m].
            mesh: the hand's surface in the camera frame [m].
            faces: of that surface, counter-clockwise from outside.
            camera: of both images.
            depth: along z [m], one value for each pixel of the colour image; 0 or NaN = not measured.

        Raises InputError where the depth image is not of the camera's size.
        """
        check_depth(depth, camera)
        if self.frozen:
            return
        factor = scale_factor(mesh(hand), faces, camera, depth)
        if factor is None or not LENGTH_RANGE[0] <= factor * length <= LENGTH_RANGE[1]:
            return
        self._measured.append(factor * length)
        if len(self._measured) in UPDATES:
            self.length = float(np.median(self._measured))


def check_depth(depth: Float[np.ndarray, "height width"], camera: CameraModel) -> None:
    """Raise InputError unless a depth image has one value for each pixel of the camera's image."""
    if depth.shape != (camera.height, camera.width):
        got = " x ".join(map(str, reversed(depth.shape))) or "a single number"
        raise InputError(
            f"depth: expected an image aligned with the {camera.width} x {camera.height} colour image, "
            f"got {got}; use the camera driver's aligned or registered depth topic"
        )


def scale_factor(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    camera: CameraModel,
    depth: Float[np.ndarray, "height width"],
) -> float | None:
    """Measured depth over the surface's depth [1], median over vertices that face the camera; None if unclear.

    Parts of the hand that hide behind others, and a mesh that is not quite on the image, are outliers
    that the median leaves out as long as they are the minority.
    """
    edges = vertices[faces[:, 1:]] - vertices[faces[:, :1]]
    facing = (np.cross(edges[:, 0], edges[:, 1]) * vertices[faces[:, 0]]).sum(1) < 0
    front = vertices[np.unique(faces[facing])]
    pixels = np.rint(camera.project(front))
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < depth.shape[1]) & (pixels[:, 1] < depth.shape[0])
    column, row = pixels[inside].astype(int).T
    ratio = depth[row, column] / front[inside, 2]
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if len(ratio) < MIN_POINTS:
        return None
    low, middle, high = np.percentile(ratio, [25, 50, 75])
    return float(middle) if (high - low) / middle <= 2 * MAX_SPREAD else None
