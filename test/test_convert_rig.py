"""The converter of the open hand, on the real rig where it is present and on one written here."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from a2p_ros.errors import HandModelError
from a2p_ros.hand.convert_rig import SHAPE_DIRECTIONS, convert, is_watertight, main, mirror_arrays, read_rig
from a2p_ros.hand.files import ASSETS, check_arrays, read_arrays

#: Fingers from WebXR's names, with the MANO joint at their base and their tip in ``tip_vertices``.
FINGERS = {
    "thumb": (13, 0),
    "index-finger": (1, 1),
    "middle-finger": (4, 2),
    "ring-finger": (10, 3),
    "pinky-finger": (7, 4),
}
MANO_TO_RIG = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


def rig_of(arrays: dict[str, np.ndarray], offset: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """WebXR joint -> (place, weights) of a hand already in MANO's axes; tips lie inside, on the bone."""
    v, joints, weights = arrays["v_template"].astype(float), arrays["J"].astype(float), arrays["weights"].astype(float)
    none = np.zeros(len(v))
    turn = np.arange(len(v)) % 5  # which of the wrist and the four metacarpals holds a vertex of the palm
    found = {"wrist": (joints[0], weights[:, 0] * (turn == 4))}
    for number, (name, (first, tip)) in enumerate(FINGERS.items()):
        parts = ("proximal", "intermediate", "distal")
        labels = [f"{name}-phalanx-{p}" for p in parts]
        if name == "thumb":
            labels = ["thumb-metacarpal", "thumb-phalanx-proximal", "thumb-phalanx-distal"]
        else:
            share = weights[:, 0] * (turn == number - 1)
            found[f"{name}-metacarpal"] = (joints[0] + [-0.03, 0, 0], share)
        for i, label in enumerate(labels):
            found[label] = (joints[first + i], weights[:, first + i])
        bone = joints[first + 2] - joints[first + 1]
        found[f"{name}-tip"] = (joints[first + 2] + 0.4 * bone, none)
        assert arrays["tip_vertices"][tip] >= 0
    return {label: (MANO_TO_RIG @ (place + offset), weight) for label, (place, weight) in found.items()}


def write_glb(
    path: Path, arrays: dict[str, np.ndarray], drop: str = "", seam: int = 200, faces: np.ndarray | None = None
):
    """A rig as a GLB file, with ``seam`` vertices doubled as at a texture seam."""
    offset = np.array([0.01, -0.02, 0.03])
    joints = {k: v for k, v in rig_of(arrays, offset).items() if k != drop}
    vertices = ((arrays["v_template"].astype(float) + offset) @ MANO_TO_RIG.T).astype("<f4")
    faces = arrays["f"].astype(np.int64) if faces is None else faces
    weights = np.stack([w for _, w in joints.values()], axis=1)
    count = len(vertices)
    doubled = np.concatenate([np.arange(count), np.arange(seam)])
    faces = faces.copy()
    late = faces[len(faces) // 2 :]
    late[late < seam] += count
    order = np.argsort(-weights, axis=1, kind="stable")[:, :4].astype("u1")
    top = np.take_along_axis(weights, order.astype(int), axis=1)
    top = (top / top.sum(1, keepdims=True)).astype("<f4")
    binds = np.tile(np.eye(4), (len(joints), 1, 1))
    binds[:, :3, 3] = -np.stack([place for place, _ in joints.values()])
    blocks = [
        (vertices[doubled], 5126, "VEC3"),
        (order[doubled], 5121, "VEC4"),
        (top[doubled], 5126, "VEC4"),
        (faces.astype("<u2").reshape(-1, 1), 5123, "SCALAR"),
        (binds.transpose(0, 2, 1).reshape(-1, 16).astype("<f4"), 5126, "MAT4"),
    ]
    binary, views, accessors = b"", [], []
    for i, (data, component, kind) in enumerate(blocks):
        raw = np.ascontiguousarray(data).tobytes()
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(raw)})
        accessors.append({"bufferView": i, "componentType": component, "count": len(data), "type": kind})
        binary += raw + b"\0" * (-len(raw) % 4)
    attributes = {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}
    tree = {
        "asset": {"version": "2.0"},
        "nodes": [{"name": name} for name in joints],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3}]}],
        "skins": [{"joints": list(range(len(joints))), "inverseBindMatrices": 4}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    path.write_bytes(head + chunks)
    return path


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    return read_arrays(ASSETS / "MANO_RIGHT.npz")


def same_hand(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], atol: float) -> None:
    """Equal up to the order of the vertices, which the merging of seams decides."""
    nearest = np.linalg.norm(found["v_template"][:, None] - expected["v_template"][None], axis=-1).argmin(1)
    assert sorted(nearest) == list(range(len(nearest)))
    for name in ("v_template", "shapedirs", "weights"):
        assert np.allclose(found[name], expected[name][nearest], atol=atol), name
    assert np.allclose(found["J"], expected["J"], atol=atol)
    assert {frozenset(f) for f in nearest[found["f"].astype(int)].tolist()} == {
        frozenset(f) for f in expected["f"].astype(int).tolist()
    }


