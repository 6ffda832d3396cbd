"""Says when silence has lasted too long: no image came, or an image came and no answer to it.

All times are seconds of a steady clock, never of ROS: simulated time that stands still must not keep a robot moving.
"""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Missing this many periods in a row is silence.
PERIODS = 2.5
#: Fewer intervals than this measure no period: of two, one may be a pause.
MIN_INTERVALS = 3
#: Time between the messages of one silence [s].
REPEAT = 0.1


class Pulse:
    """Beats and their period, the median of the last intervals."""

    def __init__(self, window: int = 15) -> None:
        self.last = math.nan
        self._intervals: deque[float] = deque(maxlen=window)

    def beat(self, now: float) -> None:
        """Note a beat at ``now`` [s]."""
        if not math.isnan(self.last):
            self._intervals.append(now - self.last)
        self.last = now

    @property
    def period(self) -> float:
        """Seconds between beats; 0 while unknown."""
        return statistics.median(self._intervals) if len(self._intervals) >= MIN_INTERVALS else 0.0

    def overdue_at(self, minimum: float) -> float:
        """When the next beat counts as missing [s]; infinite before the first."""
        return math.inf if math.isnan(self.last) else self.last + max(minimum, PERIODS * self.period)


class Silence:
    """When the next not-valid message is due. Quiet until the first image has come.

    Two things are watched, each after max(``minimum``, 2.5 of its own periods): images, and answers to images, so that
    a pipeline that hangs is silence too.
    """

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum
        self.images, self.answers = Pulse(), Pulse()
        self._said = -math.inf

    def image(self, now: float) -> None:
        """An image arrived."""
        self.images.beat(now)

    def answer(self, now: float) -> None:
        """A message about an image was published."""
        self.answers.beat(now)

    def said(self, now: float) -> None:
        """A not-valid message was published because of silence."""
        self._said = now

    def images_missing(self, now: float) -> bool:
        """Whether images have stopped."""
        return now >= self.images.overdue_at(self.minimum)

    def begins_at(self) -> float:
        """When silence begins unless something comes [s]; infinite before the first image."""
        return min(self.images.overdue_at(self.minimum), self._answer_overdue_at())

    def due_at(self) -> float:
        """When the next not-valid message must go [s]."""
        begun = self.begins_at()
        return begun if self._said < begun else max(begun, self._said + REPEAT)

    def _answer_overdue_at(self) -> float:
        if math.isnan(self.answers.last):
            return self.images.overdue_at(self.minimum)
        return self.answers.overdue_at(self.minimum)


class Watchdog:
    """A thread that calls ``on_silence`` whenever a not-valid message is due."""

    def __init__(self, minimum: float, on_silence: Callable[[], None]) -> None:
        self._on_silence = on_silence
        self._changed = threading.Condition()
        self._silence = Silence(minimum)
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self, minimum: float) -> None:
        """Watch from now on, with nothing remembered."""
        with self._changed:
            self._silence, self._running = Silence(minimum), True
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        with self._changed:
            self._running = False
            self._changed.notify()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)

    def pause(self) -> None:
        """Forget all beats: quiet until the next image."""
        with self._changed:
            self._silence = Silence(self._silence.minimum)
            self._changed.notify()

    def set_minimum(self, minimum: float) -> None:
        """Change the shortest silence [s]."""
        with self._changed:
            self._silence.minimum = minimum
            self._changed.notify()

    def image(self) -> None:
        """An image arrived."""
        with self._changed:
            self._silence.image(time.monotonic())
            self._changed.notify()

    def answer(self) -> None:
        """A message about an image was published."""
        with self._changed:
            self._silence.answer(time.monotonic())
            self._changed.notify()

    @property
    def images_missing(self) -> bool:
        """Whether images have stopped, so that an answer that comes now is too late to be acted on."""
        with self._changed:
            return self._silence.images_missing(time.monotonic())

    @property
    def silent(self) -> bool:
        """Whether it is silent now."""
        with self._changed:
            return time.monotonic() >= self._silence.begins_at()

    @property
    def image_period(self) -> float:
        """Measured seconds between images; 0 while unknown."""
        with self._changed:
            return self._silence.images.period

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._running:
                    return
                wait = self._silence.due_at() - time.monotonic()
                if wait > 0:
                    self._changed.wait(min(wait, 1.0))
                    continue
                self._silence.said(time.monotonic())
            try:
                self._on_silence()
            except Exception:  # the watchdog must outlive whatever publishing raises
                log.exception("publishing a not-valid message failed")
