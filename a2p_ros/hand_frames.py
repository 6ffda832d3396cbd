"""Where a hand is: the frame of its wrist, and the hand put at a point of the camera frame."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.torch_threads import single_thread
from a2p_ros.types import Box, HandPose, PlacedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: Wrists nearer or farther than this are taken for a failed reconstruction [m].
DEPTH_RANGE = (0.05, 10.0)
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


def placed_hand(
    pose: HandPose, wrist: Float[np.ndarray, "3"], camera: CameraModel, model: HandModel
) -> PlacedHand | None:
    """The hand with its wrist at a point of the camera frame [m]; None where no camera could see it so."""
    joints = wrist + pose.joints
    pixels = camera.project(joints)
    if not (DEPTH_RANGE[0] <= wrist[2] <= DEPTH_RANGE[1] and np.isfinite(pixels).all()):
        return None
    return PlacedHand(
        pose=pose,
        wrist=wrist,
        joints=joints,
        keypoints_px=pixels,
        transl=wrist - rest_wrist(model, pose.betas),
        box=Box.around(pixels),
    )


def hand_mesh(hand: PlacedHand, model: HandModel) -> Float32[np.ndarray, "vertices 3"]:
    """The surface of a hand of this model in the camera frame [m]; its faces are ``model.faces``."""
    rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])
    inputs = (torch.as_tensor(x[None]).to(model.template) for x in (hand.pose.betas, rotations, hand.transl))
    with torch.inference_mode(), single_thread():
        return model(*inputs).vertices[0].float().numpy()


def reposed(
    pose: HandPose, rotations: Float[np.ndarray, "16 3 3"], betas: Float[np.ndarray, "10"], model: HandModel
) -> HandPose:
    """The hand with other rotations, the global one first, and another shape; its ``landmarks`` go with the joints."""
    turns = torch.as_tensor(rotations[None]).to(model.template)
    joints = model.joints(torch.as_tensor(betas[None]).to(turns), turns, turns.new_zeros(1, 3))[0]
    relative = (joints - joints[:1]).double().cpu().numpy()
    return dataclasses.replace(
        pose,
        global_orient=rotations[0],
        hand_pose=rotations[1:],
        betas=betas,
        joints=relative,
        landmarks=None if pose.landmarks is None else relative + (pose.landmarks - pose.joints),
    )


def rest_wrist(model: HandModel, betas: Float[np.ndarray, "10"]) -> Float[np.ndarray, "3"]:
    """J0: the wrist of the shaped rest hand [m], what lies between MANO's ``transl`` and the wrist."""
    shaped = model.joint_template[0] + model.joint_shapedirs[0] @ torch.as_tensor(betas).to(model.joint_template)
    return shaped.double().numpy()
