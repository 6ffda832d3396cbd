"""Everything the node publishes about hands, from one place, so that messages leave in one order.

The reconstruction, the watchdog and the services reach it from different threads; one lock makes each publication
whole. Meshes, markers and the overlay are made only while someone subscribes.
"""

from __future__ import annotations

import dataclasses
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from a2p_ros.camera import CameraModel
from a2p_ros.msg import HandMANO, TwoHandMANO, TwoHandMesh
from a2p_ros.rendering.overlay import Mesh, OverlayInfo, draw_hands
from a2p_ros.ros.compatibility import publisher_events
from a2p_ros.ros.conversions import not_valid_message
from a2p_ros.ros.markers import MarkerMaker, delete_all, deletion
from a2p_ros.ros.parameters import NodeConfig
from a2p_ros.types import Image, Pair, Side, Status, TwoHands

#: Queue lengths. Everything is reliable, so that a subscriber of either kind matches; short, so that nobody is served
#: old hands.
HANDS_DEPTH, VIEW_DEPTH, OVERLAY_DEPTH, TF_DEPTH = 5, 2, 1, 100

_NOBODY = Pair(Status.NOT_DETECTED, Status.NOT_DETECTED)


@dataclass(frozen=True)
class Picture:
    """What the overlay needs of the image that the hands are from."""

    image: Image
    camera: CameraModel
    info: OverlayInfo


