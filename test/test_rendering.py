"""The renderer against scenes whose picture is known, ray casts, and machines without EGL."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.spatial
import trimesh

from a2p_ros.camera import CameraModel
from a2p_ros.errors import CameraError, InputError, MissingDependencyError
from a2p_ros.hand import load_hand_models
from a2p_ros.rendering.clip import ClipCamera
from a2p_ros.rendering.motion import SHAPES
from a2p_ros.rendering.renderer import Look, Renderer, Surface, vertex_normals
from a2p_ros.rendering.subdivision import Subdivision
from a2p_ros.rendering.views import render_hands_3d

CAMERA = CameraModel(200, 120, 150.0, 140.0, 90.0, 70.0)
#: libglvnd finds no driver then, as on a machine that has none.
NO_DRIVER = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent.json"}


@pytest.fixture(scope="module")
def renderer():
    try:
        made = Renderer(CAMERA.width, CAMERA.height)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with made:
        yield made


def quad(corners: np.ndarray, colour: tuple[float, float, float], id: int) -> Surface:
    """Four corners, clockwise as the camera sees them, which is counter-clockwise with y down turned up."""
    return Surface(np.asarray(corners, float), Look.plain(np.array([[0, 2, 1], [0, 3, 2]]), 4, colour), id)


def facing(x: float, y: float, z: float, half: float, colour: tuple[float, float, float], id: int) -> Surface:
    corners = [[x - half, y - half, z], [x + half, y - half, z], [x + half, y + half, z], [x - half, y + half, z]]
    return quad(np.array(corners), colour, id)


def test_asymmetric_scene(renderer):
    """Red up left, blue down right, green nearer and off both axes: a swap of channels, sides or y shows."""
    red = facing(-0.25, -0.20, 1.0, 0.08, (1.0, 0.0, 0.0), 1)
    blue = facing(0.30, 0.12, 1.0, 0.05, (0.0, 0.0, 1.0), 2)
    green = facing(-0.05, 0.06, 0.5, 0.03, (0.0, 1.0, 0.0), 3)
    image = renderer.render([red, blue, green], CAMERA)
    expected = np.zeros((CAMERA.height, CAMERA.width), np.uint8)
    for surface in (red, blue, green):
        # OpenCV draws the quads from its own projection of the corners.
        px, _ = cv2.projectPoints(surface.vertices, np.zeros(3), np.zeros(3), CAMERA.K, None)
        cv2.fillConvexPoly(expected, np.round(px[:, 0]).astype(np.int32), surface.id)
    inside = cv2.erode(expected, np.ones((3, 3), np.uint8))
    for id, channel in ((1, 0), (3, 1), (2, 2)):
        pixels = image[inside == id]
        assert len(pixels) > 100
        assert pixels[:, channel].min() > 60
        assert np.delete(pixels, channel, axis=1).max() < 60
    near_any = cv2.dilate(expected, np.ones((3, 3), np.uint8)) > 0
    assert image[~near_any].max() == 0


def test_pixel_centres(renderer):
    """A quad over columns 40 to 59 and rows 30 to 44 fills those and no others."""
    z = 0.8
    low = (np.array([39.5, 29.5]) - (CAMERA.cx, CAMERA.cy)) / (CAMERA.fx, CAMERA.fy) * z
    high = (np.array([59.5, 44.5]) - (CAMERA.cx, CAMERA.cy)) / (CAMERA.fx, CAMERA.fy) * z
    corners = [[*low, z], [high[0], low[1], z], [*high, z], [low[0], high[1], z]]
    labels = renderer.labels([quad(np.array(corners), (1, 1, 1), 7)], CAMERA)
    rows, columns = np.nonzero(labels.ids == 7)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (40, 59, 30, 44)
    assert len(rows) == 20 * 15
    np.testing.assert_allclose(labels.depth[labels.ids == 7], z, rtol=1e-5)
    assert np.isinf(labels.depth[labels.ids == 0]).all()


def test_near_surface_hides_far_one_whatever_the_order(renderer):
    far, near = facing(0, 0, 1.0, 0.2, (1, 0, 0), 1), facing(0.02, 0.01, 0.5, 0.03, (0, 0, 1), 2)
    first, second = renderer.labels([far, near], CAMERA), renderer.labels([near, far], CAMERA)
    np.testing.assert_array_equal(first.ids, second.ids)
    assert set(np.unique(first.ids)) == {0, 1, 2}
    assert first.ids[int(CAMERA.cy + 2), int(CAMERA.cx + 6)] == 2


def test_surfaces_are_seen_from_outside_only(renderer):
    seen = facing(0, 0, 0.5, 0.1, (1, 1, 1), 1)
    turned = Surface(seen.vertices, Look.plain(seen.look.faces[:, ::-1], 4, (1, 1, 1)), 1)
    assert (renderer.labels([seen], CAMERA).ids == 1).any()
    assert not (renderer.labels([turned], CAMERA).ids == 1).any()


def ray_depth(ray: np.ndarray, triangles: np.ndarray) -> float:
    """z of the nearest hit of a ray from the origin: solve a + u (b - a) + v (c - a) = t ray for each triangle."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    system = np.stack([b - a, c - a, np.broadcast_to(-ray, a.shape)], axis=2)
    regular = np.abs(np.linalg.det(system)) > 1e-15
    u, v, t = np.linalg.solve(system[regular], -a[regular][..., None])[..., 0].T
    return float(t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)].min() * ray[2])


