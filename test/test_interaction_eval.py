"""The evaluation of repairs: metrics on hands moved by known amounts, and whole runs on a few conditions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from a2p_ros import cli
from a2p_ros.camera import CameraModel
from a2p_ros.commands import evaluate_interactions
from a2p_ros.config import InteractionConfig
from a2p_ros.errors import A2PError, ConfigError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.torch_threads import single_thread
from a2p_ros.training import interaction_eval, interaction_metrics
from a2p_ros.training.conditions import Conditions
from a2p_ros.training.interaction_bars import bars
from a2p_ros.training.interaction_eval import EvalConfig, Found, Method, evaluate, summary
from a2p_ros.training.interaction_jitter import jitter
from a2p_ros.training.interaction_metrics import COUNTS, METRICS, Contact, PairMeasures
from a2p_ros.training.penetration import BooleanError
from a2p_ros.types import Pair, Side

HANDS = load_hand_models()
MESHES = Pair(CollisionMesh.from_model(HANDS.left), CollisionMesh.from_model(HANDS.right))
CAMERA = CameraModel.assume(640, 480, 1.05)
KIND = "hand_on_back"
NEVER = Method(InteractionConfig(max_move=0.0), use_model=False)
METHODS = {"gradient_only": Method(InteractionConfig(), use_model=False), "rejected_always": NEVER}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with single_thread():
        yield


def palms(gap: float, turn: np.ndarray | None = None, place: tuple[float, float, float] = (0.0, 0.0, 0.6)) -> HandPairs:
    """Flat hands palm to palm, ``gap`` [m] between the palms' lowest points, turned and moved as a whole."""
    flat = torch.eye(3).repeat(1, 16, 1, 1)
    zero = torch.zeros(1, 10)
    # The right palm faces -y; the left hand is turned upside down and set below it, fingers alike.
    over = torch.tensor(Rotation.from_euler("z", 180, degrees=True).as_matrix()).float()
    left = flat.clone()
    left[:, 0] = over
    rest = HANDS.left.forward(zero, left, torch.zeros(1, 3))
    right = HANDS.right.forward(zero, flat, torch.zeros(1, 3))
    shift = right.joints[:, 0] - rest.joints[:, 0]
    shift[:, 1] = right.vertices[..., 1].amin() - rest.vertices[..., 1].amax() - gap
    whole = torch.eye(3) if turn is None else torch.tensor(turn).float()
    moved = []
    for model, move in ((HANDS.left, shift), (HANDS.right, torch.zeros(1, 3))):
        wrist = model.with_shape(zero).joints[:, 0]
        moved.append(wrist @ whole.T + move @ whole.T + torch.tensor([place]) - wrist)
    rotations = Pair(*(torch.cat([(whole @ r[:, 0])[:, None], r[:, 1:]], 1) for r in (left, flat)))
    return HandPairs(Pair(zero, zero), rotations, Pair(*moved), (KIND,))


def pixels(pairs: HandPairs) -> Pair[torch.Tensor]:
    both = pairs.forward(HANDS)
    return Pair(*(torch.tensor(CAMERA.project(h.joints[0].double().numpy()))[None] for h in (both.left, both.right)))


def conditions(truth: HandPairs) -> Conditions:
    seen, ones = pixels(truth), Pair(torch.ones(1, 21), torch.ones(1, 21))
    return Conditions(truth, truth, torch.zeros(1, dtype=torch.long), CAMERA, seen, seen, ones)


def measured(truth: HandPairs, answer: HandPairs) -> dict[str, float]:
    values, failed = PairMeasures(HANDS, MESHES, conditions(truth)).of(answer, pixels(answer))[0]
    assert failed == ""
    return values


def moved_left(pairs: HandPairs, by: tuple[float, float, float]) -> HandPairs:
    return HandPairs(
        pairs.betas, pairs.rotations, Pair(pairs.transl.left + torch.tensor([by]), pairs.transl.right), pairs.kinds
    )


def test_the_truth_itself_is_without_error() -> None:
    found = measured(palms(0.0005), palms(0.0005))
    assert tuple(found) == (*METRICS, *COUNTS.values()) and found["contact_vertices"] > 5 <= found["contact_pairs"]
    assert found["penvol_cm3"] == 0 and found["pendist_max_mm"] == 0
    assert max(found[name] for name in ("mpjpe_mm", "mrrpe_mm", "mrrpe_aligned_mm", "reprojection_px")) < 1e-3
    assert found["reprojection_fitted_px"] < 0.01
    assert found["contact_kept"] == found["contact_pairs_kept"] == found["contact_hands_kept"] == 1.0


