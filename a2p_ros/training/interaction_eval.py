"""Repairs on conditions of known truth, through the pipeline's own stage: gate, repair, rejection, joint placement.

Every pair is a frame of its own, so nothing is filtered over time. Half the conditions are noise, half outputs of the
keypoint fit (``conditions``), two of each clean pair; all are of kinds that training leaves out, unless others are
asked for. A repair that the stage rejects counts as the condition stands.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from a2p_ros.config import Checked, InteractionConfig, setting
from a2p_ros.errors import A2PError, ConfigError, InputError
from a2p_ros.hand import load_hand_models
from a2p_ros.hand.model import HandModel
from a2p_ros.interaction.collision import InsideVertices
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.guidance import GuidanceConfig
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.repair import PairRepair
from a2p_ros.interaction.stage import InteractionStage
from a2p_ros.torch_threads import single_thread
from a2p_ros.training.conditions import (
    Conditions,
    as_pairs,
    as_placed,
    clean_conditions,
    fit_conditions,
    noise_conditions,
)
from a2p_ros.training.interaction_kinds import HELD_OUT, KINDS
from a2p_ros.training.interaction_metrics import COUNTS, METRICS, PairMeasures
from a2p_ros.training.interactions import InteractionGenerator
from a2p_ros.types import Pair, PlacedHand, Side

#: The error that the noisy half is scaled to, and the levels that are looked at beside it [m].
MPJPE, LEVELS = 0.006, (0.004, 0.010)
#: Tries at a clean pair in one piece of work, and how many of its pairs are disturbed by the other levels, or shown.
_TRIES, _OF_LEVEL = 12, 3
#: Pieces in a row that may come to nothing before a kind is given up.
_PATIENCE = 20
#: Share of the conditions whose volumes may fail.
MOST_FAILED = 0.05


@dataclass(frozen=True)
class EvalConfig(Checked):
    """What is evaluated."""

    n: int = setting(200, "Conditions, half noise, half fit.", low=2, high=100_000)
    seed: int = setting(0, "Of everything random.", low=0, high=2**31)
    kinds: tuple[str, ...] = HELD_OUT
    others: bool = setting(True, "Look at other levels of noise, too, and at clean pairs.")
    pictures: int = setting(0, "Pairs whose meshes are handed back.", low=0, high=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or (unknown := set(self.kinds) - set(KINDS)):
            wrong = ", ".join(sorted(unknown)) if self.kinds else "none"
            raise ConfigError(f"kinds: expected some of {', '.join(KINDS)}, got {wrong}")


@dataclass(frozen=True)
class Method:
    """One way to repair. ``image``: joints and confidences are known, joints without them, or nothing but the view."""

    config: InteractionConfig
    use_model: bool = True
    use_guide: bool = True
    image: Literal["seen", "unsure", "nothing"] = "seen"
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)


#: Configuration, kind, number of the piece, tries at a clean pair.
_Piece = tuple[EvalConfig, str, int, int]


@dataclass
class Found:
    """What was measured: a row for each condition and method, changes of clean pairs, and meshes for pictures.

    ``clean`` are, for each clean pair, the mean and the largest way of a joint under a repair that nothing asked for,
    and the mean way where the stage may reject it [mm].
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    clean: list[tuple[float, float, float]] = field(default_factory=list)
    meshes: list[dict[str, Any]] = field(default_factory=list)
    model_id: str = ""

    def count(self) -> int:
        """How many conditions there are of noise, as of the fit."""
        return len({row["pair"] for row in self.rows if row["source"] == "noise"})


def standard_methods(config: InteractionConfig) -> dict[str, Method]:
    """(b) ``gradient_only``, (c) ``model_only`` and (d) ``after``."""
    return {
        "gradient_only": Method(config, use_model=False),
        "model_only": Method(config, use_guide=False),
        "after": Method(config),
    }


def ablation_methods(config: InteractionConfig) -> dict[str, Method]:
    """One factor at a time about ``config``: steps, start, guidance, the image; and descent alone, over iterations."""
    changes: dict[str, dict[str, Any]] = {f"steps {n}": {"steps": n} for n in (1, 2, 3, 5, 10)}
    changes |= {f"start condition, {s}": {"start": "condition", "strength": s} for s in (0.1, 0.3, 0.6)}
    changes["start condition, 0.3, 3 steps"] = {"start": "condition", "strength": 0.3, "steps": 3}
    out = {"default": Method(config)}
    out |= {name: Method(dataclasses.replace(config, **change)) for name, change in changes.items()}
    out["guidance off"] = Method(config, use_guide=False)
    out["image unseen"] = Method(config, image="nothing")
    out["image unseen, guidance off"] = Method(config, use_guide=False, image="nothing")
    out["confidences unknown"] = Method(config, image="unsure")
    for n in (1, 2, 8):
        out[f"guidance, {n} a step"] = Method(config, guidance=GuidanceConfig(iterations=n))
    out["guidance printed, V_c other"] = Method(config, guidance=GuidanceConfig(loss="printed"))
    out["guidance printed, V_c condition"] = Method(
        config, guidance=GuidanceConfig(loss="printed", against="condition")
    )
    for n in (1, 2, 4, 8, 20):
        out[f"no model, {n} steps of descent"] = Method(
            dataclasses.replace(config, steps=1), use_model=False, guidance=GuidanceConfig(iterations=n)
        )
    return out


