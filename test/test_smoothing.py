"""One-Euro smoothing of placed hands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_hands import MODELS, MadeHand, make_hand, seen_by, smplx_joints
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.config import SmoothingConfig
from a2p_ros.placement import place
from a2p_ros.smoothing import MAX_GAP, HandSmoother
from a2p_ros.types import HandPose, Pair, PlacedHand, Side, Status

CAMERA = CameraModel.assume(1280, 720, 1.2)
PARENTS = [0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19]
RATE = 30.0


def placed(hand: MadeHand) -> PlacedHand:
    pose = HandPose(
        side=hand.side,
        global_orient=hand.root,
        hand_pose=hand.rotations,
        betas=hand.betas,
        joints=hand.joints - hand.wrist,
        keypoints_px=seen_by(hand, CAMERA).keypoints_px,
        keypoint_confidence=np.ones(21),
        confidence=0.9,
    )
    poses = Pair(pose, None) if hand.side is Side.LEFT else Pair(None, pose)
    result = place(poses, CAMERA, MODELS)[hand.side]
    assert result is not None
    return result


def moved(hand: MadeHand, offset: np.ndarray, turn: np.ndarray, fingers: np.ndarray | None = None) -> MadeHand:
    root = Rotation.from_rotvec(turn).as_matrix() @ hand.root
    rotations = hand.rotations if fingers is None else hand.rotations @ Rotation.from_rotvec(fingers).as_matrix()
    joints = smplx_joints(hand.side, root, rotations, hand.transl + offset, hand.betas)
    return dataclasses.replace(hand, root=root, rotations=rotations, transl=hand.transl + offset, joints=joints)


def right(hand: PlacedHand | None) -> Pair[PlacedHand | None]:
    return Pair(None, hand)


def base() -> MadeHand:
    return make_hand(Side.RIGHT, np.random.default_rng(1), CAMERA, pixel=(640, 360), depth=0.5, strength=0.4)


def run(smoother: HandSmoother, hands: list[PlacedHand]) -> list[PlacedHand]:
    out = []
    for i, hand in enumerate(hands):
        result = smoother(right(hand), CAMERA, i / RATE).right
        assert result is not None
        out.append(result)
    return out


def jittering(count: int, seed: int = 2) -> list[PlacedHand]:
    rng, hand = np.random.default_rng(seed), base()
    return [
        placed(moved(hand, rng.normal(0, 0.004, 3), rng.normal(0, 0.03, 3), rng.normal(0, 0.05, (15, 3))))
        for _ in range(count)
    ]


def test_jitter_at_rest_shrinks() -> None:
    raw = jittering(90)
    smooth = run(HandSmoother(SmoothingConfig(), MODELS), raw)

    def shake(hands: list[PlacedHand]) -> float:
        return float(np.linalg.norm(np.diff([h.joints for h in hands[20:]], axis=0), axis=2).mean())

    assert shake(smooth) < 0.45 * shake(raw)
    drift = np.mean([h.joints for h in smooth[20:]], axis=0) - np.mean([h.joints for h in raw[20:]], axis=0)
    assert np.abs(drift).max() < 0.003


def test_bones_keep_their_length_and_pose_makes_the_joints() -> None:
    raw = jittering(20)
    for before, after in zip(raw, run(HandSmoother(SmoothingConfig(), MODELS), raw), strict=True):
        lengths = [np.linalg.norm(h.joints[1:] - h.joints[PARENTS], axis=1) for h in (before, after)]
        np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-6)
        pose = after.pose
        joints = smplx_joints(Side.RIGHT, pose.global_orient, pose.hand_pose, after.transl, pose.betas)
        np.testing.assert_allclose(joints, after.joints, atol=1e-5)
        np.testing.assert_allclose(after.joints[0], after.wrist, atol=1e-9)
        np.testing.assert_allclose(CAMERA.project(after.joints), after.keypoints_px, atol=1e-9)


def test_fast_motion_lags_little_and_beta_lessens_it() -> None:
    hand = base()
    speed = 0.6
    offsets = [np.array([speed * i / RATE - 0.3, 0, 0]) for i in range(30)]
    raw = [placed(moved(hand, offset, np.zeros(3))) for offset in offsets]

    def lag(beta: float) -> float:
        smooth = run(HandSmoother(SmoothingConfig(beta=beta), MODELS), raw)
        return float(np.mean([(a.wrist - b.wrist)[0] for a, b in zip(raw[15:], smooth[15:], strict=True)])) / speed

    usual = SmoothingConfig().beta
    assert 0 < lag(usual) < 0.5 / RATE, "less than half a frame behind"
    assert lag(usual) < 0.2 * lag(0.0)


def test_a_constant_hand_passes_unchanged() -> None:
    hand = placed(base())
    for result in run(HandSmoother(SmoothingConfig(), MODELS), [hand] * 10):
        np.testing.assert_allclose(result.joints, hand.joints, atol=1e-6)
        np.testing.assert_allclose(result.wrist, hand.wrist, atol=1e-12)


def test_turns_are_filtered_the_short_way_round() -> None:
    """Around half a turn the rotation vector changes sign; the rotation itself does not."""
    hand = dataclasses.replace(base(), root=np.eye(3))
    rng = np.random.default_rng(3)
    turns = [np.array([0, 0, np.pi]) + rng.normal(0, 0.02, 3) for _ in range(40)]
    raw = [placed(moved(hand, np.zeros(3), turn)) for turn in turns]
    centre = Rotation.from_rotvec([0, 0, np.pi])
    for result in run(HandSmoother(SmoothingConfig(), MODELS), raw):
        assert (centre.inv() * Rotation.from_matrix(result.pose.global_orient)).magnitude() < 0.1


@pytest.mark.parametrize("step", [-0.1, 0.0, MAX_GAP + 0.1])
def test_a_stamp_that_goes_back_stands_or_leaps_starts_anew(step: float) -> None:
    smoother = HandSmoother(SmoothingConfig(), MODELS)
    run(smoother, jittering(10))
    elsewhere = placed(moved(base(), np.array([0.1, 0.05, 0.2]), np.array([0.5, 0, 0])))
    result = smoother(right(elsewhere), CAMERA, 9 / RATE + step).right
    assert result is elsewhere


def test_a_lost_hand_is_forgotten_at_once_and_the_other_is_not_touched() -> None:
    smoother = HandSmoother(SmoothingConfig(), MODELS)
    run(smoother, jittering(10))
    assert smoother(right(None), CAMERA, 10 / RATE) == Pair(None, None)
    elsewhere = placed(moved(base(), np.array([0.1, 0, 0]), np.zeros(3)))
    assert smoother(right(elsewhere), CAMERA, 11 / RATE).right is elsewhere


def test_sides_do_not_mix() -> None:
    raw = jittering(15)
    left = placed(make_hand(Side.LEFT, np.random.default_rng(5), CAMERA, depth=0.7))
    alone = run(HandSmoother(SmoothingConfig(), MODELS), raw)
    smoother = HandSmoother(SmoothingConfig(), MODELS)
    for i, hand in enumerate(raw):
        both = smoother(Pair(left, hand), CAMERA, i / RATE)
        assert both.right is not None
        np.testing.assert_array_equal(both.right.joints, alone[i].joints)


def test_off_is_the_identity_and_settings_change_at_run_time() -> None:
    raw = jittering(20)
    smoother = HandSmoother(SmoothingConfig(enabled=False), MODELS)
    assert all(a is b for a, b in zip(raw, run(smoother, raw), strict=True))
    smoother.update(SmoothingConfig(min_cutoff=0.05, beta=0.0))
    stiff = run(smoother, raw)
    assert np.ptp([h.wrist for h in stiff], axis=0).max() < 0.3 * np.ptp([h.wrist for h in raw], axis=0).max()


def test_status_is_kept() -> None:
    raw = [dataclasses.replace(hand, status=Status.PREDICTED) for hand in jittering(3)]
    assert all(h.status is Status.PREDICTED for h in run(HandSmoother(SmoothingConfig(), MODELS), raw))
