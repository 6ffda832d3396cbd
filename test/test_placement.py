"""Placement in the camera frame, and the wrist frame."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_hands import MODELS, MadeHand, make_hand, seen_by, smplx_joints
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError
from a2p_ros.hand_frames import wrist_frame
from a2p_ros.placement import Apart, place, solve_translation, solve_translations
from a2p_ros.types import HandPose, Pair, Side

CAMERA = CameraModel.assume(1280, 720, 1.2)
SIDES = [Side.LEFT, Side.RIGHT]
ONES = np.ones(21)


def pose_of(hand: MadeHand, camera: CameraModel = CAMERA) -> HandPose:
    """The true pose of a hand, as a perfect regressor would give it."""
    return HandPose(
        side=hand.side,
        global_orient=hand.root,
        hand_pose=hand.rotations,
        betas=hand.betas,
        joints=hand.joints - hand.wrist,
        keypoints_px=seen_by(hand, camera).keypoints_px,
        keypoint_confidence=ONES,
        confidence=0.9,
    )


def rays_of(joints: np.ndarray) -> np.ndarray:
    return joints[:, :2] / joints[:, 2:]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.25, 5.0), st.floats(-1.2, 1.2), st.floats(-1.2, 1.2))
def test_exact_rays_give_the_exact_position(seed: int, depth: float, x: float, y: float) -> None:
    rng = np.random.default_rng(seed)
    relative = np.concatenate([np.zeros((1, 3)), rng.uniform(-0.08, 0.08, (20, 3))])
    wrist = np.array([x, y, 1.0]) * depth
    solved = solve_translation(relative, rays_of(wrist + relative), ONES)
    np.testing.assert_allclose(solved, wrist, atol=1e-6 * depth)


def test_a_gross_outlier_hardly_moves_the_hand_and_zero_weight_not_at_all() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(1), CAMERA)
    relative, rays = hand.joints - hand.wrist, rays_of(hand.joints)
    bad = rays.copy()
    bad[8] += 0.2
    assert np.linalg.norm(solve_translation(relative, bad, ONES) - hand.wrist) < 0.003
    weights = ONES.copy()
    weights[8] = 0
    np.testing.assert_allclose(solve_translation(relative, bad, weights), hand.wrist, atol=1e-6)


def test_noise_is_averaged() -> None:
    rng = np.random.default_rng(2)
    hand = make_hand(Side.RIGHT, rng, CAMERA, depth=0.6)
    relative, rays = hand.joints - hand.wrist, rays_of(hand.joints)
    solved = [solve_translation(relative, rays + rng.normal(0, 0.002, rays.shape), ONES) for _ in range(50)]
    errors = np.array(solved) - hand.wrist
    assert np.abs(errors.mean(0)).max() < 0.004
    assert np.linalg.norm(errors[:, :2], axis=1).mean() < 0.004


def test_depth_is_positive_even_where_the_rays_ask_for_a_hand_behind_the_camera() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(3), CAMERA)
    relative = hand.joints - hand.wrist
    turned_over = -rays_of(hand.joints)
    solved = solve_translation(relative, turned_over, ONES)
    assert np.isfinite(solved).all()
    assert (solved + relative)[:, 2].min() > 0


@pytest.mark.parametrize(
    ("joints", "rays", "weights", "message"),
    [
        (np.zeros((20, 3)), np.zeros((21, 2)), ONES, r"joints_rel \(21, 3\), got \(20, 3\)"),
        (np.zeros((21, 3)), np.full((21, 2), np.nan), ONES, "rays has values that are not finite"),
        (np.zeros((21, 3)), np.zeros((21, 2)), np.eye(21)[0], "three keypoints"),
    ],
)
def test_bad_arrays_are_named(joints: np.ndarray, rays: np.ndarray, weights: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve_translation(joints, rays, weights)


def test_predicted_relative_translation_is_a_soft_constraint() -> None:
    """One hand is taken 10 % too large, so it lands too far; the constraint brings the two together."""
    rng = np.random.default_rng(4)
    left, right = (make_hand(side, rng, CAMERA, depth=0.6) for side in SIDES)
    relative = [left.joints - left.wrist, 1.1 * (right.joints - right.wrist)]
    rays = [rays_of(left.joints), rays_of(right.joints)]
    truth = left.wrist - right.wrist

    def gap(apart: Apart | None) -> float:
        a, b = solve_translations(relative, rays, [ONES, ONES], apart)
        return float(np.linalg.norm(a - b - truth))

    free, soft, hard = gap(None), gap(Apart(truth, 0.02)), gap(Apart(truth, 1e-4))
    assert free > 0.04
    assert hard < 0.002
    assert hard < soft < free
    with pytest.raises(InputError, match="needs two hands"):
        solve_translations(relative[:1], rays[:1], [ONES], Apart(truth))


def test_place_gives_position_pixels_box_and_mano_translation() -> None:
    model, d = "plumb_bob", (-0.2, 0.05, 0.001, 0.001, 0.0)
    camera = CameraModel.from_calibration(1280, 720, (700, 0, 640, 0, 700, 360, 0, 0, 1), d, model)
    rng = np.random.default_rng(5)
    betas = rng.normal(0, 0.5, 10)
    hands = [make_hand(side, rng, camera, depth=0.5, betas=betas) for side in SIDES]
    placed = place(Pair(*(pose_of(hand, camera) for hand in hands)), camera, MODELS)
    for hand in hands:
        result = placed[hand.side]
        assert result is not None and result.side is hand.side
        np.testing.assert_allclose(result.wrist, hand.wrist, atol=1e-5)
        np.testing.assert_allclose(result.joints, hand.joints, atol=1e-5)
        np.testing.assert_allclose(result.transl, hand.transl, atol=1e-5)
        np.testing.assert_allclose(result.keypoints_px, seen_by(hand, camera).keypoints_px, atol=0.02)
        np.testing.assert_allclose(result.observed_px, seen_by(hand, camera).keypoints_px)
        x0, y0 = result.keypoints_px.min(0)
        assert (result.box.x0, result.box.y0) == pytest.approx((x0, y0))
        again = smplx_joints(hand.side, hand.root, hand.rotations, result.transl, betas)
        np.testing.assert_allclose(again, result.joints, atol=1e-5)


def test_landmarks_that_are_not_the_joints_are_what_the_pixels_show() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(6), CAMERA)
    pose = pose_of(hand)
    shift = np.random.default_rng(7).normal(0, 0.006, (21, 3))
    shown = dataclasses.replace(
        pose, keypoints_px=CAMERA.project(hand.joints + shift), landmarks=hand.joints - hand.wrist + shift
    )
    result = place(Pair(None, shown), CAMERA, MODELS).right
    assert result is not None
    np.testing.assert_allclose(result.wrist, hand.wrist, atol=1e-6)


def test_none_stays_none_and_impossible_depths_are_rejected() -> None:
    rng = np.random.default_rng(8)
    assert place(Pair(None, None), CAMERA, MODELS) == Pair(None, None)
    far = make_hand(Side.LEFT, rng, CAMERA, depth=14.0)
    near = make_hand(Side.RIGHT, rng, CAMERA, depth=0.4)
    result = place(Pair(pose_of(far), pose_of(near)), CAMERA, MODELS)
    assert result.left is None and result.right is not None
    broken = dataclasses.replace(pose_of(near), keypoints_px=np.full((21, 2), np.nan))
    result = place(Pair(pose_of(make_hand(Side.LEFT, rng, CAMERA)), broken), CAMERA, MODELS)
    assert result.left is not None and result.right is None


def rest(side: Side) -> np.ndarray:
    return smplx_joints(side, np.eye(3), np.tile(np.eye(3), (15, 1, 1)), np.zeros(3), np.zeros(10))


@pytest.mark.parametrize("side", SIDES)
def test_wrist_frame_of_a_hand_lying_palm_down(side: Side) -> None:
    """Before a camera that looks along z with y down: palm down, fingers away from the camera."""
    to_middle = -1.0 if side is Side.RIGHT else 1.0
    # Rest: right hand fingers -x, back of the hand +y, thumb +z; camera: away is +z, up is -y.
    away_from_rest = np.stack([[0, 0, to_middle], [0, -1, 0], [to_middle, 0, 0]], axis=1)
    assert np.linalg.det(away_from_rest) == pytest.approx(1)
    frame = wrist_frame(rest(side) @ away_from_rest.T, side)
    thumb_side = -1.0 if side is Side.RIGHT else 1.0
    np.testing.assert_allclose(frame[:, 0], [0, 0, 1], atol=0.03)
    np.testing.assert_allclose(frame[:, 2], [0, -1, 0], atol=0.2)
    assert np.linalg.det(frame) == pytest.approx(1)
    thumb = (rest(side) @ away_from_rest.T)[4] @ np.eye(3)[0]
    assert np.sign(thumb - (rest(side) @ away_from_rest.T)[9, 0]) == thumb_side
    y_points_to_thumb = frame[0, 1] * thumb_side > 0
    assert y_points_to_thumb == (side is Side.RIGHT), "y: thumb side on a right hand, little-finger side on a left one"


@pytest.mark.parametrize("side", SIDES)
def test_wrist_frame_turns_with_the_hand_and_not_with_the_fingers(side: Side) -> None:
    rng = np.random.default_rng(9)
    turn = Rotation.random(random_state=1).as_matrix()
    flat = rest(side)
    np.testing.assert_allclose(wrist_frame(flat @ turn.T + 0.3, side), turn @ wrist_frame(flat, side), atol=1e-9)
    bent = make_hand(side, rng, CAMERA, root=np.eye(3))
    np.testing.assert_allclose(wrist_frame(bent.joints, side), wrist_frame(flat, side), atol=1e-4)


def test_wrist_frames_of_mirrored_hands_are_mirrored_but_right_handed() -> None:
    right, left = wrist_frame(rest(Side.RIGHT), Side.RIGHT), wrist_frame(rest(Side.LEFT), Side.LEFT)
    mirror = np.diag([-1.0, 1, 1])
    np.testing.assert_allclose(left, mirror @ right @ np.diag([1, -1, 1]), atol=1e-5)


def test_wrist_frame_refuses_joints_without_a_plane() -> None:
    for bad in (np.zeros((21, 3)), np.full((21, 3), np.nan), np.linspace(0, 1, 21)[:, None] * [1, 0, 0]):
        with pytest.raises(InputError, match="wrist_frame"):
            wrist_frame(bad, Side.RIGHT)
