"""The pipeline's stage for two hands: do they touch, do they penetrate, and if so the repair, steady over time.

    boxes (padded) overlap?  -> meshes' patches near?  -> vertices inside the other hand -> PairRepair -> its change,
    faded and filtered -> both hands placed as one body where the image shows them -> measured again

A repair looks at one frame, and what it changes jumps when a vertex more is inside. So its change is kept apart
from the hands (``Correction``) and reaches them through a low pass; they keep their own motion, without lag. It fades
with the depth, down to nothing at half of ``min_depth``, so that a contact that comes and goes moves no hand at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.camera import CameraModel
from a2p_ros.config import InteractionConfig
from a2p_ros.errors import A2PError, InputError
from a2p_ros.hand.model import HandModel
from a2p_ros.hand_frames import DEPTH_RANGE, placed_hand
from a2p_ros.interaction.collision import InsideVertices, contact_possible, inside_vertices
from a2p_ros.interaction.correction import Correction, pairs_of
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.repair import PairRepair
from a2p_ros.torch_threads import single_thread
from a2p_ros.types import Box, HandPose, Pair, PlacedHand, Side

#: A mesh reaches at most this far beyond the box of its joints [m]: 34 mm in 400 poses, the stump of the forearm.
FLESH = 0.04
#: Hands whose patches' boxes come this near [m] are said to interact.
TOUCH = 0.003
#: The repair fades out between ``min_depth`` and this share of it.
RELEASE = 0.5
#: Once on, the repair stays on until the depth has been below the release for so long [s].
HOLD = 0.3
#: Time constants [s] of the low pass that a correction goes through, and of its end and its weakening.
FADE, FADE_OUT = 0.02, 0.15
#: A correction changes no faster than this [m/s], and this share of the hands' own motion.
SPEED, SPEED_SHARE = 0.05, 0.3
#: A longer pause between frames than this [s] starts anew, as the smoothing does.
MAX_GAP = 0.5
#: A correction that moves no joint by more than this [m] is dropped.
_NOTHING = 1e-4
#: No joint of a hand is farther from its wrist [m].
_LONGEST = 0.5
#: No shape parameter is larger; they are standard deviations.
_STRANGEST = 30.0


_NONE = Correction.none()


@dataclass(frozen=True)
class Interaction:
    """What the stage says of one frame.

    ``penetration_*`` [m] is the deepest vertex of one hand inside the other as the hands came and as they leave; NaN
    where it could not be measured. ``rejected`` says why a repair was not taken.
    """

    hands: Pair[PlacedHand | None]
    interacting: bool = False
    repaired: bool = False
    penetration_before: float = 0.0
    penetration_after: float = 0.0
    rejected: str = ""


@dataclass(frozen=True)
class _Contact:
    """What the meshes of a pair do to each other; ``found`` is None where no vertex is inside."""

    touching: bool = False
    depth: float = 0.0
    found: Pair[InsideVertices] | None = None


class InteractionStage:
    """Parts hands that penetrate; everything else passes through untouched. Nothing a frame holds makes it raise.

    Args:
        models: hand models, on the CPU.
        config: ``enabled``, ``min_depth`` and ``max_move`` may change between frames.
        device: of torch, for the repair and the meshes.
        repair: parts a pair; None = what the configuration says.

    Raises:
        WeightsError: the denoiser's weights asked for are missing, damaged or for another hand model.
    """

    def __init__(
        self,
        models: Pair[HandModel],
        config: InteractionConfig,
        device: torch.device | str = "cpu",
        repair: PairRepair | None = None,
    ) -> None:
        self.config, self._models = config, models
        self.repair = repair or PairRepair(models, config, device)
        self.reset()

    @property
    def model_id(self) -> str:
        """Names the repair in ``TwoHands.model_id``; empty while it is disabled."""
        return self.repair.model_id if self.config.enabled else ""

    @property
    def report(self) -> str:
        """The repair and its device, or why there is none."""
        if not self.config.enabled:
            return "disabled"
        weights = "" if self.repair.trained else f", no weights for {self._models.left.name}: guidance alone"
        return f"{self.repair.model_id} on {self.repair.device}{weights}"

    def update(self, config: InteractionConfig) -> None:
        """Take over changed settings; the next frame uses them."""
        self.config = config

    def reset(self) -> None:
        """Forget the stream."""
        self._stamp = -math.inf
        self._forget()

    def __call__(self, hands: Pair[PlacedHand | None], camera: CameraModel, stamp: float) -> Interaction:
        """One frame's hands, parted where they penetrate.

        Args:
            hands: placed hands, None where there is none.
            camera: camera of the frame.
            stamp: time of the frame [s]; one that does not rise, or by more than ``MAX_GAP``, starts anew.
        """
        dt, self._stamp = stamp - self._stamp, stamp
        if not 0 < dt <= MAX_GAP:
            dt = 0.0
            self._forget()
        if hands.left is None or hands.right is None:
            self._forget()
            return Interaction(hands)
        pair = Pair(hands.left, hands.right)
        if wrong := _implausible(pair):
            self._forget()
            return Interaction(hands, penetration_before=math.nan, penetration_after=math.nan, rejected=wrong)
        if self._correction is None and not boxes_near(pair, camera):
            self._step(pair)
            return Interaction(hands)
        try:
            with torch.no_grad(), single_thread():
                return self._interact(pair, camera, dt)
        except (A2PError, RuntimeError, np.linalg.LinAlgError) as error:
            self._forget()
            return Interaction(hands, penetration_before=math.nan, penetration_after=math.nan, rejected=_text(error))

    def _forget(self) -> None:
        self._correction: Correction | None = None
        self._on, self._below, self._strength = False, 0.0, 0.0
        #: Joints of the pair in the last frame, if it was there: then nothing may jump.
        self._joints: Float[np.ndarray, "2 21 3"] | None = None

    def _interact(self, hands: Pair[PlacedHand], camera: CameraModel, dt: float) -> Interaction:
        came = self._contact(hands)
        step = self._step(hands)
        self._switch(came.depth, dt)
        target, rejected = _NONE, ""
        if self._on and came.found is not None:
            try:
                target = self._repaired(hands, camera, came.found).scaled(self._strength)
            except (A2PError, RuntimeError) as error:
                rejected = _text(error)
        for wanted in (_NONE,) if rejected else (target, _NONE):
            correction = self._towards(wanted, step, dt)
            try:
                moved = self._moved(correction, hands, camera)
            except InputError as error:
                rejected = rejected or str(error)
                continue
            contact = came if moved is hands else self._contact(moved)
            if wanted is not _NONE and contact.depth >= came.depth and contact.depth > self.config.min_depth:
                depths = f"{1e3 * came.depth:.1f} mm before, {1e3 * contact.depth:.1f} mm after"
                rejected = f"the repair does not reduce the penetration: {depths}"
                continue
            self._correction = None if moved is hands else correction
            return Interaction(
                Pair(moved.left, moved.right), came.touching, moved is not hands, came.depth, contact.depth, rejected
            )
        self._correction = None
        return Interaction(Pair(hands.left, hands.right), came.touching, False, came.depth, came.depth, rejected)

    def _step(self, hands: Pair[PlacedHand]) -> float:
        """How far the farthest joint moved since the last frame [m]; infinite where the pair was not there."""
        joints = np.stack([hands.left.joints, hands.right.joints])
        last, self._joints = self._joints, joints
        return math.inf if last is None else float(np.linalg.norm(joints - last, axis=-1).max())

    def _towards(self, wanted: Correction, step: float, dt: float) -> Correction:
        """The correction of this frame, on the way from the last one's to what is wanted."""
        if math.isinf(step):
            return wanted
        before = self._correction or _NONE
        fade = FADE_OUT if wanted is _NONE else FADE
        limit = (SPEED * dt + SPEED_SHARE * step) / max(before.distance(wanted), 1e-9)
        return before.towards(wanted, min(1 - math.exp(-dt / fade), limit))

    def _switch(self, depth: float, dt: float) -> None:
        """Hysteresis: on above ``min_depth``, off after ``HOLD`` below the release depth, and weaker in between."""
        low, high = RELEASE * self.config.min_depth, self.config.min_depth
        self._below = 0.0 if depth > low else self._below + dt
        if not self.config.enabled or self._below > HOLD:
            self._on = False
        elif depth > high:
            self._on = True
        now = min(max(depth - low, 0.0) / max(high - low, 1e-9), 1.0) if self._on else 0.0
        self._strength = max(now, self._strength * math.exp(-dt / FADE_OUT))

    def _repaired(self, hands: Pair[PlacedHand], camera: CameraModel, found: Pair[InsideVertices]) -> Correction:
        pairs = pairs_of(hands, self._models, in_camera=True).to(self.repair.device)
        repaired = self.repair(pairs, found, ImageEvidence.of_hands(hands, camera))
        joints, after = (p.joints(self.repair.models) for p in (pairs, repaired))
        farthest = max(float((after[s] - joints[s]).norm(dim=-1).max()) for s in Side)
        if not math.isfinite(farthest):
            raise InputError(f"the repair by {self.repair.model_id} is not finite")
        if farthest > self.config.max_move:
            limit = f"at most {1e3 * self.config.max_move:.0f} mm are taken (interaction.max_move)"
            raise InputError(f"the repair would move a joint by {1e3 * farthest:.0f} mm, {limit}")
        return Correction.between(pairs, repaired, self.repair.models)

    def _moved(self, correction: Correction, hands: Pair[PlacedHand], camera: CameraModel) -> Pair[PlacedHand]:
        """The corrected hands; ``hands`` itself where that is next to nothing.

        Raises InputError where the camera could not see them so.
        """
        poses, apart = correction.applied(hands, self._models)
        moved = self._placed(poses, apart, hands, camera)
        farthest = max(float(np.abs(moved[s].joints - hands[s].joints).max()) for s in Side)
        return hands if farthest < _NOTHING else moved

    def _placed(
        self, poses: Pair[HandPose], apart: Float[np.ndarray, "3"], hands: Pair[PlacedHand], camera: CameraModel
    ) -> Pair[PlacedHand]:
        """Both hands moved as one body, so that the mean of their keypoints stays where it was.

        Least squares on the rays would follow the image by 3 % of its error more closely, and turn every millimetre
        that the hands part into more than one of depth: a wider pair of the same size in the image is farther away.
        """
        old, new, weights = (
            np.concatenate(list(parts))
            for parts in (
                (hand.wrist + _landmarks(hand.pose) for _, hand in hands.items()),
                (_landmarks(poses.left) + apart, _landmarks(poses.right)),
                (pose.keypoint_confidence for _, pose in poses.items()),
            )
        )
        weights = np.maximum(weights, 1e-6)[:, None]
        right = (weights * (old - new)).sum(0) / weights.sum()
        placed = []
        for (side, pose), wrist in zip(poses.items(), (right + apart, right), strict=True):
            hand = placed_hand(pose, wrist, camera, self._models[side])
            if hand is None:
                raise InputError(f"the repaired {side.value} hand would be where the camera cannot see it")
            placed.append(dataclasses.replace(hand, status=hands[side].status))
        return Pair(*placed)

    def _contact(self, hands: Pair[PlacedHand]) -> _Contact:
        both = pairs_of(hands, self._models).to(self.repair.device).forward(self.repair.models)
        meshes = self.repair.meshes
        vertices = Pair(meshes.left.close(both.left.vertices), meshes.right.close(both.right.vertices))
        if not (torch.isfinite(vertices.left).all() and torch.isfinite(vertices.right).all()):
            raise InputError("the hands' surfaces are not finite")
        found = inside_vertices(meshes, vertices)
        if len(found.left.batch) + len(found.right.batch) == 0:
            return _Contact(bool(contact_possible(meshes, vertices, TOUCH)[0]))
        return _Contact(True, _deepest(vertices, found), found)


