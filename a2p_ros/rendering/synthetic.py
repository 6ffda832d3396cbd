"""The synthetic camera: two rendered hands that move in front of it, and the truth of each frame."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.errors import ConfigError
from a2p_ros.hand import HandModel, load_hand_models
from a2p_ros.hand.limits import joint_axes, joint_rotations
from a2p_ros.rendering.background import paint_room
from a2p_ros.rendering.hand_mesh import ArmMesh, Sleeve
from a2p_ros.rendering.motion import HandState, Motion
from a2p_ros.rendering.occlusion import occluders
from a2p_ros.rendering.renderer import Labels, Lights, Renderer, Surface
from a2p_ros.rendering.skin import TONES, paint_skin
from a2p_ros.rendering.truth import HandTruth, SyntheticFrame
from a2p_ros.rotations import matrix_to_axis_angle
from a2p_ros.torch_threads import single_thread
from a2p_ros.types import Box, Image, Pair, Side

#: Numbers of the skin in the mask of ids; the sleeve has the next one.
SKIN_IDS: Pair[int] = Pair(left=1, right=3)
_SLEEVES = ((0.06, 0.10, 0.20), (0.30, 0.32, 0.34), (0.22, 0.05, 0.06), (0.05, 0.14, 0.11), (0.50, 0.46, 0.38))


class SyntheticCamera:
    """An endless source of ``SyntheticFrame``; the same seed gives the same frames.

    Each iteration starts at the loop's beginning. Frame i is the motion at i / fps; the loop closes without a jump.

    Args:
        seed: motion, skin, sleeves, light and room.
        width: of the image [px].
        height: of the image [px].
        fps: frames a second of the motion [Hz].
        fov: horizontal field of view [rad].
        loop_seconds: period of the motion [s].
        distance: nearest and farthest depth of the wrists [m].
        noise: standard deviation of the sensor noise, in grey levels.
        cache: keep the pictures of the first round (JPEG, about 60 MB at 720p) and replay them, so that a
            demonstration leaves the processor to the pipeline. All rounds then show the JPEG.
        samples: anti-aliasing samples a pixel; 0 is about twice as fast and has jagged edges.
        crossing: the hands cross, see ``Motion``.

    Raises MissingDependencyError when there is no EGL driver; see ``open_synthetic`` for the way round.
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 1280,
        height: int = 720,
        fps: float = 30.0,
        fov: float = 1.05,
        *,
        loop_seconds: float = 12.0,
        distance: tuple[float, float] = (0.50, 0.66),
        noise: float = 1.8,
        cache: bool = False,
        samples: int = 4,
        crossing: bool = False,
    ) -> None:
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps: expected more than 0 and at most 1000 Hz, got {fps}")
        if seed < 0:
            raise ConfigError(f"seed: expected 0 or more, got {seed}")
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        assumed = CameraModel.assume(width, height, fov)
        self.camera = CameraModel(width, height, assumed.fx, assumed.fy, assumed.cx, assumed.cy)
        self.loop_frames = max(2, round(loop_seconds * fps))
        self.motion = Motion(
            seed,
            loop_seconds=self.loop_frames / fps,
            distance=distance,
            fov=fov,
            aspect=width / height,
            crossing=crossing,
        )
        self.models = load_hand_models()
        generator = np.random.default_rng([seed, 0x736B696E])
        tone = int(generator.integers(len(TONES))) if seed else 1
        self.betas = (generator.normal(0, 0.6, 10)).clip(-1.5, 1.5).astype(np.float32)
        rest = _rest_joints(self.models.right)
        self._axes = joint_axes(rest)
        textures = paint_skin(rest, generator, darkness=max(0.0, (tone - 1) / 3) * 0.5)
        colour = _SLEEVES[int(generator.integers(len(_SLEEVES)))]
        # Some wear sleeves to the wrist, some have them rolled up, some arms are bare.
        start = float(generator.choice([0.07, 0.14, 0.50])) if seed else 0.13
        sleeve = Sleeve(start, colour) if start < 0.4 else None
        self._arms = Pair(
            *(ArmMesh(model, textures, TONES[tone], sleeve) for model in (self.models.left, self.models.right))
        )
        self._background = paint_room(width, height, generator)
        side = generator.choice([-1.0, 1.0])
        self.lights = Lights(key_direction=(side * generator.uniform(0.3, 0.6), -0.8, -generator.uniform(0.4, 0.7)))
        self._noise = _NoiseTile(width, height, noise, generator) if noise > 0 else None
        self._cached: dict[int, tuple[np.ndarray, Pair[HandTruth]]] | None = {} if cache else None
        self._renderer = Renderer(width, height, samples=samples)

    def __iter__(self) -> Iterator[SyntheticFrame]:
        index = 0
        while True:
            yield self.frame(index)
            index += 1

    def frame(self, index: int) -> SyntheticFrame:
        """Frame ``index`` of the endless sequence."""
        stamp, place = index / self.fps, index % self.loop_frames
        if self._cached is None:
            truth = self.truth(place)
            return SyntheticFrame(self._draw(place, truth), stamp, self.camera, truth)
        if place not in self._cached:
            truth = self.truth(place)
            drawn = cv2.cvtColor(self._draw(place, truth), cv2.COLOR_RGB2BGR)
            self._cached[place] = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 94])[1], truth
        packed, truth = self._cached[place]
        image = cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return SyntheticFrame(image, stamp, self.camera, truth)

    def truth(self, index: int) -> Pair[HandTruth]:
        """What frame ``index`` shows, without drawing it."""
        states = self.motion.at(index % self.loop_frames / self.fps)
        with single_thread():
            return Pair(*(self._pose(self.models[side], states[side]) for side in Side))

    def labels(self, index: int) -> Labels:
        """Depth [m] and ids (``SKIN_IDS``) of frame ``index``."""
        return self._renderer.labels(self.surfaces(index, self.truth(index)), self.camera)

    def surfaces(self, index: int, truth: Pair[HandTruth]) -> list[Surface]:
        """The meshes of frame ``index``, camera frame [m]."""
        states = self.motion.at(index % self.loop_frames / self.fps)
        key = np.asarray(self.lights.key_direction)
        key = key / np.linalg.norm(key)
        spheres = {side: occluders(hand.joints, states[side].forearm) for side, hand in truth.items()}
        reach = np.linalg.norm(truth.left.joints[9] - truth.right.joints[9])
        out = []
        for side, hand in truth.items():
            near = np.concatenate(list(spheres.values())) if reach < 0.25 else spheres[side]
            state = states[side]
            out += self._arms[side].surfaces(
                hand.vertices,
                state.global_orient,
                hand.wrist,
                state.forearm,
                id=SKIN_IDS[side],
                spheres=near,
                key_direction=key,
            )
        return out

    def _pose(self, model: HandModel, state: HandState) -> HandTruth:
        pose = joint_rotations(state.angles, self._axes, model.side)
        rotations = np.concatenate([state.global_orient[None], pose])
        betas = torch.from_numpy(self.betas)[None]
        with torch.inference_mode():
            rest_wrist = model.with_shape(betas).joints[0, 0].numpy()
            transl = (state.wrist - rest_wrist).astype(np.float32)
            out = model.forward(
                betas, torch.from_numpy(rotations.astype(np.float32))[None], torch.from_numpy(transl)[None]
            )
        joints = out.joints[0].numpy().astype(np.float64)
        keypoints = self.camera.project(joints)
        return HandTruth(
            side=model.side,
            joints=joints,
            vertices=out.vertices[0].numpy().astype(np.float64),
            global_orient=matrix_to_axis_angle(state.global_orient),
            hand_pose=matrix_to_axis_angle(pose).reshape(45),
            betas=self.betas.copy(),
            transl=transl.astype(np.float64),
            keypoints_px=keypoints,
            box=Box.around(keypoints),
        )

    def _draw(self, index: int, truth: Pair[HandTruth]) -> Image:
        image = self._renderer.render(self.surfaces(index, truth), self.camera, self.lights, self._background)
        return image if self._noise is None else self._noise.add(image, index)

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()

    def __enter__(self) -> SyntheticCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NoiseTile:
    """Sensor noise as one tile larger than the image, shifted anew for each frame: drawing it anew costs 30 ms."""

    _SPARE = 97

    def __init__(self, width: int, height: int, deviation: float, generator: np.random.Generator) -> None:
        shape = (height + self._SPARE, width + self._SPARE, 3)
        # Demosaicing and compression leave the noise a little coarser than a pixel.
        noise = np.asarray(cv2.GaussianBlur(generator.standard_normal(shape, np.float32), (0, 0), 0.6))
        self._tile = np.round(noise * (deviation / noise.std())).astype(np.int16)
        self._seed = int(generator.integers(2**31))

    def add(self, image: Image, index: int) -> Image:
        x, y = np.random.default_rng([self._seed, index]).integers(0, self._SPARE, 2)
        h, w = image.shape[:2]
        return cv2.add(image, self._tile[y : y + h, x : x + w], dtype=cv2.CV_8U)


def _rest_joints(model: HandModel) -> Float[np.ndarray, "21 3"]:
    """The 21 joints of the model's mean hand at rest [m]."""
    eye = torch.eye(3).expand(1, 16, 3, 3)
    return model.joints(torch.zeros(1, 10), eye, torch.zeros(1, 3))[0].numpy().astype(np.float64)
