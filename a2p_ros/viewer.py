"""Both hands in 3D in a web browser, beside the camera picture, with rate and latency (viser).

The scene is in the camera's optical frame [m] with -y up. What arrives is stored; one thread draws the newest at most
``rate`` times a second, so whoever feeds the view is never slowed by it. It listens on loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import viser
from jaxtyping import Float, Int

from a2p_ros.colours import BONES, FINGER_COLOURS, HAND_COLOURS
from a2p_ros.errors import SourceError
from a2p_ros.types import Image, Pair, Side

log = logging.getLogger(__name__)

#: Where a page that is opened before any hand was seen looks from and to [m].
_START_EYE, _START_TARGET = (0.33, -0.26, -0.23), (0.0, 0.02, 0.43)
_PICTURE_WIDTH = 400
#: The picture hangs behind the hands, at least this far from the camera [m].
_PICTURE_DEPTH = 0.9
_FINGER_OF_BONE = np.repeat(np.asarray(FINGER_COLOURS, np.uint8), 4, axis=0)


@dataclass(frozen=True)
class ViewerHand:
    """One valid hand in the camera frame [m]; the skeleton is shown alone where there is no mesh."""

    joints: Float[np.ndarray, "21 3"]
    confidence: float
    vertices: Float[np.ndarray, "v 3"] | None = None
    faces: Int[np.ndarray, "f 3"] | None = None


@dataclass(frozen=True)
class ViewerStats:
    """What the panel says; ``rate`` [Hz], ``latency`` [s] from the image's stamp to the receipt of its hands."""

    rate: float = 0.0
    latency: float = 0.0
    frames: int = 0
    model_id: str = ""
    metric_scale: bool = False
    note: str = ""


@dataclass
class _Newest:
    hands: Pair[ViewerHand | None] = field(default_factory=lambda: Pair(None, None))
    stats: ViewerStats = field(default_factory=ViewerStats)
    image: Image | None = None
    fov_y: float = 0.63


