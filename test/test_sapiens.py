"""Sapiens' checkpoints, on a small stand-in in their true names and forms."""

from __future__ import annotations

import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from a2p_ros.errors import WeightsError
from a2p_ros.network.sapiens import SIZES, CachedPrior, SapiensEncoder, load_sapiens, read_tensors

WIDTH, LAYERS, HEADS = 32, 2, 4
#: Of the trained pictures, 4:3 as the released models'.
ROWS, COLUMNS = 8, 6


class _Mlp(nn.Module):
    """mmcv's FFN: its names, and its dropout layers between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(0.0)),
            nn.Linear(4 * WIDTH, WIDTH),
            nn.Dropout(0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _Attention(nn.Module):
    """By torch's own attention, from the same parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        out, _ = nn.functional.multi_head_attention_forward(
            x, x, x, WIDTH, HEADS, self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.proj.weight,
            self.proj.bias, training=False, need_weights=False,
        )  # fmt: skip
        return out.transpose(0, 1)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.ffn = _Attention(), _Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        x_ = self.ln2(x)
        return x + (self.ffn(x_) - x_)


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, WIDTH, 16, 16, padding=2)
        self.pos_embed = nn.Parameter(torch.zeros(1, ROWS * COLUMNS, WIDTH))
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.ln1 = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.projection(x).flatten(2).transpose(1, 2) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x).transpose(1, 2).reshape(1, WIDTH, ROWS, COLUMNS)


class Estimator(nn.Module):
    """An estimator as mmpose, mmseg or mmdet build it: a backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decode_head = _Backbone(), nn.Conv2d(WIDTH, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x))


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    torch.manual_seed(0)
    made = Estimator().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(params=["pth", "torchscript", "safetensors"])
def checkpoint(request: pytest.FixtureRequest, estimator: Estimator, tmp_path: Path) -> Path:
    if request.param == "torchscript":
        path = tmp_path / "sapiens_tiny_torchscript.pt2"
        torch.jit.trace(estimator, torch.randn(1, 3, 128, 96), check_trace=False).save(str(path))
    elif request.param == "safetensors":
        path = tmp_path / "sapiens_tiny.safetensors"
        save_file(estimator.state_dict(), path)
    else:
        path = tmp_path / "sapiens_tiny.pth"
        meta = {"epoch": 3, "iter": 9, "experiment_name": "x", "mmengine_version": "0.10"}
        torch.save({"meta": meta, "state_dict": estimator.state_dict(), "message_hub": {}}, path)
    return path


def test_the_encoder_answers_as_the_original(checkpoint: Path, estimator: Estimator) -> None:
    prior = load_sapiens(checkpoint, heads=HEADS, edge=64)
    pictures = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(prior.encoder(pictures), estimator.backbone(pictures), atol=1e-4, rtol=1e-4)


def test_features_lie_on_the_token_grid(checkpoint: Path) -> None:
    prior = load_sapiens(checkpoint, heads=HEADS, edge=64)
    assert prior.width == WIDTH
    crops = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    tokens = prior(crops, 2)
    assert tokens.shape == (2, 4, WIDTH)
    # Each token is the mean of its quarter of the map, row by row.
    with torch.no_grad():
        pixels = nn.functional.interpolate(crops.permute(0, 3, 1, 2).float(), (64, 64), mode="bilinear")
        mean, spread = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((123.5, 116.5, 103.5), (58.5, 57.0, 57.5)))
        whole = prior.encoder((pixels - mean) / spread)
    torch.testing.assert_close(tokens[:, 1], whole[:, :, :2, 2:].mean((2, 3)), atol=1e-4, rtol=1e-4)


class HistoryBuffer:
    """mmengine's name for the curve of a loss."""

    def __init__(self) -> None:
        self._log_history = np.arange(3.0)


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"


