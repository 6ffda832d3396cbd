"""The hand's joints: names, orders and the kinematic tree that MANO and the open hand share.

MANO16 is the order of the parameters (wrist, index, middle, little, ring, thumb); MANO21 adds
the five tips (thumb to little); OpenPose 21 is the order of every public surface.
"""

from __future__ import annotations

import numpy as np

#: The 16 joints in MANO's order; 1 to 15 are the order of ``hand_pose``.
MANO_JOINTS: tuple[str, ...] = (
    "wrist",
    *(f"{finger}_{i}" for finger in ("index", "middle", "little", "ring", "thumb") for i in (1, 2, 3)),
)

#: Parent of each MANO joint; the wrist has none.
PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

#: MANO's own form of the tree (parent row, child row); its root's parent is 2^32 - 1.
KINTREE_TABLE = np.array([PARENTS, range(16)], dtype=np.int64).astype(np.uint32)

#: MANO21 index of each OpenPose keypoint: ``openpose = mano21[OPENPOSE_FROM_MANO21]``.
OPENPOSE_FROM_MANO21: tuple[int, ...] = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)

#: OpenPose index of each MANO joint: ``mano16 = openpose[MANO16_FROM_OPENPOSE]``.
MANO16_FROM_OPENPOSE: tuple[int, ...] = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3)

#: The 21 keypoints in OpenPose order (those of MediaPipe and FreiHAND).
OPENPOSE_JOINTS: tuple[str, ...] = (
    "wrist",
    "thumb_cmc",
    "thumb_mcp",
    "thumb_ip",
    "thumb_tip",
    *(f"{finger}_{part}" for finger in ("index", "middle", "ring", "little") for part in ("mcp", "pip", "dip", "tip")),
)

#: OpenPose indices of the five fingertips, thumb to little finger.
TIPS: tuple[int, ...] = (4, 8, 12, 16, 20)

#: Lines of the skeleton between OpenPose keypoints.
BONES: tuple[tuple[int, int], ...] = tuple((0 if (k - 1) % 4 == 0 else k - 1, k) for k in range(1, 21))
