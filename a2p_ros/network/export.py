"""The network as ONNX graphs for onnxruntime, checked against torch."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from a2p_ros.errors import MissingDependencyError, WeightsError
from a2p_ros.network.engine import OUTPUTS
from a2p_ros.network.model import A2PNetwork, HandNetwork
from a2p_ros.network.onnx_engine import HAND_INPUTS, RELATIVE_INPUTS, RELATIVE_OUTPUT
from a2p_ros.network.pictures import normalised
from a2p_ros.network.weights import HAND_GRAPH, RELATIVE_GRAPH

#: Largest difference allowed between torch's and onnxruntime's numbers.
TOLERANCE = 1e-3
_OPSET = 17


class ExportedHand(nn.Module):
    """RGB crops of 8 bit -> `engine.OUTPUTS`, logits as they are."""

    def __init__(self, hand: HandNetwork) -> None:
        super().__init__()
        self.hand = hand

    def forward(self, crops: UInt8[Tensor, "n r r 3"]) -> tuple[Tensor, ...]:
        """In the order of `engine.OUTPUTS`."""
        answer = self.hand(normalised(crops))
        return tuple(getattr(answer, name) for name in OUTPUTS)


def export(network: A2PNetwork) -> dict[str, bytes]:
    """The contents of `HAND_GRAPH` and `RELATIVE_GRAPH`, for any number of crops or pairs.

    Raises:
        MissingDependencyError: onnxruntime, which checks the result, is not installed.
        WeightsError: a network of mode foundation, whose prior encoders are not exported, or answers that differ from
            torch's by more than `TOLERANCE`.
    """
    if network.config.mode == "foundation":
        raise WeightsError(
            "a network of mode foundation runs in torch beside its prior encoders; export one of mode distilled"
        )
    r = network.config.resolution
    generator = np.random.default_rng(0)
    crops = torch.from_numpy(generator.integers(0, 256, (2, r, r, 3), np.uint8))
    shapes = ((3, 2, 21, 2), (3, 2, 21), (3,))
    pairs = tuple(torch.from_numpy(generator.uniform(-0.2, 0.2, shape).astype(np.float32)) for shape in shapes)
    return {
        HAND_GRAPH: _graph(ExportedHand(network.hand), (crops,), HAND_INPUTS, tuple(OUTPUTS)),
        RELATIVE_GRAPH: _graph(network.relative, pairs, RELATIVE_INPUTS, (RELATIVE_OUTPUT,)),
    }


def _graph(module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], outputs: tuple[str, ...]) -> bytes:
    """Traced with the first of a batch, checked with all of it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("export needs onnxruntime: pip install onnxruntime") from error
    module = module.cpu().eval()
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # the exporter's own deprecation: its successor needs onnxscript
        torch.onnx.export(
            module,
            tuple(x[:1] for x in inputs),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in (*names, *outputs)},
        )
        answer = module(*inputs)
        content = path.read_bytes()
    wanted = answer if isinstance(answer, tuple) else (answer,)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    for name, a, b in zip(outputs, found, wanted, strict=True):
        apart = _apart(a, b.numpy())
        if not apart <= TOLERANCE:
            raise WeightsError(f"the exported {name} differs from torch's by {apart:.2g}; expected {TOLERANCE:.2g}")
    return content


def _apart(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")