def test_depth_against_ray_cast(renderer):
    model = load_hand_models().right
    faces = model.faces.numpy()
    turn = cv2.Rodrigues(np.array([0.4, 1.1, -0.7]))[0]
    vertices = model.template.numpy().astype(float) @ turn.T + [0.02, -0.01, 0.35]
    labels = renderer.labels([Surface(vertices, Look.plain(faces, len(vertices), (1, 1, 1)), 5)], CAMERA)
    inside = cv2.erode((labels.ids == 5).astype(np.uint8), np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero(inside)
    chosen = np.random.default_rng(0).choice(len(rows), 60, replace=False)
    pixels = np.stack([columns[chosen], rows[chosen]], 1).astype(float)
    rays = np.concatenate([CAMERA.rays(pixels), np.ones((60, 1))], axis=1)
    nearest = np.array([ray_depth(ray, vertices[faces]) for ray in rays])
    np.testing.assert_allclose(labels.depth[rows[chosen], columns[chosen]], nearest, atol=2e-5)


def test_background_is_kept_where_nothing_is(renderer):
    background = np.random.default_rng(1).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    np.testing.assert_array_equal(renderer.render([], CAMERA, background=background), background)
    image = renderer.render([facing(0.1, 0.1, 0.5, 0.02, (1, 1, 1), 1)], CAMERA, background=background)
    changed = np.argwhere((image != background).any(2))
    x, y = CAMERA.project(np.array([[0.1, 0.1, 0.5]]))[0]
    assert len(changed) > 20
    assert np.abs(changed - [y, x]).max() < 8


def test_refusals(renderer):
    good = facing(0, 0, 0.5, 0.1, (1, 1, 1), 1)
    with pytest.raises(CameraError, match="200 x 120"):
        renderer.render([good], CameraModel(64, 48, 50, 50, 32, 24))
    with pytest.raises(InputError, match="without distortion"):
        renderer.render([good], CameraModel(200, 120, 150, 150, 100, 60, "equidistant", (0.1, 0.0, 0.0, 0.0)))
    with pytest.raises(InputError, match="without distortion"):
        renderer.render([good], CameraModel(200, 120, 150, 150, 100, 60, "plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.02)))
    with pytest.raises(InputError, match=r"background: expected \(120, 200, 3\)"):
        renderer.render([good], CAMERA, background=np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(InputError, match="not all finite"):
        renderer.render([Surface(good.vertices * np.nan, good.look)], CAMERA)
    with pytest.raises(InputError, match="faces name vertices 0 to 9"):
        Look.plain(np.array([[0, 1, 9]]), 4, (1, 1, 1))
    with pytest.raises(InputError, match="image size"):
        Renderer(0, 10)


def test_loop_subdivision_of_an_octahedron():
    """Loop's masks by hand: an edge point is 3/8 (a + b) + 1/8 (c + d), a vertex of valence 4 keeps 1 - 31/64."""
    v = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    f = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    step = Subdivision.of(f, 6)
    fine = step(v)
    assert fine.shape == (18, 3) and step.faces.shape == (32, 3)
    # 5/8 - (3/8 + cos(90 deg) / 4)^2 = 31/64; the four neighbours of a corner average to zero.
    np.testing.assert_allclose(fine[:6], v * (1 - 31 / 64))
    edge = fine[6:]
    np.testing.assert_allclose(np.sort(np.abs(edge), axis=1), np.tile([0, 0.375, 0.375], (12, 1)), atol=1e-12)
    mesh = trimesh.Trimesh(fine, step.faces, process=False)
    assert mesh.is_watertight and mesh.volume > 0


def test_loop_subdivision_keeps_a_straight_border():
    v = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0]], float)
    f = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    fine = Subdivision.of(f, 6)(v)
    assert {tuple(p) for p in fine.round(9)} >= {(0.5, 0.0, 0.0), (1.0, 0.0, 0.0), (1.5, 1.0, 0.0)}


def test_vertex_normals_of_a_sphere():
    sphere = trimesh.creation.icosphere(3, 0.1)
    normals = vertex_normals(sphere.vertices + [0.3, -0.1, 0.5], sphere.faces)
    assert (normals * sphere.vertices).sum(1).min() / 0.1 > 0.999


def test_view_from_the_right_shows_the_right_side_first(renderer):
    """Two balls, the second to the right of the first: from the right it hides it, from above both are seen."""
    ball = trimesh.creation.icosphere(2, 0.03)
    meshes = [ball.vertices + [-0.1, 0, 0.5], ball.vertices + [0.1, 0, 0.5]]
    colours = [(255, 0, 0), (0, 0, 255)]

    def shares(**turn: float) -> tuple[float, float]:
        image = render_hands_3d(
            meshes, [ball.faces] * 2, colours=colours, width=200, height=120, renderer=renderer, **turn
        )
        return tuple(float(((image[..., c] > 60) & (image[..., 2 - c] < 60)).mean()) for c in (0, 2))

    red, blue = shares()
    assert red == pytest.approx(blue, rel=0.1) and red > 0.01
    red, blue = shares(azimuth=np.pi / 2)
    assert red == 0 and blue > 0.01
    lower = [ball.vertices + [0, 0.1, 0.5], ball.vertices + [0, -0.1, 0.5]]
    image = render_hands_3d(
        lower, [ball.faces] * 2, colours=colours, elevation=np.pi / 2, width=200, height=120, renderer=renderer
    )
    assert not ((image[..., 0] > 60) & (image[..., 2] < 60)).any()
    with pytest.raises(InputError, match="as many vertices as faces"):
        render_hands_3d(meshes, [ball.faces])


def test_from_another_thread(renderer):
    from concurrent.futures import ThreadPoolExecutor

    surface = facing(0.05, 0.02, 0.5, 0.05, (1, 0.5, 0), 1)
    here = renderer.render([surface], CAMERA)
    with ThreadPoolExecutor(1) as other:
        np.testing.assert_array_equal(other.submit(renderer.render, [surface], CAMERA).result(), here)


def _without_egl(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **NO_DRIVER}, capture_output=True, text=True, timeout=120
    )


