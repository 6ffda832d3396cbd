"""``a2p eval synthetic``: how good the hands are on rendered frames whose truth is known."""

from __future__ import annotations

import argparse
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from a2p_ros.commands import common, drawn_frames
from a2p_ros.commands.drawn_frames import FIRST_SEED
from a2p_ros.errors import InputError, WeightsError

if TYPE_CHECKING:
    from a2p_ros.config import PipelineConfig
    from a2p_ros.evaluation.held_out import Method
    from a2p_ros.hand.model import HandModel
    from a2p_ros.measuring import Measuring
    from a2p_ros.types import Pair

#: (heading, key, factor) of the table.
_COLUMNS = (
    ("recall", "recall", 100.0),
    ("MPJPE", "mpjpe_wrist_mm", 1.0),
    ("MPVPE", "mpvpe_wrist_mm", 1.0),
    ("MCP-sc", "mpjpe_mcp_scaled_mm", 1.0),
    ("XY", "mpjpe_xy_mm", 1.0),
    ("Z", "mpjpe_z_mm", 1.0),
    ("PA", "pa_mpjpe_mm", 1.0),
    ("MRRPE", "mrrpe_mm", 1.0),
    ("P@0.1", "pck_010", 100.0),
    ("P@0.2", "pck_020", 100.0),
    ("crop.05", "pck_crop_005", 100.0),
    ("crop.10", "pck_crop_010", 100.0),
)
#: Methods that need the network's weights.
_WITH_NETWORK = ("fae", "fae_fit", "fae_repaired", "fae_fit_repaired", "hybrid", "both")
#: What the result calls the pipeline in each ``network.mode``.
_METHOD_OF_MODE = {"off": "keypoint_fit", "regress": "fae", "fit": "fae_fit", "hybrid": "hybrid", "both": "both"}


