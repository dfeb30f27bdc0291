"""Uformer, a U-Net of transformer blocks that attend inside windows: plain, and conditioned by ConStyle.

Uformer: Wang et al., "Uformer: A General U-Shaped Transformer for Image Restoration", arXiv 2106.03106.
ConStyle+Uformer: IRConStyle, arXiv 2402.15784.

Where we differ: nowhere in numbers, but the published networks only take square pictures of a fitting size. Ours
work on maps and not on lists of tokens, so any size goes in. `uformer_small()` and `constyle_uformer_small()` are
ours, sized for a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fairweather.models.constyle import ConStyleUNet, published_unet
from fairweather.models.layers import LayerNorm2d, pad_to_multiple

WINDOW = 8
"""Side of the attention windows, in positions of the map."""


def windows(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "n t c"]:
    """Cut maps into windows: n = b * h/8 * w/8, row by row, of t = 64 positions each.

    >>> windows(torch.zeros(2, 5, 16, 24)).shape
    torch.Size([12, 64, 5])
    """
    b, c, h, w = x.shape
    cut = x.permute(0, 2, 3, 1).reshape(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return cut.transpose(2, 3).reshape(-1, WINDOW * WINDOW, c)


def joined(x: Float[Tensor, "n t c"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """Maps of height x width from their windows, the inverse of `windows`."""
    cut = x.reshape(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, x.shape[-1])
    return cut.transpose(2, 3).reshape(-1, height, width, x.shape[-1]).permute(0, 3, 1, 2)


def strangers(height: int, width: int, shift: int, device: torch.device) -> Float[Tensor, "n t t"]:
    """-100 for pairs of positions that meet in a window only because rolling a map joined its opposite edges, else 0.

    Args:
        height, width: of the map, multiples of 8.
        shift: by how much the map was rolled up and to the left.

    >>> strangers(16, 8, 4, torch.device("cpu"))[1, 0].unique()
    tensor([-100.,    0.])
    """

    def zones(length: int) -> Int[Tensor, " l"]:
        at = torch.arange(length, device=device)
        return (at >= length - WINDOW).int() + (at >= length - shift).int()

    zone = 3 * zones(height)[:, None] + zones(width)  # h w
    inside = windows(zone[None, None].float()).squeeze(-1)  # n t
    return torch.where(inside[:, :, None] == inside[:, None, :], 0.0, -100.0)


def relative_positions() -> Int[Tensor, "t t"]:
    """For each pair of positions in a window, the row of the bias table: one for each of 15 x 15 offsets.

    >>> relative_positions()[0, 0], relative_positions()[-1, 0]
    (tensor(112), tensor(224))
    """
    at = torch.arange(WINDOW * WINDOW)
    row, column = at // WINDOW, at % WINDOW
    rows = row[:, None] - row + WINDOW - 1  # 0 to 14
    columns = column[:, None] - column + WINDOW - 1
    return rows * (2 * WINDOW - 1) + columns


def drop_path(x: Float[Tensor, "b c h w"], rate: float) -> Float[Tensor, "b c h w"]:
    """Leave out a residual branch for a random part `rate` of the batch, and scale it up for the rest."""
    if rate == 0:
        return x
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= rate
    return x * kept / (1 - rate)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each offset.

    Args:
        channels: c.
        heads: a divisor of c.
        shift: roll the map by this much first, so that these windows straddle those of the block before; 0 for not.
        modulated: add a learned vector to each position of a window (the paper's multi-scale modulator).

    Raises:
        ValueError: if heads does not divide channels.
    """

    offsets: Tensor

    def __init__(self, channels: int, *, heads: int, shift: int, modulated: bool) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; choose a divisor")
        self.heads, self.shift = heads, shift
        self.modulator = nn.Parameter(torch.empty(WINDOW * WINDOW, channels)) if modulated else None
        self.bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        for table in (self.bias_table, self.modulator):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        self.register_buffer("offsets", relative_positions(), persistent=False)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, _, h, w = x.shape
        bias = self.bias_table[self.offsets].permute(2, 0, 1)[None]  # 1 heads t t
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (2, 3))
            apart = strangers(h, w, self.shift, x.device)[:, None]
            bias = (bias + apart).repeat(b, 1, 1, 1)  # n heads t t
        tokens = windows(x)  # n t c
        if self.modulator is not None:
            tokens = tokens + self.modulator
        q = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # n heads t c/heads
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        y = joined(self.out(mixed.transpose(1, 2).flatten(2)), h, w)
        return y.roll((self.shift, self.shift), (2, 3)) if self.shift else y


