"""Inference forms give what the plain forms give."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fairweather.models import MODELS, create_model, restored
from fairweather.models.cleannet import SparseBlock
from fairweather.models.inference import for_inference
from fairweather.models.maxim import GatedMLP
from fairweather.models.nafnet import NAFBlock
from fairweather.models.restormer import transformer_blocks
from fairweather.models.winograd import with_winograd

# Small ones of the same parts, for the networks that take long.
SMALLER: dict[str, dict[str, object]] = {
    "cleannet": {"num_blocks": (1, 1, 1, 1), "num_steps": 2},
    "kbnet": {
        "width": 16,
        "encoder_blocks": (1, 1, 1, 1),
        "middle_blocks": 1,
        "decoder_blocks": (1, 1, 1, 1),
    },
    "nafnet": {"encoder_blocks": (1, 1, 1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1, 1, 1)},
    "nitedr": {"num_blocks": (1, 0, 0, 1), "num_steps": 1},
}


def scattered(net: nn.Module) -> nn.Module:
    """The network with all numbers off their first values: norms of weight 1 and zero gates would hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for buffer in net.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.copy_(torch.rand_like(buffer) + 0.5)  # running means and variances
    return net


def outputs(net: nn.Module, name: str, x: Tensor) -> list[Tensor]:
    if len(MODELS[name].inputs) == 2:
        result = net(x[:, :3], x[:, 3:])
    elif not MODELS[name].restores:
        result = net(x[:, :3])
    else:
        result = restored(net, x[:, :3])
    return [t for t in ([result] if isinstance(result, Tensor) else result) if isinstance(t, Tensor)]


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "nafnet": (lambda: NAFBlock(16), (1, 16, 32, 24)),
    "restormer": (lambda: transformer_blocks(1, 32, 2, 2.66), (1, 32, 32, 24)),
    "cleannet": (lambda: SparseBlock(16, 2, 2.66), (1, 16, 32, 24)),
    "maxim": (lambda: GatedMLP(16, 4, grid=False, bias=True), (1, 16, 24, 16)),
}
"""Parts of networks that are used on their own, and what they take."""


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_alone_has_an_inference_form(name: str) -> None:
    build, shape = BLOCKS[name]
    block = scattered(build()).eval()
    x = torch.rand(shape)
    with torch.inference_mode():
        expected, found = block(x), for_inference(block)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_an_inference_form_gives_what_its_network_gives(name: str) -> None:
    net = scattered(create_model(name, **SMALLER.get(name, {})))
    fast = for_inference(net)
    x = torch.rand(1, 4, 45, 38)
    with torch.inference_mode():
        for ours, theirs in zip(outputs(fast, name, x), outputs(net, name, x), strict=True):
            scale = theirs.abs().max()
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)
        net, fast, x = net.double(), for_inference(net.double()), x.double()
        for form in (fast, with_winograd(copy.deepcopy(fast), least=1)):
            for ours, theirs in zip(outputs(form, name, x), outputs(net, name, x), strict=True):
                scale = theirs.abs().max()
                torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-10)
