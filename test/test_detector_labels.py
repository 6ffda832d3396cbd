"""What the detector is taught: labels of hands made by smplx and projected by OpenCV, and what pictures do to them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from made_hands import MadeHand, make_hand, peer
from scipy.spatial.transform import Rotation

from a2p_ros.camera import CameraModel
from a2p_ros.detection.hand_maps import decode
from a2p_ros.hand_frames import wrist_frame
from a2p_ros.training.detector.augment import AugmentConfig, augmented, letterboxed
from a2p_ros.training.detector.labels import Hands, outline_of, targets
from a2p_ros.training.distractors import paste, thing
from a2p_ros.types import Box, Side

HEIGHT, WIDTH = 192, 256
CAMERA = CameraModel(WIDTH, HEIGHT, 260.0, 250.0, 125.0, 97.0)
#: Only what moves pixels, nothing that changes their colours.
PLAIN = AugmentConfig(
    beside=0,
    colour=0,
    grey=0,
    light=0,
    texture=0,
    blur=0,
    coarse=0,
    noise=0,
    jpeg=0,
    shapes=0,
    things=0,
    cover=0,
    erase=0,
)


def projected(hand: MadeHand) -> np.ndarray:
    return cv2.projectPoints(hand.joints, np.zeros(3), np.zeros(3), CAMERA.K, None)[0][:, 0]


def vertices(hand: MadeHand) -> np.ndarray:
    """The surface by smplx, projected by OpenCV [px]."""
    torch = pytest.importorskip("torch")
    vectors = Rotation.from_matrix(np.concatenate([hand.root[None], hand.rotations])).as_rotvec()
    values = {"betas": hand.betas, "global_orient": vectors[0], "hand_pose": vectors[1:].reshape(45)}
    values["transl"] = hand.transl
    with torch.no_grad():
        out = peer(hand.side)(**{k: torch.as_tensor(v, dtype=torch.float32)[None] for k, v in values.items()})
    points = out.vertices[0].double().numpy()
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), CAMERA.K, None)[0][:, 0]


def labelled(*hands: MadeHand) -> Hands:
    parts = []
    for hand in hands:
        found = outline_of(vertices(hand), HEIGHT, WIDTH)
        assert found is not None
        right = np.array([hand.side is Side.RIGHT])
        parts.append(Hands(right, found[0][None], projected(hand)[None], np.ones(1)))
    return Hands.joined(parts)


def scene(seed: int) -> tuple[list[MadeHand], Hands]:
    """A left hand at the top left and a right one at the lower right: nothing is symmetric."""
    rng = np.random.default_rng(seed)
    hands = [
        make_hand(Side.LEFT, rng, CAMERA, pixel=(70, 60), depth=0.6),
        make_hand(Side.RIGHT, rng, CAMERA, pixel=(180, 120), depth=0.5),
    ]
    return hands, labelled(*hands)


def turn_of(points: np.ndarray) -> float:
    """Clockwise from up of wrist -> middle finger base."""
    x, y = points[9] - points[0]
    return math.atan2(x, -y)


@pytest.mark.parametrize("seed", range(4))
def test_the_wanted_maps_decode_to_the_true_hands(seed: int) -> None:
    hands, labels = scene(seed)
    maps = targets(labels, HEIGHT, WIDTH)
    found = {hand.right: hand for hand in decode(maps.heat, maps.numbers, 0.5)}
    assert set(found) == {0.0, 1.0}
    for made in hands:
        hand = found[float(made.side is Side.RIGHT)]
        surface = vertices(made)
        low = np.clip(surface.min(0), -0.5, [WIDTH - 0.5, HEIGHT - 0.5])
        high = np.clip(surface.max(0), -0.5, [WIDTH - 0.5, HEIGHT - 0.5])
        np.testing.assert_allclose(hand.box, [*low, *high], atol=0.02 * hand.box.size)
        assert abs(math.remainder(hand.rotation - turn_of(projected(made)), 2 * math.pi)) < 1e-5
        assert hand.square is not None
        assert np.linalg.norm(np.subtract(hand.square[:2], projected(made).mean(0))) < 0.6 * hand.box.size
        side = int(made.side is Side.RIGHT)
        row, column = np.unravel_index(maps.heat[side].argmax(), maps.heat[side].shape)
        points = (8 * column + 3.5, 8 * row + 3.5) + 16 * maps.joints[side, :, row, column].reshape(21, 2)
        np.testing.assert_allclose(points, projected(made), atol=1e-3)
        back = wrist_frame(made.joints, made.side)[:, 2]
        away = float(back @ made.joints[0]) / np.linalg.norm(made.joints[0])
        palm = float(maps.palm[side, row, column])
        assert palm * away > 0 or abs(away) < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_a_mirrored_picture_has_the_other_sides(seed: int) -> None:
    _, labels = scene(seed)
    mirrored = labels.moved(np.array([[-1.0, 0, WIDTH - 1], [0, 1, 0]]))
    np.testing.assert_array_equal(mirrored.right, ~labels.right)
    plain, other = targets(labels, HEIGHT, WIDTH), targets(mirrored, HEIGHT, WIDTH)
    a = sorted(decode(plain.heat, plain.numbers, 0.5), key=lambda hand: hand.right)
    b = sorted(decode(other.heat, other.numbers, 0.5), key=lambda hand: 1 - hand.right)
    for hand, image in zip(a, b, strict=True):
        assert image.right == 1 - hand.right
    for side in range(2):
        wanted = plain.palm[side][plain.heat[side] > 0.99]
        np.testing.assert_allclose(other.palm[1 - side][other.heat[1 - side] > 0.99], wanted, atol=1e-6)
    for hand, image in zip(a, b, strict=True):
        x0, y0, x1, y1 = hand.box
        np.testing.assert_allclose(image.box, (WIDTH - 1 - x1, y0, WIDTH - 1 - x0, y1), atol=1e-3)
        assert abs(math.remainder(image.rotation + hand.rotation, 2 * math.pi)) < 1e-5


def test_two_hands_of_one_place_are_both_taught() -> None:
    rng = np.random.default_rng(1)
    hands = [make_hand(side, rng, CAMERA, pixel=(128, 90), depth=0.5) for side in Side]
    maps = targets(labelled(*hands), HEIGHT, WIDTH)
    assert sorted(hand.right for hand in decode(maps.heat, maps.numbers, 0.5)) == [0.0, 1.0]


def test_hidden_small_and_cut_off_hands_are_not_asked_for() -> None:
    _, labels = scene(0)
    hidden = Hands(labels.right, labels.outline, labels.keypoints, np.array([0.05, 1.0]))
    np.testing.assert_array_equal(hidden.wanted(HEIGHT, WIDTH), [False, True])
    maps = targets(hidden, HEIGHT, WIDTH)
    assert maps.heat[0].max() == 0 and maps.heat[1].max() == 1
    assert maps.counts[0].min() == 0 and maps.counts[1].min() == 1
    x, y = labels.outline[0].mean(0)
    assert maps.counts[0, int(y // 8), int(x // 8)] == 0  # nor is a find there held against the network
    tiny = labels.moved(np.array([[0.05, 0, 100], [0, 0.05, 100]]))
    assert not tiny.wanted(HEIGHT, WIDTH).any()
    outside = labels.moved(np.array([[1.0, 0, -200], [0, 1, 0]]))
    assert not outside.wanted(HEIGHT, WIDTH)[0]
    assert outside.boxes(HEIGHT, WIDTH)[0].area == 0


def test_an_outline_is_cut_off_at_the_picture() -> None:
    square = np.array([[-50.0, 20], [50, 20], [50, 80], [-50, 80]])
    found = outline_of(square, HEIGHT, WIDTH)
    assert found is not None
    np.testing.assert_allclose(Box.around(found[0]), (-0.5, 20, 50, 80), atol=1e-3)
    assert found[1] == pytest.approx(0.505)
    assert outline_of(square - (200, 0), HEIGHT, WIDTH) is None
    assert outline_of(np.full((4, 2), np.nan), HEIGHT, WIDTH) is None


def dotted(labels: Hands) -> np.ndarray:
    """A grey picture with a dot at each wrist (red) and middle finger's base (green); a blue tint on right hands'."""
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    for right, points in zip(labels.right, labels.keypoints, strict=True):
        for joint, colour in ((0, [255, 0, 0]), (9, [0, 255, 0])):
            colour[2] = 160 if right else 0
            cv2.circle(image, tuple(round(v) for v in points[joint]), 7, colour, -1)
    return image


@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_labels_follow_the_pixels(beside: float) -> None:
    """Dots are drawn where the joints are: they must be there still after turning, scaling, mirroring, joining."""
    _, labels = scene(3)
    image = dotted(labels)
    config = AugmentConfig(**(PLAIN.__dict__ | {"beside": beside, "hand_low": 40.0}))
    seen = mirrored = 0
    for number in range(60):
        out, hands = augmented(lambda _: (image, labels), np.random.default_rng([5, number]), HEIGHT, WIDTH, config)
        assert out.shape == (HEIGHT, WIDTH, 3) and out.dtype == np.uint8
        for right, points, box in zip(hands.right, hands.keypoints, hands.boxes(HEIGHT, WIDTH), strict=True):
            for joint, channel in ((0, 0), (9, 1)):
                x, y = points[joint]
                if not (box.x0 + 3 < x < box.x1 - 3 and box.y0 + 3 < y < box.y1 - 3):
                    continue
                pixel = out[round(y), round(x)]
                assert pixel[channel] > 150 and pixel[1 - channel] < 80, (number, joint, pixel)
                # The tint was painted on right hands; in a mirrored picture it is on left ones.
                seen, mirrored = seen + 1, mirrored + (bool(pixel[2] > 80) != bool(right))
    assert seen > 60
    assert 0.3 * seen < mirrored < 0.7 * seen


def test_pictures_follow_from_the_seed() -> None:
    _, labels = scene(3)
    image = dotted(labels)
    one, two, other = (
        augmented(lambda _: (image, labels), np.random.default_rng(seed), HEIGHT, WIDTH, AugmentConfig())
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1].keypoints, two[1].keypoints)
    assert not np.array_equal(one[0], other[0])


def test_erased_hands_are_gone_and_covered_ones_less_seen() -> None:
    _, labels = scene(3)
    image = dotted(labels)
    shares = []
    for number in range(10):
        rng = np.random.default_rng(number)
        erased = AugmentConfig(**(PLAIN.__dict__ | {"erase": 1.0}))
        assert len(augmented(lambda _: (image, labels), rng, HEIGHT, WIDTH, erased)[1]) == 0
        covered = AugmentConfig(**(PLAIN.__dict__ | {"cover": 1.0}))
        shares += augmented(lambda _: (image, labels), rng, HEIGHT, WIDTH, covered)[1].share.tolist()
    assert min(shares) < 0.95 and min(shares) >= 0.4 and max(shares) == 1.0


def test_a_whole_frame_is_fitted_at_the_top_left() -> None:
    _, labels = scene(1)
    image = dotted(labels)
    out, hands = letterboxed(image, labels, 96, 160)
    assert out.shape == (96, 160, 3) and (out[:, 130:] == 114).all()
    np.testing.assert_allclose(hands.keypoints, (labels.keypoints + 0.5) / 2 - 0.5)
    x, y = hands.keypoints[0, 0]
    assert out[round(y), round(x), 0] > 200


def test_things_are_pasted_beside_hands_and_not_over_them() -> None:
    _, labels = scene(1)
    boxes = labels.boxes(HEIGHT, WIDTH)
    source = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), boxes
    image = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(120):
        picture = thing(source, [np.array([200, 150, 120])], HEIGHT, rng)
        assert picture.dtype == np.uint8 and picture.shape[0] == picture.shape[1]
        shapes.add(picture.shape)
        paste(image, picture, boxes, rng)
    assert len(shapes) > 10
    changed = (image != 77).any(-1)
    assert changed.mean() > 0.2
    for x0, y0, x1, y1 in boxes:
        assert not changed[math.ceil(y0) : int(y1) + 1, math.ceil(x0) : int(x1) + 1].any()
