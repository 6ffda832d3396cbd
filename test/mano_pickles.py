"""Write stand-ins for MANO's licensed files in their true form: ``python mano_pickles.py OUT.pkl NPZ``.

The real ones were pickled by Python 2 (protocol 2, byte strings as BINSTRING) with chumpy and an old scipy.
This runs in a process of its own, where modules of those names are made up, and knows nothing of the reader.
"""

from __future__ import annotations

import pickle
import struct
import sys
import types
from typing import ClassVar

import numpy as np


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: both ``str`` and ``bytes`` are byte strings."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_python2_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        if len(raw) < 256:
            self.write(b"U" + bytes([len(raw)]) + raw)
        else:
            self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_python2_string


class Ch:
    """chumpy's array: its state is a dictionary with the numbers in ``x``."""


class Select(Ch):
    """chumpy's selection: entries ``idxs`` of the flattened ``a``, reshaped."""


class csc_matrix:
    """scipy's sparse matrix, which pickles as a dictionary."""


def made_up(module: str, cls: type) -> type:
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    setattr(sys.modules[module], cls.__name__, cls)
    cls.__module__, cls.__qualname__ = module, cls.__name__
    return cls


def chumpy_array(array):
    node = Ch()
    node.__dict__ = {"x": array, "_dirty_vars": {"x"}, "_itr": None, "_depends_on_deps": {}}
    return node


def sparse(dense):
    columns = [np.flatnonzero(column) for column in dense.T]
    matrix = csc_matrix()
    matrix.__dict__ = {
        "_shape": dense.shape,
        "maxprint": 50,
        "indices": np.concatenate(columns).astype(np.int32),
        "indptr": np.concatenate([[0], np.cumsum([len(c) for c in columns])]).astype(np.int32),
        "data": np.concatenate([dense[rows, c] for c, rows in enumerate(columns)]),
    }
    return matrix


def selected(shapedirs):
    """The first ten of twenty shape directions, as MANO's files have them."""
    whole = np.concatenate([shapedirs, np.full_like(shapedirs, 7.0)], axis=-1)
    node = Select()
    chosen = np.arange(whole.size).reshape(whole.shape)[..., :10]
    node.__dict__ = {
        "a": chumpy_array(whole),
        "idxs": chosen.ravel(),
        "preferred_shape": chosen.shape,
        "_dirty_vars": {"a", "idxs"},
        "_itr": None,
    }
    return node


def main(out: str, npz: str) -> None:
    made_up("chumpy.ch", Ch)
    made_up("chumpy.reordering", Select)
    sys.modules.pop("scipy", None)
    made_up("scipy.sparse.csc", csc_matrix)
    with np.load(npz) as archive:
        arrays = {name: archive[name] for name in archive.files}
    tree = arrays["kintree_table"].astype(np.int64)
    contents = {
        "hands_components": arrays["hands_components"],
        "f": arrays["f"],
        "J_regressor": sparse(arrays["J_regressor"]),
        "kintree_table": tree,
        "J": arrays["J"],
        "hands_coeffs": np.zeros((20, 45)),
        "weights": np.asfortranarray(arrays["weights"]),
        "posedirs": arrays["posedirs"],
        "bs_style": "lbs",
        "hands_mean": arrays["hands_mean"],
        "v_template": arrays["v_template"].astype(">f8"),
        "shapedirs": selected(arrays["shapedirs"]),
        "bs_type": "lrotmin",
    }
    with open(out, "wb") as file:
        Python2Pickler(file, 2).dump(contents)


if __name__ == "__main__":
    main(*sys.argv[1:])
