"""What the node says of itself once a second: rate, latency by stage, drops, camera, devices."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

#: Seconds that rates and latencies look back.
WINDOW = 5.0

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


class Statistics:
    """Times, counts and the last problem of each kind; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=1000))
        self._counts: Counter[str] = Counter()
        self._notes: dict[str, object] = {}
        self._problems: dict[str, tuple[bytes, str, float]] = {}

    def sample(self, name: str, value: float) -> None:
        """Add one measurement, for instance seconds of a stage."""
        with self._lock:
            self._times[name].append((time.monotonic(), value))

    def count(self, name: str, by: int = 1) -> None:
        """Raise a counter."""
        with self._lock:
            self._counts[name] += by

    def note(self, name: str, value: object) -> None:
        """Keep the last value of something."""
        with self._lock:
            self._notes[name] = value

    def problem(self, kind: str, text: str, level: bytes = WARN) -> None:
        """Set, or with an empty text clear, what is wrong in one respect."""
        with self._lock:
            if text:
                self._problems[kind] = (level, text, time.monotonic())
            else:
                self._problems.pop(kind, None)

    def counts(self) -> dict[str, int]:
        """All counters."""
        with self._lock:
            return dict(self._counts)

    def notes(self) -> dict[str, object]:
        """The last value of each thing noted."""
        with self._lock:
            return dict(self._notes)

    def problems(self) -> list[tuple[bytes, str]]:
        """(level, text) of what is wrong now, worst first."""
        with self._lock:
            found = [(level, text) for level, text, _ in self._problems.values()]
        return sorted(found, key=lambda problem: problem[0], reverse=True)

    def rate(self, name: str) -> float:
        """Measurements a second [Hz] over the window."""
        recent = self._recent(name)
        return (len(recent) - 1) / (recent[-1][0] - recent[0][0]) if len(recent) > 1 else 0.0

    def percentiles(self, name: str) -> tuple[float, float] | None:
        """(p50, p99) over the window, None without measurements."""
        values = [value for _, value in self._recent(name)]
        return (float(np.percentile(values, 50)), float(np.percentile(values, 99))) if values else None

    def names(self) -> list[str]:
        """Names of all measurements."""
        with self._lock:
            return sorted(self._times)

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._times.clear()
            self._counts.clear()
            self._notes.clear()
            self._problems.clear()

    def _recent(self, name: str) -> list[tuple[float, float]]:
        since = time.monotonic() - WINDOW
        with self._lock:
            return [sample for sample in self._times.get(name, ()) if sample[0] >= since]


def status_message(
    name: str, hardware_id: str, problems: Iterable[tuple[bytes, str]], values: Mapping[str, object], fine: str
) -> DiagnosticStatus:
    """One DiagnosticStatus: the level and text of the worst problem, or ``fine``."""
    problems = list(problems)
    level, text = problems[0] if problems else (OK, fine)
    if len(problems) > 1:
        text = "; ".join(text for _, text in problems)
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id=hardware_id, values=pairs)


def statistics_values(statistics: Statistics) -> dict[str, object]:
    """Rates, latencies in milliseconds, counters and notes as key and value."""
    values: dict[str, object] = {"output rate [Hz]": statistics.rate("latency")}
    for name in statistics.names():
        found = statistics.percentiles(name)
        if found is not None:
            values[f"{name} p50 [ms]"], values[f"{name} p99 [ms]"] = 1e3 * found[0], 1e3 * found[1]
    return {**values, **statistics.counts(), **statistics.notes()}


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
