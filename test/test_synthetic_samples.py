"""Shards of labelled frames: what goes in comes out, and damage is named."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import cv2
import numpy as np
import pytest

from a2p_ros.camera import CameraModel
from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError, SourceError
from a2p_ros.training.synthetic.samples import (
    HAND_RECORD,
    CroppedHand,
    Frame,
    HandLabel,
    ShardWriter,
    count_frames,
    part_id,
    read_frames,
)
from a2p_ros.types import Box, Pair, Side


def label(side: Side, rng: np.random.Generator) -> HandLabel:
    def values(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return HandLabel(
        side,
        values(16, 3, 3),
        values(10),
        values(3),
        values(21, 3),
        values(21, 2),
        rng.random(21) < 0.5,
        Box(1.5, 2.0, 30.25, 20.0),
        0.75,
    )


def frame(key: str, rng: np.random.Generator, sides: tuple[Side, ...]) -> Frame:
    smooth = cv2.resize(rng.integers(0, 256, (3, 4, 3), np.uint8), (40, 24), interpolation=cv2.INTER_CUBIC)
    hands = {side: label(side, rng) for side in sides}
    depth = np.full((24, 40), np.inf, np.float32)
    depth[3:9, 4:20] = 0.5123
    crop = CroppedHand(np.full((16, 16, 3), (200, 40, 90), np.uint8), Crop((10.0, 8.0), 20.0, 0.3, 16, True))
    return Frame(
        key,
        smooth,
        CameraModel(40, 24, 30.0, 31.0, 19.0, 12.0, "plumb_bob", (-0.1, 0.02, 0.001, 0.0)),
        Pair(hands.get(Side.LEFT), hands.get(Side.RIGHT)),
        rng.integers(0, 37, (24, 40)).astype(np.uint8),
        depth,
        {"kind": "test", "seed": 3},
        Pair(crop if Side.LEFT in hands else None, None),
    )


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(4)
    frames = [
        frame("000000", rng, (Side.LEFT, Side.RIGHT)),
        frame("000001", rng, (Side.RIGHT,)),
        frame("000002", rng, ()),
    ]
    path = tmp_path / "shard_00000.tar"
    with ShardWriter(path) as writer:
        for f in frames:
            writer.write(f)
    return path, frames


def test_what_is_written_is_read(written):
    path, frames = written
    assert count_frames(path) == 3
    got = list(read_frames(path.parent, maps=True))
    assert [f.key for f in got] == [f.key for f in frames]
    for mine, theirs in zip(got, frames, strict=True):
        assert mine.camera == theirs.camera and mine.scene == theirs.scene
        assert np.abs(mine.image.astype(int) - theirs.image).mean() < 3
        assert np.array_equal(mine.parts, theirs.parts)
        np.testing.assert_allclose(mine.depth, theirs.depth, atol=5e-5)
        for (_, a), (_, b) in zip(mine.hands.items(), theirs.hands.items(), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.side is b.side and a.box == b.box and a.visible_share == b.visible_share
                for name in ("rotations", "betas", "transl", "joints", "keypoints_px", "visible"):
                    assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert got[0].crops.left.crop == frames[0].crops.left.crop and got[0].crops.right is None
    assert np.abs(got[0].crops.left.image.astype(int) - (200, 40, 90)).max() <= 4
    np.testing.assert_allclose(got[0].relative_translation, got[0].hands.left.joints[0] - got[0].hands.right.joints[0])
    assert got[1].relative_translation is None
    assert next(read_frames([path])).parts is None


def test_a_shard_made_by_hand_with_tarfile_alone_is_read(tmp_path):
    records = np.zeros(1, HAND_RECORD)
    records["right"], records["box"], records["keypoints_px"][0, 8] = True, (1, 2, 3, 4), (7, 5)
    npy = io.BytesIO()
    np.save(npy, records)
    blue = np.zeros((8, 12, 3), np.uint8)
    blue[..., 0] = 250  # OpenCV's order
    about = {
        "camera": {"size": [12, 8], "k": [9, 9, 5.5, 3.5], "distortion_model": "none", "d": []},
        "scene": {},
        "crops": {},
    }
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        for name, data in (
            ("a.jpg", cv2.imencode(".jpg", blue)[1].tobytes()),
            ("a.json", json.dumps(about).encode()),
            ("a.hands.npy", npy.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (got,) = read_frames(tmp_path)
    assert got.hands.left is None and got.hands.right.side is Side.RIGHT
    assert got.hands.right.box == Box(1, 2, 3, 4) and tuple(got.hands.right.keypoints_px[8]) == (7, 5)
    assert got.image[4, 6, 2] > 200 > got.image[4, 6, 0]


def test_the_same_frames_give_the_same_bytes(written, tmp_path):
    path, frames = written
    with ShardWriter(tmp_path / "again" / path.name) as writer:
        for f in frames:
            writer.write(f)
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_an_unfinished_shard_leaves_nothing(written, tmp_path):
    _, frames = written
    with pytest.raises(RuntimeError, match="stopped"), ShardWriter(tmp_path / "new" / "x.tar") as writer:
        writer.write(frames[0])
        raise RuntimeError("stopped")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_cut_off_shard_is_named(written, keep):
    path, _ = written
    # The end of the last member is followed by up to 10 kB of zeros.
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SourceError, match=r"shard_00000\.tar: the shard is damaged.*makes broken shards anew"):
        list(read_frames(path))


def test_damage_inside_is_named(written):
    path, _ = written
    data = bytearray(path.read_bytes())
    at = data.index(b"000001.jpg") + 512
    data[at : at + 64] = bytes(64)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"shard_00000\.tar.*frame 000001: a picture cannot be decoded"):
        list(read_frames(path))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match="no shard"):
        list(read_frames(tmp_path))
    with pytest.raises(SourceError, match="no such shard or folder"):
        list(read_frames(tmp_path / "nowhere"))


def test_keys_with_dots_are_refused(written, tmp_path):
    _, frames = written
    with pytest.raises(InputError, match=r"without dots and slashes, got '1\.5'"), ShardWriter(tmp_path / "y.tar") as w:
        w.write(replace(frames[0], key="1.5"))


def test_numbers_of_parts_do_not_meet():
    numbers = [part_id(side, part) for side in Side for part in range(18)]
    assert numbers == list(range(1, 37))
