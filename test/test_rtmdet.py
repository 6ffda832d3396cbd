"""RTMDet through onnxruntime, on small networks in the exported format, and the providers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="writing test networks needs onnx")
pytest.importorskip("onnxruntime", reason="running ONNX networks needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper

from a2p_ros import inference
from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.detection.detector import make_detector
from a2p_ros.errors import ConfigError, DeviceError, MissingDependencyError, WeightsError

CPU = DeviceConfig(device="cpu", threads=1)
#: Pixel value that the test network's threshold lies at, for both channels below.
THRESHOLD_PIXEL = 175
BLUE, RED = (0, 0, 220), (220, 0, 0)


def bright_region_network(path: Path, height: int | str = 320, width: int | str = 320, outputs: int = 2) -> Path:
    """A network in RTMDet's exported format: row 0 boxes what is bright blue (label 0, score 0.9),
    row 1 what is bright red (label 1). A score is 0 where nothing is bright. The input is BGR."""
    mean, std = (103.53, 123.675), (57.375, 58.395)
    nodes, rows = [], []

    def constant(name: str, value: np.ndarray) -> str:
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
        return name

    one = constant("one", np.array([1.0], np.float32))
    score = constant("score", np.array([0.9], np.float32))
    for row, channel in enumerate((0, 2)):
        level = np.array((THRESHOLD_PIXEL - mean[row]) / std[row], np.float32)
        index = constant(f"channel{row}", np.array([channel], np.int64))
        nodes.append(helper.make_node("Gather", ["input", index], [f"plane{row}"], axis=1))
        nodes.append(helper.make_node("Greater", [f"plane{row}", constant(f"level{row}", level)], [f"is{row}"]))
        nodes.append(helper.make_node("Cast", [f"is{row}"], [f"mask{row}"], to=TensorProto.FLOAT))
        for axis, other in (("x", 2), ("y", 3)):
            nodes.append(
                helper.make_node("ReduceMax", [f"mask{row}"], [f"{axis}line{row}"], axes=[0, 1, other], keepdims=0)
            )
            for end, last in (("0", 0), ("1", 1)):
                at = f"{axis}{end}{row}"
                nodes.append(
                    helper.make_node(
                        "ArgMax", [f"{axis}line{row}"], [f"{at}i"], axis=0, keepdims=1, select_last_index=last
                    )
                )
                nodes.append(helper.make_node("Cast", [f"{at}i"], [f"{at}f"], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("Add", [f"{at}f", one], [f"{at}e"]))
        nodes.append(helper.make_node("ReduceMax", [f"xline{row}"], [f"any{row}"], axes=[0], keepdims=1))
        nodes.append(helper.make_node("Mul", [f"any{row}", score], [f"score{row}"]))
        parts = [f"x0{row}f", f"y0{row}f", f"x1{row}e", f"y1{row}e", f"score{row}"]
        nodes.append(helper.make_node("Concat", parts, [f"row{row}"], axis=0))
        rows.append(f"row{row}")
    nodes.append(helper.make_node("Concat", rows, ["flat"], axis=0))
    nodes.append(helper.make_node("Reshape", ["flat", constant("shape", np.array([1, 2, 5]))], ["dets"]))
    nodes.append(helper.make_node("Identity", [constant("classes", np.array([[0, 1]], np.int64))], ["labels"]))
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, height, width])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, 2, 5]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 2]),
        ][:outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def detector(path: Path, **more):
    return make_detector(DetectionConfig(backend="rtmdet", rtmdet_path=str(path), **more), CPU)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return bright_region_network(tmp_path_factory.mktemp("rtmdet") / "hand.onnx")


def scene(height: int, width: int, *patches) -> np.ndarray:
    image = np.full((height, width, 3), 60, np.uint8)
    for (x0, y0, x1, y1), colour in patches:
        image[y0:y1, x0:x1] = colour
    return image


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (240, 320), (37, 900)])
@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_boxes_at_the_image_corners(network: Path, size, corner) -> None:
    height, width = size
    w, h = width // 4, height // 4
    x0, y0 = corner[0] * (width - w), corner[1] * (height - h)
    (found,) = detector(network)(scene(height, width, ((x0, y0, x0 + w, y0 + h), BLUE)))
    pixel = max(height, width) / 320  # one input pixel
    np.testing.assert_allclose(found.box, (x0 - 0.5, y0 - 0.5, x0 + w - 0.5, y0 + h - 0.5), atol=1.2 * pixel)
    assert found.score == pytest.approx(0.9)
    assert found.right == 0.5
    assert found.rotation is None


@pytest.mark.parametrize(("height", "width"), [("h", "w"), (192, 256), (320, 320)])
def test_input_size_is_read_from_the_file(tmp_path: Path, height, width) -> None:
    found = detector(bright_region_network(tmp_path / "n.onnx", height, width))(
        scene(720, 1280, ((320, 180, 640, 540), BLUE))
    )
    np.testing.assert_allclose(found[0].box, (319.5, 179.5, 639.5, 539.5), atol=7)


def test_only_hands_in_bgr_above_the_score(network: Path) -> None:
    both = scene(480, 640, ((0, 0, 100, 100), BLUE), ((300, 300, 400, 400), RED))
    (found,) = detector(network)(both)
    assert found.box.x1 < 110  # the blue one: RGB was turned to BGR, and label 1 is no hand
    assert detector(network)(scene(480, 640, ((300, 300, 400, 400), RED))) == []
    assert detector(network, min_score=0.95)(both) == []


def test_pixels_are_normalised(network: Path) -> None:
    patch = (100, 100, 300, 300)
    find = detector(network)
    assert len(find(scene(480, 640, (patch, (0, 0, THRESHOLD_PIXEL + 3))))) == 1
    assert find(scene(480, 640, (patch, (0, 0, THRESHOLD_PIXEL - 3)))) == []


def test_changing_image_sizes_leave_nothing_behind(network: Path) -> None:
    """The padding of a wide image must not show the last, taller one."""
    find = detector(network)
    find(scene(640, 640, ((0, 500, 640, 640), BLUE)))
    (found,) = find(scene(300, 640, ((0, 0, 100, 100), BLUE)))
    assert found.box.y1 < 105


def test_it_says_what_it_runs_on(network: Path) -> None:
    assert detector(network).device == "cpu"


def test_bad_files(tmp_path: Path, network: Path) -> None:
    with pytest.raises(ConfigError, match="rtmdet_path is empty"):
        make_detector(DetectionConfig(backend="rtmdet"), CPU)
    with pytest.raises(WeightsError, match="no ONNX file at"):
        detector(tmp_path / "missing.onnx")
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(network.read_bytes()[:700])
    with pytest.raises(WeightsError, match="not an ONNX model"):
        detector(torn)
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(WeightsError, match="not an ONNX model"):
        detector(noise)
    with pytest.raises(WeightsError, match="expected outputs dets"):
        detector(bright_region_network(tmp_path / "one.onnx", outputs=1))


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 7])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [tensor], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "flat.onnx"))
    with pytest.raises(WeightsError, match=r"expected one float input .*got .*\[1, 7\]"):
        detector(tmp_path / "flat.onnx")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there(network: Path, device, monkeypatch) -> None:
    monkeypatch.setattr(inference, "_onnxruntime", lambda: fake_runtime([], "CPUExecutionProvider"))
    with pytest.raises(DeviceError, match=f"'{device}' was not granted.*installed: cpu.*onnxruntime-gpu"):
        inference.open_onnx(network, DeviceConfig(device=device))


class FakeRuntime(SimpleNamespace):
    """Stands for an onnxruntime whose providers are installed but may not load."""

    SessionOptions = SimpleNamespace
    __version__ = "9.9"

    def get_available_providers(self) -> list[str]:
        return [*self.installed, "CPUExecutionProvider"]

    def InferenceSession(self, path, sess_options, providers):
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        self.asked.append(providers[0])
        if first in self.broken:
            raise RuntimeError("libcublas.so.12: cannot open shared object file\nmore")
        granted = first if first in self.granted else "CPUExecutionProvider"
        return SimpleNamespace(get_providers=lambda: [granted])


def fake_runtime(installed: list[str], *granted: str, broken: tuple[str, ...] = ()) -> FakeRuntime:
    return FakeRuntime(installed=installed, granted=granted, broken=broken, asked=[])


def test_auto_takes_the_best_that_is_really_granted(network: Path, monkeypatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    for granted, broken, expected in [(gpu, (), "tensorrt"), (gpu[1:], (), "cuda"), ([], (gpu[1],), "cpu")]:
        runtime = fake_runtime(gpu, *granted, broken=broken)
        monkeypatch.setattr(inference, "_onnxruntime", lambda runtime=runtime: runtime)
        assert inference.open_onnx(network, DeviceConfig()).device == expected
    assert "tensorrt is installed but was not granted (got cpu)" in caplog.text
    assert "libcublas" in caplog.text


@pytest.mark.parametrize("broken", [(), ("CUDAExecutionProvider",)])
def test_an_explicit_device_never_falls_back(network: Path, monkeypatch, broken) -> None:
    runtime = fake_runtime(["CUDAExecutionProvider"], broken=broken)
    monkeypatch.setattr(inference, "_onnxruntime", lambda: runtime)
    with pytest.raises(DeviceError, match="'cuda' was not granted"):
        inference.open_onnx(network, DeviceConfig(device="cuda"))


def test_tensorrt_engines_are_cached_by_version_and_content(network: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runtime = fake_runtime(["TensorrtExecutionProvider"], "TensorrtExecutionProvider")
    monkeypatch.setattr(inference, "_onnxruntime", lambda: runtime)
    inference.open_onnx(network, DeviceConfig(device="tensorrt"))
    provider, options = runtime.asked[0]
    assert provider == "TensorrtExecutionProvider"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir() and folder.is_relative_to(tmp_path / "cache" / "a2p_ros")
    assert options["trt_engine_cache_enable"] == "True"
    assert inference.engine_folder("9.10", network) != folder
    other = bright_region_network(tmp_path / "other.onnx", 192, 192)
    assert inference.engine_folder("9.9", other) != folder


def test_failure_while_running_names_the_device(network: Path) -> None:
    model = inference.open_onnx(network, CPU)
    with pytest.raises(DeviceError, match=r"hand.onnx: inference on cpu failed"):
        model(input=np.zeros((1, 3, 5), np.float32))


def test_without_onnxruntime(network: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        inference.open_onnx(network, CPU)


def test_thread_count(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert inference.thread_count(DeviceConfig()) == 4
    assert inference.thread_count(DeviceConfig(threads=7)) == 7
