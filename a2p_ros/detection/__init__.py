"""Image -> hand boxes -> 21 keypoints, and the two hands followed over time."""
