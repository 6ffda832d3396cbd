"""``a2p train diffusion``: clean pairs, penetrating conditions and the denoiser with one command."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2p_ros.commands import common, drawn_frames, options, training_frames
from a2p_ros.errors import ConfigError

if TYPE_CHECKING:
    from a2p_ros.training.diffusion_data import PairData


#: Frames that the network is shown, and their seed, which is none of its own training's.
COUNT, SEED = 12_000, 3000


def add(what: Any) -> None:
    """Options of ``a2p train diffusion``."""
    parser = what.add_parser(
        "diffusion",
        help="the repair of penetrating hands",
        description="Make two-hand interactions and penetrating conditions, then train the denoiser on them. Both "
        "go on where an earlier run into the same folder stopped. On several GPUs: "
        "accelerate launch -m a2p_ros.cli train diffusion ...",
    )
    parser.add_argument("--out", type=Path, default=Path("out/diffusion"), metavar="DIR", help="weights and curves")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data are kept (default: OUT/data)")
    parser.add_argument("--size", choices=("lite", "full"), default="lite", help="size of the network")
    parser.add_argument(
        "--conditions", metavar="LIST", help="what to train on, some of noise,fit,network (default: noise,fit)"
    )
    parser.add_argument("--seed", type=int, help="of weights, batches and noise")
    parser.add_argument("--steps", type=int, help="steps of the optimiser")
    parser.add_argument("--batch", type=int, help="pairs a step")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the network's products")
    parser.add_argument("--every", type=int, help="steps between validations and checkpoints")
    parser.add_argument("--shards", type=int, help="data: shards, each of one kind of interaction")
    parser.add_argument("--anywhere", type=int, help="data: further shards of any place of a hand on any other")
    parser.add_argument("--meeting", type=int, help="data: further shards of hands of any shape that just meet")
    parser.add_argument("--tries", type=int, help="data: tries at a clean pair in a shard")
    parser.add_argument("--data-seed", type=int, help="of the data")
    parser.add_argument("--workers", type=int, default=0, help="processes that make data (0: one for each core)")
    parser.add_argument(
        "--frames",
        type=Path,
        metavar="DIR",
        help="for network: folder of shards made by `a2p synth`, of seeds that the network did not learn from "
        "(default: OUT/frames, drawn here)",
    )
    parser.add_argument("--count", type=int, default=COUNT, help=f"frames that are drawn there (default: {COUNT:,})")
    parser.add_argument(
        "--network", default="", metavar="DIR", help="for network: its weights (default: those that ship)"
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME:DIR",
        help="also train on annotated pairs, as interhand:/data/InterHand2.6M (docs/datasets.md); needs MANO",
    )
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Data, training, weights, curves."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.interaction.denoiser import DenoiserConfig
    from a2p_ros.interaction.weights import CARD, TENSORS, save
    from a2p_ros.training import curves
    from a2p_ros.training.diffusion import DiffusionTrainer, TrainConfig
    from a2p_ros.training.diffusion_data import DataConfig, PairData, annotated_data, make_data, read_data, shards_of
    from a2p_ros.training.diffusion_samples import Samples

    names = ("seed", "steps", "batch", "rate", "every", "conditions", "precision")
    train = options.given(TrainConfig(), args, **{name: name for name in names})
    data_config = options.given(
        DataConfig(), args, shards="shards", anywhere="anywhere", meeting="meeting", tries="tries", seed="data_seed"
    )
    models = load_hand_models(args.hand_model)
    network = _network(args) if "network" in train.conditions.split(",") else ""
    folder = args.data or args.out / "data"
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if first:
        workers = args.workers or len(os.sched_getaffinity(0))
        with common.bar(total=len(shards_of(data_config)), unit="shard", what="data") as bar:
            for count in make_data(data_config, folder, args.hand_model, workers):
                bar.update(count - bar.n)
    elif not all(shard.path(folder).exists() for shard in shards_of(data_config)):
        raise ConfigError(f"{folder}: make the data with one process before training with several")
    training, validation, kinds = read_data(data_config, folder)
    also: dict[str, Any] = {"also": args.dataset}
    if network:
        training, validation, about = _with_network(args, training, validation)
        also["network"] = {"name": network} | about
    for source in args.dataset:
        training = PairData.joined([training, annotated_data(data_config, source, models)])
    with common.bar(total=len(training) + len(validation), unit="sample", what="features") as bar:
        samples, kept = (Samples.of(models, data, bar.update) for data in (training, validation))

    sizes = DenoiserConfig.lite() if args.size == "lite" else DenoiserConfig.full()
    trainer = DiffusionTrainer(models, samples, kept, sizes, train, args.out)
    provenance = options.provenance(trainer.accelerator.device.type)  # of what runs now, not of later commits
    if first and not args.json:
        common.say(f"{len(training)} samples of {sum(kinds.values())} clean pairs, {len(validation)} for validation")
    with common.bar(total=train.steps, unit="step", what="training") as bar:
        for record in trainer.run():
            bar.update(record["step"] - bar.n)
            bar.set_postfix_str(_summary(record))
    name = f"a2p_diffusion_{args.size}"
    if not first:
        return 0
    card = {
        "name": name,
        "training": dataclasses.asdict(train),
        "data": dataclasses.asdict(data_config) | {"clean_pairs": kinds, "synthetic": True} | also,
        "samples": len(training),
        **provenance,
        "training_seconds": round(trainer.seconds, 1),
        "validation": trainer.history[-1],
    }
    save(args.out, trainer.averaged, trainer.codec, card)
    curves.draw(trainer.history, args.out / "curves.png")
    result = {"weights": str(args.out / TENSORS), "card": str(args.out / CARD), **trainer.history[-1]}
    common.finish(
        args,
        result,
        [
            _summary(trainer.history[-1]),
            f"weights, their card and curves.png are in {args.out}",
            f"use them: a2p eval interactions --weights {args.out}, or the parameter interaction.weights",
        ],
    )
    return 0


def _network(args: argparse.Namespace) -> str:
    """The name of the network whose conditions are asked for; what is wrong with it shows before hours of work.

    Raises ConfigError for a hand model that is not drawn or a network that learnt from the frames' seed, WeightsError
    for a network that is not there.
    """
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.weights import find

    drawn = load_hand_models().right.name
    if load_hand_models(args.hand_model).right.name != drawn:
        raise ConfigError(
            f"--conditions network: the frames are drawn with {drawn!r}; leave --hand-model or network out"
        )
    files = find(args.network, drawn)
    scene = {"seed": SEED} if args.frames is None else training_frames.check_seed(args.frames)
    if scene in files.card.get("data", {}).get("scenes", []):
        raise ConfigError(
            f"{args.frames or 'drawn frames'}: the network {files.name} learnt from frames of this seed "
            f"({scene.get('seed')}), on which it is better than on any other; draw others with `a2p synth --seed`"
        )
    return files.name


def _with_network(
    args: argparse.Namespace, training: PairData, validation: PairData
) -> tuple[PairData, PairData, dict[str, Any]]:
    """The data with the network's conditions, and what the card says of them."""
    from a2p_ros.training.diffusion_data import PairData
    from a2p_ros.training.network_conditions import make_network_data, read_network_data
    from a2p_ros.training.synthetic.config import SynthConfig
    from a2p_ros.training.synthetic.samples import shard_paths

    frames, folder = args.frames or args.out / "frames", args.out / "network"
    workers = args.workers or len(os.sched_getaffinity(0))
    with options.one_at_a_time(args.out):
        if args.frames is None:
            config = SynthConfig(seed=SEED, width=640, height=480, crop=0, maps=False, pairs=COUNT // 10)
            shares = {"interacting": 0.6, "crossing": 0.3, "separate": 0.1, "single": 0.0, "none": 0.0}
            config = SynthConfig.of(dataclasses.asdict(config) | shares)
            drawn_frames.draw_shards(config, frames, args.count, workers)
        shards = shard_paths(frames)
        with common.bar(total=len(shards), unit="shard", what="network") as bar:
            for count in make_network_data(shards, folder, args.network, workers):
                bar.update(count - bar.n)
    more = read_network_data(folder, len(shards))
    if len(more[0]) == 0:
        raise ConfigError(
            f"{frames}: no conditions to train on in {len(shards)} shards, of which every 19th from the first on is "
            "for validation; draw more frames"
        )
    training, validation = (PairData.joined([a, b]) for a, b in zip((training, validation), more, strict=True))
    return training, validation, {"scenes": training_frames.scenes_of(frames), "conditions": len(more[0])}


def _summary(record: dict[str, Any]) -> str:
    parts = [f"loss {record['loss']:.3f}"]
    for source in ("noise", "fit", "network"):
        if f"{source}_mpjpe_after" in record:
            parts.append(
                f"{source}: MPJPE {record[f'{source}_mpjpe_before']:.2f} -> {record[f'{source}_mpjpe_after']:.2f}, "
                f"MRRPE {record[f'{source}_mrrpe_before']:.2f} -> {record[f'{source}_mrrpe_after']:.2f} mm"
            )
    return "; ".join(parts)
