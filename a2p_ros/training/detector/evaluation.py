"""The detector and MediaPipe on the same rendered frames, by the overlap of the two true boxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from a2p_ros.detection.detector import Detector
from a2p_ros.detection.landmarks import LandmarkModel
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.evaluation.detections import padded
from a2p_ros.evaluation.mediapipe_peer import PeerHand
from a2p_ros.hand.model import HandModel
from a2p_ros.training.detector.frames import hands_of
from a2p_ros.training.detector.labels import Hands
from a2p_ros.training.detector.score import DetectionScore
from a2p_ros.training.synthetic.samples import Frame
from a2p_ros.types import Box, Detection, HandKeypoints, Image, Pair, Side


@dataclass(frozen=True)
class _Joints:
    """A hand of whatever finds joints."""

    keypoints_px: Float[np.ndarray, "21 2"]
    right: float
    score: float


@dataclass(frozen=True)
class _Answers:
    hands: Hands
    height: int
    width: int
    ours: list[Detection]
    joints: dict[str, list[_Joints]]


def evaluate(
    frames: Iterable[Frame],
    models: Pair[HandModel],
    detector: Detector,
    peer: Callable[[Image], list[PeerHand]],
    stages: Mapping[str, Callable[[Image], Pair[HandKeypoints | None]]],
) -> dict[str, Any]:
    """The promised keys, and what the pipeline's first two stages find with each backend (``stages``, by name).

    MediaPipe and the stages report joints; their boxes are those of the joints, padded by the median padding that true
    joints need on the same frames.
    """
    answers, seconds = [], []
    for frame in frames:
        begin = time.perf_counter()
        found = detector(frame.image)
        seconds.append(time.perf_counter() - begin)
        height, width = frame.image.shape[:2]
        joints = {
            "mediapipe": [_Joints(p.keypoints_px, float(p.side is Side.RIGHT), p.score) for p in peer(frame.image)]
        }
        for name, stage in stages.items():
            pair = stage(frame.image).items()
            joints[f"with_{name}"] = [
                _Joints(hand.keypoints_px, float(side is Side.RIGHT), hand.presence) for side, hand in pair if hand
            ]
        answers.append(_Answers(hands_of(frame, models), height, width, found, joints))
    padding = joint_padding([(a.hands, a.height, a.width) for a in answers])
    ours, others = DetectionScore(), {name: DetectionScore() for name in ("mediapipe", *(f"with_{n}" for n in stages))}
    for a in answers:
        ours.add(a.ours, a.hands, a.height, a.width)
        for name, score in others.items():
            boxed = [_as_detection(hand, padding, a.height, a.width) for hand in a.joints[name]]
            score.add(boxed, a.hands, a.height, a.width)
    theirs, total = others.pop("mediapipe"), ours.total()
    return {
        "pipeline": {name.removeprefix("with_"): score.result() for name, score in others.items()},
        "n": len(answers),
        "ours": ours.result(),
        "mediapipe": theirs.result(),
        "ours_total": total,
        "mediapipe_total": theirs.total(),
        "mediapipe_padding": padding,
        "orientation_deg_p90": total["orientation_deg_p90"],
        "ms_p50": float(np.percentile(seconds, 50) * 1e3),
        "ms_p99": float(np.percentile(seconds, 99) * 1e3),
    }


def joint_padding(pictures: Iterable[tuple[Hands, int, int]]) -> float:
    """Median of what boxes of joints lack to the hands' outlines on each side, relative to their longer edge.

    Only hands that lie in the picture wholly count; 0.1 where there is none.
    """
    lacks = []
    for hands, height, width in pictures:
        for outline, keypoints in zip(hands.outline, hands.keypoints, strict=True):
            low, high = outline.min(0), outline.max(0)
            if (low > 0).all() and (high < (width - 1, height - 1)).all():
                joints = Box.around(keypoints)
                lacks.append(float((np.ptp(outline, axis=0) - (joints.width, joints.height)).mean()) / 2 / joints.size)
    return float(np.median(lacks)) if lacks else 0.1


def first_stages(detector: Detector, landmarks: LandmarkModel) -> Callable[[Image], Pair[HandKeypoints | None]]:
    """The pipeline's detection, landmarks and choice of sides on a picture that follows no other."""

    def run(image: Image) -> Pair[HandKeypoints | None]:
        tracker = HandTracker()
        return tracker.update(landmarks(image, tracker.regions(image, detector)))

    return run


def _as_detection(hand: _Joints, padding: float, height: int, width: int) -> Detection:
    box = padded(Box.around(hand.keypoints_px), padding)
    x0, x1 = (min(max(x, -0.5), width - 0.5) for x in (box.x0, box.x1))
    y0, y1 = (min(max(y, -0.5), height - 0.5) for y in (box.y0, box.y1))
    along = hand.keypoints_px[9] - hand.keypoints_px[0]
    rotation = float(np.arctan2(along[0], -along[1]))
    return Detection(Box(x0, y0, x1, y1), hand.score, hand.right, rotation)
