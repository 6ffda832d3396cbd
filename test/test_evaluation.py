from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scripted import CAMERA, ScriptedPipeline, placed_hand, two_hands

import a2p_ros
from a2p_ros import cli
from a2p_ros.evaluation.clip import ClipScore, match, mirror_join, places_of
from a2p_ros.evaluation.landmarks import as_landmarks
from a2p_ros.evaluation.mediapipe_peer import PeerHand
from a2p_ros.evaluation.metrics import mpjpe_mcp_scaled, mpjpe_wrist, mrrpe, pa_mpjpe, within
from a2p_ros.evaluation.synthetic import SyntheticScore
from a2p_ros.fitting.skeleton import Skeleton, side_arrays
from a2p_ros.hand import load_hand_models
from a2p_ros.media.sources import Frame, Source
from a2p_ros.types import Box, Pair, Side, TwoHands


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def peer(box: Box, side: Side) -> PeerHand:
    xs, ys = np.linspace(box.x0, box.x1, 21), np.linspace(box.y0, box.y1, 21)
    return PeerHand(side, 0.9, np.stack([xs, ys], 1))


def test_clip_scores_count_sides_recall_and_false_hands() -> None:
    left, right = placed_hand(Side.LEFT, (-0.15, 0, 0.5))[0], placed_hand(Side.RIGHT, (0.15, 0, 0.5))[0]
    places = places_of("left", 640, joined=True)
    assert [place.side for place in places] == [Side.LEFT, Side.RIGHT]
    score = ClipScore()
    score.add(two_hands(left, right), [peer(left.box, Side.LEFT), peer(right.box, Side.RIGHT)], places)
    score.add(two_hands(left, None), [peer(right.box, Side.RIGHT)], places)
    result = score.result()
    assert result["recall"] == 0.75 and result["mediapipe_recall"] == 0.75
    assert result["side_accuracy"] == 1.0 and result["false_hands"] == 0 and result["swaps"] == 0
    assert result["exact_frames"] == 0.5 and result["frames"] == 2


def test_a_thing_elsewhere_in_a_hand_s_place_is_not_that_hand() -> None:
    right, shirt = placed_hand(Side.RIGHT, (0.15, 0, 0.5))[0], placed_hand(Side.LEFT, (-0.15, 0, 0.5))[0]
    places = places_of("right", 640, joined=False)
    score = ClipScore()
    score.add(two_hands(shirt, None), [peer(right.box, Side.RIGHT)], places)
    missed = score.result()
    assert missed["recall"] == 0.0 and missed["false_hands"] == 1 and missed["mediapipe_recall"] == 1.0
    assert missed["exact_frames"] == 0.0
    score.add(two_hands(shirt, right), [peer(right.box, Side.RIGHT)], places)
    both = score.result()
    assert both["recall"] == 0.5 and both["false_hands"] == 2 and both["side_accuracy"] == 1.0


def test_clip_scores_count_swaps_and_wrong_sides() -> None:
    near, far = (-0.15, 0.0, 0.5), (0.15, 0.0, 0.5)
    places = places_of("left", 640, joined=True)
    score = ClipScore()
    score.add(two_hands(placed_hand(Side.LEFT, near)[0], placed_hand(Side.RIGHT, far)[0]), [], places)
    score.add(two_hands(placed_hand(Side.LEFT, far)[0], placed_hand(Side.RIGHT, near)[0]), [], places)
    result = score.result()
    assert result["swaps"] == 2 and result["side_accuracy"] == 0.5 and result["mediapipe_recall"] == 0.0


def test_a_hand_near_where_the_other_was_is_no_swap_while_it_is_nearer_to_its_own_place() -> None:
    score = ClipScore()
    for shift in (0.0, 0.01, 0.02):
        left, right = placed_hand(Side.LEFT, (-0.03 + shift, 0, 0.5))[0], placed_hand(Side.RIGHT, (0.03, 0, 0.5))[0]
        assert left.box.iou(right.box) > 0.15, "hands that overlap"
        score.add(two_hands(left, right), [], [])
    assert score.result()["swaps"] == 0


def test_clip_scores_without_known_sides_go_by_the_reference() -> None:
    right = placed_hand(Side.RIGHT, (0.15, 0, 0.5))[0]
    shifted = PeerHand(Side.LEFT, 0.9, right.keypoints_px + np.array([0.15 * right.box.size, 0]))
    score = ClipScore()
    score.add(two_hands(None, right), [shifted], [])
    score.add(two_hands(None, right), [], [])
    result = score.result()
    assert result["pck_010"] == 0.0 and result["pck_020"] == 1.0
    assert result["recall"] == 1.0 and result["false_hands"] == 1 and result["side_accuracy"] == 0.0


