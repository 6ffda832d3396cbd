"""What the readers of annotated data sets share: parameters to pairs, the check of joints, the choice of frames.

The annotations are MANO parameters of both hands in a capture's world frame [m], fitted with
``flat_hand_mean=False``: the 45 numbers of the fingers are added to MANO's mean pose before they are rotations.
A pair of this package counts from the flat hand, so the mean pose of the hand model goes into the rotations.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2p_ros.errors import HandModelError, InputError
from a2p_ros.hand.files import GET_MANO
from a2p_ros.hand.mano_files import has_sign_error
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import contact_possible, penetration_depths
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.rotations import axis_angle_to_matrix
from a2p_ros.training.annotations.values import POSE, SHAPE, TRANSL
from a2p_ros.types import Pair, Side

logger = logging.getLogger(__name__)

#: Hands touch when two vertices are this near [m]; touching faces of MANO have vertices up to half an edge apart.
MAX_GAP = 0.005
#: Deeper than this in each other, two fits are no example of hands that do not penetrate [m].
MAX_DEPTH = 0.004
#: A fit whose joints are farther than this from the annotated ones on average is a failed one [m].
MAX_FIT_ERROR = 0.02
#: Half of the checked frames are farther off than this only when the hand model or the units are wrong [mm].
MAX_MEDIAN_MM = 30.0


class Frame(NamedTuple):
    """One instant of one capture; ``kind`` is the name of what the person does there, where it is given."""

    capture: str
    number: int
    kind: str


class Extrinsics(NamedTuple):
    """Where a camera is: ``x_camera = rotation @ x_world + translation`` [m]."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


class MeasuredJoints(NamedTuple):
    """Annotated joints of one hand: OpenPose order, world frame [m]; which of them are valid."""

    points: Float[np.ndarray, "n 21 3"]
    valid: Bool[np.ndarray, "n 21"]


@dataclass(frozen=True)
class JointCheck:
    """Distance of MANO's joints from the annotated ones, over ``frames`` frames, by hand [mm].

    ``mean_mm`` and ``median_mm`` are of the frames' mean distances in the world frame, ``aligned_mm`` the mean
    with both wrists in one place. MANO's joints are not defined as the annotated ones are: a few millimetres remain.
    """

    frames: int
    mean_mm: Pair[float]
    median_mm: Pair[float]
    aligned_mm: Pair[float]

    def __str__(self) -> str:
        hands = (
            f"{side.value} {self.mean_mm[side]:.1f} mm (median {self.median_mm[side]:.1f}, "
            f"wrists aligned {self.aligned_mm[side]:.1f})"
            for side in (Side.LEFT, Side.RIGHT)
        )
        return f"MANO's joints from the annotated ones over {self.frames} frames: {', '.join(hands)}"

    def require(self, limit_mm: float = MAX_MEDIAN_MM) -> None:
        """Raise InputError when half of the frames are farther off than ``limit_mm``."""
        if not max(self.median_mm.left, self.median_mm.right) <= limit_mm:
            raise InputError(
                f"{self}; expected medians below {limit_mm:g} mm: these annotations are not for this hand model, "
                "or not in metres. Convert MANO_RIGHT.pkl and MANO_LEFT.pkl again by `a2p hand-model convert`"
            )


class Selection(NamedTuple):
    """Chosen frames, and how many were left out for which reason."""

    chosen: Int[np.ndarray, "chosen"]
    left_out: Mapping[str, int]


