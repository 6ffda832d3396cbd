"""The environment that the package's ROS processes run in, and whether there is a ROS to run them; imports no ROS."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from a2p_ros.errors import MissingDependencyError

_INSTALL = "type `make install` in the source folder, or source /opt/ros/$ROS_DISTRO/setup.bash and the workspace"


def find_share(*parts: str) -> Path | None:
    """A file of the package's share folder: the source tree, a ROS install space, or the Python prefix."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    places = [Path(__file__).resolve().parents[2]]
    places += [Path(prefix) / "share" / "a2p_ros" for prefix in prefixes if prefix]
    return next((place.joinpath(*parts) for place in places if place.joinpath(*parts).is_file()), None)


def missing_ros() -> str:
    """What of ROS is missing for the nodes, in words; empty when all is there."""
    if importlib.util.find_spec("rclpy") is None:
        return f"rclpy, the Python of ROS 2, is not installed: {_INSTALL}"
    try:
        importlib.import_module("a2p_ros.msg")
    except ImportError as error:
        return f"the messages of a2p_ros are not built ({error}): {_INSTALL}"
    return ""


def require_ros() -> None:
    """Raise MissingDependencyError unless the nodes can run here."""
    problem = missing_ros()
    if problem:
        raise MissingDependencyError(problem)


def private_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for processes that talk to one another on this machine alone.

    A ROS_DOMAIN_ID of the user's is kept, otherwise one at random keeps two demos apart. The Fast DDS profile is the
    package's unless another is set: without it half of all 720p images are lost between processes.
    """
    env = dict(os.environ if base is None else base)
    env.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 100)))
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    env.setdefault("PYTHONUNBUFFERED", "1")
    profile = find_share("config", "fastdds.xml")
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        if profile is not None and not env.get(name):
            env[name] = str(profile)
    # The children import what this process imports, from wherever it was started.
    root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, env.get("PYTHONPATH", "")) if p)
    # ROS wheels set the first through a re-execution of Python that the second says is done; both or neither.
    if "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in env and "LD_LIBRARY_PATH" not in env:
        del env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"]
    return env
