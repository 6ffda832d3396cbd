"""Pictures of reconstructed meshes from any side, for documentation and for looking at repairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from a2p_ros.camera import CameraModel
from a2p_ros.colours import HAND_COLOURS, Rgb
from a2p_ros.errors import InputError
from a2p_ros.rendering.renderer import Lights, Look, Renderer, Surface
from a2p_ros.rotations import axis_angle_to_matrix
from a2p_ros.types import Image

_FOV = 0.5
_LIGHTS = Lights(
    key_direction=(-0.5, -0.8, -0.6),
    key_colour=(0.75, 0.73, 0.70),
    sky_colour=(0.42, 0.44, 0.48),
    ground_colour=(0.20, 0.19, 0.19),
)


def render_hands_3d(
    vertices: Sequence[Float[np.ndarray, "v 3"]],
    faces: Sequence[Int[np.ndarray, "f 3"]],
    *,
    colours: Sequence[Rgb] = (HAND_COLOURS.left, HAND_COLOURS.right),
    azimuth: float = 0.0,
    elevation: float = 0.0,
    width: int = 640,
    height: int = 480,
    background: Rgb = (244, 245, 247),
    renderer: Renderer | None = None,
) -> Image:
    """Meshes in the camera frame [m] seen from a turned viewpoint that takes all of them into the picture.

    Args:
        vertices: of each mesh, camera frame (x right, y down, z forward) [m].
        faces: of each mesh, counter-clockwise from outside.
        colours: sRGB of each mesh; the default is left, right.
        azimuth: the viewer walks this far round to the right [rad]; 0 is the camera's own direction.
        elevation: and climbs this far [rad].
        width: of the picture [px].
        height: of the picture [px].
        background: sRGB.
        renderer: of this size, to be used again and again; None makes one for this picture.

    Raises:
        InputError: lists of different lengths, or no mesh.
        MissingDependencyError: no EGL driver.
    """
    if not len(vertices) or not len(vertices) == len(faces) <= len(colours):
        raise InputError(
            "expected as many vertices as faces and colours for each, "
            f"got {len(vertices)}, {len(faces)}, {len(colours)}"
        )
    points = [np.asarray(v, np.float64) for v in vertices]
    low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
    centre = (low + high) / 2
    turn = axis_angle_to_matrix(np.array([elevation, 0.0, 0.0])) @ axis_angle_to_matrix(np.array([0.0, azimuth, 0.0]))
    turned = [(p - centre) @ turn.T for p in points]
    camera = CameraModel.assume(width, height, _FOV)
    half = 0.92 * np.array([width / camera.fx, height / camera.fy]) / 2
    every = np.concatenate(turned)
    distance = float((np.abs(every[:, :2]) / half).max(1).max() - every[:, 2].min())
    surfaces = [
        Surface(p + [0.0, 0.0, distance], Look.plain(f, len(p), _linear(colour)), id=i + 1)
        for i, (p, f, colour) in enumerate(zip(turned, faces, colours[: len(turned)], strict=True))
    ]
    plane = np.full((height, width, 3), background, np.uint8)
    if renderer is not None:
        return renderer.render(surfaces, camera, _LIGHTS, plane)
    with Renderer(width, height) as own:
        return own.render(surfaces, camera, _LIGHTS, plane)


def _linear(colour: Rgb) -> tuple[float, ...]:
    c = np.asarray(colour) / 255
    return tuple(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4))
