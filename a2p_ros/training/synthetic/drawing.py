"""Draws scenes into labelled frames.

What is dear to make (skin, arms, things, backdrops) belongs to a ``Studio`` and serves the frames of one shard; a
frame's own generator chooses among it, so that a frame depends on seed, shard and number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from a2p_ros.camera import CameraModel
from a2p_ros.cropping import Crop
from a2p_ros.detection.regions import hand_rotation, hand_square
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.topology import MANO16_FROM_OPENPOSE, TIPS
from a2p_ros.rendering.hand_mesh import ArmMesh, Sleeve, Watch
from a2p_ros.rendering.renderer import Labels, Lights, Renderer, Surface
from a2p_ros.rendering.skin import TONES, SkinTextures, paint_skin
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.synthetic.backdrops import paint_backdrop, vary_backdrop
from a2p_ros.training.synthetic.config import KINDS, SynthConfig
from a2p_ros.training.synthetic.pairs import PairPool
from a2p_ros.training.synthetic.pictures import Camera
from a2p_ros.training.synthetic.placing import Placed, place
from a2p_ros.training.synthetic.poser import PosedArm, Poser
from a2p_ros.training.synthetic.props import (
    PlacedThing,
    Thing,
    before,
    held_by,
    lying,
    make_thing,
    make_upper_arm,
    upper_arm,
)
from a2p_ros.training.synthetic.samples import (
    FOREARM,
    N_PARTS,
    SLEEVE,
    THING_PART,
    CroppedHand,
    Frame,
    HandLabel,
    part_id,
)
from a2p_ros.types import Box, Image, Pair, Side

#: Things of one shard, and people who share a skin's texture.
_THINGS, _SHARING = 12, 3
_TEXEL = 0.0009
#: Hands up to this size [px] are drawn with the model's own mesh, whose edges are then 2 pixels long.
_COARSE = 100
#: A joint is hidden by what lies farther before it than its own flesh is thick [m].
_FLESH = np.array([0.040, 0.040, *[0.028] * 19])


def _meeting() -> Bool[np.ndarray, "21 17"]:
    """Which parts meet at each of the 21 joints (OpenPose order): its own, the one before, at the wrist the forearm."""
    out = np.zeros((21, N_PARTS - 1), bool)
    out[0, [0, FOREARM]] = True
    for k in range(1, 21):
        base, last = k % 4 == 1, k % 4 == 0
        before = 0 if base else MANO16_FROM_OPENPOSE.index(k - 1)
        out[k, [before, before if last else MANO16_FROM_OPENPOSE.index(k)]] = True
    return out


_MEETING = _meeting()
_TIP = np.isin(np.arange(21), TIPS)


@dataclass(frozen=True, eq=False)
class Person:
    """Both arms from the fingertips to the elbow, and what goes on from there."""

    arms: Pair[ArmMesh]
    upper_arm: Thing


class Studio:
    """Arms, things and backdrops of one shard."""

    def __init__(self, config: SynthConfig, poser: Poser, shard: int) -> None:
        rng = np.random.default_rng([config.seed, 0x73747564, shard])
        tones = [_tone(rng) for _ in range(-(-config.people // _SHARING))]
        skins = [paint_skin(poser.rest_joints, rng, darkness=darkness, texel=_TEXEL) for _, darkness in tones]
        self.people = [
            _person(poser, skins[i % len(skins)], tones[i % len(skins)][0], rng) for i in range(config.people)
        ]
        self.things = [make_thing(rng) for _ in range(_THINGS)]
        # Half as large again as a frame, so that parts of them stay sharp.
        size = (round(1.4 * config.width), round(1.4 * config.height))
        self.backdrops = [paint_backdrop(*size, rng) for _ in range(config.backdrops)]


def _tone(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A skin's tone between the light and the dark ones, and how much lighter its palm is."""
    at = rng.uniform(0, len(TONES) - 1)
    i = min(int(at), len(TONES) - 2)
    tone = np.asarray(TONES[i]) * (1 - at + i) + np.asarray(TONES[i + 1]) * (at - i)
    return (tone * rng.uniform(0.85, 1.15) * (1 + rng.normal(0, 0.04, 3))).clip(0.02, 0.85), max(
        0.0, (at - 1) / 3
    ) * 0.5


def _person(poser: Poser, skin: SkinTextures, tone: np.ndarray, rng: np.random.Generator) -> Person:
    start = float(rng.choice([0.02, 0.06, 0.12, 0.2, 1.0], p=[0.2, 0.2, 0.15, 0.1, 0.35]))
    grey = rng.random() < 0.4
    colour = np.full(3, rng.uniform(0.01, 0.7)) if grey else rng.uniform(0.01, 0.6, 3)
    sleeve = Sleeve(start * rng.uniform(0.8, 1.2), _rgb(colour)) if start < 0.5 else None
    arms = []
    for side in Side:
        watch = None
        if start > 0.1 and rng.random() < 0.3:
            face = None if rng.random() < 0.4 else _rgb(rng.uniform(0.02, 0.8, 3))
            grey = rng.random() < 0.7
            band = _rgb(np.full(3, rng.uniform(0.01, 0.5)) if grey else rng.uniform(0, 0.6, 3))
            watch = Watch(rng.uniform(0.02, 0.06), rng.uniform(0.004, 0.034), band, face)
        arms.append(ArmMesh(poser.models[side], skin, _rgb(tone), sleeve, watch, parts=True))
    bare = sleeve is None
    return Person(Pair(*arms), make_upper_arm(_rgb(tone if bare else colour), bare=bare))


