"""A hand's points where MediaPipe would mark them, which is not quite at the joints."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from a2p_ros.fitting.skeleton import FINGERS, SideArrays
from a2p_ros.types import PlacedHand


def as_landmarks(hand: PlacedHand, arrays: SideArrays) -> Float[np.ndarray, "21 3"]:
    """MediaPipe's landmarks of a placed hand, camera frame [m]: each joint moved by the constant `LANDMARK_SHIFT`,
    which turns with the bone that ends in the joint."""
    root = hand.pose.global_orient
    turns = np.empty((21, 3, 3))
    turns[0] = root
    for finger, joints in enumerate(FINGERS):
        turn = root
        for point in range(4):
            turns[1 + 4 * finger + point] = turn
            if point < 3:
                turn = turn @ hand.pose.hand_pose[joints[point] - 1]
    return hand.joints + np.einsum("nij,nj->ni", turns, arrays.shift)
