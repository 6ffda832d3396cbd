"""Rotations against scipy, and their algebra as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from a2p_ros import rotations as ro
from a2p_ros.errors import InputError

vectors = arrays(np.float64, (4, 3), elements=st.floats(-3, 3))
directions = arrays(np.float64, 3, elements=st.floats(-1, 1)).filter(lambda v: np.linalg.norm(v) > 1e-3)
MIRROR = np.diag([-1.0, 1.0, 1.0])


@given(vectors)
def test_matrices_equal_scipy(vector: np.ndarray) -> None:
    truth = Rotation.from_rotvec(vector)
    matrix = ro.axis_angle_to_matrix(vector)
    np.testing.assert_allclose(matrix, truth.as_matrix(), atol=1e-9)
    quaternion = ro.matrix_to_quaternion_xyzw(matrix)
    assert (quaternion[:, 3] >= 0).all()
    np.testing.assert_allclose(np.abs(np.sum(quaternion * truth.as_quat(), axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(ro.quaternion_xyzw_to_matrix(quaternion), matrix, atol=1e-9)
    np.testing.assert_allclose(ro.axis_angle_to_matrix(ro.matrix_to_axis_angle(matrix)), matrix, atol=1e-9)
    np.testing.assert_allclose(ro.sixd_to_matrix(ro.matrix_to_6d(matrix)), matrix, atol=1e-9)


@given(directions)
def test_half_turns_and_tiny_angles_survive(direction: np.ndarray) -> None:
    unit = direction / np.linalg.norm(direction)
    for angle in (np.pi, np.pi - 1e-9, 1e-5, 1e-10, 0.0):
        matrix = Rotation.from_rotvec(unit * angle).as_matrix()
        vector = ro.matrix_to_axis_angle(matrix)
        assert np.linalg.norm(vector) == pytest.approx(angle, abs=1e-7)
        np.testing.assert_allclose(ro.axis_angle_to_matrix(vector), matrix, atol=1e-7)


@given(directions, directions)
def test_rotation_between_is_the_smallest_one(start: np.ndarray, end: np.ndarray) -> None:
    matrix = ro.rotation_between(start, end)
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    np.testing.assert_allclose(matrix @ a, b, atol=1e-8)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-8)
    assert np.linalg.det(matrix) == pytest.approx(1)
    between = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    assert Rotation.from_matrix(matrix).magnitude() == pytest.approx(between, abs=1e-6)


@given(directions)
def test_rotation_between_opposite_directions(start: np.ndarray) -> None:
    matrix = ro.rotation_between(start, -start)
    np.testing.assert_allclose(matrix @ start, -start, atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_rotation_between_refuses_what_has_no_direction() -> None:
    for bad in (np.zeros(3), np.array([np.nan, 0, 1])):
        with pytest.raises(InputError, match="positive length"):
            ro.rotation_between(bad, np.array([0.0, 0, 1]))


@given(vectors)
def test_mirroring_is_conjugation_and_its_own_inverse(vector: np.ndarray) -> None:
    mirrored = MIRROR @ Rotation.from_rotvec(vector).as_matrix() @ MIRROR
    np.testing.assert_allclose(ro.axis_angle_to_matrix(ro.mirror_x_rotation(vector)), mirrored, atol=1e-9)
    np.testing.assert_allclose(ro.mirror_x_matrix(ro.axis_angle_to_matrix(vector)), mirrored, atol=1e-9)
    np.testing.assert_array_equal(ro.mirror_x_rotation(ro.mirror_x_rotation(vector)), vector)


@given(vectors, st.integers(0, 2**31))
def test_nearest_rotation_solves_kabsch(vector: np.ndarray, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(4, 8, 3))
    truth = Rotation.from_rotvec(vector).as_matrix()
    turned = np.einsum("bij,bnj->bni", truth, points)
    np.testing.assert_allclose(ro.nearest_rotation(np.einsum("bni,bnj->bij", turned, points)), truth, atol=1e-7)


def test_nearest_rotation_of_a_reflection_is_a_rotation() -> None:
    assert np.linalg.det(ro.nearest_rotation(MIRROR)) == pytest.approx(1)


def test_angle_between_two_rotations() -> None:
    first = Rotation.from_rotvec([0.3, -1, 2]).as_matrix()
    second = first @ Rotation.from_rotvec([0, 0.4, 0]).as_matrix()
    assert ro.angle_between(first, second) == pytest.approx(0.4)


def test_the_matrix_6d_order_is_columns() -> None:
    matrix = Rotation.from_rotvec([0.3, -1, 2]).as_matrix()
    np.testing.assert_array_equal(ro.matrix_to_6d(matrix), [*matrix[:, 0], *matrix[:, 1]])