class HandViewer:
    """The web page. ``show_hands`` and ``show_image`` may be called from any thread; both return at once.

    Args:
        host: address to listen on; anything but loopback shows the camera to the network.
        port: the next free one is taken where it is in use; ``url`` tells which.
        rate: most updates of the page a second [Hz].

    Raises:
        SourceError: no port can be had on that host.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 8080, rate: float = 20.0) -> None:
        self.host = host
        self._period = 1.0 / rate
        self._newest = _Newest()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        port = _free_port(host, port)
        # viser greets on standard output, which belongs to the program that shows the view.
        with contextlib.redirect_stdout(io.StringIO()):
            self._server = viser.ViserServer(host=host, port=port, label="a2p", verbose=False)
        self._build()
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that was granted."""
        return int(self._server.get_port())

    @property
    def url(self) -> str:
        """Address of the page."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def show_hands(self, hands: Pair[ViewerHand | None], stats: ViewerStats | None = None) -> None:
        """Show these hands; one that is None vanishes with the next update."""
        with self._lock:
            self._newest.hands = hands
            self._newest.stats = stats or self._newest.stats
        self._changed.set()

    def show_image(self, image: Image, fov_y: float | None = None) -> None:
        """Show the camera picture; ``fov_y`` is the vertical field of view [rad] of the frustum that carries it."""
        with self._lock:
            self._newest.image = image
            self._newest.fov_y = fov_y or self._newest.fov_y
        self._changed.set()

    def close(self) -> None:
        """Stop the thread and the server; safe to call twice."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._changed.set()
            self._thread.join(timeout=5.0)
            self._server.stop()

    def __enter__(self) -> HandViewer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _build(self) -> None:
        server, scene, gui = self._server, self._server.scene, self._server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_layout="collapsible")
        scene.set_up_direction("-y")
        scene.add_grid(
            "/floor",
            width=1.6,
            height=1.6,
            plane="xz",
            cell_size=0.1,
            section_size=0.5,
            cell_color=(70, 74, 82),
            section_color=(104, 110, 120),
            position=(0.0, 0.45, 0.6),
        )
        self._frustum = scene.add_camera_frustum(
            "/camera",
            fov=self._newest.fov_y,
            aspect=16 / 9,
            scale=_frustum_scale(self._newest.fov_y, 16 / 9, _PICTURE_DEPTH),
            thickness=0.0012,
            color=(150, 156, 168),
        )
        self._depth = _PICTURE_DEPTH
        self._frames = Pair(*(scene.add_frame(f"/{side.value}", show_axes=False, visible=False) for side in Side))
        self._meshes: dict[Side, Any] = {}
        self._skeletons: dict[Side, Any] = {}
        self._labels: dict[Side, Any] = {}
        self._faces: dict[Side, Int[np.ndarray, "f 3"]] = {}
        self._text = gui.add_markdown("waiting for hands")
        self._picture: Any = None
        self._show_mesh = gui.add_checkbox("Mesh", True)
        self._show_skeleton = gui.add_checkbox("Skeleton", False)
        self._show_labels = gui.add_checkbox("Labels", True)
        self._follow = gui.add_button("Look at the hands")
        self._follow.on_click(self._look_at_hands)
        for box in (self._show_mesh, self._show_skeleton, self._show_labels):
            box.on_update(lambda _: self._changed.set())
        camera = server.initial_camera
        camera.position, camera.look_at, camera.fov = np.asarray(_START_EYE), np.asarray(_START_TARGET), 0.9
        self._framed_at = 0.0

    def _run(self) -> None:
        while self._changed.wait() and not self._stopping.is_set():
            begin = time.monotonic()
            self._changed.clear()
            with self._lock:
                newest = _Newest(**vars(self._newest))
                self._newest.image = None
            try:
                self._draw(newest)
            except Exception:
                # The view is a side show: an update that fails is logged and the next one tried.
                log.exception("the browser view could not be updated")
            self._stopping.wait(max(self._period - (time.monotonic() - begin), 0.0))

    def _draw(self, newest: _Newest) -> None:
        with self._server.atomic():
            for side, hand in newest.hands.items():
                self._draw_hand(side, hand)
            self._text.content = panel_text(newest.hands, newest.stats)
        far = max((float(hand.joints[:, 2].max()) for _, hand in newest.hands.items() if hand is not None), default=0.0)
        self._depth = max(self._depth, far + 0.15)
        if newest.image is not None:
            self._draw_picture(newest.image, newest.fov_y)
        # Where "reset view" and pages opened from now on look; every update would only cost traffic.
        if time.monotonic() - self._framed_at > 2.0 and any(hand is not None for _, hand in newest.hands.items()):
            self._framed_at = time.monotonic()
            eye, target = frame_hands(newest.hands)
            self._server.initial_camera.position, self._server.initial_camera.look_at = eye, target
        self._server.flush()

    def _draw_hand(self, side: Side, hand: ViewerHand | None) -> None:
        frame = self._frames[side]
        frame.visible = hand is not None
        if hand is None:
            return
        with_mesh = hand.vertices is not None and hand.faces is not None
        if with_mesh:
            self._draw_mesh(side, hand)
        if side in self._meshes:
            self._meshes[side].visible = with_mesh and self._show_mesh.value
        segments = np.asarray(hand.joints, np.float32)[np.asarray(BONES)]
        if side not in self._skeletons:
            colours = np.repeat(_FINGER_OF_BONE[:, None], 2, axis=1)
            self._skeletons[side] = self._server.scene.add_line_segments(
                f"/{side.value}/skeleton", segments, colours, thickness=0.005
            )
        self._skeletons[side].points = segments
        self._skeletons[side].visible = self._show_skeleton.value or not (with_mesh and self._show_mesh.value)
        if side not in self._labels:
            self._labels[side] = self._server.scene.add_label(f"/{side.value}/label", side.value, anchor="top-center")
        self._labels[side].text = f"{side.value} {float(np.linalg.norm(hand.joints[0])):.2f} m"
        self._labels[side].position = hand.joints[0] + np.asarray((0.0, 0.03, 0.0))
        self._labels[side].visible = self._show_labels.value

    def _draw_mesh(self, side: Side, hand: ViewerHand) -> None:
        assert hand.vertices is not None and hand.faces is not None
        vertices = np.asarray(hand.vertices, np.float32)
        known = self._faces.get(side)
        if known is not None and np.array_equal(known, hand.faces):
            self._meshes[side].vertices = vertices
            return
        self._faces[side] = hand.faces
        self._meshes[side] = self._server.scene.add_mesh_simple(
            f"/{side.value}/mesh", vertices, np.asarray(hand.faces, np.uint32), color=HAND_COLOURS[side], side="double"
        )

    def _draw_picture(self, image: Image, fov_y: float) -> None:
        height, width = image.shape[:2]
        size = (_PICTURE_WIDTH, max(round(height * _PICTURE_WIDTH / width), 1))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if width > _PICTURE_WIDTH else image
        if self._picture is None:
            self._picture = self._server.gui.add_image(small, label="Camera", format="jpeg", jpeg_quality=75)
        else:
            self._picture.image = small
        self._frustum.image = small
        self._frustum.fov, self._frustum.aspect = fov_y, width / height
        self._frustum.scale = _frustum_scale(fov_y, width / height, self._depth)

    def _look_at_hands(self, event: Any) -> None:
        with self._lock:
            hands = self._newest.hands
        if event.client is not None and any(hand is not None for _, hand in hands.items()):
            event.client.camera.position, event.client.camera.look_at = frame_hands(hands)


