"""Collision guidance: A2P eq. 4, x0_hat <- x0_hat - lambda grad L_collision, with L_collision of eq. 3.

The paper gives no lambda. For the signed loss, whose least value is 0, Polyak's step lambda = L / |grad L|^2 needs
none: it moves as far as the loss, taken for a quadratic, asks. The gradient is taken in the model's numbers, and each
moves in proportion to how wrong a regressor is likely to be about it (its mobility), squared; shapes hardly change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.config import Checked, setting
from a2p_ros.interaction.collision import (
    InsideVertices,
    PrintedCriterion,
    inside_vertices,
    printed_loss,
    signed_loss,
)
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import DIMS, LEFT_SHAPE, RIGHT, RIGHT_SHAPE, ROTATION, TRANSLATION, PairCodec
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.types import Pair

#: No step moves the numbers farther than this, in units of their mobility: where L is not small but its gradient is.
_LONGEST = 6.0


@dataclass(frozen=True)
class GuidanceConfig(Checked):
    """How the guidance steps; none of it is in the paper."""

    loss: Literal["signed", "printed"] = setting("signed", "Form of eq. 3: by an inside test, or as printed.")
    against: Literal["other", "condition"] = setting(
        "other", "V_c of the printed form: the other hand, or the condition's mesh of the other hand."
    )
    iterations: int = setting(3, "Gradient steps after each step of the sampler.", low=1, high=1000)
    rate: float = setting(1.5, "Of the signed form: multiple of Polyak's step.", low=0.0, high=10.0)
    scale: float = setting(0.01, "Of the printed form: lambda.", low=0.0, high=1e6)
    articulation: float = setting(0.1, "Mobility of a joint's 6D numbers.", low=0.0, high=10.0)
    shape: float = setting(0.05, "Mobility of a shape parameter.", low=0.0, high=10.0)
    rotation: float = setting(0.06, "Mobility of the 6D numbers between the wrists.", low=0.0, high=10.0)
    translation: float = setting(0.012, "Mobility of the way between the wrists along the view [m].", low=0.0, high=1.0)
    across: float = setting(0.5, "Mobility across the view as a share of that along it.", low=0.0, high=1.0)


class CollisionGuide:
    """The sampler's ``guide`` for one batch of pairs.

    Args:
        codec: what x means.
        meshes: the two hands' collision meshes.
        like: where each pair is; only its right wrist matters, and for ``against`` = condition its meshes.
        config: steps.
        criterion: thresholds of the printed form.
        view: direction of view in the frame of ``like``; across it the hands move less. None = alike everywhere.
    """

    def __init__(
        self,
        codec: PairCodec,
        meshes: Pair[CollisionMesh],
        like: HandPairs,
        config: GuidanceConfig | None = None,
        criterion: PrintedCriterion | None = None,
        view: Float[Tensor, "batch 3"] | None = None,
    ) -> None:
        self._codec, self._meshes, self._like = codec, meshes, like
        self._config = config or GuidanceConfig()
        self._criterion = criterion or PrintedCriterion()
        self._mobility = mobility(self._config, codec) ** 2
        self._along: Tensor | None = None
        if view is not None:
            self._along = (view[:, None] @ like.rotations.right[:, 0])[:, 0]
        self._condition: Pair[Tensor] | None = None
        if self._config.loss == "printed" and self._config.against == "condition":
            self._condition = self._vertices(codec.encode(like))

    def __call__(self, x: Float[Tensor, "batch 209"], share: float = 1.0) -> Float[Tensor, "batch 209"]:
        """x0_hat corrected; ``share`` of the sampler's steps done is not used."""
        for _ in range(self._config.iterations):
            x, moved = self.step(x)
            if not moved:
                break
        return x

    def step(self, x: Float[Tensor, "batch 209"]) -> tuple[Tensor, bool]:
        """One gradient step (eq. 4), and whether anything collides."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            vertices = self._vertices(x)
            if self._config.loss == "printed":
                loss = printed_loss(self._meshes, vertices, self._criterion, self._condition)
            else:
                found = inside_vertices(self._meshes, vertices)
                if not _any(found):
                    return x.detach(), False
                loss = signed_loss(self._meshes, vertices, found=found)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            downhill = self._downhill(gradient)
            if self._config.loss == "printed":
                rate = torch.full_like(loss, self._config.scale)
            else:
                rate = self._config.rate * loss / (downhill * gradient).sum(1).clamp_min(1e-20)
            length = rate * (downhill * gradient).sum(1).clamp_min(0).sqrt()
            rate = rate * (_LONGEST / length.clamp_min(1e-12)).clamp_max(1.0)
            return x.detach() - rate[:, None] * downhill, True

    def _downhill(self, gradient: Tensor) -> Tensor:
        """The gradient times the squared mobility, which along the view is another than across it."""
        out = self._mobility * gradient
        if self._along is not None:
            depth = (gradient[:, TRANSLATION] * self._along).sum(1, keepdim=True) * self._along
            out[:, TRANSLATION] *= self._config.across**2
            out[:, TRANSLATION] += self._mobility[TRANSLATION] * (1 - self._config.across**2) * depth
        return out

    def _vertices(self, x: Tensor) -> Pair[Tensor]:
        both = self._codec.decode(x, self._like).forward(self._codec.models)
        return Pair(both.left.vertices, both.right.vertices)


def mobility(config: GuidanceConfig, codec: PairCodec) -> Float[Tensor, "209"]:
    """Mobility of each of x's numbers, normalised."""
    out = torch.empty(DIMS, dtype=codec.spread.dtype, device=codec.spread.device)
    out[: RIGHT.stop] = config.articulation
    out[LEFT_SHAPE] = out[RIGHT_SHAPE] = config.shape
    out[ROTATION], out[TRANSLATION] = config.rotation, config.translation
    return out / codec.spread


def _any(found: Pair[InsideVertices]) -> bool:
    return len(found.left.batch) + len(found.right.batch) > 0
