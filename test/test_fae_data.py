"""Crops for the network's training: packed, placed with errors, and their labels held to OpenCV and smplx."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_frames import LENS, drawn, projected
from made_hands import MODELS
from scipy.spatial.transform import Rotation

from a2p_ros.cropping import Crop
from a2p_ros.errors import ConfigError, InputError
from a2p_ros.network.geometry import to_view, union_view
from a2p_ros.training.fae.augment import AugmentConfig, picture, placed, without_hand
from a2p_ros.training.fae.batches import Batch, BatchPlan, Loader, Slots, make_batch
from a2p_ros.training.fae.maps import N_CLASSES, OTHER_HAND, OWN_HAND, crop_maps, metres
from a2p_ros.training.fae.packing import PackConfig, PackedCrops, pack, read_packed
from a2p_ros.training.synthetic.samples import ShardWriter
from a2p_ros.types import Side

COUNT = 26
PACK = PackConfig(edge=96, map_edge=40, empty=1.0)
STILL = AugmentConfig.tracked()
#: Every error that a crop may have, and no changes of its pixels.
MOVED = AugmentConfig(
    colour=0.0, grey=0.0, light=0.0, texture=0.0, blur=0.0, coarse=0.0, noise=0.0, jpeg=0.0, cover=0.0, wrong_side=0.3
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with ShardWriter(folder / f"frames_{shard:05d}.tar") as writer:
            for number in range(shard * COUNT, (shard + 1) * COUNT):
                writer.write(drawn(number, LENS, maps=True))
    return folder


@pytest.fixture(scope="module")
def packed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedCrops:
    folder = tmp_path_factory.mktemp("packed")
    assert list(pack(shards, folder, PACK)) == [1, 2]
    return read_packed(shards, folder, PACK)


def frame_of(packed: PackedCrops, row: int) -> int:
    crop = packed.crops[row]
    return int(crop["shard"]) * COUNT + int(crop["frame"])


def hands(packed: PackedCrops) -> np.ndarray:
    return packed.rows[packed.crops["hand"][packed.rows]]


def moved_batch(packed: PackedCrops, config: AugmentConfig, maps: bool = False) -> tuple[Batch, list[Crop], np.ndarray]:
    """All hands, the crops that their batch is cut by, and their rows: the first one of each slot."""
    rows = hands(packed)
    slots = [(int(row), int(row)) for row in rows]
    batch = make_batch(packed, slots, [np.random.default_rng([5, i]) for i in range(len(rows))], 64, config, maps=maps)
    crops = []
    for i, row in enumerate(rows):
        rng = np.random.default_rng([5, i])
        wrong_side = rng.random() < config.wrong_side
        crops.append(placed(packed.crop_of(int(row)), PACK.margin, 64, rng, config, wrong_side=wrong_side))
    first = Batch(
        *(getattr(batch, name)[:: 1 if name in ("pair", "relative") else 2] for name in Batch.__annotations__)
    )
    return first, crops, rows


def view_by_opencv(crop: Crop) -> np.ndarray:
    """Camera axes -> view of a crop, without the package's camera: the ray by OpenCV, the turn by scipy."""
    x, y = cv2.undistortPoints(np.array([[crop.centre]]), LENS.K, np.array(LENS.d))[0, 0]
    axis = np.cross([0, 0, 1], [x, y, 1])
    along = Rotation.from_rotvec(axis / np.linalg.norm(axis) * math.atan(math.hypot(x, y))).as_matrix()
    turned = Rotation.from_euler("z", -crop.rotation).as_matrix() @ along.T
    return np.diag([-1.0 if crop.mirrored else 1.0, 1, 1]) @ turned


def test_every_hand_is_packed_once_with_its_partner(packed: PackedCrops) -> None:
    rows = hands(packed)
    wanted = sorted((n, right) for n in range(1, 2 * COUNT) for right in both_sides(n))
    assert sorted((frame_of(packed, row), bool(packed.crops["right"][row])) for row in rows) == wanted
    for row in rows:
        partner = int(packed.crops["partner"][row])
        assert (partner >= 0) == (frame_of(packed, row) % 3 != 0)
        if partner >= 0:
            assert frame_of(packed, partner) == frame_of(packed, row)
            assert packed.crops["right"][partner] != packed.crops["right"][row]
    assert len(rows) < len(packed)  # and crops without a hand


def both_sides(number: int) -> list[bool]:
    return [hand.side is Side.RIGHT for _, hand in drawn(number, LENS).hands.items() if hand is not None]