def test_training_logs_are_read_as_nothing(
    estimator: Estimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as only_while_writing:
        for name in ("mmengine", "mmengine.logging", HistoryBuffer.__module__):
            only_while_writing.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[HistoryBuffer.__module__].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
        path = tmp_path / "sapiens_tiny.pth"
        hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "lr": np.float64(0.1)}
        torch.save({"state_dict": estimator.state_dict(), "message_hub": hub}, path)
    assert set(read_tensors(path)) == set(estimator.state_dict())


class Runs:
    """What must not happen when a file is read."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _mark, ("x",)


def _mark(_: str) -> None:
    Runs.ran = True


@pytest.mark.parametrize("form", ["pth", "torchscript"])
def test_nothing_of_a_file_is_executed(form: str, estimator: Estimator, tmp_path: Path) -> None:
    path = tmp_path / f"made.{form}"
    if form == "pth":
        torch.save({"state_dict": estimator.state_dict(), "more": Runs()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("made/data.pkl", pickle.dumps(Runs()))
            archive.writestr("made/constants.pkl", b"")
            archive.writestr("made/code/a.py", b"")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of Sapiens"):
        read_tensors(path)
    assert not Runs.ran


def test_programs_are_refused(estimator: Estimator, tmp_path: Path) -> None:
    path = tmp_path / "sapiens_tiny_bfloat16.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    with pytest.raises(WeightsError, match=r"would have to be executed; take the \.pth or the torchscript form"):
        read_tensors(path)


def test_other_files_are_named(estimator: Estimator, tmp_path: Path) -> None:
    path = tmp_path / "made.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"made\.pth: cannot be read"):
        read_tensors(path)
    torch.save({"state_dict": {"backbone.cls_token": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"expected backbone\.pos_embed"):
        load_sapiens(path)
    torch.save({"state_dict": estimator.state_dict()}, path)
    with pytest.raises(
        WeightsError, match=r"width 32 with 2 layers is no released size; those are 0\.3b \(1024 x 24\)"
    ):
        load_sapiens(path)
    state = estimator.state_dict()
    del state["backbone.layers.1.ffn.layers.1.bias"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(WeightsError, match=r"layers\.1\.ffn\.layers\.1\.bias"):
        load_sapiens(path, heads=HEADS)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_tensors(tmp_path / "none.pth")


def test_the_released_sizes() -> None:
    """The paper gives 0.336, 0.664, 1.169 and 2.163 billion parameters, more than the encoder alone."""
    for (name, size), billions in zip(SIZES.items(), (0.31, 0.64, 1.15, 2.15), strict=True):
        with torch.device("meta"):
            encoder = SapiensEncoder(size)
        count = sum(p.numel() for p in encoder.parameters()) / 1e9
        assert count == pytest.approx(billions, rel=0.06), name
        assert size.width % size.heads == 0


def test_features_are_kept_on_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load_sapiens(checkpoint, heads=HEADS, edge=32)
    cached = CachedPrior(prior, tmp_path / "cache")
    crops = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    first = cached(crops, 2)
    torch.testing.assert_close(first, prior(crops, 2), atol=5e-3, rtol=5e-3)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3
    calls = []
    monkeypatch.setattr(
        type(prior), "forward", lambda self, c, g: calls.append(len(c)) or torch.zeros(len(c), 4, WIDTH)
    )
    assert torch.equal(cached(crops, 2), first) and calls == []
    crops[1] = 0
    assert torch.equal(cached(crops, 2)[[0, 2]], first[[0, 2]]) and calls == [1]
    assert cached(crops, 1).shape[0] == 3 and calls == [1, 3]  # another grid has other features
    other = CachedPrior(load_sapiens(checkpoint, heads=HEADS, edge=64), tmp_path / "cache")
    other(crops, 2)
    assert calls == [1, 3, 3]  # and so has another size of the pictures
    next((tmp_path / "cache").rglob("*.npy")).write_bytes(b"no")
    with pytest.raises(WeightsError, match="delete the file"):
        for grid in (1, 2):
            for prior_ in (cached, other):
                prior_(crops, grid)
