"""What every hand detector is, and how one is chosen."""

from __future__ import annotations

from typing import Protocol

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.errors import DeviceError
from a2p_ros.types import Detection, Image


class Detector(Protocol):
    """Image (RGB) -> hands, best first.

    ``device`` is what it really runs on: cpu, cuda or tensorrt. ``min_score`` may be changed between calls.
    """

    name: str
    device: str
    min_score: float

    def __call__(self, image: Image) -> list[Detection]:
        """Hands in an RGB image."""
        ...


def make_detector(config: DetectionConfig, device: DeviceConfig) -> Detector:
    """The configured detector, its model loaded.

    Raises:
        MissingDependencyError: the package that carries or runs the model is not installed.
        WeightsError: the model file is missing or is not what it should be.
        DeviceError: the device asked for was not granted.
    """
    if config.backend == "rtmdet":
        from a2p_ros.detection.rtmdet import RtmDetector

        return RtmDetector(config, device)
    if config.backend == "a2p":
        from a2p_ros.detection.hand_detector import HandDetector

        return HandDetector(config, device)
    if device.device not in ("auto", "cpu"):
        raise DeviceError(
            f"device {device.device!r}: MediaPipe's models run on the CPU only; take device auto or cpu, or detection "
            "backend a2p or rtmdet"
        )
    if config.backend == "combined":
        from a2p_ros.detection.combined import CombinedDetector

        return CombinedDetector(config, device)
    from a2p_ros.detection.palm import PalmDetector

    return PalmDetector(config, device)
