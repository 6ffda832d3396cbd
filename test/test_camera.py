"""The camera against OpenCV, and its refusals."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2p_ros.camera import CameraModel, Roi, is_rectified_topic, rotation_to_ray
from a2p_ros.errors import CameraError

K = (600.0, 0, 330.5, 0, 610.0, 235.0, 0, 0, 1)
POLYNOMIAL = {
    "plumb_bob4": ("plumb_bob", (-0.28, 0.09, 0.001, -0.002)),
    "plumb_bob": ("plumb_bob", (0.12, -0.2, -0.001, 0.0005, 0.05)),
    "rational": ("rational_polynomial", (0.5, -2.5, 0.0006, -0.0003, 1.6, 0.4, -2.4, 1.5)),
    "prism": ("rational_polynomial", (-0.2, 0.05, 0.001, 0.002, 0.01, 0.02, 0.01, 0.0, 1e-3, 2e-4, -1e-3, 1e-4)),
    "tilted": ("rational_polynomial", (-0.2, 0.05, 0.001, 0.002, 0, 0, 0, 0, 1e-3, 0, -1e-3, 0, 0.03, -0.05)),
}
FISHEYE = (0.02, -0.008, 0.003, -0.0007)


def points_in_view(seed: int, n: int = 60, spread: float = 0.45) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.3, 3, (n, 1))
    return np.concatenate([rng.uniform(-spread, spread, (n, 2)) * z, z], axis=1)


def camera(model: str = "none", d: tuple[float, ...] = ()) -> CameraModel:
    return CameraModel.from_calibration(640, 480, K, d, model)


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_projection_equals_opencv(name: str) -> None:
    model, d = POLYNOMIAL[name]
    points = points_in_view(1)
    truth, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), np.array(d))
    np.testing.assert_allclose(camera(model, d).project(points), truth[:, 0], atol=1e-8)


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_rays_invert_opencv_projection(name: str) -> None:
    model, d = POLYNOMIAL[name]
    points = points_in_view(2)
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), np.array(d))
    np.testing.assert_allclose(camera(model, d).rays(pixels[:, 0]), points[:, :2] / points[:, 2:], atol=1e-8)


def test_rays_equal_opencv_undistortion() -> None:
    model, d = POLYNOMIAL["plumb_bob4"]
    pixels = np.random.default_rng(3).uniform((0, 0), (639, 479), (80, 2))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    truth = cv2.undistortPointsIter(pixels[:, None], np.array(K).reshape(3, 3), np.array(d), None, None, criteria)
    np.testing.assert_allclose(camera(model, d).rays(pixels), truth[:, 0], atol=1e-7)


def test_fisheye_equals_opencv_both_ways() -> None:
    points = points_in_view(4, spread=2.5)
    matrix = np.array(K).reshape(3, 3)
    truth, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(FISHEYE))
    fisheye = camera("equidistant", FISHEYE)
    np.testing.assert_allclose(fisheye.project(points), truth[:, 0], atol=1e-8)
    np.testing.assert_allclose(fisheye.rays(truth[:, 0]), points[:, :2] / points[:, 2:], atol=1e-7)


def test_fisheye_sees_beside_itself() -> None:
    fisheye = camera("equidistant", (0.0, 0.0, 0.0, 0.0))
    pixel = fisheye.project(np.array([[1.0, 0, -0.2]]))
    assert pixel[0, 0] == pytest.approx(K[2] + K[0] * (math.pi / 2 + math.atan(0.2)))
    assert np.isfinite(fisheye.rays(pixel)).all()


def test_pinhole_formula() -> None:
    np.testing.assert_allclose(
        camera().project(np.array([[0.1, -0.2, 0.5]])), [[600 * 0.2 + 330.5, -610 * 0.4 + 235.0]]
    )
    np.testing.assert_allclose(camera().K, np.reshape(K, (3, 3)))


@pytest.mark.parametrize("name", [*POLYNOMIAL, "fisheye"])
def test_beyond_the_valid_range_nothing_explodes_or_folds_back(name: str) -> None:
    cam = camera("equidistant", FISHEYE) if name == "fisheye" else camera(*POLYNOMIAL[name])
    radius = np.linspace(0.01, 30, 500)
    points = np.stack([radius * 0.8, radius * 0.6, np.ones_like(radius)], axis=1)
    pixels = cam.project(points)
    assert np.isfinite(pixels).all()
    if name != "tilted":
        assert (np.diff(np.linalg.norm(pixels - (cam.cx, cam.cy), axis=1)) > 0).all()
    far = np.array([[-1e4, 5e4], [3e3, -2e3], [1e6, 1e6]])
    assert np.isfinite(cam.rays(far)).all()


def test_a_fold_of_the_polynomial_does_not_put_outside_points_into_the_picture() -> None:
    model, d = "plumb_bob", (-0.4, 0.0, 0.0, 0.0)
    outside = np.array([[1.55, 0.0, 1.0]])
    folded, _ = cv2.projectPoints(outside, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), np.array(d))
    assert 0 < folded[0, 0, 0] < 640, "the plain polynomial has this fault"
    assert camera(model, d).project(outside)[0, 0] > 640


def test_points_behind_a_pinhole_are_nan_and_leave_the_others_alone() -> None:
    pixels = camera(*POLYNOMIAL["plumb_bob"]).project(np.array([[0.0, 0, -1], [0, 0, 0], [0, 0, 1]]))
    assert np.isnan(pixels[:2]).all()
    np.testing.assert_allclose(pixels[2], [330.5, 235.0])


def test_binning_and_region_of_interest_by_pixel_blocks() -> None:
    """The published pixel (u, v) is the mean of a block of sensor pixels: project to the sensor, find the block."""
    model, d = POLYNOMIAL["plumb_bob"]
    points = points_in_view(5)
    full = camera(model, d).project(points)
    cam = CameraModel.from_calibration(640, 480, K, d, model, binning_x=2, binning_y=4, roi=(100, 40, 300, 200, True))
    assert (cam.width, cam.height) == (150, 50)
    binned = cam.project(points)
    np.testing.assert_allclose(binned[:, 0] * 2 + 0.5 + 100, full[:, 0], atol=1e-9)
    np.testing.assert_allclose(binned[:, 1] * 4 + 1.5 + 40, full[:, 1], atol=1e-9)
    np.testing.assert_allclose(cam.rays(binned), points[:, :2] / points[:, 2:], atol=1e-8)


def test_binning_zero_means_one_and_empty_region_means_all() -> None:
    cam = CameraModel.from_calibration(640, 480, K, binning_x=0, binning_y=0, roi=Roi())
    assert (cam.width, cam.height, cam.fx, cam.cx) == (640, 480, 600, 330.5)


def test_a_rectified_topic_uses_p_without_distortion() -> None:
    P = (500.0, 0, 320, -60.0, 0, 505.0, 240, 0, 0, 0, 1, 0)
    model, d = POLYNOMIAL["plumb_bob"]
    cam = CameraModel.from_calibration(640, 480, K, d, model, P=P, rectified=True)
    assert (cam.fx, cam.fy, cam.cx, cam.cy, cam.distortion_model) == (500, 505, 320, 240, "none")


def test_zero_coefficients_and_aliases_are_understood() -> None:
    assert camera("plumb_bob", (0.0,) * 5).distortion_model == "none"
    assert camera("plumb_bob", ()).distortion_model == "none"
    assert camera("equidistant", (0.0,) * 4).distortion_model == "equidistant"
    assert camera("plumb_bob", POLYNOMIAL["rational"][1]).distortion_model == "rational_polynomial"


def changed(index: int, value: float) -> tuple[float, ...]:
    return (*K[:index], value, *K[index + 1 :])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"K": (0.0,) * 9}, "uncalibrated .*camera_calibration.*assumed field of view"),
        ({"K": changed(4, 0.0)}, "uncalibrated"),
        ({"K": changed(2, math.nan)}, "not finite"),
        ({"K": changed(0, math.inf)}, "not finite"),
        ({"K": changed(0, -600.0)}, "uncalibrated"),
        ({"K": changed(1, 3.0)}, "skew"),
        ({"K": K[:8]}, "expected 9 numbers, got 8"),
        ({"D": (math.nan,) * 5, "distortion_model": "plumb_bob"}, "not finite"),
        ({"D": (0.1,) * 5, "distortion_model": "dual_sphere"}, "dual_sphere.*known are.*plumb_bob"),
        ({"D": (0.1,) * 5, "distortion_model": ""}, "names no distortion model"),
        ({"D": (0.1,) * 3, "distortion_model": "plumb_bob"}, "expected 4 or 5 .*got 3"),
        ({"D": (0.1,) * 5, "distortion_model": "equidistant"}, "expected 4 .*got 5"),
        ({"D": (-1e8, 0, 0, 0), "distortion_model": "plumb_bob"}, "fold the picture"),
        ({"width": 0}, "0 x 480"),
        ({"roi": (600, 0, 100, 100, False)}, r"roi \(600, 0, 100, 100\).*640 x 480"),
        ({"binning_x": 1000}, "binning 1000"),
        ({"rectified": True}, "expected 12 numbers"),
        ({"rectified": True, "P": (0.0,) * 12}, "uncalibrated"),
    ],
)
def test_refusals_name_what_arrived(arguments: dict[str, object], message: str) -> None:
    values = {"width": 640, "height": 480, "K": K, **arguments}
    with pytest.raises(CameraError, match=message):
        CameraModel.from_calibration(**values)  # type: ignore[arg-type]


def test_image_of_another_size_is_named_with_the_cameras_own() -> None:
    with pytest.raises(CameraError, match=r"image is 320 x 240.* 640 x 480"):
        camera().check_image(240, 320)
    camera().check_image(480, 640)
    binned = CameraModel.from_calibration(641, 480, K, binning_x=2, binning_y=2)
    binned.check_image(240, 320)
    binned.check_image(240, 321)
    with pytest.raises(CameraError):
        binned.check_image(480, 641)


def test_assumed_camera_has_the_asked_field_of_view() -> None:
    cam = CameraModel.assume(1280, 720, 1.05)
    assert cam.assumed and cam.distortion_model == "none"
    edges = cam.rays(np.array([[-0.5, 0], [1279.5, 0]]))[:, 0]
    assert np.arctan(edges[1]) - np.arctan(edges[0]) == pytest.approx(1.05)
    with pytest.raises(CameraError, match="field of view"):
        CameraModel.assume(640, 480, 4.0)


@settings(deadline=None)
@given(st.floats(0, 639), st.floats(0, 479), st.sampled_from([*POLYNOMIAL, "fisheye"]))
def test_pixel_to_ray_to_pixel_is_the_identity(x: float, y: float, name: str) -> None:
    cam = camera("equidistant", FISHEYE) if name == "fisheye" else camera(*POLYNOMIAL[name])
    ray = cam.rays(np.array([[x, y]]))
    np.testing.assert_allclose(cam.project(np.array([[*ray[0], 1.0]])), [[x, y]], atol=1e-6)


def test_rotation_to_ray_is_a_pure_stretch() -> None:
    """A camera turned along the ray sees its surroundings up to a symmetric 2x2 map: no rotation in the picture."""
    cam = CameraModel.assume(1280, 720, 1.8)
    pixel = np.array([1150.0, 640.0])
    turn = rotation_to_ray(cam, pixel)
    np.testing.assert_allclose(cam.project((turn @ [0, 0, 0.7])[None])[0], pixel, atol=1e-9)
    step = 1e-6
    offsets = np.array([[step, 0, 1], [-step, 0, 1], [0, step, 1], [0, -step, 1]]) @ turn.T
    pixels = cam.project(offsets)
    jacobian = np.stack([pixels[0] - pixels[1], pixels[2] - pixels[3]], axis=1) / (2 * step)
    assert jacobian[0, 1] == pytest.approx(jacobian[1, 0], rel=1e-4)
    assert (np.linalg.eigvalsh(jacobian) > 0).all()


def test_rotation_to_the_principal_point_is_the_identity() -> None:
    np.testing.assert_allclose(rotation_to_ray(camera(), (330.5, 235.0)), np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/cam/image_rect", True),
        ("/cam/image_rect_color/compressed", True),
        ("/cam/rectified", True),
        ("/cam/image_raw", False),
        ("/rect_camera/image_raw", False),
        ("/cam/image_unrectified", False),
        ("/cam/image_direct", False),
    ],
)
def test_rectified_topics_are_known_by_their_name(topic: str, rectified: bool) -> None:
    assert is_rectified_topic(topic) == rectified
