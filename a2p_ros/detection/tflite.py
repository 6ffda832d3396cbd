"""MediaPipe's models, found inside its wheel and run without importing it."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.errors import MissingDependencyError, WeightsError

INSTALL = "pip install --no-deps mediapipe==0.10.21"


def mediapipe_file(relative: str, sha256: str = "") -> Path:
    """Path of a file inside the installed mediapipe package, which is not imported.

    Args:
        relative: path inside the package.
        sha256: digest that the file must have, in hexadecimal; empty = any.

    Raises:
        MissingDependencyError: mediapipe is not installed, or its wheel lacks the file.
        WeightsError: the file is not the one with that digest. A network whose numbers were changed loads and
            answers all the same, so nothing else would tell.
    """
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"MediaPipe's hand models are not installed; they come with its wheel: {INSTALL}")
    path = Path(spec.origin).parent / relative
    if not path.is_file():
        raise MissingDependencyError(f"the installed mediapipe has no {relative}; the version that has it: {INSTALL}")
    found = hashlib.sha256(path.read_bytes()).hexdigest() if sha256 else ""
    if found != sha256:
        raise WeightsError(
            f"{path}: expected the model with SHA-256 {sha256[:16]}..., got {found[:16]}...; the file is damaged, was "
            f"changed or is of another version. Reinstall it: {INSTALL} --force-reinstall"
        )
    return path


class TfliteModel:
    """A float network with one image input, run on the processor by LiteRT.

    Args:
        path: the .tflite file.
        threads: processor threads.
        input_size: edge of the square input that the caller will give [px].
        outputs: expected shape of each output; checked on opening.

    Raises:
        WeightsError: the file is damaged or is another network.
        MissingDependencyError: LiteRT is not installed.
    """

    def __init__(self, path: Path, threads: int, input_size: int, outputs: tuple[tuple[int, ...], ...]) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingDependencyError("MediaPipe's models run on LiteRT: pip install ai-edge-litert") from error
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: not a LiteRT model ({error}); reinstall it: {INSTALL}") from error
        inputs = self._interpreter.get_input_details()
        # Sorting by name gives the order that the file declares, whatever the runtime's is.
        details = sorted(self._interpreter.get_output_details(), key=lambda output: output["name"])
        found = tuple(tuple(int(n) for n in output["shape"]) for output in details)
        expected_input = (1, input_size, input_size, 3)
        if len(inputs) != 1 or tuple(inputs[0]["shape"]) != expected_input or found != outputs:
            shapes = [tuple(int(n) for n in entry["shape"]) for entry in inputs]
            raise WeightsError(
                f"{path}: expected input {expected_input} and outputs {outputs}, "
                f"got {shapes} and {found}; reinstall it: {INSTALL}"
            )
        self._input = inputs[0]["index"]
        self._outputs = [output["index"] for output in details]
        self._buffer = np.empty(expected_input, np.float32)

    def __call__(self, picture: UInt8[np.ndarray, "size size 3"]) -> list[Float[np.ndarray, "..."]]:
        """Run once on an RGB picture of the input's size; values go in as [0, 1]."""
        np.multiply(picture, np.float32(1 / 255), out=self._buffer[0])
        self._interpreter.set_tensor(self._input, self._buffer)
        self._interpreter.invoke()
        return [self._get(index) for index in self._outputs]

    def _get(self, index: int) -> Any:
        return self._interpreter.get_tensor(index)[0]
