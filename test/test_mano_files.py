"""Conversion of MANO's pickles: files of the true form are read, and nothing in any file runs."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_geometry import random_rotations

from a2p_ros.errors import HandModelError
from a2p_ros.hand import betas_for_length, hand_length, load_hand_models
from a2p_ros.hand.files import MANO_TIPS, read_arrays
from a2p_ros.hand.mano_files import convert_mano, has_sign_error, read_mano
from a2p_ros.types import Side

HERE = Path(__file__).parent
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]


def stand_in(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays with the shapes, types and tree of a right MANO hand and random contents."""
    rng = np.random.default_rng(seed)
    template = rng.normal(0, 0.03, (778, 3))
    joints = np.zeros((16, 3))
    joints[0] = [0.0957, 0.0064, 0.0062]
    joints[1:, 0] = np.tile([0.0, -0.03, -0.05], 5)
    joints[1:, 2] = np.repeat([0.025, 0.0, -0.045, -0.025, 0.05], 3)
    regressor = np.zeros((16, 778))
    for row in regressor:
        row[rng.choice(778, 6, replace=False)] = 1 / 6
    weights = rng.uniform(size=(778, 16)) ** 8
    return {
        "v_template": template,
        "shapedirs": rng.normal(0, 0.003, (778, 3, 10)),
        "posedirs": rng.normal(0, 0.001, (778, 3, 135)),
        "J_regressor": regressor,
        "J": joints,
        "weights": weights / weights.sum(1, keepdims=True),
        "f": rng.integers(0, 778, (1538, 3)).astype(np.uint32),
        "kintree_table": np.array([PARENTS, range(16)]).astype(np.uint32),
        "hands_components": rng.normal(size=(45, 45)),
        "hands_mean": rng.normal(0, 0.2, 45),
    }


def mirrored(arrays: dict[str, np.ndarray], sign_error: bool) -> dict[str, np.ndarray]:
    flip = np.array([-1.0, 1.0, 1.0])
    shapedirs = arrays["shapedirs"].copy()
    if not sign_error:
        shapedirs[:, 0, :] *= -1
    return {
        **arrays,
        "v_template": arrays["v_template"] * flip,
        "J": arrays["J"] * flip,
        "shapedirs": shapedirs,
    }


