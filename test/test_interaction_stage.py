"""The stage for two hands: gate, repair, steadiness over time, rejection, and hands that are none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hand_geometry import winding_number
from interacting_hands import CAMERA, MODELS, backs, hand_at, jittering, vertices_of
from scipy.spatial.transform import Rotation

from a2p_ros.config import InteractionConfig
from a2p_ros.errors import WeightsError
from a2p_ros.interaction.correction import Correction, pairs_of
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.repair import PairRepair
from a2p_ros.interaction.stage import Interaction, InteractionStage
from a2p_ros.types import Pair, PlacedHand, Side, Status

REPAIR = PairRepair(MODELS, InteractionConfig(steps=1))
MESHES = {side: np.asarray(model.faces) for side, model in MODELS.items()}


class Push:
    """A repair that moves the left hand away from the right one, by 1.3 times the greatest depth; it counts."""

    device, meshes, models, model_id, trained = REPAIR.device, REPAIR.meshes, REPAIR.models, "push", None

    def __init__(self, change: Callable[[HandPairs, float], HandPairs] | None = None) -> None:
        self.calls, self._change = 0, change or (lambda pairs, depth: shifted(pairs, 1.3 * depth))

    def __call__(self, pairs: HandPairs, found: Any = None, seen: Any = None) -> HandPairs:
        self.calls += 1
        left, right = ((out.vertices[0], hits) for (_, out), (_, hits) in self._both(pairs, found))
        deepest = 0.0
        for (points, hits), (other, _) in ((left, right), (right, left)):
            if len(hits.vertex):
                deepest = max(deepest, float((points[hits.vertex] - hits.surface.on(other[None])).norm(dim=-1).max()))
        return self._change(pairs, deepest)

    def _both(self, pairs: HandPairs, found: Any) -> Any:
        return zip(pairs.forward(MODELS).items(), found.items(), strict=True)


def shifted(pairs: HandPairs, by: float) -> HandPairs:
    """The left hand moved along x, where the backs part it from the right one."""
    moved = pairs.transl.left + torch.tensor([by, 0.0, 0.0])
    return dataclasses.replace(pairs, transl=Pair(moved, pairs.transl.right))


def stage(repair: Any = REPAIR, **config: Any) -> InteractionStage:
    return InteractionStage(MODELS, InteractionConfig(**config), repair=repair)


def deepest(hands: Pair[PlacedHand]) -> float:
    """Penetration [m] by solid angles and every face of the other mesh."""
    vertices, worst = {side: vertices_of(hand) for side, hand in hands.items()}, 0.0
    for side in Side:
        points, other, faces = vertices[side], vertices[side.other], MESHES[side.other]
        near = ((points > other.min(0)) & (points < other.max(0))).all(1)
        points = points[near]
        points = points[np.abs(winding_number(points, other, faces)) > 0.5]
        for point in points:
            feet = trimesh.triangles.closest_point(other[faces], np.repeat(point[None], len(faces), 0))
            worst = max(worst, float(np.linalg.norm(feet - point, axis=1).min()))
    return worst


def joints(hands: Pair[Any]) -> np.ndarray:
    return np.stack([hand.joints for _, hand in hands.items()])


def untouched(found: Interaction, hands: Pair[Any]) -> bool:
    return found.hands.left is hands.left and found.hands.right is hands.right and not found.repaired


# Gate


def test_the_repair_is_given_the_pair_as_the_camera_sees_it() -> None:
    """The repair moves hands along the view rather than across it."""
    seen: list[HandPairs] = []

    def look(pairs: HandPairs, depth: float) -> HandPairs:
        seen.append(pairs)
        return shifted(pairs, 1.3 * depth)

    hands = backs(0.026)
    assert stage(Push(look))(hands, CAMERA, 0.0).repaired
    given = seen[0].joints(MODELS)
    for side, hand in hands.items():
        assert np.allclose(given[side][0].numpy(), hand.joints, atol=1e-5)


def test_hands_apart_cost_no_mesh_and_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    push, hands = Push(), backs(0.25)
    made = stage(push)
    monkeypatch.setattr(made, "_contact", lambda *_: pytest.fail("a mesh was made"))
    for n in range(3):
        found = made(hands, CAMERA, n / 30)
        assert untouched(found, hands) and not found.interacting and not found.rejected
        assert found.penetration_before == found.penetration_after == 0.0
    assert push.calls == 0


@pytest.mark.parametrize(("gap", "near"), [(0.060, False), (0.050, False), (0.0385, True)])
def test_hands_near_each_other_interact_and_stay(gap: float, near: bool) -> None:
    push, hands = Push(), backs(gap)
    found = stage(push)(hands, CAMERA, 0.0)
    assert untouched(found, hands) and found.interacting is near and push.calls == 0
    assert found.penetration_before == found.penetration_after == deepest(hands) == 0


def test_the_gate_sees_flesh_where_the_joints_boxes_are_apart() -> None:
    """Back to back the two skeletons are as thin as lines in the image."""
    hands = backs(0.032)
    assert hands.left.box.iou(hands.right.box) == 0 and deepest(hands) > 0.003
    assert stage()(hands, CAMERA, 0.0).repaired


def test_a_pair_less_deep_than_min_depth_stays() -> None:
    push, hands, setting = Push(), backs(0.0348), InteractionConfig().min_depth
    found = stage(push)(hands, CAMERA, 0.0)
    assert 0.001 < found.penetration_before == pytest.approx(deepest(hands), abs=2e-6) and untouched(found, hands)
    assert found.penetration_before < setting and push.calls == 0
    assert stage(push, min_depth=0.001)(hands, CAMERA, 0.0).repaired


# Repair


@pytest.mark.parametrize("repair", [REPAIR, Push()], ids=["guidance", "push"])
@pytest.mark.parametrize("turn", [None, Rotation.from_euler("xyz", [0.5, 1.1, -2.0]).as_matrix()], ids=["up", "turned"])
def test_a_penetrating_pair_leaves_parted_and_whole(repair: Any, turn: np.ndarray | None) -> None:
    hands = backs(0.030, turn=turn) if repair is REPAIR else backs(0.030)
    hands = Pair(*(dataclasses.replace(hand, status=Status.TRACKED) for _, hand in hands.items()))
    found = stage(repair)(hands, CAMERA, 0.0)
    assert found.interacting and found.repaired and not found.rejected
    assert found.penetration_before == pytest.approx(deepest(hands), abs=2e-6)
    moved = Pair(found.hands.left, found.hands.right)
    assert found.penetration_after == pytest.approx(deepest(moved), abs=2e-6)
    assert found.penetration_after < 0.25 * found.penetration_before
    for side, hand in moved.items():
        again = hand_at(side, hand.wrist, rotations(hand), hand.pose.betas)
        assert np.allclose(hand.joints, again.joints, atol=1e-6) and np.allclose(hand.joints[0], hand.wrist)
        assert np.allclose(hand.pose.joints, hand.joints - hand.wrist)
        assert np.allclose(hand.transl, again.transl, atol=1e-6)
        assert np.allclose(hand.keypoints_px, CAMERA.project(hand.joints))
        assert hand.box == pytest.approx((*hand.keypoints_px.min(0), *hand.keypoints_px.max(0)))
        assert hand.status is Status.TRACKED and hand.observed_px is hands[side].observed_px
        assert np.allclose(rotations(hand) @ rotations(hand).transpose(0, 2, 1), np.eye(3), atol=1e-6)


def rotations(hand: PlacedHand) -> np.ndarray:
    return np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])


def test_both_hands_share_the_move_and_keep_the_repairs_way_between_them() -> None:
    hands = backs(0.030)
    found = stage(Push(lambda pairs, _: shifted(pairs, 0.012)))(hands, CAMERA, 0.0)
    assert found.hands.left is not None and found.hands.right is not None
    moves = joints(found.hands) - joints(hands)
    assert np.allclose(moves[0], [0.006, 0, 0], atol=1e-6) and np.allclose(moves[1], [-0.006, 0, 0], atol=1e-6)


def test_landmarks_move_with_the_joints() -> None:
    offset = np.full((21, 3), 0.002)
    hands = Pair(
        *(
            dataclasses.replace(hand, pose=dataclasses.replace(hand.pose, landmarks=hand.pose.joints + offset))
            for _, hand in backs(0.030).items()
        )
    )
    for _, hand in stage()(hands, CAMERA, 0.0).hands.items():
        assert hand is not None and hand.pose.landmarks is not None
        assert np.allclose(hand.pose.landmarks - hand.pose.joints, offset)


def test_a_correction_says_all_that_a_repair_changed_but_the_place() -> None:
    hands, rng = backs(0.030), np.random.default_rng(3)
    before = pairs_of(hands, MODELS)
    noise = [torch.as_tensor(Rotation.from_rotvec(rng.normal(0, 0.1, (16, 3))).as_matrix()).float() for _ in Side]
    noise[1][0] = torch.eye(3)
    after = HandPairs(
        Pair(*(b + torch.as_tensor(rng.normal(0, 0.1, (1, 10))).float() for _, b in before.betas.items())),
        Pair(before.rotations.left @ noise[0], before.rotations.right @ noise[1]),
        Pair(before.transl.left + 0.01, before.transl.right),
    )
    correction = Correction.between(before, after, MODELS)
    poses, apart = correction.applied(hands, MODELS)
    made = after.joints(MODELS)
    for side, pose in poses.items():
        assert np.allclose(pose.joints, (made[side] - made[side][:, :1])[0].numpy(), atol=1e-6)
    assert np.allclose(apart, (made.left[0, 0] - made.right[0, 0]).numpy(), atol=1e-6)
    assert np.allclose(correction.scaled(0.0).shift, 0) and correction.distance(correction) == 0
    farthest = np.abs(made.left - before.joints(MODELS).left).norm(dim=-1).max()
    assert 0.5 * farthest < correction.distance(Correction.none()) < 4 * farthest


# Over time


def largest_step(sequence: list[Pair[Any]]) -> float:
    every = np.stack([joints(hands) for hands in sequence])
    return float(np.linalg.norm(np.diff(every, axis=0), axis=-1).max())


def flips(found: list[Interaction]) -> int:
    return int(np.abs(np.diff([answer.repaired for answer in found]).astype(int)).sum())


def test_a_jittering_contact_does_not_switch_the_repair_on_and_off() -> None:
    """300 frames about the threshold: without hysteresis the jitter alone crosses it dozens of times."""
    came = list(jittering(0.0345 - 0.001 * np.sin(np.arange(300) / 40)))
    made = stage()
    found = [made(hands, CAMERA, stamp) for stamp, hands in came]
    before = np.array([answer.penetration_before for answer in found])
    over = before > InteractionConfig().min_depth
    crossings = np.abs(np.diff(over.astype(int))).sum()
    assert crossings > 25 and 0.2 < over.mean() < 0.8
    assert flips(found) <= crossings / 4
    assert largest_step([a.hands for a in found]) <= 1.5 * largest_step([hands for _, hands in came])
    assert np.mean([a.penetration_after for a in found]) < 0.5 * before.mean()


def test_a_repair_that_cannot_decide_does_not_shake_the_hands() -> None:
    """It parts by 8 mm, upwards in one frame and downwards in the next."""
    signs = iter([1, -1] * 100)

    def undecided(pairs: HandPairs, depth: float) -> HandPairs:
        up = torch.tensor([0.0, 0.012 * next(signs), 0.0])
        out = shifted(pairs, 0.006)
        return dataclasses.replace(out, transl=Pair(out.transl.left + up, out.transl.right))

    came = list(jittering(np.full(60, 0.032)))
    made = stage(Push(undecided))
    found = [made(hands, CAMERA, stamp).hands for stamp, hands in came]
    assert largest_step(found) <= 1.5 * largest_step([hands for _, hands in came])


def test_the_repair_fades_in_and_out_and_then_lets_go() -> None:
    gaps = np.concatenate([np.linspace(0.045, 0.030, 30), np.full(10, 0.030), np.linspace(0.030, 0.060, 45)])
    made, push, found = None, Push(), []
    made = stage(push)
    for n, gap in enumerate(gaps):
        hands = backs(gap)
        found.append((made(hands, CAMERA, n / 30), hands))
    moved = np.array([np.linalg.norm(joints(a.hands) - joints(h), axis=-1).max() for a, h in found])
    assert moved[0] == moved[-1] == 0 and moved.max() > 0.003
    assert np.abs(np.diff(moved)).max() < 0.0025, "8 mm in 15 frames, never at once"
    assert untouched(*found[-1]) and flips([a for a, _ in found]) == 2
    calls = push.calls
    made(backs(0.036), CAMERA, len(gaps) / 30)
    assert push.calls == calls, "off for long enough, so that little depth does not switch it on"


def test_a_new_pair_is_repaired_at_once_and_a_pair_that_comes_closer_is_not() -> None:
    deep = backs(0.030)
    full = joints(stage(Push())(deep, CAMERA, 0.0).hands)
    made = stage(Push())
    made(backs(0.045), CAMERA, 0.0)
    assert not np.allclose(joints(made(deep, CAMERA, 0.033).hands), full, atol=5e-4)
    for stamp in (0.0, 2.0):
        assert np.allclose(joints(made(deep, CAMERA, stamp).hands), full), "back in time, and after a gap"
    made(Pair(None, deep.right), CAMERA, 2.033)
    assert np.allclose(joints(made(deep, CAMERA, 2.067).hands), full)


def test_the_same_frames_give_the_same_hands() -> None:
    came = list(jittering(np.full(4, 0.031)))
    one, other = stage(), stage(PairRepair(MODELS, InteractionConfig(steps=1)))
    for stamp, hands in came:
        assert np.array_equal(joints(one(hands, CAMERA, stamp).hands), joints(other(hands, CAMERA, stamp).hands))


def test_settings_hold_from_the_next_frame_on() -> None:
    made, hands = stage(Push(), enabled=False), backs(0.030)
    off = made(hands, CAMERA, 0.0)
    assert untouched(off, hands) and off.penetration_after == off.penetration_before > 0.005
    assert made.model_id == "" and made.report == "disabled"
    made.update(InteractionConfig())
    assert made(hands, CAMERA, 0.033).repaired and made.model_id == "push"
    assert made.report == "push on cpu, no weights for open_hand: guidance alone"
    made.update(InteractionConfig(enabled=False))
    assert made(hands, CAMERA, 0.067).repaired, "it fades out"
    for n in range(30):
        last = made(hands, CAMERA, 0.1 + n / 30)
    assert untouched(last, hands)


# Rejection


def fail(error: Exception) -> Callable[[HandPairs, float], HandPairs]:
    def change(pairs: HandPairs, depth: float) -> HandPairs:
        raise error

    return change


def not_finite(pairs: HandPairs, depth: float) -> HandPairs:
    return dataclasses.replace(pairs, betas=Pair(pairs.betas.left * math.nan, pairs.betas.right))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (not_finite, "the repair by push is not finite"),
        (lambda pairs, _: shifted(pairs, 0.160), "would move a joint by 160 mm, at most 100 mm are taken"),
        (lambda pairs, _: shifted(pairs, -0.004), "does not reduce the penetration: 6.4 mm before, 9.5 mm after"),
        (lambda pairs, _: pairs, "does not reduce the penetration: 6.4 mm before, 6.4 mm after"),
        (fail(RuntimeError("CUDA out of memory\nin detail")), "RuntimeError: CUDA out of memory"),
        (fail(WeightsError("of another hand")), "WeightsError: of another hand"),
    ],
    ids=["not finite", "too far", "deeper", "nothing done", "out of memory", "weights"],
)
def test_a_bad_repair_is_rejected_and_the_hands_stay(change: Any, says: str) -> None:
    hands = backs(0.030)
    found = stage(Push(change))(hands, CAMERA, 0.0)
    assert untouched(found, hands) and found.interacting and says in found.rejected and "\n" not in found.rejected
    assert found.penetration_after == found.penetration_before == pytest.approx(deepest(hands), abs=2e-6)


def test_how_far_is_too_far_is_a_setting() -> None:
    push = Push(lambda pairs, _: shifted(pairs, 0.060))
    assert stage(push, max_move=0.07)(backs(0.030), CAMERA, 0.0).repaired
    assert not stage(push, max_move=0.05)(backs(0.030), CAMERA, 0.0).repaired


def test_a_repair_that_fails_in_a_stream_lets_the_hands_back_slowly() -> None:
    fine, hands = [True], backs(0.030)

    def sometimes(pairs: HandPairs, depth: float) -> HandPairs:
        return shifted(pairs, 0.008 if fine[0] else 0.180)

    made = stage(Push(sometimes))
    out = [made(hands, CAMERA, 0.0)]
    fine[0] = False
    out += [made(hands, CAMERA, (n + 1) / 30) for n in range(20)]
    assert out[0].repaired and not out[0].rejected and "180 mm" in out[1].rejected
    assert largest_step([a.hands for a in out]) < 0.0025
    assert untouched(out[-1], hands) and out[-1].penetration_after == out[-1].penetration_before


# Bad input


def broken(name: str, value: Any) -> Callable[[PlacedHand], PlacedHand]:
    def change(hand: PlacedHand) -> PlacedHand:
        if name in {f.name for f in dataclasses.fields(hand)}:
            return dataclasses.replace(hand, **{name: value})
        return dataclasses.replace(hand, pose=dataclasses.replace(hand.pose, **{name: value}))

    return change


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (broken("betas", np.full(10, np.nan)), "not finite"),
        (broken("joints", np.full((21, 3), np.inf)), "not finite"),
        (broken("transl", np.full(3, np.nan)), "not finite"),
        (broken("betas", np.full(10, 1e9)), "not of human size"),
        (broken("global_orient", np.zeros((3, 3))), "rotations that are none"),
        (broken("hand_pose", np.full((15, 3, 3), 1e30)), "rotations that are none"),
    ],
    ids=["betas nan", "joints inf", "transl nan", "betas huge", "no rotation", "rotations huge"],
)
def test_a_hand_that_is_none_passes_through_and_nothing_is_claimed(side: Side, change: Any, says: str) -> None:
    both = {s: change(hand) if s is side else hand for s, hand in backs(0.030).items()}
    hands = Pair(both[Side.LEFT], both[Side.RIGHT])
    push = Push()
    found = stage(push)(hands, CAMERA, 0.0)
    assert untouched(found, hands) and push.calls == 0
    assert math.isnan(found.penetration_before) and math.isnan(found.penetration_after)
    assert found.rejected.startswith(f"the {side.value} hand") and says in found.rejected


@pytest.mark.parametrize("missing", [(Side.LEFT,), (Side.RIGHT,), tuple(Side)])
def test_one_hand_or_none_passes_through(missing: tuple[Side, ...]) -> None:
    there = [None if side in missing else hand for side, hand in backs(0.030).items()]
    found = stage()(Pair(*there), CAMERA, 0.0)
    assert untouched(found, Pair(*there)) and not found.interacting and found.penetration_before == 0.0


def test_hands_kilometres_apart_along_one_ray_do_not_touch() -> None:
    hands = backs(0.030)
    far = hand_at(Side.LEFT, hands.left.wrist * 5000, rotations(hands.left), np.zeros(10))
    pair = Pair(far, hands.right)
    found = stage()(pair, CAMERA, 0.0)
    assert untouched(found, pair) and not found.interacting and found.penetration_before == 0.0


def test_hands_on_top_of_each_other_are_answered() -> None:
    right = backs(0.030).right
    mirrored = np.diag([-1.0, 1, 1]) @ rotations(right) @ np.diag([-1.0, 1, 1])
    for turns in (rotations(right), mirrored):
        pair = Pair(hand_at(Side.LEFT, right.wrist, turns, np.zeros(10)), right)
        found = stage()(pair, CAMERA, 0.0)
        assert found.interacting and found.penetration_before > 0.002
        assert found.repaired or (untouched(found, pair) and found.rejected)
        assert found.penetration_after <= found.penetration_before


def test_nothing_raises_when_the_meshes_themselves_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, made = backs(0.030), stage()
    monkeypatch.setattr(made, "_contact", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    found = made(hands, CAMERA, 0.0)
    assert untouched(found, hands) and math.isnan(found.penetration_before) and "no memory" in found.rejected
