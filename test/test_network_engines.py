"""Both engines give what the network gives, and say what is wrong with what they are given."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from made_network import SMALL, random_network
from scipy.spatial.transform import Rotation

from a2p_ros import cli
from a2p_ros.commands import export as export_command
from a2p_ros.config import DeviceConfig, NetworkStageConfig
from a2p_ros.errors import ConfigError, DeviceError, InputError, MissingDependencyError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.network import weights
from a2p_ros.network.backbone import make_backbone
from a2p_ros.network.config import LITE
from a2p_ros.network.engine import MAX_BATCH, OUTPUTS, Engine, hand_arrays, make_engine
from a2p_ros.network.export import TOLERANCE, export
from a2p_ros.network.model import A2PNetwork
from a2p_ros.network.pictures import normalised
from a2p_ros.network.quantise import quantise
from a2p_ros.network.teachers import Teacher, save_teachers
from a2p_ros.network.torch_engine import TorchEngine
from a2p_ros.types import Pair

MODELS = load_hand_models()
CPU = DeviceConfig(device="cpu", threads=1)


def write(folder, network: A2PNetwork, *, graphs: bool = True):
    weights.save(folder, network, MODELS.right.name, {"name": "random"})
    if graphs:
        weights.add_graphs(weights.find(folder, MODELS.right.name), export(network))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    return write(tmp_path_factory.mktemp("network"), random_network(SMALL))


def opened(folder, engine: str) -> Engine:
    return make_engine(NetworkStageConfig(weights=str(folder), engine=engine), CPU, MODELS)


def crops_of(n: int, resolution: int = 64, seed: int = 1) -> np.ndarray:
    """Pictures with something large in them: the mean of noise is the same everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return np.array([cv2.resize(c, (resolution, resolution)) for c in coarse], np.uint8).reshape(
        n, resolution, resolution, 3
    )


def pair_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.4, 0.4, (2, 21, 2)), rng.uniform(-0.1, 0.1, (2, 21))


