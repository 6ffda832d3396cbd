"""The node around the pipeline: lifecycle, services, parameters, diagnostics, what is looked at.

The pipeline is scripted (``ros_helpers.ScriptedPipeline``); images and messages go over real DDS.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ros_helpers import Ros, ScriptedPipeline, require_ros, wait_until

require_ros()

from a2p_ros.msg import TwoHandMesh
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_peer import HEIGHT, WIDTH, Peer, new_peer, nobody
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from a2p_ros.config import PipelineConfig
from a2p_ros.errors import ConfigError, DeviceError, HandModelError, WeightsError
from a2p_ros.ros.hands_node import HandsNode
from a2p_ros.ros.parameters import NodeConfig
from a2p_ros.ros.running import spin
from a2p_ros.ros.worker import LatestWorker
from a2p_ros.types import Side


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A camera and a subscriber."""
    with new_peer() as made:
        yield made


# Lifecycle


def test_models_are_loaded_and_warmed_on_configure_and_states_follow(peer: Peer) -> None:
    node = peer.start(activate=False)
    assert node.state == "unconfigured" and not peer.pipeline.warmed
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS and peer.pipeline.warmed
    assert node.state == "inactive"
    for _ in range(2):
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS and node.state == "active"
        wait_until(lambda: peer.images.get_subscription_count() and node._outputs._hands.get_subscription_count())
        assert peer.answer().left.valid
        count = len(peer.messages)
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        wait_until(lambda: len(peer.messages) > count, what="the last message")  # noqa: B023
        assert nobody(peer.messages[-1])
        wait_until(lambda: not peer.images.get_subscription_count())
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS and node.state == "unconfigured"
    assert node.pipeline is None
    assert node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS and node.state == "finalized"


@pytest.mark.parametrize(
    "error",
    [
        WeightsError("no ONNX file at 'x'"),
        HandModelError("not a MANO file"),
        DeviceError("cuda was not granted"),
        OSError(),
    ],
)
def test_models_that_do_not_load_leave_the_node_unconfigured_and_said(peer: Peer, error: Exception) -> None:
    def make(config: PipelineConfig) -> Any:
        raise error

    node = peer.ros.add(HandsNode(make_pipeline=make, context=peer.ros.context))
    assert not node.autostart() and node.state == "unconfigured"
    status = peer.status()
    assert status.level == DiagnosticStatus.ERROR and type(error).__name__ in status.message
    assert str(error) in status.message
    node._make_pipeline = lambda config: ScriptedPipeline()
    assert node.autostart() and node.state == "active"


def test_transition_that_the_state_lacks_does_not_end_the_node(peer: Peer) -> None:
    node = peer.start()
    logged: list[str] = []
    executor, stop = SingleThreadedExecutor(context=peer.ros.context), threading.Event()

    class Logger:
        def error(self, text: str) -> None:
            logged.append(text)
            stop.set()

    other = HandsNode(make_pipeline=lambda c: ScriptedPipeline(), context=peer.ros.context, namespace="other")
    timer = other.create_timer(0.01, other.trigger_deactivate)
    executor.add_node(other)
    spin(executor, stop, Logger(), peer.ros.context)
    timer.cancel()
    executor.shutdown()
    other.destroy_node()
    assert logged and node.state == "active"


# Services and parameters


def test_enable_stops_and_starts_inference(peer: Peer) -> None:
    peer.start()
    assert peer.answer().left.valid
    count = len(peer.messages)
    assert peer.call(SetBool, "enable", SetBool.Request(data=False)).success
    wait_until(lambda: len(peer.messages) > count and nobody(peer.messages[-1]))
    calls = len(peer.pipeline.stamps)
    count = len(peer.messages)
    peer.stream(0.4)
    assert len(peer.pipeline.stamps) == calls and len(peer.messages) == count, "said once, then quiet"
    assert peer.call(SetBool, "enable", SetBool.Request(data=True)).success
    assert peer.answer().left.valid


def test_reset_service_and_services_while_not_active(peer: Peer) -> None:
    node = peer.start()
    peer.answer()
    before = peer.pipeline.resets
    assert peer.call(Trigger, "reset", Trigger.Request()).success
    peer.answer()
    assert peer.pipeline.resets == before + 1
    node.trigger_deactivate()
    refused = peer.call(SetBool, "enable", SetBool.Request(data=True))
    assert not refused.success and "inactive" in refused.message