class FrameMaker:
    """Makes the frames of a configuration. Use as a context manager or close it.

    Raises MissingDependencyError without an EGL driver.
    """

    def __init__(self, config: SynthConfig, pool: PairPool) -> None:
        self.config, self._pool = config, pool
        self._poser = Poser(load_hand_models())
        self._camera = Camera(config)
        self._studio: tuple[int, Studio] | None = None
        # Four samples a pixel take twice as long as one; the camera's own blur smooths edges as well.
        self._renderer = Renderer(config.width, config.height, samples=0)

    @property
    def device(self) -> str:
        """What OpenGL runs on."""
        return self._renderer.device

    def frame(self, index: int) -> tuple[Frame, bytes]:
        """Frame ``index`` and its picture as JPEG."""
        shard = index // self.config.shard
        if self._studio is None or self._studio[0] != shard:
            self._studio = shard, Studio(self.config, self._poser, shard)
        rng = np.random.default_rng([self.config.seed, 0x6672616D, index])
        kind = str(rng.choice(KINDS, p=[getattr(self.config, k) for k in KINDS]))
        with single_thread():
            placed = place(kind, self.config, self._poser, self._pool, rng)
        return self._draw(index, kind, placed, self._studio[1], rng)

    def _draw(
        self, index: int, kind: str, placed: Placed, studio: Studio, rng: np.random.Generator
    ) -> tuple[Frame, bytes]:
        config, camera = self.config, placed.camera
        arms = [arm for _, arm in placed.arms.items() if arm is not None]
        lights = _draw_lights(rng)
        key = np.asarray(lights.key_direction) / np.linalg.norm(lights.key_direction)
        person = studio.people[int(rng.integers(len(studio.people)))]
        placed_things = self._things(kind, arms, rng)
        uppers = {arm.side: upper_arm(arm, placed.view, rng) for arm in arms}
        skins, others = _surfaces(arms, uppers, placed_things, person, studio, camera, key)
        # What covers is drawn first: the skin below it then costs nothing.
        surfaces = [*others, *skins.left, *skins.right]
        layer = self._renderer.layer(surfaces, camera, lights)
        # The hand model's own mesh, which the finer one of the picture is made from.
        labels = self._renderer.labels([surface.coarse or surface for surface in surfaces], camera)
        own: Pair[Sequence[Surface]] = Pair(*([s.coarse or s for s in several] for _, several in skins.items()))
        alone = self._renderer.silhouettes(own, camera, FOREARM)
        backdrop = vary_backdrop(
            studio.backdrops[int(rng.integers(len(studio.backdrops)))], config.width, config.height, rng
        )
        image, jpeg, about = self._camera.expose(layer, backdrop, rng)
        hands = Pair(
            *(None if arm is None else label_of(arm, camera, labels, alone[side]) for side, arm in placed.arms.items())
        )
        crops = Pair(*(None if hand is None else self._crop(image, hand, rng) for _, hand in hands.items()))
        scene = {
            "kind": kind if arms else "none",
            "view": placed.view,
            "seed": config.seed,
            "index": index,
            "shapes": {arm.side.value: arm.shape for arm in arms},
            "things": len(placed_things),
            **about,
        }
        frame = Frame(
            key=f"{index:08d}",
            image=image,
            camera=camera,
            hands=hands,
            parts=labels.ids if config.maps else None,
            depth=labels.depth if config.maps else None,
            scene=scene,
            crops=crops if config.crop else Pair(None, None),
        )
        return frame, jpeg

    def _things(self, kind: str, arms: list[PosedArm], rng: np.random.Generator) -> list[PlacedThing]:
        out = []
        for arm in arms:
            if kind != "interacting" and rng.random() < self.config.held:
                held = held_by(arm, _THINGS, rng)
                out += [] if held is None else [held]
        if rng.random() < self.config.occluded:
            if arms:
                out.append(before(arms, _THINGS, rng))
            else:
                out += [lying(_THINGS, rng) for _ in range(int(rng.integers(1, 5)))]
        return out

    def _crop(self, image: Image, hand: HandLabel, rng: np.random.Generator) -> CroppedHand:
        """The crop that the node would cut if the last frame's points were a little off."""
        rotation = hand_rotation(hand.keypoints_px)
        x, y, size = hand_square(hand.keypoints_px, rotation)
        shift = rng.normal(0, 0.04, 2).clip(-0.1, 0.1) * size
        scale = float(np.exp(rng.normal(0, 0.08)))
        turn = rotation + rng.normal(0, math.radians(9.0))
        crop = Crop(
            (x + float(shift[0]), y + float(shift[1])),
            max(size * scale, 4.0),
            turn,
            max(self.config.crop, 1),
            mirrored=hand.side is Side.LEFT,
        )
        return CroppedHand(crop.extract(image), crop)

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()

    def __enter__(self) -> FrameMaker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _surfaces(
    arms: list[PosedArm],
    uppers: dict[Side, PlacedThing | None],
    placed: list[PlacedThing],
    person: Person,
    studio: Studio,
    camera: CameraModel,
    key: np.ndarray,
) -> tuple[Pair[Sequence[Surface]], list[Surface]]:
    """Skin of the left and right hand, and everything else."""
    shading = [arm.spheres() for arm in arms] + [thing.spheres() for thing in placed]
    spheres = np.concatenate(shading) if shading else np.zeros((0, 4))
    own_skin: dict[Side, list[Surface]] = {side: [] for side in Side}
    others = []
    for arm in arms:
        skin, *covers = person.arms[arm.side].surfaces(
            arm.vertices,
            arm.rotations[0],
            arm.wrist,
            arm.forearm,
            id=part_id(arm.side, 0),
            spheres=spheres,
            key_direction=key,
            numbers=(part_id(arm.side, SLEEVE), THING_PART),
            fine=Box.around(camera.project(arm.joints)).size > _COARSE,
        )
        if (upper := uppers[arm.side]) is not None:
            number = part_id(arm.side, SLEEVE)
            others.append(person.upper_arm.surface(upper.centre, upper.axes, upper.half, spheres, key, number))
        own_skin[arm.side].append(skin)
        others += covers
    own = np.concatenate([arm.spheres() for arm in arms]) if arms else np.zeros((0, 4))
    others += [studio.things[thing.number].surface(thing.centre, thing.axes, thing.half, own, key) for thing in placed]
    return Pair(own_skin[Side.LEFT], own_skin[Side.RIGHT]), others


