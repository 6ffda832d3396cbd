"""Penetrating conditions of clean pairs, in the paper's two ways: noise, and outputs of a weaker regressor.

    noise   turns of every joint and both wrists, a change of shape, a move of the left hand, scaled to an error
            and drawn again until the hands penetrate
    fit     the keypoint fit (``fitting.keypoint_fit``) on noisy keypoints of the pair before a camera, those that
            the other hand hides noisier; the stand-in for a network's output until there is one

Everything here is synthetic: keypoints are drawn around the true joints, no image is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2p_ros.camera import CameraModel, rotation_to_ray
from a2p_ros.config import Checked, FitConfig, setting
from a2p_ros.errors import ConfigError, InputError
from a2p_ros.fitting.keypoint_fit import KeypointFit
from a2p_ros.hand.model import HandModel
from a2p_ros.hand_frames import placed_hand
from a2p_ros.interaction.collision import penetration_depths
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import wrists
from a2p_ros.placement import place
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Box, Detection, HandKeypoints, HandPose, Pair, PlacedHand, Side

#: A condition penetrates by this much at least [m].
MIN_DEPTH = 0.001


@dataclass(frozen=True)
class Conditions:
    """Clean pairs and what stands for them, one by one, in the camera frame; ``rows`` of the pairs they were made of.

    ``observed_px`` and ``weights`` are the noisy 2D joints that a regressor had to go by, ``true_px`` the true ones,
    left and right hand, (B, 21, 2) [px] and (B, 21).
    """

    truth: HandPairs
    condition: HandPairs
    rows: Tensor
    camera: CameraModel
    true_px: Pair[Tensor]
    observed_px: Pair[Tensor]
    weights: Pair[Tensor]

    def __len__(self) -> int:
        return len(self.truth)

    def evidence(self) -> ImageEvidence:
        """What a repair may know of the image."""
        return ImageEvidence.of_pixels(self.camera, self.observed_px, self.weights)

    def __getitem__(self, chosen: Tensor) -> Conditions:
        def part(pair: Pair[Tensor]) -> Pair[Tensor]:
            return Pair(pair.left[chosen], pair.right[chosen])

        observed = part(self.true_px), part(self.observed_px), part(self.weights)
        return Conditions(self.truth[chosen], self.condition[chosen], self.rows[chosen], self.camera, *observed)


@dataclass(frozen=True)
class ViewConfig(Checked):
    """Where pairs are before the camera, and how well their keypoints are seen. All of it is our choice.

    Lengths in the image are shares of the hand's box. For comparison, MediaPipe's landmarks on 960 rendered hands that
    do not overlap: pixels off by 0.016, 3D points by 0.0046 m across the view and 0.013 m along it, sizes by 0.065.
    """

    near: float = setting(
        0.4, "Nearest distance of the pair [m]; farther where the picture would not hold all of it.", low=0.1, high=5.0
    )
    far: float = setting(0.8, "Farthest distance of the pair [m].", low=0.1, high=5.0)
    pixel_noise: float = setting(
        0.012, "Standard deviation of a visible keypoint, share of the box.", low=0.0, high=1.0
    )
    hidden_noise: float = setting(0.05, "The same behind the other hand.", low=0.0, high=1.0)
    hidden_confidence: float = setting(0.4, "Confidence of a hidden keypoint.", low=0.0, high=1.0)
    noise_3d: float = setting(0.004, "Standard deviation of a 3D keypoint across the view [m].", low=0.0, high=0.1)
    noise_z: float = setting(0.008, "The same along the view [m].", low=0.0, high=0.1)
    hidden_factor: float = setting(2.0, "Noise of hidden 3D keypoints over that of visible ones.", low=1.0, high=10.0)
    scale: float = setting(0.08, "Standard deviation of the 3D keypoints' size.", low=0.0, high=0.5)


def noise_conditions(
    generator: InteractionGenerator,
    pairs: HandPairs,
    rng: torch.Generator,
    mpjpe: float = 0.006,
    config: ViewConfig | None = None,
) -> Conditions:
    """Noise on clean pairs, scaled to ``mpjpe`` [m], until they penetrate; those that never do are left out."""
    disturbed, good = generator.disturb(pairs, rng, mpjpe, min_depth=MIN_DEPTH, tries=4)
    rows = good.nonzero()[:, 0]
    view = _View.drawn(generator.models, pairs[rows], rng, config or ViewConfig())
    return view.conditions(view.placed(disturbed[rows], pairs[rows]), rows)


def fit_conditions(
    generator: InteractionGenerator, pairs: HandPairs, rng: torch.Generator, config: ViewConfig | None = None
) -> Conditions:
    """The keypoint fit's reconstructions of clean pairs; those are left out that do not penetrate, or that it rejects.

    Two frames are fitted, the second from the first, as in a video: the same pixels, 3D points with noise of their own.
    """
    config = config or ViewConfig()
    view = _View.drawn(generator.models, pairs, rng, config)
    noise = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
    fit = KeypointFit(generator.models, FitConfig(), landmark_shift=np.zeros((21, 3)))
    rows, found = [], []
    for i in range(len(pairs)):
        fit.reset()
        for _ in range(2):
            keypoints = view.keypoints(i, noise)
            placed = place(fit(keypoints, view.camera), view.camera, generator.models)
        if placed.left is not None and placed.right is not None:
            rows.append(i)
            found.append(as_pairs(placed.left, placed.right, pairs.kinds[i]))
    if not found:
        none = torch.zeros(0, dtype=torch.long)
        return view[none].conditions(pairs[none], none)
    condition, kept = HandPairs.joined(found), torch.tensor(rows)
    with torch.no_grad():
        depths = penetration_depths(generator.meshes, generator.vertices(condition))
    good = torch.maximum(depths.left.amax(1), depths.right.amax(1)) >= MIN_DEPTH
    return view[kept[good]].conditions(condition[good], kept[good])


def clean_conditions(
    models: Pair[HandModel], pairs: HandPairs, rng: torch.Generator, config: ViewConfig | None = None
) -> Conditions:
    """Clean pairs themselves, at random places before the camera and seen as the others are."""
    view = _View.drawn(models, pairs, rng, config or ViewConfig())
    return view.conditions(view.truth, torch.arange(len(pairs)))


@dataclass(frozen=True)
class _View:
    """Pairs put before a camera, and what it shows of them."""

    config: ViewConfig
    models: Pair[HandModel]
    camera: CameraModel
    truth: HandPairs
    joints: Pair[Tensor]
    true_px: Pair[Tensor]
    hidden: Pair[Tensor]
    observed_px: Pair[Tensor]

    @classmethod
    def drawn(cls, models: Pair[HandModel], pairs: HandPairs, rng: torch.Generator, config: ViewConfig) -> _View:
        """At random distances and places, turned every way."""
        n = len(pairs)
        if config.near > config.far:
            raise ConfigError(f"ViewConfig: expected near <= far, got {config.near} and {config.far}")
        camera = CameraModel.assume(640, 480, 1.05)
        q = torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=1)
        turn = _from_quaternion(q)
        both = torch.cat([j for _, j in pairs.joints(models).items()], 1)
        middle = both.mean(1)
        # Whichever way the pair is turned, all its joints are in the picture.
        radius = (both - middle[:, None]).norm(dim=-1).amax(1)
        half = torch.tensor([camera.width, camera.height]) / 2
        near = (radius * (1 + camera.focal / half.min())).clamp_min(config.near)
        far = near.clamp_min(config.far)
        distance = (near + (far - near) * torch.rand(n, generator=rng))[:, None]
        room = half * (1 - radius[:, None] / distance) - camera.focal * radius[:, None] / distance
        rays = (2 * torch.rand(n, 2, generator=rng) - 1) * room.clamp_min(0.0) / camera.focal
        centre = torch.cat([rays, torch.ones(n, 1)], 1) * distance
        truth = moved(models, pairs, turn, centre - (turn @ middle[..., None])[..., 0])
        meshes = truth.forward(models)
        joints = Pair(meshes.left.joints, meshes.right.joints)
        true_px = Pair(*(_project(camera, j) for _, j in joints.items()))
        hidden = Pair(
            _hidden(camera, joints.left, meshes.right.vertices), _hidden(camera, joints.right, meshes.left.vertices)
        )
        observed = []
        for side, px in true_px.items():
            size = (px.amax(1) - px.amin(1)).amax(1)
            sigma = torch.where(hidden[side], config.hidden_noise, config.pixel_noise) * size[:, None]
            observed.append(px + sigma[..., None] * torch.randn(px.shape, generator=rng))
        return cls(config, models, camera, truth, joints, true_px, hidden, Pair(*observed))

    def __getitem__(self, rows: Tensor) -> _View:
        def part(pair: Pair[Tensor]) -> Pair[Tensor]:
            return Pair(pair.left[rows], pair.right[rows])

        kept = part(self.joints), part(self.true_px), part(self.hidden), part(self.observed_px)
        return _View(self.config, self.models, self.camera, self.truth[rows], *kept)

    def placed(self, pairs: HandPairs, clean: HandPairs) -> HandPairs:
        """Pairs in the frame of ``clean`` where the camera has them: turned and moved as the truth was."""
        turn = self.truth.rotations.right[:, 0] @ clean.rotations.right[:, 0].transpose(1, 2)
        start, end = wrists(self.models, clean).right, wrists(self.models, self.truth).right
        return moved(self.models, pairs, turn, end - (turn @ start[..., None])[..., 0])

    def weights(self) -> Pair[Tensor]:
        """Confidence of each keypoint."""
        return Pair(*(torch.where(h, self.config.hidden_confidence, 1.0) for _, h in self.hidden.items()))

    def conditions(self, condition: HandPairs, rows: Tensor) -> Conditions:
        """Both, with what was seen."""
        return Conditions(self.truth, condition, rows, self.camera, self.true_px, self.observed_px, self.weights())

    def keypoints(self, i: int, noise: np.random.Generator) -> Pair[HandKeypoints | None]:
        """What a landmark model might say of pair i; the last frame's pixels are those of ``observed_px``."""
        return Pair(self._hand(Side.LEFT, i, noise), self._hand(Side.RIGHT, i, noise))

    def _hand(self, side: Side, i: int, noise: np.random.Generator) -> HandKeypoints:
        c = self.config
        pixels = self.observed_px[side][i].double().numpy()
        hidden = self.hidden[side][i].numpy()
        box = Box.around(pixels)
        joints = self.joints[side][i].double().numpy()
        points = (joints - joints.mean(0)) @ rotation_to_ray(self.camera, box.centre)
        spread = np.array([c.noise_3d, c.noise_3d, c.noise_z]) * np.where(hidden, c.hidden_factor, 1.0)[:, None]
        points = points * max(1 + c.scale * noise.standard_normal(), 0.5) + spread * noise.standard_normal((21, 3))
        return HandKeypoints(
            detection=Detection(box, 1.0),
            keypoints_px=pixels,
            keypoints_3d=points,
            confidence=np.where(hidden, c.hidden_confidence, 1.0),
            presence=1.0,
            right=float(side is Side.RIGHT),
            crop_centre_px=box.centre,
        )


