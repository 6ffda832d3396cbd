"""How a detector does on a real clip, where the hands' places and sides are known, beside MediaPipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from a2p_ros.evaluation.clip import Place
from a2p_ros.evaluation.mediapipe_peer import PeerHand
from a2p_ros.types import Box, Detection, Side

_WRIST, _MIDDLE_BASE = 0, 9
#: A hand is found where its box overlaps the reference's as much.
MIN_IOU = 0.5
#: An angle this near to MediaPipe's is right [rad].
NEAR = math.radians(15)


def padded(box: Box, share: float) -> Box:
    """A box of joints, grown by a share of its longer edge on every side, which is about the hand's own outline."""
    edge = share * box.size
    return Box(box.x0 - edge, box.y0 - edge, box.x1 + edge, box.y1 + edge)


@dataclass
class ClipDetections:
    """Counts over the frames of one clip; ``padding`` makes MediaPipe's joints to boxes.

    A hand is found in its place by a detection whose box overlaps MediaPipe's by half, or, where MediaPipe sees none,
    by any there. Every further detection is false.
    """

    padding: float
    frames: int = 0
    wanted: int = 0
    found: int = 0
    sides: int = 0
    false_hands: int = 0
    peer_found: int = 0
    peer_sides: int = 0
    peer_false: int = 0
    angles: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(
        self, found: Sequence[Detection], peers: Sequence[PeerHand], places: Sequence[Place], seconds: float
    ) -> None:
        """Count one frame, which took the detector ``seconds``."""
        self.frames += 1
        self.seconds.append(seconds)
        rest, others = list(found), list(peers)
        for place in places:
            self.wanted += 1
            peer = next((p for p in others if place.holds(p.box)), None)
            if peer is not None:
                others.remove(peer)
                self.peer_found += 1
                self.peer_sides += peer.side is place.side
            hand = self._best(rest, place, peer)
            if hand is None:
                continue
            rest.remove(hand)
            self.found += 1
            self.sides += (Side.RIGHT if hand.right > 0.5 else Side.LEFT) is place.side
            if peer is not None and hand.rotation is not None:
                dx, dy = peer.keypoints_px[_MIDDLE_BASE] - peer.keypoints_px[_WRIST]
                self.angles.append(abs(math.remainder(hand.rotation - math.atan2(dx, -dy), 2 * math.pi)))
        self.false_hands += len(rest)
        self.peer_false += len(others)

    def _best(self, rest: list[Detection], place: Place, peer: PeerHand | None) -> Detection | None:
        here = [hand for hand in rest if place.holds(hand.box)]
        if peer is not None:
            truth = padded(peer.box, self.padding)
            here = [hand for hand in here if hand.box.iou(truth) >= MIN_IOU]
        return max(here, key=lambda hand: hand.score, default=None)

    def result(self) -> dict[str, Any]:
        """Shares, hands a frame, angles [degrees] and times [ms]."""
        angles = np.degrees(self.angles) if self.angles else np.array([math.nan])
        ms = np.asarray(self.seconds) * 1e3
        return {
            "frames": self.frames,
            "recall": _share(self.found, self.wanted),
            "side_accuracy": _share(self.sides, self.found),
            "false_hands_per_frame": _share(self.false_hands, self.frames),
            "mediapipe_recall": _share(self.peer_found, self.wanted),
            "mediapipe_side_accuracy": _share(self.peer_sides, self.peer_found),
            "mediapipe_false_hands_per_frame": _share(self.peer_false, self.frames),
            "orientation_within_15_deg": float(np.mean(angles <= math.degrees(NEAR))) if self.angles else math.nan,
            "orientation_deg_p90": float(np.percentile(angles, 90)),
            "ms_p50": float(np.percentile(ms, 50)) if len(ms) else math.nan,
            "ms_p99": float(np.percentile(ms, 99)) if len(ms) else math.nan,
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
