"""Two-hand MANO annotations of public data sets, read where a user has them: pairs to train the repair on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from a2p_ros.errors import InputError, SourceError
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.training.annotations.interhand import InterHandAnnotations
from a2p_ros.training.annotations.reader import (
    MAX_DEPTH,
    MAX_FIT_ERROR,
    MAX_GAP,
    Annotations,
    Extrinsics,
    Frame,
    JointCheck,
    Selection,
    require_mano,
    to_camera,
)
from a2p_ros.training.annotations.reinterhand import ReInterHandAnnotations
from a2p_ros.types import Pair

__all__ = [
    "MAX_DEPTH",
    "MAX_FIT_ERROR",
    "MAX_GAP",
    "READERS",
    "Annotations",
    "Extrinsics",
    "Frame",
    "InterHandAnnotations",
    "JointCheck",
    "ReInterHandAnnotations",
    "Selection",
    "annotated_pairs",
    "open_annotations",
    "require_mano",
    "to_camera",
]

#: Name of a data set -> its reader.
READERS: dict[str, type[InterHandAnnotations] | type[ReInterHandAnnotations]] = {
    "interhand": InterHandAnnotations,
    "reinterhand": ReInterHandAnnotations,
}


def open_annotations(source: str | Path, split: str = "train", stride: int = 1) -> Annotations:
    """The annotations at ``source``: a folder, or ``interhand:FOLDER`` or ``reinterhand:FOLDER``.

    A folder without a name is recognised by the files in it. Raises InputError for an unknown name or
    split, SourceError when what is expected there is missing or unreadable.
    """
    name, colon, folder = str(source).partition(":")
    if colon and name in READERS:
        return READERS[name](folder, split, stride)
    root = Path(source)
    if colon and not root.exists():
        raise InputError(f"data set {name!r} is unknown; known are {', '.join(READERS)}, as in interhand:FOLDER")
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder; expected one with {_expected()}")
    for reader in READERS.values():
        if reader.is_at(root):
            return reader(root, split, stride)
    raise SourceError(f"{root}: no known data set in it; expected {_expected()}")


def annotated_pairs(
    source: str | Path, models: Pair[HandModel], split: str = "train", stride: int = 1, **limits: Any
) -> HandPairs:
    """Pairs to train on: opened, checked against the annotated joints, and filtered (``Annotations.select``).

    Raises HandModelError before anything is read when ``models`` are not MANO, InputError or SourceError
    for what is wrong with the data.
    """
    require_mano(models)
    return open_annotations(source, split, stride).to_pairs(models, **limits)


def _expected() -> str:
    return ", or ".join(reader.EXPECTED for reader in READERS.values())
