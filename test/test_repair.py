"""Denoiser, guidance, weights and the repair they make: what must hold whatever was learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from a2p_ros.camera import CameraModel
from a2p_ros.config import InteractionConfig
from a2p_ros.errors import ConfigError, WeightsError
from a2p_ros.hand import load_hand_models
from a2p_ros.interaction.collision import penetration_depths
from a2p_ros.interaction.denoiser import Denoiser, DenoiserConfig, step_embedding
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.interaction.features import (
    FINGER_CONFIDENCE,
    FINGER_FEATURES,
    FINGER_WAYS,
    PALM_FEATURES,
    ConditionFeatures,
)
from a2p_ros.interaction.guidance import CollisionGuide, GuidanceConfig
from a2p_ros.interaction.hand_pairs import HandPairs
from a2p_ros.interaction.repair import PairRepair
from a2p_ros.interaction.representation import DIMS, LEFT_SHAPE, TRANSLATION, PairCodec
from a2p_ros.interaction.surface import CollisionMesh
from a2p_ros.interaction.weights import CARD, TENSORS, load, save
from a2p_ros.training.penetration import penetration_volume
from a2p_ros.types import Pair, Side

HANDS = load_hand_models()
MESHES = Pair(CollisionMesh.from_model(HANDS.left), CollisionMesh.from_model(HANDS.right))
TINY = DenoiserConfig(width=16, feedforward=16, layers=1, heads=2)
#: Palms face each other along y; the left hand's bones are this far [m] under the right one's.
GAPS = (0.030, 0.036, 0.042)


def palms(gaps: tuple[float, ...] = GAPS, apart: float = 0.0) -> HandPairs:
    """Flat hands palm to palm, half a metre before the camera, fingers the same way."""
    n = len(gaps)
    eye = torch.eye(3).expand(n, 16, 3, 3).clone()
    left = eye.clone()
    # Half a turn about the z axis: the left fingers (+x at rest) point to -x, and its palm to +y.
    left[:, 0] = torch.tensor([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    rest = (
        HANDS.left.with_shape(torch.zeros(1, 10)).joints[0, 0],
        HANDS.right.with_shape(torch.zeros(1, 10)).joints[0, 0],
    )
    where = torch.tensor([0.0, 0.0, 0.5])
    shift = torch.tensor([[apart, -g, 0.0] for g in gaps])
    zeros = torch.zeros(n, 10)
    transl = Pair(where + shift - rest[0], (where - rest[1]).expand(n, 3).clone())
    return HandPairs(Pair(zeros, zeros.clone()), Pair(left, eye), transl)


def volume(pairs: HandPairs) -> torch.Tensor:
    both = pairs.forward(HANDS)
    return torch.as_tensor(penetration_volume(MESHES, Pair(both.left.vertices, both.right.vertices)))


def deepest(pairs: HandPairs) -> torch.Tensor:
    both = pairs.forward(HANDS)
    depths = penetration_depths(MESHES, Pair(both.left.vertices, both.right.vertices))
    return torch.maximum(depths.left.amax(1), depths.right.amax(1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained denoiser whose answer is no longer the condition."""
    torch.manual_seed(0)
    denoiser = Denoiser(TINY)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("weights")
    codec = PairCodec(HANDS, torch.zeros(DIMS), torch.full((DIMS,), 0.5))
    save(folder, denoiser, codec, {"name": "tiny"})
    return folder


def copied(folder: Path, to: Path) -> Path:
    for name in (CARD, TENSORS):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_these_palms_penetrate() -> None:
    assert bool((volume(palms()) > 1.0).all())
    assert float(volume(palms((0.2,)))[0]) == 0.0


def test_one_step_of_the_guidance_lowers_the_penetration() -> None:
    pairs = palms()
    guide = CollisionGuide(PairCodec(HANDS, torch.zeros(DIMS), torch.ones(DIMS)), MESHES, pairs)
    x, moved = guide.step(guide._codec.encode(pairs))
    assert moved
    before, after = volume(pairs), volume(guide._codec.decode(x, pairs))
    assert bool((after < 0.7 * before).all())


