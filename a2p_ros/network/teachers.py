"""Prior encoders: image networks whose features the network fuses (mode foundation) or learns to give (distilled).

Where Sapiens is not at hand, three stand-ins take its place: networks of the same family as the backbone, trained on
the engine's labels for 2D keypoints, part segmentation and depth, then frozen and tapped at their features. Their own
maps are never used: maps made of the truth would leak the answer, and features are what A2P takes from Sapiens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.network.backbone import make_backbone
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.pictures import normalised

#: What each stand-in's maps have as channels: 21 joints; part classes (``training/fae/maps.py``); depth [m].
CHANNELS = {"keypoints": 21, "segmentation": 19, "depth": 1}
#: Edge of those maps relative to that of the token grid.
MAP_SCALE = 4
CARD = "teachers.json"
_FORMAT = "a2p_ros teachers 1"


class PriorEncoder(Protocol):
    """Crops -> features; ``width`` is their number at each token, ``key`` names weights and settings."""

    @property
    def width(self) -> int:
        """Features a token."""

    @property
    def key(self) -> str:
        """Differs where features do."""

    def __call__(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n tokens c"]:
        """Features of RGB crops at ``grid`` x ``grid`` tokens, row by row."""


class Teacher(nn.Module):
    """A stand-in for one of Sapiens' models; ``what`` is keypoints, segmentation or depth."""

    def __init__(self, what: str, config: NetworkConfig) -> None:
        super().__init__()
        if what not in CHANNELS:
            raise ConfigError(f"teacher: expected one of {', '.join(CHANNELS)}, got {what!r}")
        self.what, self.config = what, config
        self.backbone = make_backbone(config)
        self.width: int = self.backbone.out_channels
        self.reduce = nn.Conv2d(self.width, _HEAD, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(_HEAD, _HEAD, 3, padding=1, bias=False), nn.BatchNorm2d(_HEAD), nn.ReLU(inplace=True)
        )
        self.maps = nn.Conv2d(_HEAD, CHANNELS[what], 1)

    @property
    def key(self) -> str:
        """Names the weights and what else the features depend on."""
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return f"{self.what} {digest.hexdigest()}"

    def features(self, crops: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n c h w"]:
        """What is tapped: the backbone's last map."""
        return self.backbone(crops)

    def predict(self, crops: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n channels 4h 4w"]:
        """What is trained: the maps, with four times the tokens' resolution."""
        x = functional.interpolate(self.reduce(self.features(crops)), scale_factor=2, mode="bilinear")
        return functional.interpolate(self.maps(self.refine(x)), scale_factor=2, mode="bilinear")

    @torch.no_grad()
    def forward(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n tokens c"]:
        """Features at ``grid`` x ``grid`` tokens."""
        features = self.features(normalised(crops))
        if features.shape[-1] != grid:
            features = functional.adaptive_avg_pool2d(features, grid)
        return features.flatten(2).transpose(1, 2)


#: Channels of a teacher's head.
_HEAD = 64


class Priors(nn.Module):
    """Several prior encoders side by side; their average and Proj (eq. 1) are the network's."""

    def __init__(self, encoders: Mapping[str, PriorEncoder]) -> None:
        super().__init__()
        widths = {name: encoder.width for name, encoder in encoders.items()}
        if len(set(widths.values())) != 1:
            raise ConfigError(f"prior encoders: expected one width of all features, got {widths}")
        self.names = tuple(encoders)
        self.width = next(iter(widths.values()))
        self.encoders = nn.ModuleList(encoders.values())  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n p tokens c"]:
        """Features of RGB crops at ``grid`` x ``grid`` tokens."""
        return torch.stack([encoder(crops, grid) for encoder in self.encoders], 1)


def save_teachers(folder: Path, teachers: Mapping[str, Teacher], card: Mapping[str, Any]) -> None:
    """One file for each teacher and a card beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, teacher in teachers.items():
        path = folder / f"teacher_{name}.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in teacher.state_dict().items()}, path)
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    config = dataclasses.asdict(next(iter(teachers.values())).config)
    text = {"format": _FORMAT, "network": config, "sha256": digests, **card}
    (folder / CARD).write_text(json.dumps(text, indent=2) + "\n")


def load_teachers(folder: Path, names: Sequence[str]) -> dict[str, Teacher]:
    """The frozen teachers of a folder; raises WeightsError where they are missing or not as their card says."""
    try:
        card = json.loads((folder / CARD).read_text())
        if card["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT!r}, got {card['format']!r}")
        config = NetworkConfig(**card["network"])
        digests = {name: card["sha256"][name] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder / CARD}: no card of the teachers {', '.join(names)} ({error}); mode foundation needs them, "
            "`a2p train fae` makes them"
        ) from error
    teachers: dict[str, Teacher] = {}
    for name, digest in digests.items():
        path = folder / f"teacher_{name}.safetensors"
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise WeightsError(f"{path}: not the file that {CARD} describes (SHA-256 differs); train it anew")
            teacher = Teacher(name, config)
            teacher.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise WeightsError(f"{path}: no teacher of {CARD}: {error}") from error
        teachers[name] = teacher.eval().requires_grad_(False)
    return teachers
