"""Things in the scene that are not hands: what hands hold, and what stands before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from a2p_ros.rendering.occlusion import received_light
from a2p_ros.rendering.renderer import CLOTH, PLAIN, SKIN, Look, Surface, vertex_normals
from a2p_ros.training.synthetic.poser import PosedArm
from a2p_ros.training.synthetic.samples import THING_PART
from a2p_ros.training.synthetic.shapes import HOLDING

#: What encloses a thing in the hand: bases, middle joints and tips of the fingers, the thumb.
_AROUND_GRIP = (2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20)
#: Corners of a thing's sections.
_AROUND = 20
#: A thing ends this far inside the skin of the fingers that hold it [m].
_PRESSED = 0.0015


@dataclass(frozen=True, eq=False)
class Thing:
    """A solid about the z axis, |z| <= 1 and radius <= 1, to be stretched; ``look`` is sent to OpenGL once."""

    points: Float[np.ndarray, "v 3"]
    look: Look

    def surface(
        self,
        centre: Float[np.ndarray, "3"],
        axes: Float[np.ndarray, "3 3"],
        half: Float[np.ndarray, "3"],
        spheres: Float[np.ndarray, "n 4"],
        key: Float[np.ndarray, "3"],
        id: int = THING_PART,
    ) -> Surface:
        """Placed in the camera frame [m]: ``axes`` are columns, ``half`` the half sizes along them."""
        vertices = (self.points * half) @ axes.T + centre
        normals = vertex_normals(vertices, self.look.faces)
        light = received_light(vertices, normals, spheres, key)
        return Surface(vertices, self.look, id, normals, light)


def make_thing(rng: np.random.Generator) -> Thing:
    """A cylinder, a box with rounded corners, a ball or a bottle, in one or two colours; one in six is like skin."""
    z = np.array([-1.0, -1.0, -0.97, -0.6, -0.2, 0.2, 0.6, 0.97, 1.0, 1.0])
    profile = np.array([0.0, 0.93, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.93, 0.0])
    kind = rng.choice(["cylinder", "box", "ball", "bottle"])
    if kind == "ball":
        z = np.sin(np.linspace(-np.pi / 2, np.pi / 2, len(z)))
        profile = np.sqrt(np.maximum(1 - z**2, 0))
    elif kind == "bottle":
        profile = profile * np.array([1, 1, 1, 1, 1, 1, 0.55, 0.35, 0.35, 1])
    points, faces = _turned(profile, z, 0.25 if kind == "box" else 1.0)
    return Thing(points, _thing_look(faces, points, rng))


def make_upper_arm(colour: Sequence[float], *, bare: bool) -> Thing:
    """A capsule of skin or cloth, linear RGB, that goes on from the forearm's end."""
    z = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 12))
    points, faces = _turned((1 - z**6) ** 0.4, z, 1.0)
    colours = np.tile(np.asarray(colour, np.float32), (len(points), 1))
    return Thing(points, Look(faces, colours, material=SKIN if bare else CLOTH))


