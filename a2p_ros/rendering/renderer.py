"""A small renderer on OpenGL 3.3 through EGL: no display, and no GPU either (Mesa's llvmpipe).

Everything is in the camera frame (x right, y down, z forward) [m], and images come back with row 0
at the top; the shader's ``project`` is the only place that knows OpenGL's axes. Only the
rectangles that surfaces cover are drawn and read back, because on a CPU the pixels are the cost.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from a2p_ros.camera import CameraModel
from a2p_ros.errors import InputError, MissingDependencyError
from a2p_ros.rendering import shaders
from a2p_ros.rendering.rectangles import Rect, covered
from a2p_ros.types import Image, Pair

NEAR, FAR = 0.02, 20.0
NEEDS_EGL = (
    "rendering needs OpenGL 3.3 through EGL; without a GPU Mesa's software driver does it: "
    "sudo apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
)
#: What ``Look.material`` may hold.
PLAIN, SKIN, CLOTH = 0.0, 1.0, 2.0
_TILE = 64


@dataclass(frozen=True, eq=False)
class Look:
    """What does not change while a surface moves; it is sent to OpenGL once.

    ``colours`` are linear RGB in [0, 1]. ``textures`` are front and back (palm and back of the hand),
    RGBA with 128 neutral: RGB scales the colour, A is height over ``relief`` [m]. ``facing`` in [-1, 1] chooses
    between them. ``nails`` are (across, along, out of reach), edges of the nail at +-1. ``parts`` are added to the
    surface's id in the mask; a face has that of its last vertex.
    """

    faces: Int[np.ndarray, "f 3"]
    colours: Float[np.ndarray, "v 3"]
    material: float = PLAIN
    textures: tuple[UInt8[np.ndarray, "h w 4"], UInt8[np.ndarray, "h w 4"]] | None = None
    relief: float = 0.002
    uv: Float[np.ndarray, "v 2"] | None = None
    nails: Float[np.ndarray, "v 3"] | None = None
    facing: Float[np.ndarray, "v"] | None = None
    parts: UInt8[np.ndarray, "v"] | None = None

    def __post_init__(self) -> None:
        count = len(self.colours)
        if self.colours.shape != (count, 3) or self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise InputError(
                f"Look: expected faces (F, 3) and colours (V, 3), got {self.faces.shape} and {self.colours.shape}"
            )
        if self.faces.size and (self.faces.min() < 0 or self.faces.max() >= count):
            raise InputError(
                f"Look: faces name vertices {self.faces.min()} to {self.faces.max()}, but there are {count}"
            )

    @classmethod
    def plain(cls, faces: Int[np.ndarray, "f 3"], count: int, colour: Sequence[float]) -> Look:
        """One linear RGB colour for a mesh of ``count`` vertices."""
        return cls(np.asarray(faces), np.tile(np.asarray(colour, np.float32), (count, 1)))


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh in the camera frame [m], triangles counter-clockwise seen from outside.

    ``id`` (1 to 255) is its number in the mask; ``normals`` are computed when absent; ``light`` are the parts of the
    surrounding and of the key light that reach a vertex (1 = all), see ``occlusion``. ``coarse`` is the same in fewer
    faces, where there is one, for whoever needs labels and no picture.
    """

    vertices: Float[np.ndarray, "v 3"]
    look: Look
    id: int = 1
    normals: Float[np.ndarray, "v 3"] | None = None
    light: Float[np.ndarray, "v 2"] | None = None
    coarse: Surface | None = None


@dataclass(frozen=True)
class Lights:
    """One key light and a hemisphere. Directions point to the light, camera frame; colours are linear RGB."""

    key_direction: tuple[float, float, float] = (-0.45, -0.75, -0.50)
    key_colour: tuple[float, float, float] = (0.95, 0.88, 0.80)
    sky_colour: tuple[float, float, float] = (0.42, 0.45, 0.50)
    ground_colour: tuple[float, float, float] = (0.22, 0.19, 0.17)
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)


class Labels(NamedTuple):
    """Per pixel centre: depth along z [m] (inf where nothing is) and the id of the surface (0 = none)."""

    depth: Float32[np.ndarray, "height width"]
    ids: UInt8[np.ndarray, "height width"]


