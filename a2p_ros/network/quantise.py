"""The exported hand network with convolutions in 8 bit, for processors.

With products, sums and activations in 8 bit too it was no faster, and lost more (``docs/network.md``).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from a2p_ros.errors import InputError, MissingDependencyError, WeightsError
from a2p_ros.network.engine import OUTPUTS, run_in_turns
from a2p_ros.network.onnx_engine import HAND_INPUTS

#: Fewest crops: half of them say what ranges numbers have, the others what is lost.
LEAST_CROPS = 16
#: The heads stay as they are: small, and what they say is the answer.
_HEADS = ("/hand/joints/", "/hand/parameters_head/")


@dataclass(frozen=True)
class Quantised:
    """A graph in 8 bit, and how far its answers are from the one it was made of, in the mean over crops and joints."""

    content: bytes
    keypoints_edges: float
    depth_mm: float
    rotation_deg: float


def quantise(graph: Path, crops: UInt8[np.ndarray, "n r r 3"]) -> Quantised:
    """`weights.HAND_GRAPH` with convolutions in 8 bit (QDQ), calibrated with half of some typical crops.

    Raises:
        WeightsError: the result's answers are not finite.
        InputError: fewer than `LEAST_CROPS` crops.
        MissingDependencyError: onnx or onnxruntime, which do this, are not installed.
    """
    if len(crops) < LEAST_CROPS:
        raise InputError(f"quantise: expected at least {LEAST_CROPS} crops of hands, got {len(crops)}")
    try:
        import onnx
        import onnxruntime
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingDependencyError(f"8-bit graphs need onnx and onnxruntime: pip install onnx ({error})") from error
    with tempfile.TemporaryDirectory(prefix="a2p_export_") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of onnxruntime, about itself
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        heads = [node.name for node in onnx.load(prepared).graph.node if node.name.startswith(_HEADS)]
        quantization.quantize_static(
            str(prepared),
            str(made),
            _Batches(crops[::2]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=heads,
        )
        content = made.read_bytes()

    def answers(model: bytes) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

        def run(some: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {HAND_INPUTS[0]: some}), strict=True))

        return vars(run_in_turns(run, crops[1::2], crops.shape[1]))

    a, b = answers(graph.read_bytes()), answers(content)
    if (b["presence"] == 0).any() and not (a["presence"] == 0).any():
        raise WeightsError("the graph in 8 bit gives answers that are not finite; leave --int8 out")
    turned = np.einsum("nrij,nrij->nr", a["rotations"], b["rotations"])  # trace of one's inverse times the other
    return Quantised(
        content,
        keypoints_edges=float(np.linalg.norm(a["keypoints"] - b["keypoints"], axis=-1).mean()),
        depth_mm=float(np.abs(a["depth"] - b["depth"]).mean() * 1e3),
        rotation_deg=float(np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1))).mean()),
    )


class _Batches:
    """Crops one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, crops: UInt8[np.ndarray, "n r r 3"]) -> None:
        self._crops: Iterator[np.ndarray] = iter(crops)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None after the last."""
        crop = next(self._crops, None)
        return None if crop is None else {HAND_INPUTS[0]: crop[None]}
