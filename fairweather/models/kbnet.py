"""KBNet, a convolutional restorer whose kernels are mixed anew at each position: plain, and conditioned by ConStyle.

KBNet: Zhang et al., "KBNet: Kernel Basis Network for Image Restoration", arXiv 2303.02881.
ConStyle+KBNet: IRConStyle, arXiv 2402.15784.

Where we differ: nowhere in numbers, but the network of the IRConStyle release cannot be trained and ours can.
The mixed kernels of a whole map would need 36 times its memory, so they are made for some rows at a time and, in
training, made again in the backward pass. `kbnet_small()` and `constyle_kbnet_small()` are ours, sized for a CPU.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairweather.models.constyle import ConStyleUNet
from fairweather.models.layers import LayerNorm2d
from fairweather.models.nafnet import NAFNet, published_constyle_nafnet, published_nafnet, simple_gate

NUMBERS = 2**20
"""How many numbers mixed kernels take at a time, for each picture of a batch: 4 MB, which stay in a CPU's cache.

At 64 channels of 128x128, 32 times as many at once took twice as long.
"""


def mixed_convolution(
    x: Float[Tensor, "b c h w"],
    coefficients: Float[Tensor, "b n h w"],
    kernels: Float[Tensor, "n c 36"],
) -> Float[Tensor, "b c h w"]:
    """Convolve each position with its own mixture of n kernels, in groups of 4 channels, padded with zeros.

    out(p) = sum_n coefficients_n(p) (kernels_n * x)(p)

    >>> x, halves = torch.rand(1, 4, 2, 2), torch.full((1, 2, 2, 2), 0.5)
    >>> (mixed_convolution(x, halves, torch.ones(2, 4, 36)) - x.sum()).abs().max() < 1e-5
    tensor(True)
    """
    rows = max(1, NUMBERS // (kernels[0].numel() * x.shape[-1]))
    padded = F.pad(x, (1, 1, 1, 1))
    parts: list[Tensor] = []
    for first in range(0, x.shape[2], rows):
        part = padded[:, :, first : first + rows + 2], coefficients[:, :, first : first + rows], kernels
        if torch.is_grad_enabled():
            parts.append(checkpoint(_mixed_rows, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_mixed_rows(*part))
    return torch.cat(parts, dim=2)


def _mixed_rows(
    padded: Float[Tensor, "b c h2 w2"],
    coefficients: Float[Tensor, "b n h w"],
    kernels: Float[Tensor, "n c 36"],
) -> Float[Tensor, "b c h w"]:
    b, c = padded.shape[:2]
    mixed = (coefficients.flatten(2).transpose(1, 2) @ kernels.flatten(1)).view(b, -1, c // 4, 4, 36)
    patches = F.unfold(padded, 3).transpose(1, 2).reshape(b, -1, c // 4, 36, 1)
    return (mixed @ patches).view(b, -1, c).transpose(1, 2).reshape(b, c, *coefficients.shape[2:])


class KernelBasisAttention(nn.Module):
    """KBA: at each position a mixture of learned kernels, weighed by what the position looks like.

    Args:
        channels: c, a multiple of 4.
        num_kernels: n, the size of the basis.

    Raises:
        ValueError: if channels is no multiple of 4.
    """

    def __init__(self, channels: int, num_kernels: int) -> None:
        super().__init__()
        if channels < 4 or channels % 4:
            raise ValueError(f"{channels} channels cannot be convolved in groups of 4; expected a multiple")
        inner = math.gcd(channels, 32)
        self.neighbours = nn.Conv2d(channels, inner, 3, padding=1, groups=inner)
        self.gated = nn.Conv2d(inner // 2, num_kernels, 1)
        self.scale = nn.Parameter(torch.full((1, num_kernels, 1, 1), 0.01))
        self.point = nn.Conv2d(channels, num_kernels, 1)
        self.kernels = nn.Parameter(torch.empty(num_kernels, channels, 36))
        self.biases = nn.Parameter(torch.zeros(num_kernels, channels))
        nn.init.uniform_(self.kernels, -1 / 6, 1 / 6)  # as a convolution of 36 inputs: Kaiming, 1 / sqrt(36)

    def forward(
        self, x: Float[Tensor, "b c h w"], features: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Convolve `features`; `x` says with which mixture."""
        coefficients = self.gated(simple_gate(self.neighbours(x))) * self.scale + self.point(x)  # b n h w
        bias = F.conv2d(coefficients, self.biases.T[:, :, None, None])
        return mixed_convolution(features, coefficients, self.kernels) + bias


