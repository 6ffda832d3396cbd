"""Curves of the detector's training as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2p_ros.errors import MissingDependencyError


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Parts of the loss, and what validation said, over steps, to a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("curves need matplotlib: pip install 'a2p_ros[training]'") from error
    steps = [r["step"] for r in history]
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for name in ("loss", *(key for key in history[0] if key.startswith("loss_"))):
        panels[0].plot(steps, [r[name] for r in history], label=name.removeprefix("loss_"))
    panels[0].set(title="training loss and its parts", yscale="log")
    for name in ("recall", "precision", "side_accuracy"):
        panels[1].plot(steps, [r[name] for r in history], label=name)
    panels[1].set(title="validation (synthetic)", ylim=(None, 1.0))
    for name in ("orientation_deg_p50", "orientation_deg_p90"):
        panels[2].plot(steps, [r[name] for r in history], label=name)
    panels[2].set(title="validation: angle off [degrees]", yscale="log")
    for panel in panels:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=90)
