"""What the engine gives to training: labelled frames, and the shards that hold them.

A shard is a tar file in the layout of webdataset. The members of one frame follow one another and share a key:

    KEY.json         camera, what was drawn, geometry of the crops
    KEY.hands.npy    one record a hand (``HAND_RECORD``)
    KEY.jpg          the frame
    KEY.left.jpg     the crop of each hand, as the node cuts it (a left hand's is mirrored)
    KEY.right.jpg
    KEY.parts.png    8 bit, see ``part_id``
    KEY.depth.png    16 bit, in units of ``DEPTH_UNIT``, 0 = nothing drawn

The last four are optional. Shards are written under another name and renamed when they are complete.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8

from a2p_ros.camera import CameraModel
from a2p_ros.cropping import Crop
from a2p_ros.errors import InputError, SourceError
from a2p_ros.hand.model import HandModel
from a2p_ros.types import Box, Image, Pair, Side

#: Depth maps hold multiples of this [m]; the farthest is 6.5 m.
DEPTH_UNIT = 1e-4
#: Parts of a hand in its order: MANO's 16 joints, then the forearm, then the sleeve.
N_PARTS, FOREARM, SLEEVE = 18, 16, 17
#: What is neither hand nor arm: watches, held objects, occluders.
THING_PART = 200
SHARD_GLOB = "*.tar"

HAND_RECORD = np.dtype(
    [
        ("right", "?"),
        ("rotations", "<f4", (16, 3, 3)),
        ("betas", "<f4", (10,)),
        ("transl", "<f4", (3,)),
        ("joints", "<f4", (21, 3)),
        ("keypoints_px", "<f4", (21, 2)),
        ("visible", "?", (21,)),
        ("box", "<f4", (4,)),
        ("visible_share", "<f4"),
    ]
)


def part_id(side: Side, part: int) -> int:
    """Number in ``Frame.parts`` of a part (0 to ``N_PARTS`` - 1) of a hand: 1 to 18 left, 19 to 36 right."""
    return 1 + part + (N_PARTS if side is Side.RIGHT else 0)


@dataclass(frozen=True)
class HandLabel:
    """The truth of one hand, camera frame [m], whether it can be seen or not.

    ``rotations`` (the first is global), ``betas`` and ``transl`` are the parameters of the hand model of ``side``.
    ``visible`` says of each joint that it lies in the picture and nothing hides it: no other hand, thing or other
    part of the same hand. ``box`` [px] is that of the hand's own silhouette, without forearm and with what is hidden,
    clipped to the picture; ``visible_share`` is the share of that silhouette's pixels that are seen.
    """

    side: Side
    rotations: Float[np.ndarray, "16 3 3"]
    betas: Float[np.ndarray, "10"]
    transl: Float[np.ndarray, "3"]
    joints: Float[np.ndarray, "21 3"]
    keypoints_px: Float[np.ndarray, "21 2"]
    visible: Bool[np.ndarray, "21"]
    box: Box
    visible_share: float

    def vertices(self, model: HandModel) -> Float[np.ndarray, "v 3"]:
        """The mesh in the camera frame [m]; not stored, as ``model`` makes it of the parameters.

        Raises InputError for the model of the other side.
        """
        if model.side is not self.side:
            raise InputError(f"vertices: expected the model of the {self.side.value} hand, got the {model.side.value}")
        with torch.inference_mode():
            values = [
                torch.from_numpy(np.asarray(v, np.float32))[None] for v in (self.betas, self.rotations, self.transl)
            ]
            return model.forward(*values).vertices[0].numpy()


@dataclass(frozen=True)
class CroppedHand:
    """A hand's crop and its place in the frame; ``crop.mirrored`` is set for left hands."""

    image: Image
    crop: Crop


@dataclass(frozen=True)
class Frame:
    """A drawn picture and its labels.

    ``image`` is RGB. ``parts`` (``part_id``) and ``depth`` [m] (inf where nothing is) belong to the frame's pixels and
    are None unless they were drawn and asked for. ``scene`` says what was drawn (kind, seed, options), in JSON's types.
    """

    key: str
    image: Image
    camera: CameraModel
    hands: Pair[HandLabel | None]
    parts: UInt8[np.ndarray, "h w"] | None = None
    depth: Float32[np.ndarray, "h w"] | None = None
    scene: dict[str, Any] = field(default_factory=dict)
    crops: Pair[CroppedHand | None] = field(default_factory=lambda: Pair(None, None))

    @property
    def relative_translation(self) -> Float[np.ndarray, "3"] | None:
        """Left wrist minus right wrist, camera axes [m]; None unless both hands are there."""
        if self.hands.left is None or self.hands.right is None:
            return None
        return self.hands.left.joints[0] - self.hands.right.joints[0]