def evaluate(
    config: EvalConfig,
    methods: Mapping[str, Method],
    hand_model: str = "",
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Every method on the same conditions; the result depends on ``config`` alone, not on ``workers``.

    ``workers`` are processes, 0 = one for each core; ``progress`` is told how many conditions are done.
    Raises A2PError where more than ``MOST_FAILED`` of the conditions have a volume that cannot be computed, InputError
    where no clean pairs of a kind come about.
    """
    wanted = {k: len(range(j, config.n // 2, len(config.kinds))) for j, k in enumerate(config.kinds)}
    workers = workers or len(os.sched_getaffinity(0))
    total = Found()
    with _pool(workers, methods, hand_model) as work:
        kept, started, barren = dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0)
        while lacking := {k: most - kept[k] for k, most in wanted.items() if kept[k] < most}:
            pieces = []
            for kind, lack in lacking.items():
                tries = min(_TRIES, 2 + 2 * lack)
                # About half of the tries become a condition of either source.
                for _ in range(max(1, 2 * lack // _TRIES)):
                    pieces.append((config, kind, started[kind], tries))
                    started[kind] += 1
            for (_, kind, _, _), found in zip(pieces, work(pieces), strict=True):
                new = min(found.count(), wanted[kind] - kept[kind])
                _add(total, found, new)
                kept[kind] += new
                barren[kind] = 0 if found.count() else barren[kind] + 1
                if barren[kind] >= _PATIENCE:
                    raise InputError(f"kind {kind}: {_PATIENCE} times {_TRIES} tries gave no penetrating conditions")
                if progress is not None:
                    progress(2 * sum(kept.values()))
    failed = failures(total.rows)
    if len(failed) > MOST_FAILED * len({r["pair"] for r in total.rows}):
        name, why = next(iter(failed.items()))
        raise A2PError(
            f"PenVol could not be computed for {len(failed)} conditions, which leaves no fair mean; "
            f"the first is {name}: {why}"
        )
    # Evenly over kinds and sources.
    total.meshes = total.meshes[:: max(1, len(total.meshes) // max(config.pictures, 1))][: config.pictures]
    return total


def failures(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Conditions of which a volume failed under any method, and why; no mean of any method has them."""
    return {r["pair"]: f"{r['method']}: {r['failed']}" for r in rows if r["failed"]}


def summary(found: Found, methods: Iterable[str]) -> dict[str, Any]:
    """The contract of ``a2p eval interactions --json``: means over all conditions, and by kind, source and level."""
    names = ["before", *methods]
    failed = failures(found.rows)
    rows = [r for r in found.rows if r["pair"] not in failed]
    main = [r for r in rows if r["source"] != "level"]

    def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"n": len({r["pair"] for r in rows})} | {
            name: means([r for r in rows if r["method"] == name]) for name in names
        }

    def split(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
        return {str(value): table([r for r in rows if r[key] == value]) for value in sorted({r[key] for r in rows})}

    result = table(main) | {
        "model_id": found.model_id,
        "by_kind": split(main, "kind"),
        "by_source": split(main, "source"),
        "failed_booleans": len(failed),
        "failed_pairs": failed,
    }
    result["by_level"] = split([r for r in rows if r["source"] != "fit"], "level_mm")
    if found.clean:
        mean, most, accepted = np.array(found.clean).T
        result |= {
            "clean_change_mm": float(mean.mean()),
            "clean_change_max_mm": float(mean.max()),
            "clean_change_largest_mm": float(most.mean()),
            "clean_change_p95_mm": float(np.percentile(mean, 95)),
            "clean_change_accepted_mm": float(accepted.mean()),
        }
    result["ratios"] = {
        name: {m: _ratio(result[name][m], result["before"][m]) for m in METRICS} for name in names if name != "before"
    }
    result["gain"] = {
        name: {m: gain(main, name, m) for m in ("mpjpe_mm", "mrrpe_mm", "mrrpe_aligned_mm")}
        for name in names
        if name != "before"
    }
    return result


def gain(rows: list[dict[str, Any]], method: str, metric: str, over: str = "before") -> dict[str, float]:
    """Mean of what a method is better by on the same conditions, and the standard error of that mean."""
    both = [{r["pair"]: r[metric] for r in rows if r["method"] == name} for name in (over, method)]
    better = np.array([value - both[1][pair] for pair, value in both[0].items()])
    if len(better) < 2:
        return {"mean": float(better.sum()) if len(better) else math.nan, "error": math.nan}
    return {"mean": float(better.mean()), "error": float(better.std(ddof=1) / len(better) ** 0.5)}


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the rows that have it; shares of rows that were repaired, and rejected.

    Contacts count one by one (``COUNTS``): a pair of hands that touches in many places has many.
    """
    out = {}
    for name in (*METRICS, "repaired", "rejected"):
        values = [
            (float(r[name]), float(r[COUNTS[name]]) if name in COUNTS else 1.0) for r in rows if not math.isnan(r[name])
        ]
        total = sum(weight for _, weight in values)
        out[name] = sum(value * weight for value, weight in values) / total if total else math.nan
    return out


class Evaluator:
    """One process' share of the work."""

    def __init__(self, models: Pair[HandModel], methods: Mapping[str, Method]) -> None:
        self.generator = InteractionGenerator(models)
        self._models = models
        self.stages = {
            name: InteractionStage(models, method.config, repair=_Repair(models, method))
            for name, method in methods.items()
        }
        self._open: InteractionStage | None = None
        if "after" in methods:
            # Any vertex inside the other hand is repaired, which is as far open as the gate of a stage goes.
            always = dataclasses.replace(methods["after"].config, min_depth=0.0)
            self._open = InteractionStage(models, always, repair=self.stages["after"].repair)

    def piece(self, config: EvalConfig, kind: str, number: int, tries: int) -> Found:
        """Some conditions of one kind, as many of noise as of the fit, through all methods."""
        found, generator = Found(), self.generator
        if "after" in self.stages:
            found.model_id = self.stages["after"].repair.model_id
        seed = 2**41 + (config.seed * 1_000_003 + number) * len(KINDS) + list(KINDS).index(kind)
        rng = torch.Generator().manual_seed(seed)
        tried, kept = generator.attempt(kind, tries, rng)
        clean = tried[kept]
        if len(clean) == 0:
            return found
        made = {"noise": noise_conditions(generator, clean, rng, MPJPE), "fit": fit_conditions(generator, clean, rng)}
        count = min(len(m) for m in made.values())
        for source, m in made.items():
            self._add(found, m[torch.arange(count)], source, f"{kind} {number}", MPJPE if source == "noise" else 0.0)
        if config.others and count:
            for level in LEVELS:
                m = noise_conditions(generator, clean[:_OF_LEVEL], rng, level)
                if len(m):
                    self._add(found, m, "level", f"{kind} {number}", level)
            if self._open is not None:
                found.clean = self._clean_change(clean[:count], self._open, rng)
        if not config.pictures:
            found.meshes = []
        return found

    def _add(self, found: Found, made: Conditions, source: str, tag: str, level: float) -> None:
        measures = PairMeasures(self._models, self.generator.meshes, made)
        hands = []
        for i in range(len(made)):
            seen = (Pair(p.left[i], p.right[i]) for p in (made.observed_px, made.weights))
            hands.append(as_placed(self._models, made.condition[i : i + 1], made.camera, *seen))
        answers: dict[str, list[Pair[PlacedHand]]] = {"before": hands}
        outcome: dict[str, list[tuple[bool, bool]]] = {"before": [(False, False)] * len(made)}
        for name, stage in self.stages.items():
            answers[name], outcome[name] = [], []
            for pair in hands:
                stage.reset()
                answer = stage(Pair(pair.left, pair.right), made.camera, 0.0)
                left, right = answer.hands.left, answer.hands.right
                assert left is not None and right is not None, "the stage drops no hand"
                answers[name].append(Pair(left, right))
                outcome[name].append((answer.repaired, bool(answer.rejected)))
        pairs = {
            name: HandPairs.joined([as_pairs(h.left, h.right, made.truth.kinds[i]) for i, h in enumerate(given)])
            for name, given in answers.items()
        }
        for name, given in answers.items():
            pixels = Pair(
                *(torch.as_tensor(np.stack([h[s].keypoints_px for h in given])) for s in (Side.LEFT, Side.RIGHT))
            )
            for i, (values, failed) in enumerate(measures.of(pairs[name], pixels)):
                repaired, rejected = outcome[name][i]
                about = {"method": name, "source": source, "level_mm": 1e3 * level, "kind": made.truth.kinds[i]}
                about |= {"pair": f"{tag} {source} {level} {i}", "repaired": repaired, "rejected": rejected}
                about["failed"] = failed
                found.rows.append(about | values)
        if source != "level" and "after" in pairs:
            shown = {"before": pairs["before"], "after": pairs["after"], "truth": made.truth}
            both = {name: self.generator.vertices(p) for name, p in shown.items()}
            for i in range(min(len(made), _OF_LEVEL)):
                arrays = {name: (v.left[i].numpy(), v.right[i].numpy()) for name, v in both.items()}
                found.meshes.append({"kind": made.truth.kinds[i], "source": source} | arrays)

    def _clean_change(
        self, clean: HandPairs, stage: InteractionStage, rng: torch.Generator
    ) -> list[tuple[float, float, float]]:
        """Rows of ``Found.clean``, seen from the right wrist."""
        made = clean_conditions(self._models, clean, rng)
        taken = []
        for i in range(len(made)):
            stage.reset()
            observed = (Pair(p.left[i], p.right[i]) for p in (made.observed_px, made.weights))
            pair = as_placed(self._models, made.condition[i : i + 1], made.camera, *observed)
            hands = stage(Pair(pair.left, pair.right), made.camera, 0.0).hands
            assert hands.left is not None and hands.right is not None, "the stage drops no hand"
            taken.append(as_pairs(hands.left, hands.right))
        forced = self._ways(made.condition, stage.repair(made.condition, seen=made.evidence()))
        accepted = self._ways(made.condition, HandPairs.joined(taken))
        rows = zip(forced.mean(1).tolist(), forced.amax(1).tolist(), accepted.mean(1).tolist(), strict=True)
        return [(1e3 * mean, 1e3 * most, 1e3 * left) for mean, most, left in rows]

    def _ways(self, before: HandPairs, after: HandPairs) -> Float[Tensor, "batch 42"]:
        """How far each joint is moved [m], each pair as its right wrist sees it."""
        seen = []
        for pairs in (before, after):
            joints = pairs.joints(self._models)
            from_wrist = torch.cat([joints.left, joints.right], 1) - joints.right[:, :1]
            seen.append(from_wrist @ pairs.rotations.right[:, 0])
        return (seen[1] - seen[0]).norm(dim=-1)


class _Repair(PairRepair):
    """A repair of which a part may be left out."""

    def __init__(self, models: Pair[HandModel], method: Method) -> None:
        super().__init__(models, method.config, guidance=method.guidance)
        self._method = method

    def __call__(
        self,
        pairs: HandPairs,
        found: Pair[InsideVertices] | None = None,
        seen: ImageEvidence | None = None,
        *,
        use_model: bool = True,
        use_guide: bool = True,
    ) -> HandPairs:
        if seen is not None and self._method.image != "seen":
            same = torch.ones_like if self._method.image == "unsure" else torch.zeros_like
            seen = ImageEvidence(seen.rays, same(seen.confidence))
        return super().__call__(
            pairs,
            found,
            seen,
            use_model=use_model and self._method.use_model,
            use_guide=use_guide and self._method.use_guide,
        )


def _add(total: Found, found: Found, count: int) -> None:
    """The first ``count`` conditions of each source, and what belongs to them."""
    for source in ("noise", "fit", "level"):
        rows = [r for r in found.rows if r["source"] == source]
        first = list(dict.fromkeys(r["pair"] for r in rows))
        chosen = set(first if source == "level" else first[:count])
        total.rows += [r for r in rows if r["pair"] in chosen]
        total.meshes += [m for m in found.meshes if m["source"] == source][:count]
    total.clean += found.clean[:count]
    total.model_id = total.model_id or found.model_id


def _numpy(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return tensor.detach().double().cpu().numpy()


def _ratio(after: float, before: float) -> float:
    return after / before if before else math.nan


@contextmanager
def _pool(
    workers: int, methods: Mapping[str, Method], hand_model: str
) -> Iterator[Callable[[list[_Piece]], Iterator[Found]]]:
    if workers == 1:
        with single_thread():
            evaluator = Evaluator(load_hand_models(hand_model), methods)
            yield lambda pieces: (evaluator.piece(*piece) for piece in pieces)
        return
    # Hand models and weights that cannot be read are told here: in a worker they would break the pool.
    models = load_hand_models(hand_model)
    for config in {method.config.weights: method.config for method in methods.values()}.values():
        PairRepair(models, config)
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(dict(methods), hand_model)) as pool:
        yield lambda pieces: pool.map(_work, pieces)


_evaluator: Evaluator | None = None


def _prepare(methods: Mapping[str, Method], hand_model: str) -> None:
    global _evaluator
    torch.set_num_threads(1)
    _evaluator = Evaluator(load_hand_models(hand_model), methods)


def _work(piece: _Piece) -> Found:
    assert _evaluator is not None
    return _evaluator.piece(*piece)