def moved(
    models: Pair[HandModel], pairs: HandPairs, turn: Float[Tensor, "batch 3 3"], shift: Float[Tensor, "batch 3"]
) -> HandPairs:
    """The pairs as a whole turned about the origin, then moved [m]."""
    place_ = wrists(models, pairs)
    rotations, transl = [], []
    for side in (Side.LEFT, Side.RIGHT):
        r = pairs.rotations[side]
        rotations.append(torch.cat([(turn @ r[:, 0])[:, None], r[:, 1:]], 1))
        wrist = (turn @ place_[side][..., None])[..., 0] + shift
        transl.append(wrist - (place_[side] - pairs.transl[side]))
    return HandPairs(pairs.betas, Pair(*rotations), Pair(*transl), pairs.kinds)


def as_pairs(left: PlacedHand, right: PlacedHand, kind: str = "") -> HandPairs:
    """A batch of one, in the camera frame."""

    def tensor(*arrays: np.ndarray) -> Tensor:
        return torch.as_tensor(np.concatenate(arrays)[None]).float()

    hands = left, right
    return HandPairs(
        Pair(*(tensor(h.pose.betas) for h in hands)),
        Pair(*(tensor(h.pose.global_orient[None], h.pose.hand_pose) for h in hands)),
        Pair(*(tensor(h.transl) for h in hands)),
        (kind,),
    )


