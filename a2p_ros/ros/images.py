"""Image messages of rclpy -> RGB, with cv_bridge for what the core does not read itself."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from a2p_ros.media.encodings import compressed_to_rgb, image_to_rgb
from a2p_ros.types import Image


def message_to_rgb(message: ImageMessage | CompressedImage) -> Image:
    """RGB of a raw or compressed image.

    Raises:
        InputError: the encoding cannot be read here, or the message contradicts itself.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_rgb(message)
    return image_to_rgb(message, bridge=_cv_bridge)


def _cv_bridge() -> Any:
    from cv_bridge import CvBridge

    return CvBridge()
