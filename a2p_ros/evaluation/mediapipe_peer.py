"""MediaPipe Hands as users run it: the peer in benchmarks and the reference on real video.

Only its model files are needed to run the package; this module needs its Python too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from a2p_ros.errors import MissingDependencyError
from a2p_ros.types import Box, Image, Side


@dataclass(frozen=True)
class PeerHand:
    """One hand as MediaPipe reports it; ``keypoints_px`` in OpenPose order [px]."""

    side: Side
    score: float
    keypoints_px: Float[np.ndarray, "21 2"]

    @property
    def box(self) -> Box:
        """Tight box of the points [px]."""
        return Box.around(self.keypoints_px)


class MediaPipeHands:
    """The full model on a stream of frames, two hands at most; use it as a context manager.

    Args:
        still: whether each picture is another one, and nothing is carried from the one before.

    Raises:
        MissingDependencyError: MediaPipe's Python cannot be imported.
    """

    def __init__(self, *, still: bool = False) -> None:
        try:
            from mediapipe.python.solutions.hands import Hands
        except ImportError as error:
            raise MissingDependencyError(
                f"MediaPipe's Python cannot be imported ({error}), which is needed to compare with it: "
                "pip install 'a2p_ros[peer]' && pip install --no-deps mediapipe==0.10.21"
            ) from error
        self._hands: Any = Hands(static_image_mode=still, max_num_hands=2, model_complexity=1)

    def __call__(self, image: Image) -> list[PeerHand]:
        """Hands of the next frame (RGB)."""
        found = self._hands.process(image)
        size = np.asarray([image.shape[1], image.shape[0]], float)
        hands = []
        for marks, sides in zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True):
            # Its labels assume a mirrored, selfie picture: on a plain one they are the other way round.
            side = Side.RIGHT if sides.classification[0].label == "Left" else Side.LEFT
            points = np.asarray([[mark.x, mark.y] for mark in marks.landmark]) * size - 0.5
            hands.append(PeerHand(side, float(sides.classification[0].score), points))
        return hands

    def close(self) -> None:
        """Release the graph."""
        self._hands.close()

    def __enter__(self) -> MediaPipeHands:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
