"""Curves of the diffusion's training as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2p_ros.training.plots import panels


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, and validation errors by source with the conditions' own as dotted lines, over steps, to a PNG."""
    steps = [r["step"] for r in history]
    with panels(path, 1, 3) as (loss, *errors):
        loss.plot(steps, [r["loss"] for r in history])
        loss.set(title="training loss", yscale="log")
        for panel, measure in zip(errors, ("mpjpe", "mrrpe"), strict=True):
            for i, source in enumerate(("clean", "noise", "fit")):
                if f"{source}_{measure}_after" not in history[0]:
                    continue
                panel.plot(steps, [r[f"{source}_{measure}_after"] for r in history], color=f"C{i}", label=source)
                panel.axhline(history[0][f"{source}_{measure}_before"], color=f"C{i}", linestyle=":")
            panel.set(title=f"validation {measure.upper()} [mm], dotted: condition (synthetic)")
