"""Depth images that belong to colour images: kept by stamp until their picture is looked at."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import Image as ImageMessage

from a2p_ros.media.encodings import depth_to_metres

#: Depth images that are kept: the colour image of one may be late or still be worked on.
KEPT = 8
#: A depth image farther than this from the colour image [ns] was taken of another moment: a third of a 30 Hz period.
TOLERANCE = 11_000_000


class DepthKeeper:
    """The newest depth images; ``store`` may be called from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[ImageMessage] = deque(maxlen=KEPT)

    def store(self, message: ImageMessage) -> None:
        """Keep a depth image."""
        with self._lock:
            self._messages.append(message)

    def of_image(self, stamp: int) -> Float[np.ndarray, "height width"] | None:
        """Depth [m] taken with the image of this stamp [ns]; None if there is none.

        Raises InputError where the message is not a depth image.
        """
        with self._lock:
            messages = list(self._messages)
        if not messages:
            return None
        nearest = min(messages, key=lambda message: abs(_nanoseconds(message) - stamp))
        return depth_to_metres(nearest) if abs(_nanoseconds(nearest) - stamp) <= TOLERANCE else None


def _nanoseconds(message: ImageMessage) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
