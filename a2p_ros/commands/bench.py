"""``a2p bench``: how fast it is, beside MediaPipe on the same frames in the same run."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from a2p_ros.commands import bench_interaction, bench_network, common
from a2p_ros.errors import A2PError, InputError, MissingDependencyError


def add_parser(verbs: Any) -> None:
    """Options of ``a2p bench``."""
    parser = verbs.add_parser("bench", help="measure speed and latency", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_pipeline(kinds)
    bench_interaction.add(kinds)
    bench_network.add(kinds)
    _add_ros(kinds)


def _add_pipeline(kinds: Any) -> None:
    parser = kinds.add_parser(
        "pipeline",
        help="the pipeline in this process, stage by stage",
        description="Each frame goes through the pipeline and through MediaPipe; who is first alternates.",
    )
    parser.add_argument(
        "source", nargs="?", default="synthetic", help="video, synthetic[:SEED] or crossing:SEED (default: synthetic)"
    )
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="frames that are measured")
    parser.add_argument("--warm-up", type=int, default=20, metavar="N", help="frames before those")
    parser.add_argument("--mirror-join", action="store_true", help="put the mirror image beside each frame: two hands")
    parser.add_argument("--no-peer", action="store_true", help="leave MediaPipe out")
    common.add_json(parser)
    common.add_pipeline_options(parser)
    parser.set_defaults(run=run_pipeline)


def _add_ros(kinds: Any) -> None:
    parser = kinds.add_parser(
        "ros",
        help="camera node, hands node and a subscriber, three processes",
        description="Latency is from the image's stamp to the receipt of its hands in a third process. MediaPipe runs "
        "alone on the same frames before and after.",
    )
    parser.add_argument(
        "source", nargs="?", default="synthetic", help="video, synthetic[:SEED] or crossing:SEED (default: synthetic)"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="camera frames a second [Hz]")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure")
    parser.add_argument("--no-peer", action="store_true", help="leave MediaPipe out")
    common.add_json(parser)
    parser.set_defaults(run=run_ros)


def run_pipeline(args: argparse.Namespace) -> int:
    """Time every stage of every frame."""
    from a2p_ros.commands.processes import memory_mb
    from a2p_ros.pipeline import TwoHandPipeline

    if args.frames < 1 or args.warm_up < 0:
        raise InputError(f"--frames and --warm-up: expected 1 and 0 or more, got {args.frames} and {args.warm_up}")
    pipeline = TwoHandPipeline(common.pipeline_config(args))
    pipeline.warm_up()
    frames = stream(args.source, joined=args.mirror_join)
    for frame in islice(frames, args.warm_up):
        pipeline(frame.image, frame.camera, frame.stamp)
    # Before MediaPipe comes into the same process.
    memory = memory_mb(os.getpid())
    peer = None if args.no_peer else peer_or_none()
    ours: list[float] = []
    theirs: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    hands_seen = 0
    if peer is not None:
        for frame in islice(frames, args.warm_up):
            peer(frame.image)
    for number, frame in enumerate(common.progress(islice(frames, args.frames), total=args.frames)):
        turns = [lambda frame=frame: pipeline(frame.image, frame.camera, frame.stamp)]
        if peer is not None:
            turns.append(lambda frame=frame: peer(frame.image))
        for turn in turns if number % 2 == 0 else reversed(turns):
            begin = time.perf_counter()
            answer = turn()
            seconds = time.perf_counter() - begin
            if turn is turns[0]:
                ours.append(seconds)
                hands_seen += sum(hand is not None for _, hand in answer.items())
                for name, spent in answer.timings.items():
                    stages[name].append(spent)
            else:
                theirs.append(seconds)
    report = pipeline.report()
    result = {
        "fps": 1.0 / float(np.mean(ours)),
        "latency_ms": common.percentiles(ours, 1e3),
        "stages": {name: common.percentiles(values, 1e3) for name, values in stages.items()},
        "mediapipe_ms": common.percentiles(theirs, 1e3),
        "device": report.get("network", report.get("landmarks", "")).rpartition(" on ")[2],
        "provider": report["detector"],
        "rss_mb": memory,
        "frames": len(ours),
        "hands_per_frame": hands_seen / len(ours),
        "model_id": pipeline.model_id,
        "report": report,
    }
    common.finish(args, result, _pipeline_lines(result))
    return 0


def stream(source: str, *, joined: bool = False) -> Iterator[Any]:
    """Frames of a source without end: a file begins again, with stamps that go on rising."""
    from a2p_ros.evaluation.clip import mirror_join
    from a2p_ros.media.sources import open_source

    offset = 0.0
    with open_source(source) as opened:
        while True:
            last = 0.0
            for frame in opened:
                last = frame.stamp
                image = mirror_join(frame.image) if joined else frame.image
                yield dataclasses.replace(
                    frame, image=image, stamp=frame.stamp + offset, camera=None if joined else frame.camera
                )
            offset += last + 1.0 / opened.fps


def peer_or_none() -> Any:
    """MediaPipe, or None with a word on standard error: the benchmark of our own side needs no peer."""
    from a2p_ros.evaluation.mediapipe_peer import MediaPipeHands

    try:
        return MediaPipeHands()
    except MissingDependencyError as error:
        common.warn(str(error))
        return None


def _pipeline_lines(result: dict[str, Any]) -> list[str]:
    def row(name: str, times: dict[str, float]) -> str:
        return f"  {name:<12}{times['p50']:8.2f}{times['p99']:8.2f}"

    return [
        f"{result['frames']} frames, {result['hands_per_frame']:.2f} hands a frame, {result['model_id']}, "
        f"{result['device']}, detector {result['provider']}",
        f"{result['fps']:.1f} frames a second, {result['rss_mb']:.0f} MB",
        f"  {'[ms]':<12}{'p50':>8}{'p99':>8}",
        row("pipeline", result["latency_ms"]),
        *(row(f"  {name}", times) for name, times in result["stages"].items()),
        row("MediaPipe", result["mediapipe_ms"]),
    ]


def run_ros(args: argparse.Namespace) -> int:
    """Three processes over real DDS, and MediaPipe alone before and after them."""
    from a2p_ros.commands.ros_environment import require_ros

    if not 1 <= args.seconds <= 3600:
        raise InputError(f"--seconds: expected 1 to 3600, got {args.seconds}")
    require_ros()
    peer: list[float] = []
    count = min(int(args.seconds * args.fps / 2), 300)
    if not args.no_peer:
        peer += peer_times(args.source, count)
    measured = measure_nodes(args.source, args.fps, args.seconds)
    if not args.no_peer:
        peer += peer_times(args.source, count)
    result = measured | {"mediapipe_ms": common.percentiles(peer, 1e3)}
    result["over_mediapipe_ms"] = result["latency_ms"]["p50"] - result["mediapipe_ms"]["p50"]
    common.finish(args, result, _ros_lines(result))
    return 0


def peer_times(source: str, count: int, warm_up: int = 10) -> list[float]:
    """Seconds that MediaPipe takes for each of the first frames of a source."""
    peer = peer_or_none()
    if peer is None:
        return []
    times = []
    with peer:
        frames = islice(stream(source), count + warm_up)
        for frame in common.progress(frames, total=count + warm_up, what="MediaPipe alone"):
            begin = time.perf_counter()
            peer(frame.image)
            times.append(time.perf_counter() - begin)
    return times[warm_up:]


def measure_nodes(source: str, fps: float, seconds: float) -> dict[str, Any]:
    """Start camera node, hands node and receiver, wait until the receiver is done, and sum up."""
    from a2p_ros.commands.demo import camera_arguments, hands_arguments
    from a2p_ros.commands.processes import Children, cpu_seconds, memory_mb, read_json
    from a2p_ros.commands.ros_environment import private_environment
    from a2p_ros.evaluation.bench_summary import HandsEvent, summarise

    with tempfile.TemporaryDirectory(prefix="a2p_bench_") as folder, Children() as children:
        file, beginnings = Path(folder) / "receiver.json", Path(folder) / "beginnings.json"
        env = private_environment() | {"A2P_BENCH_FILE": str(beginnings)}
        receiver = ["--out", str(file), "--seconds", str(seconds)]
        children.start_module("receiver", "a2p_ros.ros.bench_receiver", *receiver, env=env)
        children.start_module("camera_node", "a2p_ros.ros.camera_node", *camera_arguments(source, fps), env=env)
        hands = children.start_module("hands_node", "a2p_ros.ros.bench_hands", *hands_arguments(), env=env)
        begin: tuple[float, float] | None = None
        limit = time.monotonic() + seconds + 120.0
        while (arrived := read_json(file)).get("phase") != "done":
            children.check()
            if arrived.get("phase") == "measuring" and begin is None:
                begin = time.monotonic(), cpu_seconds(hands.process.pid)
            if time.monotonic() > limit:
                raise A2PError(f"no hands message came in time; the hands node said:\n{hands.tail()}")
            time.sleep(0.05)
        spent = math.nan
        if begin is not None:
            spent = (cpu_seconds(hands.process.pid) - begin[1]) / (time.monotonic() - begin[0])
        memory = memory_mb(hands.process.pid)
        # It writes down when its work began as it ends.
        children.stop()
        started = {int(stamp): begun for stamp, begun in read_json(beginnings).items()}
    events = [HandsEvent(*event) for event in arrived["hands"]]
    images = [(stamp, received) for stamp, received in arrived["images"]]
    return {
        **summarise(events, images, started, arrived["begin"], arrived["end"]),
        "cpu_percent": 100 * spent,
        "rss_mb": memory,
        "model_id": arrived["model_id"],
        "watchdog_messages": arrived["watchdog_messages"],
    }


def _ros_lines(result: dict[str, Any]) -> list[str]:
    latency, peer = result["latency_ms"], result["mediapipe_ms"]
    return [
        f"{result['frames_in']} frames in, {result['frames_out']} messages out ({result['fps']:.1f} a second), "
        f"{result['newest_frame_share']:.1%} of them about the frame that was newest, {result['model_id']}",
        f"stamp to receipt {latency['p50']:.1f} ms (p99 {latency['p99']:.1f} ms); MediaPipe alone "
        f"{peer['p50']:.1f} ms (p99 {peer['p99']:.1f} ms)",
        f"hands node: {result['cpu_percent']:.0f} % of one core, {result['rss_mb']:.0f} MB",
    ]
