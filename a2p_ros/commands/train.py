"""``a2p train``: from nothing to weights with one command."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from a2p_ros.commands import common, options, train_detector, train_fae
from a2p_ros.errors import ConfigError


def add_parser(verbs: Any) -> None:
    """Options of ``a2p train``."""
    parser = verbs.add_parser("train", help="train the networks", description=__doc__)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    diffusion = what.add_parser(
        "diffusion",
        help="the repair of penetrating hands",
        description="Make two-hand interactions and penetrating conditions, then train the denoiser on them. Both "
        "go on where an earlier run into the same folder stopped. On several GPUs: "
        "accelerate launch -m a2p_ros.cli train diffusion ...",
    )
    diffusion.add_argument("--out", type=Path, default=Path("out/diffusion"), metavar="DIR", help="weights and curves")
    diffusion.add_argument("--data", type=Path, metavar="DIR", help="where the data are kept (default: OUT/data)")
    diffusion.add_argument("--size", choices=("lite", "full"), default="lite", help="size of the network")
    diffusion.add_argument("--conditions", choices=("noise,fit", "noise", "fit"), help="what conditions to train on")
    diffusion.add_argument("--seed", type=int, help="of weights, batches and noise")
    diffusion.add_argument("--steps", type=int, help="steps of the optimiser")
    diffusion.add_argument("--batch", type=int, help="pairs a step")
    diffusion.add_argument("--rate", type=float, help="highest learning rate")
    diffusion.add_argument("--precision", choices=("float32", "bfloat16"), help="of the network's products")
    diffusion.add_argument("--every", type=int, help="steps between validations and checkpoints")
    diffusion.add_argument("--shards", type=int, help="data: shards, each of one kind of interaction")
    diffusion.add_argument("--anywhere", type=int, help="data: further shards of any place of a hand on any other")
    diffusion.add_argument("--meeting", type=int, help="data: further shards of hands of any shape that just meet")
    diffusion.add_argument("--tries", type=int, help="data: tries at a clean pair in a shard")
    diffusion.add_argument("--data-seed", type=int, help="of the data")
    diffusion.add_argument("--workers", type=int, default=0, help="processes that make data (0: one for each core)")
    diffusion.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME:DIR",
        help="also train on annotated pairs, as interhand:/data/InterHand2.6M (docs/datasets.md); needs MANO",
    )
    diffusion.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(diffusion)
    diffusion.set_defaults(run=run_diffusion)
    train_detector.add(what)
    train_fae.add(what)


def run_diffusion(args: argparse.Namespace) -> int:
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
        "data": dataclasses.asdict(data_config) | {"clean_pairs": kinds, "synthetic": True, "also": args.dataset},
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


def _summary(record: dict[str, Any]) -> str:
    parts = [f"loss {record['loss']:.3f}"]
    for source in ("noise", "fit"):
        if f"{source}_mpjpe_after" in record:
            parts.append(
                f"{source}: MPJPE {record[f'{source}_mpjpe_before']:.2f} -> {record[f'{source}_mpjpe_after']:.2f}, "
                f"MRRPE {record[f'{source}_mrrpe_before']:.2f} -> {record[f'{source}_mrrpe_after']:.2f} mm"
            )
    return "; ".join(parts)
