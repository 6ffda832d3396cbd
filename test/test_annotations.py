"""Annotated pairs of InterHand2.6M and Re:InterHand: small files in the true form, made by smplx and scipy."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_hands import ASSETS, FROM_SMPLX
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from a2p_ros.errors import A2PError, HandModelError, InputError, SourceError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.collision import penetration_depths
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.annotations import (
    InterHandAnnotations,
    ReInterHandAnnotations,
    annotated_pairs,
    open_annotations,
    to_camera,
)
from a2p_ros.types import Pair, Side

FINGERS = ("thumb", "index", "middle", "ring", "little")
OPENPOSE = ["wrist", *(f"{f}{k}" for f in FINGERS for k in (1, 2, 3, 4))]
INTERHAND = [*(f"{f}{k}" for f in FINGERS for k in (4, 3, 2, 1)), "wrist"]
REINTERHAND = [
    "wrist",
    *(f"thumb{k}" for k in range(5)),
    *(f"{f}{k}" for f in ("index", "middle", "ring") for k in (1, 2, 3, 4)),
    *(f"little{k}" for k in range(5)),
    "forearm",
]
CAPTURE = "m--20210701--1058--0000000--pilot--relightablehandsy--participant0--two-hands"
TEST_CAPTURE = "m--20230317--1130--QZX685--pilot--ProjectGoliath--Hands--two-hands"
CAMERAS = {
    "400262": (Rotation.from_rotvec([0.3, -1.1, 0.4]).as_matrix(), np.array([310.0, -120.0, -900.0])),
    "400263": (Rotation.from_rotvec([-0.2, 2.0, 0.1]).as_matrix(), np.array([-700.0, 40.0, 650.0])),
}


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def mano(tmp_path_factory) -> Path:
    """A folder of hand models that say they are MANO: the open hand's arrays with a mean pose of their own."""
    folder = tmp_path_factory.mktemp("mano")
    mean = np.random.default_rng(3).normal(0, 0.25, (15, 3)).astype(np.float32)
    for side, signs in (("RIGHT", [1, 1, 1]), ("LEFT", [1, -1, -1])):
        with np.load(ASSETS / f"MANO_{side}.npz") as archive:
            arrays = dict(archive)
        arrays |= {"model_name": np.array("mano"), "hands_mean": (mean * np.float32(signs)).ravel()}
        np.savez(folder / f"MANO_{side}.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def models(mano):
    return load_hand_models(mano)


@dataclass(frozen=True)
class Posed:
    """A hand as smplx poses it from annotated numbers; world frame, metres."""

    pose: np.ndarray
    shape: np.ndarray
    trans: np.ndarray
    vertices: np.ndarray
    joints: dict[str, np.ndarray]

    def moved(self, shift) -> Posed:
        return Posed(
            self.pose,
            self.shape,
            self.trans + shift,
            self.vertices + shift,
            {name: point + shift for name, point in self.joints.items()},
        )

    def parameters(self) -> dict[str, list[float]]:
        return {"pose": self.pose.tolist(), "shape": self.shape.tolist(), "trans": self.trans.tolist()}


@pytest.fixture(scope="module")
def posed(mano, models) -> list[Pair[Posed]]:
    """Four pairs: touching, far apart, deep in each other, touching."""
    smplx = pytest.importorskip("smplx", reason="smplx is not installed: nothing to compare the readers with")
    rng = np.random.default_rng(11)
    layers = {
        side: smplx.MANO(str(mano), is_rhand=side is Side.RIGHT, use_pca=False, flat_hand_mean=False, ext="npz")
        for side in Side
    }

    def hand(side: Side) -> Posed:
        turns = Rotation.from_rotvec(rng.normal(0, 0.15, (16, 3)))
        pose = np.concatenate([Rotation.random(random_state=rng).as_rotvec()[None], turns.as_rotvec()[1:]]).ravel()
        shape, trans = rng.normal(0, 0.7, 10), np.array([0.05, -0.2, 1.08]) + rng.normal(0, 0.01, 3)
        values = {"global_orient": pose[:3], "hand_pose": pose[3:], "betas": shape, "transl": trans}
        with torch.no_grad():
            out = layers[side](**{k: torch.as_tensor(v, dtype=torch.float32)[None] for k, v in values.items()})
        vertices = out.vertices[0].double().numpy()
        joints = np.concatenate([out.joints[0].double().numpy(), vertices[list(models[side].tip_vertices)]])
        return Posed(pose, shape, trans, vertices, dict(zip(OPENPOSE, joints[FROM_SMPLX], strict=True)))

    def pair(gap: float) -> Pair[Posed]:
        left, right = hand(Side.LEFT), hand(Side.RIGHT)
        left = left.moved(right.vertices.mean(0) - left.vertices.mean(0))
        if gap < 0:
            return Pair(left, right)
        tree, away, near = cKDTree(right.vertices), 0.5, 0.0
        for _ in range(30):
            middle = (away + near) / 2
            clear = tree.query(left.vertices + [middle, 0, 0])[0].min() >= gap
            away, near = (middle, near) if clear else (away, middle)
        return Pair(left.moved(np.array([away, 0, 0])), right)

    return [pair(0.0035), pair(0.2), pair(-1), pair(0.0035)]


def interhand_points(hands: Pair[Posed]) -> list[list[float]]:
    """42 joints, the right hand's first [mm]."""
    return [(1000 * hand.joints[name]).tolist() for hand in (hands.right, hands.left) for name in INTERHAND]


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def interhand_values(posed, hand_type="interacting") -> dict[str, dict]:
    """The four files' contents: capture 13 with three frames, capture 2 with one, and a frame of a single hand."""
    numbers = [("13", "21", 0), ("13", "9", 1), ("13", "100", 2), ("2", "7", 3)]
    values: dict[str, dict] = {"MANO_NeuralAnnot": {}, "joint_3d": {}, "camera": {}, "data": {}}
    for capture, frame, i in numbers:
        hands = {"right": posed[i].right.parameters(), "left": posed[i].left.parameters()}
        values["MANO_NeuralAnnot"].setdefault(capture, {})[frame] = hands
        entry = {"world_coord": interhand_points(posed[i]), "joint_valid": [[1]] * 42}
        if hand_type:
            entry |= {"hand_type": hand_type, "seq": f"sequence{i}"}
        values["joint_3d"].setdefault(capture, {})[frame] = entry
    values["MANO_NeuralAnnot"]["2"]["8"] = {"right": posed[0].right.parameters(), "left": None}
    single = {"world_coord": interhand_points(posed[0]), "joint_valid": [[1]] * 21 + [[0]] * 21}
    values["joint_3d"]["2"]["8"] = single | ({"hand_type": "right", "seq": "fist"} if hand_type else {})
    numbers.append(("2", "8", 4))
    for capture in ("13", "2"):
        values["camera"][capture] = {
            "campos": {name: position.tolist() for name, (_, position) in CAMERAS.items()},
            "camrot": {name: turn.tolist() for name, (turn, _) in CAMERAS.items()},
            "focal": {name: [1300.0, 1300.0] for name in CAMERAS},
            "princpt": {name: [256.0, 167.0] for name in CAMERAS},
        }
    seen = [(c, f, i, camera) for c, f, i in numbers for camera in CAMERAS]
    values["data"] = {
        "images": [
            {"id": k, "capture": int(c), "frame_idx": int(f), "camera": camera, "seq_name": f"sequence{i}"}
            for k, (c, f, i, camera) in enumerate(seen)
        ],
        "annotations": [
            {"id": k + 50, "image_id": k, "hand_type": "right" if i == 4 else "interacting", "hand_type_valid": 1}
            for k, (_, _, i, _) in enumerate(seen)
        ],
    }
    return values


def write_interhand(root: Path, values: dict[str, dict], split: str = "train") -> Path:
    for what, value in values.items():
        write(root / "annotations" / split / f"InterHand2.6M_{split}_{what}.json", value)
    return root


@pytest.fixture(scope="module")
def interhand(posed, tmp_path_factory) -> Path:
    values = interhand_values(posed)
    del values["data"]
    return write_interhand(tmp_path_factory.mktemp("interhand"), values)


def write_reinterhand(root: Path, posed, capture: str = CAPTURE, listed: str | None = None) -> Path:
    folder = root / capture
    for i, hands in enumerate(posed):
        for side, hand in hands.items():
            write(folder / "mano_fits" / "params" / f"{100001 + 3 * i}_{side.value}.json", hand.parameters())
            extra = {"thumb0": np.full(3, 9.0), "little0": np.full(3, -9.0), "forearm": np.zeros(3)}
            points = [(1000 * (hand.joints | extra)[name]).tolist() for name in REINTERHAND]
            write(folder / "orig_fits" / side.value / "Keypoints" / f"keypoint-{100001 + 3 * i:06d}.json", points)
    lines = [f"segment{i % 2} {100001 + 3 * i}\n" for i in range(len(posed))]
    (folder / "frame_list.txt").write_text("".join(lines) if listed is None else listed)
    cameras = {
        name: {"R": turn.tolist(), "t": (-turn @ position).tolist(), "focal": [1, 1], "princpt": [0, 0]}
        for name, (turn, position) in CAMERAS.items()
    }
    write(folder / "Mugsy_cameras" / "cam_params.json", cameras)
    return root


@pytest.fixture(scope="module")
def reinterhand(posed, tmp_path_factory) -> Path:
    root = write_reinterhand(tmp_path_factory.mktemp("reinterhand"), posed)
    return write_reinterhand(root, posed[:2], TEST_CAPTURE)


#: Order in which the two data sets' frames come: indices into ``posed``.
INTERHAND_ORDER, REINTERHAND_ORDER = [1, 0, 2, 3], [0, 1, 2, 3]


def open_set(name: str, interhand: Path, reinterhand: Path, **options):
    if name == "interhand":
        return InterHandAnnotations(interhand, **options), INTERHAND_ORDER
    return ReInterHandAnnotations(reinterhand, **options), REINTERHAND_ORDER


both_sets = pytest.mark.parametrize("name", ["interhand", "reinterhand"])


@both_sets
def test_pairs_are_the_hands_that_smplx_poses(name, interhand, reinterhand, posed, models):
    found, order = open_set(name, interhand, reinterhand)
    hands = found.pairs(models).forward(models)
    for side, output in hands.items():
        for row, i in enumerate(order):
            assert np.abs(output.vertices[row].numpy() - posed[i][side].vertices).max() < 2e-5


@both_sets
def test_joints_come_in_openpose_order_and_metres(name, interhand, reinterhand, posed):
    found, order = open_set(name, interhand, reinterhand)
    measured = found.joints([0, 2])
    for side, joints in measured.items():
        for row, i in enumerate((order[0], order[2])):
            expected = np.stack([posed[i][side].joints[name] for name in OPENPOSE])
            assert np.abs(joints.points[row] - expected).max() < 1e-6
        assert joints.valid.all() and joints.points.shape == (2, 21, 3)


@both_sets
def test_the_check_is_near_zero_for_the_right_model_and_notices_others(name, interhand, reinterhand, models):
    found, _ = open_set(name, interhand, reinterhand)
    good = found.check(models)
    assert good.frames == 4
    assert max(good.mean_mm.left, good.mean_mm.right, good.aligned_mm.left) < 0.02
    good.require()
    flat = Pair(*(replace(m, mean_pose=torch.zeros(15, 3)) for m in (models.left, models.right)))
    assert min(found.check(flat).mean_mm.left, found.check(flat).mean_mm.right) > 10
    larger = Pair(*(replace(m, template=m.template * 1.5) for m in (models.left, models.right)))
    with pytest.raises(InputError, match=r"wrists aligned.*expected medians below 30 mm.*hand-model convert"):
        found.check(larger).require()


def test_the_left_hands_sign_error_is_named_and_would_be_seen_in_the_joints(interhand, posed, models):
    flip = torch.tensor([-1.0, 1.0, 1.0])[:, None]
    broken = Pair(replace(models.left, shapedirs=models.left.shapedirs * flip), models.right)
    found = InterHandAnnotations(interhand)
    with pytest.raises(HandModelError, match=r"sign error.*hand-model convert"):
        found.pairs(broken)
    pairs = found.pairs(models)
    gap = (broken.left.joints(pairs.betas.left, pairs.rotations.left, pairs.transl.left)).numpy()
    assert np.linalg.norm(gap - found.joints(range(4)).left.points, axis=-1).mean() > 0.002


def test_the_open_hand_is_refused_with_the_way_out(interhand):
    with pytest.raises(HandModelError, match=r"'open_hand'.*a2p hand-model convert.*--hand-model FOLDER"):
        annotated_pairs(interhand, load_hand_models())


@both_sets
def test_a_camera_sees_the_pair_where_the_world_puts_it(name, interhand, reinterhand, posed, models):
    found, order = open_set(name, interhand, reinterhand)
    cameras = found.cameras(found.frames[0].capture)
    assert set(cameras) == set(CAMERAS)
    pairs = found.pairs(models)
    for camera, (turn, position) in CAMERAS.items():
        hands = to_camera(models, pairs, cameras[camera]).forward(models)
        for side, output in hands.items():
            expected = (posed[order[0]][side].vertices - position / 1000) @ turn.T
            assert np.abs(output.vertices[0].numpy() - expected).max() < 2e-5


def test_frames_come_once_in_order_with_their_sequences(interhand):
    found = InterHandAnnotations(interhand)
    assert [(f.capture, f.number, f.kind) for f in found.frames] == [
        ("13", 9, "sequence1"),
        ("13", 21, "sequence0"),
        ("13", 100, "sequence2"),
        ("2", 7, "sequence3"),
    ]
    assert found.left_out == {"are of single-hand sequences": 1}
    both = InterHandAnnotations(interhand, interacting=False)
    assert len(both) == 4 and both.left_out == {"have one hand or none": 1}


def test_batches_hold_every_frame_once(interhand, models):
    parts = list(InterHandAnnotations(interhand).batches(models, size=3))
    assert [len(p) for _, p in parts] == [3, 1]
    assert [f.number for frames, _ in parts for f in frames] == [9, 21, 100, 7]
    assert parts[1][1].kinds == ("sequence3",)


@both_sets
def test_the_stride_counts_within_a_capture(name, interhand, reinterhand):
    found, _ = open_set(name, interhand, reinterhand, stride=2)
    assert [f.number for f in found.frames] == ([9, 100, 7] if name == "interhand" else [100001, 100007])
    assert found.left_out["skipped by the stride"] == (1 if name == "interhand" else 2)
    with pytest.raises(InputError, match="stride: expected 1 or more, got 0"):
        open_set(name, interhand, reinterhand, stride=0)


def test_older_files_take_the_hand_type_from_the_images(posed, tmp_path):
    values = interhand_values(posed, hand_type="")
    values["joint_3d"]["13"]["21"] |= {"hand_type": "interacting", "seq": "its own"}
    found = InterHandAnnotations(write_interhand(tmp_path, values))
    assert [f.kind for f in found.frames] == ["sequence1", "its own", "sequence2", "sequence3"]
    assert len(found) == 4 and found.left_out == {"are of single-hand sequences": 1}
    path = tmp_path / "annotations" / "train" / "InterHand2.6M_train_data.json"
    write(path, {"images": [{"id": 1}], "annotations": [{"image_id": 1, "hand_type": "right"}]})
    with pytest.raises(InputError, match=r"data\.json: expected id, capture, frame_idx"):
        InterHandAnnotations(tmp_path)
    path.unlink()
    with pytest.raises(SourceError, match=r"no hand_type.*data\.json is not there"):
        InterHandAnnotations(tmp_path)


def test_joints_that_are_not_valid_are_left_out_of_the_check(posed, tmp_path, models):
    values = interhand_values(posed)
    for frames in values["joint_3d"].values():
        for entry in frames.values():
            entry["world_coord"][3] = [float("nan"), 1.0, 1.0]
            entry["joint_valid"] = [{3: [0, 0, 0], 5: [1, 0, 1]}.get(k, [1, 1, 1]) for k in range(42)]
            entry["world_coord"][5] = [1.0, 1.0, 1.0]
    values["joint_3d"]["2"]["7"]["joint_valid"][20] = [0, 0, 0]
    values["joint_3d"]["2"]["7"]["world_coord"][20] = [1e4, 0.0, 0.0]
    found = InterHandAnnotations(write_interhand(tmp_path, values))
    invalid = ~found.joints([0]).right.valid[0]
    assert [OPENPOSE[k] for k in np.flatnonzero(invalid)] == ["thumb1", "index3"]
    assert found.joints([0]).left.valid.all()
    assert max(found.check(models).mean_mm.right, found.check(models).aligned_mm.right) < 0.02
    entry = values["joint_3d"]["13"]["9"]
    entry["joint_valid"] = [[1]] * 42
    with pytest.raises(InputError, match=r"\[13\]\[9\]\[world_coord\]: a valid joint is not finite"):
        InterHandAnnotations(write_interhand(tmp_path, values))


@both_sets
def test_hands_that_do_not_touch_or_are_deep_in_each_other_are_left_out(name, interhand, reinterhand, posed, models):
    found, order = open_set(name, interhand, reinterhand)
    seen: list[range] = []
    index, left_out = found.select(models, progress=lambda batches: (seen.append(batches), batches)[1])
    assert [order[i] for i in index] == [0, 3] and [len(r) for r in seen] == [1]
    assert left_out == {"do not touch": 1, "are too deep in each other": 1}
    pairs = found.to_pairs(models)
    assert len(pairs) == 2
    shown = pairs.forward(models).left.vertices[0].numpy()
    assert np.abs(shown - posed[0].left.vertices).max() < 2e-5
    assert len(found.to_pairs(models, max_gap=None, max_depth=None)) == 4
    assert len(found.to_pairs(models, max_gap=0.25, max_depth=None)) == 4
    depths = penetration_depths(
        Pair(*(CollisionMesh.from_model(m) for _, m in models.items())),
        Pair(*(o.vertices[2:3] for _, o in found.pairs(models).forward(models).items())),
    )
    shallow, deep = sorted(float(d.max()) for _, d in depths.items())
    assert len(found.to_pairs(models, max_gap=None, max_depth=(shallow + deep) / 2)) == 3
    assert len(found.to_pairs(models, max_gap=None, max_depth=deep + 1e-4)) == 4
    with pytest.raises(InputError, match=r"of 4 pairs of hands none is left to train on: .*3 do not touch"):
        found.to_pairs(models, max_gap=0.001)


def test_a_fit_far_from_its_joints_is_left_out(posed, tmp_path, models):
    values = interhand_values(posed)
    points = np.array(values["joint_3d"]["13"]["21"]["world_coord"])
    points[21:] += [30, 0, 0]
    values["joint_3d"]["13"]["21"]["world_coord"] = points.tolist()
    found = InterHandAnnotations(write_interhand(tmp_path, values))
    assert found.check(models).mean_mm.left == pytest.approx(30 / 4, abs=0.1)
    index, left_out = found.select(models)
    assert index.tolist() == [3] and left_out["do not fit their joints"] == 1
    assert found.select(models, max_fit_error=None).chosen.tolist() == [1, 3]


def test_swapped_hands_stop_the_training_data(posed, tmp_path, models):
    values = interhand_values(posed)
    for frames in values["joint_3d"].values():
        for entry in frames.values():
            entry["world_coord"] = entry["world_coord"][21:] + entry["world_coord"][:21]
    with pytest.raises(InputError, match="expected medians below 30 mm"):
        annotated_pairs(write_interhand(tmp_path, values), models)


def test_reinterhand_splits_are_by_capture(reinterhand):
    assert {f.capture for f in ReInterHandAnnotations(reinterhand).frames} == {CAPTURE}
    test = ReInterHandAnnotations(reinterhand, "test")
    assert {f.capture for f in test.frames} == {TEST_CAPTURE} and len(test) == 2
    assert len(ReInterHandAnnotations(reinterhand, "all")) == 6
    assert len(ReInterHandAnnotations(reinterhand / TEST_CAPTURE, "test")) == 2
    with pytest.raises(SourceError, match=f"no capture of the split 'train'; there are {TEST_CAPTURE}"):
        ReInterHandAnnotations(reinterhand / TEST_CAPTURE)


def test_reinterhand_takes_the_listed_frames_or_all(posed, tmp_path):
    listed = "segment1 100004\nsegment1 100004\n\nsegment2 100007 x\nsegment2 999999\n"
    folder = write_reinterhand(tmp_path, posed, listed=listed) / CAPTURE
    found = ReInterHandAnnotations(tmp_path)
    assert [(f.number, f.kind) for f in found.frames] == [(100004, "segment1"), (100007, "segment2")]
    assert found.left_out == {"have no MANO file": 1}
    (folder / "frame_list.txt").unlink()
    (folder / "mano_fits" / "params" / "100001_right.json").unlink()
    found = ReInterHandAnnotations(tmp_path)
    assert [f.number for f in found.frames] == [100004, 100007, 100010]
    (folder / "frame_list.txt").write_text("segment\n")
    with pytest.raises(InputError, match=r"frame_list\.txt: line 1: expected SEGMENT FRAME, got 'segment'"):
        ReInterHandAnnotations(tmp_path)
    (folder / "frame_list.txt").write_text("segment abc\n")
    with pytest.raises(InputError, match=r"line 1: expected a frame number, got 'abc'"):
        ReInterHandAnnotations(tmp_path)


def test_reinterhand_without_keypoints_is_used_unchecked(posed, tmp_path, models):
    folder = write_reinterhand(tmp_path, posed) / CAPTURE
    (folder / "orig_fits" / "left" / "Keypoints" / "keypoint-100001.json").unlink()
    found = ReInterHandAnnotations(tmp_path)
    assert not found.joints([0]).left.valid.any() and found.joints([0]).right.valid.all()
    assert found.check(models).mean_mm.left < 0.02
    (folder / "orig_fits").rename(folder / "elsewhere")
    assert found.joints([0]) is None
    with pytest.raises(InputError, match="no annotated joints to check"):
        found.check(models)
    assert len(found.to_pairs(models)) == 2


BAD_HANDS = [
    ({"pose": [0.0] * 45}, r"pose: expected 48 numbers, got 45"),
    ({"shape": [0.0] * 11}, r"shape: expected 10 numbers, got 11"),
    ({"trans": []}, r"trans: expected 3 numbers, got 0"),
    ({"pose": [float("nan")] * 48}, r"pose: holds numbers that are not finite"),
    ({"trans": [float("inf"), 0, 0]}, r"trans: holds numbers that are not finite"),
    ({"trans": [50.0, -200.0, 1080.0]}, r"trans: expected metres within 20 m"),
    ({"pose": ["0.1"] * 48}, r"pose: expected 48 numbers, got \['0\.1'"),
    ({"pose": [0.0] * 47 + [None]}, r"pose: expected 48 numbers, got \["),
    ({"pose": [[0.0] * 3] * 15 + [[0.0] * 2]}, r"pose: expected 48 numbers, got \["),
    ({"shape": True}, r"shape: expected 10 numbers, got True"),
    ("text", r"expected null or an object with pose, shape and trans, got str"),
    ({"pose": ...}, r"no pose; expected pose \(48\), shape \(10\) and trans \(3\)"),
]


@both_sets
@pytest.mark.parametrize(("change", "text"), BAD_HANDS, ids=range(len(BAD_HANDS)))
def test_wrong_numbers_are_named_with_capture_frame_and_hand(name, change, text, posed, tmp_path):
    hand = posed[0].left.parameters()
    hand = change if isinstance(change, str) else {k: v for k, v in (hand | change).items() if v is not ...}
    if name == "interhand":
        values = interhand_values(posed)
        values["MANO_NeuralAnnot"]["13"]["21"]["left"] = hand
        write_interhand(tmp_path, values)
        where = r"MANO_NeuralAnnot\.json: \[13\]\[21\]\[left\]"
    else:
        write_reinterhand(tmp_path, posed[:2])
        write(tmp_path / CAPTURE / "mano_fits" / "params" / "100001_left.json", hand)
        where = r"100001_left\.json"
    with pytest.raises(InputError, match=where + ".*" + text):
        open_annotations(tmp_path)


@both_sets
@pytest.mark.parametrize("nothing", [None, {"pose": None, "shape": None, "trans": None}])
def test_hands_without_a_fit_are_counted_and_none_at_all_is_an_error(name, nothing, posed, tmp_path):
    def empty(which: list[int]) -> None:
        if name == "interhand":
            values = interhand_values(posed)
            keys = [("13", "21"), ("13", "9"), ("13", "100"), ("2", "7")]
            for i in which:
                values["MANO_NeuralAnnot"][keys[i][0]][keys[i][1]]["right"] = nothing
            write_interhand(tmp_path, values)
        else:
            write_reinterhand(tmp_path, posed)
            for i in which:
                write(tmp_path / CAPTURE / "mano_fits" / "params" / f"{100001 + 3 * i}_right.json", nothing)

    empty([0])
    found = open_annotations(tmp_path)
    assert len(found) == 3 and found.left_out["have one hand or none"] == 1
    empty([0, 1, 2, 3])
    with pytest.raises(InputError, match=r"no frame with MANO parameters of both hands \(.*4 have one hand or none"):
        open_annotations(tmp_path)


def test_missing_files_say_what_was_expected(posed, tmp_path):
    with pytest.raises(SourceError, match=r"no such folder; expected one with InterHand2\.6M's annotations.*, or Re:I"):
        open_annotations(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no known data set in it; expected InterHand2\.6M's .*, or Re:InterHand's"):
        open_annotations(tmp_path)
    with pytest.raises(SourceError, match=r"expected InterHand2\.6M's annotations/train/InterHand2\.6M_train_MANO"):
        open_annotations(f"interhand:{tmp_path}")
    with pytest.raises(SourceError, match=r"expected Re:InterHand's m--\*/mano_fits/params/FRAME_left\.json"):
        open_annotations(f"reinterhand:{tmp_path}")
    with pytest.raises(InputError, match="data set 'freihand' is unknown; known are interhand, reinterhand"):
        open_annotations(f"freihand:{tmp_path}")
    write_interhand(tmp_path, interhand_values(posed), "val")
    with pytest.raises(SourceError, match=r"annotations/train/.*; splits there: val"):
        open_annotations(tmp_path)
    with pytest.raises(InputError, match=r"split of InterHand2\.6M: expected train, val, test, got 'all'"):
        open_annotations(tmp_path, "all")
    (tmp_path / "annotations" / "val" / "InterHand2.6M_val_joint_3d.json").unlink()
    with pytest.raises(SourceError, match=r"joint_3d\.json: no such file; expected 3D joints"):
        open_annotations(tmp_path, "val")


@pytest.mark.parametrize("given", ["", "annotations", "annotations/train"])
def test_the_root_may_be_the_data_set_its_annotations_or_the_split(given, interhand, reinterhand):
    assert len(open_annotations(interhand / given)) == 4
    assert len(open_annotations(f"interhand:{interhand / given}")) == 4
    assert isinstance(open_annotations(reinterhand), ReInterHandAnnotations)
    assert len(open_annotations(f"reinterhand:{reinterhand}", "test")) == 2


@pytest.mark.parametrize("what", ["MANO_NeuralAnnot", "joint_3d"])
def test_cut_off_files_never_escape_as_another_error(what, interhand, tmp_path):
    folder = tmp_path / "annotations" / "train"
    folder.mkdir(parents=True)
    for path in (interhand / "annotations" / "train").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / f"InterHand2.6M_train_{what}.json"
    whole = path.read_bytes()
    for end in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError, match=r"not readable as JSON .*download it again"):
            InterHandAnnotations(tmp_path)
    for content in (b"\xff\xfe\x00", b"[" * 200_000, b"\x80\x04cos\nsystem\n"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="not readable as JSON"):
            InterHandAnnotations(tmp_path)


OTHER_FORMS = [
    ("MANO_NeuralAnnot", [], "expected an object by capture, got list"),
    ("MANO_NeuralAnnot", {"13": []}, r"\[13\]: expected an object by frame, got list"),
    ("MANO_NeuralAnnot", {"13": {"x": {}}}, r"\[13\]: expected a frame number, got 'x'"),
    ("MANO_NeuralAnnot", {"13": {"1": None}}, r"\[13\]\[1\]: expected an object with right and left, got NoneType"),
    ("MANO_NeuralAnnot", {}, r"no frame with MANO parameters of both hands \(none there\)"),
    ("joint_3d", "text", "expected an object by capture, got str"),
]


@pytest.mark.parametrize(("what", "value", "text"), OTHER_FORMS, ids=range(len(OTHER_FORMS)))
def test_other_forms_are_named(what, value, text, posed, tmp_path):
    with pytest.raises(InputError, match=text):
        InterHandAnnotations(write_interhand(tmp_path, interhand_values(posed) | {what: value}))


def test_wrong_joints_are_named(posed, tmp_path):
    for change, text in (
        ({"world_coord": [[0, 0, 0]] * 41}, r"\[13\]\[9\]\[world_coord\]: expected 126 numbers, got 123"),
        ({"world_coord": None}, r"\[world_coord\]: expected 126 numbers, got None"),
        ({"joint_valid": [1] * 21}, r"\[joint_valid\]: expected 42 numbers, got 21"),
    ):
        values = interhand_values(posed)
        values["joint_3d"]["13"]["9"] |= change
        with pytest.raises(InputError, match=text):
            InterHandAnnotations(write_interhand(tmp_path, values))
    folder = write_reinterhand(tmp_path / "re", posed) / CAPTURE
    write(folder / "orig_fits" / "left" / "Keypoints" / "keypoint-100001.json", [[0, 0, 0]] * 21)
    with pytest.raises(InputError, match=r"keypoint-100001\.json: expected 72 numbers, got 63"):
        ReInterHandAnnotations(tmp_path / "re").joints([0])


def test_a_frame_without_joints_counts_as_fitting(posed, tmp_path, models):
    values = interhand_values(posed)
    del values["joint_3d"]["13"]["21"]
    found = InterHandAnnotations(write_interhand(tmp_path, values), interacting=False)
    assert not found.joints([1]).left.valid.any()
    assert found.select(models).chosen.tolist() == [1, 3]
    values["joint_3d"] = {}
    found = InterHandAnnotations(write_interhand(tmp_path, values), interacting=False)
    with pytest.raises(InputError, match="no joint of the left hand is valid in 4 frames"):
        found.check(models)


def test_wrong_cameras_are_named(posed, tmp_path, reinterhand):
    values = interhand_values(posed)
    del values["camera"]["2"]
    values["camera"]["13"]["camrot"]["400262"] = [1.0] * 8
    found = InterHandAnnotations(write_interhand(tmp_path, values))
    with pytest.raises(InputError, match=r"no capture '2'; there are 13"):
        found.cameras("2")
    with pytest.raises(InputError, match=r"\[13\]\[camrot\]\[400262\]: expected 9 numbers, got 8"):
        found.cameras("13")
    with pytest.raises(InputError, match=f"no capture 'm'; there are {CAPTURE}"):
        ReInterHandAnnotations(reinterhand).cameras("m")


def test_damaged_bytes_never_escape_as_another_error(interhand, tmp_path):
    """Any change of a byte gives the same annotations, others of the right form, or an error of this package."""
    folder = tmp_path / "annotations" / "train"
    folder.mkdir(parents=True)
    for path in (interhand / "annotations" / "train").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(2)
    for what in ("MANO_NeuralAnnot", "joint_3d"):
        path = folder / f"InterHand2.6M_train_{what}.json"
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 3):
                damaged[at] = rng.choice(list(b'{}[]",:0-ena')) if rng.random() < 0.8 else rng.integers(256)
            path.write_bytes(damaged)
            try:
                found = InterHandAnnotations(tmp_path)
            except A2PError:
                continue
            assert all(np.isfinite(hands).all() and hands.shape[1] == 61 for _, hands in found.hands.items())
        path.write_bytes(whole)
