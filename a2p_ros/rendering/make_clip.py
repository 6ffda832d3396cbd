"""Render the clip that ships with the package, for machines without EGL.

    python -m a2p_ros.rendering.make_clip a2p_ros/rendering/assets/two_hands.mp4

Needs EGL and the program ffmpeg with libx264 (sudo apt-get install ffmpeg).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

from a2p_ros.errors import MissingDependencyError, SourceError
from a2p_ros.rendering.clip import CLIP
from a2p_ros.rendering.synthetic import SyntheticCamera


def make_clip(
    path: Path, *, seed: int = 0, width: int = 640, height: int = 480, fps: int = 30, seconds: float = 10.0
) -> None:
    """One round of the synthetic camera as H.264, which OpenCV reads everywhere, and its camera as JSON."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise MissingDependencyError("making the clip needs the program ffmpeg: sudo apt-get install ffmpeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Weak noise, which would take most of the bits, and near hands, as the picture is small.
    with SyntheticCamera(seed, width, height, fps, loop_seconds=seconds, distance=(0.42, 0.55), noise=0.7) as camera:
        command = [
            program,
            "-v",
            "error",
            "-y",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            str(fps),
        ]
        command += ["-i", "-", "-c:v", "libx264", "-preset", "veryslow", "-crf", "21", "-pix_fmt", "yuv420p"]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv"]
        command += [
            "-movflags",
            "+faststart",
            "-map_metadata",
            "-1",
            "-fflags",
            "+bitexact",
            "-flags:v",
            "+bitexact",
            str(path),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            for index in range(camera.loop_frames):
                process.stdin.write(camera.frame(index).image.tobytes())
            process.stdin.close()
        if process.returncode:
            raise SourceError(f"ffmpeg ended with {process.returncode}: does it have libx264?")
        model = camera.camera
    info = {
        "size": [width, height],
        "focal_px": [model.fx, model.fy],
        "centre_px": [model.cx, model.cy],
        "fps": fps,
        "seed": seed,
        "made_by": "python -m a2p_ros.rendering.make_clip",
    }
    path.with_suffix(".json").write_text(json.dumps(info, indent=2) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Render the clip that ships with the package.")
    parser.add_argument("path", type=Path, nargs="?", default=CLIP, help="where the .mp4 goes, its .json beside it")
    parser.add_argument("--seed", type=int, default=0, help="which motion, skin and room")
    parser.add_argument("--seconds", type=float, default=10.0, help="length [s]; the clip loops without a jump")
    arguments = parser.parse_args()
    make_clip(arguments.path, seed=arguments.seed, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
