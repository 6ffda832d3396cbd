"""What counts as found, false and right of side, on rendered frames and on clips."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_detector import colours

from a2p_ros.cli import main
from a2p_ros.evaluation.clip import places_of
from a2p_ros.evaluation.detections import ClipDetections, padded
from a2p_ros.evaluation.mediapipe_peer import PeerHand
from a2p_ros.training.detector.calibration import best_shift, share_of_right_sides
from a2p_ros.training.detector.evaluation import joint_padding
from a2p_ros.training.detector.labels import Hands
from a2p_ros.training.detector.score import DetectionScore, group_of, matched, overlap_of
from a2p_ros.types import Box, Detection, Side

#: A hand of 21 points in a box of 100 x 100 at the origin, wrist below the middle finger's base.
POINTS = np.random.default_rng(0).uniform(20, 80, (21, 2))
POINTS[[0, 9, 1, 2]] = [50, 100], [50, 40], [0, 30], [100, 0]


def hands(*places: tuple[float, float, bool], share: float = 1.0) -> Hands:
    """Hands whose outlines are squares of 100 px from (x, y)."""
    corners = np.array([[0, 0], [100, 0], [100, 100], [0, 100]] * 8, float)
    shifts = np.array([(x, y) for x, y, _ in places]).reshape(-1, 1, 2)
    right = np.array([right for *_, right in places], bool)
    return Hands(right, corners + shifts, POINTS + shifts, np.full(len(places), share))


def found(x: float, y: float, right: float, *, size: float = 100.0, turn: float = 0.0, score: float = 0.9) -> Detection:
    return Detection(Box(x, y, x + size, y + size), score, right, turn)


def score(detections: list[Detection], truth: Hands) -> DetectionScore:
    out = DetectionScore()
    out.add(detections, truth, 480, 640)
    return out


def test_groups_by_overlap() -> None:
    names = [group_of(value) for value in (0.0, 1e-6, 0.3, 0.31, 0.6, 0.61, 1.0)]
    assert names == ["0", "0-0.3", "0-0.3", "0.3-0.6", "0.3-0.6", "0.6-1", "0.6-1"]
    assert overlap_of([Box(0, 0, 10, 10)]) == 0
    assert overlap_of([Box(0, 0, 10, 10), Box(0, 5, 10, 15)]) == pytest.approx(1 / 3)


def test_recall_precision_sides_and_angles() -> None:
    truth = hands((100, 100, False), (400, 100, True))
    result = score([found(110, 100, 0.1, turn=0.2), found(400, 120, 0.2), found(100, 300, 0.9)], truth).result()["0"]
    assert (result["recall"], result["side_accuracy"]) == (1.0, 0.5)
    assert result["precision"] == pytest.approx(2 / 3)
    assert result["orientation_deg_p90"] == pytest.approx(math.degrees(0.2) * 0.9)
    assert score([], truth).result()["0"]["recall"] == 0.0
    assert score([found(160, 100, 0.0)], truth).total()["recall"] == 0.0  # IoU 0.25


def test_overlapping_hands_need_two_detections_and_sides_decide_which_is_whose() -> None:
    truth = hands((100, 100, False), (110, 100, True))
    one = score([found(105, 100, 0.9)], truth).result()["0.6-1"]
    assert (one["recall"], one["side_accuracy"]) == (0.5, 1.0)
    both = score([found(104, 100, 1.0), found(106, 100, 0.0)], truth).result()["0.6-1"]
    assert (both["recall"], both["side_accuracy"], both["precision"]) == (1.0, 1.0, 1.0)
    wrong = score([found(104, 100, 1.0), found(106, 100, 1.0)], truth).result()["0.6-1"]
    assert wrong["side_accuracy"] == 0.5


def test_a_match_never_costs_another_hand_its_detection() -> None:
    """The first detection fits both hands, the second only the first hand."""
    boxes = [Box(0, 0, 100, 100), Box(30, 0, 130, 100)]
    pairs = matched([found(18, 0, 0.5), found(-20, 0, 0.5)], boxes, np.array([False, True]))
    assert sorted(pairs) == [(0, 1), (1, 0)]


def test_hands_that_hardly_show_neither_count_nor_harm() -> None:
    hidden = hands((100, 100, True), share=0.05)
    for detections in ([], [found(100, 100, 1.0)], [found(120, 110, 0.2, size=60)]):
        total = score(detections, hidden).total()
        assert total["hands"] == 0 and total["false_hands"] == 0
    assert score([found(400, 300, 1.0)], hidden).total()["false_hands"] == 1


def test_a_frame_without_hands_counts_false_ones() -> None:
    assert score([found(100, 100, 1.0)], Hands.none()).result()["0"]["false_hands"] == 1


def test_padding_of_joints() -> None:
    wide = Hands(np.array([True]), np.array([[[-10.0, -10], [110, 110]] * 16]) + 200, POINTS[None] + 200, np.ones(1))
    assert joint_padding([(wide, 480, 640)]) == pytest.approx(0.1)
    assert padded(Box(0, 0, 100, 50), 0.1) == Box(-10, -10, 110, 60)
    assert joint_padding([]) == 0.1


def test_clip_of_a_left_and_a_right_hand() -> None:
    clip = ClipDetections(padding=0.0)
    places = places_of("right", 320, joined=True)
    peers = [PeerHand(Side.RIGHT, 0.9, POINTS + (100, 100)), PeerHand(Side.RIGHT, 0.9, POINTS + (420, 100))]
    tilted = found(420, 100, 0.1, turn=math.radians(20))
    clip.add([found(100, 100, 0.9), tilted, found(20, 300, 0.9)], peers, places, 0.004)
    clip.add(
        [found(160, 100, 0.9), found(420, 100, 0.1)], peers[1:], places, 0.002
    )  # nothing to compare the first with
    clip.add([found(190, 100, 0.9)], peers[:1], places, 0.003)  # too far off
    result = clip.result()
    assert result["recall"] == pytest.approx(4 / 6)
    assert result["side_accuracy"] == 1.0
    assert result["false_hands_per_frame"] == pytest.approx(2 / 3)
    assert result["mediapipe_recall"] == pytest.approx(4 / 6)
    assert result["mediapipe_side_accuracy"] == pytest.approx(0.5)
    assert result["orientation_within_15_deg"] == pytest.approx(2 / 3)
    assert result["ms_p50"] == pytest.approx(3.0)


def test_a_clip_without_hands() -> None:
    clip = ClipDetections(padding=0.0)
    clip.add([found(0, 0, 0.9)], [], [], 0.001)
    assert clip.result()["false_hands_per_frame"] == 1.0
    assert math.isnan(clip.result()["recall"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "expected 1 or more and 0 or more, got 0 and 0"),
        (["--seed", "1000"], "expected 0 to 999, which training never draws, got 1000"),
        (["--weights", "nowhere"], "no card of a hand detector"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capfd) -> None:
    assert main(["eval", "detector", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_the_command_on_a_picture_without_hands(tmp_path: Path, capfd) -> None:
    pytest.importorskip("mediapipe")
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((240, 320, 3), 120, np.uint8))
    weights = str(colours(tmp_path / "weights"))
    assert main(["eval", "detector", "--video", str(path), "--sides", "none", "--weights", weights, "--json"]) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["frames"] == 1 and result["false_hands_per_frame"] == 0 and result["recall"] is None


def test_the_command_on_rendered_frames(tmp_path: Path, capfd) -> None:
    pytest.importorskip("mediapipe")
    arguments = ["eval", "detector", "--n", "6", "--seed", "5", "--frames", str(tmp_path / "frames")]
    arguments += ["--workers", "1", "--weights", str(colours(tmp_path / "weights")), "--json"]
    assert main(arguments) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["n"] == 6 and result["seed"] == 5
    for who in ("ours", "mediapipe"):
        assert list(result[who]) == ["0", "0-0.3", "0.3-0.6", "0.6-1"]
        for group in result[who].values():
            assert {"recall", "precision", "side_accuracy"} <= set(group)
    assert {"orientation_deg_p90", "ms_p50"} <= set(result)
    assert set(result["pipeline"]) == {"mediapipe", "a2p", "combined"}


def answer(wanted: float, false: float):
    """A picture with a right hand that is found at one score, and nothing that is found at another."""
    heat, numbers = np.full((2, 20, 40), 1e-3), np.zeros((2, 9, 20, 40))
    numbers[:, 0:4] = 50 / 16
    heat[1, 6, 6], heat[0, 6, 30] = wanted, false
    return heat, numbers, hands((1.5, 1.5, True)), 160, 320


def test_scores_are_moved_to_where_they_tell_hands_from_nothing() -> None:
    rng = np.random.default_rng(1)
    low = [answer(*rng.uniform((0.36, 0.1), (0.45, 0.24))) for _ in range(20)]
    shift = best_shift(low)
    assert 0.24 < 1 / (1 + math.exp(shift)) < 0.36, "0.5 after the shift is between the two before it"
    high = [answer(*rng.uniform((0.8, 0.52), (0.9, 0.58))) for _ in range(20)]
    assert 0.58 < 1 / (1 + math.exp(best_shift(high))) < 0.8
    assert best_shift([answer(0.01, 0.01)]) == 0.0


def test_a_missed_hand_weighs_more_than_a_false_one() -> None:
    """Half of the hands score no better than what is false: a threshold below both is taken."""
    mixed = [answer(0.5, 0.001), answer(0.22, 0.22)] * 5
    assert 1 / (1 + math.exp(best_shift(mixed))) < 0.22


def test_sides_are_trusted_as_often_as_they_are_right() -> None:
    """A hand about (60, 60), hotter on its own side in three of four pictures; far from it the other side is hot."""
    own, other = answer(0.6, 0.9), answer(0.0, 0.9)
    for heat in (own[0], other[0]):
        heat[0, 7, 7] = 0.4
    assert share_of_right_sides([own, own, own, other]) == 0.75
    assert share_of_right_sides([]) == 0.5