class MFFBlock(nn.Module):
    """KBNet's block: three kinds of attention multiplied, then NAFNet's feed-forward half."""

    def __init__(self, channels: int, *, num_kernels: int) -> None:
        super().__init__()
        c = channels
        self.norm1 = LayerNorm2d(c)
        self.channel = nn.Conv2d(c, c, 1)
        self.spatial = nn.Sequential(nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 5, padding=2, groups=c // 4))
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.kba = KernelBasisAttention(c, num_kernels)
        self.kba_scale = nn.Parameter(torch.full((1, c, 1, 1), 0.01))
        self.conv3 = nn.Conv2d(c, c, 1)
        self.norm2 = LayerNorm2d(c)
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.beta = nn.Parameter(torch.full((1, c, 1, 1), 0.01))
        self.gamma = nn.Parameter(torch.full((1, c, 1, 1), 0.01))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y: Tensor = self.norm1(x)
        features: Tensor = self.conv2(self.conv1(y))
        features = features + self.kba_scale * self.kba(y, features)
        channel = self.channel(y.mean(dim=(2, 3), keepdim=True))  # b c 1 1
        x = x + self.beta * self.conv3(features * self.spatial(y) * channel)
        y = self.conv5(simple_gate(self.conv4(self.norm2(x))))
        return x + self.gamma * y


def mff_blocks(number: int, channels: int, *, num_kernels: int) -> nn.Sequential:
    """A stack of MFFBlocks."""
    return nn.Sequential(*(MFFBlock(channels, num_kernels=num_kernels) for _ in range(number)))


class KBNet(NAFNet):
    """NAFNet's U-Net, of MFFBlocks.

    Args:
        width: channels at full size, a multiple of 4; they double with each step down.
        encoder_blocks: blocks at each size, from full size down.
        middle_blocks: blocks at the smallest size.
        decoder_blocks: blocks at each size, from the smallest up.
        num_kernels: size of the kernel basis.

    >>> KBNet(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: tuple[int, ...],
        middle_blocks: int,
        decoder_blocks: tuple[int, ...],
        num_kernels: int = 32,
    ) -> None:
        super().__init__(
            width=width,
            encoder_blocks=encoder_blocks,
            middle_blocks=middle_blocks,
            decoder_blocks=decoder_blocks,
            stage=partial(mff_blocks, num_kernels=num_kernels),
        )


# Variants --------------------------------------------------------------------------------------------------------


kbnet = partial(
    KBNet,
    width=64,
    encoder_blocks=(2, 2, 2, 2),
    middle_blocks=12,
    decoder_blocks=(4, 2, 2, 2),
    num_kernels=32,
)
"""The plain network that IRConStyle compares with (130.2 M parameters)."""

kbnet_small = partial(
    KBNet, width=16, encoder_blocks=(0, 1, 2), middle_blocks=3, decoder_blocks=(2, 1, 0), num_kernels=32
)
"""Ours, for a CPU (1.5 M parameters).

No block at full size, where a block costs most and sees least.
"""


def constyle_kbnet(
    *, width: int = 32, num_blocks: tuple[int, ...] = (3, 3, 4, 4, 4, 3, 3), num_kernels: int = 32
) -> ConStyleUNet:
    """ConStyle+KBNet (7.1 M parameters)."""
    return ConStyleUNet(
        width=width,
        stage=lambda number, channels, _: mff_blocks(number, channels, num_kernels=num_kernels),
        num_blocks=num_blocks,
        entry=nn.Conv2d(3, width, 3, padding=1),
        exit=nn.Conv2d(2 * width, 3, 3, padding=1, bias=False),
        activation=lambda _: nn.LeakyReLU(0.1),
    )


constyle_kbnet_small = partial(constyle_kbnet, width=16, num_blocks=(0, 1, 1, 1, 1, 1, 0))
"""Ours, for a CPU: the ConStyle form (2.0 M parameters)."""


# Published names -------------------------------------------------------------------------------------------------


_BLOCK = {
    ".sca.1.": ".channel.",
    ".conv11.": ".spatial.",
    ".conv2.0.": ".kba.neighbours.",
    ".conv2.2.": ".kba.gated.",
    ".conv211.": ".kba.point.",
    ".conv21.": ".conv2.",
    ".attgamma": ".kba.scale",
    ".ga1": ".kba_scale",
}


def published_kbnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published plain KBNet by our names."""
    return published_nafnet(_blocks(state))


def published_constyle_kbnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle+KBNet by our names."""
    return published_constyle_nafnet(_blocks(state))


def _blocks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes inside the blocks."""
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(".w"):  # 1 n 36c
            name, value = name[:-1] + "kba.kernels", value.reshape(value.shape[1], -1, 36)
        elif name.endswith(".b"):  # 1 n c
            name, value = name[:-1] + "kba.biases", value[0]
        for published, own in _BLOCK.items():
            name = name.replace(published, own)
        ours[name] = value
    return ours
