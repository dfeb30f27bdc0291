"""Tiles cover a picture evenly, and blend so that only a network's own reach can show where they were cut."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairweather.tiling import OVERLAP, SMALLEST, _ramp, run_tiled, spans


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """(length, tile, overlap), at most a few dozen spans."""
    overlap = draw(st.integers(1, 40))
    return draw(st.integers(1, 900)), 4 * overlap + draw(st.integers(0, 200)), overlap


@st.composite
def aligned_cuts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(length, tile, overlap, align), from the smallest tile that `run_tiled` takes; a few dozen spans."""
    overlap, align = draw(st.integers(0, 40)), draw(st.sampled_from([1, 2, 3, 8, 16, 32, 100, 128]))
    tile = max(align, 4 * overlap + align - 1) + draw(st.integers(0, 300))
    return draw(st.integers(1, 20 * tile)), tile, overlap, align


def psnr(output: Tensor, target: Tensor) -> float:
    """Against the range of the target; infinite where they are equal."""
    error = (output - target).square().mean().item()
    span = (target.max() - target.min()).item()
    return 10 * math.log10(span**2 / error) if error else math.inf


def convolutions(*dilations: int) -> nn.Module:
    """Random 3x3 convolutions with ReLU between; they look as far as the sum of the dilations."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [nn.Conv2d(3, 3, 3, padding=dilation, dilation=dilation), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


@settings(deadline=None)
@given(cuts())
def test_spans_are_even_small_enough_and_share_their_overlaps(cut: tuple[int, int, int]) -> None:
    length, tile, overlap = cut
    found = spans(length, tile, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert len({end - first for first, end in found}) == 1
    assert 0 < found[0][1] - found[0][0] <= tile
    if len(found) > 1:
        shared = [one[1] - two[0] for one, two in pairwise(found)]
        assert min(shared) >= 2 * overlap
        assert max(shared) - min(shared) <= 1
        assert all(one[0] < two[0] for one, two in pairwise(found))


@settings(deadline=None)
@given(st.integers(1, 900), st.integers(1, 240))
def test_what_fits_is_not_cut(length: int, tile: int) -> None:
    assert (spans(length, tile, 0) == [(0, length)]) == (length <= tile)


@settings(deadline=None)
@given(aligned_cuts())
def test_aligned_spans_start_on_the_grid_and_are_no_more_than_needed(cut: tuple[int, int, int, int]) -> None:
    length, tile, overlap, align = cut
    found = spans(length, tile, overlap, align)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(first % align == 0 for first, _ in found)
    assert all(0 < end - first <= tile for first, end in found)
    if len(found) > 1:
        assert all(one[1] - two[0] >= 2 * overlap for one, two in pairwise(found))
        assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(found))
        step = (tile - 2 * overlap) // align * align
        assert len(found) == math.ceil((length - 2 * overlap) / step)
        sizes = [end - first for first, end in found]
        assert len(set(sizes[:-1])) == 1
        assert 0 <= sizes[0] - sizes[-1] < align


@settings(deadline=None)
@given(aligned_cuts())
def test_ramps_of_all_spans_add_up_to_one(cut: tuple[int, int, int, int]) -> None:
    length, tile, overlap, align = cut
    found = spans(length, tile, overlap, align)
    total = torch.zeros(length)
    for index, (first, end) in enumerate(found):
        ramp = _ramp(found, index)
        assert ramp.min() >= 0
        assert ramp.max() <= 1
        total[first:end] += ramp
    torch.testing.assert_close(total, torch.ones(length))


@settings(deadline=None)
@given(st.integers(SMALLEST + 1, 3000), st.integers(SMALLEST, 400))
def test_no_pixel_near_a_cut_counts(length: int, tile: int) -> None:
    """With the product's own overlap, the outer half of it has no weight: that much a network may look."""
    found = spans(length, tile, OVERLAP)
    for index in range(len(found)):
        ramp = _ramp(found, index)
        assert index == 0 or ramp[: OVERLAP // 2].max() == 0
        assert index == len(found) - 1 or ramp[-(OVERLAP // 2) :].max() == 0


@pytest.mark.parametrize("tile", [40, 47, 64, 500])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (97, 5), (130, 201)])
def test_identity_gives_the_picture_back(size: tuple[int, int], tile: int) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    before = picture.clone()
    output = run_tiled(lambda x: x, picture, tile=tile, overlap=10)
    torch.testing.assert_close(output, picture, rtol=0, atol=1e-6)
    assert torch.equal(picture, before)


@pytest.mark.parametrize("tile", [21, 22, 24, 27, 29, 33])
def test_a_tile_little_larger_than_its_overlaps_is_right_or_refused(tile: int) -> None:
    """Three tiles and more lie over each other here."""
    picture = torch.rand(3, 20, 75, generator=torch.Generator().manual_seed(0))
    output = picture
    with suppress(ValueError):
        output = run_tiled(lambda x: x, picture, tile=tile, overlap=10)
    torch.testing.assert_close(output, picture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(257, 100), (387, 130), (400, 513)])
