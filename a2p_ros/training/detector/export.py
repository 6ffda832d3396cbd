"""The trained network as an ONNX file, checked against torch."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from a2p_ros.errors import MissingDependencyError, WeightsError
from a2p_ros.training.detector.network import ExportedHandNet, HandNet

#: Largest difference allowed between torch's and onnxruntime's heat, and numbers.
HEAT_TOLERANCE, NUMBERS_TOLERANCE = 1e-3, 5e-3
_OPSET = 17


def to_onnx(net: HandNet) -> bytes:
    """The file for pictures (1, height, width, 3) uint8 RGB of any edges that are multiples of 32.

    Raises:
        MissingDependencyError: onnxruntime, which checks the result, is not installed.
        WeightsError: its answers differ from torch's.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("export needs onnxruntime: pip install onnxruntime") from error
    whole = ExportedHandNet(net).eval().cpu()
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 96, 160, 3), np.uint8))
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # the exporter's own deprecation: its successor needs onnxscript
        torch.onnx.export(
            whole,
            (pictures[:, :64, :96],),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["pictures"],
            output_names=["heat", "numbers"],
            dynamic_axes={
                "pictures": {1: "height", 2: "width"},
                "heat": {2: "rows", 3: "columns"},
                "numbers": {3: "rows", 4: "columns"},
            },
        )
        wanted = [x.numpy() for x in whole(pictures)]
        content = path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"pictures": pictures.numpy()})
    for name, a, b, tolerance in zip(
        ("heat", "numbers"), found, wanted, (HEAT_TOLERANCE, NUMBERS_TOLERANCE), strict=True
    ):
        apart = float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")
        if not apart <= tolerance:
            raise WeightsError(f"the exported {name} differ from torch's by {apart:.2g}; expected {tolerance:.2g}")
    return content
