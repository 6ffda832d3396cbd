"""The camera: pixels to rays and back, with lens distortion, binning and region of interest.

Written in numpy from the models' formulas; OpenCV is the independent check in the tests.
Pixels have (0, 0) at the centre of the top left pixel. Rays are (x/z, y/z) in the camera's
optical frame (x right, y down, z forward).

Distortion models carry ROS's names: ``plumb_bob`` (k1 k2 p1 p2 [k3]), ``rational_polynomial``
(k1 k2 p1 p2 k3 k4 k5 k6 [s1 s2 s3 s4 [tau_x tau_y]]) and ``equidistant`` (k1 k2 k3 k4, the fisheye
model of Kannala and Brandt). A polynomial fitted inside the picture folds back outside it;
beyond the radius where its slope falls to 5 % it is continued by a straight line here, so that
projection stays one-to-one and nothing outside the picture is thrown into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import CameraError
from a2p_ros.rotations import rotation_between

DistortionModel = Literal["none", "plumb_bob", "rational_polynomial", "equidistant"]

#: Numbers of coefficients that each model accepts.
_LENGTHS = {"none": (0,), "plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_ALIASES = {"": "none", "fisheye": "equidistant", "kannala_brandt4": "equidistant", "radtan": "plumb_bob"}
_UNCALIBRATED = (
    "run camera_calibration and publish its CameraInfo, "
    "or unset the CameraInfo topic to go on with an assumed field of view"
)
_MIN_SLOPE = 0.05
_MAX_RADIUS = 8.0
_MAX_RAY_ANGLE = math.radians(89.0)


class Roi(NamedTuple):
    """A region of interest in full-resolution pixels; zero width and height mean the whole sensor."""

    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    do_rectify: bool = False


class _Radial:
    """The radial part of a lens: r -> r_distorted = r top(r^2) / bottom(r^2), made monotone, and its inverse."""

    def __init__(self, top: Sequence[float], bottom: Sequence[float], limit: float) -> None:
        self._top, self._bottom = (1.0, *map(float, top)), (1.0, *map(float, bottom))
        grid = np.linspace(0.0, limit, 2048)
        values, slopes = self._inside(grid)
        bad = np.flatnonzero(~(slopes > _MIN_SLOPE))
        if bad.size and bad[0] < 2:
            raise CameraError(
                f"distortion coefficients {self._top[1:]} fold the picture at its centre; calibrate again"
            )
        end = int(bad[0]) if bad.size else len(grid)
        self._grid, self._values = grid[:end], values[:end]
        self.limit, self._limit_slope = float(grid[end - 1]), float(slopes[end - 1])

    def _inside(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope of the formula itself; slope -1 past a pole."""
        s = r * r
        top, d_top = _horner(self._top, s)
        if len(self._bottom) == 1:
            return r * top, top + 2 * s * d_top
        bottom, d_bottom = _horner(self._bottom, s)
        safe = np.where(bottom > 0, bottom, 1.0)
        ratio = top / safe
        return r * ratio, np.where(bottom > 0, ratio + 2 * s * (d_top - ratio * d_bottom) / safe, -1.0)

    def distort(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distorted radius and its slope; linear beyond the limit."""
        inside = np.minimum(r, self.limit)
        value, slope = self._inside(inside)
        return value + self._limit_slope * (r - inside), slope

    def undistort(self, distorted: np.ndarray, steps: int = 2) -> np.ndarray:
        """Inverse of ``distort``: a table, then Newton steps."""
        inside = np.minimum(distorted, self._values[-1])
        r = np.interp(inside, self._values, self._grid) + (distorted - inside) / self._limit_slope
        for _ in range(steps):
            value, slope = self.distort(r)
            r = r - (value - distorted) / slope
        return r


def _horner(coefficients: Sequence[float], s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A polynomial and its derivative at s."""
    value = np.full_like(s, coefficients[-1])
    slope = np.zeros_like(s)
    for c in coefficients[-2::-1]:
        slope = slope * s + value
        value = value * s + c
    return value, slope


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of one image as it arrives: ``width`` x ``height`` pixels, focal lengths and centre [px].

    ``assumed`` says that the intrinsics are a guess (``assume``), so that nothing is metric.
    ``binning`` is kept only because an odd sensor size may be halved up or down.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: DistortionModel = "none"
    d: tuple[float, ...] = ()
    assumed: bool = False
    binning: tuple[int, int] = field(default=(1, 1), compare=False)

    def __post_init__(self) -> None:
        if self.distortion_model not in get_args(DistortionModel):
            raise CameraError(
                f"distortion model {self.distortion_model!r} is unknown; known are "
                f"{', '.join(get_args(DistortionModel))}. Subscribe to a rectified topic and set `rectified`"
            )
        if len(self.d) not in _LENGTHS[self.distortion_model]:
            wanted = " or ".join(map(str, _LENGTHS[self.distortion_model]))
            raise CameraError(f"{self.distortion_model}: expected {wanted} distortion coefficients, got {len(self.d)}")
        values = (self.fx, self.fy, self.cx, self.cy, *self.d)
        if not all(map(math.isfinite, values)):
            raise CameraError(f"camera intrinsics are not finite: {values}; calibrate the camera")
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError(f"the camera is uncalibrated (fx = {self.fx:g}, fy = {self.fy:g}): {_UNCALIBRATED}")
        if self.width <= 0 or self.height <= 0:
            raise CameraError(f"camera size {self.width} x {self.height}: expected positive width and height")
        if self.distortion_model != "none":
            _ = self._radial  # a lens that cannot be inverted is refused here, not at the first image

    @classmethod
    def assume(cls, width: int, height: int, fov_x: float) -> CameraModel:
        """A camera without distortion whose horizontal field of view is ``fov_x`` [rad]; ``assumed`` is set."""
        if not 0 < fov_x < math.pi:
            raise CameraError(f"field of view: expected a value in (0, pi) rad, got {fov_x!r}")
        focal = width / 2 / math.tan(fov_x / 2)
        return cls(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, assumed=True)

    @classmethod
    def from_calibration(
        cls,
        width: int,
        height: int,
        K: Sequence[float],
        D: Sequence[float] = (),
        distortion_model: str = "",
        R: Sequence[float] | None = None,
        P: Sequence[float] | None = None,
        binning_x: int = 0,
        binning_y: int = 0,
        roi: Roi | tuple[int, int, int, int, bool] = (0, 0, 0, 0, False),
        *,
        rectified: bool = False,
    ) -> CameraModel:
        """The camera of a ``sensor_msgs/CameraInfo``, given as plain values.

        The message describes the full-resolution sensor; the result describes the image that
        is published, after region of interest (``roi``: x, y, width, height, do_rectify; zero
        size = whole sensor) and binning (0 means 1). A binned pixel is the mean of its
        neighbourhood, so its centre is the neighbourhood's: ``cx' = (cx + 0.5) / b - 0.5``.

        ``rectified``: the image topic is a rectified one (``image_rect``): P holds, without
        distortion. Else K and D hold. R takes the raw to the rectified frame: on a raw topic it
        does not matter, and on a rectified one the result is in the rectified frame, which is
        that of the message's frame_id. For the second camera of a stereo pair positions are
        relative to that camera's own centre.

        Raises CameraError, naming what arrived, for an uncalibrated camera, values that are not
        finite, an unknown distortion model, or sizes that contradict one another.
        """
        if len(K) != 9:
            raise CameraError(f"CameraInfo.k: expected 9 numbers, got {len(K)}")
        if rectified and (P is None or len(P) != 12):
            raise CameraError(
                f"CameraInfo.p: expected 12 numbers for a rectified topic, got {0 if P is None else len(P)}"
            )
        if rectified and P is not None:
            fx, skewness, cx, fy, cy = (float(P[i]) for i in (0, 1, 2, 5, 6))
        else:
            fx, skewness, cx, fy, cy = (float(K[i]) for i in (0, 1, 2, 4, 5))
        if fx == 0 or fy == 0:
            name = "P" if rectified else "K"
            raise CameraError(f"the camera is uncalibrated ({name} has fx = {fx:g}, fy = {fy:g}): {_UNCALIBRATED}")
        if abs(skewness) > 1e-6 * abs(fx):
            raise CameraError(f"camera matrix with skew {skewness:g} is not supported; expected 0")
        model, d = ("none", ()) if rectified else _normalise(distortion_model, D)

        if width <= 0 or height <= 0:
            raise CameraError(f"CameraInfo size {width} x {height}: expected positive width and height")
        region = Roi(*roi)
        x, y, w, h = region[:4] if region.width or region.height else (0, 0, width, height)
        if min(x, y, w, h) < 0 or w == 0 or h == 0 or x + w > width or y + h > height:
            raise CameraError(f"CameraInfo.roi {tuple(region[:4])} does not lie in the image of {width} x {height}")
        bx, by = max(int(binning_x), 1), max(int(binning_y), 1)
        if bx > w or by > h:
            raise CameraError(f"CameraInfo.binning {bx} x {by} is larger than its image of {w} x {h}")
        return cls(
            width=w // bx,
            height=h // by,
            fx=fx / bx,
            fy=fy / by,
            cx=(cx - x + 0.5) / bx - 0.5,
            cy=(cy - y + 0.5) / by - 0.5,
            distortion_model=model,
            d=d,
            binning=(bx, by),
        )

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:
        """The camera matrix of the image as it arrives [px]."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    @property
    def focal(self) -> float:
        """Mean focal length [px]: what turns an error in ray coordinates into pixels."""
        return math.sqrt(self.fx * self.fy)

    def check_image(self, height: int, width: int) -> None:
        """Raise CameraError unless an image of this size is one of this camera."""
        fits = all(
            size == mine or (b > 1 and size == mine + 1)
            for size, mine, b in zip((width, height), (self.width, self.height), self.binning, strict=True)
        )
        if not fits:
            raise CameraError(
                f"the image is {width} x {height}, but the CameraInfo describes one of {self.width} x {self.height} "
                "(after binning and region of interest): publish the CameraInfo that belongs to this image, "
                "or scale it with the image"
            )

    def rays(self, px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Undistorted (x/z, y/z) of pixels [px].

        Always finite for finite input: on a fisheye, rays farther than 89 degrees from the axis
        have no such coordinates and are moved to 89 degrees.
        """
        q = (np.asarray(px, np.float64) - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.distortion_model == "none":
            return q
        if self.distortion_model == "equidistant":
            distorted = np.linalg.norm(q, axis=-1, keepdims=True)
            angle = np.minimum(self._radial.undistort(distorted), _MAX_RAY_ANGLE)
            return q * np.where(distorted > 1e-9, np.tan(angle) / np.maximum(distorted, 1e-9), 1.0)
        if self._tilt is not None:
            q = _apply_homography(np.linalg.inv(self._tilt), q)
        # Newton with the radial part's own Jacobian; the small tangential part goes into the residual.
        r = np.linalg.norm(q, axis=-1, keepdims=True)
        point = q * (self._radial.undistort(r, steps=0) / np.maximum(r, 1e-12))
        for _ in range(30):
            distorted, r, along, across = self._distort(point)
            error = q - distorted
            if not np.max(np.abs(error), initial=0.0) > 1e-12:
                break
            direction = point / np.maximum(r, 1e-12)
            radial = np.sum(error * direction, axis=-1, keepdims=True) * direction
            point = point + radial / along + (error - radial) / across
        return point

    def project(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Pixels [px] of points in the camera frame [m], with distortion.

        NaN for points that this camera cannot see at all: not in front of it (behind a fisheye:
        only its own centre).
        """
        points = np.asarray(points, np.float64)
        xy, z = points[..., :2], points[..., 2:]
        if self.distortion_model == "equidistant":
            r = np.linalg.norm(xy, axis=-1, keepdims=True)
            angle = np.arctan2(r, z)
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = np.where(r > 1e-12, self._radial.distort(angle)[0] / np.maximum(r, 1e-12), 1 / z)
            q = np.where((r > 1e-12) | (z > 0), xy * scale, np.nan)
        else:
            q = np.where(z > 0, xy / np.where(z > 0, z, 1.0), np.nan)
            if self.distortion_model != "none":
                q = self._distort(q)[0]
                q = q if self._tilt is None else _apply_homography(self._tilt, q)
        return q * (self.fx, self.fy) + (self.cx, self.cy)

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """D of the polynomial models, padded to OpenCV's 14."""
        return np.concatenate([self.d, np.zeros(14 - len(self.d))])

    @cached_property
    def _radial(self) -> _Radial:
        if self.distortion_model == "equidistant":
            return _Radial(self.d, (), math.pi)
        k = self._coefficients
        return _Radial(tuple(k[[0, 1, 4]]), tuple(k[[5, 6, 7]]), _MAX_RADIUS)

    @cached_property
    def _tilt(self) -> np.ndarray | None:
        """Homography of a tilted sensor (Louhichi et al. 2007), None where it is not tilted."""
        tau_x, tau_y = self._coefficients[12:]
        if tau_x == 0 and tau_y == 0:
            return None
        cx, sx, cy, sy = math.cos(tau_x), math.sin(tau_x), math.cos(tau_y), math.sin(tau_y)
        turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
        project = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]])
        return project @ turn

    def _distort(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Distorted points of a polynomial model, their radii, and the radial stretch along and across the radius.

        The decentring and thin-prism shift is held constant beyond the radial limit.
        """
        k = self._coefficients
        r = np.linalg.norm(q, axis=-1, keepdims=True)
        value, along = self._radial.distort(r)
        across = np.where(r > 1e-9, value / np.maximum(r, 1e-9), 1.0)
        x, y = np.moveaxis(q * np.minimum(1.0, self._radial.limit / np.maximum(r, 1e-9)), -1, 0)
        r2 = x * x + y * y
        dx = 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x) + k[8] * r2 + k[9] * r2 * r2
        dy = k[2] * (r2 + 2 * y * y) + 2 * k[3] * x * y + k[10] * r2 + k[11] * r2 * r2
        return q * across + np.stack([dx, dy], axis=-1), r, along, across


def rotation_to_ray(camera: CameraModel, px: Sequence[float] | Float[np.ndarray, "2"]) -> Float[np.ndarray, "3 3"]:
    """``R_camera_ray``: turns vectors from the axes of a camera that looks along a pixel's ray into the camera frame.

    What a network sees in a crop, it sees as if a camera looked at the crop's centre. That virtual
    camera is the real one turned by the smallest rotation from the optical axis to the ray: only
    then is the local map between the two pictures free of rotation (a pure stretch).
    """
    x, y = camera.rays(np.asarray(px, np.float64)[None])[0]
    return rotation_along(np.array([x, y, 1.0]))


def rotation_along(direction: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """``R_camera_ray`` of rays given as directions in the camera frame; see ``rotation_to_ray``."""
    return rotation_between(np.array([0.0, 0.0, 1.0]), direction)


def _normalise(name: str, coefficients: Sequence[float]) -> tuple[DistortionModel, tuple[float, ...]]:
    """Model and coefficients as CameraModel takes them, from what drivers write."""
    d = tuple(map(float, coefficients))
    if name == "" and any(d):
        raise CameraError(f"CameraInfo has distortion coefficients {d} but names no distortion model")
    model = _ALIASES.get(name.strip().lower(), name.strip().lower())
    if model == "plumb_bob" and len(d) > 5:
        model = "rational_polynomial"
    if model in ("none", "plumb_bob", "rational_polynomial") and not any(d):
        return "none", ()
    return model, d  # type: ignore[return-value]


def _apply_homography(matrix: np.ndarray, q: np.ndarray) -> np.ndarray:
    turned = q @ matrix[:, :2].T + matrix[:, 2]
    return turned[..., :2] / turned[..., 2:]


def is_rectified_topic(topic: str) -> bool:
    """Whether an image topic says that its pictures are rectified: a word of its last part begins with `rect`.

    As `image_rect`, `image_rect_color`, `rectified`; not `image_unrectified`.
    """
    words = topic.removesuffix("/compressed").rpartition("/")[2].split("_")
    return any(word.startswith("rect") for word in words)
