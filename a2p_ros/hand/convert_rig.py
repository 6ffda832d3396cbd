"""Make the open hand from the MIT-licensed WebXR rig ``generic-hand``.

    npm pack @webxr-input-profiles/assets@1.0.20
    tar xzf webxr-input-profiles-assets-1.0.20.tgz
    python -m a2p_ros.hand.convert_rig package/dist/profiles/generic-hand/right.glb a2p_ros/hand/assets

The result is two files in MANO's file format. docs/hand_model.md says what is measured,
what is published and what is assumed in them.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from a2p_ros.errors import HandModelError
from a2p_ros.hand.files import file_name, write_arrays
from a2p_ros.hand.limits import joint_axes
from a2p_ros.hand.topology import KINTREE_TABLE, OPENPOSE_FROM_MANO21
from a2p_ros.rotations import rotation_between
from a2p_ros.types import Side

#: Rig axes (fingers -y, palm -x, thumb -z) to MANO's (fingers -x, palm -y, thumb +z).
RIG_TO_MANO = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

#: MANO joint of each WebXR joint; the metacarpals of the four fingers are part of the palm.
_FINGERS = {"index": 1, "middle": 4, "pinky": 7, "ring": 10}
WEBXR_TO_MANO: dict[str, int] = {
    "wrist": 0,
    "thumb-metacarpal": 13,
    "thumb-phalanx-proximal": 14,
    "thumb-phalanx-distal": 15,
    **{f"{name}-finger-metacarpal": 0 for name in _FINGERS},
    **{
        f"{name}-finger-phalanx-{part}": first + i
        for name, first in _FINGERS.items()
        for i, part in enumerate(("proximal", "intermediate", "distal"))
    },
}
#: WebXR tip joints, thumb to little finger, with the first MANO joint of their finger.
TIP_JOINTS: dict[str, int] = {
    "thumb-tip": 13,
    **{f"{name}-finger-tip": _FINGERS[name] for name in ("index", "middle", "ring", "pinky")},
}

#: Wrist joint to middle fingertip of the mean adult hand [m]; see docs/hand_model.md.
MEAN_HAND_LENGTH = 0.1872
#: Breadth across the knuckles of the four fingers of the mean adult hand [m].
MEAN_HAND_BREADTH = 0.0849

#: The ten shape directions, one standard deviation each, relative to the part they change.
SHAPE_DIRECTIONS: dict[str, float] = {
    "size": 0.063,
    "thumb length": 0.04,
    "index length": 0.04,
    "middle length": 0.04,
    "ring length": 0.04,
    "little length": 0.04,
    "palm width": 0.048,
    "palm length": 0.03,
    "finger thickness": 0.06,
    "palm thickness": 0.07,
}

_FINGER_LENGTHS = [name for name in SHAPE_DIRECTIONS if name.endswith(" length") and name != "palm length"]

#: Flexion of the relaxed hand [rad], MANO joints 1 to 15: the file's ``hands_mean``.
_RELAXED = {
    1: (0.25, 0.35, 0.2),
    4: (0.3, 0.4, 0.22),
    7: (0.35, 0.4, 0.25),
    10: (0.33, 0.42, 0.24),
    13: (0.1, 0.15, 0.2),
}


@dataclass(frozen=True)
class Rig:
    """What is needed of a skinned glTF mesh: merged vertices, faces, weights by joint name, joint poses."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    weights: Mapping[str, Float[np.ndarray, "vertices"]]
    joints: Mapping[str, Float[np.ndarray, "4 4"]]


