"""The evaluation on held-out frames, with engines that answer the truth or what is known to be wrong by how much."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_hands import MODELS, MadeHand, make_hand
from scipy.spatial.transform import Rotation
from true_engine import TrueEngine, pixels_of, place_picture

from a2p_ros import cli
from a2p_ros.camera import CameraModel
from a2p_ros.commands.evaluate_synthetic import methods_of
from a2p_ros.config import LandmarkConfig, NetworkStageConfig, PipelineConfig
from a2p_ros.errors import WeightsError
from a2p_ros.evaluation.calibration import Calibration, expected_calibration_error
from a2p_ros.evaluation.held_out import HeldOutEvaluation, Method
from a2p_ros.evaluation.metrics import mpjpe_wrist, root_aligned, xy_and_z
from a2p_ros.evaluation.true_hands import TrueFrame, TrueHand
from a2p_ros.fitting.keypoint_fit import KeypointFit
from a2p_ros.measuring import NetworkMeasuring
from a2p_ros.network.regressed_pose import RegressedPose
from a2p_ros.network.stage import NetworkStage
from a2p_ros.types import Box, Detection, Pair, Side

CAMERA = CameraModel.assume(640, 480, 1.2)
PLACES = {"apart": ((150.0, 300.0), (480.0, 190.0)), "over": ((330.0, 250.0), (375.0, 250.0))}


def true_hand(hand: MadeHand, visible: float = 1.0) -> TrueHand:
    turns = torch.as_tensor(np.concatenate([hand.root[None], hand.rotations])[None], dtype=torch.float32)
    betas, transl = (torch.as_tensor(x[None], dtype=torch.float32) for x in (hand.betas, hand.transl))
    vertices = MODELS[hand.side].forward(betas, turns, transl).vertices[0].double().numpy()
    pixels = cv2.projectPoints(vertices, np.zeros(3), np.zeros(3), CAMERA.K, None)[0][:, 0]
    return TrueHand(hand.side, hand.joints, vertices, pixels_of(hand, CAMERA), Box.around(pixels), visible)


def made_frame(rng: np.random.Generator, kind: str, visible: float = 1.0) -> tuple[TrueFrame, list[MadeHand]]:
    """A left and a right hand at half a metre, of one shape; apart, or one over the other 0.15 m behind."""
    betas = rng.normal(0, 0.7, 10).clip(-2, 2)
    hands = [
        make_hand(side, rng, CAMERA, pixel=pixel, depth=0.5 - 0.15 * i * (kind == "over"), betas=betas, strength=0.4)
        for i, (side, pixel) in enumerate(zip(Side, PLACES[kind], strict=True))
    ]
    pair = Pair(true_hand(hands[0]), true_hand(hands[1], visible))
    return TrueFrame(place_picture(CAMERA), CAMERA, pair, kind), hands


class Frames:
    """An evaluation of one engine over made frames."""

    def __init__(self, *, noise: float = 0.0, detector: bool = True, **options: float) -> None:
        self.engine = TrueEngine([], CAMERA, noise)
        stage = NetworkStage(self.engine, NetworkStageConfig(apart_sigma=0.001), LandmarkConfig(), MODELS)
        regressed, fit = RegressedPose(MODELS), KeypointFit(MODELS)
        methods = {
            "fae": Method("network", regressed),
            "fae_fit": Method("network", fit),
            "fae_repaired": Method("network", regressed, True),
        }
        self.evaluation = HeldOutEvaluation(
            MODELS,
            PipelineConfig(),
            self if detector else None,
            {"network": NetworkMeasuring(stage)},
            methods,
            **options,
        )
        self.name, self.device, self.min_score = "made", "cpu", 0.5
        self.missing = False

    def add(self, frame: TrueFrame, hands: list[MadeHand]) -> None:
        self.engine.hands = hands
        self.evaluation.add(frame)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """The detector: finds all hands, but the right one while it is ``missing``."""
        found = [true_hand(hand).region() for hand in self.engine.hands]
        return [d for d in found if d.right < 0.5 or not self.missing]


def test_the_truth_has_no_error_whatever_the_metric() -> None:
    frames, rng = Frames(), np.random.default_rng(1)
    for kind in ("apart", "over", "apart"):
        frames.add(*made_frame(rng, kind))
    result = frames.evaluation.result()
    assert result["n"] == 3 and result["boxes"] == "true" and set(result["by_kind"]) == {"apart", "over"}
    assert result["single"]["fae"]["hands"] == 4 and result["interacting"]["fae"]["hands"] == 2
    for part in (result, result["both_found"], result["detected"], result["detected"]["both_found"]):
        for group in ("single", "interacting"):
            for method in ("fae", "fae_fit"):
                row = part[group][method]
                millimetres = {name: value for name, value in row.items() if name.endswith("_mm")}
                assert len(millimetres) == 14
                assert max(v for n, v in millimetres.items() if n not in ("wrist_error_mm", "mrrpe_mm")) < 0.8
                assert row["wrist_error_mm"] < 4 and row["mrrpe_mm"] < 4
                assert {row[name] for name in row if "pck" in name} == {1.0} and row["recall"] == 1.0
    calibration = result["calibration"]["network"]
    assert calibration["single"]["right"] == 1.0 and calibration["single"]["ece"] == pytest.approx(0.1, abs=1e-6)


def test_a_known_error_is_found_and_split() -> None:
    """Both wrists stay, every other joint of the answer is turned about the wrist: what that moves is computed here."""
    frames, rng = Frames(detector=False), np.random.default_rng(2)
    frame, hands = made_frame(rng, "apart")
    turn = Rotation.from_rotvec([0, 0, 0.1]).as_matrix()
    wrong = [dataclasses.replace(h, joints=(h.joints - h.wrist) @ turn.T + h.wrist, root=turn @ h.root) for h in hands]
    frames.engine.hands = wrong
    frames.evaluation.add(frame)
    row = frames.evaluation.result()["single"]["fae"]
    off = [np.linalg.norm(w.joints - h.joints, axis=1) for w, h in zip(wrong, hands, strict=True)]
    assert row["mpjpe_wrist_mm"] == pytest.approx(1e3 * np.mean(off), abs=0.5)
    assert row["mpjpe_xy_mm"] == pytest.approx(1e3 * np.mean(off), abs=0.5) and row["mpjpe_z_mm"] < 0.5
    assert row["pa_mpjpe_mm"] < 0.5 and row["mrrpe_mm"] < 4


def test_noise_shows_and_the_fit_lowers_it() -> None:
    frames, rng = Frames(noise=0.01, detector=False), np.random.default_rng(3)
    for _ in range(6):
        frames.add(*made_frame(rng, "apart"))
    rows = frames.evaluation.result()["single"]
    assert 4 < rows["fae_fit"]["mpjpe_wrist_mm"] < 0.85 * rows["fae"]["mpjpe_wrist_mm"] < 40


def test_a_hand_that_the_detector_misses_counts_in_the_recall_only() -> None:
    frames, rng = Frames(), np.random.default_rng(4)
    frames.add(*made_frame(rng, "apart"))
    frames.missing = True
    frames.add(*made_frame(rng, "apart"))
    result = frames.evaluation.result()
    found, all_ = result["detected"]["single"]["fae"], result["single"]["fae"]
    assert found["recall"] == 0.75 and found["hands"] == 4 and found["measured"] == 3 and found["pairs"] == 1
    assert found["mpjpe_wrist_mm"] < 0.8 and all_["recall"] == 1.0 and all_["measured"] == 4
    assert result["detected"]["both_found"]["single"]["fae"]["hands"] == 3


def test_hands_hardly_seen_small_or_outside_are_not_counted() -> None:
    frames, rng = Frames(detector=False), np.random.default_rng(5)
    frames.add(*made_frame(rng, "apart", visible=0.1))
    result = frames.evaluation.result()
    assert result["hands_left_out"] == 1 and result["single"]["fae"]["hands"] == 1
    hand = true_hand(make_hand(Side.LEFT, rng, CAMERA, pixel=(320, 240), depth=0.5))
    assert hand.counts(480, 640)
    assert not dataclasses.replace(hand, keypoints_px=hand.keypoints_px - 700).counts(480, 640)
    middle = hand.keypoints_px.mean(0)
    assert not dataclasses.replace(hand, keypoints_px=middle + 0.2 * (hand.keypoints_px - middle)).counts(480, 640)
    assert not dataclasses.replace(hand, keypoints_px=hand.keypoints_px * np.nan).counts(480, 640)


def test_jitter_moves_the_squares_and_nothing_else() -> None:
    hand = true_hand(make_hand(Side.LEFT, np.random.default_rng(6), CAMERA, pixel=(320, 240), depth=0.5))
    exact, rng = hand.region(), np.random.default_rng(7)
    assert hand.region(rng, 0.0) == exact
    jittered = [hand.region(rng, 1.0) for _ in range(300)]
    edges = np.array([d.square[2] for d in jittered]) / exact.square[2]
    turns = np.array([d.rotation for d in jittered]) - exact.rotation
    assert np.std(np.log(edges)) == pytest.approx(0.10, rel=0.15) and np.std(turns) == pytest.approx(0.15, rel=0.15)
    frames = Frames(detector=False, jitter=1.0, seed=1)
    frames.add(*made_frame(np.random.default_rng(8), "apart"))
    assert frames.evaluation.result()["single"]["fae"]["mpjpe_wrist_mm"] < 1.0, "the truth is seen in any crop"


def test_alignment_and_parts() -> None:
    rng = np.random.default_rng(9)
    truth = rng.normal(size=(21, 3))
    other = truth + rng.normal(0, 0.1, (21, 3))
    assert root_aligned(truth * 2 + 1, truth, truth * 2 + 1, truth, root=9, scaled=True) == pytest.approx(0, abs=1e-12)
    assert root_aligned(other, truth, other, truth) == mpjpe_wrist(other, truth)
    error = (other - other[0]) - (truth - truth[0])
    across, along = xy_and_z(other, truth)
    assert across == pytest.approx(np.hypot(error[:, 0], error[:, 1]).mean())
    assert along == pytest.approx(np.abs(error[:, 2]).mean())


def test_calibration_counts_what_confidence_promises() -> None:
    rng = np.random.default_rng(10)
    confidence = rng.uniform(0, 1, (4000, 21))
    honest, boastful = Calibration(), Calibration()
    for row in confidence:
        right = rng.uniform(size=21) < row
        honest.add(row, right)
        boastful.add(np.clip(row + 0.3, 0, 1), right)
    good, bad = honest.result(), boastful.result()
    assert good["ece"] < 0.01 < 0.2 < bad["ece"] and len(good["ece_by_joint"]) == 21 and len(good["bins"]) == 10
    assert sum(b["count"] for b in good["bins"]) == confidence.size
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert Calibration().result()["hands"] == 0


def test_methods_without_weights_are_left_out_and_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    monkeypatch.setattr("a2p_ros.network.weights.SHIPPED", tmp_path)
    stages, methods, left_out = methods_of(PipelineConfig(), MODELS)
    assert set(stages) == {"mediapipe"} and set(methods) == {"keypoint_fit", "keypoint_fit_repaired"}
    assert {"fae", "fae_fit", "hybrid", "both"} <= set(left_out) and "a2p train fae" in left_out["fae"]
    with pytest.raises(WeightsError, match="nowhere"):
        methods_of(PipelineConfig.from_flat({"network.weights": str(tmp_path / "nowhere")}), MODELS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seed", "1000"], "expected 0 to 999, which training never draws, got 1000"),
        (["--n", "0"], "expected 1 or more"),
        (["--jitter", "-1"], "--jitter: expected 0 to 10, got -1"),
        (["--known-length"], "belong to --stream"),
    ],
)
def test_bad_options_are_named(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "synthetic", *options]) == 2
    assert says in capsys.readouterr().err
