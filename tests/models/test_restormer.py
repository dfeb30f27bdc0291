"""Restormer's attention, its precision, and what its constructors refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import fairweather as fw
from fairweather.models.restormer import MDTA, cosines, transformer_blocks


def attention(channels: int, num_heads: int) -> MDTA:
    torch.manual_seed(0)
    return MDTA(channels, num_heads).requires_grad_(False)


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_attention_equals_its_formula(num_heads: int) -> None:
    """In the order of the paper, on a batch: normalise, attend, then project."""
    mdta = attention(6, num_heads)
    mdta.temperature.copy_(torch.rand(num_heads, 1, 1) + 1)
    x = torch.rand(2, 6, 5, 7)
    split = (2, num_heads, 6 // num_heads, 35)
    q, k, v = (t.reshape(split) for t in mdta.qkv_dwconv(mdta.qkv(x)).chunk(3, dim=1))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * mdta.temperature
    expected = mdta.project_out((scores.softmax(dim=-1) @ v).reshape(x.shape))
    torch.testing.assert_close(mdta(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    mdta = attention(16, 2)
    x = 30 * torch.randn(1, 16, 64, 64)  # sums of squares over the picture: above float16's largest number
    with torch.autocast("cpu", dtype=dtype):
        y = mdta(x)
    assert y.dtype == dtype
    assert (y - mdta(x)).abs().max() < 0.05 * y.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_are_float32_at_any_precision(dtype: torch.dtype) -> None:
    q, k = (100 * torch.randn(1, 2, 4, 4096)).to(dtype), torch.randn(1, 2, 4, 4096).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        halves = cosines(q, k)
    assert halves.dtype == torch.float32
    torch.testing.assert_close(
        halves, F.cosine_similarity(q.float()[:, :, :, None], k.float()[:, :, None], dim=-1)
    )


def test_black_pictures_have_finite_gradients() -> None:
    block = transformer_blocks(1, 8, 2, 2.66)
    x = torch.zeros(1, 8, 4, 4, requires_grad=True)
    block(x).sum().backward()
    assert x.grad is not None
    assert all(
        t.isfinite().all() for t in (x.grad, *(p.grad for p in block.parameters() if p.grad is not None))
    )


@torch.inference_mode()
def test_both_small_forms_cost_the_same() -> None:
    """Within 2 %, so that a comparison of the two is one of their designs."""
    cost = {}
    for name in ("restormer_small", "constyle_restormer_small"):
        net = fw.create_model(name)
        with FlopCounterMode(display=False) as counter:
            net(torch.rand(1, 3, 64, 64))
        cost[name] = counter.get_total_flops()
    assert cost["constyle_restormer_small"] == pytest.approx(cost["restormer_small"], rel=0.02)


@pytest.mark.parametrize("name", ["restormer_small", "constyle_restormer_small"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": (1, 2, 4)}, "num_heads has 3 numbers, expected 4"),
        ({"num_heads": (1, 2, 5, 8)}, "cannot be shared by 5 heads"),
        ({"num_heads": (0, 2, 4, 8)}, "cannot be shared by 0 heads"),
        ({"num_refinement_blocks": -1}, "-1 blocks cannot be built"),
        ({"num_blocks": (1,)}, "num_blocks has 1 numbers, expected"),
        ({"width": 5}, "width is 5, expected"),
        ({"expansion": 0.01}, "expansion is 0.01"),
    ],
)
def test_impossible_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fw.create_model(name, **arguments)
