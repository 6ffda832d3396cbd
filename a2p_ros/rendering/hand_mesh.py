"""The picture's hand: the hand model's mesh, its wrist opening carried on as a forearm, and a sleeve.

The hand's own vertices stay where the model puts them; the forearm starts at the model's wrist ring and bends
towards the elbow. One Loop subdivision smooths both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8

from a2p_ros.errors import HandModelError
from a2p_ros.hand import HandModel
from a2p_ros.hand.limits import joint_axes
from a2p_ros.hand.topology import TIPS
from a2p_ros.rendering.occlusion import received_light
from a2p_ros.rendering.renderer import CLOTH, SKIN, Look, Surface, vertex_normals
from a2p_ros.rendering.skin import SkinTextures, texture_coordinates
from a2p_ros.rendering.subdivision import Subdivision
from a2p_ros.rotations import axis_angle_to_matrix, rotation_between
from a2p_ros.types import Side

#: Distances of the forearm's sections from the wrist ring [m], and half width and half thickness there [m].
_ALONG = np.array([0.012, 0.028, 0.046, 0.072, 0.105, 0.150, 0.205, 0.28, 0.37, 0.49, 0.495])
_SECTIONS_AT = np.array([0.0, 0.03, 0.06, 0.10, 0.15, 0.20, 0.24, 0.30, 0.50])
_HALF_WIDTH = np.array([0.0260, 0.0262, 0.0285, 0.0335, 0.0400, 0.0430, 0.0430, 0.0440, 0.0480])
_HALF_THICKNESS = np.array([0.0185, 0.0200, 0.0230, 0.0280, 0.0345, 0.0390, 0.0410, 0.0430, 0.0480])
#: Over this distance the forearm takes up the bend of the wrist [m].
_BEND = 0.055
#: Part of the forearm, behind the model's 16 joints.
FOREARM_PART = 16
#: Half widths and half lengths of the nails, thumb to little finger [m].
_NAIL_HALF_WIDTH = (0.0072, 0.0055, 0.0057, 0.0054, 0.0044)
_NAIL_HALF_LENGTH = (0.0072, 0.0058, 0.0061, 0.0058, 0.0047)
#: MANO joint of each OpenPose keypoint that is not a tip.
_MANO16_OF_OPENPOSE = [0, 13, 14, 15, 1, 2, 3, 4, 5, 6, 10, 11, 12, 7, 8, 9]


@dataclass(frozen=True)
class Sleeve:
    """A sleeve that begins ``start`` [m] behind the wrist; ``colour`` is linear RGB."""

    start: float = 0.11
    colour: tuple[float, float, float] = (0.06, 0.10, 0.20)


@dataclass(frozen=True)
class Watch:
    """A watch or band of ``width`` [m] whose middle is ``start`` [m] behind the wrist; linear RGB.

    ``face`` is the colour of a disc on the back of the arm; None = a plain band.
    """

    start: float = 0.045
    width: float = 0.016
    colour: tuple[float, float, float] = (0.03, 0.03, 0.035)
    face: tuple[float, float, float] | None = (0.10, 0.11, 0.12)


class ArmMesh:
    """Hand and forearm of one side as surfaces that follow the hand model's output.

    With ``parts`` the skin's number in the mask grows by the part: the model's joints, then ``FOREARM_PART``.

    Raises HandModelError when the model's mesh has no wrist that a forearm could be joined to.
    """

    def __init__(
        self,
        model: HandModel,
        textures: SkinTextures,
        tone: tuple[float, float, float],
        sleeve: Sleeve | None = None,
        watch: Watch | None = None,
        *,
        parts: bool = False,
    ) -> None:
        self.model, self.side = model, model.side
        flip = np.array([-1.0, 1.0, 1.0]) if model.side is Side.LEFT else np.ones(3)
        template = model.template.numpy().astype(np.float64)
        rest_joints = model.joint_template.numpy().astype(np.float64)
        faces, ring, subdivision = _arm_topology(model)
        self._rest_wrist = rest_joints[0]
        self._away = flip * [1.0, 0.0, 0.0]
        self._ring_centre = template[ring].mean(0)
        offsets = template[ring] - self._ring_centre
        self._sections = self._make_sections(offsets, _ALONG)
        self._sections[-1] *= 0.02  # closes the arm
        count = len(template) + len(_ALONG) * len(ring)
        self._faces, self._subdivision = faces, subdivision

        rest = np.concatenate(
            [template, self._tube_vertices(self._sections, _ALONG, np.eye(3), self._rest_wrist, self._away)]
        )
        self._skin = self._skin_look(self._subdivision(rest) * flip, self._subdivision.faces, textures, tone)
        self._coarse = None
        if parts:
            named = self._parts(count)
            self._coarse = self._skin_look(rest * flip, _highest_last(faces, named), textures, tone, named)
        covers = [] if sleeve is None else [(True, _sleeve_cover(self, sleeve))]
        self._covers = covers + ([] if watch is None else [(False, _watch_cover(self, watch))])

    def _skin_look(
        self,
        points: np.ndarray,
        faces: np.ndarray,
        textures: SkinTextures,
        tone: tuple[float, float, float],
        parts: np.ndarray | None = None,
    ) -> Look:
        """``points`` are those of the right hand at rest."""
        outside = faces[:, ::-1] if self.side is Side.LEFT else faces
        normals = vertex_normals(points, outside).astype(np.float64)
        return Look(
            faces=faces,
            colours=np.tile(np.asarray(tone, np.float32), (len(points), 1)),
            material=SKIN,
            textures=(textures.palm, textures.back),
            relief=textures.relief,
            uv=texture_coordinates(points),
            nails=self._nail_coordinates(points, normals),
            facing=-normals[:, 1],
            parts=parts,
        )

    def _parts(self, count: int) -> UInt8[np.ndarray, "v"]:
        """Part of each vertex: the joint that moves it most, and ``FOREARM_PART``."""
        parts = np.full(count, FOREARM_PART, np.uint8)
        parts[: self.model.n_vertices] = self.model.weights.numpy().argmax(1)
        return parts

    def _make_sections(self, offsets: np.ndarray, along: np.ndarray) -> np.ndarray:
        """(rows, ring, 3): sections of the forearm at rest about its axis, from the ring's outline to an ellipse."""
        ellipse = _ellipses(np.arctan2(offsets[:, 1], offsets[:, 2]), along, 0.0)
        outline = np.clip(1 - along / 0.05, 0, 1)[:, None, None] ** 1.5
        flat = offsets * [0.0, 1.0, 1.0]
        slanted = offsets * [1.0, 0.0, 0.0] * np.clip(1 - along / 0.06, 0, 1)[:, None, None]
        return outline * flat + (1 - outline) * ellipse + slanted

    def _tube_vertices(
        self, sections: np.ndarray, along: np.ndarray, rotation: np.ndarray, wrist: np.ndarray, axis: np.ndarray
    ) -> np.ndarray:
        """Sections placed along a spine that leaves the hand straight and bends to ``axis``.

        ``rotation`` is that of the hand and ``wrist`` the posed wrist, in the output frame.
        """
        straight = rotation @ self._away
        start = rotation @ (self._ring_centre - self._rest_wrist) + wrist
        bend = rotation_between(straight, axis)
        cosine = np.clip((np.trace(bend) - 1) / 2, -1, 1)
        angle = np.arccos(cosine)
        vector = np.array([bend[2, 1] - bend[1, 2], bend[0, 2] - bend[2, 0], bend[1, 0] - bend[0, 1]])
        length = np.linalg.norm(vector)
        vector = vector / length * angle if length > 1e-9 else np.zeros(3)
        fine = np.linspace(0.0, along[-1], 64)
        directions = axis_angle_to_matrix(np.outer(_ease(fine / _BEND), vector)) @ straight
        spine = start + np.concatenate(
            [np.zeros((1, 3)), np.cumsum((directions[1:] + directions[:-1]) / 2 * np.diff(fine)[:, None], axis=0)]
        )
        centres = np.stack([np.interp(along, fine, spine[:, k]) for k in range(3)], axis=1)
        turns = axis_angle_to_matrix(np.outer(_ease(along / _BEND), vector)) @ rotation
        return (np.einsum("sij,srj->sri", turns, sections) + centres[:, None]).reshape(-1, 3)

    def _nail_coordinates(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Nail coordinates (across, along, out of reach) of points of the right hand at rest."""
        flip = np.array([-1.0, 1.0, 1.0]) if self.side is Side.LEFT else np.ones(3)
        joints = np.zeros((21, 3))
        joints[list(TIPS)] = self.model.template.numpy()[list(self.model.tip_vertices)] * flip
        rest16 = self.model.joint_template.numpy() * flip
        joints[[i for i in range(21) if i not in TIPS]] = rest16[_MANO16_OF_OPENPOSE]
        axes = joint_axes(joints, Side.RIGHT)
        out = np.full((len(points), 3), 9.0)
        nearest = np.full(len(points), np.inf)
        for finger, joint in enumerate((14, 2, 5, 11, 8)):
            bone, across, back = axes[joint].T
            tip = joints[TIPS[finger]]
            half_width, half_length = _NAIL_HALF_WIDTH[finger], _NAIL_HALF_LENGTH[finger]
            centre = tip - bone * (half_length + 0.0012)
            local = points - centre
            along, sideways = local @ bone, local @ across
            distance = np.linalg.norm(local, axis=1)
            reach = np.clip(0.15 - normals @ back, 0, 1) * 6 + np.clip(distance - 0.03, 0, 1) * 300
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            values = np.stack([sideways / half_width, along / half_length, reach], axis=1)
            out[closer] = np.clip(values, -9, 9)[closer]
        return out

    def surfaces(
        self,
        vertices: Float[np.ndarray, "v 3"],
        rotation: Float[np.ndarray, "3 3"],
        wrist: Float[np.ndarray, "3"],
        axis: Float[np.ndarray, "3"],
        *,
        id: int,
        spheres: Float[np.ndarray, "n 4"],
        key_direction: Float[np.ndarray, "3"],
        numbers: tuple[int, int] | None = None,
        fine: bool = True,
    ) -> list[Surface]:
        """Skin, and sleeve where there is one, of a posed hand in the camera frame.

        ``vertices`` are the hand model's, ``rotation`` its global rotation, ``wrist`` its wrist joint [m] and
        ``axis`` the unit vector from wrist to elbow. ``spheres`` (centre, radius) [m] darken what is near them and
        shade it from the key light. Skin has the number ``id``, sleeve and watch have ``numbers`` (``id`` + 1 and + 2).
        Without ``fine`` (only with ``parts``) nothing is subdivided, which does for hands of up to 100 pixels.
        """
        tube = self._tube_vertices(self._sections, _ALONG, rotation, wrist, axis)
        skin = np.concatenate([vertices, tube])
        out = [
            self._surface(
                skin, self._faces, self._subdivision, self._skin, self._coarse, id, spheres, key_direction, fine
            )
        ]
        sleeve_id, watch_id = (id + 1, id + 2) if numbers is None else numbers
        for is_sleeve, cover in self._covers:
            cloth = self._tube_vertices(cover.sections, cover.rows, rotation, wrist, axis)
            number = sleeve_id if is_sleeve else watch_id
            coarse = None if self._coarse is None else cover.coarse
            out.append(
                self._surface(
                    cloth, cover.faces, cover.subdivision, cover.look, coarse, number, spheres, key_direction, fine
                )
            )
        return out

    @staticmethod
    def _surface(
        coarse: np.ndarray,
        faces: np.ndarray,
        subdivision: Subdivision,
        look: Look,
        coarse_look: Look | None,
        id: int,
        spheres: np.ndarray,
        key: np.ndarray,
        wants_fine: bool,
    ) -> Surface:
        """The finer mesh; normals and light are computed on the coarse one and go through the same weights."""
        normals = vertex_normals(coarse, faces)
        light = received_light(coarse, normals, spheres, key)
        if coarse_look is not None and not wants_fine:
            return Surface(coarse, coarse_look, id, normals, light)
        fine = subdivision(np.concatenate([subdivision.fitted(coarse).astype(np.float32), normals, light], axis=1))
        plain = None if coarse_look is None else Surface(coarse, coarse_look, id)
        return Surface(fine[:, :3], look, id, fine[:, 3:6], fine[:, 6:8], plain)


@dataclass(frozen=True, eq=False)
class _Cover:
    """A closed strip of rings round the arm: ``rows`` are their distances from the wrist ring [m]."""

    rows: Float[np.ndarray, "r"]
    sections: Float[np.ndarray, "r n 3"]
    faces: Int[np.ndarray, "f 3"]
    subdivision: Subdivision
    look: Look
    coarse: Look

    @classmethod
    def of(cls, arm: ArmMesh, rows: np.ndarray, sections: np.ndarray, colours: np.ndarray) -> _Cover:
        """``sections`` are of a right arm; ``colours`` (rows * n, 3) are linear RGB."""
        count = sections.shape[1]
        faces = _tube(np.arange(count), count, len(rows) - 1)
        if arm.side is Side.LEFT:
            faces, sections = faces[:, ::-1], sections * [-1.0, 1.0, 1.0]
        subdivision = Subdivision.of(faces, count * len(rows))
        fine = subdivision(colours.astype(np.float32))
        look = Look(subdivision.faces, fine, material=CLOTH)
        return cls(rows, sections, faces, subdivision, look, Look(faces, colours.astype(np.float32), material=CLOTH))


def _ellipses(angles: np.ndarray, along: np.ndarray, thicker: np.ndarray | float) -> np.ndarray:
    """(rows, ring, 3): the forearm's cross sections of a right hand at rest; ``thicker`` [m] than the arm."""
    width, thick = np.interp(along, _SECTIONS_AT, _HALF_WIDTH), np.interp(along, _SECTIONS_AT, _HALF_THICKNESS)
    ellipse = np.zeros((len(along), len(angles), 3))
    ellipse[..., 1] = (thick + thicker)[:, None] * np.sin(angles)
    ellipse[..., 2] = (width + thicker)[:, None] * np.cos(angles)
    return ellipse


def _ring(count: int) -> np.ndarray:
    """Angles round the arm of a right hand at rest, in the order of the model's wrist ring."""
    return -np.linspace(0, 2 * np.pi, count, endpoint=False)


def _sleeve_cover(arm: ArmMesh, sleeve: Sleeve) -> _Cover:
    """A wider tube with a hem that turns inwards and a few folds."""
    rows = sleeve.start + np.array([0.004, 0.0, 0.0, 0.007, 0.022, 0.042, 0.066, 0.095, 0.14, 0.21, 0.33, 0.335])
    rows[-2:] += max(_ALONG[-1] + 0.01 - rows[-2], 0.0)
    wider = np.array([0.0005, 0.0015, 0.0050, 0.0062, 0.0055, 0.0065, 0.0055, 0.0070, 0.0075, 0.009, 0.012, 0.012])
    angles = _ring(22)
    sections = _ellipses(angles, rows, wider)
    # Folds run askew round the arm and grow towards the elbow.
    fold = 0.0016 * np.sin(3 * angles[None] + 55 * rows[:, None]) + 0.0012 * np.sin(
        5 * angles[None] - 90 * rows[:, None]
    )
    fade = np.clip((rows - sleeve.start - 0.012) / 0.04, 0, 1)[:, None]
    sections *= (1 + fold * fade / 0.03)[..., None]
    sections[-1] *= 0.02  # closes the sleeve
    return _Cover.of(arm, rows, sections, np.tile(sleeve.colour, (len(rows) * len(angles), 1)))


def _watch_cover(arm: ArmMesh, watch: Watch) -> _Cover:
    """A band round the wrist, and a disc that stands out on the arm's back."""
    half = watch.width / 2
    rows = watch.start + half * np.array([-1.0, -1.0, -0.7, -0.35, 0.0, 0.35, 0.7, 1.0, 1.0])
    wider = np.array([0.0, 0.0022, 0.0028, 0.0028, 0.0028, 0.0028, 0.0028, 0.0022, 0.0])
    angles = _ring(32)
    sections = _ellipses(angles, rows, wider)
    colours = np.tile(np.asarray(watch.colour), (len(rows), len(angles), 1))
    if watch.face is not None:
        across = (np.mod(angles, 2 * np.pi) - np.pi / 2) / 0.62
        disc = (((rows[:, None] - watch.start) / half * 0.8) ** 2 + across[None] ** 2) < 1.0
        sections *= (1 + 0.20 * disc)[..., None]
        colours[disc] = watch.face
    return _Cover.of(arm, rows, sections, colours.reshape(-1, 3))


# A studio makes dozens of arms of the same two models, and this takes longest of it.
@lru_cache(maxsize=4)
def _arm_topology(model: HandModel) -> tuple[Int[np.ndarray, "f 3"], Int[np.ndarray, "r"], Subdivision]:
    """Faces of hand and forearm, the hand's ring of vertices where they meet, and their subdivision."""
    left = model.side is Side.LEFT
    flip = np.array([-1.0, 1.0, 1.0]) if left else np.ones(3)
    own = model.faces.numpy()
    faces, ring = open_wrist(model.template.numpy().astype(np.float64) * flip, own[:, ::-1] if left else own)
    faces = np.concatenate([faces, _tube(ring, len(model.template), len(_ALONG))])
    if left:
        faces = faces[:, ::-1]
    return faces, ring, Subdivision.of(faces, len(model.template) + len(_ALONG) * len(ring))


def open_wrist(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "g 3"], Int[np.ndarray, "r"]]:
    """Faces of a right hand at rest without the cap over its wrist, and the ring of vertices around the opening.

    The ring runs so that a tube away from the hand has its outside where the hand has.
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    cap = (normals[:, 0] > 0.7) & (corners[..., 0].mean(1) > vertices[:, 0].max() - 0.014)
    kept = faces[~cap]
    half = {(int(a), int(b)) for f in kept for a, b in ((f[0], f[1]), (f[1], f[2]), (f[2], f[0]))}
    following = {b: a for a, b in half if (b, a) not in half}
    ring = [max(following, default=-1, key=lambda v: vertices[v, 0])]
    while (
        ring[0] >= 0
        and (succ := following.get(ring[-1])) is not None
        and succ != ring[0]
        and len(ring) <= len(following)
    ):
        ring.append(succ)
    if len(ring) < 8 or len(ring) != len(following):
        raise HandModelError(
            f"expected one opening at the wrist, found a ring of {len(ring)} of {len(following)} edges"
        )
    return kept, np.array(ring)


def _highest_last(faces: Int[np.ndarray, "f 3"], parts: UInt8[np.ndarray, "v"]) -> Int[np.ndarray, "f 3"]:
    """Faces turned so that the last vertex, whose part they have, has the highest: both hands' are then cut alike."""
    first = (parts[faces].argmax(1) + 1) % 3
    return np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)


def _tube(ring: Int[np.ndarray, "r"], first: int, rows: int) -> Int[np.ndarray, "f 3"]:
    """Faces of a tube from ``ring`` through ``rows`` rings of new vertices that begin at ``first``."""
    n = len(ring)
    rings = np.concatenate([ring[None], first + np.arange(rows * n).reshape(rows, n)])
    a, b = rings[:-1], np.roll(rings[:-1], -1, axis=1)
    c, d = rings[1:], np.roll(rings[1:], -1, axis=1)
    return np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])


def _ease(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)
