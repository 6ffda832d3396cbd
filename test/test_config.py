"""Settings: one source of types, ranges and text."""

from __future__ import annotations

import dataclasses

import pytest

from a2p_ros.config import FitConfig, PipelineConfig, PlacementConfig
from a2p_ros.errors import ConfigError


def test_every_setting_says_what_it_is() -> None:
    for name, kind, info in PipelineConfig.flat_settings():
        assert info.text.endswith("."), f"{name}: the description is not a sentence"
        if kind in (int, float):
            assert info.low is not None and info.high is not None, f"{name} has no range"


def test_flat_names_make_the_same_configuration_again() -> None:
    config = PipelineConfig.from_flat({"detection.interval": 3, "placement.hand_length": 0.19})
    assert config.detection.interval == 3 and config.placement.hand_length == 0.19
    assert PipelineConfig.from_flat(config.flat()) == config


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"detection.min_score": 1.5}, r"min_score: expected a value in \[0.0, 1.0\], got 1.5"),
        ({"detection.min_score": float("nan")}, "min_score"),
        ({"detection.backend": "yolo"}, "expected one of 'mediapipe', 'a2p', 'combined', 'rtmdet', got 'yolo'"),
        ({"detection.interval": "5"}, "expected int, got str '5'"),
        ({"detection.interval": True}, "expected int, got bool"),
        ({"smoothing.enabled": 1}, "expected bool, got int"),
        ({"placement.hand_length": 0.05}, r"expected 0 \(unknown\) or a length in \[0.10, 0.25\] m, got 0.05"),
        ({"detection.minscore": 0.5}, "unknown setting detection.minscore; known are"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PipelineConfig.from_flat(values)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitConfig().iterations = 3  # type: ignore[misc]
    assert PlacementConfig(hand_length=0.2) != PlacementConfig()
