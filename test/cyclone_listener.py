"""A DDS participant of another vendor: decodes TwoHandMANO with Cyclone DDS and prints one JSON line for each.

Written from the message files alone: it knows nothing of ROS or of this package. Its annotations are evaluated, since
Cyclone DDS builds the types from them.
Usage: cyclone_listener.py DOMAIN COUNT TIMEOUT
"""

import dataclasses
import json
import os
import sys
import time

os.environ["CYCLONEDDS_URI"] = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface address="127.0.0.1"/>
</Interfaces><AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>60</MaxAutoParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain>
</CycloneDDS>"""

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float32, float64, int32, uint8, uint32
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration


@dataclasses.dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclasses.dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclasses.dataclass
class Point(IdlStruct, typename="geometry_msgs::msg::dds_::Point_"):
    x: float64
    y: float64
    z: float64


@dataclasses.dataclass
class Quaternion(IdlStruct, typename="geometry_msgs::msg::dds_::Quaternion_"):
    x: float64
    y: float64
    z: float64
    w: float64


@dataclasses.dataclass
class Pose(IdlStruct, typename="geometry_msgs::msg::dds_::Pose_"):
    position: Point
    orientation: Quaternion


@dataclasses.dataclass
class Region(IdlStruct, typename="sensor_msgs::msg::dds_::RegionOfInterest_"):
    x_offset: uint32
    y_offset: uint32
    height: uint32
    width: uint32
    do_rectify: bool


@dataclasses.dataclass
class HandMANO(IdlStruct, typename="a2p_ros::msg::dds_::HandMANO_"):
    valid: bool
    status: uint8
    confidence: float32
    wrist: Pose
    keypoints: array[float32, 63]
    keypoints_wrist: array[float32, 63]
    keypoints_px: array[float32, 42]
    keypoint_confidence: array[float32, 21]
    mano_pose: array[float32, 48]
    mano_betas: array[float32, 10]
    mano_transl: array[float32, 3]
    box: Region


@dataclasses.dataclass
class TwoHandMANO(IdlStruct, typename="a2p_ros::msg::dds_::TwoHandMANO_"):
    header: Header
    left: HandMANO
    right: HandMANO
    interacting: bool
    repaired: bool
    penetration_before: float32
    penetration_after: float32
    relative_translation: array[float32, 3]
    metric_scale: bool
    latency: float32
    model_id: str
    hand_model: str


def main(domain: int, count: int, timeout: float) -> int:
    participant = DomainParticipant(domain)
    qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(50))
    reader = DataReader(participant, Topic(participant, "rt/hands", TwoHandMANO, qos=qos), qos=qos)
    deadline, seen = time.monotonic() + timeout, 0
    while seen < count and time.monotonic() < deadline:
        for message in reader.take(N=20):
            if isinstance(message, TwoHandMANO):
                print(json.dumps(dataclasses.asdict(message)), flush=True)
                seen += 1
        time.sleep(0.01)
    return 0 if seen >= count else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
