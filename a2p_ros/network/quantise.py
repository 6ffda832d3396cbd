"""The exported hand network with its ResNets in 8 bit, for processors (onnxruntime, static quantisation)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.errors import InputError, MissingDependencyError, WeightsError
from a2p_ros.network.engine import OUTPUTS

#: Crops at a time, and the fewest that ranges and losses are measured on, half of them each.
_BATCH, FEWEST = 4, 32


@dataclass(frozen=True)
class Loss:
    """How far answers in 8 bit are from the others, on crops that set no range: means, and the worst of each crop's.

    ``keypoints`` are in crop edges, ``depth`` in metres, ``rotations`` in degrees.
    """

    keypoints: float
    keypoints_worst: float
    depth: float
    rotations: float
    rotations_worst: float

    def as_dict(self) -> dict[str, float]:
        """For the card."""
        return asdict(self)


def quantised(graph: bytes, crops: UInt8[np.ndarray, "n r r 3"]) -> tuple[bytes, Loss]:
    """The graph of `export.export` with the convolutions of its ResNets in 8 bit, and what that costs.

    They are nine tenths of the work. Fusion and heads stay as they are, where 8 bit gain little and cost most: their
    answers are millimetres. Weights have a scale for each channel, activations the range they have on the even crops;
    the loss is that on the odd ones.

    Raises:
        InputError: fewer than `FEWEST` crops, or not of 8 bit.
        MissingDependencyError: onnx, which onnxruntime's quantiser needs, is not installed.
        WeightsError: a graph without such convolutions, or an answer in 8 bit that is not finite.
    """
    if crops.ndim != 4 or crops.dtype != np.uint8 or len(crops) < FEWEST:
        raise InputError(f"8 bit: expected {FEWEST} crops or more, uint8 (n, r, r, 3), got {crops.dtype} {crops.shape}")
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingDependencyError("8 bit needs onnx and onnxruntime: pip install onnx onnxruntime") from error

    class Ranges(quantization.CalibrationDataReader):
        """The even crops."""

        def __init__(self) -> None:
            self._batches = _batches(crops[::2])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next inputs of the graph."""
            return next(self._batches, None)

    with tempfile.TemporaryDirectory(prefix="a2p_int8_") as made:
        folder = Path(made)
        (folder / "graph.onnx").write_bytes(graph)
        with _quietly():
            quant_pre_process(folder / "graph.onnx", folder / "plain.onnx", skip_symbolic_shape=True)
            nodes = onnx.load(folder / "plain.onnx").graph.node
            convolutions = [node.name for node in nodes if node.op_type == "Conv" and "/backbone/" in node.name]
            if not convolutions:
                raise WeightsError("8 bit: the graph has no convolutions of a backbone; export it anew")
            quantization.quantize_static(
                folder / "plain.onnx",
                folder / "int8.onnx",
                Ranges(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=convolutions,
            )
        content = (folder / "int8.onnx").read_bytes()
    return content, _loss(_answers(graph, crops[1::2]), _answers(content, crops[1::2]))


def _batches(crops: UInt8[np.ndarray, "n r r 3"]) -> Iterator[dict[str, np.ndarray]]:
    return ({"crops": crops[i : i + _BATCH]} for i in range(0, len(crops), _BATCH))


def _answers(graph: bytes, crops: UInt8[np.ndarray, "n r r 3"]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    runs = [session.run(list(OUTPUTS), inputs) for inputs in _batches(crops)]
    return {name: np.concatenate(parts) for name, parts in zip(OUTPUTS, zip(*runs, strict=True), strict=True)}


def _loss(plain: dict[str, np.ndarray], coarse: dict[str, np.ndarray]) -> Loss:
    keypoints = np.linalg.norm(coarse["keypoints"] - plain["keypoints"], axis=-1)
    degrees = _degrees_between(plain["rotations"], coarse["rotations"])
    loss = Loss(
        keypoints=float(keypoints.mean()),
        keypoints_worst=float(keypoints.mean(1).max()),
        depth=float(np.abs(coarse["depth"] - plain["depth"]).mean()),
        rotations=float(degrees.mean()),
        rotations_worst=float(degrees.mean(1).max()),
    )
    if not all(np.isfinite(coarse[name]).all() for name in OUTPUTS):
        raise WeightsError(f"8 bit: an answer is not finite: {loss}; use the graph without")
    return loss


def _degrees_between(a: Float[np.ndarray, "n 16 3 3"], b: Float[np.ndarray, "n 16 3 3"]) -> Float[np.ndarray, "n 16"]:
    """From the chord, which is exact for small angles where the trace is not."""
    chord = np.linalg.norm((a - b).astype(np.float64), axis=(-2, -1))
    return np.degrees(2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1)))


@contextmanager
def _quietly() -> Iterator[None]:
    """The quantiser warns the root logger of what is done here on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
