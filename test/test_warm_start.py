"""The keypoint fit where a network gives joints, a pose and a shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_hands import MODELS, MadeHand, make_hand, seen_by, smplx_joints
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.fitting.keypoint_fit import KeypointFit
from a2p_ros.fitting.skeleton import Skeleton, side_arrays
from a2p_ros.regressed_shape import UPDATES, RegressedShape
from a2p_ros.types import HandKeypoints, HandPose, Pair, RegressedHand, Side

CAMERA = CameraModel.assume(1280, 720, 1.2)
SIDES = [Side.LEFT, Side.RIGHT]


def regressed(hand: MadeHand, keypoints: HandKeypoints, off: Rotation | None = None) -> HandKeypoints:
    """The keypoints as a network gives them: at the joints, with a pose that is exact or ``off`` by a turn a joint."""
    turns = np.concatenate([hand.root[None], hand.rotations])
    turns = turns if off is None else turns @ off.as_matrix()
    told = RegressedHand(hand.side, turns[0], turns[1:], hand.betas)
    return dataclasses.replace(keypoints, regressed=told, at_joints=True)


def pair(side: Side, hand: HandKeypoints) -> Pair[HandKeypoints | None]:
    return Pair(hand, None) if side is Side.LEFT else Pair(None, hand)


def fit_one(side: Side, keypoints: HandKeypoints) -> HandPose:
    pose = KeypointFit(MODELS)(pair(side, keypoints), CAMERA)[side]
    assert pose is not None
    return pose


def joint_error(pose: HandPose, hand: MadeHand) -> float:
    return float(np.linalg.norm(pose.joints - (hand.joints - hand.wrist), axis=1).mean())


def turn_errors(pose: HandPose, hand: MadeHand) -> np.ndarray:
    found = np.concatenate([pose.global_orient[None], pose.hand_pose])
    truth = np.concatenate([hand.root[None], hand.rotations])
    return Rotation.from_matrix(np.swapaxes(found, 1, 2) @ truth).magnitude()


@pytest.mark.parametrize("side", SIDES)
def test_exact_joints_give_the_exact_pose_back(side: Side) -> None:
    rng = np.random.default_rng(1)
    for _ in range(12):
        betas = rng.normal(0, 0.8, 10).clip(-2, 2)
        hand = make_hand(side, rng, CAMERA, betas=betas, depth=rng.uniform(0.3, 1.2))
        pose = fit_one(side, regressed(hand, seen_by(hand, CAMERA, scale=1.0)))
        assert joint_error(pose, hand) < 2e-5
        assert turn_errors(pose, hand).max() < 1e-3
        np.testing.assert_allclose(pose.betas, betas, atol=1e-12)
        assert pose.confidence > 0.94


@pytest.mark.parametrize("side", SIDES)
def test_exact_joints_outvote_a_pose_that_is_not(side: Side) -> None:
    rng = np.random.default_rng(2)
    before, after, cold = [], [], []
    for _ in range(20):
        hand = make_hand(side, rng, CAMERA)
        keypoints = regressed(
            hand, seen_by(hand, CAMERA, scale=1.0), Rotation.from_rotvec(rng.normal(0, 0.12, (16, 3)))
        )
        told = keypoints.regressed
        assert told is not None
        joints = smplx_joints(side, told.global_orient, told.hand_pose, np.zeros(3), told.betas)
        before.append(np.linalg.norm(joints - joints[0] - (hand.joints - hand.wrist), axis=1).mean())
        after.append(joint_error(fit_one(side, keypoints), hand))
        cold.append(joint_error(fit_one(side, dataclasses.replace(keypoints, regressed=None)), hand))
    assert np.mean(before) > 0.01 and np.mean(after) < 0.002 and np.mean(after) < np.mean(cold)


def test_points_at_the_joints_are_not_shifted_as_landmarks() -> None:
    rng = np.random.default_rng(3)
    hand = make_hand(Side.RIGHT, rng, CAMERA)
    keypoints = regressed(hand, seen_by(hand, CAMERA, scale=1.0))
    pose = fit_one(Side.RIGHT, keypoints)
    assert pose.landmarks is not None
    np.testing.assert_array_equal(pose.landmarks, pose.joints)
    shifted = fit_one(Side.RIGHT, dataclasses.replace(keypoints, at_joints=False))
    assert joint_error(shifted, hand) > 0.002 > 100 * joint_error(pose, hand)


def test_a_network_s_hand_beside_one_of_landmarks_equals_each_by_itself() -> None:
    rng = np.random.default_rng(4)
    hands = [make_hand(side, rng, CAMERA) for side in SIDES]
    left, right = (seen_by(hand, CAMERA, rng, noise_px=0.01, noise_3d=0.005) for hand in hands)
    keypoints = Pair(regressed(hands[0], left), right)
    both = KeypointFit(MODELS, regressed_shape=False)(keypoints, CAMERA)
    for side in SIDES:
        alone = KeypointFit(MODELS, regressed_shape=False)(pair(side, keypoints[side]), CAMERA)[side]
        assert alone is not None and both[side] is not None
        np.testing.assert_allclose(both[side].joints, alone.joints, atol=2e-4)


def test_bones_stay_where_the_network_takes_one_hand_for_the_other() -> None:
    rng = np.random.default_rng(4)
    betas = rng.normal(0, 0.8, 10).clip(-2, 2)
    hands = [make_hand(side, rng, CAMERA, betas=betas) for side in SIDES]
    keypoints = Pair(*(regressed(hand, seen_by(hand, CAMERA, scale=1.0)) for hand in hands))
    flipped = dataclasses.replace(
        keypoints.right, regressed=dataclasses.replace(keypoints.right.regressed, side=Side.LEFT)
    )
    fit = KeypointFit(MODELS)
    for right in (keypoints.right, flipped):
        poses = fit(Pair(keypoints.left, right), CAMERA)
        for pose in (poses.left, poses.right):
            np.testing.assert_allclose(pose.betas, betas, atol=1e-9)


def test_a_hand_that_fits_nothing_leaves_the_shape_as_it_is() -> None:
    rng = np.random.default_rng(8)
    hand = make_hand(Side.RIGHT, rng, CAMERA)
    keypoints = regressed(hand, seen_by(hand, CAMERA, scale=1.0))
    scattered = dataclasses.replace(
        keypoints,
        keypoints_px=keypoints.keypoints_px[rng.permutation(21)],
        regressed=dataclasses.replace(keypoints.regressed, betas=np.full(10, 2.0)),
    )
    fit = KeypointFit(MODELS)
    assert fit(Pair(None, scattered), CAMERA).right is None
    pose = fit(Pair(None, keypoints), CAMERA).right
    assert pose is not None
    np.testing.assert_allclose(pose.betas, hand.betas, atol=1e-9)


def test_a_pose_that_is_far_off_is_given_up_for_the_joints() -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        hand = make_hand(Side.LEFT, rng, CAMERA, strength=0.5)
        keypoints = regressed(hand, seen_by(hand, CAMERA, scale=1.0), Rotation.random(16, random_state=7))
        assert joint_error(fit_one(Side.LEFT, keypoints), hand) < 0.008


@pytest.mark.parametrize("field", ["global_orient", "hand_pose", "betas"])
def test_a_pose_that_is_not_finite_is_no_hand(field: str) -> None:
    rng = np.random.default_rng(6)
    hand = make_hand(Side.RIGHT, rng, CAMERA)
    keypoints = regressed(hand, seen_by(hand, CAMERA))
    assert keypoints.regressed is not None
    broken = getattr(keypoints.regressed, field).copy()
    broken.flat[2] = np.nan
    bad = dataclasses.replace(keypoints, regressed=dataclasses.replace(keypoints.regressed, **{field: broken}))
    fit = KeypointFit(MODELS)
    assert fit(Pair(None, bad), CAMERA) == Pair(None, None)
    assert fit(Pair(None, keypoints), CAMERA).right is not None


@pytest.mark.parametrize("side", SIDES)
def test_angles_of_rotations_make_these_rotations(side: Side) -> None:
    skeleton = Skeleton([side_arrays(MODELS)[side]] * 30)
    angles = np.random.default_rng(7).uniform([-0.5, -0.4, -0.5], [0.5, 1.9, 0.5], (30, 5, 3, 3))
    root = Rotation.random(30, random_state=8).as_matrix()
    rotations = skeleton.local_rotations(skeleton.pose(skeleton.rest(np.zeros(10)), root, angles), root)
    np.testing.assert_allclose(skeleton.angles_from_rotations(rotations), angles, atol=1e-9)


def test_a_shape_settles_between_its_updates_and_keeps_a_known_length() -> None:
    rng = np.random.default_rng(9)
    shape, seen = RegressedShape(MODELS.right), []
    for count in range(1, UPDATES[-1] + 20):
        before = shape.betas
        seen.append(rng.normal(0, 1, 10))
        shape.add([seen[-1]])
        if count in (1, *UPDATES):
            np.testing.assert_allclose(shape.betas, np.clip(seen, -2.5, 2.5).mean(0), atol=1e-12)
        else:
            assert shape.betas is before
    shape.set_length(0.2)
    flat = smplx_joints(Side.RIGHT, np.eye(3), np.tile(np.eye(3), (15, 1, 1)), np.zeros(3), shape.betas)
    assert np.linalg.norm(flat[12] - flat[0]) == pytest.approx(0.2, abs=1e-4)
    shape.reset()
    assert np.linalg.norm(shape.betas[1:]) == 0
    shape.add([np.full(10, np.nan)])
    assert np.isfinite(shape.betas).all()
