"""Running one node as a program: a spin that outlives errors in callbacks, and a shutdown that says goodbye.

rclpy's own signal handler ends the context first, after which nothing can be published; and a second Ctrl-C (a
launch file sends one as well as the terminal) raises inside ``destroy_node()``. So the signals are ours.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from a2p_ros.errors import A2PError


class RunnableNode(Protocol):
    """A node that says goodbye; ``failure`` is what made it end by itself."""

    failure: A2PError | None

    def farewell(self) -> None:
        """Publish last words while that is still possible."""


def run_node(make: Callable[[threading.Event], RunnableNode], args: Sequence[str] | None, name: str) -> int:
    """Make a node, spin it until SIGINT, SIGTERM or its own ``stop``, let it say farewell, and return the exit code.

    A second signal is ignored while the node shuts down, a fourth ends the process at once.
    """
    stop = threading.Event()
    received = 0

    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal received
        received += 1
        stop.set()
        if received > 3:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    logger = get_logger(name)
    try:
        node = make(stop)
    except A2PError as error:
        logger.fatal(f"{type(error).__name__}: {error}")
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    assert isinstance(node, Node)
    executor.add_node(node)
    try:
        spin(executor, stop, logger)
    finally:
        node.farewell()
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return 1 if node.failure is not None else 0


def spin(executor: SingleThreadedExecutor, stop: threading.Event, logger: Any, context: Context | None = None) -> None:
    """Spin until ``stop`` is set; an exception in a callback is logged and the node goes on.

    rclpy ends the process for instance when a lifecycle transition is asked for that the state does not have.
    """
    while rclpy.ok(context=context) and not stop.is_set():
        try:
            executor.spin_once(timeout_sec=0.1)
        except Exception as error:  # noqa: BLE001 - one bad request must not take the hands away
            if not rclpy.ok(context=context):
                return
            logger.error(f"a callback failed: {type(error).__name__}: {error}")
