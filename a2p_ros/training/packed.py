"""Shards of the engine packed for a training, each once: what was made of the same already is not made again."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from a2p_ros.errors import InputError
from a2p_ros.training.synthetic.samples import shard_paths

#: Every so many frames one is kept for validation.
VALIDATION = 25


class Packing:
    """Where packed shards lie and what they must be made of.

    Each is an ``.npz`` file with labels, which is written last, and files beside it.

    Args:
        version: changes when packed shards of older versions must not be used.
        config: how frames are kept, a dataclass.
        beside: suffixes of the files beside the ``.npz``.
    """

    def __init__(self, version: int, config: Any, beside: Sequence[str]) -> None:
        self._version, self._config, self._beside = version, config, tuple(beside)

    def pack(self, source: Path, folder: Path, make: Callable[[Path, Path], dict[str, np.ndarray]]) -> Iterator[int]:
        """Pack the shards of ``source`` into ``folder``; yields how many are done.

        ``make`` gets a shard and the target, writes the files beside it, and returns the labels. Raises SourceError
        for shards that are missing or damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for done, path in enumerate(shard_paths(source), 1):
            target = folder / f"{path.stem}.npz"
            if self._note(target) != self._recipe(path):
                target.unlink(missing_ok=True)
                labels = make(path, target)
                unfinished = target.with_suffix(".part.npz")
                np.savez(unfinished, note=np.array(json.dumps(self._recipe(path))), **labels)
                unfinished.rename(target)
            yield done

    def read(self, source: Path, folder: Path, open_: Callable[[Path, Any], Any]) -> list[Any]:
        """What ``open_`` makes of each packed shard's path and labels; raises InputError for one bad or lacking."""
        parts = []
        for path in shard_paths(source):
            target = folder / f"{path.stem}.npz"
            if self._note(target) != self._recipe(path):
                raise InputError(f"{target}: is not what {path} gives; pack the frames with one process first")
            try:
                with np.load(target) as labels:
                    parts.append(open_(target, labels))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise InputError(f"{target}: cannot be read ({error}); delete it and it is made anew") from error
        return parts

    def _recipe(self, path: Path) -> list[object]:
        status = path.stat()
        return [self._version, path.name, status.st_size, status.st_mtime_ns, *astuple(self._config)]

    def _note(self, target: Path) -> object:
        if not all(target.with_suffix(suffix).exists() for suffix in (".npz", *self._beside)):
            return None
        try:
            with np.load(target) as arrays:
                return json.loads(str(arrays["note"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None


def is_for_validation(frames: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which of the frames with these numbers are kept for validation."""
    return frames % VALIDATION == VALIDATION - 1
