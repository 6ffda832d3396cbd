"""Training of the network on a few drawn frames: losses, stages, going on, distillation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_frames import drawn, shard_of
from made_hands import MODELS

from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.network.backbone import make_backbone, read_imagenet
from a2p_ros.network.config import LITE, NetworkConfig
from a2p_ros.network.efficientnet import EfficientNetLite0
from a2p_ros.network.fusion import FusionAlignmentEncoder, Projection
from a2p_ros.network.geometry import union_view
from a2p_ros.network.model import A2PNetwork, HandOutputs
from a2p_ros.network.sapiens import CachedPrior, SapiensEncoder, SapiensPrior, SapiensSize
from a2p_ros.network.teachers import Priors, Teacher, load_teachers, save_teachers
from a2p_ros.training.fae import curves
from a2p_ros.training.fae.augment import AugmentConfig
from a2p_ros.training.fae.batches import Batch, Slots, make_batch
from a2p_ros.training.fae.config import LossWeights, StageConfig, TrainConfig
from a2p_ros.training.fae.losses import distillation_loss, hand_losses, heat_loss
from a2p_ros.training.fae.objectives import NetworkObjective, TeacherObjective, placed_together, variance
from a2p_ros.training.fae.packing import PackConfig, PackedCrops, pack, read_packed
from a2p_ros.training.fae.training import FaeTraining
from a2p_ros.training.fae.validation import Score, overlay
from a2p_ros.training.imagenet import efficientnet_file
from a2p_ros.types import Side

RIGHT = MODELS[Side.RIGHT]
COUNT = 26
PACK = PackConfig(edge=64, map_edge=52)
SMALL = NetworkConfig(
    backbone="resnet18",
    width=16,
    last_width=32,
    token_dim=32,
    fusion_layers=1,
    fusion_heads=2,
    joint_features=16,
    relative_features=16,
    resolution=64,
    prior_channels=32,
)
TRAIN = TrainConfig(
    steps=10,
    teacher_steps=4,
    distillation=0.4,
    batch=8,
    rate=2e-3,
    precision="float32",
    ema=0.9,
    resolution=48,
    low=32,
    low_share=0.5,
    middle=32,
    middle_share=0.0,
    every=2,
    validation=8,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard_of(tmp_path_factory.mktemp("shards"), COUNT)


@pytest.fixture(scope="module")
def packed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedCrops:
    folder = tmp_path_factory.mktemp("packed")
    list(pack(shards, folder, PACK))
    return read_packed(shards, folder, PACK)


@pytest.fixture(scope="module")
def batch(packed: PackedCrops) -> Batch:
    slots = Slots(packed, 1.0, 0.0).in_order()[:6]
    rngs = [np.random.default_rng(i) for i in range(len(slots))]
    return make_batch(packed, slots, rngs, 64, AugmentConfig.tracked(), maps=True)


def training(packed: PackedCrops, folder: Path, network: NetworkConfig = SMALL, **changes: object) -> FaeTraining:
    config = replace(TRAIN, **changes)  # type: ignore[arg-type]
    parts = packed.split()
    return FaeTraining(*parts, network, config, LossWeights(), AugmentConfig(), RIGHT, folder)


def run_all(made: FaeTraining) -> list[tuple[str, int]]:
    return [(stage, record["step"]) for stage in made.steps for record in made.run_stage(stage)]


def truth(batch: Batch) -> HandOutputs:
    """Outputs that are right: heat maps with one cell on, parameters as labelled."""
    n = len(batch)
    heat = torch.full((n, 21, 8, 16, 16), -20.0)
    cells = ((batch.keypoints + 0.5) * 16).long().clamp(0, 15)
    planes = ((batch.joints[..., 2] / 0.4 + 0.5) * 8).long().clamp(0, 7)
    heat[torch.arange(n)[:, None], torch.arange(21), planes, cells[..., 1], cells[..., 0]] = 20.0
    return HandOutputs(
        heat=heat,
        keypoints=batch.keypoints.clone(),
        depth=batch.joints[..., 2].clone(),
        rotations=batch.rotations.clone(),
        betas=batch.betas.clone(),
        weak_camera=torch.tensor([[1.0, 0, 0]]).repeat(n, 1),
        joint_confidence=torch.full((n, 21), 20.0),
        presence=torch.full((n,), 20.0),
        as_assumed=torch.full((n,), 20.0),
        aligned=None,
    )


def test_the_truth_has_no_loss(batch: Batch) -> None:
    parts = hand_losses(truth(batch), batch, RIGHT, 0.2, LossWeights())
    # The weak camera cannot be exact, and heat maps are asked for Gaussians, not for one cell.
    for name in set(parts) - {"camera", "heat"}:
        assert float(parts[name]) < 2e-3, name


def test_each_part_answers_for_its_own(batch: Batch) -> None:
    def parts_with(**changes: torch.Tensor) -> dict[str, float]:
        parts = hand_losses(replace(truth(batch), **changes), batch, RIGHT, 0.2, LossWeights())
        return {name: float(part) for name, part in parts.items()}

    right = parts_with()
    turned = batch.rotations.clone()
    turned[:, 5] = turned[:, 5] @ torch.tensor([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    for name, changes, touched in (
        ("keypoints", {"keypoints": batch.keypoints + 0.1}, {"keypoints", "confidence"}),
        ("depth", {"depth": batch.joints[..., 2] + 0.03}, {"depth"}),
        ("rotations", {"rotations": turned}, {"rotations", "joints", "mesh", "camera"}),
        ("presence", {"presence": torch.full((len(batch),), -3.0)}, {"presence"}),
        ("side", {"as_assumed": torch.full((len(batch),), -3.0)}, {"side"}),
    ):
        found = parts_with(**changes)
        assert {key for key in found if abs(found[key] - right[key]) > 1e-4} == touched, name
    assert parts_with(keypoints=batch.keypoints + 0.1)["keypoints"] == pytest.approx(0.8, rel=1e-3)  # cells of 8


def test_crops_without_a_hand_or_mirrored_wrongly_teach_only_that(batch: Batch) -> None:
    outputs = replace(truth(batch), keypoints=batch.keypoints + 0.2, rotations=batch.rotations.flip(-1))
    none = replace(batch, hand=torch.zeros(len(batch), dtype=bool))
    wrong = replace(batch, as_assumed=torch.zeros(len(batch), dtype=bool))
    for case, taught in ((none, {"presence"}), (wrong, {"side"})):
        parts = hand_losses(outputs, case, RIGHT, 0.2, LossWeights())
        assert {name for name, part in parts.items() if float(part) > 1e-3} == taught


def test_the_side_is_learnt_without_presuming_any(batch: Batch) -> None:
    """Of ten crops one is mirrored wrongly: to say nothing must cost less than to say that all are right."""
    ten = [i % len(batch) for i in range(10)]
    some = Batch(*(v if n in ("pair", "relative") else v[ten] for n, v in vars(batch).items()))
    some = replace(some, hand=torch.ones(10, dtype=bool), as_assumed=torch.arange(10) > 0)

    def loss(logit: float) -> float:
        outputs = replace(truth(some), as_assumed=torch.full((10,), logit))
        return float(hand_losses(outputs, some, RIGHT, 0.2, LossWeights())["side"])

    assert loss(0.0) < loss(1.0) and loss(0.0) < loss(-1.0)


def test_heat_maps_are_pulled_to_one_place() -> None:
    """Between two places, the mean of both is worse than either."""
    place = torch.tensor([[[0.21875, 0.03125]]])
    depth, counts = torch.zeros(1, 1), torch.ones(1, 1, dtype=bool)

    def loss(*columns: int) -> float:
        heat = torch.full((1, 1, 8, 16, 16), -12.0)
        for column in columns:
            heat[..., 3:5, 8, column] = 4.0
        return float(heat_loss(heat, place, depth, counts))

    assert loss(11) < loss(11, 4) < loss(7)
    assert float(heat_loss(torch.zeros(1, 1, 8, 16, 16), place, depth, ~counts)) == 0


def test_hands_are_placed_as_at_run_time(batch: Batch) -> None:
    keypoints, depth, width = placed_together(truth(batch), batch)
    assert bool(batch.pair.any())
    frames = [drawn(n) for n in range(COUNT) if all(hand is not None for _, hand in drawn(n).hands.items())]
    for i in range(int(batch.pair.sum())):
        left, right = (hand.keypoints_px for _, hand in frames[i].hands.items())  # type: ignore[union-attr]
        view = union_view(left, right, frames[i].camera)
        np.testing.assert_allclose(keypoints[i, 0], view.keypoints(left), atol=2e-3)
        np.testing.assert_allclose(keypoints[i, 1], view.keypoints(right), atol=2e-3)
        assert float(width[i]) == pytest.approx(view.width, rel=1e-4)
    assert torch.equal(depth.flatten(0, 1), batch.joints[..., 2])


def test_score_of_the_truth(batch: Batch) -> None:
    score = Score()
    score.add(truth(batch), batch.relative, batch, RIGHT)
    result = score.result()
    assert result["mpjpe_mm"] < 0.5 and result["mrrpe_mm"] < 0.01 and result["pck_010"] == 1.0
    assert result["side_right"] == result["presence_right"] == result["confidence_right"] == 1.0
    worse = replace(truth(batch), keypoints=batch.keypoints + 0.2)
    score.add(worse, batch.relative + torch.tensor([0.02, 0, 0]), batch, RIGHT)
    assert score.result()["pck_010"] == 0.5 and score.result()["mrrpe_mm"] == pytest.approx(10, rel=1e-3)


def test_overlay_shows_the_joints(batch: Batch) -> None:
    image = overlay(batch, truth(batch), columns=4, edge=64)
    assert image.shape == (192, 256, 3)
    plain = cv2.resize(batch.pictures[0].numpy(), (64, 64))
    assert (np.abs(image[:64, :64].astype(int) - plain).sum(-1) > 60).mean() > 0.02


def network_objective(seed: int = 0, **changes: object) -> NetworkObjective:
    torch.manual_seed(seed)
    network = A2PNetwork(replace(SMALL, **changes))  # type: ignore[arg-type]
    return NetworkObjective(network, RIGHT, LossWeights())


@pytest.mark.parametrize("edge", [32, 48, 64, 96])
def test_any_multiple_of_the_stride_is_learnt(packed: PackedCrops, edge: int) -> None:
    slots = Slots(packed, 1.0, 0.0).in_order()[:2]
    small = make_batch(packed, slots, [np.random.default_rng(i) for i in range(2)], edge, AugmentConfig())
    parts = network_objective(mode="none")(small)
    assert all(bool(part.isfinite()) for part in parts.values())


def test_the_loss_falls(batch: Batch) -> None:
    objective = network_objective(mode="none")
    optimiser = torch.optim.AdamW(objective.parameters(), 3e-3)
    losses = []
    for step in range(30):
        torch.manual_seed(step)
        loss = torch.stack(list(objective(batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_teachers_learn_and_are_tapped_at_their_features(batch: Batch) -> None:
    for what in ("keypoints", "segmentation", "depth"):
        torch.manual_seed(0)
        objective = TeacherObjective(Teacher(what, SMALL))
        optimiser = torch.optim.AdamW(objective.parameters(), 3e-3)
        losses = []
        for _ in range(12):
            loss = objective(batch)["maps"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0], what
        teacher = objective.teacher.eval().requires_grad_(False)
        seen: list[int] = []
        hook = teacher.maps.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        tokens = teacher(batch.pictures, 4)
        hook.remove()
        assert tokens.shape == (len(batch), 16, teacher.width) and not seen  # its maps are not even made
        features = teacher.features(batch.pictures.permute(0, 3, 1, 2).float() / 255 * 4 - 2)
        assert features.shape[1:] == (32, 4, 4)
        assert not tokens.requires_grad
        other = teacher(batch.pictures.flip(2), 4)
        assert not torch.allclose(tokens, other)  # of the picture, not of the labels


def test_the_target_of_the_distillation_does_not_collapse(batch: Batch) -> None:
    """Without a stop-gradient, and a scale that is free, both sides shrink to a constant; with it they do not."""

    def trained(stop: bool) -> float:
        torch.manual_seed(0)
        student = FusionAlignmentEncoder(SMALL)
        project = torch.nn.Linear(32, 32)
        features = torch.randn(len(batch), 16, 32)
        crops = batch.pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        optimiser = torch.optim.AdamW([*student.parameters(), *project.parameters()], 1e-2)
        before = float(variance(project(features)))
        for _ in range(60):
            target = project(features)
            loss = distillation_loss(student(crops), target) if stop else (student(crops) - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(variance(project(features))) / before

    assert trained(stop=True) > 0.9 > 0.3 > trained(stop=False)


def test_distillation_moves_the_student_alone(batch: Batch) -> None:
    torch.manual_seed(0)
    priors = Priors({name: Teacher(name, SMALL).eval() for name in SMALL.priors}).requires_grad_(False)
    network = A2PNetwork(replace(SMALL, mode="foundation"))
    weights = LossWeights(**(dict.fromkeys(LossWeights.__dataclass_fields__, 0.0) | {"distillation": 1.0}))
    objective = NetworkObjective(network, RIGHT, weights, priors, student=FusionAlignmentEncoder(SMALL))
    objective(batch)["distillation"].backward()
    moved = {name for name, p in objective.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert moved and all(name.startswith("student.") for name in moved)
    figures = objective.eval().distillation(batch)
    assert figures["variance"] > 0.2  # the norm after Proj holds it, whatever Proj does
    assert not any(name.startswith("_frozen") or "encoders" in name for name in objective.state_dict())


def test_the_last_stage_may_go_on_distilling(batch: Batch) -> None:
    torch.manual_seed(0)
    priors = Priors({name: Teacher(name, SMALL).eval() for name in SMALL.priors}).requires_grad_(False)
    teacher = Projection(SMALL).requires_grad_(False)

    def parts(share: float) -> set[str]:
        made = NetworkObjective(A2PNetwork(SMALL), RIGHT, LossWeights(), priors, teacher=teacher, distil_share=share)
        return set(made(batch))

    assert "distillation" in parts(1.0) and "distillation" not in parts(0.0)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("none", []),
        ("distilled", ["teacher_keypoints", "teacher_segmentation", "teacher_depth", "distillation"]),
        ("foundation", ["teacher_keypoints", "teacher_segmentation", "teacher_depth"]),
    ],
)
def test_stages_share_one_budget(packed: PackedCrops, tmp_path: Path, mode: str, names: list[str]) -> None:
    made = training(packed, tmp_path, replace(SMALL, mode=mode))  # type: ignore[arg-type]
    assert list(made.steps) == [*names, "end_to_end"]
    assert sum(steps for name, steps in made.steps.items() if not name.startswith("teacher_")) == 10


def test_resolutions_are_those_of_the_whole(tmp_path: Path) -> None:
    config = replace(TRAIN, steps=100, low_share=0.5, middle_share=0.3, middle=48, resolution=64)
    first, last = config.stage("distillation", 0.0, 0.2), config.stage("end_to_end", 0.2, 1.0)
    edges = [first.resolution_at(s) for s in range(first.steps)] + [last.resolution_at(s) for s in range(last.steps)]
    assert edges == [32] * 50 + [48] * 30 + [64] * 20


def test_all_resnets_begin_with_imagenet(packed: PackedCrops, tmp_path: Path) -> None:
    """One step at no rate leaves the first weights, and another file is another training."""
    torch.manual_seed(11)
    given = make_backbone(SMALL).state_dict() | {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    config = replace(TRAIN, steps=1, teacher_steps=1, every=1, distillation=0.0, rate=0.0, decay=0.0)
    network = replace(SMALL, keypoints=False, segmentation=False)
    parts = (
        *packed.split(),
        network,
        replace(config, teacher_steps=1),
        LossWeights(),
        AugmentConfig(),
        RIGHT,
        tmp_path,
    )
    made = FaeTraining(*parts, imagenet=given)
    run_all(made)
    assert made.averaged is not None and made.averaged.hand.fae is not None
    for backbone in (made.averaged.hand.backbone, made.averaged.hand.fae.backbone, made.teachers["depth"].backbone):
        for name, value in backbone.named_parameters():
            assert torch.equal(value, given[name]), name
    with pytest.raises(ConfigError, match="belongs to another training"):
        run_all(FaeTraining(*parts))


def test_first_blocks_stay_as_imagenet_taught_them(packed: PackedCrops, tmp_path: Path) -> None:
    """In the network, its FAE and the teachers, also where a stage takes over from the one before."""
    given = EfficientNetLite0()
    given.load_imagenet(released := read_imagenet(efficientnet_file()))
    network = replace(LITE, segmentation=False, depth=False, resolution=64, token_dim=32, joint_features=16)
    config = replace(TRAIN, steps=4, teacher_steps=1, distillation=0.5, resolution=64, middle=64, low=64, frozen=3)
    parts = (*packed.split(), network, config, LossWeights(), AugmentConfig(), RIGHT, tmp_path)
    made = FaeTraining(*parts, imagenet=released)
    run_all(made)
    assert made.averaged is not None and made.averaged.hand.fae is not None
    for backbone in (made.averaged.hand.backbone, made.averaged.hand.fae.backbone, made.teachers["keypoints"].backbone):
        for name, value in backbone.state_dict().items():
            frozen = name.startswith(("_conv_stem", "_bn0", "_blocks.0.", "_blocks.1.", "_blocks.2."))
            assert torch.equal(value, given.state_dict()[name]) or not frozen, name
        for name in ("_blocks.3._expand_conv.weight", "_blocks.15._project_conv.weight", "_blocks.9._bn1.running_var"):
            assert not torch.equal(backbone.state_dict()[name], given.state_dict()[name]), name


def test_a_run_with_frozen_blocks_goes_on_where_it_was_cut_off(packed: PackedCrops, tmp_path: Path) -> None:
    released = read_imagenet(efficientnet_file())
    network = replace(LITE, segmentation=False, depth=False, resolution=64, token_dim=32, joint_features=16)
    config = replace(TRAIN, steps=4, teacher_steps=4, distillation=0.0, batch=4, resolution=64, middle=64, low=64)

    def begin(folder: str, weights: dict[str, torch.Tensor] = released) -> FaeTraining:
        parts = (*packed.split(), network, config, LossWeights(), AugmentConfig(), RIGHT, tmp_path / folder)
        return FaeTraining(*parts, imagenet=weights)

    run_all(whole := begin("whole"))
    for stage in whole.steps:  # each anew, after two of its four steps
        cut = begin("cut")
        for name in list(cut.steps)[: list(cut.steps).index(stage)]:
            list(cut.run_stage(name))
        run = cut.run_stage(stage)
        assert next(run)["step"] == 2
        run.close()
    run_all(cut := begin("cut"))
    assert whole.averaged is not None and cut.averaged is not None
    for (name, a), b in zip(whole.averaged.state_dict().items(), cut.averaged.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name
    others = released | {"_bn0.weight": released["_bn0.weight"] + 1}
    with pytest.raises(ConfigError, match="belongs to another training"):
        run_all(begin("cut", others))


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(packed: PackedCrops, tmp_path: Path) -> None:
    whole = training(packed, tmp_path / "whole")
    stages = run_all(whole)
    assert stages[:2] == [("teacher_keypoints", 2), ("teacher_keypoints", 4)]
    assert [stage for stage, _ in stages[-5:]] == ["distillation"] * 2 + ["end_to_end"] * 3
    cut = training(packed, tmp_path / "cut", workers=2)
    for stage in list(cut.steps)[:-1]:
        list(cut.run_stage(stage))
    run = cut.run_stage("end_to_end")
    assert [next(run)["step"], next(run)["step"]] == [2, 4]
    run.close()
    other = training(packed, tmp_path / "cut", seed=9)
    with pytest.raises(ConfigError, match="belongs to another training"):
        run_all(other)
    again = training(packed, tmp_path / "cut")
    for stage in again.steps:  # what is done is skipped
        for record in again.run_stage(stage):
            assert (stage, record["step"]) == ("end_to_end", 6)
            assert [r["step"] for r in again.history[stage]] == [2, 4, 6]
            curves.draw(again.history, tmp_path / "curves.png")
    assert whole.averaged is not None and again.averaged is not None
    for (name, a), b in zip(whole.averaged.state_dict().items(), again.averaged.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    for a, b in zip(whole.history["end_to_end"], again.history["end_to_end"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["mpjpe_mm"] == pytest.approx(b["mpjpe_mm"], rel=1e-3)
    assert again.averaged.config.mode == "distilled"
    assert {"variance", "distillation"} <= set(whole.history["distillation"][-1])
    assert (tmp_path / "whole" / "end_to_end.jpg").exists()


def test_sapiens_encoders_teach_as_the_stand_ins_do(packed: PackedCrops, tmp_path: Path) -> None:
    def begin(encoder: SapiensEncoder, digest: str) -> FaeTraining:
        cached = CachedPrior(SapiensPrior(encoder, digest, edge=32), tmp_path / "cache")
        network = replace(SMALL, segmentation=False, depth=False)
        parts = (*packed.split(), network, replace(TRAIN, steps=6), LossWeights(), AugmentConfig(), RIGHT)
        return FaeTraining(*parts, tmp_path / "made", {"keypoints": cached.requires_grad_(False)})

    torch.manual_seed(0)
    encoder = SapiensEncoder(SapiensSize(SMALL.prior_channels, 2, 4)).eval()
    made = begin(encoder, "one")
    assert run_all(made)[0][0] == "distillation" and not made.teachers
    assert made.history["distillation"][-1]["variance"] > 0.2
    assert any((tmp_path / "cache").rglob("*.npy"))
    with pytest.raises(ConfigError, match="belongs to another training"):
        run_all(begin(encoder, "another"))


def test_teachers_are_kept_and_found(tmp_path: Path, batch: Batch) -> None:
    torch.manual_seed(0)
    teachers = {name: Teacher(name, SMALL).eval() for name in ("keypoints", "depth")}
    save_teachers(tmp_path, teachers, {"commit": "x"})
    found = load_teachers(tmp_path, ["keypoints", "depth"])
    for name, teacher in teachers.items():
        assert torch.equal(found[name](batch.pictures, 4), teacher(batch.pictures, 4))
        assert found[name].key == teacher.key
    with pytest.raises(WeightsError, match="no card of the teachers segmentation"):
        load_teachers(tmp_path, ["segmentation"])
    path = tmp_path / "teacher_depth.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        load_teachers(tmp_path, ["depth"])
    with pytest.raises(ConfigError, match="one width of all features"):
        Priors({"keypoints": teachers["keypoints"], "depth": Teacher("depth", replace(SMALL, last_width=48))})


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 16, got \(64, 96, 100\)"):
        StageConfig(resolution=100)
    with pytest.raises(ConfigError, match="expected an even batch"):
        StageConfig(batch=7)
    with pytest.raises(ConfigError, match="of 1 together at most"):
        StageConfig(low_share=0.7, middle_share=0.5)
    with pytest.raises(ConfigError, match="expected one of keypoints, segmentation, depth, got 'normal'"):
        Teacher("normal", LITE)
