"""The frame of every training's curves: panels, their grids and legends, and the PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a2p_ros.errors import MissingDependencyError


@contextmanager
def panels(path: Path, rows: int, columns: int) -> Iterator[list[Any]]:
    """Axes over steps, row by row, written to ``path`` at the end; raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("curves need matplotlib: pip install 'a2p_ros[training]'") from error
    figure = Figure(figsize=(4.5 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).ravel().tolist()
    yield axes
    for panel in axes:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small")
    figure.savefig(path, dpi=90)
