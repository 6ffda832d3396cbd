"""An engine that answers with the truth: what a perfect network would say of hands that are known.

It knows the hands and the camera, and is shown a picture whose colours say where they are: it reads each crop's place,
turn and mirror from its pixels. Geometry by OpenCV and scipy, not by the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from made_hands import MIRROR, MadeHand
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.types import Side

#: A hand turned farther from upright in its crop than this [rad] is not seen.
UPRIGHT = 1.0


def place_picture(camera: CameraModel) -> np.ndarray:
    """Red grows with x, green with y."""
    y, x = np.mgrid[: camera.height, : camera.width]
    return np.stack([x * 255.0 / camera.width, y * 255.0 / camera.height, 0 * x], -1).round().astype(np.uint8)


def ray_turn(camera: CameraModel, pixel: np.ndarray) -> np.ndarray:
    """The smallest turn from the optical axis to a pixel's ray."""
    coefficients = np.array(camera.d) if camera.d else None
    x, y = cv2.undistortPoints(np.asarray(pixel, float).reshape(1, 1, 2), camera.K, coefficients)[0, 0]
    away = np.hypot(x, y)
    return Rotation.from_rotvec(np.arctan(away) * np.array([-y, x, 0]) / max(away, 1e-12)).as_matrix()


def pixels_of(hand: MadeHand, camera: CameraModel) -> np.ndarray:
    """The joints in the image [px]."""
    coefficients = np.array(camera.d) if camera.d else None
    return cv2.projectPoints(hand.joints, np.zeros(3), np.zeros(3), camera.K, coefficients)[0][:, 0]


class TrueEngine:
    """Answers for ``hands`` seen by ``camera``; ``noise`` [m] spoils depths, keypoints and turns alike."""

    name, device, resolution = "truth", "cpu", 128

    def __init__(self, hands: Sequence[MadeHand], camera: CameraModel, noise: float = 0.0) -> None:
        self.hands, self.camera, self.noise = list(hands), camera, noise
        self.rng = np.random.default_rng(0)
        self.batches: list[int] = []

    def __call__(self, crops: np.ndarray) -> SimpleNamespace:
        assert crops.dtype == np.uint8 and crops.shape[1:] == (self.resolution, self.resolution, 3)
        self.batches.append(len(crops))
        rows = [self._answer(self._map(crop)) for crop in crops]
        return SimpleNamespace(**{name: np.stack([row[name] for row in rows]).astype(np.float32) for name in rows[0]})

    def _map(self, crop: np.ndarray) -> np.ndarray:
        """Affine map from crop pixels to the image's, from colours; pixels that repeat the border do not count."""
        y, x = np.mgrid[: self.resolution, : self.resolution]
        size = np.array([self.camera.width, self.camera.height])
        at = crop[..., :2] / 255.0 * size
        inside = ((at > 4) & (at < size - 5)).all(-1)
        known = np.stack([x[inside], y[inside], np.ones(inside.sum())], 1)
        return np.linalg.lstsq(known, at[inside], rcond=None)[0].T

    def _answer(self, affine: np.ndarray) -> dict[str, np.ndarray]:
        r = self.resolution
        centre = affine @ [(r - 1) / 2, (r - 1) / 2, 1]
        edge = r * np.sqrt(abs(np.linalg.det(affine[:, :2])))
        hand = min(self.hands, key=lambda h: np.linalg.norm(pixels_of(h, self.camera).mean(0) - centre))
        pixels = pixels_of(hand, self.camera)
        in_crop = (np.linalg.inv(affine[:, :2]) @ (pixels - affine[:, 2]).T).T
        # Columns: where the crop's axes point in the image; improper where the crop is mirrored.
        axes = np.eye(3)
        axes[:2, :2] = affine[:, :2] / np.linalg.norm(affine[:, :2], axis=0)
        to_crop = axes.T @ ray_turn(self.camera, centre).T
        mirrored = np.linalg.det(axes) < 0
        as_assumed = mirrored == (hand.side is Side.LEFT)
        turns, points = np.concatenate([hand.root[None], hand.rotations]), (hand.joints - hand.wrist) @ to_crop.T
        seen = np.concatenate([(to_crop @ turns[0])[None], turns[1:]])
        if mirrored:
            seen = np.concatenate([seen[:1] @ MIRROR, MIRROR @ seen[1:] @ MIRROR])
        if not as_assumed:
            seen = Rotation.random(16, random_state=3).as_matrix()
        fingers = in_crop[9] - in_crop[0]
        upright = abs(np.arctan2(fingers[0], -fingers[1])) < UPRIGHT
        near = np.linalg.norm(pixels.mean(0) - centre) < 0.6 * edge
        keypoints = (in_crop + 0.5) / r - 0.5
        return {
            "keypoints": keypoints + self.rng.normal(0, 1, keypoints.shape) * self.noise,
            "depth": points[:, 2] + self.rng.normal(0, 1, 21) * self.noise,
            "rotations": seen @ Rotation.from_rotvec(self.rng.normal(0, 10 * self.noise, (16, 3))).as_matrix(),
            "betas": hand.betas,
            "weak_camera": np.zeros(3),
            "joint_confidence": np.full(21, 0.9),
            "presence": np.array(0.95 if near and upright else 0.05),
            "as_assumed": np.array(0.97 if as_assumed else 0.03),
        }

    def relative(self, keypoints: np.ndarray, depth: np.ndarray, width: float) -> np.ndarray:
        """Left wrist minus right wrist in the view of the box that the keypoints are relative to."""
        assert keypoints.shape == (2, 21, 2) and depth.shape == (2, 21) and 0 < width < 10
        left, right = (next(h for h in self.hands if h.side is side) for side in (Side.LEFT, Side.RIGHT))
        pixels = np.concatenate([pixels_of(left, self.camera), pixels_of(right, self.camera)])
        known = np.column_stack([keypoints.reshape(42, 2), np.ones(42)])
        to_pixels = np.linalg.lstsq(known, pixels, rcond=None)[0]
        assert to_pixels[0, 0] / self.camera.focal == pytest.approx(width, rel=0.01)
        for hand, its in zip((left, right), depth, strict=True):
            assert its[0] == 0 and np.abs(its).max() < 0.25
            assert np.corrcoef(its, hand.joints[:, 2])[0, 1] > 0.2 or np.ptp(its) < 0.05
        return (left.wrist - right.wrist) @ ray_turn(self.camera, to_pixels[2])
