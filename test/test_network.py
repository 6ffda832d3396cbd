"""The network's parts, each against its equation written out once more or against torch's own layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from made_hands import make_hand
from made_network import SMALL, random_network
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from a2p_ros.camera import CameraModel
from a2p_ros.errors import ConfigError, InputError, WeightsError
from a2p_ros.network.backbone import ResNet, fold_norms, make_backbone, read_imagenet
from a2p_ros.network.config import FULL, LITE, NetworkConfig
from a2p_ros.network.fusion import Fusion, Projection
from a2p_ros.network.heads import JointHead, sample
from a2p_ros.network.model import A2PNetwork, HandNetwork, flops
from a2p_ros.network.pictures import normalised
from a2p_ros.network.relative import flipped, wrists_by_size
from a2p_ros.torch_rotations import matrix_from_6d, sixd_from_matrix
from a2p_ros.types import Side

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_resnet50() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision.models.resnet50().state_dict(), without fc."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": () if part == "num_batches_tracked" else (channels,) for part in NORM})

    norm("bn1", 64)
    before = 64
    for layer, width, blocks in (("layer1", 64, 3), ("layer2", 128, 4), ("layer3", 256, 6), ("layer4", 512, 3)):
        for block in range(blocks):
            at = f"{layer}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, before, 1, 1)
            norm(f"{at}.bn1", width)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{at}.bn2", width)
            shapes[f"{at}.conv3.weight"] = (4 * width, width, 1, 1)
            norm(f"{at}.bn3", 4 * width)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, before, 1, 1)
                norm(f"{at}.downsample.1", 4 * width)
            before = 4 * width
    return shapes


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ----- sizes


def test_the_full_backbone_is_torchvisions_resnet_50() -> None:
    with torch.device("meta"):
        net = make_backbone(FULL)
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == torchvision_resnet50()
    assert len(torchvision_resnet50()) == 318
    # torchvision documents 25,557,032 and 11,689,512 parameters, of which fc has 2,049,000 and 513,000.
    assert parameters(net) == 25_557_032 - 2_049_000
    with torch.device("meta"):
        assert parameters(ResNet(18, 64, 512, 2)) == 11_689_512 - 513_000


def test_sizes_of_the_presets() -> None:
    with torch.device("meta"):
        lite, full = A2PNetwork(LITE), A2PNetwork(FULL)
    assert 0.6e9 < flops(lite) < 0.8e9
    assert 4e6 < parameters(lite) < 8e6
    assert 40e9 < flops(full) < 60e9
    assert 50e6 < parameters(full) < 70e6
    assert flops(lite, hands=1) < 0.6 * flops(lite)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_imagenet_load(tmp_path, suffix) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = torchvision_resnet50()
    given = {n: torch.rand(s, generator=generator) for n, s in shapes.items() if not n.endswith("num_batches_tracked")}
    # Older files of torchvision's have no counts of batches, and all have the classifier.
    given |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"resnet50{suffix}"
    torch.save(given, path) if suffix == ".pth" else save_file(given, path)
    net = make_backbone(FULL)
    net.load_imagenet(read_imagenet(path))
    assert torch.equal(net.layer3[0].downsample[0].weight, given["layer3.0.downsample.0.weight"])
    assert torch.equal(net.bn1.running_var, given["bn1.running_var"])
    with pytest.raises(WeightsError, match="not the weights of torchvision's ResNet of these sizes"):
        make_backbone(SMALL).load_imagenet(given)


def test_files_that_are_no_state_dict_are_refused(tmp_path) -> None:
    path = tmp_path / "resnet50.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"resnet50\.pth: cannot be read as tensors"):
        read_imagenet(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="expected a state dict, tensors by name, got list"):
        read_imagenet(path)
    torch.save({"network": make_backbone(SMALL)}, path)  # a pickled module: code that must not run
    with pytest.raises(WeightsError, match="cannot be read"):
        read_imagenet(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token_dim": 30, "fusion_heads": 4}, "multiple of fusion_heads"),
        ({"resolution": 112}, "multiple of 32 with the backbone efficientnet_lite0, got 112"),
        ({"backbone": "resnet18", "resolution": 100}, "multiple of 16 with the backbone resnet18"),
        ({"last_stride": 2}, "expected 1 with efficientnet_lite0"),
        ({"keypoints": False, "segmentation": False, "depth": False}, "needs a prior encoder"),
        ({"mode": "both"}, "expected one of 'none', 'distilled', 'foundation'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**values)


# ----- eqs. 1 and 2


def test_eq_1_is_the_projected_mean() -> None:
    config = dataclasses.replace(SMALL, mode="foundation")
    torch.manual_seed(1)
    projection = Projection(config)
    priors = torch.randn(2, 3, 16, config.prior_channels) * torch.tensor([1.0, 20.0, 0.1])[:, None, None] + 3

    def layer_norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    f_k, f_s, f_d = (layer_norm(priors[:, i].double().numpy()) for i in range(3))
    weight, bias = (p.detach().double().numpy() for p in (projection.proj.weight, projection.proj.bias))
    f_a = layer_norm((f_k + f_s + f_d) / 3 @ weight.T + bias)
    np.testing.assert_allclose(projection(priors).detach().numpy(), f_a, atol=2e-5)


def test_eq_2_is_torchs_encoder_on_joined_tokens() -> None:
    torch.manual_seed(2)
    d, heads = SMALL.token_dim, SMALL.fusion_heads
    fusion = Fusion(SMALL).eval()
    peers = []
    for ours in list(fusion.encoder)[:-1]:
        peer = nn.TransformerEncoderLayer(d, heads, 2 * d, 0.0, "gelu", batch_first=True, norm_first=True)
        for name, part in (("norm1", ours.norm1), ("norm2", ours.norm2), ("self_attn.out_proj", ours.out)):
            peer.get_submodule(name).load_state_dict(part.state_dict())
        peer.linear1.load_state_dict(ours.mlp[0].state_dict())
        peer.linear2.load_state_dict(ours.mlp[2].state_dict())
        with torch.no_grad():
            peer.self_attn.in_proj_weight.copy_(ours.qkv.weight)
            peer.self_attn.in_proj_bias.copy_(ours.qkv.bias)
        peers.append(peer.eval())

    f_i, f_a = torch.randn(2, d, 8, 8), torch.randn(2, 64, d)
    with torch.no_grad():
        where = fusion.place[0].reshape(d, 64).T
        sequence = [f_i.reshape(2, d, 64).transpose(1, 2) + where + fusion.kind[0], f_a + where + fusion.kind[1]]
        joined = torch.cat(sequence, 1)
        for peer in peers:
            joined = peer(joined)
        wanted = fusion.encoder[-1](joined)[:, :64].transpose(1, 2).reshape(2, d, 8, 8)
        torch.testing.assert_close(fusion(f_i, f_a), wanted, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(fusion(f_i, f_a), fusion(f_i, None), atol=1e-2)


# ----- modes


@pytest.mark.parametrize("mode", ["none", "distilled", "foundation"])
def test_modes_have_what_they_need_and_learn_through_it(mode) -> None:
    config = dataclasses.replace(SMALL, mode=mode)
    torch.manual_seed(0)
    net = HandNetwork(config)
    assert (net.fae is not None, net.project is not None) == (mode == "distilled", mode == "foundation")
    assert any(name.startswith("fae.") for name in net.state_dict()) == (mode == "distilled")
    crops, priors = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 16, config.prior_channels)
    answer = net(crops, priors if mode == "foundation" else None)
    assert (answer.aligned is None) == (mode == "none")
    answer.keypoints.square().sum().backward()
    aligning = [p for name, p in net.named_parameters() if name.startswith(("fae.", "project."))]
    assert (mode == "none") == (not aligning)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in aligning if p.ndim > 1)
    with pytest.raises(InputError, match=f"mode {mode} takes"):
        net(crops, None if mode == "foundation" else priors)


def test_the_priors_are_seen() -> None:
    net = random_network(dataclasses.replace(SMALL, mode="foundation")).hand
    crops, priors = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 16, SMALL.prior_channels)
    first = net(crops, priors).keypoints
    assert (net(crops, -priors).keypoints - first).abs().max() > 1e-4
    other = priors.clone()
    other[:, 1] = torch.randn(1, 16, SMALL.prior_channels)  # one encoder of the three
    assert (net(crops, other).keypoints - first).abs().max() > 1e-4


def test_fewer_priors_take_part() -> None:
    config = dataclasses.replace(SMALL, mode="foundation", segmentation=False, depth=False)
    net = HandNetwork(config).eval()
    assert net(torch.zeros(1, 3, 64, 64), torch.randn(1, 1, 16, config.prior_channels)).depth.shape == (1, 21)


@pytest.mark.parametrize("config", [LITE, dataclasses.replace(FULL, width=16, last_width=32)], ids=["lite", "full"])
def test_crops_of_other_sizes_go_through(config) -> None:
    net = random_network(config).hand
    for edge in (64, config.resolution):
        answer = net(torch.randn(1, 3, edge, edge))
        cells = edge // config.stride * config.heat_scale
        assert answer.heat.shape == (1, 21, config.depth_bins, cells, cells)
        assert answer.rotations.shape == (1, 16, 3, 3)
    with pytest.raises(InputError, match=f"multiples of {config.unit}, got"):
        net(torch.randn(1, 3, config.unit * 2 + 1, config.unit * 2))


def test_a_row_of_a_batch_does_not_know_the_others() -> None:
    net = random_network(SMALL).hand
    crops = torch.randn(3, 3, 64, 64)
    alone, together = net(crops[:1]), net(crops)
    torch.testing.assert_close(alone.keypoints, together.keypoints[:1], atol=1e-5, rtol=1e-4)
    assert (together.keypoints[0] - together.keypoints[1]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [SMALL, LITE], ids=["resnet", "efficientnet"])
def test_folded_norms_give_the_same_answers(config: NetworkConfig) -> None:
    net, folded = random_network(config), random_network(config)
    fold_norms(folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    crops = torch.randn(2, 3, 64, 64)
    for name in ("keypoints", "rotations", "presence"):
        torch.testing.assert_close(getattr(folded.hand(crops), name), getattr(net.hand(crops), name))


# ----- heads


def test_a_peak_of_the_heat_is_a_place_in_the_crop() -> None:
    head = JointHead(dataclasses.replace(SMALL, heat_scale=1))
    heat = torch.full((1, 21, SMALL.depth_bins, 4, 8), -50.0)
    heat[0, :, 1, 0, 7] = 50  # second plane of 4, first row of 4, last column of 8
    heat[0, 0, 1, 0, 7], heat[0, 0, 3, 3, 0] = -50, 50
    head.heat = nn.Identity()
    joints = head(heat.flatten(1, 2))
    torch.testing.assert_close(joints.keypoints[0, 5], torch.tensor([7.5 / 8 - 0.5, 0.5 / 4 - 0.5]))
    torch.testing.assert_close(joints.keypoints[0, 0], torch.tensor([0.5 / 8 - 0.5, 3.5 / 4 - 0.5]))
    # Planes share -0.2 to 0.2 m; depth is from the wrist's plane, the last.
    plane = 2 * SMALL.depth_range / SMALL.depth_bins
    torch.testing.assert_close(joints.depth[0, 5], torch.tensor(-2 * plane))
    assert joints.depth[0, 0] == 0


def test_features_are_sampled_where_the_keypoints_are() -> None:
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    points = torch.tensor([[[0.5 / 4 - 0.5, 0.5 / 3 - 0.5], [2.5 / 4 - 0.5, 1.5 / 3 - 0.5], [0.0, 0.0], [5.0, 5.0]]])
    torch.testing.assert_close(sample(features, points)[0, :, 0], torch.tensor([0.0, 6.0, 5.5, 0.0]))


def test_six_numbers_are_a_rotation() -> None:
    sixd = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    matrices = matrix_from_6d(sixd)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(50))
    torch.testing.assert_close(matrix_from_6d(sixd_from_matrix(matrices)), matrices)
    torch.testing.assert_close(matrices[:, :, 0], sixd[:, :3] / sixd[:, :3].norm(dim=1, keepdim=True))


class Recorded(TorchDispatchMode):
    """Names of the operations that were run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_nothing_is_brought_from_the_host_in_the_middle() -> None:
    """What a CUDA graph cannot capture: tensors made of Python's numbers, indices made of lists, numbers read back."""
    net = random_network(LITE)
    with Recorded() as seen:
        net.hand(normalised(torch.zeros(1, 128, 128, 3, dtype=torch.uint8)))
        net.relative(torch.zeros(1, 2, 21, 2), torch.zeros(1, 2, 21), torch.zeros(1))
    assert "aten.convolution" in seen.names
    assert not seen.names & {"aten.lift_fresh", "aten.index", "aten._local_scalar_dense", "aten.nonzero"}
    with Recorded() as seen:
        torch.zeros(3)[[1, 2, 0]] + torch.tensor(0.5)
    assert {"aten.lift_fresh", "aten.index"} <= seen.names


