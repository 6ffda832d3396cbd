"""Crops are exact, turn the right way, and mirror in one place."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError

crops = st.builds(
    Crop,
    centre=st.tuples(st.floats(-500, 2000), st.floats(-500, 2000)),
    size=st.floats(2, 3000),
    rotation=st.floats(-10, 10),
    resolution=st.integers(8, 512),
    mirrored=st.booleans(),
)
points = st.lists(st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)), min_size=1, max_size=5).map(np.array)


@settings(deadline=None)
@given(crops, points)
def test_uncrop_undoes_crop(crop: Crop, px: np.ndarray) -> None:
    np.testing.assert_allclose(crop.to_image(crop.to_crop(px)), px, atol=1e-6)


@settings(deadline=None)
@given(crops)
def test_centre_and_corners_map_on_centre_and_edges(crop: Crop) -> None:
    middle = (crop.resolution - 1) / 2
    np.testing.assert_allclose(crop.to_image(np.array([middle, middle])), crop.centre, atol=1e-6)
    corners = crop.to_image(np.array([[-0.5, -0.5], [crop.resolution - 0.5, -0.5]]))
    assert math.isclose(float(np.linalg.norm(corners[1] - corners[0])), crop.size, rel_tol=1e-9)


@settings(deadline=None)
@given(crops, points)
def test_mirror_flips_the_crop_and_nothing_else(crop: Crop, px: np.ndarray) -> None:
    flipped = Crop(crop.centre, crop.size, crop.rotation, crop.resolution, not crop.mirrored)
    here, there = crop.to_crop(px), flipped.to_crop(px)
    np.testing.assert_allclose(there[:, 0], crop.resolution - 1 - here[:, 0], atol=1e-6)
    np.testing.assert_allclose(there[:, 1], here[:, 1], atol=1e-6)


@settings(deadline=None)
@given(crops)
def test_vectors_agree_with_points(crop: Crop) -> None:
    """A step of one crop pixel, as a vector, points where the two pixels lie in the image."""
    for step in ([1.0, 0.0], [0.0, 1.0]):
        moved = crop.to_image(np.array([step])) - crop.to_image(np.zeros((1, 2)))
        vector = crop.vectors_to_image(np.array([[*step, 0.7]]))
        np.testing.assert_allclose(vector[0, :2] * crop.size / crop.resolution, moved[0], atol=1e-6)
        assert vector[0, 2] == 0.7


def picture() -> np.ndarray:
    """Black 200 x 100 with a red mark left of the centre and a green one above it."""
    image = np.zeros((100, 200, 3), np.uint8)
    cv2.circle(image, (70, 50), 5, (255, 0, 0), -1)
    cv2.circle(image, (100, 20), 5, (0, 255, 0), -1)
    return image


def mark(crop: np.ndarray, channel: int) -> tuple[float, float]:
    y, x = np.nonzero(crop[..., channel] > 128)
    return float(x.mean()), float(y.mean())


@pytest.mark.parametrize(
    ("rotation", "mirrored", "red", "green"),
    [
        (0.0, False, (20, 50), (50, 20)),
        (math.pi / 2, False, (50, 80), (20, 50)),  # the image's right points up in the crop
        (-math.pi / 2, False, (50, 20), (80, 50)),
        (math.pi, False, (80, 50), (50, 80)),
        (0.0, True, (80, 50), (50, 20)),
        (math.pi / 2, True, (50, 80), (80, 50)),
    ],
)
def test_extract_turns_an_asymmetric_picture_the_right_way(rotation, mirrored, red, green) -> None:
    crop = Crop((100.0, 50.0), 100.0, rotation, 101, mirrored).extract(picture())
    np.testing.assert_allclose(mark(crop, 0), red, atol=1.0)
    np.testing.assert_allclose(mark(crop, 1), green, atol=1.0)


def test_extract_shows_each_point_where_to_crop_says() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[30, 40] = 255
    crop = Crop((60.0, 50.0), 90.0, 0.4, 180)
    y, x = np.unravel_index(crop.extract(image)[..., 0].argmax(), (180, 180))
    assert np.linalg.norm(crop.to_crop(np.array([40.0, 30.0])) - (x, y)) < 1.0


def test_borders() -> None:
    image = np.full((50, 80, 3), 200, np.uint8)
    outside = Crop((500.0, 500.0), 40.0, 0.3, 16)
    assert (outside.extract(image) == 200).all()
    assert (outside.extract(image, border="black") == 0).all()
    with pytest.raises(InputError, match="replicate or black"):
        outside.extract(image, border="wrap")


def test_letterbox_keeps_the_whole_image_centred() -> None:
    crop = Crop.letterbox(720, 1280, 192)
    np.testing.assert_allclose(crop.to_crop(np.array([[-0.5, -0.5], [1279.5, 719.5]])), [[-0.5, 41.5], [191.5, 149.5]])


@pytest.mark.parametrize("bad", [((math.nan, 0.0), 10.0, 0.0), ((0.0, 0.0), 0.0, 0.0), ((0.0, 0.0), 10.0, math.inf)])
def test_bad_geometry_is_refused(bad) -> None:
    with pytest.raises(InputError, match="finite values and size > 0"):
        Crop(*bad, 64)


def test_bad_points_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected points \(..., 2\), got \(4, 3\)"):
        Crop((0.0, 0.0), 10.0, 0.0, 64).to_crop(np.zeros((4, 3)))


def test_an_averaged_crop_shows_what_it_covers_and_no_aliases() -> None:
    y, x = np.mgrid[:480, :640]
    ramp = np.stack([x * 0.35, y * 0.45, 0 * x], -1).astype(np.uint8)
    crop = Crop((300.3, 250.2), 290.0, 0.3, 96)
    inner = np.s_[4:-4, 4:-4]
    apart = crop.extract_averaged(ramp)[inner].astype(int) - crop.extract(ramp)[inner]
    assert np.abs(apart).max() <= 1
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    # The mean of nine pixels has a third of their spread.
    assert crop.extract(noise).std() > 35 and crop.extract_averaged(noise)[inner].std() < 25
    small = Crop((300.3, 250.2), 80.0, 0.3, 96)
    np.testing.assert_array_equal(small.extract_averaged(ramp), small.extract(ramp))
