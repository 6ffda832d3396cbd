"""Whether a joint of confidence c is right in a share c of the cases: reliability bins and ECE (Guo et al., 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

BINS = 10


class Calibration:
    """Gathers the confidences of joints and whether each was right; by joint and over all of them."""

    def __init__(self) -> None:
        self._confidence: list[np.ndarray] = []
        self._right: list[np.ndarray] = []

    def add(self, confidence: Float[np.ndarray, "21"], right: Bool[np.ndarray, "21"]) -> None:
        """Count one hand."""
        self._confidence.append(np.asarray(confidence, float))
        self._right.append(np.asarray(right, bool))

    def result(self) -> dict[str, Any]:
        """``ece``, ``ece_by_joint``, mean confidence, share right, and ``bins`` as `reliability` gives them."""
        if not self._confidence:
            return {"hands": 0, "ece": float("nan"), "ece_by_joint": [], "bins": []}
        confidence, right = np.stack(self._confidence), np.stack(self._right)
        return {
            "hands": len(confidence),
            "right": float(right.mean()),
            "confidence": float(confidence.mean()),
            "ece": expected_calibration_error(confidence.ravel(), right.ravel()),
            "ece_by_joint": [expected_calibration_error(c, r) for c, r in zip(confidence.T, right.T, strict=True)],
            "bins": reliability(confidence.ravel(), right.ravel()),
        }


def reliability(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> list[dict[str, float]]:
    """Of each tenth of the range of confidences that holds something: bounds, count, mean confidence, share right."""
    number = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "count": int((number == i).sum()),
            "confidence": float(confidence[number == i].mean()),
            "right": float(right[number == i].mean()),
        }
        for i in np.unique(number).tolist()
    ]


def expected_calibration_error(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> float:
    """Mean over the bins, by their counts, of how far the share that is right is from the mean confidence."""
    bins = reliability(confidence, right)
    return sum(b["count"] * abs(b["right"] - b["confidence"]) for b in bins) / max(len(confidence), 1)
