"""From finds in single frames to at most one left and one right hand, stable over time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

from a2p_ros.config import DetectionConfig
from a2p_ros.detection.detector import Detector
from a2p_ros.detection.regions import between, moved, region_of, same_hand, same_place, square_of
from a2p_ros.types import Detection, HandKeypoints, Image, Pair, Side

#: Regions looked at in one frame, carried ones first.
MAX_REGIONS = 4
#: Evidence for a side is a sum of log-odds over frames; neighbouring frames are not independent, so it is capped.
MAX_EVIDENCE = 12.0
#: Least probability that one frame may give to either side.
MIN_SIDE_PROBABILITY = 0.03
#: A detection says which side it is from this probability on.
SIDE_TOLD = 0.6
#: Reward for staying on a side: a hand changes sides only on contrary evidence of half of this.
KEEP_SIDE = 4.0
#: A hand takes a side against its evidence only while that is weaker than this log-odds (probability 0.7).
DOUBTFUL = 0.85
#: A hand that gets no side is followed only while its evidence is weaker than this log-odds (probability 0.9).
UNDECIDED = 2.2
#: Below this presence a tracked hand is doubted: the detector runs and its region is preferred.
LOW_PRESENCE = 0.8
#: Fraction of the last frame's motion by which a region is moved ahead. At 0.44 of the hand a frame, 0 loses
#: one frame in twenty and 0.75 none (one_hand_pinches, shaken by software); at rest they do not differ.
PREDICTION = 0.75
#: Places where a detection proved to be no hand that are remembered.
MAX_EMPTY = 8
#: A lost hand's side is remembered for this many frames, fading by this factor a frame.
MEMORY_FRAMES, MEMORY_FADE = 15, 0.85


@dataclass(eq=False)
class _Track:
    """One hand followed over time. ``evidence`` is the log-odds that it is a right hand.

    Tracks are told apart by identity: two may hold equal detections, and arrays have no plain equality.
    """

    hand: HandKeypoints
    region: Detection
    evidence: float
    side: Side | None = None
    missing: int = 0


@dataclass
class HandTracker:
    """Carries hands from frame to frame, decides when to detect, and which hand is which.

    In each frame: ``regions`` (where to look), the landmark stage on them, ``update``. ``interval`` and ``anchor``
    may be changed between frames.

    A followed hand is looked at where its own points ask for it. If they come out too large, so does the next crop,
    and in that they come out larger still; ``anchor`` holds crops to the detector's, which knows nothing of it.

    While a hand is followed, one of the places where a detection proved to be no hand, or one that is followed already,
    is looked at again in a frame, in turn: a detector that takes things for hands does so in every frame.

    A hand whose landmarks fail is gone from the very next result; nothing is coasted. Only its side
    is remembered for a moment, so that a hand found again in the same place keeps it.
    """

    interval: int = 5
    anchor: float = 0.0
    _tracks: list[_Track] = field(default_factory=list)
    _lost: list[_Track] = field(default_factory=list)
    _asked: list[Detection] = field(default_factory=list)
    _empty: list[Detection] = field(default_factory=list)
    _since_detection: int = 0
    _search: int = 0
    _size: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, config: DetectionConfig) -> HandTracker:
        """A tracker with the configured detection interval and anchor."""
        return cls(interval=config.interval, anchor=config.anchor)

    def reset(self) -> None:
        """Forget all hands; the detector runs on the next frame."""
        self._tracks, self._lost, self._asked, self._empty = [], [], [], []
        self._since_detection = self._search = 0

    def detection_due(self) -> bool:
        """Whether the detector should run on the coming frame."""
        sided = [track for track in self._tracks if track.side is not None]
        if not sided or self._search > 0 or any(track.hand.presence < LOW_PRESENCE for track in sided):
            return True
        rarely = len(sided) == 2 and self.anchor == 0
        return self._since_detection + 1 >= self.interval * (3 if rarely else 1)

    def regions(self, image: Image, detector: Detector) -> list[Detection]:
        """Where to look for hands in this frame: carried regions, then new ones from the detector if it is due."""
        size = (image.shape[0], image.shape[1])
        if self._size not in (None, size):
            self.reset()
        self._size = size
        carried = [track.region for track in self._tracks]
        found: list[Detection] = []
        everywhere = self._search > 0 or all(track.side is None for track in self._tracks)
        if self.detection_due():
            self._since_detection, self._search = 0, max(self._search - 1, 0)
            found = detector(image)
        else:
            self._since_detection += 1
        taken = _taken(self._tracks, found)
        for i, track in enumerate(self._tracks):
            if taken[i]:
                track.evidence = _capped(track.evidence + _log_odds(taken[i][0].right))
                if track.hand.presence < LOW_PRESENCE:
                    carried[i] = replace(taken[i][0], right=_probability(track.evidence))
                elif self.anchor > 0:
                    carried[i] = between(track.region, taken[i][0], self.anchor)
        found = [detection for detection in found if not any(detection is d for near in taken for d in near)]
        fresh: list[Detection] = []
        for detection in sorted(found, key=lambda d: -d.score):
            if not any(same_place(detection, other) and not _opposed(detection, other) for other in fresh):
                fresh.append(detection)
        if not everywhere:
            fresh = self._worth_a_look(fresh)
        # One look is never certain of a side, whatever it says.
        doubted = [d if _bounded(d.right) == d.right else replace(d, right=_bounded(d.right)) for d in fresh]
        self._asked = (carried + doubted)[:MAX_REGIONS]
        return list(self._asked)

    def update(self, hands: list[HandKeypoints | None]) -> Pair[HandKeypoints | None]:
        """The landmark stage's answers to ``regions``, in its order -> the left and the right hand.

        Raises:
            ValueError: the number of answers is not that of the regions.
        """
        if len(hands) != len(self._asked):
            raise ValueError(f"expected {len(self._asked)} answers, one a region, got {len(hands)}")
        before = len(self._tracks)
        tracks: list[_Track] = []
        new: list[tuple[Detection, _Track | None]] = []
        for i, hand in enumerate(hands):
            track = self._tracks[i] if i < before else None
            if hand is None:
                if track is not None:
                    self._lose(track)
            elif track is not None:
                tracks.append(self._follow(track, hand))
            else:
                tracks.append(self._begin(hand))
            if i >= before:
                new.append((self._asked[i], None if hand is None else tracks[-1]))
        self._asked = []
        tracks = _without_duplicates(tracks)
        for region, track in new:
            self._remember(region, empty=all(track is not other for other in tracks))
        _assign_sides(tracks)
        # Followed without a side: only one at a time, and only while it may yet turn out the missing hand.
        sided = [track for track in tracks if track.side is not None]
        open_ = [track for track in tracks if track.side is None and abs(track.evidence) < UNDECIDED]
        self._tracks = (sided + open_)[:2]
        self._forget()
        return Pair(left=_hand_of(sided, Side.LEFT), right=_hand_of(sided, Side.RIGHT))

    def reject(self, side: Side) -> None:
        """Drop the hand of a side that a later stage found implausible; the detector looks for it again."""
        for track in [track for track in self._tracks if track.side is side]:
            self._tracks.remove(track)
            self._lose(track)

    def _worth_a_look(self, fresh: list[Detection]) -> list[Detection]:
        """All but the places that proved empty, of which the one that was looked at first comes last."""
        known = [next((i for i, e in enumerate(self._empty) if same_place(d, e)), None) for d in fresh]
        again = [i for i in known if i is not None]
        new = [d for d, i in zip(fresh, known, strict=True) if i is None]
        return new + [fresh[known.index(min(again))]] if again else new

    def _remember(self, region: Detection, *, empty: bool) -> None:
        self._empty = [place for place in self._empty if not same_place(place, region)]
        if empty:
            self._empty = [*self._empty, region][-MAX_EMPTY:]

    def _begin(self, hand: HandKeypoints) -> _Track:
        # What the detector says of the side is told once: a hand that is followed has its landmarks' word only.
        evidence = _evidence(hand) + _log_odds(hand.detection.right)
        near = [lost for lost in self._lost if same_place(lost.region, region_of(hand))]
        for lost in [lost for lost in near if not _against(hand.detection, lost)]:
            evidence += lost.evidence * MEMORY_FADE**lost.missing
            self._lost.remove(lost)
        evidence = _capped(evidence)
        return _Track(hand, region_of(hand, right=_probability(evidence)), evidence)

    def _follow(self, track: _Track, hand: HandKeypoints) -> _Track:
        evidence = _capped(track.evidence + _evidence(hand))
        region, before = region_of(hand, right=_probability(evidence)), region_of(track.hand)
        (x, y, _), (x0, y0, _) = square_of(region), square_of(before)
        return _Track(hand, moved(region, PREDICTION * (x - x0), PREDICTION * (y - y0)), evidence, track.side)

    def _lose(self, track: _Track) -> None:
        if track.side is not None:
            self._lost.append(track)
            self._search = max(self._search, self.interval)

    def _forget(self) -> None:
        for track in self._lost:
            track.missing += 1
        self._lost = [track for track in self._lost if track.missing <= MEMORY_FRAMES]


def _taken(tracks: list[_Track], found: list[Detection]) -> list[list[Detection]]:
    """Which detections show the hand of each track, nearest kind first; the others are new hands.

    A detector that tells the sides sees two hands in one place where they cross. There, each track takes those of
    its own side; one of the other side is its hand, too, unless one of its own is there.
    """
    taken: list[list[Detection]] = []
    for track in tracks:
        near = [detection for detection in found if same_place(detection, track.region)]
        own = [d for d in near if not _against(d, track)]
        taken.append(own or near)
    for i, mine in enumerate(taken):
        if mine and all(_against(d, tracks[i]) for d in mine):
            # Not my side: it may be the other track's hand, which lies over mine.
            others = [d for j, near in enumerate(taken) if j != i for d in near if not _against(d, tracks[j])]
            taken[i] = [d for d in mine if not any(d is other for other in others)]
    return taken


def _against(detection: Detection, track: _Track) -> bool:
    """Whether a detection is clearly of the other side than a track's."""
    if track.side is None or abs(detection.right - 0.5) < SIDE_TOLD - 0.5:
        return False
    return (detection.right > 0.5) != (track.side is Side.RIGHT)


