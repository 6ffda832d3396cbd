"""One person's hand shape as a network sees it, from the first frames of a stream, then kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from a2p_ros.hand import betas_for_length

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: Hands seen when the shape is set anew, beside the first ones: between these, bones keep their length.
UPDATES = (4, 12, 30, 60)
#: Betas are standard deviations; a network's are kept to those of people.
_MOST = 2.5


class RegressedShape:
    """Betas that both hands share: the mean of what a network said of them, settled after ``UPDATES[-1]`` hands.

    Args:
        model: the hand model whose betas they are.
        length: wrist joint to middle fingertip [m] that the flat hand is given; 0 = what the network says.
    """

    def __init__(self, model: HandModel, length: float = 0.0) -> None:
        self._model, self._length = model, length
        self.reset()

    def reset(self) -> None:
        """Forget the person."""
        self._sum, self._seen = np.zeros(10), 0
        self._mean = np.zeros(10)
        self.betas = self._scaled(self._mean)

    @property
    def is_known(self) -> bool:
        """Whether a network has told it of any hand."""
        return self._seen > 0

    @property
    def as_said(self) -> bool:
        """Whether the shape is the network's own, of no other length."""
        return self._length <= 0

    def set_length(self, length: float) -> None:
        """Change the hand's length [m]; 0 = what the network says."""
        if length != self._length:
            self._length = length
            self.betas = self._scaled(self._mean)

    def of(self, said: Sequence[Float[np.ndarray, "10"]]) -> Float[np.ndarray, "10"]:
        """The shape for a frame of which ``said`` is told: the person's, of one not seen yet what this frame tells."""
        if self._seen or not said:
            return self.betas
        return self._scaled(np.mean([np.clip(one, -_MOST, _MOST) for one in said], axis=0))

    def add(self, betas: Iterable[Float[np.ndarray, "10"]]) -> None:
        """Take in what a network says of the hands of one frame that proved to be hands; nothing once it is settled."""
        before = self._seen
        for one in betas:
            if self._seen < UPDATES[-1] and np.isfinite(one).all():
                self._sum += np.clip(one, -_MOST, _MOST)
                self._seen += 1
        if self._seen > before and (before == 0 or any(before < count <= self._seen for count in UPDATES)):
            self._mean = self._sum / self._seen
            self.betas = self._scaled(self._mean)

    def _scaled(self, mean: Float[np.ndarray, "10"]) -> Float[np.ndarray, "10"]:
        if self._length <= 0:
            return mean.copy()
        fitted = betas_for_length(self._model, torch.as_tensor(mean).to(self._model.template), self._length)
        return fitted.double().cpu().numpy()