@pytest.mark.parametrize("side", list(Side))
def test_landmarks_of_a_placed_hand_are_those_of_the_skeleton(side: Side) -> None:
    """The fit's own kinematics has angles where a placed hand has rotations."""
    arrays = side_arrays(load_hand_models())[side]
    skeleton, rng = Skeleton([arrays]), np.random.default_rng(3)
    root = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    posed = skeleton.pose(skeleton.rest(np.zeros(10)), root[None], rng.uniform(-0.6, 0.6, (1, 5, 3, 3)))
    chain = np.concatenate([np.tile(root, (5, 1, 1, 1)), posed.turns[0]], axis=1)
    local = np.swapaxes(chain[:, :3], -1, -2) @ chain[:, 1:]
    hand_pose = np.empty((15, 3, 3))
    hand_pose[[12, 13, 14, 0, 1, 2, 3, 4, 5, 9, 10, 11, 6, 7, 8]] = local.reshape(15, 3, 3)  # thumb, index, middle, ...
    hand = placed_hand(side, (0.0, 0.0, 0.5))[0]
    pose = dataclasses.replace(hand.pose, global_orient=root, hand_pose=hand_pose)
    hand = dataclasses.replace(hand, pose=pose, joints=posed.points[0] + [0.1, 0.2, 0.6])
    found = as_landmarks(hand, arrays)
    np.testing.assert_allclose(found, posed.landmarks[0] + [0.1, 0.2, 0.6], atol=1e-9)
    assert 0.004 < np.linalg.norm(found - hand.joints, axis=1).mean() < 0.008


def test_agreement_counts_points_where_mediapipe_marks_them() -> None:
    hand = placed_hand(Side.RIGHT, (0.0, 0.0, 0.3))[0]
    arrays = side_arrays(load_hand_models())
    exact = CAMERA.project(as_landmarks(hand, arrays.right))
    aside = exact - hand.keypoints_px
    length = np.linalg.norm(aside, axis=1)
    # Farther on in the same direction: more than a tenth of the box from the joint, less from the landmark.
    moved = exact + aside / length[:, None] * (0.105 * hand.box.size - length)[:, None]
    score = ClipScore(arrays)
    score.add(two_hands(None, hand), [PeerHand(Side.RIGHT, 0.9, moved)], [], CAMERA)
    shifted = length > 0.02 * hand.box.size
    assert shifted.sum() > 10
    assert np.array(score.landmark_pck[0.1])[shifted].all()
    assert sum(score.pck[0.1]) < sum(score.landmark_pck[0.1]) - 5
    assert np.isnan(ClipScore().result()["landmark_pck_010"])


def test_matching_gives_each_box_once() -> None:
    a, b = Box(0, 0, 10, 10), Box(100, 0, 110, 10)
    assert match([a, b], [b, a, a]) in ([(1, 0), (0, 1)], [(1, 0), (0, 2)])
    assert match([a], [b]) == []


def test_mirror_join_puts_the_mirror_image_on_the_right() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    joined = mirror_join(image)
    np.testing.assert_array_equal(joined[:, :3], image)
    np.testing.assert_array_equal(joined[:, 3:], image[:, [2, 1, 0]])


