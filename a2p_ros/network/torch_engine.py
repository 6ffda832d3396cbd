"""The network in torch: on a processor, or on CUDA with each batch size captured as a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from a2p_ros.config import DeviceConfig
from a2p_ros.errors import DeviceError, WeightsError
from a2p_ros.inference import thread_count, torch_device
from a2p_ros.network.backbone import fold_norms
from a2p_ros.network.engine import (
    MAX_BATCH,
    OUTPUTS,
    HandArrays,
    checked_pair,
    checked_relative,
    run_in_turns,
)
from a2p_ros.network.pictures import normalised
from a2p_ros.network.weights import Loaded
from a2p_ros.torch_threads import single_thread, threads

#: The way out of a device that failed.
_INSTEAD = "free its memory or restart it, or take device:=cpu, which needs no GPU"


class Priors(Protocol):
    """Prior encoders side by side (mode foundation): RGB crops -> features at ``grid`` x ``grid`` tokens."""

    def __call__(self, crops: UInt8[Tensor, "n r r 3"], grid: int) -> Float[Tensor, "n p l c"]:
        """In the order of ``NetworkConfig.priors``."""


class TorchEngine:
    """See `engine.Engine`. ``priors`` are the prior encoders of mode foundation, already on the device.

    On a processor the relative translation, whose network is small, runs in the calling thread. On CUDA convolutions
    may use TF32, and prior encoders are not captured.

    Raises:
        WeightsError: mode foundation without priors, or priors in another mode.
        DeviceError: a device that torch has not, or one that failed: out of memory, for one.
    """

    def __init__(self, loaded: Loaded, device: DeviceConfig, priors: Priors | None = None) -> None:
        if (priors is not None) != (loaded.config.mode == "foundation"):
            wanted = "its prior encoders" if priors is None else "no prior encoders"
            raise WeightsError(
                f"{loaded.name}: a network of mode {loaded.config.mode} takes {wanted}; mode distilled needs none"
            )
        self.device = torch_device(device)
        if device.device not in ("auto", self.device):
            raise DeviceError(
                f"device {device.device!r} was not granted by torch (it has {self.device}); use device:=auto or cpu, "
                "or network.engine onnx"
            )
        self.name, self.config = loaded.name, loaded.config
        self._threads = thread_count(device)
        self._priors = priors
        network = copy.deepcopy(loaded.network).eval().requires_grad_(False)
        fold_norms(network)
        self._hands: dict[int, Callable[..., np.ndarray]] = {}
        self._relative: Callable[..., np.ndarray] = self._relative_plainly
        with self._failures():
            self._network = network.to(self.device)
            if self.device == "cuda":
                self._capture()
        if self.device != "cuda":
            self._run(np.zeros((1, self.resolution, self.resolution, 3), np.uint8))

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
        inputs = checked_pair(keypoints, depth, width)
        with single_thread(), self._failures():
            answer = self._relative(*inputs.values())
        return checked_relative(answer, self.device)

    def _run(self, crops: UInt8[np.ndarray, "n r r 3"]) -> dict[str, np.ndarray]:
        with threads(self._threads), self._failures():
            return _unpacked(self._hands.get(len(crops), self._hands_plainly)(crops))

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of CUDA, of memory that is lacking, of operators alike
            text = str(error).strip() or type(error).__name__
            raise DeviceError(
                f"{self.name}: torch failed on {self.device}: {text.splitlines()[0]}; {_INSTEAD}"
            ) from error

    @torch.inference_mode()
    def _hands_plainly(self, crops: np.ndarray) -> np.ndarray:
        return self._packed(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def _relative_plainly(self, *inputs: np.ndarray) -> np.ndarray:
        return self._network.relative(*(torch.from_numpy(x).to(self.device) for x in inputs)).cpu().numpy()

    def _packed(self, crops: UInt8[Tensor, "n r r 3"]) -> Float[Tensor, "n numbers"]:
        """All outputs of a crop in a row: one copy takes them from the device."""
        priors = None if self._priors is None else self._priors(crops, self.resolution // self.config.stride)
        answer = self._network.hand(normalised(crops), priors)
        return torch.cat([getattr(answer, name).reshape(len(crops), -1) for name in OUTPUTS], 1)

    def _capture(self) -> None:
        """Graphs of every batch size, so that no frame waits for one."""
        r = self.resolution
        for parameter in self._network.parameters():
            if parameter.ndim == 4:  # what tensor cores convolve fastest
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if self._priors is None:
            for n in range(1, MAX_BATCH + 1):
                crops = torch.zeros((n, r, r, 3), dtype=torch.uint8, device=self.device)
                self._hands[n] = _Captured(self._packed, crops)
        pair = ((1, 2, 21, 2), (1, 2, 21), (1,))
        self._relative = _Captured(self._network.relative, *(torch.zeros(s, device=self.device) for s in pair))


class _Captured:
    """A function of tensors of fixed shapes as a CUDA graph, from numpy to numpy."""

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # kernels are chosen and memory is reserved before the capture
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self._output = function(*inputs)

    @torch.inference_mode()
    def __call__(self, *values: np.ndarray) -> np.ndarray:
        """One replay."""
        for tensor, value in zip(self._inputs, values, strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        self._graph.replay()
        return self._output.cpu().numpy()


def _unpacked(rows: Float[np.ndarray, "n numbers"]) -> dict[str, np.ndarray]:
    ends = np.cumsum([_size(shape) for shape in OUTPUTS.values()])
    parts = np.split(rows, ends[:-1], axis=1)
    return {name: part.reshape(len(rows), *shape) for (name, shape), part in zip(OUTPUTS.items(), parts, strict=True)}


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