class Annotations(ABC):
    """Frames of which both hands have MANO parameters, each once however many cameras saw it.

    ``hands`` are rows of 48 pose, 10 shape and 3 translation numbers as the files have them; ``left_out``
    counts the frames that were there and are not here, by reason.
    """

    #: What the data set's folder holds, for messages.
    EXPECTED = ""

    def __init__(
        self, source: Path, frames: Sequence[Frame], hands: Pair[list[np.ndarray]], left_out: Mapping[str, int]
    ) -> None:
        self.source = source
        self.frames = tuple(frames)
        self.left_out = dict(left_out)
        if not frames:
            reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.items()) or "none there"
            raise InputError(f"{source}: no frame with MANO parameters of both hands ({reasons})")
        self.hands: Pair[Float[np.ndarray, "frames 61"]] = Pair(*(np.stack(rows) for _, rows in hands.items()))

    @abstractmethod
    def joints(self, index: Sequence[int]) -> Pair[MeasuredJoints] | None:
        """Annotated joints of some frames, None where the data set's copy has none."""

    @abstractmethod
    def cameras(self, capture: str) -> dict[str, Extrinsics]:
        """Where the cameras of a capture are, by name; raises SourceError or InputError."""

    def __len__(self) -> int:
        return len(self.frames)

    def pairs(self, models: Pair[HandModel], index: Sequence[int] | slice = slice(None)) -> HandPairs:
        """Some frames as pairs in the world frame [m]; raises HandModelError when ``models`` are not MANO."""
        require_mano(models)
        frames = self.frames[index] if isinstance(index, slice) else [self.frames[i] for i in index]

        def tensors(part: slice) -> Pair[Tensor]:
            return Pair(*(_like(m, self.hands[s][index, part]) for s, m in models.items()))

        rotations = Pair(*(_like(m, _rotations(m, self.hands[s][index, POSE])) for s, m in models.items()))
        return HandPairs(tensors(SHAPE), rotations, tensors(TRANSL), tuple(f.kind for f in frames))

    def batches(self, models: Pair[HandModel], size: int = 256) -> Iterator[tuple[tuple[Frame, ...], HandPairs]]:
        """All frames in order, ``size`` at a time, as pairs in the world frame."""
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self.frames[chosen], self.pairs(models, chosen)

    def check(self, models: Pair[HandModel], most: int = 200) -> JointCheck:
        """How far MANO's joints are from the annotated ones, over at most ``most`` frames spread over all.

        Raises InputError where no joints are annotated.
        """
        index = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int)).tolist()
        measured = self.joints(index)
        if measured is None:
            raise InputError(f"{self.source}: no annotated joints to check the hand model against")
        made = self.pairs(models, index).joints(models)
        errors, aligned = (
            Pair(*(_joint_errors(made[s], m, wrists) for s, m in measured.items())) for wrists in (False, True)
        )
        for side, values in errors.items():
            if not np.isfinite(values).any():
                raise InputError(f"{self.source}: no joint of the {side.value} hand is valid in {len(index)} frames")
        return JointCheck(len(index), _in_mm(np.mean, errors), _in_mm(np.median, errors), _in_mm(np.mean, aligned))

    def select(
        self,
        models: Pair[HandModel],
        max_gap: float | None = MAX_GAP,
        max_depth: float | None = MAX_DEPTH,
        max_fit_error: float | None = MAX_FIT_ERROR,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Selection:
        """Frames fit to learn from: hands that touch, that are not deep in each other, and that fit their joints.

        Each limit [m] may be None. A frame without annotated joints counts as fitting. ``progress`` wraps the
        range of batches, as ``tqdm`` does. Raises HandModelError when ``models`` are not MANO.
        """
        meshes = Pair(CollisionMesh.from_model(models.left), CollisionMesh.from_model(models.right))
        chosen: list[int] = []
        left_out: Counter[str] = Counter()
        for start in progress(range(0, len(self), 64)):
            index = np.arange(start, min(start + 64, len(self)))
            hands = self.pairs(models, index.tolist()).forward(models)
            vertices = Pair(hands.left.vertices, hands.right.vertices)
            measured = self.joints(index.tolist()) if max_fit_error is not None else None
            if max_fit_error is not None and measured is not None:
                errors = [_joint_errors(hands[s].joints, m) for s, m in measured.items()]
                keep = ~((errors[0] > max_fit_error) | (errors[1] > max_fit_error))
                index, vertices = _kept(index, vertices, keep, left_out, "do not fit their joints")
            if max_gap is not None:
                keep = _touching(meshes, vertices, max_gap)
                index, vertices = _kept(index, vertices, keep, left_out, "do not touch")
            if max_depth is not None and len(index):
                depths = penetration_depths(meshes, vertices)
                keep = (torch.maximum(depths.left.amax(1), depths.right.amax(1)) <= max_depth).cpu().numpy()
                index, vertices = _kept(index, vertices, keep, left_out, "are too deep in each other")
            chosen += index.tolist()
        return Selection(np.array(chosen, int), dict(left_out))

    def to_pairs(
        self,
        models: Pair[HandModel],
        max_gap: float | None = MAX_GAP,
        max_depth: float | None = MAX_DEPTH,
        max_fit_error: float | None = MAX_FIT_ERROR,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> HandPairs:
        """The frames that ``select`` chooses, as pairs, after ``check`` where joints are annotated.

        Raises HandModelError when ``models`` are not MANO, InputError when joints and fits disagree or none remains.
        """
        require_mano(models)
        if self.joints([0]) is not None:
            found = self.check(models)
            logger.info("%s: %s", self.source, found)
            found.require()
        chosen, left_out = self.select(models, max_gap, max_depth, max_fit_error, progress)
        counts = ", ".join(f"{n} {why}" for why, n in {**self.left_out, **left_out}.items())
        logger.info("%s: %d pairs; left out: %s", self.source, len(chosen), counts or "none")
        if not len(chosen):
            raise InputError(f"{self.source}: of {len(self)} pairs of hands none is left to train on: {counts}")
        return self.pairs(models, chosen.tolist())


def require_mano(models: Pair[HandModel]) -> None:
    """Raise HandModelError unless both hands are MANO, the left one without the sign error of its file.

    The annotations were fitted with that error corrected (the authors' own code corrects it), and so
    are the files that ``a2p hand-model convert`` writes.
    """
    for side, model in models.items():
        if model.name != "mano":
            raise HandModelError(
                f"annotated hands have MANO parameters, the {side.value} hand model is {model.name!r}. {GET_MANO}, "
                "and pass --hand-model FOLDER"
            )
    if has_sign_error(models.left.shapedirs.cpu().numpy(), models.right.shapedirs.cpu().numpy()):
        raise HandModelError(
            "the left hand's shape directions have the right hand's x, MANO_LEFT's known sign error, with which "
            "annotated shapes come out wrong; make the files by `a2p hand-model convert`, which corrects it"
        )


def to_camera(models: Pair[HandModel], pairs: HandPairs, camera: Extrinsics) -> HandPairs:
    """Pairs of the world frame in a camera's frame.

    A hand turns about its wrist, J0 + transl, so that ``transl' = R (J0 + transl) + t - J0``.
    """

    def turned(side: Side) -> tuple[Tensor, Tensor]:
        rotations, transl = pairs.rotations[side], pairs.transl[side]
        turn, shift = (torch.as_tensor(v, dtype=transl.dtype, device=transl.device) for v in camera)
        wrist = models[side].with_shape(pairs.betas[side]).joints[:, 0]
        return (
            torch.cat([turn @ rotations[:, :1], rotations[:, 1:]], 1),
            (wrist + transl) @ turn.T + shift - wrist,
        )

    left, right = turned(Side.LEFT), turned(Side.RIGHT)
    return HandPairs(pairs.betas, Pair(left[0], right[0]), Pair(left[1], right[1]), pairs.kinds)


def collected(
    source: Path, entries: Mapping[Frame, Pair[np.ndarray | None]], stride: int, left_out: Counter[str]
) -> tuple[list[Frame], Pair[list[np.ndarray]]]:
    """Of each capture every ``stride``-th frame that has both hands, in order. Raises InputError for a bad stride."""
    if stride < 1:
        raise InputError(f"{source}: stride: expected 1 or more, got {stride}")
    frames: list[Frame] = []
    hands: Pair[list[np.ndarray]] = Pair([], [])
    seen: Counter[str] = Counter()
    for frame in sorted(entries):
        left, right = entries[frame].left, entries[frame].right
        if left is None or right is None:
            left_out["have one hand or none"] += 1
            continue
        seen[frame.capture] += 1
        if (seen[frame.capture] - 1) % stride:
            left_out["skipped by the stride"] += 1
            continue
        frames.append(frame)
        hands.left.append(left)
        hands.right.append(right)
    return frames, hands


def _rotations(model: HandModel, pose: Float[np.ndarray, "n 48"]) -> Float[np.ndarray, "n 16 3 3"]:
    """Rotations from the flat hand of poses given from MANO's mean pose; the mean is added as axis-angle numbers."""
    vectors = pose.reshape(-1, 16, 3).copy()
    vectors[:, 1:] += model.mean_pose.cpu().numpy()
    return axis_angle_to_matrix(vectors)


def _like(model: HandModel, values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=model.template.dtype, device=model.template.device)


def _joint_errors(made: Tensor, measured: MeasuredJoints, wrists: bool = False) -> Float[np.ndarray, "n"]:
    """Mean distance of the valid joints [m], NaN of none; with ``wrists``, after both wrists are put in one place."""
    gaps = made.detach().cpu().double().numpy() - measured.points
    valid = measured.valid
    if wrists:
        gaps, valid = gaps - gaps[:, :1], valid & valid[:, :1]
    distances = np.where(valid, np.linalg.norm(np.where(valid[..., None], gaps, 0.0), axis=-1), 0.0)
    counts = valid.sum(1)
    return np.where(counts > 0, distances.sum(1) / np.maximum(counts, 1), np.nan)


def _in_mm(of: Callable[[np.ndarray], Any], values: Pair[np.ndarray]) -> Pair[float]:
    left, right = (v[np.isfinite(v)] for _, v in values.items())
    return Pair(*(1000 * float(of(v)) if len(v) else math.nan for v in (left, right)))


def _touching(meshes: Pair[CollisionMesh], vertices: Pair[Tensor], gap: float) -> Bool[np.ndarray, "n"]:
    near = contact_possible(meshes, vertices, gap).cpu().numpy()
    for i in np.flatnonzero(near):
        near[i] = float(torch.cdist(vertices.left[i], vertices.right[i]).min()) <= gap
    return near


def _kept(
    index: np.ndarray, vertices: Pair[Tensor], keep: np.ndarray, left_out: Counter[str], why: str
) -> tuple[np.ndarray, Pair[Tensor]]:
    if not keep.all():
        left_out[why] += int((~keep).sum())
    mask = torch.from_numpy(keep).to(vertices.left.device)
    return index[keep], Pair(vertices.left[mask], vertices.right[mask])
