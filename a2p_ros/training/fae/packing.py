"""Frames of the engine, packed as crops for the network's training: JPEGs, small maps, and labels beside.

Each hand is cut once from its frame, upright and with a left one mirrored, wider and finer than the network sees it, so
that every later scale, shift and turn is one warp of a small picture. Crops without a hand are cut beside. A shard is
packed once; what is there already is not packed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from a2p_ros.camera import CameraModel
from a2p_ros.config import Checked, setting
from a2p_ros.cropping import Crop
from a2p_ros.detection.regions import hand_rotation, hand_square
from a2p_ros.errors import InputError
from a2p_ros.training.fae.maps import crop_maps
from a2p_ros.training.fae.views import ray_grid, union_ray
from a2p_ros.training.packed import Packing, is_for_validation
from a2p_ros.training.synthetic.samples import Frame, HandLabel, read_frames
from a2p_ros.types import Image, Side

#: Changes when packed shards of older versions must not be used.
_VERSION = 2

CROP_RECORD = np.dtype(
    [
        ("frame", "<i4"),
        ("hand", "?"),
        ("right", "?"),
        ("partner", "<i4"),
        ("centre", "<f8", (2,)),
        ("size", "<f8"),
        ("turn", "<f8"),
        ("rays", "<f4", (3, 3, 2)),
        ("keypoints_px", "<f4", (21, 2)),
        ("visible", "?", (21,)),
        ("visible_share", "<f4"),
        ("joints", "<f4", (21, 3)),
        ("rotations", "<f4", (16, 3, 3)),
        ("betas", "<f4", (10,)),
        ("union_ray", "<f4", (2,)),
        ("focal", "<f4"),
        ("shard", "<i4"),
        ("start", "<i8"),
        ("length", "<i4"),
        ("map", "<i4"),
    ]
)


@dataclass(frozen=True)
class PackConfig(Checked):
    """How crops are kept."""

    margin: float = setting(1.6, "Edge of a kept crop relative to the hand's square.", low=1.0, high=4.0)
    edge: int = setting(208, "Of the kept crops [px].", low=32, high=1024)
    quality: int = setting(92, "Of the JPEGs.", low=1, high=100)
    map_edge: int = setting(52, "Of the part and depth maps of a kept crop [px]; 0 keeps none.", low=0, high=1024)
    least_share: float = setting(0.1, "Hands of which less is seen are left out.", low=0.0, high=1.0)
    empty: float = setting(0.15, "Crops without a hand for each frame that has hands.", low=0.0, high=1.0)


@dataclass(frozen=True)
class PackedCrops:
    """Crops of several shards. ``crops`` are records (``CROP_RECORD``); ``rows`` are those of them to use.

    ``partner`` is the row of the same frame's other hand, -1 where it is not there. Of the labels, ``joints`` [m] and
    ``rotations`` are in the camera frame, ``keypoints_px`` in the frame's pixels; ``focal`` [px] is the camera's, and
    ``rays`` are `views.ray_grid`.
    """

    crops: np.ndarray
    jpegs: tuple[UInt8[np.ndarray, "bytes"], ...]
    maps: tuple[UInt8[np.ndarray, "n 2 edge edge"], ...]
    rows: Int[np.ndarray, "n"]
    config: PackConfig

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: Sequence[PackedCrops]) -> PackedCrops:
        """The crops of several folders of one configuration."""
        if len({part.config for part in parts}) != 1:
            raise InputError(f"packed crops: expected one configuration, got {[part.config for part in parts]}")
        crops, rows, jpegs, maps = [], [], list[np.ndarray](), list[np.ndarray]()
        count = 0
        for part in parts:
            mine = part.crops.copy()
            mine["shard"] += len(jpegs)
            mine["partner"][mine["partner"] >= 0] += count
            rows.append(part.rows + count)
            count += len(mine)
            crops.append(mine)
            jpegs += part.jpegs
            maps += part.maps
        return cls(np.concatenate(crops), tuple(jpegs), tuple(maps), np.concatenate(rows), parts[0].config)

    def digest(self) -> str:
        """Names the crops and their labels."""
        return hashlib.sha256(self.crops[self.rows].tobytes()).hexdigest()[:16]

    def split(self) -> tuple[PackedCrops, PackedCrops]:
        """Crops for training and for validation; those of one frame stay together."""
        kept = is_for_validation(self.crops["frame"][self.rows])
        return tuple(  # type: ignore[return-value]
            PackedCrops(self.crops, self.jpegs, self.maps, self.rows[which], self.config) for which in (~kept, kept)
        )

    def picture(self, row: int, reduced: bool = False) -> Image:
        """The kept crop, RGB; ``reduced`` to half its edge in a fraction of the time."""
        crop = self.crops[row]
        start = int(crop["start"])
        data = self.jpegs[int(crop["shard"])][start : start + int(crop["length"])]
        bgr = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def map_of(self, row: int) -> UInt8[np.ndarray, "2 edge edge"]:
        """Parts and depth of the kept crop, see ``maps``."""
        crop = self.crops[row]
        return self.maps[int(crop["shard"])][int(crop["map"])]

    def crop_of(self, row: int, resolution: int | None = None) -> Crop:
        """Where the kept crop lies in its frame."""
        crop = self.crops[row]
        return kept_crop(
            crop["centre"],
            float(crop["size"]),
            float(crop["turn"]),
            bool(crop["right"]),
            resolution or self.config.edge,
        )


def kept_crop(centre: Float[np.ndarray, "2"], size: float, turn: float, right: bool, resolution: int) -> Crop:
    """A crop as run time cuts it: a left hand's is mirrored."""
    return Crop((float(centre[0]), float(centre[1])), size, turn, resolution, mirrored=not right)