def test_metrics_are_invariant_where_their_protocol_says_so() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(21, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = turn * np.sign(np.linalg.det(turn))
    assert mpjpe_wrist(truth + 5.0, truth) == pytest.approx(0, abs=1e-12)
    assert mpjpe_wrist(truth * 1.1, truth) > 1e-2
    assert mpjpe_mcp_scaled(truth * 1.7 - 3.0, truth) == pytest.approx(0, abs=1e-12)
    assert pa_mpjpe(2.5 * truth @ turn.T + 1.0, truth) == pytest.approx(0, abs=1e-9)
    assert pa_mpjpe(truth * (1, 1, -1), truth) > 1e-2, "a reflection is no similarity"
    offset = np.array([0.0, 0.03, 0.04])
    assert mpjpe_wrist(truth + offset * (np.arange(21) > 0)[:, None], truth) == pytest.approx(0.05 * 20 / 21)
    assert mrrpe(truth[0] + offset, truth[1], truth[0], truth[1]) == pytest.approx(0.05)
    assert within(np.zeros((2, 2)), np.array([[3.0, 4.0], [0.0, 5.1]]), 50.0, 0.1).tolist() == [True, False]


def test_hands_in_the_other_ones_place_and_jumps_are_counted() -> None:
    places = {Side.LEFT: -0.15, Side.RIGHT: 0.15}
    hands = {side: placed_hand(side, (x, 0.0, 0.5))[0] for side, x in places.items()}
    over_there = placed_hand(Side.RIGHT, (places[Side.LEFT], 0.0, 0.5))[0]

    @dataclasses.dataclass
    class Truth:
        joints: np.ndarray
        wrist: np.ndarray
        vertices: np.ndarray
        keypoints_px: np.ndarray
        box: Box

    truth = Pair(*(Truth(h.joints, h.joints[0], h.joints, h.keypoints_px, h.box) for h in (hands[s] for s in places)))
    score = SyntheticScore(ScriptedPipeline())
    for number, right in enumerate([hands[Side.RIGHT]] * 3 + [over_there] + [None] + [hands[Side.RIGHT]] * 2):
        frame = Frame(np.zeros((720, 1280, 3), np.uint8), number / 30, None, truth)
        score.add(frame, two_hands(hands[Side.LEFT], right, number / 30))
    result = score.result()
    assert result["swaps"] == 1 and result["jump_mm"]["p50"] == pytest.approx(0, abs=1e-6)
    # From its own place to the other's; the way back, after a frame without it, is none.
    assert sorted(score.jumps)[-2:] == pytest.approx([0.0, 0.3], abs=1e-6)


def test_synthetic_evaluation_of_a_known_error(monkeypatch, capsys) -> None:
    """The truth moved by 30 mm, and once a left hand where none is: the wrist is off by that, and nothing else is."""
    hands = [placed_hand(side, (x, 0.0, 0.5)) for side, x in ((Side.LEFT, -0.15), (Side.RIGHT, 0.15))]
    elsewhere = placed_hand(Side.LEFT, (-0.15, 0.25, 0.5))[0]

    class Truth:
        def __init__(self, hand, vertices) -> None:
            self.joints, self.vertices, self.wrist = hand.joints, vertices, hand.joints[0]
            self.keypoints_px, self.box = hand.keypoints_px, hand.box

    class Made(Source):
        def __iter__(self):
            for number in range(4):
                yield Frame(np.zeros((720, 1280, 3), np.uint8), number / 30, None, Pair(*(Truth(*h) for h in hands)))

    class Moved(ScriptedPipeline):
        model_id = "keypoint_fit"

        def __call__(self, image, camera, stamp) -> TwoHands:
            left, right = hands[0][0], hands[1][0]
            moved = dataclasses.replace(right, wrist=right.wrist + (0.03, 0, 0), joints=right.joints + (0.03, 0, 0))
            return two_hands(left if stamp else elsewhere, moved, stamp)

        def mesh(self, hand):
            vertices = hands[0 if hand.side is Side.LEFT else 1][1]
            return vertices + (hand.wrist - hands[0 if hand.side is Side.LEFT else 1][0].wrist)

    monkeypatch.setattr("a2p_ros.pipeline.TwoHandPipeline", Moved)
    monkeypatch.setattr("a2p_ros.media.sources.open_source", lambda spec: Made())
    assert cli.main(["eval", "synthetic", "--stream", "--n", "4", "--set", "network.mode=off", "--json"]) == 0
    result = last_json(capsys)
    single, none = result["single"]["keypoint_fit"], result["interacting"]["keypoint_fit"]
    assert result["n"] == 4 and single["recall"] == pytest.approx(7 / 8) and none["recall"] is None
    assert single["mpjpe_wrist_mm"] == pytest.approx(0, abs=1e-6)
    assert single["mpvpe_wrist_mm"] == pytest.approx(0, abs=1e-3)
    assert single["mrrpe_mm"] == pytest.approx(30.0)
    assert result["by_hand"]["right"]["wrist_error_mm"] == pytest.approx(30.0)
    assert result["by_hand"]["left"]["wrist_error_mm"] == pytest.approx(0.0, abs=1e-6)
    assert result["by_distance"]["0.4-0.6"]["hands"] == 8 and result["false_hands"] == 1
    assert result["swaps"] == 0 and result["jump_mm"]["p50"] == pytest.approx(0, abs=1e-6)


def test_a_source_without_truth_cannot_be_scored(monkeypatch, capsys) -> None:
    class Bare(Source):
        def __iter__(self):
            yield Frame(np.zeros((72, 128, 3), np.uint8), 0.0)

    monkeypatch.setattr("a2p_ros.pipeline.TwoHandPipeline", ScriptedPipeline)
    monkeypatch.setattr("a2p_ros.media.sources.open_source", lambda spec: Bare())
    assert cli.main(["eval", "synthetic", "--stream", "--n", "1"]) == 2
    assert "has no truth: rendering needs EGL" in capsys.readouterr().err


def test_the_command_compares_points_where_mediapipe_marks_them(capsys: pytest.CaptureFixture[str]) -> None:
    """On the packaged clip of rendered hands, whose landmarks MediaPipe's own model gives to both."""
    pytest.importorskip("mediapipe.python.solutions.hands", reason="MediaPipe's Python is not installed")
    clip = Path(a2p_ros.__file__).parent / "rendering" / "assets" / "two_hands.mp4"
    assert cli.main(["eval", "clip", str(clip), "--every", "20", "--frames", "4", "--json"]) == 0
    result = last_json(capsys)
    assert 0.9 < result["landmark_pck_010"] <= 1
