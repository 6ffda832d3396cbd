"""Rotations between their usual forms, batched over leading axes, in numpy.

A matrix ``R_a_b`` turns a vector's coordinates from axes b into axes a. Angles in radians.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import InputError


def skew(vector: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The matrix ``[v]x`` with ``[v]x u = v x u``."""
    v = np.asarray(vector)
    out = np.zeros((*v.shape[:-1], 3, 3), v.dtype if v.dtype.kind == "f" else np.float64)
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return out


def axis_angle_to_matrix(axis_angle: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of rotation vectors [rad] (Rodrigues)."""
    v = np.asarray(axis_angle)
    k = skew(v)
    squared = np.einsum("...i,...i->...", v, v)[..., None, None].astype(k.dtype)
    angle = np.sqrt(squared)
    small = squared < 1e-8
    safe = np.where(small, 1.0, squared)
    a = np.where(small, 1 - squared / 6, np.sin(angle) / np.sqrt(safe))
    b = np.where(small, 0.5 - squared / 24, (1 - np.cos(angle)) / safe)
    return np.eye(3, dtype=k.dtype) + a * k + b * (k @ k)


def matrix_to_quaternion_xyzw(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 4"]:
    """Unit quaternions (x, y, z, w) with w >= 0.

    Of the four ways to divide out the quaternion from its outer product, each element takes the
    one with the largest pivot, so that half turns are as exact as small angles.
    """
    m = np.asarray(matrix)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    outer = np.empty((*m.shape[:-2], 4, 4), m.dtype)
    for i, pivot in enumerate((1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz)):
        outer[..., i, i] = pivot
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        outer[..., i, j] = outer[..., j, i] = m[..., i, j] + m[..., j, i]
        outer[..., k, 3] = outer[..., 3, k] = m[..., j, i] - m[..., i, j]
    row = np.argmax(np.einsum("...ii->...i", outer), axis=-1)
    q = np.take_along_axis(outer, row[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., 3:] < 0, -q, q)


def quaternion_xyzw_to_matrix(quaternion: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of quaternions (x, y, z, w) of any positive length."""
    q = np.asarray(quaternion)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    k = skew(q[..., :3])
    return np.eye(3, dtype=k.dtype) + 2 * q[..., 3, None, None] * k + 2 * (k @ k)


def matrix_to_axis_angle(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Rotation vectors [rad] with angle in [0, pi]."""
    q = matrix_to_quaternion_xyzw(matrix)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., 3:])
    return q[..., :3] * np.where(sine < 1e-7, 2.0, angle / np.maximum(sine, 1e-12)).astype(q.dtype)


def matrix_to_6d(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 6"]:
    """The first column, then the second (Zhou et al., CVPR 2019)."""
    m = np.asarray(matrix)
    return np.concatenate([m[..., :, 0], m[..., :, 1]], axis=-1)


def sixd_to_matrix(sixd: Float[np.ndarray, "*batch 6"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Gram-Schmidt of two columns: the inverse of ``matrix_to_6d`` on rotations."""
    v = np.asarray(sixd)
    x = v[..., :3] / np.linalg.norm(v[..., :3], axis=-1, keepdims=True)
    y = v[..., 3:] - np.einsum("...i,...i->...", x, v[..., 3:])[..., None] * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def nearest_rotation(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation nearest to a matrix in the Frobenius norm (Kabsch: ``H = sum b a^T`` gives the R with R a ~ b)."""
    u, _, vt = np.linalg.svd(matrix)
    # The sign of the determinant by a triple product: numpy.linalg.det wakes BLAS threads for 3 x 3.
    x, y, z = np.moveaxis(u @ vt, -1, 0)
    u[..., :, 2] *= np.where(np.einsum("...i,...i->...", np.cross(x, y), z) < 0, -1.0, 1.0)[..., None]
    return u @ vt


def rotation_between(
    start: Float[np.ndarray, "*batch 3"], end: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch 3 3"]:
    """The smallest rotation that turns direction ``start`` into direction ``end``.

    The two need not have unit length. For opposite directions, where the axis is not unique,
    some axis at right angles is taken. Zero or non-finite vectors raise InputError.
    """
    a, b = np.broadcast_arrays(np.asarray(start, np.float64), np.asarray(end, np.float64))
    lengths = np.linalg.norm(a, axis=-1, keepdims=True), np.linalg.norm(b, axis=-1, keepdims=True)
    if not all(np.all(np.isfinite(length) & (length > 0)) for length in lengths):
        raise InputError("rotation_between: expected two finite vectors of positive length")
    a, b = a / lengths[0], b / lengths[1]
    # Two reflections: through the plane normal to a, then the plane normal to a + b. For b near -a
    # the sum is ill-conditioned and any normal m of a is as good: reflect at m instead.
    half = a + b
    opposite = np.linalg.norm(half, axis=-1, keepdims=True) < 1e-7
    axis = np.eye(3)[np.argmin(np.abs(a), axis=-1)]
    normal = np.cross(a, axis)
    half = np.where(opposite, normal, half)
    half = half / np.linalg.norm(half, axis=-1, keepdims=True)
    turn = 2 * half[..., :, None] * half[..., None, :] - np.eye(3)
    return turn @ (2 * a[..., :, None] * a[..., None, :] - np.eye(3))


def angle_between(
    first: Float[np.ndarray, "*batch 3 3"], second: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch"]:
    """Angle [rad] of the rotation from ``first`` to ``second``."""
    relative = np.swapaxes(np.asarray(first, np.float64), -1, -2) @ np.asarray(second, np.float64)
    return np.linalg.norm(matrix_to_axis_angle(relative), axis=-1)


def mirror_x_rotation(axis_angle: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """A rotation vector seen in a mirror across x = 0: (a, b, c) -> (a, -b, -c).

    Takes a right hand's MANO rotations to those of the mirrored, left hand, and back.
    """
    return np.asarray(axis_angle) * np.array([1.0, -1.0, -1.0], np.asarray(axis_angle).dtype)


def mirror_x_matrix(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """``M R M`` with M = diag(-1, 1, 1): ``mirror_x_rotation`` for matrices."""
    sign = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.asarray(matrix).dtype)
    return np.asarray(matrix) * sign
