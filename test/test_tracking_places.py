"""Which places of a detector that takes things for hands are looked at, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from test_tracking import IMAGE, RIGHT, Hand, World, at

from a2p_ros.detection.regions import region_of, same_place
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.types import Box, Detection, HandKeypoints, Pair


@dataclass
class Gullible:
    """A detector that takes the same things for hands in every frame, and is surer of them than of hands."""

    world: World
    things: Sequence[Hand]
    name: str = "gullible"
    device: str = "cpu"
    min_score: float = 0.5

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [place_of(hand, 0.9) for hand in self.things] + [place_of(hand, 0.6) for hand in self.world.hands]


def place_of(hand: Hand, score: float) -> Detection:
    return dataclasses.replace(region_of(hand.measured(Detection(Box(0, 0, 1, 1), score)), right=0.5), score=score)


def test_things_that_were_no_hands_are_looked_at_in_turn() -> None:
    world = World(tracker=HandTracker(interval=1))
    things = [Hand(100.0, 250.0, size=120.0), Hand(400.0, 250.0, size=120.0), Hand(1150.0, 250.0, size=120.0)]
    detector = Gullible(world, things)

    def step(*hands: Hand) -> tuple[list[float], Pair[HandKeypoints | None]]:
        """Which things are looked at, and the hands found."""
        world.hands = hands
        regions = world.tracker.regions(IMAGE, detector)
        found = world.tracker.update([world.landmarks(region) for region in regions])
        return [t.x for t in things for r in regions if same_place(r, place_of(t, 0.9))], found

    looked, found = step(RIGHT)
    assert looked == [100.0, 400.0, 1150.0] and at(found.right) == 900.0, "at first all are looked at"
    turns = [step(RIGHT)[0] for _ in range(6)]
    assert all(len(turn) == 1 for turn in turns)
    assert sorted(x for turn in turns[:3] for x in turn) == sorted(x for turn in turns[3:] for x in turn) == looked
    other = dataclasses.replace(things[1], right=0.05)
    assert any(at(step(RIGHT, other)[1].left) == 400.0 for _ in range(3)), "a hand in such a place waits for its turn"
    step()
    assert step()[0] == looked, "while nothing is followed, all are looked at in every frame"
