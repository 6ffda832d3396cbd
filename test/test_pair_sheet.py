"""Sheets of pairs: what is drawn, and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from a2p_ros import cli
from a2p_ros.errors import InputError, MissingDependencyError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.rendering.renderer import Renderer
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.training.pair_sheet import clean_pairs, draw_pairs, draw_repairs

HANDS = load_hand_models()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    try:
        with Renderer(8, 8):
            pass
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with single_thread():
        yield


@pytest.fixture(scope="module")
def pairs() -> HandPairs:
    counted: list[int] = []
    made = clean_pairs(HANDS, ("pointing_at_palm", "fists"), 3, 0, counted.append)
    assert sum(counted) == len(made) == 3
    return made


def both_colours(image: np.ndarray) -> bool:
    """Whether a blue and an orange hand are seen (BGR)."""
    b, _, r = (image[..., k].astype(int) for k in range(3))
    return bool((b - r > 60).mean() > 0.01 and (r - b > 60).mean() > 0.01)


def test_a_sheet_shows_every_pair_from_two_sides(pairs: HandPairs, tmp_path: Path) -> None:
    assert sorted(pairs.kinds) == ["fists", "pointing_at_palm", "pointing_at_palm"]
    assert bool(InteractionGenerator(HANDS).clean(pairs).all())
    draw_pairs(HANDS, pairs, tmp_path / "new" / "sheet.png")
    image = cv2.imread(str(tmp_path / "new" / "sheet.png"))
    views = image[18:].reshape(200, 6, 200, 3).swapaxes(0, 1)
    assert all(both_colours(view) for view in views)
    assert all(np.abs(views[0].astype(int) - other).mean() > 1 for other in views[1:]), "no two are the same"


def test_repairs_stand_beside_what_they_were_made_of(pairs: HandPairs, tmp_path: Path) -> None:
    left, right = (h.vertices.numpy() for h in (pairs.forward(HANDS).left, pairs.forward(HANDS).right))
    shown = [
        {"kind": "fists", "source": "fit", "before": (left[i], right[i]), "after": (left[i], right[i] + 0.05)}
        | {"truth": (left[i], right[i])}
        for i in (0, 1, 2, 0, 1, 2, 0)
    ]
    paths = draw_repairs(HANDS, shown, tmp_path)
    assert [p.name for p in paths] == ["repairs_00.png", "repairs_01.png"]
    image = cv2.imread(str(paths[1]))[18:]
    before, after, truth = image[:, :400], image[:, 400:800], image[:, 800:]
    assert np.array_equal(before, truth) and not np.array_equal(before, after) and both_colours(after)


def test_a_sheet_needs_a_name_that_says_picture(pairs: HandPairs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sheet.txt: cannot be written as a picture; expected a name that ends in"):
        draw_pairs(HANDS, pairs, tmp_path / "sheet.txt")


def test_the_command_draws_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sheet.png"
    assert cli.main(["eval", "interactions", "--sheet", str(path), "--n", "2", "--kinds", "fists"]) == 0
    assert path.exists() and "2 clean pairs" in capsys.readouterr().out
