"""Large pictures in pieces: how they are cut, run, and blended. Pure tensor functions.

Tiles are of even size, overlap by a margin, and are blended over it with half-sine ramps that add up to one. Only
one tile at a time goes through the network, so memory follows the tile and not the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

OVERLAP = 32
"""Pixels that neighbouring tiles share on each side."""
SMALLEST = 128
"""The least side of a tile: below it most of the work would be overlap."""


def spans(length: int, tile: int, overlap: int, align: int = 1) -> list[tuple[int, int]]:
    """Cut `length` pixels into even spans (first, end) of at most `tile`; neighbours share 2 * overlap pixels or more.

    Args:
        tile: at least 2 * overlap + align.
        align: every span starts at a multiple of it, so that a network's own grid falls on the same pixels in each.
            The last may be shorter than the others by less than that.

    >>> spans(100, 60, 10)
    [(0, 60), (40, 100)]
    >>> spans(200, 100, 10, align=16)
    [(0, 84), (64, 148), (128, 200)]
    """
    if length <= tile:
        return [(0, length)]
    steps = math.ceil((length - 2 * overlap) / align)
    count = math.ceil(steps / ((tile - 2 * overlap) // align))
    size = math.ceil(steps / count) * align + 2 * overlap
    starts = [i * steps // count * align for i in range(count)]
    return [(start, min(start + size, length)) for start in starts]


def run_tiled(
    network: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]],
    picture: Float[Tensor, "c h w"],
    *,
    tile: int,
    overlap: int = OVERLAP,
    align: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "k h w"]:
    """Run a network over a picture tile by tile.

    A network that looks no farther than half of `overlap` gives what it would give on the whole picture, up to the
    blending; one with global averages gives nearly that.

    Args:
        network: keeps height and width, not the number of channels; called with one tile at a time.
        tile: the largest side of a tile, at least 4 * overlap + align - 1, and at least align.
        align: see `spans`.
        progress: called with (tiles done, tiles in all).
    """
    result = picture.new_zeros(0)
    done = 0
    bands = run_bands(
        network,
        lambda first, end: picture[:, first:end],
        height=picture.shape[-2],
        width=picture.shape[-1],
        tile=tile,
        overlap=overlap,
        align=align,
        progress=progress,
    )
    for band in bands:
        if not len(result):
            result = picture.new_zeros(len(band), *picture.shape[-2:])
        result[:, done : done + band.shape[1]] = band
        done += band.shape[1]
    return result


def run_bands(
    network: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]],
    rows: Callable[[int, int], Float[Tensor, "c n w"]],
    *,
    height: int,
    width: int,
    tile: int,
    overlap: int = OVERLAP,
    align: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Float[Tensor, "k n w"]]:
    """`run_tiled` for a picture that is never whole in memory: the result from top to bottom, some rows at a time.

    Args:
        rows: the picture's rows first to end (exclusive); asked for with rising `first`, some of them twice.
        height, width: of the picture. Others as of `run_tiled`.
    """
    least = max(align, 4 * overlap + align - 1)  # else three tiles would blend at one place
    if tile < least:
        raise ValueError(
            f"a tile of {tile} pixels is too small for overlap={overlap} and align={align}: expected {least} or more"
        )
    across, down = spans(width, tile, overlap, align), spans(height, tile, overlap, align)
    shared: Tensor | None = None  # rows of the band before that this one adds to
    for i, (top, bottom) in enumerate(down):
        picture = rows(top, bottom)
        band = picture.new_zeros(0)
        for j, (left, right) in enumerate(across):
            piece = network(picture[None, :, :, left:right])[0]
            if not len(band):
                band = picture.new_zeros(len(piece), bottom - top, width)
            band[:, :, left:right] += piece.to(band) * (_ramp(down, i)[:, None] * _ramp(across, j))
            if progress:
                progress(i * len(across) + j + 1, len(down) * len(across))
        if shared is not None:
            band[:, : shared.shape[1]] += shared
        complete = (down[i + 1][0] if i + 1 < len(down) else bottom) - top
        shared = band[:, complete:].clone()
        yield band[:, :complete]


def _ramp(cut: list[tuple[int, int]], index: int) -> Float[Tensor, " n"]:
    """Blending weights of one span: they rise and fall where it meets its neighbours, and all spans add up to 1."""
    first, end = cut[index]
    weight = torch.ones(end - first)
    if index > 0:
        shared = cut[index - 1][1] - first
        weight[:shared] *= _half_sine(shared)
    if index < len(cut) - 1:
        shared = end - cut[index + 1][0]
        weight[len(weight) - shared :] *= 1 - _half_sine(shared)
    return weight


def _half_sine(n: int) -> Float[Tensor, " n"]:
    """A ramp from 0 to 1: nothing over the outer quarters, where a tile sees least, a half sine between."""
    position = (torch.arange(n) + 0.5) / n
    return 0.5 - 0.5 * torch.cos(math.pi * ((position - 0.25) * 2).clamp(0, 1))