def test_crops_are_normalised_as_on_imagenet() -> None:
    crop = torch.tensor([[[[124, 116, 104], [0, 0, 255]]]], dtype=torch.uint8)
    found = normalised(crop)
    assert found.shape == (1, 3, 1, 2)
    torch.testing.assert_close(found[0, :, 0, 0], torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(found[0, 2, 0, 1], torch.tensor((1 - 0.406) / 0.225))


def test_wrists_of_hands_of_mean_size_follow_from_their_bones() -> None:
    """Hands drawn by smplx's path, far enough away for weak perspective."""
    rng = np.random.default_rng(0)
    camera = CameraModel.assume(640, 480, 1.0)
    hands = [
        make_hand(side, rng, camera, pixel=(x, 240.0), depth=z, betas=np.zeros(10), strength=0.3)
        for side, x, z in ((Side.LEFT, 260.0, 1.5), (Side.RIGHT, 400.0, 1.2))
    ]
    rays = [hand.joints[:, :2] / hand.joints[:, 2:] for hand in hands]
    width = 0.4
    keypoints = torch.tensor(np.stack(rays)[None] / width, dtype=torch.float32)
    depth = torch.tensor(np.stack([h.joints[:, 2] - h.joints[0, 2] for h in hands])[None], dtype=torch.float32)
    network = A2PNetwork(SMALL).relative
    found = wrists_by_size(keypoints, depth, torch.tensor([width]), network.bones)[0].numpy()
    for hand, wrist in zip(hands, found, strict=True):
        assert np.linalg.norm(wrist - hand.joints[0]) < 0.06 * hand.joints[0, 2]
    mirrored = flipped(keypoints, depth, torch.zeros(1, 3))
    swapped = wrists_by_size(*mirrored[:2], torch.tensor([width]), network.bones)[0].numpy()
    np.testing.assert_allclose(swapped[::-1] * [-1, 1, 1], found, atol=1e-6)