def test_a_hand_moved_by_a_known_way_is_off_by_that() -> None:
    truth = palms(0.0005)
    found = measured(truth, moved_left(truth, (0.006, 0.0, 0.008)))
    assert found["mrrpe_mm"] == found["mrrpe_aligned_mm"] == pytest.approx(10.0, abs=1e-3)
    assert found["mpjpe_mm"] < 1e-3
    # Half of the joints are off, by 6 mm across the view, and 8 mm farther than 0.6 m.
    assert found["reprojection_px"] == pytest.approx(CAMERA.fx * 0.006 / 0.608 / 2, rel=0.25)


def test_alignment_takes_a_turn_of_the_whole_pair_out() -> None:
    turn = Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix()
    found = measured(palms(0.0005), palms(0.0005, turn))
    assert found["mrrpe_aligned_mm"] < 1e-2 and found["mrrpe_mm"] > 1.0 and found["mpjpe_mm"] > 5.0


@pytest.mark.parametrize(("parted", "kept", "hands"), [(0.002, 1.0, 1.0), (0.020, 0.0, 0.0), (-0.003, 1.0, 1.0)])
def test_contact_is_kept_on_either_side_of_the_surface_and_lost_with_distance(
    parted: float, kept: float, hands: float
) -> None:
    truth = palms(0.0005)
    found = measured(truth, moved_left(truth, (0.0, -parted, 0.0)))
    assert found["contact_hands_kept"] == hands
    assert found["contact_kept"] == kept
    assert (found["penvol_cm3"] > 0) == (parted < 0)


def test_contact_distances_are_those_to_the_surface() -> None:
    both = palms(-0.002).forward(HANDS)
    vertices = Pair(both.left.vertices[0], both.right.vertices[0])
    found = Contact.of(MESHES, vertices)
    for side, other in ((Side.LEFT, Side.RIGHT), (Side.RIGHT, Side.LEFT)):
        solid = trimesh.Trimesh(vertices[other].double().numpy(), MESHES[other].faces.numpy(), process=False)
        near = np.flatnonzero(np.abs(vertices[side][:, 1].numpy() - vertices[other][:, 1].numpy().mean()) < 0.05)
        away = trimesh.proximity.closest_point_naive(solid, vertices[side][near].double().numpy())[1]
        assert set(near[away <= 0.002]) == set(found.touching[side].tolist()) != set()
    apart = np.linalg.norm(vertices.left.numpy()[:, None] - vertices.right.numpy()[None], axis=-1)
    expected = set(zip(*(index.tolist() for index in np.nonzero(apart <= 0.0025)), strict=True))
    assert set(zip(*(index.tolist() for index in found.pairs), strict=True)) == expected != set()


def test_the_strict_reading_of_contact_sees_a_hand_that_slides_along_the_other() -> None:
    truth = palms(0.0005)
    slid = measured(truth, moved_left(truth, (0.0065, 0.0, 0.0)))
    assert slid["contact_pairs_kept"] < 0.3 < slid["contact_kept"]


def test_a_pair_moved_as_a_whole_is_fitted_back_to_the_image() -> None:
    truth = palms(0.0005)
    by = torch.tensor([[0.02, -0.01, 0.05]])
    away = HandPairs(truth.betas, truth.rotations, Pair(truth.transl.left + by, truth.transl.right + by), truth.kinds)
    found = measured(truth, away)
    assert found["reprojection_px"] > 10 and found["reprojection_fitted_px"] < 0.01
    # What is wrong between the hands stays wrong: they are moved as one body.
    parted = measured(truth, moved_left(truth, (0.02, 0.0, 0.0)))
    assert parted["reprojection_fitted_px"] == pytest.approx(CAMERA.fx * 0.02 / 0.6 / 2, rel=0.3)


def test_hands_that_do_not_touch_in_truth_have_no_contact_to_keep() -> None:
    found = measured(palms(0.03), palms(0.03))
    assert math.isnan(found["contact_kept"]) and math.isnan(found["contact_pairs_kept"])


@pytest.fixture(scope="module")
def found() -> Found:
    return evaluate(EvalConfig(n=4, seed=1, kinds=(KIND,), others=False, pictures=2), METHODS, workers=1)


