"""Configuration as frozen dataclasses: one source for a setting's type, default, range and text.

The ROS parameters, ``a2p`` options and ``config/hands.yaml`` are derived from these fields.
``runtime=True`` marks a setting that may change while the pipeline runs; all others are
read when it is built.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from a2p_ros.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """What is known of one field beside its type and default."""

    text: str
    low: float | None = None
    high: float | None = None
    runtime: bool = False


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    runtime: bool = False,
) -> Any:
    """A dataclass field with description, range and whether it may change at run time."""
    return field(default=default, metadata={"setting": Setting(text, low, high, runtime)})


class Checked:
    """Base that checks each field against its declared type, choices and range."""

    def __post_init__(self) -> None:
        for name, kind, info in settings_of(type(self)):
            check(f"{type(self).__name__}.{name}", getattr(self, name), kind, info)


def check(name: str, value: Any, kind: Any, info: Setting) -> None:
    """Raise ConfigError unless ``value`` is of ``kind`` and in range."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
        return
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {type(value).__name__} {value!r}")
    if kind in (int, float):
        low, high = info.low, info.high
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            raise ConfigError(f"{name}: expected a value in [{low}, {high}], got {value!r}")


def settings_of(cls: type) -> Iterator[tuple[str, Any, Setting]]:
    """(name, type, setting) of each leaf field of a configuration class."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if "setting" in f.metadata:
            yield f.name, hints[f.name], f.metadata["setting"]


@dataclass(frozen=True)
class DetectionConfig(Checked):
    """Image -> boxes with side and score."""

    backend: Literal["mediapipe", "a2p", "combined", "rtmdet"] = setting(
        "mediapipe",
        "Hand detector: MediaPipe's palm model, this package's own, which tells the sides and sees hands that overlap, "
        "both together, or RTMDet from an ONNX file.",
    )
    weights: str = setting("", "Folder with the weights of backends a2p and combined; empty = those that ship.")
    rtmdet_path: str = setting(
        "", "ONNX file of an RTMDet hand detector with its post-processing; needed by backend rtmdet."
    )
    min_score: float = setting(0.5, "Detections below this score are dropped.", low=0.0, high=1.0, runtime=True)
    interval: int = setting(
        5,
        "Frames between runs of the detector while fewer than two hands are tracked; while two are, it runs "
        "three times more rarely.",
        low=1,
        high=1000,
        runtime=True,
    )
    anchor: float = setting(
        0.0,
        "How far the square in which a followed hand is looked at moves to the detector's of the same image, if it "
        "runs: 0 = the hand's own points of the last image say where, 1 = the detector does. The A2P network (modes "
        "regress, fit) is better at 1 with interval 1. Above 0 the interval is the same for two hands.",
        low=0.0,
        high=1.0,
        runtime=True,
    )


@dataclass(frozen=True)
class LandmarkConfig(Checked):
    """Box -> 21 keypoints."""

    min_presence: float = setting(
        0.5, "A hand whose landmark model reports a lower presence is lost.", low=0.0, high=1.0, runtime=True
    )
    min_size: float = setting(
        0.12,
        "A hand whose box is smaller than this share of the image's shorter edge is too far away and not reported.",
        low=0.0,
        high=1.0,
        runtime=True,
    )


@dataclass(frozen=True)
class NetworkStageConfig(Checked):
    """Box -> 21 joints, MANO pose and relative translation by the A2P network (A2P, section 3.2)."""

    mode: Literal["auto", "off", "regress", "fit", "hybrid", "both"] = setting(
        "auto",
        "Who measures the hands. auto: hybrid with the network's weights for the hand model, off where none ship "
        "(MANO); off: MediaPipe's landmark model and the keypoint fit; regress: the A2P network and its own pose; fit: "
        "the network, its pose refined by the keypoint fit to its joints; hybrid: the network's points for two hands "
        "over one another, MediaPipe's landmarks for others, and the keypoint fit; both: as hybrid, and where the "
        "landmarks are fitted the network's pose is their start and what they do not tell.",
    )
    weights: str = setting("", "Folder with the network's weights; empty = those shipped for the hand model.")
    engine: Literal["auto", "torch", "onnx", "int8"] = setting(
        "auto",
        "What runs the network: torch, onnxruntime (onnx), onnxruntime with convolutions in 8 bit on a processor "
        "(int8; it loses too much of the network that ships), or auto = the faster one in 32 bit that works here.",
    )
    min_presence: float = setting(
        0.5, "A hand whose presence the network puts lower is lost.", low=0.0, high=1.0, runtime=True
    )
    min_confidence: float = setting(
        0.25,
        "A new hand of whose joints the network expects a smaller share where it puts them may be none and is not "
        "taken; one that is followed is lost below half of it.",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    min_overlapping: float = setting(
        0.4,
        "In modes hybrid and both, one of two overlapping hands, new or followed, is lost where the network expects a "
        "smaller share of its joints where it puts them: what it says may be of the other hand or an arm.",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    apart_sigma: float = setting(
        0.01,
        "How far the network's relative translation of two hands may err [m], beside keypoints that err by 1 % of a "
        "hand: the smaller, the more it decides where the hands are to each other.",
        low=1e-4,
        high=10.0,
        runtime=True,
    )


@dataclass(frozen=True)
class FitConfig(Checked):
    """Keypoints -> MANO pose and shape (the first regressor, ``keypoint_fit``)."""

    iterations: int = setting(
        4, "Levenberg-Marquardt steps on a tracked hand; a new hand gets four times as many.", low=1, high=100
    )
    max_error: float = setting(
        0.12,
        "A hand is rejected when its joints project farther than this from the keypoints on average, "
        "relative to the hand box.",
        low=0.0,
        high=10.0,
        runtime=True,
    )


@dataclass(frozen=True)
class PlacementConfig(Checked):
    """Where the hands are, in metres."""

    hand_length: float = setting(
        0.0,
        "The user's hand, wrist joint to middle fingertip with the hand flat [m], 0.10 or more; 0 = unknown, "
        "the mean adult hand is assumed and metric_scale is false.",
        low=0.0,
        high=0.25,
        runtime=True,
    )
    assumed_fov: float = setting(1.05, "Horizontal field of view [rad] assumed without CameraInfo.", low=0.1, high=3.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.hand_length < 0.10:
            raise ConfigError(
                f"PlacementConfig.hand_length: expected 0 (unknown) or a length in [0.10, 0.25] m, got "
                f"{self.hand_length!r}"
            )


@dataclass(frozen=True)
class SmoothingConfig(Checked):
    """One-Euro filtering of the placed hands."""

    enabled: bool = setting(True, "Smooth the published hands over time.", runtime=True)
    min_cutoff: float = setting(
        1.0, "Cut-off frequency of a hand at rest [Hz]; lower is smoother.", low=0.01, high=100.0, runtime=True
    )
    beta: float = setting(
        40.0, "How fast the cut-off rises with speed [Hz s/m]; higher lags less.", low=0.0, high=1000.0, runtime=True
    )


@dataclass(frozen=True)
class InteractionConfig(Checked):
    """Two hands that penetrate each other -> two that do not (A2P, section 3.3)."""

    enabled: bool = setting(True, "Repair hands that penetrate each other.", runtime=True)
    min_depth: float = setting(
        0.002,
        "Hands are repaired when a vertex of one is this far inside the other [m].",
        low=0.0,
        high=0.1,
        runtime=True,
    )
    max_move: float = setting(
        0.1,
        "A repair that would move a joint farther than this [m], seen from the right wrist, is rejected.",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    weights: str = setting("", "Folder with the denoiser's weights; empty = those shipped for the hand model.")
    steps: int = setting(1, "Denoiser calls of one repair.", low=1, high=1000)
    start: Literal["noise", "condition"] = setting(
        "noise", "noise: from pure noise (invention); condition: from the condition with noise added (repair)."
    )
    strength: float = setting(
        0.3, "With start condition, how far up the noise schedule the repair begins, as a share.", low=0.001, high=1.0
    )


@dataclass(frozen=True)
class PipelineConfig:
    """Everything the core needs; one nested class a stage."""

    detection: DetectionConfig = field(default_factory=DetectionConfig)
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)
    network: NetworkStageConfig = field(default_factory=NetworkStageConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    device: DeviceConfig = field(default_factory=lambda: DeviceConfig())

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> PipelineConfig:
        """Build from dotted names, ``{"detection.backend": "rtmdet"}``; unknown names raise ConfigError."""
        return cls().replace_flat(values)

    def replace_flat(self, values: Mapping[str, Any]) -> PipelineConfig:
        """A copy with some dotted names replaced and checked."""
        known = {name for name, _, _ in self.flat_settings()}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        stages: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            stage, leaf = name.split(".")
            stages.setdefault(stage, {})[leaf] = value
        return dataclasses.replace(self, **{s: dataclasses.replace(getattr(self, s), **v) for s, v in stages.items()})

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value of every setting."""
        return {
            name: getattr(getattr(self, name.split(".")[0]), name.split(".")[1]) for name, _, _ in self.flat_settings()
        }

    @classmethod
    def flat_settings(cls) -> Iterator[tuple[str, Any, Setting]]:
        """(dotted name, type, setting) of every setting."""
        for stage, stage_cls in typing.get_type_hints(cls).items():
            for name, kind, info in settings_of(stage_cls):
                yield f"{stage}.{name}", kind, info


@dataclass(frozen=True)
class DeviceConfig(Checked):
    """Where the networks run."""

    device: Literal["auto", "cpu", "cuda", "tensorrt"] = setting(
        "auto",
        "auto takes the best provider that is granted to each network; any other choice is an error where it is not "
        "granted. MediaPipe's detector is for the CPU: cuda and tensorrt go with detection.backend a2p or rtmdet.",
    )
    threads: int = setting(0, "CPU threads of each model; 0 = the number of cores, at most 4.", low=0, high=256)
    hand_model: str = setting(
        "", "Folder with MANO_RIGHT.npz and MANO_LEFT.npz made by `a2p hand-model convert`; empty = the open hand."
    )
