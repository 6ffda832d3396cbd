"""The whole pipeline, the clip's evaluation and the benchmark in every mode of the network."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_hands import MadeHand, make_hand
from true_engine import TrueEngine, pixels_of, place_picture

from a2p_ros import cli
from a2p_ros.camera import CameraModel
from a2p_ros.config import NetworkStageConfig, PipelineConfig
from a2p_ros.detection import tflite
from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.network.config import LITE
from a2p_ros.network.model import A2PNetwork
from a2p_ros.network.weights import save
from a2p_ros.pipeline import TwoHandPipeline
from a2p_ros.regions import hand_rotation, hand_square
from a2p_ros.types import Box, Detection, Pair, Side, Status

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or importlib.util.find_spec("ai_edge_litert") is None,
    reason=f"MediaPipe's models or LiteRT are not installed ({tflite.INSTALL}; pip install ai-edge-litert)",
)

CAMERA = CameraModel.assume(640, 480, 1.2)
IMAGE = place_picture(CAMERA)


#: Modes in which MediaPipe's landmark model measures the hands that are apart.
HYBRID = ("hybrid", "both")


class TrueDetector:
    """Finds the hands that an engine knows, as two boxes that overlap and tell their side."""

    name, device, min_score = "true", "cpu", 0.5

    def __init__(self, hands: list[MadeHand]) -> None:
        self.hands = hands

    def __call__(self, image: np.ndarray) -> list[Detection]:
        found = []
        for hand in self.hands:
            pixels = pixels_of(hand, CAMERA)
            rotation = hand_rotation(pixels)
            box, right = Box.around(pixels), float(hand.side is Side.RIGHT)
            found.append(Detection(box, 0.9, right, rotation, hand_square(pixels, rotation)))
        return found


@pytest.fixture
def hands() -> list[MadeHand]:
    """A left and a right hand whose boxes overlap, the right one nearer."""
    rng = np.random.default_rng(2)
    betas = rng.normal(0, 0.7, 10).clip(-2, 2)
    places = ((280.0, 260.0, 0.52), (370.0, 230.0, 0.36))
    made = [
        make_hand(side, rng, CAMERA, pixel=(x, y), depth=depth, betas=betas, strength=0.4)
        for side, (x, y, depth) in zip(Side, places, strict=True)
    ]
    assert Box.around(pixels_of(made[0], CAMERA)).iou(Box.around(pixels_of(made[1], CAMERA))) > 0
    return made


def pipeline_of(
    hands: list[MadeHand], mode: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[TwoHandPipeline, TrueEngine]:
    engine = TrueEngine(hands, CAMERA)
    monkeypatch.setattr("a2p_ros.network.engine.make_engine", lambda *_: engine)
    pipeline = TwoHandPipeline(PipelineConfig.from_flat({"network.mode": mode, "network.apart_sigma": 0.001}))
    pipeline.detector = TrueDetector(hands)
    return pipeline, engine


@pytest.mark.parametrize("mode", ["regress", "fit", "hybrid", "both"])
def test_true_hands_leave_the_pipeline_true(mode: str, hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, engine = pipeline_of(hands, mode, monkeypatch)
    for n in range(4):
        answer = pipeline(IMAGE, CAMERA, n / 30)
        assert answer.status == Pair(Status.TRACKED, Status.TRACKED)
        for hand in hands:
            there = answer[hand.side]
            # The hybrid's hands have the mean adult's shape.
            assert np.linalg.norm(there.wrist - hand.wrist) < (0.05 if mode in HYBRID else 0.005)
            assert np.linalg.norm(there.joints - there.wrist - (hand.joints - hand.wrist), axis=1).mean() < (
                0.012 if mode in HYBRID else 0.002
            )
        np.testing.assert_allclose(answer.relative_translation, hands[0].wrist - hands[1].wrist, atol=0.004)
    assert {"detect", "network", "relative", "regress", "place"} <= set(answer.timings) and engine.batches
    assert "truth" in answer.model_id and pipeline.report()["network"] == "truth on cpu"
    assert ("mediapipe_landmarks" in answer.model_id) is (mode in HYBRID)
    assert answer.model_id.startswith("regressed" if mode == "regress" else "keypoint_fit")


def test_one_hand_alone_is_one_hand(hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, _ = pipeline_of(hands[:1], "fit", monkeypatch)
    answer = pipeline(IMAGE, CAMERA, 0.0)
    assert answer.left is not None and answer.right is None and answer.relative_translation is None


@pytest.mark.parametrize("mode", ["regress", "fit", "hybrid", "both"])
def test_black_and_saturated_pictures_are_not_valid(
    mode: str, hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = pipeline_of(hands, mode, monkeypatch)
    assert pipeline(IMAGE, CAMERA, 0.0).left is not None
    for n, level in enumerate((0, 255)):
        gone = pipeline(np.full_like(IMAGE, level), CAMERA, 0.1 + n / 30)
        assert gone.left is None and gone.right is None
        assert gone.status == Pair(Status.NOT_DETECTED, Status.NOT_DETECTED)


def test_thresholds_of_the_network_change_at_run_time_and_its_mode_does_not(
    hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = pipeline_of(hands, "fit", monkeypatch)
    assert pipeline(IMAGE, CAMERA, 0.0).left is not None
    pipeline.update(pipeline.config.replace_flat({"network.min_presence": 0.99}))
    assert pipeline(IMAGE, CAMERA, 0.1).left is None
    with pytest.raises(ConfigError, match=r"network\.mode cannot change at run time"):
        pipeline.update(pipeline.config.replace_flat({"network.mode": "off"}))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows nothing."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save(folder, A2PNetwork(LITE).eval(), "open_hand", {"name": "ignorant"})
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(IMAGE, number, axis=1)[..., ::-1])
    return folder


@pytest.mark.parametrize("mode", ["regress", "fit", "hybrid", "both"])
def test_clip_and_bench_run_in_every_mode(
    mode: str, weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With weights that know nothing: what comes out is not looked at, only that all of it does."""
    pytest.importorskip("mediapipe.python.solutions.hands", reason="MediaPipe's Python is not installed")
    options = ["--json", "--set", f"network.mode={mode}", "--set", f"network.weights={weights}"]
    options += ["--set", "network.engine=torch", "--set", "device.threads=1"]
    assert cli.main(["eval", "clip", str(clip), "--every", "2", "--overlays", str(tmp_path / "look"), *options]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["frames"] == 2 and result["reference_is_own_input"] is (mode in HYBRID)
    assert {"pck_010", "pck_020", "measured_pck_010", "recall", "mediapipe_recall", "swaps"} <= set(result)
    drawn = sorted((tmp_path / "look").iterdir())
    assert [path.name for path in drawn] == ["00001.jpg", "00002.jpg"] and cv2.imread(str(drawn[0])).shape == (
        480,
        640,
        3,
    )
    assert cli.main(["bench", "pipeline", "--frames", "3", "--warm-up", "1", *options]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert "ignorant" in result["model_id"] and result["report"]["network"].startswith("ignorant")
    assert result["mediapipe_ms"]["p50"] > 0
    assert ("network" in result["stages"]) or mode in HYBRID
    assert ("landmarks" in result["stages"]) is (mode in HYBRID)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    config = PipelineConfig(network=NetworkStageConfig(mode="fit", weights=str(tmp_path / "nowhere")))
    with pytest.raises(WeightsError, match="nowhere"):
        TwoHandPipeline(config)


def test_the_default_measures_overlapping_hands_with_the_network_that_ships() -> None:
    pipeline = TwoHandPipeline()
    assert pipeline.model_id.startswith("keypoint_fit+mediapipe_landmarks|a2p_lite")
    assert {"landmarks", "network"} <= set(pipeline.report())


def test_a_hand_model_without_weights_has_the_landmarks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = load_hand_models()
    other = Pair(*(dataclasses.replace(model, name="other") for _, model in drawn.items()))
    monkeypatch.setattr("a2p_ros.pipeline.load_hand_models", lambda *_: other)
    pipeline = TwoHandPipeline()
    assert pipeline.model_id.startswith("keypoint_fit+mediapipe_landmarks+") and "network" not in pipeline.report()


def test_the_threshold_of_overlapping_hands_changes_at_run_time(
    hands: list[MadeHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that knows the truth puts every joint's confidence at 0.9."""
    pipeline, _ = pipeline_of(hands, "hybrid", monkeypatch)
    assert pipeline(IMAGE, CAMERA, 0.0).left is not None
    pipeline.update(pipeline.config.replace_flat({"network.min_overlapping": 0.95}))
    answer = pipeline(IMAGE, CAMERA, 0.1)
    assert answer.left is None and answer.right is None
