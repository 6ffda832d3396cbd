"""A detector network whose answers are known: colours stand for hands."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from a2p_ros.detection.hand_weights import save

#: Of the pictures it is made for [px^2].
AREA = 96 * 128


class Colours(nn.Module):
    """Red is a left hand, blue a right one; each points right and is 48 x 32 px about its cell."""

    def __init__(self, channels: int = 9) -> None:
        super().__init__()
        numbers = torch.tensor([1.5, 1.0, 1.5, 1.0, 0.0, 1.0, 0.5, -0.5, math.log(40 / 64)])[:channels]
        self.register_buffer("numbers", numbers.repeat(2).reshape(1, 2, channels, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = pictures.permute(0, 3, 1, 2).float() / 255
        red, _, blue = nn.functional.avg_pool2d(x, 8).split(1, 1)
        heat = torch.cat([red - blue, blue - red], 1).clamp(0, 1)
        return heat, self.numbers + 0 * heat[:, :, None]


def colours(folder: Path, channels: int = 9, area: int = AREA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Colours(channels).eval(),
            (torch.zeros(1, 64, 96, 3, dtype=torch.uint8),),
            folder / "made.onnx",
            dynamo=False,
            input_names=["pictures"],
            output_names=["heat", "numbers"],
            dynamic_axes={"pictures": {1: "h", 2: "w"}, "heat": {2: "r", 3: "c"}, "numbers": {3: "r", 4: "c"}},
        )
    save(folder, (folder / "made.onnx").read_bytes(), area, {"name": "colours"})
    return folder
