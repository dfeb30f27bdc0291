"""CleanNet's blocks against their formulas, any size, gradients, and what its constructor refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairweather.models.cleannet import (
    MDFFN,
    SHARES,
    TSSA,
    AgMoE,
    CleanNet,
    SparseBlock,
    cleannet_small,
    paired_convolution,
    published_cleannet,
    sparse_attention,
)
from fairweather.models.inference import for_inference

TINY: dict[str, Any] = {"width": 4, "num_blocks": (1, 1, 1, 1), "num_steps": 2}


def tiny() -> CleanNet:
    torch.manual_seed(0)
    return CleanNet(**TINY).eval()


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (17, 32), (64, 64)])
@torch.inference_mode()
def test_any_size_comes_back_at_its_size(size: tuple[int, int]) -> None:
    y = tiny()(torch.rand(2, 3, *size))
    assert y.shape == (2, 3, *size)
    assert y.isfinite().all()


def test_every_parameter_receives_a_gradient() -> None:
    net = tiny()
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_black_pictures_have_finite_gradients() -> None:
    block, x = SparseBlock(8, 2, 2.66), torch.zeros(1, 8, 4, 4, requires_grad=True)
    block(x).sum().backward()
    gradients = [x.grad, *(p.grad for p in block.parameters())]
    assert all(g is None or g.isfinite().all() for g in gradients)


@torch.inference_mode()
def test_each_picture_of_a_batch_is_cleaned_as_alone() -> None:
    """Its own gates, its own attention."""
    net, x = tiny(), torch.rand(2, 3, 24, 16)
    x[1] *= 0.1
    torch.testing.assert_close(net(x), torch.cat([net(picture[None]) for picture in x]))


@pytest.mark.parametrize("size", [2, 5, 16, 48])
def test_sparse_attention_equals_four_masked_softmaxes(size: int) -> None:
    logits, mix = torch.randn(2, 3, 7, size), torch.randn(4)
    expected = torch.zeros_like(logits)
    for weight, (part, whole) in zip(mix, SHARES, strict=True):
        kept = int(size * part / whole)
        mask = torch.full_like(logits, -torch.inf)
        mask.scatter_(-1, logits.topk(kept).indices, 0)
        expected += weight * (logits + mask).softmax(dim=-1)
    torch.testing.assert_close(sparse_attention(logits, mix), expected)


def test_of_equal_entries_no_more_are_kept() -> None:
    """As in a black picture, where all cosines are 0."""
    attention = sparse_attention(torch.zeros(1, 1, 1, 6), torch.tensor([1.0, 0, 0, 0])).flatten()
    torch.testing.assert_close(attention.sort().values, torch.tensor([0.0, 0, 0, 1, 1, 1]) / 3)


@pytest.mark.parametrize("num_heads", [1, 2, 3])
def test_tssa_equals_its_formula(num_heads: int) -> None:
    """In the order of the specification, on a batch: normalise, select, attend, then project."""
    torch.manual_seed(0)
    tssa = frozen(TSSA(12, num_heads))
    tssa.temperature.copy_(torch.rand(num_heads, 1, 1) + 1)
    tssa.mix.copy_(torch.randn(4))
    x = torch.rand(2, 12, 5, 7)
    split = (2, num_heads, 12 // num_heads, 35)
    q, k, v = (t.reshape(split) for t in tssa.qkv_dwconv(tssa.qkv(x)).chunk(3, dim=1))
    logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * tssa.temperature
    expected = tssa.project_out((sparse_attention(logits, tssa.mix) @ v).reshape(x.shape))
    torch.testing.assert_close(tssa(x), expected)


@pytest.mark.parametrize("k", [3, 5])
def test_paired_convolution_equals_a_grouped_one(k: int) -> None:
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(3, 2, k, k)
    torch.testing.assert_close(
        paired_convolution(x, weight), F.conv2d(x, weight, padding=k // 2, groups=3), rtol=1e-4, atol=1e-5
    )


def test_one_pair_mixes_the_branches_where_the_hidden_channels_are_odd() -> None:
    """With 5 hidden channels the 3x3 branch makes channels 0 and 1 of each half, the 5x5 branch 3 and 4."""
    torch.manual_seed(0)
    ffn, joined = frozen(MDFFN(2, 2.5)), []
    ffn.project_out.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    x = torch.randn(1, 2, 6, 6)
    ffn(x)
    ffn.dwconv5x5.weight.neg_()
    ffn(x)
    moved = (joined[0] != joined[1]).any(dim=-1).any(dim=-1)[0].tolist()
    assert moved == 2 * [False, False, True, True, True]


@pytest.mark.parametrize(
    ("hidden", "maps"),
    [(1, 2), (2, 2), (15, 2), (85, 2), (126, 4), (127, 4), (129, 2), (255, 8), (256, 8), (511, 4)],
)
def test_dealt_out_to_maps_hidden_channels_meet_as_before(hidden: int, maps: int) -> None:
    torch.manual_seed(0)
    block = frozen(SparseBlock(2, 1, hidden / 2)).double()
    fast, x = for_inference(block), torch.randn(2, 2, 6, 5, dtype=torch.float64)
    assert [len(half.entries) for half in fast.parts] == [maps, maps]
    torch.testing.assert_close(fast(x), block(x), rtol=0, atol=1e-12)


def test_agmoe_equals_its_formula() -> None:
    """The experts' answers weighed, side by side, then merged by one convolution."""
    torch.manual_seed(0)
    moe = frozen(AgMoE(4, num_steps=2))
    x = torch.rand(2, 4, 6, 5)
    gates = moe.gates(x)
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(2, 2))
    y: Tensor = moe.entry(x).relu()
    for s, step in enumerate(moe.steps):
        answers = [g.view(2, 1, 1, 1) * e(y) for g, e in zip(gates[:, s].T, step.experts, strict=True)]
        y = (step.merge(torch.cat(answers, dim=1)).relu() + y).relu()
    torch.testing.assert_close(moe(x), y)