def add(kinds: Any) -> None:
    """Options of ``a2p eval synthetic``."""
    parser = kinds.add_parser(
        "synthetic",
        help="rendered hands, against the truth",
        description="Errors of each method on frames of the engine that training never draws (its seeds begin at "
        f"{FIRST_SEED}): with true boxes and sides, where every hand is measured by every method; with the boxes of "
        "the detector; and on the hands that all methods found. A hand that is not found counts in the recall only. "
        "Hands count as interacting where the boxes of two overlap. Methods without weights are left out. With "
        "--stream instead, the whole pipeline on the moving synthetic camera, whose errors hold the lag of the "
        "smoothing.",
    )
    drawn_frames.add_options(parser, n=2000)
    parser.add_argument("--jitter", type=float, default=0.0, help="let true boxes err by this times what tracking does")
    parser.add_argument("--true-boxes-only", action="store_true", help="leave the detector out")
    parser.add_argument("--stream", action="store_true", help="the moving synthetic camera instead")
    parser.add_argument("--crossing", action="store_true", help="with --stream: the hands cross, without contact")
    parser.add_argument("--no-smoothing", action="store_true", help="with --stream: switch the temporal filter off")
    parser.add_argument("--known-length", action="store_true", help="with --stream: tell the true length of the hand")
    common.add_json(parser)
    common.add_pipeline_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Single frames under all methods, or a stream through the pipeline."""
    if args.stream:
        return _stream(args)
    drawn_frames.check_options(args)
    if not 0 <= args.jitter <= 10:
        raise InputError(f"--jitter: expected 0 to 10, got {args.jitter}")
    if args.no_smoothing or args.known_length or args.crossing:
        raise InputError("--crossing, --no-smoothing and --known-length belong to --stream")
    from a2p_ros.detection.detector import make_detector
    from a2p_ros.evaluation.held_out import HeldOutEvaluation
    from a2p_ros.hand import load_hand_models
    from a2p_ros.training.synthetic.samples import read_frames
    from a2p_ros.training.true_frames import true_frame

    config = common.pipeline_config(args)
    models, drawn_models = load_hand_models(config.device.hand_model), load_hand_models()
    stages, methods, left_out = methods_of(config, models)
    for name, reason in left_out.items():
        common.warn(f"{name} is left out: {reason}")
    detector = None if args.true_boxes_only else make_detector(config.detection, config.device)
    begin = time.perf_counter()
    evaluation = HeldOutEvaluation(models, config, detector, stages, methods, jitter=args.jitter, seed=args.seed)
    with drawn_frames.drawn(args) as paths:
        for frame in common.progress(islice(read_frames(paths), args.n), total=args.n, what="methods"):
            evaluation.add(true_frame(frame, drawn_models))
    result = evaluation.result() | {
        "seed": args.seed,
        "stages": {name: stage.name for name, stage in stages.items()},
        "left_out": left_out,
        "seconds": time.perf_counter() - begin,
    }
    common.finish(args, result, _lines(result))
    return 0


def methods_of(
    config: PipelineConfig, models: Pair[HandModel]
) -> tuple[dict[str, Measuring], dict[str, Method], dict[str, str]]:
    """Stages and methods by name, and why those of the network are left out if its weights are not there."""
    from a2p_ros.evaluation.held_out import Method
    from a2p_ros.fitting.keypoint_fit import KeypointFit
    from a2p_ros.measuring import HybridMeasuring, make_measuring, make_regressor

    fit = KeypointFit(models, config.fit, config.placement)
    stages = {"mediapipe": make_measuring(config.replace_flat({"network.mode": "off"}), models)}
    methods = {"keypoint_fit": Method("mediapipe", fit), "keypoint_fit_repaired": Method("mediapipe", fit, True)}
    try:
        stages["network"] = make_measuring(config.replace_flat({"network.mode": "regress"}), models)
    except WeightsError as error:
        if config.network.weights:
            raise
        return stages, methods, dict.fromkeys(_WITH_NETWORK, str(error))
    from a2p_ros.network.regressed_pose import RegressedPose

    stages |= {
        mode: HybridMeasuring(stages["mediapipe"], stages["network"], config.network, both=mode == "both")
        for mode in ("hybrid", "both")
    }
    regressed = RegressedPose(models, config.fit, config.placement)
    of_hybrids = make_regressor(config.replace_flat({"network.mode": "hybrid"}), models)
    methods = {
        "fae": Method("network", regressed),
        "fae_fit": Method("network", fit),
        "fae_repaired": Method("network", regressed, True),
        "fae_fit_repaired": Method("network", fit, True),
        "hybrid": Method("hybrid", of_hybrids),
        "both": Method("both", of_hybrids),
        **methods,
    }
    return stages, methods, {}


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['n']} frames, {result['hands_left_out']} hands hardly seen or small not counted, "
        f"{result['seconds']:.0f} s; stages: {', '.join(f'{k} = {v}' for k, v in result['stages'].items())}",
        "Errors in mm, means over the hands found; shares in %. XY, Z: parts of MPJPE; P@: joints within that share of "
        "the hand's box; crop: measured points within that share of the crop's edge.",
    ]
    jitter = f", jittered by {result['jitter']:g}" if result["jitter"] else ""
    lines += _table(f"true boxes and sides{jitter}: every method asked for every hand", result)
    lines += _table("the same, hands that all methods found", result["both_found"])
    for name, touched in result["repair"].items():
        lines += ["", f"{name} touched {touched['frames']} frames"]
        lines += [_row(key, touched[key]) for key in ("before", "after") if touched["frames"]]
    if "detected" in result:
        detected = result["detected"]
        title = f"boxes of {detected['detector']}: every hand found; one not found counts in the recall only"
        lines += _table(title, detected)
        lines += _table("the same, hands that all methods found", detected["both_found"])
    lines += ["", "by kind of scene, true boxes"]
    for kind, rows in result["by_kind"].items():
        lines += [f" {kind}", *(_row(name, row) for name, row in rows.items())]
    lines += ["", "confidence of joints: ECE, mean confidence, share within 5 % of the crop's edge"]
    for stage, groups in result["calibration"].items():
        for group, found in groups.items():
            if found["hands"]:
                lines.append(
                    f"  {stage:<12}{group:<13}{found['ece']:8.3f}{found['confidence']:8.3f}{found['right']:8.3f}"
                )
    return lines


def _table(title: str, groups: dict[str, Any]) -> list[str]:
    lines = ["", title, f"{'':<24}{'hands':>6}{'found':>6}" + "".join(f"{name:>8}" for name, _, _ in _COLUMNS)]
    for group in ("single", "interacting"):
        lines += [f" {group}", *(_row(name, row) for name, row in groups[group].items())]
    return lines


def _row(name: str, row: dict[str, Any]) -> str:
    return f"  {name:<22}{row['hands']:>6}{row['measured']:>6}" + "".join(
        f"{factor * row[key]:>8.1f}" for _, key, factor in _COLUMNS
    )


def _stream(args: argparse.Namespace) -> int:
    from a2p_ros.evaluation.synthetic import SyntheticScore, true_hand_length
    from a2p_ros.measuring import mode_for
    from a2p_ros.media.sources import open_source
    from a2p_ros.pipeline import TwoHandPipeline

    if args.n < 1:
        raise InputError(f"--n: expected 1 or more, got {args.n}")
    config = common.pipeline_config(args)
    changes: dict[str, Any] = {"smoothing.enabled": False} if args.no_smoothing else {}
    with open_source(f"{'crossing' if args.crossing else 'synthetic'}:{args.seed}") as source:
        if args.known_length:
            changes["placement.hand_length"] = true_hand_length(next(iter(source)))
        pipeline = TwoHandPipeline(config.replace_flat(changes))
        score = SyntheticScore(pipeline, _METHOD_OF_MODE[mode_for(config.network, pipeline.hand_models.right.name)])
        begin = time.perf_counter()
        for frame in common.progress(islice(source, args.n), total=args.n):
            score.add(frame, pipeline(frame.image, frame.camera, frame.stamp))
        seconds = time.perf_counter() - begin
    result = score.result() | {"seed": args.seed, "model_id": pipeline.model_id, "seconds": seconds}
    common.finish(args, result, score.lines())
    return 0
