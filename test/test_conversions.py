"""TwoHandMANO: what a field holds, checked from the definition of each in the message files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from ros_helpers import require_ros, two_hands

require_ros()

from a2p_ros.msg import HandMANO, TwoHandMANO
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from a2p_ros.errors import InputError
from a2p_ros.message_fields import hand_fields
from a2p_ros.ros.conversions import check_arrays, message_to_fields, not_valid_message, two_hands_message
from a2p_ros.types import Box, Pair, Side, Status

ARRAYS = {"keypoints": 63, "keypoints_wrist": 63, "keypoints_px": 42, "keypoint_confidence": 21}
ARRAYS |= {"mano_pose": 48, "mano_betas": 10, "mano_transl": 3}


def header(nanosec: int = 123_456_789) -> Header:
    """A stamp that a float of seconds cannot hold to the nanosecond."""
    out = Header(frame_id="camera_optical")
    out.stamp.sec, out.stamp.nanosec = 1_790_000_000, nanosec
    return out


def convert(hands, **kwargs) -> TwoHandMANO:
    """Through the wire, as a subscriber sees it."""
    options = {"image_size": (640, 480), "latency": 0.02, **kwargs}
    return deserialize_message(serialize_message(two_hands_message(hands, header(), **options)), TwoHandMANO)


def assert_not_valid(hand: HandMANO) -> None:
    """Every float NaN, the box zero."""
    assert not hand.valid and math.isnan(hand.confidence)
    for name, length in ARRAYS.items():
        values = np.asarray(getattr(hand, name))
        assert values.shape == (length,) and np.isnan(values).all(), name
    p, q, box = hand.wrist.position, hand.wrist.orientation, hand.box
    assert all(map(math.isnan, (p.x, p.y, p.z, q.x, q.y, q.z, q.w)))
    assert (box.x_offset, box.y_offset, box.width, box.height) == (0, 0, 0, 0)


def test_stamp_and_frame_are_those_of_the_image_to_the_nanosecond() -> None:
    message = convert(two_hands(*Side))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_790_000_000, 123_456_789)
    assert message.header.frame_id == "camera_optical"


@pytest.mark.parametrize("side", list(Side))
def test_every_field_of_a_seen_hand(side: Side) -> None:
    hands = two_hands(*Side)
    hand, out = hands[side], getattr(convert(hands), side.value)
    assert out.valid and out.status == HandMANO.TRACKED and out.confidence == pytest.approx(0.8)
    np.testing.assert_allclose(np.reshape(out.keypoints, (21, 3)), hand.joints, atol=1e-6)
    np.testing.assert_allclose(np.reshape(out.keypoints_px, (21, 2)), hand.keypoints_px, rtol=1e-6)
    np.testing.assert_allclose(out.mano_betas, hand.pose.betas, atol=1e-6)
    np.testing.assert_allclose(out.mano_transl, hand.transl, atol=1e-6)
    np.testing.assert_array_equal(out.mano_pose, np.zeros(48))
    q, p = out.wrist.orientation, out.wrist.position
    rotation = Rotation.from_quat([q.x, q.y, q.z, q.w])
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0, abs=1e-9)
    wrist = np.array([p.x, p.y, p.z])
    np.testing.assert_allclose(wrist, hand.joints[0], atol=1e-9)
    local = np.reshape(out.keypoints_wrist, (21, 3))
    np.testing.assert_allclose(rotation.apply(local) + wrist, hand.joints, atol=1e-6)
    np.testing.assert_allclose(local[0], 0, atol=1e-9)
    assert local[9, 0] > 0 and np.abs(local[9, 1:]).max() < 1e-6, "x points to the middle finger's base"


def test_wrist_axes_of_hands_with_the_palm_to_the_camera() -> None:
    """Fingers up in the image, palm to the camera: the back looks away from it on both hands."""
    message = convert(two_hands(*Side))
    for side in Side:
        q = getattr(message, side.value).wrist.orientation
        axes = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        np.testing.assert_allclose(axes[:, 0], (0, -1, 0), atol=1e-6)
        np.testing.assert_allclose(axes[:, 2], (0, 0, 1), atol=1e-6)


def test_mano_pose_is_axis_angle_global_first() -> None:
    hands = two_hands(Side.RIGHT)
    angles = np.random.default_rng(3).normal(0, 0.7, (16, 3))
    matrices = Rotation.from_rotvec(angles).as_matrix()
    pose = dataclasses.replace(hands.right.pose, global_orient=matrices[0], hand_pose=matrices[1:])
    out = convert(dataclasses.replace(hands, right=dataclasses.replace(hands.right, pose=pose)))
    np.testing.assert_allclose(np.reshape(out.right.mano_pose, (16, 3)), angles, atol=1e-5)


def test_hand_not_seen_is_all_nan() -> None:
    message = convert(two_hands(Side.RIGHT))
    assert message.right.valid
    assert_not_valid(message.left)
    assert message.left.status == HandMANO.NOT_DETECTED
    assert np.isnan(message.relative_translation).all() and math.isnan(message.penetration_before)


def test_relative_translation_is_left_minus_right() -> None:
    np.testing.assert_allclose(convert(two_hands(*Side)).relative_translation, (-0.2, 0, 0), atol=1e-6)


@pytest.mark.parametrize("coast", [False, True])
def test_predicted_is_valid_only_when_asked(coast: bool) -> None:
    hands = two_hands(*Side, status=Pair(Status.PREDICTED, Status.TRACKED))
    message = convert(hands, coast_valid=coast)
    assert message.left.valid is coast and message.left.status == HandMANO.PREDICTED and message.right.valid
    if not coast:
        assert_not_valid(message.left)


def test_rejected_is_never_valid() -> None:
    message = convert(two_hands(*Side, status=Pair(Status.REJECTED, Status.TRACKED)), coast_valid=True)
    assert_not_valid(message.left)
    assert message.left.status == HandMANO.REJECTED


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("broken", ["joints", "transl", "keypoints_px"])
def test_number_that_is_not_finite_rejects_its_hand_alone(broken: str) -> None:
    hands = two_hands(*Side)
    values = getattr(hands.left, broken).copy()
    values.flat[3 % values.size] = np.inf
    message = convert(dataclasses.replace(hands, left=dataclasses.replace(hands.left, **{broken: values})))
    assert_not_valid(message.left)
    assert message.left.status == HandMANO.REJECTED
    assert message.right.valid and np.isnan(message.relative_translation).all()


def test_box_is_clipped_to_the_image() -> None:
    hands = two_hands(Side.RIGHT)
    box = Box(-20.5, 100.2, 700.0, 480.9)
    out = convert(dataclasses.replace(hands, right=dataclasses.replace(hands.right, box=box))).right.box
    assert (out.x_offset, out.width) == (0, 640) and out.y_offset == 100 and out.y_offset + out.height == 480
    assert not out.do_rectify


def test_not_valid_message_names_model_and_frame() -> None:
    message = not_valid_message(header(), model_id="m", hand_model="h")
    assert_not_valid(message.left)
    assert_not_valid(message.right)
    assert (message.header.frame_id, message.model_id, message.hand_model) == ("camera_optical", "m", "h")
    assert math.isnan(message.latency) and not message.interacting and not message.metric_scale


def test_message_gives_its_fields_back() -> None:
    hands = two_hands(*Side)
    fields = message_to_fields(convert(hands))
    again = hand_fields(hands.left, Status.TRACKED, image_size=(640, 480))
    for name in ARRAYS:
        np.testing.assert_array_equal(fields["left"][name], again[name])
    assert fields["left"]["wrist"] == again["wrist"] and fields["left"]["box"] == again["box"]


@pytest.mark.parametrize("wrong", [np.zeros(62, np.float32), np.zeros(63), np.zeros((21, 3), np.float32)])
def test_arrays_of_another_form_are_refused_before_they_are_serialised(wrong: np.ndarray) -> None:
    fields = hand_fields(two_hands(*Side).left, Status.TRACKED, image_size=(640, 480))
    check_arrays(fields, Side.LEFT)
    with pytest.raises(InputError, match=r"left\.keypoints: expected float32 \(63,\), got"):
        check_arrays({**fields, "keypoints": wrong}, Side.LEFT)


def test_status_numbers_are_those_of_the_message() -> None:
    assert {s.name: int(s) for s in Status} == {s.name: getattr(HandMANO, s.name) for s in Status}