def test_every_parameter_is_described_and_read_only_unless_runtime(peer: Peer) -> None:
    node = peer.start(activate=False)
    runtime = {name: info.runtime for name, _, info in PipelineConfig.flat_settings()}
    runtime |= {
        f: NodeConfig.__dataclass_fields__[f].metadata["setting"].runtime for f in NodeConfig.__dataclass_fields__
    }
    for name, changes in runtime.items():
        described = node.describe_parameter(name)
        assert len(described.description) > 20 and described.read_only is not changes, name
        if described.type == ParameterType.PARAMETER_DOUBLE:
            assert described.floating_point_range, name
    choices = node.describe_parameter("image_rectified").additional_constraints
    assert choices == "one of auto, yes, no"


def test_runtime_parameter_reaches_the_pipeline_and_bad_values_are_refused(peer: Peer) -> None:
    node = peer.start()
    (result,) = node.set_parameters([Parameter("detection.min_score", value=0.7)])
    assert result.successful
    peer.answer()
    assert peer.pipeline.config.detection.min_score == 0.7
    for name, value, match in [
        ("detection.min_score", 1.5, ""),
        ("detection.backend", "rtmdet", "read-only"),
        ("image_topic", "other", "read-only"),
        ("markers", "balloons", "expected one of 'mesh', 'skeleton', 'none'"),
        ("max_age", -1.0, ""),
    ]:
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful and match in result.reason, (name, result.reason)
    assert node.settings.pipeline.detection.min_score == 0.7 and node.settings.node.markers == "mesh"


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("max_age", 1, "parameter max_age: expected double .write 1.0, not 1."),
        ("max_age", 99.0, "parameter max_age"),
        ("detection.backend", "magic", "expected one of 'mediapipe', 'a2p', 'combined', 'rtmdet', got 'magic'"),
    ],
)
def test_bad_parameter_at_start_is_named(peer: Peer, name: str, value: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        HandsNode(context=peer.ros.context, parameter_overrides=[Parameter(name, value=value)])


# What is looked at


def test_markers_appear_and_vanish_with_the_hand(peer: Peer) -> None:
    node = peer.start()
    arrays: list[MarkerArray] = []
    peer.node.create_subscription(MarkerArray, "hands/markers", arrays.append, 10)
    wait_until(lambda: node._outputs._markers.get_subscription_count())
    image = peer.image()
    shown = {(m.ns, m.type) for m in wait_until(lambda: arrays)[0].markers if m.action == Marker.ADD}
    assert shown == {("left", Marker.TRIANGLE_LIST), ("right", Marker.TRIANGLE_LIST)}
    by_side = {m.ns: m for m in arrays[0].markers if m.action == Marker.ADD}
    assert by_side["left"].color != by_side["right"].color and len(by_side["left"].points) == 6
    assert by_side["left"].header == image.header and by_side["left"].lifetime.nanosec == 500_000_000
    node.set_parameters([Parameter("markers", value="skeleton")])
    peer.pipeline.sides = (Side.RIGHT,)
    arrays.clear()
    peer.answer()
    markers = wait_until(lambda: arrays)[0].markers
    assert {m.type for m in markers if m.action == Marker.ADD} == {Marker.LINE_LIST, Marker.SPHERE_LIST}
    assert {m.ns for m in markers if m.action == Marker.ADD} == {"right"}
    assert {m.id for m in markers if m.ns == "left" and m.action == Marker.DELETE} == {0, 1, 2}
    arrays.clear()
    gone = wait_until(lambda: [a for a in arrays if all(m.action == Marker.DELETE for m in a.markers)])
    assert {m.ns for m in gone[0].markers} == {"left", "right"}


def test_overlay_and_mesh_are_made_only_for_subscribers(peer: Peer) -> None:
    node = peer.start()
    overlays: list[Image] = []
    meshes: list[TwoHandMesh] = []
    made: list[int] = []
    mesh = peer.pipeline.mesh
    peer.pipeline.mesh = lambda placed: made.append(1) or mesh(placed)
    peer.answer()
    assert not made
    peer.node.create_subscription(Image, "hands/overlay", overlays.append, 1)
    peer.node.create_subscription(TwoHandMesh, "hands/mesh", meshes.append, 1)
    outputs = node._outputs
    wait_until(lambda: outputs._overlay.get_subscription_count() and outputs._mesh.get_subscription_count())
    peer.pipeline.sides = (Side.LEFT,)
    image = peer.image()
    wait_until(lambda: overlays and meshes)
    assert overlays[0].header == image.header and (overlays[0].width, overlays[0].height) == (WIDTH, HEIGHT)
    assert np.frombuffer(overlays[0].data, np.uint8).any(), "something was drawn onto black"
    assert len(meshes[0].left_vertices) == 12 and list(meshes[0].left_faces) == [0, 1, 2, 0, 2, 3]
    assert len(meshes[0].right_vertices) == 0 and meshes[0].header == image.header


def test_wrists_are_on_tf_only_while_valid(peer: Peer) -> None:
    peer.start(tf_prefix="operator/")
    frames: list[TFMessage] = []
    peer.node.create_subscription(TFMessage, "/tf", frames.append, 10)
    wait_until(lambda: peer.node.count_publishers("/tf"))
    wait_until(lambda: peer.hands._outputs._tf.get_subscription_count())
    peer.pipeline.sides = (Side.RIGHT,)
    image = peer.image()
    (transform,) = wait_until(lambda: frames)[0].transforms
    assert transform.child_frame_id == "operator/right_wrist" and transform.header == image.header
    moved, turn = transform.transform.translation, transform.transform.rotation
    assert (moved.x, moved.y, moved.z) == pytest.approx((0.1, 0.0, 0.5))
    assert math.hypot(turn.x, turn.y, turn.z, turn.w) == pytest.approx(1.0)
    frames.clear()
    peer.pipeline.sides = ()
    peer.answer()
    peer.pipeline.sides = (Side.LEFT,)
    peer.answer()
    names = [t.child_frame_id for m in wait_until(lambda: frames) for t in m.transforms]
    assert names == ["operator/left_wrist"]


def test_diagnostics_hold_rate_latency_drops_and_device(peer: Peer) -> None:
    peer.start()
    peer.calibrate()
    timer = peer.node.create_timer(1 / 30, peer.image)
    status = peer.status(lambda s: s.message.endswith("Hz") and not s.message.startswith("0"))
    timer.cancel()
    values = {v.key: v.value for v in status.values}
    assert status.level == DiagnosticStatus.OK and status.name == "hands_node: hands"
    assert float(values["output rate [Hz]"]) > 5 and float(values["latency p50 [ms]"]) > 0
    assert {"images dropped", "device", "model_id", "detect p99 [ms]", "state"} <= set(values)


def test_wrong_type_on_the_topic_is_named(peer: Peer) -> None:
    peer.start(image_topic="other/image_raw", activate=False)
    stranger = Ros(peer.ros.domain)
    try:
        stranger.node("stranger").create_publisher(CompressedImage, "other/image_raw", 1)
        assert peer.hands.autostart()
        status = peer.status(lambda s: "carries" in s.message)
        assert "sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image" in status.message
    finally:
        stranger.close()


def test_activation_that_fails_is_said_and_the_node_stays_inactive(peer: Peer) -> None:
    """A topic of another type in the same process is refused by the middleware itself."""
    node = peer.start(image_topic="other/image_raw", activate=False)
    peer.node.create_publisher(CompressedImage, "other/image_raw", 1)
    assert not node.autostart() and node.state == "inactive"


def test_incompatible_qos_is_said_aloud_and_can_be_overridden(peer: Peer) -> None:
    reliable = {"qos_overrides./camera/image_raw.subscription.reliability": "reliable"}
    node = peer.start(activate=False, **reliable)
    assert node.autostart()
    status = peer.status(lambda s: "incompatible QoS" in s.message)
    assert "reliability" in status.message


def test_simulated_time_stamps_the_watchdog_and_measures_age(peer: Peer) -> None:
    clock = peer.node.create_publisher(Clock, "/clock", 1)
    node = peer.start(use_sim_time=True)
    wait_until(lambda: clock.get_subscription_count())
    message = Clock()
    message.clock.sec = 5000
    clock.publish(message)
    wait_until(lambda: node.get_clock().now().nanoseconds == 5_000_000_000_000)
    answer = peer.answer(4999.9)
    assert answer.left.valid and answer.latency == pytest.approx(0.1, abs=1e-4)
    assert nobody(peer.answer(4995.0)), "5 s old by the simulated clock"
    count = len(peer.messages)
    wait_until(lambda: len(peer.messages) > count)
    assert nobody(peer.messages[-1]) and peer.messages[-1].header.stamp.sec == 5000


def test_parameter_set_while_inactive_holds_from_activation_on(peer: Peer) -> None:
    node = peer.start()
    peer.answer()
    node.trigger_deactivate()
    (result,) = node.set_parameters([Parameter("placement.hand_length", value=0.19)])
    assert result.successful and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait_until(lambda: peer.images.get_subscription_count() and node._outputs._hands.get_subscription_count())
    peer.answer()
    assert peer.pipeline.config.placement.hand_length == 0.19


@pytest.mark.parametrize("name", ["image_topic", "camera_info_topic", "depth_topic"])
def test_topic_that_is_no_name_leaves_the_node_configured(peer: Peer, name: str) -> None:
    node = peer.start(activate=False, **{name: "1 camera"})
    assert not node.autostart() and node.state == "inactive" and node.pipeline is not None
    assert peer.status(lambda s: s.level == DiagnosticStatus.ERROR).message.startswith("not activated: ")


def test_hand_taken_back_before_it_is_drawn_is_not_drawn(peer: Peer) -> None:
    node = peer.start()
    arrays: list[MarkerArray] = []
    frames: list[TFMessage] = []
    peer.node.create_subscription(MarkerArray, "hands/markers", arrays.append, 10)
    peer.node.create_subscription(TFMessage, "/tf", frames.append, 10)
    outputs, views = node._outputs, node._outputs.views
    wait_until(lambda: outputs._markers.get_subscription_count() and outputs._tf.get_subscription_count())
    drawn = threading.Event()

    def late(*arguments: Any) -> None:
        assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
        views(*arguments)
        drawn.set()

    outputs.views = late
    peer.image()
    assert drawn.wait(5.0)
    outputs.views = views
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    peer.pipeline.sides = (Side.RIGHT,)
    peer.answer()
    shown = wait_until(lambda: [m.ns for a in arrays for m in a.markers if m.action == Marker.ADD])
    assert set(shown) == {"right"}
    assert {t.child_frame_id for m in wait_until(lambda: frames) for t in m.transforms} == {"right_wrist"}


def test_nodes_of_two_namespaces_are_told_apart_in_diagnostics(peer: Peer) -> None:
    for name in ("front", "rear"):
        pipeline = ScriptedPipeline()
        node = HandsNode(make_pipeline=lambda _: pipeline, context=peer.ros.context, namespace=name)  # noqa: B023
        assert peer.ros.add(node).autostart()
    found = {name: peer.status(lambda s: s.name == f"{name}/hands_node: hands") for name in ("front", "rear")}  # noqa: B023
    assert [s.hardware_id for s in found.values()] == ["/front/camera/image_raw", "/rear/camera/image_raw"]


def test_pipeline_that_hangs_is_not_entered_again_but_loaded_anew(peer: Peer) -> None:
    entered, gate = threading.Event(), threading.Event()

    class Hanging(ScriptedPipeline):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            entered.set()
            gate.wait(20.0)
            return super().__call__(*arguments, **named)

    node = peer.start(Hanging())
    worker = node._worker
    worker.stop = lambda timeout=5.0: LatestWorker.stop(worker, 0.05)
    peer.image()
    assert entered.wait(5.0) and node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() != TransitionCallbackReturn.SUCCESS and node.state == "inactive"
    peer.pipeline = ScriptedPipeline()
    assert node.trigger_cleanup() == node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait_until(lambda: peer.images.get_subscription_count() and node._outputs._hands.get_subscription_count())
    assert peer.answer().left.valid
    gate.set()


def test_wrists_of_a_node_in_a_namespace_are_named_after_it(peer: Peer) -> None:
    names = {"": "", "/": "", "left_arm": "left_arm/", "/a/b": "a/b/"}
    for namespace, prefix in names.items():
        node = peer.ros.add(
            HandsNode(make_pipeline=lambda c: ScriptedPipeline(), context=peer.ros.context, namespace=namespace)
        )
        assert node._tf_prefix() == prefix
    overrides = [Parameter("tf_prefix", value="operator/")]
    named = HandsNode(context=peer.ros.context, namespace="left_arm", parameter_overrides=overrides)
    assert peer.ros.add(named)._tf_prefix() == "operator/"


def test_a_parameter_that_does_not_exist_is_said(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"hand_length": 0.19, "max_agee": 0.1, "nonsense": 1, "use_sim_time": False, "max_age": 0.4}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    peer.ros.add(HandsNode(context=peer.ros.context, parameter_overrides=overrides))
    said = [line for line in capfd.readouterr().err.splitlines() if "has no effect" in line]
    assert len(said) == 3
    assert "hand_length is not one of this node's and has no effect; did you mean placement.hand_length?" in said[0]
    assert "max_agee" in said[1] and "did you mean max_age?" in said[1]
    assert "nonsense" in said[2]
