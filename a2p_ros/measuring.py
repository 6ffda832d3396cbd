"""Who measures the hands and who makes poses of that: MediaPipe's landmarks and the fit, the A2P network, or both.

Part of the wiring, as the pipeline itself: the stages do not know one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from a2p_ros.camera import CameraModel
from a2p_ros.config import FitConfig, NetworkStageConfig, PipelineConfig, PlacementConfig
from a2p_ros.detection.landmarks import LandmarkModel
from a2p_ros.detection.regions import same_hand, same_place
from a2p_ros.detection.tracking import MIN_SIDE_PROBABILITY
from a2p_ros.fitting.keypoint_fit import KeypointFit
from a2p_ros.timing import StageClock
from a2p_ros.translation import Apart
from a2p_ros.types import Box, Detection, HandKeypoints, HandPose, Image, Pair

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel
    from a2p_ros.network.stage import NetworkStage

#: A region is of a side that is surer than this only where a hand is followed; no detector's word is taken so far.
KNOWN = 1 - MIN_SIDE_PROBABILITY
#: Frames for which a hand stays the network's after it was one of a pair.
HOLD = 15


class Measuring(Protocol):
    """Regions of an image -> the hands in them; ``name`` names the models."""

    @property
    def name(self) -> str:
        """The models, as in ``TwoHands.model_id``."""
        ...

    def __call__(
        self, image: Image, regions: list[Detection], camera: CameraModel, clock: StageClock
    ) -> list[HandKeypoints | None]:
        """One entry a region, in their order: its hand, or None; ``clock`` notes each model's time by its name."""
        ...

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel, clock: StageClock) -> Apart | None:
        """Where the two hands are to each other, as far as the models say."""
        ...

    def accepts(self, hand: HandKeypoints, *, overlaps: bool) -> bool:
        """Whether a hand that was measured with lower thresholds passes those that are set.

        ``overlaps``: it was one of two whose regions overlap.
        """
        ...

    def update(self, config: PipelineConfig) -> None:
        """Take over changed thresholds; the next image uses them."""
        ...

    def reset(self) -> None:
        """Another stream begins."""
        ...

    def report(self) -> dict[str, str]:
        """Which model really runs on what."""
        ...


class Regressor(Protocol):
    """Measured hands -> their poses, frame after frame; ``model_id`` names the method."""

    model_id: str

    def __call__(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Pair[HandPose | None]:
        """The poses of one frame; None where there is no hand."""
        ...

    def update(self, config: FitConfig, placement: PlacementConfig) -> None:
        """Take over changed settings; the next frame uses them."""
        ...

    def reset(self) -> None:
        """Another stream or another person begins."""
        ...


def mode_for(network: NetworkStageConfig, hand_model: str) -> str:
    """``network.mode``, ``auto`` resolved: hybrid with weights for the hand model (``HandModel.name``), else off."""
    if network.mode != "auto":
        return network.mode
    from a2p_ros.network.weights import shipped_for

    return "hybrid" if network.weights or shipped_for(hand_model) is not None else "off"


def make_measuring(config: PipelineConfig, models: Pair[HandModel]) -> Measuring:
    """What ``network.mode`` asks for, its models loaded.

    Raises:
        MissingDependencyError: a package that carries or runs a model is not installed.
        WeightsError: weights are missing, damaged or for another hand model.
        DeviceError: the device asked for was not granted.
    """
    mode = mode_for(config.network, models.right.name)
    if mode == "off":
        return LandmarkMeasuring(LandmarkModel(config.landmarks, config.device))
    from a2p_ros.network.engine import make_engine
    from a2p_ros.network.stage import NetworkStage

    engine = make_engine(config.network, config.device, models)
    network = NetworkMeasuring(NetworkStage(engine, config.network, config.landmarks, models))
    if mode not in ("hybrid", "both"):
        return network
    landmarks = LandmarkMeasuring(LandmarkModel(config.landmarks, config.device))
    return HybridMeasuring(landmarks, network, config.network, both=mode == "both")


def make_regressor(config: PipelineConfig, models: Pair[HandModel]) -> Regressor:
    """What makes poses of the measured hands in ``network.mode``."""
    mode = mode_for(config.network, models.right.name)
    if mode == "regress":
        from a2p_ros.network.regressed_pose import RegressedPose

        return RegressedPose(models, config.fit, config.placement)
    # In the hybrid one hand goes to and fro between the two who measure: its bones must not change with them.
    return KeypointFit(models, config.fit, config.placement, regressed_shape=mode == "fit")


class LandmarkMeasuring:
    """MediaPipe's landmark model alone."""

    def __init__(self, model: LandmarkModel) -> None:
        self._model = model
        self.name = model.name

    def __call__(
        self, image: Image, regions: list[Detection], camera: CameraModel, clock: StageClock
    ) -> list[HandKeypoints | None]:
        """One entry a region; the model knows no camera."""
        with clock("landmarks"):
            return self._model(image, regions)

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel, clock: StageClock) -> Apart | None:
        """It does not say."""
        return None

    def accepts(self, hand: HandKeypoints, *, overlaps: bool) -> bool:
        """By its presence."""
        return hand.presence >= self._model.min_presence

    def update(self, config: PipelineConfig) -> None:
        """Take over ``landmarks``."""
        self._model.min_presence, self._model.min_size = config.landmarks.min_presence, config.landmarks.min_size

    def reset(self) -> None:
        """It keeps nothing."""

    def report(self) -> dict[str, str]:
        """The landmark model's device."""
        return {"landmarks": f"{self.name} on {self._model.device}"}


