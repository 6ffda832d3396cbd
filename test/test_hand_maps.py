"""From the detector's maps to hands: sides, directions, boxes and squares, one hand or two."""

from __future__ import annotations

import math

import numpy as np
import pytest

from a2p_ros.detection.hand_maps import cell_points, decode

LEFT, RIGHT = 0, 1
ROWS, COLUMNS = 12, 20


def maps(*hands: dict) -> tuple[np.ndarray, np.ndarray]:
    """Maps by hand; the meaning of each number is spelled out here again, not taken from the code."""
    heat, numbers = np.full((2, ROWS, COLUMNS), 0.01), np.zeros((2, 9, ROWS, COLUMNS))
    for hand in hands:
        side, row, column = hand["side"], hand["row"], hand["column"]
        x, y = 8 * column + 3.5, 8 * row + 3.5
        x0, y0, x1, y1 = hand["box"]
        heat[side, row, column] = hand.get("score", 0.9)
        turn = hand.get("turn", 0.0)
        numbers[side, :, row, column] = [
            (x - x0) / 16,
            (y - y0) / 16,
            (x1 - x) / 16,
            (y1 - y) / 16,
            math.cos(turn),
            math.sin(turn),
            (hand["middle"][0] - x) / 16,
            (hand["middle"][1] - y) / 16,
            math.log(hand["edge"] / 64),
        ]
    return heat.astype(np.float32), numbers.astype(np.float32)


def hand(side: int, row: int, column: int, **more) -> dict:
    x, y = 8 * column + 3.5, 8 * row + 3.5
    return {
        "side": side,
        "row": row,
        "column": column,
        "box": (x - 10, y - 22, x + 14, y + 8),
        "middle": (x + 1, y - 9),
        "edge": 50.0,
        **more,
    }


def test_a_cell_stands_for_its_middle() -> None:
    points = cell_points(3, 4)
    assert points.shape == (3, 4, 2)
    np.testing.assert_array_equal(points[2, 1], [11.5, 19.5])
    np.testing.assert_array_equal(points[0].mean(0), [15.5, 3.5])


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_one_hand(side: int) -> None:
    wanted = hand(side, 5, 14, turn=0.7)
    (found,) = decode(*maps(wanted), 0.5)
    np.testing.assert_allclose(found.box, wanted["box"], atol=1e-4)
    np.testing.assert_allclose(found.square, (*wanted["middle"], 50), rtol=1e-5)
    assert found.score == pytest.approx(0.9)
    assert found.right == (1.0 if side == RIGHT else 0.0)
    assert found.rotation == pytest.approx(0.7, abs=1e-6)


def test_turns_are_clockwise_from_up() -> None:
    for cos, sin, turn in ((1, 0, 0), (0, 1, math.pi / 2), (0, -1, -math.pi / 2), (-2, 0.001, math.pi)):
        heat, numbers = maps(hand(RIGHT, 5, 5))
        numbers[RIGHT, 4:6, 5, 5] = cos, sin
        assert decode(heat, numbers, 0.5)[0].rotation == pytest.approx(turn, abs=1e-3)


def test_two_hands_in_one_place_are_two() -> None:
    left, right = decode(*maps(hand(LEFT, 5, 5, score=0.8), hand(RIGHT, 5, 5, score=0.7)), 0.5)
    assert (left.right, right.right) == (0.0, 1.0)
    assert left.box == right.box


def test_a_hand_of_unclear_side_is_one() -> None:
    box = hand(LEFT, 5, 5)["box"]
    (found,) = decode(*maps(hand(LEFT, 5, 5, score=0.4), hand(RIGHT, 5, 6, box=box, score=0.6)), 0.5)
    assert found.score == pytest.approx(1 - 0.6 * 0.4)
    assert found.right == pytest.approx(0.6)
    assert decode(*maps(hand(LEFT, 5, 5, score=0.2), hand(RIGHT, 5, 6, box=box, score=0.25)), 0.5) == []
    (found,) = decode(*maps(hand(LEFT, 5, 5, score=0.35), hand(RIGHT, 5, 6, box=box, score=0.3)), 0.5)
    assert found.score == pytest.approx(1 - 0.65 * 0.7)
    (found,) = decode(*maps(hand(LEFT, 5, 5, score=0.55), hand(RIGHT, 5, 6, box=box, score=0.51)), 0.5)
    assert found.right == pytest.approx(0.51 / 1.06)


def test_two_hands_in_one_place_rank_as_high_as_one_that_is_as_hot() -> None:
    box = hand(LEFT, 5, 5)["box"]
    hands = hand(LEFT, 5, 5, score=0.7), hand(RIGHT, 5, 6, box=box, score=0.6), hand(LEFT, 8, 15, score=0.8)
    found = decode(*maps(*hands), 0.5)
    assert [hand.score for hand in found] == pytest.approx([0.88, 0.88, 0.8])
    assert sorted(hand.right for hand in found) == [0.0, 0.0, 1.0]


def test_neighbouring_peaks_of_one_side_are_one_hand_and_far_ones_are_two() -> None:
    pair = hand(RIGHT, 5, 5), hand(RIGHT, 5, 7, score=0.7, box=hand(RIGHT, 5, 5)["box"])
    (found,) = decode(*maps(*pair), 0.5)
    assert found.score == pytest.approx(0.9)
    assert len(decode(*maps(hand(RIGHT, 5, 5), hand(RIGHT, 5, 12, score=0.7)), 0.5)) == 2


def test_best_first_and_none_below_the_score() -> None:
    hands = hand(LEFT, 2, 3, score=0.6), hand(RIGHT, 8, 15, score=0.95), hand(LEFT, 8, 3, score=0.45)
    assert [round(d.score, 2) for d in decode(*maps(*hands), 0.5)] == [0.95, 0.6]
    assert [round(d.score, 2) for d in decode(*maps(*hands), 0.4)] == [0.95, 0.6, 0.45]


def test_numbers_that_are_not_finite_give_no_hand() -> None:
    heat, numbers = maps(hand(LEFT, 2, 3))
    heat[LEFT, 2, 3] = math.nan
    assert decode(heat, numbers, 0.5) == []
