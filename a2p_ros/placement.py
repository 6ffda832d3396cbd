"""Where the hands are in the camera frame, in metres, from their size and what the image shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.translation import Apart, solve_translation, solve_translations
from a2p_ros.types import Box, HandPose, Pair, PlacedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

__all__ = ["DEPTH_RANGE", "Apart", "place", "placed_hand", "rest_wrist", "solve_translation", "solve_translations"]

#: Wrists nearer or farther than this are taken for a failed reconstruction [m].
DEPTH_RANGE = (0.05, 10.0)


def place(
    poses: Pair[HandPose | None],
    camera: CameraModel,
    models: Pair[HandModel],
    apart: Apart | None = None,
) -> Pair[PlacedHand | None]:
    """Put hands into the camera frame; None stays None.

    ``apart`` is the predicted relative translation where a network supplies one. A hand whose
    wrist would lie outside ``DEPTH_RANGE`` or partly behind the camera is None: rejected.
    """
    groups = [[Side.LEFT], [Side.RIGHT]]
    if apart is not None and poses.left is not None and poses.right is not None:
        groups = [[Side.LEFT, Side.RIGHT]]
    placed: dict[Side, PlacedHand | None] = {Side.LEFT: None, Side.RIGHT: None}
    for sides in groups:
        found = [pose for side in sides if (pose := poses[side]) is not None]
        if not found:
            continue
        try:
            wrists = solve_translations(
                [pose.joints for pose in found],
                [camera.rays(pose.keypoints_px) for pose in found],
                [pose.keypoint_confidence for pose in found],
                apart if len(found) == 2 else None,
            )
        except InputError:
            continue
        for pose, wrist in zip(found, wrists, strict=True):
            placed[pose.side] = placed_hand(pose, wrist, camera, models[pose.side])
    return Pair(placed[Side.LEFT], placed[Side.RIGHT])


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


def rest_wrist(model: HandModel, betas: Float[np.ndarray, "10"]) -> Float[np.ndarray, "3"]:
    """J0: the wrist of the shaped rest hand [m], what lies between MANO's ``transl`` and the wrist."""
    shaped = model.joint_template[0] + model.joint_shapedirs[0] @ torch.as_tensor(betas).to(model.joint_template)
    return shaped.double().numpy()
