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
#: A picture waits this long [s] for its depth image: drivers send it after the picture, once it is aligned.
PATIENCE = 0.05
#: Newest depth images older than this [ns] are not waited on: the depth camera has stopped.
STOPPED = 500_000_000
#: After so many pictures that waited in vain none waits any more: the two are not taken at the same moments.
IN_VAIN = 10


class DepthKeeper:
    """The newest depth images; ``store`` may be called from another thread."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._messages: deque[ImageMessage] = deque(maxlen=KEPT)
        self._in_vain = 0

    def store(self, message: ImageMessage) -> None:
        """Keep a depth image."""
        with self._arrived:
            self._messages.append(message)
            self._arrived.notify_all()

    def of_image(self, stamp: int) -> Float[np.ndarray, "height width"] | None:
        """Depth [m] taken with the image of this stamp [ns]; None if there is none, also not after a short wait.

        Raises InputError where the message is not a depth image.
        """
        with self._arrived:
            if self._in_vain < IN_VAIN and 0 < self._behind(stamp) < STOPPED:
                self._arrived.wait_for(lambda: self._behind(stamp) <= 0, PATIENCE)
                self._in_vain += 1
            messages = list(self._messages)
            if not messages:
                return None
            nearest = min(messages, key=lambda message: abs(_nanoseconds(message) - stamp))
            if abs(_nanoseconds(nearest) - stamp) > TOLERANCE:
                return None
            self._in_vain = 0
        return depth_to_metres(nearest)

    def _behind(self, stamp: int) -> int:
        """How much later [ns] than the newest depth image its next one must be to match; 0 before the first."""
        return stamp - TOLERANCE - _nanoseconds(self._messages[-1]) if self._messages else 0


def _nanoseconds(message: ImageMessage) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
