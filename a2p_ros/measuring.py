"""Who measures the hands: MediaPipe's landmark model, the A2P network, or each where it is better.

Part of the wiring, as the pipeline itself: the two stages do not know each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.detection.landmarks import LandmarkModel
from a2p_ros.translation import Apart
from a2p_ros.types import Detection, HandKeypoints, Image, Pair

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel
    from a2p_ros.network.stage import NetworkStage


class Measuring(Protocol):
    """Regions of an image -> the hands in them.

    ``name`` names the models, ``device`` is what they really run on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    def __call__(self, image: Image, regions: list[Detection], camera: CameraModel) -> list[HandKeypoints | None]:
        """One entry a region, in their order: its hand, or None."""
        ...

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Apart | None:
        """Where the two hands are to each other, as far as the models say."""
        ...

    def update(self, config: PipelineConfig) -> None:
        """Take over changed thresholds; the next image uses them."""
        ...


def make_measuring(config: PipelineConfig, models: Pair[HandModel]) -> Measuring:
    """What ``network.mode`` asks for, its models loaded.

    Raises:
        MissingDependencyError: a package that carries or runs a model is not installed.
        WeightsError: weights are missing, damaged or for another hand model.
        DeviceError: the device asked for was not granted.
    """
    mode = config.network.mode
    if mode == "off":
        return LandmarkMeasuring(LandmarkModel(config.landmarks, config.device))
    # Networks are loaded where one is asked for: without it torch's layers are not imported at all.
    from a2p_ros.network.engine import make_engine
    from a2p_ros.network.stage import NetworkStage

    engine = make_engine(config.network, config.device, models)
    network = NetworkMeasuring(NetworkStage(engine, config.network, config.landmarks, models))
    if mode != "hybrid":
        return network
    return HybridMeasuring(LandmarkMeasuring(LandmarkModel(config.landmarks, config.device)), network)


class LandmarkMeasuring:
    """MediaPipe's landmark model alone."""

    def __init__(self, model: LandmarkModel) -> None:
        self._model = model
        self.name, self.device = model.name, model.device

    def __call__(self, image: Image, regions: list[Detection], camera: CameraModel) -> list[HandKeypoints | None]:
        """One entry a region; the model knows no camera."""
        return self._model(image, regions)

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Apart | None:
        """It does not say."""
        return None

    def update(self, config: PipelineConfig) -> None:
        """Take over ``landmarks``."""
        self._model.min_presence, self._model.min_size = config.landmarks.min_presence, config.landmarks.min_size


class NetworkMeasuring:
    """The A2P network alone."""

    def __init__(self, stage: NetworkStage) -> None:
        self._stage = stage
        self.name, self.device = stage.name, stage.device

    def __call__(self, image: Image, regions: list[Detection], camera: CameraModel) -> list[HandKeypoints | None]:
        """One entry a region."""
        return self._stage(image, regions, camera)

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Apart | None:
        """The network's relative translation."""
        return self._stage.apart(hands, camera)

    def update(self, config: PipelineConfig) -> None:
        """Take over ``network.min_presence`` and ``landmarks.min_size``."""
        self._stage.min_presence, self._stage.min_size = config.network.min_presence, config.landmarks.min_size


class HybridMeasuring:
    """The network where the boxes of two regions overlap, the landmark model for hands that are apart.

    The two measure hands that are told apart by ``HandKeypoints.regressed``; only a pair that the network measured
    has a relative translation.
    """

    def __init__(self, landmarks: Measuring, network: Measuring) -> None:
        self._landmarks, self._network = landmarks, network
        self.name = f"{landmarks.name}|{network.name}"
        self.device = network.device

    def __call__(self, image: Image, regions: list[Detection], camera: CameraModel) -> list[HandKeypoints | None]:
        """One entry a region, whoever measured it."""
        near = overlapping(regions)
        answers: list[HandKeypoints | None] = [None] * len(regions)
        for stage, chosen in ((self._network, True), (self._landmarks, False)):
            rows = [i for i, overlaps in enumerate(near) if overlaps is chosen]
            if rows:
                for i, hand in zip(rows, stage(image, [regions[i] for i in rows], camera), strict=True):
                    answers[i] = hand
        return answers

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Apart | None:
        """The network's relative translation of a pair that it measured."""
        return self._network.apart(hands, camera)

    def update(self, config: PipelineConfig) -> None:
        """Take over the thresholds of both."""
        self._landmarks.update(config)
        self._network.update(config)


def overlapping(regions: Sequence[Detection]) -> list[bool]:
    """Of each region whether its box overlaps another's."""
    return [any(a is not b and a.box.iou(b.box) > 0 for b in regions) for a in regions]
