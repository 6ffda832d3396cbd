"""The colours of hands and fingers, one table for overlay, markers and browser view (RGB, 0 to 255)."""

from __future__ import annotations

from a2p_ros.types import Pair

Rgb = tuple[int, int, int]

#: The colour of each hand; blue and orange stay apart for colour-blind eyes too.
HAND_COLOURS: Pair[Rgb] = Pair(left=(47, 128, 237), right=(242, 140, 40))

#: Thumb, index, middle, ring, little finger.
FINGER_COLOURS: tuple[Rgb, ...] = ((255, 99, 99), (255, 206, 84), (124, 220, 110), (84, 206, 230), (190, 140, 255))

#: The 20 bones of the 21 OpenPose keypoints, (parent, child), finger by finger.
BONES: tuple[tuple[int, int], ...] = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
)