def vertex_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float32[np.ndarray, "v 3"]:
    """Unit normals, weighted by area."""
    points = np.ascontiguousarray(vertices.T, np.float64)  # whole rows of x, y and z: half the time of np.cross
    a, u, v = (points[:, faces[:, k]] for k in range(3))
    u -= a
    v -= a
    out = np.empty((len(vertices), 3))
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        face = np.repeat(u[i] * v[j] - u[j] * v[i], 3)
        out[:, k] = np.bincount(faces.ravel(), face, minlength=len(vertices))
    length = np.sqrt(np.einsum("vc,vc->v", out, out))
    return (out / np.maximum(length, 1e-20)[:, None]).astype(np.float32)


class Renderer:
    """Draws surfaces into images of one size. Use from any thread; close it when done.

    OpenGL contexts belong to a thread, so a thread of its own holds this one.

    Raises MissingDependencyError when there is no EGL driver.
    """

    def __init__(self, width: int, height: int, *, samples: int = 4) -> None:
        if not (0 < width <= 8192 and 0 < height <= 8192):
            raise InputError(f"image size: expected 1 to 8192 pixels each way, got {width} x {height}")
        self.width, self.height = width, height
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="a2p-render")
        try:
            self._gl = self._thread.submit(_Gl, samples).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    @property
    def device(self) -> str:
        """What OpenGL runs on, as the driver names it."""
        return self._gl.device

    def render(
        self,
        surfaces: Sequence[Surface],
        camera: CameraModel,
        lights: Lights | None = None,
        background: Image | None = None,
    ) -> Image:
        """The RGB image of ``surfaces`` in front of ``background`` (black when None).

        The same background array is sent to OpenGL only once: do not write into it. A lens of the model plumb_bob
        bends the vertices, so that faces should be small; the background is taken as it is.

        Raises InputError or CameraError for a camera with other distortion or of another size.
        """
        self._check(surfaces, camera)
        if background is None:
            background = self._gl.black(self.height, self.width)
        if background.shape != (self.height, self.width, 3) or background.dtype != np.uint8:
            raise InputError(
                f"background: expected ({self.height}, {self.width}, 3) uint8, "
                f"got {background.shape} {background.dtype}"
            )
        return self._thread.submit(self._gl.draw, surfaces, camera, lights or Lights(), background).result()

    def layer(
        self, surfaces: Sequence[Surface], camera: CameraModel, lights: Lights | None = None
    ) -> UInt8[np.ndarray, "height width 4"]:
        """``surfaces`` alone: RGB times the share of the pixel that they cover, and that share.

        Raises as ``render``.
        """
        self._check(surfaces, camera)
        return self._thread.submit(self._gl.draw_layer, surfaces, camera, lights or Lights()).result()

    def silhouettes(
        self, surfaces: Pair[Sequence[Surface]], camera: CameraModel, parts: int
    ) -> Pair[Bool[np.ndarray, "height width"]]:
        """The pixels of two sets of surfaces, each as if nothing were in front of it; only ``Look.parts`` < ``parts``.

        Raises as ``render``.
        """
        for _, several in surfaces.items():
            self._check(several, camera)
        return self._thread.submit(self._gl.draw_silhouettes, surfaces, camera, parts).result()

    def labels(self, surfaces: Sequence[Surface], camera: CameraModel) -> Labels:
        """Depth and ids at the pixel centres, without anti-aliasing."""
        self._check(surfaces, camera)
        return self._thread.submit(self._gl.draw_labels, surfaces, camera).result()

    def _check(self, surfaces: Sequence[Surface], camera: CameraModel) -> None:
        camera.check_image(self.height, self.width)
        if camera.distortion_model not in ("none", "plumb_bob") or any(camera.d[4:]):
            raise InputError(
                f"the renderer draws cameras without distortion or with k1 k2 p1 p2 of plumb_bob, got "
                f"{camera.distortion_model} {camera.d}; render with distortion_model 'none' and warp the image"
            )
        for surface in surfaces:
            expected = (len(surface.look.colours), 3)
            if surface.vertices.shape != expected:
                raise InputError(f"surface {surface.id}: expected vertices {expected}, got {surface.vertices.shape}")
            if not np.isfinite(surface.vertices).all():
                raise InputError(f"surface {surface.id}: its vertices are not all finite")
            if not 1 <= surface.id <= 255:
                raise InputError(f"surface id: expected 1 to 255, got {surface.id}")

    def close(self) -> None:
        """Release OpenGL and its thread; the renderer is not used afterwards."""
        self._thread.submit(self._gl.release).result()
        self._thread.shutdown()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Uploaded:
    """A look's constant buffers and the arrays that draw it."""

    vertex_count: int
    moving: Any
    picture: Any
    label: Any
    silhouette: Any
    textures: tuple[Any, Any] | None
    owned: list[Any] = field(default_factory=list)


