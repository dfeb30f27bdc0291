"""MAXIM's own properties: what its mixing layers reach, at which sizes, and how the two networks pad."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fairweather as fw
from fairweather.errors import UsageError
from fairweather.models.layers import pad_to_multiple
from fairweather.models.maxim import Join, Mix, merge, resized, split

SMALL = {"width": 4, "bottlenecks": 1}
SIZES = [(4, 4), (8, 12), (20, 4)]
NAMES = ["maxim", "constyle_maxim"]


@pytest.mark.parametrize("size", SIZES)
def test_merge_undoes_split(size: tuple[int, int]) -> None:
    x = torch.rand(2, *size, 3)
    patch = (size[0] // 4, 2)
    assert torch.equal(merge(split(x, patch), patch, size), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [True, False])
@torch.inference_mode()
def test_a_position_reaches_its_block_or_its_grid_and_nothing_else(
    size: tuple[int, int], *, grid: bool
) -> None:
    mix = Mix(4, grid=grid)
    x = torch.zeros(2, *size, 3)
    x[0, 2, 3, 1] = 1
    reached = (mix(x) - mix(torch.zeros_like(x))).abs() > 1e-7
    expected = torch.zeros_like(reached)
    rows, columns = size[0] // 4, size[1] // 4
    if grid:  # the same place in each of the 4 x 4 patches
        expected[0, 2 % rows :: rows, 3 % columns :: columns, 1] = True
    else:
        expected[0, :4, :4, 1] = True
    assert torch.equal(reached, expected)


@torch.inference_mode()
def test_projecting_the_smaller_map_changes_nothing() -> None:
    maps = [torch.rand(1, 2, 8, 12), torch.rand(1, 3, 4, 6), torch.rand(1, 4, 2, 3)]
    join = Join((2, 3, 4), 5, projected=(0, 1, 2), at=1, bias=True)
    ready = [project(resized(x, maps[1])) for x, project in zip(maps, join.projections, strict=True)]
    assert torch.allclose(join(*maps), join.mix(torch.cat(ready, dim=1)), atol=1e-6)


@torch.inference_mode()
def test_maps_are_smoothed_before_they_shrink() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16)
    assert torch.allclose(resized(stripes, torch.zeros(1, 1, 4, 4)), torch.tensor(0.5), atol=0.1)
    assert F.interpolate(stripes, size=(4, 4)).max() == 0


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_any_multiple_of_64_and_any_batch(name: str) -> None:
    net = fw.create_model(name, **SMALL)
    x = torch.rand(2, 3, 192, 64)
    y = net(x)
    assert torch.allclose(y[1:], net(x[1:]), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_smaller_picture_is_the_reflected_one_cropped(name: str) -> None:
    net = fw.create_model(name, **SMALL)
    x = torch.rand(1, 3, 65, 50)
    padded = pad_to_multiple(x, 64)
    assert padded.shape[-2:] == (128, 64)
    assert torch.equal(net(x), net(padded)[..., :65, :50])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_built_that_the_network_does_not_read(name: str) -> None:
    net = fw.create_model(name, **SMALL)
    net(torch.rand(1, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_runs_in_half_precision(name: str) -> None:
    net, x = fw.create_model(name, **SMALL), torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
    assert torch.allclose(y.float(), net(x), atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_width_that_does_not_divide_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="width is 6, expected a multiple of 4"):
        fw.create_model(name, **(SMALL | {"width": 6}))


def test_the_conditioned_network_adds_to_the_picture() -> None:
    net = fw.create_model("constyle_maxim", **SMALL)
    nn.init.zeros_(net.exit.weight)
    x = torch.rand(1, 3, 30, 40)
    assert torch.equal(net(x), x)
