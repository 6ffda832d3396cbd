"""Input to warm the later stages up with, before any image has come."""

from __future__ import annotations

import numpy as np
import torch

from a2p_ros.camera import CameraModel
from a2p_ros.hand import HandModel
from a2p_ros.types import Box, Detection, HandKeypoints, RegressedHand, Side


def made_up_keypoints(model: HandModel, camera: CameraModel) -> HandKeypoints:
    """What would be measured of the flat hand at half a metre, fingers up: only to warm up with."""
    up = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).to(model.template)
    rotations = torch.eye(3).to(model.template).repeat(1, 16, 1, 1)
    rotations[0, 0] = up
    joints = (
        model.joints(torch.zeros(1, 10).to(up), rotations, torch.tensor([[0.0, 0.0, 0.5]]).to(up))[0].double().numpy()
    )
    pixels = camera.project(joints)
    return HandKeypoints(
        detection=Detection(Box.around(pixels), 1.0),
        keypoints_px=pixels,
        keypoints_3d=joints - joints.mean(0),
        confidence=np.ones(21),
        presence=1.0,
        right=float(model.side is Side.RIGHT),
        crop_centre_px=Box.around(pixels).centre,
        regressed=RegressedHand(model.side, up.double().cpu().numpy(), np.tile(np.eye(3), (15, 1, 1)), np.zeros(10)),
    )