def test_the_guidance_leaves_hands_that_do_not_penetrate_exactly_as_they_are() -> None:
    pairs = palms((0.12, 0.2))
    assert float(deepest(pairs).max()) == 0.0
    codec = PairCodec(HANDS, torch.zeros(DIMS), torch.ones(DIMS))
    x = codec.encode(pairs)
    assert torch.equal(CollisionGuide(codec, MESHES, pairs)(x), x)


def test_hands_move_along_the_view_rather_than_across_it() -> None:
    pairs = palms()
    codec = PairCodec(HANDS, torch.zeros(DIMS), torch.ones(DIMS))
    x = codec.encode(pairs)
    config = GuidanceConfig(iterations=1, across=0.1)
    # The way out is along y; a view along y lets it be, one along x holds it.
    steps = {}
    for name, view in (("along", [0.0, 1.0, 0.0]), ("across", [1.0, 0.0, 0.0])):
        guide = CollisionGuide(codec, MESHES, pairs, config, view=torch.tensor([view] * len(pairs)))
        steps[name] = (guide(x) - x)[:, TRANSLATION].norm(dim=1)
    assert bool((steps["along"] > 5 * steps["across"]).all())


def test_mobility_decides_what_moves() -> None:
    pairs = palms()
    codec = PairCodec(HANDS, torch.zeros(DIMS), torch.ones(DIMS))
    x = codec.encode(pairs)
    stiff = GuidanceConfig(iterations=1, articulation=0.0, shape=0.0, rotation=0.0)
    change = CollisionGuide(codec, MESHES, pairs, stiff)(x) - x
    assert float(change[:, : TRANSLATION.start].abs().max()) == 0.0
    assert bool((change[:, TRANSLATION].norm(dim=1) > 0.001).all())
    assert float((CollisionGuide(codec, MESHES, pairs)(x) - x)[:, LEFT_SHAPE].abs().max()) > 0


def test_without_weights_the_guidance_works_alone_and_says_so() -> None:
    repair = PairRepair(HANDS, InteractionConfig(weights="", steps=4))
    alone = repair(palms(), use_model=False)
    assert bool((volume(alone) < 0.1 * volume(palms())).all())
    for use_model in (True, False):
        kept = repair(palms(), use_model=use_model).joints(HANDS).right[:, 0]
        assert torch.allclose(kept, palms().joints(HANDS).right[:, 0], atol=1e-6)


def test_a_new_denoiser_gives_its_condition_back() -> None:
    torch.manual_seed(1)
    denoiser, condition = Denoiser(TINY).eval(), torch.randn(3, DIMS)
    fingers, hands = torch.randn(3, 10, FINGER_FEATURES), torch.randn(3, 2, PALM_FEATURES)
    out = denoiser(torch.randn(3, DIMS), torch.tensor([0, 500, 999]), condition, fingers, hands)
    assert torch.equal(out, condition)


def test_the_denoiser_sees_the_step_the_noise_and_the_features(weights: Path) -> None:
    denoiser = load(weights, HANDS).denoiser
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, DIMS, generator=g), torch.tensor([10, 10]), torch.randn(2, DIMS, generator=g)]
    inputs += [torch.randn(2, 10, FINGER_FEATURES, generator=g), torch.randn(2, 2, PALM_FEATURES, generator=g)]
    inputs[4][:, :, -1] = 0.5
    out = denoiser(*inputs)
    for i, value in enumerate(inputs):
        changed = list(inputs)
        changed[i] = value + 50 if i == 1 else value + 0.5
        assert not torch.allclose(denoiser(*changed), out, atol=1e-6)


def test_a_condition_that_does_not_penetrate_is_given_back(weights: Path) -> None:
    repair = PairRepair(HANDS, InteractionConfig(weights=str(weights)))
    apart = palms((0.12, 0.2))
    out = repair(apart)
    for side, joints in out.joints(HANDS).items():
        assert torch.allclose(joints, apart.joints(HANDS)[side], atol=1e-6)


def test_steps_have_different_embeddings() -> None:
    table = step_embedding(torch.arange(1000), 17)
    assert table.shape == (1000, 17)
    assert float(torch.cdist(table, table).fill_diagonal_(1.0).min()) > 1e-3


FEATURES = ConditionFeatures(HANDS, MESHES)


