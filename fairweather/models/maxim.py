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

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.constyle import ConStyleRestorer, Down, Style, published_unet
from fairweather.models.layers import at_least_float32, pad_to_multiple

SIZES = (16, 16, 8)
"""Side of the blocks and of the grids at full size, 1/2 and 1/4."""
DEEPEST = 8
"""Side of the blocks and of the grids at 1/8."""
MULTIPLE = 64
"""What both sides of a picture must be multiples of inside: 8 at 1/8 asks for most."""

norm = partial(nn.LayerNorm, eps=1e-6)


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
    """A 1x1 convolution, and on its result twice an MAB and channel attention, with one residual around the four.

    Args:
        cin: channels of the maps that were joined. channels: of the result.
        size: side of blocks and grids.
        dense: RDCABs, as at the bottom of the U, instead of RCABs.
        bias: of every layer that has no rule of its own.
    """

    def __init__(self, cin: int, channels: int, size: int, *, dense: bool = False, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(cin, channels, 1, bias=bias or dense)
        attention = RDCAB if dense else RCAB
        self.blocks = nn.Sequential(
            MAB(channels, size, bias=bias),
            attention(channels, bias=bias),
            MAB(channels, size, bias=bias),
            attention(channels, bias=bias),
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h w"]:
        y = channels_last(self.proj(x)).contiguous()
        return channels_first(y + self.blocks(y))


class CrossGating(nn.Module):
    """Cross gating block: encoder features x and a signal y from the level below gate each other.

    Args:
        cin: channels of x. csignal: channels of y, which comes at half the size of x.
        channels: of both results, the skip and the signal for the level above.
        size: side of blocks and grids.
    """

    def __init__(self, cin: int, csignal: int, channels: int, size: int, *, bias: bool) -> None:
        super().__init__()
        c = channels
        self.up = nn.ConvTranspose2d(csignal, c, 2, stride=2, bias=bias)
        self.proj_x, self.proj_y = nn.Conv2d(cin, c, 1, bias=bias), nn.Conv2d(c, c, 1, bias=bias)
        self.norm_x, self.norm_y = norm(c), norm(c)
        self.in_project_x, self.in_project_y = nn.Linear(c, c, bias=bias), nn.Linear(c, c, bias=bias)
        self.gate_x, self.gate_y = gating_weights(c, size, bias=bias), gating_weights(c, size, bias=bias)
        self.out_project_x, self.out_project_y = nn.Linear(c, c, bias=bias), nn.Linear(c, c, bias=bias)

    def forward(
        self, x: Float[Tensor, "b i h w"], signal: Float[Tensor, "b s h//2 w//2"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        x0 = channels_last(self.proj_x(x)).contiguous()
        y0 = channels_last(self.proj_y(self.up(signal))).contiguous()
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


def resized(x: Float[Tensor, "b c h1 w1"], like: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h2 w2"]:
    """x, bilinear with antialiasing, at the size of another map."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    y = F.interpolate(
        at_least_float32(x), size=size, mode="bilinear", antialias=True
    )  # bf16 on a CPU has none
    return y.to(x.dtype)


def projections(sources: tuple[int, ...], channels: int, *, bias: bool) -> list[nn.Conv2d]:
    """A 1x1 convolution for each map that a `Join` takes."""
    return [nn.Conv2d(c, channels, 1, bias=bias) for c in sources]


class Join(nn.ModuleList):
    """Maps of several levels, ready to be joined at the size of one: each resized, and through its own projection.

    Resampling and a 1x1 projection may change places: the projection comes where the map is smaller.
    """

    def forward(self, maps: list[Tensor], like: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return [
            project(resized(x, like)) if x.shape[-1] > like.shape[-1] else resized(project(x), like)
            for x, project in zip(maps, self, strict=True)
        ]


def gated_skips(
    encoded: list[Tensor], signal: Float[Tensor, "b c h w"], sources: nn.ModuleList, gates: nn.ModuleList
) -> list[Tensor]:
    """The skips, deepest first: at each level all encoder maps are joined and gated by the level below."""
    skips: list[Tensor] = []
    for level in reversed(range(len(encoded))):
        x = torch.cat(sources[level](encoded, encoded[level]), dim=1)
        skip, signal = gates[level](x, signal)
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
            block(a + c, c, s) for a, c, s in zip(above, widths, SIZES, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, c, 4, stride=2, padding=1) for c in widths)
        self.bottom = nn.Sequential(*(block(c3, c3, DEEPEST, dense=True) for _ in range(bottlenecks)))
        self.sources = nn.ModuleList(Join(projections(widths, c, bias=True)) for c in widths)
        self.gates = nn.ModuleList(
            CrossGating(3 * c, b, c, s, bias=True) for c, b, s in zip(widths, below, SIZES, strict=True)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, c, 2, stride=2) for c, b in zip(widths, below, strict=True)
        )
        self.skips = nn.ModuleList(Join(projections((c3, c2, c1), c, bias=True)) for c in widths)
        self.decoders = nn.ModuleList(block(4 * c, c, s) for c, s in zip(widths, SIZES, strict=True))
        self.exit = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to a multiple of 64, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        pictures = [conv(p) for conv, p in zip(self.inputs, pyramid(padded), strict=True)]
        y: Tensor = pictures[0]
        encoded: list[Tensor] = []
        for picture, encoder, down in zip(pictures, self.encoders, self.downs, strict=True):
            encoded.append(encoder(torch.cat([y, picture], dim=1)))
            y = down(encoded[-1])
        y = self.bottom(y)
        skips = gated_skips(encoded, y, self.sources, self.gates)
        for level in (2, 1, 0):
            y = self.ups[level](y)
            y = self.decoders[level](torch.cat([y, *self.skips[level](skips, y)], dim=1))
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
        self.encoder1 = block(2 * d, d, SIZES[0])
        self.encoder2 = block(3 * d, 2 * d, SIZES[1])
        self.encoder3 = block(4 * d, 3 * d, SIZES[2])
        self.down1, self.down2, self.down3 = Down(d), Down(2 * d), Down(3 * d)
        self.bottom = nn.Sequential(*(block(4 * d, 4 * d, DEEPEST, dense=True) for _ in range(bottlenecks)))
        self.sources = nn.ModuleList(
            Join([nn.Identity(), *projections((2 * d, 3 * d), d, bias=False)]) for _ in SIZES
        )
        self.gates = nn.ModuleList(
            CrossGating(3 * d, b, d, s, bias=False) for b, s in zip((d, d, 3 * d), SIZES, strict=True)
        )
        self.up3, self.up2, self.up1 = (
            nn.Conv2d(c, 4 * c, 3, padding=1, bias=False) for c in (3 * d, 3 * d, 2 * d)
        )
        self.decoder3 = block(6 * d, 3 * d, SIZES[2])
        self.decoder2 = block(6 * d, 2 * d, SIZES[1])
        self.decoder1 = block(5 * d, 2 * d, SIZES[0])
        self.exit = nn.Conv2d(2 * d, 3, 3, padding=1, bias=False)

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        a0, a1, a2 = self.maps(style)
        s0, s1, s2 = (conv(p) for conv, p in zip(self.inputs, pyramid(x), strict=True))
        e1 = self.encoder1(torch.cat([s0, s0], dim=1))  # d
        e2 = self.encoder2(torch.cat([self.down1(e1, a0), s1], dim=1))  # 2d at 1/2
        e3 = self.encoder3(torch.cat([self.down2(e2, a1), s2], dim=1))  # 3d at 1/4
        b = self.bottom(self.down3(e3, a2))  # 4d at 1/8
        y = self.fusion(b, style.vector)  # 3d
        skips = gated_skips([e1, e2, e3], y, self.sources, self.gates)  # d each
        for up, decoder in (
            (self.up3, self.decoder3),  # 3d at 1/4
            (self.up2, self.decoder2),  # 2d at 1/2
            (self.up1, self.decoder1),  # 2d
        ):
            y = F.pixel_shuffle(up(y), 2)
            y = decoder(torch.cat([y, *(resized(s, y) for s in skips)], dim=1))
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
    r"input_proj\.": "proj.",
    r"GridGmlpLayer\.": "grid.",
    r"BlockGmlpLayer\.": "block.",
    r"(?:Grid|Block)GatingUnit\.Dense_0\.": "mix.",
    r"(?:Grid|Block)GatingUnit\.intermediate_layernorm\.": "mix_norm.",
    r"cross_gating_block_(\d)\.ConvTranspose_0\.": r"gates.\1.up.",
    r"cross_gating_block_(\d)\.Conv_0\.": r"gates.\1.proj_x.",
    r"cross_gating_block_(\d)\.Conv_1\.": r"gates.\1.proj_y.",
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
    r"^(encoders|decoders)\.(\d)\.Conv_0\.": r"\1.\2.proj.",
    r"^output_conv_0\.": "exit.",
}

_PUBLISHED_CONSTYLE = {
    r"^stage_input_conv_": "inputs.",
    r"^Process_Module_(r\d)\.UNetEncoderBlock_0\.": r"Process_Module_\1.",
    r"^Process_Module_([lr]\d)\.Conv_0\.": r"Process_Module_\1.proj.",
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
    """Three numbers for each level from the deepest up: first for the gating's sources, then for the skips."""
    part, number = ("sources", int(found[1])) if int(found[1]) < 9 else ("skips", int(found[1]) - 9)
    return f"{part}.{2 - number // 3}.{number % 3}."
