"""``a2p synth``: rendered frames of hands with exact labels, as shards; contact sheets; videos with ground truth."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

from a2p_ros.commands import common
from a2p_ros.commands.drawn_frames import FIRST_SEED, draw_shards
from a2p_ros.errors import ConfigError


def add_parser(verbs: Any) -> None:
    """Options of ``a2p synth``."""
    parser = verbs.add_parser(
        "synth",
        help="render labelled training data",
        description="Draw hands, alone, crossing and touching, with forearms, things and backgrounds, and keep frames, "
        "crops and labels in tar shards. A folder holds one configuration; run again, it goes on where it stopped. "
        "docs/synthetic.md describes what is drawn and the format.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/synth"), metavar="DIR", help="folder of the shards")
    parser.add_argument("--frames", type=int, default=2000, metavar="N", help="frames in all (default: 2000)")
    parser.add_argument(
        "--seed",
        type=int,
        help=f"of everything that is drawn (default: {FIRST_SEED}; those below are for measurement, not for training)",
    )
    parser.add_argument("--size", metavar="WxH", help="of the frames, as 320x240 (default: 400x300)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any option of the scenes, as interacting=0.5"
    )
    parser.add_argument("--options", action="store_true", help="list the options of --set, and do nothing")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one for each core)")
    parser.add_argument("--sheets", type=int, default=1, metavar="N", help="contact sheets of crops and of frames")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also a video of the frames with their truth, .mp4")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pairs, shards, statistics, sheets, video."""
    from a2p_ros.config import settings_of
    from a2p_ros.rendering.renderer import Renderer
    from a2p_ros.training.synthetic import sheets
    from a2p_ros.training.synthetic.config import SynthConfig
    from a2p_ros.training.synthetic.samples import read_frames
    from a2p_ros.training.synthetic.shards import tasks_of
    from a2p_ros.training.synthetic.statistics import Statistics, as_text

    if args.options:
        for name, _, about in settings_of(SynthConfig):
            common.say(f"{name:12} {getattr(SynthConfig(), name)!s:8} {about.text}")
        return 0
    for name, low in (("frames", 1), ("workers", 0), ("sheets", 0)):
        if getattr(args, name) < low:
            raise ConfigError(f"--{name}: expected {low} or more, got {getattr(args, name)}")
    config = SynthConfig.of(_values(args))
    workers = args.workers or len(os.sched_getaffinity(0))
    out: Path = args.out
    with Renderer(16, 16, samples=0) as renderer:  # minutes of other work come before the first frame
        device = renderer.device
    made, seconds = draw_shards(config, out, args.frames, workers)
    statistics = Statistics()
    tasks = tasks_of(config, out, args.frames)
    frames = read_frames([task.path for task in tasks])
    for frame in common.progress(frames, total=args.frames, what="statistics"):
        statistics.add(frame)
    summary = statistics.summary()
    size = sum(task.path.stat().st_size for task in tasks)
    summary["bytes_a_frame"] = round(size / args.frames)
    (out / "statistics.json").write_text(json.dumps(common.plain(summary), indent=1) + "\n")
    written = [out / "statistics.json"]
    shown = itertools.islice(read_frames([task.path for task in tasks]), 24 + 80 * args.sheets)
    for number, batch in enumerate(_batches(list(shown), args.sheets)):
        for name, draw in (("frames", sheets.frame_sheet), ("crops", sheets.crop_sheet)):
            if name == "crops" and not any(c for f in batch for _, c in f.crops.items()):
                continue
            written.append(out / f"sheet_{name}_{number:02d}.jpg")
            sheets.write_sheet(draw(batch), written[-1])
    if args.video is not None:
        sheets.write_video(list(itertools.islice(read_frames([t.path for t in tasks]), 600)), args.video, 4.0)
        written.append(args.video)
    result = {
        "out": str(out),
        "shards": len(tasks),
        "made": made,
        "kept": args.frames - made,
        "frames_per_second": made / seconds if made else None,
        "workers": workers,
        "device": device,
        "files": [str(path) for path in written],
        **summary,
    }
    rate = f"{made} frames in {seconds:.1f} s ({made / seconds:.1f}/s, {workers} processes)" if made else "none made"
    common.finish(args, result, [f"{rate}, {args.frames - made} kept; {out}", *as_text(summary)])
    return 0


def _batches(frames: list[Any], count: int) -> list[list[Any]]:
    """``count`` nearly equal parts, without empty ones."""
    if not count:
        return []
    size = -(-len(frames) // count)
    return [frames[i : i + size] for i in range(0, len(frames), size)]


def _values(args: argparse.Namespace) -> dict[str, Any]:
    """The values of --set, --seed and --size, in the types of the configuration."""
    from a2p_ros.config import settings_of
    from a2p_ros.training.synthetic.config import SynthConfig

    kinds = {name: kind for name, kind, _ in settings_of(SynthConfig)}
    values: dict[str, Any] = {"seed": FIRST_SEED}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected NAME=VALUE, as interacting=0.5")
        # Names that are not known are refused, with the known ones, by the configuration.
        values[name] = common.parse(name, value, kinds[name]) if name in kinds else value
    if args.size is not None:
        width, cross, height = args.size.partition("x")
        if not (cross and width.isdecimal() and height.isdecimal()):
            raise ConfigError(f"--size {args.size}: expected WIDTHxHEIGHT, as 320x240")
        values |= {"width": int(width), "height": int(height)}
    if args.seed is not None:
        values["seed"] = args.seed
    return values
