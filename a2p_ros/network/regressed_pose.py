"""The network's own pose as the answer: what the keypoint fit is beside it, without a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.config import FitConfig, PlacementConfig
from a2p_ros.errors import InputError
from a2p_ros.network.stage import regressed_joints
from a2p_ros.regressed_shape import RegressedShape
from a2p_ros.translation import solve_translation
from a2p_ros.types import HandKeypoints, HandPose, Pair, RegressedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel


class RegressedPose:
    """Measured hands -> MANO pose and shape as the network regressed them.

    Both hands share one shape, the mean over their first frames. A hand whose pose does not project onto the
    network's own keypoints is none: the two heads contradict each other where the network knows nothing.

    Args:
        models: hand models.
        config: ``max_error``, beyond which a hand is rejected.
        placement: ``hand_length``.
    """

    #: Names this regressor in ``TwoHands.model_id``.
    model_id = "regressed"

    def __init__(
        self, models: Pair[HandModel], config: FitConfig | None = None, placement: PlacementConfig | None = None
    ) -> None:
        self.config = config or FitConfig()
        self._models = models
        self._shape = RegressedShape(models.right, (placement or PlacementConfig()).hand_length)

    def update(self, config: FitConfig, placement: PlacementConfig) -> None:
        """Take over changed settings; the next frame uses them."""
        self.config = config
        self._shape.set_length(placement.hand_length)

    def reset(self) -> None:
        """Forget the shape: another person begins."""
        self._shape.reset()

    def __call__(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Pair[HandPose | None]:
        """Poses of the hands of one frame.

        None where there is no hand, where the network took it for the other one, and where pose and keypoints differ
        by more than ``FitConfig.max_error`` of the hand's box or are no numbers.
        """
        told: dict[Side, tuple[HandKeypoints, RegressedHand]] = {}
        for side, hand in hands.items():
            if hand is not None and (said := hand.regressed) is not None and said.side is side and _is_finite(hand):
                told[side] = hand, said
        betas = self._shape.of([said.betas for _, said in told.values()])
        poses = {side: self._pose(*hand, betas, camera) for side, hand in told.items()}
        self._shape.add(told[side][1].betas for side, pose in poses.items() if pose is not None)
        return Pair(poses.get(Side.LEFT), poses.get(Side.RIGHT))

    def _pose(
        self, hand: HandKeypoints, said: RegressedHand, betas: Float[np.ndarray, "10"], camera: CameraModel
    ) -> HandPose | None:
        joints = regressed_joints(said, self._models, betas)
        weights = np.clip(np.asarray(hand.confidence, np.float64), 0.0, 1.0)
        error = _projection_error(joints, hand, weights, camera)
        if not error <= self.config.max_error:
            return None
        trust = 1 - error / max(self.config.max_error, 1e-6)
        return HandPose(
            side=said.side,
            global_orient=said.global_orient,
            hand_pose=said.hand_pose,
            betas=betas,
            joints=joints,
            keypoints_px=np.asarray(hand.keypoints_px, np.float64),
            keypoint_confidence=weights,
            confidence=float(np.clip(hand.presence * trust, 0.0, 1.0)),
        )


def _projection_error(
    joints: Float[np.ndarray, "21 3"], hand: HandKeypoints, weights: Float[np.ndarray, "21"], camera: CameraModel
) -> float:
    """Mean distance of the joints from their keypoints, relative to the hand's box; infinite where none can be told."""
    try:
        wrist = solve_translation(joints, camera.rays(hand.keypoints_px), weights)
    except InputError:
        return float("inf")
    off = np.linalg.norm(camera.project(joints + wrist) - hand.keypoints_px, axis=1)
    return float(off.mean() / max(hand.box.size, 1e-6))


def _is_finite(hand: HandKeypoints) -> bool:
    said = hand.regressed
    assert said is not None
    arrays = (hand.keypoints_px, hand.confidence, said.global_orient, said.hand_pose, said.betas)
    return all(bool(np.isfinite(array).all()) for array in arrays)
