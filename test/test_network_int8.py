"""The network in 8 bit: close to itself, run on processors alone, and taken away with what it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from a2p_ros.camera import CameraModel
from a2p_ros.cli import main
from a2p_ros.config import DeviceConfig
from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.network.config import NetworkConfig
from a2p_ros.network.export import export
from a2p_ros.network.model import A2PNetwork
from a2p_ros.network.onnx_engine import OnnxEngine
from a2p_ros.network.quantise import quantised
from a2p_ros.network.weights import CARD, HAND_GRAPH, INT8_GRAPH, find, save
from a2p_ros.training.synthetic.samples import CroppedHand, Frame, ShardWriter
from a2p_ros.types import Pair

MODEL = load_hand_models().right.name
CPU = DeviceConfig(device="cpu", threads=1)
SMALL = NetworkConfig(
    resolution=64, width=16, last_width=32, token_dim=32, joint_features=16, relative_features=16, prior_channels=24
)


def soft_crops(n: int, edge: int = 64) -> np.ndarray:
    """Pictures without detail, as hands are and noise is not."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 7, 7, 3), np.uint8)
    return np.stack([cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_CUBIC) for picture in coarse])


def network() -> A2PNetwork:
    torch.manual_seed(0)
    made = A2PNetwork(SMALL)
    with torch.no_grad():  # so that answers differ from crop to crop
        made.hand.joints.heat.weight.normal_(std=0.3)
        made.hand.parameters_head.rotations.weight.normal_(std=0.1)
    return made.eval()


def write_frames(folder: Path, n: int) -> Path:
    folder.mkdir()
    camera = CameraModel(96, 72, 80.0, 80.0, 47.5, 35.5)
    pictures = soft_crops(2 * n, 48)
    with ShardWriter(folder / "frames_00000.tar") as shard:
        for i in range(n):
            left, right = (
                CroppedHand(pictures[2 * i + k], Crop((40.0, 30.0), 30.0, 0.0, 48, mirrored=k == 0)) for k in (0, 1)
            )
            picture = np.zeros((72, 96, 3), np.uint8)
            shard.write(Frame(f"{i:09d}", picture, camera, Pair(None, None), crops=Pair(left, right)))
    return folder


def test_answers_in_8_bit_are_near() -> None:
    graphs = export(network())
    content, loss = quantised(graphs[HAND_GRAPH], soft_crops(32))
    assert len(content) < 0.6 * len(graphs[HAND_GRAPH])
    assert 0 < loss.keypoints <= loss.keypoints_worst < 0.02
    assert 0 < loss.rotations <= loss.rotations_worst < 10
    assert 0 < loss.depth < 0.01
    assert set(loss.as_dict()) == {"keypoints", "keypoints_worst", "depth", "rotations", "rotations_worst"}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"expected 32 crops or more, uint8 \(n, r, r, 3\), got uint8 \(3, 64, 64, 3\)"
    ):
        quantised(b"", soft_crops(3))
    with pytest.raises(InputError, match="got float64"):
        quantised(b"", soft_crops(32) / 255)


def test_export_writes_it_and_takes_it_away(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "weights"
    save(folder, network(), MODEL, {"name": "small"})
    frames = write_frames(tmp_path / "frames", 20)
    assert main(["export", str(folder), "--int8", str(frames), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    card = json.loads((folder / CARD).read_text())
    assert printed["int8_loss"] == card["int8_loss"]
    assert set(printed["bytes"]) == {HAND_GRAPH, "relative.onnx", INT8_GRAPH}

    # On a processor the engine runs the graph in 8 bit: its answers are near those of the other, not the same.
    crops = soft_crops(2)
    coarse = OnnxEngine(find(folder, MODEL), CPU)(crops)
    (folder / INT8_GRAPH).write_bytes((folder / INT8_GRAPH).read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"{INT8_GRAPH}: not the file that {CARD} describes"):
        OnnxEngine(find(folder, MODEL), CPU)

    assert main(["export", str(folder)]) == 0
    assert not (folder / INT8_GRAPH).exists()
    assert "int8_loss" not in json.loads((folder / CARD).read_text())
    exact = OnnxEngine(find(folder, MODEL), CPU)(crops)
    apart = np.abs(coarse.keypoints - exact.keypoints).max()
    assert 0 < apart < 0.03


def test_too_few_frames_are_an_error_with_a_name(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "weights"
    save(folder, network(), MODEL, {"name": "small"})
    assert main(["export", str(folder), "--int8", str(write_frames(tmp_path / "frames", 2))]) == 2
    assert "expected 32 crops or more" in capsys.readouterr().err
