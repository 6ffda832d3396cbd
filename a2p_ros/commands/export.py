"""``a2p export``: graphs of the network for onnxruntime, beside its weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from a2p_ros.commands import common

#: Crops that calibrate and check a graph in 8 bit.
_CROPS = 200


def add_parser(verbs: Any) -> None:
    """Options of ``a2p export``."""
    parser = verbs.add_parser(
        "export",
        help="make the network's graphs for onnxruntime",
        description="Writes network.onnx and relative.onnx into the folder and their SHA-256 into its card. Both are "
        "checked against torch first; one in 8 bit is made of the one that was checked.",
    )
    parser.add_argument("weights", type=Path, help="folder that `a2p train fae` wrote")
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="FRAMES",
        help="also network_int8.onnx, convolutions in 8 bit for processors, calibrated with hands of frames that `a2p "
        "synth` drew; how far its answers are from those in 32 bit is written into the card",
    )
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, export, write."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.export import export
    from a2p_ros.network.quantise import quantise
    from a2p_ros.network.weights import HAND_GRAPH, INT8_GRAPH, add_graphs, find, load

    hand_model = load_hand_models(args.hand_model).right.name
    loaded = load(args.weights, hand_model)
    crops = None if args.int8 is None else typical_crops(args.int8, loaded.config.resolution)
    graphs = export(loaded.network)
    add_graphs(find(args.weights, hand_model), graphs)
    lost: dict[str, float] | None = None
    if crops is not None:
        made = quantise(args.weights / HAND_GRAPH, crops)
        lost = {name: value for name, value in vars(made).items() if name != "content"}
        graphs[INT8_GRAPH] = made.content
        add_graphs(find(args.weights, hand_model), graphs, int8=lost)
    sizes = {name: len(content) for name, content in graphs.items()}
    lines = [f"{args.weights / name}: {size / 2**20:.1f} MiB" for name, size in sizes.items()]
    if crops is not None and lost is not None:
        lines.append(
            f"in 8 bit, on {len(crops[1::2])} crops: keypoints move by {lost['keypoints_edges']:.4f} crop edges, depth "
            f"by {lost['depth_mm']:.2f} mm, rotations by {lost['rotation_deg']:.2f} degrees in the mean"
        )
    common.finish(args, {"weights": str(args.weights), "bytes": sizes, "int8": lost}, lines)
    return 0


def typical_crops(frames: Path, resolution: int) -> np.ndarray:
    """Hands of drawn frames as the network is to see them, (n, resolution, resolution, 3)."""
    from a2p_ros.cropping import Crop
    from a2p_ros.regions import hand_rotation, hand_square
    from a2p_ros.training.synthetic.samples import read_frames
    from a2p_ros.types import Side

    crops: list[np.ndarray] = []
    for frame in read_frames(frames):
        for side, hand in frame.hands.items():
            if hand is not None:
                points = hand.keypoints_px.astype(float)
                x, y, edge = hand_square(points, rotation := hand_rotation(points))
                crop = Crop((float(x), float(y)), float(edge), rotation, resolution, mirrored=side is Side.LEFT)
                crops.append(crop.extract_averaged(frame.image))
        if len(crops) >= _CROPS:
            break
    return np.array(crops, np.uint8).reshape(-1, resolution, resolution, 3)
