"""MANO's own files, ``MANO_RIGHT.pkl`` and ``MANO_LEFT.pkl``, turned into ``.npz``.

They are Python 2 pickles of numpy arrays, one scipy sparse matrix and one chumpy expression.
A pickle can run any code, so these are read with inert stand-ins in place of every class they
name: the stand-ins hold values, and the arrays are built from those. Any other name ends the
reading before anything is looked up.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from a2p_ros.errors import HandModelError
from a2p_ros.hand.files import GET_MANO, MANO_TIPS, check_arrays, file_name, write_arrays
from a2p_ros.hand.model import N_BETAS
from a2p_ros.types import Side

logger = logging.getLogger(__name__)

MANO_VERTICES = 778
#: The real files have 3.9 MB and a few hundred opcodes.
MAX_FILE = 64 * 2**20
_MAX_OPCODES = 10_000
_MAX_ENTRIES = 2**24
_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "J", "weights", "f", "kintree_table")
_HAND_KEYS = ("hands_components", "hands_mean")
_NUMBER_KINDS = frozenset(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)) - {"f1"} | {"b1"}


def convert_mano(right: Path, left: Path, out: Path) -> None:
    """Read the two MANO pickles and write ``MANO_RIGHT.npz`` and ``MANO_LEFT.npz`` into ``out``.

    The left file's known sign error (the x of its shape directions copied from the right hand)
    is corrected. Raises HandModelError for anything that is not a MANO file; nothing in the
    files is executed and nothing is written unless both are good.
    """
    hands = {Side.RIGHT: read_mano(Path(right)), Side.LEFT: read_mano(Path(left))}
    for side, path in ((Side.RIGHT, right), (Side.LEFT, left)):
        joints = hands[side]["J"]
        towards_fingers = joints[4, 0] - joints[0, 0]
        if (towards_fingers < 0) != (side is Side.RIGHT):
            raise HandModelError(
                f"{path}: expected a {side.value} hand, got a {side.other.value} one; are the files swapped?"
            )
    if has_sign_error(hands[Side.LEFT]["shapedirs"], hands[Side.RIGHT]["shapedirs"]):
        logger.info("corrected the sign of x in the left hand's shape directions")
        hands[Side.LEFT]["shapedirs"][:, 0, :] *= -1
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for side, arrays in hands.items():
        write_arrays(out / file_name(side), arrays)


def has_sign_error(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether the left hand's shape directions (V, 3, 10) have the right hand's x, not its mirror image."""
    return float(np.abs(left[:, 0, :] - right[:, 0, :]).sum()) < 1.0