def read_rig(path: Path) -> Rig:
    """Read the first skinned mesh of a binary glTF 2.0 file and merge its texture seams.

    Raises HandModelError when the file is not a GLB or holds no skinned triangle mesh.
    """
    raw = path.read_bytes()
    if len(raw) < 20 or raw[:4] != b"glTF":
        raise HandModelError(f"{path}: expected a binary glTF file (.glb), got {raw[:4]!r}")
    chunks, at = {}, 12
    while at + 8 <= len(raw):
        size, kind = struct.unpack_from("<I4s", raw, at)
        chunks[kind] = raw[at + 8 : at + 8 + size]
        at += 8 + size
    try:
        tree, binary = json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]
        primitive = tree["meshes"][0]["primitives"][0]
        fields = {name: _accessor(tree, binary, i) for name, i in primitive["attributes"].items()}
        faces = _accessor(tree, binary, primitive["indices"]).reshape(-1, 3).astype(np.int64)
        skin = tree["skins"][0]
        inverse_bind = _accessor(tree, binary, skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        names = [tree["nodes"][i]["name"] for i in skin["joints"]]
        positions, joints, weights = fields["POSITION"], fields["JOINTS_0"], fields["WEIGHTS_0"]
    except (KeyError, IndexError, ValueError) as error:
        raise HandModelError(f"{path}: expected a GLB with one skinned triangle mesh ({error!r})") from error
    dense = np.zeros((len(positions), len(names)))
    np.add.at(dense, (np.arange(len(positions))[:, None], joints), weights)
    unique, index, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    if not np.allclose(dense[index][inverse.ravel()], dense, atol=1e-4):
        raise HandModelError(f"{path}: vertices at one place have different skin weights")
    merged = inverse.ravel()[faces]
    dense = dense[index] / dense[index].sum(1, keepdims=True)
    binds = np.linalg.inv(inverse_bind.astype(float))
    return Rig(
        unique.astype(float), merged, dict(zip(names, dense.T, strict=True)), dict(zip(names, binds, strict=True))
    )


def _accessor(tree: Mapping[str, Any], binary: bytes, index: int) -> np.ndarray:
    info = tree["accessors"][index]
    view = tree["bufferViews"][info["bufferView"]]
    kind = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[info["componentType"]]
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[info["type"]]
    if "byteStride" in view:
        raise ValueError("interleaved buffers are not supported")
    start = view.get("byteOffset", 0) + info.get("byteOffset", 0)
    return np.frombuffer(binary, kind, info["count"] * width, start).reshape(info["count"], width)


def is_watertight(faces: Int[np.ndarray, "faces 3"]) -> bool:
    """Whether each edge belongs to two triangles that run along it in opposite directions."""
    edges = Counter(map(tuple, faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()))
    return all(count == 1 and edges[b, a] == 1 for (a, b), count in edges.items())


def convert(rig: Rig) -> dict[str, np.ndarray]:
    """The right open hand as the arrays of a MANO file.

    Raises HandModelError when the rig lacks a WebXR joint or its mesh is not watertight.
    """
    missing = [name for name in (*WEBXR_TO_MANO, *TIP_JOINTS) if name not in rig.joints]
    if missing:
        raise HandModelError(f"the rig has no joint {', '.join(missing)}; expected the 25 joints of a WebXR hand")
    if not is_watertight(rig.faces):
        raise HandModelError("the rig's mesh is not watertight after its seams were merged")
    wrist = rig.joints["wrist"][:3, 3]
    vertices = (rig.vertices - wrist) @ RIG_TO_MANO.T
    joints, weights = np.zeros((16, 3)), np.zeros((len(vertices), 16))
    for name, j in WEBXR_TO_MANO.items():
        weights[:, j] += rig.weights[name]
        if not name.endswith("finger-metacarpal"):
            joints[j] = RIG_TO_MANO @ (rig.joints[name][:3, 3] - wrist)
    weights /= weights.sum(1, keepdims=True)
    tips = np.stack([RIG_TO_MANO @ (rig.joints[name][:3, 3] - wrist) for name in TIP_JOINTS])
    vertices, joints = straighten(vertices, joints, weights, tips)
    tip_vertices = find_tips(vertices, joints, weights)
    scale = MEAN_HAND_LENGTH / np.linalg.norm(vertices[tip_vertices[2]] - joints[0])
    vertices, joints = vertices * scale, joints * scale
    vertices, joints = widen(vertices, joints, weights)
    regressor = joint_regressor(vertices, joints)
    directions = shape_directions(vertices, joints, weights, tip_vertices)
    # Like MANO's, the origin is in the hand and not in the wrist (here the middle finger's base joint).
    vertices, joints = vertices - joints[4], joints - joints[4]
    mean = np.zeros((15, 3))
    axes = joint_axes(np.concatenate([joints, vertices[tip_vertices]])[list(OPENPOSE_FROM_MANO21)])
    for first, angles in _RELAXED.items():
        mean[first - 1 : first + 2] = np.array(angles)[:, None] * axes[first - 1 : first + 2, :, 1]
    return {
        "v_template": vertices.astype(np.float32),
        "shapedirs": directions.astype(np.float32),
        "posedirs": np.zeros((len(vertices), 3, 135), np.float32),
        "J_regressor": regressor.astype(np.float32),
        "J": joints.astype(np.float32),
        "weights": weights.astype(np.float32),
        "f": rig.faces.astype(np.uint32),
        "kintree_table": KINTREE_TABLE,
        "hands_components": np.eye(45, dtype=np.float32),
        "hands_mean": mean.reshape(45).astype(np.float32),
        "tip_vertices": np.array(tip_vertices, np.int64),
        "model_name": np.array("open_hand"),
    }


def straighten(
    vertices: Float[np.ndarray, "vertices 3"],
    joints: Float[np.ndarray, "16 3"],
    weights: Float[np.ndarray, "vertices 16"],
    tips: Float[np.ndarray, "5 3"],
) -> tuple[Float[np.ndarray, "vertices 3"], Float[np.ndarray, "16 3"]]:
    """The flat hand: each finger's three bones on one line, by linear blend skinning.

    The four fingers go into planes parallel to the palm and turn together until the middle one
    points along -x, which keeps the rig's spread; the thumb goes onto its own line from base to tip.
    """
    lines = {first: tip - joints[first] for first, tip in zip(TIP_JOINTS.values(), tips, strict=True)}
    for first in _FINGERS.values():
        lines[first][1] = 0.0
    together = rotation_between(lines[4], np.array([-1.0, 0.0, 0.0]))
    turns, flat = np.tile(np.eye(3), (16, 1, 1)), joints.copy()
    for (first, line), tip in zip(lines.items(), tips, strict=True):
        line = line if first == 13 else together @ line
        chain = [*joints[first : first + 3], tip]
        for i in range(3):
            bone = chain[i + 1] - chain[i]
            turns[first + i] = rotation_between(bone, line)
            if i < 2:
                flat[first + i + 1] = flat[first + i] + turns[first + i] @ bone
    moved = np.einsum("jab,vjb->vja", turns, vertices[:, None] - joints) + flat
    return np.einsum("vj,vja->va", weights, moved), flat


def find_tips(
    vertices: Float[np.ndarray, "vertices 3"],
    joints: Float[np.ndarray, "16 3"],
    weights: Float[np.ndarray, "vertices 16"],
) -> list[int]:
    """Vertices at the ends of the fingers, thumb to little: farthest along the bone, near its axis."""
    found = []
    for first in TIP_JOINTS.values():
        base = joints[first + 2]
        line = base - joints[first + 1]
        line /= np.linalg.norm(line)
        along = (vertices - base) @ line
        aside = np.linalg.norm(vertices - base - along[:, None] * line, axis=1)
        found.append(int(np.argmax(np.where(weights[:, first + 2] > 0.5, along - 0.5 * aside, -np.inf))))
    return found


def widen(
    vertices: Float[np.ndarray, "vertices 3"],
    joints: Float[np.ndarray, "16 3"],
    weights: Float[np.ndarray, "vertices 16"],
) -> tuple[Float[np.ndarray, "vertices 3"], Float[np.ndarray, "16 3"]]:
    """The palm brought to ``MEAN_HAND_BREADTH``; the rig's is about 4 % too narrow for its length."""
    finger_bases = joints[[1, 4, 7, 10]]
    knuckles = (
        (weights[:, 13:].sum(1) < 0.2)
        & (vertices[:, 0] > finger_bases[:, 0].min() - 0.003)
        & (vertices[:, 0] < finger_bases[:, 0].max() + 0.003)
    )
    field = _palm_field(vertices, joints, weights, 2)
    breadth = [np.ptp((vertices + t * field)[knuckles, 2]) for t in (0.0, 0.05)]
    amount = 0.05 * (MEAN_HAND_BREADTH - breadth[0]) / (breadth[1] - breadth[0])
    moved = joints.copy()
    for first in TIP_JOINTS.values():
        moved[first : first + 3, 2] += amount * joints[first, 2]
    return vertices + amount * field, moved


def _palm_field(
    vertices: Float[np.ndarray, "vertices 3"],
    joints: Float[np.ndarray, "16 3"],
    weights: Float[np.ndarray, "vertices 16"],
    axis: int,
) -> Float[np.ndarray, "vertices 3"]:
    """Displacement that doubles the palm's extent along an axis from the wrist; fingers go with their bases."""
    firsts = list(TIP_JOINTS.values())
    fingers = np.stack([weights[:, f : f + 3].sum(1) for f in firsts], axis=1)
    field = np.zeros_like(vertices)
    field[:, axis] = weights[:, 0] * vertices[:, axis] + fingers @ joints[firsts, axis]
    return field


def joint_regressor(
    vertices: Float[np.ndarray, "vertices 3"], joints: Float[np.ndarray, "16 3"], count: int = 40
) -> Float[np.ndarray, "16 vertices"]:
    """Non-negative rows that sum to one and give the joints from the ``count`` nearest vertices.

    Of all such rows the one of least norm, which spreads over the ring of skin around the joint
    and so follows the shape.
    """
    rows = np.zeros((len(joints), len(vertices)))
    for row, joint in zip(rows, joints, strict=True):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1), kind="stable")[:count]
        constraints = np.vstack([(vertices[near] - joint).T * 100, np.ones(count)])
        target = np.array([0.0, 0.0, 0.0, 1.0])
        stacked = np.vstack([1e4 * constraints, np.eye(count)])
        w, _ = nnls(stacked, np.concatenate([1e4 * target, np.zeros(count)]))
        active = constraints[:, w > 0]
        w[w > 0] += np.linalg.lstsq(active, target - constraints @ w, rcond=None)[0]
        if w.min() < 0 or not np.allclose(constraints @ w, target, atol=1e-9):
            raise HandModelError(f"no convex combination of the {count} nearest vertices gives the joint at {joint}")
        row[near] = w
    return rows


