"""Batches of two-hand poses, as parameters of the hand models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from a2p_ros.hand.model import HandModel, HandOutput
from a2p_ros.types import Pair


@dataclass(frozen=True)
class HandPairs:
    """Parameters of a batch of two hands in one frame, whichever it is.

    ``betas`` are (B, 10), ``rotations`` (B, 16, 3, 3) with the global one first and the others in MANO's
    order, ``transl`` (B, 3) MANO's own translation [m]. ``kinds`` names each pair's kind of interaction.
    """

    betas: Pair[Tensor]
    rotations: Pair[Tensor]
    transl: Pair[Tensor]
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.kinds:
            object.__setattr__(self, "kinds", ("",) * len(self))

    def __len__(self) -> int:
        return len(self.transl.left)

    def __getitem__(self, chosen: Tensor | slice) -> HandPairs:
        """Some of the pairs: by a mask, indices or a slice."""
        index = torch.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen.cpu()
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return self._each(lambda t: t[index.to(t.device)], tuple(self.kinds[i] for i in index.tolist()))

    def detach(self) -> HandPairs:
        """The same numbers without their graph."""
        return self._each(Tensor.detach, self.kinds)

    def to(self, target: torch.device | torch.dtype | str) -> HandPairs:
        """On another device or in another floating-point type."""
        return self._each(lambda t: t.to(target), self.kinds)

    def mirrored(self) -> HandPairs:
        """Each hand as the other: mirrored in x, names exchanged."""
        x, r = self.transl.left, self.rotations.left
        flip, signs = x.new_tensor([-1.0, 1.0, 1.0]), r.new_tensor([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]])
        return HandPairs(
            Pair(self.betas.right, self.betas.left),
            Pair(self.rotations.right * signs, self.rotations.left * signs),
            Pair(self.transl.right * flip, self.transl.left * flip),
            self.kinds,
        )

    def forward(self, models: Pair[HandModel]) -> Pair[HandOutput]:
        """Both meshes and joints [m]."""
        return Pair(*(m.forward(self.betas[s], self.rotations[s], self.transl[s]) for s, m in models.items()))

    def joints(self, models: Pair[HandModel]) -> Pair[Tensor]:
        """Both hands' 21 joints, (B, 21, 3) [m], without the meshes."""
        return Pair(*(m.joints(self.betas[s], self.rotations[s], self.transl[s]) for s, m in models.items()))

    @classmethod
    def joined(cls, parts: list[HandPairs]) -> HandPairs:
        """One batch of several."""

        def cat(name: str) -> Pair[Tensor]:
            pairs = [getattr(p, name) for p in parts]
            return Pair(torch.cat([p.left for p in pairs]), torch.cat([p.right for p in pairs]))

        return cls(cat("betas"), cat("rotations"), cat("transl"), tuple(k for p in parts for k in p.kinds))

    def _each(self, change: Callable[[Tensor], Tensor], kinds: tuple[str, ...]) -> HandPairs:
        def both(pair: Pair[Tensor]) -> Pair[Tensor]:
            return Pair(change(pair.left), change(pair.right))

        return HandPairs(both(self.betas), both(self.rotations), both(self.transl), kinds)
