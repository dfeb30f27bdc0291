"""DCMPNet's depth network, of dilated residual dense blocks (DRDB), and their inference forms."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import bias_of, part, set_bias
from fairweather.models.layers import concatenated, learns_in_half_on_cpu, pad_to_multiple
from fairweather.models.winograd import Tiles, WinogradConv2d, joined_rows, rows_of, tiles_of

DILATION = 2
"""Of a DRDB's convolutions."""


class Dilated(nn.Conv2d):
    """A 3x3 convolution of every other pixel that keeps the size.

    oneDNN's gradient of such kernels in bf16 is NaN for some numbers of channels in channels-last memory, which is
    what training lays pictures out in; so there it takes the plain layout, which costs nothing.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=DILATION, dilation=DILATION)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        weight = self.weight
        if learns_in_half_on_cpu(x):
            x, weight = x.contiguous(), weight.contiguous()
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y


class DRDB(nn.Module):
    """Dilated residual dense block: five 3x3 convolutions that each see all maps before them.

    Args:
        channels: in and out. growth: new channels of each convolution.

    >>> DRDB(3)(torch.rand(1, 3, 5, 4)).shape
    torch.Size([1, 3, 5, 4])
    """

    def __init__(self, channels: int, growth: int = 32) -> None:
        super().__init__()
        self.dense = nn.ModuleList(Dilated(channels + i * growth, growth) for i in range(5))
        self.mix = nn.Conv2d(channels + 5 * growth, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        maps = x
        for conv in self.dense:
            maps = torch.cat((maps, F.relu(conv(maps))), dim=1)
        return x + F.relu(self.mix(maps))

    def inference_form(self) -> nn.Module:
        """Channels-last memory also where one channel comes, and less of it."""
        return _DRDB(self)


class _DRDB(nn.Module):
    """The inference form of a DRDB."""

    def __init__(self, block: DRDB) -> None:
        super().__init__()
        self.dense, self.last = block.dense[:-1], block.dense[-1]
        assert isinstance(self.last, nn.Conv2d)
        n = block.mix.in_channels - self.last.out_channels
        self.mix, self.mix_last = part(block.mix, 0, n), part(block.mix, n, block.mix.in_channels)
        set_bias(self.mix_last, bias_of(block.mix))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        maps = x
        for conv in self.dense:
            maps = concatenated(maps, conv(maps).relu_())
        mixed = self.mix(maps).add_(self.mix_last(self.last(maps).relu_()))  # the longest join is spared
        out: Tensor = mixed.relu_() + x
        return out

    def winograd_form(self, least: int) -> nn.Module:
        # Without ways to and from rows for each convolution, half of the channels are enough.
        return _DRDBOfRows(self) if 2 * self.mix_last.in_channels >= least else self


class _DRDBOfRows(nn.Module):
    """The inference form of a DRDB whose convolutions are WinogradConv2d: from its entry to its exit in rows."""

    def __init__(self, block: _DRDB) -> None:
        super().__init__()
        channels = [block.mix.out_channels] + [block.mix_last.in_channels] * len(block.dense)
        self.dense = nn.ModuleList(
            WinogradConv2d(conv, channels[: i + 1]) for i, conv in enumerate([*block.dense, block.last])
        )
        ends = accumulate(channels, initial=0)
        mixes = (part(block.mix, first, end) for first, end in pairwise(ends))
        self.mix = nn.ModuleList([*mixes, block.mix_last])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows = rows_of(x, DILATION)
        within = rows_of(torch.ones_like(x[:1, :1, :, :1]), DILATION)  # zeros below, as each convolution pads
        mixed = [self.mix[0](row) for row in rows]
        tiles: list[Tiles] = []
        for conv, mix in zip(self.dense, self.mix[1:], strict=True):
            assert isinstance(conv, WinogradConv2d)
            tiles.append(tiles_of(rows))
            rows = [row.relu() * ones for row, ones in zip(conv.of_tiles(tiles), within, strict=True)]
            mixed = [y + mix(row) for y, row in zip(mixed, rows, strict=True)]
        return joined_rows(mixed, x, DILATION).relu() + x


class DepthNetwork(nn.Module):
    """Depth from a picture: dense blocks down to a sixteenth of the size and up again, without skips.

    In training it learns disparity (large is near); its output has no activation.

    Args:
        channels: after each of the four steps down.
        growth: of the dense blocks.
        reduce: look at the picture reduced by this factor, and enlarge the result (ours; 1 as published).
    """

    def __init__(
        self, *, channels: tuple[int, int, int, int] = (24, 48, 96, 128), growth: int = 32, reduce: int = 1
    ) -> None:
        super().__init__()
        self.reduce = reduce
        c = (3, *channels)
        steps = list(pairwise(c))
        self.encoder = nn.ModuleList(DRDB(n, growth) for n in c[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in steps)
        self.decoder = nn.ModuleList(DRDB(n, growth) for n in c[:0:-1])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(o, i, 4, stride=2, padding=1) for i, o in reversed(steps))
        self.final = nn.Conv2d(3, 1, 1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """A picture in [-1, 1] to its disparity, both sides rounded up to a multiple of 16 * reduce."""
        if self.reduce > 1:
            x = F.avg_pool2d(pad_to_multiple(x, self.reduce), self.reduce)
        for dense, down in zip(self.encoder, self.downs, strict=True):
            x = down(dense(x))
        for dense, up in zip(self.decoder, self.ups, strict=True):
            x = up(dense(x))
        depth: Tensor = self.final(x)
        if self.reduce > 1:
            depth = F.interpolate(depth, scale_factor=self.reduce, mode="bilinear")
        return depth
