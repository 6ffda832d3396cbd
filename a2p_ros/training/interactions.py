"""Pairs of hands that touch as people's hands do, and the same pairs disturbed until they penetrate.

A pair starts from a kind (``interaction_kinds``): two varied hand shapes, the left hand placed so that the first
touching sites meet. Contact is then optimised over both hands' joint angles and the left hand's placement; the
signed collision loss parts what penetrates while the sites hold on; last, what remains is solved away. Pairs that
still penetrate, or that do not touch, are dropped, and how many is reported.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2p_ros.errors import ConfigError, InputError
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import inside_vertices, penetration_depths, signed_loss
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.training.contact_sites import contact_sites
from a2p_ros.training.hand_poses import GRASPS, HandAxes, sample_hand, within_limits
from a2p_ros.training.interaction_kinds import ANYWHERE, KINDS, MEETING, Kind, anywhere
from a2p_ros.types import Pair, Side

#: Fingers, palm and thumb side of the hands at rest.
_REST_LEFT = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]).T
_REST_RIGHT = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]).T
_RHO = 0.05
#: (steps, weight of contact, weight of penetration) of the three stages of the solve; weights of mm^2.
_STAGES = ((90, 1.0, 4.0), (40, 0.3, 6.0), (40, 0.02, 10.0))
#: Steps between searches for the vertices inside the other hand, the dearest part of a step.
_SEARCH = 2
#: Tries at kinds of no name that share their places.
_SAME_PLACES = {ANYWHERE: 8, MEETING: 4}
#: A clean pair is no deeper than this in the other hand, and no farther away than that [m].
MAX_DEPTH, MAX_GAP = 0.0005, 0.002


class InteractionGenerator:
    """Makes clean pairs and penetrating conditions for one hand model."""

    def __init__(self, models: Pair[HandModel]) -> None:
        self.models = models
        self.meshes = Pair(CollisionMesh.from_model(models.left), CollisionMesh.from_model(models.right))
        self._axes = Pair(HandAxes(models.left), HandAxes(models.right))
        self._sites = Pair(contact_sites(models.left), contact_sites(models.right))

    def vertices(self, pairs: HandPairs) -> Pair[Tensor]:
        """Both meshes, (B, V, 3) [m]."""
        both = pairs.forward(self.models)
        return Pair(both.left.vertices, both.right.vertices)

    def joints(self, pairs: HandPairs) -> Pair[Tensor]:
        """Both hands' 21 joints, (B, 21, 3) [m]."""
        return pairs.joints(self.models)

    def attempt(self, kind: str, count: int, generator: torch.Generator) -> tuple[HandPairs, Bool[Tensor, "batch"]]:
        """``count`` tries at a kind, and which of them are clean: touching and not penetrating.

        ``ANYWHERE`` is any place of one hand on any place of the other, other places for every eight tries;
        ``MEETING`` the same, of hands that keep their shapes. Raises InputError for an unknown kind.
        """
        if kind in _SAME_PLACES and count > (same := _SAME_PLACES[kind]):
            tries = [self.attempt(kind, min(same, count - i), generator) for i in range(0, count, same)]
            return HandPairs.joined([pairs for pairs, _ in tries]), torch.cat([clean for _, clean in tries])
        if kind not in KINDS and kind not in _SAME_PLACES:
            known = ", ".join((*KINDS, *_SAME_PLACES))
            raise InputError(f"kind of interaction: {kind!r} is unknown; known are {known}")
        spec = KINDS[kind] if kind in KINDS else anywhere(tuple(self._sites.left), tuple(GRASPS), generator)
        betas = 0.8 * torch.randn(count, 10, generator=generator)
        amount, mix = (1.2, 1.0) if kind == MEETING else (0.8, 0.25)
        shapes = [
            sample_hand(
                [names[int(torch.randint(len(names), (), generator=generator))] for _ in range(count)],
                generator,
                amount,
                mix,
            )
            for names in (spec.left, spec.right)
        ]
        if kind in KINDS:
            turns = _turns(spec, count, generator)
        else:
            turns = self._facing(spec, betas, shapes[0], shapes[1], generator)
        solve = self._meet if kind == MEETING else self._solve
        pairs = solve(spec, kind, betas, shapes[0], shapes[1], turns)
        swap = torch.rand(count, generator=generator) < 0.5
        mirrored = pairs.mirrored()
        pairs = HandPairs.joined([pairs, mirrored])[torch.where(swap, torch.arange(count) + count, torch.arange(count))]
        return pairs, self.clean(pairs)

    def clean(self, pairs: HandPairs) -> Bool[Tensor, "batch"]:
        """Which pairs touch and do not penetrate."""
        vertices = self.vertices(pairs)
        depth = torch.maximum(*(d.amax(1) for _, d in penetration_depths(self.meshes, vertices).items()))
        gap = torch.stack([torch.cdist(a, b).min() for a, b in zip(vertices.left, vertices.right, strict=True)])
        # Vertices of two touching faces are up to an edge apart.
        return (depth < MAX_DEPTH) & (gap < MAX_GAP + 0.002)

    def _solve(self, spec: Kind, kind: str, betas: Tensor, left: Tensor, right: Tensor, root: Tensor) -> HandPairs:
        count = len(betas)
        sites = [
            (self._vertices_of(a, Side.LEFT), self._vertices_of(b, Side.RIGHT), weight)
            for a, b, weight in spec.contacts
        ]
        still = torch.zeros(count, 3)

        def build(angles: Pair[Tensor], turn: Tensor, transl: Tensor) -> HandPairs:
            return self._built(kind, betas, angles, root @ exponential(turn), transl)

        # The hand that grips starts open, out of reach of the other, and closes.
        opened = left.clone()
        opened[:, :12, 1] *= spec.opening
        start = self._apart(spec, self.vertices(build(Pair(opened, right), still, still)))
        variables = [opened, right.clone(), still.clone(), start]
        for v in variables:
            v.requires_grad_()
        adam = torch.optim.Adam([{"params": variables[:3], "lr": 0.006}, {"params": variables[3:], "lr": 0.0006}])
        for steps, contact_weight, penetration_weight in _STAGES:
            for step in range(steps):
                pairs = build(Pair(variables[0], variables[1]), variables[2], variables[3])
                vertices = self.vertices(pairs)
                apart = torch.stack(
                    [
                        w * (vertices.left[:, i].mean(1) - vertices.right[:, j].mean(1)).square().sum(-1)
                        for i, j, w in sites
                    ]
                ).sum(0)
                if step % _SEARCH == 0:
                    found = inside_vertices(self.meshes, vertices)
                depth = signed_loss(self.meshes, vertices, _RHO, found) * _RHO**2
                prior = sum(
                    (v - v0).square().flatten(1).sum(1) / 0.15**2
                    for v, v0 in zip(variables[:3], (left, right, still), strict=True)
                )
                loss = (1e6 * (contact_weight * apart + penetration_weight * depth) + contact_weight * prior).sum()
                adam.zero_grad()
                loss.backward()
                adam.step()
        with torch.no_grad():
            return build(Pair(variables[0], variables[1]), variables[2], variables[3].detach())

    def _meet(self, spec: Kind, kind: str, betas: Tensor, left: Tensor, right: Tensor, root: Tensor) -> HandPairs:
        """Hands of these shapes, as near to each other as they come without penetrating."""
        pairs = self._built(kind, betas, Pair(left, right), root, torch.zeros(len(betas), 3))
        return dataclasses.replace(
            pairs, transl=Pair(self._apart(spec, self.vertices(pairs), 0.0005), pairs.transl.right)
        )

    def _built(self, kind: str, betas: Tensor, angles: Pair[Tensor], root: Tensor, transl: Tensor) -> HandPairs:
        """Hands of one shape; ``root`` is the left wrist's rotation, the right one's being the identity."""
        count = len(betas)
        roots = Pair(root, torch.eye(3).expand(count, 3, 3))
        rotations = Pair(
            *(torch.cat([roots[s][:, None], self._axes[s].rotations(within_limits(a))], 1) for s, a in angles.items())
        )
        return HandPairs(Pair(betas, betas), rotations, Pair(transl, torch.zeros(count, 3)), (kind,) * count)

    def _apart(self, spec: Kind, first: Pair[Tensor], finest: float = 0.006) -> Float[Tensor, "batch 3"]:
        """Where to move the left hand [m] so that the first sites face each other and nothing penetrates."""
        i, j = self._vertices_of(spec.contacts[0][0], Side.LEFT), self._vertices_of(spec.contacts[0][1], Side.RIGHT)
        shift = first.right[:, j].mean(1) - first.left[:, i].mean(1)
        outward = self.meshes.right.normals(self.meshes.right.close(first.right))[:, j].mean(1)
        outward = torch.nn.functional.normalize(outward, dim=-1)
        return shift + outward * self._free_gap(first, shift, outward, spec, finest)[:, None]

    def _facing(
        self, spec: Kind, betas: Tensor, left: Tensor, right: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "batch 3 3"]:
        """Left wrist rotations at which the first sites' normals oppose each other, turned about them at random."""
        count = len(betas)
        eye, still = torch.eye(3).expand(count, 1, 3, 3), torch.zeros(count, 3)
        normals = []
        for side, angles, site in ((Side.LEFT, left, spec.contacts[0][0]), (Side.RIGHT, right, spec.contacts[0][1])):
            rotations = torch.cat([eye, self._axes[side].rotations(within_limits(angles))], 1)
            vertices = self.models[side].forward(betas, rotations, still).vertices
            mesh = self.meshes[side]
            normal = mesh.normals(mesh.close(vertices))[:, self._vertices_of(site, side)].mean(1)
            normals.append(torch.nn.functional.normalize(normal, dim=-1))
        own, other = normals[0], -normals[1]
        axis = torch.nn.functional.normalize(torch.linalg.cross(own, other) + 1e-6, dim=-1)
        swing = exponential(axis * torch.arccos((own * other).sum(-1, keepdim=True).clamp(-1, 1)))
        spin = exponential(other * 2 * torch.pi * torch.rand(count, 1, generator=generator))
        tilt = exponential(torch.deg2rad(spec.tilt * torch.randn(count, 3, generator=generator)) / 3**0.5)
        return tilt @ spin @ swing

    def _free_gap(
        self, first: Pair[Tensor], shift: Tensor, outward: Tensor, spec: Kind, finest: float
    ) -> Float[Tensor, "batch"]:
        """The least gap [m] along ``outward`` at which the hands do not penetrate, up to the kind's ``reach``."""

        def blocked(gap: Tensor) -> Tensor:
            moved = Pair(first.left + (shift + gap[:, None] * outward)[:, None], first.right)
            found = inside_vertices(self.meshes, moved)
            out = torch.zeros(len(shift), dtype=torch.bool)
            out[torch.cat([found.left.batch, found.right.batch])] = True
            return out

        step, gap = 0.006, torch.full((len(shift),), spec.gap)
        while bool((more := blocked(gap) & (gap < spec.reach)).any()):
            gap = gap + step * more
        while step > finest:
            step /= 2
            gap = torch.where(blocked(gap - step), gap, gap - step)
        return gap

    def _vertices_of(self, name: str, side: Side) -> list[int]:
        return [self._sites[side][part] for part in name.split("+")]

    def disturb(
        self,
        pairs: HandPairs,
        generator: torch.Generator,
        mpjpe: float = 0.006,
        mrrpe_share: float = 2.0,
        tries: int = 8,
        min_depth: float = 0.001,
    ) -> tuple[HandPairs, Bool[Tensor, "batch"]]:
        """Penetrating conditions: noise on each clean pair, scaled to an error, drawn again until they penetrate.

        The noise turns every joint and both wrists, changes the shape, and moves the left hand. ``mpjpe`` [m] is the
        mean distance of both hands' joints from the clean ones, each hand moved by its own wrist; the left wrist moves
        ``mrrpe_share`` times as far on average (the paper's MRRPE is 3.9 times its MPJPE, MRRPE being the harder one).
        Returns the conditions and which of them penetrate by ``min_depth`` [m] or more.
        """
        if not 0 < mpjpe <= 0.05:
            raise ConfigError(f"mpjpe: expected a distance in (0, 0.05] m, got {mpjpe!r}")
        truth, out = self.joints(pairs), pairs
        done = torch.zeros(len(pairs), dtype=torch.bool)
        for _ in range(tries):
            noise = [torch.randn(len(pairs), *shape, generator=generator) for shape in ((16, 3), (16, 3), (10,), (3,))]
            low, high = torch.zeros(len(pairs)), torch.full((len(pairs),), 1.0)
            for _ in range(12):
                scale = (low + high) / 2
                over = (
                    wrist_aligned_error(self.joints(_disturbed(pairs, noise, scale, mpjpe * mrrpe_share)), truth)
                    > mpjpe
                )
                low, high = torch.where(over, low, scale), torch.where(over, scale, high)
            tried = _disturbed(pairs, noise, low, mpjpe * mrrpe_share)
            depths = penetration_depths(self.meshes, self.vertices(tried))
            good = torch.maximum(depths.left.amax(1), depths.right.amax(1)) >= min_depth
            n = torch.arange(len(pairs))
            out = HandPairs.joined([out, tried])[torch.where(good & ~done, n + len(pairs), n)]
            done |= good
            if done.all():
                break
        return out, done


