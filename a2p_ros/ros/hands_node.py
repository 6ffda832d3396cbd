"""The node: images in, both hands out. Here are only its topics, services, states and threads.

Callbacks only store: the newest image goes to a worker thread (`processor`), which reconstructs and publishes
(`outputs`); a second thread says "not valid" when images stop (`watchdog`).
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from a2p_ros.config import PipelineConfig
from a2p_ros.errors import A2PError
from a2p_ros.ros.camera_info import CalibrationKeeper, camera_info_topic, is_rectified
from a2p_ros.ros.compatibility import subscription_events
from a2p_ros.ros.depth import DepthKeeper
from a2p_ros.ros.diagnostics import ERROR, WARN, Statistics, statistics_values, status_message
from a2p_ros.ros.outputs import Outputs
from a2p_ros.ros.parameters import Settings
from a2p_ros.ros.processor import Arrival, Processor
from a2p_ros.ros.running import run_node
from a2p_ros.ros.watchdog import Watchdog
from a2p_ros.ros.worker import LatestWorker

_DONE, _FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def default_pipeline(config: PipelineConfig) -> Any:
    """The real pipeline; imported here so that a node that cannot load it still starts and says why."""
    from a2p_ros.pipeline import TwoHandPipeline

    return TwoHandPipeline(config)


def newest_only() -> QoSProfile:
    """Best effort, depth 1. A new profile each time: rclpy writes QoS overrides into the one it is given."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class HandsNode(LifecycleNode):
    """Lifecycle node ``hands_node``.

    Args:
        make_pipeline: builds the pipeline on configure; tests pass their own.
        kwargs: for ``rclpy.node.Node``, as ``namespace`` and ``parameter_overrides``.

    Raises:
        ConfigError: a parameter given at start is of the wrong type or out of range.
    """

    def __init__(self, *, make_pipeline: Callable[[PipelineConfig], Any] = default_pipeline, **kwargs: Any) -> None:
        super().__init__("hands_node", **kwargs)
        self._make_pipeline = make_pipeline
        self.settings = Settings(self, self._settings_changed)
        self.statistics = Statistics()
        self.pipeline: Any = None
        self.failure: A2PError | None = None
        self._outputs: Outputs | None = None
        self._calibration: CalibrationKeeper | None = None
        self._processor: Processor | None = None
        self._active = False
        self._topic = ""
        self._image_subscriptions: list[Any] = []
        self._worker: LatestWorker[Arrival] = LatestWorker(self._work, "inference")
        self.watchdog = Watchdog(self.settings.node.watchdog_timeout, self._on_silence)
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(SetBool, "~/enable", self._on_enable, callback_group=group)
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self.publish_diagnostics, callback_group=group, clock=steady)

    @property
    def state(self) -> str:
        """Label of the lifecycle state, as `active`."""
        return str(self._state_machine.current_state[1])

    def autostart(self) -> bool:
        """Configure and activate; False where a transition failed, which leaves the node alive and says why."""
        return self.trigger_configure() == _DONE and self.trigger_activate() == _DONE

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm the models and open the publishers."""
        self.statistics.reset()
        begun = time.monotonic()
        try:
            self.pipeline = self._make_pipeline(self.settings.pipeline)
            self.pipeline.warm_up()
            self._worker = LatestWorker(self._work, "inference")
            self._outputs = Outputs(self, self.pipeline, self._tf_prefix())
        except A2PError as error:
            return self._configure_failed(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a library raises while loading, the node stays and says it
            return self._configure_failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        if self._outputs.tf_problem and self.settings.node.publish_tf:
            self.get_logger().warning(self._outputs.tf_problem)
            self.statistics.problem("tf", self._outputs.tf_problem)
        self.get_logger().info(
            f"{self.pipeline.model_id} with {self.pipeline.hand_models.left.name} is ready after "
            f"{time.monotonic() - begun:.1f} s: {_granted(self.pipeline.report())}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images and begin to work."""
        config = self.settings.node
        image_topic = config.image_topic.removesuffix("/compressed")
        info_topic = config.camera_info_topic or camera_info_topic(image_topic)
        rectified = is_rectified(image_topic, config.image_rectified)
        depth = DepthKeeper() if config.depth_topic else None
        assert self._outputs is not None
        try:
            if self._worker.hanging:
                raise RuntimeError(
                    "inference of the last activation has not ended; clean up and configure to load anew"
                )
            self._calibration = CalibrationKeeper(self.resolve_topic_name(info_topic), rectified=rectified)
            self._processor = Processor(
                self.pipeline,
                self._outputs,
                self._calibration,
                self.settings,
                self.watchdog,
                self.statistics,
                self.get_clock(),
                self.get_logger(),
                depth,
            )
            self._processor.update(self.settings.pipeline)
            self._processor.reset()
            self._active = True
            self._worker.start()
            self.watchdog.start(config.watchdog_timeout)
            compressed = config.compressed or config.image_topic.endswith("/compressed")
            self._subscribe(image_topic, info_topic, compressed=compressed)
            if depth is not None:
                topic = config.depth_topic
                self._image_subscriptions.append(
                    self.create_subscription(
                        ImageMessage,
                        topic,
                        depth.store,
                        newest_only(),
                        event_callbacks=subscription_events(self, topic, self._on_mismatch),
                    )
                )
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it; its errors share no base
            self.get_logger().error(f"cannot activate: {type(error).__name__}: {error}")
            self.statistics.problem("activate", f"not activated: {error}", ERROR)
            self._stop()
            return _FAILED
        self.statistics.problem("activate", "")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, and say once more that no hand is valid."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of models and publishers."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let go of everything."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        self._stop()
        self._release()
        return super().on_error(state)

    def farewell(self) -> None:
        """Stop as deactivation does, before the process ends."""
        self._stop()

    def _tf_prefix(self) -> str:
        """Two cameras in two namespaces must not claim one frame."""
        namespace = self.get_namespace().strip("/")
        return self.settings.node.tf_prefix or (f"{namespace}/" if namespace else "")

    def _configure_failed(self, reason: str, trace: str = "") -> TransitionCallbackReturn:
        self.get_logger().error(f"cannot configure, the node stays unconfigured: {reason}\n{trace}".rstrip())
        self.statistics.problem("configure", f"not configured: {reason}", ERROR)
        self._release()
        return _FAILED

    def _stop(self) -> None:
        if not self._active:
            return
        self._active = False
        for subscription in self._image_subscriptions:
            self.destroy_subscription(subscription)
        self._image_subscriptions.clear()
        self.watchdog.stop()
        if self._processor is not None:
            self._processor.enabled = False
        if not self._worker.stop():
            self.get_logger().error("inference did not end within 5 s; it is left behind")
        self._say_not_valid()

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._processor = self._calibration = self.pipeline = None

    # Images

    def _subscribe(self, image_topic: str, info_topic: str, *, compressed: bool) -> None:
        kind, topic = (CompressedImage, f"{image_topic}/compressed") if compressed else (ImageMessage, image_topic)
        self._topic, self._kind = self.resolve_topic_name(topic), kind
        self._image_subscriptions = [
            self.create_subscription(
                kind,
                topic,
                self._on_image,
                newest_only(),
                event_callbacks=subscription_events(self, topic, self._on_mismatch),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
            self.create_subscription(CameraInfo, info_topic, self._on_camera_info, newest_only()),
        ]
        self.get_logger().info(f"images from {self._topic} ({kind.__name__}), CameraInfo from {info_topic}")

    def _on_image(self, message: ImageMessage | CompressedImage) -> None:
        processor = self._processor
        if processor is None or not self._active or not processor.enabled:
            return
        self.watchdog.image()
        self._worker.put(Arrival(message, time.monotonic(), self.get_clock().now().nanoseconds))

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._calibration is not None:
            self._calibration.store(message)

    def _on_mismatch(self, text: str) -> None:
        self.statistics.problem("qos", text)

    def _work(self, arrival: Arrival) -> None:
        processor = self._processor
        if processor is not None:
            processor(arrival)

    # Silence

    def _on_silence(self) -> None:
        outputs = self._outputs
        if outputs is None:
            return
        with outputs.lock:
            if self._active and self.watchdog.silent:
                self._say_not_valid()
                self.statistics.count("watchdog messages")

    def _say_not_valid(self) -> None:
        """Not valid, stamped with the node's clock: there is no image to speak of."""
        outputs, processor = self._outputs, self._processor
        if outputs is None:
            return
        frame = processor.last_frame_id if processor is not None else ""
        frame = frame or self.settings.node.frame_id or (self._calibration.frame_id if self._calibration else "")
        outputs.not_valid(Header(stamp=self.get_clock().now().to_msg(), frame_id=frame), latency=math.nan)

    # Services and parameters

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        processor, outputs = self._processor, self._outputs
        if processor is None or outputs is None or not self._active:
            response.success, response.message = False, f"the node is {self.state}, not active"
            return response
        with outputs.lock:
            was, processor.enabled = processor.enabled, request.data
            if was and not request.data:
                self._worker.clear()
                self.watchdog.pause()
                self._say_not_valid()
        if request.data and not was:
            processor.reset()
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        processor = self._processor
        if processor is None or not self._active:
            response.success, response.message = False, f"the node is {self.state}, not active"
            return response
        processor.reset()
        response.success, response.message = True, "tracking starts anew with the next image"
        return response

    def _settings_changed(self, names: frozenset[str]) -> None:
        self.watchdog.set_minimum(self.settings.node.watchdog_timeout)
        if self._processor is not None and names & set(self.settings.pipeline.flat()):
            self._processor.update(self.settings.pipeline)

    # Diagnostics

    def publish_diagnostics(self) -> None:
        """Publish what is known now on /diagnostics."""
        array = DiagnosticArray(status=[self._status()])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _status(self) -> DiagnosticStatus:
        name, state = f"{self.get_fully_qualified_name().lstrip('/')}: hands", self.state
        problems = self.statistics.problems()
        values: dict[str, object] = {"state": state}
        if self.pipeline is not None:
            values |= {"model_id": self.pipeline.model_id, "hand_model": self.pipeline.hand_models.left.name}
            values |= {str(key): value for key, value in self.pipeline.report().items()}
        fine = state
        if self._active and self._processor is not None:
            period = self.watchdog.image_period
            values |= {"enabled": self._processor.enabled, "image rate [Hz]": 1.0 / period if period else 0.0}
            values |= {"images received": self._worker.received, "images dropped": self._worker.dropped}
            fine = f"{self.statistics.rate('latency'):.1f} Hz" if self._processor.enabled else "disabled"
            if self._worker.received == 0:
                problems.append((WARN, self._why_no_image()))
            elif self._processor.enabled and self.watchdog.silent:
                missing, unanswered = "images have stopped coming", "no answer to the images that come"
                text = f"{missing if self.watchdog.images_missing else unanswered} on {self._topic}"
                problems.insert(0, (ERROR, text))
        values |= statistics_values(self.statistics)
        return status_message(name, self._topic or self.settings.node.image_topic, problems, values, fine)

    def _why_no_image(self) -> str:
        publishers = self.get_publishers_info_by_topic(self._topic)
        if not publishers:
            return f"no image yet, and nobody publishes {self._topic} (parameter image_topic)"
        wanted = f"sensor_msgs/msg/{self._kind.__name__}"
        kinds = sorted({publisher.topic_type for publisher in publishers} - {wanted})
        if kinds:
            return f"no image yet: {self._topic} carries {', '.join(kinds)}, expected {wanted} (parameter compressed)"
        return f"no image yet on {self._topic}"


def _granted(report: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in report.items())


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of ``ros2 run a2p_ros hands_node``."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] [%(name)s]: %(message)s")

    def make(_: threading.Event) -> HandsNode:
        node = HandsNode()
        if node.settings.node.autostart:
            node.autostart()
        return node

    return run_node(make, args, "hands_node")


if __name__ == "__main__":
    sys.exit(main())
