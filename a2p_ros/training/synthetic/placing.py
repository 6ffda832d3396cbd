"""Where hands are and what they do: from a seed to posed arms in front of a camera.

Camera frame (x right, y down, z forward) [m]. A person who faces the camera has the right hand in the left half of the
picture; from the person's own head it is in the right half.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.errors import CameraError
from a2p_ros.rotations import axis_angle_to_matrix, rotation_between
from a2p_ros.training.synthetic.config import SynthConfig
from a2p_ros.training.synthetic.pairs import PairPool
from a2p_ros.training.synthetic.poser import PosedArm, Poser, gap
from a2p_ros.training.synthetic.shapes import draw_shape
from a2p_ros.types import Pair, Side

#: Shares of the views in a mix, and of the palm, the back and either edge towards the camera in each.
VIEWS = {"teleoperation": 0.5, "egocentric": 0.3, "any": 0.2}
_FACING = {"teleoperation": (0.40, 0.30, 0.30), "egocentric": (0.15, 0.50, 0.35)}
#: The elbow's least depth [m]: a forearm that reaches the camera would fill the picture.
_NEAREST = 0.12
#: A hand with fewer joints than this in the picture is not in it.
_JOINTS_INSIDE = 8
#: Hands that do not touch are at least this far apart [m].
_APART = 0.005
_TRIES = 40


class Placed(NamedTuple):
    """Arms in front of a camera; ``view`` is one of ``VIEWS``."""

    arms: Pair[PosedArm | None]
    camera: CameraModel
    view: str


def draw_camera(config: SynthConfig, view: str, rng: np.random.Generator) -> CameraModel:
    """Intrinsics as webcams, depth cameras and head cameras have them, half of them with distortion."""
    low, high = (0.9, 1.75) if view == "egocentric" else (0.7, 1.4)
    fov = rng.uniform(low, high)
    fx = config.width / 2 / math.tan(fov / 2)
    fy = fx * (1 + rng.normal(0, 0.006))
    cx = (config.width - 1) / 2 + rng.normal(0, 0.015) * config.width
    cy = (config.height - 1) / 2 + rng.normal(0, 0.015) * config.height
    bent = rng.random() < config.distorted
    k1, k2 = rng.uniform(-0.28, 0.08), rng.uniform(-0.02, 0.08)
    p1, p2 = rng.normal(0, 0.001, 2)
    if bent:
        try:
            return CameraModel(config.width, config.height, fx, fy, cx, cy, "plumb_bob", (k1, k2, p1, p2))
        except CameraError:  # too strong for so wide a lens: it would fold the picture
            pass
    return CameraModel(config.width, config.height, fx, fy, cx, cy)


def place(kind: str, config: SynthConfig, poser: Poser, pool: PairPool, rng: np.random.Generator) -> Placed:
    """Arms of a scene of one kind of ``config.KINDS``."""
    for _ in range(_TRIES):
        view = config.view
        if view == "mixed":
            view = str(rng.choice(list(VIEWS), p=list(VIEWS.values())))  # type: ignore[assignment]
        camera = draw_camera(config, view, rng)
        if kind == "none":
            return Placed(Pair(None, None), camera, view)
        arms = _arms(kind, config, poser, pool, camera, view, rng)
        if arms is not None and all(_inside(arm, camera) for _, arm in arms.items() if arm is not None):
            return Placed(arms, camera, view)
    # Every constraint failed many times over: a scene without hands is a rare, but a correct one.
    return Placed(Pair(None, None), camera, view)


def _arms(
    kind: str,
    config: SynthConfig,
    poser: Poser,
    pool: PairPool,
    camera: CameraModel,
    view: str,
    rng: np.random.Generator,
) -> Pair[PosedArm | None] | None:
    """Arms, or None where these could not be placed."""
    cut = rng.random() < config.truncated
    size = float(np.exp(rng.triangular(math.log(0.15), math.log(0.45), math.log(0.95))))
    if kind == "interacting":
        both = _interacting(poser, pool, view, rng)
        centre = np.concatenate([both.left.joints, both.right.joints]).mean(0)
        radius = max(float(np.linalg.norm(arm.joints - centre, axis=1).max()) for _, arm in both.items())
        depth = _depth(radius, 1.15 * size, camera)
        to = _point(camera, radius / depth, depth, cut, rng)
        return Pair(*(_turned_to(arm, centre, to) for _, arm in both.items()))
    betas = rng.normal(0, 0.8, 10).clip(-2, 2)
    if kind == "single":
        side = Side.LEFT if rng.random() < 0.5 else Side.RIGHT
        arm = _hand(side, poser, betas, view, rng)
        centre, radius = _extent(arm)
        depth = _depth(radius, size, camera)
        arm = _turned_to(arm, centre, _point(camera, radius / depth, depth, cut, rng))
        return Pair(arm, None) if side is Side.LEFT else Pair(None, arm)
    first = Side.LEFT if rng.random() < 0.5 else Side.RIGHT
    a, b = _hand(first, poser, betas, view, rng), _hand(first.other, poser, betas, view, rng)
    (centre_a, radius_a), (centre_b, radius_b) = _extent(a), _extent(b)
    if kind == "separate":
        depths = _depth(radius_a, 0.8 * size, camera) * np.exp(rng.normal(0, 0.12, 2))
        points = []
        for side, radius, depth in ((first, radius_a, depths[0]), (first.other, radius_b, depths[1])):
            on_the_right = (side is Side.LEFT) == (view == "teleoperation")
            half = None if rng.random() < 0.2 else on_the_right
            points.append(_point(camera, radius / depth, depth, cut, rng, half))
        a, b = _turned_to(a, centre_a, points[0]), _turned_to(b, centre_b, points[1])
        return _pair(a, b) if _apart(a, b) else None
    # Crossing: the second hand stands before or behind the first, near the same ray.
    depth = _depth(radius_a, size, camera)
    at = _point(camera, radius_a / depth, depth, cut, rng)
    a = _turned_to(a, centre_a, at)
    behind = rng.choice([-1.0, 1.0])
    away = rng.uniform(0.02, 0.06)
    shift = rng.normal(0, rng.choice([0.12, 0.5]), 2) * radius_b
    for _ in range(10):
        z = at[2] + behind * away
        if z < 0.14:
            return None
        moved = _turned_to(b, centre_b, np.array([*(at[:2] / at[2] * z + shift), z]))
        if _apart(a, moved):
            return _pair(a, moved)
        away += 0.02
    return None


def _apart(a: PosedArm, b: PosedArm) -> bool:
    """Whether two arms are clear of each other: forearms by spheres, hands, which spheres do not fill, by vertices."""
    if gap(a.spheres(whole=True), b.spheres(whole=True)) < _APART:
        return False
    one, other = a.vertices[::3] - a.wrist, b.vertices[::3] - a.wrist
    squared = (one * one).sum(1)[:, None] + (other * other).sum(1) - 2 * one @ other.T
    return float(squared.min()) > (2 * _APART) ** 2


def _pair(a: PosedArm, b: PosedArm) -> Pair[PosedArm | None]:
    return Pair(a, b) if a.side is Side.LEFT else Pair(b, a)


def _extent(arm: PosedArm) -> tuple[Float[np.ndarray, "3"], float]:
    centre = (arm.joints.min(0) + arm.joints.max(0)) / 2
    return centre, float(np.linalg.norm(arm.joints - centre, axis=1).max())


def _depth(radius: float, share: float, camera: CameraModel) -> float:
    """Depth [m] at which a ball fills a share of the picture's height."""
    return float(np.clip(2 * radius * camera.fy / (share * camera.height), 0.17, 2.2))


