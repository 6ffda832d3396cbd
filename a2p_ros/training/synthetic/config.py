"""What `a2p synth` draws: shares of the kinds of scene, sizes, and how much of each thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from a2p_ros.config import Checked, setting, settings_of
from a2p_ros.errors import ConfigError

#: Kinds of scene, and the option that holds each one's share.
KINDS = ("interacting", "crossing", "separate", "single", "none")


@dataclass(frozen=True)
class SynthConfig(Checked):
    """Everything that decides what frame number n looks like. Shares are those of frames."""

    seed: int = setting(0, "Of everything that is drawn.", low=0, high=2**31 - 1)
    width: int = setting(400, "Width of the frames [px].", low=64, high=4096)
    height: int = setting(300, "Height of the frames [px].", low=64, high=4096)
    crop: int = setting(128, "Edge of the crops [px]; 0 makes none.", low=0, high=1024)
    maps: bool = setting(True, "Keep part segmentation and depth.")
    shard: int = setting(500, "Frames in a shard.", low=1, high=100_000)
    people: int = setting(12, "Skins with sleeves and watches that a shard's frames are drawn with.", low=1, high=1000)
    backdrops: int = setting(16, "Backdrops that parts of are behind a shard's frames.", low=1, high=1000)
    pairs: int = setting(300, "Interacting pairs that are made once and drawn again and again.", low=1, high=100_000)
    view: Literal["mixed", "teleoperation", "egocentric", "any"] = setting(
        "mixed", "Where the camera is: before the person, on the head, anywhere, or a mix of them."
    )
    interacting: float = setting(0.40, "Hands that touch.", low=0.0, high=1.0)
    crossing: float = setting(0.20, "One hand before the other without contact.", low=0.0, high=1.0)
    separate: float = setting(0.15, "Two hands apart.", low=0.0, high=1.0)
    single: float = setting(0.18, "One hand.", low=0.0, high=1.0)
    none: float = setting(0.07, "No hand.", low=0.0, high=1.0)
    held: float = setting(0.20, "Of hands that do not touch another: holding something.", low=0.0, high=1.0)
    occluded: float = setting(0.12, "Of frames: something stands before the hands.", low=0.0, high=1.0)
    truncated: float = setting(0.15, "Of frames: hands may leave the picture.", low=0.0, high=1.0)
    distorted: float = setting(0.50, "Of frames: through a lens with distortion.", low=0.0, high=1.0)
    motion_blur: float = setting(0.25, "Of frames: hands or camera move.", low=0.0, high=1.0)
    defocus: float = setting(0.25, "Of frames: hands out of focus.", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum(getattr(self, kind) for kind in KINDS)
        if abs(total - 1) > 1e-6:
            raise ConfigError(
                f"shares of scenes: expected {' + '.join(KINDS)} = 1, got "
                f"{' + '.join(f'{getattr(self, kind):g}' for kind in KINDS)} = {total:g}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SynthConfig:
        """From names and values; raises ConfigError, which lists the names, for one that is unknown."""
        known = [name for name, _, _ in settings_of(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown option of a scene {', '.join(unknown)}; known are {', '.join(known)}")
        return dataclasses.replace(cls(), **values)
