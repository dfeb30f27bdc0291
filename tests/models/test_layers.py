"""Blocks that several networks share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairweather.models import layers
from fairweather.models.layers import Depthwise, depthwise_convolution, guided_filter


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [(5, 2, 1), (5, 0, 1), (7, 3, 1), (3, 2, 2), (7, 6, 2), (5, 1, 2)]
)
def test_depthwise_gradients_in_bf16_are_near_those_in_fp64(
    kernel: int, padding: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = noise(2, 3, 16, 17), noise(3, 1, kernel, kernel), noise(3)
    used: list[int] = []
    backward = layers.conv2d_weight
    monkeypatch.setattr(layers, "conv2d_weight", lambda *a, **k: used.append(1) or backward(*a, **k))

    def gradients(*leaves: Tensor, half: bool) -> list[Tensor]:
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = depthwise_convolution(*inputs, padding=padding, dilation=dilation)
        y.backward(noise(*y.shape).to(y.dtype))
        return [y.detach(), *(leaf.grad for leaf in inputs if leaf.grad is not None)]

    exact = gradients(x.double(), weight.double(), bias.double(), half=False)
    assert not used
    ours = gradients(x, weight, bias, half=True)
    assert used
    assert len(ours) == len(exact) == 4
    torch.testing.assert_close(
        exact[0], F.conv2d(x.double(), weight.double(), bias.double(), 1, padding, dilation, 3)
    )
    for found, expected in zip(ours, exact, strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_frozen_depthwise_layer_passes_gradients_on() -> None:
    layer, x = Depthwise(3, 5, bias=True, padding_mode="reflect").requires_grad_(False), noise(1, 3, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_depthwise_layer_is_torchs_own(mode: str) -> None:
    layer, x = Depthwise(3, 5, bias=True, padding_mode=mode), noise(1, 3, 9, 8)
    own = torch.nn.Conv2d(3, 3, 5, padding=2, groups=3, padding_mode=mode)
    own.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), own(x), rtol=0, atol=0)


@pytest.mark.parametrize("radius", [1, 10, 40])
def test_a_guided_filter_keeps_what_is_linear_in_its_guide(radius: int) -> None:
    guide = torch.rand(1, 1, 30, 40, dtype=torch.float64)
    x = torch.cat((2 * guide + 1, 0.5 - guide), dim=1)
    torch.testing.assert_close(guided_filter(guide, x, radius=radius, eps=1e-12), x)
