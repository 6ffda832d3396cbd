"""Between the camera's frame and what the network sees in a crop, both ways.

The crop's view is that of a camera that looks along the ray of the crop's centre (``camera.rotation_to_ray``), turned
in the image plane as the crop is, x right, y down, z forward. In a mirrored crop, x is reversed, so that a left hand is
a right one: with M = diag(-1, 1, 1), points become M p and rotations M R M, also those of the fingers in their own
frames, because the left hand model is the right one mirrored.

The box around both hands is upright and not mirrored; its view is the ray of its centre alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel, rotation_to_ray
from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError
from a2p_ros.types import Box, RegressedHand

_MIRROR = np.diag([-1.0, 1.0, 1.0])
#: Edge of the box around both hands relative to the tight square of their joints.
UNION_SCALE = 1.2


@dataclass(frozen=True)
class ViewedHand:
    """One hand as the network is to see it in a crop: a right one, in the crop's view.

    ``keypoints`` are in crop edges from the crop's centre; ``joints`` and ``depth`` in metres from the wrist.
    """

    rotations: Float[np.ndarray, "16 3 3"]
    joints: Float[np.ndarray, "21 3"]
    keypoints: Float[np.ndarray, "21 2"]

    @property
    def depth(self) -> Float[np.ndarray, "21"]:
        """Depth from the wrist [m]."""
        return self.joints[:, 2]


@dataclass(frozen=True)
class UnionView:
    """The upright square around both hands: ``R_camera_view``, and its edge divided by the focal length."""

    box: Box
    rotation: Float[np.ndarray, "3 3"]
    width: float

    def keypoints(self, keypoints_px: Float[np.ndarray, "21 2"]) -> Float[np.ndarray, "21 2"]:
        """Pixels of the image -> edges of the box from its centre."""
        return (keypoints_px - self.box.centre) / self.box.size

    def to_view(self, relative: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """A vector of the camera frame in the box's view."""
        return self.rotation.T @ relative

    def to_camera(self, relative: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """A vector of the box's view in the camera frame."""
        return self.rotation @ relative


def crop_rotation(crop: Crop, camera: CameraModel) -> Float[np.ndarray, "3 3"]:
    """``R_camera_crop`` of a crop's view before any mirroring."""
    cos, sin = math.cos(crop.rotation), math.sin(crop.rotation)
    # The crop's x and y in the image plane: what its matrix takes to (1, 0) and (0, 1).
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return rotation_to_ray(camera, crop.centre) @ turn


def to_view(
    rotations: Float[np.ndarray, "16 3 3"],
    joints: Float[np.ndarray, "21 3"],
    keypoints_px: Float[np.ndarray, "21 2"],
    crop: Crop,
    camera: CameraModel,
) -> ViewedHand:
    """A hand of the camera frame (rotations of its own side's model) as the network sees it in a crop.

    Raises InputError where the camera's ray through the crop's centre is not finite.
    """
    turn = crop_rotation(crop, camera)
    if not np.isfinite(turn).all():
        raise InputError(f"crop at {crop.centre}: the camera has no ray there")
    seen = np.concatenate([(turn.T @ rotations[0])[None], rotations[1:]])
    points = (joints - joints[0]) @ turn
    if crop.mirrored:
        seen, points = _MIRROR @ seen @ _MIRROR, points @ _MIRROR
    return ViewedHand(seen, points, to_edges(crop.to_crop(keypoints_px), crop.resolution))


def to_camera(
    rotations: Float[np.ndarray, "16 3 3"], betas: Float[np.ndarray, "10"], crop: Crop, camera: CameraModel
) -> RegressedHand:
    """What the network said of a crop, for the model of the crop's side (left where it is mirrored), camera axes."""
    own = _MIRROR @ rotations @ _MIRROR if crop.mirrored else rotations
    return RegressedHand(crop_rotation(crop, camera) @ own[0], own[1:], np.asarray(betas, np.float64))


def to_edges(points: Float[np.ndarray, "*batch 2"], resolution: int) -> Float[np.ndarray, "*batch 2"]:
    """Pixels of a crop -> crop edges from its centre."""
    return (np.asarray(points, np.float64) + 0.5) / resolution - 0.5


def from_edges(points: Float[np.ndarray, "*batch 2"], resolution: int) -> Float[np.ndarray, "*batch 2"]:
    """Crop edges from the centre -> pixels of a crop."""
    return (np.asarray(points, np.float64) + 0.5) * resolution - 0.5


def union_view(
    left_px: Float[np.ndarray, "21 2"], right_px: Float[np.ndarray, "21 2"], camera: CameraModel
) -> UnionView:
    """The view of the box around both hands' keypoints [px].

    Raises InputError where they are not finite or all in one place.
    """
    points = np.concatenate([left_px, right_px])
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1e-6:
        raise InputError("union_view: expected finite keypoints of two hands, not all in one place")
    box = Box.around(points).squared().scaled(UNION_SCALE)
    return UnionView(box, rotation_to_ray(camera, box.centre), box.size / camera.focal)
