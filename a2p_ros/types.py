"""Values that pass between the stages, with shape, unit and frame.

Conventions, everywhere in the package: metres, seconds, radians; camera frame is
REP 103 optical (x right, y down, z forward); pixels are (x, y) with (0, 0) the centre
of the top left pixel; 21 keypoints in OpenPose order (wrist; thumb, index, middle,
ring, little finger, each base to tip); boxes are xyxy.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

#: An image as the core sees it: RGB, 8 bit, contiguous.
Image = UInt8[np.ndarray, "height width 3"]


class Side(str, enum.Enum):
    """Which hand of the person, never which half of the image."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def other(self) -> Side:
        """The opposite hand."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


class Status(enum.IntEnum):
    """Why a hand is or is not valid; the numbers are those of ``HandMANO.msg``."""

    NOT_DETECTED = 0
    TRACKED = 1
    PREDICTED = 2
    REJECTED = 3


class Box(NamedTuple):
    """Axis-aligned box, edges in pixels [px]."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Width [px]."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height [px]."""
        return self.y1 - self.y0

    @property
    def size(self) -> float:
        """The longer edge [px], the unit of keypoint errors relative to the box."""
        return max(self.width, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) [px]."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def area(self) -> float:
        """Area [px^2]; zero for an empty box."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    def scaled(self, factor: float) -> Box:
        """The box grown about its centre."""
        (cx, cy), w, h = self.centre, self.width * factor / 2, self.height * factor / 2
        return Box(cx - w, cy - h, cx + w, cy + h)

    def squared(self) -> Box:
        """The smallest square with the same centre that holds the box."""
        (cx, cy), h = self.centre, self.size / 2
        return Box(cx - h, cy - h, cx + h, cy + h)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 where either box is empty."""
        w = min(self.x1, other.x1) - max(self.x0, other.x0)
        h = min(self.y1, other.y1) - max(self.y0, other.y0)
        inter = max(w, 0.0) * max(h, 0.0)
        union = self.area + other.area - inter
        return inter / union if union > 0 else 0.0

    @classmethod
    def around(cls, points: Float[np.ndarray, "n 2"]) -> Box:
        """Tight box of points [px]."""
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return cls(float(x0), float(y0), float(x1), float(y1))


@dataclass(frozen=True)
class Detection:
    """Where a hand is: what a detector or the last frame's reconstruction gives.

    ``box`` is the tight box of the visible hand [px]. ``right`` is the probability that it
    is the person's right hand (0.5 = unknown). ``rotation`` is the clockwise angle in the
    image [rad] of the direction wrist -> middle finger base, measured from straight up
    (0 = fingers up, pi/2 = fingers to the image's right); None = unknown. ``square`` is
    (centre x, centre y, edge) [px] of the square, turned by ``rotation``, that the landmark
    stage should look at, where the source knows a better one than follows from the box.
    """

    box: Box
    score: float
    right: float = 0.5
    rotation: float | None = None
    square: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class RegressedHand:
    """A hand model's parameters as a network regressed them of one hand, relative to nothing.

    Rotations are those of the hand model of ``side`` (MANO axes, zero = flat hand), the side that the network took
    the hand for; the global one is turned into the real camera's axes.
    """

    side: Side
    global_orient: Float[np.ndarray, "3 3"]
    hand_pose: Float[np.ndarray, "15 3 3"]
    betas: Float[np.ndarray, "10"]


@dataclass(frozen=True)
class HandKeypoints:
    """What the landmark stage or the network measured of one hand.

    ``keypoints_3d`` are metres relative to an arbitrary origin near the palm, in the axes of
    a camera that looks along the crop's ray (``crop_centre_px``), not of the real camera: see
    ``camera.rotation_to_ray``. Their overall size is a guess by the model that measured them.
    ``regressed`` is the pose where a network gives one with the points. ``at_joints`` says that the points are
    the hand model's joints themselves, and not MediaPipe's landmarks, which lie a little beside them.
    """

    detection: Detection
    keypoints_px: Float[np.ndarray, "21 2"]
    keypoints_3d: Float[np.ndarray, "21 3"]
    confidence: Float[np.ndarray, "21"]
    presence: float
    right: float
    crop_centre_px: tuple[float, float]
    regressed: RegressedHand | None = None
    at_joints: bool = False

    @property
    def box(self) -> Box:
        """Tight box of the 21 points [px]."""
        return Box.around(self.keypoints_px)


@dataclass(frozen=True)
class HandPose:
    """A regressor's result: one hand, placed nowhere yet.

    Rotations are those of the hand model of ``side`` (MANO axes, zero = flat hand), turned
    into the real camera's axes. ``joints`` are relative to the wrist, camera axes [m]. ``landmarks``
    are the points of the hand that ``keypoints_px`` show, likewise relative to the wrist, where they
    are not the joints themselves; None = the joints.
    """

    side: Side
    global_orient: Float[np.ndarray, "3 3"]
    hand_pose: Float[np.ndarray, "15 3 3"]
    betas: Float[np.ndarray, "10"]
    joints: Float[np.ndarray, "21 3"]
    keypoints_px: Float[np.ndarray, "21 2"]
    keypoint_confidence: Float[np.ndarray, "21"]
    confidence: float
    landmarks: Float[np.ndarray, "21 3"] | None = None


@dataclass(frozen=True)
class PlacedHand:
    """One hand in the camera frame.

    ``wrist`` [m] is the wrist joint; ``joints`` are the 21 keypoints in the camera frame [m];
    ``keypoints_px`` are those joints projected into the image [px] (what the image evidence
    said is in ``observed_px``). ``transl`` is MANO's own translation [m], which is not the wrist position.
    """

    pose: HandPose
    wrist: Float[np.ndarray, "3"]
    joints: Float[np.ndarray, "21 3"]
    keypoints_px: Float[np.ndarray, "21 2"]
    transl: Float[np.ndarray, "3"]
    box: Box
    status: Status = Status.TRACKED

    @property
    def side(self) -> Side:
        """Which hand."""
        return self.pose.side

    @property
    def confidence(self) -> float:
        """Confidence [0, 1]."""
        return self.pose.confidence

    @property
    def observed_px(self) -> Float[np.ndarray, "21 2"]:
        """The measured keypoints that the hand was fitted to [px]."""
        return self.pose.keypoints_px


T = TypeVar("T")


@dataclass(frozen=True)
class Pair(Generic[T]):
    """A left and a right value; named fields, never an index."""

    left: T
    right: T

    def __getitem__(self, side: Side) -> T:
        return self.left if side is Side.LEFT else self.right

    def items(self) -> tuple[tuple[Side, T], tuple[Side, T]]:
        """(side, value) of both, left first."""
        return (Side.LEFT, self.left), (Side.RIGHT, self.right)


@dataclass(frozen=True)
class TwoHands:
    """The pipeline's answer to one image.

    ``relative_translation`` = left wrist minus right wrist, camera axes [m], None unless both
    are valid. ``penetration_*`` [m]; ``rejected_repair`` says why a repair was not taken. ``latency`` [s] is
    the pipeline's own; ``timings`` [s] are by stage. A hand that is None was not detected or was rejected (``status``).
    """

    stamp: float
    left: PlacedHand | None
    right: PlacedHand | None
    status: Pair[Status]
    interacting: bool
    repaired: bool
    penetration_before: float
    penetration_after: float
    metric_scale: bool
    model_id: str
    hand_model: str
    rejected_repair: str = ""
    latency: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, side: Side) -> PlacedHand | None:
        return self.left if side is Side.LEFT else self.right

    def items(self) -> tuple[tuple[Side, PlacedHand | None], tuple[Side, PlacedHand | None]]:
        """(side, hand) of both, left first."""
        return (Side.LEFT, self.left), (Side.RIGHT, self.right)

    @property
    def relative_translation(self) -> Float[np.ndarray, "3"] | None:
        """Left wrist minus right wrist, camera axes [m]."""
        if self.left is None or self.right is None:
            return None
        return self.left.wrist - self.right.wrist
