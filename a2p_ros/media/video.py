"""MP4 files: H.264 through the program ``ffmpeg`` where it is there, since that plays everywhere; else by OpenCV."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from a2p_ros.errors import SourceError
from a2p_ros.types import Image


class VideoWriter:
    """Writes RGB frames of one size; later frames of another size are scaled to the first's.

    Args:
        path: ``.mp4`` file, replaced when it exists.
        fps: frame rate [Hz].

    Raises:
        SourceError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._size: tuple[int, int] | None = None
        self._ffmpeg: subprocess.Popen[bytes] | None = None
        self._opencv: cv2.VideoWriter | None = None

    def write(self, image: Image) -> None:
        """Append one frame."""
        if self._size is None:
            # Chroma is shared by pairs of pixels in every common MP4.
            self._size = (image.shape[1] - image.shape[1] % 2 or 2, image.shape[0] - image.shape[0] % 2 or 2)
            self._open(self._size)
        width, height = self._size
        if image.shape[0] - image.shape[0] % 2 == height and image.shape[1] - image.shape[1] % 2 == width:
            frame = image[:height, :width]
        else:
            frame = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        if self._opencv is not None:
            self._opencv.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            return
        assert self._ffmpeg is not None and self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            raise SourceError(f"cannot write {self.path}: ffmpeg ended: {self._complaint()}") from error

    def _open(self, size: tuple[int, int]) -> None:
        program = shutil.which("ffmpeg")
        if program is not None and _has_x264(program):
            command = [program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
            command += ["-s", f"{size[0]}x{size[1]}", "-r", f"{self.fps:.4f}", "-i", "-", "-an", "-c:v", "libx264"]
            command += ["-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
            self._ffmpeg = subprocess.Popen(
                [*command, str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Ctrl-C is for the caller, who then closes the file properly.
                start_new_session=True,
            )
            return
        self._opencv = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
        if not self._opencv.isOpened():
            raise SourceError(f"OpenCV cannot write the video {self.path}; is its folder writable?")

    def _complaint(self) -> str:
        assert self._ffmpeg is not None
        _, text = self._ffmpeg.communicate()
        return text.decode(errors="replace").strip() or f"exit code {self._ffmpeg.returncode}"

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        if self._opencv is not None:
            self._opencv.release()
            self._opencv = None
        if self._ffmpeg is not None:
            _, text = self._ffmpeg.communicate()
            code, self._ffmpeg = self._ffmpeg.returncode, None
            if code:
                raise SourceError(f"ffmpeg could not finish {self.path}: {text.decode(errors='replace').strip()}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _has_x264(program: str) -> bool:
    try:
        listing = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "libx264" in listing.stdout
