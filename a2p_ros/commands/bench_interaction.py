"""``a2p bench interaction``: what two hands near each other cost the pipeline, one pair at a time."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from a2p_ros.commands import common
from a2p_ros.errors import DeviceError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from a2p_ros.interaction.hand_pairs import HandPairs
    from a2p_ros.interaction.stage import InteractionStage
    from a2p_ros.training.conditions import Conditions
    from a2p_ros.types import Pair, PlacedHand

#: Pairs are of these kinds of interaction: the fewest and the most vertices inside the other hand are among them.
_KINDS = ("hand_on_back", "fist_in_palm", "palm_to_palm", "fingertips")
#: Tries at a clean pair of each kind, penetrating pairs taken of them, and the seed of all.
_TRIES, _EACH, _SEED = 4, 2, 0
#: How far the left hand is moved along its ray so that boxes overlap and hands cannot touch, and aside for no overlap.
_BEHIND, _ASIDE = 0.25, 0.6


def add(kinds: Any) -> None:
    """Options of ``a2p bench interaction``."""
    parser = kinds.add_parser(
        "interaction",
        help="the gate and the repair of penetrating hands",
        description="Batch 1, synthetic pairs with noise of 6 mm. The gate decides whether hands can touch: boxes in "
        "the image, both meshes, boxes of their patches. The repair is the whole stage on a penetrating pair.",
    )
    parser.add_argument("--repeats", type=int, default=40, metavar="N", help="how often each pair is measured")
    parser.add_argument("--warm-up", type=int, default=5, metavar="N", help="how often before that")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CPU, and CUDA if there"
    )
    parser.add_argument("--weights", metavar="DIR", help="other weights than those shipped")
    parser.add_argument("--hand-model", default="", metavar="DIR", help="folder made by `a2p hand-model convert`")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make pairs, time gate and repair."""
    import torch

    from a2p_ros.config import InteractionConfig
    from a2p_ros.hand import load_hand_models

    if args.repeats < 1 or args.warm_up < 0:
        raise InputError(f"--repeats and --warm-up: expected 1 and 0 or more, got {args.repeats} and {args.warm_up}")
    cuda = torch.cuda.is_available()
    if args.device == "cuda" and not cuda:
        raise DeviceError("--device cuda: torch has no CUDA device here; --device cpu needs none")
    models = load_hand_models(args.hand_model)
    config = InteractionConfig(weights=args.weights or "")
    made = penetrating_pairs(models)
    results = []
    for device in [d for d in ("cpu", "cuda") if args.device in ("auto", d) and (d == "cpu" or cuda)]:
        results.append(Bench(models, config, device, made).measure(args.repeats, args.warm_up))
    result = results[0] | ({"cuda": results[1]} if len(results) > 1 else {})
    common.finish(args, result, [line for found in results for line in _lines(found)])
    return 0


def penetrating_pairs(models: Pair[Any]) -> Conditions:
    """Noisy pairs before a camera, some of each kind."""
    import torch

    from a2p_ros.interaction.hand_pairs import HandPairs
    from a2p_ros.torch_threads import single_thread
    from a2p_ros.training.conditions import noise_conditions
    from a2p_ros.training.interactions import InteractionGenerator

    generator, rng, clean = InteractionGenerator(models), torch.Generator().manual_seed(_SEED), []
    with single_thread():
        for kind in common.progress(_KINDS, total=len(_KINDS), unit="kind", what="pairs"):
            tried, kept = generator.attempt(kind, _TRIES, rng)
            clean.append(tried[kept][:_EACH])
        return noise_conditions(generator, HandPairs.joined(clean), rng)


