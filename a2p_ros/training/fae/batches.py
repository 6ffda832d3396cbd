"""Batches: pictures of crops and what the network should answer, all labels in the view of the crop that was cut.

A batch is made of slots of two crops: a left and a right hand of one frame, or any two crops. It follows from
(seed, step, slot) alone, whatever the number of processes and threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from a2p_ros.cropping import Crop
from a2p_ros.errors import ConfigError
from a2p_ros.training.fae.augment import AugmentConfig, between, picture, placed, without_hand
from a2p_ros.training.fae.maps import warped_maps
from a2p_ros.training.fae.packing import PackedCrops
from a2p_ros.training.fae.views import labels_in_view, relative_in_view

#: Edge of the part and depth maps that teachers learn [px].
MAP_EDGE = 32


@dataclass(frozen=True)
class Batch:
    """Crops and labels; crops 2i and 2i + 1 are a frame's left and right hand where ``pair[i]``.

    ``hand``: there is one. ``as_assumed``: the crop shows it as a right hand. ``learns``: both, so that labels hold.
    Labels are those of a right hand in crop view: ``keypoints`` [crop edges, 0 = centre], ``joints`` [m] and
    ``rotations``; ``to_image`` takes keypoints to the pixels of the frame, whose camera has ``focal`` [px].
    ``relative`` is left wrist minus right wrist [m] in the view of the union box. ``parts`` and ``depth`` are maps
    (``maps``), empty where they were not asked for.
    """

    pictures: UInt8[Tensor, "n r r 3"]
    hand: Bool[Tensor, "n"]
    as_assumed: Bool[Tensor, "n"]
    keypoints: Float[Tensor, "n 21 2"]
    joints: Float[Tensor, "n 21 3"]
    rotations: Float[Tensor, "n 16 3 3"]
    betas: Float[Tensor, "n 10"]
    to_image: Float[Tensor, "n 2 3"]
    focal: Float[Tensor, "n"]
    pair: Bool[Tensor, "slots"]
    relative: Float[Tensor, "slots 3"]
    parts: UInt8[Tensor, "n edge edge"]
    depth: UInt8[Tensor, "n edge edge"]

    @property
    def learns(self) -> Bool[Tensor, "n"]:
        """Crops whose pose labels hold."""
        return self.hand & self.as_assumed

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Batch]) -> Batch:
        """Several batches as one."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class Slots:
    """Which crops a slot holds. ``pairs`` is the share of slots with both hands of a frame."""

    def __init__(self, packed: PackedCrops, pairs: float, empty: float) -> None:
        crops = packed.crops[packed.rows]
        there = set(packed.rows.tolist())
        paired = np.array([int(p) in there for p in crops["partner"]], bool)
        self._left = packed.rows[crops["hand"] & paired & ~crops["right"]]
        self._partner = packed.crops["partner"]
        self._single = packed.rows[crops["hand"] & ~paired]
        self._empty = packed.rows[~crops["hand"]]
        hands = packed.rows[crops["hand"]]
        if len(hands) == 0:
            raise ConfigError("training data: expected frames with hands, got none; make some with `a2p synth`")
        if len(self._single) == 0:
            self._single = hands
        self._pairs = pairs if len(self._left) else 0.0
        self._empty_share = min(empty / max(1 - self._pairs, 1e-6), 1.0) if len(self._empty) else 0.0

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Rows of a slot: a left hand and its partner, or any two."""
        if rng.random() < self._pairs:
            left = int(self._left[rng.integers(len(self._left))])
            return left, int(self._partner[left])
        first, second = (self._any(rng) for _ in range(2))
        return first, second

    def in_order(self) -> list[tuple[int, int]]:
        """All crops once: the pairs, then the others by twos (the last one twice where they are odd)."""
        pairs = [(int(row), int(self._partner[row])) for row in self._left]
        single = [int(row) for row in (*self._single, *self._empty)]
        return pairs + list(itertools.zip_longest(single[::2], single[1::2], fillvalue=single[-1]))

    def _any(self, rng: np.random.Generator) -> int:
        rows = self._empty if rng.random() < self._empty_share else self._single
        return int(rows[rng.integers(len(rows))])


def make_batch(
    packed: PackedCrops,
    slots: list[tuple[int, int]],
    rngs: list[np.random.Generator],
    resolution: int,
    config: AugmentConfig,
    *,
    maps: bool = False,
) -> Batch:
    """The crops of some slots, each slot with its own generator, at ``resolution`` [px]."""
    rows = np.array([row for slot in slots for row in slot])
    crops, pictures, pairs_of_maps = list[Crop](), list[np.ndarray](), list[np.ndarray]()
    for slot, rng in zip(slots, rngs, strict=True):
        # Both or none: a pair of which one is mirrored wrongly would have no relative translation.
        wrong_side = rng.random() < config.wrong_side
        for row in slot:
            kept = packed.crop_of(row)
            crop = placed(kept, packed.config.margin, resolution, rng, config, wrong_side=wrong_side)
            crops.append(crop)
            if packed.crops["hand"][row]:
                pictures.append(picture(packed, row, crop, rng, config))
            else:
                other = int(packed.rows[rng.integers(len(packed))])
                pictures.append(without_hand(packed, row, crop, other, rng, config))
            if maps:
                pairs_of_maps.append(_maps(packed, row, crop))
    records = packed.crops[rows]
    as_assumed = np.array([crop.mirrored for crop in crops]) != records["right"]
    labels = labels_in_view(records, crops)
    partner = records["partner"][::2] == rows[1::2]
    left, right = records[::2], records[1::2]
    pair = partner & left["hand"] & ~left["right"] & as_assumed[::2] & as_assumed[1::2]
    relative = relative_in_view(left["joints"][:, 0] - right["joints"][:, 0], left["union_ray"])
    both = np.stack(pairs_of_maps) if maps else np.zeros((len(rows), 2, 0, 0), np.uint8)
    values = (
        np.stack(pictures),
        records["hand"],
        as_assumed,
        labels.keypoints,
        labels.joints,
        labels.rotations,
        records["betas"],
        labels.to_image,
        records["focal"],
        pair,
        np.where(pair[:, None], relative, 0),
        both[:, 0],
        both[:, 1],
    )
    return Batch(*(_tensor(value) for value in values))


def _tensor(value: np.ndarray) -> Tensor:
    dtype = np.float32 if value.dtype == np.float64 else value.dtype
    return torch.from_numpy(np.ascontiguousarray(value, dtype))


def _maps(packed: PackedCrops, row: int, crop: Crop) -> UInt8[np.ndarray, "2 edge edge"]:
    if packed.crops["map"][row] < 0:
        return np.zeros((2, MAP_EDGE, MAP_EDGE), np.uint8)
    kept = packed.crop_of(row, packed.config.map_edge)
    small = Crop(crop.centre, crop.size, crop.rotation, MAP_EDGE, crop.mirrored)
    return warped_maps(packed.map_of(row), between(kept, small), MAP_EDGE)


@dataclass(frozen=True)
class BatchPlan:
    """What decides the batches of a training, beside the step."""

    seed: int
    slots: int
    maps: bool
    process: int = 0
    processes: int = 1

    def rngs(self, step: int) -> list[np.random.Generator]:
        """Generators of this process's slots at a step."""
        count = max(self.slots // self.processes, 1)
        return [np.random.default_rng([self.seed, step, self.process * count + i]) for i in range(count)]


class Loader:
    """Makes the batches of the coming steps while one is learnt.

    Args:
        packed, slots, plan, config: what they are made of.
        workers: threads.
        ahead: batches that are in the making.
    """

    def __init__(
        self,
        packed: PackedCrops,
        slots: Slots,
        plan: BatchPlan,
        config: AugmentConfig,
        workers: int,
        ahead: int = 2,
    ) -> None:
        self._packed, self._slots, self._plan, self._config = packed, slots, plan, config
        self._workers, self._ahead = workers, ahead

    def batches(self, resolutions: dict[int, int]) -> Iterator[Batch]:
        """The batches of the steps that are the keys of ``resolutions`` [px], in their order."""
        steps = iter(resolutions.items())
        with ThreadPoolExecutor(self._workers) as pool:
            coming = [self._begin(pool, *item) for item in itertools.islice(steps, self._ahead)]
            while coming:
                parts = [future.result() for future in coming.pop(0)]
                coming += [self._begin(pool, *item) for item in itertools.islice(steps, 1)]
                yield Batch.joined(parts)

    def _begin(self, pool: ThreadPoolExecutor, step: int, resolution: int) -> list[Future[Batch]]:
        rngs = self._plan.rngs(step)
        size = -(-len(rngs) // self._workers)
        chunks = [rngs[i : i + size] for i in range(0, len(rngs), size)]
        return [pool.submit(self._make, chunk, resolution) for chunk in chunks]

    def _make(self, rngs: list[np.random.Generator], resolution: int) -> Batch:
        cv2.setNumThreads(1)  # each of these threads is one already
        slots = [self._slots.draw(rng) for rng in rngs]
        return make_batch(self._packed, slots, rngs, resolution, self._config, maps=self._plan.maps)
