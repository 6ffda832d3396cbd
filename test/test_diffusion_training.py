"""Training of the diffusion model on small data: it learns, goes on where it stopped, and leaves usable weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from a2p_ros.cli import main
from a2p_ros.config import InteractionConfig
from a2p_ros.errors import ConfigError, InputError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.denoiser import DenoiserConfig
from a2p_ros.interaction.features import FINGER_CONFIDENCE, FINGER_WAYS
from a2p_ros.interaction.repair import PairRepair
from a2p_ros.interaction.weights import load
from a2p_ros.training.conditions import Conditions, clean_conditions
from a2p_ros.training.diffusion import DiffusionTrainer, TrainConfig
from a2p_ros.training.diffusion_data import (
    DataConfig,
    PairData,
    make_data,
    numbers,
    read_data,
    shards_of,
    touching_vertices,
)
from a2p_ros.training.diffusion_samples import Samples
from a2p_ros.training.interaction_kinds import ANYWHERE, HELD_OUT, KINDS, MEETING
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Pair, Side

HANDS = load_hand_models()
SMALL = DataConfig(shards=2, anywhere=1, meeting=1, tries=2, noisy=1, fitted=1)
SIZES = DenoiserConfig(width=32, feedforward=32, layers=1, heads=2, dropout=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    assert list(make_data(SMALL, folder, "", workers=2)) == [0, 1, 2, 3, 4]
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> PairData:
    training, validation, _ = read_data(SMALL, folder)
    return PairData.joined([training, validation])


@pytest.fixture(scope="module")
def samples(data: PairData) -> Samples:
    return Samples.of(HANDS, data)


def trainer(data: Samples, folder: Path, **settings: object) -> DiffusionTrainer:
    config = TrainConfig(batch=16, every=10, rate=2e-3, ema=0.9, **settings)  # type: ignore[arg-type]
    return DiffusionTrainer(HANDS, data, data, SIZES, config, folder)


def test_held_out_kinds_are_in_no_shard() -> None:
    kinds = {shard.kind for shard in shards_of(DataConfig())}
    assert kinds == (set(KINDS) - set(HELD_OUT)) | {ANYWHERE, MEETING}
    seeds = [shard.seed for shard in shards_of(DataConfig())]
    assert len(set(seeds)) == len(seeds)
    kept = [s for s in shards_of(DataConfig()) if s.validation]
    assert len({s.kind for s in kept}) >= 7 and {ANYWHERE, MEETING} <= {s.kind for s in kept}
    assert {s.kind for s in shards_of(DataConfig(shards=190)) if s.validation} == kinds


def test_shards_say_what_they_hold(folder: Path, data: PairData, samples: Samples) -> None:
    training, validation, kinds = read_data(SMALL, folder)
    assert len(training) > 0 and len(validation) > 0 and len(training) + len(validation) == len(data)
    assert set(kinds) <= {"palm_to_palm", "clap", ANYWHERE, MEETING} and sum(kinds.values()) == int(
        (data.source == 0).sum()
    )
    clean = data.source == 0
    assert torch.equal(data.clean[clean], data.condition[clean])
    assert bool((data.clean[~clean] - data.condition[~clean]).abs().amax(1).gt(0.01).all())
    # Only what penetrates is a condition: the last of a palm's features.
    assert bool((samples.palms[~clean][:, 0, -1] >= 0.499).all()) and float(samples.palms[clean][:, 0, -1].max()) < 0.26


def test_data_are_not_made_twice_and_a_lost_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    lost = shards_of(SMALL)[1].path(copy)
    before = load_file(lost)
    times = {p.name: p.stat().st_mtime_ns for p in copy.glob("*.safetensors") if p != lost}
    lost.unlink()
    assert list(make_data(SMALL, copy, "", workers=1)) == [3, 4]
    assert times == {p.name: p.stat().st_mtime_ns for p in copy.glob("*.safetensors") if p != lost}
    for name, value in load_file(lost).items():
        assert torch.equal(value, before[name]), name


def test_data_of_another_recipe_are_not_mixed_in(folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds data made as"):
        list(make_data(DataConfig(shards=2, tries=3, noisy=1, fitted=1), folder, "", workers=1))


def test_a_damaged_shard_is_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    path = shards_of(SMALL)[0].path(copy)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{path.name}.*made anew"):
        read_data(SMALL, copy)


def clean_pairs() -> tuple[InteractionGenerator, Conditions]:
    generator = InteractionGenerator(HANDS)
    pairs, _ = generator.attempt("pointing_at_palm", 2, torch.Generator().manual_seed(3))
    return generator, clean_conditions(HANDS, pairs, torch.Generator().manual_seed(4))


def test_mirrored_data_are_those_of_mirrored_pairs() -> None:
    generator, made = clean_pairs()
    swapped = Pair(made.observed_px.right, made.observed_px.left), Pair(made.weights.right, made.weights.left)
    flipped = Pair(*(torch.stack([made.camera.width - 1 - p[..., 0], p[..., 1]], -1) for _, p in swapped[0].items()))
    truth = made.truth.mirrored()
    image = dataclasses.replace(made, truth=truth, condition=truth, observed_px=flipped, weights=swapped[1])
    # The camera's principal point is the middle of its pixels, so the picture's mirror image has the same camera.
    assert made.camera.cx == pytest.approx((made.camera.width - 1) / 2)
    ours, other = (Samples.of(HANDS, numbers(generator, m.truth, m.condition, m.evidence(), 0)) for m in (made, image))
    ours = ours.mirrored()
    assert torch.allclose(ours.clean, other.clean, atol=1e-5)
    assert torch.allclose(ours.fingers, other.fingers, atol=0.05)
    assert torch.allclose(ours.palms, other.palms, atol=0.05)
    assert float((ours.fingers - other.fingers.roll(5, 1)).abs().max()) > 0.5


def test_touching_vertices_touch() -> None:
    generator, made = clean_pairs()
    vertices = generator.vertices(made.truth)
    contacts = touching_vertices(vertices)
    assert contacts.shape == (2, 12, 2) and int(contacts.min()) >= 0
    for i in range(2):
        left, right = (vertices[s][i].double().numpy() for s in (Side.LEFT, Side.RIGHT))
        gaps = np.linalg.norm(left[contacts[i, :, 0]] - right[contacts[i, :, 1]], axis=1)
        assert float(gaps.max()) < 0.004
    far = Pair(vertices.left + 1.0, vertices.right)
    assert bool((touching_vertices(far) == -1).all())


def test_a_few_points_are_those_of_the_whole_mesh() -> None:
    _, made = clean_pairs()
    which = torch.tensor([[0, 700, 3], [1158, 5, 6]])
    for side, model in HANDS.items():
        betas, rotations, transl = (getattr(made.truth, n)[side] for n in ("betas", "rotations", "transl"))
        posed = model.with_pose(model.with_shape(betas), rotations, transl)
        whole = model.forward(betas, rotations, transl).vertices
        for i in range(2):
            assert torch.allclose(model.points(posed, which)[i], whole[i, which[i]], atol=1e-6)


def test_what_was_seen_is_left_out_of_some_samples(samples: Samples) -> None:
    many = samples[torch.zeros(400, dtype=torch.long)]
    less = many.less_seen(torch.Generator().manual_seed(0))
    unseen = (less.fingers[:, :, FINGER_CONFIDENCE] == 0).flatten(1).all(1)
    assert 0.08 < float(unseen.float().mean()) < 0.22
    assert float(less.fingers[unseen][:, :, FINGER_WAYS].abs().max()) == 0.0
    assert torch.equal(less.fingers[~unseen][:, :, FINGER_WAYS], many.fingers[~unseen][:, :, FINGER_WAYS])
    sure = (less.fingers[:, :, FINGER_CONFIDENCE] == 1).flatten(1).all(1)
    assert float(many.fingers[0, :, FINGER_CONFIDENCE].min()) < 1 and 0.15 < float(sure.float().mean()) < 0.35
    assert torch.equal(less.clean, many.clean) and torch.equal(less.palms[..., -1], many.palms[..., -1])


def test_the_loss_falls_and_the_average_follows(samples: Samples, tmp_path: Path) -> None:
    records = list(trainer(samples, tmp_path, steps=60).run())
    assert [r["step"] for r in records] == [10, 20, 30, 40, 50, 60]
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    assert records[-1]["noise_mrrpe_after"] < records[-1]["noise_mrrpe_before"]
    assert records[-1]["clean_mrrpe_before"] == 0.0


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(samples: Samples, tmp_path: Path) -> None:
    whole = trainer(samples, tmp_path / "whole", steps=40)
    list(whole.run())
    first = trainer(samples, tmp_path / "cut", steps=40)
    run = first.run()
    assert [next(run)["step"], next(run)["step"]] == [10, 20]
    run.close()
    second = trainer(samples, tmp_path / "cut", steps=40)
    assert [r["step"] for r in second.run()] == [30, 40]
    for (name, a), (_, b) in zip(
        whole.averaged.state_dict().items(), second.averaged.state_dict().items(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-6), name
    assert [r["step"] for r in second.history] == [10, 20, 30, 40]


def test_a_checkpoint_of_another_training_is_refused(samples: Samples, tmp_path: Path) -> None:
    list(trainer(samples, tmp_path, steps=10).run())
    with pytest.raises(ConfigError, match="belongs to another training"):
        list(trainer(samples, tmp_path, steps=20).run())
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="delete it to start anew"):
        list(trainer(samples, tmp_path, steps=10).run())


def test_conditions_of_one_kind_can_be_left_out(samples: Samples, tmp_path: Path) -> None:
    only = trainer(samples, tmp_path, steps=1, conditions="fit")
    assert set(only.training.source.tolist()) == {0, 2}
    with pytest.raises(ConfigError, match=r"expected some of noise,fit,network, got .blur."):
        TrainConfig(conditions="blur")


def test_the_command_makes_weights_that_the_repair_takes(folder: Path, tmp_path: Path, capfd) -> None:
    arguments = ["train", "diffusion", "--data", str(folder), "--shards", "2", "--anywhere", "1"]
    arguments += ["--meeting", "1", "--tries", "2"]
    arguments += ["--steps", "4", "--every", "2", "--batch", "8", "--out", str(tmp_path), "--json"]
    # The command's own data settings differ in how many conditions are made of each pair.
    recipe = json.loads((folder / "recipe.json").read_text())
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    (data / "recipe.json").write_text(json.dumps(recipe | {"noisy": DataConfig().noisy, "fitted": DataConfig().fitted}))
    arguments[3] = str(data)
    assert main(arguments) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["step"] == 4 and Path(result["weights"]).exists()
    trained = load(tmp_path, HANDS)
    assert trained.name == "a2p_diffusion_lite"
    assert trained.card["data"]["synthetic"] is True and trained.card["data"]["clean_pairs"]
    assert trained.card["training"]["steps"] == 4 and trained.card["training_seconds"] > 0
    assert PairRepair(HANDS, InteractionConfig(weights=str(tmp_path))).model_id == "a2p_diffusion_lite"
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[1] > 2 * picture.shape[0] and float(np.std(picture)) > 5
    # Again: nothing left to do, and the same end.
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out.strip().splitlines()[-1])["loss"] == result["loss"]
