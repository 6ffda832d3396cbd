"""What the ROS tests share: a domain of their own, nodes spun in the background, waiting with a deadline."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import numpy as np
import pytest

from a2p_ros.commands.ros_environment import missing_ros, private_environment
from a2p_ros.types import Box, HandPose, Pair, PlacedHand, Side, Status, TwoHands


def require_ros() -> None:
    """Skip a module where there is no ROS, and say so."""
    problem = missing_ros()
    if problem:
        pytest.skip(f"no ROS here: {problem}", allow_module_level=True)


def wait_until(condition: Callable[[], Any], timeout: float = 10.0, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails after ``timeout`` [s]."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.005)


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test of this machine uses now."""
    for domain in range(10, 100):
        handle = open(Path(tempfile.gettempdir()) / f"a2p_ros_test_domain_{domain}.lock", "w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            continue
        with handle:
            yield domain
        return
    pytest.fail("no free ROS domain")


def process_environment(domain: int) -> dict[str, str]:
    """Environment of a child process in a test's domain."""
    environment = dict(os.environ, ROS_DOMAIN_ID=str(domain), ROS_PYTHON_CHECK_FIELDS="1", OMP_NUM_THREADS="2")
    return private_environment(environment)


class Ros:
    """One ROS context with an executor in a background thread."""

    def __init__(self, domain: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.domain = domain
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._stop = threading.Event()
        self._nodes: list[Any] = []
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        from rclpy.exceptions import InvalidHandle

        while not self._stop.is_set():
            # A test's thread may destroy a subscription between the executor's collecting and waiting for it; rclpy
            # passes over the subscription then, but not over its event handlers.
            with suppress(InvalidHandle):
                self.executor.spin_once(timeout_sec=0.05)

    def add(self, node: Any) -> Any:
        """Spin a node."""
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def node(self, name: str = "test_peer") -> Any:
        """A plain node of the test."""
        from rclpy.node import Node

        return self.add(Node(name, context=self.context))

    def close(self) -> None:
        """Stop all."""
        import rclpy

        self._stop.set()
        self._thread.join(5.0)
        for node in self._nodes:
            farewell = getattr(node, "farewell", None)
            if farewell is not None:
                farewell()
        self.executor.shutdown(timeout_sec=1.0)
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def hand(side: Side, shift: tuple[float, float, float] = (0.0, 0.0, 0.5)) -> PlacedHand:
    """A flat hand, fingers up, palm to the camera, wrist at ``shift`` [m] in the camera frame."""
    outward = 1.0 if side is Side.RIGHT else -1.0
    joints = np.zeros((21, 3))
    for finger in range(5):
        x = outward * 0.02 * (2 - finger)
        for k in range(4):
            joints[1 + 4 * finger + k] = (x, -0.05 - 0.025 * k, 0.0)
    joints = joints + np.array(shift)
    px = joints[:, :2] / joints[:, 2:] * 600 + (320, 240)
    pose = HandPose(
        side=side,
        global_orient=np.eye(3),
        hand_pose=np.tile(np.eye(3), (15, 1, 1)),
        betas=np.linspace(-1, 1, 10),
        joints=joints - joints[0],
        keypoints_px=px + 1.0,
        keypoint_confidence=np.full(21, 0.9),
        confidence=0.8,
    )
    box = Box.around(px)
    return PlacedHand(pose=pose, wrist=joints[0], joints=joints, keypoints_px=px, transl=joints[0] - 0.01, box=box)


def two_hands(*sides: Side, stamp: float = 1.0, **changes: Any) -> TwoHands:
    """What a pipeline says when it sees ``sides``."""
    seen = {
        side: hand(side, (0.1 if side is Side.RIGHT else -0.1, 0.0, 0.5)) if side in sides else None for side in Side
    }
    status = Pair(*(Status.TRACKED if seen[side] else Status.NOT_DETECTED for side in Side))
    fields: dict[str, Any] = {
        "stamp": stamp,
        "left": seen[Side.LEFT],
        "right": seen[Side.RIGHT],
        "status": status,
        "interacting": False,
        "repaired": False,
        "penetration_before": 0.0,
        "penetration_after": 0.0,
        "metric_scale": False,
        "model_id": "scripted",
        "hand_model": "scripted_hand",
        "timings": {"detect": 0.001},
    }
    return TwoHands(**{**fields, **changes})


@dataclass
class ScriptedPipeline:
    """Stands in for the real pipeline where a test is about the node around it."""

    config: Any = None
    sides: tuple[Side, ...] = (Side.LEFT, Side.RIGHT)
    delay: float = 0.0
    error: Exception | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    stamps: list[float] = field(default_factory=list)
    cameras: list[Any] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    depths: list[np.ndarray | None] = field(default_factory=list)
    wants_depth: bool = True
    resets: int = 0
    warmed: bool = False
    model_id: str = "scripted"

    @property
    def hand_models(self) -> Pair[Any]:
        """Two triangles a hand."""
        faces = np.array([[0, 1, 2], [0, 2, 3]])
        return Pair(*(SimpleNamespace(name="scripted_hand", faces=faces, side=side) for side in Side))

    def warm_up(self) -> None:
        """Remembered."""
        self.warmed = True

    def reset(self) -> None:
        """Counted."""
        self.resets += 1

    def update(self, config: Any) -> None:
        """Kept."""
        self.config = config

    def report(self) -> dict[str, str]:
        """Nothing was granted."""
        return {"device": "none"}

    def mesh(self, placed: PlacedHand) -> np.ndarray:
        """Four corners."""
        return np.float32(placed.joints[[0, 5, 9, 17]])

    def __call__(self, image: np.ndarray, camera: Any, stamp: float, depth: np.ndarray | None = None) -> TwoHands:
        """The script's answer."""
        self.depths.append(depth)
        if self.delay:
            time.sleep(self.delay)
        self.images.append(image)
        self.cameras.append(camera)
        self.stamps.append(stamp)
        if self.error is not None:
            raise self.error
        return two_hands(*self.sides, stamp=stamp, **self.changes)
