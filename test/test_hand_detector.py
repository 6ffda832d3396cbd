"""This package's detector at run time, on networks whose answers are known: colours stand for hands."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_detector import AREA, colours

from a2p_ros.config import DetectionConfig, DeviceConfig
from a2p_ros.detection import combined as combined_module
from a2p_ros.detection import hand_weights
from a2p_ros.detection.combined import CombinedDetector
from a2p_ros.detection.detector import make_detector
from a2p_ros.detection.hand_detector import fit_of
from a2p_ros.detection.hand_weights import CARD, NETWORK
from a2p_ros.errors import DeviceError, WeightsError
from a2p_ros.types import Box, Detection

CPU = DeviceConfig(device="cpu", threads=1)
RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (90, 90, 90)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colours(tmp_path_factory.mktemp("colours"))


def detector(weights: Path, backend: str = "a2p", **more):
    return make_detector(DetectionConfig(backend=backend, weights=str(weights), **more), CPU)


def scene(height: int, width: int, *spots: tuple[tuple[float, float], tuple[int, int, int]]) -> np.ndarray:
    """A grey picture with round spots whose size is a tenth of its area's root."""
    image = np.full((height, width, 3), GREY, np.uint8)
    y, x = np.mgrid[:height, :width]
    for (at_x, at_y), colour in spots:
        image[np.hypot(x - at_x, y - at_y) < 0.09 * math.sqrt(height * width)] = colour
    return image


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720), (96, 128), (60, 80), (720, 2560)])
def test_place_size_side_and_direction_in_the_image(weights: Path, size: tuple[int, int]) -> None:
    height, width = size
    spots = (0.2 * width, 0.3 * height), (0.7 * width, 0.75 * height)
    image = scene(height, width, (spots[0], RED), (spots[1], BLUE))
    found = {hand.right: hand for hand in detector(weights)(image)}
    assert set(found) == {0.0, 1.0}
    pixel = math.sqrt(height * width / AREA)  # of the network's picture, about
    for hand, (x, y) in zip((found[0.0], found[1.0]), spots, strict=True):
        assert hand.box.centre == pytest.approx((x, y), abs=7 * pixel)
        assert hand.rotation == pytest.approx(math.pi / 2)  # to the image's right
        assert hand.square is not None
        assert hand.square[0] - hand.box.centre[0] == pytest.approx(8 * pixel, rel=0.35)
        assert hand.square[1] - hand.box.centre[1] == pytest.approx(-8 * pixel, rel=0.35)
        assert hand.square[2] == pytest.approx(40 * pixel, rel=0.35)
        assert hand.box.width / hand.box.height == pytest.approx(1.5, rel=0.1)


def test_boxes_end_at_the_image(weights: Path) -> None:
    found = detector(weights)(scene(480, 640, ((2, 2), RED), ((638, 478), BLUE)))
    boxes = {hand.right: hand.box for hand in found}
    assert boxes[0.0][:2] == (-0.5, -0.5)
    assert boxes[1.0][2:] == (639.5, 479.5)


def test_a_mirrored_picture_mirrors_the_boxes_and_not_the_colours(weights: Path) -> None:
    image = scene(480, 640, ((120, 100), RED), ((500, 300), BLUE))
    find = detector(weights)
    for plain, mirrored in zip(
        sorted(find(image), key=lambda h: h.right),
        sorted(find(np.ascontiguousarray(image[:, ::-1])), key=lambda h: h.right),
        strict=True,
    ):
        assert mirrored.box.centre[0] == pytest.approx(639 - plain.box.centre[0], abs=36)  # a cell
        assert mirrored.box.centre[1] == pytest.approx(plain.box.centre[1], abs=1.0)


def test_a_smaller_picture_leaves_nothing_of_the_last(weights: Path) -> None:
    find = detector(weights)
    assert len(find(scene(480, 640, ((320, 440), RED)))) == 1
    assert find(scene(470, 640)) == []
    assert find(scene(480, 640)) == []


@pytest.mark.parametrize("size", [(480, 640), (720, 2560), (1080, 1920), (1, 4000), (3000, 2), (32, 32)])
def test_the_networks_picture_keeps_area_and_aspect(size: tuple[int, int]) -> None:
    height, width = size
    fit = fit_of(height, width, 67_584)
    assert fit.height % 32 == 0 and fit.width % 32 == 0
    assert 1 <= fit.rows <= fit.height and 1 <= fit.columns <= fit.width
    if max(size) < 4 * min(size):
        assert fit.rows * fit.columns == pytest.approx(67_584, rel=0.3)
        assert fit.columns / fit.rows == pytest.approx(width / height, rel=0.02)