def read_mano(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one MANO pickle, checked. Raises HandModelError."""
    if not path.is_file():
        raise HandModelError(f"{path}: no such file. {GET_MANO}")
    size = path.stat().st_size
    if size > MAX_FILE:
        raise HandModelError(f"{path}: expected a MANO file of about 4 MB, got {size >> 20} MiB")
    contents = _load(path.read_bytes(), str(path))
    if not isinstance(contents, dict):
        raise HandModelError(
            f"{path}: expected the dictionary of a MANO hand, got {type(contents).__name__}. {GET_MANO}"
        )
    missing = [name for name in (*_KEYS, *_HAND_KEYS) if name not in contents]
    if missing:
        raise HandModelError(f"{path}: no {', '.join(missing)} in it; a MANO hand file has them. {GET_MANO}")
    arrays = {name: _evaluate(contents[name], f"{path}: {name}") for name in (*_KEYS, *_HAND_KEYS)}
    arrays["shapedirs"] = arrays["shapedirs"][..., :N_BETAS]
    arrays |= {"tip_vertices": np.array(MANO_TIPS, np.int64), "model_name": np.array("mano")}
    if arrays["v_template"].shape != (MANO_VERTICES, 3):
        raise HandModelError(f"{path}: v_template: expected ({MANO_VERTICES}, 3), got {arrays['v_template'].shape}")
    check_arrays(arrays, str(path))
    return arrays


class _StandIn:
    """A value of a class the file names: what it was made with and what was stored in it."""

    kind = ""

    def __new__(cls, *args: Any) -> _StandIn:
        self = object.__new__(cls)
        self.args = args
        self.state = None
        return self

    args: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


#: Every name a MANO file may use, and the kind of stand-in that takes its place.
_CLASSES: dict[tuple[str, str], str] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("chumpy.ch", "Ch"): "Ch",
    ("chumpy.reordering", "Select"): "Select",
    **{(f"{core}.multiarray", "_reconstruct"): "array" for core in ("numpy.core", "numpy._core")},
    **{(f"scipy.sparse.{module}", "csc_matrix"): "csc" for module in ("csc", "_csc")},
    **{(module, "set"): "set" for module in ("__builtin__", "builtins")},
    ("_codecs", "encode"): "text",
}


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the names of ``_CLASSES`` to stand-ins and no others, and imports nothing."""

    def __init__(self, file: io.BytesIO, source: str) -> None:
        super().__init__(file, encoding="latin1")
        self._source = source
        # Made anew for each file, so that what one file does to them cannot reach the next.
        self._kinds: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        kind = _CLASSES.get((module, name))
        if kind is None:
            raise HandModelError(
                f"{self._source}: refused, it asks for {module}.{name}, which no MANO file needs; "
                f"nothing was run. {GET_MANO}"
            )
        return self._kinds.setdefault(kind, type(kind, (_StandIn,), {"kind": kind}))

    def persistent_load(self, pid: Any) -> Any:
        raise HandModelError(f"{self._source}: refused, it refers to objects outside the file. {GET_MANO}")


def _load(raw: bytes, source: str) -> Any:
    """Unpickle into plain containers and stand-ins."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            if count > _MAX_OPCODES or ("PUT" in opcode.name and isinstance(argument, int) and argument > _MAX_OPCODES):
                raise HandModelError(
                    f"{source}: refused, it has more than {_MAX_OPCODES} parts; a MANO file has a few hundred"
                )
        return _ArrayUnpickler(io.BytesIO(raw), source).load()
    except HandModelError:
        raise
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        MemoryError,
    ) as error:
        raise HandModelError(f"{source}: not a readable pickle ({error}). {GET_MANO}") from error


def _evaluate(value: Any, source: str) -> np.ndarray:
    """The array that a stand-in stands for."""
    kind = value.kind if isinstance(value, _StandIn) else type(value).__name__
    build = _BUILDERS.get(kind)
    if build is None:
        raise HandModelError(f"{source}: expected an array, got {kind}")
    try:
        return build(value, source)
    except HandModelError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise HandModelError(f"{source}: a damaged array ({error!r})") from error


def _array(value: _StandIn, source: str) -> np.ndarray:
    _, shape, dtype, fortran, raw = value.state
    numbers = _number_type(dtype, source)
    shape = tuple(int(n) for n in shape)
    count = math.prod(shape)
    if not isinstance(raw, str | bytes) and not _is(raw, "text"):
        raise HandModelError(f"{source}: expected numbers, got an array of {type(raw).__name__}")
    data = _bytes(raw)
    if min(shape, default=0) < 0 or count > _MAX_ENTRIES or count * numbers.itemsize != len(data):
        raise HandModelError(f"{source}: {len(data)} bytes do not make {numbers} of shape {shape}")
    array = np.frombuffer(data, numbers).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=numbers.newbyteorder("="), order="C")


def _number_type(dtype: Any, source: str) -> np.dtype[Any]:
    code = dtype.args[0] if _is(dtype, "dtype") and dtype.args else None
    if code not in _NUMBER_KINDS:
        raise HandModelError(f"{source}: expected an array of numbers, got dtype {code!r}")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    return np.dtype(("" if order == "|" else {"<": "<", ">": ">"}[order]) + code)


def _sparse(value: _StandIn, source: str) -> np.ndarray:
    """Dense form of a compressed-sparse-column matrix: column c holds entries indptr[c] to indptr[c + 1]."""
    state = value.state
    rows, columns = (int(n) for n in state["_shape"])
    data, indices, indptr = (_evaluate(state[name], source) for name in ("data", "indices", "indptr"))
    if (
        rows < 0
        or columns < 0
        or rows * columns > _MAX_ENTRIES
        or len(data) != len(indices)
        or len(indptr) != columns + 1
    ):
        raise HandModelError(f"{source}: a damaged sparse matrix of shape ({rows}, {columns})")
    dense = np.zeros((rows, columns))
    np.add.at(dense, (indices, np.repeat(np.arange(columns), np.diff(indptr))), data)
    return dense


def _select(value: _StandIn, source: str) -> np.ndarray:
    """chumpy's Select: chosen entries of a flattened array, in another shape."""
    if _is(value.state["a"], "Select"):
        raise HandModelError(f"{source}: expected a chumpy selection from an array, got one from a selection")
    picked = _evaluate(value.state["a"], source).ravel()[_evaluate(value.state["idxs"], source)]
    return picked.reshape(tuple(int(n) for n in value.state.get("preferred_shape", picked.shape)))


def _ch(value: _StandIn, source: str) -> np.ndarray:
    inner = value.state["x"]
    if not _is(inner, "array"):
        raise HandModelError(f"{source}: expected a chumpy array, got an expression of {type(inner).__name__}")
    return _array(inner, source)


_BUILDERS: dict[str, Callable[[Any, str], np.ndarray]] = {"array": _array, "csc": _sparse, "Select": _select, "Ch": _ch}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _StandIn) and value.kind == kind


def _bytes(raw: Any) -> bytes:
    if _is(raw, "text"):
        raw = raw.args[0]
    return raw if isinstance(raw, bytes) else str(raw).encode("latin1")