def as_placed(
    models: Pair[HandModel], one: HandPairs, camera: CameraModel, observed: Pair[Tensor], weights: Pair[Tensor]
) -> Pair[PlacedHand]:
    """The one pair as the stage before the repair would hand it on."""
    joints, placed = one.joints(models), []
    for side in (Side.LEFT, Side.RIGHT):
        points = _array(joints[side][0])
        rotations = _array(one.rotations[side][0])
        pose = HandPose(
            side=side,
            global_orient=rotations[0],
            hand_pose=rotations[1:],
            betas=_array(one.betas[side][0]),
            joints=points - points[0],
            keypoints_px=_array(observed[side]),
            keypoint_confidence=_array(weights[side]),
            confidence=1.0,
        )
        hand = placed_hand(pose, points[0], camera, models[side])
        if hand is None:
            raise InputError(f"a condition of kind {one.kinds[0]!r}: the {side.value} hand is not before the camera")
        placed.append(hand)
    return Pair(placed[0], placed[1])


def _project(camera: CameraModel, points: Float[Tensor, "batch 21 3"]) -> Float[Tensor, "batch 21 2"]:
    flat = camera.project(points.reshape(-1, 3).double().numpy())
    return torch.as_tensor(flat).float().reshape(*points.shape[:-1], 2)


def _hidden(
    camera: CameraModel, joints: Float[Tensor, "batch 21 3"], other: Float[Tensor, "batch vertices 3"]
) -> Bool[Tensor, "batch 21"]:
    """Joints that a vertex of the other hand covers: 5 mm or less beside their ray, and 10 mm or more nearer."""
    seen = joints[..., :2] / joints[..., 2:], other[..., :2] / other[..., 2:]
    beside = torch.cdist(*seen) * joints[..., 2:] < 0.005
    return (beside & (other[:, None, :, 2] < joints[..., 2:] - 0.010)).any(-1)


def _from_quaternion(q: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 3 3"]:
    w, v = q[:, :1, None], q[:, 1:]
    x, y, z = v.unbind(1)
    o = torch.zeros_like(x)
    k = torch.stack([o, -z, y, z, o, -x, -y, x, o], 1).reshape(-1, 3, 3)
    return torch.eye(3) + 2 * w * k + 2 * k @ k


def _array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return tensor.detach().double().cpu().numpy()
