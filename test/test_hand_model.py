"""The open hand and the forward pass, against smplx and by the axioms of a kinematic hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_geometry import random_rotations, volume, winding_number
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from a2p_ros.errors import HandModelError, InputError
from a2p_ros.hand import HandModel, betas_for_length, hand_length, load_hand_model, load_hand_models
from a2p_ros.hand.files import ASSETS, read_arrays, write_arrays
from a2p_ros.hand.limits import JOINT_LIMITS, joint_angles, joint_axes, joint_rotations
from a2p_ros.hand.topology import BONES, MANO16_FROM_OPENPOSE, OPENPOSE_FROM_MANO21, OPENPOSE_JOINTS, TIPS
from a2p_ros.types import Side

MODELS = load_hand_models()
SIDES = (Side.LEFT, Side.RIGHT)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def flat(count: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.eye(3, dtype=dtype).expand(count, 16, 3, 3)


def rest_joints(model: HandModel, betas: torch.Tensor | None = None) -> np.ndarray:
    betas = torch.zeros(1, 10) if betas is None else betas
    return model.joints(betas, flat(), torch.zeros(1, 3))[0].numpy()


def random_hand(seed: int, count: int, dtype: torch.dtype = torch.float32):
    rng = np.random.default_rng(seed)
    axis_angle, matrices = random_rotations(rng, count)
    betas, transl = rng.normal(size=(count, 10)), rng.normal(size=(count, 3))
    return (torch.as_tensor(a, dtype=dtype) for a in (betas, axis_angle, matrices, transl))


@pytest.mark.parametrize("side", SIDES)
def test_zero_pose_and_shape_are_the_template(side):
    model = MODELS[side]
    out = model.forward(torch.zeros(1, 10), flat(), torch.zeros(1, 3))
    assert torch.allclose(out.vertices[0], model.template, atol=1e-7)
    stored = read_arrays(ASSETS / f"MANO_{side.name}.npz")["J"]
    assert np.allclose(out.joints[0, list(MANO16_FROM_OPENPOSE)], stored, atol=1e-6)
    assert torch.equal(out.joints[0, list(TIPS)], out.vertices[0, list(model.tip_vertices)])


@pytest.mark.parametrize("side", SIDES)
def test_forward_agrees_with_smplx(side):
    smplx = pytest.importorskip("smplx")
    betas, axis_angle, matrices, transl = random_hand(1, 32)
    peer = smplx.MANO(
        str(ASSETS), is_rhand=side is Side.RIGHT, use_pca=False, flat_hand_mean=True, batch_size=32, ext="npz"
    )
    with torch.no_grad():
        theirs = peer(
            betas=betas, global_orient=axis_angle[:, 0], hand_pose=axis_angle[:, 1:].flatten(1), transl=transl
        )
    ours = MODELS[side].forward(betas, matrices, transl)
    assert (ours.vertices - theirs.vertices).abs().max() < 1e-5
    assert (ours.joints[:, list(MANO16_FROM_OPENPOSE)] - theirs.joints).abs().max() < 1e-5
    tips = theirs.vertices[:, list(MODELS[side].tip_vertices)]
    assert (ours.joints[:, list(TIPS)] - tips).abs().max() < 1e-5


def test_mean_pose_is_what_smplx_adds_without_flat_hand_mean():
    smplx = pytest.importorskip("smplx")
    peer = smplx.MANO(str(ASSETS), is_rhand=True, use_pca=False, flat_hand_mean=False, ext="npz")
    with torch.no_grad():
        theirs = peer().vertices
    pose = np.concatenate([np.zeros((1, 3)), MODELS.right.mean_pose.numpy()])
    matrices = torch.as_tensor(Rotation.from_rotvec(pose).as_matrix(), dtype=torch.float32)[None]
    ours = MODELS.right.forward(torch.zeros(1, 10), matrices, torch.zeros(1, 3))
    assert (ours.vertices - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("side", SIDES)
def test_pose_blend_shapes_agree_with_smplx(side, tmp_path):
    smplx = pytest.importorskip("smplx")
    arrays = read_arrays(ASSETS / f"MANO_{side.name}.npz")
    arrays["posedirs"] = np.random.default_rng(2).normal(0, 1e-3, arrays["posedirs"].shape)
    write_arrays(tmp_path / f"MANO_{side.name}.npz", arrays)
    model = load_hand_model(tmp_path / f"MANO_{side.name}.npz", side)
    betas, axis_angle, matrices, transl = random_hand(3, 8)
    peer = smplx.MANO(
        str(tmp_path), is_rhand=side is Side.RIGHT, use_pca=False, flat_hand_mean=True, batch_size=8, ext="npz"
    )
    with torch.no_grad():
        theirs = peer(
            betas=betas, global_orient=axis_angle[:, 0], hand_pose=axis_angle[:, 1:].flatten(1), transl=transl
        )
    ours = model.forward(betas, matrices, transl)
    assert (ours.vertices - theirs.vertices).abs().max() < 1e-5
    assert torch.allclose(ours.joints[:, list(TIPS)], ours.vertices[:, list(model.tip_vertices)], atol=1e-6)
    mirrored = model.mirrored().forward(betas, matrices * torch.outer(MIRROR, MIRROR), transl * MIRROR)
    assert torch.allclose(mirrored.vertices, ours.vertices * MIRROR, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_the_cheap_path_gives_the_joints_of_the_full_one(side):
    betas, _, matrices, transl = random_hand(4, 5)
    full = MODELS[side].forward(betas, matrices, transl)
    assert torch.equal(MODELS[side].joints(betas, matrices, transl), full.joints)


def test_one_shape_serves_a_batch_of_poses():
    betas, _, matrices, transl = random_hand(5, 4)
    together = MODELS.right.forward(betas[:1], matrices, transl[:1])
    alone = MODELS.right.forward(betas[:1].expand(4, 10), matrices, transl[:1].expand(4, 3))
    assert torch.allclose(together.vertices, alone.vertices, atol=1e-6)


def test_transforms_take_each_joints_frame_to_the_output_frame():
    betas, _, matrices, transl = random_hand(6, 3, torch.float64)
    model = MODELS.right.to(torch.float64)
    posed = model.with_pose(model.with_shape(betas), matrices, transl)
    assert torch.allclose(posed.joints16, posed.joints[:, list(MANO16_FROM_OPENPOSE)])
    chain = matrices[:, 0] @ matrices[:, 4] @ matrices[:, 5] @ matrices[:, 6]
    assert torch.allclose(posed.transforms[:, 6, :3, :3], chain)
    tip = posed.shaped.tips[:, 2] - posed.shaped.joints[:, 6]
    moved = torch.einsum("bij,bj->bi", posed.transforms[:, 6, :3, :3], tip) + posed.joints16[:, 6]
    assert torch.allclose(moved, posed.joints[:, 12], atol=1e-9)


def test_the_wrist_is_at_its_rest_place_plus_transl():
    betas, _, matrices, transl = random_hand(7, 6)
    joints = MODELS.right.joints(betas, matrices, transl)
    assert torch.allclose(joints[:, 0], MODELS.right.with_shape(betas).joints[:, 0] + transl, atol=1e-6)
    assert (joints[:, 0] - transl).norm(dim=-1).min() > 0.05


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_mirrored_pose_gives_the_mirrored_hand(seed):
    betas, axis_angle, matrices, transl = random_hand(seed, 2)
    left_matrices = Rotation.from_rotvec((axis_angle.numpy() * [1, -1, -1]).reshape(-1, 3)).as_matrix()
    left_matrices = torch.as_tensor(left_matrices.reshape(2, 16, 3, 3), dtype=torch.float32)
    right = MODELS.right.forward(betas, matrices, transl)
    left = MODELS.left.forward(betas, left_matrices, transl * MIRROR)
    assert torch.allclose(left.vertices * MIRROR, right.vertices, atol=2e-6)
    assert torch.allclose(left.joints * MIRROR, right.joints, atol=2e-6)


def test_left_files_are_the_exact_mirror_and_mirrored_twice_is_the_same():
    other = MODELS.right.mirrored()
    assert other.side is Side.LEFT
    for a, b in ((other, MODELS.left), (other.mirrored(), MODELS.right)):
        for name in ("template", "shapedirs", "weights", "faces", "mean_pose", "joint_template"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_a_rigid_motion_moves_the_whole_hand(seed):
    betas, _, matrices, transl = random_hand(seed, 1, torch.float64)
    model = MODELS.right.to(torch.float64)
    start = model.forward(betas, matrices, transl)
    turn = torch.as_tensor(Rotation.random(random_state=seed).as_matrix())
    turned = matrices.clone()
    turned[:, 0] = turn @ matrices[:, 0]
    j0 = model.with_shape(betas).joints[:, 0]
    end = model.forward(betas, turned, (j0 + transl) @ turn.T - j0)
    assert torch.allclose(end.vertices, start.vertices @ turn.T, atol=1e-9)
    assert torch.allclose(end.joints, start.joints @ turn.T, atol=1e-9)


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_bones_keep_their_length(seed):
    betas, _, matrices, transl = random_hand(seed, 1)
    posed, rest = MODELS.right.joints(betas, matrices, transl), MODELS.right.joints(betas, flat(), transl)
    a, b = (list(ends) for ends in zip(*BONES, strict=True))
    lengths = [(joints[:, b] - joints[:, a]).norm(dim=-1) for joints in (posed, rest)]
    assert torch.allclose(*lengths, atol=2e-6)


def test_the_rest_hand_is_flat_and_in_mano_axes():
    joints = dict(zip(OPENPOSE_JOINTS, rest_joints(MODELS.right), strict=True))
    fingers = ("index", "middle", "ring", "little")
    for finger in fingers:
        bones = [joints[f"{finger}_{b}"] - joints[f"{finger}_{a}"] for a, b in (("mcp", "pip"), ("pip", "dip"))]
        a, b = (bone / np.linalg.norm(bone) for bone in bones)
        assert np.allclose(a, b, atol=1e-4)
        assert abs(a[1]) < 1e-4 and a[0] < -0.98
    middle = joints["middle_pip"] - joints["middle_mcp"]
    assert np.allclose(middle / np.linalg.norm(middle), [-1, 0, 0], atol=1e-4)
    assert np.all(np.diff([joints[f"{finger}_mcp"][2] for finger in fingers]) < 0)
    assert joints["thumb_tip"][2] > joints["index_mcp"][2] and joints["thumb_tip"][1] < 0
    assert np.allclose(joints["middle_mcp"], 0, atol=1e-6)


def test_positive_flexion_bends_every_finger_to_the_palm():
    axes = joint_axes(rest_joints(MODELS.right))
    start = rest_joints(MODELS.right)
    assert np.all(axes[:12, 2, 1] > 0.9)
    for finger, tip in enumerate((8, 12, 20, 16, 4)):
        angles = np.zeros((15, 3))
        angles[3 * finger : 3 * finger + 3, 1] = 0.5
        pose = np.concatenate([np.eye(3)[None], joint_rotations(angles, axes)])
        bent = MODELS.right.joints(
            torch.zeros(1, 10), torch.as_tensor(pose, dtype=torch.float32)[None], torch.zeros(1, 3)
        )
        moved = bent[0].numpy() - start
        assert moved[tip, 1] < -0.003
        others = [t for t in TIPS if t != tip]
        assert np.allclose(moved[others], 0, atol=1e-6)
        if tip == 4:
            assert moved[tip, 2] < -0.02
        else:
            assert moved[tip, 1] < -0.03 and moved[tip, 0] > 0


@pytest.mark.parametrize("side", SIDES)
def test_joint_angles_invert_joint_rotations_inside_the_limits(side):
    axes = joint_axes(rest_joints(MODELS[side]), side)
    assert np.allclose(axes, joint_axes(rest_joints(MODELS.right)), atol=1e-5)
    assert np.allclose(np.linalg.det(axes), 1) and np.allclose(axes @ axes.swapaxes(-1, -2), np.eye(3), atol=1e-9)
    rng = np.random.default_rng(8)
    angles = rng.uniform(JOINT_LIMITS[..., 0], JOINT_LIMITS[..., 1], (200, 15, 3))
    rotations = joint_rotations(angles, axes, side)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(joint_angles(rotations, axes, side), angles, atol=1e-9)


def test_joint_rotations_are_twist_then_flexion_then_abduction():
    axes = joint_axes(rest_joints(MODELS.right))
    twist, flexion, abduction = np.random.default_rng(9).uniform(-0.5, 0.5, (3, 15))
    bone, side, back = (axes[:, :, k] for k in range(3))
    turns = [Rotation.from_rotvec(v * a[:, None]) for v, a in ((back, abduction), (side, flexion), (bone, twist))]
    expected = (turns[0] * turns[1] * turns[2]).as_matrix()
    assert np.allclose(joint_rotations(np.stack([twist, flexion, abduction], -1), axes), expected)


def test_limits_are_ordered_and_allow_the_flat_hand():
    assert JOINT_LIMITS.shape == (15, 3, 2)
    assert np.all(JOINT_LIMITS[..., 0] < 0) and np.all(JOINT_LIMITS[..., 1] > 0)


@pytest.mark.parametrize("side", SIDES)
def test_the_mesh_is_closed_and_its_normals_point_out(side):
    trimesh = pytest.importorskip("trimesh")
    model = MODELS[side]
    mesh = trimesh.Trimesh(model.template.numpy(), model.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1
    assert model.n_vertices == 1159 and 2.5e-4 < mesh.volume < 6e-4
    assert volume(model.template.numpy(), model.faces.numpy()) == pytest.approx(mesh.volume)


@pytest.mark.parametrize("beta", [-2.0, 0.0, 2.0])
def test_joints_are_inside_the_mesh_for_any_shape(beta):
    for direction in range(10):
        betas = torch.zeros(1, 10)
        betas[0, direction] = beta
        out = MODELS.right.forward(betas, flat(), torch.zeros(1, 3))
        inner = out.joints[0, list(MANO16_FROM_OPENPOSE)].numpy()
        winds = winding_number(inner, out.vertices[0].numpy(), MODELS.right.faces.numpy())
        assert np.allclose(winds, 1, atol=1e-3), direction


def test_regressor_and_weights_are_convex():
    arrays = read_arrays(ASSETS / "MANO_RIGHT.npz")
    for name in ("J_regressor", "weights"):
        assert arrays[name].min() >= 0
        assert np.allclose(arrays[name].sum(1), 1, atol=1e-5)
    assert np.count_nonzero(arrays["J_regressor"], axis=1).max() <= 40
    assert np.allclose(arrays["J_regressor"].astype(float) @ arrays["v_template"], arrays["J"], atol=1e-6)


def finger_length(joints: np.ndarray, base: int) -> float:
    return float(np.linalg.norm(np.diff(joints[base : base + 4], axis=0), axis=1).sum())


def measures(direction: int | None) -> dict[str, float]:
    """Lengths and extents of the flat right hand with one shape parameter at +1 [m]."""
    betas = torch.zeros(1, 10)
    if direction is not None:
        betas[0, direction] = 1.0
    out = MODELS.right.forward(betas, flat(), torch.zeros(1, 3))
    joints, vertices = out.joints[0].numpy(), out.vertices[0].numpy()
    weights = MODELS.right.weights.numpy()
    names = {"thumb": 1, "index": 5, "middle": 9, "ring": 13, "little": 17}
    found = {f"{name} length": finger_length(joints, base) for name, base in names.items()}
    found["palm width"] = float(np.ptp(joints[[5, 9, 13, 17], 2]))
    found["palm length"] = float(joints[0, 0] - joints[9, 0])
    distal = vertices[weights[:, 5] > 0.9]
    found["finger thickness"] = float(np.ptp(distal[:, 2]))
    core = vertices[(weights[:, 0] > 0.95) & (np.abs(MODELS.right.template.numpy()[:, 0] - 0.04) < 0.01)]
    found["palm thickness"] = float(np.ptp(core[:, 1]))
    return found


#: (direction, what it changes, by how much relative to the part, what follows along with it)
DIRECTIONS = [
    (1, "thumb length", 0.04),
    (2, "index length", 0.04),
    (3, "middle length", 0.04),
    (4, "ring length", 0.04),
    (5, "little length", 0.04),
    (6, "palm width", 0.048),
    (7, "palm length", 0.03),
    (8, "finger thickness", 0.06),
    (9, "palm thickness", 0.07),
]


@pytest.mark.parametrize(("direction", "name", "amount"), DIRECTIONS)
def test_each_direction_changes_what_it_says_and_nothing_else(direction, name, amount):
    before, after = measures(None), measures(direction)
    change = {key: after[key] / before[key] - 1 for key in before}
    assert change[name] == pytest.approx(amount, rel=0.2)
    for key in before:
        if key != name:
            assert abs(change[key]) < 0.15 * amount, key


def test_size_scales_everything_about_the_wrist():
    betas = torch.zeros(1, 10)
    betas[0, 0] = 1.0
    grown = MODELS.right.forward(betas, flat(), torch.zeros(1, 3))
    wrist = MODELS.right.joint_template[0]
    assert torch.allclose(grown.vertices[0], wrist + 1.063 * (MODELS.right.template - wrist), atol=1e-6)


def test_shape_directions_are_smooth_on_the_mesh():
    model = MODELS.right
    edges = torch.cat([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]])
    stretch = model.shapedirs[edges[:, 0]] - model.shapedirs[edges[:, 1]]
    length = (model.template[edges[:, 0]] - model.template[edges[:, 1]]).norm(dim=-1)
    assert (stretch.norm(dim=1) / length[:, None]).max() < 0.2
    for beta in (-3.0, 3.0):
        for direction in range(10):
            shaped = (model.template + beta * model.shapedirs[..., direction]).numpy()
            normals = [
                np.cross(v[model.faces[:, 1]] - v[model.faces[:, 0]], v[model.faces[:, 2]] - v[model.faces[:, 0]])
                for v in (shaped, model.template.numpy())
            ]
            assert np.einsum("fi,fi->f", *normals).min() > 0, (direction, beta)


def test_mean_hand_has_the_published_length():
    assert hand_length(MODELS.right, torch.zeros(1, 10)).item() == pytest.approx(0.1872, abs=2e-4)
    assert hand_length(MODELS.left, torch.zeros(1, 10)).item() == pytest.approx(0.1872, abs=2e-4)


@pytest.mark.parametrize("length", [0.14, 0.187, 0.21, 0.30])
def test_betas_for_length_changes_the_size_only(length):
    start = torch.linspace(-1, 1, 10)
    solved = betas_for_length(MODELS.right, start, length)
    assert torch.equal(solved[1:], start[1:])
    joints = rest_joints(MODELS.right, solved[None])
    assert np.linalg.norm(joints[12] - joints[0]) == pytest.approx(length, abs=1e-5)


def test_betas_for_length_of_a_model_without_a_size_direction():
    import dataclasses

    model = dataclasses.replace(MODELS.right, name="mano")
    solved = betas_for_length(model, torch.zeros(10), 0.2)
    assert hand_length(model, solved[None]).item() == pytest.approx(0.2, abs=1e-4)
    assert solved.norm() < betas_for_length(MODELS.right, torch.zeros(10), 0.2).norm()


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan"), 17.0])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(InputError, match=r"hand length: expected 0\.05 to 0\.40 m"):
        betas_for_length(MODELS.right, torch.zeros(10), length)


@pytest.mark.parametrize(
    ("betas", "rotations", "transl", "text"),
    [
        ((10,), (1, 16, 3, 3), (1, 3), r"betas: expected \(B, 10\), got \(10,\)"),
        ((1, 10), (1, 15, 3, 3), (1, 3), r"rotations: expected \(B, 16, 3, 3\), got \(1, 15, 3, 3\)"),
        ((1, 10), (1, 48), (1, 3), r"rotations: expected \(B, 16, 3, 3\), got \(1, 48\)"),
        ((1, 10), (1, 16, 3, 3), (3,), r"transl: expected \(B, 3\), got \(3,\)"),
    ],
)
def test_wrong_shapes_say_what_arrived(betas, rotations, transl, text):
    with pytest.raises(InputError, match=text):
        MODELS.right.forward(torch.zeros(betas), torch.zeros(rotations), torch.zeros(transl))


def test_gradients_reach_pose_shape_and_translation():
    model = MODELS.right.to(torch.float64)
    betas, _, matrices, transl = (a.requires_grad_() for a in random_hand(10, 2, torch.float64))
    assert torch.autograd.gradcheck(lambda *args: model.joints(*args), (betas, matrices, transl))


def test_joint_orders_are_permutations_that_match():
    assert sorted(OPENPOSE_FROM_MANO21) == list(range(21))
    assert [OPENPOSE_FROM_MANO21[i] for i in MANO16_FROM_OPENPOSE] == list(range(16))
    assert [OPENPOSE_FROM_MANO21[i] for i in TIPS] == [16, 17, 18, 19, 20]


def test_a_missing_folder_says_where_mano_is_obtained(tmp_path):
    with pytest.raises(HandModelError, match=r"no such hand-model file.*mano\.is\.tue\.mpg\.de"):
        load_hand_models(tmp_path)


def damaged(name: str, value: np.ndarray | None, folder):
    for side in SIDES:
        arrays = read_arrays(ASSETS / f"MANO_{side.name}.npz")
        arrays.pop(name)
        if value is not None:
            arrays[name] = value
        write_arrays(folder / f"MANO_{side.name}.npz", arrays)
    return folder


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("weights", None, "no array weights"),
        ("v_template", None, "no array v_template"),
        ("v_template", np.zeros((1159, 2)), r"v_template: expected shape \(1159, 3\), got \(1159, 2\)"),
        ("shapedirs", np.zeros((1159, 3, 4)), r"shapedirs: expected shape \(1159, 3, 10\), got \(1159, 3, 4\)"),
        ("hands_mean", np.full(45, np.nan), "hands_mean holds values that are not finite"),
        ("kintree_table", np.zeros((2, 16), np.int64), "kintree_table is not that of a MANO hand"),
        ("f", np.full((4, 3), 5000), r"f: expected vertices 0 to 1158, got 5000 to 5000"),
        ("weights", np.zeros((1159, 16)), "weights: expected rows that sum to 1"),
        ("f", np.zeros((4, 3)), "f: expected integers, got float64"),
    ],
)
def test_damaged_files_are_refused(name, value, text, tmp_path):
    with pytest.raises(HandModelError, match=text):
        load_hand_models(damaged(name, value, tmp_path))


def test_files_that_are_not_npz_or_hold_objects_are_refused(tmp_path):
    target = tmp_path / "MANO_LEFT.npz"
    target.write_bytes(b"not a zip")
    with pytest.raises(HandModelError, match=r"not a hand-model \.npz file"):
        load_hand_model(target, Side.LEFT)
    np.savez(target, v_template=np.array([{"a": 1}], dtype=object))
    with pytest.raises(HandModelError, match=r"not a hand-model \.npz file"):
        load_hand_model(target, Side.LEFT)
    target.write_bytes((ASSETS / "MANO_LEFT.npz").read_bytes()[:50_000])
    with pytest.raises(HandModelError, match=r"not a hand-model \.npz file"):
        load_hand_model(target, Side.LEFT)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    target = tmp_path / "MANO_LEFT.npz"
    np.savez_compressed(target, v_template=np.zeros(3_000_000))
    assert target.stat().st_size < 2**16
    monkeypatch.setattr("a2p_ros.hand.files.MAX_BYTES", 4 * 2**20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(HandModelError, match="expected at most 4 MiB of arrays, got 22 MiB"):
        read_arrays(target)


def test_two_different_models_in_one_folder_are_refused(tmp_path):
    for side, name in ((Side.LEFT, "open_hand"), (Side.RIGHT, "mano")):
        arrays = read_arrays(ASSETS / f"MANO_{side.name}.npz") | {"model_name": np.array(name)}
        write_arrays(tmp_path / f"MANO_{side.name}.npz", arrays)
    with pytest.raises(HandModelError, match="the left hand is 'open_hand' with 1159 vertices, the right one 'mano'"):
        load_hand_models(tmp_path)
