"""``a2p bench network``: the hand network alone, in each engine that works here."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from a2p_ros.commands import common
from a2p_ros.errors import InputError, MissingDependencyError, WeightsError

if TYPE_CHECKING:
    from a2p_ros.config import DeviceConfig
    from a2p_ros.network.engine import Engine
    from a2p_ros.network.weights import Loaded


def add(kinds: Any) -> None:
    """Options of ``a2p bench network``."""
    parser = kinds.add_parser(
        "network",
        help="the A2P network alone, in torch and in onnxruntime",
        description="Crops of 8 bit in, numpy arrays out; the relative translation apart. The largest difference "
        "between the engines is given too. Numbers in the weights do not matter to speed: with --preset they are "
        "random.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="DIR", help="folder that `a2p train fae` wrote")
    source.add_argument("--preset", choices=("lite", "full"), help="sizes of the network; weights are random")
    parser.add_argument(
        "--engine", choices=("all", "torch", "onnx", "int8"), default="all", help="what runs the network"
    )
    parser.add_argument("--hands", type=int, default=2, metavar="N", help="crops at once")
    parser.add_argument("--repeats", type=int, default=200, metavar="N", help="runs that are measured")
    parser.add_argument("--warm-up", type=int, default=20, metavar="N", help="runs before those")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="where it runs")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 = cores, at most 4")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Open the engines, time them in turns."""
    from a2p_ros.config import DeviceConfig
    from a2p_ros.hand import load_hand_models
    from a2p_ros.network.model import flops
    from a2p_ros.network.weights import load

    if args.repeats < 1 or args.warm_up < 0 or args.hands < 1:
        raise InputError(
            f"--repeats, --warm-up and --hands: expected 1, 0 and 1 or more, got {args.repeats}, {args.warm_up} and "
            f"{args.hands}"
        )
    device = DeviceConfig(device=args.device, threads=args.threads)
    hand_model = load_hand_models(args.hand_model).right.name
    with tempfile.TemporaryDirectory(prefix="a2p_bench_") as made:
        folder = Path(args.weights or made)
        if args.preset:
            _save_random(folder, args.preset, hand_model)
        loaded = load(folder, hand_model)
        engines = _engines(args, folder, hand_model, loaded, device)
        times, apart = _timed(engines, args)
    result = {
        "name": loaded.name,
        "hands": args.hands,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "gflop_two_hands": flops(loaded.network) / 1e9,
        "engines": {
            name: {"device": engines[name].device, "hands_ms": hands, "relative_ms": relative}
            for name, (hands, relative) in times.items()
        },
        "largest_difference": apart,
    }
    common.finish(args, result, _lines(result))
    return 0


def _save_random(folder: Path, preset: str, hand_model: str) -> None:
    import torch

    from a2p_ros.network.config import FULL, LITE
    from a2p_ros.network.model import A2PNetwork
    from a2p_ros.network.weights import save

    torch.manual_seed(0)
    network = A2PNetwork(LITE if preset == "lite" else FULL)
    save(folder, network, hand_model, {"name": f"{preset}, random weights"})


def _engines(
    args: argparse.Namespace, folder: Path, hand_model: str, loaded: Loaded, device: DeviceConfig
) -> dict[str, Engine]:
    """Those asked for; with ``all``, onnxruntime is left out where it is not installed or nothing is exported."""
    from a2p_ros.network.engine import priors_of
    from a2p_ros.network.export import export
    from a2p_ros.network.onnx_engine import OnnxEngine
    from a2p_ros.network.torch_engine import TorchEngine
    from a2p_ros.network.weights import INT8_GRAPH, add_graphs, find

    engines: dict[str, Engine] = {}
    files = find(folder, hand_model)
    if args.engine in ("all", "torch"):
        engines["torch"] = TorchEngine(loaded, device, priors_of(files, device))
    if args.engine == "int8" or (args.engine == "all" and INT8_GRAPH in files.card["sha256"]):
        engines["int8"] = OnnxEngine(files, dataclasses.replace(device, device="cpu"), INT8_GRAPH)
    if args.engine in ("all", "onnx"):
        try:
            if args.preset:
                add_graphs(find(folder, hand_model), export(loaded.network))
            engines["onnx"] = OnnxEngine(find(folder, hand_model), device)
        except (MissingDependencyError, WeightsError) as error:
            if args.engine == "onnx":
                raise
            common.warn(f"onnxruntime is left out: {error}")
    return engines


def _timed(
    engines: dict[str, Engine], args: argparse.Namespace
) -> tuple[dict[str, tuple[dict[str, float], dict[str, float]]], float | None]:
    """p50 and p99 [ms] of hands and relative translation by engine, and how far the engines' answers are apart."""
    generator = np.random.default_rng(0)
    r = next(iter(engines.values())).resolution
    crops = generator.integers(0, 256, (args.hands, r, r, 3), np.uint8)
    pair = generator.uniform(-0.4, 0.4, (2, 21, 2)), generator.uniform(-0.1, 0.1, (2, 21))
    hands: dict[str, list[float]] = {name: [] for name in engines}
    relative: dict[str, list[float]] = {name: [] for name in engines}
    total = args.warm_up + args.repeats
    for _ in common.progress(range(total), total=total, unit="run"):
        for name, engine in engines.items():
            hands[name].append(_seconds(engine, crops))
            relative[name].append(_seconds(engine.relative, *pair, 0.4))
    apart = None
    if {"torch", "onnx"} <= engines.keys():
        a, b = (vars(engines[name](crops)) for name in ("torch", "onnx"))
        apart = max(float(np.abs(a[name] - b[name]).max()) for name in a)
    times = {
        name: tuple(common.percentiles(values[args.warm_up :], 1e3) for values in (hands[name], relative[name]))
        for name in engines
    }
    return {name: (both[0], both[1]) for name, both in times.items()}, apart


def _seconds(what: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    what(*arguments)
    return time.perf_counter() - begin


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['name']}: {result['parameters'] / 1e6:.1f} million parameters, {result['gflop_two_hands']:.2f} GFLOP "
        f"for two hands; {result['hands']} crops at once",
        f"  {'[ms]':<18}{'p50':>8}{'p99':>8}",
    ]
    for name, engine in result["engines"].items():
        title = f"{name} on {engine['device']}"
        lines.append(f"  {title:<18}{engine['hands_ms']['p50']:8.2f}{engine['hands_ms']['p99']:8.2f}")
        lines.append(f"  {'  relative':<18}{engine['relative_ms']['p50']:8.2f}{engine['relative_ms']['p99']:8.2f}")
    if result["largest_difference"] is not None:
        lines.append(f"largest difference between the engines: {result['largest_difference']:.1e}")
    return lines
