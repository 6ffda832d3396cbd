"""The denoiser's file: safetensors beside a JSON that says what it is, for which hand model, made how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.denoiser import Denoiser, DenoiserConfig
from a2p_ros.interaction.representation import DIMS, PairCodec
from a2p_ros.types import Pair

#: What ships with the package: a folder for each hand model.
SHIPPED = Path(__file__).parent / "weights"
TENSORS, CARD = "denoiser.safetensors", "denoiser.json"
_FORMAT = "a2p_ros denoiser 1"


@dataclass(frozen=True)
class Trained:
    """A denoiser with the numbers' meaning and its name."""

    denoiser: Denoiser
    codec: PairCodec
    name: str
    card: dict[str, Any]


def shipped_for(models: Pair[HandModel]) -> Path | None:
    """The folder with the package's weights for a hand model; None where none ship."""
    folder = SHIPPED / models.left.name
    return folder if (folder / TENSORS).exists() else None


def save(folder: Path, denoiser: Denoiser, codec: PairCodec, card: dict[str, Any]) -> None:
    """Write both files; ``card`` is what is to be known of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"denoiser.{name}": t.detach().cpu().contiguous() for name, t in denoiser.state_dict().items()}
    tensors |= {"codec.mean": codec.mean.cpu(), "codec.spread": codec.spread.cpu()}
    save_file(tensors, folder / TENSORS)
    text = card | {
        "format": _FORMAT,
        "hand_model": codec.models.left.name,
        "denoiser": dataclasses.asdict(denoiser.config),
        "sha256": hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest(),
    }
    (folder / CARD).write_text(json.dumps(text, indent=2) + "\n")


def load(folder: Path, models: Pair[HandModel]) -> Trained:
    """Read both files; raises WeightsError when they are missing, damaged, or for something else."""
    card = _card(folder / CARD)
    if card.get("format") != _FORMAT:
        raise WeightsError(f"{folder / CARD}: expected format {_FORMAT!r}, got {card.get('format')!r}")
    if card.get("hand_model") != models.left.name:
        raise WeightsError(
            f"{folder}: these weights are for hand model {card.get('hand_model')!r}, not {models.left.name!r}; "
            "train others with `a2p train diffusion --hand-model ...`, or leave interaction.weights empty"
        )
    try:
        denoiser = Denoiser(DenoiserConfig(**card["denoiser"]))
    except (KeyError, TypeError, ConfigError, ValueError) as error:
        raise WeightsError(f"{folder / CARD}: no sizes of a denoiser: {error}") from error
    path = folder / TENSORS
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != card.get("sha256"):
            raise WeightsError(f"{path}: not the file that {CARD} describes (SHA-256 differs); fetch or train it anew")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
    mean, spread = tensors.pop("codec.mean", None), tensors.pop("codec.spread", None)
    for name, value in (("codec.mean", mean), ("codec.spread", spread)):
        if value is None or value.shape != (DIMS,) or not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{path}: expected {name} as {DIMS} finite numbers")
    if mean is None or spread is None or not bool((spread > 0).all()):
        raise WeightsError(f"{path}: expected codec.spread above 0")
    try:
        denoiser.load_state_dict({name.removeprefix("denoiser."): t for name, t in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the tensors that {CARD} describes: {error}") from error
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise WeightsError(f"{path}: holds numbers that are not finite")
    denoiser.eval().requires_grad_(False)
    return Trained(denoiser, PairCodec(models, mean, spread), str(card.get("name", "unnamed")), card)


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(card).__name__}")
    return card
