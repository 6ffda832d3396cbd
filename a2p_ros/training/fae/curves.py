"""Curves of the network's training as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a2p_ros.training.plots import panels


def draw(history: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Parts of the loss and what validation said, over the steps of all stages one after the other, to a PNG."""
    with panels(path, 2, 2) as (teachers, losses, errors, shares):
        start = 0
        for stage, records in history.items():
            steps = [r["step"] for r in records]
            if stage.startswith("teacher_"):
                line = teachers.plot(steps, [r["loss"] for r in records], label=stage.removeprefix("teacher_"))[0]
                teachers.plot(steps, [r["validation"] for r in records], linestyle=":", color=line.get_color())
                continue
            at = [start + step for step in steps]
            first = start == 0
            for panel, names in (
                (losses, [name for name in records[0] if name.startswith("loss_")]),
                (errors, ["mpjpe_mm", "mrrpe_mm", "depth_mm"]),
                (shares, ["pck_010", "confidence_right", "presence_right", "side_right"]),
            ):
                for i, name in enumerate(names):
                    values = [r.get(name, float("nan")) for r in records]
                    panel.plot(
                        at,
                        values,
                        color=f"C{i % 10}",
                        linestyle="-" if i < 10 else "--",
                        label=name.removeprefix("loss_") if first else None,
                    )
                if not first:
                    panel.axvline(start, color="grey", linestyle=":")
            start = at[-1] if at else start
        teachers.set(title="teachers: training, dotted: validation", yscale="log")
        losses.set(title="network: parts of the loss", yscale="log")
        errors.set(title="validation (synthetic) [mm]", yscale="log")
        shares.set(title="validation (synthetic)", ylim=(None, 1.0))
