"""The network stage with an engine that answers the truth: what is wrong then is the stage's own."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_hands import MODELS, MadeHand, make_hand, smplx_joints
from scipy.spatial.transform import Rotation
from true_engine import TrueEngine, pixels_of, place_picture

from a2p_ros.camera import CameraModel
from a2p_ros.config import LandmarkConfig, NetworkStageConfig, PlacementConfig
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.errors import DeviceError
from a2p_ros.fitting.keypoint_fit import KeypointFit
from a2p_ros.hand import hand_length
from a2p_ros.network.regressed_pose import RegressedPose
from a2p_ros.network.stage import NetworkStage
from a2p_ros.placement import place
from a2p_ros.regions import hand_rotation, hand_square
from a2p_ros.types import Box, Detection, Pair, Side

PLAIN = CameraModel.assume(640, 480, 1.2)
LENS = CameraModel.from_calibration(
    640, 480, (420.0, 0, 319.5, 0, 425.0, 239.5, 0, 0, 1), (-0.25, 0.08, 0.001, -0.001, 0.0), "plumb_bob"
)
PLACES = {Side.LEFT: (150.0, 300.0), Side.RIGHT: (480.0, 190.0)}


def hands_of(rng: np.random.Generator, camera: CameraModel) -> list[MadeHand]:
    """A left and a right hand apart in the image, both as large as a hand at half a metre, of one shape."""
    betas = rng.normal(0, 0.7, 10).clip(-2, 2)
    return [
        make_hand(side, rng, camera, pixel=pixel, depth=rng.uniform(0.45, 0.6), betas=betas, strength=0.5)
        for side, pixel in PLACES.items()
    ]


def region(hand: MadeHand, camera: CameraModel, *, turn: float = 0.0, right: float | None = None) -> Detection:
    pixels = pixels_of(hand, camera)
    rotation = hand_rotation(pixels) + turn
    square = hand_square(pixels, hand_rotation(pixels))
    side = float(hand.side is Side.RIGHT) if right is None else right
    return Detection(Box.around(pixels), 0.9, side, rotation, square)


def stage_of(engine: TrueEngine, **settings: float) -> NetworkStage:
    return NetworkStage(engine, NetworkStageConfig(**settings), LandmarkConfig(), MODELS)


def measured(hands: list[MadeHand], camera: CameraModel, noise: float = 0.0) -> tuple[Pair, NetworkStage]:
    stage = stage_of(TrueEngine(hands, camera, noise))
    found = stage(place_picture(camera), [region(hand, camera) for hand in hands], camera)
    return Pair(*found), stage


@pytest.mark.parametrize("camera", [PLAIN, LENS], ids=["plain", "lens"])
def test_a_true_answer_arrives_as_the_truth(camera: CameraModel) -> None:
    rng = np.random.default_rng(1)
    for _ in range(4):
        hands = hands_of(rng, camera)
        found, stage = measured(hands, camera)
        for hand in hands:
            seen = found[hand.side]
            assert seen is not None and seen.regressed is not None and seen.at_joints
            assert seen.regressed.side is hand.side and (seen.right > 0.9) is (hand.side is Side.RIGHT)
            np.testing.assert_allclose(seen.keypoints_px, pixels_of(hand, camera), atol=0.3)
            told = np.concatenate([seen.regressed.global_orient[None], seen.regressed.hand_pose])
            truth = np.concatenate([hand.root[None], hand.rotations])
            assert np.degrees(Rotation.from_matrix(np.swapaxes(told, 1, 2) @ truth).magnitude()).max() < 0.15
            lengths = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (seen.keypoints_3d, hand.joints)]
            np.testing.assert_allclose(*lengths, atol=1.5e-3)
        apart = stage.apart(found, camera)
        assert apart is not None
        np.testing.assert_allclose(apart.translation, hands[0].wrist - hands[1].wrist, atol=1e-3)


@pytest.mark.parametrize("regressor", [RegressedPose, KeypointFit])
@pytest.mark.parametrize("camera", [PLAIN, LENS], ids=["plain", "lens"])
def test_both_modes_put_true_hands_where_they_are(regressor: type, camera: CameraModel) -> None:
    hands = hands_of(np.random.default_rng(2), camera)
    found, stage = measured(hands, camera)
    poses = regressor(MODELS)(found, camera)
    placed = place(poses, camera, MODELS, stage.apart(found, camera))
    for hand in hands:
        there, pose = placed[hand.side], poses[hand.side]
        assert there is not None and pose is not None and there.confidence > 0.9
        assert np.linalg.norm(pose.joints - (hand.joints - hand.wrist), axis=1).max() < 1e-3
        assert np.linalg.norm(there.wrist - hand.wrist) < 4e-3
        np.testing.assert_allclose(pose.betas, hand.betas, atol=1e-6)
        joints = smplx_joints(hand.side, pose.global_orient, pose.hand_pose, np.zeros(3), pose.betas)
        np.testing.assert_allclose(joints - joints[0], pose.joints, atol=2e-6)


def test_the_fit_takes_noise_out_of_regressed_turns() -> None:
    errors: dict[type, list[float]] = {RegressedPose: [], KeypointFit: []}
    rng = np.random.default_rng(3)
    for _ in range(8):
        hands = hands_of(rng, PLAIN)
        found, _ = measured(hands, PLAIN, noise=0.01)
        for regressor, off in errors.items():
            for side, pose in regressor(MODELS)(found, PLAIN).items():
                hand = next(h for h in hands if h.side is side)
                assert pose is not None
                off.append(float(np.linalg.norm(pose.joints - (hand.joints - hand.wrist), axis=1).mean()))
    assert np.mean(errors[KeypointFit]) < 0.75 * np.mean(errors[RegressedPose]) < 0.03


def test_of_an_unclear_side_both_are_tried_at_once() -> None:
    hands = hands_of(np.random.default_rng(4), PLAIN)
    engine = TrueEngine(hands, PLAIN)
    found = stage_of(engine)(place_picture(PLAIN), [region(hand, PLAIN, right=0.5) for hand in hands], PLAIN)
    assert engine.batches == [4]
    assert [hand.regressed.side for hand in found] == [Side.LEFT, Side.RIGHT]


@pytest.mark.parametrize("other", [0.9, 0.2])
def test_the_side_is_what_both_ways_of_looking_say_together(other: float) -> None:
    """A network that takes nine of ten crops for the assumed side must not make any side certain."""
    hand = make_hand(Side.LEFT, np.random.default_rng(12), PLAIN, pixel=(330, 240), depth=0.5)

    class Presuming(TrueEngine):
        def __call__(self, crops: np.ndarray) -> SimpleNamespace:
            out = super().__call__(crops)
            out.as_assumed = np.where(out.as_assumed > 0.5, 0.9, other)
            return out

    (found,) = stage_of(Presuming([hand], PLAIN))(place_picture(PLAIN), [region(hand, PLAIN, right=0.5)], PLAIN)
    assert found is not None and (other == 0.9 or found.regressed.side is Side.LEFT)
    # By Bayes, from odds of 9 for a left hand and of other / (1 - other) for a right one.
    odds = 9 / (other / (1 - other))
    assert found.right == pytest.approx(1 - odds / (1 + odds), abs=1e-3)


def test_a_wrong_guess_of_the_side_is_put_right() -> None:
    hands = hands_of(np.random.default_rng(5), PLAIN)
    engine = TrueEngine(hands, PLAIN)
    wrong = [region(hand, PLAIN, right=0.9 if hand.side is Side.LEFT else 0.1) for hand in hands]
    found = stage_of(engine)(place_picture(PLAIN), wrong, PLAIN)
    assert engine.batches == [2, 2]
    for hand, seen in zip(hands, found, strict=True):
        assert seen.regressed.side is hand.side and (seen.right > 0.9) is (hand.side is Side.RIGHT)


@pytest.mark.parametrize(("known", "kept"), [(1.0, True), (0.9999, True), (0.8, False)])
def test_a_known_side_is_doubted_as_little_as_it_is_known(known: float, kept: bool) -> None:
    """The network takes this left hand for a right one, nine to one."""
    hand = make_hand(Side.LEFT, np.random.default_rng(12), PLAIN, pixel=(330, 240), depth=0.5)

    class Mistaken(TrueEngine):
        def __call__(self, crops: np.ndarray) -> SimpleNamespace:
            out = super().__call__(crops)
            out.as_assumed = np.where(out.as_assumed > 0.5, 0.1, 0.9)
            return out

    engine = Mistaken([hand], PLAIN)
    (found,) = stage_of(engine)(place_picture(PLAIN), [region(hand, PLAIN, right=1 - known)], PLAIN)
    assert found is not None and (found.regressed.side is Side.LEFT) is kept
    assert engine.batches == ([1] if kept else [1, 1])
    assert found.right > 0.899, "what is seen is told as it is seen: the tracker adds what was known"


@pytest.mark.parametrize("turn", [0.0, 1.4, -2.4, math.pi])
def test_a_plain_box_of_unknown_turn_and_side_is_searched(turn: float) -> None:
    rng = np.random.default_rng(6)
    hand = make_hand(Side.LEFT, rng, PLAIN, pixel=(330, 240), depth=0.5, strength=0.3)
    about = Rotation.from_rotvec([0, 0, turn - hand_rotation(pixels_of(hand, PLAIN))]).as_matrix()
    middle = hand.joints.mean(0)
    hand = dataclasses.replace(hand, joints=(hand.joints - middle) @ about.T + middle, root=about @ hand.root)
    box = Box.around(pixels_of(hand, PLAIN))
    seen = stage_of(TrueEngine([hand], PLAIN))(place_picture(PLAIN), [Detection(box, 0.8)], PLAIN)[0]
    assert seen is not None and seen.regressed is not None and seen.regressed.side is Side.LEFT
    np.testing.assert_allclose(seen.keypoints_px, pixels_of(hand, PLAIN), atol=0.7)
    assert seen.detection == Detection(box, 0.8), "the region that was asked for, not the one that was looked at"


def test_a_hand_off_its_crop_is_looked_at_again() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(7), PLAIN, pixel=(330, 240), depth=0.5, strength=0.3)
    good = region(hand, PLAIN)
    x, y, edge = good.square
    engine = TrueEngine([hand], PLAIN)
    off = dataclasses.replace(good, square=(x + 0.25 * edge, y, edge))
    seen = stage_of(engine)(place_picture(PLAIN), [off], PLAIN)[0]
    assert engine.batches == [1, 1] and seen.crop_centre_px == pytest.approx((x, y), abs=1.0)
    assert stage_of(engine)(place_picture(PLAIN), [good], PLAIN)[0] is not None and engine.batches == [1, 1, 1]


def test_the_tracker_names_the_hands_and_keeps_them() -> None:
    hands = hands_of(np.random.default_rng(8), PLAIN)
    stage, tracker, image = stage_of(TrueEngine(hands, PLAIN)), HandTracker(), place_picture(PLAIN)
    asked = []

    def detector(_: np.ndarray) -> list[Detection]:
        asked.append(1)
        return [region(hand, PLAIN, right=0.5) for hand in hands]

    for _ in range(4):
        found = tracker.update(stage(image, tracker.regions(image, detector), PLAIN))
        for hand in hands:
            assert found[hand.side] is not None
            np.testing.assert_allclose(found[hand.side].keypoints_px, pixels_of(hand, PLAIN), atol=0.4)
    assert len(asked) == 1, "followed hands need no detector"


class Broken(TrueEngine):
    """Answers what is no number in one field."""

    field, value = "presence", math.nan

    def __call__(self, crops: np.ndarray) -> SimpleNamespace:
        out = super().__call__(crops)
        values = getattr(out, self.field)
        values[0] = self.value
        return out

    def relative(self, *_: np.ndarray) -> np.ndarray:
        raise DeviceError("relative translation on cpu: expected 3 finite numbers")


@pytest.mark.parametrize("field", ["keypoints", "depth", "rotations", "betas", "joint_confidence", "presence"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_no_hand_and_harms_no_other(field: str, value: float) -> None:
    hands = hands_of(np.random.default_rng(9), PLAIN)
    engine = Broken(hands, PLAIN)
    engine.field, engine.value = field, value
    found = stage_of(engine)(place_picture(PLAIN), [region(hand, PLAIN) for hand in hands], PLAIN)
    assert found[0] is None and found[1] is not None


def test_hands_without_a_finite_relation_are_placed_each_by_itself() -> None:
    hands = hands_of(np.random.default_rng(10), PLAIN)
    engine = Broken(hands, PLAIN)
    engine.field, engine.value = "weak_camera", 0.0
    stage = stage_of(engine)
    found = Pair(*stage(place_picture(PLAIN), [region(hand, PLAIN) for hand in hands], PLAIN))
    assert found.left is not None and found.right is not None and stage.apart(found, PLAIN) is None
    assert stage.apart(Pair(found.left, None), PLAIN) is None
    bare = dataclasses.replace(found.right, regressed=None)
    assert stage.apart(Pair(found.left, bare), PLAIN) is None, "MediaPipe's hand has no depth that it could use"


@pytest.mark.parametrize("colour", [(0, 0, 0), (127, 127, 127), (255, 255, 255), (0, 0, 255), (200, 30, 30)])
def test_pictures_of_one_colour_show_no_hand(colour: tuple[int, int, int]) -> None:
    hands = hands_of(np.random.default_rng(11), PLAIN)
    engine = TrueEngine(hands, PLAIN)
    image = np.full((PLAIN.height, PLAIN.width, 3), colour, np.uint8)
    assert stage_of(engine)(image, [region(hand, PLAIN) for hand in hands], PLAIN) == [None, None]
    assert engine.batches == []


def test_bad_regions_give_no_hand() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(12), PLAIN, pixel=(330, 240), depth=0.5)
    good = region(hand, PLAIN)
    bad = [
        dataclasses.replace(good, square=(math.nan, 1.0, 2.0)),
        dataclasses.replace(good, square=(1.0, 1.0, 0.0)),
        dataclasses.replace(good, box=Box(-400, -400, -300, -300)),
        dataclasses.replace(good, rotation=math.nan),
    ]
    found = stage_of(TrueEngine([hand], PLAIN))(place_picture(PLAIN), [*bad, good], PLAIN)
    assert found[:4] == [None] * 4 and found[4] is not None
    assert stage_of(TrueEngine([hand], PLAIN))(place_picture(PLAIN), [], PLAIN) == []


def test_joints_outside_the_picture_are_doubted_and_a_hand_outside_is_none() -> None:
    hand = make_hand(Side.RIGHT, np.random.default_rng(13), PLAIN, pixel=(620, 240), depth=0.4, strength=0.3)
    pixels = pixels_of(hand, PLAIN)
    outside = pixels[:, 0] > PLAIN.width + 0.2 * Box.around(pixels).size
    assert 3 < outside.sum() < 10
    image, stage = place_picture(PLAIN), stage_of(TrueEngine([hand], PLAIN))
    seen = stage(image, [region(hand, PLAIN)], PLAIN)[0]
    assert seen is not None
    assert seen.confidence[outside].max() < 0.2 < 0.8 < seen.confidence[pixels[:, 0] < PLAIN.width].min()
    away = make_hand(Side.RIGHT, np.random.default_rng(13), PLAIN, pixel=(720, 240), depth=0.4, strength=0.3)
    assert stage_of(TrueEngine([away], PLAIN))(image, [region(away, PLAIN)], PLAIN) == [None]


@pytest.mark.parametrize(("setting", "value"), [("min_presence", 0.99), ("min_size", 0.9)])
def test_thresholds_hold_from_the_next_call_on(setting: str, value: float) -> None:
    hands = hands_of(np.random.default_rng(14), PLAIN)
    stage, regions = stage_of(TrueEngine(hands, PLAIN)), [region(hand, PLAIN) for hand in hands]
    assert None not in stage(place_picture(PLAIN), regions, PLAIN)
    setattr(stage, setting, value)
    assert stage(place_picture(PLAIN), regions, PLAIN) == [None, None]


def test_a_new_hand_must_be_trusted_more_than_one_that_is_followed() -> None:
    hands = hands_of(np.random.default_rng(14), PLAIN)
    followed = [region(hand, PLAIN) for hand in hands]
    new = [dataclasses.replace(place, right=0.5) for place in followed]
    stage, image = stage_of(TrueEngine(hands, PLAIN)), place_picture(PLAIN)
    mean = min(float(hand.confidence.mean()) for hand in stage(image, followed, PLAIN))
    for least, kept, taken in ((0.9 * mean, True, True), (1.1 * mean, True, False), (2.2 * mean, False, False)):
        stage.min_confidence = least
        assert [hand is not None for hand in stage(image, followed, PLAIN)] == [kept, kept]
        assert [hand is not None for hand in stage(image, new, PLAIN)] == [taken, taken]


def test_a_pose_that_contradicts_the_keypoints_or_the_side_is_rejected() -> None:
    hands = hands_of(np.random.default_rng(15), PLAIN)
    found, _ = measured(hands, PLAIN)
    regress = RegressedPose(MODELS)
    assert regress(Pair(found.right, None), PLAIN) == Pair(None, None), "taken for a right hand, tracked as a left one"
    told = found.right.regressed
    turned = dataclasses.replace(told, global_orient=Rotation.from_rotvec([0, 0, 2.0]).as_matrix() @ told.global_orient)
    wrong = dataclasses.replace(found.right, regressed=turned)
    broad = dataclasses.replace(wrong, regressed=dataclasses.replace(turned, betas=np.full(10, 2.0)))
    poses = regress(Pair(found.left, broad), PLAIN)
    assert poses.right is None and poses.left is not None
    again = regress(Pair(found.left, None), PLAIN)
    np.testing.assert_allclose(again.left.betas, found.left.regressed.betas, atol=1e-9)  # of the rejected hand nothing
    fitted = KeypointFit(MODELS)(Pair(found.left, wrong), PLAIN).right
    assert fitted is not None
    assert np.linalg.norm(fitted.joints - (hands[1].joints - hands[1].wrist), axis=1).mean() < 0.006


def test_metric_points_are_not_shrunk() -> None:
    """Errors of depth make a hand's bones longer; a fit that scales them to its own makes the whole hand too flat."""
    errors = []
    for length in (0.0, None):
        rng, total = np.random.default_rng(16), 0.0
        for _ in range(12):
            hands = hands_of(rng, PLAIN)
            found, _ = measured(hands, PLAIN)
            noisy = {
                s: dataclasses.replace(h, keypoints_3d=h.keypoints_3d + rng.normal(0, [0, 0, 0.018], (21, 3)))
                for s, h in found.items()
            }
            # A length that is told takes the points' size from them.
            true = hand_length(MODELS.right, torch.tensor(found.right.regressed.betas[None], dtype=torch.float32))
            placement = PlacementConfig(hand_length=float(true[0]) if length is None else length)
            poses = KeypointFit(MODELS, placement=placement)(Pair(noisy[Side.LEFT], noisy[Side.RIGHT]), PLAIN)
            total += sum(
                np.linalg.norm(poses[hand.side].joints - (hand.joints - hand.joints[0]), axis=1).mean()
                for hand in hands
            )
        errors.append(total)
    assert errors[0] < 0.99 * errors[1]
