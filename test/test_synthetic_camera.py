"""The synthetic camera: its truth, its repeatability, and whether a detector sees hands in it."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from a2p_ros.config import DetectionConfig, DeviceConfig, LandmarkConfig
from a2p_ros.errors import ConfigError, MissingDependencyError
from a2p_ros.hand.limits import JOINT_LIMITS
from a2p_ros.rendering.motion import Motion
from a2p_ros.rendering.synthetic import SKIN_IDS, SyntheticCamera
from a2p_ros.types import Side


def make(seed: int = 0, width: int = 320, height: int = 240, **more: object) -> SyntheticCamera:
    try:
        return SyntheticCamera(seed, width, height, **more)
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def camera():
    with make(3) as made:
        yield made


def test_truth_projects_as_opencv_says(camera):
    for index in (0, 77, 200):
        for _, hand in camera.truth(index).items():
            px, _ = cv2.projectPoints(hand.joints, np.zeros(3), np.zeros(3), camera.camera.K, None)
            np.testing.assert_allclose(hand.keypoints_px, px[:, 0], atol=1e-6)
            low, high = px[:, 0].min(0), px[:, 0].max(0)
            np.testing.assert_allclose(hand.box, [*low, *high], atol=1e-6)


def test_truth_parameters_make_the_truth_in_smplx(camera, tmp_path):
    """smplx, fed with the axis-angle parameters, puts wrist and vertices where the truth says."""
    smplx = pytest.importorskip("smplx", reason="smplx is not installed")
    from a2p_ros.hand.files import ASSETS

    truth = camera.truth(120)
    for side, hand in truth.items():
        mano = smplx.MANO(
            str(ASSETS / f"MANO_{side.name}.npz"),
            is_rhand=side is Side.RIGHT,
            use_pca=False,
            flat_hand_mean=True,
            ext="npz",
        )

        def row(value: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.asarray(value, np.float32))[None]

        out = mano(row(hand.betas), row(hand.global_orient), row(hand.hand_pose), transl=row(hand.transl))
        np.testing.assert_allclose(out.vertices[0].detach().numpy(), hand.vertices, atol=2e-5)
        np.testing.assert_allclose(out.joints[0, 0].detach().numpy(), hand.wrist, atol=2e-5)


def test_truth_lies_on_what_is_drawn(camera):
    """Mask and depth at visible vertices of the model agree with the truth; the skin is on the right side."""
    index = 150
    truth, labels = camera.truth(index), camera.labels(index)
    assert truth.right.keypoints_px[:, 0].mean() < truth.left.keypoints_px[:, 0].mean()
    for side, hand in truth.items():
        mask = labels.ids == SKIN_IDS[side]
        depth, around = np.where(mask, labels.depth, 99.0).astype(np.float32), np.ones((3, 3), np.uint8)
        # Away from outlines, also those of a finger before the palm.
        inside = mask & (cv2.dilate(depth, around) - cv2.erode(depth, around) < 0.005)
        px = np.round(camera.camera.project(hand.vertices)).astype(int)
        # A pixel wider: vertices on the outline round to either side of it.
        assert cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))[px[:, 1], px[:, 0]].mean() > 0.99
        kept = inside[px[:, 1], px[:, 0]]
        behind = hand.vertices[kept, 2] - labels.depth[px[kept, 1], px[kept, 0]]
        # Nothing of the hand is in front of the drawn surface, and much of it is at that surface.
        assert behind.min() > -0.003
        assert (np.abs(behind) < 0.0015).sum() > 150


def test_skin_is_what_changed_in_the_image(camera):
    labels, frame = camera.labels(40), camera.frame(40)
    skin = np.isin(labels.ids, [SKIN_IDS.left, SKIN_IDS.right])
    assert 0.02 < skin.mean() < 0.4
    red, _, blue = frame.image[skin].mean(0)
    assert red > 1.25 * blue, "skin is redder than blue: the channels are RGB"


def test_same_seed_same_frames_other_seed_other_frames():
    with make(5) as first, make(5) as second, make(6) as other:
        a, b = first.frame(33), second.frame(33)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.truth.left.vertices, b.truth.left.vertices)
        assert np.abs(a.image.astype(int) - other.frame(33).image).mean() > 5
        # And not by order of access.
        first.frame(1)
        np.testing.assert_array_equal(first.frame(33).image, a.image)


def test_iteration_stamps_and_seam():
    with make(0, fps=20.0, loop_seconds=2.0) as camera:
        assert camera.loop_frames == 40
        frames = list(itertools.islice(camera, 42))
        np.testing.assert_allclose([f.stamp for f in frames], np.arange(42) / 20)
        np.testing.assert_array_equal(frames[40].image, frames[0].image)
        joints = np.stack([f.truth.right.joints for f in frames])
        speed = np.linalg.norm(np.diff(joints, axis=0), axis=2).max(1) * 20
        assert speed[39] <= speed[:39].max(), "no jump where the loop closes"


def test_cached_rounds_repeat():
    with make(0, fps=10.0, loop_seconds=1.0, cache=True) as cached, make(0, fps=10.0, loop_seconds=1.0) as live:
        first, again = cached.frame(3), cached.frame(13)
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.truth.left.joints, again.truth.left.joints)
        assert again.stamp == pytest.approx(1.3)
        assert np.abs(first.image.astype(int) - live.frame(3).image).mean() < 3


@pytest.mark.parametrize("distance", [(0.35, 0.35), (0.5, 0.66), (0.9, 1.0)])
def test_hands_stay_in_the_picture_and_apart(distance):
    for seed in range(4):
        for aspect in (4 / 3, 16 / 9):
            motion = Motion(seed, distance=distance, aspect=aspect)
            half = np.tan(1.05 / 2)
            for t in np.linspace(0, motion.loop_seconds, 40, endpoint=False):
                state = motion.at(t)
                for side, hand in state.items():
                    x, y, z = hand.wrist
                    assert distance[0] - 1e-9 <= z <= distance[1] + 1e-9
                    assert abs(x / z) < half and abs(y / z) < half / aspect
                    assert x < -0.1 if side is Side.RIGHT else x > 0.1
                    assert (hand.angles >= JOINT_LIMITS[..., 0] - 1e-9).all()
                    assert (hand.angles <= JOINT_LIMITS[..., 1] + 1e-9).all()
                    np.testing.assert_allclose(hand.global_orient @ hand.global_orient.T, np.eye(3), atol=1e-12)
                    assert np.linalg.det(hand.global_orient) == pytest.approx(1)


def test_refusals():
    with pytest.raises(ConfigError, match="nearest <= farthest"):
        Motion(distance=(0.6, 0.4))
    with pytest.raises(ConfigError, match="loop_seconds"):
        Motion(loop_seconds=0.0)
    with pytest.raises(ConfigError, match="fps"):
        SyntheticCamera(fps=0)
    with pytest.raises(ConfigError, match="seed"):
        SyntheticCamera(seed=-1)


def test_default_detector_finds_both_hands():
    """Palm detector and landmark model, each frame by itself: both hands, each on its side."""
    from a2p_ros.detection.detector import make_detector
    from a2p_ros.detection.landmarks import LandmarkModel

    try:
        detector = make_detector(DetectionConfig(), DeviceConfig())
        landmarks = LandmarkModel(LandmarkConfig(), DeviceConfig())
    except MissingDependencyError as error:
        pytest.skip(str(error))
    found = total = 0
    for seed in (0, 1, 2):
        with make(seed, 640, 480) as camera:
            for index in range(0, 360, 18):
                frame = camera.frame(index)
                hands = [h for h in landmarks(frame.image, detector(frame.image)) if h is not None]
                total += 1
                found += all(
                    _is_found(hands, side, hand.keypoints_px, hand.box.size) for side, hand in frame.truth.items()
                )
    assert total == 60
    assert found >= 0.95 * total


def _is_found(hands: list, side: Side, keypoints_px: np.ndarray, size: float) -> bool:
    """Exactly one hand near this one, and it is called by its side."""
    near = [h for h in hands if np.linalg.norm(h.keypoints_px - keypoints_px, axis=1).mean() < 0.25 * size]
    return len(near) >= 1 and all((h.right > 0.5) == (side is Side.RIGHT) for h in near)
