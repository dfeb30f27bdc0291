"""3x3 convolutions with half of the multiplications, for inference: Winograd's minimal filtering of rows.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv 1509.09308. Their F(4, 3), in one
dimension: four rows of the answer are made of six rows of the map. Sums of these, the tiles, go through a row of kernel
each, and sums of what comes out are the four rows: 18 products for each pair of channels, column and four rows instead
of 36. In two dimensions there would be fewer, but the sums are not free either; and in one, rounding adds no more than
3e-6 of the largest value in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import bias_of, convolution, set_bias

LEAST = 128
"""Channels, in and out, from which this is faster in torch on the processors that we measured."""
LEAST_IN_FILES = 64
"""The same for OpenVINO, which computes several sums of maps in one go."""
ROWS = 4
"""Of the answer, made at once."""
KERNELS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""What the three rows of a kernel give to the row of each tile."""

Rows = Sequence[Tensor]
"""A map as four maps: every fourth row each, from the first, second, third and fourth on. With a dilation of d this is
done with rows 0, d, 2d, ..., with rows 1, d + 1, ... and so on, which never meet; they follow each other in the batch.
"""
Tiles = Sequence[Tensor]
"""Six maps of the same size as those."""
Network = TypeVar("Network", bound=nn.Module)


def with_winograd(net: Network, least: int = LEAST) -> Network:
    """A network, changed: its 3x3 convolutions of so many channels or more are WinogradConv2d.

    A module that knows better has a method `winograd_form(least)`, which returns what takes its place.
    """
    for name, child in net.named_children():
        form: Callable[[int], nn.Module] | None = getattr(child, "winograd_form", None)
        if form is not None:
            setattr(net, name, form(least))
        elif type(child) is nn.Conv2d and _suits(child) and min(child.weight.shape[:2]) >= least:
            setattr(net, name, WinogradConv2d(child))
        else:
            with_winograd(child, least)
    return net


def _suits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding == conv.dilation
        and conv.padding_mode == "zeros"
        and conv.groups == 1
    )


class WinogradConv2d(nn.Module):
    """The same as a 3x3 convolution.

    Args:
        conv: dense, stride 1, padded with as many zeros as its dilation.
        channels: of each of several maps that it gets side by side, for `of_tiles`.

    >>> conv, x = nn.Conv2d(3, 5, 3, padding=2, dilation=2), torch.rand(1, 3, 7, 6)
    >>> torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=0, atol=1e-5)
    """

    def __init__(self, conv: nn.Conv2d, channels: Sequence[int] = ()) -> None:
        super().__init__()
        assert _suits(conv)
        self.dilation = int(conv.dilation[0])
        kernels = torch.tensor(KERNELS, dtype=torch.float64, device=conv.weight.device)
        like = nn.Conv2d(1, 1, (1, 3), padding=(0, self.dilation), dilation=(1, self.dilation)).to(
            conv.weight
        )
        rows = torch.einsum("th,oihw->toiw", kernels, conv.weight.double())[..., None, :]
        ends = accumulate(channels or [conv.in_channels], initial=0)
        self.maps = nn.ModuleList(
            nn.ModuleList(convolution(row[:, first:end], None, like=like) for row in rows)
            for first, end in pairwise(ends)
        )
        if conv.bias is not None:
            set_bias(self.maps[0][1], bias_of(conv))  # type: ignore[index]  # part of each of the four rows, once

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        rows = rows_of(x, self.dilation)
        return joined_rows(self.of_tiles([tiles_of(rows)]), x, self.dilation)

    def of_tiles(self, maps: Sequence[Tiles]) -> Rows:
        """Rows of the answer for maps side by side, given as tiles."""
        m: Sequence[Tensor] = ()
        for convs, tiles in zip(self.maps, maps, strict=True):
            products = [conv(tile) for conv, tile in zip(convs, tiles, strict=True)]  # type: ignore[call-overload]
            m = [one + other for one, other in zip(m, products, strict=True)] if m else products
        even, odd = m[1] + m[2], m[1] - m[2]
        even2, odd2 = m[3] + m[4], m[3] - m[4]
        return m[0] + even + even2, odd + 2 * odd2, even + 4 * even2, odd + 8 * odd2 + m[5]


def tiles_of(rows: Rows) -> Tiles:
    """What goes through the rows of the kernel."""
    above, below = F.pad(rows[3][:, :, :-1], (0, 0, 1, 0)), F.pad(rows[0][:, :, 1:], (0, 0, 0, 1))
    d = (above, *rows, below)
    near, far = d[4] - 4 * d[2], d[3] - 4 * d[1]
    near2, far2 = d[4] - d[2], 2 * (d[3] - d[1])
    return (
        4 * d[0] - 5 * d[2] + d[4],
        near + far,
        near - far,
        near2 + far2,
        near2 - far2,
        4 * d[1] - 5 * d[3] + d[5],
    )


def rows_of(x: Float[Tensor, "b c h w"], dilation: int = 1) -> Rows:
    """A map as Rows, continued below by rows of 0 up to a multiple of 4 dilation."""
    step = ROWS * dilation
    fill = -x.shape[2] % step
    if fill or torch.onnx.is_in_onnx_export():  # a file is for all heights
        x = F.pad(x, (0, 0, 0, fill))
    every = [x[:, :, first::step] for first in range(step)]
    return [torch.cat(every[i : i + dilation]) for i in range(0, step, dilation)] if dilation > 1 else every


def joined_rows(rows: Rows, like: Float[Tensor, "b _c h w"], dilation: int = 1) -> Float[Tensor, "b c h w"]:
    """The map of these rows, as high as another that rows were made of."""
    every = [x for row in rows for x in row.chunk(dilation)] if dilation > 1 else rows
    # Rows side by side are rows below each other in channels-last memory: nothing is copied but here.
    beside = torch.cat(list(every), dim=3).permute(0, 2, 3, 1)
    b, h, w, c = beside.shape
    y = beside.reshape(b, h * len(every), w // len(every), c)
    if y.shape[1] > like.shape[2] or torch.onnx.is_in_onnx_export():
        y = y[:, : like.shape[2]]
    return y.permute(0, 3, 1, 2)
