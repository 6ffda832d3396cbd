"""``a2p train fae``: rendered frames, packed crops, teachers, distillation and the network with one command."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2p_ros.commands import common, options, training_frames
from a2p_ros.errors import ConfigError

if TYPE_CHECKING:
    from a2p_ros.network.config import NetworkConfig
    from a2p_ros.network.teachers import PriorEncoder

#: As in the network's configuration.
PRIORS = ("keypoints", "segmentation", "depth")


def add(what: Any) -> None:
    """Options of ``a2p train fae``."""
    parser = what.add_parser(
        "fae",
        help="the A2P network",
        description="Draw frames of hands, cut and pack their crops, train stand-in teachers, distil them into the "
        "network, train it end to end. All of it goes on where an earlier run into the same folder stopped. On "
        "several GPUs or cores: torchrun --nproc_per_node N -m a2p_ros.cli train fae ...",
    )
    parser.add_argument("--out", type=Path, default=Path("out/fae"), metavar="DIR", help="weights, curves, pictures")
    training_frames.add_options(parser, counts="default: 40,000; preset full: 100,000")
    parser.add_argument("--preset", choices=("lite", "full"), default="lite", help="sizes and schedule")
    parser.add_argument("--mode", choices=("none", "distilled", "foundation"), help="what becomes of the priors")
    parser.add_argument(
        "--priors", metavar="LIST", help="none, all, or some of keypoints,segmentation,depth (default: all)"
    )
    for name in PRIORS:
        parser.add_argument(
            f"--sapiens-{name}", type=Path, metavar="FILE", help=f"Sapiens' checkpoint for {name} (CC-BY-NC)"
        )
    parser.add_argument("--sapiens-cache", type=Path, metavar="DIR", help="keep Sapiens' features here")
    parser.add_argument(
        "--teachers", type=Path, metavar="DIR", help="take the stand-in teachers that an earlier run left there"
    )
    options.add_imagenet(parser)
    parser.add_argument("--backbone", choices=("resnet18", "resnet50", "efficientnet_lite0"), help="of the network")
    parser.add_argument("--seed", type=int, help="of weights, batches and augmentation")
    parser.add_argument("--steps", type=int, help="steps of the network")
    parser.add_argument("--teacher-steps", type=int, help="steps of each teacher")
    parser.add_argument("--distil-share", type=float, help="share of the last stage's batches that are distilled")
    parser.add_argument("--batch", type=int, help="crops a step, over all processes")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--resolution", type=int, help="edge of the crops in the last steps [px]")
    parser.add_argument("--low-share", type=float, help="share of the steps on the smallest crops")
    parser.add_argument("--middle-share", type=float, help="share of the steps on middling crops")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the network's products")
    parser.add_argument("--every", type=int, help="steps between validations and checkpoints")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Frames, packed crops, the stages, weights, curves."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.config import FULL, LITE
    from a2p_ros.network.teachers import Teacher, save_teachers
    from a2p_ros.network.weights import CARD, save
    from a2p_ros.training.fae import curves
    from a2p_ros.training.fae.augment import AugmentConfig
    from a2p_ros.training.fae.config import LossWeights, TrainConfig
    from a2p_ros.training.fae.training import FaeTraining

    names = "seed steps teacher_steps distil_share batch rate resolution low_share middle_share precision every workers"
    preset = TrainConfig.lite() if args.preset == "lite" else TrainConfig.full()
    config = options.given(preset, args, **{name: name for name in names.split()})
    network = dataclasses.replace(LITE if args.preset == "lite" else FULL, **_mode(args))
    encoders = _given(args, network)
    if args.backbone is not None:  # the stride of a ResNet's last stage is that of the preset
        stride = 1 if args.backbone == "efficientnet_lite0" else network.last_stride
        network = dataclasses.replace(network, backbone=args.backbone, last_stride=stride)
    network = dataclasses.replace(network, prior_channels=_prior_width(network, encoders))
    # The engine draws the open hand.
    models = load_hand_models()
    # What is wrong with the options shows before frames are drawn.
    config.check_sizes(network.unit)
    network = dataclasses.replace(network, resolution=config.last_resolution)
    begin = options.imagenet(args, efficientnet=network.backbone == "efficientnet_lite0")
    training, validation = _crops(args)
    weights, augment = LossWeights(), AugmentConfig()
    imagenet = None if begin is None else begin.weights
    trainer = FaeTraining(
        training,
        validation,
        network,
        config,
        weights,
        augment,
        models.right,
        args.out,
        encoders,
        imagenet,
        options.provenance(),
    )
    first = trainer.accelerator.is_main_process
    if first and not args.json:
        common.say(f"{len(training)} crops, {len(validation)} for validation; stages: {_stages(trainer.steps)}")
    for stage, steps in trainer.steps.items():
        with common.bar(total=steps, unit="step", what=stage) as bar:
            for record in trainer.run_stage(stage):
                bar.update(record["step"] - bar.n)
                bar.set_postfix_str(summary(record))
                if first:
                    curves.draw(trainer.history, args.out / "curves.png")
    if not first:
        return 0
    assert trainer.averaged is not None
    last = trainer.history["end_to_end"][-1]
    lines = [summary(last), f"weights, their card, curves.png and pictures of crops are in {args.out}"]
    if not trainer.trained and (args.out / CARD).exists():  # what was made of the weights since stays
        common.finish(args, {"weights": str(args.out), **last}, lines)
        return 0
    stand_ins = trainer.teachers | {name: given for name, given in encoders.items() if isinstance(given, Teacher)}
    scenes = [training_frames.scenes_of(folder) for folder in training_frames.folders(args)]
    card = {
        "name": f"a2p_{args.preset}_{network.mode}",
        "training": dataclasses.asdict(config),
        "loss_weights": dataclasses.asdict(weights),
        "augmentation": dataclasses.asdict(augment),
        "data": {"synthetic": True, "crops": len(training), "scenes": scenes},
        "teachers": {name: "stand-in" if name in stand_ins else "Sapiens, CC-BY-NC" for name in network.priors},
        "teacher_keys": {name: teacher.key for name, teacher in stand_ins.items()},
        "imagenet": None if begin is None else begin.note(),
        **{name: ", ".join(dict.fromkeys(run[name] for run in trainer.provenance)) for name in ("commit", "machine")},
        "device": trainer.accelerator.device.type,
        "processes": trainer.accelerator.num_processes,
        "training_seconds": {name: round(seconds, 1) for name, seconds in trainer.seconds.items()},
        "validation": last,
    }
    save(args.out, trainer.averaged, models.right.name, card)
    if stand_ins:
        save_teachers(args.out, stand_ins, {"commit": card["commit"], "data": card["data"]})
    common.finish(args, {"weights": str(args.out), **last}, lines)
    return 0


def summary(record: dict[str, Any]) -> str:
    """The figures of a record in a line."""
    if "mpjpe_mm" not in record:
        return f"loss {record['loss']:.3f}" + (f", {record['validation']:.3f}" if "validation" in record else "")
    return (
        f"loss {record['loss']:.3f}; MPJPE {record['mpjpe_mm']:.1f} mm, PCK@0.1 {record['pck_010']:.3f}, MRRPE "
        f"{record.get('mrrpe_mm', float('nan')):.1f} mm, sides {record['side_right']:.3f}"
    )


def _stages(steps: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count} steps)" for name, count in steps.items())


def _mode(args: argparse.Namespace) -> dict[str, Any]:
    """Mode and priors of the network that the options ask for."""
    text = args.priors or ("none" if args.mode == "none" else "all")
    priors = {"none": (), "all": PRIORS}.get(text, tuple(text.split(",")))
    unknown = sorted(set(priors) - set(PRIORS))
    if unknown:
        raise ConfigError(f"--priors: expected none, all or some of {','.join(PRIORS)}, got {text!r}")
    mode = args.mode or ("distilled" if priors else "none")
    if (mode == "none") != (not priors):
        raise ConfigError(f"--mode {mode} with --priors {text}: mode none goes with priors none, the others with some")
    return {"mode": mode} | ({} if mode == "none" else {name: name in priors for name in PRIORS})


def _crops(args: argparse.Namespace) -> Any:
    """Packed crops for training and validation."""
    from a2p_ros.training.fae.packing import PackConfig, PackedCrops, pack, read_packed

    # Crops of 256 px want hands that were drawn as large and kept as large.
    full = args.preset == "full"
    config = PackConfig(edge=416, map_edge=104) if full else PackConfig()
    parts = training_frames.packed(
        args,
        partial(pack, config=config),
        partial(read_packed, config=config),
        count=100_000 if full else 40_000,
        size=(960, 720) if full else None,
    )
    return PackedCrops.joined(parts).split()


def _prior_width(network: NetworkConfig, encoders: Mapping[str, PriorEncoder]) -> int:
    """Features of each prior encoder: stand-ins are networks like the backbone, Sapiens has its own width."""
    from a2p_ros.network.backbone import make_backbone

    widths = {name: encoder.width for name, encoder in encoders.items()}
    own = make_backbone(network).out_channels
    widths |= {name: own for name in network.priors if name not in encoders}
    if len(set(widths.values())) > 1:
        raise ConfigError(
            f"prior encoders: their features are averaged and must be as many, got {widths}; give Sapiens' checkpoints "
            "of one size for all priors, or name only those in --priors"
        )
    return next(iter(widths.values()), own)


def _given(args: argparse.Namespace, network: NetworkConfig) -> dict[str, Any]:
    """The prior encoders that are given: Sapiens' checkpoints, and the teachers of an earlier run for the others."""
    from a2p_ros.network.sapiens import CachedPrior, load_sapiens
    from a2p_ros.network.teachers import load_teachers

    found: dict[str, Any] = {}
    for name in network.priors:
        path = getattr(args, f"sapiens_{name}")
        if path is not None:
            prior = load_sapiens(path)
            found[name] = prior if args.sapiens_cache is None else CachedPrior(prior, args.sapiens_cache)
    if args.teachers is not None:
        found |= load_teachers(args.teachers, [name for name in network.priors if name not in found])
    return found