def test_min_score_can_be_changed(weights: Path) -> None:
    find = detector(weights)
    image = scene(480, 640, ((320, 240), (180, 90, 90)))
    assert find(image) == []
    find.min_score = 0.3
    assert len(find(image)) == 1


def test_no_side_is_surer_than_the_network_is_right(weights: Path, tmp_path: Path) -> None:
    image = scene(480, 640, ((320, 240), (255, 0, 0)), ((100, 240), (0, 0, 255)))
    assert sorted(hand.right for hand in detector(weights)(image)) == [0.0, 1.0]
    card = json.loads((weights / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"side_trust": 0.8}))
    (tmp_path / NETWORK).write_bytes((weights / NETWORK).read_bytes())
    assert sorted(hand.right for hand in detector(tmp_path)(image)) == pytest.approx([0.2, 0.8])


def test_it_says_what_it_is_and_runs_on(weights: Path) -> None:
    found = detector(weights)
    assert (found.name, found.device) == ("colours", "cpu")


def test_files_that_are_missing_or_tampered_with(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no card of a hand detector.*a2p train detector"):
        detector(tmp_path)
    network, card = (weights / NETWORK).read_bytes(), json.loads((weights / CARD).read_text())

    def written(content: bytes = network, **changes: object) -> Path:
        (tmp_path / NETWORK).write_bytes(content)
        (tmp_path / CARD).write_text(json.dumps(card | changes))
        return tmp_path

    with pytest.raises(WeightsError, match=r"SHA-256 differs.*train it anew"):
        detector(written(network[:-1] + bytes([network[-1] ^ 1])))
    with pytest.raises(WeightsError, match="expected format 'a2p_ros hand detector 1', got 'other'"):
        detector(written(format="other"))
    with pytest.raises(WeightsError, match=r"expected the area of the pictures .* got 'big'"):
        detector(written(area="big"))
    for trust in (0.3, True, "much", float("nan")):
        with pytest.raises(WeightsError, match=r"expected side_trust, a share in \[0.5, 1\]"):
            detector(written(side_trust=trust))
    with pytest.raises(WeightsError, match="not an ONNX model"):
        detector(written(b"no", sha256=hashlib.sha256(b"no").hexdigest()))
    (tmp_path / CARD).write_text("[]")
    with pytest.raises(WeightsError, match="got 'list'"):
        detector(tmp_path)
    written()
    (tmp_path / NETWORK).unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        detector(tmp_path)


def test_without_weights_that_ship(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hand_weights, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match=r"no weights .* ship.*a2p train detector.*backend mediapipe"):
        make_detector(DetectionConfig(backend="a2p"), CPU)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected heat \(1, 2, .* got .*a2p train detector"):
        detector(colours(tmp_path, channels=7))


def test_a_device_that_is_not_there(weights: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has one")
    with pytest.raises(DeviceError, match="'cuda' was not granted"):
        make_detector(DetectionConfig(backend="a2p", weights=str(weights)), DeviceConfig(device="cuda"))


class Palms:
    """Stands for MediaPipe's palm model: two palms, the first where the red spot is."""

    name, device = "palms", "cpu"

    def __init__(self, config: DetectionConfig, device: DeviceConfig) -> None:
        self.min_score = config.min_score

    def __call__(self, image: np.ndarray) -> list[Detection]:
        boxes = [Box(100, 80, 250, 180), Box(450, 250, 550, 350)]
        return [Detection(box, 0.8, rotation=0.0, square=(*box.centre, 125.0)) for box in boxes]


def test_combined_adds_the_palms_that_are_none_of_ours(weights: Path, monkeypatch) -> None:
    monkeypatch.setattr(combined_module, "PalmDetector", Palms)
    both = detector(weights, "combined")
    assert isinstance(both, CombinedDetector)
    assert both.name == "colours+palms"
    ours, palm = both(scene(480, 640, ((175, 130), RED)))
    assert (ours.right, palm.right) == (0.0, 0.5)
    assert palm.box.centre == (500, 300)
    both.min_score = 0.7
    assert both.min_score == 0.7
