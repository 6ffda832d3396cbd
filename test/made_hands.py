"""Hands of known pose, made by smplx, scipy and OpenCV: a path that shares no code with the fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

import a2p_ros.hand
from a2p_ros.camera import CameraModel
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.limits import JOINT_LIMITS, joint_axes
from a2p_ros.types import Box, Detection, HandKeypoints, Side

ASSETS = Path(a2p_ros.hand.__file__).parent / "assets"
MODELS = load_hand_models()
MIRROR = np.diag([-1.0, 1.0, 1.0])
NO_SHIFT = np.zeros((21, 3))
#: OpenPose 21 from smplx's 16 joints followed by thumb, index, middle, ring, little tip.
FROM_SMPLX = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


@dataclass(frozen=True)
class MadeHand:
    """A hand in the camera frame [m] and the parameters that made it."""

    side: Side
    joints: np.ndarray
    root: np.ndarray
    rotations: np.ndarray
    transl: np.ndarray
    betas: np.ndarray

    @property
    def wrist(self) -> np.ndarray:
        """Wrist joint [m]."""
        return self.joints[0]


@lru_cache(maxsize=2)
def peer(side: Side) -> Any:
    """smplx's own model of the open hand."""
    smplx = __import__("smplx")
    return smplx.MANO(str(ASSETS), is_rhand=side is Side.RIGHT, use_pca=False, flat_hand_mean=True, ext="npz")


def smplx_joints(
    side: Side, root: np.ndarray, rotations: np.ndarray, transl: np.ndarray, betas: np.ndarray
) -> np.ndarray:
    """The 21 joints by smplx's forward pass, OpenPose order [m]."""
    vectors = Rotation.from_matrix(np.concatenate([root[None], rotations])).as_rotvec()
    values = {"betas": betas, "global_orient": vectors[0], "hand_pose": vectors[1:].reshape(45), "transl": transl}
    with torch.no_grad():
        out = peer(side)(**{name: torch.as_tensor(v, dtype=torch.float32)[None] for name, v in values.items()})
    tips = out.vertices[0, list(MODELS[side].tip_vertices)]
    return torch.cat([out.joints[0], tips])[FROM_SMPLX].double().numpy()


def finger_rotations(side: Side, rng: np.random.Generator, strength: float = 0.8) -> np.ndarray:
    """Joint rotations within human limits (15, 3, 3); ``strength`` 0 = the middle of each range."""
    rest = smplx_joints(Side.RIGHT, np.eye(3), np.tile(np.eye(3), (15, 1, 1)), np.zeros(3), np.zeros(10))
    axes = joint_axes(rest)
    middle, half = JOINT_LIMITS.mean(-1), np.ptp(JOINT_LIMITS, axis=-1) / 2
    angles = middle + strength * half * rng.uniform(-1, 1, (15, 3)) * [0.3, 1, 0.7]
    local = Rotation.from_euler("ZYX", angles[:, ::-1]).as_matrix()
    right = axes @ local @ np.swapaxes(axes, 1, 2)
    return right if side is Side.RIGHT else MIRROR @ right @ MIRROR


def make_hand(
    side: Side,
    rng: np.random.Generator,
    camera: CameraModel,
    *,
    pixel: tuple[float, float] | None = None,
    depth: float = 0.5,
    betas: np.ndarray | None = None,
    root: np.ndarray | None = None,
    strength: float = 0.8,
) -> MadeHand:
    """A hand whose middle is seen near ``pixel`` (default: somewhere in the middle half of the image)."""
    betas = np.zeros(10) if betas is None else betas
    root = Rotation.random(random_state=rng.integers(2**31)).as_matrix() if root is None else root
    rotations = finger_rotations(side, rng, strength)
    middle = np.array([camera.width, camera.height]) / 2.0
    seen = middle + rng.uniform(-0.5, 0.5, 2) * middle if pixel is None else np.array(pixel, float)
    ray = cv2.undistortPoints(seen[None, None], camera.K, np.array(camera.d) if camera.d else None)[0, 0]
    transl = np.array([*ray, 1.0]) * depth
    transl = transl + depth * np.array([*ray, 1.0]) - smplx_joints(side, root, rotations, transl, betas).mean(0)
    return MadeHand(side, smplx_joints(side, root, rotations, transl, betas), root, rotations, transl, betas)


def seen_by(
    hand: MadeHand,
    camera: CameraModel,
    rng: np.random.Generator | None = None,
    *,
    noise_px: float = 0.0,
    noise_3d: float = 0.0,
    scale: float = 1.1,
) -> HandKeypoints:
    """What a landmark stage would say of it: exact projection, and 3D points in the axes of the crop's ray.

    ``noise_px`` is relative to the hand's box, ``noise_3d`` in metres.
    """
    coefficients = np.array(camera.d) if camera.d else None
    pixels = cv2.projectPoints(hand.joints, np.zeros(3), np.zeros(3), camera.K, coefficients)[0][:, 0]
    box = Box.around(pixels)
    x, y = cv2.undistortPoints(np.array([[box.centre]]), camera.K, coefficients)[0, 0]
    angle = np.arctan(np.hypot(x, y))
    turn = Rotation.from_rotvec(angle * np.array([-y, x, 0]) / max(np.hypot(x, y), 1e-12)).as_matrix()
    points = (hand.joints - hand.joints.mean(0)) @ turn * scale
    if rng is not None:
        pixels = pixels + rng.normal(0, noise_px * box.size, (21, 2))
        points = points + rng.normal(0, max(noise_3d, 1e-12), (21, 3))
    right = float(hand.side is Side.RIGHT)
    return HandKeypoints(Detection(box, 0.9, right), pixels, points, np.ones(21), 0.95, right, box.centre)