def test_a_flat_hand_written_as_a_rig_converts_back_to_itself(shipped, tmp_path):
    rig = read_rig(write_glb(tmp_path / "hand.glb", shipped))
    assert len(rig.vertices) == 1159 and is_watertight(rig.faces)
    found = convert(rig)
    check_arrays(found, "converted")
    same_hand(found, shipped, atol=2e-5)
    assert np.allclose(found["J_regressor"] @ found["v_template"], found["J"], atol=1e-6)


def test_seams_are_merged_whatever_their_number(shipped, tmp_path):
    for seam in (0, 700):
        assert len(read_rig(write_glb(tmp_path / f"{seam}.glb", shipped, seam=seam)).vertices) == 1159


def test_a_missing_joint_and_a_hole_are_named(shipped, tmp_path):
    with pytest.raises(HandModelError, match=r"no joint ring-finger-tip; expected the 25 joints of a WebXR hand"):
        convert(read_rig(write_glb(tmp_path / "a.glb", shipped, drop="ring-finger-tip")))
    with pytest.raises(HandModelError, match="not watertight after its seams were merged"):
        convert(read_rig(write_glb(tmp_path / "b.glb", shipped, faces=shipped["f"].astype(np.int64)[1:])))


def test_files_that_are_not_rigs_are_refused(tmp_path):
    path = tmp_path / "x.glb"
    path.write_bytes(b"solid ascii stl")
    with pytest.raises(HandModelError, match=r"expected a binary glTF file"):
        read_rig(path)
    text = b'{"asset": {}}   '
    body = struct.pack("<I4s", len(text), b"JSON") + text
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    with pytest.raises(HandModelError, match="expected a GLB with one skinned triangle mesh"):
        read_rig(path)


def test_the_command_writes_both_hands(shipped, tmp_path):
    main([str(write_glb(tmp_path / "hand.glb", shipped)), str(tmp_path / "out")])
    right, left = (read_arrays(tmp_path / "out" / f"MANO_{side}.npz") for side in ("RIGHT", "LEFT"))
    assert np.array_equal(left["v_template"], right["v_template"] * np.float32([-1, 1, 1]))
    assert right["shapedirs"].shape[-1] == len(SHAPE_DIRECTIONS) == 10


def test_the_shipped_left_hand_is_the_mirror_of_the_right(shipped):
    left = read_arrays(ASSETS / "MANO_LEFT.npz")
    for name, array in mirror_arrays(shipped).items():
        assert np.array_equal(array, left[name]), name


def test_the_real_rig_gives_the_shipped_files(shipped):
    path = os.environ.get("A2P_RIG_GLB", "")
    if not Path(path).is_file():
        pytest.skip("no rig: set A2P_RIG_GLB to right.glb of @webxr-input-profiles/assets 1.0.20, profile generic-hand")
    rig = read_rig(Path(path))
    assert len(rig.vertices) == 1159 and len(rig.joints) == 25
    same_hand(convert(rig), shipped, atol=1e-6)