class NetworkMeasuring:
    """The A2P network alone."""

    def __init__(self, stage: NetworkStage) -> None:
        self._stage = stage
        self.name = stage.name

    def __call__(
        self, image: Image, regions: list[Detection], camera: CameraModel, clock: StageClock
    ) -> list[HandKeypoints | None]:
        """One entry a region."""
        with clock("network"):
            return self._stage(image, regions, camera)

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel, clock: StageClock) -> Apart | None:
        """The network's relative translation."""
        with clock("relative"):
            return self._stage.apart(hands, camera)

    def accepts(self, hand: HandKeypoints, *, overlaps: bool) -> bool:
        """By its presence and its joints' confidence."""
        return self._stage.accepts(hand)

    def update(self, config: PipelineConfig) -> None:
        """Take over ``network`` and ``landmarks.min_size``."""
        network = config.network
        self._stage.min_presence, self._stage.min_confidence = network.min_presence, network.min_confidence
        self._stage.apart_sigma = network.apart_sigma
        self._stage.min_size = config.landmarks.min_size

    def reset(self) -> None:
        """It keeps nothing."""

    def report(self) -> dict[str, str]:
        """The network's device."""
        return {"network": f"{self.name} on {self._stage.device}"}


class HybridMeasuring:
    """The network where it sees two hands whose regions overlap, the landmark model for hands that are apart.

    Regions overlap, too, where a detector gives one hand twice because its side is unclear, or takes the cloth beside
    it for another: what the network finds there is one hand or none, and the landmark model measures it. Two in one
    place are of two sides. A hand stays the network's for ``HOLD`` frames where a pair was: with the other one hidden
    it is alone, and the landmark model, which is told no side, would go over to the other as that comes out.

    Which one measured a hand shows in ``HandKeypoints.at_joints``; only a pair that the network measured has a relative
    translation.

    Args:
        landmarks, network: who measures.
        both: the network looks at hands that are apart, too: its pose goes with the landmark model's points, for the
            fit to start from and stay near; where one of the two finds no hand, the other's stands.
        config: ``min_overlapping``.
    """

    def __init__(
        self, landmarks: Measuring, network: Measuring, config: NetworkStageConfig, *, both: bool = False
    ) -> None:
        self._landmarks, self._network, self._both = landmarks, network, both
        self._min_overlapping = config.min_overlapping
        #: Where a hand of a pair was, and for how many frames more that counts.
        self._held: list[tuple[Box, int]] = []
        self.name = f"{landmarks.name}{'&' if both else '|'}{network.name}"

    def __call__(
        self, image: Image, regions: list[Detection], camera: CameraModel, clock: StageClock
    ) -> list[HandKeypoints | None]:
        """One entry a region, whoever measured it."""
        self._held = [(box, frames - 1) for box, frames in self._held if frames > 0]
        held = [any(box.iou(region.box) > 0 for box, _ in self._held) for region in regions]
        near = [overlaps or h for overlaps, h in zip(overlapping(regions), held, strict=True)]
        rows = [i for i, overlaps in enumerate(near) if overlaps or self._both]
        answers: list[HandKeypoints | None] = [None] * len(regions)
        if rows:
            found = self._network(image, [regions[i] for i in rows], camera, clock)
            for i, hand in zip(rows, found, strict=True):
                answers[i] = hand
        pairs = [overlaps and _beside_another(i, answers, regions) for i, overlaps in enumerate(near)]
        self._held += [(region.box, HOLD) for region, pair in zip(regions, pairs, strict=True) if pair]
        together = [
            pair or (h and hand is not None and self._is_seen(hand))
            for pair, h, hand in zip(pairs, held, answers, strict=True)
        ]
        alone = [i for i, beside in enumerate(together) if not beside]
        if alone:
            found = self._landmarks(image, [regions[i] for i in alone], camera, clock)
            for i, hand in zip(alone, found, strict=True):
                # Where regions overlap and there is no pair, the network alone is not believed.
                answers[i] = merged(hand, answers[i]) if self._both and not (near[i] and hand is None) else hand
        return [
            None if beside and hand is not None and not self._is_seen(hand) else hand
            for hand, beside in zip(answers, together, strict=True)
        ]

    def _is_seen(self, hand: HandKeypoints) -> bool:
        """Whether enough of one of two overlapping hands is seen to take it for one."""
        return float(hand.confidence.mean()) >= self._min_overlapping

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel, clock: StageClock) -> Apart | None:
        """The network's relative translation of a pair whose points are its own."""
        if any(hand is not None and not hand.at_joints for _, hand in hands.items()):
            return None
        return self._network.apart(hands, camera, clock)

    def accepts(self, hand: HandKeypoints, *, overlaps: bool) -> bool:
        """As who measured it; of two that overlap, the network's joints must be trusted."""
        if not hand.at_joints:
            return self._landmarks.accepts(hand, overlaps=overlaps)
        return self._network.accepts(hand, overlaps=overlaps) and (not overlaps or self._is_seen(hand))

    def update(self, config: PipelineConfig) -> None:
        """Take over the thresholds of both, and ``network.min_overlapping``."""
        self._min_overlapping = config.network.min_overlapping
        self._landmarks.update(config)
        self._network.update(config)

    def reset(self) -> None:
        """Forget where hands overlapped."""
        self._held = []

    def report(self) -> dict[str, str]:
        """The devices of both."""
        return self._landmarks.report() | self._network.report()


