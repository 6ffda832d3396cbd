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

#: What a repair has to reach (metric, method's mean over that before: at most, what it is called).
_BARS = (
    ("penvol_cm3", 1 / 7, "PenVol"),
    ("pendist_mean_mm", 1 / 4, "mean PenDist"),
    ("mpjpe_mm", 1.0, "MPJPE"),
    ("mrrpe_mm", 1.0, "MRRPE"),
    ("reprojection_px", 1.0, "reprojection"),
)
_CONTACT_BAR, _CLEAN_BAR = 0.9, 1.0
_COLUMNS = (
    ("PenVol", "penvol_cm3", 3),
    ("PenDist", "pendist_mean_mm", 4),
    ("max", "pendist_max_mm", 2),
    ("IV", "iv_cm3", 2),
    ("MPJPE", "mpjpe_mm", 2),
    ("MRRPE", "mrrpe_mm", 2),
    ("aligned", "mrrpe_aligned_mm", 2),
    ("reproj.", "reprojection_px", 2),
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
        "--kinds", default="held-out", help="held-out (those that training never sees), all, or names with commas"
    )
    parser.add_argument("--weights", metavar="DIR", help="other weights than those shipped")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    parser.add_argument("--ablation", action="store_true", help="compare steps, start, strength and guidance instead")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw 12 pairs before, after and in truth")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw N clean pairs from two sides and stop")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one for each core)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, as interaction.steps=5"
    )
    common.add_json(parser)
    parser.set_defaults(run=run, device=None, hand_length=None)


def run(args: argparse.Namespace) -> int:
    """Conditions, repairs, tables."""
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
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if args.pictures:
        from a2p_ros.hand import load_hand_models
        from a2p_ros.training.pair_sheet import draw_repairs

        result["pictures"] = [
            str(p) for p in draw_repairs(load_hand_models(args.hand_model), found.meshes, args.pictures)
        ]
    common.finish(args, result, _lines(result, list(methods)))
    return 0


def kinds_of(text: str) -> tuple[str, ...]:
    """``held-out``, ``all``, or names with commas between them."""
    from a2p_ros.training.interaction_kinds import HELD_OUT, KINDS

    groups = {"held-out": HELD_OUT, "all": tuple(KINDS)}
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
    lines = [f"{result['n']} conditions, {result['model_id'] or 'no model'}, {result['seconds']:.0f} s", ""]
    lines += _table("", result, ["before", *methods])
    if "after" not in result:
        return lines
    for title, key in (("by kind", "by_kind"), ("by source", "by_source"), ("by level of noise [mm]", "by_level")):
        lines += ["", title]
        for name, part in result[key].items():
            lines += _table(f"{name} ({part['n']})", part, ["before", *methods], head=False)
    lines += ["", "after over before, and what is to be reached:"]
    for metric, bar, name in _BARS:
        ratio = result["ratios"]["after"][metric]
        lines.append(f"  {name:<14}{ratio:8.3f}   at most {bar:.3f}  {_verdict(ratio <= bar)}")
    contact = result["after"]["contact_kept"]
    lines.append(
        f"  {'contact kept':<14}{contact:8.3f}   at least {_CONTACT_BAR:.2f}  {_verdict(contact >= _CONTACT_BAR)}"
    )
    better = result["after"]["mpjpe_mm"] < result["gradient_only"]["mpjpe_mm"]
    parted = result["after"]["penvol_cm3"] <= result["gradient_only"]["penvol_cm3"]
    lines.append(f"  better than descent alone in MPJPE {_verdict(better)}, at no more PenVol {_verdict(parted)}")
    if "clean_change_mm" in result:
        change = result["clean_change_mm"]
        lines.append(
            f"  clean pairs change by {change:.2f} mm (95 %: {result['clean_change_p95_mm']:.2f}, farthest joint "
            f"{result['clean_change_largest_mm']:.2f})   at most {_CLEAN_BAR:.2f}  {_verdict(change <= _CLEAN_BAR)}"
        )
    return lines


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


def _verdict(good: bool) -> str:
    return "yes" if good else "NO"
