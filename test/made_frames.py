"""Labelled frames that are drawn by OpenCV: a path that shares no code with the engine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from made_hands import MadeHand, make_hand

from a2p_ros.camera import CameraModel
from a2p_ros.training.synthetic.samples import Frame, HandLabel, ShardWriter, part_id
from a2p_ros.types import Box, Pair, Side

CAMERA = CameraModel(256, 192, 240.0, 250.0, 120.0, 99.0)
#: With a lens that bends by several pixels at the corners.
LENS = CameraModel(256, 192, 200.0, 205.0, 130.0, 90.0, "plumb_bob", (-0.25, 0.06, 0.002, -0.001))


def projected(points: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Pixels of points in the camera frame (..., 3)."""
    coefficients = np.array(camera.d) if camera.d else None
    return cv2.projectPoints(points.reshape(-1, 3), np.zeros(3), np.zeros(3), camera.K, coefficients)[0][:, 0]


def label(hand: MadeHand, camera: CameraModel = CAMERA) -> HandLabel:
    points = projected(hand.joints, camera)
    return HandLabel(
        side=hand.side,
        rotations=np.concatenate([hand.root[None], hand.rotations]).astype(np.float32),
        betas=hand.betas.astype(np.float32),
        transl=hand.transl.astype(np.float32),
        joints=hand.joints.astype(np.float32),
        keypoints_px=points.astype(np.float32),
        visible=np.ones(21, bool),
        box=Box.around(points),
        visible_share=1.0,
    )


@lru_cache(maxsize=256)
def drawn(number: int, camera: CameraModel = CAMERA, *, maps: bool = False) -> Frame:
    """Bones as thick lines on a gradient; the first frame has no hand, every third one hand.

    With ``maps``, all bones of a hand are its palm, at the depth of its wrist.
    """
    rng = np.random.default_rng(number)
    image = np.full((camera.height, camera.width, 3), rng.integers(0, 100, 3), np.uint8)
    parts = np.zeros(image.shape[:2], np.uint8)
    depth = np.full(image.shape[:2], np.inf, np.float32)
    made = {side: make_hand(side, rng, camera, depth=0.55) for side in Side}
    if number % 3 == 0:
        del made[Side.LEFT if number % 2 else Side.RIGHT]
    if number == 0:
        made = {}
    hands = {side: label(hand, camera) for side, hand in made.items()}
    for hand in hands.values():
        for base in range(1, 21, 4):
            chain = hand.keypoints_px[[0, *range(base, base + 4)]].astype(np.int32)
            cv2.polylines(image, [chain], False, (220, 170, 140 if hand.side is Side.LEFT else 80), 7)
            cv2.polylines(parts, [chain], False, part_id(hand.side, 0), 7)
            cv2.polylines(depth, [chain], False, float(hand.joints[0, 2]), 7)
    return Frame(
        f"{number:06d}",
        image,
        camera,
        Pair(hands.get(Side.LEFT), hands.get(Side.RIGHT)),
        parts=parts if maps else None,
        depth=depth if maps else None,
        scene={"seed": 1007},
    )


def shard_of(folder: Path, count: int) -> Path:
    """The folder with one shard of the first frames, with their maps."""
    with ShardWriter(folder / "frames_00000.tar") as writer:
        for number in range(count):
            writer.write(drawn(number, maps=True))
    return folder
