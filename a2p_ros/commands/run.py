"""``a2p run``: frames of a file, bag, camera or renderer -> overlay video, JSON lines, and a bag of messages."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from a2p_ros.commands import common
from a2p_ros.errors import SourceError
from a2p_ros.types import Image, Pair, Side, TwoHands

if TYPE_CHECKING:
    from a2p_ros.camera import CameraModel
    from a2p_ros.media.sources import Frame
    from a2p_ros.pipeline import TwoHandPipeline

#: Frames of a source without an end when ``--frames`` says nothing: ten seconds of the synthetic camera.
_ENDLESS = 300
#: What a run writes into its folder.
RESULTS = LINES, BAG, VIDEO, PICTURE = "hands.jsonl", "hands_bag", "overlay.mp4", "overlay.png"


def add_parser(verbs: Any) -> None:
    """Options of ``a2p run``."""
    parser = verbs.add_parser("run", help="reconstruct hands of a source into files", description=__doc__)
    parser.add_argument(
        "source",
        help="image, folder, video, webcam number, rosbag2 folder, .mcap, .db3, synthetic[:SEED] or crossing:SEED",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: out/NAME)")
    parser.add_argument("--topic", default="", help="image topic of a bag")
    parser.add_argument("--frames", type=int, metavar="N", help=f"stop after N frames (endless sources: {_ENDLESS})")
    parser.add_argument("--mcap", action="store_true", help="also write a rosbag2 folder of TwoHandMANO (MCAP)")
    parser.add_argument("--no-video", action="store_true", help="do not write the overlay video")
    parser.add_argument("--no-mesh", action="store_true", help="draw skeletons only")
    common.add_json(parser)
    common.add_pipeline_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Process the source; a Ctrl-C ends it early with all files complete."""
    from a2p_ros.media.sources import open_source
    from a2p_ros.pipeline import TwoHandPipeline

    if args.frames is not None and args.frames < 1:
        raise SourceError(f"--frames: expected 1 or more, got {args.frames}")
    config = common.pipeline_config(args)
    with open_source(args.source, topic=args.topic) as source:
        limit = _ENDLESS if args.frames is None and source.endless else args.frames
        total = min((n for n in (limit, source.length) if n is not None), default=None)
        folder = args.out or Path("out") / default_name(args.source)
        check_apart(args.source, folder)
        pipeline = TwoHandPipeline(config)
        pipeline.warm_up()
        tally, interrupted = Tally(), False
        begin = time.perf_counter()
        with Outputs(folder, source.fps, args, single=source.length == 1) as outputs:
            try:
                for frame, hands in process(pipeline, common.progress(islice(source, limit), total=total)):
                    tally.add(hands)
                    outputs.write(pipeline, frame, hands)
            except KeyboardInterrupt:
                interrupted = True
        seconds = time.perf_counter() - begin
    result = tally.result(seconds) | {"model_id": pipeline.model_id, "out": str(folder), "interrupted": interrupted}
    common.finish(args, result, summary(result, outputs.paths))
    return 130 if interrupted else 0


def check_apart(source: str, folder: Path) -> None:
    """Raise SourceError where a result would be written over the source itself."""
    read = Path(source).expanduser().resolve()
    if any((folder / name).resolve() in (read, *read.parents) for name in RESULTS):
        raise SourceError(f"results in {folder} would overwrite the source {source}; give another --out")


def process(pipeline: TwoHandPipeline, frames: Any) -> Iterator[tuple[Frame, TwoHands]]:
    """The pipeline over a stream; time that goes back or a new picture size begins a new stream."""
    last, shape = -math.inf, None
    for frame in frames:
        if frame.stamp <= last or (shape is not None and frame.image.shape != shape):
            pipeline.reset()
        last, shape = frame.stamp, frame.image.shape
        yield frame, pipeline(frame.image, frame.camera, frame.stamp)


@dataclass
class Tally:
    """What the summary says, gathered frame by frame."""

    frames: int = 0
    valid: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    reprojection: list[float] = field(default_factory=list)
    bones: dict[Side, list[np.ndarray]] = field(default_factory=lambda: {side: [] for side in Side})
    latencies: list[float] = field(default_factory=list)

    def add(self, hands: TwoHands) -> None:
        """Count one frame."""
        from a2p_ros.colours import BONES

        self.frames += 1
        self.latencies.append(hands.latency)
        parents, children = np.asarray(BONES).T
        for side, hand in hands.items():
            if hand is None:
                continue
            self.valid[side] += 1
            error = np.linalg.norm(hand.keypoints_px - hand.observed_px, axis=1).mean()
            self.reprojection.append(float(error / max(hand.box.size, 1e-9)))
            self.bones[side].append(np.linalg.norm(hand.joints[children] - hand.joints[parents], axis=1))

    def result(self, seconds: float) -> dict[str, Any]:
        """The keys that ``--json`` promises and a few more."""
        spread = [np.std(lengths, axis=0) / np.mean(lengths, axis=0) for lengths in self.bones.values() if lengths]
        return {
            "frames": self.frames,
            "left_valid": self.valid[Side.LEFT],
            "right_valid": self.valid[Side.RIGHT],
            "reprojection_rel": float(np.mean(self.reprojection)) if self.reprojection else math.nan,
            "fps": self.frames / max(seconds, 1e-9),
            "pipeline_ms": common.percentiles(self.latencies, 1e3),
            "bone_length_std_rel": float(np.max(spread)) if spread else math.nan,
        }


