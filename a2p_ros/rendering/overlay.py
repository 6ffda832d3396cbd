"""What the pipeline saw, drawn onto the image: skeleton, mesh, box, side, distance and a status line.

OpenCV only; two hands take a few milliseconds at 720p. The 3D pictures are in the renderer beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from a2p_ros.camera import CameraModel
from a2p_ros.colours import BONES, FINGER_COLOURS, HAND_COLOURS, Rgb
from a2p_ros.errors import InputError
from a2p_ros.types import Box, Image, Pair, PlacedHand, Side, Status, TwoHands

_FONT = cv2.FONT_HERSHEY_DUPLEX
_PLATE: Rgb = (24, 26, 30)
_INK: Rgb = (240, 242, 245)
_WARN: Rgb = (255, 196, 60)
_FAR = 1 << 14
#: Fractional bits of OpenCV's fixed-point pixel coordinates.
_SHIFT = 4


class Mesh(NamedTuple):
    """A surface in the camera frame: vertices [m] and triangles, counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


@dataclass(frozen=True)
class OverlayInfo:
    """What the status line says beside what `TwoHands` holds.

    ``fps`` [Hz] and ``latency`` [s] are left out when None (latency falls back to that of the
    hands); ``assumed_camera`` warns that no CameraInfo came; ``note`` is free text.
    """

    fps: float | None = None
    latency: float | None = None
    assumed_camera: bool = False
    note: str = ""