class Outputs:
    """The publishers of one configured node.

    Args:
        node: where the publishers live; topic names are relative to its namespace.
        pipeline: gives meshes, ``model_id`` and the hand models.
        tf_prefix: put before the names of the wrist frames.
    """

    def __init__(self, node: Node, pipeline: Any, tf_prefix: str) -> None:
        self._node, self._pipeline, self._prefix = node, pipeline, tf_prefix
        self._lock = threading.RLock()
        self._last: TwoHandMANO | None = None
        self._hands = node.create_publisher(
            TwoHandMANO,
            "hands",
            reliable(HANDS_DEPTH),
            event_callbacks=publisher_events(node, "hands"),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._markers = node.create_publisher(MarkerArray, "hands/markers", reliable(VIEW_DEPTH))
        self._mesh = node.create_publisher(TwoHandMesh, "hands/mesh", reliable(VIEW_DEPTH))
        self._overlay = node.create_publisher(ImageMessage, "hands/overlay", reliable(OVERLAY_DEPTH))
        self._tf, self.tf_problem = _tf_publisher(node)
        models = pipeline.hand_models
        self._faces = Pair(*(np.asarray(models[side].faces) for side in Side))
        self._maker = MarkerMaker(self._faces)

    @property
    def lock(self) -> threading.RLock:
        """Held while something is published; whoever decides what to publish holds it while deciding."""
        return self._lock

    def destroy(self) -> None:
        """Take the publishers off the network."""
        with self._lock:
            for publisher in (self._hands, self._markers, self._mesh, self._overlay, self._tf):
                if publisher is not None:
                    self._node.destroy_publisher(publisher)

    def hands(self, message: TwoHandMANO) -> None:
        """Publish the message itself, before anything that is only looked at."""
        with self._lock:
            self._last = message
            self._hands.publish(message)

    def not_valid(self, header: Header, *, status: Pair[Status] = _NOBODY, latency: float = float("nan")) -> None:
        """Publish that neither hand is valid and take both off the screen."""
        pipeline = self._pipeline
        message = not_valid_message(
            header,
            status=status,
            model_id=pipeline.model_id,
            hand_model=pipeline.hand_models.left.name,
            latency=latency,
        )
        with self._lock:
            self._last = message
            self._hands.publish(message)
            if self._markers.get_subscription_count():
                self._markers.publish(delete_all(header))
            if self._mesh.get_subscription_count():
                self._mesh.publish(TwoHandMesh(header=header, hand_model=message.hand_model))

    def views(self, message: TwoHandMANO, hands: TwoHands, picture: Picture, config: NodeConfig) -> None:
        """Publish TF, markers, meshes and the overlay of a message, unless a newer one has taken its hands back."""
        with self._lock:
            overtaken = self._last is not message
            if overtaken:
                return
            shown = Pair(*(hands[side] if getattr(message, side.value).valid else None for side in Side))
            if config.publish_tf and self._tf is not None and message.header.frame_id:
                self._publish_tf(message)
            wants_markers = config.markers != "none" and self._markers.get_subscription_count() > 0
            wants_mesh = self._mesh.get_subscription_count() > 0
            wants_overlay = self._overlay.get_subscription_count() > 0
            meshes: Pair[Any] = Pair(None, None)
            if wants_mesh or (wants_markers and config.markers == "mesh"):
                meshes = Pair(*(None if hand is None else self._pipeline.mesh(hand) for _, hand in shown.items()))
            if wants_markers:
                self._markers.publish(self._marker_array(message.header, shown, meshes, config))
            if wants_mesh:
                self._mesh.publish(self._mesh_message(message, meshes))
            if wants_overlay:
                self._overlay.publish(self._overlay_message(message.header, hands, shown, meshes, picture))

    def _marker_array(self, header: Header, shown: Pair[Any], meshes: Pair[Any], config: NodeConfig) -> MarkerArray:
        markers = []
        for side, hand in shown.items():
            if hand is None:
                markers += deletion(side, header)
            elif meshes[side] is not None and config.markers == "mesh":
                markers += self._maker.mesh(side, meshes[side], header, config.marker_lifetime)
            else:
                markers += self._maker.skeleton(hand, header, config.marker_lifetime)
        return MarkerArray(markers=markers)

    def _mesh_message(self, message: TwoHandMANO, meshes: Pair[Any]) -> TwoHandMesh:
        out = TwoHandMesh(header=message.header, hand_model=message.hand_model)
        for side, vertices in meshes.items():
            if vertices is not None:
                setattr(out, f"{side.value}_vertices", _array("f", vertices, np.float32))
                setattr(out, f"{side.value}_faces", _array("I", self._faces[side], np.uint32))
        return out

    def _overlay_message(
        self, header: Header, hands: TwoHands, shown: Pair[Any], meshes: Pair[Any], picture: Picture
    ) -> ImageMessage:
        drawn: Sequence[Any] = [
            None if meshes[side] is None else Mesh(meshes[side], self._faces[side]) for side in Side
        ]
        canvas = draw_hands(
            picture.image, _only(hands, shown), info=picture.info, meshes=Pair(*drawn), camera=picture.camera
        )
        return image_message(canvas, header)

    def _publish_tf(self, message: TwoHandMANO) -> None:
        transforms = [
            wrist_transform(hand, message.header, f"{self._prefix}{side.value}_wrist")
            for side in Side
            if (hand := getattr(message, side.value)).valid
        ]
        if transforms and self._tf is not None:
            self._tf.publish(_tf_message_type()(transforms=transforms))


def reliable(depth: int) -> QoSProfile:
    """A new profile each time: rclpy writes QoS overrides into the one it is given."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def wrist_transform(hand: HandMANO, header: Header, child: str) -> TransformStamped:
    """T_camera_wrist of a valid hand, as TF carries it."""
    transform = TransformStamped(header=header, child_frame_id=child)
    position, moved = hand.wrist.position, transform.transform.translation
    moved.x, moved.y, moved.z = position.x, position.y, position.z
    transform.transform.rotation = hand.wrist.orientation
    return transform


def image_message(image: Image, header: Header) -> ImageMessage:
    """``sensor_msgs/Image`` (rgb8) of an RGB array."""
    height, width = image.shape[:2]
    message = ImageMessage(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = _array("B", image, np.uint8)
    return message


def _array(code: str, values: Any, dtype: Any) -> array[Any]:
    """The one type that rclpy takes for sequences without looking at each element."""
    out: array[Any] = array(code)
    out.frombytes(np.ascontiguousarray(values, dtype).tobytes())
    return out


def _only(hands: TwoHands, shown: Pair[Any]) -> TwoHands:
    return dataclasses.replace(hands, left=shown.left, right=shown.right)


def _tf_publisher(node: Node) -> tuple[Publisher | None, str]:
    try:
        kind = _tf_message_type()
    except ImportError:
        return None, "the wrists are not on /tf: tf2_msgs is not installed (ros-$ROS_DISTRO-tf2-msgs)"
    return node.create_publisher(kind, "/tf", reliable(TF_DEPTH)), ""


def _tf_message_type() -> Any:
    from tf2_msgs.msg import TFMessage

    return TFMessage
