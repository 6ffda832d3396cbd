"""What a synthetic source gives: pictures, and what was drawn in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.types import Box, Image, Pair, Side


@dataclass(frozen=True)
class HandTruth:
    """What was drawn of one hand, camera frame [m].

    ``global_orient``, ``hand_pose`` (axis-angle [rad], flat hand at zero), ``betas`` and ``transl`` are the
    parameters of the hand model of ``side``; ``transl`` is MANO's, not the wrist. ``keypoints_px`` are the joints
    (OpenPose order) projected into the image [px] and ``box`` is tight around them. ``vertices`` are the model's.
    """

    side: Side
    joints: Float[np.ndarray, "21 3"]
    vertices: Float[np.ndarray, "v 3"]
    global_orient: Float[np.ndarray, "3"]
    hand_pose: Float[np.ndarray, "45"]
    betas: Float[np.ndarray, "10"]
    transl: Float[np.ndarray, "3"]
    keypoints_px: Float[np.ndarray, "21 2"]
    box: Box

    @property
    def wrist(self) -> Float[np.ndarray, "3"]:
        """The wrist joint [m]."""
        return self.joints[0]


@dataclass(frozen=True)
class SyntheticFrame:
    """One picture, its time since the start [s], its camera and what was drawn (None: from a clip without truth)."""

    image: Image
    stamp: float
    camera: CameraModel
    truth: Pair[HandTruth] | None
