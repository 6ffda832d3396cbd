"""``a2p eval interactions``: how well penetrating hands are repaired, where the truth is known."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from a2p_ros.commands import common
from a2p_ros.errors import InputError

_COLUMNS = (
    ("PenVol", "penvol_cm3", 3),
    ("PenDist", "pendist_mean_mm", 4),
    ("max", "pendist_max_mm", 2),
    ("IV", "iv_cm3", 2),
    ("MPJPE", "mpjpe_mm", 2),
    ("MRRPE", "mrrpe_mm", 2),
    ("aligned", "mrrpe_aligned_mm", 2),
    ("reproj.", "reprojection_px", 2),
    ("fitted", "reprojection_fitted_px", 2),
    ("contact", "contact_kept", 3),
    ("pairs", "contact_pairs_kept", 3),
    ("hands", "contact_hands_kept", 3),
    ("rejected", "rejected", 3),
)


def add(kinds: Any) -> None:
    """Options of ``a2p eval interactions``."""
    parser = kinds.add_parser(
        "interactions",
        help="repairs of penetrating hands, against the truth",
        description="Clean synthetic pairs are disturbed until they penetrate, half by noise of 6 mm, half by the "
        "keypoint fit on noisy keypoints, and repaired as the pipeline would. Rejected repairs count as they stand.",
    )
    parser.add_argument("--n", type=int, default=200, help="conditions, half of either source")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--kinds",
        default="held-out",
        help="held-out (those that training never sees), training, all, or names with commas",
    )
    parser.add_argument("--weights", metavar="DIR", help="other weights than those shipped")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    parser.add_argument("--ablation", action="store_true", help="compare steps, start, strength and guidance instead")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw 12 pairs before, after and in truth")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw N clean pairs from two sides and stop")
    parser.add_argument("--jitter", action="store_true", help="also repair 300 jittering frames of each kind")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one for each core)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, as interaction.steps=5"
    )
    common.add_json(parser)
    parser.set_defaults(run=run, device=None, hand_length=None)


def run(args: argparse.Namespace) -> int:
    """Conditions, repairs, tables."""
    from a2p_ros.training.interaction_bars import bars
    from a2p_ros.training.interaction_eval import (
        EvalConfig,
        ablation_methods,
        evaluate,
        standard_methods,
        summary,
    )

    if args.workers < 0:
        raise InputError(f"--workers: expected 0 or more, got {args.workers}")
    settings = common.pipeline_config(args).interaction
    if args.weights:
        settings = dataclasses.replace(settings, weights=args.weights)
    config = EvalConfig(
        n=args.n,
        seed=args.seed,
        kinds=kinds_of(args.kinds),
        others=not args.ablation,
        pictures=12 if args.pictures else 0,
    )
    if args.sheet:
        return _sheet(args, config)
    methods = ablation_methods(settings) if args.ablation else standard_methods(settings)
    begin = time.perf_counter()
    with common.bar(total=2 * (args.n // 2), unit="pair", what="interactions") as bar:
        found = evaluate(config, methods, args.hand_model, args.workers, lambda count: bar.update(count - bar.n))
    result = summary(found, methods) | {"seed": args.seed, "kinds": list(config.kinds)}
    if args.jitter:
        result["jitter"] = _jitter(args, settings, config)
        result["jitter_ratio"] = max(pair["ratio"] for pair in result["jitter"])
    if not args.ablation:
        result["bars"] = [dataclasses.asdict(bar) | {"met": bar.met} for bar in bars(result)]
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if args.pictures:
        from a2p_ros.hand import load_hand_models
        from a2p_ros.training.pair_sheet import draw_repairs

        result["pictures"] = [
            str(p) for p in draw_repairs(load_hand_models(args.hand_model), found.meshes, args.pictures)
        ]
    common.finish(args, result, _lines(result, list(methods)))
    return 0


def _jitter(args: argparse.Namespace, settings: Any, config: Any) -> list[dict[str, Any]]:
    from a2p_ros.hand import load_hand_models
    from a2p_ros.interaction.stage import InteractionStage
    from a2p_ros.training.interaction_jitter import jitter
    from a2p_ros.training.interactions import InteractionGenerator

    models = load_hand_models(args.hand_model)
    generator, stage, found = InteractionGenerator(models), InteractionStage(models, settings), []
    with common.bar(total=len(config.kinds), unit="kind", what="jitter") as bar:
        for kind in config.kinds:
            pair = jitter(generator, stage, kind, args.seed)
            found.append(dataclasses.asdict(pair) | {"ratio": pair.ratio})
            bar.update()
    return found


def kinds_of(text: str) -> tuple[str, ...]:
    """``held-out``, ``training``, ``all``, or names with commas between them."""
    from a2p_ros.training.interaction_kinds import HELD_OUT, KINDS

    groups = {"held-out": HELD_OUT, "all": tuple(KINDS), "training": tuple(k for k in KINDS if k not in HELD_OUT)}
    return groups.get(text) or tuple(name.strip() for name in text.split(",") if name.strip())


def _sheet(args: argparse.Namespace, config: Any) -> int:
    from a2p_ros.hand import load_hand_models
    from a2p_ros.training.pair_sheet import clean_pairs, draw_pairs

    models = load_hand_models(args.hand_model)
    with common.bar(total=config.n, unit="pair", what="clean pairs") as bar:
        pairs = clean_pairs(models, config.kinds, config.n, config.seed, bar.update)
    draw_pairs(models, pairs, args.sheet)
    common.finish(args, {"n": len(pairs), "sheet": str(args.sheet)}, [f"{len(pairs)} clean pairs in {args.sheet}"])
    return 0


def _lines(result: dict[str, Any], methods: list[str]) -> list[str]:
    lines = [f"{result['n']} conditions, {result['model_id'] or 'no model'}, {result['seconds']:.0f} s"]
    lines += [f"left out, PenVol failed: {name}: {why}" for name, why in result["failed_pairs"].items()]
    lines.append("")
    lines += _table("", result, ["before", *methods])
    if "jitter" in result:
        lines += ["", "300 jittering frames: largest step of a joint before and after [mm], repaired share, set in"]
        lines += [
            f"  {p['kind']:<18}{p['before_mm']:8.2f}{p['after_mm']:8.2f}{p['repaired']:8.2f}{p['switched_on']:6d}"
            for p in result["jitter"]
        ]
    if "after" not in result:
        return lines
    for title, key in (("by kind", "by_kind"), ("by source", "by_source"), ("by level of noise [mm]", "by_level")):
        lines += ["", title]
        for name, part in result[key].items():
            lines += _table(f"{name} ({part['n']})", part, ["before", *methods], head=False)
    gains = result["gain"]["after"]
    lines += ["", "after better than before by (standard error of the mean):"]
    lines += [f"  {name:<18}{gain['mean']:8.2f} ({gain['error']:.2f})" for name, gain in gains.items()]
    lines += ["", "after, and what is to be reached:"]
    lines += [_bar_line(bar) for bar in result["bars"]]
    if "clean_change_mm" in result:
        change = {name: result[f"clean_change_{name}mm"] for name in ("", "max_", "largest_", "accepted_")}
        lines.append(
            f"  clean pairs, gate forced open: joints move by {change['']:.2f} mm, {change['max_']:.2f} in the "
            f"worst pair; each pair's farthest joint {change['largest_']:.2f}; accepted {change['accepted_']:.2f}"
        )
    return lines


def _bar_line(bar: dict[str, Any]) -> str:
    return (
        f"  {bar['name']:<54}{bar['value']:9.3f}   {bar['must']:<9}{bar['bar']:8.3f}  {'yes' if bar['met'] else 'NO'}"
    )


def _table(title: str, result: dict[str, Any], names: list[str], *, head: bool = True) -> list[str]:
    width = max(len(title) - 2, *(len(name) for name in names)) + 2
    lines = []
    if head:
        units = "PenVol, IV [cm^3], PenDist, MPJPE, MRRPE [mm], reprojection [px], contact and rejected as shares"
        lines = [units, " " * (width + 2) + "".join(f"{name:>10}" for name, _, _ in _COLUMNS)]
    elif title:
        lines = [f"  {title}"]
    for name in names:
        cells = (_cell(result[name][key], digits) for _, key, digits in _COLUMNS)
        lines.append(f"  {name:<{width}}" + "".join(cells))
    return lines


def _cell(value: float, digits: int) -> str:
    return f"{'-':>10}" if math.isnan(value) else f"{value:>10.{digits}f}"
