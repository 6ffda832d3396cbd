"""Training data of the diffusion model: shards of (clean pair, penetrating condition), made once and kept.

A shard holds the tries at one kind of interaction and every condition made of them. It follows from its seed alone,
so a run that was cut off goes on where it stopped, and any number of processes make the same data.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from a2p_ros.config import Checked, setting
from a2p_ros.errors import ConfigError, InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.representation import raw, wrists
from a2p_ros.training.annotations import annotated_pairs
from a2p_ros.training.conditions import Conditions, clean_conditions, fit_conditions, noise_conditions
from a2p_ros.training.interaction_kinds import ANYWHERE, HELD_OUT, KINDS, MEETING
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Pair

#: What a condition is: the clean pair itself, a noisy one, an output of the keypoint fit, or of the network.
SOURCES = ("clean", "noise", "fit", "network")
#: Pairs of vertices that are kept of a contact, and how near they are [m].
CONTACTS, TOUCHING = 12, 0.004
TRAINING_KINDS = tuple(kind for kind in KINDS if kind not in HELD_OUT)
_CHUNK = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataConfig(Checked):
    """How much is made, and what of."""

    seed: int = setting(1, "Of everything random.", low=0, high=2**31)
    shards: int = setting(100, "Shards, each of one of the kinds in turn; every 19th is kept for validation.", low=2)
    anywhere: int = setting(60, "Further shards of any place on any place; every 19th for validation.", low=0)
    meeting: int = setting(100, "Further shards of hands of any shape that meet anywhere; every 19th too.", low=0)
    tries: int = setting(32, "Tries at a clean pair in a shard; about nine of ten succeed.", low=1, high=1000)
    noisy: int = setting(4, "Noisy conditions of each clean pair.", low=0, high=100)
    fitted: int = setting(3, "Tries at a condition by the keypoint fit for each clean pair.", low=0, high=100)
    least_noise: float = setting(0.002, "MPJPE of the mildest noise [m].", low=0.0001, high=0.05)
    most_noise: float = setting(0.012, "MPJPE of the strongest noise [m].", low=0.0001, high=0.05)


@dataclass(frozen=True)
class PairData:
    """Clean pairs and conditions as numbers before normalisation, and what else is known of each.

    ``place`` is where the condition's right wrist is in the camera frame: its rotation, row by row, and position [m].
    ``contacts`` are vertices (left, right) that touch in the clean pair, -1 where there are fewer.
    """

    clean: Float[Tensor, "samples 209"]
    condition: Float[Tensor, "samples 209"]
    place: Float[Tensor, "samples 12"]
    rays: Float[Tensor, "samples 2 21 2"]
    confidence: Float[Tensor, "samples 2 21"]
    contacts: Int[Tensor, "samples 12 2"]
    source: Int[Tensor, "samples"]

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: Tensor | slice) -> PairData:
        return PairData(*(getattr(self, name)[index] for name in FIELDS))

    @classmethod
    def empty(cls) -> PairData:
        """Of no pair."""
        none = torch.zeros(0)
        return cls(
            clean=none.reshape(0, 209),
            condition=none.reshape(0, 209),
            place=none.reshape(0, 12),
            rays=none.reshape(0, 2, 21, 2),
            confidence=none.reshape(0, 2, 21),
            contacts=none.long().reshape(0, CONTACTS, 2),
            source=none.long(),
        )

    @classmethod
    def joined(cls, parts: list[PairData]) -> PairData:
        """One of several."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in FIELDS))


FIELDS = tuple(f.name for f in dataclasses.fields(PairData))


def numbers(
    generator: InteractionGenerator, truth: HandPairs, condition: HandPairs, seen: ImageEvidence, source: int
) -> PairData:
    """What is learnt from conditions and the clean pairs behind them, both in the camera frame."""
    models = generator.models
    place = torch.cat([condition.rotations.right[:, 0].flatten(1), wrists(models, condition).right], 1)
    return PairData(
        raw(models, truth),
        raw(models, condition),
        place,
        seen.rays,
        seen.confidence,
        touching_vertices(generator.vertices(truth)),
        torch.full((len(truth),), source),
    )


def touching_vertices(vertices: Pair[Tensor]) -> Int[Tensor, "batch 12 2"]:
    """Up to twelve pairs (left, right) of vertices that touch, spread evenly over all that do; -1 for none."""
    out = torch.full((len(vertices.left), CONTACTS, 2), -1)
    for i, (left, right) in enumerate(zip(vertices.left, vertices.right, strict=True)):
        apart = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, partner = apart.min(1)
        rows = (nearest < TOUCHING).nonzero()[:, 0]
        if len(rows):
            rows = rows[torch.linspace(0, len(rows) - 1, CONTACTS).round().long()]
            out[i] = torch.stack([rows, partner[rows]], 1)
    return out


class Shard(NamedTuple):
    """What one shard is made of."""

    name: str
    kind: str
    seed: int
    validation: bool

    def path(self, folder: Path) -> Path:
        """Where it is kept."""
        return folder / f"{self.name}.safetensors"


def shards_of(config: DataConfig) -> list[Shard]:
    """All shards of a configuration."""
    # 19 shares no factor with the number of kinds: nineteen times as many shards as kinds validate on all of them.
    seed = config.seed * 1_000_003
    named = [
        Shard(f"shard_{i:05d}", TRAINING_KINDS[i % len(TRAINING_KINDS)], seed + i, i % 19 == 0)
        for i in range(config.shards)
    ]
    return named + [
        Shard(f"{kind}_{i:05d}", kind, seed + offset + i, i % 19 == 0)
        for kind, count, offset in ((ANYWHERE, config.anywhere, 500_000), (MEETING, config.meeting, 700_000))
        for i in range(count)
    ]


