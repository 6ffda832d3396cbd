"""Where frames come from without ROS: an image, a folder, a video, a webcam, the synthetic camera, a bag.

``a2p run``, ``a2p demo`` and the camera node read their frames here, so that a source named in one way means the
same everywhere.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from a2p_ros.errors import InputError, SourceError
from a2p_ros.media.image_io import decode_image
from a2p_ros.types import Image

if TYPE_CHECKING:
    from a2p_ros.camera import CameraModel

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
BAG_SUFFIXES = (".mcap", ".db3")
KNOWN = (
    f"an image ({', '.join(IMAGE_SUFFIXES)}), a folder of images, a video, a rosbag2 folder or a file "
    f"({', '.join(BAG_SUFFIXES)}), a webcam number (0), synthetic[:SEED] or crossing:SEED"
)


#: A video of which less than this share is decoded is said to be cut off; the count that its header gives is rough.
COMPLETE = 0.9
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    ``stamp`` [s] counts from 0 in files, and is the wall clock of a webcam and the header stamp of a bag. ``camera``
    is None where the source does not know its calibration. ``truth`` is what a synthetic source drew.
    ``frame_id`` is that of a bag's image, empty elsewhere.
    """

    image: Image
    stamp: float
    camera: CameraModel | None = None
    truth: Any = None
    frame_id: str = ""


class Source(ABC):
    """An iterable of frames that can be closed and, unless ``live``, iterated again from its beginning.

    ``fps`` is the rate at which the frames were taken [Hz]; ``length`` is their number, None where it is unknown or
    ``endless``; ``live`` says that frames come by themselves and are lost when nobody reads.
    """

    name: str = ""
    fps: float = 30.0
    length: int | None = None
    live: bool = False
    endless: bool = False

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Release what is open; the source is not used afterwards."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(
    spec: str,
    *,
    fps: float = 0.0,
    width: int = 1280,
    height: int = 720,
    topic: str = "",
    realtime: bool = False,
) -> Source:
    """Open the source that ``spec`` names; raises SourceError with what is known when there is none.

    ``fps`` [Hz] replaces the rate of a video or folder (0 = its own, 30 for a folder) and asks a webcam for one.
    ``width`` and ``height`` [px] are for the webcam and the synthetic camera; ``topic`` picks the image topic of a bag.
    ``realtime`` is for frames that are shown live, see ``SyntheticSource``.
    """
    if fps < 0:
        raise SourceError(f"fps: expected 0 (the source's own rate) or more, got {fps}")
    if spec == "synthetic" or spec.startswith("synthetic:"):
        return SyntheticSource(_seed(spec), width, height, fps or 30.0, realtime=realtime)
    if spec.startswith("crossing:"):
        return SyntheticSource(_seed(spec), width, height, fps or 30.0, realtime=realtime, crossing=True)
    webcam = re.fullmatch(r"(?:/dev/video)?(\d+)", spec)
    if webcam:
        return WebcamSource(int(webcam[1]), width, height, fps)
    path = Path(spec).expanduser()
    if not path.exists():
        raise SourceError(f"source {spec!r} does not exist; expected {KNOWN}")
    if path.suffix.lower() in BAG_SUFFIXES or (path.is_dir() and (path / "metadata.yaml").exists()):
        from a2p_ros.media.bags import BagSource

        return BagSource(path, topic=topic)
    if path.is_dir():
        return FolderSource(path, fps or 30.0)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FolderSource(path, fps or 30.0)
    return VideoSource(path, fps)


