"""The first regressor: MANO pose and shape from 21 keypoints, by least squares.

Each hand is solved in the axes of a virtual camera that looks along its crop's ray. There the
landmark stage's 3D points hold as they are, projection stays exact, and the corner of a wide
image is no different from its centre; the result is turned into the real camera's axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.config import FitConfig, PlacementConfig
from a2p_ros.fitting.hand_solver import HandProblem, Linearised, Measured
from a2p_ros.fitting.shape_estimate import ShapeEstimate
from a2p_ros.fitting.skeleton import LANDMARK_SHIFT, Skeleton, has_rigid_tips, side_arrays
from a2p_ros.regressed_shape import RegressedShape
from a2p_ros.rotations import angle_between
from a2p_ros.types import HandKeypoints, HandPose, Pair, RegressedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: Steps of a new hand, in multiples of ``FitConfig.iterations``.
_NEW_HAND = 4
#: A tracked hand whose error exceeds this, or that has turned this far [rad] from the 3D points, is started anew.
_LOST_ERROR = 0.07
_LOST_TURN = 1.0
#: A hand that the last pose, or its regressed one, misses by this much before any step is taken for a new one.
_JUMP_ERROR = 0.2
#: A hand smaller than this in the image [px], or in its 3D points [m], has no shape that could be fitted.
_MIN_EXTENT_PX = 4.0
_MIN_EXTENT_3D = 1e-3


class KeypointFit:
    """Keypoints of both hands -> MANO pose and shape, frame after frame.

    A hand that a network regressed starts from that pose and is held near it; one seen in the last
    frame starts from its last pose; a new one from the palm's rotation and the fingers' directions
    in the 3D points. Both hands share one shape, estimated over their first frames and then kept;
    its size is ``hand_length``, or the mean adult hand's.

    Args:
        models: hand models.
        config: steps and rejection.
        placement: ``hand_length``.
        landmark_shift: where keypoints that are not ``at_joints`` lie from the joints; the default is measured for
            MediaPipe's.
        regressed_shape: whether hands that a network regressed have the shape that it says.

    Raises:
        InputError: no shape of the model has the hand length asked for.
    """

    #: Names this regressor in ``TwoHands.model_id``.
    model_id = "keypoint_fit"

    def __init__(
        self,
        models: Pair[HandModel],
        config: FitConfig | None = None,
        placement: PlacementConfig | None = None,
        landmark_shift: Float[np.ndarray, "21 3"] = LANDMARK_SHIFT,
        *,
        regressed_shape: bool = True,
    ) -> None:
        self.config = config or FitConfig()
        length = (placement or PlacementConfig()).hand_length
        self.shape = ShapeEstimate(models.right, length)
        self._regressed_shape = RegressedShape(models.right, length) if regressed_shape else None
        self._models = models
        self._arrays = {False: side_arrays(models, landmark_shift), True: side_arrays(models, np.zeros((21, 3)))}
        self._skeletons: dict[tuple[tuple[Side, bool], ...], Skeleton] = {}
        self._rigid_tips = has_rigid_tips(models.right)
        self._last: dict[Side, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def betas(self) -> Float[np.ndarray, "10"]:
        """The shape of both hands as known so far."""
        return self.shape.betas

    def update(self, config: FitConfig, placement: PlacementConfig) -> None:
        """Take over changed settings; the next frame uses them."""
        self.config = config
        self.shape.set_length(placement.hand_length)
        if self._regressed_shape is not None:
            self._regressed_shape.set_length(placement.hand_length)

    def reset(self) -> None:
        """Forget the last frame and the shape: another stream or another person begins."""
        self._last.clear()
        self.shape.reset()
        if self._regressed_shape is not None:
            self._regressed_shape.reset()

    def __call__(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Pair[HandPose | None]:
        """Fit both hands of one frame.

        None where no keypoints were given, or where they describe no hand: not finite, all in one
        place, or farther from the best fit than ``FitConfig.max_error``. A side that is None starts
        afresh in the next frame.
        """
        usable = {side: hand for side, hand in hands.items() if hand is not None and _is_usable(hand)}
        poses = self._fit(usable, camera) if usable else {}
        for side in set(self._last) - set(poses):
            del self._last[side]
        return Pair(poses.get(Side.LEFT), poses.get(Side.RIGHT))

    def _fit(self, hands: dict[Side, HandKeypoints], camera: CameraModel) -> dict[Side, HandPose]:
        skeleton = self._skeleton(hands)
        # A network that took the hand for the other one says nothing of its pose; its joints hold all the same.
        regressed = [
            hand.regressed if hand.regressed is not None and hand.regressed.side is side else None
            for side, hand in hands.items()
        ]
        betas, told = self._betas([hand.betas for hand in regressed if hand is not None])
        measured = Measured.of(list(hands.values()), camera)
        metric = told and self._regressed_shape is not None and self._regressed_shape.as_said
        metric = metric and all(hand.at_joints for hand in hands.values())
        problem = HandProblem(skeleton, betas, measured, metric=metric)
        solved = self._solve(problem, measured, list(hands), skeleton, regressed)

        good = np.isfinite(solved.cost) & (solved.error <= self.config.max_error)
        if self._regressed_shape is not None:
            said = [hand.betas for hand, fits in zip(regressed, good, strict=True) if hand is not None and fits]
            self._regressed_shape.add(said)
        if not (told or self.shape.frozen):
            self.shape.add(*problem.shape_information(solved), good)
        roots = measured.R_camera_view @ solved.state.root
        rotations = skeleton.local_rotations(solved.posed, solved.state.root)
        poses = {}
        for i, (side, hand) in enumerate(hands.items()):
            if not good[i]:
                continue
            self._last[side] = roots[i], solved.state.angles[i]
            trust = 1 - solved.error[i] / max(self.config.max_error, 1e-6)
            to_camera = measured.R_camera_view[i].T
            joints = solved.posed.points[i] @ to_camera
            if not self._rigid_tips:
                joints = self._model_joints(side, betas, roots[i], rotations[i])
            poses[side] = HandPose(
                side=side,
                global_orient=roots[i],
                hand_pose=rotations[i],
                betas=betas,
                joints=joints,
                keypoints_px=np.asarray(hand.keypoints_px, np.float64),
                keypoint_confidence=measured.weights[i],
                confidence=float(np.clip(hand.presence * trust, 0.0, 1.0)),
                landmarks=joints + (solved.posed.landmarks[i] - solved.posed.points[i]) @ to_camera,
            )
        return poses

    def _skeleton(self, hands: dict[Side, HandKeypoints]) -> Skeleton:
        key = tuple((side, hand.at_joints) for side, hand in hands.items())
        if key not in self._skeletons:
            self._skeletons[key] = Skeleton([self._arrays[at_joints][side] for side, at_joints in key])
        return self._skeletons[key]

    def _betas(self, said: list[Float[np.ndarray, "10"]]) -> tuple[Float[np.ndarray, "10"], bool]:
        """The shape of a frame's hands, of which a network has said this, and whether it is a network's.

        A person whose shape a network has told keeps it in frames without its word: bones keep their length.
        """
        if self._regressed_shape is None or not (said or self._regressed_shape.is_known):
            return self.shape.betas, False
        return self._regressed_shape.of(said), True

    def _solve(
        self,
        problem: HandProblem,
        measured: Measured,
        sides: list[Side],
        skeleton: Skeleton,
        regressed: list[RegressedHand | None],
    ) -> Linearised:
        """Start hands from what a network says, follow the known ones, start the new and the lost from the points."""
        to_view = np.swapaxes(measured.R_camera_view, 1, 2)
        known, start = np.zeros(len(sides), bool), None
        told = np.array([hand is not None for hand in regressed])
        if told.any():
            nothing = (np.eye(3), np.tile(np.eye(3), (15, 1, 1)))
            said = [nothing if hand is None else (hand.global_orient, hand.hand_pose) for hand in regressed]
            angles = skeleton.angles_from_rotations(np.stack([pose for _, pose in said]))
            problem.expect(angles, told)
            start = problem.linearise(problem.located(to_view @ np.stack([root for root, _ in said]), angles))
            known = told & (start.error < _JUMP_ERROR)
            problem.expect(angles, known)
        followed = ~told & np.array([side in self._last for side in sides])
        if followed.any():
            last = [self._last.get(side, (np.eye(3), np.zeros((5, 3, 3)))) for side in sides]
            angles = np.stack([angle for _, angle in last])
            problem.follow(angles, followed)
            again = problem.linearise(problem.located(to_view @ np.stack([root for root, _ in last]), angles))
            followed = followed & (again.error < _JUMP_ERROR)
            problem.follow(angles, followed)
            start = again if start is None else start.replaced(followed, again)
            known = known | followed
        if start is None or not known.all():
            guess = problem.linearise(problem.first_guess())
            start = guess if start is None else guess.replaced(known, start)
        steps = self.config.iterations * (1 if known.all() else _NEW_HAND)
        solved = problem.solve(start, steps)
        turned = angle_between(solved.state.root, problem.palm_turn)
        lost = known & ~((solved.error < _LOST_ERROR) & (turned < _LOST_TURN))
        if lost.any():
            nowhere = np.zeros((len(sides), 5, 3, 3)), np.zeros(len(sides), bool)
            problem.follow(*nowhere)
            problem.expect(*nowhere)
            anew = problem.solve(problem.linearise(problem.first_guess()), self.config.iterations * _NEW_HAND)
            unfollowed = problem.linearise(solved.state)
            solved = solved.replaced(lost & (anew.cost < unfollowed.cost), anew)
        return solved

    def _model_joints(self, side: Side, betas: np.ndarray, root: np.ndarray, rotations: np.ndarray) -> np.ndarray:
        """Joints relative to the wrist by the hand model itself, whose tips are skinned and pose-corrected."""
        model = self._models[side]
        turns = torch.as_tensor(np.concatenate([root[None], rotations])[None]).to(model.template)
        joints = model.joints(torch.as_tensor(betas[None]).to(turns), turns, turns.new_zeros(1, 3))
        points = joints[0].double().cpu().numpy()
        return points - points[0]


def _is_usable(hand: HandKeypoints) -> bool:
    """Whether the keypoints have the right form, are finite and span something."""
    arrays = [hand.keypoints_px, hand.keypoints_3d, hand.confidence, np.asarray(hand.crop_centre_px)]
    if [np.shape(a) for a in arrays] != [(21, 2), (21, 3), (21,), (2,)]:
        return False
    if hand.regressed is not None:
        arrays += [hand.regressed.global_orient, hand.regressed.hand_pose, hand.regressed.betas]
    if not all(np.isfinite(a).all() for a in arrays) or np.count_nonzero(np.asarray(hand.confidence) > 0) < 8:
        return False
    singular = np.linalg.svd(hand.keypoints_3d - hand.keypoints_3d.mean(0), compute_uv=False)
    return bool(np.ptp(hand.keypoints_px, axis=0).max() > _MIN_EXTENT_PX and singular[1] > _MIN_EXTENT_3D)
