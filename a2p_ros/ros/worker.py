"""One thread that always works on the newest item; what it had no time for is dropped and counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class LatestWorker(Generic[Item]):
    """Hands each newest item to ``work`` in a thread of its own.

    What ``work`` raises is logged and the next item is taken. ``received`` and ``dropped`` count items since the start.
    """

    def __init__(self, work: Callable[[Item], None], name: str = "worker") -> None:
        self._work, self._name = work, name
        self._ready = threading.Condition()
        self._item: Item | None = None
        self._running = False
        self._thread: threading.Thread | None = None
        self._left: threading.Thread | None = None
        self.received = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin to work; items put earlier are forgotten."""
        with self._ready:
            self._item, self._running = None, True
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def put(self, item: Item) -> None:
        """Offer an item; it replaces one that has not been taken yet."""
        with self._ready:
            if not self._running:
                return
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._ready.notify()

    def clear(self) -> None:
        """Forget the item that has not been taken yet."""
        with self._ready:
            self._item = None

    def stop(self, timeout: float = 5.0) -> bool:
        """End the thread; False where its work took longer than ``timeout`` [s]."""
        with self._ready:
            self._running, self._item = False, None
            thread, self._thread = self._thread, None
            self._ready.notify_all()
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        self._left = thread
        return not self.hanging

    @property
    def hanging(self) -> bool:
        """Whether the work that was going on at the last stop still is."""
        return self._left is not None and self._left.is_alive()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._item is not None or not self._running)
                if not self._running or self._thread is not me:
                    return
                item, self._item = self._item, None
            if item is None:
                continue
            try:
                self._work(item)
            except Exception:
                log.exception("%s failed on one item", self._name)