def vertices_of(pairs: HandPairs) -> Pair[torch.Tensor]:
    both = pairs.forward(HANDS)
    return Pair(both.left.vertices, both.right.vertices)


def seen_at(joints: Pair[torch.Tensor]) -> ImageEvidence:
    """Each joint seen just where it is."""
    camera = CameraModel.assume(640, 480, 1.05)
    pixels = Pair(
        *(
            torch.as_tensor(camera.project(j.reshape(-1, 3).double().numpy())).reshape(-1, 21, 2)
            for _, j in joints.items()
        )
    )
    sure = torch.ones(len(joints.left), 21)
    return ImageEvidence.of_pixels(camera, pixels, Pair(sure, sure))


def test_features_of_the_mirror_image_are_those_of_the_other_hand() -> None:
    pairs = palms(apart=0.03)
    ours = FEATURES(pairs, vertices_of(pairs))
    theirs = FEATURES(pairs.mirrored(), vertices_of(pairs.mirrored()))
    # A vertex between two faces may find the other one nearest in the mirror: depths agree, ways out nearly always.
    assert torch.allclose(theirs[0], ours[0].roll(5, 1), atol=0.05)
    assert torch.allclose(theirs[1], ours[1].flip(1), atol=0.05)
    assert float(ours[0].abs().max()) > 0.5 and float((ours[1][:, 0] - ours[1][:, 1]).abs().max()) > 0.01


def test_what_is_seen_beside_a_joint_is_a_way_to_it_in_the_wrists_axes() -> None:
    pairs = palms((0.12,))
    joints = pairs.joints(HANDS)
    still, _ = FEATURES(pairs, vertices_of(pairs), seen_at(joints))
    assert float(still[..., FINGER_WAYS].abs().max()) < 0.02 and bool((still[..., FINGER_CONFIDENCE] == 1).all())
    # Seen 4 mm farther along +y of the camera, which is -y of the left wrist, that is turned by half a turn about z:
    # 2 mm more than what both hands share.
    moved = Pair(joints.left + torch.tensor([0.0, 0.004, 0.0]), joints.right)
    ways = FEATURES(pairs, vertices_of(pairs), seen_at(moved))[0][..., FINGER_WAYS].unflatten(-1, (4, 3))
    assert torch.allclose(ways[0, :5, :, 1], torch.tensor(-0.002 / 0.005), atol=0.04)
    assert torch.allclose(ways[0, 5:, :, 1], torch.tensor(-0.002 / 0.005), atol=0.04)
    # Both hands moved alike are a pair that is elsewhere, not another one.
    both = Pair(joints.left + torch.tensor([0.0, 0.004, 0.0]), joints.right + torch.tensor([0.0, 0.004, 0.0]))
    assert float(FEATURES(pairs, vertices_of(pairs), seen_at(both))[0][..., FINGER_WAYS].abs().max()) < 0.1
    nothing = FEATURES(pairs, vertices_of(pairs))[0]
    assert float(nothing[..., FINGER_WAYS].abs().max()) == 0.0 == float(nothing[..., FINGER_CONFIDENCE].max())


def test_the_hand_in_front_is_before_the_joints_that_it_hides() -> None:
    # The camera looks along y: the left hand, 12 cm farther along -y, is in front where the camera stands at -y.
    pairs = palms((0.12,))
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    for away, front in ((turn, Side.LEFT), (turn * torch.tensor([[1.0], [-1.0], [-1.0]]), Side.RIGHT)):
        rotations = Pair(*(torch.cat([(away @ r[:, 0])[:, None], r[:, 1:]], 1) for _, r in pairs.rotations.items()))
        centre = torch.tensor([0.0, 0.0, 0.5])
        rest = Pair(*(m.with_shape(torch.zeros(1, 10)).joints[0, 0] for _, m in HANDS.items()))
        transl = Pair(*(((t + rest[s] - centre) @ away.T) + centre - rest[s] for s, t in pairs.transl.items()))
        seen = HandPairs(pairs.betas, rotations, transl)
        joints, vertices = seen.joints(HANDS), vertices_of(seen)
        nearer = joints[front][0, :, 2].mean() < joints[front.other][0, :, 2].mean() - 0.05
        assert bool(nearer)
        on_ray = FEATURES._hiding(joints, vertices)
        hidden, visible = on_ray[front.other][0], on_ray[front][0]
        covered = hidden[:, 0] > 0.9
        assert int(covered.sum()) >= 8
        assert bool((hidden[covered, 1] < -1).all())
        behind = visible[:, 0] > 0.9
        assert int(behind.sum()) >= 8 and bool((visible[behind, 1] > 1).all())


