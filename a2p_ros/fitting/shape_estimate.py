"""One person's hand shape, from the first frames of a stream, then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float

from a2p_ros.fitting.small_systems import solve_spd
from a2p_ros.hand.model import betas_for_length, hand_length

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: Hands seen before the shape is set anew; after the last the shape stays, so that bones keep their length.
UPDATES = (4, 12, 30, 60)
#: Neighbouring frames err alike: this share of a frame counts as independent evidence.
_INDEPENDENT = 0.1


class ShapeEstimate:
    """Betas that both hands share, by Gauss-Newton over frames with a standard normal prior.

    Keypoints of one camera tell proportions, not size: the flat hand always has the length asked for.

    Args:
        model: the hand model whose betas are estimated.
        length: wrist joint to middle fingertip [m]; 0 = that of betas 0, the mean adult hand.

    Raises:
        InputError: no shape has that length.
    """

    def __init__(self, model: HandModel, length: float = 0.0) -> None:
        self._model = model
        self._mean_length = float(hand_length(model, torch.zeros(1, 10).to(model.template))[0])
        self._length = self._wanted(length)
        self.reset()

    def reset(self) -> None:
        """Forget the person."""
        self._information = np.eye(10)
        self._target = np.zeros(10)
        self._seen = 0
        self.betas = self._scaled(np.zeros(10))

    def set_length(self, length: float) -> None:
        """Change the hand's length [m]; proportions are kept."""
        if self._wanted(length) != self._length:
            self._length = self._wanted(length)
            self.betas = self._scaled(self.betas)

    @property
    def frozen(self) -> bool:
        """Whether the shape has been settled."""
        return self._seen >= UPDATES[-1]

    def add(
        self,
        information: Float[np.ndarray, "hands 10 10"],
        gradient: Float[np.ndarray, "hands 10"],
        good: Bool[np.ndarray, "hands"],
    ) -> None:
        """Take in what a frame says about the betas it was solved with (``HandProblem.shape_information``)."""
        for s, g in zip(information[good], gradient[good], strict=True):
            self._information += _INDEPENDENT * s
            self._target += _INDEPENDENT * (s @ self.betas + g)
            self._seen += 1
            if self._seen in UPDATES:
                self.betas = self._scaled(np.clip(solve_spd(self._information, self._target[:, None])[:, 0], -2.5, 2.5))

    def _wanted(self, length: float) -> float:
        return length if length > 0 else self._mean_length

    def _scaled(self, betas: Float[np.ndarray, "10"]) -> Float[np.ndarray, "10"]:
        fitted = betas_for_length(self._model, torch.as_tensor(betas).to(self._model.template), self._length)
        return fitted.double().cpu().numpy()
