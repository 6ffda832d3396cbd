"""The hand length from an aligned depth image; the depth is painted by OpenCV, triangle by triangle."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from a2p_ros.camera import CameraModel
from a2p_ros.depth_scale import UPDATES, DepthScale, scale_factor
from a2p_ros.errors import InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.model import HandModel
from a2p_ros.rotations import axis_angle_to_matrix
from a2p_ros.types import Box, HandPose, PlacedHand, Side

CAMERA = CameraModel(640, 480, 500.0, 510.0, 330.0, 230.0, "plumb_bob", (0.05, -0.02, 0.001, 0.0, 0.0), False)
TRUE_FACTOR = 0.9


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_models().right


def surface(model: HandModel, wrist: tuple[float, float, float]) -> np.ndarray:
    rotations = torch.eye(3).expand(1, 16, 3, 3).clone()
    turn = axis_angle_to_matrix(np.array([0.4, 0.3, 1.2])) @ axis_angle_to_matrix(np.array([-np.pi / 2, 0.0, 0.0]))
    rotations[0, 0] = torch.as_tensor(turn)
    output = model(torch.zeros(1, 10), rotations.to(model.template), torch.tensor([wrist]).to(model.template))
    return output.vertices[0].double().numpy()


def painted_depth(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Depth image by the painter's algorithm; points projected by OpenCV."""
    pixels, _ = cv2.projectPoints(vertices, np.zeros(3), np.zeros(3), CAMERA.K, np.array(CAMERA.d))
    depth = np.full((CAMERA.height, CAMERA.width), 2.0, np.float32)
    for face in sorted(faces.tolist(), key=lambda f: -vertices[f, 2].max()):
        triangle = np.rint(pixels[face, 0] * 16).astype(np.int32)
        cv2.fillConvexPoly(depth, triangle, float(vertices[face, 2].mean()), shift=4)
    return depth


def hand_at(wrist: np.ndarray) -> PlacedHand:
    """Stands for the pipeline's hand: only its identity reaches the mesh function of the test."""
    eye, zeros = np.eye(3), np.zeros((21, 3))
    pose = HandPose(Side.RIGHT, eye, np.tile(eye, (15, 1, 1)), np.zeros(10), zeros, zeros[:, :2], np.ones(21), 1.0)
    return PlacedHand(pose, wrist, zeros, zeros[:, :2], wrist, Box(0, 0, 1, 1))


def test_the_factor_between_assumed_and_measured_depth_is_found(model: HandModel) -> None:
    assumed = surface(model, (0.12, -0.02, 0.5))
    depth = painted_depth(assumed * TRUE_FACTOR, model.faces.numpy())
    assert scale_factor(assumed, model.faces.numpy(), CAMERA, depth) == pytest.approx(TRUE_FACTOR, rel=0.01)


def test_holes_and_a_covering_stripe_do_not_shift_it(model: HandModel) -> None:
    assumed = surface(model, (0.12, -0.02, 0.5))
    depth = painted_depth(assumed * TRUE_FACTOR, model.faces.numpy())
    rng = np.random.default_rng(0)
    depth[rng.random(depth.shape) < 0.3] = 0.0
    depth[rng.random(depth.shape) < 0.05] = np.nan
    depth[:, ::7] = 0.3
    assert scale_factor(assumed, model.faces.numpy(), CAMERA, depth) == pytest.approx(TRUE_FACTOR, rel=0.01)


def test_depth_of_something_else_says_nothing(model: HandModel) -> None:
    assumed = surface(model, (0.12, -0.02, 0.5))
    noise = np.random.default_rng(1).uniform(0.3, 2.0, (CAMERA.height, CAMERA.width)).astype(np.float32)
    assert scale_factor(assumed, model.faces.numpy(), CAMERA, noise) is None
    assert scale_factor(assumed, model.faces.numpy(), CAMERA, np.zeros_like(noise)) is None
    assert scale_factor(assumed + np.array([5.0, 0, 0]), model.faces.numpy(), CAMERA, noise) is None


def test_length_is_told_after_enough_hands_then_kept(model: HandModel) -> None:
    scale = DepthScale()
    assumed = surface(model, (0.12, -0.02, 0.5))
    depth = painted_depth(assumed * TRUE_FACTOR, model.faces.numpy())
    faces = model.faces.numpy()
    for n in range(UPDATES[-1]):
        assert (scale.length > 0) == (n >= UPDATES[0])
        scale.add(hand_at(np.array([0.1, 0.0, 0.5])), 0.18, lambda _: assumed, faces, CAMERA, depth)
    assert scale.frozen
    assert scale.length == pytest.approx(0.18 * TRUE_FACTOR, rel=0.01)
    before = scale.length
    scale.add(hand_at(np.array([0.1, 0.0, 0.5])), 0.20, lambda _: assumed, faces, CAMERA, depth)
    assert scale.length == before
    scale.reset()
    assert scale.length == 0.0 and not scale.frozen


def test_a_depth_image_of_another_size_is_refused(model: HandModel) -> None:
    with pytest.raises(InputError, match="aligned with the 640 x 480 colour image, got 320 x 240"):
        DepthScale().add(
            hand_at(np.zeros(3)), 0.18, lambda _: np.zeros((4, 3)), model.faces.numpy(), CAMERA, np.ones((240, 320))
        )
