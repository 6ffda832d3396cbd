"""Values of annotation files: JSON and nothing else, and numbers that are what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import InputError, SourceError

#: Entries of a hand's row: axis-angle pose, shape, translation.
POSE, SHAPE, TRANSL = slice(0, 48), slice(48, 58), slice(58, 61)
WIDTH = 61
#: Farther from the world's origin than any capture stage reaches [m]: a file in millimetres.
_FARTHEST = 20.0
_FIELDS = (("pose", 48), ("shape", 10), ("trans", 3))


def read_json(path: Path, holds: str, max_bytes: int) -> Any:
    """The contents of a JSON file. Raises SourceError when it is missing, cut off, damaged or too large."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise SourceError(f"{path}: {size >> 20} MiB; expected at most {max_bytes >> 20} MiB for {holds}")
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; expected {holds}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise SourceError(f"{path}: expected {holds}, not readable as JSON ({error}); download it again") from error


def mapping(value: Any, where: str, holds: str) -> dict[str, Any]:
    """``value``, which has to be an object. Raises InputError."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected {holds}, got {type(value).__name__}")
    return value


def whole_number(text: Any, where: str) -> int:
    """A frame number written as text. Raises InputError."""
    try:
        return int(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected a frame number, got {text!r}") from error


def numbers(value: Any, count: int, where: str, finite: bool = True) -> Float[np.ndarray, "count"]:
    """``count`` numbers, in whichever nesting. Raises InputError."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fi" and array.size:
        raise InputError(f"{where}: expected {count} numbers, got {_short(value)}")
    if array.size != count:
        raise InputError(f"{where}: expected {count} numbers, got {array.size}")
    array = array.astype(np.float64).ravel()
    if finite and not np.isfinite(array).all():
        raise InputError(f"{where}: holds numbers that are not finite")
    return array


def hand_row(hand: Any, where: str) -> Float[np.ndarray, "61"] | None:
    """Pose, shape and translation [m] of one annotated hand, None where it has no fit.

    Raises InputError that names what is wrong.
    """
    if hand is None:
        return None
    hand = mapping(hand, where, "null or an object with pose, shape and trans")
    missing = [name for name, _ in _FIELDS if name not in hand]
    if missing:
        raise InputError(f"{where}: no {', '.join(missing)}; expected pose (48), shape (10) and trans (3)")
    if any(hand[name] is None for name, _ in _FIELDS):
        return None
    row = np.concatenate([numbers(hand[name], count, f"{where}.{name}") for name, count in _FIELDS])
    if np.abs(row[TRANSL]).max() > _FARTHEST:
        raise InputError(f"{where}.trans: expected metres within {_FARTHEST:g} m of the origin, got {row[TRANSL]}")
    return row


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
