"""A pool of clean interacting pairs: made once, kept beside the shards, drawn again and again from new sides.

A try at a pair takes a third of a second and less than one in two is clean, so that a frame cannot have its own.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from a2p_ros.errors import SourceError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.training.interaction_kinds import ANYWHERE, KINDS
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Pair

#: Pairs that one task looks for, tries at a time, and how many tries may give nothing before a task gives up.
_TASK, _TRIES, _PATIENCE = 8, 4, 48
_ARRAYS = ("betas", "rotations", "transl")


@dataclass(frozen=True)
class PairPool:
    """Parameters of pairs, both hands of each in one frame: arrays (n, 2, ...), the left hand first."""

    betas: Float32[np.ndarray, "n 2 10"]
    rotations: Float32[np.ndarray, "n 2 16 3 3"]
    transl: Float32[np.ndarray, "n 2 3"]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def joined(cls, pools: list[PairPool]) -> PairPool:
        """One pool of several."""
        betas, rotations, transl = (np.concatenate([getattr(pool, name) for pool in pools]) for name in _ARRAYS)
        return cls(betas, rotations, transl, tuple(kind for pool in pools for kind in pool.kinds))

    def save(self, path: Path) -> None:
        """Write to ``path``, which appears when it is complete."""
        part = path.with_name(path.name + ".part")
        try:
            packed = io.BytesIO()
            np.savez(packed, kinds=np.array(self.kinds), **{name: getattr(self, name) for name in _ARRAYS})
            part.write_bytes(packed.getvalue())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> PairPool:
        """Read what ``save`` wrote; raises SourceError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                pool = cls(file["betas"], file["rotations"], file["transl"], tuple(map(str, file["kinds"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SourceError(f"{path}: not a pool of pairs ({error}); delete it and it is made anew") from error
        shapes = {(len(pool), 2, 10), (len(pool), 2, 16, 3, 3), (len(pool), 2, 3)}
        if len(pool) == 0 or {getattr(pool, name).shape for name in _ARRAYS} != shapes:
            raise SourceError(f"{path}: its arrays do not fit one another; delete it and it is made anew")
        return pool


def make_pool(path: Path, count: int, seed: int, workers: int) -> Iterator[int]:
    """Make ``path`` unless it is there; yields how many pairs are done. The workers' number does not change them."""
    if path.exists():
        yield count
        return
    every = (*KINDS, ANYWHERE)
    tasks = [(every[i % len(every)], min(_TASK, count - _TASK * i), [seed, i]) for i in range(-(-count // _TASK))]
    parts: list[PairPool | None] = [None] * len(tasks)
    done = 0
    with one_thread_each(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            running = {pool.submit(_clean_pairs, *task): i for i, task in enumerate(tasks)}
            for future in as_completed(running):
                found = parts[running[future]] = future.result()
                done += len(found)
                yield done
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    PairPool.joined([part for part in parts if part]).save(path)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started in the block run their numerics, and llvmpipe, in one thread: there is one process a core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    # llvmpipe counts threads beside the caller's.
    os.environ.update(dict.fromkeys(names[:-1], "1"), **{names[-1]: "0"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_GENERATOR: InteractionGenerator | None = None


def _clean_pairs(kind: str, count: int, seed: list[int]) -> PairPool:
    global _GENERATOR
    if _GENERATOR is None:
        _GENERATOR = InteractionGenerator(load_hand_models())
    rng = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    found: list[HandPairs] = []
    tried = 0
    while sum(len(pairs) for pairs in found) < count and tried < _PATIENCE:
        pairs, clean = _GENERATOR.attempt(kind, _TRIES, rng)
        found.append(pairs[clean])
        tried += _TRIES
    betas, rotations, transl = (
        np.concatenate([_both(getattr(pairs, name)) for pairs in found])[:count] for name in _ARRAYS
    )
    return PairPool(betas, rotations, transl, (kind,) * len(betas))


def _both(values: Pair[torch.Tensor]) -> np.ndarray:
    return torch.stack([values.left, values.right], 1).numpy().astype(np.float32)