def rows(found: Found, method: str) -> list[dict[str, Any]]:
    return [r for r in found.rows if r["method"] == method]


def test_half_of_the_conditions_are_noise_of_six_millimetres(found: Found) -> None:
    before = rows(found, "before")
    assert sorted(r["source"] for r in before) == ["fit", "fit", "noise", "noise"]
    assert all(5 < r["mpjpe_mm"] < 7 for r in before if r["source"] == "noise")
    assert all(r["penvol_cm3"] > 0 and r["pendist_max_mm"] >= 1 and r["kind"] == KIND for r in before)
    assert len(found.meshes) == 0, "without `after` there is nothing to show"


def test_descent_parts_what_is_not_rejected(found: Found) -> None:
    before, after = rows(found, "before"), rows(found, "gradient_only")
    taken = [(b, a) for b, a in zip(before, after, strict=True) if not a["rejected"]]
    assert taken and sum(a["penvol_cm3"] for _, a in taken) < 0.3 * sum(b["penvol_cm3"] for b, _ in taken)
    assert all(a["pair"] == b["pair"] for b, a in zip(before, after, strict=True))


def test_a_rejected_repair_counts_as_the_condition_stands(found: Found) -> None:
    for before, after in zip(rows(found, "before"), rows(found, "rejected_always"), strict=True):
        assert after["rejected"] and not after["repaired"]
        assert [after[m] for m in METRICS] == pytest.approx([before[m] for m in METRICS], abs=1e-6, nan_ok=True)


def test_other_processes_give_the_same(found: Found) -> None:
    methods = {"gradient_only": METHODS["gradient_only"]}
    config = EvalConfig(n=2, seed=2, kinds=("pointing_at_palm",), others=False)
    one, two = (evaluate(config, methods, workers=workers) for workers in (1, 2))
    assert len(one.rows) == len(two.rows) == 4
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["pair"] == b["pair"]
        assert [a[m] for m in METRICS] == pytest.approx([b[m] for m in METRICS], rel=1e-4, abs=1e-4, nan_ok=True)


def row(method: str, pair: str, source: str, failed: str = "", **changes: float) -> dict[str, Any]:
    values = dict.fromkeys((*METRICS, *COUNTS.values()), 1.0) | changes
    level = {"noise": 6.0, "fit": 0.0, "level": 10.0}[source]
    about = {"method": method, "pair": pair, "source": source, "level_mm": level, "kind": pair.split()[0]}
    return about | {"repaired": True, "rejected": False, "failed": failed} | values


def test_summary_takes_ratios_of_means_and_leaves_out_what_was_not_measured() -> None:
    made = Found(
        [
            row("before", "a 1", "noise", penvol_cm3=1.0, contact_kept=math.nan),
            row("before", "b 1", "fit", penvol_cm3=9.0, contact_kept=0.5),
            row("before", "a 2", "level", penvol_cm3=100.0),
            row("after", "a 1", "noise", penvol_cm3=1.0),
            row("after", "b 1", "fit", penvol_cm3=1.0),
            row("after", "a 2", "level", penvol_cm3=50.0),
        ],
        clean=[(0.1, 0.5, 0.0), (0.3, 0.7, 0.1)],
    )
    result = summary(made, ["after"])
    assert result["n"] == 2 and result["before"]["penvol_cm3"] == 5.0 and result["before"]["contact_kept"] == 0.5
    assert result["ratios"]["after"]["penvol_cm3"] == pytest.approx(0.2), "not the mean of 1 and 1/9"
    assert set(result["by_kind"]) == {"a", "b"} and set(result["by_source"]) == {"fit", "noise"}
    assert result["by_level"]["10.0"]["after"]["penvol_cm3"] == 50.0 and "0.0" not in result["by_level"]
    assert result["clean_change_mm"] == pytest.approx(0.2) and result["clean_change_largest_mm"] == pytest.approx(0.6)
    assert result["clean_change_max_mm"] == 0.3 and result["clean_change_accepted_mm"] == pytest.approx(0.05)


def test_contacts_count_one_by_one() -> None:
    rows = [row("after", "a", "fit", contact_kept=1.0, contact_vertices=30), row("after", "b", "fit", contact_kept=0.0)]
    rows[1]["contact_vertices"] = 10
    assert summary(Found(rows), ["after"])["after"]["contact_kept"] == pytest.approx(0.75)