def _free_port(host: str, port: int, tries: int = 100) -> int:
    """The first port from ``port`` on that can be listened on; viser waits for ever where there is none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        reason: Exception = OSError("no port is free")
    except (OSError, OverflowError) as error:
        family, reason, tries = socket.AF_INET, error, 0
    for candidate in range(port, min(port + tries, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                reason = error
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    break
            else:
                return candidate
    raise SourceError(f"cannot listen on {host}:{port} ({reason}); give another --host or --port")


def _frustum_scale(fov_y: float, aspect: float, depth: float) -> float:
    """viser's ``scale`` that puts the picture ``depth`` [m] away: it keeps the frustum's volume, not its depth."""
    y = math.tan(fov_y / 2)
    return depth * (aspect * y * y / 3) ** (1 / 3)


def frame_hands(hands: Pair[ViewerHand | None]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """(eye, target) [m] that shows all hands that are there, from behind, above and the right of the camera.

    At least one hand must be there. The camera itself stays in view, since its picture hangs on it.
    """
    points = np.concatenate([hand.joints for _, hand in hands.items() if hand is not None]).astype(float)
    target = (points.min(0) + points.max(0)) / 2
    target = np.asarray([0.7 * target[0] + 0.06 * target[2], 0.7 * target[1], target[2]])
    radius = max(float(np.linalg.norm(np.ptp(points, axis=0))) / 2, 0.2)
    direction = np.asarray([0.34, -0.34, -0.88]) / np.linalg.norm([0.34, -0.34, -0.88])
    return target + direction * max(3.0 * radius, 1.55 * target[2]), target


def panel_text(hands: Pair[ViewerHand | None], stats: ViewerStats) -> str:
    """Markdown of the panel: rate, latency, both hands, model."""
    lines = [f"**{stats.rate:.1f} Hz** · latency **{stats.latency * 1e3:.0f} ms** · frame {stats.frames}", ""]
    for side, hand in hands.items():
        if hand is None:
            lines.append(f"- {side.value}: not seen")
        else:
            distance = float(np.linalg.norm(hand.joints[0]))
            about = "" if stats.metric_scale else "about "
            lines.append(f"- **{side.value}**: {hand.confidence:.0%}, wrist {about}{distance:.2f} m away")
    if stats.model_id:
        # Spaces let the panel break the line.
        lines += ["", stats.model_id.replace("+", " + ") + ("" if stats.metric_scale else " · scale assumed")]
    if stats.note:
        lines += ["", stats.note]
    return "\n".join(lines)
