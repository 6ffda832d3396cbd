"""The network as a stage of the pipeline: regions of an image -> joints, pose and side of the hands in them.

Each region is looked at in a crop, mirrored for a left hand, all of them in one batch. Of a region whose side or turn
is unclear, every possibility is a row of that batch and the best one is taken. A hand that lies in its crop otherwise
than it should, or that turns out to be the other one, gets a second look. A region's ``right`` is what is known of its
side before: with 0 or 1 it is not doubted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.camera import CameraModel, rotation_along
from a2p_ros.config import LandmarkConfig, NetworkStageConfig
from a2p_ros.cropping import Crop
from a2p_ros.errors import DeviceError, InputError
from a2p_ros.network.geometry import from_edges, to_camera, union_view
from a2p_ros.regions import inside, is_seen, is_settled, region_of, square_of, touches
from a2p_ros.rotations import nearest_rotation
from a2p_ros.torch_threads import single_thread
from a2p_ros.translation import Apart, solve_translation
from a2p_ros.types import Detection, HandKeypoints, Image, Pair, RegressedHand

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel
    from a2p_ros.network.engine import Engine

log = logging.getLogger(__name__)

#: Turns tried on a box of unknown rotation [rad].
TURNS = (0.0, math.pi / 2, -math.pi / 2, math.pi)
#: Below this probability of either side both are tried.
SIDE_TOLD = 0.75
#: A look must reach this presence to earn a second one.
FIRST_LOOK = 0.3
#: A crop of which no channel spans as many values shows nothing, whatever a network says of it.
LEAST_CONTRAST = 12
#: No joint is lifted to a place nearer to the camera than this [m].
_NEAREST = 0.02


@dataclass(frozen=True)
class _Look:
    """What was seen of a region in one crop; ``as_assumed`` is the probability that the side was guessed rightly."""

    region: Detection
    crop: Crop
    hand: HandKeypoints
    as_assumed: float

    def against(self, other: float) -> _Look:
        """The same, where the crop mirrored the other way was taken for the assumed side with this probability."""
        for_it, against_it = self.as_assumed * (1 - other), (1 - self.as_assumed) * other
        as_assumed = for_it / max(for_it + against_it, 1e-6)
        right = 1 - as_assumed if self.crop.mirrored else as_assumed
        return replace(self, as_assumed=as_assumed, hand=replace(self.hand, right=right))

    @property
    def chance(self) -> float:
        """That the assumed side is right, by what was known of the region and what is seen of it, together."""
        known = 1 - self.region.right if self.crop.mirrored else self.region.right
        for_it, against_it = known * self.as_assumed, (1 - known) * (1 - self.as_assumed)
        return for_it / (for_it + against_it) if for_it + against_it > 0 else known

    @property
    def quality(self) -> float:
        """How likely this is a hand, of the side that was assumed, whose joints are where they seem to be."""
        return self.hand.presence * self.chance * float(np.clip(self.hand.confidence.mean(), 0.05, 1.0))


class NetworkStage:
    """Measures the hands in given regions with a network.

    ``min_presence``, ``min_confidence``, ``min_size`` and ``apart_sigma`` may be changed between calls. Nothing that an
    image holds makes it raise: a region whose crop shows nothing, or for which the network answers with what is no
    number, has no hand.

    Args:
        engine: runs the network.
        config: thresholds and trust.
        limits: ``min_size``, which holds for all who look at hands.
        models: hand models that the network was trained for.
    """

    def __init__(
        self, engine: Engine, config: NetworkStageConfig, limits: LandmarkConfig, models: Pair[HandModel]
    ) -> None:
        self._engine, self._models = engine, models
        self.name, self.device = engine.name, engine.device
        self.min_presence, self.min_confidence = config.min_presence, config.min_confidence
        self.apart_sigma = config.apart_sigma
        self.min_size = limits.min_size

    def __call__(self, image: Image, regions: Sequence[Detection], camera: CameraModel) -> list[HandKeypoints | None]:
        """One entry a region, in their order: its hand in an RGB image, or None.

        None where presence, the joints' mean confidence or the size is below its threshold, or the hand is mostly
        outside the image.
        """
        wanted = [
            (row, turned, right)
            for row, region in enumerate(regions)
            if touches(region, image)
            for turned in _turned(region)
            for right in _sides(region)
        ]
        best: dict[int, _Look] = {}
        told: dict[tuple[int, bool], float] = {}
        for row, look in self._looks(image, wanted, camera):
            side = row, look.crop.mirrored
            told[side] = max(look.as_assumed, told.get(side, 0.0))
            if row not in best or look.quality > best[row].quality:
                best[row] = look
        again = [(row, *self._next(look)) for row, look in best.items() if _is_worth_another(look)]
        for row, look in self._looks(image, again, camera):
            # A better crop gives better points at no higher presence; a guess of the side must prove to be better.
            same_side = look.crop.mirrored is best[row].crop.mirrored
            if look.quality > best[row].quality or (same_side and look.hand.presence >= self.min_presence):
                best[row] = look
        for row, look in best.items():
            if (against := told.get((row, not look.crop.mirrored))) is not None:
                best[row] = look.against(against)
        return [self._answer(best.get(row), region, image, camera) for row, region in enumerate(regions)]

    def accepts(self, hand: HandKeypoints) -> bool:
        """Whether its presence and its joints' mean confidence reach their thresholds."""
        return hand.presence >= self.min_presence and is_trusted(hand, self.min_confidence)

    def apart(self, hands: Pair[HandKeypoints | None], camera: CameraModel) -> Apart | None:
        """Left wrist minus right wrist, camera axes, as a soft constraint; None unless the network measured both."""
        if any(hand is None or hand.regressed is None for _, hand in hands.items()):
            return None
        assert hands.left is not None and hands.right is not None
        try:
            view = union_view(hands.left.keypoints_px, hands.right.keypoints_px, camera)
        except InputError:
            return None
        points = np.stack([view.keypoints(hand.keypoints_px) for hand in (hands.left, hands.right)])
        depth = np.stack([hand.keypoints_3d[:, 2] - hand.keypoints_3d[0, 2] for hand in (hands.left, hands.right)])
        try:
            relative = self._engine.relative(points, depth, view.width)
        except (InputError, DeviceError) as error:
            log.warning("no relative translation: %s", error)
            return None
        return Apart(view.to_camera(relative), self.apart_sigma)

    def _looks(
        self, image: Image, wanted: Iterable[tuple[int, Detection, bool]], camera: CameraModel
    ) -> list[tuple[int, _Look]]:
        """Run the network once on the crops of (row, region of known turn, right hand assumed)."""
        rows, crops, pixels = [], [], []
        for row, region, right in wanted:
            x, y, size = square_of(region)
            assert region.rotation is not None
            crop = Crop((x, y), size, region.rotation, self._engine.resolution, mirrored=not right)
            seen = crop.extract_averaged(image)
            if int(np.ptp(seen, axis=(0, 1)).max()) >= LEAST_CONTRAST:
                rows.append((row, region))
                crops.append(crop)
                pixels.append(seen)
        if not crops:
            return []
        out = self._engine(np.stack(pixels))
        found = []
        for i, ((row, region), crop) in enumerate(zip(rows, crops, strict=True)):
            numbers = (out.keypoints[i], out.depth[i], out.rotations[i], out.betas[i], out.joint_confidence[i])
            chances = float(out.presence[i]), float(out.as_assumed[i])
            if not all(np.isfinite(n).all() for n in (*numbers, chances)):
                continue
            keypoints_px = crop.to_image(from_edges(out.keypoints[i], crop.resolution))
            if np.ptp(keypoints_px, axis=0).max() < 1.0:
                continue
            try:
                # What half precision made of rotations is a little off being some.
                rotations = nearest_rotation(np.asarray(out.rotations[i], np.float64))
                regressed = to_camera(rotations, out.betas[i], crop, camera)
            except InputError:
                continue
            hand = HandKeypoints(
                detection=region,
                keypoints_px=keypoints_px,
                keypoints_3d=np.column_stack([np.zeros((21, 2)), np.asarray(out.depth[i], np.float64)]),
                confidence=np.asarray(out.joint_confidence[i], np.float64) * inside(keypoints_px, image),
                presence=chances[0],
                right=1 - chances[1] if crop.mirrored else chances[1],
                crop_centre_px=crop.centre,
                regressed=regressed,
                at_joints=True,
            )
            found.append((row, _Look(region, crop, hand, chances[1])))
        return found

    @staticmethod
    def _next(look: _Look) -> tuple[Detection, bool]:
        """Region and side of a second look: where the hand's own points ask for it, of the likelier side."""
        assumed_right = not look.crop.mirrored
        known = look.region.right
        region = look.region if is_settled(look.region, look.hand) else region_of(look.hand, right=known)
        return region, assumed_right if look.chance >= 0.5 else not assumed_right

    def _answer(self, look: _Look | None, region: Detection, image: Image, camera: CameraModel) -> HandKeypoints | None:
        if look is None or not self.accepts(look.hand) or not is_seen(look.hand, image, self.min_size):
            return None
        try:
            points = self._lifted(look.hand, camera)
        except InputError:
            return None
        return replace(look.hand, detection=region, keypoints_3d=points)

    def _lifted(self, hand: HandKeypoints, camera: CameraModel) -> Float[np.ndarray, "21 3"]:
        """The 2.5D joints as points [m] in the axes of a camera along the crop's ray.

        The network gives depth from the wrist; the wrist's own follows from the size of the regressed hand.
        """
        regressed = hand.regressed
        assert regressed is not None
        rays = camera.rays(np.concatenate([[hand.crop_centre_px], hand.keypoints_px]))
        weights = np.maximum(hand.confidence, 0.05)
        wrist = solve_translation(regressed_joints(regressed, self._models), rays[1:], weights)
        directions = np.column_stack([rays, np.ones(22)])
        seen = directions[1:] @ rotation_along(directions[0])
        xy = seen[:, :2] / np.maximum(seen[:, 2:], 1e-3)
        z = float(rotation_along(directions[0])[:, 2] @ wrist) + hand.keypoints_3d[:, 2]
        z = np.maximum(z, _NEAREST)[:, None]
        return np.concatenate([xy * z, z], axis=1)