def boxes_near(hands: Pair[PlacedHand], camera: CameraModel) -> bool:
    """Whether the hands' boxes in the image, padded by what flesh there is around the joints, overlap."""
    left, right = (_padded(hand, camera) for _, hand in hands.items())
    return left.iou(right) > 0


def _padded(hand: PlacedHand, camera: CameraModel) -> Box:
    margin = FLESH * max(camera.fx, camera.fy) / max(float(hand.joints[:, 2].min()), DEPTH_RANGE[0])
    x0, y0, x1, y1 = hand.box
    return Box(x0 - margin, y0 - margin, x1 + margin, y1 + margin)


def _implausible(hands: Pair[PlacedHand]) -> str:
    """What is wrong with a hand that no collision should be looked for in; empty for hands that may be."""
    for side, hand in hands.items():
        rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])
        numbers = (rotations, hand.pose.betas, hand.joints, hand.transl, hand.box, _landmarks(hand.pose))
        if not all(np.isfinite(x).all() for x in numbers):
            return f"the {side.value} hand is not finite"
        if np.abs(hand.pose.joints).max() > _LONGEST or np.abs(hand.pose.betas).max() > _STRANGEST:
            return f"the {side.value} hand is not of human size"
        if np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max() > 0.01:
            return f"the {side.value} hand has rotations that are none"
    return ""


def _landmarks(pose: HandPose) -> Float[np.ndarray, "21 3"]:
    return pose.joints if pose.landmarks is None else pose.landmarks


def _deepest(vertices: Pair[Tensor], found: Pair[InsideVertices]) -> float:
    """Distance [m] from the deepest vertex inside the other hand to the nearest surface."""
    depths = [0.0]
    for side, hits in found.items():
        if len(hits.batch):
            gap = vertices[side][hits.batch, hits.vertex] - hits.surface.on(vertices[side.other])
            depths.append(float(gap.norm(dim=-1).max()))
    return max(depths)


def _text(error: Exception) -> str:
    """One line, for a log."""
    return f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, InputError) else str(error)
