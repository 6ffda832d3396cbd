"""Sheets of two-hand poses, each from two sides: clean pairs to be judged, and repairs beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.errors import InputError
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.rendering.renderer import Renderer
from a2p_ros.rendering.views import render_hands_3d
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Image, Pair

#: (azimuth, elevation) [rad] of the two sides that a pair is shown from.
_VIEWS = ((0.4, 0.15), (2.0, 0.3))
_SIZE = 200
_TEXT_HEIGHT = 18
_COLUMNS = 5
#: Rest axes in the picture: fingers up, palm towards the viewer.
_UPRIGHT = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
#: Tries at a time, and how many in a row may give nothing.
_TRIES, _PATIENCE = 4, 10

_Meshes = tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"]]


def clean_pairs(
    models: Pair[HandModel], kinds: Sequence[str], count: int, seed: int, progress: Callable[[int], Any] | None = None
) -> HandPairs:
    """``count`` clean pairs, evenly of some kinds; raises InputError where no try at a kind is clean."""
    generator = InteractionGenerator(models)
    rng = torch.Generator().manual_seed(seed)
    parts = []
    with single_thread():
        for j, kind in enumerate(kinds):
            lacking, failed = len(range(j, count, len(kinds))), 0
            while lacking:
                tried, kept = generator.attempt(kind, _TRIES, rng)
                some = tried[kept][:lacking]
                failed = 0 if len(some) else failed + 1
                if failed == _PATIENCE:
                    raise InputError(f"kind {kind}: {_PATIENCE * _TRIES} tries gave no clean pair")
                if len(some):
                    parts.append(some)
                    lacking -= len(some)
                    if progress is not None:
                        progress(len(some))
    return HandPairs.joined(parts)


def draw_pairs(models: Pair[HandModel], pairs: HandPairs, path: Path) -> None:
    """Each pair from two sides, its kind above it, to a PNG; the right hand's fingers point up.

    Raises MissingDependencyError without an EGL driver.
    """
    # The hands' axes are the right hand's own.
    turn = _UPRIGHT @ pairs.rotations.right[:, 0].transpose(1, 2).double().numpy()
    both = pairs.forward(models)
    cells = []
    with Renderer(_SIZE, _SIZE) as renderer:
        for i, kind in enumerate(pairs.kinds):
            meshes = tuple(v[i].double().numpy() @ turn[i].T for v in (both.left.vertices, both.right.vertices))
            cells.append(_cell(models, [(meshes[0], meshes[1])], [f"{i} {kind}"], renderer))
    _write(_grid(cells, _COLUMNS), path)


def draw_repairs(models: Pair[HandModel], shown: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Before, after and truth of each entry of ``interaction_eval.Found.meshes``, a PNG for every six of them.

    All three are seen from the same sides: from the camera, and from its right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with Renderer(_SIZE, _SIZE) as renderer:
        for first in range(0, len(shown), 6):
            cells = []
            for entry in shown[first : first + 6]:
                names = ["before", "after", "truth"]
                about = [f"{name}, {entry['kind']}, {entry['source']}" if name == "before" else name for name in names]
                cells.append(_cell(models, [entry[name] for name in names], about, renderer))
            paths.append(folder / f"repairs_{first // 6:02d}.png")
            _write(_grid(cells, 1), paths[-1])
    return paths


def _cell(models: Pair[HandModel], several: Sequence[_Meshes], texts: Sequence[str], renderer: Renderer) -> Image:
    """Some pairs side by side, each from all sides, with a text above each."""
    faces = [models.left.faces.numpy(), models.right.faces.numpy()]
    parts = []
    for meshes, text in zip(several, texts, strict=True):
        views = [
            render_hands_3d(meshes, faces, azimuth=a, elevation=e, width=_SIZE, height=_SIZE, renderer=renderer)
            for a, e in _VIEWS
        ]
        label = np.full((_TEXT_HEIGHT, _SIZE * len(_VIEWS), 3), 255, np.uint8)
        cv2.putText(label, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
        parts.append(np.concatenate([label, np.concatenate(views, 1)]))
    return np.concatenate(parts, 1)


def _grid(cells: Sequence[Image], columns: int) -> Image:
    rows = []
    for first in range(0, len(cells), columns):
        row = list(cells[first : first + columns])
        row += [np.full_like(cells[0], 255)] * (min(columns, len(cells)) - len(row))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def _write(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise InputError(f"{path}: cannot be written as a picture; expected a name that ends in .png")
