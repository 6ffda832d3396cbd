"""Drawn scenes against what is known of them: sides, colours, directions and order of labels, by independent paths."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from a2p_ros.camera import CameraModel
from a2p_ros.errors import ConfigError
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.limits import JOINT_LIMITS
from a2p_ros.interaction.collision import penetration_depths
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.rendering.hand_mesh import ArmMesh, Sleeve, Watch
from a2p_ros.rendering.renderer import Look, Renderer, Surface
from a2p_ros.training.synthetic import drawing
from a2p_ros.training.synthetic.config import KINDS, SynthConfig
from a2p_ros.training.synthetic.drawing import FrameMaker, Person
from a2p_ros.training.synthetic.pairs import PairPool
from a2p_ros.training.synthetic.placing import Placed, place
from a2p_ros.training.synthetic.poser import PosedArm, Poser
from a2p_ros.training.synthetic.props import make_upper_arm
from a2p_ros.training.synthetic.samples import (
    FOREARM,
    N_PARTS,
    SLEEVE,
    THING_PART,
    Frame,
    ShardWriter,
    part_id,
    read_frames,
)
from a2p_ros.training.synthetic.shapes import SHAPES, WEIGHTS, draw_shape
from a2p_ros.training.synthetic.statistics import facing, overlap_bin, statistics_of
from a2p_ros.types import Box, Pair, Side

CONFIG = SynthConfig(width=320, height=240, held=0, occluded=0, motion_blur=0, defocus=0, people=3, backdrops=3)
LENS = CameraModel(320, 240, 300.0, 306.0, 150.0, 126.0, "plumb_bob", (-0.22, 0.05, 0.002, -0.001))
PINHOLE = CameraModel(320, 240, 300.0, 300.0, 159.5, 119.5)
#: Columns: where a right hand at rest (fingers -x, palm -y, thumb +z) goes when its fingers point up in the image and
#: its palm looks at the camera: x to down, y away from the camera, z (thumb) to the image's right.
PALM_UP = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
MIRROR = np.diag([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def models():
    return load_hand_models()


@pytest.fixture(scope="module")
def poser(models):
    return Poser(models)


@pytest.fixture(scope="module")
def pool():
    """Two flat hands side by side, by hand: a pool needs no more to be drawn from."""
    rotations = np.tile(np.eye(3, dtype=np.float32), (1, 2, 16, 1, 1))
    transl = np.array([[[0.06, 0.0, 0.0], [-0.06, 0.0, 0.0]]], np.float32)
    return PairPool(np.zeros((1, 2, 10), np.float32), rotations, transl, ("by_hand",))


@pytest.fixture(scope="module")
def maker(pool):
    with FrameMaker(CONFIG, pool) as maker:
        maker.frame(0)
        yield maker


def right_hand(poser: Poser, at: tuple[float, float, float], shape: str = "spread") -> PosedArm:
    """A right hand, fingers up and palm to the camera, with its wrist at a point [m] and the elbow below."""
    arm = poser.pose(Side.RIGHT, SHAPES[shape], PALM_UP, np.zeros(10), np.array([0.0, 1.0, 0.0]), shape)
    return arm.moved(np.eye(3), arm.wrist, np.array(at))


def left_hand(poser: Poser, at: tuple[float, float, float], shape: str = "spread") -> PosedArm:
    """The mirror image of ``right_hand``."""
    arm = poser.pose(
        Side.LEFT, SHAPES[shape], MIRROR @ PALM_UP @ MIRROR, np.zeros(10), np.array([0.0, 1.0, 0.0]), shape
    )
    return arm.moved(np.eye(3), arm.wrist, np.array(at))


def draw(maker: FrameMaker, arms: list[PosedArm], camera: CameraModel = PINHOLE, seed: int = 0) -> Frame:
    """A frame of arms that are given."""
    sides = {arm.side: arm for arm in arms}
    placed = Placed(Pair(sides.get(Side.LEFT), sides.get(Side.RIGHT)), camera, "teleoperation")
    assert maker._studio is not None
    return maker._draw(7, "separate", placed, maker._studio[1], np.random.default_rng(seed))[0]


def raster(vertices: np.ndarray, faces: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Silhouette of a mesh by OpenCV alone."""
    distortion = np.array(camera.d) if camera.d else None
    px = cv2.projectPoints(vertices.astype(float), np.zeros(3), np.zeros(3), camera.K, distortion)[0][:, 0]
    out = np.zeros((camera.height, camera.width), np.uint8)
    for corners in np.rint(px[faces] * 16).astype(np.int32):
        cv2.fillConvexPoly(out, corners, 1, cv2.LINE_8, 4)
    return out.astype(bool)


