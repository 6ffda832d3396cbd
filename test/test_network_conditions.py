"""Conditions that the network makes for the repair: of a network that knows the truth, and of the one that ships."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_frames import label, shard_of
from made_hands import MODELS, MadeHand, make_hand
from true_engine import TrueEngine, pixels_of, place_picture

from a2p_ros import cli
from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.errors import ConfigError, InputError
from a2p_ros.interaction.representation import pairs_of_raw
from a2p_ros.interaction.weights import load
from a2p_ros.training.diffusion_data import SOURCES, PairData
from a2p_ros.training.interaction_kinds import HELD_OUT
from a2p_ros.training.network_conditions import NetworkConditions, make_network_data, read_network_data
from a2p_ros.training.synthetic.samples import Frame
from a2p_ros.types import Pair, Side

CAMERA = CameraModel.assume(640, 480, 1.2)


def hands_at(apart: float) -> list[MadeHand]:
    """A left and a right hand of one shape, so far apart in the image [px], at one depth."""
    rng = np.random.default_rng(3)
    betas, root = np.zeros(10), np.eye(3)
    return [
        make_hand(side, rng, CAMERA, pixel=(320 + x, 240), depth=0.45, betas=betas, root=root, strength=0.2)
        for side, x in ((Side.LEFT, -apart / 2), (Side.RIGHT, apart / 2))
    ]


def looked_at(
    hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch, kind: str = "clap", noise: float = 0.0
) -> PairData:
    engine = TrueEngine(hands, CAMERA, noise)
    monkeypatch.setattr("a2p_ros.network.engine.make_engine", lambda *_: engine)
    labels = {hand.side: label(hand, CAMERA) for hand in hands}
    frame = Frame(
        "0",
        place_picture(CAMERA),
        CAMERA,
        Pair(labels.get(Side.LEFT), labels.get(Side.RIGHT)),
        scene={"shapes": {"left": kind, "right": kind}},
    )
    return NetworkConditions(MODELS, PipelineConfig())(frame, np.random.default_rng(0))


def joints_of(numbers: torch.Tensor, place: torch.Tensor) -> Pair[np.ndarray]:
    pairs = pairs_of_raw(MODELS, numbers, place[:, :9].reshape(-1, 3, 3), place[:, 9:])
    return Pair(*(joints.numpy() for _, joints in pairs.joints(MODELS).items()))


def test_a_true_network_gives_the_truth_as_its_own_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = hands_at(80)
    data = looked_at(hands, monkeypatch)
    assert data.source.tolist() == [SOURCES.index("network")] * 2, "one of the network's pose, one of the fit to it"
    condition, clean = (joints_of(numbers, data.place) for numbers in (data.condition, data.clean))
    for hand in hands:
        for row in range(2):
            # Where the right wrist is in the camera frame is the condition's own.
            own = hand.joints - hands[1].wrist
            at = clean[hand.side][row] - clean.right[row, 0]
            turn = hands[1].root.T @ data.place[row, :9].reshape(3, 3).numpy()
            np.testing.assert_allclose(at, own @ turn, atol=2e-3)
            apart = np.linalg.norm(condition[hand.side][row] - condition.right[row, 0] - own, axis=1)
            assert apart.mean() < (0.004 if row == 0 else 0.025), "the fit's shape is the mean adult's"
    seen = pixels_of(hands[0], CAMERA)
    np.testing.assert_allclose(data.rays[0, 0].numpy() * CAMERA.focal + (CAMERA.cx, CAMERA.cy), seen, atol=1.0)
    np.testing.assert_allclose(data.confidence.numpy(), 0.9, atol=1e-3)
    noisy = looked_at(hands, monkeypatch, noise=0.01)
    wrong = joints_of(noisy.condition, noisy.place).left - joints_of(noisy.clean, noisy.place).left
    assert np.linalg.norm(wrong, axis=-1).mean() > 0.004


@pytest.mark.parametrize("case", ["apart", "one hand", "held out"])
def test_frames_that_give_no_condition(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hands = hands_at(250 if case == "apart" else 80)[1 if case == "one hand" else 0 :]
    assert len(looked_at(hands, monkeypatch, HELD_OUT[0] if case == "held out" else "clap")) == 0


def test_shards_are_looked_at_once_and_only_by_one_network(tmp_path: Path) -> None:
    frames, folder = shard_of(tmp_path / "frames", 3), tmp_path / "conditions"
    shards = sorted(frames.glob("*.tar"))
    assert list(make_network_data(shards, folder, "", workers=1)) == [0, 1]
    assert list(make_network_data(shards, folder, "", workers=1)) == [1]
    training, validation = read_network_data(folder, 1)
    assert training.clean.shape == validation.clean.shape == (0, 209)
    recipe = json.loads((folder / "recipe.json").read_text())
    for other in ({"network": {}}, {"frames": {shards[0].name: 1}}):
        (folder / "recipe.json").write_text(json.dumps(recipe | other))
        with pytest.raises(ConfigError, match="holds data made as"):
            list(make_network_data(shards, folder, "", workers=1))
    next(folder.glob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(InputError, match="made anew"):
        read_network_data(folder, 1)


def test_the_command_trains_on_what_the_network_that_ships_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    drawn = ["synth", "--out", str(frames), "--frames", "16", "--seed", "3001", "--size", "320x240", "--workers", "1"]
    options = {"interacting": 1, "crossing": 0, "separate": 0, "single": 0, "none": 0, "pairs": 6, "people": 2}
    options |= {"backdrops": 2, "shard": 8, "crop": 0, "maps": "false"}
    assert cli.main([*drawn, *(part for k, v in options.items() for part in ("--set", f"{k}={v}"))]) == 0
    arguments = ["train", "diffusion", "--out", str(tmp_path / "out"), "--frames", str(frames), "--shards", "2"]
    arguments += ["--anywhere", "0", "--meeting", "0", "--tries", "2", "--steps", "2", "--every", "1", "--batch", "9"]
    capsys.readouterr()
    assert cli.main([*arguments, "--conditions", "noise,fit,network", "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"network_mpjpe_before", "network_mrrpe_after", "noise_mpjpe_after"} <= set(result)
    card = load(tmp_path / "out", MODELS).card
    assert card["data"]["network"]["scenes"] == {"seed": 3001} and card["data"]["network"]["conditions"] > 0


def test_frames_that_the_network_learnt_from_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from a2p_ros.network import weights

    found = weights.find("", "open_hand")
    card = found.card | {"data": {"scenes": [{"seed": 1007}]}}
    monkeypatch.setattr(weights, "find", lambda *_: dataclasses.replace(found, card=card))
    frames = shard_of(tmp_path / "frames", 2)
    arguments = ["train", "diffusion", "--out", str(tmp_path / "out"), "--frames", str(frames), "--shards", "2"]
    arguments += ["--anywhere", "0", "--meeting", "0", "--tries", "2", "--conditions", "network", "--workers", "1"]
    assert cli.main(arguments) != 0
    assert "learnt from frames of this seed (1007)" in capsys.readouterr().err