def read_frames(source: Path | str | Sequence[Path], *, maps: bool = False) -> Iterator[Frame]:
    """The frames of a folder's shards, of one shard, or of several, in order; with parts and depth where ``maps``.

    Raises SourceError for a folder without shards, and for a shard or member that cannot be read, naming both.
    """
    for path in shard_paths(source):
        yield from _read_shard(path, maps)


def shard_paths(source: Path | str | Sequence[Path]) -> list[Path]:
    """The finished shards that ``source`` names, sorted by name within a folder."""
    if not isinstance(source, (str, Path)):
        return [Path(path) for path in source]
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob(SHARD_GLOB))
        if not found:
            raise SourceError(f"{path}: no shard ({SHARD_GLOB}) in it; make some with `a2p synth --out {path}`")
        return found
    if not path.exists():
        raise SourceError(f"{path}: no such shard or folder; make one with `a2p synth --out {path}`")
    return [path]


def count_frames(path: Path) -> int:
    """Frames in a shard, from its headers alone; raises SourceError for one that is cut off or damaged."""
    with _opened(path) as tar:
        try:
            return sum(member.name.endswith(".hands.npy") for member in tar)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise _broken(path, str(error)) from error


class ShardWriter:
    """Writes frames to ``path``; the file has its name only once all of them are in it.

    The same frames give the same bytes. Use as a context manager: when its body raises, the part that was written
    is removed. OSError of a full disk passes through.
    """

    def __init__(self, path: Path, *, jpeg_quality: int = 94) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._quality = jpeg_quality
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._tar = tarfile.open(self._part, "w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._tar is not None
        try:
            if kind is None:
                self._tar.close()
                os.replace(self._part, self.path)
            else:
                self._tar.fileobj.close()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, frame: Frame, *, jpeg: bytes | None = None) -> None:
        """Append a frame; ``jpeg`` is its picture where it is compressed already.

        Raises InputError for a key with a dot, which would end it.
        """
        if not frame.key or "." in frame.key or "/" in frame.key:
            raise InputError(f"key of a frame: expected a name without dots and slashes, got {frame.key!r}")
        about = {
            "camera": _camera_to_json(frame.camera),
            "scene": frame.scene,
            "crops": {side.value: _crop_to_json(c.crop) for side, c in frame.crops.items() if c is not None},
        }
        self._add(f"{frame.key}.json", json.dumps(about, allow_nan=False).encode())
        self._add(f"{frame.key}.hands.npy", _hands_to_npy(frame.hands))
        self._add(f"{frame.key}.jpg", self._jpeg(frame.image) if jpeg is None else jpeg)
        for side, cropped in frame.crops.items():
            if cropped is not None:
                self._add(f"{frame.key}.{side.value}.jpg", self._jpeg(cropped.image))
        if frame.parts is not None:
            self._add(f"{frame.key}.parts.png", _png(frame.parts))
        if frame.depth is not None:
            units = np.where(np.isfinite(frame.depth), np.rint(frame.depth / DEPTH_UNIT).clip(1, 65535), 0)
            self._add(f"{frame.key}.depth.png", _png(units.astype(np.uint16)))

    def _jpeg(self, image: Image) -> bytes:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._quality])[1].tobytes()

    def _add(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def _png(values: np.ndarray) -> bytes:
    # With a level given, libpng tries all filters on every row: an eighth smaller in nearly three times the time.
    return cv2.imencode(".png", values, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])[1].tobytes()


def _hands_to_npy(hands: Pair[HandLabel | None]) -> bytes:
    present = [hand for _, hand in hands.items() if hand is not None]
    records = np.zeros(len(present), HAND_RECORD)
    for record, hand in zip(records, present, strict=True):
        record["right"] = hand.side is Side.RIGHT
        for name in HAND_RECORD.names[1:]:  # type: ignore[index]
            record[name] = getattr(hand, name)
    out = io.BytesIO()
    np.save(out, records, allow_pickle=False)
    return out.getvalue()


