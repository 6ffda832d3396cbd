"""One-Euro filtering of placed hands: little lag when moving, little jitter at rest.

Casiez, Roussel, Vogel, "1 Euro Filter" (CHI 2012): a low-pass filter whose cut-off frequency
rises with the speed, ``min_cutoff + beta * speed``. Filtered are the wrist, as bearing and depth
because one camera errs far more along the ray than across it, and the 16 rotations, on SO(3).
The joints are computed anew from them, so bones keep their length.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from a2p_ros.camera import CameraModel
from a2p_ros.config import SmoothingConfig
from a2p_ros.hand_frames import placed_hand, reposed
from a2p_ros.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from a2p_ros.types import Pair, PlacedHand, Side

if TYPE_CHECKING:
    from a2p_ros.hand.model import HandModel

#: A longer pause [s] than this starts the filter anew.
MAX_GAP = 0.5
#: Cut-off of the speed estimate [Hz]. The paper's 1 Hz notices a hand that starts to move 160 ms late.
_SPEED_CUTOFF = 3.0
#: What a turn of each rotation moves [m/rad]: the whole hand, and per finger what lies beyond each joint.
_LEVERS = np.array([0.1, *(0.09, 0.06, 0.03) * 5])


class HandSmoother:
    """Smooths each side by itself; a hand that is lost is forgotten at once.

    Args:
        config: strength; ``enabled`` false passes hands through untouched.
        models: hand models, to compute joints from the filtered rotations.
    """

    def __init__(self, config: SmoothingConfig, models: Pair[HandModel]) -> None:
        self.config = config
        self._models = models
        self._filters: dict[Side, _HandFilter] = {}
        self._stamp = -math.inf

    def update(self, config: SmoothingConfig) -> None:
        """Take over changed settings; the next frame uses them."""
        self.config = config

    def reset(self) -> None:
        """Forget both hands."""
        self._filters.clear()
        self._stamp = -math.inf

    def __call__(self, hands: Pair[PlacedHand | None], camera: CameraModel, stamp: float) -> Pair[PlacedHand | None]:
        """Hands of one frame, smoothed over the frames before.

        Args:
            hands: placed hands, None where there is none.
            camera: camera of the frame, to project the smoothed joints.
            stamp: time of the frame [s]. One that does not rise, or rises by more than
                ``MAX_GAP``, starts the filters anew.
        """
        dt, self._stamp = stamp - self._stamp, stamp
        if not (self.config.enabled and 0 < dt <= MAX_GAP):
            self._filters.clear()
        if not self.config.enabled:
            return hands
        smoothed = {side: self._smooth(side, hand, camera, dt) for side, hand in hands.items()}
        return Pair(smoothed[Side.LEFT], smoothed[Side.RIGHT])

    def _smooth(self, side: Side, hand: PlacedHand | None, camera: CameraModel, dt: float) -> PlacedHand | None:
        if hand is None:
            self._filters.pop(side, None)
            return None
        rotations = np.concatenate([hand.pose.global_orient[None], hand.pose.hand_pose])
        if side not in self._filters:
            self._filters[side] = _HandFilter(hand.wrist, rotations)
            return hand
        wrist, rotations = self._filters[side](hand.wrist, rotations, dt, self.config)
        pose = reposed(hand.pose, rotations, hand.pose.betas, self._models[side])
        placed = placed_hand(pose, wrist, camera, self._models[side])
        return hand if placed is None else dataclasses.replace(placed, status=hand.status)


class _HandFilter:
    """The filters of one hand, with their memory."""

    def __init__(self, wrist: Float[np.ndarray, "3"], rotations: Float[np.ndarray, "16 3 3"]) -> None:
        self._raw_wrist = self._wrist = wrist
        self._raw_rotations = self._rotations = rotations
        self._velocity = np.zeros(3)
        self._spin = np.zeros((16, 3))

    def __call__(
        self, wrist: Float[np.ndarray, "3"], rotations: Float[np.ndarray, "16 3 3"], dt: float, config: SmoothingConfig
    ) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "16 3 3"]]:
        """Filtered wrist [m] and rotations, ``dt`` [s] after the last."""
        speed_share = _share(np.array(_SPEED_CUTOFF), dt)

        # Steps in metres across and along the ray: those of (x/z, y/z, log z) times the depth.
        step = wrist[2] * (_bearing(wrist) - _bearing(self._raw_wrist))
        self._velocity = self._velocity + speed_share * (step / dt - self._velocity)
        across = float(np.hypot(*self._velocity[:2]))
        speeds = np.array([across, across, abs(self._velocity[2])])
        share = _share(config.min_cutoff + config.beta * speeds, dt)
        before = _bearing(self._wrist)
        u, v, log_depth = before + share * (_bearing(wrist) - before)
        self._raw_wrist, self._wrist = wrist, math.exp(log_depth) * np.array([u, v, 1.0])

        turn = matrix_to_axis_angle(np.swapaxes(self._raw_rotations, 1, 2) @ rotations)
        self._spin = self._spin + speed_share * (turn / dt - self._spin)
        speeds = np.linalg.norm(self._spin, axis=1) * _LEVERS
        share = _share(config.min_cutoff + config.beta * speeds, dt)
        behind = matrix_to_axis_angle(np.swapaxes(self._rotations, 1, 2) @ rotations)
        self._raw_rotations = rotations
        self._rotations = self._rotations @ axis_angle_to_matrix(share[:, None] * behind)
        return self._wrist, self._rotations


def _bearing(wrist: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    x, y, z = wrist
    return np.array([x / z, y / z, math.log(z)])


def _share(cutoff: np.ndarray, dt: float) -> np.ndarray:
    """The share of a new value in the filtered one: alpha of a first-order low pass [Hz]."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))
