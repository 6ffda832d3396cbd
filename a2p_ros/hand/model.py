"""A parametric hand in MANO's form: shape, pose and translation -> 21 joints and a mesh.

The stages are pure functions of their arguments, ``with_shape -> with_pose -> skin``, and
each result can be used by itself: the keypoint fit stops after ``with_pose``, which never
touches the mesh. Equations: Romero, Tzionas, Black, "Embodied Hands" (2017), eqs. 2 to 5.

A vertex is ``v = R_wrist (v0 - J0) + J0 + transl`` with J0 the shaped wrist of the rest hand,
so ``transl`` is not the wrist position: the wrist is at ``J0 + transl``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2p_ros.errors import InputError
from a2p_ros.hand.topology import OPENPOSE_FROM_MANO21
from a2p_ros.types import Side

N_BETAS = 10
N_JOINTS = 16
_FIRST, _SECOND, _THIRD = (slice(i, N_JOINTS, 3) for i in (1, 2, 3))


@dataclass(frozen=True)
class ShapedHand:
    """The rest hand of a person: joints and tip vertices before posing [m]."""

    betas: Float[Tensor, "batch 10"]
    joints: Float[Tensor, "batch 16 3"]
    tips: Float[Tensor, "batch 5 3"]


@dataclass(frozen=True)
class PosedHand:
    """A posed skeleton.

    ``transforms[:, j]`` takes a point of joint j's own frame (the rest axes, origin in the
    joint) to the output frame: its rotation is joint j's rotation in that frame, its
    translation is the joint. ``joints16`` are in MANO's order, ``joints`` in OpenPose order [m].
    """

    shaped: ShapedHand
    rotations: Float[Tensor, "batch 16 3 3"]
    transforms: Float[Tensor, "batch 16 4 4"]
    joints: Float[Tensor, "batch 21 3"]

    @property
    def joints16(self) -> Float[Tensor, "batch 16 3"]:
        """The 16 articulated joints in MANO's order [m]."""
        return self.transforms[..., :3, 3]


@dataclass(frozen=True)
class HandOutput:
    """Vertices and joints (OpenPose order) in the output frame [m]."""

    vertices: Float[Tensor, "batch vertices 3"]
    joints: Float[Tensor, "batch 21 3"]