def wrist_aligned_error(joints: Pair[Tensor], truth: Pair[Tensor]) -> Float[Tensor, "batch"]:
    """MPJPE of both hands [m], each moved so that its wrist (joint 0) is the true one."""
    gaps = [
        ((j - j[:, :1]) - (t - t[:, :1])).norm(dim=-1).mean(1)
        for (_, j), (_, t) in zip(joints.items(), truth.items(), strict=True)
    ]
    return (gaps[0] + gaps[1]) / 2


def _disturbed(pairs: HandPairs, noise: list[Tensor], scale: Tensor, shift: float) -> HandPairs:
    """``scale`` [rad] is the standard deviation of a joint's turn; the left hand moves by ``shift`` [m] on average."""
    turns = [exponential((scale[:, None, None] * n).reshape(-1, 3)).reshape(-1, 16, 3, 3) for n in noise[:2]]
    # The mean length of a standard normal 3-vector is sqrt(8 / pi).
    move = noise[3] * shift / (8 / torch.pi) ** 0.5
    shape = 2 * scale[:, None] * noise[2]
    return HandPairs(
        Pair(pairs.betas.left + shape, pairs.betas.right + shape),
        Pair(pairs.rotations.left @ turns[0], pairs.rotations.right @ turns[1]),
        Pair(pairs.transl.left + move, pairs.transl.right),
        pairs.kinds,
    )


