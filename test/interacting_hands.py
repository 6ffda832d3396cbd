"""Two hands back to back, as far into each other as asked: scripted, not reconstructed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.hand import load_hand_models
from a2p_ros.torch_threads import single_thread
from a2p_ros.types import Box, HandPose, Pair, PlacedHand, Side

MODELS = load_hand_models()
_PRECISE = Pair(MODELS.left.to(torch.float64), MODELS.right.to(torch.float64))
CAMERA = CameraModel.assume(1280, 720, 1.05)
# Rest axes in the camera frame: fingers up, palm to the left, thumb towards the camera; the left hand mirrored.
_RIGHT = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_MIRROR = np.diag([-1.0, 1.0, 1.0])
PLACE = np.array([0.02, 0.05, 0.5])


def vertices_of(hand: PlacedHand) -> np.ndarray:
    """The mesh by the hand's own parameters (V, 3) [m], in double precision."""
    rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])
    inputs = (torch.as_tensor(x[None], dtype=torch.float64) for x in (hand.pose.betas, rotations, hand.transl))
    with single_thread():
        return _PRECISE[hand.side](*inputs).vertices[0].numpy()


def hand_at(
    side: Side, wrist: np.ndarray, rotations: np.ndarray, betas: np.ndarray, camera: CameraModel = CAMERA
) -> PlacedHand:
    """A hand of these parameters, seen where it is."""
    inputs = [torch.as_tensor(x[None], dtype=torch.float64) for x in (betas, rotations, np.zeros(3))]
    with single_thread():
        at_zero = _PRECISE[side].joints(*inputs)[0].numpy()
    joints = at_zero - at_zero[0] + wrist
    px = camera.project(joints)
    pose = HandPose(
        side=side,
        global_orient=rotations[0],
        hand_pose=rotations[1:],
        betas=betas,
        joints=joints - wrist,
        keypoints_px=px,
        keypoint_confidence=np.ones(21),
        confidence=0.9,
    )
    return PlacedHand(pose, np.asarray(wrist, float), joints, px, wrist - at_zero[0], Box.around(px))


def backs(
    gap: float,
    *,
    turn: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    camera: CameraModel = CAMERA,
) -> Pair[PlacedHand]:
    """Wrist joints ``gap`` [m] apart across the palms: 40 mm is apart, 26 mm some millimetres deep.

    With ``rng`` each joint is turned by 4 mrad and each wrist moved by 0.3 mm, 1 mm along the depth, at random.
    """
    found = {}
    for side in Side:
        orient = _RIGHT if side is Side.RIGHT else _MIRROR @ _RIGHT @ _MIRROR
        bend = Rotation.from_euler("z", 0.2 if side is Side.RIGHT else -0.2).as_matrix()
        rotations = np.concatenate([orient[None], np.tile(np.eye(3), (15, 1, 1))])
        rotations[1:13:3] = bend
        wrist = np.array([-gap / 2, 0.0, 0.0]) if side is Side.RIGHT else np.array([gap / 2, 0.006, 0.008])
        if turn is not None:
            rotations[0], wrist = turn @ rotations[0], turn @ wrist
        if rng is not None:
            rotations = rotations @ Rotation.from_rotvec(rng.normal(0, 0.004, (16, 3))).as_matrix()
            wrist = wrist + rng.normal(0, 1, 3) * [0.0003, 0.0003, 0.001]
        found[side] = hand_at(side, PLACE + wrist, rotations, np.zeros(10), camera)
    return Pair(found[Side.LEFT], found[Side.RIGHT])


def jittering(gaps: np.ndarray, seed: int = 0) -> Iterator[tuple[float, Pair[PlacedHand]]]:
    """(stamp, hands) at 30 Hz with fixed noise, one for each gap."""
    rng = np.random.default_rng(seed)
    for n, gap in enumerate(gaps):
        yield n / 30, backs(gap, rng=rng)
