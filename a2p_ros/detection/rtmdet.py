"""RTMDet hand boxes from an ONNX file, as mmdeploy exports them; the side is left to the landmark stage.

Format (mmpose's ``rtmdet_nano_320-8xb32_hand`` through mmdeploy's ``detection_onnxruntime``): input
(1, 3, H, W) BGR, normalised by mean and standard deviation, the image scaled to fit, placed at the top
left and padded with 114; outputs ``dets`` (1, N, 5) x0, y0, x1, y1, score in input pixels, suppressed
already, and ``labels`` (1, N). Lyu et al., "RTMDet", 2022.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.errors import ConfigError, DeviceError, WeightsError
from a2p_ros.inference import OnnxModel, open_onnx
from a2p_ros.types import Box, Detection, Image

#: Input edge where the file leaves it open [px].
DEFAULT_EDGE = 320
#: Of BGR pixels.
MEAN = np.array([103.53, 116.28, 123.675], np.float32)
STD = np.array([57.375, 57.12, 58.395], np.float32)
PADDING = 114
HAND_LABEL = 0


class RtmDetector:
    """Finds hands of any side with an RTMDet network of the user's.

    ``min_score`` may be changed between calls. ``device`` is the provider that was granted.
    """

    name = "rtmdet"

    def __init__(self, config: DetectionConfig, device: DeviceConfig) -> None:
        if not config.rtmdet_path:
            raise ConfigError(
                "detection.backend is rtmdet, but detection.rtmdet_path is empty: "
                "give the ONNX file of an RTMDet hand detector, or use backend mediapipe"
            )
        self._model = open_onnx(config.rtmdet_path, device)
        self.device = self._model.device
        self.min_score = config.min_score
        self._input, self._height, self._width = _checked_input(self._model)
        self._canvas = np.full((self._height, self._width, 3), PADDING, np.uint8)
        self._shape = (0, 0)
        try:  # A first run shows a file with other outputs now, not on the first frame.
            self._run(np.zeros((1, 3, self._height, self._width), np.float32))
        except DeviceError as error:
            if self.device != "cpu":
                raise
            raise WeightsError(f"{self._model.path}: the network does not run: {error}") from error

    def __call__(self, image: Image) -> list[Detection]:
        """Hands of an RGB image, best first; side and rotation unknown."""
        tensor, scale = self._prepare(image)
        boxes = self._run(tensor)
        boxes = boxes[boxes[:, 4] >= self.min_score]
        height, width = image.shape[:2]
        # The network's coordinates have 0 at the picture's edge, ours at the first pixel's centre.
        corners = boxes[:, :4] / np.tile(scale, 2) - 0.5
        corners = np.clip(corners, -0.5, np.array([width, height, width, height]) - 0.5)
        found = [
            Detection(Box(*map(float, corner)), float(score))
            for corner, score in zip(corners, boxes[:, 4], strict=True)
            if (corner[2:] > corner[:2]).all()
        ]
        return sorted(found, key=lambda detection: -detection.score)

    def _prepare(self, image: Image) -> tuple[Float[np.ndarray, "1 3 height width"], Float[np.ndarray, "2"]]:
        """The network's input, and its scale along x and y [input px / image px]."""
        height, width = image.shape[:2]
        ratio = min(self._width / width, self._height / height)
        new_width = min(max(round(width * ratio), 1), self._width)
        new_height = min(max(round(height * ratio), 1), self._height)
        if self._shape != (new_height, new_width):
            self._canvas[:] = PADDING
            self._shape = (new_height, new_width)
        self._canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
        bgr = (self._canvas[..., ::-1] - MEAN) / STD
        tensor = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None], dtype=np.float32)
        return tensor, np.array([new_width / width, new_height / height])

    def _run(self, tensor: Float[np.ndarray, "1 3 height width"]) -> Float[np.ndarray, "n 5"]:
        """Rows x0, y0, x1, y1, score of the hands [input px]."""
        outputs = self._model(**{self._input: tensor})
        shapes = [output.shape for output in outputs]
        right = len(outputs) == 2 and shapes[0][:1] == (1,) and len(shapes[0]) == 3 and shapes[0][2] == 5
        if not right or shapes[1] != shapes[0][:2]:
            raise WeightsError(
                f"{self._model.path}: expected outputs dets (1, N, 5) and labels (1, N) of an RTMDet exported with "
                f"its post-processing, got {shapes}; export it with mmdeploy's detection_onnxruntime configuration"
            )
        dets, labels = outputs[0][0], outputs[1][0]
        return dets[(labels == HAND_LABEL) & np.isfinite(dets).all(axis=1)]


def _checked_input(model: OnnxModel) -> tuple[str, int, int]:
    """Name, height and width [px] of the only input; open dimensions get the default edge."""
    inputs = model.session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        found = {entry.name: (entry.type, entry.shape) for entry in inputs}
        raise WeightsError(f"{model.path}: expected one float input (1, 3, height, width), got {found}")
    height, width = (edge if isinstance(edge, int) else DEFAULT_EDGE for edge in shape[2:])
    return inputs[0].name, height, width
