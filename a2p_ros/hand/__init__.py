"""The hand: parameters -> joints and vertices, for the open hand and for MANO."""

from __future__ import annotations

from a2p_ros.hand.files import load_hand_model, load_hand_models
from a2p_ros.hand.model import HandModel, HandOutput, PosedHand, ShapedHand, betas_for_length, hand_length

__all__ = [
    "HandModel",
    "HandOutput",
    "PosedHand",
    "ShapedHand",
    "betas_for_length",
    "hand_length",
    "load_hand_model",
    "load_hand_models",
]