class LeFF(nn.Module):
    """A feed-forward network, four times as wide inside, that also sees its neighbours (locally-enhanced)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.linear1 = nn.Linear(channels, inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.linear2 = nn.Linear(inner, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # In channels-last memory, which a linear layer leaves behind, all three permutations are free.
        y = F.gelu(self.linear1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        y = F.gelu(self.depthwise(y)).permute(0, 2, 3, 1)
        out: Tensor = self.linear2(y)
        return out.permute(0, 3, 1, 2)


class LeWinBlock(nn.Module):
    """Uformer's block: window attention, then LeFF, each on a normed input and added to it.

    Args:
        drop_path: how often, in training, a branch is left out.
        channels, heads, shift, modulated: see `WindowAttention`.
    """

    def __init__(self, channels: int, *, heads: int, shift: int, modulated: bool, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = LayerNorm2d(channels, eps=1e-5)
        self.attention = WindowAttention(channels, heads=heads, shift=shift, modulated=modulated)
        self.norm2 = LayerNorm2d(channels, eps=1e-5)
        self.leff = LeFF(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rate = self.drop_path if self.training else 0.0
        x = x + drop_path(self.attention(self.norm1(x)), rate)
        return x + drop_path(self.leff(self.norm2(x)), rate)


def lewin_blocks(
    channels: int, *, heads: int, drop_paths: Sequence[float], modulated: bool = False, shifted: bool = True
) -> nn.Sequential:
    """A stack of LeWin blocks, one for each rate in `drop_paths`; every second one may shift its windows by half."""
    return nn.Sequential(
        *(
            LeWinBlock(
                channels,
                heads=heads,
                shift=WINDOW // 2 if shifted and i % 2 else 0,
                modulated=modulated,
                drop_path=rate,
            )
            for i, rate in enumerate(drop_paths)
        )
    )


def rising(num_blocks: Sequence[int], last: float) -> list[list[float]]:
    """Rates of drop path for the blocks of each stage, from 0 for the first block to `last` for the last.

    Raises:
        ValueError: if `last` is no rate, or a stage has a negative number of blocks.

    >>> rising((1, 2), 0.5)
    [[0.0], [0.25, 0.5]]
    """
    if any(n < 0 for n in num_blocks):
        raise ValueError(f"num_blocks is {tuple(num_blocks)}, expected 0 or more in each stage")
    if not 0 <= last < 1:
        raise ValueError(f"drop_path is {last}, expected 0 or more and less than 1")
    steps = max(1, sum(num_blocks) - 1)
    rates = iter(last * i / steps for i in range(sum(num_blocks)))
    return [[next(rates) for _ in range(n)] for n in num_blocks]


def entry(width: int) -> nn.Sequential:
    """The first layer: 3 -> width channels."""
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.01))


class Uformer(nn.Module):
    """The plain U-Net of LeWin blocks, with concatenated skips and a residual on the picture.

    Args:
        width: channels at full size; they double with each step down, and the decoder has twice the encoder's.
        num_blocks: blocks at each size, from full size down and up again.
        num_heads: attention heads at each size, in the same order.
        drop_path: how often, in training, the last block's branches are left out; rises to it from 0.

    >>> Uformer(width=8, num_blocks=(1, 1, 1), num_heads=(1, 2, 2))(torch.rand(1, 3, 7, 30)).shape
    torch.Size([1, 3, 7, 30])
    """

    def __init__(
        self, *, width: int, num_blocks: tuple[int, ...], num_heads: tuple[int, ...], drop_path: float = 0.1
    ) -> None:
        super().__init__()
        if len(num_blocks) != len(num_heads) or len(num_blocks) not in range(3, 99, 2):
            raise ValueError(
                f"num_blocks has {len(num_blocks)} numbers, num_heads {len(num_heads)}; "
                "expected equally many, 3, 5, ...: some sizes down, the smallest, and up again"
            )
        depth = len(num_blocks) // 2
        widths = [width * 2**i for i in range(depth)]
        channels = [*widths, 2 * widths[-1], *(2 * c for c in reversed(widths))]
        # Published for patches of 128x128, whose smallest map is a single window: nothing to shift there.
        stages = [
            lewin_blocks(c, heads=heads, drop_paths=rates, modulated=i > depth, shifted=i != depth)
            for i, (c, heads, rates) in enumerate(
                zip(channels, num_heads, rising(num_blocks, drop_path), strict=True)
            )
        ]
        self.multiple_of: int = WINDOW * 2**depth
        self.entry = entry(width)
        self.encoders = nn.ModuleList(stages[:depth])
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 4, stride=2, padding=1) for c in widths)
        self.middle = stages[depth]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, c // 2, 2, stride=2)
            for below, c in zip(channels[depth:-1], channels[depth + 1 :], strict=True)
        )
        self.decoders = nn.ModuleList(stages[depth + 1 :])
        self.exit = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to the multiple, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        y: Tensor = self.entry(padded)
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = down(y)  # 2c at half size
        y = self.middle(y)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            y = decoder(torch.cat([up(y), skips.pop()], dim=1))
        out: Tensor = self.exit(y) + padded
        return out[..., : x.shape[-2], : x.shape[-1]]


# Variants --------------------------------------------------------------------------------------------------------


uformer = partial(
    Uformer, width=32, num_blocks=(2,) * 9, num_heads=(1, 2, 4, 8, 16, 16, 8, 4, 2), drop_path=0.1
)
"""Uformer-S as IRConStyle compares with it (20.8 M parameters)."""

uformer_small = partial(
    Uformer, width=16, num_blocks=(0, 2, 2, 2, 2, 2, 0), num_heads=(1, 2, 4, 8, 8, 4, 2), drop_path=0.1
)
"""Ours, for a CPU (1.3 M parameters).

