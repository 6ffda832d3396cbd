"""Labels as the network sees them, against smplx, scipy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from made_hands import MIRROR, smplx_joints
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError
from a2p_ros.network import geometry
from a2p_ros.network.relative import flipped
from a2p_ros.types import Side

WIDE = CameraModel(640, 480, 260.0, 255.0, 322.0, 238.0)
LENS = CameraModel(640, 480, 400.0, 400.0, 322.0, 238.0, "plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0))
CORNER = np.array([-0.45, -0.34, 0.5])


def seen_by_opencv(camera: CameraModel, points: np.ndarray) -> np.ndarray:
    d = np.array(camera.d) if camera.d else None
    return cv2.projectPoints(np.asarray(points, float), np.zeros(3), np.zeros(3), camera.K, d)[0][:, 0]


def turned_to(camera: CameraModel, px: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """Axes of a camera that looks along a pixel's ray by the smallest turn, then rolls: Rodrigues twice."""
    d = np.array(camera.d) if camera.d else None
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-14)
    x, y = cv2.undistortPointsIter(np.asarray(px, float).reshape(1, 1, 2), camera.K, d, None, None, until)[0, 0]
    ray = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
    axis = np.cross([0, 0, 1.0], ray)
    axis *= np.arccos(ray[2]) / np.linalg.norm(axis)
    return cv2.Rodrigues(axis)[0] @ cv2.Rodrigues(np.array([0, 0, turn]))[0]


