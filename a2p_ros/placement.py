"""Where the hands are in the camera frame, in metres, from their size and what the image shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.hand_frames import placed_hand
from a2p_ros.translation import Apart, solve_translation, solve_translations
from a2p_ros.types import HandPose, Pair, PlacedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

__all__ = ["Apart", "place", "solve_translation", "solve_translations"]


def place(
    poses: Pair[HandPose | None],
    camera: CameraModel,
    models: Pair[HandModel],
    apart: Apart | None = None,
) -> Pair[PlacedHand | None]:
    """Put hands into the camera frame; None stays None.

    ``apart`` is the predicted relative translation where a network supplies one. A hand whose
    wrist would lie outside ``hand_frames.DEPTH_RANGE`` or partly behind the camera is None: rejected.
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
                [pose.joints if pose.landmarks is None else pose.landmarks for pose in found],
                [camera.rays(pose.keypoints_px) for pose in found],
                [pose.keypoint_confidence for pose in found],
                apart if len(found) == 2 else None,
            )
        except InputError:
            continue
        for pose, wrist in zip(found, wrists, strict=True):
            placed[pose.side] = placed_hand(pose, wrist, camera, models[pose.side])
    return Pair(placed[Side.LEFT], placed[Side.RIGHT])
