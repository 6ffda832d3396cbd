"""Silence and the worker, without ROS: times are given, not waited for."""

from __future__ import annotations

import threading
import time

import pytest
from ros_helpers import require_ros, wait_until

require_ros()

from a2p_ros.ros.watchdog import Silence, Watchdog
from a2p_ros.ros.worker import LatestWorker


def stream(silence: Silence, period: float, count: int, delay: float = 0.01, start: float = 100.0) -> float:
    """Images every ``period``, each answered after ``delay``; returns the last image's time."""
    for i in range(count):
        silence.image(start + i * period)
        silence.answer(start + i * period + delay)
    return start + (count - 1) * period


def test_nothing_is_said_before_the_first_image() -> None:
    assert Silence(0.2).due_at() == float("inf")


@pytest.mark.parametrize(("period", "wait"), [(1 / 30, 0.2), (0.05, 0.2), (0.1, 0.25), (0.5, 1.25)])
def test_images_missing_for_two_and_a_half_periods_and_the_minimum(period: float, wait: float) -> None:
    silence = Silence(0.2)
    last = stream(silence, period, 20)
    assert silence.due_at() == pytest.approx(last + wait)


def test_one_long_gap_does_not_change_the_measured_period() -> None:
    silence = Silence(0.2)
    stream(silence, 0.03, 20)
    last = stream(silence, 0.03, 3, start=110.0)
    assert silence.due_at() == pytest.approx(last + 0.2)


def test_pause_after_the_first_image_is_no_period() -> None:
    silence = Silence(0.2)
    stream(silence, 0.03, 1)
    last = stream(silence, 0.03, 2, start=110.0)
    assert silence.due_at() == pytest.approx(last + 0.2)


def test_not_valid_is_repeated_until_an_answer_comes() -> None:
    silence = Silence(0.2)
    last = stream(silence, 0.03, 20)
    said = last + 0.2
    silence.said(said)
    assert silence.due_at() == pytest.approx(said + 0.1)
    silence.said(said + 0.1)
    assert silence.due_at() == pytest.approx(said + 0.2)
    silence.image(said + 0.15)
    silence.answer(said + 0.16)
    assert silence.due_at() == pytest.approx(said + 0.15 + 0.2)


def test_images_without_answers_are_silence_too() -> None:
    silence = Silence(0.2)
    last = stream(silence, 0.03, 20)
    for i in range(1, 20):
        silence.image(last + 0.03 * i)
    assert silence.due_at() == pytest.approx(last + 0.01 + 0.2)


def test_watchdog_fires_repeats_and_pauses() -> None:
    fired: list[float] = []
    dog = Watchdog(0.1, lambda: fired.append(time.monotonic()))
    dog.start(0.1)
    try:
        begun = time.monotonic()
        dog.image()
        wait_until(lambda: len(fired) >= 3)
        assert 0.1 <= fired[0] - begun < 0.25 and fired[2] - fired[0] == pytest.approx(0.2, abs=0.1)
        assert dog.silent and dog.images_missing
        dog.pause()
        count = len(fired)
        assert not dog.silent
        assert not threading.Event().wait(0.25) and len(fired) <= count + 1
    finally:
        dog.stop()


def test_watchdog_outlives_a_failing_publication() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("no network")

    dog = Watchdog(0.05, fail)
    dog.start(0.05)
    try:
        dog.image()
        wait_until(lambda: len(calls) >= 2)
    finally:
        dog.stop()


def test_worker_takes_the_newest_and_counts_the_rest() -> None:
    done: list[int] = []
    gate, busy = threading.Event(), threading.Event()

    def work(item: int) -> None:
        done.append(item)
        busy.set()
        gate.wait(5.0)

    worker: LatestWorker[int] = LatestWorker(work)
    worker.put(-1)
    worker.start()
    worker.put(0)
    assert busy.wait(5.0)
    for i in range(1, 6):
        worker.put(i)
    gate.set()
    wait_until(lambda: done == [0, 5])
    assert worker.received == 6 and worker.dropped == 4
    assert worker.stop()
    worker.put(9)
    assert done == [0, 5]


def test_worker_outlives_a_failing_item() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        raise RuntimeError("one bad item")

    worker: LatestWorker[int] = LatestWorker(work)
    worker.start()
    for item in (1, 2):
        worker.put(item)
        wait_until(lambda: len(done) == item)  # noqa: B023
    assert worker.stop()


def test_worker_says_when_it_cannot_end_and_starts_again() -> None:
    gate, done = threading.Event(), []

    def work(item: int) -> None:
        gate.wait(5.0)
        done.append(item)

    worker: LatestWorker[int] = LatestWorker(work)
    worker.start()
    worker.put(1)
    wait_until(lambda: worker._item is None)
    assert not worker.stop(timeout=0.05)
    worker.start()
    gate.set()
    worker.put(2)
    wait_until(lambda: sorted(done) == [1, 2])
    assert worker.stop()