class FolderSource(Source):
    """The images of a folder in natural order (2 before 10), or one image."""

    def __init__(self, path: Path, fps: float) -> None:
        found = [path] if path.is_file() else [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise SourceError(f"folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)}); expected {KNOWN}")
        self.paths = sorted(found, key=_natural)
        self.name, self.fps, self.length = str(path), fps, len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        given = 0
        for i, path in enumerate(self.paths):
            try:
                image = decode_image(path.read_bytes(), name=str(path), orient=True)
            except (OSError, InputError) as error:
                if given == 0 and i + 1 == len(self.paths):
                    raise SourceError(f"cannot read {path}: {error}") from error
                log.warning("%s is skipped: %s", path, error)
                continue
            given += 1
            yield Frame(image, i / self.fps)


class VideoSource(Source):
    """A video file. Frames keep the file's own times unless ``fps`` is given."""

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        self.path, self.name, self._retimed = path, str(path), fps > 0
        self._capture: cv2.VideoCapture | None = self._open()
        own = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps or (own if 1.0 <= own <= 1000.0 else 30.0)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise SourceError(f"OpenCV cannot open {self.path} as a video; expected {KNOWN}")
        return capture

    def __iter__(self) -> Iterator[Frame]:
        capture, self._capture = self._capture or self._open(), None
        try:
            last, count = -1.0, 0
            while True:
                ok, bgr = capture.read()
                if not ok:
                    break
                stamp = count / self.fps
                if not self._retimed:
                    own = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
                    stamp = own if own > last or count == 0 else last + 1.0 / self.fps
                last, count = stamp, count + 1
                yield Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), stamp)
            if count == 0:
                raise SourceError(f"video {self.path} opens but not one frame can be decoded; it is empty or damaged")
            if self.length is not None and count < COMPLETE * self.length:
                log.warning(
                    "video %s: %d of its %d frames could be decoded; it is cut off or damaged",
                    self.path, count, self.length,
                )  # fmt: skip
        finally:
            capture.release()

    def close(self) -> None:
        """Release the file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class WebcamSource(Source):
    """A webcam by its number; stamps are the wall clock [s] at which the frame was read."""

    live = True

    def __init__(self, number: int, width: int, height: int, fps: float = 0.0) -> None:
        self.name = f"webcam {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise SourceError(
                f"webcam {number} cannot be opened: is /dev/video{number} there, and may this user read it (group "
                "video)? Without a camera use a video file or `synthetic`"
            )
        for prop, value in ((cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)):
            self._capture.set(prop, value)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if fps:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        granted = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = granted if 1.0 <= granted <= 1000.0 else fps or 30.0

    def __iter__(self) -> Iterator[Frame]:
        while True:
            ok, bgr = self._capture.read()
            if not ok:
                raise SourceError(f"{self.name} gives no more frames; was it unplugged?")
            yield Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), time.time())

    def close(self) -> None:
        """Give the device back."""
        self._capture.release()


class SyntheticSource(Source):
    """Two rendered moving hands, endless, with the truth that was drawn where they are rendered here.

    In real time, and without a seed, the packaged clip is played: rendering takes the processor that the hands are
    to be found with. With a seed the first round is rendered, as fast as the machine can, and then replayed. With
    ``crossing`` the hands pass over each other.
    """

    endless = True

    def __init__(
        self,
        seed: int | None,
        width: int,
        height: int,
        fps: float,
        *,
        realtime: bool = False,
        crossing: bool = False,
    ) -> None:
        from a2p_ros.rendering import ClipCamera, open_synthetic

        self._camera: Any
        if realtime and seed is None:
            self._camera = ClipCamera(fps=fps)
        else:
            self._camera = open_synthetic(seed or 0, width, height, fps, cache=realtime, crossing=crossing)
        kind = "crossing" if crossing else "synthetic"
        self.name, self.fps = kind if seed is None else f"{kind}:{seed}", fps

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._camera:
            yield Frame(frame.image, frame.stamp, frame.camera, frame.truth)

    def close(self) -> None:
        """Release the renderer or the clip."""
        close = getattr(self._camera, "close", None)
        if close is not None:
            close()


_DRAWN = "synthetic or synthetic:SEED or crossing:SEED"


def _seed(spec: str) -> int | None:
    kind, colon, seed = spec.partition(":")
    if colon and not seed.isdecimal():
        raise SourceError(f"source {spec!r}: expected {_DRAWN} with a whole number, as {kind}:3")
    return int(seed) if colon else None


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts if p]