def pack(source: Path, folder: Path, config: PackConfig) -> Iterator[int]:
    """Pack the shards of ``source`` into ``folder``; yields how many shards are done.

    Raises SourceError for shards that are missing or damaged.
    """
    return _packing(config).pack(source, folder, partial(_pack_shard, config=config))


def read_packed(source: Path, folder: Path, config: PackConfig) -> PackedCrops:
    """What `pack` left of the shards of ``source``; raises InputError where it is damaged or not there."""
    return PackedCrops.joined(_packing(config).read(source, folder, partial(_open_shard, config=config)))


def _packing(config: PackConfig) -> Packing:
    return Packing(_VERSION, config, (".npy", ".jpegs"))


def _pack_shard(path: Path, target: Path, config: PackConfig) -> dict[str, np.ndarray]:
    records: list[np.ndarray] = []
    maps: list[np.ndarray] = []
    start = 0
    with target.with_suffix(".jpegs").open("wb") as jpegs:
        for number, frame in enumerate(read_frames(path, maps=config.map_edge > 0)):
            rng = np.random.default_rng([number, *path.stem.encode()])
            found = _crops(frame, rng, config)
            partners = [i for i, (record, _) in enumerate(found) if record["hand"]]
            for i, (record, kept) in enumerate(found):
                data = cv2.imencode(
                    ".jpg",
                    cv2.cvtColor(kept.extract(frame.image), cv2.COLOR_RGB2BGR),
                    [cv2.IMWRITE_JPEG_QUALITY, config.quality],
                )[1]
                jpegs.write(data.tobytes())
                other = [j for j in partners if j != i and i in partners]
                record["partner"] = len(records) + other[0] - i if other else -1
                record["frame"], record["start"], record["length"] = number, start, len(data)
                record["map"] = -1
                if config.map_edge and record["hand"]:
                    record["map"] = len(maps)
                    maps.append(crop_maps(frame, kept, Side.RIGHT if record["right"] else Side.LEFT, config.map_edge))
                start += len(data)
                records.append(record)
    edge = config.map_edge
    np.save(target.with_suffix(".npy"), np.stack(maps) if maps else np.zeros((0, 2, edge, edge), np.uint8))
    return {"crops": np.array(records, CROP_RECORD) if records else np.zeros(0, CROP_RECORD)}


def _open_shard(target: Path, arrays: Any, config: PackConfig) -> PackedCrops:
    crops = arrays["crops"]
    jpegs = np.memmap(target.with_suffix(".jpegs"), np.uint8, "r")
    maps = np.load(target.with_suffix(".npy"), mmap_mode="r")
    if crops.dtype != CROP_RECORD or len(jpegs) != int(crops["length"].sum()):
        raise ValueError("its parts do not belong together")
    return PackedCrops(crops, (jpegs,), (maps,), np.arange(len(crops)), config)


def _crops(frame: Frame, rng: np.random.Generator, config: PackConfig) -> list[tuple[np.ndarray, Crop]]:
    """Records and places of a frame's hands, then of its crops without one."""
    labels = [label for _, label in frame.hands.items() if label is not None]
    labels = [label for label in labels if np.isfinite(label.keypoints_px).all() and label.joints[:, 2].min() > 0.02]
    kept = [label for label in labels if label.visible_share >= config.least_share]
    union = union_ray(frame.camera, [label.keypoints_px for label in kept])
    out = []
    for label in kept:
        turn = hand_rotation(label.keypoints_px)
        x, y, edge = hand_square(label.keypoints_px, turn)
        if not edge > 4:
            continue
        record, crop = _record(frame.camera, np.array([x, y]), edge * config.margin, turn, label.side, config)
        _label(record, label, union)
        out.append((record, crop))
    wanted = 2 if not labels else int(rng.random() < config.empty)
    for _ in range(wanted):
        place = _empty_place(frame, labels, rng)
        if place is not None:
            centre, edge, turn = place
            side = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
            out.append(_record(frame.camera, centre, edge * config.margin, turn, side, config))
    return out


def _record(
    camera: CameraModel, centre: np.ndarray, size: float, turn: float, side: Side, config: PackConfig
) -> tuple[np.ndarray, Crop]:
    record = np.zeros((), CROP_RECORD)
    record["right"], record["centre"], record["size"], record["turn"] = side is Side.RIGHT, centre, size, turn
    record["partner"], record["focal"] = -1, camera.focal
    crop = kept_crop(centre, size, turn, side is Side.RIGHT, config.edge)
    record["rays"] = ray_grid(camera, crop)
    return record, crop


def _label(record: np.ndarray, label: HandLabel, union: np.ndarray) -> None:
    record["hand"] = True
    for name in ("keypoints_px", "visible", "visible_share", "joints", "rotations", "betas"):
        record[name] = getattr(label, name)
    record["union_ray"] = union


def _empty_place(
    frame: Frame, labels: list[HandLabel], rng: np.random.Generator
) -> tuple[np.ndarray, float, float] | None:
    """Centre, edge [px] and turn [rad] of a square without a hand in its middle; None where none is found."""
    height, width = frame.image.shape[:2]
    for _ in range(4):
        edge = float(np.exp(rng.uniform(np.log(0.15), np.log(0.9)))) * height
        centre = rng.uniform(0, (width, height))
        away = [np.abs(label.keypoints_px - centre).max(-1).min() for label in labels]
        if min(away, default=np.inf) > 0.4 * edge:
            return centre, edge, float(rng.normal(0, 0.6))
    return None
