"""The network in onnxruntime, from the graphs that `a2p export` makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.config import DeviceConfig
from a2p_ros.errors import DeviceError, WeightsError
from a2p_ros.inference import open_onnx
from a2p_ros.network.engine import (
    MAX_BATCH,
    OUTPUTS,
    HandArrays,
    checked_pair,
    checked_relative,
    run_in_turns,
)
from a2p_ros.network.weights import HAND_GRAPH, INT8_GRAPH, RELATIVE_GRAPH, NetworkFiles

#: Inputs of both graphs; outputs are those of `engine.OUTPUTS`, and one.
HAND_INPUTS, RELATIVE_INPUTS, RELATIVE_OUTPUT = ("crops",), ("keypoints", "depth", "width"), "relative"


class OnnxEngine:
    """See `engine.Engine`; ``graph`` is `weights.HAND_GRAPH` or `weights.INT8_GRAPH`.

    Raises:
        WeightsError: graphs are missing, tampered with, or not this network's.
        DeviceError: the device asked for was not granted.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, files: NetworkFiles, device: DeviceConfig, graph: str = HAND_GRAPH) -> None:
        self.name, self.config = files.name + ("_int8" if graph == INT8_GRAPH else ""), files.config
        self._hand = _Bound(files.graph(graph), device, HAND_INPUTS, OUTPUTS)
        # Too small for a graph of TensorRT's own, which would take a minute to make.
        small = DeviceConfig(device="cpu" if self._hand.device == "tensorrt" else device.device, threads=1)
        self._pair = _Bound(files.graph(RELATIVE_GRAPH), small, RELATIVE_INPUTS, {RELATIVE_OUTPUT: (3,)})
        self.device = self._hand.device
        # A first run shows a graph of other sizes now, not on the first frame, and lets a device choose its kernels.
        try:
            for n in (2, 1) if self.device == "cpu" else range(MAX_BATCH, 0, -1):
                self(np.zeros((n, self.resolution, self.resolution, 3), np.uint8))
            self.relative(np.zeros((2, 21, 2)), np.zeros((2, 21)), 0.5)
        except DeviceError as error:
            if self.device != "cpu":
                raise
            raise WeightsError(f"{files.folder}: the exported network does not run: {error}") from error

    @property
    def resolution(self) -> int:
        """Edge of the crops [px]."""
        return self.config.resolution

    def __call__(self, crops: UInt8[np.ndarray, "n r r 3"]) -> HandArrays:
        """See `engine.Engine`."""
        return run_in_turns(self._run, crops, self.resolution)

    def relative(
        self, keypoints: Float[np.ndarray, "2 21 2"], depth: Float[np.ndarray, "2 21"], width: float
    ) -> Float[np.ndarray, "3"]:
        """See `engine.Engine`."""
        return checked_relative(self._pair(checked_pair(keypoints, depth, width))[RELATIVE_OUTPUT], self.device)

    def _run(self, crops: UInt8[np.ndarray, "n r r 3"]) -> dict[str, np.ndarray]:
        return self._hand({"crops": crops})


class _Bound:
    """An open graph whose inputs and outputs stay on the device, one set of buffers for each batch size."""

    def __init__(
        self, path: Path, config: DeviceConfig, inputs: Iterable[str], outputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._model = open_onnx(path, config)
        self.device = self._model.device
        self._outputs = outputs
        self._bindings: dict[int, tuple[Any, dict[str, Any], dict[str, Any]]] = {}
        for what, wanted, entries in (
            ("inputs", tuple(inputs), self._model.session.get_inputs()),
            ("outputs", tuple(outputs), self._model.session.get_outputs()),
        ):
            if (found := tuple(entry.name for entry in entries)) != wanted:
                raise WeightsError(
                    f"{path}: expected {what} {', '.join(wanted)}, got {', '.join(found)}; export it anew"
                )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        n = len(next(iter(inputs.values())))
        try:
            if n not in self._bindings:
                self._bindings[n] = self._bind(n, inputs)
            binding, sources, answers = self._bindings[n]
            for name, value in inputs.items():
                sources[name].update_inplace(np.ascontiguousarray(value))
            self._model.session.run_with_iobinding(binding)
            # On a processor they are views of the buffers, which the next turn fills anew.
            return {name: answer.numpy().copy() for name, answer in answers.items()}
        except Exception as error:  # onnxruntime's errors share no base below Exception
            raise DeviceError(
                f"{self._model.path.name}: inference on {self.device} failed: {error}; device:=cpu needs no GPU"
            ) from error

    def _bind(self, n: int, inputs: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        import onnxruntime

        where = "cpu" if self.device == "cpu" else "cuda"
        binding = self._model.session.io_binding()
        sources, answers = {}, {}
        for name, value in inputs.items():
            # A copy: on a processor the buffer is this array itself, which the next call writes into.
            sources[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(value, order="C"), where, 0)
            binding.bind_ortvalue_input(name, sources[name])
        for name, shape in self._outputs.items():
            answers[name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type((n, *shape), np.float32, where, 0)
            binding.bind_ortvalue_output(name, answers[name])
        return binding, sources, answers
