"""Methods beside one another on single frames whose hands are known.

Each frame is looked at twice: with true boxes, where every hand is measured by every method, so that neither recall
nor the detector hides in the means; and with the boxes of a detector, as a picture that follows no other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from a2p_ros.camera import CameraModel
from a2p_ros.config import FitConfig, PipelineConfig
from a2p_ros.detection.detector import Detector
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.evaluation import metrics
from a2p_ros.evaluation.calibration import Calibration
from a2p_ros.evaluation.hand_scores import CROP_SHARES, HandScore, PairScore, hand_errors, summary
from a2p_ros.evaluation.true_hands import TrueFrame
from a2p_ros.hand.model import HandModel
from a2p_ros.hand_frames import hand_mesh
from a2p_ros.interaction.stage import InteractionStage
from a2p_ros.measuring import Measuring, Regressor, overlapping
from a2p_ros.placement import place
from a2p_ros.timing import StageClock
from a2p_ros.translation import Apart
from a2p_ros.types import Detection, HandKeypoints, Pair, PlacedHand, Side

#: A reconstruction elsewhere than this (intersection over union of the boxes) is not of this hand.
SAME_HAND = 0.15
#: With true boxes a fit is taken however far it is from its keypoints.
_ANY_ERROR = 10.0
GROUPS: dict[str, bool] = {"single": False, "interacting": True}


@dataclass(frozen=True)
class Method:
    """A way from a picture to two hands: who measures them (a key of the stages), who regresses, repaired or not."""

    measured_by: str
    regressor: Regressor
    repaired: bool = False


@dataclass(frozen=True)
class _Measured:
    """What one stage measured; ``accepted`` are the sides that the pipeline would have gone on with."""

    hands: Pair[HandKeypoints | None]
    accepted: frozenset[Side]
    apart: Apart | None


@dataclass
class Scores:
    """What was found with one kind of boxes, by method."""

    hands: dict[str, list[HandScore]]
    pairs: dict[str, list[PairScore]]
    false_hands: dict[str, int]
    repaired: dict[str, set[int]]

    @classmethod
    def empty(cls) -> Scores:
        """Nothing yet."""
        return cls(defaultdict(list), defaultdict(list), defaultdict(int), defaultdict(set))

    def groups(self, *, both_found: bool = False) -> dict[str, Any]:
        """Summaries of single and interacting hands by method; ``both_found``: on hands that all methods found."""

        def chosen(interacting: bool, score: HandScore | PairScore) -> bool:
            return score.interacting is interacting

        return {n: self.summaries(partial(chosen, i), both_found=both_found) for n, i in GROUPS.items()}

    def summaries(self, chosen: Callable[[HandScore | PairScore], bool], *, both_found: bool = False) -> dict[str, Any]:
        """Of each method the summary of the chosen hands and pairs."""
        common = self._common() if both_found else None

        def counted(score: HandScore | PairScore, sides: Iterable[Side]) -> bool:
            return chosen(score) and (common is None or all((score.frame, side) in common for side in sides))

        return {
            name: summary(
                [hand for hand in self.hands[name] if counted(hand, [hand.side])],
                [pair for pair in self.pairs[name] if counted(pair, Side)],
            )
            for name in self.hands
        }

    def _common(self) -> set[tuple[int, Side]]:
        """Hands that every method found and the pipeline would have accepted."""
        found = [{(h.frame, h.side) for h in hands if h.accepted} for hands in self.hands.values()]
        return set.intersection(*found) if found else set()


class HeldOutEvaluation:
    """Gathers the scores of some methods over frames.

    Args:
        models: hand models.
        config: thresholds of the pipeline.
        detector: where hands are looked for; None leaves the detected boxes out.
        stages: who measures hands, by name.
        methods: by name.
        jitter: how much true boxes err, in multiples of a real detector's.
        seed: of that.
    """

    def __init__(
        self,
        models: Pair[HandModel],
        config: PipelineConfig,
        detector: Detector | None,
        stages: Mapping[str, Measuring],
        methods: Mapping[str, Method],
        *,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._models, self._config, self._detector = models, config, detector
        self._stages, self._methods = stages, methods
        self._interaction = InteractionStage(models, config.interaction)
        self._jitter, self._rng = jitter, np.random.default_rng(seed)
        thresholds = ("min_presence", "min_confidence", "min_overlapping")
        self._lenient = config.replace_flat(
            dict.fromkeys(("landmarks.min_presence", "landmarks.min_size", *(f"network.{t}" for t in thresholds)), 0.0)
        )
        self.frames = self.left_out = 0
        self.true_boxes, self.detected = Scores.empty(), Scores.empty()
        self.calibration = {name: {group: Calibration() for group in GROUPS} for name in stages}

    def add(self, frame: TrueFrame) -> None:
        """Count one frame under all methods."""
        height, width = frame.image.shape[:2]
        counted = {s: hand for s, hand in frame.hands.items() if hand is not None and hand.counts(height, width)}
        self.left_out += sum(hand is not None for _, hand in frame.hands.items()) - len(counted)
        regions = {side: hand.region(self._rng, self._jitter) for side, hand in counted.items()}
        measured = {name: self._with_true_boxes(stage, frame, regions) for name, stage in self._stages.items()}
        for name, found in measured.items():
            self._calibrate(name, frame, found.hands)
        self._score(frame, set(counted), measured, self.true_boxes, lenient=True)
        if self._detector is not None:
            detections = self._detector(frame.image)
            measured = {name: self._with_detections(s, frame, detections) for name, s in self._stages.items()}
            self._score(frame, set(counted), measured, self.detected, lenient=False)
        self.frames += 1

    def _with_true_boxes(self, stage: Measuring, frame: TrueFrame, regions: Mapping[Side, Detection]) -> _Measured:
        stage.reset()
        stage.update(self._lenient)
        answers = dict(
            zip(regions, stage(frame.image, list(regions.values()), frame.camera, StageClock()), strict=True)
        )
        hands = Pair(answers.get(Side.LEFT), answers.get(Side.RIGHT))
        stage.update(self._config)
        overlaps = all(overlapping(list(regions.values())))
        accepted = {side for side, hand in hands.items() if hand is not None and stage.accepts(hand, overlaps=overlaps)}
        return _Measured(hands, frozenset(accepted), stage.apart(hands, frame.camera, StageClock()))

    def _with_detections(self, stage: Measuring, frame: TrueFrame, detections: list[Detection]) -> _Measured:
        stage.reset()
        stage.update(self._config)
        tracker = HandTracker.from_config(self._config.detection)
        regions = tracker.regions(frame.image, _Answered(detections))
        hands = tracker.update(stage(frame.image, regions, frame.camera, StageClock()))
        return _Measured(hands, frozenset(Side), stage.apart(hands, frame.camera, StageClock()))

    def _calibrate(self, name: str, frame: TrueFrame, hands: Pair[HandKeypoints | None]) -> None:
        group = "interacting" if frame.interacting else "single"
        for side, hand in hands.items():
            true = frame.hands[side]
            if hand is not None and true is not None and (square := true.region().square) is not None:
                right = metrics.within(hand.keypoints_px, true.keypoints_px, square[2], CROP_SHARES["pck_crop_005"])
                self.calibration[name][group].add(hand.confidence, right)

    def _score(
        self, frame: TrueFrame, sides: set[Side], measured: Mapping[str, _Measured], scores: Scores, *, lenient: bool
    ) -> None:
        placed: dict[tuple[str, int], tuple[Pair[PlacedHand | None], set[Side]]] = {}
        for name, method in self._methods.items():
            found = measured[method.measured_by]
            key = method.measured_by, id(method.regressor)
            if key not in placed:
                placed[key] = self._placed(method.regressor, found, frame.camera, lenient=lenient)
            hands, accepted = placed[key]
            if method.repaired:
                self._interaction.reset()
                repair = self._interaction(hands, frame.camera, 0.0)
                hands = repair.hands
                if repair.repaired:
                    scores.repaired[name].add(self.frames)
            self._compare(name, frame, sides, found.hands, hands, accepted, scores)

    def _placed(
        self, regressor: Regressor, found: _Measured, camera: CameraModel, *, lenient: bool
    ) -> tuple[Pair[PlacedHand | None], set[Side]]:
        """The hands, and the sides that the pipeline's own thresholds accept."""

        def run(fit: FitConfig) -> Pair[PlacedHand | None]:
            regressor.reset()
            regressor.update(fit, self._config.placement)
            return place(regressor(found.hands, camera), camera, self._models, found.apart)

        strict = run(self._config.fit)
        accepted = {side for side, hand in strict.items() if hand is not None and side in found.accepted}
        lost = any(strict[side] is None and hand is not None for side, hand in found.hands.items())
        return (run(replace(self._config.fit, max_error=_ANY_ERROR)) if lenient and lost else strict), accepted

    def _compare(
        self,
        name: str,
        frame: TrueFrame,
        sides: set[Side],
        measured: Pair[HandKeypoints | None],
        hands: Pair[PlacedHand | None],
        accepted: set[Side],
        scores: Scores,
    ) -> None:
        there: set[Side] = set()
        for side, hand in hands.items():
            true, points = frame.hands[side], measured[side]
            same = scores is self.true_boxes or (
                hand is not None and true is not None and hand.box.iou(true.box) > SAME_HAND
            )
            if hand is not None and not same:
                scores.false_hands[name] += 1
            if true is None or side not in sides:
                continue
            errors = None
            if hand is not None and points is not None and same:
                errors = hand_errors(hand, hand_mesh(hand, self._models[side]), points, true)
                there.add(side)
            stands = errors is not None and side in accepted
            scores.hands[name].append(HandScore(self.frames, side, frame.interacting, frame.kind, errors, stands))
        if len(there) == 2:
            truth, wrists = frame.hands, {s: hand.wrist for s, hand in hands.items() if hand is not None}
            assert truth.left is not None and truth.right is not None
            error = metrics.mrrpe(wrists[Side.LEFT], wrists[Side.RIGHT], truth.left.joints[0], truth.right.joints[0])
            scores.pairs[name].append(PairScore(self.frames, frame.interacting, frame.kind, error, there <= accepted))

    def result(self) -> dict[str, Any]:
        """The promised keys are those with true boxes, over all hands; the other comparisons have their own."""
        kinds = sorted({hand.kind for hands in self.true_boxes.hands.values() for hand in hands})
        result: dict[str, Any] = {
            "n": self.frames,
            "boxes": "true",
            "jitter": self._jitter,
            **self.true_boxes.groups(),
            "both_found": self.true_boxes.groups(both_found=True),
            "by_kind": {kind: self.true_boxes.summaries(partial(_is_of_kind, kind)) for kind in kinds},
            "repair": self._repair(),
            "calibration": {
                name: {group: c.result() for group, c in groups.items()} for name, groups in self.calibration.items()
            },
            "hands_left_out": self.left_out,
        }
        if self._detector is not None:
            result["detected"] = {
                "detector": self._detector.name,
                **self.detected.groups(),
                "both_found": self.detected.groups(both_found=True),
                "false_hands": dict(self.detected.false_hands),
            }
        return result

    def _repair(self) -> dict[str, Any]:
        """Of each method that repairs: the frames it touched, as they came and as they left."""
        out: dict[str, Any] = {}
        for name, method in self._methods.items():
            if not method.repaired:
                continue
            before = next(n for n, m in self._methods.items() if m == replace(method, repaired=False))
            touched = self.true_boxes.repaired[name]
            both = self.true_boxes.summaries(partial(_is_in, touched))
            out[name] = {"frames": len(touched), "before": both.get(before), "after": both.get(name)}
        return out


def _is_of_kind(kind: str, score: HandScore | PairScore) -> bool:
    return score.kind == kind


def _is_in(frames: set[int], score: HandScore | PairScore) -> bool:
    return score.frame in frames


class _Answered:
    """A detector that has looked already."""

    name, device, min_score = "", "", math.nan

    def __init__(self, detections: list[Detection]) -> None:
        self._detections = detections

    def __call__(self, image: Any) -> list[Detection]:
        return list(self._detections)
