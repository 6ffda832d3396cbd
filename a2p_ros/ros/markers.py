"""Hands as RViz markers: a mesh, or bones and joints; a hand that is not shown is deleted at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from jaxtyping import Float, Int
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from a2p_ros.colours import BONES, HAND_COLOURS
from a2p_ros.types import Pair, PlacedHand, Side

_MESH, _BONES, _JOINTS = 0, 1, 2
_BONE_WIDTH = 0.006
_JOINT_WIDTH = 0.009


class MarkerMaker:
    """Builds marker arrays; keeps the points of each mesh, which are costly to make in Python.

    Args:
        faces: triangles of each hand's mesh, indices into its vertices.
    """

    def __init__(self, faces: Pair[Int[np.ndarray, "f 3"]]) -> None:
        self._faces = faces
        self._points: dict[Side, tuple[list[Point], list[Point]]] = {}

    def mesh(self, side: Side, vertices: Float[np.ndarray, "v 3"], header: Header, lifetime: float) -> list[Marker]:
        """A TRIANGLE_LIST of one hand; vertices in the camera frame [m]."""
        if side not in self._points:
            corners = [Point() for _ in range(len(vertices))]
            self._points[side] = corners, [corners[i] for i in self._faces[side].reshape(-1).tolist()]
        corners, triangles = self._points[side]
        for point, (x, y, z) in zip(corners, vertices.astype(float).tolist(), strict=True):
            point.x, point.y, point.z = x, y, z
        marker = _marker(Marker.TRIANGLE_LIST, side, _MESH, header, lifetime)
        marker.scale.x = marker.scale.y = marker.scale.z = 1.0
        marker.points = triangles
        return [marker, *_delete(side, (_BONES, _JOINTS), header)]

    def skeleton(self, hand: PlacedHand, header: Header, lifetime: float) -> list[Marker]:
        """A LINE_LIST of bones and a SPHERE_LIST of joints."""
        points = [Point(x=x, y=y, z=z) for x, y, z in hand.joints.astype(float).tolist()]
        bones = _marker(Marker.LINE_LIST, hand.side, _BONES, header, lifetime)
        bones.scale.x = _BONE_WIDTH
        bones.points = [points[end] for bone in BONES for end in bone]
        joints = _marker(Marker.SPHERE_LIST, hand.side, _JOINTS, header, lifetime)
        joints.scale.x = joints.scale.y = joints.scale.z = _JOINT_WIDTH
        joints.points = points
        return [bones, joints, *_delete(hand.side, (_MESH,), header)]


def deletion(side: Side, header: Header) -> list[Marker]:
    """Takes everything of one hand off the screen."""
    return _delete(side, (_MESH, _BONES, _JOINTS), header)


def delete_all(header: Header) -> MarkerArray:
    """Takes both hands off the screen."""
    return MarkerArray(markers=[marker for side in Side for marker in deletion(side, header)])


def _marker(kind: int, side: Side, number: int, header: Header, lifetime: float) -> Marker:
    red, green, blue = HAND_COLOURS[side]
    marker = Marker(header=header, ns=side.value, id=number, type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
    marker.pose.orientation.w = 1.0
    nanoseconds = round(lifetime * 1e9)
    marker.lifetime = Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
    return marker


def _delete(side: Side, numbers: Iterable[int], header: Header) -> list[Marker]:
    return [Marker(header=header, ns=side.value, id=number, action=Marker.DELETE) for number in numbers]
