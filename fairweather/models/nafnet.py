"""NAFNet, a convolutional restorer without activations: plain, and conditioned by ConStyle.

NAFNet: Chen et al., "Simple Baselines for Image Restoration", arXiv 2204.04676.
ConStyle+NAFNet: IRConStyle, arXiv 2402.15784.

Where we differ: nowhere in numbers. `nafnet()` is the plain network as the IRConStyle paper configures it
(87.4 M parameters, not one of NAFNet's own); `nafnet_width32()` and `nafnet_width64()` are NAFNet's own.
`nafnet_small()` and `nafnet_tiny()` are ours, sized for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.constyle import ConStyleUNet, published_unet
from fairweather.models.folding import bias_of, pieces, set_bias
from fairweather.models.layers import LayerNorm2d, pad_to_multiple


def simple_gate(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c//2 h w"]:
    """The first half of the channels times the second half (NAFNet, equation 5)."""
    a, b = x.chunk(2, dim=1)
    return a * b


class ChannelAttention(nn.Module):
    """Simplified channel attention: one weight for each channel, from its mean over the picture (equation 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        weights: Tensor = self.conv(x.mean(dim=(2, 3), keepdim=True))  # b c 1 1
        return x * weights


class NAFBlock(nn.Module):
    """NAFNet's block: a gated depthwise half and a gated feed-forward half, each with a learned residual scale.

    beta and gamma start at 0, so a new block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.norm1 = LayerNorm2d(c)
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.attention = ChannelAttention(c)
        self.conv3 = nn.Conv2d(c, c, 1)
        self.norm2 = LayerNorm2d(c)
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + _scaled(self.conv3, self.beta, self.attention(y))
        y = simple_gate(self.conv4(self.norm2(x)))
        return x + _scaled(self.conv5, self.gamma, y)

    def inference_form(self) -> nn.Module:
        """beta and gamma go into the convolutions before them, and the factors of a gate are maps of their own; the
        norms stay, which are slower without their scale.
        """
        return _NAFBlock(self)


class _NAFBlock(nn.Module):
    """The inference form of a NAFBlock."""

    def __init__(self, block: NAFBlock) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = block.norm1, block.norm2, block.attention
        halves = torch.arange(block.conv1.out_channels).chunk(2)
        self.depthwise1, self.depthwise2 = pieces(halves, block.conv1, block.conv2)
        self.gate1, self.gate2 = pieces(halves, block.conv4)
        self.conv3, self.conv5 = block.conv3, block.conv5
        for conv, scale in ((self.conv3, block.beta), (self.conv5, block.gamma)):
            set_bias(conv, bias_of(conv) * scale.double().flatten())
            conv.weight.copy_(conv.weight.double() * scale.double().view(-1, 1, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = self.norm1(x)
        x = x + self.conv3(self.attention(self.depthwise1(y) * self.depthwise2(y)))
        y = self.norm2(x)
        out: Tensor = x + self.conv5(self.gate1(y) * self.gate2(y))
        return out


def _scaled(
    conv: nn.Conv2d, scale: Float[Tensor, "1 c 1 1"], x: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """scale * conv(x) for a 1x1 convolution, with the scale on the weights: two passes less over a full map."""
    bias = None if conv.bias is None else conv.bias * scale.flatten()
    return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias)


def naf_blocks(number: int, channels: int) -> nn.Sequential:
    """A stack of NAFBlocks."""
    return nn.Sequential(*(NAFBlock(channels) for _ in range(number)))


class NAFNet(nn.Module):
    """The plain U-Net of NAFBlocks, with additive skips and a residual on the picture.

    Args:
        width: channels at full size; they double with each step down.
        encoder_blocks: blocks at each size, from full size down.
        middle_blocks: blocks at the smallest size.
        decoder_blocks: blocks at each size, from the smallest up.
        stage: builds a stack of blocks: stage(number of blocks, channels).

    >>> NAFNet(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: tuple[int, ...],
        middle_blocks: int,
        decoder_blocks: tuple[int, ...],
        stage: Callable[[int, int], nn.Module] = naf_blocks,
    ) -> None:
        super().__init__()
        if len(encoder_blocks) != len(decoder_blocks):
            raise ValueError(
                f"encoder_blocks has {len(encoder_blocks)} sizes, decoder_blocks {len(decoder_blocks)}; "
                "a U-Net needs as many of each"
            )
        widths = [width * 2**i for i in range(len(encoder_blocks))]
        self.multiple_of: int = 2 ** len(encoder_blocks)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders = nn.ModuleList(stage(n, c) for n, c in zip(encoder_blocks, widths, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths)
        self.middle = stage(middle_blocks, width * self.multiple_of)
        self.ups = nn.ModuleList(nn.Conv2d(2 * c, 4 * c, 1, bias=False) for c in reversed(widths))
        self.decoders = nn.ModuleList(
            stage(n, c) for n, c in zip(decoder_blocks, reversed(widths), strict=True)
        )
        self.ending = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded with zeros to a multiple, as published, and cropped back."""
        padded = pad_to_multiple(x, self.multiple_of, mode="zero")
        y: Tensor = self.intro(padded)
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = down(y)  # 2c at half size
        y = self.middle(y)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            y = decoder(F.pixel_shuffle(up(y), 2) + skips.pop())  # c/2 at double size
        out: Tensor = self.ending(y) + padded
        return out[..., : x.shape[-2], : x.shape[-1]]


# Variants --------------------------------------------------------------------------------------------------------


nafnet = partial(NAFNet, width=64, encoder_blocks=(5, 6, 7, 7), middle_blocks=7, decoder_blocks=(5, 6, 7, 7))
"""The plain network that IRConStyle compares with (87.4 M parameters)."""

nafnet_width32 = partial(
    NAFNet, width=32, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)
)
"""NAFNet's own configuration for deblurring, 32 channels (17.1 M parameters)."""

nafnet_width64 = partial(
    NAFNet, width=64, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)
)
"""NAFNet's own configuration for deblurring, 64 channels (67.9 M parameters)."""

nafnet_small = partial(NAFNet, width=24, encoder_blocks=(0, 2, 4), middle_blocks=6, decoder_blocks=(3, 2, 1))
"""Ours, for a CPU: what the product ships (2.3 M parameters).

No block before the first step down: at full size a block costs most and sees least.
"""

nafnet_tiny = partial(NAFNet, width=12, encoder_blocks=(1, 1, 1), middle_blocks=1, decoder_blocks=(1, 1, 1))
"""Ours, for the smallest machines and for tests (0.2 M parameters)."""


def constyle_nafnet(*, width: int = 48, num_blocks: tuple[int, ...] = (7, 8, 9, 9, 9, 8, 7)) -> ConStyleUNet:
    """ConStyle+NAFNet (12.7 M parameters)."""
    return ConStyleUNet(
        width=width,
        stage=lambda number, channels, _: naf_blocks(number, channels),
        num_blocks=num_blocks,
        entry=nn.Conv2d(3, width, 3, padding=1, bias=False),
        exit=nn.Conv2d(2 * width, 3, 3, padding=1, bias=False),
        activation=lambda _: nn.LeakyReLU(0.1),
    )


constyle_nafnet_small = partial(constyle_nafnet, width=16, num_blocks=(1, 1, 2, 2, 2, 1, 1))
"""Ours, for a CPU: the ConStyle form at 16 channels (1.7 M parameters)."""


# Published names -------------------------------------------------------------------------------------------------


def published_nafnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published plain NAFNet by our names."""
    return {_block(_up(k.replace("middle_blks.", "middle."))): v for k, v in state.items()}


def published_arguments(state: dict[str, Tensor]) -> dict[str, int | tuple[int, ...]]:
    """How many blocks a mapped checkpoint has at each level: its authors' networks differ in that from task to task."""
    places = {tuple(name.split(".")[:3]) for name in state if "." in name}
    levels = range(len({place for kind, place, *_ in places if kind == "downs"}))
    if not levels:  # no NAFNet, which is told better by what is missing
        return {}

    def blocks(kind: str) -> tuple[int, ...]:
        return tuple(sum(place[:2] == (kind, str(level)) for place in places) for level in levels)

    middle = len({place for kind, place, *_ in places if kind == "middle"})
    return {
        "encoder_blocks": blocks("encoders"),
        "middle_blocks": middle,
        "decoder_blocks": blocks("decoders"),
    }


def published_constyle_nafnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle+NAFNet by our names."""
    # The published entry and exit are one-element sequences.
    flat = {
        k.replace("Preprocess_Module.0", "Preprocess_Module").replace(
            "Finetune_Module.0", "Finetune_Module"
        ): v
        for k, v in state.items()
    }
    return {_block(k): v for k, v in published_unet(flat).items()}


def _block(name: str) -> str:
    return name.replace(".sca.1.", ".attention.conv.")


def _up(name: str) -> str:
    return name.replace(".0.weight", ".weight") if name.startswith("ups.") else name
