"""This package's own detector and MediaPipe's palm model on the same image: what either finds."""

from __future__ import annotations

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.detection.hand_detector import HandDetector
from a2p_ros.detection.palm import PalmDetector
from a2p_ros.detection.regions import same_place
from a2p_ros.types import Detection, Image


class CombinedDetector:
    """Our hands, which have sides, and those palms that are none of them.

    ``min_score`` may be changed between calls.
    """

    def __init__(self, config: DetectionConfig, device: DeviceConfig) -> None:
        self._ours, self._palms = HandDetector(config, device), PalmDetector(config, device)
        self.name = f"{self._ours.name}+{self._palms.name}"
        self.device = self._ours.device

    @property
    def min_score(self) -> float:
        """Detections below this score are dropped."""
        return self._ours.min_score

    @min_score.setter
    def min_score(self, value: float) -> None:
        self._ours.min_score = self._palms.min_score = value

    def __call__(self, image: Image) -> list[Detection]:
        """Hands of an RGB image, best first; ``right`` is 0.5 in those that only the palm model sees."""
        ours = self._ours(image)
        palms = [palm for palm in self._palms(image) if not any(same_place(palm, hand) for hand in ours)]
        return sorted(ours + palms, key=lambda hand: -hand.score)
