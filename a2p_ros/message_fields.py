"""What a TwoHandMANO message says, as plain values: the one place that fills it.

The node turns the result into a ROS message, ``a2p run`` into JSON lines and bags; none of them repeats the
geometry or the rule that a hand which is not valid is all NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from a2p_ros.errors import InputError
from a2p_ros.hand_frames import wrist_frame
from a2p_ros.rotations import matrix_to_axis_angle, matrix_to_quaternion_xyzw
from a2p_ros.types import Box, PlacedHand, Status, TwoHands

Fields = dict[str, Any]

#: Length of each fixed float array of ``HandMANO``.
ARRAY_LENGTHS = {
    "keypoints": 63,
    "keypoints_wrist": 63,
    "keypoints_px": 42,
    "keypoint_confidence": 21,
    "mano_pose": 48,
    "mano_betas": 10,
    "mano_transl": 3,
}


def two_hand_fields(
    hands: TwoHands,
    *,
    image_size: tuple[int, int],
    frame_id: str = "",
    latency: float | None = None,
    coast_valid: bool = False,
) -> Fields:
    """Every field of ``TwoHandMANO``: nested dicts, float32 arrays, Python scalars.

    Args:
        hands: the pipeline's answer.
        image_size: (width, height) [px] that the box is clipped to.
        frame_id: optical frame of the camera.
        latency: stamp to publication [s]; None takes the pipeline's own.
        coast_valid: whether a PREDICTED hand counts as valid.
    """
    fields: Fields = {"header": {"stamp": stamp_fields(hands.stamp), "frame_id": frame_id}}
    for side, hand in hands.items():
        fields[side.value] = hand_fields(hand, hands.status[side], image_size=image_size, coast_valid=coast_valid)
    both = fields["left"]["valid"] and fields["right"]["valid"]
    apart = hands.relative_translation if both else None
    fields |= {
        "interacting": bool(both and hands.interacting),
        "repaired": bool(both and hands.repaired),
        "penetration_before": float(hands.penetration_before) if both else math.nan,
        "penetration_after": float(hands.penetration_after) if both else math.nan,
        "relative_translation": _flat(apart, 3),
        "metric_scale": bool(hands.metric_scale),
        "latency": float(hands.latency if latency is None else latency),
        "model_id": hands.model_id,
        "hand_model": hands.hand_model,
    }
    return fields


def hand_fields(
    hand: PlacedHand | None, status: Status, *, image_size: tuple[int, int], coast_valid: bool = False
) -> Fields:
    """Every field of ``HandMANO``; NaN and a zero box unless the hand is valid."""
    shown = None if status is Status.NOT_DETECTED or status is Status.REJECTED else hand
    if status is Status.PREDICTED and not coast_valid:
        shown = None
    rotation = _wrist_rotation(shown)
    if shown is None or rotation is None:
        status = Status.REJECTED if shown is not None else status
        nothing = {name: _flat(None, length) for name, length in ARRAY_LENGTHS.items()}
        pose = {"position": _xyz([math.nan] * 3), "orientation": {k: math.nan for k in "xyzw"}}
        return {
            "valid": False,
            "status": int(status),
            "confidence": math.nan,
            "wrist": pose,
            **nothing,
            "box": _region(None, image_size),
        }
    quaternion = matrix_to_quaternion_xyzw(rotation)
    pose_matrices = np.concatenate([shown.pose.global_orient[None], shown.pose.hand_pose])
    return {
        "valid": True,
        "status": int(status),
        "confidence": float(np.clip(shown.confidence, 0, 1)),
        "wrist": {
            "position": _xyz(shown.joints[0]),
            "orientation": dict(zip("xyzw", map(float, quaternion), strict=True)),
        },
        "keypoints": _flat(shown.joints, 63),
        "keypoints_wrist": _flat((shown.joints - shown.joints[0]) @ rotation, 63),
        "keypoints_px": _flat(shown.keypoints_px, 42),
        "keypoint_confidence": _flat(shown.pose.keypoint_confidence, 21),
        "mano_pose": _flat(matrix_to_axis_angle(pose_matrices), 48),
        "mano_betas": _flat(shown.pose.betas, 10),
        "mano_transl": _flat(shown.transl, 3),
        "box": _region(shown.box, image_size),
    }


def stamp_fields(stamp: float) -> dict[str, int]:
    """``builtin_interfaces/Time`` of seconds, exact to the nanosecond that a float64 can hold."""
    nanoseconds = round(stamp * 1e9)
    return {"sec": nanoseconds // 1_000_000_000, "nanosec": nanoseconds % 1_000_000_000}


def _wrist_rotation(hand: PlacedHand | None) -> Float[np.ndarray, "3 3"] | None:
    """R_camera_wrist; None without a hand, and for joints that span no palm, which is no plausible hand."""
    try:
        return None if hand is None else wrist_frame(hand.joints, hand.side)
    except InputError:
        return None


def _flat(values: Float[np.ndarray, "..."] | None, length: int) -> Float32[np.ndarray, "length"]:
    if values is None:
        return np.full(length, np.nan, np.float32)
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    assert flat.shape == (length,), f"expected {length} numbers, got {flat.shape}"
    return flat


def _xyz(values: Any) -> dict[str, float]:
    return dict(zip("xyz", map(float, values), strict=True))


def _region(box: Box | None, image_size: tuple[int, int]) -> dict[str, int | bool]:
    """``sensor_msgs/RegionOfInterest``: whole pixels inside the image."""
    x0 = y0 = x1 = y1 = 0
    if box is not None:
        width, height = image_size
        x0, x1 = (int(np.clip(v, 0, width)) for v in (math.floor(box.x0), math.ceil(box.x1)))
        y0, y1 = (int(np.clip(v, 0, height)) for v in (math.floor(box.y0), math.ceil(box.y1)))
    return {"x_offset": x0, "y_offset": y0, "height": y1 - y0, "width": x1 - x0, "do_rectify": False}
