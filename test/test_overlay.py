from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from scripted import CAMERA, HEIGHT, WIDTH, placed_hand, two_hands

from a2p_ros.camera import CameraModel
from a2p_ros.colours import HAND_COLOURS
from a2p_ros.errors import InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.rendering.overlay import Mesh, OverlayInfo, draw_hands
from a2p_ros.types import Box, Pair, Side


@pytest.fixture(scope="module")
def hands():
    return placed_hand(Side.LEFT, (-0.15, 0.08, 0.5)), placed_hand(Side.RIGHT, (0.14, 0.1, 0.45))


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 96, np.uint8)


def near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    """Which pixels have that colour."""
    return (np.abs(image.astype(int) - colour) <= tolerance).all(-1)


def test_each_hand_is_drawn_in_its_colour_where_it_is(hands, grey) -> None:
    (left, _), (right, _) = hands
    drawn = draw_hands(grey, two_hands(left, right))
    for hand, colour in ((left, HAND_COLOURS.left), (right, HAND_COLOURS.right)):
        ys, xs = np.nonzero(near(drawn, colour))
        assert len(xs) > 200
        assert hand.box.x0 - 12 <= xs.min() and xs.max() <= hand.box.x1 + 12
        assert hand.box.y0 - 12 <= ys.min() and ys.max() <= hand.box.y1 + 12
        for x, y in np.round(hand.keypoints_px[1:]).astype(int):
            assert near(drawn, colour)[y - 2 : y + 3, x - 2 : x + 3].any(), "each joint is marked"


def test_the_image_given_is_not_changed(hands, grey) -> None:
    before = grey.copy()
    drawn = draw_hands(grey, two_hands(hands[0][0], hands[1][0]))
    assert drawn.shape == grey.shape and drawn.dtype == np.uint8 and not np.shares_memory(drawn, grey)
    np.testing.assert_array_equal(grey, before)


def test_a_missing_hand_leaves_its_half_untouched(hands, grey) -> None:
    drawn = draw_hands(grey, two_hands(None, hands[1][0]))
    np.testing.assert_array_equal(drawn[60:, : WIDTH // 3], grey[60:, : WIDTH // 3])
    assert not near(drawn, HAND_COLOURS.left).any()


def test_the_mesh_covers_the_silhouette(hands, grey) -> None:
    (left, vertices), _ = hands
    faces = load_hand_models().left.faces.numpy()
    plain = draw_hands(grey, two_hands(left, None))
    drawn = draw_hands(grey, two_hands(left, None), meshes=Pair(Mesh(vertices, faces), None), camera=CAMERA)
    changed = (plain != drawn).any(-1)
    px = np.round(CAMERA.project(vertices)).astype(int)
    assert changed[px[:, 1], px[:, 0]].mean() > 0.85
    _, xs = np.nonzero(changed)
    assert px[:, 0].min() - 3 <= xs.min() and xs.max() <= px[:, 0].max() + 3
    blue = drawn[changed].astype(int)
    assert (blue[:, 2] > blue[:, 0]).mean() > 0.95, "the left hand is blue"


def test_the_near_mesh_covers_the_far_one(grey) -> None:
    left, left_vertices = placed_hand(Side.LEFT, (0.0, 0.08, 0.7))
    right, right_vertices = placed_hand(Side.RIGHT, (0.0, 0.08, 0.4))
    models = load_hand_models()
    meshes = Pair(Mesh(left_vertices, models.left.faces.numpy()), Mesh(right_vertices, models.right.faces.numpy()))
    blank = dataclasses.replace(left, keypoints_px=np.full((21, 2), -500.0), box=Box(-9, -9, -5, -5))
    blank_right = dataclasses.replace(right, keypoints_px=np.full((21, 2), -500.0), box=Box(-9, -9, -5, -5))
    drawn = draw_hands(grey, two_hands(blank, blank_right), meshes=meshes, camera=CAMERA)
    x, y = np.round(CAMERA.project(right.joints[9:10] * 0.5 + right.joints[:1] * 0.5)[0]).astype(int)
    red, _, blue = drawn[y, x].astype(int)
    assert red > blue, "the right hand is in front and orange"


def test_text_says_side_distance_and_assumed_camera(hands, grey) -> None:
    with_warning = draw_hands(grey, two_hands(hands[0][0], None), info=OverlayInfo(fps=30.0, assumed_camera=True))
    without = draw_hands(grey, two_hands(hands[0][0], None), info=OverlayInfo(fps=30.0))
    assert (with_warning[:50] != without[:50]).any()
    np.testing.assert_array_equal(with_warning[50:], without[50:])


@pytest.mark.parametrize("keypoint", [(np.nan, np.nan), (1e9, -1e9), (np.inf, 3.0)])
def test_wild_numbers_do_not_crash_it(hands, grey, keypoint) -> None:
    px = hands[0][0].keypoints_px.copy()
    px[4] = keypoint
    wild = dataclasses.replace(hands[0][0], keypoints_px=px, box=Box(np.nan, 0, np.inf, 5))
    assert draw_hands(grey, two_hands(wild, None)).shape == grey.shape


def test_a_mesh_behind_the_camera_is_left_out(hands, grey) -> None:
    (left, vertices), _ = hands
    mesh = Mesh(vertices - (0, 0, 1.0), load_hand_models().left.faces.numpy())
    drawn = draw_hands(grey, two_hands(left, None), meshes=Pair(mesh, None), camera=CAMERA)
    np.testing.assert_array_equal(drawn, draw_hands(grey, two_hands(left, None)))


@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (2160, 3840)])
def test_any_size_of_image(hands, shape) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    model = CameraModel.assume(shape[1], shape[0], 1.05)
    hand = dataclasses.replace(hands[0][0], keypoints_px=model.project(hands[0][0].joints))
    assert draw_hands(image, two_hands(hand, None), info=OverlayInfo(fps=1.0)).shape == image.shape


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_an_image_of_another_form_is_refused(hands, bad) -> None:
    with pytest.raises(InputError, match=r"expected an RGB image .* uint8, got"):
        draw_hands(bad, two_hands(None, None))


def test_meshes_need_a_camera(hands, grey) -> None:
    mesh = Mesh(hands[0][1], load_hand_models().left.faces.numpy())
    with pytest.raises(InputError, match="pass camera="):
        draw_hands(grey, two_hands(hands[0][0], None), meshes=Pair(mesh, None))


def test_two_skeletons_are_drawn_fast(hands, grey) -> None:
    frame = two_hands(hands[0][0], hands[1][0])
    times = []
    for _ in range(40):
        begin = time.perf_counter()
        draw_hands(grey, frame, info=OverlayInfo(fps=30.0))
        times.append(time.perf_counter() - begin)
    # The best of many: the time of the code, not of whatever else this machine does.
    assert min(times) < 0.004
