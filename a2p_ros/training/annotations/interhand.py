"""InterHand2.6M (Moon et al., ECCV 2020): MANO fits of NeuralAnnot, one a frame, in the world frame.

    annotations/SPLIT/InterHand2.6M_SPLIT_MANO_NeuralAnnot.json   [capture][frame][side]: null or pose, shape, trans [m]
    annotations/SPLIT/InterHand2.6M_SPLIT_joint_3d.json           [capture][frame]: world_coord (42, 3) [mm],
                                                                  joint_valid, and in newer copies hand_type, seq
    annotations/SPLIT/InterHand2.6M_SPLIT_data.json               read only where joint_3d has no hand_type
    annotations/SPLIT/InterHand2.6M_SPLIT_camera.json             [capture][campos [mm] | camrot][camera]

The files of the 5 and the 30 frames a second releases have the same form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from a2p_ros.errors import InputError, SourceError
from a2p_ros.training.annotations.reader import Annotations, Extrinsics, Frame, MeasuredJoints, collected
from a2p_ros.training.annotations.values import hand_row, mapping, numbers, read_json, whole_number
from a2p_ros.types import Pair

SPLITS = ("train", "val", "test")
#: InterHand2.6M's index of each OpenPose keypoint in one hand; the left hand's joints follow the right hand's 21.
OPENPOSE_FROM_INTERHAND = (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16)
_MAX_BYTES = 3 * 2**30
#: The images' list has 3.7 GB in the release of 30 frames a second.
_MAX_DATA_BYTES = 6 * 2**30


class InterHandAnnotations(Annotations):
    """One split of InterHand2.6M, its MANO and joint files read once, when it is made.

    ``interacting`` keeps frames whose ``hand_type`` is that alone; ``stride`` takes every n-th frame of a capture.
    Raises SourceError for missing or unreadable files, InputError for what they hold.
    """

    EXPECTED = "InterHand2.6M's annotations/SPLIT/InterHand2.6M_SPLIT_MANO_NeuralAnnot.json"

    def __init__(self, root: str | Path, split: str = "train", stride: int = 1, interacting: bool = True) -> None:
        if split not in SPLITS:
            raise InputError(f"split of InterHand2.6M: expected {', '.join(SPLITS)}, got {split!r}")
        self.split = split
        self._folder = _folder(Path(root), split)
        left_out: Counter[str] = Counter()
        entries = self._mano()
        joints_file = self._file("joint_3d")
        joints = mapping(read_json(joints_file, "3D joints", _MAX_BYTES), str(joints_file), "an object by capture")
        entries = self._with_kinds(entries, joints, interacting, left_out)
        frames, hands = collected(self._folder, entries, stride, left_out)
        del entries
        self._joints = [_joints_of(joints, f, joints_file) for f in frames]
        super().__init__(self._folder, frames, hands, left_out)

    @classmethod
    def is_at(cls, root: Path) -> bool:
        """Whether a folder holds this data set."""
        return any(_name(s, "MANO_NeuralAnnot") in _names(d) for s in SPLITS for d in _places(root, s))

    def joints(self, index: Sequence[int]) -> Pair[MeasuredJoints] | None:
        """Annotated joints of some frames, OpenPose order [m]."""
        points = np.stack([self._joints[i][0] for i in index])
        valid = np.stack([self._joints[i][1] for i in index])
        return Pair(MeasuredJoints(points[:, 1], valid[:, 1]), MeasuredJoints(points[:, 0], valid[:, 0]))

    def cameras(self, capture: str) -> dict[str, Extrinsics]:
        """Where a capture's cameras are: ``t = -R campos``, files in millimetres."""
        path = self._file("camera")
        captures = mapping(read_json(path, "camera parameters", _MAX_BYTES), str(path), "an object by capture")
        if capture not in captures:
            raise InputError(f"{path}: no capture {capture!r}; there are {', '.join(sorted(captures)[:20])}")
        entry = mapping(captures[capture], f"{path}: [{capture}]", "campos, camrot, focal and princpt")
        where = f"{path}: [{capture}]"
        campos, camrot = (mapping(entry.get(n), f"{where}[{n}]", "an object by camera") for n in ("campos", "camrot"))
        out = {}
        for name, position in campos.items():
            turn = numbers(camrot.get(name), 9, f"{where}[camrot][{name}]").reshape(3, 3)
            out[name] = Extrinsics(turn, -turn @ numbers(position, 3, f"{where}[campos][{name}]") / 1000)
        return out

    def _file(self, what: str) -> Path:
        return self._folder / _name(self.split, what)

    def _mano(self) -> dict[Frame, Pair[np.ndarray | None]]:
        path = self._file("MANO_NeuralAnnot")
        captures = mapping(read_json(path, "MANO parameters", _MAX_BYTES), str(path), "an object by capture")
        out: dict[Frame, Pair[np.ndarray | None]] = {}
        for capture in list(captures):
            # Taken out as it is read: the parsed numbers need several times the memory of the arrays.
            frames = mapping(captures.pop(capture), f"{path}: [{capture}]", "an object by frame")
            for number, hands in frames.items():
                where = f"{path}: [{capture}][{number}]"
                hands = mapping(hands, where, "an object with right and left")
                frame = Frame(str(capture), whole_number(number, f"{path}: [{capture}]"), "")
                rows = (hand_row(hands.get(side), f"{where}[{side}]") for side in ("left", "right"))
                out[frame] = Pair(*rows)
        return out

    def _with_kinds(
        self,
        entries: dict[Frame, Pair[np.ndarray | None]],
        joints: dict[str, Any],
        interacting: bool,
        left_out: Counter[str],
    ) -> dict[Frame, Pair[np.ndarray | None]]:
        """The frames with their sequences' names, those of single-hand sequences taken out."""
        types: dict[Frame, tuple[str, str]] = {}
        for frame in entries:
            known = _entry(joints, frame)
            types[frame] = (str(known.get("hand_type") or ""), str(known.get("seq") or ""))
        if interacting and not all(hand_type for hand_type, _ in types.values()):
            types |= {f: v for f, v in self._types_of_images().items() if f in types and not types[f][0]}
        out = {}
        for frame, hands in entries.items():
            hand_type, sequence = types[frame]
            if interacting and hand_type != "interacting":
                left_out["are of single-hand sequences" if hand_type else "have no known hand type"] += 1
                continue
            out[frame._replace(kind=sequence)] = hands
        return out

    def _types_of_images(self) -> dict[Frame, tuple[str, str]]:
        """Hand type and sequence of each frame from the list of images: any camera's, they agree."""
        path = self._file("data")
        if not path.is_file():
            raise SourceError(
                f"{self._file('joint_3d')}: some frames have no hand_type, as in older releases, and {path} is not "
                "there; expected one of the two (InterHandAnnotations(..., interacting=False) does without)"
            )
        data = mapping(read_json(path, "images and annotations", _MAX_DATA_BYTES), str(path), "images and annotations")
        images, annotations = data.get("images"), data.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise InputError(f"{path}: expected lists images and annotations, as COCO has them")
        try:
            types = {a["image_id"]: str(a["hand_type"]) for a in annotations}
            return {
                Frame(str(i["capture"]), int(i["frame_idx"]), ""): (types[i["id"]], str(i.get("seq_name") or ""))
                for i in images
                if i["id"] in types
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: expected id, capture, frame_idx of each image and image_id, hand_type of each annotation "
                f"({type(error).__name__}: {error})"
            ) from error


