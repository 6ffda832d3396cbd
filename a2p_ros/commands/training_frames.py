"""The frames of a training that sees pictures: which ones, drawn where they are lacking, packed once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from a2p_ros.commands import common, options
from a2p_ros.commands.drawn_frames import FIRST_SEED, draw_shards
from a2p_ros.errors import ConfigError

Packed = TypeVar("Packed")


def add_options(parser: argparse.ArgumentParser, *, counts: str) -> None:
    """``--frames``, ``--packed``, ``--count`` (``counts`` says its default), ``--data-seed`` and ``--workers``."""
    parser.add_argument(
        "--frames",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of shards made by `a2p synth`; may be given several times (default: OUT/frames, drawn here)",
    )
    parser.add_argument("--packed", type=Path, metavar="DIR", help="where packed frames are kept (default: OUT/packed)")
    parser.add_argument("--count", type=int, help=f"frames that are drawn where --frames is not given ({counts})")
    parser.add_argument("--data-seed", type=int, default=FIRST_SEED, help=f"of the drawn frames, {FIRST_SEED} or more")
    parser.add_argument("--workers", type=int, help="processes that draw frames, and threads that make pictures")


def folders(args: argparse.Namespace) -> list[Path]:
    """Where the frames are."""
    return args.frames or [args.out / "frames"]


def packed(
    args: argparse.Namespace,
    pack: Callable[[Path, Path], Iterator[int]],
    read: Callable[[Path, Path], Packed],
    *,
    count: int,
    size: tuple[int, int] | None = None,
) -> list[Packed]:
    """What ``read`` finds in each folder of frames after ``pack``; of several processes the first one packs.

    ``count`` frames of ``size`` (width, height) [px] are drawn where none are given; ``--count`` replaces the number.
    """
    root: Path = args.packed or args.out / "packed"
    places = [(source, root / f"{number:02d}") for number, source in enumerate(folders(args))]
    with options.one_at_a_time(args.out):
        if not args.frames:
            _draw(args, places[0][0], count if args.count is None else args.count, size)
        for source, _ in places:
            check_seed(source)
        for source, place in places:
            with common.bar(total=None, unit="shard", what=f"packing {source}") as bar:
                for count in pack(source, place):
                    bar.update(count - bar.n)
    return [read(source, place) for source, place in places]


def scenes_of(folder: Path) -> dict[str, Any]:
    """What a folder of shards says of how it was drawn."""
    from a2p_ros.training.synthetic.samples import read_frames

    scene = next(iter(read_frames(folder))).scene
    return {name: scene[name] for name in ("seed", "options") if name in scene}


def check_seed(folder: Path) -> dict[str, Any]:
    """What `scenes_of` says; raises ConfigError for frames that are kept for measurement."""
    scenes = scenes_of(folder)
    seed = scenes.get("seed", FIRST_SEED)
    if seed < FIRST_SEED:
        raise ConfigError(
            f"{folder}: frames of seed {seed}, and seeds below {FIRST_SEED} are kept for measurement; draw others with "
            f"`a2p synth --seed {FIRST_SEED}`"
        )
    return scenes


def _draw(args: argparse.Namespace, folder: Path, count: int, size: tuple[int, int] | None) -> None:
    from a2p_ros.training.synthetic.config import SynthConfig

    if count < 1 or args.data_seed < FIRST_SEED:
        raise ConfigError(
            f"--count and --data-seed: expected 1 and {FIRST_SEED} or more (lower seeds are kept for measurement), got "
            f"{count} and {args.data_seed}"
        )
    # The networks' crops and maps come with the same frames, so that one folder serves all of them.
    config = SynthConfig(seed=args.data_seed, pairs=600)
    if size is not None:
        config = dataclasses.replace(config, width=size[0], height=size[1])
    draw_shards(config, folder, count, args.workers or 0)
