"""Hands followed over time: sides, loss, duplicates, when to detect."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from a2p_ros.config import DetectionConfig, DeviceConfig, LandmarkConfig
from a2p_ros.detection import tflite
from a2p_ros.detection.regions import hand_rotation, hand_square, region_of, same_hand, same_place
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.types import Box, Detection, HandKeypoints, Pair, Side

needs_models = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or importlib.util.find_spec("ai_edge_litert") is None,
    reason=f"MediaPipe's models or LiteRT are not installed ({tflite.INSTALL}; pip install ai-edge-litert)",
)

#: An open right hand, fingers up, palm to the viewer: wrist at the origin, one hand length high.
FINGERS = {-0.35: (0.25, 0.45), -0.15: (0.5, 0.95), 0.0: (0.52, 1.0), 0.13: (0.5, 0.95), 0.26: (0.45, 0.8)}
OPEN = np.array(
    [[0.0, 0.0]]
    + [
        [-x * (0.6 + 0.4 * t), -(low + (high - low) * t)]
        for x, (low, high) in FINGERS.items()
        for t in (0, 1 / 3, 2 / 3, 1)
    ]
)
IMAGE = np.zeros((720, 1280, 3), np.uint8)


@dataclass(frozen=True)
class Hand:
    """A hand of the made-up world: where, how big, what the landmark model would say."""

    x: float
    y: float = 500.0
    right: float = 0.95
    size: float = 200.0
    turn: float = 0.0
    presence: float = 0.99

    def points(self) -> np.ndarray:
        shape = OPEN * ([1, 1] if self.right > 0.5 else [-1, 1])
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return shape @ np.array([[cos, sin], [-sin, cos]]) * self.size + (self.x, self.y)

    def measured(self, detection: Detection) -> HandKeypoints:
        return HandKeypoints(
            detection, self.points(), np.zeros((21, 3)), np.ones(21), self.presence, self.right, (self.x, self.y)
        )


LEFT, RIGHT = Hand(300.0, right=0.05), Hand(900.0)


@dataclass
class World:
    """Stands for detector and landmark model: both see the same made-up hands."""

    tracker: HandTracker = field(default_factory=HandTracker)
    runs: int = 0
    blind: bool = False
    name: str = "world"
    device: str = "cpu"
    min_score: float = 0.5
    hands: Sequence[Hand] = ()
    looked: int = 0

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.runs += 1
        boxes = [] if self.blind else [Box.around(hand.points()) for hand in self.hands]
        return [Detection(box, 0.9 - 0.01 * i, rotation=0.0) for i, box in enumerate(boxes)]

    def landmarks(self, region: Detection) -> HandKeypoints | None:
        x, y = region.square[:2] if region.square else region.box.centre
        size = region.square[2] if region.square else region.box.size * 1.6
        apart = [math.hypot(*(np.array(region_of(h.measured(region)).square[:2]) - (x, y))) for h in self.hands]
        if not apart or min(apart) > 0.4 * size:
            return None
        hand = self.hands[int(np.argmin(apart))]
        return hand.measured(region) if hand.presence >= 0.5 else None

    def frame(self, *hands: Hand) -> Pair[HandKeypoints | None]:
        self.hands = hands
        regions = self.tracker.regions(IMAGE, self)
        self.looked = len(regions)
        return self.tracker.update([self.landmarks(region) for region in regions])


@dataclass
class Always:
    """A detector that finds the same box whatever it is shown."""

    box: Detection
    name: str = "always"
    device: str = "cpu"
    min_score: float = 0.5

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [self.box]


def at(hand: HandKeypoints | None) -> float | None:
    """Where a reported hand's wrist is."""
    return None if hand is None else float(hand.keypoints_px[0, 0])


def seen(pair: Pair[HandKeypoints | None]) -> tuple[float | None, float | None]:
    return at(pair.left), at(pair.right)


def test_both_hands_on_the_first_frame() -> None:
    assert seen(World().frame(RIGHT, LEFT)) == (300, 900)


def test_sides_are_the_hands_not_the_image_halves() -> None:
    assert seen(World().frame(Hand(900, right=0.05), Hand(300))) == (900, 300)


def test_lost_in_the_very_next_result_and_found_again() -> None:
    world = World()
    for _ in range(6):
        world.frame(LEFT, RIGHT)
    assert seen(world.frame(RIGHT)) == (None, 900)
    assert seen(world.frame(Hand(900, presence=0.2))) == (None, None)
    assert seen(world.frame(LEFT, RIGHT)) == (300, 900)


def test_detector_runs_rarely_while_hands_are_tracked() -> None:
    for hands, interval in (((RIGHT,), 5), ((LEFT, RIGHT), 15)):
        world = World()
        for _ in range(61):
            world.frame(*hands)
        assert world.runs == 1 + 60 // interval