def _point(
    camera: CameraModel,
    angular: float,
    depth: float,
    cut: bool,
    rng: np.random.Generator,
    right_half: bool | None = None,
) -> Float[np.ndarray, "3"]:
    """A point at a depth, drawn evenly over the picture; unless ``cut`` a ball of that angular radius fits there."""
    margin = 0.0 if cut else 0.85 * angular * camera.fx
    w, h = camera.width, camera.height
    margin_x, margin_y = min(margin, 0.45 * w), min(margin, 0.45 * h)
    low, high = margin_x, w - margin_x
    if right_half is not None:
        low, high = (max(low, w / 2), max(high, w / 2 + 1)) if right_half else (min(low, w / 2 - 1), min(high, w / 2))
    px = np.array([[rng.uniform(low, high), rng.uniform(margin_y, h - margin_y)]])
    return np.append(camera.rays(px)[0], 1.0) * depth


def _turned_to(arm: PosedArm, centre: np.ndarray, to: np.ndarray) -> PosedArm:
    """Moved so that the picture at ``to`` shows it from the side that the optical axis would."""
    return arm.moved(rotation_between(np.array([0.0, 0.0, 1.0]), to / np.linalg.norm(to)), centre, to)


def _inside(arm: PosedArm, camera: CameraModel) -> bool:
    if arm.elbow_depth() < _NEAREST or arm.joints[:, 2].min() < 0.1:
        return False
    px = camera.project(arm.joints)
    within = (px > -0.5).all(1) & (px < (camera.width - 0.5, camera.height - 0.5)).all(1)
    return int(within.sum()) >= _JOINTS_INSIDE


