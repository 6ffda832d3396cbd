"""What trainings share: the configuration that options ask for, and where the sources stand."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2p_ros.training.imagenet import Pretrained


def given(config: Any, args: argparse.Namespace, **names: str) -> Any:
    """The configuration with the options that were given."""
    changes = {field: getattr(args, option) for field, option in names.items() if getattr(args, option) is not None}
    return dataclasses.replace(config, **changes)


def add_imagenet(parser: argparse.ArgumentParser) -> None:
    """``--imagenet``."""
    parser.add_argument(
        "--imagenet",
        default="",
        metavar="FILE|none",
        help="weights trained on ImageNet to begin with; default: for EfficientNet-lite0 the released ones, which come "
        "with the extra `training`; for a ResNet none, torchvision's fit",
    )


def imagenet(args: argparse.Namespace, *, efficientnet: bool) -> Pretrained | None:
    """The weights that ``--imagenet`` asks for, if any."""
    from a2p_ros.network.backbone import read_imagenet
    from a2p_ros.training.imagenet import Pretrained, efficientnet_file

    if args.imagenet == "none" or not (args.imagenet or efficientnet):
        return None
    file = Path(args.imagenet) if args.imagenet else efficientnet_file()
    return Pretrained(file, read_imagenet(file))


def commit() -> str:
    """The source's commit, with a plus where files differ from it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def provenance(device: str = "") -> dict[str, str]:
    """Where weights come from: the source's commit and the machine, for their card."""
    return {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores" + (f", {device}" if device else ""),
    }


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several processes that use a folder one goes on; the others wait and find its work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when the process is killed
        yield