def test_pixels_are_those_of_the_frame_upright_and_mirrored(packed: PackedCrops) -> None:
    for row in hands(packed)[:8]:
        crop = packed.crops[row]
        image = packed.picture(row)
        direct = packed.crop_of(row).extract(drawn(frame_of(packed, row), LENS).image)
        assert np.abs(image.astype(int) - direct).mean() < 6  # two JPEGs lie between
        points = packed.crop_of(row).to_crop(crop["keypoints_px"])
        up = (points[5] + points[13] + 2 * points[9]) / 4 - points[0]
        assert abs(math.atan2(up[0], -up[1])) < 1e-3
        assert packed.crop_of(row).mirrored != crop["right"]
        assert packed.picture(row, reduced=True).shape == (48, 48, 3)


def test_crops_without_a_hand_have_none_in_their_middle(packed: PackedCrops) -> None:
    for row in packed.rows[~packed.crops["hand"][packed.rows]]:
        crop = packed.crop_of(row)
        for _, hand in drawn(frame_of(packed, row), LENS).hands.items():
            if hand is not None:
                away = np.abs(hand.keypoints_px - crop.centre).max(-1)
                assert away.min() > 0.39 * crop.size / PACK.margin


def test_labels_go_with_the_crop_that_was_cut(packed: PackedCrops) -> None:
    batch, crops, rows = moved_batch(packed, MOVED)
    assert 3 < int((~batch.as_assumed).sum()) < len(rows) / 2
    for i, (crop, row) in enumerate(zip(crops, rows, strict=True)):
        number, right = frame_of(packed, row), bool(packed.crops["right"][row])
        hand = drawn(number, LENS).hands[Side.RIGHT if right else Side.LEFT]
        assert hand is not None
        assert bool(batch.as_assumed[i]) == (crop.mirrored != right)
        pixels = projected(hand.joints.astype(float), LENS)
        back = batch.keypoints[i].numpy() @ batch.to_image[i, :, :2].numpy().T + batch.to_image[i, :, 2].numpy()
        np.testing.assert_allclose(back, pixels, atol=0.01)
        inside = (batch.keypoints[i].numpy() + 0.5) * 64 - 0.5
        np.testing.assert_allclose(inside, pixels @ crop.matrix[:, :2].T + crop.matrix[:, 2], atol=0.01)
        view = view_by_opencv(crop)
        np.testing.assert_allclose(batch.joints[i], (hand.joints - hand.joints[0]) @ view.T, atol=2e-4)
        if batch.as_assumed[i]:
            seen = to_view(hand.rotations, hand.joints, pixels, crop, LENS)
            np.testing.assert_allclose(batch.joints[i], seen.joints, atol=2e-4)
            np.testing.assert_allclose(batch.rotations[i], seen.rotations, atol=2e-3)
            np.testing.assert_allclose(batch.keypoints[i], seen.keypoints, atol=1e-4)


def test_rotations_make_the_right_hand_that_the_joints_are(packed: PackedCrops) -> None:
    """Left hands too: their labels are those of a right hand in a mirror."""
    batch, *_ = moved_batch(packed, MOVED)
    keep = batch.as_assumed
    joints = MODELS[Side.RIGHT].joints(batch.betas, batch.rotations, torch.zeros(len(batch), 3))
    np.testing.assert_allclose((joints - joints[:, :1])[keep], batch.joints[keep], atol=1e-3)


def test_the_picture_shows_the_hand_where_the_labels_say(packed: PackedCrops) -> None:
    batch, crops, rows = moved_batch(packed, MOVED)
    for i, (crop, row) in enumerate(zip(crops, rows, strict=True)):
        direct = crop.extract(drawn(frame_of(packed, row), LENS).image)
        assert np.abs(batch.pictures[i].numpy().astype(int) - direct)[8:-8, 8:-8].mean() < 12
    assert batch.pictures.shape == (len(rows), 64, 64, 3)


def test_pairs_carry_the_relative_translation_in_the_view_of_both(packed: PackedCrops) -> None:
    slots = [slot for slot in Slots(packed, 1.0, 0.0).in_order() if packed.crops["partner"][slot[0]] == slot[1]]
    batch = make_batch(packed, slots, [np.random.default_rng(i) for i in range(len(slots))], 64, STILL)
    assert bool(batch.pair.all())
    for i, (left, _) in enumerate(slots):
        frame = drawn(frame_of(packed, left), LENS)
        assert frame.hands.left is not None and frame.hands.right is not None
        assert not packed.crops["right"][left]
        view = union_view(frame.hands.left.keypoints_px, frame.hands.right.keypoints_px, LENS)
        np.testing.assert_allclose(batch.relative[i], view.to_view(frame.relative_translation), atol=1e-4)
        assert float(batch.focal[2 * i]) == pytest.approx(math.sqrt(200 * 205), rel=1e-5)


def test_slots_of_two_frames_are_no_pair(packed: PackedCrops) -> None:
    first, second = (int(row) for row in hands(packed)[[0, 2]])
    batch = make_batch(packed, [(first, second)], [np.random.default_rng(0)], 64, STILL)
    assert not bool(batch.pair[0]) and float(batch.relative.abs().sum()) == 0


