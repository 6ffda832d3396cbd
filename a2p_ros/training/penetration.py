"""How much two hands pass through each other: PenVol, PenDist and IV.

Definitions (ours, as the papers leave them open; docs/interaction.md):

    PenVol   [cm^3]  volume of the intersection of the two closed meshes, by an exact boolean (Manifold)
    PenDist  [mm]    mean over all vertices of both hands of their depth inside the other, zero outside; and the maximum
    IV       [cm^3]  volume of the 0.5 cm voxels whose centre lies in both hands (DIR, Ren et al., ICCV 2023)

A ratio of methods is a ratio of means over all pairs. A boolean that fails is an error, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.errors import A2PError, InputError, MissingDependencyError
from a2p_ros.interaction.collision import contact_possible, penetration_depths
from a2p_ros.interaction.surface import CollisionMesh, inside
from a2p_ros.types import Pair

#: Edge of IV's voxels [m].
VOXEL = 0.005
_CM3 = 1e6
_MM = 1e3


class BooleanError(A2PError):
    """The intersection of two meshes could not be computed."""


@dataclass(frozen=True)
class PenetrationMetrics:
    """Of one pair of hands; volumes in cm^3, distances in mm."""

    penvol_cm3: float
    pendist_mean_mm: float
    pendist_max_mm: float
    iv_cm3: float


def penetration_metrics(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> list[PenetrationMetrics]:
    """All metrics of each pair of a batch; ``vertices`` are (B, V, 3) [m]. Raises BooleanError."""
    volume = penetration_volume(meshes, vertices)
    mean, largest = penetration_distance(meshes, vertices)
    iv = voxel_volume(meshes, vertices)
    rows = zip(volume.tolist(), mean.tolist(), largest.tolist(), iv.tolist(), strict=True)
    return [PenetrationMetrics(*row) for row in rows]


def penetration_volume(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> Float[np.ndarray, "batch"]:
    """PenVol [cm^3] of each pair.

    A mesh that intersects itself is taken as Manifold does, by positive winding: an overlap of one
    hand with itself counts once for each of its layers.

    Raises BooleanError with the index of the pair, and MissingDependencyError without manifold3d.
    """
    left, right = _numbers(meshes, vertices)
    near = contact_possible(meshes, vertices).cpu().numpy()
    out = np.zeros(len(left))
    for i in near.nonzero()[0]:
        try:
            out[i] = _intersection(left[i], _faces(meshes.left), right[i], _faces(meshes.right))
        except BooleanError as error:
            raise BooleanError(f"pair {i}: {error}") from error
    return out * _CM3


def penetration_distance(
    meshes: Pair[CollisionMesh], vertices: Pair[Tensor]
) -> tuple[Float[np.ndarray, "batch"], Float[np.ndarray, "batch"]]:
    """PenDist [mm] of each pair: the mean over all vertices of both hands, and the maximum."""
    with torch.no_grad():
        depths = torch.cat([d for _, d in penetration_depths(meshes, vertices).items()], 1)
    return (_MM * depths.mean(1)).double().cpu().numpy(), (_MM * depths.amax(1)).double().cpu().numpy()


def voxel_volume(
    meshes: Pair[CollisionMesh], vertices: Pair[Tensor], voxel: float = VOXEL
) -> Float[np.ndarray, "batch"]:
    """IV [cm^3] of each pair; the grid starts at the left hand's lowest corner, ``voxel`` [m] an edge."""
    left, right = meshes.left.close(vertices.left.detach()), meshes.right.close(vertices.right.detach())
    out = np.zeros(len(left))
    for i in contact_possible(meshes, vertices).nonzero()[:, 0].tolist():
        a, b = left[i], right[i]
        origin = a.amin(0)
        low, high = torch.maximum(origin, b.amin(0)), torch.minimum(a.amax(0), b.amax(0))
        first, last = ((low - origin) / voxel).floor(), ((high - origin) / voxel).ceil()
        if bool((last < first).any()):
            continue
        axes = [torch.arange(int(f), int(n) + 1, device=a.device) for f, n in zip(first, last, strict=True)]
        centres = origin + voxel * (torch.cartesian_prod(*axes).to(a) + 0.5)
        centres = centres[inside(centres[None], meshes.left, left[i : i + 1])[0]]
        if len(centres):
            both = int(inside(centres[None], meshes.right, right[i : i + 1]).sum())
            out[i] = both * voxel**3 * _CM3
    return out


def _intersection(
    left: Float[np.ndarray, "n 3"], left_faces: np.ndarray, right: Float[np.ndarray, "m 3"], right_faces: np.ndarray
) -> float:
    """Volume of the intersection [m^3]."""
    try:
        import manifold3d  # noqa: F401
        import trimesh
    except ImportError as error:
        raise MissingDependencyError(
            "penetration volumes need trimesh and manifold3d: pip install trimesh manifold3d"
        ) from error
    # Millimetres about a common middle: the tolerance of the boolean is relative to the coordinates.
    middle = (left.mean(0) + right.mean(0)) / 2
    solids = []
    for name, points, faces in (("left", left, left_faces), ("right", right, right_faces)):
        solid = trimesh.Trimesh((points - middle) * _MM, faces, process=False)
        if not solid.is_volume:
            raise BooleanError(
                f"the {name} hand is not a closed, consistently oriented, finite solid "
                f"(watertight: {solid.is_watertight}, volume {solid.volume:.4g} mm^3); cap it with CollisionMesh"
            )
        solids.append(solid)
    try:
        common = trimesh.boolean.intersection(solids, engine="manifold", check_volume=True)
    except Exception as error:
        raise BooleanError(f"the boolean intersection failed: {type(error).__name__}: {error}") from error
    if common is None:
        raise BooleanError("the boolean intersection gave no mesh at all, not even an empty one")
    if len(common.faces) == 0:
        return 0.0
    volume = float(common.volume) / _MM**3
    smaller = min(float(s.volume) for s in solids) / _MM**3
    if not (common.is_watertight and -1e-12 <= volume <= smaller * 1.001):
        raise BooleanError(
            f"the boolean intersection is not a solid of plausible size (watertight: {common.is_watertight}, "
            f"{volume * _CM3:.4g} cm^3 of at most {smaller * _CM3:.4g} cm^3)"
        )
    return max(volume, 0.0)


def _numbers(meshes: Pair[CollisionMesh], vertices: Pair[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for (side, mesh), (_, v) in zip(meshes.items(), vertices.items(), strict=True):
        points = mesh.close(v.detach()).double().cpu().numpy()
        if not np.isfinite(points).all():
            raise InputError(f"{side.value} hand: expected finite vertices, got NaN or infinity")
        arrays.append(points)
    return arrays[0], arrays[1]


def _faces(mesh: CollisionMesh) -> np.ndarray:
    return mesh.faces.cpu().numpy()
