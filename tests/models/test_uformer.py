"""Uformer's attention inside windows, its padding and tiles, and what its constructors refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import UsageError
from fairweather.models import MODELS
from fairweather.models.layers import pad_to_multiple
from fairweather.models.uformer import LeWinBlock, Uformer, WindowAttention, drop_path, joined, windows

SMALL: dict[str, dict[str, Any]] = {
    "uformer": {"width": 4, "num_blocks": (0, 2, 1), "num_heads": (1, 2, 2)},
    "constyle_uformer": {
        "width": 4,
        "num_blocks": (0, 0, 1, 2, 0, 0, 1),
        "num_heads": (1, 1, 2, 2, 2, 2, 1),
    },
}
NAMES = list(SMALL)


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (40, 8)])
def test_joined_undoes_windows(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    assert torch.equal(joined(windows(x), *size), x)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("modulated", [True, False])
@torch.inference_mode()
def test_attention_equals_its_formula(shift: int, *, modulated: bool) -> None:
    """Over all positions of a map that is not square, each seeing those of its own window only."""
    torch.manual_seed(0)
    heads, h, w = 2, 16, 24
    attention = WindowAttention(4, heads=heads, shift=shift, modulated=modulated)
    nn.init.normal_(attention.bias_table)
    x = torch.randn(2, 4, h, w)
    row, column = (i.flatten() for i in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    # Windows lie shift to the right and below; what they leave at the edges are smaller windows.
    window = (row - shift).div(8, rounding_mode="floor") * 100 + (column - shift).div(
        8, rounding_mode="floor"
    )
    tokens = x.flatten(2).mT
    if attention.modulator is not None:
        tokens = tokens + attention.modulator[(row - shift) % 8 * 8 + (column - shift) % 8]
    q, k, v = (
        t.unflatten(-1, (heads, 2)).transpose(1, 2)
        for t in (attention.q(tokens), *attention.kv(tokens).chunk(2, dim=-1))
    )
    apart = window[:, None] != window
    offset = ((row[:, None] - row + 7) * 15 + column[:, None] - column + 7).masked_fill(apart, 0)
    scores = q @ k.mT / 2**0.5 + attention.bias_table[offset].permute(2, 0, 1)
    mixed = scores.masked_fill(apart, -torch.inf).softmax(dim=-1) @ v
    expected = attention.out(mixed.transpose(1, 2).flatten(2)).mT.view(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_drop_path_leaves_out_whole_pictures_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    kept = drop_path(torch.ones(1000, 2, 3, 3), 0.2)
    assert torch.equal(kept.amin(dim=(1, 2, 3)), kept.amax(dim=(1, 2, 3)))
    assert kept.unique().tolist() == [0, 1.25]
    assert kept.mean() == pytest.approx(1, abs=0.05)


def test_paths_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    block = LeWinBlock(4, heads=1, shift=0, modulated=False, drop_path=0.5)
    x = torch.rand(1, 4, 8, 8).expand(64, -1, -1, -1)
    assert len(block.eval()(x).unique(dim=0)) == 1
    assert len(block.train()(x).unique(dim=0)) == 4  # with and without attention, with and without LeFF


def test_the_rate_of_drop_path_rises_to_the_last_block() -> None:
    net = fw.create_model("constyle_uformer", **SMALL["constyle_uformer"], drop_path=0.3)
    rates = [m.drop_path for m in net.modules() if isinstance(m, LeWinBlock)]
    assert sorted(rates) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert net.decoder1[0].drop_path == pytest.approx(0.3)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_any_multiple_and_any_batch(name: str) -> None:
    net = fw.create_model(name, **SMALL[name])
    x = torch.rand(2, 3, 2 * net.multiple_of, net.multiple_of)
    assert torch.allclose(net(x)[1:], net(x[1:]), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_smaller_picture_is_the_reflected_one_cropped(name: str) -> None:
    net = fw.create_model(name, **SMALL[name])
    x = torch.rand(1, 3, net.multiple_of + 1, net.multiple_of - 14)
    padded = pad_to_multiple(x, net.multiple_of)
    assert torch.equal(net(x), net(padded)[..., : x.shape[-2], : x.shape[-1]])


@torch.inference_mode()
def test_a_tile_on_the_grid_is_the_whole_away_from_its_edge_and_one_off_the_grid_is_not() -> None:
    torch.manual_seed(0)
    net = Uformer(width=4, num_blocks=(1, 2, 1), num_heads=(1, 2, 2)).eval()
    x = torch.rand(1, 3, 16, 160)
    whole = net(x)[..., 96:]
    assert torch.allclose(net(x[..., 32:])[..., 64:], whole, atol=1e-5)
    assert not torch.allclose(net(x[..., 36:])[..., 60:], whole, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in MODELS if "uformer" in name])
def test_tiles_start_on_the_grid_of_the_coarsest_windows(name: str) -> None:
    assert MODELS[name].align % MODELS[name].multiple_of == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_runs_in_half_precision(name: str, dtype: torch.dtype) -> None:
    net = fw.create_model(name, **SMALL[name])
    x = torch.rand(1, 3, net.multiple_of, net.multiple_of)
    with torch.autocast("cpu", dtype=dtype):
        y = net(x)
    assert torch.allclose(y.float(), net(x), atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_adds_to_the_picture(name: str) -> None:
    net = fw.create_model(name, **SMALL[name])
    nn.init.zeros_(net.exit.weight)
    nn.init.zeros_(net.exit.bias)
    x = torch.rand(1, 3, 30, 40)
    assert torch.equal(net(x), x)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("uformer", {"num_heads": (1, 3, 1)}, "8 channels cannot be shared by 3 heads"),
        ("uformer", {"num_heads": (1, 0, 1)}, "8 channels cannot be shared by 0 heads"),
        ("uformer", {"num_heads": (1, 1)}, "num_blocks has 3 numbers, num_heads 2; expected"),
        ("uformer", {"num_blocks": (1, 1), "num_heads": (1, 1)}, "expected equally many, 3, 5"),
        ("uformer", {"num_blocks": (1, -1, 1)}, r"num_blocks is \(1, -1, 1\), expected 0 or more"),
        ("uformer", {"drop_path": 1.0}, "drop_path is 1.0, expected"),
        ("constyle_uformer", {"num_heads": (1,) * 4}, "num_heads has 4 numbers, expected 7"),
        ("constyle_uformer", {"num_blocks": (1,) * 4}, "num_blocks has 4 numbers, expected 7"),
        ("constyle_uformer", {"width": 6}, "width is 6, expected a multiple of 4"),
    ],
)
def test_impossible_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fw.create_model(name, **(SMALL[name] | arguments))
