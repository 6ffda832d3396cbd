"""Contact sheets and videos of frames with their labels drawn in, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from a2p_ros.colours import HAND_COLOURS
from a2p_ros.errors import InputError
from a2p_ros.hand.topology import BONES
from a2p_ros.training.synthetic.samples import CroppedHand, Frame, HandLabel
from a2p_ros.types import Image, Side

_HIDDEN = (120, 120, 120)


def crop_sheet(frames: Sequence[Frame], count: int = 100, columns: int = 10) -> Image:
    """The first ``count`` crops with their joints: hidden ones are grey. Raises InputError where there is none."""
    cells: list[Image] = []
    for frame in frames:
        for side, cropped in frame.crops.items():
            hand = frame.hands[side]
            if cropped is not None and hand is not None and len(cells) < count:
                cells.append(_crop_cell(cropped, hand))
    if not cells:
        raise InputError("contact sheet: the frames hold no crops; make them with --set crop=128")
    return _grid(cells, columns)


def frame_sheet(frames: Sequence[Frame], count: int = 24, columns: int = 4) -> Image:
    """The first ``count`` frames with boxes, joints and what they show."""
    if not frames:
        raise InputError("contact sheet: expected at least one frame, got none")
    return _grid([draw_truth(frame) for frame in frames[:count]], columns)


def draw_truth(frame: Frame) -> Image:
    """The frame with skeletons, boxes and visible shares drawn in."""
    image = frame.image.copy()
    for side, hand in frame.hands.items():
        if hand is None:
            continue
        colour = HAND_COLOURS[side]
        _skeleton(image, hand.keypoints_px.astype(float), hand.visible, colour, 1)
        x0, y0, x1, y1 = (round(v) for v in hand.box)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 1)
        _text(image, f"{side.value} {hand.visible_share:.2f}", (x0 + 2, max(y0 + 11, 11)), colour)
    _text(
        image,
        f"{frame.scene.get('kind', '')} {frame.scene.get('view', '')}",
        (3, frame.image.shape[0] - 5),
        (255, 255, 0),
    )
    return image


def write_video(frames: Sequence[Frame], path: Path, fps: float) -> None:
    """Frames with their truth drawn in as MP4. Raises InputError where it cannot be written or there is no frame."""
    if not frames:
        raise InputError("video: expected at least one frame, got none")
    height, width = frames[0].image.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))  # type: ignore[attr-defined]
    try:
        if not writer.isOpened():
            raise InputError(f"{path}: OpenCV cannot write a video there; expected a name that ends in .mp4")
        for frame in frames:
            writer.write(cv2.cvtColor(draw_truth(frame), cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


def write_sheet(image: Image, path: Path) -> None:
    """A sheet as PNG or JPEG, by the name's ending. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def _crop_cell(cropped: CroppedHand, hand: HandLabel) -> Image:
    image = cropped.image.copy()
    _skeleton(image, cropped.crop.to_crop(hand.keypoints_px), hand.visible, HAND_COLOURS[hand.side], 1)
    _text(image, "L" if hand.side is Side.LEFT else "R", (3, 12), HAND_COLOURS[hand.side])
    return image


def _skeleton(image: Image, points: np.ndarray, visible: np.ndarray, colour: tuple[int, int, int], radius: int) -> None:
    at = [(int(x), int(y)) for x, y in np.rint(points.clip(-9999, 9999))]
    for a, b in BONES:
        cv2.line(image, at[a], at[b], colour if visible[a] and visible[b] else _HIDDEN, 1, cv2.LINE_AA)
    for point, seen in zip(at, visible, strict=True):
        cv2.circle(image, point, radius, colour if seen else _HIDDEN, -1, cv2.LINE_AA)


def _text(image: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)


def _grid(cells: Sequence[Image], columns: int) -> Image:
    columns = min(columns, len(cells))
    blank = np.full_like(cells[0], 255)
    rows = [list(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    rows[-1] += [blank] * (columns - len(rows[-1]))
    return np.concatenate([np.concatenate(row, 1) for row in rows])
