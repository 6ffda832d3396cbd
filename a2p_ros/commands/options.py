"""What trainings share: the configuration that options ask for, and where the sources stand."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
from pathlib import Path
from typing import Any


def given(config: Any, args: argparse.Namespace, **names: str) -> Any:
    """The configuration with the options that were given."""
    changes = {field: getattr(args, option) for field, option in names.items() if getattr(args, option) is not None}
    return dataclasses.replace(config, **changes)


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