def test_gains_are_of_the_same_conditions() -> None:
    before = [row("before", name, "fit", mpjpe_mm=value) for name, value in (("a", 5.0), ("b", 9.0), ("c", 4.0))]
    after = [row("after", name, "fit", mpjpe_mm=value) for name, value in (("c", 2.0), ("a", 4.0), ("b", 6.0))]
    found = summary(Found(before + after), ["after"])["gain"]["after"]["mpjpe_mm"]
    assert found == pytest.approx({"mean": 2.0, "error": np.std([1, 3, 2], ddof=1) / 3**0.5})


def test_a_condition_whose_volume_failed_is_in_no_mean_of_any_method() -> None:
    made = Found(
        [
            row("before", "a", "fit", penvol_cm3=3.0),
            row("before", "b", "fit", penvol_cm3=5.0),
            row("after", "a", "fit", penvol_cm3=1.0),
            row("after", "b", "fit", failed="the boolean intersection failed", penvol_cm3=math.nan),
        ]
    )
    result = summary(made, ["after"])
    assert result["n"] == 1 and result["failed_booleans"] == 1
    assert result["failed_pairs"] == {"b": "after: the boolean intersection failed"}
    assert result["before"]["penvol_cm3"] == 3.0 and result["after"]["penvol_cm3"] == 1.0


def test_a_volume_that_fails_is_an_error_with_a_name_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise BooleanError("pair 0: the boolean intersection failed")

    monkeypatch.setattr(interaction_metrics, "penetration_metrics", fails)
    truth = palms(-0.002)
    values, failed = PairMeasures(HANDS, MESHES, conditions(truth)).of(truth, pixels(truth))[0]
    assert failed == "the boolean intersection failed" and math.isnan(values["penvol_cm3"])


def test_more_than_one_in_twenty_failed_volumes_end_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def piece(_: object, config: EvalConfig, kind: str, number: int, tries: int) -> Found:
        failed = ["no solid"] * bad + [""] * (20 - bad)
        return Found([row("before", f"{kind} {i} {s}", s, failed[i]) for i in range(20) for s in ("noise", "fit")])

    monkeypatch.setattr(interaction_eval.Evaluator, "piece", piece)
    bad = 1
    assert summary(evaluate(EvalConfig(n=40, kinds=(KIND,)), {}, workers=1), [])["failed_booleans"] == 2
    bad = 2
    with pytest.raises(A2PError, match=r"for 4 conditions.*the first is hand_on_back 0 noise: before: no solid"):
        evaluate(EvalConfig(n=40, kinds=(KIND,)), {}, workers=1)


