"""Rendering without a display: the synthetic camera, the pictures of hands, and the overlay.

Names are loaded on first use, so that drawing an overlay does not need OpenGL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2p_ros.rendering.clip import ClipCamera, open_synthetic
    from a2p_ros.rendering.renderer import Lights, Look, Renderer, Surface
    from a2p_ros.rendering.synthetic import SyntheticCamera
    from a2p_ros.rendering.truth import HandTruth, SyntheticFrame
    from a2p_ros.rendering.views import render_hands_3d

_HOMES = {
    "ClipCamera": "clip",
    "HandTruth": "truth",
    "Lights": "renderer",
    "Look": "renderer",
    "Renderer": "renderer",
    "Surface": "renderer",
    "SyntheticCamera": "synthetic",
    "SyntheticFrame": "truth",
    "open_synthetic": "clip",
    "render_hands_3d": "views",
}

__all__ = [
    "ClipCamera",
    "HandTruth",
    "Lights",
    "Look",
    "Renderer",
    "Surface",
    "SyntheticCamera",
    "SyntheticFrame",
    "open_synthetic",
    "render_hands_3d",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