def draw_hands(
    image: Image,
    hands: TwoHands,
    *,
    info: OverlayInfo | None = None,
    meshes: Pair[Mesh | None] | None = None,
    camera: CameraModel | None = None,
) -> Image:
    """A copy of the image with both hands drawn into it.

    Args:
        image: RGB.
        hands: what the pipeline said of this image; a hand that is None is not drawn.
        info: rate, latency and notes of the status line; None draws the line with what the hands hold.
        meshes: surfaces in the camera frame, blended below the skeletons; they need ``camera``.
        camera: projects the meshes.

    Raises:
        InputError: the image is not (height, width, 3) uint8, or meshes came without a camera.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"expected an RGB image (height, width, 3) uint8, got {image.shape} {image.dtype}")
    canvas = np.ascontiguousarray(image).copy()
    scale = max(image.shape[0] / 720.0, 0.35)
    if meshes is not None:
        if camera is None:
            raise InputError("meshes are drawn through a camera: pass camera=, or leave meshes out")
        for side, mesh in _far_first(meshes, hands):
            _draw_mesh(canvas, mesh, camera, HAND_COLOURS[side])
    shown = [(side, hand) for side, hand in hands.items() if hand is not None]
    for side, hand in shown:
        _draw_box(canvas, hand.box, HAND_COLOURS[side], scale)
        _draw_skeleton(canvas, hand, HAND_COLOURS[side], scale)
    for side, hand in shown:
        _draw_label(canvas, side, hand, metric=hands.metric_scale, scale=scale)
    _draw_status(canvas, hands, info or OverlayInfo(), scale)
    return canvas


def _far_first(meshes: Pair[Mesh | None], hands: TwoHands) -> list[tuple[Side, Mesh]]:
    """The meshes of hands that are shown, the far one first so that the near one covers it."""
    shown = [(side, mesh) for side, mesh in meshes.items() if mesh is not None and hands[side] is not None]
    return sorted(shown, key=lambda item: -float(item[1].vertices[:, 2].mean()))


def _draw_mesh(canvas: Image, mesh: Mesh, camera: CameraModel, colour: Rgb, opacity: float = 0.62) -> None:
    """Blend the shaded surface: painter's algorithm over the triangles that face the camera."""
    vertices = np.asarray(mesh.vertices, np.float64)
    if not np.isfinite(vertices).all() or vertices[:, 2].min() < 0.01:
        return
    px = camera.project(vertices)
    corners = vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centres = corners.mean(1)
    front = np.einsum("fi,fi->f", normals, centres) < 0
    if not front.any():
        return
    normals = normals[front] / np.maximum(np.linalg.norm(normals[front], axis=1, keepdims=True), 1e-12)
    toward = -centres[front] / np.linalg.norm(centres[front], axis=1, keepdims=True)
    shade = 0.35 + 0.65 * np.clip(np.einsum("fi,fi->f", normals, toward), 0, 1)
    triangles = px[mesh.faces[front]]
    order = np.argsort(-centres[front][:, 2])
    height, width = canvas.shape[:2]
    low = np.maximum(np.floor(px.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(px.max(0)).astype(int) + 2, (width, height))
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    layer = region.copy()
    fixed = np.clip((triangles - low) * (1 << _SHIFT), -(_FAR << _SHIFT), _FAR << _SHIFT).round().astype(np.int32)
    shades = (shade[:, None] * np.asarray(colour) + 0.12 * shade[:, None] ** 8 * 255).clip(0, 255)
    tones: list[list[float]] = shades.tolist()
    for face in order.tolist():
        cv2.fillConvexPoly(layer, fixed[face], tones[face], cv2.LINE_8, _SHIFT)
    cv2.addWeighted(layer, opacity, region, 1 - opacity, 0, dst=region)


def _fixed(points: Float[np.ndarray, "n 2"]) -> list[tuple[int, int]]:
    """Pixels as OpenCV's fixed-point tuples; far outside is clipped, since OpenCV overflows there."""
    clipped = np.clip(np.nan_to_num(points), -_FAR, _FAR)
    return [(int(x), int(y)) for x, y in np.round(clipped * (1 << _SHIFT))]


def _draw_skeleton(canvas: Image, hand: PlacedHand, colour: Rgb, scale: float) -> None:
    points = _fixed(hand.keypoints_px)
    # A hand 80 px wide needs thinner lines than one that fills the picture.
    size = float(np.clip(np.nan_to_num(hand.box.size / 220.0), 0.45, 1.4)) * scale
    bone = max(round(3.4 * size), 2)
    for parent, child in BONES:
        cv2.line(canvas, points[parent], points[child], _PLATE, bone + 2, cv2.LINE_AA, _SHIFT)
    for number, (parent, child) in enumerate(BONES):
        cv2.line(canvas, points[parent], points[child], FINGER_COLOURS[number // 4], bone, cv2.LINE_AA, _SHIFT)
    radius = max(round(4.2 * size * (1 << _SHIFT)), 1 << _SHIFT)
    for point in points:
        cv2.circle(canvas, point, radius, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    cv2.circle(canvas, points[0], round(1.7 * radius), _INK, max(round(2 * size), 1), cv2.LINE_AA, _SHIFT)


def _draw_box(canvas: Image, box: Box, colour: Rgb, scale: float) -> None:
    """Corner brackets: a full frame would hide the fingers at its edge."""
    if not all(np.isfinite(box)):
        return
    arm = 0.16 * box.size
    thickness = max(round(2 * scale), 1)
    for x, dx in ((box.x0, arm), (box.x1, -arm)):
        for y, dy in ((box.y0, arm), (box.y1, -arm)):
            path = np.asarray(_fixed(np.asarray([(x + dx, y), (x, y), (x, y + dy)])), np.int32)
            cv2.polylines(canvas, [path], False, colour, thickness, cv2.LINE_AA, _SHIFT)


def _draw_label(canvas: Image, side: Side, hand: PlacedHand, *, metric: bool, scale: float) -> None:
    about = "" if metric else "~"
    text = f"{side.value} {hand.confidence:.0%}  {about}{float(np.linalg.norm(hand.wrist)):.2f} m"
    if hand.status is not Status.TRACKED:
        text += f"  {hand.status.name.lower()}"
    _, height = _text_size(text, scale)
    pad = round(6 * scale)
    above = hand.box.y0 - height - 3 * pad
    _plate(canvas, text, (hand.box.x0, above if above > 0 else hand.box.y1 + pad), scale, HAND_COLOURS[side])


def _draw_status(canvas: Image, hands: TwoHands, info: OverlayInfo, scale: float) -> None:
    latency = hands.latency if info.latency is None else info.latency
    parts = [] if info.fps is None else [f"{info.fps:.0f} fps"]
    parts += [f"{latency * 1e3:.0f} ms"] if latency > 0 else []
    parts += [hands.model_id]
    if hands.relative_translation is not None:
        about = "" if hands.metric_scale else "~"
        parts.append(f"wrists {about}{float(np.linalg.norm(hands.relative_translation)):.2f} m apart")
    if hands.repaired:
        parts.append("repaired")
    parts += [info.note] if info.note else []
    plates = [(part, _INK) for part in parts]
    plates += [("assumed camera", _WARN)] if info.assumed_camera else []
    pad = max(round(8 * scale), 2)
    x, y = pad, pad
    for text, ink in plates:
        width, height = _text_size(text, scale)
        if x > pad and x + width + 2 * pad > canvas.shape[1]:
            x, y = pad, y + height + 3 * pad
        x = _plate(canvas, text, (x, y), scale, _PLATE, ink=ink) + pad // 3


def _text_size(text: str, scale: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.55 * scale, max(round(scale), 1))
    return width, height


def _plate(
    canvas: Image, text: str, corner: tuple[float, float], scale: float, colour: Rgb, ink: Rgb = (255, 255, 255)
) -> int:
    """Text on a translucent plate, moved into the image where it would leave it; returns its right edge [px]."""
    height, width = canvas.shape[:2]
    text_width, text_height = _text_size(text, scale)
    pad = max(round(6 * scale), 2)
    w, h = text_width + 2 * pad, text_height + 2 * pad
    x0 = int(np.clip(np.nan_to_num(corner[0]), 0, max(width - w, 0)))
    y0 = int(np.clip(np.nan_to_num(corner[1]), 0, max(height - h, 0)))
    region = canvas[y0 : y0 + h, x0 : x0 + w]
    dark = tuple(int(0.72 * c) for c in colour)
    cv2.addWeighted(np.full_like(region, dark), 0.8, region, 0.2, 0, dst=region)
    cv2.putText(
        canvas, text, (x0 + pad, y0 + pad + text_height), _FONT, 0.55 * scale, ink, max(round(scale), 1), cv2.LINE_AA
    )
    return x0 + w