@pytest.mark.parametrize(("anchor", "runs"), [(0.0, 3), (0.5, 6)])
def test_an_anchored_tracker_detects_as_often_with_two_hands(anchor: float, runs: int) -> None:
    world = World(tracker=HandTracker(interval=2, anchor=anchor))
    for _ in range(12):
        world.frame(LEFT, RIGHT)
    assert world.runs == runs - (anchor == 0)


def test_detector_runs_on_every_frame_without_hands() -> None:
    world = World()
    for _ in range(10):
        assert seen(world.frame()) == (None, None)
    assert world.runs == 10


def test_detector_searches_after_a_loss() -> None:
    world = World()
    for _ in range(3):
        world.frame(LEFT, RIGHT)
    assert world.runs == 1
    world.frame(RIGHT)
    assert world.runs == 1  # the loss is only seen in this frame
    for _ in range(3):
        assert seen(world.frame(RIGHT)) == (None, 900)
    assert seen(world.frame(LEFT, RIGHT)) == (300, 900)
    assert world.runs == 5


def test_detector_runs_while_a_hand_is_doubtful() -> None:
    world = World()
    for _ in range(4):
        world.frame(Hand(900, presence=0.6))
    assert world.runs == 4


def test_a_doubtful_hand_is_looked_for_where_the_detector_sees_it() -> None:
    for presence, wanted in ((0.99, "carried"), (0.6, "detected")):
        world = World(tracker=HandTracker(interval=1))
        world.frame(dataclasses.replace(RIGHT, presence=presence))
        world.hands = [dataclasses.replace(RIGHT, x=RIGHT.x + 12)]
        (region,) = world.tracker.regions(IMAGE, world)
        assert region.box == Box.around(world.hands[0].points() - ([0, 0] if wanted == "detected" else [12, 0]))


