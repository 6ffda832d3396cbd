"""Curves of the detector's training as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2p_ros.training.plots import panels


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Parts of the loss, and what validation said, over steps, to a PNG."""
    steps = [r["step"] for r in history]
    with panels(path, 1, 3) as (losses, shares, angles):
        for name in ("loss", *(key for key in history[0] if key.startswith("loss_"))):
            losses.plot(steps, [r[name] for r in history], label=name.removeprefix("loss_"))
        for name in ("recall", "precision", "side_accuracy"):
            shares.plot(steps, [r[name] for r in history], label=name)
        for name in ("orientation_deg_p50", "orientation_deg_p90"):
            angles.plot(steps, [r[name] for r in history], label=name)
        losses.set(title="training loss and its parts", yscale="log")
        shares.set(title="validation (synthetic)", ylim=(None, 1.0))
        angles.set(title="validation: angle off [degrees]", yscale="log")
