"""The dense blocks of DCMPNet's depth network."""

from __future__ import annotations

import pytest
import torch

from fairweather.models.depth_network import Dilated


@pytest.mark.parametrize("channels", [24, 51])
def test_dilated_kernels_have_finite_gradients_in_bf16(channels: int) -> None:
    """As training lays pictures out; oneDNN's own are NaN for these channels from 32 pixels on."""
    conv = Dilated(channels, 12)
    x = torch.randn(2, channels, 40, 40)
    conv(x).square().mean().backward()
    expected = conv.weight.grad
    assert expected is not None
    conv.weight.grad = None
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x.contiguous(memory_format=torch.channels_last))
    y.float().square().mean().backward()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
