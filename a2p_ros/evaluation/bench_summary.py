"""What ``a2p bench ros`` concludes from the times that its processes noted down, all of one machine's clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class HandsEvent(NamedTuple):
    """One message about an image: the image's stamp [ns], its receipt [s], and which hands were valid."""

    stamp: int
    received: float
    left: bool
    right: bool


def summarise(
    hands: Sequence[HandsEvent],
    images: Sequence[tuple[int, float]],
    started: Mapping[int, float],
    begin: float,
    end: float,
) -> dict[str, Any]:
    """The promised keys of what arrived between ``begin`` and ``end`` [s].

    Args:
        hands: messages as they were received.
        images: (stamp [ns], receipt [s]) of the camera's CameraInfo, one for each image.
        started: stamp [ns] of an image -> when the node began to work on it [s].
        begin: start of the measurement [s].
        end: its end [s].

    An image counts as there to be taken once it is as old as the images were that were taken soonest (10th
    percentile): that is what the transport takes. A message is about the newest image unless a later one was there
    when the work began.
    """
    counted = [h for h in hands if begin <= h.received < end]
    latencies = np.asarray([h.received - h.stamp * 1e-9 for h in counted]) * 1e3
    span = counted[-1].received - counted[0].received if len(counted) > 1 else math.nan
    works = [(h.stamp, started[h.stamp]) for h in counted if h.stamp in started]
    return {
        "frames_in": sum(begin <= received < end for _, received in images),
        "frames_out": len(counted),
        "fps": (len(counted) - 1) / span if len(counted) > 1 else math.nan,
        "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) if counted else math.nan for p in (50, 99)},
        "newest_frame_share": newest_share(works, [stamp for stamp, _ in images]),
        "left_valid": sum(h.left for h in counted),
        "right_valid": sum(h.right for h in counted),
    }


def newest_share(works: Sequence[tuple[int, float]], stamps: Sequence[int]) -> float:
    """Share of works (stamp [ns], begun [s]) on the image that was newest when they began; NaN of none."""
    if not works or not stamps:
        return math.nan
    published = np.sort(np.asarray(stamps, np.int64))
    taken = np.asarray([stamp for stamp, _ in works], np.int64)
    begun = np.asarray([begin for _, begin in works]) * 1e9
    transport = np.percentile(begun - taken, 10)
    newest = np.searchsorted(published, begun - transport, side="right") - 1
    return float(np.mean((newest < 0) | (taken >= published[np.maximum(newest, 0)])))