def plainly(network: A2PNetwork, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Crop by crop, without what engines add."""
    answers = [network.hand(normalised(torch.from_numpy(crop[None]))) for crop in crops]
    values = {name: torch.cat([getattr(answer, name) for answer in answers]) for name in OUTPUTS}
    logits = ("joint_confidence", "presence", "as_assumed")
    return {name: (v.sigmoid() if name in logits else v).numpy() for name, v in values.items()}


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_engines_give_what_the_network_gives(folder, engine) -> None:
    network, engine = random_network(SMALL), opened(folder, engine)
    assert (engine.name, engine.device, engine.resolution, engine.config) == ("random", "cpu", 64, SMALL)
    # Twice the same size, so that buffers in use again are seen; more than go through at once; none.
    for n, seed in ((1, 1), (2, 2), (1, 3), (2 * MAX_BATCH + 1, 4), (0, 5)):
        crops = crops_of(n, seed=seed)
        given = crops.copy()
        found = engine(crops)
        assert len(found) == n
        np.testing.assert_array_equal(crops, given)
        if n:
            for name, wanted in plainly(network, crops).items():
                np.testing.assert_allclose(getattr(found, name), wanted, atol=TOLERANCE, err_msg=name)
    pairs = [pair_of(seed) for seed in range(3)]
    for keypoints, depth in pairs:
        wanted = network.relative(*(torch.tensor(x[None]).float() for x in (keypoints, depth)), torch.tensor([0.3]))
        np.testing.assert_allclose(engine.relative(keypoints, depth, 0.3), wanted[0], atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["none", "distilled"])
def test_the_lite_network_in_both_engines(tmp_path, mode) -> None:
    pytest.importorskip("onnxruntime")
    write(tmp_path, random_network(dataclasses.replace(LITE, mode=mode), seed=5))
    crops = crops_of(2, LITE.resolution)
    a, b = (vars(opened(tmp_path, engine)(crops)) for engine in ("torch", "onnx"))
    assert np.abs(a["keypoints"][0] - a["keypoints"][1]).max() > 0.01  # they say something of the crops
    for name in OUTPUTS:
        np.testing.assert_allclose(a[name], b[name], atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_answers_are_no_views_of_buffers(folder, engine) -> None:
    engine = opened(folder, engine)
    first = engine(crops_of(1, seed=1))
    before, relative = first.keypoints.copy(), engine.relative(*pair_of(0), 0.3)
    again = relative.copy()
    engine(crops_of(1, seed=2))
    engine.relative(*pair_of(1), 0.3)
    np.testing.assert_array_equal(first.keypoints, before)
    np.testing.assert_array_equal(relative, again)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_crops_give_finite_hands(folder, engine, value) -> None:
    found = opened(folder, engine)(np.full((1, 64, 64, 3), value, np.uint8))
    assert all(np.isfinite(v).all() for v in vars(found).values())
    np.testing.assert_allclose(np.linalg.det(found.rotations), 1, atol=1e-4)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_wrong_crops_and_pairs_are_refused(folder, engine) -> None:
    engine = opened(folder, engine)
    for crops in (crops_of(1, 32), crops_of(1).astype(np.float32), crops_of(1)[0]):
        with pytest.raises(InputError, match=r"crops: expected uint8 \(n, 64, 64, 3\), got"):
            engine(crops)
    keypoints, depth = pair_of()
    with pytest.raises(InputError, match=r"keypoints: expected \(2, 21, 2\) finite numbers, got \(1, 21, 2\)"):
        engine.relative(keypoints[:1], depth, 0.3)
    with pytest.raises(InputError, match="depth: expected"):
        engine.relative(keypoints, depth * np.nan, 0.3)
    with pytest.raises(InputError, match="width: expected"):
        engine.relative(keypoints, depth, float("inf"))


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_network_that_overflows_sees_no_hand(tmp_path, engine, caplog) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    network = random_network(SMALL)
    if engine == "onnx":
        # Export refuses a graph that differs from torch by NaN, so that of a sound network is changed.
        graphs = dict(export(network))
        model = onnx.load_from_string(graphs[weights.HAND_GRAPH])
        kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        kernel.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(kernel.dims), 3e38, np.float32), kernel.name))
        write(tmp_path, network, graphs=False)
        graphs[weights.HAND_GRAPH] = model.SerializeToString()
        weights.add_graphs(weights.find(tmp_path, MODELS.right.name), graphs)
    network.hand.reduce.weight.fill_(1e38)
    if engine == "torch":
        write(tmp_path, network, graphs=False)
    else:
        with pytest.raises(WeightsError, match="differs from torch's by nan"):
            export(network)
    with caplog.at_level(logging.WARNING):
        found = opened(tmp_path, engine)(crops_of(2))
    assert "not finite for 2 of 2 hands" in caplog.text
    np.testing.assert_array_equal(found.presence, 0)
    np.testing.assert_array_equal(found.joint_confidence, 0)
    np.testing.assert_array_equal(found.rotations, np.tile(np.eye(3), (2, 16, 1, 1)))


def test_one_hand_that_is_not_finite_leaves_the_other() -> None:
    raw = {name: np.full((2, *shape), 0.25, np.float32) for name, shape in OUTPUTS.items()}
    raw["depth"][1, 3] = np.nan
    raw["presence"][0] = -1000.0  # no overflow on the way to a probability
    found = hand_arrays(raw)
    np.testing.assert_array_equal(found.presence, [0, 0])
    np.testing.assert_allclose(found.as_assumed, [1 / (1 + np.exp(-0.25)), 0])
    np.testing.assert_array_equal(found.depth[0], np.float32(0.25))
    np.testing.assert_array_equal(found.depth[1], 0)
    raw["presence"][0] = np.inf
    assert hand_arrays(raw).as_assumed[0] == 0


def test_a_relative_translation_that_is_not_finite_is_an_error(tmp_path) -> None:
    network = random_network(SMALL)
    network.relative.relative[0].weight.fill_(3e38)
    write(tmp_path, network, graphs=False)
    with pytest.raises(DeviceError, match="relative translation on cpu: expected 3 finite numbers"):
        opened(tmp_path, "torch").relative(*pair_of(), 0.3)


def test_priors_of_the_foundation_mode_come_from_outside(tmp_path) -> None:
    config = dataclasses.replace(SMALL, mode="foundation")
    network = random_network(config)
    loaded = weights.load(write(tmp_path, network, graphs=False), MODELS.right.name)
    seen: list[tuple[tuple[int, ...], torch.dtype, int]] = []

    def priors(crops: torch.Tensor, grid: int) -> torch.Tensor:
        seen.append((tuple(crops.shape), crops.dtype, grid))
        mean = crops.float().mean((1, 2, 3))[:, None, None, None] / 255
        return mean * torch.linspace(-1, 1, config.prior_channels).expand(len(crops), 3, grid * grid, -1)

    engine = TorchEngine(loaded, CPU, priors)
    crops = crops_of(2)
    found = engine(crops)
    assert seen[-1] == ((2, 64, 64, 3), torch.uint8, 4)
    wanted = network.hand(normalised(torch.from_numpy(crops)), priors(torch.from_numpy(crops), 4))
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=TOLERANCE)
    with pytest.raises(WeightsError, match="mode foundation takes its prior encoders"):
        TorchEngine(loaded, CPU)
    with pytest.raises(WeightsError, match="mode foundation runs in torch"):
        export(network)


def test_the_foundation_mode_finds_its_teachers_beside_the_weights(tmp_path) -> None:
    backbone = make_backbone(SMALL)
    config = dataclasses.replace(SMALL, mode="foundation", prior_channels=backbone.out_channels)
    network = random_network(config)
    torch.manual_seed(3)
    teachers = {name: Teacher(name, config).eval() for name in config.priors}
    card = {"name": "random", "teacher_keys": {name: teacher.key for name, teacher in teachers.items()}}
    weights.save(tmp_path, network, MODELS.right.name, card)
    with pytest.raises(WeightsError, match="mode foundation needs them"):
        opened(tmp_path, "auto")
    save_teachers(tmp_path, {name: Teacher(name, config).eval() for name in config.priors}, {})
    with pytest.raises(WeightsError, match="keypoints, segmentation, depth are not those that the network learnt with"):
        opened(tmp_path, "auto")
    save_teachers(tmp_path, teachers, {})
    crops = torch.from_numpy(crops_of(2))
    grid = config.resolution // config.stride
    features = torch.stack([teacher(crops, grid) for teacher in teachers.values()], 1)
    wanted = network.hand(normalised(crops), features)
    found = opened(tmp_path, "auto")(crops.numpy())
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=TOLERANCE)
    weights.save(tmp_path, network, MODELS.right.name, card | {"teacher_keys": {}})
    with pytest.raises(WeightsError, match=r"prior encoders that do not lie beside it .* mode distilled"):
        opened(tmp_path, "auto")


def test_a_device_that_fails_is_named_with_the_way_out(folder, monkeypatch) -> None:
    engine = opened(folder, "torch")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB\nmore")

    monkeypatch.setattr(engine._network, "forward", full)
    monkeypatch.setattr(engine._network.hand, "forward", full)
    monkeypatch.setattr(engine._network.relative, "forward", full)
    with pytest.raises(DeviceError, match=r"failed on cpu: CUDA out of memory.*MiB; free its memory"):
        engine(crops_of(2))
    with pytest.raises(DeviceError, match="failed on cpu: CUDA out of memory"):
        engine.relative(*pair_of(), 0.3)


def test_auto_takes_onnx_where_it_can(folder, tmp_path, monkeypatch) -> None:
    assert type(opened(folder, "auto")).__name__ == "OnnxEngine"
    write(tmp_path, random_network(SMALL), graphs=False)
    assert type(opened(tmp_path, "auto")).__name__ == "TorchEngine"
    with pytest.raises(WeightsError, match="make it with `a2p export`"):
        opened(tmp_path, "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert type(opened(folder, "auto")).__name__ == "TorchEngine"
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        opened(folder, "onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_device_that_is_not_there_is_an_error(folder, engine) -> None:
    with pytest.raises(DeviceError, match="'cuda' was not granted"):
        make_engine(NetworkStageConfig(weights=str(folder), engine=engine), DeviceConfig(device="cuda"), MODELS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_graphs_on_the_gpu_give_what_the_processor_gives(folder) -> None:
    stage = NetworkStageConfig(weights=str(folder), engine="torch")
    engine = make_engine(stage, DeviceConfig(device="cuda"), MODELS)
    for n in (1, 2, MAX_BATCH + 1):
        a, b = (vars(e(crops_of(n, seed=n))) for e in (engine, opened(folder, "torch")))
        for name in OUTPUTS:  # TF32 has 10 bits
            np.testing.assert_allclose(a[name], b[name], atol=2e-2, err_msg=name)


def test_a_graph_of_other_outputs_is_refused(folder, tmp_path) -> None:
    write(tmp_path, random_network(SMALL), graphs=False)
    relative = (folder / weights.RELATIVE_GRAPH).read_bytes()
    graphs = {weights.HAND_GRAPH: relative, weights.RELATIVE_GRAPH: relative}
    weights.add_graphs(weights.find(tmp_path, MODELS.right.name), graphs)
    with pytest.raises(WeightsError, match="expected inputs crops, got keypoints, depth, width; export it anew"):
        opened(tmp_path, "onnx")


def test_a_graph_of_another_resolution_is_refused(folder, tmp_path) -> None:
    write(tmp_path, random_network(dataclasses.replace(SMALL, resolution=96)), graphs=False)
    graphs = {name: (folder / name).read_bytes() for name in (weights.HAND_GRAPH, weights.RELATIVE_GRAPH)}
    weights.add_graphs(weights.find(tmp_path, MODELS.right.name), graphs)
    with pytest.raises(WeightsError, match="the exported network does not run"):
        opened(tmp_path, "onnx")


def test_export_writes_beside_the_weights(tmp_path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    write(tmp_path, random_network(SMALL), graphs=False)
    assert cli.main(["export", str(tmp_path), "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"]
    assert sizes == {n: (tmp_path / n).stat().st_size for n in (weights.HAND_GRAPH, weights.RELATIVE_GRAPH)}
    assert weights.load(tmp_path, MODELS.right.name).card["sha256"].keys() >= sizes.keys()
    assert opened(tmp_path, "onnx").device == "cpu"
    assert cli.main(["export", str(tmp_path / "none")]) == 2
    assert "no card of a network" in capsys.readouterr().err


def test_a_graph_in_8_bit_is_near_and_says_how_near(tmp_path, capsys, monkeypatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    write(tmp_path, random_network(SMALL), graphs=False)
    monkeypatch.setattr(export_command, "typical_crops", lambda frames, resolution: crops_of(32, resolution))
    plain = write(tmp_path / "plain", random_network(SMALL))
    assert cli.main(["export", str(tmp_path), "--int8", "frames", "--json"]) == 0
    lost = json.loads(capsys.readouterr().out.splitlines()[-1])["int8"]
    assert lost == weights.load(tmp_path, MODELS.right.name).card["int8"]
    assert (tmp_path / weights.INT8_GRAPH).stat().st_size < 0.7 * (plain / weights.HAND_GRAPH).stat().st_size
    # The other half of the crops calibrated it.
    a, same, b = (
        opened(folder, engine)(crops_of(32)[1::2])
        for folder, engine in ((plain, "onnx"), (tmp_path, "onnx"), (tmp_path, "int8"))
    )
    np.testing.assert_array_equal(a.keypoints, same.keypoints)
    moved = np.linalg.norm(a.keypoints - b.keypoints, axis=-1).mean()
    assert 0 < moved < 0.02
    assert lost["keypoints_edges"] == pytest.approx(moved, rel=0.05)
    assert lost["depth_mm"] == pytest.approx(1e3 * np.abs(a.depth - b.depth).mean(), rel=0.05)
    turns = Rotation.from_matrix(a.rotations.reshape(-1, 3, 3)).inv() * Rotation.from_matrix(
        b.rotations.reshape(-1, 3, 3)
    )
    assert lost["rotation_deg"] == pytest.approx(np.degrees(turns.magnitude()).mean(), rel=0.05)
    # Exported again without, it is as it was.
    assert cli.main(["export", str(tmp_path)]) == 0
    assert "int8" not in weights.load(tmp_path, MODELS.right.name).card
    with pytest.raises(WeightsError, match=r"no network_int8\.onnx is described"):
        opened(tmp_path, "int8")
    with pytest.raises(ConfigError, match="int8 runs on a processor"):
        make_engine(NetworkStageConfig(weights=str(tmp_path), engine="int8"), DeviceConfig(device="cuda"), MODELS)


def test_few_crops_calibrate_nothing(folder) -> None:
    with pytest.raises(InputError, match="expected at least 16 crops of hands, got 3"):
        quantise(folder / weights.HAND_GRAPH, crops_of(3))


def test_crops_for_the_calibration_are_upright_right_hands(tmp_path) -> None:
    """A dot at a fingertip of a drawn frame lies where that of an upright right hand does."""
    hand = np.zeros((21, 2))
    hand[[0, 5, 9, 13, 17]] = [[0, 0], [30, -80], [0, -90], [-20, -85], [-40, -75]]
    hand[4] = [80, -60]  # the thumb, right of a right hand whose palm is seen
    left = np.array([400.0, 300.0]) + hand[:, ::-1]  # mirrored and turned by a quarter
    image = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(image, tuple(int(v) for v in left[4]), 5, (255, 255, 255), -1)
    label = SimpleNamespace(keypoints_px=left)
    frame = SimpleNamespace(image=image, hands=Pair(label, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("a2p_ros.training.synthetic.samples.read_frames", lambda source: [frame])
        (crop,) = export_command.typical_crops(tmp_path, 128)
    rows, columns = np.nonzero(crop[..., 0] > 100)
    assert columns.mean() > 80 and 20 < rows.mean() < 100


def test_bench_of_the_network(folder, capsys) -> None:
    arguments = ["bench", "network", "--weights", str(folder), "--repeats", "2", "--warm-up", "1", "--threads", "1"]
    assert cli.main([*arguments, "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["engines"]) == {"torch", "onnx"}
    assert all(0 < e[what]["p50"] <= e[what]["p99"] for e in result["engines"].values() for what in ("hands_ms",))
    assert result["largest_difference"] < TOLERANCE
    assert cli.main([*arguments, "--engine", "onnx"]) == 0
    assert "onnx on cpu" in capsys.readouterr().out
    assert cli.main(["bench", "network", "--preset", "lite", "--repeats", "0"]) == 2
    assert "expected 1" in capsys.readouterr().err