class Outputs:
    """The files of one run; complete whenever it is closed, by an error too."""

    def __init__(self, folder: Path, fps: float, args: argparse.Namespace, *, single: bool) -> None:
        self._stack = ExitStack()
        self._mesh, self._video = not args.no_mesh, None
        self.paths: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = self._stack.enter_context((folder / LINES).open("w", encoding="utf-8"))
        except OSError as error:
            raise SourceError(f"cannot write into {folder}: {error.strerror}; give another --out") from error
        self.paths.append(folder / LINES)
        self._bag: Any = None
        try:
            if args.mcap:
                from a2p_ros.media.bags import HandsBagWriter

                self._bag = self._stack.enter_context(HandsBagWriter(folder / BAG))
                self.paths.append(folder / BAG)
            if not args.no_video:
                self.paths.append(folder / (PICTURE if single else VIDEO))
                if not single:
                    from a2p_ros.media.video import VideoWriter

                    self._video = self._stack.enter_context(VideoWriter(self.paths[-1], fps))
        except BaseException:
            self._stack.close()
            raise
        self._picture = None if args.no_video else self.paths[-1]

    def write(self, pipeline: TwoHandPipeline, frame: Frame, hands: TwoHands) -> None:
        """One frame into every file."""
        from a2p_ros.message_fields import two_hand_fields

        size = (frame.image.shape[1], frame.image.shape[0])
        fields = two_hand_fields(hands, image_size=size, frame_id=frame.frame_id)
        self._lines.write(json.dumps(common.plain(fields), allow_nan=False) + "\n")
        if self._bag is not None:
            self._bag.write(fields)
        if self._picture is None:
            return
        picture = overlay(pipeline, frame, hands, mesh=self._mesh)
        if self._video is not None:
            self._video.write(picture)
        else:
            import cv2

            if not cv2.imwrite(str(self._picture), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                raise SourceError(f"cannot write {self._picture}")

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)


def camera_of(pipeline: TwoHandPipeline, frame: Frame) -> CameraModel:
    """The camera that the pipeline takes a frame to be of."""
    from a2p_ros.camera import CameraModel

    height, width = frame.image.shape[:2]
    return frame.camera or CameraModel.assume(width, height, pipeline.config.placement.assumed_fov)


def overlay(pipeline: TwoHandPipeline, frame: Frame, hands: TwoHands, *, mesh: bool = True) -> Image:
    """The frame with both hands drawn into it, with their meshes unless ``mesh`` is false."""
    from a2p_ros.rendering.overlay import Mesh, OverlayInfo, draw_hands

    camera = camera_of(pipeline, frame)
    meshes = None
    if mesh:
        surfaces = {
            side: None if hand is None else Mesh(pipeline.mesh(hand), pipeline.hand_models[side].faces.numpy())
            for side, hand in hands.items()
        }
        meshes = Pair(left=surfaces[Side.LEFT], right=surfaces[Side.RIGHT])
    info = OverlayInfo(assumed_camera=camera.assumed)
    return draw_hands(frame.image, hands, info=info, meshes=meshes, camera=camera)


def summary(result: dict[str, Any], paths: list[Path]) -> list[str]:
    """The result for people."""
    frames = max(result["frames"], 1)
    lines = [
        f"{result['frames']} frames at {result['fps']:.1f} per second, the pipeline alone "
        f"{result['pipeline_ms']['p50']:.1f} ms (p99 {result['pipeline_ms']['p99']:.1f} ms), {result['model_id']}",
        f"left hand in {result['left_valid'] / frames:.1%}, right hand in {result['right_valid'] / frames:.1%} of them",
    ]
    if math.isfinite(result["reprojection_rel"]):
        lines.append(
            f"joints lie {result['reprojection_rel']:.2%} of the hand box from the keypoints that they were fitted to"
        )
    return [*lines, *(f"wrote {path}" for path in paths)]


def default_name(source: str) -> str:
    """Folder name of a source: its file's stem, else the words of it."""
    stem = Path(source).stem or "run"
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in stem if c != ":") or "run"