def ray_cast(vertices: np.ndarray, faces: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First hits of rays (x/z, y/z, 1) from the origin: depth [m] (inf) and face, by Moeller and Trumbore."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    depth, face = np.full(len(rays), np.inf), np.full(len(rays), -1)
    for i, ray in enumerate(rays):
        h = np.cross(ray, c - a)
        det = ((b - a) * h).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = (-a * h).sum(1) / det
            q = np.cross(-a, b - a)
            v = (q @ ray) / det
            t = (q * (c - a)).sum(1) / det
        hit = np.flatnonzero((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0))
        if hit.size:
            face[i] = hit[np.argmin(t[hit])]
            depth[i] = t[face[i]]
    return depth, face


def test_sides_directions_and_order_of_an_asymmetric_scene(maker, poser):
    frame = draw(maker, [right_hand(poser, (-0.16, 0.02, 0.6)), left_hand(poser, (0.10, 0.16, 0.8))])
    right, left = frame.hands.right, frame.hands.left
    # In the picture the right hand is left and higher, and nearer, so larger.
    assert right.box.centre[0] < 160 < left.box.centre[0]
    assert right.box.centre[1] < left.box.centre[1]
    assert right.box.size > 1.15 * left.box.size and right.joints[0, 2] < left.joints[0, 2]
    for hand, thumb_to in ((right, 1), (left, -1)):
        points = hand.keypoints_px
        assert all(points[tip, 1] < points[0, 1] for tip in (8, 12, 16, 20))  # fingers up
        order = points[[4, 8, 12, 16, 20], 0] * thumb_to
        assert (np.diff(order) < 0).all()  # thumb to little finger, from the thumb's side
        assert hand.visible.all() and hand.visible_share == 1.0
    # The masks lie under the labels, with the numbers of their sides and parts.
    for hand in (right, left):
        for k, part in ((0, {0, FOREARM}), (4, {15}), (8, {3}), (12, {6}), (16, {12}), (20, {9}), (9, {0, 4})):
            x, y = np.rint(hand.keypoints_px[k]).astype(int)
            around = frame.parts[y - 1 : y + 2, x - 1 : x + 2]
            assert set(around.ravel().tolist()) & {part_id(hand.side, p) for p in part}, (hand.side, k)
    assert frame.parts[2, 2] == 0 and np.isinf(frame.depth[2, 2])
    np.testing.assert_allclose(frame.relative_translation, [0.26, 0.14, 0.2], atol=1e-6)


def test_colours_keep_their_channels_from_the_scene_to_the_shard(maker, poser, models, tmp_path, monkeypatch):
    studio = maker._studio[1]
    skin = studio.people[0].arms.right._skin
    textures = drawing.SkinTextures(*(np.full((8, 8, 4), 128, np.uint8) for _ in range(2)))
    assert skin.textures is not None
    arms = Pair(
        *(
            ArmMesh(models[side], textures, (0.7, 0.15, 0.05), Sleeve(0.08, (0.02, 0.05, 0.8)), parts=True)
            for side in Side
        )
    )
    monkeypatch.setattr(studio, "people", [Person(arms, make_upper_arm((0.02, 0.05, 0.8), bare=False))])
    monkeypatch.setattr(studio, "backdrops", [np.full((400, 500, 3), (20, 160, 40), np.uint8)])
    # White balance may tint, and some cameras are grey: several frames, the grey ones apart.
    checked = 0
    for seed in range(6):
        with ShardWriter(tmp_path / f"{seed}.tar") as writer:
            writer.write(draw(maker, [right_hand(poser, (-0.05, 0.03, 0.5))], seed=seed))
        (frame,) = read_frames(tmp_path / f"{seed}.tar", maps=True)
        inner = cv2.erode((frame.parts > 0).astype(np.uint8), np.ones((5, 5))) > 0
        hand = inner & (frame.parts == part_id(Side.RIGHT, 0))
        sleeve = inner & (frame.parts == part_id(Side.RIGHT, SLEEVE))
        outer = cv2.dilate((frame.parts > 0).astype(np.uint8), np.ones((9, 9))) == 0
        skin_rgb, cloth, wall = (frame.image[mask].astype(float).mean(0) for mask in (hand, sleeve, outer))
        if np.ptp(wall) < 8:
            continue
        checked += 1
        assert skin_rgb[0] > skin_rgb[1] + 20 and skin_rgb[0] > skin_rgb[2] + 20
        assert cloth[2] > cloth[0] + 20 and cloth[2] > cloth[1] + 20
        assert wall[1] > wall[0] + 20 and wall[1] > wall[2] + 20
        crop = frame.crops.right
        x, y = crop.crop.to_crop(frame.hands.right.keypoints_px[9])
        assert np.argmax(crop.image[int(y), int(x)]) == 0
    assert checked >= 4


def test_a_mirrored_scene_has_mirrored_maps(maker, poser):
    right = draw(maker, [right_hand(poser, (-0.06, 0.04, 0.5), "point")])
    left = draw(maker, [left_hand(poser, (0.06, 0.04, 0.5), "point")])
    # A person may wear a watch, and wears it on one arm.
    known = (right.parts > 0) & (right.parts != THING_PART) & (np.fliplr(left.parts) != THING_PART)
    # Pixels on edges may fall either way.
    same = np.fliplr(left.parts) + N_PARTS * np.fliplr(left.parts > 0) == right.parts
    assert same[known].mean() > 0.98 and known.sum() > 2500
    both = known & np.fliplr(left.parts > 0)
    assert np.median(np.abs(np.fliplr(left.depth)[both] - right.depth[both])) < 1e-4


@pytest.mark.parametrize("camera", [PINHOLE, LENS], ids=["pinhole", "lens"])
def test_labels_by_opencv_and_by_ray_casting(maker, poser, models, camera):
    arms = [right_hand(poser, (-0.08, 0.06, 0.45), "pinch"), left_hand(poser, (0.11, 0.0, 0.55), "count_three")]
    frame = draw(maker, arms, camera)
    distortion = np.array(camera.d) if camera.d else None
    for side, hand in frame.hands.items():
        px = cv2.projectPoints(hand.joints.astype(float), np.zeros(3), np.zeros(3), camera.K, distortion)[0][:, 0]
        np.testing.assert_allclose(hand.keypoints_px, px, atol=2e-3)
        model = models[side]
        vertices, faces = hand.vertices(model).astype(float), model.faces.numpy()
        own = (frame.parts >= part_id(side, 0)) & (frame.parts < part_id(side, FOREARM))
        silhouette = raster(vertices, faces, camera)
        y, x = np.nonzero(silhouette)
        assert np.abs(np.array(hand.box) - (x.min(), y.min(), x.max(), y.max())).max() <= 1.5
        # The cap that closes the model's wrist is open here, where the forearm begins.
        inner = cv2.erode(own.astype(np.uint8), np.ones((3, 3))) > 0
        assert (silhouette & inner).sum() == inner.sum()
        ys, xs = (v[:: max(1, inner.sum() // 250)] for v in np.nonzero(inner))
        pixels = np.stack([xs, ys], 1).astype(float)
        rays = cv2.undistortPoints(pixels[:, None], camera.K, distortion)[:, 0]
        depth, face = ray_cast(vertices, faces, np.column_stack([rays, np.ones(len(rays))]))
        error = np.abs(frame.depth[ys, xs] - depth)
        assert np.median(error) < 2e-4 and np.percentile(error, 95) < 1e-3
        # Each pixel has the part of a corner of the face that its ray meets.
        moved_by = model.weights.numpy().argmax(1)
        part = frame.parts[ys, xs] - part_id(side, 0)
        assert np.mean([p in moved_by[faces[f]] for p, f in zip(part, face, strict=True)]) > 0.95


def test_the_renderer_bends_as_opencv_does():
    spots = np.array([(x, y, 1.0) for x in (-0.42, -0.2, 0.0, 0.25, 0.44) for y in (-0.34, 0.0, 0.3)])
    square = 0.006 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    look = Look.plain(np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0], [3, 2, 0]]), 4, (1, 1, 1))
    surfaces = [Surface(spot + square, look, id=i + 1) for i, spot in enumerate(spots)]
    with Renderer(320, 240, samples=0) as renderer:
        ids = renderer.labels(surfaces, LENS).ids
    expected = cv2.projectPoints(spots, np.zeros(3), np.zeros(3), LENS.K, np.array(LENS.d))[0][:, 0]
    for i, point in enumerate(expected):
        y, x = np.nonzero(ids == i + 1)
        assert np.hypot(x.mean() - point[0], y.mean() - point[1]) < 0.6


def test_the_rear_hand_is_hidden_where_the_front_hand_is(maker, poser, models):
    front, rear = right_hand(poser, (-0.01, 0.06, 0.40)), left_hand(poser, (0.05, 0.08, 0.55))
    frame = draw(maker, [front, rear])
    covers = raster(front.vertices, models.right.faces.numpy(), PINHOLE)
    behind = raster(rear.vertices, models.left.faces.numpy(), PINHOLE)
    arm = frame.parts == part_id(Side.RIGHT, FOREARM)
    cloth = np.isin(frame.parts, [part_id(Side.RIGHT, SLEEVE), THING_PART])
    expected = 1 - (behind & (covers | arm | cloth)).sum() / behind.sum()
    assert 0.2 < expected < 0.8
    assert frame.hands.left.visible_share == pytest.approx(expected, abs=0.03)
    assert frame.hands.right.visible_share == 1.0 and frame.hands.right.visible.all()
    inside = cv2.erode((covers | arm | cloth).astype(np.uint8), np.ones((5, 5))) > 0
    outside = cv2.dilate((covers | arm | cloth).astype(np.uint8), np.ones((5, 5))) == 0
    x, y = np.rint(rear_px := frame.hands.left.keypoints_px).astype(int).T
    within = (rear_px > 0).all(1) & (rear_px < (319, 239)).all(1)
    x, y = x.clip(0, 319), y.clip(0, 239)
    assert not frame.hands.left.visible[within & inside[y, x]].any() and (within & inside[y, x]).sum() >= 5
    assert frame.hands.left.visible[within & outside[y, x]].all() and (within & outside[y, x]).sum() >= 2


def test_folded_fingers_are_hidden_behind_the_hand(maker, poser):
    turned = right_hand(poser, (0.0, 0.05, 0.45), "fist")
    half_turn = np.diag([-1.0, 1.0, -1.0])
    back = turned.moved(half_turn, turned.wrist, turned.wrist)
    hand = draw(maker, [back]).hands.right
    assert hand.visible[[5, 9, 13, 17]].all()
    assert not hand.visible[[8, 12, 16, 20]].any()


def test_what_leaves_the_picture_is_clipped(maker, poser):
    frame = draw(maker, [right_hand(poser, (-0.27, 0.05, 0.5))])
    hand = frame.hands.right
    assert hand.box.x0 == -0.5 and hand.box.x1 < 120
    out = hand.keypoints_px[:, 0] < -0.5
    assert out.any() and not hand.visible[out].any()


def test_a_left_crop_is_mirrored_and_cut_as_the_node_cuts(maker, poser):
    frame = draw(maker, [right_hand(poser, (-0.14, 0.05, 0.6)), left_hand(poser, (0.12, 0.08, 0.6))])
    for side, cropped in frame.crops.items():
        assert cropped.crop.mirrored == (side is Side.LEFT)
        assert cropped.image.shape == (128, 128, 3)
        plain = replace(cropped.crop, mirrored=False).extract(frame.image)
        flipped = plain[:, ::-1] if side is Side.LEFT else plain
        assert np.abs(cropped.image.astype(int) - flipped).max() <= 4  # OpenCV interpolates in fixed point
        points = cropped.crop.to_crop(frame.hands[side].keypoints_px)
        # Upright within what tracking is off, and both look like a right hand: thumb right of the little finger.
        dx, dy = points[9] - points[0]
        assert abs(np.degrees(np.arctan2(dx, -dy))) < 35 and points[4, 0] > points[20, 0]
        assert (points > 0).all() and (points < 128).all()


def test_shapes_are_within_what_joints_can_do():
    rng = np.random.default_rng(3)
    for name in WEIGHTS:
        for _ in range(5):
            got, angles = draw_shape(rng, name)
            assert got == name
            assert (angles >= JOINT_LIMITS[..., 0] - 1e-6).all() and (angles <= JOINT_LIMITS[..., 1] + 1e-6).all()
    first, second = (draw_shape(np.random.default_rng(8)) for _ in range(2))
    assert first[0] == second[0] and np.array_equal(first[1], second[1])


@pytest.mark.parametrize("kind", KINDS)
def test_placed_hands(kind, poser, pool, models):
    meshes = Pair(*(CollisionMesh.from_model(models[side]) for side in Side))
    count = {"single": 1, "none": 0}.get(kind, 2)
    ious = []
    for i in range(12):
        placed = place(kind, CONFIG, poser, pool, np.random.default_rng([4, i]))
        arms = [arm for _, arm in placed.arms.items() if arm is not None]
        assert len(arms) == count
        for arm in arms:
            px = placed.camera.project(arm.joints)
            assert ((px > -0.5).all(1) & (px < (319.5, 239.5)).all(1)).sum() >= 8
        if kind in ("crossing", "separate"):
            vertices = Pair(*(torch.from_numpy(placed.arms[side].vertices).float()[None] for side in Side))
            depths = penetration_depths(meshes, vertices)
            assert max(float(depths.left.max()), float(depths.right.max())) == 0
        if count == 2:
            ious.append(
                Box.around(placed.camera.project(arms[0].joints)).iou(Box.around(placed.camera.project(arms[1].joints)))
            )
    if kind == "crossing":
        assert np.mean(np.array(ious) > 0.05) > 0.6


def test_the_person_is_on_the_right_side_of_the_camera(poser, pool):
    """Before a person the right hand is in the left half of the picture, from the person's head in the right half."""
    for view, sign in (("teleoperation", 1), ("egocentric", -1)):
        config = replace(CONFIG, view=view)
        gaps = []
        for i in range(30):
            placed = place("interacting", config, poser, pool, np.random.default_rng([6, i]))
            ray = [placed.arms[side].wrist[0] / placed.arms[side].wrist[2] for side in Side]
            gaps.append(ray[0] - ray[1])
        assert np.mean(np.sign(gaps) == sign) > 0.75


def test_statistics_tell_sides_and_overlaps(maker, poser):
    frame = draw(maker, [right_hand(poser, (-0.16, 0.05, 0.6)), left_hand(poser, (0.12, 0.05, 0.6))])
    assert facing(frame.hands.right) == facing(frame.hands.left) == "palm"
    arm = right_hand(poser, (0.0, 0.05, 0.6))
    for degrees, name in ((180, "back"), (90, "thumb edge"), (-90, "little edge")):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = arm.moved(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), arm.wrist, arm.wrist)
        seen = turned.joints[9] + 0.05 * turned.rotations[0] @ [0, 0, 1]
        assert facing(draw(maker, [turned]).hands.right) == name, seen
    assert [overlap_bin(v) for v in (0, 0.2, 0.4, 0.9)] == ["0", "0-0.3", "0.3-0.6", "0.6-1"]
    summary = statistics_of([frame])
    assert summary["hands"] == {"left": 1, "right": 1} and summary["overlap"]["0"] == 1
    assert summary["visible_share"]["p50"] == 1.0


