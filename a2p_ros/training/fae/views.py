"""Labels of many crops at once, from the camera frame into each crop's view.

The same geometry as `network.geometry`, which run time uses for one crop at a time; the tests hold one to the other and
both to OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from a2p_ros.camera import CameraModel, rotation_along
from a2p_ros.cropping import Crop
from a2p_ros.types import Box

#: Rays are kept at these places of a kept crop, from its centre [edges], in x and y.
RAY_GRID = (-0.25, 0.0, 0.25)


@dataclass(frozen=True)
class ViewLabels:
    """Labels of n crops, of a right hand in crop view: x right and y down in the crop, z forward.

    ``keypoints`` [crop edges, 0 = centre], ``joints`` relative to the wrist [m], ``rotations`` of the right hand model,
    the first in crop view; ``to_image`` takes keypoints to the frame's pixels.
    """

    keypoints: Float[np.ndarray, "n 21 2"]
    joints: Float[np.ndarray, "n 21 3"]
    rotations: Float[np.ndarray, "n 16 3 3"]
    to_image: Float[np.ndarray, "n 2 3"]


def labels_in_view(records: np.ndarray, crops: Sequence[Crop]) -> ViewLabels:
    """Labels of crops that were cut near the packed ones of ``records`` (``packing.CROP_RECORD``)."""
    mirrored = np.array([crop.mirrored for crop in crops])
    turns = np.array([crop.rotation for crop in crops])
    view = crop_views(rays_at(records, np.array([crop.centre for crop in crops])), turns, mirrored)
    resolutions = np.array([crop.resolution for crop in crops])[:, None, None]
    matrices, inverses = (np.stack([getattr(crop, name) for crop in crops]) for name in ("matrix", "inverse"))
    pixels = np.einsum("nij,nkj->nki", matrices[:, :, :2], records["keypoints_px"]) + matrices[:, None, :, 2]
    # Pixel p of a crop of r pixels lies at (p + 0.5) / r - 0.5.
    linear = inverses[:, :, :2] * resolutions
    offset = inverses[:, :, 2] + linear.sum(-1) / 2 - inverses[:, :, :2].sum(-1) / 2
    joints = records["joints"] - records["joints"][:, :1]
    return ViewLabels(
        (pixels + 0.5) / resolutions - 0.5,
        np.einsum("nij,nkj->nki", view, joints),
        _of_right_hand(view, records["rotations"], mirrored),
        np.concatenate([linear, offset[..., None]], -1),
    )


def crop_views(
    rays: Float[np.ndarray, "n 2"], turns: Float[np.ndarray, "n"], mirrored: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "n 3 3"]:
    """Camera axes -> crop view, of crops whose centres have these rays (x/z, y/z), turned [rad], perhaps mirrored."""
    along = rotation_along(np.concatenate([rays, np.ones((len(rays), 1))], -1))
    cos, sin, one, zero = np.cos(turns), np.sin(turns), np.ones(len(turns)), np.zeros(len(turns))
    flip = np.where(mirrored, -1.0, 1.0)
    turn = np.stack([flip * cos, flip * sin, zero, -sin, cos, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    return turn @ np.swapaxes(along, 1, 2)


def relative_in_view(relative: Float[np.ndarray, "n 3"], rays: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Translations in camera axes -> in the view along rays, not turned in the plane."""
    upright = crop_views(rays, np.zeros(len(rays)), np.zeros(len(rays), bool))
    return np.einsum("nij,nj->ni", upright, relative)


def ray_grid(camera: CameraModel, crop: Crop) -> Float[np.ndarray, "3 3 2"]:
    """Rays (x/z, y/z) of the camera at `RAY_GRID` of a crop as it lies unturned in the frame (rows y, columns x)."""
    steps = np.array(RAY_GRID) * crop.size
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(9, 2) + crop.centre
    return camera.rays(grid).reshape(3, 3, 2)


def rays_at(records: np.ndarray, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Rays of one pixel near each packed crop's centre: a quadratic through the crop's grid of rays.

    Lenses bend by less than that leaves out: 0.02 degrees over a shift of a quarter of the crop.
    """
    x, y = ((points - records["centre"]) / records["size"][:, None]).T
    return np.einsum("ni,nj,nijk->nk", _quadratic(y), _quadratic(x), records["rays"])


def union_ray(camera: CameraModel, keypoints_px: Sequence[Float[np.ndarray, "21 2"]]) -> Float[np.ndarray, "2"]:
    """Ray of the centre of the box around all keypoints of a frame; that of the camera's axis where there are none."""
    if not keypoints_px:
        return np.zeros(2)
    return camera.rays(np.array([Box.around(np.concatenate(keypoints_px)).centre]))[0]


def _quadratic(t: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """Weights of the values at `RAY_GRID` for a value at ``t`` (Lagrange)."""
    t = t / RAY_GRID[2]
    return np.stack([t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2], -1)


def _of_right_hand(
    view: Float[np.ndarray, "n 3 3"], rotations: Float[np.ndarray, "n 16 3 3"], mirrored: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "n 16 3 3"]:
    """Rotations of the side's own model, the first in camera axes -> of the right hand's model, in crop view.

    A left hand is M times a right one (M mirrors x), so its global rotation R becomes V R M, where V mirrors too, and
    those of its joints become M R M.
    """
    flips = np.where(mirrored[:, None], [-1.0, 1.0, 1.0], 1.0)
    out = rotations * flips[:, None, None, :]
    out[:, 0] = view @ out[:, 0]
    out[:, 1:] *= flips[:, None, :, None]
    return out