def _opposed(a: Detection, b: Detection) -> bool:
    """Whether two detections are clearly of different sides."""
    return min(a.right, b.right) <= 1 - SIDE_TOLD and max(a.right, b.right) >= SIDE_TOLD


def _evidence(hand: HandKeypoints) -> float:
    """One frame's evidence for a right hand by its landmarks."""
    return hand.presence * _log_odds(hand.right)


def _log_odds(right: float) -> float:
    right = _bounded(right)
    return math.log(right / (1 - right))


def _bounded(right: float) -> float:
    return min(max(right, MIN_SIDE_PROBABILITY), 1 - MIN_SIDE_PROBABILITY)


def _probability(evidence: float) -> float:
    return 1 / (1 + math.exp(-evidence))


def _capped(evidence: float) -> float:
    return min(max(evidence, -MAX_EVIDENCE), MAX_EVIDENCE)


def _without_duplicates(tracks: list[_Track]) -> list[_Track]:
    """Keep the better of two tracks on one hand: sided before new, its side confirmed, then presence."""
    kept: list[_Track] = []
    for track in sorted(tracks, key=_quality, reverse=True):
        if not any(same_hand(track.hand, other.hand) for other in kept):
            kept.append(track)
    return kept


def _quality(track: _Track) -> tuple[bool, bool, float]:
    confirmed = track.side is not None and (track.hand.right > 0.5) == (track.side is Side.RIGHT)
    return confirmed, track.side is not None, track.hand.presence


def _assign_sides(tracks: list[_Track]) -> None:
    """Give each hand a side or none, at most one hand a side, by the greatest sum of evidence.

    ``_gain`` is the worth of one choice; a hand without a side is worth 0, so two hands that claim
    one side leave the weaker its side only where its own evidence hardly speaks against it.
    """
    options = (Side.LEFT, Side.RIGHT, None)
    best: tuple[Side | None, ...] = (None,) * len(tracks)
    worth = -math.inf
    for choice in itertools.product(options, repeat=len(tracks)):
        taken = [side for side in choice if side is not None]
        if len(taken) != len(set(taken)):
            continue
        total = sum(_gain(track, side) for track, side in zip(tracks, choice, strict=True))
        if total > worth:
            best, worth = choice, total
    for track, side in zip(tracks, best, strict=True):
        track.side = side


def _gain(track: _Track, side: Side | None) -> float:
    if side is None:
        return 0.0
    evidence = track.evidence if side is Side.RIGHT else -track.evidence
    return evidence + DOUBTFUL + (KEEP_SIDE if side is track.side else 0.0)


def _hand_of(tracks: list[_Track], side: Side) -> HandKeypoints | None:
    return next((track.hand for track in tracks if track.side is side), None)