def _turns(spec: Kind, count: int, generator: torch.Generator) -> Float[Tensor, "batch 3 3"]:
    """The left hand's wrist rotation for each try, the right hand's being the identity."""
    fingers, palm = torch.tensor(spec.fingers, dtype=torch.float32), torch.tensor(spec.palm, dtype=torch.float32)
    own = torch.stack([fingers, palm, torch.zeros(3)], 1)
    # In the right hand's axes (fingers, palm, thumb) a left hand's thumb side is palm x fingers.
    own[:, 2] = torch.linalg.cross(palm, fingers)

    def uniform(span: tuple[float, float]) -> Tensor:
        return torch.deg2rad(span[0] + (span[1] - span[0]) * torch.rand(count, 1, generator=generator))

    # Leaning turns the fingers towards the palm: about the hand's own thumb axis; spinning is about the palm's normal.
    lean = exponential(uniform(spec.lean) * -_REST_LEFT[:, 2])
    spin = exponential(uniform(spec.spin) * _REST_LEFT[:, 1])
    tilt = exponential(torch.deg2rad(spec.tilt * torch.randn(count, 3, generator=generator)) / 3**0.5)
    return (_REST_RIGHT @ own @ _REST_LEFT.T) @ spin @ lean @ tilt


def exponential(vector: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Rotation matrices of rotation vectors [rad]."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*vector.shape[:-1], 3, 3))
