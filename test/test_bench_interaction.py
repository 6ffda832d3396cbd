"""``a2p bench interaction``: what is timed is what its name says, and the parts belong to the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from a2p_ros import cli
from a2p_ros.commands import bench_interaction
from a2p_ros.config import InteractionConfig
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.stage import boxes_near
from a2p_ros.training.conditions import Conditions
from a2p_ros.training.penetration import penetration_volume

HANDS = load_hand_models()


@pytest.fixture(scope="module")
def made() -> Conditions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_interaction, "_KINDS", ("pointing_at_palm",))
        return bench_interaction.penetrating_pairs(HANDS)


@pytest.fixture(scope="module")
def bench(made: Conditions) -> bench_interaction.Bench:
    return bench_interaction.Bench(HANDS, InteractionConfig(), "cpu", made)


def test_pairs_are_in_contact_near_and_apart_as_they_are_called(bench: bench_interaction.Bench) -> None:
    repair = bench.stage.repair
    for state, volume in (("contact", True), ("near", False), ("apart", False)):
        for hands in bench.pairs[state]:
            assert boxes_near(hands, bench._made.camera) == (state != "apart")
            flat = []
            for side, hand in hands.items():
                rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])
                inputs = [torch.as_tensor(x[None]).float() for x in (hand.pose.betas, rotations, hand.transl)]
                flat.append(HANDS[side](*inputs).vertices)
            vertices = type(hands)(*flat)
            assert (float(penetration_volume(repair.meshes, vertices)[0]) > 0) == volume
            with torch.no_grad():
                assert bench._gate(hands) == (state == "contact")


def test_the_parts_make_up_the_repair(bench: bench_interaction.Bench) -> None:
    result = bench.measure(repeats=2, warm_up=1)
    for name in ("gate_ms", "repair_ms", "gate_apart_ms", "gate_near_ms", "gate_contact_ms", "gate_depth_ms"):
        assert 0 < result[name]["p50"] <= result[name]["p99"], name
    parts = result["parts_ms"]
    assert parts["guidance_search"] + parts["guidance_loss_and_gradient"] == pytest.approx(parts["guidance"], rel=0.5)
    assert parts["guidance"] < 3 * parts["repair_alone"], "run step by step it takes about as long"
    assert result["gate_apart_ms"]["p50"] < result["gate_contact_ms"]["p50"] < result["repair_ms"]["p50"]
    assert result["steps"] == InteractionConfig().steps and result["device"].startswith("cpu, 1 thread")
    assert len(result["vertices_inside"]) == result["pairs"] and min(result["vertices_inside"]) > 0


def test_the_command_prints_the_contract(
    made: Conditions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_interaction, "penetrating_pairs", lambda models: made[torch.arange(1)])
    options = ["bench", "interaction", "--device", "cpu", "--repeats", "1", "--warm-up", "1"]
    assert cli.main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"gate_ms", "repair_ms", "steps", "device"} <= set(result) and result["pairs"] == 1
    assert cli.main(options) == 0
    assert "gate, boxes overlap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repeats", "0"], "expected 1 and 0 or more, got 0"),
        (["--weights", "/nowhere"], "/nowhere"),
        pytest.param(
            ["--device", "cuda"],
            "torch has no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str],
    words: str,
    made: Conditions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_interaction, "penetrating_pairs", lambda models: made[torch.arange(1)])
    assert cli.main(["bench", "interaction", *arguments]) == 2
    assert words in capsys.readouterr().err
