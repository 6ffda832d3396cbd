"""``a2p export``: graphs of the network for onnxruntime, beside its weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from a2p_ros.commands import common


def add_parser(verbs: Any) -> None:
    """Options of ``a2p export``."""
    parser = verbs.add_parser(
        "export",
        help="make the network's graphs for onnxruntime",
        description="Writes network.onnx and relative.onnx into the folder and their SHA-256 into its card. Both are "
        "checked against torch first.",
    )
    parser.add_argument("weights", type=Path, help="folder that `a2p train fae` wrote")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, export, write."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.export import export
    from a2p_ros.network.weights import add_graphs, find, load

    hand_model = load_hand_models(args.hand_model).right.name
    graphs = export(load(args.weights, hand_model).network)
    add_graphs(find(args.weights, hand_model), graphs)
    sizes = {name: len(content) for name, content in graphs.items()}
    lines = [f"{args.weights / name}: {size / 2**20:.1f} MiB" for name, size in sizes.items()]
    common.finish(args, {"weights": str(args.weights), "bytes": sizes}, lines)
    return 0