def made(side: Side, place: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rotations (16, 3, 3), betas, joints in the camera frame) by smplx."""
    rng = np.random.default_rng(seed)
    rotations = Rotation.from_rotvec(rng.normal(size=(16, 3)) * 0.3).as_matrix()
    rotations[0] = Rotation.random(random_state=seed).as_matrix()
    betas = rng.normal(size=10)
    joints = smplx_joints(side, rotations[0], rotations[1:], np.zeros(3), betas)
    return rotations, betas, joints - joints[0] + place


CASES = [(side, camera, turn) for side in Side for camera in (WIDE, LENS) for turn in (0.0, 0.7, -2.5)]


@pytest.mark.parametrize(("side", "camera", "turn"), CASES)
def test_a_hand_in_the_corner_of_a_wide_image_as_the_network_sees_it(side, camera, turn) -> None:
    rotations, betas, joints = made(side, CORNER)
    px = seen_by_opencv(camera, joints)
    crop = Crop((float(px[9, 0]), float(px[9, 1])), 200.0, turn, 128, mirrored=side is Side.LEFT)
    view = geometry.to_view(rotations, joints, px, crop, camera)

    points = (joints - joints[0]) @ turned_to(camera, px[9], turn)
    points = points @ MIRROR if side is Side.LEFT else points
    np.testing.assert_allclose(view.joints, points, atol=1e-9)
    np.testing.assert_allclose(view.depth, points[:, 2], atol=1e-9)
    # The right hand model makes the same hand of the rotations, whichever side it was.
    remade = smplx_joints(Side.RIGHT, view.rotations[0], view.rotations[1:], np.zeros(3), betas)
    np.testing.assert_allclose(remade - remade[0], view.joints, atol=2e-6)

    back = geometry.to_camera(view.rotations, betas, crop, camera)
    np.testing.assert_allclose(back.global_orient, rotations[0], atol=1e-9)
    np.testing.assert_allclose(back.hand_pose, rotations[1:], atol=1e-9)
    np.testing.assert_array_equal(back.betas, betas)


@pytest.mark.parametrize(("side", "camera", "turn"), [c for c in CASES if c[1] is WIDE])
def test_what_the_crop_shows_is_the_view_stretched_and_not_turned(side, camera, turn) -> None:
    rotations, _, joints = made(side, CORNER)
    # So small that perspective inside the hand does not count.
    joints = CORNER + (joints - joints[0]) * 0.02
    px = seen_by_opencv(camera, joints)
    crop = Crop((float(px[9, 0]), float(px[9, 1])), 10.0, turn, 128, mirrored=side is Side.LEFT)
    view = geometry.to_view(rotations, joints, px, crop, camera)
    shown = view.keypoints - view.keypoints[0]
    stretch = np.linalg.lstsq(view.joints, shown, rcond=None)[0][:2].T
    assert abs(stretch[0, 1] - stretch[1, 0]) < 0.01 * np.trace(stretch)
    assert (np.linalg.eigvalsh((stretch + stretch.T) / 2) > 0).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_keypoints_are_where_the_crop_shows_them(mirrored, turn) -> None:
    spot = np.array([210.0, 175.0])
    image = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(image, (210, 175), 6, (255, 255, 255), -1)
    crop = Crop((200.0, 190.0), 128.0, turn, 128, mirrored)
    picture = crop.extract(image)[..., 0].astype(float)
    rows, columns = np.mgrid[:128, :128]
    centroid = np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()
    edges = geometry.to_edges(crop.to_crop(spot), 128)
    np.testing.assert_allclose(edges, (centroid + 0.5) / 128 - 0.5, atol=0.002)
    np.testing.assert_allclose(crop.to_image(geometry.from_edges(edges, 128)), spot, atol=1e-9)


def test_a_crops_edges_are_half_an_edge_from_its_centre() -> None:
    np.testing.assert_allclose(geometry.to_edges(np.array([[-0.5, 127.5], [63.5, 63.5]]), 128), [[-0.5, 0.5], [0, 0]])


@pytest.mark.parametrize("camera", [WIDE, LENS])
def test_relative_translation_in_the_view_of_the_box(camera) -> None:
    left, right = made(Side.LEFT, CORNER)[2], made(Side.RIGHT, CORNER + [0.15, 0.02, 0.05], 1)[2]
    left_px, right_px = seen_by_opencv(camera, left), seen_by_opencv(camera, right)
    view = geometry.union_view(left_px, right_px, camera)
    both = np.concatenate([left_px, right_px])
    centre = (both.min(0) + both.max(0)) / 2
    edge = np.ptp(both, axis=0).max() * geometry.UNION_SCALE
    relative = left[0] - right[0]
    seen = relative @ turned_to(camera, centre)
    np.testing.assert_allclose(view.to_view(relative), seen, atol=1e-9)
    np.testing.assert_allclose(view.to_camera(seen), relative, atol=1e-9)
    np.testing.assert_allclose(view.keypoints(left_px), (left_px - centre) / edge, atol=1e-9)
    assert np.abs(view.keypoints(both)).max() == pytest.approx(0.5 / geometry.UNION_SCALE)
    assert view.width == pytest.approx(edge / camera.focal)


def test_a_mirrored_scene_follows_the_rule_of_the_flip() -> None:
    camera = CameraModel(641, 481, 300.0, 300.0, 320.0, 240.0)
    left, right = made(Side.LEFT, CORNER)[2], made(Side.RIGHT, CORNER + [0.15, 0.02, 0.05], 1)[2]

    def inputs(left: np.ndarray, right: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        px = [seen_by_opencv(camera, hand) for hand in (left, right)]
        view = geometry.union_view(*px, camera)
        depth = [((hand - hand[0]) @ turned_to(camera, view.box.centre))[:, 2] for hand in (left, right)]
        keypoints = np.stack([view.keypoints(p) for p in px])
        relative = view.to_view(left[0] - right[0])
        return tuple(torch.tensor(np.asarray(x)[None]) for x in (keypoints, depth, relative))

    # In the mirror the right hand is the left one.
    for found, wanted in zip(flipped(*inputs(left, right)), inputs(right @ MIRROR, left @ MIRROR), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_keypoints_that_span_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="not all in one place"):
        geometry.union_view(np.zeros((21, 2)), np.zeros((21, 2)), WIDE)
    with pytest.raises(InputError, match="finite"):
        geometry.union_view(np.full((21, 2), np.nan), np.ones((21, 2)), WIDE)
