"""Sapiens as prior encoder: its released checkpoints -> features of hand crops on the token grid.

Sapiens (Khirodkar et al., ECCV 2024) are vision transformers, pretrained on images of people and fine-tuned for pose,
body-part segmentation and depth; A2P takes its three priors from them. **Their licence is CC-BY-NC 4.0** (Sapiens
License): weights are supplied by the user, nothing of them ships, and what is distilled from them may fall under it.

What is read, by content and not by name:

- ``*.pth``: mmengine checkpoints, dictionaries with ``state_dict``. Read with ``weights_only``: tensors and plain
  containers. Training logs beside the weights are read as inert values; any other object is an error.
- ``*_torchscript.pt2``: TorchScript archives. Loading one the usual way (``torch.jit.load``) compiles and can run the
  program inside, which may read and write files: that is refused. Only the tensors of the archive are taken, by an
  unpickler that can build nothing else, and the architecture below is what runs.
- ``*.safetensors``: the same names, converted by the user.
- ``torch.export`` archives (Sapiens-Lite's bfloat16 and float16 ``.pt2``) hold a program and are refused.

The encoder is written here from the published architecture: patches of 16 px, pre-norm transformer, final norm. Names
of parameters are those of the checkpoints. A2P does not say which layer it taps; here it is the final map, pooled.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from a2p_ros.errors import WeightsError

PATCH = 16
#: Of the patch embedding, as released: 1024 x 768 px still give 64 x 48 tokens.
_PADDING = 2
#: Mean and spread of RGB that the models expect.
_MEAN, _SPREAD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)
_ADVICE = "fetch one of facebook/sapiens-{pose,seg,depth}-*"


@dataclass(frozen=True)
class SapiensSize:
    """Sizes of an encoder; the feed-forward width is four times ``width``."""

    width: int
    layers: int
    heads: int


#: The released sizes. Heads cannot be told from a checkpoint: they follow from width and layers.
SIZES = {
    "0.3b": SapiensSize(1024, 24, 16),
    "0.6b": SapiensSize(1280, 32, 16),
    "1b": SapiensSize(1536, 40, 24),
    "2b": SapiensSize(1920, 48, 32),
}


class _Attention(nn.Module):
    def __init__(self, size: SapiensSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


class _Layer(nn.Module):
    def __init__(self, size: SapiensSize) -> None:
        super().__init__()
        self.ln1, self.ln2 = (nn.LayerNorm(size.width, eps=1e-6) for _ in range(2))
        self.attn, self.ffn = _Attention(size), _FeedForward(size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.ln1(tokens))
        return tokens + self.ffn(self.ln2(tokens))


class _PatchEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH, PATCH, padding=_PADDING)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.projection(pictures)


class SapiensEncoder(nn.Module):
    """Normalised pictures -> the final feature map; ``rows`` x ``columns`` tokens are what it was trained on."""

    def __init__(self, size: SapiensSize, rows: int = 64, columns: int = 48) -> None:
        super().__init__()
        self.size, self.grid = size, (rows, columns)
        self.patch_embed = _PatchEmbedding(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, size.width))
        self.layers = nn.ModuleList(_Layer(size) for _ in range(size.layers))
        self.ln1 = nn.LayerNorm(size.width, eps=1e-6)

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c rows columns"]:
        """Features of pictures with edges that are multiples of 16 px."""
        x = self.patch_embed(pictures)
        rows, columns = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2) + self._places(rows, columns)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.ln1(tokens).transpose(1, 2).unflatten(2, (rows, columns))

    def _places(self, rows: int, columns: int) -> Tensor:
        """The embedding of places, resampled where the picture has another grid than in training."""
        if (rows, columns) == self.grid:
            return self.pos_embed
        grid = self.pos_embed.transpose(1, 2).unflatten(2, self.grid)
        resized = functional.interpolate(grid.float(), (rows, columns), mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)


class SapiensPrior(nn.Module):
    """One prior encoder: crops -> features on the token grid.

    Args:
        encoder: the loaded model.
        digest: SHA-256 of its checkpoint.
        edge: crops are enlarged to this many pixels (a multiple of 16).
    """

    def __init__(self, encoder: SapiensEncoder, digest: str, edge: int = 768) -> None:
        super().__init__()
        self.encoder, self.digest, self.edge = encoder, digest, edge
        self.width = encoder.size.width

    @property
    def key(self) -> str:
        """Names the checkpoint and what else its features depend on."""
        return f"sapiens {self.digest} {self.edge}"

    @torch.no_grad()
    def forward(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n tokens c"]:
        """Features of RGB crops, averaged to ``grid`` x ``grid`` tokens, row by row."""
        pixels = crops.permute(0, 3, 1, 2).float()
        pixels = functional.interpolate(pixels, (self.edge, self.edge), mode="bilinear", align_corners=False)
        mean, spread = (pixels.new_tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _SPREAD))
        features = self.encoder((pixels - mean) / spread)
        return functional.adaptive_avg_pool2d(features.float(), grid).flatten(2).transpose(1, 2)


class CachedPrior(nn.Module):
    """A prior encoder whose features are kept on disk, as half floats, by checkpoint and crop.

    Sapiens takes a thousand times longer than the network that learns from it. Files are named by the SHA-256 of the
    encoder's key, the grid and the crop's pixels, so that nothing stale is ever found.
    """

    def __init__(self, prior: SapiensPrior, folder: Path) -> None:
        super().__init__()
        self.prior, self.folder = prior, folder
        self.width, self.key = prior.width, prior.key

    @torch.no_grad()
    def forward(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n tokens c"]:
        """As the prior's, computed only for crops that were not seen before."""
        paths = [self._path(crop, grid) for crop in crops.cpu().numpy()]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            features = self.prior(crops[missing], grid).half().cpu().numpy()
            for i, values in zip(missing, features, strict=True):
                paths[i].parent.mkdir(parents=True, exist_ok=True)
                unfinished = paths[i].with_suffix(f".{os.getpid()}.part")
                with unfinished.open("wb") as file:
                    np.save(file, values)
                unfinished.replace(paths[i])
        return torch.from_numpy(np.stack([self._read(path) for path in paths])).float().to(crops.device)

    def _path(self, crop: np.ndarray, grid: int) -> Path:
        digest = hashlib.sha256(f"{self.key} {grid} {crop.shape}".encode())
        digest.update(np.ascontiguousarray(crop).tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npy"

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise WeightsError(f"{path}: kept features cannot be read ({error}); delete the file") from error


def load_sapiens(path: Path, *, heads: int | None = None, edge: int = 768) -> SapiensPrior:
    """A prior encoder from a released checkpoint; ``heads`` where its size is none of the released ones.

    Raises WeightsError for a file that is none, or that would have to be executed.
    """
    state = {k.removeprefix("backbone."): v for k, v in read_tensors(path).items() if k.startswith("backbone.")}
    places = state.get("pos_embed")
    layers = {int(k.split(".")[1]) for k in state if k.startswith("layers.")}
    if places is None or places.ndim != 3 or not layers or "cls_token" in state:
        raise WeightsError(
            f"{path}: expected backbone.pos_embed and backbone.layers.* without a class token, as the models for pose, "
            f"segmentation and depth have; {_ADVICE}"
        )
    width, count = places.shape[2], len(layers)
    known = {(size.width, size.layers): size.heads for size in SIZES.values()}
    heads = heads or known.get((width, count))
    if heads is None:
        sizes = ", ".join(f"{name} ({s.width} x {s.layers})" for name, s in SIZES.items())
        raise WeightsError(f"{path}: width {width} with {count} layers is no released size; those are {sizes}")
    encoder = SapiensEncoder(SapiensSize(width, count, heads), *_grid_of(places.shape[1], path))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the parameters of a Sapiens encoder: {error}") from error
    encoder.float().eval().requires_grad_(False)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
    return SapiensPrior(encoder, digest, edge)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint in any of the forms above, without executing any of it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not zipfile.is_zipfile(path):
            return _mmengine(path)
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            if any("exported_program" in name or name.startswith("models/") for name in names):
                raise WeightsError(
                    f"{path}: holds an exported program, which would have to be executed; take the .pth or the "
                    "torchscript form of the same model"
                )
            return _torchscript(archive) if "constants.pkl" in names else _mmengine(path)
    except (
        OSError,
        SafetensorError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        ValueError,
        KeyError,
        EOFError,
    ) as error:
        raise WeightsError(f"{path}: cannot be read as a checkpoint of Sapiens: {error}; {_ADVICE}") from error


class _Inert:
    """Stands for an object that is not looked at."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


#: What mmengine writes beside the weights; all of it is read as nothing.
_LOGS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
)


def _mmengine(path: Path) -> dict[str, Tensor]:
    with torch.serialization.safe_globals([(_Inert, name) for name in _LOGS]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("expected a dictionary of tensors under state_dict")
    return dict(state)


class _Module:
    """A module of a TorchScript archive: its attributes and nothing that could run."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, value in self.attributes.items():
            if isinstance(value, Tensor):
                out[prefix + name] = value
            elif isinstance(value, _Module):
                out |= value.tensors(f"{prefix}{name}.")
        return out


#: What storages are called in archives.
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


class _ArchiveUnpickler(pickle.Unpickler):
    """Builds modules without code, lists and tensors; asks for anything else are errors."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _first
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown storage {kind!r}")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            if len(self._storages[key]) < count:
                raise pickle.UnpicklingError(f"storage {key} is cut off")
        return self._storages[key]


def _torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    root = archive.namelist()[0].partition("/")[0]
    module = _ArchiveUnpickler(archive, root).load()
    if not isinstance(module, _Module):
        raise ValueError("expected a module in the TorchScript archive")
    return module.tensors()


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    if offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= max(len(storage), 1):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


def _first(values: Any, *_: object) -> Any:
    return values


def _grid_of(count: int, path: Path) -> tuple[int, int]:
    """Rows and columns of the tokens: pictures of 4:3, standing, or squares."""
    for rows, columns in ((4, 3), (1, 1)):
        unit = math.isqrt(count // (rows * columns))
        if unit * unit * rows * columns == count:
            return rows * unit, columns * unit
    raise WeightsError(f"{path}: {count} tokens are no grid of 4:3 or a square")


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