def test_a_watch_and_a_sleeve_lie_on_the_arm(models):
    textures = drawing.SkinTextures(*(np.full((8, 8, 4), 128, np.uint8) for _ in range(2)))
    arm = ArmMesh(models.right, textures, (0.5, 0.3, 0.2), Sleeve(0.12), Watch(0.045), parts=True)
    out = models.right.forward(torch.zeros(1, 10), torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 3))
    vertices, wrist = out.vertices[0].double().numpy(), out.joints[0, 0].double().numpy()
    skin, sleeve, watch = arm.surfaces(
        vertices,
        np.eye(3),
        wrist,
        np.array([1.0, 0, 0]),
        id=1,
        spheres=np.zeros((0, 4)),
        key_direction=np.array([0, 1.0, 0]),
    )
    for cover, low, high in ((sleeve, 0.10, 0.75), (watch, 0.02, 0.08)):
        along = cover.vertices[:, 0] - wrist[0]
        assert low < along.min() and along.max() < high
        # Round the arm everywhere: farther out than the skin at the same place and angle, but by little.
        inner = skin.vertices - wrist
        angle, radius = np.arctan2(inner[:, 1], inner[:, 2]), np.hypot(inner[:, 1], inner[:, 2])
        points = cover.vertices[along < 0.4] - wrist  # farther up both are closed
        for point in points[:: len(points) // 40]:
            apart = np.angle(np.exp(1j * (angle - np.arctan2(point[1], point[2]))))
            near = np.argmin(((inner[:, 0] - point[0]) / 0.05) ** 2 + (apart / 0.3) ** 2)
            assert -0.004 < np.hypot(point[1], point[2]) - radius[near] < 0.022


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"interacting \+ crossing .* = 1, got .* = 1\.1"):
        SynthConfig(interacting=0.5)
    with pytest.raises(ConfigError, match="unknown option of a scene colour; known are seed, width"):
        SynthConfig.of({"colour": 1})
    with pytest.raises(ConfigError, match=r"width: expected a value in \[64, 4096\], got 8"):
        SynthConfig.of({"width": 8})