def test_no_driver_is_a_named_error():
    done = _without_egl(
        "from a2p_ros.errors import MissingDependencyError\n"
        "from a2p_ros.rendering import Renderer\n"
        "try:\n    Renderer(64, 48)\n"
        "except MissingDependencyError as e:\n    raise SystemExit(str(e))\n"
    )
    if done.returncode == 0:
        pytest.skip(f"this EGL library does not heed {next(iter(NO_DRIVER))}, so a missing driver cannot be played")
    assert "sudo apt-get install libegl1" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_driver_falls_back_on_the_clip():
    done = _without_egl(
        "import logging; logging.basicConfig(level=logging.WARNING)\n"
        "from a2p_ros.rendering import open_synthetic\n"
        "source = open_synthetic(0, 1280, 720, 30.0)\n"
        "frame = next(iter(source))\n"
        "print(type(source).__name__, frame.image.shape, frame.truth)\n"
    )
    assert done.returncode == 0, done.stderr
    if "SyntheticCamera" in done.stdout:
        pytest.skip(f"this EGL library does not heed {next(iter(NO_DRIVER))}, so a missing driver cannot be played")
    assert done.stdout.split("\n")[0] == "ClipCamera (480, 640, 3) None"
    assert "packaged clip" in done.stderr and "libegl1" in done.stderr


def test_clip_loops():
    with ClipCamera(fps=25.0) as clip:
        frames = []
        for frame in clip:
            frames.append((frame.stamp, cv2.resize(frame.image, (64, 48)).astype(float)))
            if len(frames) == 302:
                break
    stamps = [stamp for stamp, _ in frames]
    np.testing.assert_allclose(np.diff(stamps), 1 / 25)
    # 300 frames make a round: the 301st is the first again, and neighbours across the seam are alike.
    np.testing.assert_array_equal(frames[300][1], frames[0][1])
    steps = [np.abs(a[1] - b[1]).mean() for a, b in itertools.pairwise(frames)]
    assert max(steps) > 0.1
    assert steps[299] < 2 * np.percentile(steps, 95)


def test_shapes_are_within_the_limits():
    from a2p_ros.hand.limits import JOINT_LIMITS

    for name, angles in SHAPES.items():
        assert (angles >= JOINT_LIMITS[..., 0] - 1e-9).all() and (angles <= JOINT_LIMITS[..., 1] + 1e-9).all(), name


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_hands_that_cross_change_places_and_pass_without_contact(seed: int) -> None:
    from a2p_ros.rendering.motion import PASSING, ROUNDS
    from a2p_ros.rendering.synthetic import SyntheticCamera

    with SyntheticCamera(seed, 160, 120, crossing=True) as crossing, SyntheticCamera(seed, 160, 120) as apart:
        length = crossing.loop_frames // ROUNDS
        for number in range(ROUNDS):
            begin, middle = number * length, number * length + length // 2
            for side, hand in crossing.truth(begin).items():
                np.testing.assert_allclose(hand.wrist, apart.truth(begin)[side].wrist, atol=1e-6)
            before, crossed = apart.truth(middle), crossing.truth(middle)
            assert before.left.wrist[0] > 0 > before.right.wrist[0]
            assert crossed.left.wrist[0] < 0 < crossed.right.wrist[0]
            behind = crossed.right.wrist[2] - crossed.left.wrist[2]
            assert behind == pytest.approx(PASSING if number % 2 == 0 else -PASSING, abs=0.01)
        for index in range(0, crossing.loop_frames, 4):
            hands = crossing.truth(index)
            nearest = scipy.spatial.cKDTree(hands.left.vertices).query(hands.right.vertices)[0].min()
            assert nearest > 0.004, f"frame {index}"