def _turned(profile: np.ndarray, z: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and faces of a solid about the z axis; a ``power`` below 1 makes its sections squarish."""
    angle = np.linspace(0, 2 * np.pi, _AROUND, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    circle = np.sign(circle) * np.abs(circle) ** power
    points = np.concatenate(
        [np.column_stack([circle * r, np.full(_AROUND, h)]) for r, h in zip(profile, z, strict=True)]
    )
    rings = np.arange(len(points)).reshape(len(z), _AROUND)
    a, b = rings[:-1], np.roll(rings[:-1], -1, axis=1)
    c, d = rings[1:], np.roll(rings[1:], -1, axis=1)
    faces = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    return points, faces


def _thing_look(faces: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Look:
    if rng.random() < 1 / 6:
        colour = np.array([0.5, 0.28, 0.19]) * rng.uniform(0.35, 1.2)
        return Look(faces, np.tile(colour, (len(points), 1)).astype(np.float32), material=SKIN)
    first, second = rng.uniform(0.01, 0.75, (2, 3)) ** 1.3
    grey = rng.random() < 0.4
    if grey:
        first, second = np.full(3, first.mean()), np.full(3, second.mean())
    stripe = np.sin(points @ rng.normal(0, 4, 3) + rng.uniform(0, 6)) > rng.uniform(-0.5, 1.2)
    colours = np.where(stripe[:, None], second, first).astype(np.float32)
    return Look(faces, colours, material=float(rng.choice([PLAIN, CLOTH])))


@dataclass(frozen=True)
class PlacedThing:
    """Which of the things, and where: the arguments of ``Thing.surface``."""

    number: int
    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    half: Float[np.ndarray, "3"]

    def spheres(self) -> Float[np.ndarray, "n 4"]:
        """Spheres (centre, radius) [m] along the longest axis, which shade what is near."""
        radius = float(np.sort(self.half)[1]) * 0.9
        longest = int(np.argmax(self.half))
        reach = max(float(self.half[longest]) - radius, 0.0)
        steps = np.linspace(-reach, reach, 5)[:, None] * self.axes[:, longest]
        return np.column_stack([self.centre + steps, np.full(5, radius)])


def held_by(arm: PosedArm, things: int, rng: np.random.Generator) -> PlacedThing | None:
    """Something that fits the room between the fingers of a hand; None where its shape holds nothing."""
    across = HOLDING.get(arm.shape)
    if across is None:
        return None
    j = arm.joints
    if across:
        # Of some lines across the palm, between it and the fingers, the one with most room round it.
        axis = (j[5] - j[17]) / np.linalg.norm(j[5] - j[17])
        spheres = arm.spheres()
        candidates = rng.dirichlet(np.full(len(_AROUND_GRIP), 0.8), 24) @ j[list(_AROUND_GRIP)]
        offsets = spheres[None, :, :3] - candidates[:, None]
        aside = np.linalg.norm(offsets - (offsets @ axis)[..., None] * axis, axis=-1) - spheres[:, 3]
        rooms = aside.min(1)
        centre, room = candidates[int(rooms.argmax())], float(rooms.max()) + _PRESSED
    else:
        axis = np.cross(j[8] - j[4], j[5] - j[17]) + rng.normal(0, 0.02, 3)
        axis = axis / np.linalg.norm(axis)
        centre, room = (j[4] + j[8]) / 2, float(np.linalg.norm(j[8] - j[4])) / 2 - 0.005
    if room < 0.002:
        return None
    radius = min(room, 0.045)
    length = rng.uniform(0.05, 0.13) if across else max(radius * rng.uniform(0.8, 12.0), 0.006)
    shift = rng.uniform(-0.5, 0.5) * length * axis
    return PlacedThing(int(rng.integers(things)), centre + shift, _axes(axis, rng), np.array([radius, radius, length]))


def before(arms: list[PosedArm], things: int, rng: np.random.Generator) -> PlacedThing:
    """Something between the camera and hands, over a part of one of them."""
    arm = arms[int(rng.integers(len(arms)))]
    target = arm.joints[int(rng.integers(21))]
    nearest = min(float(a.vertices[:, 2].min()) for a in arms)
    share = rng.uniform(0.5, 0.9) * nearest / target[2]
    radius = rng.uniform(0.010, 0.045) * share
    length = rng.uniform(0.03, 0.16) * share
    centre = target * share + np.append(rng.normal(0, 0.02, 2), 0.0)
    axis = rng.normal(size=3) * [1.0, 1.0, 0.25]
    half = np.array([radius, radius * rng.uniform(0.3, 1.0), length])
    return PlacedThing(int(rng.integers(things)), centre, _axes(axis / np.linalg.norm(axis), rng), half)


def lying(things: int, rng: np.random.Generator) -> PlacedThing:
    """Something anywhere in a picture without hands."""
    depth = rng.uniform(0.3, 0.9)
    centre = np.array([*(rng.uniform(-0.45, 0.45, 2) * depth), depth])
    axis = rng.normal(size=3)
    radius = rng.uniform(0.008, 0.05)
    half = np.array([radius, radius * rng.uniform(0.3, 1.0), rng.uniform(0.03, 0.18)])
    return PlacedThing(int(rng.integers(things)), centre, _axes(axis / np.linalg.norm(axis), rng), half)


def upper_arm(arm: PosedArm, view: str, rng: np.random.Generator) -> PlacedThing | None:
    """From the forearm's end to the shoulder; None where that would come too near the camera."""
    elbow = arm.wrist + 0.48 * arm.forearm
    # Shoulders are above and behind the elbows of a person seen from before, and beside the camera on a head.
    to = {"teleoperation": (0.0, -0.7, 0.5), "egocentric": (0.0, -0.3, -0.9), "any": (0.0, 0.0, 0.0)}[view]
    axis = 0.5 * arm.forearm + to + rng.normal(0, 0.4, 3)
    axis = axis / np.linalg.norm(axis)
    if elbow[2] + 0.32 * axis[2] < 0.2 or elbow[2] < 0.2:
        return None
    half = np.array([0.052, 0.052, 0.19])
    return PlacedThing(0, elbow + 0.15 * axis, _axes(axis, rng), half)


def _axes(z: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Right-handed axes (columns) with a given third one."""
    x = np.cross(z, rng.normal(size=3))
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)