def test_maps_lie_on_the_hand(packed: PackedCrops) -> None:
    batch, crops, rows = moved_batch(packed, MOVED, maps=True)
    for i, (crop, row) in enumerate(zip(crops, rows, strict=True)):
        side = Side.RIGHT if packed.crops["right"][row] else Side.LEFT
        frame = drawn(frame_of(packed, row), LENS, maps=True)
        small = Crop(crop.centre, crop.size, crop.rotation, 32, crop.mirrored)
        direct = crop_maps(frame, small, side, 32)
        assert (batch.parts[i].numpy() == direct[0])[3:-3, 3:-3].mean() > 0.8
        assert batch.parts[i].max() < N_CLASSES
        own = batch.parts[i] == OWN_HAND
        away = metres(batch.depth[i])
        assert bool(own.any()) and float(away[own].nanmedian().abs()) < 0.25
        if packed.crops["partner"][row] < 0:
            assert not bool((batch.parts[i] == OTHER_HAND).any())
            assert float(away[own].abs().max()) < 2e-3  # all of it at the wrist's depth


def test_batches_do_not_depend_on_threads_and_processes(packed: PackedCrops) -> None:
    slots, config = Slots(packed, 0.5, 0.2), AugmentConfig()
    whole = next(Loader(packed, slots, BatchPlan(3, 4, False), config, 1).batches({7: 48}))
    parts = [
        next(Loader(packed, slots, BatchPlan(3, 4, False, i, 2), config, workers).batches({7: 48}))
        for i, workers in ((0, 2), (1, 1))
    ]
    for name in Batch.__annotations__:
        assert torch.equal(getattr(whole, name), getattr(Batch.joined(parts), name)), name
    other = next(Loader(packed, slots, BatchPlan(3, 4, False), config, 1).batches({8: 48}))
    assert not torch.equal(whole.pictures, other.pictures)


def test_some_frames_are_kept_for_validation(packed: PackedCrops) -> None:
    training, validation = packed.split()
    assert {frame_of(packed, row) % COUNT for row in validation.rows} == {24}
    assert len(training) + len(validation) == len(packed)
    twice = PackedCrops.joined([packed, packed])
    row = len(packed.crops) + int(hands(packed)[3])
    np.testing.assert_array_equal(twice.picture(row), packed.picture(int(hands(packed)[3])))
    assert twice.crops["partner"][row] - len(packed.crops) == packed.crops["partner"][hands(packed)[3]]


def test_looks_change_pixels_and_nothing_else(packed: PackedCrops) -> None:
    row = int(hands(packed)[0])
    crop = placed(packed.crop_of(row), PACK.margin, 64, np.random.default_rng(0), STILL, wrong_side=False)
    plain = picture(packed, row, crop, np.random.default_rng(1), STILL)
    changed = picture(packed, row, crop, np.random.default_rng(1), AugmentConfig(cover=1.0))
    assert plain.shape == changed.shape == (64, 64, 3) and plain.dtype == changed.dtype == np.uint8
    assert np.abs(plain.astype(int) - changed).mean() > 2


def test_things_stand_in_the_middle_of_crops_without_a_hand(packed: PackedCrops) -> None:
    row = int(packed.rows[~packed.crops["hand"][packed.rows]][0])
    crop = placed(packed.crop_of(row), PACK.margin, 64, np.random.default_rng(0), STILL, wrong_side=False)

    def seen(seed: int, things: float) -> np.ndarray:
        config = dataclasses.replace(STILL, things=things)
        return without_hand(packed, row, crop, int(hands(packed)[0]), np.random.default_rng(seed), config).astype(int)

    changed = np.mean([np.abs(seen(seed, 1.0) - seen(seed, 0.0)).max(-1) > 4 for seed in range(40)], axis=0)
    assert changed[24:40, 24:40].mean() > 0.6 > 0.4 > changed[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    assert not (seen(0, 1.0) == seen(1, 1.0)).all()


def test_damage_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pack the frames with one process first"):
        read_packed(shards, tmp_path, PACK)
    list(pack(shards, tmp_path, PACK))
    with pytest.raises(InputError, match="pack the frames with one process first"):
        read_packed(shards, tmp_path, PackConfig(edge=64, map_edge=40))
    (tmp_path / "frames_00000.jpegs").write_bytes(b"short")
    with pytest.raises(InputError, match=r"frames_00000\.npz: cannot be read .* delete it"):
        read_packed(shards, tmp_path, PACK)


def test_frames_without_hands_teach_nothing(packed: PackedCrops) -> None:
    nothing = packed.rows[~packed.crops["hand"][packed.rows]]
    with pytest.raises(ConfigError, match="expected frames with hands, got none"):
        Slots(PackedCrops(packed.crops, packed.jpegs, packed.maps, nothing, PACK), 0.5, 0.1)