def _rgb(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    r, g, b = map(float, values)
    return r, g, b


def _draw_lights(rng: np.random.Generator) -> Lights:
    """Mostly from above, from a hard lamp to an overcast sky."""
    direction = (rng.normal(0, 0.7), -abs(rng.normal(0.7, 0.5)), rng.normal(-0.4, 0.7))
    warm = rng.normal(0, 0.07)
    key = rng.uniform(0.25, 1.15) * np.array([1 + warm, 1.0, 1 - warm])
    cold = rng.normal(0.03, 0.06)
    sky = rng.uniform(0.22, 0.65) * np.array([1 - cold, 1.0, 1 + cold])
    ground = sky * rng.uniform(0.25, 0.9) * (1 + rng.normal(0, 0.06, 3))
    up = np.array([0.0, -1.0, 0.0]) + rng.normal(0, 0.3, 3)
    return Lights(_rgb(direction), _rgb(key), _rgb(sky), _rgb(ground), _rgb(up))


def label_of(arm: PosedArm, camera: CameraModel, labels: Labels, alone: Bool[np.ndarray, "h w"]) -> HandLabel | None:
    """The label of a drawn hand, ``alone`` being its own silhouette; None where no pixel of it is in the picture."""
    if not alone.any():
        return None
    first = part_id(arm.side, 0)
    seen = (labels.ids >= first) & (labels.ids < first + FOREARM)
    keypoints = camera.project(arm.joints)
    outline = camera.project(arm.vertices)
    low, high = (-0.5, -0.5), (camera.width - 0.5, camera.height - 0.5)
    box = Box.around(np.clip(outline, low, high))
    return HandLabel(
        side=arm.side,
        rotations=arm.rotations.astype(np.float32),
        betas=arm.betas.astype(np.float32),
        transl=arm.transl.astype(np.float32),
        joints=arm.joints.astype(np.float32),
        keypoints_px=keypoints.astype(np.float32),
        visible=_visible(arm, keypoints, labels.depth, labels.ids),
        box=box,
        visible_share=float((seen & alone).sum() / alone.sum()),
    )


def _visible(
    arm: PosedArm,
    keypoints: Float[np.ndarray, "21 2"],
    depth: Float32[np.ndarray, "h w"],
    ids: UInt8[np.ndarray, "h w"],
) -> Bool[np.ndarray, "21"]:
    """Joints at whose pixel the first surface is the skin around them: a part that meets there, near enough."""
    height, width = ids.shape
    # A tip lies on the outline, where its own pixel may show what is behind it: one of its neighbours will do.
    offsets = np.array([(0, 0), *((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)])
    at = np.rint(keypoints).astype(int)[:, None] + offsets
    inside = ((at >= 0) & (at < (width, height))).all(-1)
    x, y = at[..., 0].clip(0, width - 1), at[..., 1].clip(0, height - 1)
    part = ids[y, x].astype(int) - part_id(arm.side, 0)
    own = (part >= 0) & (part <= FOREARM)
    meets = _MEETING[np.arange(21)[:, None], part.clip(0, FOREARM)] & own
    near = np.abs(depth[y, x] - arm.joints[:, 2, None]) < _FLESH[:, None]
    seen = meets & near & inside
    return inside[:, 0] & np.where(_TIP, seen.any(1), seen[:, 0])
