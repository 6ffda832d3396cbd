"""The network's files: what is written is read back, and nothing else is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct

import pytest
import torch
from made_network import SMALL, random_network
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from a2p_ros.errors import WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.network import weights

OPEN_HAND = load_hand_models().right.name


@pytest.fixture
def folder(tmp_path):
    weights.save(tmp_path, random_network(SMALL), OPEN_HAND, {"name": "small", "steps": 3})
    return tmp_path


def change_card(folder, **values) -> None:
    card = json.loads((folder / weights.CARD).read_text())
    (folder / weights.CARD).write_text(json.dumps(card | values))


def change_tensors(folder, **values: torch.Tensor | None) -> None:
    """Other tensors, and a card that describes them: what a file made wrongly looks like."""
    path = folder / weights.TENSORS
    tensors = {name: t for name, t in (load_file(path) | values).items() if t is not None}
    save_file(tensors, path)
    change_card(folder, sha256={weights.TENSORS: hashlib.sha256(path.read_bytes()).hexdigest()})


def test_what_is_saved_is_loaded(folder) -> None:
    network = random_network(SMALL)
    loaded = weights.load(folder, OPEN_HAND)
    assert (loaded.name, loaded.config, loaded.card["steps"]) == ("small", SMALL, 3)
    wanted = network.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in loaded.network.state_dict().items())
    assert not loaded.network.training and not any(p.requires_grad for p in loaded.network.parameters())
    with safe_open(folder / weights.TENSORS, "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"hand", "relative"}


def test_large_networks_are_spread_over_files(folder) -> None:
    network = random_network(SMALL)
    limit = 2**20
    weights.save(folder, network, OPEN_HAND, {"name": "spread"}, shard=limit)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1 and not (folder / weights.TENSORS).exists()
    assert files[0].name == f"network-00001-of-{len(files):05d}.safetensors"
    largest = max(t.nbytes for t in network.state_dict().values())
    assert all(path.stat().st_size < max(limit, largest) + 2**16 for path in files)
    wanted = network.state_dict()
    found = weights.load(folder, OPEN_HAND).network.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in found.items())
    files[1].unlink()
    with pytest.raises(WeightsError, match=r"cannot be read.*fetch or train it anew"):
        weights.load(folder, OPEN_HAND)


def test_new_tensors_take_the_place_of_old_graphs(folder) -> None:
    weights.add_graphs(weights.find(folder, OPEN_HAND), {weights.HAND_GRAPH: b"a", weights.RELATIVE_GRAPH: b"b"})
    assert weights.find(folder, OPEN_HAND).exported
    weights.save(folder, random_network(SMALL), OPEN_HAND, {"name": "new"})
    assert not weights.find(folder, OPEN_HAND).exported
    assert not (folder / weights.HAND_GRAPH).exists()


@pytest.mark.parametrize("damage", ["byte", "short", "gone"])
def test_a_file_that_is_not_the_one_described_is_refused(folder, damage) -> None:
    path = folder / weights.TENSORS
    content = bytearray(path.read_bytes())
    if damage == "byte":
        content[-100] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: -50 if damage == "short" else None])
    with pytest.raises(WeightsError, match="fetch or train it anew"):
        weights.load(folder, OPEN_HAND)


def test_a_graph_that_is_not_the_one_described_is_refused(folder) -> None:
    files = weights.find(folder, OPEN_HAND)
    with pytest.raises(WeightsError, match=r"no network\.onnx is described.*a2p export.*network\.engine to torch"):
        files.graph(weights.HAND_GRAPH)
    weights.add_graphs(files, {weights.HAND_GRAPH: b"graph"})
    assert weights.find(folder, OPEN_HAND).graph(weights.HAND_GRAPH).read_bytes() == b"graph"
    (folder / weights.HAND_GRAPH).write_bytes(b"other")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        weights.find(folder, OPEN_HAND).graph(weights.HAND_GRAPH)


def test_weights_for_another_hand_model_are_refused(folder) -> None:
    with pytest.raises(
        WeightsError, match=f"are for hand model '{OPEN_HAND}', not 'mano'; set device.hand_model to theirs"
    ):
        weights.load(folder, "mano")


def test_weights_of_another_configuration_are_refused(folder) -> None:
    change_card(folder, network=dataclasses.asdict(dataclasses.replace(SMALL, token_dim=64)))
    with pytest.raises(WeightsError, match=r"not the tensors of the network that card\.json describes; train one with"):
        weights.load(folder, OPEN_HAND)
    change_card(folder, network=dataclasses.asdict(dataclasses.replace(SMALL, mode="none")))
    with pytest.raises(WeightsError, match=r"Unexpected key.*fae"):
        weights.load(folder, OPEN_HAND)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "a2p_ros network 9"}, "expected format 'a2p_ros network 1', got 'a2p_ros network 9'"),
        (
            {"network": {"backbone": "resnet34"}},
            "no sizes of a network.*'resnet50', 'efficientnet_lite0', got 'resnet34'",
        ),
        ({"network": {"breadth": 34}}, "no sizes of a network.*breadth"),
        ({"network": None}, "no sizes of a network"),
        ({"sha256": None}, "expected sha256 with a digest of each file"),
        ({"sha256": {"../network.safetensors": "0"}}, "expected sha256 with a digest of each file of the folder"),
    ],
)
def test_cards_of_something_else_are_refused(folder, values, message) -> None:
    change_card(folder, **values)
    with pytest.raises(WeightsError, match=message):
        weights.load(folder, OPEN_HAND)


def test_tensors_that_lack_or_are_not_finite_are_refused(folder) -> None:
    name = "hand.reduce.bias"
    before = load_file(folder / weights.TENSORS)[name]
    change_tensors(folder, **{name: before * torch.nan})
    with pytest.raises(WeightsError, match=r"hand\.reduce\.bias holds numbers that are not finite"):
        weights.load(folder, OPEN_HAND)
    change_tensors(folder, **{name: None})
    with pytest.raises(WeightsError, match=r"Missing key.*hand\.reduce\.bias"):
        weights.load(folder, OPEN_HAND)


def test_what_is_no_safetensors_is_refused(folder) -> None:
    path = folder / weights.TENSORS
    path.write_bytes(struct.pack("<Q", 10**12) + b"{}")
    change_card(folder, sha256={weights.TENSORS: hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        weights.load(folder, OPEN_HAND)


def test_a_folder_without_a_card_is_refused(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"no card of a network.*a2p train fae"):
        weights.load(tmp_path, OPEN_HAND)
    (tmp_path / weights.CARD).write_text("[1]")
    with pytest.raises(WeightsError, match="expected format 'a2p_ros network 1', got 'list'"):
        weights.load(tmp_path, OPEN_HAND)


def test_without_a_folder_those_that_ship_are_taken(folder, monkeypatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED", folder.parent / "shipped")
    with pytest.raises(WeightsError, match=r"no weights of the network ship.*network\.mode to auto or off"):
        weights.load("", OPEN_HAND)
    (folder.parent / "shipped").mkdir()
    folder.rename(folder.parent / "shipped" / OPEN_HAND)
    assert weights.load("", OPEN_HAND).name == "small"
    assert weights.shipped_for("mano") is None