def write_pickle(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    npz = path.with_suffix(".input.npz")
    np.savez(npz, **arrays)
    subprocess.run([sys.executable, str(HERE / "mano_pickles.py"), str(path), str(npz)], check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mano")
    write_pickle(folder / "MANO_RIGHT.pkl", stand_in())
    write_pickle(folder / "MANO_LEFT.pkl", mirrored(stand_in(), sign_error=True))
    return folder


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted")
    convert_mano(files / "MANO_RIGHT.pkl", files / "MANO_LEFT.pkl", out)
    return out


def test_stand_ins_have_the_form_of_the_real_files(files):
    names = set()
    for opcode, argument, _ in pickletools.genops((files / "MANO_RIGHT.pkl").read_bytes()):
        assert opcode.proto <= 2 and opcode.name not in ("BINUNICODE", "BINBYTES")
        if opcode.name == "GLOBAL":
            names.add(argument)
    assert names == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
        "scipy.sparse.csc csc_matrix",
        "chumpy.ch Ch",
        "chumpy.reordering Select",
        "__builtin__ set",
    }


def test_every_array_arrives_unchanged(converted):
    arrays = read_arrays(converted / "MANO_RIGHT.npz")
    for name, expected in stand_in().items():
        assert np.allclose(arrays[name], expected, atol=1e-15), name
    assert arrays["f"].dtype == np.uint32
    assert tuple(arrays["tip_vertices"]) == MANO_TIPS == (745, 317, 444, 556, 673)


def test_the_left_hands_sign_error_is_corrected(converted):
    left = read_arrays(converted / "MANO_LEFT.npz")
    assert np.allclose(left["shapedirs"], mirrored(stand_in(), sign_error=False)["shapedirs"])


def test_a_left_hand_without_the_error_is_left_alone(files, tmp_path):
    good = mirrored(stand_in(), sign_error=False)
    convert_mano(files / "MANO_RIGHT.pkl", write_pickle(tmp_path / "l.pkl", good), tmp_path / "out")
    assert np.allclose(read_arrays(tmp_path / "out" / "MANO_LEFT.npz")["shapedirs"], good["shapedirs"])
    assert not has_sign_error(good["shapedirs"], stand_in()["shapedirs"])


@pytest.mark.parametrize("side", [Side.LEFT, Side.RIGHT])
def test_converted_files_load_here_and_in_smplx_and_agree(converted, side):
    smplx = pytest.importorskip("smplx")
    models = load_hand_models(converted)
    model = models[side]
    assert model.name == "mano" and model.n_vertices == 778
    axis_angle, matrices = (
        torch.as_tensor(a, dtype=torch.float32) for a in random_rotations(np.random.default_rng(1), 6)
    )
    betas, transl = torch.randn(6, 10), torch.randn(6, 3)
    peer = smplx.MANO(
        str(converted), is_rhand=side is Side.RIGHT, use_pca=False, flat_hand_mean=True, batch_size=6, ext="npz"
    )
    with torch.no_grad():
        theirs = peer(
            betas=betas, global_orient=axis_angle[:, 0], hand_pose=axis_angle[:, 1:].flatten(1), transl=transl
        )
    ours = model.forward(betas, matrices, transl)
    assert (ours.vertices - theirs.vertices).abs().max() < 1e-5


def test_the_length_of_a_mano_hand_can_be_set(converted):
    model = load_hand_models(converted).right
    now = hand_length(model, torch.zeros(1, 10)).item()
    solved = betas_for_length(model, torch.zeros(10), now * 1.05)
    assert hand_length(model, solved[None]).item() == pytest.approx(now * 1.05, abs=1e-4)


def test_swapped_files_are_named(files, tmp_path):
    with pytest.raises(HandModelError, match=r"expected a right hand, got a left one; are the files swapped\?"):
        convert_mano(files / "MANO_LEFT.pkl", files / "MANO_RIGHT.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_when_one_file_is_bad(files, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"")
    with pytest.raises(HandModelError):
        convert_mano(files / "MANO_RIGHT.pkl", tmp_path / "bad.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_says_where_mano_is_obtained(tmp_path):
    with pytest.raises(HandModelError, match=r"no such file.*mano\.is\.tue\.mpg\.de"):
        read_mano(tmp_path / "MANO_RIGHT.pkl")


class Runs:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(witness: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle that would create ``witness``, the global it should be refused for)."""
    command = f"touch {witness}"
    code = f"open({str(witness)!r}, 'w')"
    array = np.zeros(3)
    hidden = {"v_template": array, "shapedirs": [{"x": (1, Runs(os.system, command))}]}
    found = {
        "os.system": (pickle.dumps(Runs(os.system, command), 2), "posix.system"),
        "eval": (pickle.dumps(Runs(eval, code), 2), "__builtin__.eval"),
        "exec, protocol 4": (pickle.dumps(Runs(exec, code), 4), "builtins.exec"),
        "getattr": (pickle.dumps(Runs(getattr, array, "tofile"), 2), "__builtin__.getattr"),
        "open": (pickle.dumps(Runs(os.open, str(witness), os.O_CREAT), 2), "posix.open"),
        "nested": (pickle.dumps(hidden, 2), "posix.system"),
        "subprocess": (pickle.dumps(Runs(subprocess.Popen, ["touch", str(witness)]), 4), "subprocess.Popen"),
        "numpy function": (pickle.dumps(Runs(np.save, str(witness), array), 2), "numpy.save"),
        "numpy.load": (pickle.dumps(Runs(np.load, str(witness)), 2), "numpy.load"),
        "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0bsys.modules\x93.", "numpy.sys.modules"),
        "objects in an array": (pickle.dumps(np.array([Runs(os.system, command)], dtype=object), 2), "posix.system"),
        "protocol 0": (b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.", "os.system"),
        "INST": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"),
    }
    return found


ATTACKS = tuple(attacks(Path("x")))


@pytest.mark.parametrize("name", ATTACKS)
def test_malicious_pickles_are_refused_and_nothing_runs(name, tmp_path):
    witness, path = tmp_path / "witness", tmp_path / "MANO_RIGHT.pkl"
    raw, asked_for = attacks(witness)[name]
    path.write_bytes(raw)
    with pytest.raises(HandModelError, match=re.escape(f"it asks for {asked_for}, which no MANO file needs")):
        read_mano(path)
    assert not witness.exists()


def test_the_attacks_do_run_in_an_ordinary_unpickler(tmp_path):
    pickle.loads(attacks(tmp_path / "witness")["os.system"][0])
    assert (tmp_path / "witness").exists()


def test_a_file_cannot_change_the_reader(tmp_path, files):
    """BUILD on the classes themselves: it fails, and the next file is read as ever."""
    for state in (b"}S'__setstate__'\nNs", b"(N}S'kind'\nS'csc'\nst"):
        path = tmp_path / "x.pkl"
        path.write_bytes(b"\x80\x02cchumpy.ch\nCh\n" + state + b"b.")
        with pytest.raises(HandModelError, match="not a readable pickle"):
            read_mano(path)
    assert read_mano(files / "MANO_RIGHT.pkl")["v_template"].shape == (778, 3)


def with_value(name: str, value: object) -> bytes:
    """A MANO dictionary as Python 3 would pickle it, with one entry replaced."""
    contents = {**stand_in(), name: value}
    return pickle.dumps(contents, 2)


def test_a_dictionary_of_plain_arrays_pickled_by_python_3_is_read_too(tmp_path):
    for protocol in (2, 4):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(pickle.dumps(stand_in(), protocol))
        assert np.array_equal(read_mano(path)["weights"], stand_in()["weights"])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("weights", np.zeros((3, 16)), r"weights: expected shape \(778, 16\), got \(3, 16\)"),
        ("v_template", np.zeros((1159, 3)), r"v_template: expected \(778, 3\), got \(1159, 3\)"),
        ("posedirs", np.array([None, {}], dtype=object), r"posedirs: expected an array of numbers, got dtype 'O8'"),
        ("f", np.array(["a"]), r"f: expected an array of numbers, got dtype 'U1'"),
        ("J", np.zeros(2, [("a", "f4")]), r"J: expected an array of numbers, got dtype 'V4'"),
        ("J", [1.0, 2.0], "J: expected an array, got list"),
        ("J", np.full((16, 3), np.inf), "J holds values that are not finite"),
        ("kintree_table", np.zeros((2, 16), int), "kintree_table is not that of a MANO hand"),
        ("f", np.full((10, 3), 778), r"f: expected vertices 0 to 777, got 778 to 778"),
        ("J_regressor", {"data": 1}, "J_regressor: expected an array, got dict"),
    ],
)
def test_wrong_contents_are_named(name, value, text, tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(with_value(name, value))
    with pytest.raises(HandModelError, match=text):
        read_mano(path)


def hand_made(numbers: str, shape: str, raw: bytes) -> bytes:
    """A dictionary whose every entry is one array, in opcodes: dtype ``numbers``, any shape, any bytes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape.encode()
        + b"cnumpy\ndtype\n(S'"
        + numbers.encode()
        + b"'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nT"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )
    names = [*stand_in()]
    return b"\x80\x02}(" + b"".join(b"S'" + n.encode() + b"'\n" + array for n in names) + b"u."


@pytest.mark.parametrize(
    ("numbers", "shape", "raw", "text"),
    [
        ("f8", "(I778\nI3\nt", b"\0" * 16, r"16 bytes do not make float64 of shape \(778, 3\)"),
        ("f8", "(I-1\nI-2\nt", b"\0" * 16, r"do not make float64 of shape \(-1, -2\)"),
        ("f8", "(I99999999999\nt", b"\0" * 16, r"16 bytes do not make float64 of shape \(99999999999,\)"),
        ("f8", "N", b"\0" * 16, "a damaged array"),
        ("f16", "(I1\nt", b"\0" * 16, "expected an array of numbers, got dtype 'f16'"),
    ],
)
def test_arrays_that_lie_about_themselves_are_refused(numbers, shape, raw, text, tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(hand_made(numbers, shape, raw))
    with pytest.raises(HandModelError, match=text):
        read_mano(path)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not a readable pickle"),
        (b"this is no pickle", "not a readable pickle"),
        (b"PK\x03\x04 a zip file", "not a readable pickle"),
        (pickle.dumps([1, 2], 2), "expected the dictionary of a MANO hand, got list"),
        (pickle.dumps({}, 2), "no v_template, shapedirs, posedirs, J_regressor, J, weights"),
        (b"\x80\x02Pid\n.", "refers to objects outside the file"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "more than 10000 parts"),
        (b"\x80\x02" + b")" * 20_000 + b".", "more than 10000 parts"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "not a readable pickle"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "not a readable pickle"),
    ],
)
def test_what_is_not_a_mano_pickle_is_refused(raw, text, tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(raw)
    with pytest.raises(HandModelError, match=text):
        read_mano(path)


def test_truncated_files_are_refused(files, tmp_path):
    whole = (files / "MANO_RIGHT.pkl").read_bytes()
    for end in np.linspace(1, len(whole) - 2, 25).astype(int):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(whole[:end])
        with pytest.raises(HandModelError):
            read_mano(path)


def test_damaged_bytes_never_escape_as_another_error(files, tmp_path):
    whole = (files / "MANO_RIGHT.pkl").read_bytes()
    structure = [position for _, _, position in pickletools.genops(whole)]
    rng = np.random.default_rng(5)
    path = tmp_path / "MANO_RIGHT.pkl"
    for _ in range(150):
        damaged = bytearray(whole)
        at = int(rng.choice(structure)) + int(rng.integers(0, 6))
        damaged[min(at, len(damaged) - 1)] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            read_mano(path)
        except HandModelError:
            continue


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(HandModelError, match="expected a MANO file of about 4 MB, got 5120 MiB"):
        read_mano(path)