def _elbow(side: Side, view: str, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Direction from wrist to elbow in the camera frame."""
    right = side is Side.RIGHT
    if view == "teleoperation":
        out = -1.0 if right else 1.0
        if rng.random() < 0.2:
            towards = [out * rng.uniform(0.5, 1.0), rng.normal(0.15, 0.3), rng.normal(0.25, 0.3)]
        else:
            towards = [out * rng.normal(0.25, 0.35), rng.uniform(0.45, 1.0), rng.normal(0.25, 0.35)]
    elif view == "egocentric":
        out = 1.0 if right else -1.0
        towards = [out * rng.normal(0.35, 0.35), rng.uniform(0.4, 1.0), -rng.uniform(0.1, 0.9)]
    else:
        towards = list(rng.normal(size=3))
    return np.asarray(towards) / np.linalg.norm(towards)


def _hand(side: Side, poser: Poser, betas: np.ndarray, view: str, rng: np.random.Generator) -> PosedArm:
    """One hand with its wrist in the origin."""
    elbow = _elbow(side, view, rng)
    fingers = -elbow
    # Palm towards the camera, as far as the forearm lets it.
    palm = np.array([0.0, 0.0, -1.0]) + fingers * fingers[2]
    if np.linalg.norm(palm) < 0.2:
        palm = np.cross(fingers, [1.0, 0.0, 0.0])
    palm /= np.linalg.norm(palm)
    # Columns are where the rest hand's x (from the fingers on a right hand), y (out of the back) and z go.
    x = fingers if side is Side.LEFT else -fingers
    arm = np.stack([x, -palm, np.cross(x, -palm)], axis=1)
    if view == "any":
        turn = rng.uniform(-np.pi, np.pi)
    else:
        towards = rng.choice([0.0, np.pi, np.pi / 2], p=_FACING[view])
        turn = towards * rng.choice([-1.0, 1.0]) + rng.normal(0, 0.35)
    # Wrists bend most to the palm and the back, and less to thumb and little finger.
    bend = np.array([0.0, 0.17, 0.38]) * rng.normal(size=3).clip(-2, 2)
    orient = axis_angle_to_matrix(elbow * turn) @ arm @ axis_angle_to_matrix(bend)
    name, angles = draw_shape(rng)
    return poser.pose(side, angles, orient, betas, elbow, name)


def _interacting(poser: Poser, pool: PairPool, view: str, rng: np.random.Generator) -> Pair[PosedArm]:
    """A pair of the pool, seen as the view has it, each forearm bent away from the other hand."""
    chosen = int(rng.integers(len(pool)))
    kind = pool.kinds[chosen]
    arms = []
    for i, side in enumerate(Side):
        rotations = pool.rotations[chosen, i].astype(np.float64)
        straight = rotations[0] @ ([-1.0, 0.0, 0.0] if side is Side.LEFT else [1.0, 0.0, 0.0])
        arms.append(
            poser.from_parameters(
                side, rotations, pool.betas[chosen, i], pool.transl[chosen, i].astype(np.float64), straight, kind
            )
        )
    arms = [_bent(arm, other, rng) for arm, other in ((arms[0], arms[1]), (arms[1], arms[0]))]
    turn = _pair_view(Pair(arms[0], arms[1]), view, rng)
    return Pair(*(arm.moved(turn, np.zeros(3), np.zeros(3)) for arm in arms))


def _bent(arm: PosedArm, other: PosedArm, rng: np.random.Generator) -> PosedArm:
    """With the forearm, of several that the wrist allows, that keeps farthest from the other hand and forearm."""
    best, farthest = arm.forearm, -np.inf
    blocked = other.spheres(whole=True)
    along = np.array([0.06, 0.10, 0.15, 0.22, 0.30])
    for attempt in range(6):
        axis = arm.forearm + (rng.normal(0, 0.3, 3) if attempt else 0.0)
        axis = axis / np.linalg.norm(axis)
        points = arm.wrist + along[:, None] * axis
        apart = np.linalg.norm(points[:, None] - blocked[None, :, :3], axis=-1) - blocked[:, 3]
        # Beyond a hand's width more distance is no better.
        clear = min(float(apart.min()), 0.10)
        if clear > farthest + 1e-9:
            best, farthest = axis, clear
    return PosedArm(**{**arm.__dict__, "forearm": best})


def _pair_view(pair: Pair[PosedArm], view: str, rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Rotation into the camera frame that puts the elbows where the view has them."""
    anyhow = axis_angle_to_matrix(_random_vector(rng))
    down = pair.left.forearm + pair.right.forearm
    across = pair.left.wrist - pair.right.wrist
    length = np.linalg.norm(down)
    if view == "any" or length < 0.3:
        return anyhow
    down = down / length
    across = across + 0.06 * (pair.left.forearm - pair.right.forearm)
    across = across - down * (across @ down)
    if np.linalg.norm(across) < 0.01:
        return anyhow
    across /= np.linalg.norm(across)
    # The mean elbow is below and behind the hands, or below and at the head; left is where the person's left is.
    if view == "teleoperation":
        to_down, to_across = np.array([rng.normal(0, 0.3), 1.0, rng.normal(0.3, 0.4)]), np.array([1.0, 0.0, 0.0])
    else:
        to_down, to_across = np.array([rng.normal(0, 0.3), 0.8, rng.uniform(-0.9, 0.0)]), np.array([-1.0, 0.0, 0.0])
    to_down /= np.linalg.norm(to_down)
    to_across = to_across - to_down * (to_across @ to_down)
    to_across /= np.linalg.norm(to_across)
    source = np.stack([down, across, np.cross(down, across)], 1)
    target = np.stack([to_down, to_across, np.cross(to_down, to_across)], 1)
    return axis_angle_to_matrix(0.35 * _random_vector(rng) / np.pi * rng.uniform(0.3, 2.0)) @ target @ source.T


def _random_vector(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Rotation vector of a rotation drawn evenly."""
    q = rng.normal(size=4)
    q /= np.linalg.norm(q)
    angle = 2 * np.arctan2(np.linalg.norm(q[1:]), q[0])
    return q[1:] / max(float(np.linalg.norm(q[1:])), 1e-12) * angle
