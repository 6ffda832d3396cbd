"""The core on one screen: an image and its camera in, two hands in the camera frame out."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Float32

from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.depth_scale import DepthScale, check_depth
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.tracking import HandTracker
from a2p_ros.errors import ConfigError
from a2p_ros.hand import hand_length, load_hand_models
from a2p_ros.hand_frames import hand_mesh
from a2p_ros.inference import torch_device
from a2p_ros.interaction.stage import Interaction, InteractionStage
from a2p_ros.measuring import make_measuring, make_regressor
from a2p_ros.media.image_io import check_image
from a2p_ros.placement import place
from a2p_ros.smoothing import HandSmoother
from a2p_ros.timing import StageClock
from a2p_ros.types import Box, Detection, HandKeypoints, Image, Pair, PlacedHand, Side, Status, TwoHands
from a2p_ros.warm_up import made_up_keypoints


class TwoHandPipeline:
    """Detect, measure hands, regress MANO, place in the camera frame, smooth, part hands that penetrate.

    Parting comes last, so that what is published is what was measured. Smoothed after it, four of five scripted
    moving pairs were smoothed back into each other: 0.1 to 0.7 mm deep on average and not 0.1 to 0.15 mm. In the
    fifth, fingers 9 mm through each other, it was the other way round, 3.5 and 4.5 mm.

    Args:
        config: settings of every stage; the defaults need no files beside the package's own.

    Raises:
        MissingDependencyError, WeightsError, HandModelError, DeviceError: a model cannot be
            loaded as configured.
    """

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.config = config = config or PipelineConfig()
        self.hand_models = load_hand_models(config.device.hand_model)
        self.detector = make_detector(config.detection, config.device)
        self.measuring = make_measuring(config, self.hand_models)
        self.tracker = HandTracker.from_config(config.detection)
        self.regressor = make_regressor(config, self.hand_models)
        self.smoother = HandSmoother(config.smoothing, self.hand_models)
        self.interaction = InteractionStage(self.hand_models, config.interaction, torch_device(config.device))
        self.depth_scale = DepthScale()
        self._last_shape: tuple[int, ...] = ()

    def __call__(
        self,
        image: Image,
        camera: CameraModel | None,
        stamp: float,
        depth: Float[np.ndarray, "height width"] | None = None,
    ) -> TwoHands:
        """Reconstruct both hands in one image of a stream.

        Args:
            image: RGB.
            camera: intrinsics of this very image; None assumes a field of view.
            stamp: capture time [s], later than the last call's; call `reset` where it is not.
            depth: along z [m], aligned with the image, 0 or NaN where not measured; it tells the
                hand's length where ``placement.hand_length`` does not.

        Raises:
            InputError: the image is not (height, width, 3) uint8, or is empty; the depth image has another size.
            CameraError: the camera belongs to an image of another size.
        """
        check_image(image)
        height, width = image.shape[:2]
        camera = camera or CameraModel.assume(width, height, self.config.placement.assumed_fov)
        camera.check_image(height, width)
        if image.shape != self._last_shape:
            self.reset()
            self._last_shape = image.shape
        if depth is not None:
            check_depth(depth, camera)

        clock = StageClock()
        with clock("detect"):
            regions = self.tracker.regions(image, self.detector)
        keypoints = self.tracker.update(self.measuring(image, regions, camera, clock))
        apart = self.measuring.apart(keypoints, camera, clock)
        with clock("regress"):
            poses = self.regressor(keypoints, camera)
        with clock("place"):
            hands = place(poses, camera, self.hand_models, apart)
        with clock("smooth"):
            hands = self.smoother(hands, camera, stamp)
        with clock("interact"):
            found = self.interaction(hands, camera, stamp)

        status = self._status(keypoints, hands)
        metric = self._hand_length > 0 and not camera.assumed
        if depth is not None and self.wants_depth:
            self._measure_length(hands, camera, depth)
        return self._answer(found, status, stamp, metric, clock)

    @property
    def wants_depth(self) -> bool:
        """Whether a depth image would still tell something."""
        return self.config.placement.hand_length == 0 and not self.depth_scale.frozen

    @property
    def _hand_length(self) -> float:
        """What is known of the user's hand [m]: told, or measured in depth images; 0 = nothing."""
        return self.config.placement.hand_length or self.depth_scale.length

    def _measure_length(
        self, hands: Pair[PlacedHand | None], camera: CameraModel, depth: Float[np.ndarray, "height width"]
    ) -> None:
        """Let a depth image correct the hand length that the next frames are fitted with."""
        for side, hand in hands.items():
            if hand is not None:
                model = self.hand_models[side]
                length = float(hand_length(model, torch.as_tensor(hand.pose.betas[None]).to(model.template))[0])
                self.depth_scale.add(hand, length, self.mesh, model.faces.numpy(), camera, depth)
        self._fit_with_length()

    def _fit_with_length(self) -> None:
        placement = dataclasses.replace(self.config.placement, hand_length=self._hand_length)
        self.regressor.update(self.config.fit, placement)

    def _status(self, found: Pair[HandKeypoints | None], hands: Pair[PlacedHand | None]) -> Pair[Status]:
        """Why each hand is or is not there; a rejected one is no longer followed."""
        status = {side: hand.status for side, hand in hands.items() if hand is not None}
        for side, keypoints in found.items():
            if side not in status and keypoints is not None:
                status[side] = Status.REJECTED
                self.tracker.reject(side)
        left, right = (status.get(side, Status.NOT_DETECTED) for side in (Side.LEFT, Side.RIGHT))
        return Pair(left, right)

    def _answer(
        self, found: Interaction, status: Pair[Status], stamp: float, metric: bool, clock: StageClock
    ) -> TwoHands:
        return TwoHands(
            stamp=stamp,
            left=found.hands.left,
            right=found.hands.right,
            status=status,
            interacting=found.interacting,
            repaired=found.repaired,
            penetration_before=found.penetration_before,
            penetration_after=found.penetration_after,
            rejected_repair=found.rejected,
            metric_scale=metric,
            model_id=self.model_id,
            hand_model=self.hand_models.left.name,
            latency=clock.total,
            timings=clock.seconds,
        )

    @property
    def model_id(self) -> str:
        """The methods that make the answer: regressor, who measures, detector and, where it is enabled, the repair."""
        methods = (self.regressor.model_id, self.measuring.name, self.detector.name, self.interaction.model_id)
        return "+".join(filter(None, methods))

    def report(self) -> dict[str, str]:
        """What was granted: the device of each model."""
        return {
            "detector": f"{self.detector.name} on {self.detector.device}",
            **self.measuring.report(),
            "regressor": f"{self.regressor.model_id} on cpu",
            "repair": self.interaction.report,
        }

    def mesh(self, hand: PlacedHand) -> Float32[np.ndarray, "vertices 3"]:
        """The hand's surface in the camera frame [m]; faces are `hand_models[hand.side].faces`."""
        return hand_mesh(hand, self.hand_models[hand.side])

    def reset(self) -> None:
        """Forget the stream: what follows is another video, camera or time."""
        self.tracker.reset()
        self.measuring.reset()
        self.regressor.reset()
        self.smoother.reset()
        self.interaction.reset()
        self.depth_scale.reset()
        self._fit_with_length()

    def warm_up(self) -> None:
        """Run every stage once, so that the first frame is as fast as the others, and forget it again."""
        image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        camera = CameraModel.assume(640, 480, self.config.placement.assumed_fov)
        self.detector(image)
        alone, beside = (Detection(Box(x, 140, x + 200, 340), score=1.0) for x in (220, 320))
        for regions in ([alone], [alone, beside]):
            self.measuring(image, regions, camera, StageClock())
        keypoints: Pair[HandKeypoints | None] = Pair(
            *(made_up_keypoints(m, camera) for _, m in self.hand_models.items())
        )
        apart = self.measuring.apart(keypoints, camera, StageClock())
        hands = place(self.regressor(keypoints, camera), camera, self.hand_models, apart)
        hands = self.smoother(hands, camera, 0.0)
        for _, hand in self.interaction(hands, camera, 0.0).hands.items():
            if hand is not None:
                self.mesh(hand)
        self.reset()

    def update(self, config: PipelineConfig) -> None:
        """Take settings over that may change at run time.

        Raises ConfigError for one that may not: build a new pipeline for it.
        """
        before, after = self.config.flat(), config.flat()
        for name, _, info in PipelineConfig.flat_settings():
            if before[name] != after[name] and not info.runtime:
                raise ConfigError(f"{name} cannot change at run time; build a new pipeline with {after[name]!r}")
        self.config = config
        self.detector.min_score = config.detection.min_score
        self.tracker.interval, self.tracker.anchor = config.detection.interval, config.detection.anchor
        self.measuring.update(config)
        self._fit_with_length()
        self.smoother.update(config.smoothing)
        self.interaction.update(config.interaction)
