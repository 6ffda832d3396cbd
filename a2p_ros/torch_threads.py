"""How many threads torch works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block's torch operations in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def single_thread() -> AbstractContextManager[None]:
    """Run the block's torch operations in the calling thread.

    Posing one hand takes 0.4 ms alone and 11 ms with a second thread that competes for a busy core (2 cores).
    """
    return threads(1)
