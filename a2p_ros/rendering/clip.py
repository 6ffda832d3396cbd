"""The synthetic camera on any machine: rendered where EGL is, else a short clip that ships with the package."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from a2p_ros.camera import CameraModel
from a2p_ros.errors import MissingDependencyError, SourceError
from a2p_ros.rendering.truth import SyntheticFrame

if TYPE_CHECKING:
    from a2p_ros.rendering.synthetic import SyntheticCamera

CLIP = Path(__file__).parent / "assets" / "two_hands.mp4"
_LOG = logging.getLogger(__name__)


def open_synthetic(
    seed: int = 0,
    width: int = 1280,
    height: int = 720,
    fps: float = 30.0,
    *,
    cache: bool = False,
    crossing: bool = False,
) -> SyntheticCamera | ClipCamera:
    """Two moving hands: a ``SyntheticCamera``, or where EGL is missing the packaged clip.

    The clip has its own size and seed and no truth; that it is used is logged as a warning with the reason. Its hands
    do not cross: with ``crossing`` MissingDependencyError stands.
    """
    from a2p_ros.rendering.synthetic import SyntheticCamera

    try:
        return SyntheticCamera(seed, width, height, fps, cache=cache, crossing=crossing)
    except MissingDependencyError as error:
        if crossing:
            raise
        clip = ClipCamera(fps=fps)
        _LOG.warning(
            "playing the packaged clip (%d x %d, without truth) in place of synthetic:%d at %d x %d: %s",
            clip.width, clip.height, seed, width, height, error,
        )  # fmt: skip
        return clip


class ClipCamera:
    """An endless source of ``SyntheticFrame`` from a rendered clip with its camera in a JSON file beside it.

    ``fps`` [Hz] paces the stamps; every picture is shown, whatever the rate. Raises SourceError when the clip or
    its camera cannot be read.
    """

    def __init__(self, path: Path = CLIP, *, fps: float = 30.0) -> None:
        if fps <= 0:
            raise SourceError(f"fps: expected more than 0 Hz, got {fps}")
        self.path, self.fps = path, fps
        side_file = path.with_suffix(".json")
        try:
            info = json.loads(side_file.read_text())
            size, focal, centre = (tuple(info[key]) for key in ("size", "focal_px", "centre_px"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"cannot read the camera of the clip, {side_file}: {error!r}") from error
        self.camera = CameraModel(*size, *focal, *centre)
        self.width, self.height = size
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(f"OpenCV cannot open the clip {path}")

    def __iter__(self) -> Iterator[SyntheticFrame]:
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        count, since_start = 0, 0
        while True:
            ok, bgr = self._capture.read()
            if ok:
                self.camera.check_image(*bgr.shape[:2])
                yield SyntheticFrame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), count / self.fps, self.camera, None)
                count, since_start = count + 1, since_start + 1
            elif since_start == 0:
                raise SourceError(f"no frame of the clip {self.path} can be decoded")
            else:
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                since_start = 0

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def __enter__(self) -> ClipCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
