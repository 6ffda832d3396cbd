"""How the pipeline does on a real clip, where nobody knows the truth: against MediaPipe's points and the known sides.

PCK is agreement with MediaPipe: of the placed joints; of the same hand's points where MediaPipe would mark them, which
is up to a centimetre aside, in known directions; and of the points as they were measured. Where MediaPipe's own
landmark model measures the hands, that is agreement with the method's input, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from a2p_ros.camera import CameraModel
from a2p_ros.evaluation import metrics
from a2p_ros.evaluation.landmarks import as_landmarks
from a2p_ros.evaluation.mediapipe_peer import PeerHand
from a2p_ros.fitting.skeleton import SideArrays
from a2p_ros.types import Box, Image, Pair, PlacedHand, Side, TwoHands

#: Hands whose boxes overlap less than this (intersection over union) are different hands.
_SAME_HAND = 0.15
#: Frames after which a hand that was not seen says nothing about swaps.
_MEMORY = 15


@dataclass(frozen=True)
class Place:
    """A part of the image, from x0 to x1 [px], in which exactly one hand of a known side is."""

    x0: float
    x1: float
    side: Side

    def holds(self, box: Box) -> bool:
        """Whether the box's centre is in it."""
        return self.x0 <= box.centre[0] < self.x1


def mirror_join(image: Image) -> Image:
    """The image with its mirror image on its right: one hand becomes a left and a right one."""
    return np.concatenate([image, image[:, ::-1]], axis=1)


def places_of(sides: str, width: int, *, joined: bool) -> list[Place]:
    """Where which hand is: ``sides`` is right, left, or auto (nothing known); ``width`` [px] of one picture."""
    if sides == "auto":
        return []
    side = Side(sides)
    if not joined:
        return [Place(-math.inf, math.inf, side)]
    return [Place(-math.inf, width, side), Place(width, math.inf, side.other)]


@dataclass
class ClipScore:
    """Counts over the frames of one clip; with ``arrays``, also of the points where MediaPipe would mark them."""

    arrays: Pair[SideArrays] | None = None
    frames: int = 0
    pck: dict[float, list[bool]] = field(default_factory=lambda: {0.1: [], 0.2: []})
    landmark_pck: dict[float, list[bool]] = field(default_factory=lambda: {0.1: [], 0.2: []})
    measured_pck: dict[float, list[bool]] = field(default_factory=lambda: {0.1: [], 0.2: []})
    wanted: int = 0
    found: int = 0
    peer_wanted: int = 0
    peer_found: int = 0
    sided: int = 0
    side_right: int = 0
    false_hands: int = 0
    swaps: int = 0
    exact_frames: int = 0
    _last: dict[Side, tuple[int, Box]] = field(default_factory=dict)

    def add(
        self,
        hands: TwoHands,
        peers: Sequence[PeerHand],
        places: Sequence[Place],
        camera: CameraModel | None = None,
    ) -> None:
        """Count one frame, which ``camera`` has taken."""
        self.frames += 1
        ours = {side: hand for side, hand in hands.items() if hand is not None}
        pairs = match([hand.box for hand in ours.values()], [peer.box for peer in peers])
        found = list(ours.values())
        for i, j in pairs:
            self._add_points(found[i], peers[j], camera)
        if places:
            self._add_places(found, peers, places)
        else:
            self._add_reference(found, peers, pairs)
        self._add_swaps(ours)

    def _add_points(self, hand: PlacedHand, peer: PeerHand, camera: CameraModel | None) -> None:
        measures = [(hand.keypoints_px, self.pck), (hand.observed_px, self.measured_pck)]
        if self.arrays is not None and camera is not None:
            measures.append((camera.project(as_landmarks(hand, self.arrays[hand.side])), self.landmark_pck))
        for points, counts in measures:
            for share, hits in counts.items():
                hits.extend(metrics.within(points, peer.keypoints_px, peer.box.size, share).tolist())

    def _add_places(self, found: list[PlacedHand], peers: Sequence[PeerHand], places: Sequence[Place]) -> None:
        exact = True
        for place in places:
            here = [hand for hand in found if place.holds(hand.box)]
            theirs = [peer.box for peer in peers if place.holds(peer.box)]
            # A place is larger than its hand: where MediaPipe says where that is, what lies elsewhere is another thing.
            right = [hand for hand in here if not theirs or max(hand.box.iou(box) for box in theirs) >= _SAME_HAND]
            best = max(right, key=lambda hand: hand.confidence, default=None)
            self.wanted += 1
            self.found += best is not None
            self.false_hands += len(here) - (best is not None)
            self.peer_wanted += 1
            self.peer_found += bool(theirs)
            self.sided += best is not None
            self.side_right += best is not None and best.side is place.side
            exact = exact and len(here) == 1 and best is not None and best.side is place.side
        self.exact_frames += exact

    def _add_reference(self, found: list[PlacedHand], peers: Sequence[PeerHand], pairs: list[tuple[int, int]]) -> None:
        self.wanted += len(peers)
        self.found += len(pairs)
        self.peer_wanted += len(found)
        self.peer_found += len(pairs)
        self.false_hands += len(found) - len(pairs)
        self.sided += len(pairs)
        right = [found[i].side is peers[j].side for i, j in pairs]
        self.side_right += sum(right)
        self.exact_frames += len(found) == len(peers) == len(pairs) and all(right)

    def _add_swaps(self, ours: dict[Side, PlacedHand]) -> None:
        """A swap: a hand lies where the other one was last seen, and not where it was itself."""
        for side, hand in ours.items():
            own, other = (self._recent(s) for s in (side, side.other))
            was_other = other is not None and hand.box.iou(other) > _SAME_HAND
            if was_other and (own is None or hand.box.iou(own) < hand.box.iou(other or hand.box)):
                self.swaps += 1
        for side, hand in ours.items():
            self._last[side] = (self.frames, hand.box)

    def _recent(self, side: Side) -> Box | None:
        frame, box = self._last.get(side, (-math.inf, None))
        return box if self.frames - frame <= _MEMORY else None

    def result(self) -> dict[str, Any]:
        """The promised keys."""
        return {
            "frames": self.frames,
            "pck_010": _share(sum(self.pck[0.1]), len(self.pck[0.1])),
            "pck_020": _share(sum(self.pck[0.2]), len(self.pck[0.2])),
            "landmark_pck_010": _share(sum(self.landmark_pck[0.1]), len(self.landmark_pck[0.1])),
            "landmark_pck_020": _share(sum(self.landmark_pck[0.2]), len(self.landmark_pck[0.2])),
            "measured_pck_010": _share(sum(self.measured_pck[0.1]), len(self.measured_pck[0.1])),
            "measured_pck_020": _share(sum(self.measured_pck[0.2]), len(self.measured_pck[0.2])),
            "recall": _share(self.found, self.wanted),
            "mediapipe_recall": _share(self.peer_found, self.peer_wanted),
            "side_accuracy": _share(self.side_right, self.sided),
            "false_hands": self.false_hands,
            "swaps": self.swaps,
            "exact_frames": _share(self.exact_frames, self.frames),
        }


def match(ours: Sequence[Box], theirs: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs of the same hand, best overlap first, each box once."""
    overlaps = sorted(((a.iou(b), i, j) for i, a in enumerate(ours) for j, b in enumerate(theirs)), reverse=True)
    pairs: list[tuple[int, int]] = []
    for overlap, i, j in overlaps:
        if overlap >= _SAME_HAND and all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def every(items: Iterable[Any], step: int) -> Iterator[Any]:
    """Each ``step``-th item, from the first."""
    return (item for number, item in enumerate(items) if number % step == 0)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
