"""The pipeline's answer -> TwoHandMANO, and a message back to plain values.

What each field holds is decided in ``a2p_ros.message_fields``; here it is put into the message. rclpy serialises a
fixed array of a wrong length out of bounds without a word, so lengths and types are checked here, and a hand with a
number that is not finite leaves as not valid: a robot acts on what ``valid`` promises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from std_msgs.msg import Header

from a2p_ros.errors import InputError
from a2p_ros.message_fields import ARRAY_LENGTHS, Fields, hand_fields, two_hand_fields
from a2p_ros.msg import TwoHandMANO
from a2p_ros.types import Pair, Side, Status, TwoHands

_NOBODY = Pair(Status.NOT_DETECTED, Status.NOT_DETECTED)


def two_hands_message(
    hands: TwoHands,
    header: Header,
    *,
    image_size: tuple[int, int],
    latency: float,
    coast_valid: bool = False,
) -> TwoHandMANO:
    """``TwoHandMANO`` of the pipeline's answer to one image.

    Args:
        hands: the pipeline's answer; its float stamp is not used.
        header: the image's own header, copied to the nanosecond.
        image_size: (width, height) [px] that boxes are clipped to.
        latency: image stamp to publication [s].
        coast_valid: whether a PREDICTED hand counts as valid.

    Raises:
        InputError: an array has not the length that the message declares.
    """
    fields = two_hand_fields(hands, image_size=image_size, latency=latency, coast_valid=coast_valid)
    broken = [side for side in Side if fields[side.value]["valid"] and not _finite(fields[side.value])]
    for side in broken:
        fields[side.value] = hand_fields(None, Status.REJECTED, image_size=image_size)
    if broken:
        nowhere = np.full(3, np.nan, np.float32)
        fields |= {"interacting": False, "repaired": False, "relative_translation": nowhere}
        fields |= {"penetration_before": math.nan, "penetration_after": math.nan}
    return _message(fields, header)


def not_valid_message(
    header: Header,
    *,
    status: Pair[Status] = _NOBODY,
    metric_scale: bool = False,
    model_id: str = "",
    hand_model: str = "",
    latency: float = math.nan,
) -> TwoHandMANO:
    """``TwoHandMANO`` in which neither hand is valid: NaN in every number, zero boxes."""
    nobody = TwoHands(
        stamp=0.0,
        left=None,
        right=None,
        status=status,
        interacting=False,
        repaired=False,
        penetration_before=math.nan,
        penetration_after=math.nan,
        metric_scale=metric_scale,
        model_id=model_id,
        hand_model=hand_model,
    )
    return _message(two_hand_fields(nobody, image_size=(0, 0), latency=latency), header)


def message_to_fields(message: Any) -> Any:
    """Any ROS message -> nested dicts, the inverse of what fills ``TwoHandMANO``."""
    if not hasattr(message, "get_fields_and_field_types"):
        return message
    return {name: message_to_fields(getattr(message, name)) for name in message.get_fields_and_field_types()}


def _message(fields: Fields, header: Header) -> TwoHandMANO:
    for side in Side:
        check_arrays(fields[side.value], side)
    message = TwoHandMANO()
    _fill(message, {name: value for name, value in fields.items() if name != "header"})
    message.header.stamp.sec = header.stamp.sec
    message.header.stamp.nanosec = header.stamp.nanosec
    message.header.frame_id = header.frame_id
    return message


def check_arrays(fields: Fields, side: Side) -> None:
    """Raise InputError unless each fixed array is one-dimensional, contiguous float32 of its declared length."""
    for name, length in ARRAY_LENGTHS.items():
        value = fields[name]
        if value.shape != (length,) or value.dtype != np.float32 or not value.flags.c_contiguous:
            raise InputError(f"{side.value}.{name}: expected float32 ({length},), got {value.dtype} {value.shape}")


def _fill(message: Any, fields: Fields) -> None:
    for name, value in fields.items():
        if isinstance(value, dict):
            _fill(getattr(message, name), value)
        else:
            setattr(message, name, value)


def _finite(fields: Fields) -> bool:
    wrist = fields["wrist"]
    numbers = (fields["confidence"], *wrist["position"].values(), *wrist["orientation"].values())
    return all(map(math.isfinite, numbers)) and all(np.isfinite(fields[name]).all() for name in ARRAY_LENGTHS)