def _hands_from_npy(data: bytes) -> Pair[HandLabel | None]:
    records = np.load(io.BytesIO(data), allow_pickle=False)
    if records.dtype != HAND_RECORD:
        raise ValueError(f"its hands are not of this version's form ({', '.join(records.dtype.names or ())})")
    found: dict[Side, HandLabel] = {}
    for record in records:
        side = Side.RIGHT if record["right"] else Side.LEFT
        arrays = {name: record[name].copy() for name in HAND_RECORD.names[1:-2]}  # type: ignore[index]
        found[side] = HandLabel(
            side=side,
            **arrays,
            box=Box(*map(float, record["box"])),
            visible_share=float(record["visible_share"]),
        )
    return Pair(found.get(Side.LEFT), found.get(Side.RIGHT))


def _camera_to_json(camera: CameraModel) -> dict[str, Any]:
    return {
        "size": [camera.width, camera.height],
        "k": [camera.fx, camera.fy, camera.cx, camera.cy],
        "distortion_model": camera.distortion_model,
        "d": list(camera.d),
    }


def _camera_from_json(values: dict[str, Any]) -> CameraModel:
    (width, height), (fx, fy, cx, cy) = values["size"], values["k"]
    return CameraModel(width, height, fx, fy, cx, cy, values["distortion_model"], tuple(values["d"]))


def _crop_to_json(crop: Crop) -> dict[str, Any]:
    return {
        "centre": list(crop.centre),
        "size": crop.size,
        "rotation": crop.rotation,
        "resolution": crop.resolution,
        "mirrored": crop.mirrored,
    }


def _crop_from_json(values: dict[str, Any]) -> Crop:
    return Crop(tuple(values["centre"]), **{k: v for k, v in values.items() if k != "centre"})


def _read_shard(path: Path, maps: bool) -> Iterator[Frame]:
    with _opened(path) as tar:
        members: dict[str, bytes] = {}
        key = ""
        while True:
            try:
                info = tar.next()
                if info is not None:
                    name, _, suffix = info.name.partition(".")
                    data = tar.extractfile(info)
                    if data is None:
                        raise ValueError(f"{info.name} is not a file")
                    content = data.read()
                    if len(content) != info.size:
                        raise ValueError(f"{info.name} is cut off")
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                raise _broken(path, str(error)) from error
            if (info is None or name != key) and members:
                yield _decode(path, key, members, maps)
                members = {}
            if info is None:
                return
            key = name
            members[suffix] = content


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such shard") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _broken(path, str(error)) from error


def _decode(path: Path, key: str, members: dict[str, bytes], maps: bool) -> Frame:
    try:
        about = json.loads(members["json"])
        crops = {
            side: CroppedHand(_picture(members[f"{side.value}.jpg"]), _crop_from_json(about["crops"][side.value]))
            for side in Side
            if side.value in about["crops"]
        }
        image = _picture(members["jpg"])
        camera = _camera_from_json(about["camera"])
        camera.check_image(*image.shape[:2])
        return Frame(
            key=key,
            image=image,
            camera=camera,
            hands=_hands_from_npy(members["hands.npy"]),
            parts=_map(members.get("parts.png")) if maps else None,
            depth=_depth(_map(members.get("depth.png"))) if maps else None,
            scene=about["scene"],
            crops=Pair(crops.get(Side.LEFT), crops.get(Side.RIGHT)),
        )
    except (KeyError, ValueError, TypeError, cv2.error) as error:
        missing = f"{key}.{error.args[0]} is missing" if isinstance(error, KeyError) else f"frame {key}: {error}"
        raise _broken(path, missing) from error


def _picture(data: bytes) -> Image:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("a picture cannot be decoded")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _map(data: bytes | None) -> np.ndarray | None:
    if data is None:
        return None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("a map cannot be decoded")
    return values


def _depth(units: np.ndarray | None) -> Float32[np.ndarray, "h w"] | None:
    if units is None:
        return None
    return np.where(units > 0, units.astype(np.float32) * np.float32(DEPTH_UNIT), np.float32(np.inf))


def _broken(path: Path, why: str) -> SourceError:
    return SourceError(
        f"{path}: the shard is damaged ({why}); the others are not affected. Run the `a2p synth` that made it again: "
        "it makes broken shards anew and keeps the rest"
    )
