"""`a2p train fae`: from frames to weights, on several processes, and what is wrong with options and frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_frames import drawn, shard_of
from made_hands import MODELS

from a2p_ros.cli import main
from a2p_ros.config import DeviceConfig, NetworkStageConfig
from a2p_ros.network.engine import make_engine
from a2p_ros.network.sapiens import SapiensEncoder, SapiensPrior, SapiensSize
from a2p_ros.network.teachers import load_teachers
from a2p_ros.training.synthetic.samples import ShardWriter


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard_of(tmp_path_factory.mktemp("shards"), 26)


def test_two_processes_train_one_network(shards: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["train", "fae", "--frames", str(shards), "--out", str(tmp_path), "--steps", "2", "--every", "2"]
    arguments += ["--mode", "none", "--batch", "4", "--resolution", "64", "--low-share", "1", "--middle-share", "0"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "a2p_ros.cli", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["processes"] == 2 and card["network"]["resolution"] == 64
    assert json.loads(done.stdout.strip().splitlines()[-1])["mpjpe_mm"] > 0
    arguments[arguments.index("--batch") + 1] = "6"
    odd = subprocess.run(
        [*torchrun, "-m", "a2p_ros.cli", *arguments], capture_output=True, text=True, timeout=240, env=environment
    )
    assert odd.returncode != 0 and "expected pairs of crops that 2 processes share evenly, got 3" in odd.stderr


def test_the_command_goes_from_frames_to_weights(shards: Path, tmp_path: Path, capfd) -> None:
    arguments = ["train", "fae", "--frames", str(shards), "--out", str(tmp_path), "--steps", "4", "--every", "2"]
    arguments += ["--priors", "keypoints", "--teacher-steps", "2", "--batch", "4", "--resolution", "64"]
    arguments += ["--low-share", "1", "--middle-share", "0", "--precision", "float32", "--json"]
    assert main(arguments) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["mpjpe_mm"] > 0 and Path(result["weights"]) == tmp_path
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[1] > picture.shape[0] and float(np.std(picture)) > 5
    assert set(load_teachers(tmp_path, ["keypoints"])) == {"keypoints"}
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["network"]["resolution"] == 64 and card["commit"] and set(card["teacher_keys"]) == {"keypoints"}
    # Another training with these teachers.
    other = [a if a != str(tmp_path) else str(tmp_path / "other") for a in arguments]
    assert main([*other, "--mode", "foundation", "--teachers", str(tmp_path)]) == 0
    assert not (tmp_path / "other" / "teacher_keypoints").exists()
    other_card = json.loads((tmp_path / "other" / "card.json").read_text())
    assert other_card["teacher_keys"] == card["teacher_keys"] and other_card["teachers"] == {"keypoints": "stand-in"}
    engine = make_engine(NetworkStageConfig(weights=str(tmp_path / "other")), DeviceConfig(device="cpu"), MODELS)
    assert engine(np.zeros((1, 64, 64, 3), np.uint8)).keypoints.shape == (1, 21, 2)
    # Mode none has no use for them.
    bare = [
        a if a != str(tmp_path) else str(tmp_path / "bare") for a in arguments if a not in ("--priors", "keypoints")
    ]
    assert main([*bare, "--mode", "none", "--teachers", str(tmp_path)]) == 0
    bare_card = json.loads((tmp_path / "bare" / "card.json").read_text())
    assert bare_card["teachers"] == bare_card["teacher_keys"] == {}
    assert not list((tmp_path / "bare").glob("teacher*"))
    capfd.readouterr()
    # Again: nothing left to do, and the same end; what was made of the weights stays.
    (tmp_path / "network.onnx").write_bytes(b"made")
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out.strip().splitlines()[-1])["loss"] == result["loss"]
    assert (tmp_path / "network.onnx").read_bytes() == b"made"


def test_frames_that_are_for_measurement_are_not_trained_on(tmp_path: Path, capfd) -> None:
    with ShardWriter(tmp_path / "frames" / "frames_00000.tar") as writer:
        writer.write(replace(drawn(0, maps=True), scene={"seed": 3}))
    arguments = ["train", "fae", "--frames", str(tmp_path / "frames"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "frames of seed 3, and seeds below 1000 are kept for measurement" in capfd.readouterr().err


def test_priors_of_several_widths_are_named_before_anything_is_learnt(monkeypatch, tmp_path: Path, capfd) -> None:
    prior = SapiensPrior(SapiensEncoder(SapiensSize(48, 1, 4)), "x")
    monkeypatch.setattr("a2p_ros.network.sapiens.load_sapiens", lambda _: prior)
    assert main(["train", "fae", "--out", str(tmp_path), "--sapiens-depth", "depth.pth"]) == 2
    assert "must be as many, got {'depth': 48, 'keypoints'" in capfd.readouterr().err


def test_options_that_contradict(shards: Path, tmp_path: Path, capfd) -> None:
    for options, message in (
        (["--priors", "normals"], "expected none, all or some of keypoints,segmentation,depth, got 'normals'"),
        (["--mode", "none", "--priors", "all"], "mode none goes with priors none"),
        (["--data-seed", "3"], "lower seeds are kept for measurement"),
        (["--resolution", "80"], "the network takes multiples of 32 px, got (64, 96, 80)"),
        (
            ["--preset", "full", "--backbone", "efficientnet_lite0", "--imagenet", "none.pth"],
            "none.pth: cannot be read",
        ),
    ):
        frames = [] if "--data-seed" in options else ["--frames", str(shards)]
        assert main(["train", "fae", "--out", str(tmp_path), *frames, *options]) == 2
        assert message in capfd.readouterr().err
