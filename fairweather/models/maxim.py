"""MAXIM with one stage, a restorer of multi-axis gated MLPs: plain, and conditioned by ConStyle.

MAXIM: Tu et al., "MAXIM: Multi-Axis MLP for Image Processing", CVPR 2022, arXiv 2201.02973.
ConStyle+MAXIM: IRConStyle, arXiv 2402.15784.

Where we differ: nowhere in numbers. IRConStyle's release also constructs parts that its forward pass never reads: a
cross gating block inside every encoder and decoder block, and in the plain network a step down (`Conv_1`) inside
every decoder block. They are 25.0 % of its 8,175,683 parameters, and 18.9 % of the conditioned network's 8,101,664.
We do not build them (6,134,371 and 6,572,576 remain) and drop them from a published checkpoint. Only the full-size
picture is produced, as there: no outputs at 1/2 and 1/4.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.constyle import ConStyleRestorer, Down, Style, published_unet
from fairweather.models.folding import bias_of, merged, part, set_bias
from fairweather.models.layers import at_least_float32, pad_to_multiple

SIZES = (16, 16, 8)
"""Side of the blocks and of the grids at full size, 1/2 and 1/4."""
DEEPEST = 8
"""Side of the blocks and of the grids at 1/8."""
MULTIPLE = 64
"""What both sides of a picture must be multiples of inside: 8 at 1/8 asks for most."""

norm = partial(nn.LayerNorm, eps=1e-6)


# Joining maps -----------------------------------------------------------------------------------------------------


def resized(x: Float[Tensor, "b c h1 w1"], like: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h2 w2"]:
    """x, bilinear with antialiasing, at the size of another map."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    y = F.interpolate(
        at_least_float32(x), size=size, mode="bilinear", antialias=True
    )  # bf16 on a CPU has none
    return y.to(x.dtype)


class Join(nn.Module):
    """Maps of several levels brought to the size of one of them, joined, and mixed by a 1x1 convolution.

    Args:
        sources: channels of each map. channels: of the result.
        projected: numbers of the maps that go through a 1x1 convolution of their own, to `channels` channels, before
            they are joined.
        at: number of the map whose size the result has.

    >>> join = Join((4, 8), 6, projected=(1,), bias=True)
    >>> join(torch.rand(1, 4, 16, 12), torch.rand(1, 8, 8, 6)).shape
    torch.Size([1, 6, 16, 12])
    """

    def __init__(
        self,
        sources: tuple[int, ...],
        channels: int,
        *,
        projected: tuple[int, ...] = (),
        at: int = 0,
        bias: bool,
    ) -> None:
        super().__init__()
        self.at = at
        self.widths: list[int] = [channels if i in projected else c for i, c in enumerate(sources)]
        self.projections = nn.ModuleList(
            nn.Conv2d(c, channels, 1, bias=bias) if i in projected else nn.Identity()
            for i, c in enumerate(sources)
        )
        self.mix = nn.Conv2d(sum(self.widths), channels, 1, bias=bias)

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        like = maps[self.at]
        ready = [brought(x, p, like) for x, p in zip(maps, self.projections, strict=True)]
        out: Tensor = self.mix(torch.cat(ready, dim=1))
        return out

    def inference_form(self) -> nn.Module:
        """Each map goes through one convolution, at its own size where that is smaller, and nothing is joined."""
        return _Join(self)


