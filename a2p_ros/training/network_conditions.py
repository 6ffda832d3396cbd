"""Conditions that the A2P network makes: drawn frames looked at as the pipeline does, kept where the hands penetrate.

The way of A2P section 3.3, whose conditions are the first stage's outputs. A network is better on frames that it
learnt from than it ever is again, so they come of a seed of their own. Pairs of the kinds that the evaluation of the
repair holds out are left out here, too. Hands that the pipeline would not take, as the network hardly trusts them, are
conditions all the same: there is more to learn from them. Shards share a pool of clean pairs, so what is kept for
validation is of pairs that training saw from other sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from a2p_ros.config import PipelineConfig
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import penetration_depths
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.measuring import Regressor, make_measuring, make_regressor
from a2p_ros.placement import place
from a2p_ros.timing import StageClock
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.conditions import MIN_DEPTH, as_pairs
from a2p_ros.training.diffusion_data import SOURCES, PairData, claim, in_processes, load_shard, numbers, save_shard
from a2p_ros.training.interaction_kinds import HELD_OUT
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.training.synthetic.samples import Frame, HandLabel, read_frames
from a2p_ros.training.true_frames import true_frame
from a2p_ros.types import HandKeypoints, Pair, Side

#: Who makes poses of what the network measured, each a condition of its own: modes of the pipeline.
REGRESSORS = ("regress", "hybrid")
#: How much the regions err, in multiples of what tracking does.
JITTER = 1.0


class NetworkConditions:
    """Looks at frames with the network and keeps what penetrates.

    Args:
        models: the hand models that the frames are drawn with.
        config: the network's weights and device; who measures is the network alone.
    """

    def __init__(self, models: Pair[HandModel], config: PipelineConfig) -> None:
        self._models = models
        self._measuring = make_measuring(config.replace_flat({"network.mode": "regress"}), models)
        self._regressors = [make_regressor(config.replace_flat({"network.mode": m}), models) for m in REGRESSORS]
        self._generator = InteractionGenerator(models)

    def __call__(self, frame: Frame, rng: np.random.Generator) -> PairData:
        """Conditions of one frame: none, or one of each regressor; ``rng`` moves the regions."""
        left, right = frame.hands.left, frame.hands.right
        if left is None or right is None or _kind(frame) in HELD_OUT:
            return PairData.empty()
        true = true_frame(frame, self._models)
        if not all(hand is not None and hand.counts(*frame.image.shape[:2]) for _, hand in true.hands.items()):
            return PairData.empty()
        regions = [hand.region(rng, JITTER) for _, hand in true.hands.items() if hand is not None]
        with single_thread(), torch.no_grad():
            hands = Pair(*self._measuring(frame.image, regions, frame.camera, StageClock()))
            made = [self._condition(regressor, hands, frame, _pair(left, right)) for regressor in self._regressors]
        return PairData.joined(made)

    def _condition(
        self, regressor: Regressor, hands: Pair[HandKeypoints | None], frame: Frame, truth: HandPairs
    ) -> PairData:
        regressor.reset()
        apart = self._measuring.apart(hands, frame.camera, StageClock())
        placed = place(regressor(hands, frame.camera), frame.camera, self._models, apart)
        if placed.left is None or placed.right is None:
            return PairData.empty()
        condition = as_pairs(placed.left, placed.right, _kind(frame))
        depths = penetration_depths(self._generator.meshes, self._generator.vertices(condition))
        if max(float(d.max()) for _, d in depths.items()) < MIN_DEPTH:
            return PairData.empty()
        seen = ImageEvidence.of_hands(Pair(placed.left, placed.right), frame.camera)
        return numbers(self._generator, truth, condition, seen, SOURCES.index("network"))


def make_network_data(shards: Sequence[Path], folder: Path, weights: str, workers: int) -> Iterator[int]:
    """Look at the shards of frames that were not looked at yet, yielding how many are done after each one.

    ``weights`` is the network's folder, empty for what ships. Raises ConfigError where ``folder`` holds conditions of
    another network or other frames.
    """
    from a2p_ros.network.weights import find

    network = find(weights, load_hand_models().right.name).card["sha256"]
    sizes = {path.name: path.stat().st_size for path in shards}
    claim(folder, {"network": network, "frames": sizes, "jitter": JITTER})
    missing = [(number, path) for number, path in enumerate(shards) if not _path(folder, number).exists()]
    there = len(shards) - len(missing)
    yield there
    if not missing:
        return
    jobs: list[Callable[[], None]] = [partial(_look, path, number, _path(folder, number)) for number, path in missing]
    for count in in_processes(workers, partial(_prepare, weights), jobs):
        yield there + count


def read_network_data(folder: Path, count: int) -> tuple[PairData, PairData]:
    """Training and validation data of ``count`` shards; every 19th is for validation."""
    parts: tuple[list[PairData], list[PairData]] = ([PairData.empty()], [PairData.empty()])
    for number in range(count):
        parts[number % 19 == 0].append(load_shard(_path(folder, number))[0])
    return PairData.joined(parts[0]), PairData.joined(parts[1])


def _kind(frame: Frame) -> str:
    """The kind of interaction, as both hands of a pair have it; of other frames a hand's shape."""
    return str(frame.scene.get("shapes", {}).get("left", ""))


def _pair(left: HandLabel, right: HandLabel) -> HandPairs:
    def both(name: str) -> Pair[torch.Tensor]:
        return Pair(*(torch.as_tensor(np.asarray(getattr(hand, name), np.float32))[None] for hand in (left, right)))

    assert left.side is Side.LEFT and right.side is Side.RIGHT
    return HandPairs(both("betas"), both("rotations"), both("transl"), ("",))


def _path(folder: Path, number: int) -> Path:
    return folder / f"network_{number:05d}.safetensors"


_looker: NetworkConditions | None = None


def _prepare(weights: str) -> None:
    global _looker
    torch.set_num_threads(1)
    config = PipelineConfig.from_flat({"network.weights": weights, "device.device": "cpu", "device.threads": 1})
    _looker = NetworkConditions(load_hand_models(), config)


def _look(shard: Path, number: int, path: Path) -> None:
    assert _looker is not None
    rng = np.random.default_rng([number, 19])
    save_shard(path, PairData.joined([_looker(frame, rng) for frame in read_frames(shard)]), {})
