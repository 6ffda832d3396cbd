"""A camera without a camera: publishes a video, a folder, a webcam, a bag or rendered hands as Image + CameraInfo."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from a2p_ros.camera import CameraModel
from a2p_ros.config import Checked, setting
from a2p_ros.errors import A2PError, CameraError, SourceError
from a2p_ros.media.sources import Frame, Source, open_source
from a2p_ros.ros.camera_info import camera_model
from a2p_ros.ros.parameters import declare_config
from a2p_ros.ros.running import run_node
from a2p_ros.types import Image


@dataclass(frozen=True)
class CameraConfig(Checked):
    """Parameters of the camera node."""

    source: str = setting(
        "synthetic",
        "What is published: a video, a folder of pictures, a bag, a webcam number, synthetic (the packaged clip of two "
        "rendered hands, 640 x 480), synthetic:SEED (rendered here: the first round as fast as the machine "
        "can) or crossing:SEED (hands that cross).",
    )
    source_topic: str = setting("", "Image topic of a bag that holds several.")
    fps: float = setting(0.0, "Frames a second [Hz]; 0 = the source's own rate.", low=0.0, high=1000.0)
    loop: bool = setting(True, "Begin the source anew at its end; otherwise the node ends with it.")
    width: int = setting(1280, "Width that a webcam or the synthetic camera is asked for [px].", low=16, high=8192)
    height: int = setting(720, "Height that a webcam or the synthetic camera is asked for [px].", low=16, high=8192)
    encoding: Literal["rgb8", "bgr8"] = setting("rgb8", "Encoding of the images.")
    compressed: bool = setting(False, "Publish JPEG pictures on `image_raw/compressed` instead of raw images.")
    jpeg_quality: int = setting(90, "Quality of JPEG pictures.", low=1, high=100)
    frame_id: str = setting(
        "camera_optical_frame", "Optical frame of the images (x right, y down, z forward); a bag keeps its own."
    )
    horizontal_fov: float = setting(
        0.0,
        "Field of view across the width [rad] for a source that does not know its calibration: a pinhole camera with "
        "it is published. 0 = unknown: the CameraInfo says `uncalibrated` (K is zero) and whoever needs one assumes "
        "it.",
        low=0.0,
        high=3.0,
    )
    calibration_file: str = setting(
        "", "YAML file as camera_calibration writes it, for a source that does not know its calibration."
    )


class CameraNode(Node):
    """Node ``camera_node``: topics ``image_raw`` (or ``image_raw/compressed``) and ``camera_info``.

    The source is opened and read in a thread of its own, since a renderer belongs to the thread that made it.
    ``stop`` is set when the source has ended or failed; ``failure`` then says why.

    Raises:
        ConfigError, SourceError, CameraError: a parameter is wrong, the source or calibration cannot be read.
    """

    def __init__(self, stop: threading.Event, **kwargs: Any) -> None:
        super().__init__("camera_node", **kwargs)
        self.config: CameraConfig = declare_config(self, CameraConfig)
        self._stop, self._opened = stop, threading.Event()
        self.failure: A2PError | None = None
        self._refused = False
        self._calibration = read_calibration(self.config.calibration_file) if self.config.calibration_file else None
        kind, topic = (
            (CompressedImage, "image_raw/compressed") if self.config.compressed else (ImageMessage, "image_raw")
        )
        self._images = self.create_publisher(
            kind, topic, _qos(), qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._infos = self.create_publisher(CameraInfo, "camera_info", _qos())
        self.published = 0
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()
        self._opened.wait()
        # A source that opens and fails at its first picture may be through with it by now: that ends the node later.
        if self._refused and self.failure is not None:
            raise self.failure

    def farewell(self) -> None:
        """Stop publishing."""
        self._stop.set()
        self._thread.join(5.0)
        self.get_logger().info(f"{self.published} images were published")

    def _run(self) -> None:
        try:
            with self._open() as source:
                self.get_logger().info(f"{source.name} at {source.fps:.3g} Hz on {self._images.topic_name}")
                self._opened.set()
                self._publish_all(source)
        except A2PError as error:
            self.failure = error
            self._refused = not self._opened.is_set()
            if not self._refused:
                self.get_logger().fatal(f"the source ended: {type(error).__name__}: {error}")
        finally:
            self._opened.set()
            self._stop.set()

    def _open(self) -> Source:
        config = self.config
        return open_source(
            config.source,
            fps=config.fps,
            width=config.width,
            height=config.height,
            topic=config.source_topic,
            realtime=True,
        )

    def _publish_all(self, source: Source) -> None:
        period = 1.0 / (self.config.fps or source.fps)
        due = time.monotonic()
        for frame in self._frames(source):
            if not source.live:
                # Late by more than a frame: go on from here instead of sending a burst.
                due = max(due, time.monotonic() - period)
                if self._stop.wait(max(due - time.monotonic(), 0.0)):
                    return
                due += period
            if self._stop.is_set():
                return
            self._publish(frame, live=source.live)

    def _frames(self, source: Source) -> Iterator[Frame]:
        rounds = itertools.count() if self.config.loop and not source.live else range(1)
        for _ in rounds:
            yield from source

    def _publish(self, frame: Frame, *, live: bool) -> None:
        header = Header(frame_id=frame.frame_id or self.config.frame_id)
        if live and not self.get_parameter("use_sim_time").value:
            header.stamp.sec, header.stamp.nanosec = divmod(round(frame.stamp * 1e9), 1_000_000_000)
        else:
            header.stamp = self.get_clock().now().to_msg()
        height, width = frame.image.shape[:2]
        info = self._info(frame, width, height)
        info.header = header
        if self.config.compressed:
            self._images.publish(jpeg_message(frame.image, header, self.config.jpeg_quality))
        else:
            self._images.publish(raw_message(frame.image, header, self.config.encoding))
        self._infos.publish(info)
        self.published += 1

    def _info(self, frame: Frame, width: int, height: int) -> CameraInfo:
        if frame.camera is not None:
            return info_message(frame.camera)
        if self._calibration is not None:
            camera_model(self._calibration, rectified=False).check_image(height, width)
            return self._calibration
        if self.config.horizontal_fov > 0:
            return info_message(CameraModel.assume(width, height, self.config.horizontal_fov))
        return CameraInfo(width=width, height=height)


def raw_message(image: Image, header: Header, encoding: str = "rgb8") -> ImageMessage:
    """``sensor_msgs/Image`` of an RGB array, as rgb8 or bgr8."""
    height, width = image.shape[:2]
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if encoding == "bgr8" else image
    message = ImageMessage(header=header, height=height, width=width, encoding=encoding, step=3 * width)
    # An array is the one type whose bytes rclpy takes without looking at each of them.
    data: array[int] = array("B")
    data.frombytes(np.ascontiguousarray(pixels).data)
    message.data = data
    return message


def jpeg_message(image: Image, header: Header, quality: int = 90) -> CompressedImage:
    """``sensor_msgs/CompressedImage`` of an RGB array."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SourceError(f"OpenCV cannot write a JPEG of {image.shape}")
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data = array("B", data.tobytes())
    return message


