"""The whole core on the clip that ships with the package, and on pictures and cameras that are wrong."""

from __future__ import annotations

import importlib.util
from itertools import islice
from typing import Any

import numpy as np
import pytest
from interacting_hands import backs

from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.depth_scale import UPDATES
from a2p_ros.detection import tflite
from a2p_ros.errors import CameraError, ConfigError, InputError
from a2p_ros.pipeline import TwoHandPipeline
from a2p_ros.rendering.clip import ClipCamera
from a2p_ros.types import Pair, Side, Status, TwoHands

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or importlib.util.find_spec("ai_edge_litert") is None,
    reason=f"MediaPipe's models or LiteRT are not installed ({tflite.INSTALL}; pip install ai-edge-litert)",
)

DARK = np.zeros((480, 640, 3), np.uint8)
BOTH = {Side.LEFT, Side.RIGHT}


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    with ClipCamera() as clip:
        return list(islice(clip, 12))


@pytest.fixture(scope="module")
def loaded() -> TwoHandPipeline:
    return TwoHandPipeline()


@pytest.fixture
def pipeline(loaded: TwoHandPipeline) -> TwoHandPipeline:
    loaded.update(PipelineConfig())
    loaded.reset()
    return loaded


def sides(hands: TwoHands) -> set[Side]:
    return {side for side, hand in hands.items() if hand is not None}


def joints(hands: TwoHands) -> np.ndarray:
    return np.stack([hand.joints for _, hand in hands.items() if hand is not None])


def set_to(pipeline: TwoHandPipeline, name: str, value: Any) -> None:
    pipeline.update(pipeline.config.replace_flat({name: value}))


