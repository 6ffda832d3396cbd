"""The repair in the node, over real DDS at 30 Hz.

The reconstructions are scripted: what the smoothing hands on is replaced by two hands back to back (overlapping hands
are not detected yet). Everything after it is the real pipeline and the real node.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ros_helpers import require_ros, wait_until

require_ros()

from a2p_ros.msg import TwoHandMANO
from interacting_hands import backs
from rclpy.parameter import Parameter
from ros_peer import HEIGHT, WIDTH, Peer, new_peer

from a2p_ros.camera import CameraModel
from a2p_ros.detection import tflite
from a2p_ros.errors import MissingDependencyError
from a2p_ros.pipeline import TwoHandPipeline
from a2p_ros.types import Pair

CAMERA = CameraModel.assume(WIDTH, HEIGHT, 1.05)
APART, DEEP = 0.070, 0.030


class Script:
    """Stands in for the smoothing of a pipeline: whatever came, these are the hands."""

    def __init__(self) -> None:
        self.gap, self.broken = APART, False

    def __call__(self, *_: Any) -> Pair[Any]:
        hands = backs(self.gap, camera=CAMERA)
        if self.broken:
            pose = dataclasses.replace(hands.left.pose, betas=np.full(10, np.nan))
            return Pair(dataclasses.replace(hands.left, pose=pose), hands.right)
        return hands


@pytest.fixture(scope="module")
def loaded() -> TwoHandPipeline:
    try:
        return TwoHandPipeline()
    except MissingDependencyError as error:
        pytest.skip(f"no pipeline here: {error} ({tflite.INSTALL})")


@pytest.fixture
def script(loaded: TwoHandPipeline, monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()
    monkeypatch.setattr(type(loaded.smoother), "__call__", made)
    return made


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A camera and a subscriber."""
    with new_peer() as made:
        yield made


def stream_until(peer: Peer, wanted: Any, what: str) -> TwoHandMANO:
    """Publish at 30 Hz; the first message from now on that is as wanted."""
    seen, timer = len(peer.messages), peer.node.create_timer(1 / 30, peer.image)
    try:
        return wait_until(lambda: next((m for m in peer.messages[seen:] if wanted(m)), None), what=what)
    finally:
        timer.cancel()


def apart(message: TwoHandMANO) -> float:
    return float(np.linalg.norm(message.relative_translation))


def test_a_penetrating_pair_is_repaired_and_a_clean_one_is_not(
    peer: Peer, loaded: TwoHandPipeline, script: Script
) -> None:
    peer.start(loaded)
    clean = stream_until(peer, lambda m: m.left.valid and m.right.valid, "two hands")
    assert not clean.repaired and not clean.interacting
    assert clean.penetration_before == clean.penetration_after == 0.0
    assert clean.model_id == loaded.model_id and clean.model_id.endswith(loaded.interaction.repair.model_id)

    script.gap = DEEP
    repaired = stream_until(peer, lambda m: m.repaired, "a repaired pair")
    assert repaired.interacting and repaired.left.valid and repaired.right.valid
    assert 0.005 < repaired.penetration_before < 0.008
    assert repaired.penetration_after < repaired.penetration_before
    settled = stream_until(peer, lambda m: m.repaired and m.penetration_after < 0.0005, "hands parted")
    assert settled.penetration_before == pytest.approx(repaired.penetration_before)
    assert apart(settled) > np.linalg.norm(script().left.wrist - script().right.wrist) + 0.002
    assert np.allclose(settled.left.keypoints[:3], [getattr(settled.left.wrist.position, k) for k in "xyz"])

    script.gap = APART
    back = stream_until(peer, lambda m: not m.repaired, "the clean pair")
    assert back.penetration_before == back.penetration_after == 0.0
    values = {v.key: v.value for v in peer.status().values}
    assert int(values["frames repaired"]) >= 2 and values["repair"].startswith(loaded.interaction.repair.model_id)
    assert float(values["penetration before [mm]"]) == 0.0 and "interact p50 [ms]" in values


def test_a_rejected_repair_is_said_and_the_hands_are_those_that_came(
    peer: Peer, loaded: TwoHandPipeline, script: Script
) -> None:
    node = peer.start(loaded)
    (result,) = node.set_parameters([Parameter("interaction.max_move", value=0.001)])
    assert result.successful
    script.gap = DEEP
    message = stream_until(peer, lambda m: m.interacting, "the pair")
    assert not message.repaired and message.penetration_after == message.penetration_before > 0.005
    assert np.allclose(message.left.keypoints, script().left.joints.reshape(-1), atol=1e-6)
    status = peer.status(lambda s: any(v.key == "last rejected repair" for v in s.values))
    values = {v.key: v.value for v in status.values}
    assert "would move a joint by" in values["last rejected repair"] and int(values["repairs rejected"]) >= 1
    assert "repair of the hands rejected" in status.message


def test_a_hand_that_is_none_leaves_as_not_valid_and_the_next_is_fine(
    peer: Peer, loaded: TwoHandPipeline, script: Script
) -> None:
    peer.start(loaded)
    script.gap, script.broken = DEEP, True
    message = stream_until(peer, lambda m: m.right.valid, "the whole hand")
    assert not message.left.valid and not message.repaired and not message.interacting
    assert math.isnan(message.penetration_before) and math.isnan(message.penetration_after)
    script.broken = False
    assert stream_until(peer, lambda m: m.left.valid, "both hands").repaired


def test_the_newest_frame_is_kept_while_a_repair_runs(
    peer: Peer, loaded: TwoHandPipeline, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair of 0.12 s: three of four pictures are dropped, and no answer is about an old one."""
    repair, begun = loaded.interaction.repair, []

    def slow(*args: Any) -> Any:
        begun.append(time.monotonic())
        time.sleep(0.12)
        return type(repair).__call__(repair, *args)

    slow_repair: Any = type(
        "Slow", (), {"__call__": lambda _, *args: slow(*args), "__getattr__": lambda _, n: getattr(repair, n)}
    )()
    monkeypatch.setattr(loaded.interaction, "repair", slow_repair)
    node = peer.start(loaded)
    script.gap = DEEP
    peer.answer()
    begun.clear()
    last = peer.stream(1.5)
    assert peer.message_of(last).repaired, "the very last picture is answered"
    assert node._worker.dropped >= 10 and len(begun) >= 5
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in peer.messages]
    assert stamps == sorted(stamps)
    waits = [m.latency for m in peer.messages[2:]]
    assert np.median(waits) < 0.35, "at most one picture waits, and it is the newest"
