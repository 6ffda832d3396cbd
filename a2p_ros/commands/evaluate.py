"""``a2p eval``: how good the hands are, on a real clip or on rendered hands whose truth is known."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2p_ros.commands import common, evaluate_detector, evaluate_interactions, evaluate_synthetic
from a2p_ros.errors import InputError, SourceError

if TYPE_CHECKING:
    from a2p_ros.evaluation.mediapipe_peer import PeerHand
    from a2p_ros.media.sources import Frame
    from a2p_ros.types import Image


def add_parser(verbs: Any) -> None:
    """Options of ``a2p eval``."""
    parser = verbs.add_parser("eval", help="measure how good the hands are", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_clip(kinds)
    evaluate_synthetic.add(kinds)
    evaluate_interactions.add(kinds)
    evaluate_detector.add(kinds)


def _add_clip(kinds: Any) -> None:
    parser = kinds.add_parser(
        "clip",
        help="a real video, against MediaPipe's points and the known sides",
        description="Agreement with MediaPipe on a real video, in any network.mode (--set network.mode=fit). Where "
        "MediaPipe's landmark model measures the hands, that is agreement with the method's own input.",
    )
    parser.add_argument("video", help="video, folder of images, or bag")
    parser.add_argument("--sides", choices=("right", "left", "auto"), default="auto", help="which one hand is shown")
    parser.add_argument(
        "--mirror-join", action="store_true", help="put the mirror image beside each frame: a left and a right hand"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th frame")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--overlays", type=Path, metavar="DIR", help="draw each frame with its hands, and MediaPipe's points in white"
    )
    common.add_json(parser)
    common.add_pipeline_options(parser)
    parser.set_defaults(run=run_clip)


def run_clip(args: argparse.Namespace) -> int:
    """The pipeline and MediaPipe on each frame."""
    from a2p_ros.commands.run import camera_of, overlay, process
    from a2p_ros.detection.landmarks import LandmarkModel
    from a2p_ros.evaluation.clip import ClipScore, every, mirror_join, places_of
    from a2p_ros.evaluation.mediapipe_peer import MediaPipeHands
    from a2p_ros.fitting.skeleton import side_arrays
    from a2p_ros.media.sources import open_source
    from a2p_ros.pipeline import TwoHandPipeline

    if args.every < 1 or (args.frames is not None and args.frames < 1):
        raise InputError(f"--every and --frames: expected 1 or more, got {args.every} and {args.frames}")
    if args.mirror_join and args.sides == "auto":
        raise InputError("--mirror-join: say which hand the clip shows, with --sides right or --sides left")
    with open_source(args.video) as source, MediaPipeHands() as peer:
        if source.live:
            raise SourceError(f"eval clip: {args.video} is live; expected a video, a folder or a bag")
        pipeline = TwoHandPipeline(common.pipeline_config(args))
        score = ClipScore(side_arrays(pipeline.hand_models))
        total = None if source.length is None else -(-source.length // args.every)
        total = total if args.frames is None else min(total or args.frames, args.frames)
        frames: Iterator[Frame] = islice(every(source, args.every), args.frames)
        if args.mirror_join:
            frames = (dataclasses.replace(f, image=mirror_join(f.image), camera=None) for f in frames)
        for frame, hands in process(pipeline, common.progress(frames, total=total, what=Path(args.video).name)):
            width = frame.image.shape[1] // (2 if args.mirror_join else 1)
            peers = peer(frame.image)
            score.add(hands, peers, places_of(args.sides, width, joined=args.mirror_join), camera_of(pipeline, frame))
            if args.overlays is not None:
                _draw(args.overlays, score.frames, overlay(pipeline, frame, hands), peers)
    own_input = LandmarkModel.name in pipeline.model_id
    result = score.result() | {"model_id": pipeline.model_id, "reference_is_own_input": own_input}
    common.finish(args, result, _clip_lines(result))
    return 0


def _draw(folder: Path, number: int, picture: Image, peers: Sequence[PeerHand]) -> None:
    """Write ``folder/00001.jpg`` with MediaPipe's points on it."""
    import cv2

    for peer in peers:
        for x, y in peer.keypoints_px:
            if math.isfinite(x) and math.isfinite(y):
                cv2.circle(picture, (round(x), round(y)), 3, (255, 255, 255), -1, cv2.LINE_AA)
    path = folder / f"{number:05d}.jpg"
    folder.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise SourceError(f"cannot write {path}; give another --overlays")


def _clip_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['frames']} frames, {result['model_id']}",
        f"PCK against MediaPipe: {result['pck_010']:.1%} at 0.1, {result['pck_020']:.1%} at 0.2 of the hand box; "
        f"as MediaPipe marks points {result['landmark_pck_010']:.1%} and {result['landmark_pck_020']:.1%}; of the "
        "points before the fit "
        f"{result['measured_pck_010']:.1%} and {result['measured_pck_020']:.1%}",
        f"recall {result['recall']:.1%} (MediaPipe {result['mediapipe_recall']:.1%}), side right in "
        f"{result['side_accuracy']:.1%}, {result['false_hands']} false hands, {result['swaps']} swaps; "
        f"everything right in {result['exact_frames']:.1%} of the frames",
    ]
    if result["reference_is_own_input"]:
        lines.append("MediaPipe's landmark model is this method's own input: PCK is agreement with it, not accuracy")
    return lines
