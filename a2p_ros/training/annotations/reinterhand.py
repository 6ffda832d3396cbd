"""Re:InterHand (Moon et al., NeurIPS 2023): MANO fits of ten captures of interacting hands.

m--*--two-hands/mano_fits/params/{frame}_{side}.json                     pose, shape, trans [m], world frame
m--*--two-hands/orig_fits/{side}/Keypoints/keypoint-{frame:06d}.json     (24, 3) [mm], world frame
m--*--two-hands/frame_list.txt                                           lines: SEGMENT FRAME
m--*--two-hands/Mugsy_cameras/cam_params.json                            [camera][R | t [mm]]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from a2p_ros.errors import InputError, SourceError
from a2p_ros.training.annotations.reader import Annotations, Extrinsics, Frame, MeasuredJoints, collected
from a2p_ros.training.annotations.values import hand_row, mapping, numbers, read_json, whole_number
from a2p_ros.types import Pair

#: Captures that InterWild (Moon, CVPR 2023) keeps for testing; the data set itself names no splits.
TEST_CAPTURES = (
    "m--20221215--0949--RNS217--pilot--ProjectGoliathScript--Hands--two-hands",
    "m--20221216--0953--NKC880--pilot--ProjectGoliathScript--Hands--two-hands",
    "m--20230317--1130--QZX685--pilot--ProjectGoliath--Hands--two-hands",
)
SPLITS = ("train", "test", "all")
#: Index of each OpenPose keypoint among the 24: wrist, thumb 0 to 4, index, middle and ring 1 to 4,
#: little finger 0 to 4, forearm. Thumb 0, little finger 0 and the forearm are no OpenPose keypoints.
OPENPOSE_FROM_REINTERHAND = (0, 2, 3, 4, 5, *range(6, 18), 19, 20, 21, 22)
N_KEYPOINTS = 24
_MAX_BYTES = 2**20


class ReInterHandAnnotations(Annotations):
    """The captures of Re:InterHand under ``root``, or the one capture that ``root`` is.

    ``stride`` takes every n-th frame of a capture. Joints are read when asked for. Raises SourceError
    for missing or unreadable files, InputError for what they hold.
    """

    EXPECTED = "Re:InterHand's m--*/mano_fits/params/FRAME_left.json and FRAME_right.json"

    def __init__(self, root: str | Path, split: str = "train", stride: int = 1) -> None:
        if split not in SPLITS:
            raise InputError(f"split of Re:InterHand: expected {', '.join(SPLITS)}, got {split!r}")
        if stride < 1:
            raise InputError(f"{root}: stride: expected 1 or more, got {stride}")
        there = _captures(Path(root))
        if not there:
            raise SourceError(f"{root}: expected {self.EXPECTED}")
        chosen = [c for c in there if split == "all" or (c.name in TEST_CAPTURES) == (split == "test")]
        if not chosen:
            raise SourceError(
                f"{root}: no capture of the split {split!r}; there are {', '.join(c.name for c in there)}"
            )
        self._folders = {c.name: c for c in chosen}
        left_out: Counter[str] = Counter()
        entries: dict[Frame, Pair[np.ndarray | None]] = {}
        for capture in chosen:
            frames = _frames(capture, left_out)
            left_out["skipped by the stride"] += len(frames) - len(frames[::stride])
            for frame in frames[::stride]:
                entries[frame] = Pair(*(_hand(capture, frame.number, side) for side in ("left", "right")))
        frames, hands = collected(Path(root), entries, 1, left_out)
        super().__init__(Path(root), frames, hands, +left_out)

    @classmethod
    def is_at(cls, root: Path) -> bool:
        """Whether a folder holds this data set."""
        return bool(_captures(root))

    def joints(self, index: Sequence[int]) -> Pair[MeasuredJoints] | None:
        """Keypoints of the original fits of some frames, OpenPose order [m]; None when no capture here has any."""
        if not any((folder / "orig_fits").is_dir() for folder in self._folders.values()):
            return None
        left, right = ([self._keypoints(self.frames[i], side) for i in index] for side in ("left", "right"))
        return Pair(*(MeasuredJoints(np.stack([p for p, _ in s]), np.stack([v for _, v in s])) for s in (left, right)))

    def cameras(self, capture: str) -> dict[str, Extrinsics]:
        """Where the fixed cameras of a capture are, files in millimetres."""
        if capture not in self._folders:
            raise InputError(f"{self.source}: no capture {capture!r}; there are {', '.join(self._folders)}")
        path = self._folders[capture] / "Mugsy_cameras" / "cam_params.json"
        out = {}
        for name, entry in mapping(read_json(path, "camera parameters", _MAX_BYTES), str(path), "an object").items():
            where = f"{path}: [{name}]"
            entry = mapping(entry, where, "an object with R and t")
            turn = numbers(entry.get("R"), 9, f"{where}[R]").reshape(3, 3)
            out[name] = Extrinsics(turn, numbers(entry.get("t"), 3, f"{where}[t]") / 1000)
        return out

    def _keypoints(self, frame: Frame, side: str) -> tuple[np.ndarray, np.ndarray]:
        folder = self._folders[frame.capture] / "orig_fits" / side / "Keypoints"
        path = folder / f"keypoint-{frame.number:06d}.json"
        if not path.is_file():
            return np.zeros((21, 3)), np.zeros(21, bool)
        points = numbers(read_json(path, "24 keypoints", _MAX_BYTES), 3 * N_KEYPOINTS, str(path))
        return points.reshape(N_KEYPOINTS, 3)[list(OPENPOSE_FROM_REINTERHAND)] / 1000, np.ones(21, bool)


def _params(capture: Path) -> Path:
    return capture / "mano_fits" / "params"


def _captures(root: Path) -> list[Path]:
    """``root`` itself when it is a capture, else the captures in it."""
    if _params(root).is_dir():
        return [root.resolve()]
    return sorted(c for c in root.iterdir() if _params(c).is_dir()) if root.is_dir() else []


def _frames(capture: Path, left_out: Counter[str]) -> list[Frame]:
    """Frames of ``frame_list.txt``, or without one all that have files; those without are counted."""
    files = {p.name for p in _params(capture).iterdir()}
    listed = capture / "frame_list.txt"
    if not listed.is_file():
        stems = {name.removesuffix("_left.json") for name in files if name.endswith("_left.json")}
        frames = [Frame(capture.name, whole_number(s, str(_params(capture))), "") for s in stems]
    else:
        try:
            lines = listed.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{listed}: expected lines SEGMENT FRAME ({error})") from error
        frames = []
        for row, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            if len(words) < 2:
                raise InputError(f"{listed}: line {row}: expected SEGMENT FRAME, got {line[:60]!r}")
            frames.append(Frame(capture.name, whole_number(words[1], f"{listed}: line {row}"), words[0]))
    unique = {f.number: f for f in reversed(frames)}
    out = [f for n, f in sorted(unique.items()) if f"{n}_left.json" in files and f"{n}_right.json" in files]
    left_out["have no MANO file"] += len(unique) - len(out)
    return out


def _hand(capture: Path, number: int, side: str) -> np.ndarray | None:
    path = _params(capture) / f"{number}_{side}.json"
    return hand_row(read_json(path, "MANO parameters", _MAX_BYTES), str(path))
