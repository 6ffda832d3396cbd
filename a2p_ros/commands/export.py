"""``a2p export``: graphs of the network for onnxruntime, beside its weights."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from a2p_ros.commands import common


def add_parser(verbs: Any) -> None:
    """Options of ``a2p export``."""
    parser = verbs.add_parser(
        "export",
        help="make the network's graphs for onnxruntime",
        description="Writes network.onnx and relative.onnx into the folder and their SHA-256 into its card. Both are "
        "checked against torch first. With --int8 there is network_int8.onnx too, which onnxruntime runs on a "
        "processor: about twice as fast, with the loss that is printed and written into the card.",
    )
    parser.add_argument("weights", type=Path, help="folder that `a2p train fae` wrote")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    parser.add_argument(
        "--int8", type=Path, metavar="FRAMES", help="folder that `a2p synth` wrote: its crops set the ranges of 8 bit"
    )
    parser.add_argument("--crops", type=int, default=256, metavar="N", help="how many of them, half to see the loss")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, export, write."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.export import export
    from a2p_ros.network.weights import HAND_GRAPH, INT8_GRAPH, add_graphs, find, load

    hand_model = load_hand_models(args.hand_model).right.name
    loaded = load(args.weights, hand_model)
    graphs = export(loaded.network)
    loss = None
    if args.int8:
        from a2p_ros.network.quantise import quantised

        crops = _crops(args.int8, args.crops, loaded.config.resolution)
        graphs[INT8_GRAPH], loss = quantised(graphs[HAND_GRAPH], crops)
    add_graphs(find(args.weights, hand_model), graphs, None if loss is None else loss.as_dict())
    sizes = {name: len(content) for name, content in graphs.items()}
    lines = [f"{args.weights / name}: {size / 2**20:.1f} MiB" for name, size in sizes.items()]
    result: dict[str, Any] = {"weights": str(args.weights), "bytes": sizes}
    if loss is not None:
        result["int8_loss"] = loss.as_dict()
        lines.append(
            f"8 bit moves keypoints by {100 * loss.keypoints:.2f} % of a crop's edge ({100 * loss.keypoints_worst:.2f} "
            f"% in the worst crop), depths by {1e3 * loss.depth:.1f} mm, rotations by {loss.rotations:.1f} degrees"
        )
    common.finish(args, result, lines)
    return 0


def _crops(frames: Path, count: int, resolution: int) -> UInt8[np.ndarray, "n r r 3"]:
    """The hands of the first frames as the engines are given them."""
    import cv2

    from a2p_ros.training.synthetic.samples import read_frames

    every = (hand.image for frame in read_frames(frames) for _, hand in frame.crops.items() if hand is not None)
    crops = [
        cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_AREA) for image in islice(every, count)
    ]
    return np.array(crops, np.uint8).reshape(-1, resolution, resolution, 3)
