"""Hand-model files: MANO's arrays in ``.npz``, read without running anything in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from a2p_ros.errors import HandModelError
from a2p_ros.hand.model import N_BETAS, N_JOINTS, HandModel
from a2p_ros.hand.topology import KINTREE_TABLE
from a2p_ros.types import Pair, Side

ASSETS = Path(__file__).parent / "assets"
#: More than any hand model needs; a file that unpacks to more is refused.
MAX_BYTES = 256 * 2**20
MANO_HOME = "https://mano.is.tue.mpg.de"
GET_MANO = (
    f"MANO is licensed by the Max Planck Society: register at {MANO_HOME}, download it, then run "
    "`a2p hand-model convert FOLDER` on the folder with MANO_RIGHT.pkl and MANO_LEFT.pkl"
)
#: Vertices of MANO's fingertips, thumb to little finger.
MANO_TIPS = (745, 317, 444, 556, 673)


def file_name(side: Side) -> str:
    """Name of a hand's file inside its folder: ``MANO_RIGHT.npz`` as smplx wants it."""
    return f"MANO_{side.name}.npz"


def load_hand_models(folder: str | Path = "") -> Pair[HandModel]:
    """Both hands of the open hand (``folder`` empty) or of a folder made by ``a2p hand-model convert``.

    Raises HandModelError when a file is missing, damaged or not a hand model.
    """
    where = Path(folder) if str(folder) else ASSETS
    left, right = (load_hand_model(where / file_name(side), side) for side in (Side.LEFT, Side.RIGHT))
    if left.name != right.name or left.n_vertices != right.n_vertices:
        raise HandModelError(
            f"{where}: the left hand is {left.name!r} with {left.n_vertices} vertices, "
            f"the right one {right.name!r} with {right.n_vertices}"
        )
    return Pair(left, right)


def load_hand_model(path: Path, side: Side) -> HandModel:
    """One hand from an ``.npz`` file in MANO's format; see :func:`load_hand_models`."""
    arrays = read_arrays(path)
    check_arrays(arrays, str(path))
    name = str(arrays.get("model_name", "mano"))
    posedirs = arrays["posedirs"]
    tips = arrays["tip_vertices"]
    floats = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in arrays.items() if v.dtype.kind == "f"}
    return HandModel(
        name=name,
        side=side,
        template=floats["v_template"],
        shapedirs=floats["shapedirs"][..., :N_BETAS].contiguous(),
        posedirs=floats["posedirs"].reshape(-1, 135).T.contiguous() if posedirs.any() else None,
        weights=floats["weights"],
        joint_regressor=floats["J_regressor"],
        faces=torch.from_numpy(arrays["f"].astype(np.int64)),
        tip_vertices=tuple(int(i) for i in tips),
        mean_pose=floats["hands_mean"].reshape(15, 3),
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file. Objects are never unpickled."""
    if not path.is_file():
        raise HandModelError(f"{path}: no such hand-model file. {GET_MANO}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise HandModelError(f"{path}: expected at most {MAX_BYTES >> 20} MiB of arrays, got {size >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise HandModelError(f"{path}: not a hand-model .npz file ({error}). {GET_MANO}") from error


def check_arrays(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raise HandModelError unless the arrays are those of a MANO hand, naming the first that is not."""
    missing = sorted({"v_template", "f", "tip_vertices"} - set(arrays))
    if missing:
        raise HandModelError(f"{source}: no array {', '.join(missing)}; a MANO hand has them. {GET_MANO}")
    v = len(arrays["v_template"]) if arrays["v_template"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = {
        "v_template": (v, 3),
        "shapedirs": (v, 3, N_BETAS),
        "posedirs": (v, 3, 135),
        "J_regressor": (N_JOINTS, v),
        "J": (N_JOINTS, 3),
        "weights": (v, N_JOINTS),
        "kintree_table": (2, N_JOINTS),
        "f": (len(arrays["f"]) if arrays["f"].ndim else 0, 3),
        "hands_components": (45, 45),
        "hands_mean": (45,),
        "tip_vertices": (5,),
    }
    for name, shape in shapes.items():
        if name not in arrays:
            raise HandModelError(f"{source}: no array {name}; a MANO hand has it. {GET_MANO}")
        array = arrays[name]
        if array.shape != shape:
            raise HandModelError(f"{source}: {name}: expected shape {shape}, got {array.shape}")
        whole = name in ("kintree_table", "f", "tip_vertices")
        if array.dtype.kind not in ("iu" if whole else "f"):
            raise HandModelError(f"{source}: {name}: expected {'integers' if whole else 'floats'}, got {array.dtype}")
        if not whole and not np.isfinite(array).all():
            raise HandModelError(f"{source}: {name} holds values that are not finite")
    if not np.array_equal(arrays["kintree_table"].astype(np.uint32), KINTREE_TABLE):
        raise HandModelError(f"{source}: kintree_table is not that of a MANO hand with 16 joints")
    for name in ("f", "tip_vertices"):
        low, high = (int(arrays[name].min()), int(arrays[name].max())) if arrays[name].size else (-1, -1)
        if low < 0 or high >= v:
            raise HandModelError(f"{source}: {name}: expected vertices 0 to {v - 1}, got {low} to {high}")
    for name, axis in (("weights", 1), ("J_regressor", 1)):
        off = float(np.abs(arrays[name].sum(axis) - 1).max())
        if off > 1e-3:
            raise HandModelError(f"{source}: {name}: expected rows that sum to 1, got one that is off by {off:.3g}")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a hand-model file with fixed time stamps, so that equal arrays give equal files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