def test_a_kind_that_gives_nothing_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction_eval.Evaluator, "piece", lambda *_: Found())
    with pytest.raises(Exception, match=r"kind fists: 20 times 12 tries gave no penetrating conditions"):
        evaluate(EvalConfig(n=4, kinds=("fists",)), {}, workers=1)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the command that measures nothing."""

    def answer(config: EvalConfig, methods: dict[str, Method], *_: object) -> Found:
        names = ["before", *methods]
        return Found(
            [row(m, f"{k} {s}", s) for m in names for k in config.kinds for s in ("noise", "fit", "level")],
            [(0.2, 0.4, 0.1)],
            model_id="scripted",
        )

    monkeypatch.setattr(interaction_eval, "evaluate", answer)


@pytest.mark.usefixtures("scripted")
def test_the_command_keeps_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "interactions", "--n", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    keys = "penvol_cm3 pendist_mean_mm pendist_max_mm iv_cm3 mpjpe_mm mrrpe_mm contact_kept".split()
    for method in ("before", "after", "gradient_only", "model_only"):
        assert set(keys) <= set(result[method])
    assert result["n"] == 6 and result["clean_change_mm"] == 0.2 and result["model_id"] == "scripted"
    assert len(result["by_kind"]) == 3 and all("after" in part for part in result["by_kind"].values())


@pytest.mark.usefixtures("scripted")
def test_the_command_says_what_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "interactions", "--n", "6", "--kinds", "fists,clap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (parted,) = (line for line in lines if "PenVol, before over after" in line)
    assert parted.split()[-5:] == ["1.000", "at", "least", "7.000", "NO"]
    (accurate,) = (line for line in lines if "MPJPE [mm]; before" in line)
    assert accurate.split()[-4:] == ["1.000", "below", "1.000", "NO"], "as good is not better"
    (kept,) = (line for line in lines if "contact kept, of touching vertices" in line)
    assert kept.endswith("yes") and any("by source" in line for line in lines)
    assert cli.main(["eval", "interactions", "--n", "6", "--ablation"]) == 0
    text = capsys.readouterr().out
    assert "start condition, 0.3, 3 steps" in text and "no model, 20 steps of descent" in text


def test_bars_are_met_only_by_numbers_that_reach_them() -> None:
    good = dict.fromkeys(METRICS, 1.0)
    result = {
        "before": good | {"penvol_cm3": 7.0, "pendist_mean_mm": 4.0, "mpjpe_mm": 1.1, "mrrpe_mm": 1.1},
        "after": good,
        "gradient_only": good | {"mpjpe_mm": 1.05},
        "clean_change_mm": 1.0,
    }
    result["before"]["mrrpe_aligned_mm"] = 1.1
    assert all(bar.met for bar in bars(result)) and len(bars(result)) == 12
    worse = result | {"after": good | {"penvol_cm3": 1.001, "contact_kept": 0.899, "mpjpe_mm": math.nan}}
    failing = {bar.name for bar in bars(worse) if not bar.met}
    assert failing == {
        "PenVol, before over after",
        "PenVol [cm^3]; descent alone",
        "contact kept, of touching vertices",
        "MPJPE [mm]; before",
        "MPJPE [mm]; descent alone",
    }


def test_the_stage_takes_of_a_clean_pair_only_what_parts_it() -> None:
    evaluator = interaction_eval.Evaluator(HANDS, {"after": Method(InteractionConfig())})
    clean = HandPairs.joined([palms(0.02), palms(-0.0004)])
    (apart, touching) = evaluator._clean_change(clean, evaluator._open, torch.Generator().manual_seed(0))
    assert max(apart) < 1e-3
    mean, most, accepted = touching
    assert 0 < mean < most < 3.0 and accepted == pytest.approx(mean, rel=0.05)


def test_the_ablation_changes_one_factor_at_a_time() -> None:
    made = interaction_eval.ablation_methods(InteractionConfig())
    default = made["default"]
    for name, method in made.items():
        changed = [
            a.name
            for one, other in ((default.config, method.config), (default.guidance, method.guidance))
            for a in dataclasses.fields(one)
            if getattr(one, a.name) != getattr(other, a.name)
        ]
        together = {("steps", "start"), ("start", "strength"), ("loss", "against")}
        assert len(changed) <= 1 or tuple(changed) in together, name
    assert {m.config.steps for m in made.values()} == {1, 2, 3, 5, 10}
    assert {m.guidance.iterations for m in made.values()} == {1, 2, 3, 4, 8, 20}
    assert {m.image for m in made.values()} == {"seen", "unsure", "nothing"}


def test_jitter_is_measured_on_hands_that_jitter() -> None:
    evaluator = interaction_eval.Evaluator(HANDS, {"after": Method(InteractionConfig())})
    stage = evaluator.stages["after"]
    repaired = jitter(evaluator.generator, stage, KIND, frames=12)
    assert repaired.repaired > 0.5 and repaired.switched_on == 1
    assert 1.0 < repaired.before_mm < 20.0 and repaired.after_mm > 0.0
    stage.update(dataclasses.replace(stage.config, enabled=False))
    left_alone = jitter(evaluator.generator, stage, KIND, frames=12)
    assert left_alone.ratio == 1.0 and left_alone.switched_on == 0
    assert left_alone.before_mm == repaired.before_mm


def test_what_cannot_be_evaluated_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "interactions", "--kinds", "juggling"]) == cli.FAILED
    assert "expected some of palm_to_palm" in capsys.readouterr().err
    assert cli.main(["eval", "interactions", "--n", "1"]) == cli.FAILED
    assert cli.main(["eval", "interactions", "--workers", "-1"]) == cli.FAILED
    assert cli.main(["eval", "interactions", "--n", "2", "--weights", "/nowhere", "--workers", "2"]) == cli.FAILED
    assert "/nowhere" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"kinds: expected some of .*, got none"):
        EvalConfig(kinds=())
    assert evaluate_interactions.kinds_of("held-out") != evaluate_interactions.kinds_of("all")
