"""A training's state in one file: weights, their average, AdamW's moments, and a note of where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from a2p_ros.errors import ConfigError, WeightsError


class Checkpoint:
    """The file at ``path``; ``identity`` names the training that it belongs to."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def save(self, net: nn.Module, averaged: nn.Module, optimiser: Any, note: dict[str, Any]) -> None:
        """Write the file; what was there stays until the new one is whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, Tensor] = {f"now.{k}": v for k, v in net.state_dict().items()}
        state |= {f"mean.{k}": v for k, v in averaged.state_dict().items()}
        for i, parameter in enumerate(net.parameters()):
            for name, value in optimiser.state.get(parameter, {}).items():  # what is frozen has none
                state[f"adam.{i}.{name}"] = torch.as_tensor(value)
        unfinished = self.path.with_suffix(".part")
        tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
        save_file(tensors, unfinished, metadata={"note": json.dumps(note | {"identity": self.identity})})
        unfinished.rename(self.path)

    def load(self, net: nn.Module, averaged: nn.Module, optimiser: Any) -> dict[str, Any] | None:
        """Put the file's state into the modules and the optimiser; its note, or None where there is no file.

        Raises:
            WeightsError: the file cannot be read.
            ConfigError: it belongs to another training.
        """
        if not self.path.exists():
            return None
        note = note_of(self.path)
        try:
            state = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{self.path}: cannot be read: {error}; delete it to start anew") from error
        identity = note["identity"]
        if identity != self.identity:
            raise ConfigError(
                f"{self.path} belongs to another training ({identity}), not to this one ({self.identity}); choose "
                "another folder, or delete it to start anew"
            )
        for prefix, module in (("now.", net), ("mean.", averaged)):
            module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        for i, parameter in enumerate(net.parameters()):
            prefix = f"adam.{i}."
            mine = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            if not mine:
                continue
            # AdamW counts its steps on the CPU; its moments lie in memory as the parameter does.
            optimiser.state[parameter] = {
                k: v.cpu() if k == "step" else torch.empty_like(parameter).copy_(v) for k, v in mine.items()
            }
        return note


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint; raises WeightsError where it cannot be read."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}; give a checkpoint.safetensors of a training") from error
    return {k.removeprefix("mean."): v for k, v in state.items() if k.startswith("mean.")}


def note_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its training; raises WeightsError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            note: dict[str, Any] = json.loads(file.metadata()["note"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}; delete it to start anew") from error
    if not {"identity", "step", "seconds", "history"} <= set(note):
        raise WeightsError(f"{path}: is no checkpoint of this training, it notes {sorted(note)}; choose another folder")
    return note