def info_message(camera: CameraModel) -> CameraInfo:
    """``sensor_msgs/CameraInfo`` of a camera."""
    plain = camera.distortion_model == "none"
    info = CameraInfo(width=camera.width, height=camera.height)
    info.distortion_model = "plumb_bob" if plain else camera.distortion_model
    info.d = [0.0] * 5 if plain else list(camera.d)
    info.k = camera.K.reshape(-1)
    info.r = np.eye(3).reshape(-1)
    info.p = np.concatenate([camera.K, np.zeros((3, 1))], axis=1).reshape(-1)
    return info


def read_calibration(path: str) -> CameraInfo:
    """``sensor_msgs/CameraInfo`` of a YAML file as camera_calibration writes it. Raises CameraError."""
    try:
        values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
        info = CameraInfo(width=int(values["image_width"]), height=int(values["image_height"]))
        info.distortion_model = str(values["distortion_model"])
        info.d = [float(x) for x in values["distortion_coefficients"]["data"]]
        info.k = np.array(values["camera_matrix"]["data"], float)
        info.r = np.array(values.get("rectification_matrix", {}).get("data", np.eye(3).reshape(-1)), float)
        projection = np.concatenate([info.k.reshape(3, 3), np.zeros((3, 1))], axis=1).reshape(-1)
        info.p = np.array(values.get("projection_matrix", {}).get("data", projection), float)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise CameraError(
            f"calibration file {path}: expected YAML with image_width, image_height, camera_matrix, distortion_model "
            f"and distortion_coefficients, as camera_calibration writes it; {type(error).__name__}: {error}"
        ) from error
    camera_model(info, rectified=False)
    return info


def _qos() -> QoSProfile:
    """Reliable, so that a subscriber of either kind matches; made anew, for rclpy writes overrides into it."""
    return QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of ``ros2 run a2p_ros camera_node``; the exit code is 0 unless the source failed."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] [%(name)s]: %(message)s")
    return run_node(CameraNode, args, "camera_node")


if __name__ == "__main__":
    sys.exit(main())