No block at full size, where a block costs most and sees least.
"""


def constyle_uformer(
    *,
    width: int = 32,
    num_blocks: tuple[int, ...] = (2,) * 7,
    num_heads: tuple[int, ...] = (1, 2, 4, 8, 8, 4, 2),
    drop_path: float = 0.1,
) -> ConStyleUNet:
    """ConStyle+Uformer (4.1 M parameters).

    Args:
        width: channels at full size, a multiple of 4; 2, 3 and 4 times as many below.
        num_blocks: blocks of the seven stages encoder 1 to 3, bottom, decoder 3 to 1.
        num_heads: attention heads of these stages.
        drop_path: see `Uformer`.
    """
    if len(num_heads) != 7:
        raise ValueError(f"num_heads has {len(num_heads)} numbers, expected 7, one for each stage")
    rates = rising(num_blocks, drop_path)
    return ConStyleUNet(
        width=width,
        stage=lambda _, channels, i: lewin_blocks(
            channels, heads=num_heads[i], drop_paths=rates[i], modulated=i > 3
        ),
        num_blocks=num_blocks,
        entry=entry(width),
        exit=nn.Conv2d(2 * width, 3, 3, padding=1),
        activation=lambda _: nn.LeakyReLU(0.1),
        multiple_of=8 * WINDOW,
    )


constyle_uformer_small = partial(constyle_uformer, width=16, num_blocks=(0, 2, 2, 2, 2, 2, 0))
"""Ours, for a CPU: the ConStyle form (1.9 M parameters)."""


# Published names -------------------------------------------------------------------------------------------------


_PLAIN = {
    "input_proj.proj.": "entry.",
    "output_proj.proj.0.": "exit.",
    "encoderlayer_": "encoders.",
    "dowsample_": "downs.",
    "conv.blocks.": "middle.",
    "upsample_": "ups.",
    "decoderlayer_": "decoders.",
}
_CONDITIONED = {"entry.proj.": "entry.", "exit.proj.0.": "exit.", "fusion.mix.fusion.": "fusion.mix."}
_INNER = {
    ".blocks.": ".",
    ".conv.0.": ".",
    ".deconv.0.": ".",
    ".modulator.weight": ".attention.modulator",
    ".attn.relative_position_bias_table": ".attention.bias_table",
    ".attn.qkv.to_q.": ".attention.q.",
    ".attn.qkv.to_kv.": ".attention.kv.",
    ".attn.proj.": ".attention.out.",
    ".mlp.linear1.0.": ".leff.linear1.",
    ".mlp.dwconv.0.": ".leff.depthwise.",
    ".mlp.linear2.0.": ".leff.linear2.",
}


def published_uformer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published plain Uformer by our names."""
    return _renamed(state, _PLAIN)


def published_constyle_uformer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle+Uformer by our names."""
    return _renamed(published_unet(state), _CONDITIONED)


def _renamed(state: dict[str, Tensor], first: dict[str, str]) -> dict[str, Tensor]:
    """Our names for published ones, by what they begin with and by what is inside them; without constants."""
    return {_rename(k, first): v for k, v in state.items() if not k.endswith(".relative_position_index")}


def _rename(name: str, first: dict[str, str]) -> str:
    for published, ours in first.items():
        if name.startswith(published):
            name = ours + name.removeprefix(published)
    for published, ours in _INNER.items():
        name = name.replace(published, ours)
    return name
