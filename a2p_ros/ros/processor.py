"""What happens to one image: read it, find its camera, reconstruct, publish. Runs in the worker's thread.

Whatever arrives, one message leaves for each image taken: hands, or not valid with the image's own stamp. Passed over
are an image that repeats the last stamp, and an answer that comes when images have stopped: the watchdog speaks then.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock
from rclpy.logging import get_logger
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from a2p_ros.camera import CameraModel
from a2p_ros.config import PipelineConfig
from a2p_ros.errors import A2PError, InputError
from a2p_ros.rendering.overlay import OverlayInfo
from a2p_ros.ros.camera_info import CalibrationKeeper
from a2p_ros.ros.conversions import two_hands_message
from a2p_ros.ros.depth import DepthKeeper
from a2p_ros.ros.diagnostics import ERROR, Statistics
from a2p_ros.ros.images import message_to_rgb
from a2p_ros.ros.outputs import Outputs, Picture
from a2p_ros.ros.parameters import Settings
from a2p_ros.ros.watchdog import Watchdog
from a2p_ros.types import TwoHands

#: Stamps this far from the node's clock [s] from the first on are of another clock, and say nothing of an image's age.
SANE_AGE = (-0.1, 10.0)
#: A gap in the stamps longer than this [s] starts the pipeline anew.
MAX_GAP = 1.0
#: A CameraInfo may come this much later than the first image [s] before its absence is logged.
CAMERA_INFO_PATIENCE = 2.0


@dataclass(frozen=True)
class Arrival:
    """An image message, when it was received [s, steady clock] and the ROS time then [ns]."""

    message: ImageMessage | CompressedImage
    received: float
    ros_time: int


class Processor:
    """Turns arrivals into publications. One thread calls it; ``reset`` and ``update`` may come from others."""

    def __init__(
        self,
        pipeline: Any,
        outputs: Outputs,
        calibration: CalibrationKeeper,
        settings: Settings,
        watchdog: Watchdog,
        statistics: Statistics,
        clock: Clock,
        logger: Any = None,
        depth: DepthKeeper | None = None,
    ) -> None:
        self._pipeline, self._outputs, self._calibration = pipeline, outputs, calibration
        self._settings, self._watchdog, self._statistics, self._clock = settings, watchdog, statistics, clock
        self._logger = logger or get_logger("hands_node")
        self._depth = depth
        self._requests = threading.Lock()
        self._reset_wanted = False
        self._config_wanted: PipelineConfig | None = None
        self._last_stamp: int | None = None
        self._own_clock = False
        self._last_view: object = None
        self._said: dict[str, float] = {}
        self._begun = 0.0
        self.enabled = True
        self.last_frame_id = ""

    def reset(self) -> None:
        """Have the pipeline forget the stream before the next image."""
        with self._requests:
            self._reset_wanted = True

    def update(self, config: PipelineConfig) -> None:
        """Have the pipeline take a new configuration before the next image."""
        with self._requests:
            self._config_wanted = config

    def __call__(self, arrival: Arrival) -> None:
        """Process one image; never raises."""
        header = self._header(arrival.message.header)
        try:
            stamp = self._follow_stamps(header)
            if stamp is None:
                return
            self._process(arrival, header, stamp)
            self._statistics.problem("image", "")
            self._statistics.problem("pipeline", "")
        except InputError as error:
            self._refuse(arrival, header, "image", str(error))
        except A2PError as error:
            self._refuse(arrival, header, "pipeline", f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - a fault in one image must not end the stream
            self._refuse(arrival, header, "pipeline", f"{type(error).__name__}: {error}", fault=error)

    def _process(self, arrival: Arrival, header: Header, stamp: float) -> None:
        age = self._age(header, arrival.ros_time)
        limit = self._settings.node.max_age
        if age is not None and limit and age > limit:
            raise InputError(f"image is {age:.2f} s old, at most {limit:g} s are taken (parameter max_age)")
        begun = time.perf_counter()
        image = message_to_rgb(arrival.message)
        self._statistics.sample("decode", time.perf_counter() - begun)
        height, width = image.shape[:2]
        camera = self._camera(width, height, header.frame_id)
        self._prepare((width, height, camera))
        hands = self._pipeline(image, camera, stamp, **self._depth_of(header, (height, width)))
        for stage, seconds in hands.timings.items():
            self._statistics.sample(stage, seconds)
        self._note_interaction(hands)
        now = self._clock.now().nanoseconds
        age = self._age(header, now)
        if age is not None and limit and age > limit:
            raise InputError(f"image was {age:.2f} s old when its hands were found, at most {limit:g} s (max_age)")
        latency = time.monotonic() - arrival.received if age is None else age
        message = two_hands_message(
            hands,
            header,
            image_size=(width, height),
            latency=latency,
            coast_valid=self._settings.node.coast_valid,
        )
        if not self._publish_in_time(lambda: self._outputs.hands(message)):
            return
        self._statistics.sample("latency", latency)
        self._statistics.sample("processing", time.monotonic() - arrival.received)
        view = camera or CameraModel.assume(width, height, self._settings.pipeline.placement.assumed_fov)
        info = OverlayInfo(fps=self._statistics.rate("latency"), latency=latency, assumed_camera=camera is None)
        self._outputs.views(message, hands, Picture(image, view, info), self._settings.node)

    def _depth_of(self, header: Header, size: tuple[int, int]) -> dict[str, Any]:
        """The depth image of a picture for the pipeline, while it has use for one; a bad one costs no hand."""
        if self._depth is None or not self._pipeline.wants_depth:
            self._statistics.problem("depth", "")
            return {}
        problem, topic = "", self._settings.node.depth_topic
        try:
            depth = self._depth.of_image(header.stamp.sec * 1_000_000_000 + header.stamp.nanosec)
            if depth is None:
                problem = f"no depth image of the pictures' stamps on {topic}"
            elif depth.shape != size:
                problem = f"depth images on {topic} are {depth.shape[1]} x {depth.shape[0]}, the pictures "
                problem += f"{size[1]} x {size[0]}: use the driver's aligned depth"
        except InputError as error:
            problem = f"{topic}: {error}"
        self._statistics.problem("depth", problem)
        return {} if problem else {"depth": depth}

    def _note_interaction(self, hands: TwoHands) -> None:
        """Count repairs, and say why one was not taken."""
        reason = hands.rejected_repair
        self._statistics.problem("repair", f"repair of the hands rejected: {reason}" if reason else "")
        if reason:
            self._statistics.count("repairs rejected")
            self._statistics.note("last rejected repair", reason)
            if self._due("repair", 5.0):
                self._logger.warning(f"the hands are not repaired: {reason}")
        if hands.repaired:
            self._statistics.count("frames repaired")
        if hands.left is not None and hands.right is not None:
            self._statistics.note("penetration before [mm]", 1e3 * hands.penetration_before)
            self._statistics.note("penetration after [mm]", 1e3 * hands.penetration_after)

    def _publish_in_time(self, publish: Callable[[], None]) -> bool:
        """Publish unless images have stopped or hands were disabled meanwhile: the watchdog has the word then."""
        with self._outputs.lock:
            if not self.enabled or self._watchdog.images_missing:
                self._statistics.count("answers too late")
                return False
            publish()
            self._watchdog.answer()
            return True

    def _refuse(self, arrival: Arrival, header: Header, kind: str, reason: str, fault: Exception | None = None) -> None:
        """Say that nothing in this image is valid, and why."""
        age = self._age(header, self._clock.now().nanoseconds)
        latency = time.monotonic() - arrival.received if age is None else age
        self._publish_in_time(lambda: self._outputs.not_valid(header, latency=latency))
        self._statistics.count(f"refused ({kind})")
        self._statistics.problem(kind, reason, ERROR)
        self._say(kind, reason, fault)
        if kind == "pipeline":
            self.reset()

    def _say(self, kind: str, reason: str, fault: Exception | None = None) -> None:
        """Log at most once in five seconds for each kind."""
        if not self._due(kind, 5.0):
            return
        trace = "" if fault is None else "\n" + "".join(traceback.format_exception(fault))
        self._logger.error(f"no valid hands: {reason}{trace}")

    def _due(self, kind: str, period: float) -> bool:
        """Whether nothing of this kind was logged in the last ``period`` [s]; if so, it counts as logged now."""
        now = time.monotonic()
        if now - self._said.get(kind, -1e9) < period:
            return False
        self._said[kind] = now
        return True

    def _header(self, header: Header) -> Header:
        frame = header.frame_id or self._settings.node.frame_id
        self.last_frame_id = frame
        unnamed = "" if frame else "images name no frame, so no wrist is on /tf; set the parameter frame_id"
        self._statistics.problem("unnamed frame", unnamed)
        return Header(stamp=header.stamp, frame_id=frame)

    def _follow_stamps(self, header: Header) -> float | None:
        """Stamp for the pipeline [s], which may only rise; None for an image that was published already."""
        stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        if stamp == 0:
            self._statistics.problem("stamp", "images carry no stamp; the time of their arrival is used")
            stamp = time.monotonic_ns()
        else:
            self._statistics.problem("stamp", "")
        last, self._last_stamp = self._last_stamp, stamp
        if last is not None and stamp == last:
            self._statistics.count("repeated stamps")
            return None
        if last is not None and stamp < last:
            self._statistics.count("stamps that went back")
            self._say("back", f"stamps went back by {(last - stamp) / 1e9:.3f} s; the hands are tracked anew from here")
            self._own_clock = False
            self.reset()
        if last is not None and stamp - last > MAX_GAP * 1e9:
            self.reset()
        return stamp / 1e9

    def _age(self, header: Header, now: int) -> float | None:
        """Seconds from the stamp to ``now`` [ns]; None where the two are not of one clock."""
        age = (now - header.stamp.sec * 1_000_000_000 - header.stamp.nanosec) / 1e9
        sane = SANE_AGE[0] <= age <= SANE_AGE[1]
        # A stream that lags more and more does not change its clock on the way: it stays too old.
        sane = self._own_clock = sane or (self._own_clock and age > SANE_AGE[1])
        text = "" if sane else f"image stamps are not of this node's clock (by {age:.1f} s); max_age is not applied"
        self._statistics.problem("clock", text)
        return max(age, 0.0) if sane else None

    def _camera(self, width: int, height: int, frame_id: str) -> CameraModel | None:
        found = self._calibration.of_image(width, height, frame_id)
        self._statistics.problem("frame", found.warning)
        if found.camera is not None:
            self._statistics.problem("camera", "")
            return found.camera
        now = time.monotonic()
        if self._settings.node.require_camera_info:
            raise InputError(f"{found.problem}; require_camera_info is set, so nothing is assumed")
        fov = self._settings.pipeline.placement.assumed_fov
        text = f"{found.problem}; a horizontal field of view of {fov:g} rad is assumed, so distances are not metric"
        self._statistics.problem("camera", text)
        self._begun = self._begun or now
        patience = CAMERA_INFO_PATIENCE if found.waiting else 0.0
        if now - self._begun >= patience and self._due("camera", 30.0):
            self._logger.warning(text)
        return None

    def _prepare(self, view: object) -> None:
        """Bring the pipeline up to date with requests from other threads and with the camera."""
        with self._requests:
            config, self._config_wanted = self._config_wanted, None
            reset, self._reset_wanted = self._reset_wanted, False
        if config is not None:
            self._pipeline.update(config)
        if reset or (self._last_view is not None and view != self._last_view):
            self._pipeline.reset()
            self._statistics.count("resets")
        self._last_view = view