def is_trusted(hand: HandKeypoints, least: float) -> bool:
    """Whether the joints' mean confidence reaches ``least``, or half of it where the side was known before the look.

    That is a hand that is followed: it is not lost as easily as a thing is taken for a new one.
    """
    known = abs(2 * hand.detection.right - 1)
    return float(np.mean(hand.confidence)) >= least * (1 - known / 2)


def regressed_joints(
    hand: RegressedHand, models: Pair[HandModel], betas: Float[np.ndarray, "10"] | None = None
) -> Float[np.ndarray, "21 3"]:
    """Joints of a regressed hand from its wrist, camera axes [m]; ``betas`` in place of its own where given."""
    model = models[hand.side]
    turns = np.concatenate([hand.global_orient[None], hand.hand_pose])
    shape = hand.betas if betas is None else betas
    with torch.inference_mode(), single_thread():
        inputs = (torch.as_tensor(x[None]).to(model.template) for x in (shape, turns, np.zeros(3)))
        joints = model.joints(*inputs)[0].double().cpu().numpy()
    return joints - joints[0]


def _turned(region: Detection) -> list[Detection]:
    return [region] if region.rotation is not None else [replace(region, rotation=turn) for turn in TURNS]


def _sides(region: Detection) -> tuple[bool, ...]:
    """Whether a right hand is assumed: both, where the region does not clearly say."""
    if 1 - SIDE_TOLD < region.right < SIDE_TOLD:
        return True, False
    return (region.right >= SIDE_TOLD,)


def _is_worth_another(look: _Look) -> bool:
    if look.hand.presence < FIRST_LOOK:
        return False
    return look.chance < 0.5 or not is_settled(look.region, look.hand)
