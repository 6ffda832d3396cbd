"""How long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Seconds spent in each named stage, and in all since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block as ``stage``."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - begun

    @property
    def total(self) -> float:
        """Seconds since this clock was made."""
        return time.perf_counter() - self._begun
