"""``a2p eval detector``: the hand detector beside MediaPipe, on rendered frames or on a real clip."""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path
from typing import Any

from a2p_ros.commands import common, drawn_frames
from a2p_ros.commands.drawn_frames import FIRST_SEED
from a2p_ros.config import DetectionConfig, DeviceConfig, LandmarkConfig
from a2p_ros.errors import InputError

#: What true joints need to be padded by on rendered frames (``mediapipe_padding``), for clips without truth.
_PADDING = 0.1


def add(kinds: Any) -> None:
    """Options of ``a2p eval detector``."""
    parser = kinds.add_parser(
        "detector",
        help="the hand detector, on rendered frames or a real clip, beside MediaPipe",
        description="Recall, precision and sides at IoU 0.5 by the overlap of the two true boxes, on frames that "
        f"training never draws (its seeds begin at {FIRST_SEED}). Hands that are hidden, cut off or small are not "
        "counted. With --video, on a real clip of known hands.",
    )
    drawn_frames.add_options(parser, n=400)
    parser.add_argument("--backend", choices=("a2p", "combined"), default="a2p", help="detector to measure")
    parser.add_argument("--weights", default="", metavar="DIR", help="other weights than those shipped")
    parser.add_argument("--min-score", type=float, default=DetectionConfig().min_score, help="least score")
    parser.add_argument("--video", metavar="PATH", help="a real clip or picture instead")
    parser.add_argument(
        "--sides", choices=("right", "left", "none"), default="right", help="which one hand the clip shows, if any"
    )
    parser.add_argument(
        "--mirror-join", action="store_true", help="put the mirror image beside each frame: a left and a right hand"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th frame of the clip")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Frames or clip, both detectors, table."""
    drawn_frames.check_options(args)
    if args.every < 1:
        raise InputError(f"--every: expected 1 or more, got {args.every}")
    from a2p_ros.detection.detector import make_detector

    config = DetectionConfig(backend=args.backend, weights=args.weights, min_score=args.min_score)
    detector = make_detector(config, DeviceConfig())
    result, lines = _clip(args, detector) if args.video else _rendered(args, detector)
    result |= {"model_id": detector.name, "device": detector.device, "min_score": args.min_score}
    common.finish(args, result, lines)
    return 0


def _rendered(args: argparse.Namespace, detector: Any) -> tuple[dict[str, Any], list[str]]:
    from a2p_ros.detection.detector import make_detector
    from a2p_ros.detection.landmarks import LandmarkModel
    from a2p_ros.evaluation.mediapipe_peer import MediaPipeHands
    from a2p_ros.hand import load_hand_models
    from a2p_ros.training.detector.evaluation import evaluate, first_stages
    from a2p_ros.training.synthetic.samples import read_frames

    with drawn_frames.drawn(args) as paths, MediaPipeHands(still=True) as peer:
        frames = common.progress(islice(read_frames(paths), args.n), total=args.n, what="detectors")
        landmarks = LandmarkModel(LandmarkConfig(), DeviceConfig())
        stages = {}
        for backend in ("mediapipe", "a2p", "combined"):
            config = DetectionConfig(backend=backend, weights=args.weights, min_score=args.min_score)
            stages[backend] = first_stages(make_detector(config, DeviceConfig()), landmarks)
        result = evaluate(frames, load_hand_models(), detector, peer, stages)
    return result | {"seed": args.seed}, _table(result)


def _clip(args: argparse.Namespace, detector: Any) -> tuple[dict[str, Any], list[str]]:
    from a2p_ros.evaluation.clip import every, mirror_join, places_of
    from a2p_ros.evaluation.detections import ClipDetections
    from a2p_ros.evaluation.mediapipe_peer import MediaPipeHands
    from a2p_ros.media.sources import open_source

    score = ClipDetections(_PADDING)
    with open_source(args.video) as source, MediaPipeHands(still=source.length == 1) as peer:
        if source.live:
            raise InputError(f"--video {args.video}: is live; expected a video, a picture or a folder")
        total = None if source.length is None else -(-source.length // args.every)
        for frame in common.progress(every(source, args.every), total=total, what=Path(args.video).name):
            image = mirror_join(frame.image) if args.mirror_join else frame.image
            width = frame.image.shape[1]
            places = [] if args.sides == "none" else places_of(args.sides, width, joined=args.mirror_join)
            begin = time.perf_counter()
            found = detector(image)
            seconds = time.perf_counter() - begin
            score.add(found, peer(image), places, seconds)
    result = score.result()
    lines = [
        f"{result['frames']} frames, {detector.name}",
        f"recall {result['recall']:.1%} (MediaPipe {result['mediapipe_recall']:.1%}), side right in "
        f"{result['side_accuracy']:.1%} ({result['mediapipe_side_accuracy']:.1%}), false hands a frame "
        f"{result['false_hands_per_frame']:.3f} ({result['mediapipe_false_hands_per_frame']:.3f})",
        f"orientation within 15 degrees of MediaPipe's in {result['orientation_within_15_deg']:.1%}, 90 % within "
        f"{result['orientation_deg_p90']:.1f} degrees; {result['ms_p50']:.1f} ms p50, {result['ms_p99']:.1f} p99",
    ]
    return result, lines


def _table(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['n']} rendered frames; MediaPipe's boxes are those of its joints, padded by "
        f"{result['mediapipe_padding']:.2f} of their longer edge",
        f"{'overlap':<10}{'hands':>7}{'recall':>20}{'precision':>20}{'side right':>20}",
        f"{'':<17}{'ours  MediaPipe':>20}{'ours  MediaPipe':>20}{'ours  MediaPipe':>20}",
    ]
    rows = [(name, result["ours"][name], result["mediapipe"][name]) for name in result["ours"]]
    for name, ours, theirs in [*rows, ("all", result["ours_total"], result["mediapipe_total"])]:
        cells = "".join(f"{ours[key]:>10.1%}{theirs[key]:>10.1%}" for key in ("recall", "precision", "side_accuracy"))
        lines.append(f"{name:<10}{ours['hands']:>7}{cells}")
    lines.append(
        f"orientation: 90 % within {result['orientation_deg_p90']:.1f} degrees; {result['ms_p50']:.1f} ms p50, "
        f"{result['ms_p99']:.1f} p99"
    )
    lines += ["", "hands after the landmark stage and with their side, recall by backend:"]
    for backend, groups in result["pipeline"].items():
        cells = "  ".join(f"{name} {g['recall'] * g['side_accuracy']:.1%}" for name, g in groups.items())
        lines.append(f"  {backend:<12}{cells}")
    return lines
