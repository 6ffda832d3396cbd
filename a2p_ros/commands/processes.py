"""Child processes that never outlive their parent: each in a group of its own, with a log file of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from a2p_ros.errors import A2PError

_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.rstrip().splitlines()[-lines:])


class ChildDied(A2PError):
    """A process that should run has ended; ``log`` are its last lines."""

    def __init__(self, name: str, code: int, log: str) -> None:
        super().__init__(f"{name} ended with exit code {code}" + ("; its last lines are" if log else ""))
        self.log = log


class Children:
    """Starts processes and stops them all when it is closed, whatever happened in between.

    They also end when this process is killed (Linux's parent-death signal).
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="a2p_")
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start one; its standard output and error go to its log."""
        log = Path(self._folder.name) / f"{len(self._children)}_{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(command),
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def start_module(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
        """Start ``python -m MODULE ARGUMENTS`` with this interpreter."""
        return self.start(name, [sys.executable, "-m", module, *arguments], env)

    def check(self) -> None:
        """Raise ChildDied if one has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise ChildDied(child.name, code, child.tail())

    def stop(self, timeout: float = 5.0) -> None:
        """End all: an interrupt first, then terminate, then kill; safe to call twice."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            running = [child for child in self._children if child.process.poll() is None]
            for child in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, number)
            deadline = time.monotonic() + timeout
            for child in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(deadline - time.monotonic(), 0.01))
        self._children.clear()
        self._folder.cleanup()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def _die_with_parent() -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file in one step, so that the other process never reads half of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value), encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` of another process wrote last; empty before it did."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def memory_mb(pid: int) -> float:
    """Resident memory of a process [MB], NaN when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far [s], NaN when it has ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return float("nan")
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