def test_the_same_pair_is_repaired_the_same_way(weights: Path) -> None:
    repair = PairRepair(HANDS, InteractionConfig(weights=str(weights)))
    first, again = repair(palms()), repair(palms())
    assert torch.equal(first.rotations.left, again.rotations.left) and torch.equal(first.transl.left, again.transl.left)
    alone = repair(palms((GAPS[1],)))
    assert torch.allclose(alone.transl.left[0], first.transl.left[1], atol=1e-4)
    assert repair.model_id == "tiny"


@pytest.mark.parametrize("start", ["noise", "condition"])
def test_the_right_wrist_stays(weights: Path, start: str) -> None:
    config = InteractionConfig(weights=str(weights), start=start)  # type: ignore[arg-type]
    out = PairRepair(HANDS, config)(palms())
    assert torch.allclose(out.joints(HANDS).right[:, 0], palms().joints(HANDS).right[:, 0], atol=1e-6)
    assert torch.allclose(out.rotations.right[:, 0], palms().rotations.right[:, 0])
    assert not torch.allclose(out.rotations.right[:, 1:], palms().rotations.right[:, 1:], atol=1e-3)


def test_weights_survive_the_file(weights: Path, tmp_path: Path) -> None:
    trained = load(weights, HANDS)
    save(tmp_path, trained.denoiser, trained.codec, trained.card)
    again = load(tmp_path, HANDS)
    for (name, a), (_, b) in zip(
        trained.denoiser.state_dict().items(), again.denoiser.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert torch.equal(again.codec.spread, trained.codec.spread) and again.name == "tiny"


def test_weights_of_another_hand_model_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = copied(weights, tmp_path)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"hand_model": "mano"}))
    with pytest.raises(WeightsError, match=r"for hand model 'mano', not 'open_hand'.*a2p train diffusion"):
        PairRepair(HANDS, InteractionConfig(weights=str(folder)))


def test_damaged_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = copied(weights, tmp_path)
    data = bytearray((folder / TENSORS).read_bytes())
    data[-5] ^= 1
    (folder / TENSORS).write_bytes(data)
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        load(folder, HANDS)
    (folder / TENSORS).unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load(folder, HANDS)
    (folder / CARD).write_text("[]")
    with pytest.raises(WeightsError, match="expected a JSON object, got list"):
        load(folder, HANDS)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "nowhere", HANDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("denoiser.place"), "not the tensors that"),
        (lambda t: t.update(extra=torch.zeros(1)), "not the tensors that"),
        (lambda t: t.pop("codec.mean"), "expected codec.mean as 209"),
        (lambda t: t["codec.spread"].zero_(), "codec.spread above 0"),
        (lambda t: t["denoiser.place"].fill_(torch.nan), "not finite"),
    ],
)
def test_wrong_tensors_are_refused(weights: Path, tmp_path: Path, change, message: str) -> None:
    import hashlib

    folder = copied(weights, tmp_path)
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    card = json.loads((folder / CARD).read_text())
    card["sha256"] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=message):
        load(folder, HANDS)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"GuidanceConfig.rate.*got -1"):
        GuidanceConfig(rate=-1.0)
    with pytest.raises(ConfigError, match=r"DenoiserConfig.layers.*got 0"):
        DenoiserConfig(layers=0)


def test_both_sizes_are_there() -> None:
    lite, full = (
        sum(p.numel() for p in Denoiser(c).parameters()) for c in (DenoiserConfig.lite(), DenoiserConfig.full())
    )
    assert lite < 1_000_000 < 15_000_000 < full


def test_palms_are_where_the_names_say() -> None:
    joints = palms((0.05,)).joints(HANDS)
    for side in (Side.LEFT, Side.RIGHT):
        assert float(joints[side][0, 12, 0] - joints[side][0, 0, 0]) < -0.1
    assert float((joints.left - joints.right)[0, :, 1].mean()) < 0