def test_both_hands_of_the_clip_in_front_of_the_camera(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    for frame in frames:
        hands = pipeline(frame.image, frame.camera, frame.stamp)
        assert sides(hands) == BOTH and hands.stamp == frame.stamp
        assert hands.status == Pair(Status.TRACKED, Status.TRACKED)
        for side, hand in hands.items():
            assert hand is not None and hand.side is side and 0 < hand.confidence <= 1
            assert np.allclose(hand.joints[0], hand.wrist) and 0.2 < hand.wrist[2] < 1.5
            assert np.allclose(frame.camera.project(hand.joints), hand.keypoints_px)
            assert np.allclose(pipeline.mesh(hand).mean(0), hand.joints.mean(0), atol=0.03)
    assert not hands.metric_scale, "the hand's length is not known"


def test_hands_that_are_gone_are_gone_in_the_very_next_answer(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    first = frames[0]
    assert sides(pipeline(first.image, first.camera, 0.0)) == BOTH
    gone = pipeline(np.zeros_like(first.image), first.camera, 0.03)
    assert sides(gone) == set() and gone.status == Pair(Status.NOT_DETECTED, Status.NOT_DETECTED)
    assert gone.relative_translation is None


@pytest.mark.parametrize("length", [0.0, 0.17])
def test_reset_forgets_every_stage(pipeline: TwoHandPipeline, frames: list[Any], length: float) -> None:
    set_to(pipeline, "placement.hand_length", length)
    pipeline.reset()
    first = [joints(pipeline(f.image, f.camera, f.stamp)) for f in frames[:2]]
    for frame in frames[2:]:
        pipeline(frame.image[:, ::-1], None, frame.stamp)
    pipeline.reset()
    again = [joints(pipeline(f.image, f.camera, frames[-1].stamp + 0.03 + f.stamp)) for f in frames[:2]]
    for before, after in zip(first, again, strict=True):
        assert np.allclose(before, after, atol=1e-6)


def test_scale_is_metric_only_with_a_camera_and_a_length(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    frame = frames[0]
    assert not pipeline(frame.image, frame.camera, 0.0).metric_scale
    set_to(pipeline, "placement.hand_length", 0.17)
    assert pipeline(frame.image, frame.camera, 0.1).metric_scale
    assert not pipeline(frame.image, None, 0.2).metric_scale


def test_a_longer_hand_is_farther_away(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    frame, depths = frames[0], []
    for length in (0.15, 0.20):
        set_to(pipeline, "placement.hand_length", length)
        pipeline.reset()
        depths.append(joints(pipeline(frame.image, frame.camera, 0.0))[:, 0, 2])
    assert depths[1] / depths[0] == pytest.approx(0.20 / 0.15, rel=0.03)


def test_depth_images_make_the_scale_metric_until_reset(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    set_to(pipeline, "smoothing.enabled", False)
    frame, factor = frames[0], 0.9
    shown = pipeline(frame.image, frame.camera, 0.0)
    depth = np.zeros(frame.image.shape[:2], np.float32)
    for _, hand in shown.items():
        assert hand is not None
        x0, y0, x1, y1 = (max(int(edge), 0) for edge in hand.box.scaled(1.2))
        depth[y0:y1, x0:x1] = factor * np.median(pipeline.mesh(hand)[:, 2])
    for n in range(UPDATES[0] // 2):
        assert not pipeline(frame.image, frame.camera, 0.1 + 0.03 * n, depth).metric_scale
    measured = pipeline(frame.image, frame.camera, 1.0, depth)
    assert measured.metric_scale
    assert joints(measured)[:, 0, 2] / joints(shown)[:, 0, 2] == pytest.approx(factor, rel=0.05)
    pipeline.reset()
    assert not pipeline(frame.image, frame.camera, 2.0).metric_scale


def test_hands_that_penetrate_leave_parted_and_said_so(
    pipeline: TwoHandPipeline, frames: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before the last stage is scripted: the clip's hands do not meet."""
    deep = backs(0.030)
    monkeypatch.setattr(type(pipeline.smoother), "__call__", lambda *_: deep)
    answer = pipeline(frames[0].image, frames[0].camera, 0.0)
    assert answer.interacting and answer.repaired and answer.rejected_repair == ""
    assert answer.penetration_before > 0.005 > 0.001 > answer.penetration_after >= 0
    assert answer.status == Pair(Status.TRACKED, Status.TRACKED) and answer.timings["interact"] > 0
    assert answer.model_id.endswith(f"+{pipeline.interaction.repair.model_id}")
    assert answer.left is not None and not np.allclose(answer.left.joints, deep.left.joints, atol=1e-3)

    set_to(pipeline, "interaction.min_depth", 0.02)
    pipeline.interaction.reset()
    assert not pipeline(frames[0].image, frames[0].camera, 0.1).repaired
    set_to(pipeline, "interaction.min_depth", 0.002)
    set_to(pipeline, "interaction.enabled", False)
    off = pipeline(frames[0].image, frames[0].camera, 0.2)
    assert off.interacting and not off.repaired and off.left is deep.left and pipeline.report()["repair"] == "disabled"
    assert off.penetration_before == off.penetration_after == pytest.approx(answer.penetration_before)
    assert pipeline.interaction.repair.model_id not in off.model_id


def test_hands_of_the_clip_are_apart_and_pass_through(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    hands = pipeline(frames[0].image, frames[0].camera, 0.0)
    assert (hands.interacting, hands.repaired, hands.penetration_before, hands.penetration_after) == (False,) * 2 + (
        0,
    ) * 2
    assert pipeline.report()["repair"].startswith(pipeline.interaction.repair.model_id)


def test_a_rejected_hand_is_said_to_be_and_is_looked_for_again(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    pipeline(frames[0].image, frames[0].camera, 0.0)
    assert not pipeline.tracker.detection_due()
    set_to(pipeline, "fit.max_error", 0.0)
    rejected = pipeline(frames[1].image, frames[1].camera, 0.03)
    assert sides(rejected) == set() and rejected.status == Pair(Status.REJECTED, Status.REJECTED)
    assert pipeline.tracker.detection_due()
    set_to(pipeline, "fit.max_error", PipelineConfig().fit.max_error)
    assert sides(pipeline(frames[2].image, frames[2].camera, 0.07)) == BOTH


@pytest.mark.parametrize(
    ("name", "value"), [("landmarks.min_presence", 1.0), ("landmarks.min_size", 1.0), ("fit.max_error", 0.0)]
)
def test_a_threshold_holds_from_the_next_image_on(
    pipeline: TwoHandPipeline, frames: list[Any], name: str, value: float
) -> None:
    assert sides(pipeline(frames[0].image, frames[0].camera, 0.0)) == BOTH
    set_to(pipeline, name, value)
    assert sides(pipeline(frames[1].image, frames[1].camera, 0.03)) == set()


def test_detection_settings_hold_from_the_next_image_on(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    set_to(pipeline, "detection.min_score", 1.0)
    assert sides(pipeline(frames[0].image, frames[0].camera, 0.0)) == set()
    set_to(pipeline, "detection.min_score", 0.5)
    assert sides(pipeline(frames[0].image, frames[0].camera, 0.03)) == BOTH
    set_to(pipeline, "detection.interval", 1)
    due = []
    for frame in frames[:3]:
        pipeline(frame.image, frame.camera, 0.07 + frame.stamp)
        due.append(pipeline.tracker.detection_due())
    assert any(due), "two hands are tracked: every third image, and not every fifteenth"


def test_smoothing_can_be_switched_off_between_images(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    def run() -> np.ndarray:
        pipeline.reset()
        return np.stack([joints(pipeline(f.image, f.camera, f.stamp)) for f in frames])

    smooth = run()
    set_to(pipeline, "smoothing.enabled", False)
    assert not np.allclose(smooth[1:], run()[1:], atol=1e-4)


def test_what_is_fixed_when_the_pipeline_is_built_is_refused_later(pipeline: TwoHandPipeline) -> None:
    with pytest.raises(ConfigError, match=r"detection\.backend cannot change at run time; build a new pipeline"):
        set_to(pipeline, "detection.backend", "rtmdet")
    assert pipeline.config == PipelineConfig()


@pytest.mark.parametrize(
    "image",
    [
        DARK,
        DARK + 255,
        np.random.default_rng(0).integers(0, 256, DARK.shape, np.uint8),
        DARK[:1, :1],
        DARK[:1],
        DARK[:, :1],
    ],
    ids=["black", "white", "noise", "one pixel", "one row", "one column"],
)
def test_there_is_no_hand_in(pipeline: TwoHandPipeline, image: np.ndarray) -> None:
    hands = pipeline(image, None, 0.0)
    assert sides(hands) == set() and hands.status == Pair(Status.NOT_DETECTED, Status.NOT_DETECTED)


@pytest.mark.parametrize("view", [np.asfortranarray, lambda image: np.concatenate([image, image])[: len(image)]])
def test_memory_layout_does_not_matter(pipeline: TwoHandPipeline, frames: list[Any], view: Any) -> None:
    frame = frames[0]
    plain = joints(pipeline(frame.image, frame.camera, 0.0))
    pipeline.reset()
    assert np.array_equal(plain, joints(pipeline(view(frame.image), frame.camera, 0.0)))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (DARK[:0], "at least one pixel, got 640 x 0"),
        (DARK[..., 0], r"expected RGB uint8 \(height, width, 3\), got uint8 \(480, 640\)"),
        (DARK.astype(np.float32), "got float32"),
        (np.zeros((40_000, 2, 3), np.uint8), "at most 32766 pixels, got 2 x 40000"),
        (np.zeros((1, 32_767, 3), np.uint8), "at most 32766 pixels, got 32767 x 1"),
        (None, "got NoneType"),
    ],
)
def test_a_picture_that_is_none_is_refused(pipeline: TwoHandPipeline, image: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        pipeline(image, None, 0.0)


def test_the_longest_edge_is_taken(pipeline: TwoHandPipeline) -> None:
    assert sides(pipeline(np.zeros((4, 32_766, 3), np.uint8), None, 0.0)) == set()


def test_a_camera_of_another_picture_is_refused(pipeline: TwoHandPipeline) -> None:
    with pytest.raises(CameraError, match="the image is 640 x 480, but the CameraInfo describes one of 320 x 240"):
        pipeline(DARK, CameraModel.assume(320, 240, 1.0), 0.0)


@pytest.mark.parametrize(("shape", "got"), [((240, 320), "320 x 240"), ((5,), "got 5;"), ((), "a single number")])
def test_a_depth_image_of_another_size_is_refused_before_anything_is_done(
    pipeline: TwoHandPipeline, shape: tuple[int, ...], got: str
) -> None:
    """Without a hand, too: else the error would come and go with the hands."""
    with pytest.raises(InputError, match=got):
        pipeline(DARK, None, 0.0, np.zeros(shape))


@pytest.mark.parametrize("focal", [1e-3, 1e-1, 1e9])
def test_a_camera_that_cannot_be_gives_no_hand_and_does_no_harm(
    pipeline: TwoHandPipeline, frames: list[Any], focal: float
) -> None:
    height, width = frames[0].image.shape[:2]
    camera = CameraModel(width, height, focal, focal, width / 2, height / 2)
    assert sides(pipeline(frames[0].image, camera, 0.0)) == set()
    assert sides(pipeline(frames[1].image, frames[1].camera, 0.03)) == BOTH


def test_another_image_size_is_another_stream(pipeline: TwoHandPipeline, frames: list[Any]) -> None:
    cut = [np.ascontiguousarray(frame.image[:, 40:-40]) for frame in frames]
    fresh = joints(pipeline(cut[4], None, 0.0))
    pipeline.reset()
    for n, frame in enumerate(frames[:4]):
        pipeline(frame.image, frame.camera, n / 10)
    assert np.allclose(joints(pipeline(cut[4], None, 0.4)), fresh, atol=1e-9)
