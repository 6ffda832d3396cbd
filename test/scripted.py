"""Hands that are written down, not reconstructed: what `TwoHands` would be if the pipeline had seen them."""

from __future__ import annotations

import numpy as np
import torch

from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.hand import load_hand_models
from a2p_ros.types import Box, HandPose, Pair, PlacedHand, Side, Status, TwoHands

WIDTH, HEIGHT = 1280, 720
CAMERA = CameraModel.assume(WIDTH, HEIGHT, 1.05)

# Columns: where the rest axes x (wrist side), y (back), z (thumb side) of a right hand point in the camera frame, for
# a palm that faces the camera with the fingers up: back away from it, thumb to the image's right.
_RIGHT_UP = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def placed_hand(side: Side, wrist: tuple[float, float, float], curl: float = 0.3) -> tuple[PlacedHand, np.ndarray]:
    """A hand of the default model with its wrist there [m], and its vertices in the camera frame."""
    model = load_hand_models()[side]
    orient = _RIGHT_UP if side is Side.RIGHT else np.diag([-1.0, 1, 1]) @ _RIGHT_UP @ np.diag([-1.0, 1, 1])
    bend = curl if side is Side.RIGHT else -curl
    c, s = np.cos(bend), np.sin(bend)
    local = np.repeat(np.array([[[c, -s, 0], [s, c, 0], [0, 0, 1]]]), 15, axis=0)
    local[12:] = np.eye(3)
    rotations = torch.tensor(np.concatenate([orient[None], local])[None], dtype=torch.float32)
    betas, zero = torch.zeros(1, 10), torch.zeros(1, 3)
    at_zero = model.joints(betas, rotations, zero)[0, 0].numpy()
    transl = torch.tensor(np.asarray(wrist) - at_zero, dtype=torch.float32)[None]
    out = model(betas, rotations, transl)
    joints, vertices = (a[0].double().numpy() for a in (out.joints, out.vertices))
    px = CAMERA.project(joints)
    pose = HandPose(
        side=side,
        global_orient=orient,
        hand_pose=local,
        betas=np.zeros(10),
        joints=joints - joints[0],
        keypoints_px=px,
        keypoint_confidence=np.ones(21),
        confidence=0.9,
    )
    hand = PlacedHand(pose, joints[0], joints, px, transl[0].double().numpy(), Box.around(px), Status.TRACKED)
    return hand, vertices


def two_hands(left: PlacedHand | None, right: PlacedHand | None, stamp: float = 12.25) -> TwoHands:
    """Both or one of them as the pipeline would say it."""
    status = Pair(*(Status.NOT_DETECTED if hand is None else hand.status for hand in (left, right)))
    return TwoHands(
        stamp=stamp,
        left=left,
        right=right,
        status=status,
        interacting=False,
        repaired=False,
        penetration_before=0.0,
        penetration_after=0.0,
        metric_scale=False,
        model_id="scripted",
        hand_model="open_hand",
        latency=0.021,
    )


class ScriptedPipeline:
    """Answers a left hand on even frames and a right hand on all, without looking at the image."""

    model_id = "scripted"
    resets = 0

    def __init__(self, config=None) -> None:
        self.config = config or PipelineConfig()
        self.hand_models = load_hand_models()
        self._left, self._right = placed_hand(Side.LEFT, (-0.1, 0, 0.5))[0], placed_hand(Side.RIGHT, (0.1, 0, 0.5))[0]
        self._count = 0

    def __call__(self, image, camera, stamp) -> TwoHands:
        self._count += 1
        return two_hands(self._left if self._count % 2 else None, self._right, stamp)

    def mesh(self, hand):
        return placed_hand(hand.side, tuple(hand.wrist))[1]

    def warm_up(self) -> None:
        pass

    def reset(self) -> None:
        type(self).resets += 1