def shape_directions(
    vertices: Float[np.ndarray, "vertices 3"],
    joints: Float[np.ndarray, "16 3"],
    weights: Float[np.ndarray, "vertices 16"],
    tips: list[int],
) -> Float[np.ndarray, "vertices 3 10"]:
    """Displacement of each vertex per standard deviation of each of ``SHAPE_DIRECTIONS`` [m].

    ``joints[0]`` is the origin. A finger goes rigidly with its base when the palm changes, blended by the
    skin weights, so each direction is as smooth on the mesh as they are.
    """
    out = {"size": vertices.copy()}
    firsts = list(TIP_JOINTS.values())
    palm = weights[:, 0]
    fingers = np.stack([weights[:, f : f + 3].sum(1) for f in firsts], axis=1)
    thickness = np.zeros_like(vertices)
    for first, tip, part, label in zip(firsts, tips, fingers.T, _FINGER_LENGTHS, strict=True):
        base = joints[first]
        line = vertices[tip] - base
        length = np.linalg.norm(line)
        line /= length
        along = (vertices - base) @ line
        # softplus: zero before the finger's base, linear beyond it, smooth between
        stretch = part * np.logaddexp(0.0, along / 0.004) * 0.004
        out[label] = stretch[:, None] * line
        aside = vertices - base - along[:, None] * line
        ramp = part / (1.0 + np.exp(-(along - 0.15 * length) / (0.05 * length)))
        thickness += ramp[:, None] * aside
    out["finger thickness"] = thickness
    for label, axis in (("palm width", 2), ("palm length", 0)):
        out[label] = _palm_field(vertices, joints, weights, axis)
    knuckles = joints[[0, 1, 4, 7, 10]]
    plane = np.linalg.lstsq(np.c_[np.ones(5), knuckles[:, [0, 2]]], knuckles[:, 1], rcond=None)[0]
    field = np.zeros_like(vertices)
    above = vertices[:, 1] - np.c_[np.ones(len(vertices)), vertices[:, [0, 2]]] @ plane
    thumb_above = joints[14, 1] - np.array([1.0, *joints[14, [0, 2]]]) @ plane
    # The ball of the thumb is part of the palm; the rest of the thumb goes along with its second joint.
    field[:, 1] = (palm + weights[:, 13]) * above + (weights[:, 14] + weights[:, 15]) * thumb_above
    out["palm thickness"] = field
    return np.stack([SHAPE_DIRECTIONS[name] * out[name] for name in SHAPE_DIRECTIONS], axis=-1)


def mirror_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The left hand: mirrored in x, its triangles turned so that their normals still point out."""
    flip = np.array([-1.0, 1.0, 1.0], np.float32)
    return {
        **arrays,
        "v_template": arrays["v_template"] * flip,
        "shapedirs": arrays["shapedirs"] * flip[:, None],
        "J": arrays["J"] * flip,
        "f": arrays["f"][:, [0, 2, 1]],
        "hands_mean": (arrays["hands_mean"].reshape(15, 3) * -flip).reshape(45),
    }


def main(argv: list[str] | None = None) -> None:
    """Convert ``right.glb`` and write both hands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glb", type=Path, help="right.glb of the npm package's profile generic-hand")
    parser.add_argument("out", type=Path, help="folder for MANO_RIGHT.npz and MANO_LEFT.npz")
    args = parser.parse_args(argv)
    right = convert(read_rig(args.glb))
    args.out.mkdir(parents=True, exist_ok=True)
    write_arrays(args.out / file_name(Side.RIGHT), right)
    write_arrays(args.out / file_name(Side.LEFT), mirror_arrays(right))


if __name__ == "__main__":
    main()
