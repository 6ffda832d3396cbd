"""Training of the detector on a few drawn frames: packing, learning, going on, export, and the command."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_frames import CAMERA, drawn
from made_hands import MODELS

from a2p_ros.cli import main
from a2p_ros.commands.options import one_at_a_time
from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.hand_maps import decode
from a2p_ros.detection.hand_weights import CARD, NETWORK, find, save
from a2p_ros.errors import ConfigError, InputError, SourceError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.network.backbone import read_imagenet
from a2p_ros.network.efficientnet import EfficientNetLite0
from a2p_ros.training.detector.augment import AugmentConfig
from a2p_ros.training.detector.export import to_onnx
from a2p_ros.training.detector.frames import PackConfig, PackedFrames, pack, read_packed
from a2p_ros.training.detector.loss import losses
from a2p_ros.training.detector.network import ExportedHandNet, HandNet, NetworkConfig
from a2p_ros.training.detector.trainer import DetectorTrainer, TrainConfig
from a2p_ros.training.imagenet import efficientnet_file
from a2p_ros.training.synthetic.samples import ShardWriter
from a2p_ros.types import Side

SMALL = NetworkConfig(blocks=12, neck=16)
PACK = PackConfig(width=192, height=144)
COUNT = 26


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with ShardWriter(folder / f"frames_{shard:05d}.tar") as writer:
            for number in range(shard * COUNT, (shard + 1) * COUNT):
                writer.write(drawn(number))
    return folder


@pytest.fixture(scope="module")
def frames(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedFrames:
    folder = tmp_path_factory.mktemp("packed")
    assert list(pack(shards, folder, load_hand_models(), PACK)) == [1, 2]
    return read_packed(shards, folder, PACK)


def trainer(frames: PackedFrames, folder: Path, **settings: object) -> DetectorTrainer:
    values = {"batch": 8, "every": 5, "rate": 3e-3, "height": 96, "width": 128, "precision": "float32", "ema": 0.9}
    training, validation = frames.split()
    config = TrainConfig(**(values | settings))  # type: ignore[arg-type]
    return DetectorTrainer(training, validation, SMALL, config, AugmentConfig(), folder)


def test_packed_frames_are_the_frames(frames: PackedFrames) -> None:
    assert len(frames) == 2 * COUNT
    for number in (0, 1, 3, 30):
        image, hands = frames[number]
        frame = drawn(number)
        assert image.shape == (144, 192, 3)
        small = cv2.resize(frame.image, (192, 144), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - small).mean() < 4  # the shard holds a JPEG
        there = [hand for _, hand in frame.hands.items() if hand is not None]
        assert hands.right.tolist() == [hand.side is Side.RIGHT for hand in there]
        for i, hand in enumerate(there):
            np.testing.assert_allclose(hands.keypoints[i], (hand.keypoints_px + 0.5) * 0.75 - 0.5, atol=1e-3)
            mesh = hand.vertices(MODELS[hand.side])
            pixels = cv2.projectPoints(mesh.astype(float), np.zeros(3), np.zeros(3), CAMERA.K, None)[0][:, 0]
            low, high = ((np.clip(v, -0.5, [255.5, 191.5]) + 0.5) * 0.75 - 0.5 for v in (pixels.min(0), pixels.max(0)))
            np.testing.assert_allclose(hands.boxes(144, 192)[i], [*low, *high], atol=1.0)


def test_some_frames_are_kept_for_validation(frames: PackedFrames) -> None:
    training, validation = frames.split()
    assert (len(training), len(validation)) == (2 * COUNT - 2, 2)
    twice = PackedFrames.joined([frames, frames])
    assert len(twice) == 4 * COUNT
    np.testing.assert_array_equal(twice[2 * COUNT + 30][0], frames[30][0])


def test_packing_is_done_once_and_again_for_another_shard(shards: Path, tmp_path: Path) -> None:
    source, packed, models = tmp_path / "shards", tmp_path / "packed", load_hand_models()
    source.mkdir()
    path = source / "frames_00000.tar"
    path.write_bytes((shards / path.name).read_bytes())
    with pytest.raises(InputError, match="pack the frames with one process first"):
        read_packed(source, packed, PACK)
    assert list(pack(source, packed, models, PACK)) == [1]
    stamp = (packed / "frames_00000.npz").stat().st_mtime_ns
    assert list(pack(source, packed, models, PACK)) == [1]
    assert (packed / "frames_00000.npz").stat().st_mtime_ns == stamp
    path.write_bytes((shards / "frames_00001.tar").read_bytes())
    assert list(pack(source, packed, models, PACK)) == [1]
    np.testing.assert_array_equal(
        read_packed(source, packed, PACK)[2][1].keypoints, read_packed(source, packed, PACK)[2][1].keypoints
    )
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError, match=r"frames_00000\.tar"):
        list(pack(source, packed, models, PACK))


def test_the_loss_falls(frames: PackedFrames, tmp_path: Path) -> None:
    records = list(trainer(frames, tmp_path, steps=30).run())
    assert [record["step"] for record in records] == [5, 10, 15, 20, 25, 30]
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    assert {"recall", "precision", "side_accuracy", "orientation_deg_p90"} <= set(records[-1])


def test_processes_of_one_training_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        waiting.set()
        with one_at_a_time(tmp_path):
            order.append("second")
        done.set()

    with one_at_a_time(tmp_path):
        threading.Thread(target=second, daemon=True).start()
        assert waiting.wait(10)
        assert not done.wait(0.2)
        order.append("first")
    assert done.wait(10)
    assert order == ["first", "second"]


def test_the_side_counts_where_a_hand_is_alone() -> None:
    heat, counts, weight = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    heat[0, 1, 2, 3] = 1.0
    numbers, joints, logits = torch.zeros(1, 2, 9, 4, 4), torch.zeros(1, 2, 42, 4, 4), torch.zeros(1, 2, 4, 4)
    palm = torch.zeros(1, 2, 4, 4)

    def side(right: float, left: float) -> float:
        logits[0, 1, 2, 3], logits[0, 0, 2, 3] = right, left
        return float(losses(logits, numbers, joints, palm, heat, counts, numbers, weight, weight, joints, palm)["side"])

    assert side(2.0, 0.0) < 0.2 < side(0.0, 0.0) < 1.0 < side(0.0, 2.0)
    assert side(0.0, 0.0) == pytest.approx(np.log(2), rel=1e-5)
    heat[0, 0, 2, 3] = 1.0  # two hands on one another: both sides are right
    assert side(2.0, 0.0) == side(0.0, 2.0) == 0.0


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(frames: PackedFrames, tmp_path: Path) -> None:
    whole = trainer(frames, tmp_path / "whole", steps=15)
    list(whole.run())
    run = trainer(frames, tmp_path / "cut", steps=15).run()
    assert [next(run)["step"], next(run)["step"]] == [5, 10]
    run.close()
    second = trainer(frames, tmp_path / "cut", steps=15, seed=9)
    with pytest.raises(ConfigError, match="belongs to another training"):
        list(second.run())
    third = trainer(frames, tmp_path / "cut", steps=15, workers=1)
    assert [record["step"] for record in third.run()] == [15]
    for (name, a), b in zip(whole.averaged.state_dict().items(), third.averaged.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    assert [record["step"] for record in third.history] == [5, 10, 15]


def test_first_blocks_stay_as_imagenet_taught_them(frames: PackedFrames, tmp_path: Path) -> None:
    given = EfficientNetLite0(SMALL.blocks)
    given.load_imagenet(released := read_imagenet(efficientnet_file()))
    config = TrainConfig(batch=8, every=2, steps=2, height=96, width=128, precision="float32", frozen=3)
    made = DetectorTrainer(*frames.split(), SMALL, config, AugmentConfig(), tmp_path, released)
    list(made.run())
    for name, value in made.averaged.backbone.state_dict().items():
        frozen = name.startswith(("_conv_stem", "_bn0", "_blocks.0.", "_blocks.1.", "_blocks.2."))
        assert torch.equal(value, given.state_dict()[name]) or not frozen, name
    for name in ("_blocks.3._expand_conv.weight", "_blocks.11._project_conv.weight"):
        assert not torch.equal(made.averaged.backbone.state_dict()[name], given.state_dict()[name]), name
    with pytest.raises(ConfigError, match="belongs to another training"):
        list(DetectorTrainer(*frames.split(), SMALL, config, AugmentConfig(), tmp_path).run())
    # Cut off in the middle, and gone on.
    longer = replace(config, steps=4)
    whole = DetectorTrainer(*frames.split(), SMALL, longer, AugmentConfig(), tmp_path / "whole", released)
    list(whole.run())
    run = DetectorTrainer(*frames.split(), SMALL, longer, AugmentConfig(), tmp_path / "cut", released).run()
    assert next(run)["step"] == 2
    run.close()
    cut = DetectorTrainer(*frames.split(), SMALL, longer, AugmentConfig(), tmp_path / "cut", released)
    assert [record["step"] for record in cut.run()] == [4]
    for (name, a), b in zip(whole.averaged.state_dict().items(), cut.averaged.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


def test_a_damaged_checkpoint_is_named(frames: PackedFrames, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="delete it to start anew"):
        list(trainer(frames, tmp_path, steps=5).run())


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 32, got \(100, 256, 128, 160\)"):
        TrainConfig(height=100)
    with pytest.raises(ConfigError, match=r"multiples of 32, got \(1, 3, 40, 64\)"):
        HandNet(SMALL)(torch.zeros(1, 3, 40, 64))


def test_export_answers_as_torch_does(tmp_path: Path) -> None:
    """Through the file and the run-time class, on a picture that needs no scaling."""
    torch.manual_seed(0)
    net = HandNet(SMALL)
    for module in net.modules():  # statistics as after a training, so that folding them in matters
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(net.heat.weight, std=0.5)
    torch.nn.init.zeros_(net.heat.bias)
    net.eval()
    save(tmp_path, to_onnx(net), 96 * 160, {"name": "made"})
    assert find(tmp_path).name == "made"
    image = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    config = DetectionConfig(backend="a2p", weights=str(tmp_path), min_score=0.1)
    found = make_detector(config, DeviceConfig(device="cpu", threads=1))(image)
    with torch.no_grad():
        heat, numbers = ExportedHandNet(net)(torch.from_numpy(image[None]))
    wanted = decode(heat[0].numpy(), numbers[0].numpy(), 0.1)
    assert len(wanted) > 0
    # Boxes outside the picture are left out, and others end at its edges.
    assert len(found) > 0
    for hand in found:
        twin = min(wanted, key=lambda other: math.dist((*other.square, other.right), (*hand.square, hand.right)))
        assert hand.score == pytest.approx(twin.score, abs=1e-3)
        assert hand.right == pytest.approx(twin.right, abs=1e-3)
        assert hand.rotation == pytest.approx(twin.rotation, abs=1e-2)
        np.testing.assert_allclose(hand.square, twin.square, atol=0.1)
        edges = np.clip(twin.box, -0.5, [159.5, 95.5, 159.5, 95.5])
        np.testing.assert_allclose(hand.box, edges, atol=0.1)


def test_the_command_makes_weights_that_the_pipeline_takes(shards: Path, tmp_path: Path, capfd) -> None:
    arguments = ["train", "detector", "--frames", str(shards), "--out", str(tmp_path), "--steps", "4", "--every", "2"]
    arguments += ["--batch", "4", "--height", "64", "--width", "96", "--precision", "float32", "--json"]
    assert main(arguments) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["step"] == 4 and Path(result["weights"]) == tmp_path / NETWORK
    card = json.loads((tmp_path / CARD).read_text())
    assert card["data"]["synthetic"] is True and card["data"]["frames"] == 2 * COUNT - 2
    assert card["training"]["steps"] == 4 and card["pictures"] == 16
    assert find(tmp_path).name == "a2p_detector_lite"
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[1] > 2 * picture.shape[0] and float(np.std(picture)) > 5
    config = DetectionConfig(backend="a2p", weights=str(tmp_path))
    assert make_detector(config, DeviceConfig(device="cpu")).name == "a2p_detector_lite"
    # Again: nothing left to do, and the same end.
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out.strip().splitlines()[-1])["loss"] == result["loss"]


def test_seeds_that_are_kept_for_measurement_are_refused(tmp_path: Path, capfd) -> None:
    assert main(["train", "detector", "--out", str(tmp_path), "--data-seed", "3"]) == 2
    assert "lower seeds are kept for measurement" in capfd.readouterr().err