def _places(root: Path, split: str) -> tuple[Path, ...]:
    return root / "annotations" / split, root / split, root


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} if folder.is_dir() else set()


def _name(split: str, what: str) -> str:
    return f"InterHand2.6M_{split}_{what}.json"


def _folder(root: Path, split: str) -> Path:
    """Where the files of a split lie: the data set's root, its annotations or the split's own folder are given."""
    wanted = _name(split, "MANO_NeuralAnnot")
    for folder in _places(root, split):
        if (folder / wanted).is_file():
            return folder
    others = [s for s in SPLITS if any(_name(s, "MANO_NeuralAnnot") in _names(d) for d in _places(root, s))]
    there = f"; splits there: {', '.join(others)}" if others else ""
    raise SourceError(f"{root}: expected InterHand2.6M's annotations/{split}/{wanted}{there}")


def _entry(joints: dict[str, Any], frame: Frame) -> dict[str, Any]:
    frames = joints.get(frame.capture)
    entry = frames.get(str(frame.number)) if isinstance(frames, dict) else None
    return entry if isinstance(entry, dict) else {}


def _joints_of(joints: dict[str, Any], frame: Frame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Right and left joints (2, 21, 3) [m] and validity (2, 21), OpenPose order; a frame not there has none valid."""
    entry = _entry(joints, frame)
    if not entry:
        return np.zeros((2, 21, 3), np.float32), np.zeros((2, 21), bool)
    where = f"{path}: [{frame.capture}][{frame.number}]"
    points = numbers(entry.get("world_coord"), 126, f"{where}[world_coord]", finite=False).reshape(2, 21, 3)
    flags = np.asarray(entry.get("joint_valid"))
    # Some copies give a flag for each coordinate.
    count = 126 if flags.size == 126 else 42
    valid = (numbers(entry.get("joint_valid"), count, f"{where}[joint_valid]").reshape(2, 21, -1) > 0).all(-1)
    order = list(OPENPOSE_FROM_INTERHAND)
    points, valid = points[:, order] / 1000, valid[:, order]
    if not np.isfinite(points[valid]).all():
        raise InputError(f"{where}[world_coord]: a valid joint is not finite")
    return points.astype(np.float32), valid
