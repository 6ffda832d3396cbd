"""The network's files: safetensors and, where exported, ONNX, beside a card that says what they are, made how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.model import A2PNetwork

#: What ships with the package: a folder for each hand model.
SHIPPED = Path(__file__).parent / "weights"
CARD, TENSORS = "card.json", "network.safetensors"
#: `HandNetwork` and `RelativeNetwork` for onnxruntime.
HAND_GRAPH, RELATIVE_GRAPH = "network.onnx", "relative.onnx"
#: The first with convolutions in 8 bit.
INT8_GRAPH = "network_int8.onnx"
#: Tensors beyond this size are spread over several files [bytes].
SHARD = 60 * 2**20
_FORMAT = "a2p_ros network 1"
_RETRAIN = "train one with `a2p train fae`, or leave network.weights empty"


@dataclass(frozen=True)
class NetworkFiles:
    """A folder whose card has been read; `tensors` and `graph` check the files themselves."""

    folder: Path
    config: NetworkConfig
    name: str
    card: dict[str, Any]

    @property
    def exported(self) -> bool:
        """Whether there are graphs for onnxruntime."""
        return {HAND_GRAPH, RELATIVE_GRAPH} <= set(self.card["sha256"])

    def graph(self, name: str) -> Path:
        """The path of `HAND_GRAPH` or `RELATIVE_GRAPH`; raises WeightsError unless it is the one described."""
        if name not in self.card["sha256"]:
            raise WeightsError(
                f"{self.folder}: no {name} is described by {CARD}; make it with `a2p export`, or set network.engine "
                "to torch"
            )
        self._check(name)
        return self.folder / name

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; raises WeightsError unless the files are those described, and finite."""
        shards = sorted(name for name in self.card["sha256"] if name.endswith(".safetensors"))
        found: dict[str, Tensor] = {}
        for name in shards:
            self._check(name)
            try:
                found |= load_file(self.folder / name)
            except (OSError, SafetensorError) as error:
                raise WeightsError(f"{self.folder / name}: cannot be read as safetensors: {error}") from error
        bad = [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise WeightsError(f"{self.folder}: {bad[0]} holds numbers that are not finite; {_RETRAIN}")
        return found

    def _check(self, name: str) -> None:
        if _digest(self.folder / name) != self.card["sha256"][name]:
            raise WeightsError(
                f"{self.folder / name}: not the file that {CARD} describes (SHA-256 differs); fetch or train it anew"
            )


@dataclass(frozen=True)
class Loaded:
    """A network, frozen and in evaluation mode, with its sizes, its name and its card."""

    network: A2PNetwork
    config: NetworkConfig
    name: str
    card: dict[str, Any]


def shipped_for(hand_model: str) -> Path | None:
    """The folder with the package's weights for a hand model of this name; None where none ship."""
    folder = SHIPPED / hand_model
    return folder if (folder / CARD).exists() else None


def find(folder: Path | str, hand_model: str) -> NetworkFiles:
    """The files of a folder, empty for those that ship for a hand model (``HandModel.name``).

    Raises WeightsError where there is no card, or one of another format, of other sizes or for another hand model.
    """
    if not folder:
        shipped = shipped_for(hand_model)
        if shipped is None:
            raise WeightsError(
                f"no weights of the network ship for hand model {hand_model!r}, and `a2p train fae` makes them for the "
                "open hand; set network.mode to auto or off, or leave device.hand_model empty"
            )
        folder = shipped
    folder = Path(folder).expanduser()
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: no card of a network ({error}); {_RETRAIN}") from error
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise WeightsError(f"{path}: expected format {_FORMAT!r}, got {found!r}; {_RETRAIN}")
    if card.get("hand_model") != hand_model:
        raise WeightsError(
            f"{folder}: these weights are for hand model {card.get('hand_model')!r}, not {hand_model!r}; set "
            "device.hand_model to theirs (empty = the open hand), or network.mode to off"
        )
    digests = card.get("sha256")
    # Names of files of this folder alone: a card must not lead elsewhere.
    if not isinstance(digests, dict) or any(Path(name).name != name for name in digests):
        raise WeightsError(f"{path}: expected sha256 with a digest of each file of the folder; {_RETRAIN}")
    try:
        config = NetworkConfig(**card["network"])
    except (KeyError, TypeError, ConfigError) as error:
        raise WeightsError(f"{path}: no sizes of a network of this version ({error}); {_RETRAIN}") from error
    return NetworkFiles(folder, config, str(card.get("name", "unnamed")), card)


def load(folder: Path | str, hand_model: str) -> Loaded:
    """The network of a folder, empty for the one that ships.

    Raises WeightsError as `find` does, and for files that are missing, tampered with, not finite or of other sizes.
    """
    files = find(folder, hand_model)
    network = A2PNetwork(files.config)
    try:
        network.load_state_dict(files.tensors(), strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{files.folder}: not the tensors of the network that {CARD} describes; {_RETRAIN}: {error}"
        ) from error
    return Loaded(network.eval().requires_grad_(False), files.config, files.name, files.card)


def save(folder: Path, network: A2PNetwork, hand_model: str, card: Mapping[str, Any], *, shard: int = SHARD) -> None:
    """Write tensors and card, in the place of any of another network; graphs are made of them by `a2p export`.

    ``card`` is what is to be known of the training, with a name; ``shard`` is the largest file [bytes].
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("network*.safetensors"), *folder.glob("*.onnx")]:
        stale.unlink(missing_ok=True)
    shards = _shards({name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}, shard)
    digests = {}
    for number, tensors in enumerate(shards, 1):
        name = TENSORS if len(shards) == 1 else f"network-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name)
        digests[name] = _digest(folder / name)
    text = {
        **card,
        "format": _FORMAT,
        "hand_model": hand_model,
        "network": dataclasses.asdict(network.config),
        "sha256": digests,
    }
    (folder / CARD).write_text(json.dumps(text, indent=2) + "\n")


def add_graphs(files: NetworkFiles, graphs: Mapping[str, bytes], *, int8: Mapping[str, float] | None = None) -> None:
    """Write graphs by their names beside the tensors that they were made of, and into the card.

    ``int8`` is what `INT8_GRAPH` loses; None = there is none, and an older one is removed.
    """
    digests = {name: digest for name, digest in files.card["sha256"].items() if name != INT8_GRAPH}
    (files.folder / INT8_GRAPH).unlink(missing_ok=True)
    for name, content in graphs.items():
        (files.folder / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    card = {name: value for name, value in files.card.items() if name != "int8"} | {"sha256": digests}
    if int8 is not None:
        card["int8"] = dict(int8)
    (files.folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, in as many parts as it takes to keep each below the limit."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error}; fetch or train it anew") from error
