"""The detector's files: the network as ONNX beside a JSON card that says what it is, made how."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2p_ros.errors import WeightsError

#: What ships with the package.
SHIPPED = Path(__file__).parent / "weights"
NETWORK, CARD = "hand_detector.onnx", "hand_detector.json"
_FORMAT = "a2p_ros hand detector 1"


@dataclass(frozen=True)
class DetectorFiles:
    """A network that is the one its card describes.

    ``area`` is that of the pictures it is meant for [px^2], ``side_trust`` how often its word on a hand's side holds.
    """

    network: Path
    name: str
    area: int
    side_trust: float
    card: dict[str, Any]


def save(folder: Path, network: bytes, area: int, card: dict[str, Any]) -> None:
    """Write both files; ``card`` is what is to be known of the training, with a name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NETWORK).write_bytes(network)
    text = card | {"format": _FORMAT, "area": area, "sha256": hashlib.sha256(network).hexdigest()}
    (folder / CARD).write_text(json.dumps(text, indent=2) + "\n")


def find(folder: Path | str = "") -> DetectorFiles:
    """The files of a folder, empty for those that ship; WeightsError where they are missing or not as described."""
    folder = Path(folder).expanduser() if folder else SHIPPED
    path = folder / CARD
    if folder == SHIPPED and not path.exists():
        raise WeightsError(
            "no weights of the hand detector ship with this version: train them with `a2p train detector` and name "
            "their folder in detection.weights, or take detection.backend mediapipe"
        )
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: no card of a hand detector ({error}); train one with `a2p train detector`, or leave "
            "detection.weights empty"
        ) from error
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise WeightsError(f"{path}: expected format {_FORMAT!r}, got {found!r}")
    area = card.get("area")
    if not isinstance(area, int) or not 32 * 32 <= area <= 4096 * 4096:
        raise WeightsError(f"{path}: expected the area of the pictures [px^2] in [1024, 16777216], got {area!r}")
    trust = card.get("side_trust", 1.0)
    if isinstance(trust, bool) or not isinstance(trust, int | float) or not 0.5 <= trust <= 1:
        raise WeightsError(f"{path}: expected side_trust, a share in [0.5, 1], got {trust!r}")
    try:
        content = (folder / NETWORK).read_bytes()
    except OSError as error:
        raise WeightsError(f"{folder / NETWORK}: cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise WeightsError(
            f"{folder / NETWORK}: not the file that {CARD} describes (SHA-256 differs); fetch or train it anew"
        )
    return DetectorFiles(folder / NETWORK, str(card.get("name", "unnamed")), area, float(trust), card)