class _Join(nn.Module):
    """The inference form of a Join. Resampling's weights sum to 1, so that biases may come before it."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.at = join.at
        ends = list(accumulate(join.widths))
        parts = [part(join.mix, end - width, end) for end, width in zip(ends, join.widths, strict=True)]
        self.convs = nn.ModuleList(
            merged(projection, mix) if isinstance(projection, nn.Conv2d) else mix
            for projection, mix in zip(join.projections, parts, strict=True)
        )
        if join.mix.bias is not None:
            conv = self.convs[self.at]
            assert isinstance(conv, nn.Conv2d)
            set_bias(conv, bias_of(conv) + bias_of(join.mix))

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        like = maps[self.at]
        out: Tensor = self.convs[self.at](like)
        for number, (x, conv) in enumerate(zip(maps, self.convs, strict=True)):
            if number != self.at:
                out = out + brought(x, conv, like)
        return out


def brought(
    x: Float[Tensor, "b i h1 w1"], project: nn.Module, like: Float[Tensor, "b _ h2 w2"]
) -> Float[Tensor, "b c h2 w2"]:
    """x through a 1x1 projection, resized to another map's size.

    Both may change places: the projection comes where the map is smaller.
    """
    if x.shape[-1] > like.shape[-1]:
        small: Tensor = project(resized(x, like))
        return small
    return resized(project(x), like)


class Up(nn.Sequential):
    """A transposed convolution that doubles the size, and a 1x1 convolution."""

    def __init__(self, cin: int, channels: int, *, bias: bool) -> None:
        super().__init__(
            nn.ConvTranspose2d(cin, channels, 2, stride=2, bias=bias),
            nn.Conv2d(channels, channels, 1, bias=bias),
        )

    def inference_form(self) -> nn.Module:
        """One transposed convolution."""
        up, mix = self
        assert isinstance(up, nn.ConvTranspose2d)
        assert isinstance(mix, nn.Conv2d)
        outer = mix.weight.double().flatten(1)  # out mid
        if up.bias is not None:
            up.bias.copy_(outer @ up.bias.double() + bias_of(mix))
        up.weight.copy_(torch.einsum("om,imhw->iohw", outer, up.weight.double()))
        return up


# Blocks; b h w c inside, as their linear layers need ---------------------------------------------------------------


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w c"]:
    """A view; contiguous where the map came from one."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """A view, in channels-last memory, in which convolutions are fast."""
    return x.permute(0, 3, 1, 2)


def split(x: Float[Tensor, "b h w c"], patch: tuple[int, int]) -> Float[Tensor, "b n p c"]:
    """Cut into n patches of p = height * width positions, both row by row.

    >>> split(torch.arange(16.0).view(1, 4, 4, 1), (2, 2))[0, :, :, 0]
    tensor([[ 0.,  1.,  4.,  5.],
            [ 2.,  3.,  6.,  7.],
            [ 8.,  9., 12., 13.],
            [10., 11., 14., 15.]])
    """
    (b, h, w, c), (ph, pw) = x.shape, patch
    parts = x.reshape(b, h // ph, ph, w // pw, pw, c).transpose(2, 3)
    return parts.reshape(b, -1, ph * pw, c)


def merge(
    patches: Float[Tensor, "b n p c"], patch: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "b h w c"]:
    """The inverse of `split`, to a map of the given height and width."""
    (b, _, _, c), (ph, pw), (h, w) = patches.shape, patch, size
    parts = patches.reshape(b, h // ph, w // pw, ph, pw, c).transpose(2, 3)
    return parts.reshape(b, h, w, c)


class Mix(nn.Linear):
    """A linear layer over s * s positions, the same for every channel (section 3.2 of MAXIM's paper).

    Args:
        size: s; both sides of the map must be multiples of it.
        grid: False mixes the positions inside each s x s block, which is local; True cuts the map into s x s
            patches, whatever its size, and mixes the positions that stand at the same place in each, which is global.
    """

    def __init__(self, size: int, *, grid: bool, bias: bool = True) -> None:
        super().__init__(size**2, size**2, bias=bias)
        self.size, self.grid = size, grid

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        s, (h, w) = self.size, x.shape[1:3]
        patch = (h // s, w // s) if self.grid else (s, s)
        patches = split(x, patch)  # b n p c, and one of n and p is s * s
        y = self.weight @ (patches.flatten(2) if self.grid else patches)
        if self.bias is not None:
            y = y + self.bias[:, None]
        return merge(y.view(patches.shape), patch, (h, w))


class GatedMLP(nn.Module):
    """gMLP: half of the channels, mixed over positions, gate the other half; with a residual."""

    def __init__(self, channels: int, size: int, *, grid: bool, bias: bool) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.in_project = nn.Linear(channels, 2 * channels, bias=bias)
        self.mix_norm = norm(channels)
        self.mix = Mix(size, grid=grid)
        self.out_project = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        u, v = F.gelu(self.in_project(self.norm(x))).chunk(2, dim=-1)
        y: Tensor = self.out_project(u * (self.mix(self.mix_norm(v)) + 1))
        return x + y

    def inference_form(self) -> nn.Module:
        """The 1 that is added to the mixed half goes into the mixer's bias."""
        return _GatedMLP(self)


class _GatedMLP(nn.Module):
    """The inference form of a GatedMLP."""

    def __init__(self, block: GatedMLP) -> None:
        super().__init__()
        self.norm, self.in_project = block.norm, block.in_project
        self.mix_norm, self.mix, self.out_project = block.mix_norm, block.mix, block.out_project
        self.mix.bias.add_(1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        u, v = F.gelu(self.in_project(self.norm(x))).chunk(2, dim=-1)
        y: Tensor = self.out_project(u * self.mix(self.mix_norm(v)))
        return x + y


class MultiAxis(nn.Module):
    """One half of the channels through `grid`, the other through `block`."""

    def __init__(self, channels: int, *, grid: nn.Module, block: nn.Module, bias: bool) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.in_project = nn.Linear(channels, 2 * channels, bias=bias)
        self.grid, self.block = grid, block
        self.out_project = nn.Linear(2 * channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        u, v = F.gelu(self.in_project(self.norm(x))).chunk(2, dim=-1)
        out: Tensor = self.out_project(torch.cat([self.grid(u), self.block(v)], dim=-1))
        return out


class MAB(MultiAxis):
    """Multi-axis gated MLP block: both halves through gMLPs, with a residual."""

    def __init__(self, channels: int, size: int, *, bias: bool) -> None:
        gmlp = partial(GatedMLP, channels, size, bias=bias)
        super().__init__(channels, grid=gmlp(grid=True), block=gmlp(grid=False), bias=bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + super().forward(x)


def gating_weights(channels: int, size: int, *, bias: bool) -> MultiAxis:
    """What one map of a cross gating block multiplies the other by: both halves mixed."""
    return MultiAxis(
        channels, grid=Mix(size, grid=True, bias=bias), block=Mix(size, grid=False, bias=bias), bias=bias
    )


class ChannelAttention(nn.Module):
    """One weight in (0, 1) for each channel, from its mean over the picture."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        hidden = channels // 4
        self.weights = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        weights: Tensor = self.weights(x.mean(dim=(2, 3), keepdim=True))  # b c 1 1
        return x * weights


class RCAB(nn.Module):
    """Residual channel attention block: two 3x3 convolutions, then channel attention."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
        )
        self.attention = ChannelAttention(channels, bias=True)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + channels_last(self.attention(self.convs(channels_first(self.norm(x)))))


class RDCAB(nn.Module):
    """Residual dense channel attention block: an MLP at each position, then channel attention."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels, bias=bias), nn.GELU(), nn.Linear(channels, channels, bias=bias)
        )
        self.attention = ChannelAttention(channels, bias=bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + channels_last(self.attention(channels_first(self.mlp(self.norm(x)))))


class UNetBlock(nn.Module):
    """Maps joined, and on the result twice an MAB and channel attention, with one residual around the four.

    Args:
        sources, channels, projected: of the `Join`.
        size: side of blocks and grids.
        dense: RDCABs, as at the bottom of the U, instead of RCABs.
        bias: of every layer that has no rule of its own.
    """

    def __init__(
        self,
        sources: tuple[int, ...],
        channels: int,
        size: int,
        *,
        projected: tuple[int, ...] = (),
        dense: bool = False,
        bias: bool,
    ) -> None:
        super().__init__()
        self.join = Join(sources, channels, projected=projected, bias=bias or dense)
        attention = RDCAB if dense else RCAB
        self.blocks = nn.Sequential(
            MAB(channels, size, bias=bias),
            attention(channels, bias=bias),
            MAB(channels, size, bias=bias),
            attention(channels, bias=bias),
        )

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        y = channels_last(self.join(*maps)).contiguous()
        return channels_first(y + self.blocks(y))


class CrossGating(nn.Module):
    """Cross gating block: encoder features x and a signal y from the level below gate each other.

    Args:
        join: makes x of the encoder's maps, in `channels` channels.
        csignal: channels of y, which comes at half the size of x.
        channels: of both results, the skip and the signal for the level above.
        size: side of blocks and grids.
    """

    def __init__(self, join: Join, csignal: int, channels: int, size: int, *, bias: bool) -> None:
        super().__init__()
        c = channels
        self.join, self.up = join, Up(csignal, c, bias=bias)
        self.norm_x, self.norm_y = norm(c), norm(c)
        self.in_project_x, self.in_project_y = nn.Linear(c, c, bias=bias), nn.Linear(c, c, bias=bias)
        self.gate_x, self.gate_y = gating_weights(c, size, bias=bias), gating_weights(c, size, bias=bias)
        self.out_project_x, self.out_project_y = nn.Linear(c, c, bias=bias), nn.Linear(c, c, bias=bias)

    def forward(
        self, encoded: list[Tensor], signal: Float[Tensor, "b s h2 w2"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        x0 = channels_last(self.join(*encoded)).contiguous()
        y0 = channels_last(self.up(signal)).contiguous()
        x1 = F.gelu(self.in_project_x(self.norm_x(x0)))
        y1 = F.gelu(self.in_project_y(self.norm_y(y0)))
        y = self.out_project_y(y1 * self.gate_x(x1)) + y0
        skip = self.out_project_x(x1 * self.gate_y(y1)) + y + x0
        return channels_first(skip), channels_first(y)


# What both networks do between encoder and decoder -----------------------------------------------------------------


def pyramid(x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor]:
    """The picture, every second pixel of it from the second on, and every fourth from the third on.

    >>> [p.flatten().tolist() for p in pyramid(torch.arange(4.0).expand(1, 3, 4, 4))[1:]]
    [[1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0], [2.0, 2.0, 2.0]]
    """
    return x, x[..., 1::2, 1::2], x[..., 2::4, 2::4]


def gated_skips(
    encoded: list[Tensor], signal: Float[Tensor, "b c h w"], gates: nn.ModuleList
) -> list[Tensor]:
    """The skips, deepest first: at each level all encoder maps are joined and gated by the level below."""
    skips: list[Tensor] = []
    for gate in reversed(gates):
        skip, signal = gate(encoded, signal)
        skips.append(skip)
    return skips


# The networks ------------------------------------------------------------------------------------------------------


class MAXIM(nn.Module):
    """The plain network, one stage.

    Args:
        width: channels at full size; 2 and 4 times as many at 1/2 and 1/4, 4 times at 1/8.
        bottlenecks: blocks at 1/8.

    >>> MAXIM(width=4, bottlenecks=1)(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(self, *, width: int, bottlenecks: int) -> None:
        super().__init__()
        self.multiple_of: int = MULTIPLE
        if width % 4:
            raise ValueError(f"width is {width}, expected a multiple of 4")
        c1, c2, c3 = width, 2 * width, 4 * width
        widths, above, below = (c1, c2, c3), (c1, c1, c2), (c2, c3, c3)
        block = partial(UNetBlock, bias=True)
        self.inputs = nn.ModuleList(nn.Conv2d(3, c, 3, padding=1) for c in widths)
        self.encoders = nn.ModuleList(
            block((a, c), c, s) for a, c, s in zip(above, widths, SIZES, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, c, 4, stride=2, padding=1) for c in widths)
        self.bottom = nn.Sequential(*(block((c3,), c3, DEEPEST, dense=True) for _ in range(bottlenecks)))
        self.gates = nn.ModuleList(
            CrossGating(Join(widths, c, projected=(0, 1, 2), at=i, bias=True), b, c, s, bias=True)
            for i, (c, b, s) in enumerate(zip(widths, below, SIZES, strict=True))
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, c, 2, stride=2) for c, b in zip(widths, below, strict=True)
        )
        self.decoders = nn.ModuleList(
            block((c, c3, c2, c1), c, s, projected=(1, 2, 3)) for c, s in zip(widths, SIZES, strict=True)
        )
        self.exit = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to a multiple of 64, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        pictures = [conv(p) for conv, p in zip(self.inputs, pyramid(padded), strict=True)]
        y: Tensor = pictures[0]
        encoded: list[Tensor] = []
        for picture, encoder, down in zip(pictures, self.encoders, self.downs, strict=True):
            encoded.append(encoder(y, picture))
            y = down(encoded[-1])
        y = self.bottom(y)
        skips = gated_skips(encoded, y, self.gates)
        for level in (2, 1, 0):
            y = self.decoders[level](self.ups[level](y), *skips)
        out: Tensor = self.exit(y) + padded
        return out[..., : x.shape[-2], : x.shape[-1]]


class ConStyleMAXIM(ConStyleRestorer):
    """MAXIM's blocks in the U of IRConStyle, with three input scales and gated skips.

    Args:
        width: d, channels at full size.
        bottlenecks: blocks at 1/8.

    >>> ConStyleMAXIM(width=4, bottlenecks=1).eval()(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(self, *, width: int, bottlenecks: int) -> None:
        super().__init__(width=width, activation=lambda _: nn.LeakyReLU(0.1), multiple_of=MULTIPLE)
        d = width
        block = partial(UNetBlock, bias=False)
        self.inputs = nn.ModuleList(nn.Conv2d(3, d, 3, padding=1, bias=False) for _ in SIZES)
        self.encoder1 = block((d, d), d, SIZES[0])
        self.encoder2 = block((2 * d, d), 2 * d, SIZES[1])
        self.encoder3 = block((3 * d, d), 3 * d, SIZES[2])
        self.down1, self.down2, self.down3 = Down(d), Down(2 * d), Down(3 * d)
        self.bottom = nn.Sequential(
            *(block((4 * d,), 4 * d, DEEPEST, dense=True) for _ in range(bottlenecks))
        )
        self.gates = nn.ModuleList(
            CrossGating(Join((d, 2 * d, 3 * d), d, projected=(1, 2), at=i, bias=False), b, d, s, bias=False)
            for i, (b, s) in enumerate(zip((d, d, 3 * d), SIZES, strict=True))
        )
        self.up3, self.up2, self.up1 = (
            nn.Conv2d(c, 4 * c, 3, padding=1, bias=False) for c in (3 * d, 3 * d, 2 * d)
        )
        self.decoder3 = block((3 * d, d, d, d), 3 * d, SIZES[2])
        self.decoder2 = block((3 * d, d, d, d), 2 * d, SIZES[1])
        self.decoder1 = block((2 * d, d, d, d), 2 * d, SIZES[0])
        self.exit = nn.Conv2d(2 * d, 3, 3, padding=1, bias=False)

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        a0, a1, a2 = self.maps(style)
        s0, s1, s2 = (conv(p) for conv, p in zip(self.inputs, pyramid(x), strict=True))
        e1 = self.encoder1(s0, s0)  # d
        e2 = self.encoder2(self.down1(e1, a0), s1)  # 2d at 1/2
        e3 = self.encoder3(self.down2(e2, a1), s2)  # 3d at 1/4
        b = self.bottom(self.down3(e3, a2))  # 4d at 1/8
        y = self.fusion(b, style.vector)  # 3d
        skips = gated_skips([e1, e2, e3], y, self.gates)  # d each
        for up, decoder in (
            (self.up3, self.decoder3),  # 3d at 1/4
            (self.up2, self.decoder2),  # 2d at 1/2
            (self.up1, self.decoder1),  # 2d
        ):
            y = decoder(F.pixel_shuffle(up(y), 2), *skips)
        out: Tensor = self.exit(y) + x
        return out


# Variants ----------------------------------------------------------------------------------------------------------


maxim = partial(MAXIM, width=32, bottlenecks=2)
"""The plain network that IRConStyle compares with (6.1 M parameters)."""

constyle_maxim = partial(ConStyleMAXIM, width=32, bottlenecks=2)
"""ConStyle+MAXIM (6.6 M parameters)."""


# Published names ---------------------------------------------------------------------------------------------------

_PUBLISHED = {
    r"SplitHeadMultiAxisGmlpLayer_0\.": "blocks.0.",
    r"channel_attention_block_1_?0\.": "blocks.1.",
    r"SplitHeadMultiAxisGmlpLayer_1\.": "blocks.2.",
    r"channel_attention_block_1_?1\.": "blocks.3.",
    r"\.conv1\.": ".convs.0.",
    r"\.conv2\.": ".convs.2.",
    r"channel_mixing\.Dense_0\.": "mlp.0.",
    r"channel_mixing\.Dense_1\.": "mlp.2.",
    r"channel_attention\.Conv_0\.": "attention.weights.0.",
    r"channel_attention\.Conv_1\.": "attention.weights.2.",
    r"input_proj\.": "join.mix.",
    r"GridGmlpLayer\.": "grid.",
    r"BlockGmlpLayer\.": "block.",
    r"(?:Grid|Block)GatingUnit\.Dense_0\.": "mix.",
    r"(?:Grid|Block)GatingUnit\.intermediate_layernorm\.": "mix_norm.",
    r"cross_gating_block_(\d)\.ConvTranspose_0\.": r"gates.\1.up.0.",
    r"cross_gating_block_(\d)\.Conv_0\.": r"gates.\1.join.mix.",
    r"cross_gating_block_(\d)\.Conv_1\.": r"gates.\1.up.1.",
    r"cross_gating_block_": "gates.",
    r"SplitHeadMultiAxisGating_([xy])\.Dense_0\.": r"gate_\1.grid.",
    r"SplitHeadMultiAxisGating_([xy])\.Dense_1\.": r"gate_\1.block.",
    r"SplitHeadMultiAxisGating_": "gate_",
    r"LayerNorm(?:_in)?\.": "norm.",
    r"LayerNorm_": "norm_",
    r"\.gamma$": ".weight",
    r"\.beta$": ".bias",
}
"""Inside the blocks of both networks."""

_PUBLISHED_MAXIM = {
    r"^stage_0_": "",
    r"^input_conv_": "inputs.",
    r"^encoder_block_(\d)\.Conv_1\.": r"downs.\1.",
    r"^encoder_block_": "encoders.",
    r"^global_block_": "bottom.",
    r"^decoder_block_(\d)\.ConvTranspose_0\.": r"ups.\1.",
    r"^decoder_block_(\d)\.UNetEncoderBlock_0\.": r"decoders.\1.",
    r"^(encoders|decoders)\.(\d)\.Conv_0\.": r"\1.\2.join.mix.",
    r"^output_conv_0\.": "exit.",
}

_PUBLISHED_CONSTYLE = {
    r"^stage_input_conv_": "inputs.",
    r"^Process_Module_(r\d)\.UNetEncoderBlock_0\.": r"Process_Module_\1.",
    r"^Process_Module_([lr]\d)\.Conv_0\.": r"Process_Module_\1.join.mix.",
    r"^UC(\d)\.up\.0\.": r"UC\1.",
    r"^Finetune_Module\.0\.": "Finetune_Module.",
}

_UNUSED = re.compile(r"\.cross_gating_block\.|^stage_0_decoder_block_\d\.UNetEncoderBlock_0\.Conv_1\.")
"""Parts that the published forward passes never read."""


def published_maxim(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published plain MAXIM, one stage, by our names."""
    return {_renamed(k, _PUBLISHED_MAXIM): v for k, v in state.items() if not _UNUSED.search(k)}


def published_constyle_maxim(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle+MAXIM by our names."""
    return published_unet(
        {_renamed(k, _PUBLISHED_CONSTYLE): v for k, v in state.items() if not _UNUSED.search(k)}
    )


def _renamed(name: str, outside: dict[str, str]) -> str:
    for published, ours in (outside | _PUBLISHED).items():
        name = re.sub(published, ours, name)
    return re.sub(r"^UpSampleRatio_(\d+)\.Conv_0\.", _level, name)


def _level(found: re.Match[str]) -> str:
    """Three numbers for each level from the deepest up: first for the gates, then for the decoders' skips."""
    number = int(found[1])
    level, source = 2 - number % 9 // 3, number % 3
    if number < 9:
        return f"gates.{level}.join.projections.{source}."
    return f"decoders.{level}.join.projections.{source + 1}."
