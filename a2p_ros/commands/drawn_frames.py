"""Frames of the engine, drawn by a command; those to measure on are of seeds that training never draws."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from a2p_ros.commands import common
from a2p_ros.errors import InputError

if TYPE_CHECKING:
    from a2p_ros.training.synthetic.config import SynthConfig

#: Frames that training draws come of this seed and higher ones; measurement takes lower ones.
FIRST_SEED = 1000

#: Few looks a shard and few pairs a pool would make the frames too alike.
_SHARD, _FRAMES_A_PAIR = 50, 5


def add_options(parser: argparse.ArgumentParser, *, n: int) -> None:
    """``--n``, ``--seed``, ``--frames`` and ``--workers``."""
    parser.add_argument("--n", type=int, default=n, help="frames")
    parser.add_argument("--seed", type=int, default=0, help=f"of the frames, below {FIRST_SEED}")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="draw the frames here and keep them")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw frames (0: one for each core)")


def check_options(args: argparse.Namespace) -> None:
    """Raise InputError for a number of frames or a seed that cannot be."""
    if args.n < 1 or args.workers < 0:
        raise InputError(f"--n and --workers: expected 1 or more and 0 or more, got {args.n} and {args.workers}")
    if not 0 <= args.seed < FIRST_SEED:
        raise InputError(f"--seed: expected 0 to {FIRST_SEED - 1}, which training never draws, got {args.seed}")


@contextmanager
def drawn(args: argparse.Namespace) -> Iterator[list[Path]]:
    """The shards of the frames that the options ask for, drawn where they are not there yet."""
    if args.frames is not None:
        yield _draw(args, args.frames)
        return
    with tempfile.TemporaryDirectory(prefix="a2p_eval_") as folder:
        yield _draw(args, Path(folder))


def draw_shards(config: SynthConfig, folder: Path, frames: int, workers: int) -> tuple[int, float]:
    """Draw what is lacking of the first frames of a configuration; how many were made, and in how long [s].

    ``workers`` processes draw, 0: one for each core. The time is without the pool of pairs, which comes first.
    """
    from a2p_ros.training.synthetic.shards import PAIRS, claim_folder, make_pairs, make_shards, tasks_of

    workers = workers or len(os.sched_getaffinity(0))
    claim_folder(config, folder)
    if not (folder / PAIRS).exists():
        with common.bar(total=config.pairs, unit="pair", what="interacting pairs") as bar:
            for count in make_pairs(config, folder, workers):
                bar.update(count - bar.n)
    there = {task.path for task in tasks_of(config, folder, frames) if task.finished()}
    made, started = 0, time.perf_counter()
    with common.bar(total=frames, unit="frame", what="frames") as bar:
        for task in make_shards(config, folder, frames, workers):
            bar.update(task.count)
            made += 0 if task.path in there else task.count
    return made, time.perf_counter() - started


def _draw(args: argparse.Namespace, folder: Path) -> list[Path]:
    from a2p_ros.training.synthetic.config import SynthConfig
    from a2p_ros.training.synthetic.shards import tasks_of

    pairs = max(args.n // _FRAMES_A_PAIR, 1)
    config = SynthConfig(seed=args.seed, width=640, height=480, crop=0, maps=False, shard=_SHARD, pairs=pairs)
    draw_shards(config, folder, args.n, args.workers)
    return [task.path for task in tasks_of(config, folder, args.n)]
