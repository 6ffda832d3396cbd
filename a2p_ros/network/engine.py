"""What runs the network: torch or onnxruntime behind one interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from a2p_ros.config import DeviceConfig, NetworkStageConfig
from a2p_ros.errors import ConfigError, DeviceError, InputError, MissingDependencyError, WeightsError
from a2p_ros.network.config import NetworkConfig

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel
    from a2p_ros.network.teachers import Priors
    from a2p_ros.network.weights import NetworkFiles
    from a2p_ros.types import Pair

log = logging.getLogger(__name__)

#: Most crops that go through the network at once; more of them go in turns.
MAX_BATCH = 4
#: Outputs of `model.HandOutputs` that engines give, in this order, and their shapes for each crop.
OUTPUTS: dict[str, tuple[int, ...]] = {
    "keypoints": (21, 2),
    "depth": (21,),
    "rotations": (16, 3, 3),
    "betas": (10,),
    "weak_camera": (3,),
    "joint_confidence": (21,),
    "presence": (),
    "as_assumed": (),
}
_LOGITS = ("joint_confidence", "presence", "as_assumed")


@dataclass(frozen=True)
class HandArrays:
    """What the network says of crops, each as if of a right hand, in the crop's view (``network/geometry.py``).

    A crop of which it says something that is not finite has presence and confidences 0 and the flat hand at rest.

    Fields are those of `model.HandOutputs`, whose logits are probabilities here.
    """

    keypoints: Float[np.ndarray, "n 21 2"]
    depth: Float[np.ndarray, "n 21"]
    rotations: Float[np.ndarray, "n 16 3 3"]
    betas: Float[np.ndarray, "n 10"]
    weak_camera: Float[np.ndarray, "n 3"]
    joint_confidence: Float[np.ndarray, "n 21"]
    presence: Float[np.ndarray, "n"]
    as_assumed: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.presence)


class Engine(Protocol):
    """A network ready to run. ``name`` is that of its weights, ``device`` what it really runs on."""

    name: str
    device: str
    config: NetworkConfig

    @property
    def resolution(self) -> int:
        """Edge of the crops [px]."""

    def __call__(self, crops: UInt8[np.ndarray, "n r r 3"]) -> HandArrays:
        """RGB crops, any number of them, a left hand's mirrored.

        Raises:
            InputError: they are not of 8 bit or not of ``resolution``.
            DeviceError: the device failed.
        """

    def relative(
        self, keypoints: Float[np.ndarray, "2 21 2"], depth: Float[np.ndarray, "2 21"], width: float
    ) -> Float[np.ndarray, "3"]:
        """Left wrist minus right wrist [m] in the view of the box around both hands (``geometry.UnionView``).

        Args:
            keypoints: of the left and of the right hand, in edges of the box from its centre, not mirrored.
            depth: from each hand's own wrist [m].
            width: the box's edge divided by the focal length.

        Raises:
            InputError: not of these shapes, or not finite.
            DeviceError: the device failed, or its answer is not finite.
        """


def make_engine(stage: NetworkStageConfig, device: DeviceConfig, models: Pair[HandModel]) -> Engine:
    """The engine that a configuration asks for, with the weights for a hand model, warmed up.

    ``auto`` is torch where it has CUDA and TensorRT is not asked for, else onnxruntime where it is installed and the
    weights are exported, which is faster on a processor, else torch. A network of mode foundation runs in torch, with
    the stand-in teachers that lie beside its weights.

    Raises:
        ConfigError: 8 bit is asked for on a GPU.
        WeightsError: weights are missing, tampered with, for another hand model or not exported.
        DeviceError: the device asked for was not granted.
        MissingDependencyError: onnxruntime is asked for and not installed.
    """
    from a2p_ros.network.weights import INT8_GRAPH, find

    files = find(stage.weights, models.right.name)
    if stage.engine == "int8":
        from a2p_ros.network.onnx_engine import OnnxEngine

        if device.device not in ("auto", "cpu"):
            raise ConfigError(
                f"network.engine int8 runs on a processor, and device.device asks for {device.device}: set one of them "
                "to auto"
            )
        return OnnxEngine(files, replace(device, device="cpu"), INT8_GRAPH)
    if stage.engine == "onnx" or (stage.engine == "auto" and _prefers_onnx(files, device)):
        from a2p_ros.network.onnx_engine import OnnxEngine

        try:
            return OnnxEngine(files, device)
        except MissingDependencyError:
            if stage.engine == "onnx" or device.device == "tensorrt":
                raise
            log.warning("onnxruntime is not installed; torch runs the network")
    from a2p_ros.network.torch_engine import TorchEngine
    from a2p_ros.network.weights import load

    return TorchEngine(load(files.folder, models.right.name), device, priors_of(files, device))


def priors_of(files: NetworkFiles, device: DeviceConfig) -> Priors | None:
    """The stand-in teachers beside a network of mode foundation, on its device; None in other modes.

    Raises WeightsError where they are missing, others than the network learnt with, or Sapiens.
    """
    if files.config.mode != "foundation":
        return None
    from a2p_ros.inference import torch_device
    from a2p_ros.network.teachers import Priors, load_teachers

    keys = files.card.get("teacher_keys", {})
    if lacking := [name for name in files.config.priors if name not in keys]:
        raise WeightsError(
            f"{files.folder}: learnt with prior encoders that do not lie beside it ({', '.join(lacking)}), as Sapiens' "
            "do not; only the stand-ins run. Train it in mode distilled, which needs no prior encoder"
        )
    teachers = load_teachers(files.folder, files.config.priors)
    if others := [name for name, teacher in teachers.items() if teacher.key != keys[name]]:
        raise WeightsError(
            f"{files.folder}: the teachers {', '.join(others)} are not those that the network learnt with; fetch the "
            "folder anew, or train it again with `a2p train fae --mode foundation`"
        )
    return Priors(teachers).to(torch_device(device)).eval()


def _prefers_onnx(files: NetworkFiles, device: DeviceConfig) -> bool:
    from a2p_ros.inference import torch_device

    return device.device == "tensorrt" or (files.exported and torch_device(device) == "cpu")


def run_in_turns(
    run: Callable[[UInt8[np.ndarray, "n r r 3"]], Mapping[str, np.ndarray]],
    crops: UInt8[np.ndarray, "n r r 3"],
    resolution: int,
) -> HandArrays:
    """What a network says of any number of crops, of which ``run`` takes `MAX_BATCH` at most.

    Raises InputError unless they are of 8 bit and of the resolution.
    """
    crops = np.asarray(crops)
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (resolution, resolution, 3):
        raise InputError(
            f"crops: expected uint8 (n, {resolution}, {resolution}, 3), got {crops.dtype} {crops.shape}; extract them "
            "with the engine's resolution"
        )
    turns = [run(crops[i : i + MAX_BATCH]) for i in range(0, len(crops), MAX_BATCH)]
    nothing = {name: np.zeros((0, *shape)) for name, shape in OUTPUTS.items()}
    return hand_arrays({name: np.concatenate([t[name] for t in turns] or [nothing[name]]) for name in OUTPUTS})


def checked_pair(
    keypoints: Float[np.ndarray, "2 21 2"], depth: Float[np.ndarray, "2 21"], width: float
) -> dict[str, np.ndarray]:
    """Inputs of the relative translation as a batch of one; raises InputError for other shapes and for NaN."""
    inputs = {
        "keypoints": np.asarray(keypoints, np.float32)[None],
        "depth": np.asarray(depth, np.float32)[None],
        "width": np.asarray([width], np.float32),
    }
    for (name, value), shape in zip(inputs.items(), ((1, 2, 21, 2), (1, 2, 21), (1,)), strict=True):
        if value.shape != shape or not np.isfinite(value).all():
            raise InputError(f"{name}: expected {shape[1:]} finite numbers, got {value.shape[1:]}: {value[0]}")
    return inputs


def checked_relative(answer: Float[np.ndarray, "..."], device: str) -> Float[np.ndarray, "3"]:
    """The first of a batch; raises DeviceError where it is not finite."""
    if answer.shape != (1, 3) or not np.isfinite(answer).all():
        raise DeviceError(f"relative translation on {device}: expected 3 finite numbers, got {answer}; try device:=cpu")
    return answer[0].astype(np.float64)


def hand_arrays(raw: Mapping[str, np.ndarray]) -> HandArrays:
    """Logits as probabilities, and hands of which anything is not finite as hands that are not there."""
    n = len(raw["presence"])
    for name, shape in OUTPUTS.items():
        if raw[name].shape != (n, *shape):
            raise WeightsError(
                f"network: expected {name} of shape {(n, *shape)}, got {raw[name].shape}; export it anew"
            )
    values = {name: raw[name].astype(np.float64) for name in OUTPUTS}
    finite = np.ones(n, bool)
    for value in values.values():
        finite &= np.isfinite(value).all(tuple(range(1, value.ndim)))
    with np.errstate(over="ignore"):
        values |= {name: 1.0 / (1.0 + np.exp(-values[name])) for name in _LOGITS}
    if not finite.all():
        log.warning("the network's answer is not finite for %d of %d hands", n - finite.sum(), n)
        for value in values.values():
            value[~finite] = 0.0
        values["rotations"][~finite] = np.eye(3)
    return HandArrays(**values)