@dataclass(frozen=True, eq=False)
class HandModel:
    """One hand's arrays; make it with :func:`a2p_ros.hand.load_hand_models`.

    Rest axes: right hand fingers along -x, palm facing -y, thumb on the +z side; the left hand
    mirrored in x. Every joint's rest frame is the identity and zero rotations are the flat hand.
    ``joint_template`` and ``joint_shapedirs`` are the joint regressor applied to the template
    and to the shape directions. ``tip_vertices`` are thumb to little finger.
    """

    name: str
    side: Side
    template: Float[Tensor, "vertices 3"]
    shapedirs: Float[Tensor, "vertices 3 10"]
    posedirs: Float[Tensor, "135 vertices3"] | None
    weights: Float[Tensor, "vertices 16"]
    joint_regressor: Float[Tensor, "16 vertices"]
    faces: Int[Tensor, "faces 3"]
    tip_vertices: tuple[int, ...]
    mean_pose: Float[Tensor, "15 3"]
    joint_template: Float[Tensor, "16 3"] = dataclasses.field(init=False, repr=False)
    joint_shapedirs: Float[Tensor, "16 3 10"] = dataclasses.field(init=False, repr=False)
    _rest: Float[Tensor, "63"] = dataclasses.field(init=False, repr=False)
    _rest_dirs: Float[Tensor, "10 63"] = dataclasses.field(init=False, repr=False)
    _tip_weights: Float[Tensor, "5 16"] = dataclasses.field(init=False, repr=False)
    _tip_posedirs: Float[Tensor, "135 15"] | None = dataclasses.field(init=False, repr=False)
    _order: Int[Tensor, "21"] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        tips = list(self.tip_vertices)
        joint_template = self.joint_regressor @ self.template
        joint_shapedirs = torch.einsum("jv,vck->jck", self.joint_regressor, self.shapedirs)
        rest = torch.cat([joint_template, self.template[tips]])
        dirs = torch.cat([joint_shapedirs, self.shapedirs[tips]])
        tip_posedirs = None
        if self.posedirs is not None:
            tip_posedirs = self.posedirs.reshape(135, -1, 3)[:, tips].reshape(135, 15)
        derived = {
            "joint_template": joint_template,
            "joint_shapedirs": joint_shapedirs,
            "_rest": rest.reshape(63),
            "_rest_dirs": dirs.reshape(63, N_BETAS).T.contiguous(),
            "_tip_weights": self.weights[tips],
            "_tip_posedirs": tip_posedirs,
            "_order": torch.tensor(OPENPOSE_FROM_MANO21, device=self.template.device),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def n_vertices(self) -> int:
        """Number of mesh vertices."""
        return self.template.shape[0]

    def to(self, target: torch.device | torch.dtype | str) -> HandModel:
        """The same hand on another device or in another floating-point type."""
        if isinstance(target, str):
            target = torch.device(target)
        moved: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            if f.init and isinstance(value := getattr(self, f.name), Tensor):
                whole = f.name == "faces" and isinstance(target, torch.dtype)
                moved[f.name] = value if whole else value.to(target)
        return dataclasses.replace(self, **moved)

    def with_shape(self, betas: Float[Tensor, "batch 10"]) -> ShapedHand:
        """Joints and tips of the rest hand of shape ``betas`` (eq. 4, applied to 21 points)."""
        if betas.ndim != 2 or betas.shape[1] != N_BETAS:
            raise InputError(f"betas: expected (B, {N_BETAS}), got {tuple(betas.shape)}")
        points = (self._rest + betas @ self._rest_dirs).reshape(-1, 21, 3)
        return ShapedHand(betas, points[:, :N_JOINTS], points[:, N_JOINTS:])

    def with_pose(
        self,
        shaped: ShapedHand,
        rotations: Float[Tensor, "batch 16 3 3"],
        transl: Float[Tensor, "batch 3"],
    ) -> PosedHand:
        """Pose the skeleton; a batch of one shape or translation serves a larger batch of poses."""
        if rotations.ndim != 4 or rotations.shape[1:] != (N_JOINTS, 3, 3):
            raise InputError(f"rotations: expected (B, {N_JOINTS}, 3, 3), got {tuple(rotations.shape)}")
        if transl.ndim != 2 or transl.shape[1] != 3:
            raise InputError(f"transl: expected (B, 3), got {tuple(transl.shape)}")
        turns, positions = _forward_kinematics(shaped.joints, rotations, transl)
        tips = shaped.tips
        if self._tip_posedirs is not None:
            tips = tips + (_pose_feature(rotations) @ self._tip_posedirs).reshape(-1, 5, 3)
        tips = _blend(self._tip_weights, turns, positions, shaped.joints, tips)
        joints = torch.cat([positions, tips], dim=1)[:, self._order]
        last = rotations.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(turns.shape[0], N_JOINTS, 1, 4)
        transforms = torch.cat([torch.cat([turns, positions[..., None]], dim=-1), last], dim=-2)
        return PosedHand(shaped, rotations, transforms, joints)

    def skin(self, posed: PosedHand) -> HandOutput:
        """The mesh of a posed skeleton: blend shapes, then linear blend skinning (eqs. 2, 3)."""
        shaped = posed.shaped
        rest = self.template + torch.einsum("bk,vck->bvc", shaped.betas, self.shapedirs)
        if self.posedirs is not None:
            rest = rest + (_pose_feature(posed.rotations) @ self.posedirs).reshape(-1, self.n_vertices, 3)
        turns, positions = posed.transforms[..., :3, :3], posed.transforms[..., :3, 3]
        return HandOutput(_blend(self.weights, turns, positions, shaped.joints, rest), posed.joints)

    def points(self, posed: PosedHand, vertices: Int[Tensor, "batch points"]) -> Float[Tensor, "batch points 3"]:
        """A few vertices of each hand of a batch [m], without the rest of the mesh."""
        shaped = posed.shaped
        rest = self.template[vertices] + torch.einsum("bk,bvck->bvc", shaped.betas, self.shapedirs[vertices])
        if self.posedirs is not None:
            dirs = self.posedirs.reshape(135, -1, 3)[:, vertices]
            rest = rest + torch.einsum("bk,kbvc->bvc", _pose_feature(posed.rotations), dirs)
        turns, positions = posed.transforms[..., :3, :3], posed.transforms[..., :3, 3]
        return _blend(self.weights[vertices], turns, positions, shaped.joints, rest)

    def joints(
        self,
        betas: Float[Tensor, "batch 10"],
        rotations: Float[Tensor, "batch 16 3 3"],
        transl: Float[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch 21 3"]:
        """The 21 joints alone [m], OpenPose order: the cheap path, which builds no mesh."""
        return self.with_pose(self.with_shape(betas), rotations, transl).joints

    def forward(
        self,
        betas: Float[Tensor, "batch 10"],
        rotations: Float[Tensor, "batch 16 3 3"],
        transl: Float[Tensor, "batch 3"],
    ) -> HandOutput:
        """Mesh and joints [m]; ``rotations[:, 0]`` is the global rotation, 1 to 15 in MANO's order."""
        return self.skin(self.with_pose(self.with_shape(betas), rotations, transl))

    __call__ = forward

    def mirrored(self) -> HandModel:
        """The other hand: every array mirrored in x.

        Rotations mirror as M R M with M = diag(-1, 1, 1), axis-angle as (a, -b, -c).
        """
        flip = self.template.new_tensor([-1.0, 1.0, 1.0])
        posedirs = None
        if self.posedirs is not None:
            # A feature is an entry (row, column) of a rotation; M R M changes the sign of those with one x.
            signs = torch.outer(flip, flip).reshape(9).repeat(15)
            posedirs = signs[:, None] * self.posedirs * flip.repeat(self.n_vertices)
        return dataclasses.replace(
            self,
            side=self.side.other,
            template=self.template * flip,
            shapedirs=self.shapedirs * flip[:, None],
            posedirs=posedirs,
            faces=self.faces[:, [0, 2, 1]],
            mean_pose=self.mean_pose * -flip,
        )


def hand_length(model: HandModel, betas: Float[Tensor, "batch 10"]) -> Float[Tensor, "batch"]:
    """Wrist joint to middle fingertip with the hand flat [m], in a straight line."""
    shaped = model.with_shape(betas)
    return (shaped.tips[:, 2] - shaped.joints[:, 0]).norm(dim=-1)


def betas_for_length(model: HandModel, betas: Float[Tensor, "10"], length: float) -> Float[Tensor, "10"]:
    """``betas`` changed so that the flat hand is ``length`` [m] long.

    The open hand changes in beta 0, its pure size direction; MANO has none, so its smallest
    change of shape is taken (Newton steps along the gradient of the length).
    Raises InputError when no hand of that length is found.
    """
    if not 0.05 <= length <= 0.40:
        raise InputError(f"hand length: expected 0.05 to 0.40 m (wrist joint to middle fingertip), got {length!r}")
    if betas.shape != (N_BETAS,):
        raise InputError(f"betas: expected ({N_BETAS},), got {tuple(betas.shape)}")
    rest, dirs = model._rest.reshape(21, 3), model._rest_dirs.reshape(N_BETAS, 21, 3)
    span, span_dirs = rest[18] - rest[0], dirs[:, 18] - dirs[:, 0]
    free = betas.new_zeros(N_BETAS)
    free[0 if model.name == "open_hand" else slice(None)] = 1.0
    solved = betas.clone()
    for _ in range(20):
        v = span + solved @ span_dirs
        now = v.norm()
        gradient = free * (span_dirs @ v) / now
        solved = solved + gradient * (length - now) / gradient.square().sum().clamp_min(1e-12)
    reached = float((span + solved @ span_dirs).norm())
    if not abs(reached - length) < 1e-4:
        raise InputError(f"hand length: {model.name} reaches {reached:.4f} m, not the {length:.4f} m asked for")
    return solved


def _forward_kinematics(
    rest: Float[Tensor, "batch 16 3"], rotations: Float[Tensor, "batch 16 3 3"], transl: Float[Tensor, "batch 3"]
) -> tuple[Float[Tensor, "batch 16 3 3"], Float[Tensor, "batch 16 3"]]:
    """Rotation and position of each joint in the output frame; the five fingers go level by level."""
    root = rotations[:, :1]
    wrist = (rest[:, :1] + transl[:, None]).expand(rotations.shape[0], 1, 3)
    first = root @ rotations[:, _FIRST]
    second = first @ rotations[:, _SECOND]
    third = second @ rotations[:, _THIRD]
    p1 = wrist + _turn(root, rest[:, _FIRST] - rest[:, :1])
    p2 = p1 + _turn(first, rest[:, _SECOND] - rest[:, _FIRST])
    p3 = p2 + _turn(second, rest[:, _THIRD] - rest[:, _SECOND])
    turns = torch.stack([first, second, third], dim=2).flatten(1, 2)
    positions = torch.stack([p1, p2, p3], dim=2).flatten(1, 2)
    return torch.cat([root, turns], dim=1), torch.cat([wrist, positions], dim=1)


def _turn(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation @ vector[..., None])[..., 0]


def _pose_feature(rotations: Float[Tensor, "batch 16 3 3"]) -> Float[Tensor, "batch 135"]:
    return (rotations[:, 1:] - torch.eye(3, dtype=rotations.dtype, device=rotations.device)).flatten(1)


def _blend(
    weights: Float[Tensor, "*batch points 16"],
    turns: Float[Tensor, "batch 16 3 3"],
    positions: Float[Tensor, "batch 16 3"],
    rest_joints: Float[Tensor, "batch 16 3"],
    points: Float[Tensor, "batch points 3"],
) -> Float[Tensor, "batch points 3"]:
    """Linear blend skinning: p = sum_j w_j (R_j (p0 - J_j) + T_j)."""
    offsets = positions - _turn(turns, rest_joints)
    blended = (weights @ torch.cat([turns.flatten(2), offsets], dim=-1)).unflatten(-1, (4, 3))
    return _turn(blended[..., :3, :], points) + blended[..., 3, :]