@pytest.mark.parametrize(("tile", "overlap", "align"), [(256, 32, 128), (255, 32, 128), (128, 0, 128)])
def test_identity_gives_the_picture_back_from_aligned_tiles(
    size: tuple[int, int], tile: int, overlap: int, align: int
) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    output = run_tiled(lambda x: x, picture, tile=tile, overlap=overlap, align=align)
    torch.testing.assert_close(output, picture, rtol=0, atol=1e-6)


def test_a_network_that_works_on_a_grid_is_the_same_tiled_and_whole_where_tiles_are_aligned() -> None:
    """Means over blocks of 16 pixels: tiles that start elsewhere give other blocks."""

    def blocks(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        coarse = nn.functional.avg_pool2d(x, 16, ceil_mode=True)
        return coarse.repeat_interleave(16, -2).repeat_interleave(16, -1)[..., :height, :width]

    picture = torch.rand(3, 150, 211, generator=torch.Generator().manual_seed(0))
    whole = blocks(picture[None])[0]
    aligned, anywhere = (run_tiled(blocks, picture, tile=100, overlap=20, align=n) for n in (16, 1))
    torch.testing.assert_close(aligned, whole, rtol=0, atol=1e-6)
    assert (anywhere - whole).abs().max() > 0.05


def test_identity_without_overlap() -> None:
    picture = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run_tiled(lambda x: x, picture, tile=20, overlap=0), picture)


@pytest.mark.parametrize("tile", [48, 64, 100])
def test_one_convolution_is_the_same_tiled_and_whole(tile: int) -> None:
    network = convolutions(1)
    picture = torch.rand(3, 150, 211, generator=torch.Generator().manual_seed(0))
    tiled = run_tiled(network, picture, tile=tile, overlap=12)
    torch.testing.assert_close(tiled, network(picture[None])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dilations", [(1, 1, 1, 1, 1, 1, 1, 1), (1, 2, 4, 8, 1)])
def test_a_deep_stack_whose_reach_fits_is_the_same_tiled_and_whole(dilations: tuple[int, ...]) -> None:
    assert sum(dilations) <= OVERLAP // 2
    network = convolutions(*dilations)
    picture = torch.rand(3, 200, 330, generator=torch.Generator().manual_seed(0))
    assert psnr(run_tiled(network, picture, tile=SMALLEST), network(picture[None])[0]) >= 50


def test_a_reach_beyond_the_overlap_shows() -> None:
    """The measure of the tests above does see a seam."""
    network = convolutions(8, 16, 32)
    picture = torch.rand(3, 200, 330, generator=torch.Generator().manual_seed(0))
    assert psnr(run_tiled(network, picture, tile=SMALLEST), network(picture[None])[0]) < 50


@pytest.mark.parametrize(
    ("tile", "overlap", "align"), [(64, 32, 1), (20, 32, 1), (0, 0, 1), (2, 1, 1), (15, 0, 16), (94, 20, 16)]
)
def test_a_tile_within_its_overlaps_is_refused(tile: int, overlap: int, align: int) -> None:
    with pytest.raises(ValueError, match=rf"{tile} pixels .*{overlap}"):
        run_tiled(lambda x: x, torch.zeros(3, 100, 100), tile=tile, overlap=overlap, align=align)


def test_the_network_sees_one_small_tile_at_a_time_and_progress_counts_them() -> None:
    seen: list[torch.Size] = []
    told: list[tuple[int, int]] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.shape)
        assert len(told) == len(seen) - 1
        return x

    run_tiled(
        network, torch.zeros(3, 100, 170), tile=60, overlap=10, progress=lambda i, n: told.append((i, n))
    )
    count = len(spans(100, 60, 10)) * len(spans(170, 60, 10))
    assert count == 2 * 4
    assert told == [(i, count) for i in range(1, count + 1)]
    assert all(shape[0] == 1 and max(shape[-2:]) <= 60 for shape in seen)


def test_progress_of_a_whole_picture() -> None:
    told: list[tuple[int, int]] = []
    run_tiled(lambda x: x, torch.zeros(3, 9, 9), tile=128, progress=lambda i, n: told.append((i, n)))
    assert told == [(1, 1)]
