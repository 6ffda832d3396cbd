"""Moved: image decoding needs no ROS and is shared with bags, see `a2p_ros.encodings`."""

from a2p_ros.encodings import DIRECT_ENCODINGS, compressed_to_rgb, image_to_rgb

__all__ = ["DIRECT_ENCODINGS", "compressed_to_rgb", "image_to_rgb"]