def make_shard(config: DataConfig, shard: Shard, generator: InteractionGenerator) -> tuple[PairData, int]:
    """A shard's data, and of how many clean pairs they were made."""
    tried, kept = generator.attempt(shard.kind, config.tries, torch.Generator().manual_seed(shard.seed))
    clean = tried[kept]
    if len(clean) == 0:
        raise InputError(f"{shard.name}: none of {config.tries} tries at {shard.kind} touches without penetrating")
    rng = torch.Generator().manual_seed(shard.seed + 2**40)
    return conditions_of(config, clean, generator, rng), len(clean)


def conditions_of(
    config: DataConfig, clean: HandPairs, generator: InteractionGenerator, rng: torch.Generator
) -> PairData:
    """Every condition made of clean pairs, and the clean pairs themselves."""
    made: list[tuple[Conditions, int]] = [(clean_conditions(generator.models, clean, rng), 0)]
    for i in range(config.noisy):
        span = config.most_noise - config.least_noise
        # Spread evenly, one draw in each part of the range.
        level = config.least_noise + span * (i + float(torch.rand((), generator=rng))) / config.noisy
        made.append((noise_conditions(generator, clean, rng, level), 1))
    made += [(fit_conditions(generator, clean, rng), 2) for _ in range(config.fitted)]
    return PairData.joined(
        [numbers(generator, c.truth, c.condition, c.evidence(), source) for c, source in made if len(c)]
    )


def make_data(config: DataConfig, folder: Path, hand_model: str, workers: int) -> Iterator[int]:
    """Make the shards that are missing, yielding how many there are after each one.

    Raises ConfigError when the folder holds data of another configuration.
    """
    recipe = {name: getattr(config, name) for name in ("seed", "tries", "noisy", "fitted", "least_noise", "most_noise")}
    recipe["hand_model"] = load_hand_models(hand_model).left.name
    claim(folder, recipe)
    shards = shards_of(config)
    missing = [shard for shard in shards if not shard.path(folder).exists()]
    there = len(shards) - len(missing)
    yield there
    if not missing:
        return
    for count in in_processes(
        workers, partial(_prepare, hand_model), [partial(_write, config, folder, s) for s in missing]
    ):
        yield there + count


def claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Say in a folder what its shards are made of; raises ConfigError where it holds those of another recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "recipe.json"
    if note.exists() and (found := json.loads(note.read_text())) != recipe:
        raise ConfigError(f"{folder} holds data made as {found}, not as {recipe}; choose another folder, or empty it")
    note.write_text(json.dumps(recipe))


def in_processes(workers: int, prepare: Callable[[], None], jobs: list[Callable[[], None]]) -> Iterator[int]:
    """Run jobs in processes that ``prepare`` themselves, yielding how many are done after each one."""
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=prepare) as pool:
        for count, done in enumerate(as_completed([pool.submit(job) for job in jobs]), 1):
            done.result()
            yield count


def read_data(config: DataConfig, folder: Path) -> tuple[PairData, PairData, dict[str, int]]:
    """Training and validation data, mirror images among them, and the number of clean pairs of each kind."""
    parts: tuple[list[PairData], list[PairData]] = ([], [])
    kinds: Counter[str] = Counter()
    for shard in shards_of(config):
        path = shard.path(folder)
        data, of_shard = load_shard(path)
        kinds.update(of_shard)
        parts[shard.validation].append(data)
    training, validation = (PairData.joined(p) for p in parts)
    return training, validation, dict(kinds)


def save_shard(path: Path, data: PairData, kinds: dict[str, int]) -> None:
    """Write a shard, which has its name once it is complete; ``kinds`` are the clean pairs of each kind."""
    unfinished = path.with_suffix(".part")
    tensors = {name: getattr(data, name).contiguous() for name in FIELDS}
    save_file(tensors, unfinished, metadata={"kinds": json.dumps(kinds)})
    unfinished.rename(path)


def load_shard(path: Path) -> tuple[PairData, dict[str, int]]:
    """What `save_shard` wrote; raises InputError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            data = PairData(*(file.get_tensor(name) for name in FIELDS))
            return data, json.loads(file.metadata()["kinds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a shard: {error}; delete it, and it is made anew") from error


def annotated_data(config: DataConfig, source: str, models: Pair[HandModel]) -> PairData:
    """Conditions made of the annotated pairs of a data set, ``interhand:DIR``, that touch without penetrating much."""
    generator = InteractionGenerator(models)
    pairs = annotated_pairs(source, models)
    rng = torch.Generator().manual_seed(config.seed)
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    return PairData.joined([conditions_of(config, chunk, generator, rng) for chunk in chunks])


_generator: InteractionGenerator | None = None


def _prepare(hand_model: str) -> None:
    global _generator
    torch.set_num_threads(1)
    _generator = InteractionGenerator(load_hand_models(hand_model))


def _write(config: DataConfig, folder: Path, shard: Shard) -> None:
    assert _generator is not None
    data, count = make_shard(config, shard, _generator)
    save_shard(shard.path(folder), data, {shard.kind: count})
