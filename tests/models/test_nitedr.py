"""NiteDR is its two networks in sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairweather.models.cleannet import cleannet_small
from fairweather.models.nitedr import NiteDR, nitedr, nitedr_small

TINY: dict[str, Any] = {
    "width": 4,
    "num_blocks": (1, 1, 1, 1),
    "num_steps": 1,
    "fusion_width": 4,
    "num_layers": 1,
    "exit_widths": (4,),
}


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (17, 32)])
@torch.inference_mode()
def test_three_pictures_of_any_size(size: tuple[int, int]) -> None:
    results = nitedr(**TINY).eval()(torch.rand(2, 3, *size), torch.rand(2, 1, *size))
    assert all(r.shape == (2, 3, *size) and r.isfinite().all() for r in results)


@pytest.mark.parametrize("official", [False, True])
@torch.inference_mode()
def test_fusion_sees_the_clean_picture_clamped(official: bool) -> None:
    torch.manual_seed(0)
    net = nitedr(**TINY, official=official).eval()
    net.cleannet.exit.weight.mul_(20)
    rainy, infrared = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)
    result = net(rainy, infrared)
    assert torch.equal(result.clean, net.cleannet(rainy))
    assert result.clean.min() < 0
    assert torch.equal(result.fused, net.fusionnet(result.clean.clamp(0, 1), infrared).fused)
    assert torch.equal(result.refined, net.fusionnet(result.clean.clamp(0, 1), infrared).refined)


def test_official_and_adjust_reach_the_fusion() -> None:
    net = nitedr(**TINY, official=True, adjust=False)
    assert net.fusionnet.official
    assert net.fusionnet.refinement.adjust is None


def test_the_small_form_has_the_small_cleannet() -> None:
    net, alone = nitedr_small(), cleannet_small()
    assert isinstance(net, NiteDR)
    assert [p.shape for p in net.cleannet.parameters()] == [p.shape for p in alone.parameters()]
