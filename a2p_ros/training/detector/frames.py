"""Frames of the engine, packed small for the detector's training: pixels as arrays that are mapped, labels beside them.

A shard is packed once, next to the others; what is there already is not packed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from a2p_ros.config import Checked, setting
from a2p_ros.hand.model import HandModel
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.detector.labels import DIRECTIONS, Hands, outline_of
from a2p_ros.training.packed import Packing, is_for_validation
from a2p_ros.training.synthetic.samples import Frame, HandLabel, count_frames, read_frames
from a2p_ros.types import Image, Pair, Side

#: Changes when packed shards of older versions must not be used.
_VERSION = 1


@dataclass(frozen=True)
class PackConfig(Checked):
    """How large frames are kept."""

    width: int = setting(384, "Widest picture [px].", low=32)
    height: int = setting(288, "Highest picture [px].", low=32)


@dataclass(frozen=True)
class PackedShard:
    """The frames of one shard; hands are indexed left, right.

    ``pixels`` hold each picture at the top left, ``sizes`` its height and width.
    """

    pixels: UInt8[np.ndarray, "n height width 3"]
    sizes: np.ndarray
    there: Bool[np.ndarray, "n 2"]
    outline: Float[np.ndarray, "n 2 32 2"]
    keypoints: Float[np.ndarray, "n 2 21 2"]
    share: Float[np.ndarray, "n 2"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image, Hands]:
        height, width = self.sizes[index]
        there = self.there[index]
        right = np.array([False, True])[there]
        hands = Hands(right, self.outline[index][there], self.keypoints[index][there], self.share[index][there])
        return self.pixels[index, :height, :width], hands


@dataclass(frozen=True)
class PackedFrames:
    """All frames of a training, or those kept for validation."""

    shards: tuple[PackedShard, ...]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image, Hands]:
        shard, row = self.rows[index]
        return self.shards[shard][row]

    @classmethod
    def joined(cls, parts: Sequence[PackedFrames]) -> PackedFrames:
        """The frames of several folders."""
        starts = np.cumsum([0, *(len(part.shards) for part in parts[:-1])])
        rows = [part.rows + (start, 0) for part, start in zip(parts, starts, strict=True)]
        return cls(tuple(shard for part in parts for shard in part.shards), np.concatenate(rows))

    def split(self) -> tuple[PackedFrames, PackedFrames]:
        """Frames for training and for validation."""
        kept = is_for_validation(np.arange(len(self)))
        return PackedFrames(self.shards, self.rows[~kept]), PackedFrames(self.shards, self.rows[kept])


def pack(source: Path, folder: Path, models: Pair[HandModel], config: PackConfig) -> Iterator[int]:
    """Pack the shards of ``source`` into ``folder``; yields how many shards are done.

    Raises SourceError for shards that are missing or damaged.
    """
    return _packing(config).pack(source, folder, partial(_pack_shard, models=models, config=config))


def read_packed(source: Path, folder: Path, config: PackConfig) -> PackedFrames:
    """What `pack` left of the shards of ``source``; raises InputError where it is damaged or not there."""
    shards = _packing(config).read(source, folder, _open_shard)
    rows = np.concatenate([np.stack([np.full(len(s), i), np.arange(len(s))], 1) for i, s in enumerate(shards)])
    return PackedFrames(tuple(shards), rows)


def hands_of(frame: Frame, models: Pair[HandModel]) -> Hands:
    """The labels of a frame's hands, in its own pixels."""
    with single_thread():
        found = [_hand(label, frame, models) for _, label in frame.hands.items() if label is not None]
    return Hands.joined([Hands.none(), *(hand for hand in found if hand is not None)])


def fitted(height: int, width: int, config: PackConfig) -> tuple[int, int]:
    """Height and width of a picture shrunk to fit; one that fits is not enlarged."""
    ratio = min(config.width / width, config.height / height, 1.0)
    return max(round(height * ratio), 1), max(round(width * ratio), 1)


def scaled(hands: Hands, ratio_x: float, ratio_y: float) -> Hands:
    """Labels in a picture that was resized; pixel centres are whole numbers."""
    matrix = np.array([[ratio_x, 0, (ratio_x - 1) / 2], [0, ratio_y, (ratio_y - 1) / 2]])
    return hands.moved(matrix)


def _hand(label: HandLabel, frame: Frame, models: Pair[HandModel]) -> Hands | None:
    height, width = frame.image.shape[:2]
    vertices = label.vertices(models[label.side]).astype(np.float64)
    found = None
    if vertices[:, 2].min() > 0.02:
        found = outline_of(frame.camera.project(vertices), height, width)
    if found is None or not np.isfinite(label.keypoints_px).all():
        return None
    outline, inside = found
    return Hands(
        np.array([label.side is Side.RIGHT]),
        outline[None],
        label.keypoints_px[None].astype(np.float64),
        np.array([label.visible_share * min(inside, 1.0)]),
    )


def _packing(config: PackConfig) -> Packing:
    return Packing(_VERSION, config, (".npy",))


def _pack_shard(path: Path, target: Path, models: Pair[HandModel], config: PackConfig) -> dict[str, np.ndarray]:
    count = count_frames(path)
    pixels = np.lib.format.open_memmap(
        target.with_suffix(".npy"), "w+", np.uint8, (count, config.height, config.width, 3)
    )
    sizes, there, share = np.zeros((count, 2), np.int32), np.zeros((count, 2), bool), np.zeros((count, 2), np.float32)
    outline = np.zeros((count, 2, DIRECTIONS, 2), np.float32)
    keypoints = np.zeros((count, 2, 21, 2), np.float32)
    for i, frame in enumerate(read_frames(path)):
        height, width = sizes[i] = fitted(frame.image.shape[0], frame.image.shape[1], config)
        pixels[i, :height, :width] = cv2.resize(frame.image, (int(width), int(height)), interpolation=cv2.INTER_AREA)
        hands = scaled(hands_of(frame, models), width / frame.image.shape[1], height / frame.image.shape[0])
        side = hands.right.astype(int)
        there[i, side] = True
        outline[i, side], keypoints[i, side], share[i, side] = hands.outline, hands.keypoints, hands.share
    pixels.flush()
    return {"sizes": sizes, "there": there, "outline": outline, "keypoints": keypoints, "share": share}


def _open_shard(target: Path, arrays: Any) -> PackedShard:
    labels = {f.name: arrays[f.name] for f in fields(PackedShard) if f.name != "pixels"}
    return PackedShard(np.load(target.with_suffix(".npy"), mmap_mode="r"), **labels)
