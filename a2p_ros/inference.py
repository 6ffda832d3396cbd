"""Opening ONNX networks on the best device that is really granted, and saying which it is."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a2p_ros.config import DeviceConfig
from a2p_ros.errors import DeviceError, MissingDependencyError, WeightsError

log = logging.getLogger(__name__)

#: Our device names and onnxruntime's, best first.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

#: Changes when engines that older versions of this package cached must not be used again.
CACHE_VERSION = 1


def thread_count(config: DeviceConfig) -> int:
    """CPU threads of one model: the configured number, or the cores this process may use, at most 4."""
    return config.threads or min(4, len(os.sched_getaffinity(0)))


def torch_device(config: DeviceConfig) -> str:
    """Where torch runs the networks that are its own: CUDA where it has it and the configuration allows it."""
    import torch

    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def cache_folder() -> Path:
    """The user's cache folder of this package (``$XDG_CACHE_HOME/a2p_ros``); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "a2p_ros"


@dataclass(frozen=True)
class OnnxModel:
    """An open network. ``device`` is the provider that was granted: tensorrt, cuda or cpu."""

    session: Any
    path: Path
    device: str

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run once: inputs by name -> outputs in the file's order.

        Raises:
            DeviceError: the device failed, for instance for want of memory.
        """
        try:
            return list(self.session.run(None, inputs))
        except Exception as error:  # onnxruntime's errors share no base below Exception
            raise DeviceError(
                f"{self.path.name}: inference on {self.device} failed: {_first_line(error)}; device:=cpu needs no GPU"
            ) from error


def open_onnx(path: str | Path, config: DeviceConfig) -> OnnxModel:
    """Open an ONNX file on the configured device and check what was granted.

    ``auto`` takes the first of TensorRT, CUDA and CPU that works here.

    Raises:
        WeightsError: the file is missing or is not an ONNX model that onnxruntime can run.
        DeviceError: the device asked for was not granted.
        MissingDependencyError: onnxruntime is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"no ONNX file at {str(path)!r}; give the path of an exported model")
    runtime = _onnxruntime()
    available = [name for name, provider in PROVIDERS.items() if provider in runtime.get_available_providers()]
    if config.device != "auto" and config.device not in available:
        raise DeviceError(_not_granted(config.device, available))
    wanted = available if config.device == "auto" else [config.device]
    for device in wanted:
        session = _try_session(runtime, path, device, config)
        granted = _granted(session) if session is not None else "none"
        if session is not None and granted == device:
            log.info("%s runs on %s", path.name, device)
            return OnnxModel(session, path, device)
        if config.device != "auto":
            if session is None:
                _try_session(runtime, path, "cpu", config)  # tells a bad file (WeightsError) from a bad device
            raise DeviceError(_not_granted(device, available, granted))
        log.warning("%s: %s is installed but was not granted (got %s)", path.name, device, granted)
    raise DeviceError(_not_granted(config.device, available))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX models need onnxruntime: pip install onnxruntime, or onnxruntime-gpu for an NVIDIA GPU (never both)"
        ) from error
    return onnxruntime


def _try_session(runtime: Any, path: Path, device: str, config: DeviceConfig) -> Any:
    """A session on ``device``, or None where that device failed; a bad file raises WeightsError."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count(config)
    options.log_severity_level = 3
    try:
        # Nodes that TensorRT or CUDA cannot run fall to the next, the processor last.
        names = list(PROVIDERS)[list(PROVIDERS).index(device) :]
        chain = [
            _provider(runtime, path, name) for name in names if PROVIDERS[name] in runtime.get_available_providers()
        ]
        return runtime.InferenceSession(str(path), sess_options=options, providers=chain)
    except Exception as error:  # onnxruntime's errors share no base below Exception
        if device == "cpu":
            raise WeightsError(f"{path}: not an ONNX model that onnxruntime can run: {_first_line(error)}") from error
        log.warning("%s: %s failed: %s", path.name, device, _first_line(error))
        return None


def _provider(runtime: Any, path: Path, device: str) -> str | tuple[str, dict[str, str]]:
    if device != "tensorrt":
        return PROVIDERS[device]
    return PROVIDERS[device], {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engine_folder(runtime.__version__, path)),
        "trt_fp16_enable": "True",
    }


def engine_folder(runtime_version: str, path: Path) -> Path:
    """Where TensorRT's engines of one model are kept: by cache, runtime and TensorRT version and content."""
    try:
        tensorrt = importlib.metadata.version("tensorrt")
    except importlib.metadata.PackageNotFoundError:
        tensorrt = "system"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    folder = cache_folder() / f"tensorrt-v{CACHE_VERSION}" / f"ort{runtime_version}-trt{tensorrt}" / digest
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _granted(session: Any) -> str:
    first = session.get_providers()[0]
    return next((name for name, provider in PROVIDERS.items() if provider == first), first)


def _not_granted(device: str, available: list[str], granted: str = "none") -> str:
    return (
        f"device {device!r} was not granted by onnxruntime (granted: {granted}; installed: {', '.join(available)}); "
        "install onnxruntime-gpu with matching CUDA and TensorRT libraries, or use device:=auto or cpu"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
