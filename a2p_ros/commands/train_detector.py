"""``a2p train detector``: rendered frames, training, and an ONNX file with one command."""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

from a2p_ros.commands import common, options, training_frames

#: Frames that are drawn where none are given.
COUNT = 40_000
#: Of the pictures at run time [px^2], as 352 x 192.
AREA = 67_584


def add(what: Any) -> None:
    """Options of ``a2p train detector``."""
    parser = what.add_parser(
        "detector",
        help="the hand detector",
        description="Draw frames of hands, then train the detector on them and write it as an ONNX file. All of it "
        "goes on where an earlier run into the same folder stopped. On several GPUs: "
        "accelerate launch -m a2p_ros.cli train detector ...",
    )
    parser.add_argument("--out", type=Path, default=Path("out/detector"), metavar="DIR", help="weights and curves")
    training_frames.add_options(parser, counts=f"default: {COUNT:,}")
    parser.add_argument("--seed", type=int, help="of weights, batches and augmentation")
    parser.add_argument("--steps", type=int, help="steps of the optimiser")
    parser.add_argument("--batch", type=int, help="pictures a step")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--height", type=int, help="of the pictures that are trained on [px]")
    parser.add_argument("--width", type=int, help="of the pictures that are trained on [px]")
    parser.add_argument("--small-share", type=float, help="share of the steps, the first ones, on small pictures")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the network's products")
    parser.add_argument("--every", type=int, help="steps between validations and checkpoints")
    options.add_imagenet(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Frames, packed frames, training, ONNX file, curves."""
    from a2p_ros.detection.hand_weights import CARD, NETWORK, save
    from a2p_ros.hand import load_hand_models
    from a2p_ros.training.detector import curves
    from a2p_ros.training.detector.augment import AugmentConfig
    from a2p_ros.training.detector.calibration import calibrate
    from a2p_ros.training.detector.export import to_onnx
    from a2p_ros.training.detector.frames import PackConfig, PackedFrames, pack, read_packed
    from a2p_ros.training.detector.network import NetworkConfig
    from a2p_ros.training.detector.trainer import DetectorTrainer, TrainConfig

    names = ("seed", "steps", "batch", "rate", "height", "width", "small_share", "precision", "every", "workers")
    train = options.given(TrainConfig(), args, **{name: name for name in names})
    pack_config, sizes, augment = PackConfig(), NetworkConfig(), AugmentConfig()
    begin = options.imagenet(args, efficientnet=True)
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    parts = training_frames.packed(
        args,
        partial(pack, models=load_hand_models(), config=pack_config),
        partial(read_packed, config=pack_config),
        count=COUNT,
    )
    training, validation = PackedFrames.joined(parts).split()
    imagenet = None if begin is None else begin.weights
    trainer = DetectorTrainer(training, validation, sizes, train, augment, args.out, imagenet)
    provenance = options.provenance(trainer.accelerator.device.type)  # of what runs now, not of later commits
    if first and not args.json:
        common.say(f"{len(training)} frames, {len(validation)} for validation")
    with common.bar(total=train.steps, unit="step", what="training") as bar:
        for record in trainer.run():
            bar.update(record["step"] - bar.n)
            bar.set_postfix_str(_summary(record))
    if not first:
        return 0
    calibration = calibrate(trainer.averaged, validation, AREA)
    scenes = [training_frames.scenes_of(folder) for folder in training_frames.folders(args)]
    card = {
        "name": "a2p_detector_lite",
        "training": dataclasses.asdict(train),
        "augmentation": dataclasses.asdict(augment),
        "network": dataclasses.asdict(sizes),
        "imagenet": None if begin is None else begin.note(),
        "data": {"synthetic": True, "frames": len(training), "scenes": scenes},
        "pictures": train.steps * train.batch,
        "parameters": sum(p.numel() for p in trainer.averaged.parameters()),
        **provenance,
        "training_seconds": round(trainer.seconds, 1),
        **{name: round(value, 3) for name, value in calibration._asdict().items()},
        "validation": trainer.history[-1],
    }
    save(args.out, to_onnx(trainer.averaged), AREA, card)
    curves.draw(trainer.history, args.out / "curves.png")
    result = {"weights": str(args.out / NETWORK), "card": str(args.out / CARD), **trainer.history[-1]}
    common.finish(
        args,
        result,
        [
            _summary(trainer.history[-1]),
            f"{NETWORK}, its card and curves.png are in {args.out}",
            f"measure it: a2p eval detector --weights {args.out}; use it: the parameters detection.backend a2p and "
            "detection.weights",
        ],
    )
    return 0


def _summary(record: dict[str, Any]) -> str:
    return (
        f"loss {record['loss']:.3f}; recall {record['recall']:.3f}, precision {record['precision']:.3f}, sides "
        f"{record['side_accuracy']:.3f}, 90 % of the angles within {record['orientation_deg_p90']:.0f} degrees"
    )