def overlapping(regions: Sequence[Detection]) -> list[bool]:
    """Of each region whether its box overlaps another's."""
    return [any(a is not b and a.box.iou(b.box) > 0 for b in regions) for a in regions]


def _beside_another(row: int, answers: Sequence[HandKeypoints | None], regions: Sequence[Detection]) -> bool:
    """Whether there is another hand whose region overlaps: followed as one, or found by the network."""
    hand, region = answers[row], regions[row]
    for other, there in zip(answers, regions, strict=True):
        if there is region or there.box.iou(region.box) == 0:
            continue
        # Two that were followed to here are two, also where one is hidden now: the landmark model would see one twice.
        known = min(there.right, region.right) < 1 - KNOWN and max(there.right, region.right) > KNOWN
        if known and (hand is not None or other is not None):
            return True
        if hand is None or other is None or same_hand(hand, other):
            continue
        if not same_place(there, region) or (hand.right > 0.5) != (other.right > 0.5):
            return True
    return False


def merged(landmarks: HandKeypoints | None, network: HandKeypoints | None) -> HandKeypoints | None:
    """The landmark model's points with the network's pose, where both found the same hand; else what one found."""
    if landmarks is None or network is None:
        return landmarks or network
    return replace(landmarks, regressed=network.regressed)
