"""Curves of a training as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2p_ros.errors import MissingDependencyError


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, and validation errors by source with the conditions' own as dotted lines, over steps, to a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("curves need matplotlib: pip install 'a2p_ros[training]'") from error
    steps = [r["step"] for r in history]
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[0].plot(steps, [r["loss"] for r in history])
    panels[0].set(title="training loss", yscale="log")
    for panel, measure in zip(panels[1:], ("mpjpe", "mrrpe"), strict=True):
        for i, source in enumerate(("clean", "noise", "fit")):
            if f"{source}_{measure}_after" not in history[0]:
                continue
            panel.plot(steps, [r[f"{source}_{measure}_after"] for r in history], color=f"C{i}", label=source)
            panel.axhline(history[0][f"{source}_{measure}_before"], color=f"C{i}", linestyle=":")
        panel.set(title=f"validation {measure.upper()} [mm], dotted: condition (synthetic)")
        panel.legend()
    for panel in panels:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