@pytest.mark.parametrize(("anchor", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_followed_hand_is_held_to_the_detector(anchor: float, share: float) -> None:
    hand = Hand(640.0)
    tracker = HandTracker(interval=1, anchor=anchor)
    first = region_of(hand.measured(Detection(Box.around(hand.points()), 0.9)))
    tracker.regions(IMAGE, Always(first))
    tracker.update([hand.measured(first)])
    assert first.square is not None and first.rotation is not None
    x, y, size = first.square
    told = dataclasses.replace(first, square=(x + 20, y - 10, size * 1.44), rotation=first.rotation + 0.2)
    (asked,) = tracker.regions(IMAGE, Always(told))
    np.testing.assert_allclose(asked.square, (x + 20 * share, y - 10 * share, size * 1.44**share))
    assert asked.rotation == pytest.approx(first.rotation + 0.2 * share)


def test_a_second_hand_is_found_within_the_interval() -> None:
    world = World()
    world.frame(RIGHT)
    frames = [seen(world.frame(LEFT, RIGHT)) for _ in range(5)]
    assert (300, 900) in frames
    assert all(right == 900 for _, right in frames)


def test_flicker_of_the_side_is_ignored() -> None:
    world = World()
    for i in range(60):
        flicker = Hand(900, right=0.1 if i % 5 in (3, 4) else 0.9)
        assert seen(world.frame(LEFT, flicker)) == (300, 900)


def test_a_hand_of_unclear_side_does_not_change_it() -> None:
    world = World()
    for right in (0.6, 0.42, 0.42, 0.42, 0.6, 0.42, 0.42):
        assert seen(world.frame(Hand(900, right=right))) == (None, 900)


def test_a_wrong_first_guess_is_corrected() -> None:
    world = World()
    assert seen(world.frame(Hand(900, right=0.3))) == (900, None)
    sides = [seen(world.frame(RIGHT)) for _ in range(4)]
    assert sides[-1] == (None, 900)


def test_never_two_hands_on_one_side() -> None:
    """Two right hands: the one that was there first stays, the other is no left hand."""
    world = World()
    for _ in range(3):
        world.frame(RIGHT)
    for _ in range(30):
        assert seen(world.frame(Hand(300, right=0.97), RIGHT)) == (None, 900)


def test_an_undecided_second_hand_gets_the_free_side() -> None:
    world = World()
    for _ in range(3):
        world.frame(RIGHT)
    for _ in range(6):
        pair = world.frame(Hand(300, right=0.52), RIGHT)
    assert seen(pair) == (300, 900)


def test_a_misjudged_second_hand_is_followed_until_it_is_clear() -> None:
    world = World()
    world.frame(RIGHT)
    while world.runs == 1:
        pair = world.frame(Hand(300, right=0.8), RIGHT)
    assert seen(pair) == (None, 900)
    assert seen(world.frame(LEFT, RIGHT)) == (300, 900)
    assert world.runs == 2


def test_hands_that_cross_keep_their_sides() -> None:
    world = World()
    for i in range(61):
        left, right = Hand(300 + 10 * i, 460, right=0.05), Hand(900 - 10 * i, 540)
        pair = world.frame(left, right)
        if abs(left.x - right.x) > 150:
            assert seen(pair) == (left.x, right.x)


def test_two_tracks_on_one_hand_keep_the_better() -> None:
    """The left hand goes behind the right one; its track lands on the right hand."""
    world = World()
    for x in range(300, 900, 20):
        world.frame(Hand(x, right=0.05), RIGHT)
    for _ in range(5):
        assert seen(world.frame(RIGHT)) == (None, 900)
    assert seen(world.frame(LEFT, RIGHT)) == (300, 900)


def test_fast_motion_is_followed() -> None:
    """Up to 0.7 of a hand a frame, the detector blind: only prediction keeps the region on the hand."""
    world = World(tracker=HandTracker(interval=1000))
    x = 100.0
    for i in range(20):
        x += min(15.0 * i, 140.0)
        assert world.frame(Hand(x)).right is not None
        world.blind = True


def test_a_hand_that_comes_back_keeps_its_side() -> None:
    world = World()
    for _ in range(10):
        world.frame(RIGHT)
    for _ in range(3):
        world.frame()
    assert seen(world.frame(Hand(910, right=0.35))) == (None, 910)


def test_a_side_is_not_remembered_for_long_nor_elsewhere() -> None:
    for gap, x in ((40, 910), (3, 200)):
        world = World()
        for _ in range(10):
            world.frame(RIGHT)
        for _ in range(gap):
            world.frame()
        assert seen(world.frame(Hand(x, right=0.35))) == (x, None)


def test_many_hands_are_bounded_and_tracked_ones_stay() -> None:
    world = World()
    for _ in range(3):
        world.frame(LEFT, RIGHT)
    for sides in ((0.99, 0.01, 0.99, 0.01), (0.5, 0.5, 0.5, 0.5)):
        crowd = [Hand(x, 200, size=60, right=right) for x, right in zip((100, 500, 700, 1100), sides, strict=True)]
        for _ in range(40):
            assert seen(world.frame(*crowd, LEFT, RIGHT)) == (300, 900)
            assert world.looked <= 4


def test_a_rejected_hand_is_looked_for_again() -> None:
    world = World()
    for _ in range(6):
        world.frame(RIGHT)
    before = world.runs
    world.tracker.reject(Side.RIGHT)
    world.tracker.reject(Side.LEFT)
    assert seen(world.frame(RIGHT)) == (None, 900)
    assert world.runs == before + 1


def test_hands_lost_from_equal_detections_are_told_apart() -> None:
    """A still picture gives the detector's same box again and again, in which different hands were measured."""
    tracker = HandTracker(interval=1)
    box = Detection(Box(100, 100, 1200, 700), 0.9)
    right = None
    for where in (Hand(300.0), None, Hand(900.0), None, Hand(900.0)):
        regions = tracker.regions(IMAGE, Always(box))
        hand = None if where is None else where.measured(box)
        right = tracker.update([hand if region is box else None for region in regions]).right
    assert at(right) == 900.0


def test_reset_and_a_new_image_size_start_over() -> None:
    world = World()
    for restart in (world.tracker.reset, lambda: world.tracker.regions(np.zeros((480, 640, 3), np.uint8), world)):
        world.frame(RIGHT)
        world.frame(RIGHT)
        before = world.runs
        restart()
        world.frame(RIGHT)
        assert world.runs > before


def test_answers_must_match_the_regions() -> None:
    tracker = HandTracker.from_config(DetectionConfig(interval=7))
    assert tracker.interval == 7
    with pytest.raises(ValueError, match="expected 0 answers, one a region, got 1"):
        tracker.update([None])


def test_hand_rotation_is_clockwise_from_up() -> None:
    for turn in (-3.0, -1.0, 0.0, 0.5, 2.0):
        hand = Hand(600, 400, turn=turn).points()
        assert abs(math.remainder(hand_rotation(hand) - hand_rotation(Hand(0).points()) - turn, 2 * math.pi)) < 1e-6
    assert abs(hand_rotation(Hand(0).points())) < 0.1


def test_square_holds_the_hand_and_turns_with_it() -> None:
    sizes = set()
    for turn in (0.0, 1.0, -2.5):
        px = Hand(600, 400, turn=turn).points()
        x, y, size = hand_square(px, hand_rotation(px))
        assert np.abs(px - (x, y)).max() < size / 2
        sizes.add(round(size, 3))
    assert len(sizes) == 1


def test_same_place_and_same_hand() -> None:
    region = Detection(Box(0, 0, 1, 1), 0.9)
    one, near, far = (Hand(x).measured(region) for x in (600, 610, 700))
    assert same_hand(one, near) and not same_hand(one, far)
    assert same_place(region_of(one), region_of(near)) and not same_place(region_of(one), region_of(far))
    small = Hand(600, 450, size=60).measured(region)
    assert not same_place(region_of(one), region_of(small))


def followed(frames) -> list[Pair[HandKeypoints | None]]:
    from a2p_ros.detection.detector import make_detector
    from a2p_ros.detection.landmarks import LandmarkModel

    device = DeviceConfig(threads=2)
    detector, landmarks = make_detector(DetectionConfig(), device), LandmarkModel(LandmarkConfig(), device)
    tracker, answers = HandTracker(), []
    for image in frames:
        regions = tracker.regions(image, detector)
        answers.append(tracker.update(landmarks(image, regions)))
    return answers


def clip(path, every: int):
    video, number = cv2.VideoCapture(str(path)), 0
    while video.grab():
        if number % every == 0:
            yield cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
        number += 1


@needs_models
def test_real_clip_has_one_right_hand(media) -> None:
    answers = followed(clip(media("one_hand_pinches.mp4"), 2))
    assert len(answers) == 311
    assert np.mean([pair.right is not None and pair.left is None for pair in answers]) >= 0.98


@needs_models
def test_mirrored_and_joined_clip_has_both_hands_and_no_swap(media) -> None:
    joined = (np.concatenate([image[:, ::-1], image], axis=1) for image in clip(media("one_hand_pinches.mp4"), 4))
    answers = followed(joined)
    good = [
        pair.left is not None and pair.right is not None and pair.left.box.centre[0] < 1280 < pair.right.box.centre[0]
        for pair in answers
    ]
    assert np.mean(good) >= 0.98
    assert not any(pair.left is not None and pair.left.box.centre[0] > 1280 for pair in answers)
    assert not any(pair.right is not None and pair.right.box.centre[0] < 1280 for pair in answers)


@dataclass
class SidedWorld(World):
    """A world whose detector tells the sides, as this package's own does."""

    seen_sides: Sequence[Side] = tuple(Side)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.runs += 1
        shown = [h for h in self.hands if (Side.RIGHT if h.right > 0.5 else Side.LEFT) in self.seen_sides]
        return [
            dataclasses.replace(region_of(h.measured(Detection(Box.around(h.points()), 0.9))), right=round(h.right))
            for h in shown
        ]


def test_a_second_hand_in_the_same_place_is_found_by_its_side() -> None:
    """A left hand comes up behind the right one, turned across it: only its side tells it from the first."""
    over, under = Hand(600, 460), Hand(510, 390, right=0.05, turn=1.3)
    regions = [region_of(h.measured(Detection(Box.around(h.points()), 1.0))) for h in (over, under)]
    assert same_place(*regions)
    for world, wanted in ((World(), (None, 600)), (SidedWorld(), (510, 600))):
        for _ in range(3):
            world.frame(over)
        assert [seen(world.frame(over, under)) for _ in range(6)][-1] == wanted


def test_two_hands_in_one_place_are_both_found_at_once() -> None:
    over, under = Hand(600, 460), Hand(510, 390, right=0.05, turn=1.3)
    assert seen(SidedWorld().frame(over, under)) == (510, 600)


def test_the_detectors_side_decides_where_the_landmarks_do_not() -> None:
    unclear = Hand(900, right=0.55)
    assert seen(World().frame(unclear)) == (None, 900)
    world = SidedWorld()
    world.frame(unclear)
    told = dataclasses.replace(unclear, right=0.45)  # by its landmarks a little left
    assert seen(world.frame(told)) == (None, 900)


def test_a_detection_of_the_other_side_is_not_taken_for_a_lost_hand() -> None:
    world = SidedWorld()
    for _ in range(10):
        world.frame(RIGHT)
    for _ in range(3):
        world.frame()
    assert seen(world.frame(Hand(910, right=0.1))) == (910, None)


def test_a_wrong_side_of_the_detector_makes_no_second_hand() -> None:
    """It calls the only hand a left one; the track is right, and stays so."""
    world = SidedWorld()
    for _ in range(5):
        world.frame(RIGHT)
    world.tracker.interval = 1
    for _ in range(3):
        world.hands = [RIGHT]
        regions = world.tracker.regions(
            IMAGE, Always(dataclasses.replace(region_of(RIGHT.measured(Detection(Box(0, 0, 1, 1), 1.0))), right=0.05))
        )
        assert len(regions) == 1
        assert seen(world.tracker.update([world.landmarks(r) for r in regions])) == (None, 900)
