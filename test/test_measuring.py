"""Who measures which hand: the landmark model, the network, or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from a2p_ros.camera import CameraModel
from a2p_ros.config import NetworkStageConfig
from a2p_ros.measuring import HOLD, HybridMeasuring, mode_for, overlapping
from a2p_ros.timing import StageClock
from a2p_ros.types import Box, Detection, HandKeypoints, Pair, RegressedHand, Side

CAMERA = CameraModel.assume(640, 480, 1.2)
IMAGE = np.zeros((480, 640, 3), np.uint8)
#: 21 points of a hand in a square of 100 px.
POINTS = np.random.default_rng(0).uniform(0, 100, (21, 2))


def region_at(x: float, right: float = 0.5) -> Detection:
    return Detection(Box(x, 0, x + 100, 100), 0.9, right)


def hand_at(x: float, right: float = 0.9, name: str = "network", points: np.ndarray = POINTS) -> HandKeypoints:
    regressed = RegressedHand(Side.RIGHT, np.eye(3), np.tile(np.eye(3), (15, 1, 1)), np.zeros(10))
    return HandKeypoints(
        detection=region_at(x),
        keypoints_px=points + (x, 0),
        keypoints_3d=np.zeros((21, 3)),
        confidence=np.ones(21),
        presence=1.0,
        right=right,
        crop_centre_px=(x, 0.0),
        regressed=regressed if name == "network" else None,
        at_joints=name == "network",
    )


class Answers:
    """Gives the hands that were told, by where their region begins, and keeps what it was asked."""

    def __init__(self, name: str, hands: dict[float, HandKeypoints | None]) -> None:
        self.name, self.hands, self.asked = name, hands, []

    def __call__(
        self, image: Any, regions: Sequence[Detection], camera: CameraModel, clock: StageClock
    ) -> list[HandKeypoints | None]:
        self.asked.append([region.box.x0 for region in regions])
        with clock(self.name):
            return [self.hands.get(region.box.x0) for region in regions]

    def apart(self, hands: Any, camera: CameraModel, clock: StageClock) -> str:
        return self.name


def hybrid_of(
    landmarks: dict[float, HandKeypoints | None],
    network: dict[float, HandKeypoints | None],
    *,
    both: bool = False,
    least: float = 0.4,
) -> tuple[HybridMeasuring, Answers, Answers]:
    stages = Answers("landmarks", landmarks), Answers("network", network)
    return HybridMeasuring(*stages, NetworkStageConfig(min_overlapping=least), both=both), *stages


def at(*xs: float, name: str = "landmarks") -> dict[float, HandKeypoints | None]:
    return {x: hand_at(x, name=name) for x in xs}


def test_the_hybrid_asks_the_network_for_hands_that_overlap() -> None:
    assert overlapping([region_at(x) for x in (0, 90, 300)]) == [True, True, False]
    seen, known = at(0, 90, 300), at(0, 90, 300, name="network")
    hybrid, landmarks, network = hybrid_of(seen, known)
    clock = StageClock()
    answers = hybrid(IMAGE, [region_at(x) for x in (300, 0, 90)], CAMERA, clock)
    assert answers == [seen[300], known[0], known[90]] and hybrid.name == "landmarks|network"
    assert set(clock.seconds) == {"landmarks", "network"} and (landmarks.asked, network.asked) == ([[300]], [[0, 90]])
    assert hybrid.apart(Pair(known[0], known[90]), CAMERA, clock) == "network"
    assert hybrid.apart(Pair(seen[0], known[90]), CAMERA, clock) is None
    hybrid.reset()
    hybrid(IMAGE, [region_at(x) for x in (0, 200)], CAMERA, clock)
    assert (landmarks.asked[1:], network.asked[1:]) == ([[0, 200]], [])


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(at(0, 10, name="network"), id="the same points"),
        pytest.param({0: hand_at(0), 10: hand_at(10, points=100 - POINTS)}, id="other points, the same side"),
        pytest.param({0: hand_at(0), 10: None}, id="one that is no hand"),
        pytest.param({}, id="no hand"),
    ],
)
@pytest.mark.parametrize("both", [False, True])
def test_one_hand_that_was_detected_twice_is_alone(network: dict[float, HandKeypoints | None], both: bool) -> None:
    """Or a thing that the network takes for a hand: the landmark model has the last word where there are no two."""
    seen = {0.0: hand_at(0, name="landmarks"), 10.0: None}
    hybrid, landmarks, _ = hybrid_of(seen, network, both=both)
    regions = [region_at(0, right=0.66), region_at(10, right=0.34)]
    first, second = hybrid(IMAGE, regions, CAMERA, StageClock())
    assert first is not None and first.keypoints_px is seen[0].keypoints_px and second is None
    assert landmarks.asked == [[0, 10]]


def test_two_hands_in_one_place_are_the_networks() -> None:
    network = {0.0: hand_at(0, right=0.9), 10.0: hand_at(10, right=0.1, points=100 - POINTS)}
    hybrid, landmarks, _ = hybrid_of(at(0, 10), network)
    assert hybrid(IMAGE, [region_at(0), region_at(10)], CAMERA, StageClock()) == [network[0], network[10]]
    assert landmarks.asked == []


def test_both_takes_landmarks_with_the_networks_pose_where_hands_are_apart() -> None:
    points, found = hand_at(0, name="landmarks"), hand_at(0)
    points = dataclasses.replace(points, keypoints_px=points.keypoints_px + 1)

    def answer(landmarks: HandKeypoints | None, network: HandKeypoints | None, x: float) -> tuple[list, Any]:
        beside = None if network is None else dataclasses.replace(network, keypoints_px=network.keypoints_px + (x, 0))
        both, *_ = hybrid_of({0: landmarks, x: landmarks}, {0: network, x: beside}, both=True)
        hands = both(IMAGE, [region_at(0), region_at(x)], CAMERA, StageClock())
        return hands, both.apart(Pair(hands[0], hands[-1]), CAMERA, StageClock())

    (left, _), apart = answer(points, found, 300)
    assert left is not None and apart is None
    assert left.regressed is found.regressed and left.keypoints_px is points.keypoints_px and not left.at_joints
    hands, apart = answer(points, found, 90)
    assert hands[0] is found and all(hand.at_joints for hand in hands) and apart == "network"
    hands, apart = answer(None, found, 300)
    assert hands[0] is found and all(hand.at_joints for hand in hands) and apart == "network"
    assert answer(points, None, 300)[0] == [points, points]
    assert answer(None, None, 300)[0] == [None, None]


def test_auto_is_the_hybrid_where_there_are_weights_and_else_off() -> None:
    auto = NetworkStageConfig()
    assert auto.mode == "auto" and mode_for(auto, "open_hand") == "hybrid"
    assert mode_for(auto, "mano") == "off"
    assert mode_for(NetworkStageConfig(weights="somewhere"), "mano") == "hybrid"
    assert mode_for(NetworkStageConfig(mode="fit"), "mano") == "fit"


@pytest.mark.parametrize("seen", [None, hand_at(10, right=0.3)], ids=["hidden", "like the other"])
def test_followed_hands_stay_two_whatever_one_picture_shows(seen: HandKeypoints | None) -> None:
    """The landmark model would see the front hand twice, and the track of the hidden one would go over to it."""
    network = {0.0: hand_at(0, right=0.9), 10.0: seen}
    for known, followed in ((1.0, True), (0.66, False)):
        hybrid, landmarks, _ = hybrid_of(at(0, 10), network)
        found = hybrid(IMAGE, [region_at(0, right=known), region_at(10, right=1 - known)], CAMERA, StageClock())
        assert (found[0] is network[0] and found[1] is seen) is followed
        assert bool(landmarks.asked) is not followed


def test_followed_hands_that_the_network_does_not_see_are_the_landmark_models() -> None:
    seen = at(0, 10)
    hybrid, *_ = hybrid_of(seen, {})
    regions = [region_at(0, right=1.0), region_at(10, right=0.0)]
    assert hybrid(IMAGE, regions, CAMERA, StageClock()) == [seen[0], seen[10]]


def test_a_hand_that_is_hidden_too_far_is_lost_and_the_front_one_stays() -> None:
    hidden = dataclasses.replace(hand_at(10, right=0.1), confidence=np.full(21, 0.38))
    network = {0.0: hand_at(0), 10.0: hidden}
    hybrid, *_ = hybrid_of(at(0, 10), network)
    regions = [region_at(0, right=1.0), region_at(10, right=0.0)]
    assert hybrid(IMAGE, regions, CAMERA, StageClock()) == [network[0], None]
    hybrid, *_ = hybrid_of(at(0, 10), network, least=0.3)
    assert hybrid(IMAGE, regions, CAMERA, StageClock()) == [network[0], hidden]


def test_a_hand_whose_other_one_is_hidden_stays_the_networks_for_a_while() -> None:
    hybrid, _, network = hybrid_of(at(0, 10), at(0, 90, name="network"))
    pair, left = [region_at(0, right=1.0), region_at(90, right=0.0)], [region_at(10, right=1.0)]
    hybrid(IMAGE, pair, CAMERA, StageClock())
    network.hands[10] = hand_at(10)
    by = []
    for _ in range(HOLD + 1):
        (hand,) = hybrid(IMAGE, left, CAMERA, StageClock())
        by.append("network" if hand.at_joints else "landmarks")
    assert by == ["network"] * HOLD + ["landmarks"]
    network.hands[10] = dataclasses.replace(hand_at(10), confidence=np.full(21, 0.38))
    hybrid(IMAGE, pair, CAMERA, StageClock())
    assert not hybrid(IMAGE, left, CAMERA, StageClock())[0].at_joints, "one that the network does not trust"
    network.hands[10] = hand_at(10)
    hybrid(IMAGE, pair, CAMERA, StageClock())
    hybrid.reset()
    assert not hybrid(IMAGE, left, CAMERA, StageClock())[0].at_joints