def test_a_dead_last_mixture_gives_the_picture_back() -> None:
    net, x = tiny().requires_grad_(False), torch.rand(1, 3, 16, 16)
    net.refinement.entry.weight.zero_()
    assert torch.equal(net(x), x)


@torch.inference_mode()
def test_half_precision_stays_near_float32() -> None:
    net, x = tiny(), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
    added = net(x) - x
    assert (y - x - added).std() < 0.2 * added.std()


def test_the_small_form_has_all_parts() -> None:
    """DRSformer's checkpoints without experts would lack some."""
    net = cleannet_small()
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 2e6
    parts = {type(m).__name__ for m in net.modules()}
    assert {"AgMoE", "TSSA", "MDFFN"} <= parts


def test_published_names_of_attention_become_one_mixture() -> None:
    state = {f"latent.7.attn.attn{i}": torch.tensor([float(i)]) for i in (4, 2, 3, 1)}
    ours = published_cleannet(state)
    assert list(ours) == ["latent.7.attn.mix"]
    assert ours["latent.7.attn.mix"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": (1, 2, 4)}, "num_heads has 3 numbers, expected 4"),
        ({"num_blocks": (1,)}, "num_blocks has 1 numbers, expected 4"),
        ({"num_heads": (1, 2, 5, 8)}, "16 channels cannot be shared by 5 heads"),
        ({"num_heads": (4, 2, 4, 8)}, "4 channels cannot be shared by 4 heads; .* at least twice as many"),
        ({"num_blocks": (1, 1, 1, -1)}, "expected 0 or more blocks"),
        ({"num_steps": 0}, "1 or more steps"),
        ({"width": 5}, "width is 5, expected"),
        ({"expansion": 0.01}, "expansion is 0.01"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CleanNet(**(TINY | arguments))
