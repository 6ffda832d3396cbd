"""From a configuration to a folder of shards, by several processes, going on where an earlier run stopped.

    FOLDER/synth.json          the configuration; a folder holds the frames of one alone
    FOLDER/pairs.npz           the pool of interacting pairs
    FOLDER/frames_00000.tar    frames 0 to shard - 1, and so on

A shard is made by one process from its own seed, so that their number and order change nothing.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2

from a2p_ros.errors import A2PError, ConfigError, SourceError
from a2p_ros.training.synthetic.config import SynthConfig
from a2p_ros.training.synthetic.drawing import FrameMaker
from a2p_ros.training.synthetic.pairs import PairPool, make_pool, one_thread_each
from a2p_ros.training.synthetic.samples import ShardWriter, count_frames

CONFIG, PAIRS = "synth.json", "pairs.npz"


class SynthError(A2PError):
    """A process that draws frames died."""


@dataclass(frozen=True)
class ShardTask:
    """Frames ``first`` to ``first + count - 1``, which go to ``path``."""

    path: Path
    first: int
    count: int

    def finished(self) -> bool:
        """Whether the shard is there and whole; a shard that is damaged or of another length counts as not there."""
        try:
            return self.path.exists() and count_frames(self.path) == self.count
        except SourceError:
            return False


def tasks_of(config: SynthConfig, folder: Path, frames: int) -> list[ShardTask]:
    """The shards of the first ``frames`` frames of a configuration; the last one may be shorter."""
    return [
        ShardTask(folder / f"frames_{first // config.shard:05d}.tar", first, min(config.shard, frames - first))
        for first in range(0, frames, config.shard)
    ]


def claim_folder(config: SynthConfig, folder: Path) -> None:
    """Write the configuration into a folder, or check that it is the one that the folder's shards are of.

    Raises ConfigError, naming what differs, where it is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, mine = folder / CONFIG, dataclasses.asdict(config)
    if path.exists():
        try:
            theirs = json.loads(path.read_text())
            different = [f"{k} {theirs.get(k)} (now {v})" for k, v in mine.items() if theirs.get(k) != v]
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path}: not a configuration ({error}); choose another folder") from error
        if different:
            raise ConfigError(
                f"{folder} holds shards of another configuration: {', '.join(different)}. Choose another folder, or "
                f"give the same options"
            )
        return
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(mine, indent=1) + "\n")
    os.replace(part, path)


def make_pairs(config: SynthConfig, folder: Path, workers: int) -> Iterator[int]:
    """Make the pool of pairs unless it is there; yields how many are done."""
    yield from make_pool(folder / PAIRS, config.pairs, config.seed, workers)


def make_shards(config: SynthConfig, folder: Path, frames: int, workers: int) -> Iterator[ShardTask]:
    """Make what is lacking of the first ``frames`` frames; yields each shard once it is there.

    Finished shards are kept, whatever happens to the others. Raises OSError for a full disk, SynthError when a
    process dies, and MissingDependencyError without EGL.
    """
    lacking = []
    for task in tasks_of(config, folder, frames):
        if task.finished():
            yield task
        else:
            lacking.append(task)
    if not lacking:
        return
    workers = min(workers, len(lacking))
    context = multiprocessing.get_context("spawn")
    with (
        one_thread_each(),
        ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(config, folder)) as pool,
    ):
        running = {pool.submit(_make, task): task for task in lacking}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BrokenProcessPool as error:
            raise SynthError(
                f"a process that draws frames died, often for want of memory (each needs about 0.7 GB). The shards "
                f"that are finished are kept in {folder}; run the same command again, with fewer --workers"
            ) from error
        except OSError as error:
            pool.shutdown(wait=True, cancel_futures=True)
            raise OSError(
                error.errno,
                f"{error.strerror or error}; finished shards are kept: make room and run the same command again",
                str(folder),
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass
class _Process:
    """What a process keeps between shards."""

    config: SynthConfig
    folder: Path
    maker: FrameMaker | None = None


_process: _Process | None = None


def _prepare(config: SynthConfig, folder: Path) -> None:
    global _process
    cv2.setNumThreads(1)
    _process = _Process(config, folder)


def _make(task: ShardTask) -> None:
    """Draw one shard; errors of the renderer and the disk go to the caller."""
    assert _process is not None
    if _process.maker is None:
        _process.maker = FrameMaker(_process.config, PairPool.load(_process.folder / PAIRS))
    with ShardWriter(task.path) as writer:
        for index in range(task.first, task.first + task.count):
            frame, jpeg = _process.maker.frame(index)
            writer.write(frame, jpeg=jpeg)
