"""KBNet's mixed kernels: their formula, their gradients, their memory; and what the constructors refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fairweather as fw
from fairweather.errors import UsageError
from fairweather.models import kbnet
from fairweather.models.kbnet import KernelBasisAttention, MFFBlock, mixed_convolution

SMALL: dict[str, dict[str, Any]] = {
    "kbnet": {"width": 4, "encoder_blocks": (1, 0), "middle_blocks": 1, "decoder_blocks": (1, 0)},
    "constyle_kbnet": {"width": 4, "num_blocks": (1, 0, 1, 1, 1, 0, 1)},
}
NAMES = list(SMALL)


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """x, coefficients, kernels: a batch of 2 with 8 channels of 5x7, a basis of 3."""
    generator = torch.Generator().manual_seed(0)
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, dtype=dtype, generator=generator)
        for shape in ((2, 8, 5, 7), (2, 3, 5, 7), (3, 8, 36))
    )


def in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Mix the kernels of so many rows of the 5x7 map at a time."""
    monkeypatch.setattr(kbnet, "NUMBERS", 8 * 36 * 7 * rows)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_mixed_convolution_is_the_mixture_of_convolutions(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, rows)
    x, coefficients, kernels = operands()
    each = [F.conv2d(x, k.view(8, 4, 3, 3), padding=1, groups=2) for k in kernels]
    expected = (coefficients[:, :, None] * torch.stack(each, dim=1)).sum(dim=1)
    torch.testing.assert_close(mixed_convolution(x, coefficients, kernels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [2, 5])
def test_gradients_of_a_mixed_convolution_are_its_slopes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With respect to the map, the coefficients and the kernels."""
    in_pieces(monkeypatch, rows)
    variables = [t.requires_grad_() for t in operands(torch.float64)]
    assert torch.autograd.gradcheck(mixed_convolution, variables, fast_mode=True)


def test_training_does_not_keep_the_mixed_kernels() -> None:
    block = MFFBlock(32, num_kernels=8)
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(torch.rand(1, 32, 32, 32))
    assert max(kept) <= 2 * 32 * 32 * 32  # the widest map of the block; the kernels are 36 maps


def test_attention_equals_its_formula() -> None:
    """At one position, from the whole network's point of view: mix kernels and biases, then convolve there."""
    torch.manual_seed(0)
    kba = KernelBasisAttention(8, num_kernels=3).requires_grad_(False)
    torch.nn.init.normal_(kba.biases)
    torch.nn.init.normal_(kba.scale)
    x, features = torch.rand(2, 1, 8, 6, 6)
    a, b = kba.neighbours(x).chunk(2, dim=1)
    coefficients = (kba.gated(a * b) * kba.scale + kba.point(x))[0, :, 2, 3]
    kernel = (coefficients[:, None, None] * kba.kernels).sum(dim=0).view(8, 4, 3, 3)
    here = F.conv2d(features[..., 1:4, 2:5], kernel, coefficients @ kba.biases, groups=2)
    torch.testing.assert_close(kba(x, features)[..., 2:3, 3:4], here)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_learns(name: str) -> None:
    """The release of the conditioned network cannot: its backward pass stops with an error."""
    torch.manual_seed(0)
    net = fw.create_model(name, **SMALL[name])
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    clean = torch.rand(2, 3, 4, 4).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    noisy = clean + 0.2 * torch.randn_like(clean)
    losses: list[float] = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (net(noisy) - clean).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_forwards_and_backwards_in_half_precision(name: str, dtype: torch.dtype) -> None:
    net, x = fw.create_model(name, **SMALL[name]), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=dtype):
        y = net(x)
    assert torch.allclose(y.float(), net(x), atol=0.05)
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_channels_last_memory_changes_nothing(name: str) -> None:
    net, x = fw.create_model(name, **SMALL[name]), torch.rand(1, 3, 24, 16)
    y = net(x)
    last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(last, y, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kbnet", {"width": 6}, "6 channels cannot be convolved in groups of 4"),
        ("kbnet", {"encoder_blocks": (1,)}, "encoder_blocks has 1 sizes, decoder_blocks 2"),
        ("constyle_kbnet", {"width": 6}, "width is 6, expected a multiple of 4"),
        ("constyle_kbnet", {"num_blocks": (1,) * 4}, "num_blocks has 4 numbers, expected 7"),
    ],
)
def test_impossible_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fw.create_model(name, **(SMALL[name] | arguments))