class _Gl:
    """All OpenGL state; every method runs in the renderer's thread."""

    def __init__(self, samples: int) -> None:
        try:
            import moderngl
        except ImportError as error:
            raise MissingDependencyError(
                f"rendering needs the package moderngl: pip install moderngl ({error})"
            ) from error
        self._moderngl = moderngl
        self._context = _create_context(moderngl)
        context = self._context
        context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
        context.front_face = "cw"  # counter-clockwise in the image, whose y axis runs against OpenGL's
        self._samples = min(samples, context.max_samples)
        self.device = str(context.info["GL_RENDERER"])
        self._surface = context.program(shaders.SURFACE_VERTEX, shaders.SURFACE_FRAGMENT)
        self._label = context.program(shaders.LABEL_VERTEX, shaders.LABEL_FRAGMENT)
        self._silhouette = context.program(shaders.LABEL_VERTEX, shaders.SILHOUETTE_FRAGMENT)
        self._backdrop = context.program(shaders.BACKGROUND_VERTEX, shaders.BACKGROUND_FRAGMENT)
        self._surface["front_texture"], self._surface["back_texture"], self._backdrop["picture"] = 1, 2, 0
        corners = context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4"))
        self._corners = context.vertex_array(self._backdrop, [(corners, "2f", "in_corner")])
        self._targets: dict[tuple[int, int, bool], tuple[Any, Any]] = {}
        self._looks: weakref.WeakKeyDictionary[Look, _Uploaded] = weakref.WeakKeyDictionary()
        self._stale: list[_Uploaded] = []
        self._textures: dict[int, Any] = {}
        self._background: tuple[np.ndarray, Any] | None = None
        self._black: np.ndarray | None = None

    def black(self, height: int, width: int) -> Image:
        if self._black is None or self._black.shape[:2] != (height, width):
            self._black = np.zeros((height, width, 3), np.uint8)
        return self._black

    def draw(
        self,
        surfaces: Sequence[Surface],
        camera: CameraModel,
        lights: Lights,
        background: Image,
    ) -> Image:
        self._bind_background(background)
        out = background.copy()
        for rect, rgba in self._draw(surfaces, camera, lights, backdrop=True):
            out[rect.y0 : rect.y1, rect.x0 : rect.x1] = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        return out

    def draw_layer(
        self, surfaces: Sequence[Surface], camera: CameraModel, lights: Lights
    ) -> UInt8[np.ndarray, "h w 4"]:
        out = np.zeros((camera.height, camera.width, 4), np.uint8)
        for rect, rgba in self._draw(surfaces, camera, lights, backdrop=False):
            out[rect.y0 : rect.y1, rect.x0 : rect.x1] = rgba
        return out

    def _draw(
        self, surfaces: Sequence[Surface], camera: CameraModel, lights: Lights, *, backdrop: bool
    ) -> Iterator[tuple[Rect, UInt8[np.ndarray, "h w 4"]]]:
        program, gl = self._surface, self._moderngl
        rects = covered([surface.vertices for surface in surfaces], camera, NEAR)
        key = np.asarray(lights.key_direction, float)
        up = np.asarray(lights.up, float)
        program["key_direction"] = tuple(key / np.linalg.norm(key))
        program["up"] = tuple(up / np.linalg.norm(up))
        for name in ("key_colour", "sky_colour", "ground_colour"):
            program[name] = tuple(getattr(lights, name))
        for rect, seen in rects:
            width, height = rect.x1 - rect.x0, rect.y1 - rect.y0
            drawn, resolved = self._target(width, height, labels=False)
            drawn.use()
            drawn.viewport = (0, 0, width, height)
            drawn.clear(depth=1.0)
            if backdrop:
                self._context.disable(gl.DEPTH_TEST | gl.CULL_FACE)
                self._backdrop["origin"] = (rect.x0, rect.y0)
                self._corners.render(gl.TRIANGLES)
                self._context.enable(gl.DEPTH_TEST | gl.CULL_FACE)
            _set_projection(program, camera, rect)
            for i in seen:
                surface, arrays = surfaces[i], self._upload(surfaces[i], shaded=True)
                program["textured"] = arrays.textures is not None
                program["relief"] = surface.look.relief
                if arrays.textures is not None:
                    arrays.textures[0].use(1)
                    arrays.textures[1].use(2)
                arrays.picture.render(gl.TRIANGLES)
            if resolved is not drawn:
                self._context.copy_framebuffer(resolved, drawn)
            raw = resolved.read((0, 0, width, height), components=4, alignment=1)
            yield rect, np.frombuffer(raw, np.uint8).reshape(height, width, 4)

    def draw_silhouettes(
        self, surfaces: Pair[Sequence[Surface]], camera: CameraModel, parts: int
    ) -> Pair[Bool[np.ndarray, "h w"]]:
        gl, context = self._moderngl, self._context
        both = [*surfaces.left, *surfaces.right]
        out = np.zeros((2, camera.height, camera.width), bool)
        rects = covered([surface.vertices for surface in both], camera, NEAR)
        context.disable(gl.DEPTH_TEST)
        context.enable(gl.BLEND)
        context.blend_equation, context.blend_func = gl.MAX, (gl.ONE, gl.ONE)
        self._silhouette["parts"] = float(parts)
        for rect, seen in rects:
            width, height = rect.x1 - rect.x0, rect.y1 - rect.y0
            target, _ = self._target(width, height, labels=True)
            target.use()
            target.viewport = (0, 0, width, height)
            target.clear(0.0, 0.0, depth=1.0)
            _set_projection(self._silhouette, camera, rect)
            for i in seen:
                self._silhouette["mark"] = (1.0, 0.0) if i < len(surfaces.left) else (0.0, 1.0)
                self._upload(both[i], shaded=False).silhouette.render(gl.TRIANGLES)
            raw = target.read((0, 0, width, height), components=2, alignment=1, dtype="f4")
            drawn = np.frombuffer(raw, np.float32).reshape(height, width, 2) > 0.5
            out[:, rect.y0 : rect.y1, rect.x0 : rect.x1] = np.moveaxis(drawn, -1, 0)
        context.disable(gl.BLEND)
        context.enable(gl.DEPTH_TEST)
        return Pair(out[0], out[1])

    def draw_labels(self, surfaces: Sequence[Surface], camera: CameraModel) -> Labels:
        depth = np.full((camera.height, camera.width), np.inf, np.float32)
        ids = np.zeros((camera.height, camera.width), np.uint8)
        rects = covered([surface.vertices for surface in surfaces], camera, NEAR)
        for rect, seen in rects:
            width, height = rect.x1 - rect.x0, rect.y1 - rect.y0
            target, _ = self._target(width, height, labels=True)
            target.use()
            target.viewport = (0, 0, width, height)
            target.clear(math.inf, 0.0, depth=1.0)
            _set_projection(self._label, camera, rect)
            for i in seen:
                surface, arrays = surfaces[i], self._upload(surfaces[i], shaded=False)
                self._label["id"] = float(surface.id)
                arrays.label.render(self._moderngl.TRIANGLES)
            raw = target.read((0, 0, width, height), components=2, alignment=1, dtype="f4")
            both = np.frombuffer(raw, np.float32).reshape(height, width, 2)
            depth[rect.y0 : rect.y1, rect.x0 : rect.x1] = both[..., 0]
            ids[rect.y0 : rect.y1, rect.x0 : rect.x1] = both[..., 1]
        return Labels(depth, ids)

    def _target(self, width: int, height: int, *, labels: bool) -> tuple[Any, Any]:
        """Framebuffer to draw into and framebuffer to read from, at least this large."""
        key = (-(-width // _TILE) * _TILE, -(-height // _TILE) * _TILE, labels)
        if key not in self._targets:
            if len(self._targets) >= 24:
                for target in set(self._targets.pop(next(iter(self._targets)))):
                    _release_framebuffer(target)
            size, samples = key[:2], 0 if labels else self._samples
            context = self._context
            texture = context.texture(size, 2, dtype="f4") if labels else context.renderbuffer(size, 4, samples=samples)
            drawn = context.framebuffer([texture], context.depth_renderbuffer(size, samples=samples))
            resolved = context.framebuffer([context.renderbuffer(size, 4)]) if samples else drawn
            self._targets[key] = (drawn, resolved)
        return self._targets[key]

    def _bind_background(self, background: Image) -> None:
        if self._background is None or self._background[0] is not background:
            size = (background.shape[1], background.shape[0])
            if self._background is not None and self._background[1].size == size:
                texture = self._background[1]
                texture.write(np.ascontiguousarray(background))
            else:
                if self._background is not None:
                    self._background[1].release()
                texture = self._context.texture(size, 3, np.ascontiguousarray(background), alignment=1)
            self._background = (background, texture)
        self._background[1].use(0)

    def _upload(self, surface: Surface, *, shaded: bool) -> _Uploaded:
        """Sent right before it is drawn, as surfaces may share a look."""
        while self._stale:
            for owned in self._stale.pop().owned:
                owned.release()
        arrays = self._looks.get(surface.look)
        if arrays is None:
            arrays = self._looks[surface.look] = self._create(surface.look)
            weakref.finalize(surface.look, self._stale.append, arrays)
        moving = np.ones((arrays.vertex_count, 8), np.float32)
        moving[:, :3] = surface.vertices
        if shaded:
            normals = surface.normals
            moving[:, 3:6] = vertex_normals(surface.vertices, surface.look.faces) if normals is None else normals
            if surface.light is not None:
                moving[:, 6:] = surface.light
        arrays.moving.write(moving)
        return arrays

    def _create(self, look: Look) -> _Uploaded:
        context, count = self._context, len(look.colours)
        constant = np.zeros((count, 11), np.float32)
        constant[:, :3] = look.colours
        if look.uv is not None:
            constant[:, 3:5] = look.uv
        constant[:, 5:8] = (9.0, 9.0, 9.0) if look.nails is None else look.nails
        if look.facing is not None:
            constant[:, 8] = look.facing
        constant[:, 9] = look.material
        if look.parts is not None:
            constant[:, 10] = look.parts
        moving = context.buffer(reserve=count * 32, dynamic=True)
        fixed = context.buffer(constant)
        index = context.buffer(np.ascontiguousarray(look.faces, np.uint32))
        picture = context.vertex_array(
            self._surface,
            [
                (moving, "3f 3f 2f", "in_position", "in_normal", "in_light"),
                (fixed, "3f 2f 3f 2f 4x", "in_colour", "in_uv", "in_nail", "in_kind"),
            ],
            index,
        )
        marked = [(moving, "3f 20x", "in_position"), (fixed, "40x 1f", "in_part")]
        label = context.vertex_array(self._label, marked, index)
        silhouette = context.vertex_array(self._silhouette, marked, index)
        textures = None if look.textures is None else (self._texture(look.textures[0]), self._texture(look.textures[1]))
        owned = [picture, label, silhouette, moving, fixed, index]
        return _Uploaded(count, moving, picture, label, silhouette, textures, owned)

    def _texture(self, pixels: UInt8[np.ndarray, "h w 4"]) -> Any:
        """One OpenGL texture per array, shared by the looks that name it."""
        found = self._textures.get(id(pixels))
        if found is None or found[0]() is not pixels:
            gl = self._moderngl
            texture = self._context.texture((pixels.shape[1], pixels.shape[0]), 4, np.ascontiguousarray(pixels))
            texture.build_mipmaps()
            texture.filter = (gl.LINEAR_MIPMAP_NEAREST, gl.LINEAR)
            texture.repeat_x = texture.repeat_y = False
            found = self._textures[id(pixels)] = (weakref.ref(pixels), texture)
        return found[1]

    def release(self) -> None:
        self._context.release()


def _create_context(moderngl: Any) -> Any:
    """A context of its own through EGL; the library's run-time name is tried first, the developer's second."""
    reasons = []
    for names in ({"libgl": "libGL.so.1", "libegl": "libEGL.so.1"}, {}):
        try:
            return moderngl.create_context(require=330, standalone=True, backend="egl", **names)
        except Exception as error:  # noqa: BLE001 - what glcontext raises for every failure
            reasons.append(str(error))
    raise MissingDependencyError(f"{NEEDS_EGL} ({'; '.join(dict.fromkeys(reasons))})")


def _set_projection(program: Any, camera: CameraModel, rect: Rect) -> None:
    program["pinhole"] = (camera.fx, camera.fy, camera.cx + 0.5 - rect.x0, camera.cy + 0.5 - rect.y0)
    program["size"] = (float(rect.x1 - rect.x0), float(rect.y1 - rect.y0))
    program["range"] = (NEAR, FAR)
    program["lens"] = camera.d[:4] if camera.distortion_model == "plumb_bob" else (0.0, 0.0, 0.0, 0.0)
    if camera.distortion_model == "plumb_bob":
        corners = np.array([(x, y) for x in (-0.5, camera.width - 0.5) for y in (-0.5, camera.height - 0.5)])
        program["reach"] = 1.2 * float(np.square(camera.rays(corners)).sum(1).max())


def _release_framebuffer(framebuffer: Any) -> None:
    for attachment in (*framebuffer.color_attachments, framebuffer.depth_attachment):
        if attachment is not None:
            attachment.release()
    framebuffer.release()