class Bench:
    """Times one device on penetrating pairs, and on the same hands farther apart.

    Args:
        models: hand models, on the CPU.
        config: of the stage.
        device: cpu or cuda.
        made: penetrating pairs before a camera.
    """

    def __init__(self, models: Pair[Any], config: Any, device: str, made: Conditions) -> None:
        from a2p_ros.interaction.stage import InteractionStage
        from a2p_ros.torch_threads import single_thread

        self.stage: InteractionStage = InteractionStage(models, config, device)
        self._models, self._made, self._device = models, made, device
        self._threads: Callable[[], AbstractContextManager[None]] = single_thread if device == "cpu" else nullcontext
        self.pairs = {
            "contact": [placed(models, made, i) for i in range(len(made))],
            "near": [placed(models, made, i, behind=_BEHIND) for i in range(len(made))],
            "apart": [placed(models, made, i, aside=_ASIDE) for i in range(len(made))],
        }

    def measure(self, repeats: int, warm_up: int) -> dict[str, Any]:
        """The contract's keys; every list of times holds each pair as often as every other."""
        import numpy as np

        times: dict[str, list[float]] = defaultdict(list)
        parts: dict[str, list[float]] = defaultdict(list)
        with self._threads():
            for turn in range(-warm_up, repeats):
                spent: dict[str, list[float]] = defaultdict(list)
                for state, pairs in self.pairs.items():
                    for hands in pairs:
                        spent[f"gate_{state}"].append(self._timed(partial(self._gate, hands)))
                for hands in self.pairs["contact"]:
                    spent["gate_depth"].append(self._timed(partial(self.stage._contact, hands)))
                    spent["repair"].append(self._timed(partial(self._whole, hands)))
                of_parts = [self._parts(i) for i in range(len(self._made))]
                if turn >= 0:
                    for name, values in spent.items():
                        times[name] += values
                    for found in of_parts:
                        for name, seconds in found.items():
                            parts[name].append(seconds)
            inside = [self._inside(i) for i in range(len(self._made))]
            device = _named(self._device)
        times["gate"] = times["gate_contact"] + times["gate_near"]
        repair = self.stage.repair
        rest = np.array(times["repair"]) - times["gate_depth"] - parts["repair_alone"]
        return {
            **{f"{name}_ms": common.percentiles(values, 1e3) for name, values in sorted(times.items())},
            "parts_ms": {name: 1e3 * _median(values) for name, values in parts.items()}
            | {
                "gate_and_depth": 1e3 * _median(times["gate_depth"]),
                "placing_and_measuring_again": 1e3 * _median(rest),
            },
            "steps": repair.config.steps,
            "guidance_iterations": repair.guidance.iterations,
            "device": device,
            "model_id": repair.model_id,
            "pairs": len(self._made),
            "vertices_inside": sorted(inside),
            "repeats": repeats,
        }

    def _gate(self, hands: Pair[PlacedHand]) -> bool:
        """Whether hands can touch, as the stage finds out: the image's boxes, then those of the meshes' patches."""
        from a2p_ros.interaction.collision import contact_possible
        from a2p_ros.interaction.correction import pairs_of
        from a2p_ros.interaction.stage import boxes_near

        if not boxes_near(hands, self._made.camera):
            return False
        repair = self.stage.repair
        vertices = _vertices(repair.models, pairs_of(hands, self._models).to(repair.device))
        return bool(contact_possible(repair.meshes, vertices)[0])

    def _whole(self, hands: Pair[PlacedHand]) -> None:
        """The stage on a pair that was not there before: gate, repair, placing and measuring again."""
        from a2p_ros.types import Pair

        self.stage.reset()
        self.stage(Pair(hands.left, hands.right), self._made.camera, 0.0)

    def _parts(self, i: int) -> dict[str, float]:
        """Seconds of the repair alone, and of what it is made of when it is run step by step."""
        from a2p_ros.interaction.collision import inside_vertices
        from a2p_ros.interaction.guidance import CollisionGuide
        from a2p_ros.interaction.repair import view_of
        from a2p_ros.interaction.sampler import sample
        from a2p_ros.interaction.schedule import CosineSchedule

        repair = self.stage.repair
        pairs = self._made.condition[i : i + 1].to(repair.device)
        vertices = _vertices(repair.models, pairs)
        found = inside_vertices(repair.meshes, vertices)
        seen = self._made.evidence()[i : i + 1].to(repair.device)
        spent: dict[str, float] = defaultdict(float)
        spent["repair_alone"] = self._timed(lambda: repair(pairs, found, seen))
        view, condition = view_of(repair.models, pairs), repair.codec.encode(pairs)
        guide = CollisionGuide(repair.codec, repair.meshes, pairs, repair.guidance, view=view)
        given_to: list[Tensor] = []

        def guided(x: Tensor, share: float) -> Tensor:
            for _ in range(repair.guidance.iterations):
                given_to.append(x)
                (x, moved), seconds = self._result(partial(guide.step, x))
                spent["guidance"] += seconds
                if not moved:
                    break
            return x

        if repair.trained is None:
            x = condition
            for _ in range(repair.config.steps):
                x = guided(x, 1.0)
        else:
            denoiser = repair.trained.denoiser
            features, spent["features"] = self._result(lambda: repair.features(pairs, vertices, seen, found))
            given, spent["denoiser"] = self._result(lambda: denoiser.embed(condition, *features))

            def denoise(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
                clean, seconds = self._result(lambda: denoiser.denoise(x, t, condition, given))
                spent["denoiser"] += seconds
                return clean

            schedule = CosineSchedule.make()
            sample(
                denoise, condition, schedule, repair.config, guide=guided, noise=condition.new_zeros(condition.shape)
            )
        for x in given_to:
            hands = _vertices(repair.models, repair.codec.decode(x, pairs))
            spent["guidance_search"] += self._timed(partial(inside_vertices, repair.meshes, hands))
        spent["guidance_loss_and_gradient"] = max(spent["guidance"] - spent["guidance_search"], 0.0)
        return spent

    def _inside(self, i: int) -> int:
        from a2p_ros.interaction.collision import inside_vertices

        repair = self.stage.repair
        found = inside_vertices(
            repair.meshes, _vertices(repair.models, self._made.condition[i : i + 1].to(repair.device))
        )
        return len(found.left.batch) + len(found.right.batch)

    def _timed(self, work: Callable[[], Any]) -> float:
        return self._result(work)[1]

    def _result(self, work: Callable[[], Any]) -> tuple[Any, float]:
        import torch

        wait = torch.cuda.synchronize if self._device == "cuda" else _nothing
        with torch.no_grad():
            wait()
            begin = time.perf_counter()
            result = work()
            wait()
            return result, time.perf_counter() - begin


def placed(models: Pair[Any], made: Conditions, i: int, *, behind: float = 0.0, aside: float = 0.0) -> Pair[PlacedHand]:
    """Condition i as placed hands; the left one ``behind`` [m] farther along its ray, ``aside`` [m] to the left."""
    import numpy as np

    from a2p_ros.hand_frames import placed_hand
    from a2p_ros.types import HandPose, Pair, Side

    hands, joints = [], made.condition[i : i + 1].joints(models)
    for side in (Side.LEFT, Side.RIGHT):
        points = joints[side][0].double().numpy()
        rotations = made.condition.rotations[side][i].double().numpy()
        pose = HandPose(
            side=side,
            global_orient=rotations[0],
            hand_pose=rotations[1:],
            betas=made.condition.betas[side][i].double().numpy(),
            joints=points - points[0],
            keypoints_px=made.observed_px[side][i].double().numpy(),
            keypoint_confidence=made.weights[side][i].double().numpy(),
            confidence=1.0,
        )
        wrist = points[0]
        if side is Side.LEFT:
            wrist = wrist * (1 + behind / np.linalg.norm(wrist)) - [aside, 0.0, 0.0]
        hand = placed_hand(pose, wrist, made.camera, models[side])
        if hand is None:
            raise InputError(f"pair {i}: the {side.value} hand is not before the camera")
        hands.append(hand)
    return Pair(hands[0], hands[1])


def _vertices(models: Pair[Any], pairs: HandPairs) -> Pair[Tensor]:
    from a2p_ros.types import Pair

    both = pairs.forward(models)
    return Pair(both.left.vertices, both.right.vertices)


def _named(device: str) -> str:
    import os

    import torch

    if device == "cuda":
        return f"cuda, {torch.cuda.get_device_name()}"
    return f"cpu, {torch.get_num_threads()} thread of {len(os.sched_getaffinity(0))} cores"


def _nothing() -> None:
    pass


def _median(values: Iterable[float]) -> float:
    import numpy as np

    return float(np.median(list(values)))


def _lines(result: dict[str, Any]) -> list[str]:
    def row(name: str, key: str) -> str:
        return f"  {name:<44}{result[key]['p50']:8.2f}{result[key]['p99']:8.2f}"

    inside = result["vertices_inside"]
    return [
        f"{result['model_id']}, {result['device']}, {result['steps']} steps with {result['guidance_iterations']} of "
        f"guidance; {result['pairs']} pairs with {inside[0]} to {inside[-1]} vertices inside, "
        f"{result['repeats']} times each",
        f"  {'[ms]':<44}{'p50':>8}{'p99':>8}",
        row("gate, boxes overlap", "gate_ms"),
        row("  boxes in the image apart", "gate_apart_ms"),
        row("  boxes overlap, hands apart", "gate_near_ms"),
        row("  hands in contact", "gate_contact_ms"),
        row("gate with the search for the depth", "gate_depth_ms"),
        row("repair: the whole stage, hands penetrate", "repair_ms"),
        "  of which, medians",
        *(f"    {name.replace('_', ' '):<42}{value:8.2f}" for name, value in result["parts_ms"].items()),
    ]
