"""Restormer, a transformer that attends across channels: plain, and conditioned by ConStyle.

Restormer: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration", arXiv 2111.09881.
ConStyle+Restormer: IRConStyle, arXiv 2402.15784.

Where we differ: nowhere in numbers. Attention multiplies its matrix with the projection that follows before either
meets the picture, and takes its cosines in float32 at any precision. `restormer_small()` and
`constyle_restormer_small()` are ours, sized for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.errors import WeightsError
from fairweather.models.constyle import ConStyleUNet, published_unet
from fairweather.models.folding import columns, dealt_out, pieces, shifted
from fairweather.models.layers import LayerNorm2d, at_least_float32, pad_to_multiple


def cosines(q: Float[Tensor, "b heads i n"], k: Float[Tensor, "b heads j n"]) -> Float[Tensor, "b heads i j"]:
    """Cosine of the angle between each channel of q and each of k as vectors over all n positions, in [-1, 1].

    In float32 at least: the sums run over the whole picture, which overflows float16 and rounds in bfloat16.
    A channel that is 0 everywhere has cosine 0 with all others.

    >>> cosines(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0], [-1.0, 1.0]]]]))
    tensor([[[[ 1.0000, -0.7071]]]])
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = at_least_float32(q), at_least_float32(k)
        return q @ k.mT / _lengths(q) / _lengths(k).mT  # products, not maps, are divided: two passes less


def _lengths(x: Float[Tensor, "b heads i n"]) -> Float[Tensor, "b heads i 1"]:
    # One operation for other libraries, but slow in torch for maps in channels-last memory.
    if torch.onnx.is_in_onnx_export():
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length.clamp_min(1e-12)
    return x.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).sqrt()


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention: channels attend to channels, over the whole picture (equation 1).

    The learned temperature multiplies the cosines, as published; the paper writes a division.

    Args:
        channels: c, a multiple of num_heads.
        num_heads: groups of channels that attend among themselves.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if not 1 <= num_heads <= channels or channels % num_heads:
            raise ValueError(
                f"{channels} channels cannot be shared by {num_heads} heads; expected a multiple"
            )
        c = channels
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(c, 3 * c, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * c, 3 * c, 3, padding=1, groups=3 * c, bias=False)
        self.project_out = nn.Conv2d(c, c, 1, bias=False)
        self.own: nn.ModuleList | None = None  # of the inference form, one for each map

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c = map(int, x.shape[:2])  # numbers: exported files would work sizes out anew each time
        query, key, v = self.maps(x)
        # Other libraries would copy a map to reshape it.
        if self.num_heads == 1 and torch.onnx.is_in_onnx_export():
            q, k = (t.permute(0, 2, 3, 1).reshape(b, 1, -1, c).mT for t in (query, key))
        else:
            each = c // self.num_heads
            q, k = (t.reshape(b, self.num_heads, each, -1) for t in (query, key))  # b heads c/heads h*w
        attention = self.attention(cosines(q, k) * self.temperature).to(v.dtype)  # b heads i j
        project = self.project_out.weight.view(c, self.num_heads, -1)  # o heads i
        # project_out(attention @ v), the two small matrices first: one pass over the map instead of two.
        weights = torch.einsum("ogi,bgij->bogj", project, attention).reshape(b, c, c)  # b o c
        out = v.permute(0, 2, 3, 1).reshape(b, -1, c) @ weights.mT  # b h*w o, as channels-last memory has it
        return out.mT.reshape_as(x)

    def maps(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Queries, keys and values, each (b, c, h, w)."""
        if self.own is not None:
            return [own(x) for own in self.own]
        return list(self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1))

    def inference_form(self) -> nn.Module:
        """Queries, keys and values are maps of their own: cut from one they would be copied."""
        self.own = nn.ModuleList(
            pieces(torch.arange(self.qkv.out_channels).chunk(3), self.qkv, self.qkv_dwconv)
        )
        self.qkv = self.qkv_dwconv = nn.Identity()  # type: ignore[assignment]
        return self

    def attention(self, logits: Float[Tensor, "b heads i j"]) -> Float[Tensor, "b heads i j"]:
        """How much each channel takes from each other one."""
        return logits.softmax(dim=-1)


class FeedForward(nn.Module):
    """What a TransformerBlock has behind its attention: maps (b, c, h, w) to maps of the same shape."""

    def in_parts(self) -> Iterable[nn.Module]:
        """Modules that together add what it gives to a map: y = part(x, y), in place.

        Each has some of the hidden channels from entry to exit: small maps are still in the processor's cache when the
        next step asks for them.
        """
        raise NotImplementedError


class GDFN(FeedForward):
    """Gated-Dconv feed-forward network: half of the hidden channels gate the other half (equation 2).

    Args:
        channels: c.
        expansion: the hidden channels of each half are int(expansion * c).
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(expansion * channels)
        if hidden < 1:
            raise ValueError(
                f"expansion is {expansion}, which leaves none of {channels} channels; expected more"
            )
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        out: Tensor = self.project_out(F.gelu(gate) * value)
        return out

    def in_parts(self) -> Iterable[nn.Module]:
        hidden = self.project_out.in_channels
        is_cached = self.project_in.weight.device.type == "cpu" and hidden >= 64
        for shown in dealt_out(hidden, 2 if is_cached else 1):
            gate, value = pieces((shown, shifted(shown, hidden)), self.project_in, self.dwconv)
            yield GatedPart(gate, value, columns(self.project_out, shown))


class GatedPart(nn.Module):
    """Some hidden channels of a GDFN: their gates, their values and their exit."""

    def __init__(self, gate: nn.Module, value: nn.Module, leave: nn.Conv2d) -> None:
        super().__init__()
        self.gate, self.value, self.leave = gate, value, leave

    def forward(
        self, x: Float[Tensor, "b c h w"], onto: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        return onto.add_(self.leave(F.gelu(self.gate(x)).mul_(self.value(x))))


class TransformerBlock(nn.Module):
    """Restormer's block: attention across channels, then the feed-forward, each after a norm and residual.

    Args:
        attn: maps of c channels to maps of c channels; Restormer's is MDTA.
        ffn: Restormer's is GDFN.
    """

    def __init__(self, channels: int, *, attn: nn.Module, ffn: FeedForward) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels, eps=1e-5)
        self.attn = attn
        self.norm2 = LayerNorm2d(channels, eps=1e-5)
        self.ffn = ffn

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out

    def inference_form(self) -> nn.Module:
        return BlockInParts(self)


class BlockInParts(nn.Module):
    """The inference form of TransformerBlock: the parts of the feed-forward add to the block's sum one by one."""

    def __init__(self, plain: TransformerBlock) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = plain.norm1, plain.attn, plain.norm2
        self.parts = nn.ModuleList(plain.ffn.in_parts())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        for part in self.parts:
            x = part(y, x)
        return x


def transformer_blocks(number: int, channels: int, num_heads: int, expansion: float) -> nn.Sequential:
    """A stack of blocks, 0 or more."""
    if number < 0:
        raise ValueError(f"a stage of {number} blocks cannot be built; expected 0 or more")
    return nn.Sequential(
        *(
            TransformerBlock(channels, attn=MDTA(channels, num_heads), ffn=GDFN(channels, expansion))
            for _ in range(number)
        )
    )


def one_for_each_size(name: str, numbers: tuple[int, ...]) -> None:
    """Raises ValueError for other than 4 numbers."""
    if len(numbers) != 4:
        raise ValueError(
            f"{name} has {len(numbers)} numbers, expected 4: at 1/1, 1/2, 1/4 and 1/8 of the picture"
        )


def check_width(width: int) -> None:
    """Raises ValueError for other than an even number of channels."""
    if width < 2 or width % 2:
        raise ValueError(f"width is {width}, expected an even number of channels")


class ChannelUNet(nn.Module):
    """The U-Net of Restormer and its kin, with concatenated skips and a residual on the picture.

    Args:
        width: d, channels at full size, an even number; they double with each of the three steps down.
        stage: builds the blocks at one size: stage(size from 0 for full to 3 for 1/8, channels).
        refinement: 2d -> 2d channels at full size, after the decoder.
        encoder0: d -> d channels at full size, before the encoder.
    """

    def __init__(
        self,
        *,
        width: int,
        stage: Callable[[int, int], nn.Module],
        refinement: nn.Module,
        encoder0: nn.Module | None = None,
    ) -> None:
        super().__init__()
        d = width
        self.multiple_of = 8
        self.entry = nn.Conv2d(3, d, 3, padding=1, bias=False)
        self.encoder0 = encoder0 or nn.Identity()
        self.encoder1, self.encoder2, self.encoder3 = stage(0, d), stage(1, 2 * d), stage(2, 4 * d)
        self.down1, self.down2, self.down3 = (
            nn.Conv2d(c, c // 2, 3, padding=1, bias=False) for c in (d, 2 * d, 4 * d)
        )
        self.latent = stage(3, 8 * d)
        self.up3, self.up2, self.up1 = (
            nn.Conv2d(c, 2 * c, 3, padding=1, bias=False) for c in (8 * d, 4 * d, 2 * d)
        )
        self.reduce3 = nn.Conv2d(8 * d, 4 * d, 1, bias=False)
        self.reduce2 = nn.Conv2d(4 * d, 2 * d, 1, bias=False)
        self.decoder3, self.decoder2, self.decoder1 = stage(2, 4 * d), stage(1, 2 * d), stage(0, 2 * d)
        self.refinement = refinement
        self.exit = nn.Conv2d(2 * d, 3, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to the multiple, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        e1 = self.encoder1(self.encoder0(self.entry(padded)))  # d
        e2 = self.encoder2(F.pixel_unshuffle(self.down1(e1), 2))  # 2d at 1/2
        e3 = self.encoder3(F.pixel_unshuffle(self.down2(e2), 2))  # 4d at 1/4
        y = self.latent(F.pixel_unshuffle(self.down3(e3), 2))  # 8d at 1/8
        y = torch.cat([F.pixel_shuffle(self.up3(y), 2), e3], dim=1)  # 8d at 1/4
        y = self.decoder3(self.reduce3(y))  # 4d
        y = torch.cat([F.pixel_shuffle(self.up2(y), 2), e2], dim=1)  # 4d at 1/2
        y = self.decoder2(self.reduce2(y))  # 2d
        y = torch.cat([F.pixel_shuffle(self.up1(y), 2), e1], dim=1)  # 2d at full size, and it stays 2d
        y = self.refinement(self.decoder1(y))
        out: Tensor = self.exit(y) + padded
        return out[..., : x.shape[-2], : x.shape[-1]]


class Restormer(ChannelUNet):
    """The plain U-Net of transformer blocks, with concatenated skips and a residual on the picture.

    Args:
        width: channels at full size, an even number; they double with each of the three steps down.
        num_blocks: blocks at 1/1, 1/2, 1/4 and 1/8; the decoder has as many as the encoder.
        num_refinement_blocks: blocks at full size after the decoder.
        num_heads: heads at 1/1, 1/2, 1/4 and 1/8.
        expansion: of the channels, in each half of the feed-forward.

    >>> net = Restormer(width=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    >>> net(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(
        self,
        *,
        width: int,
        num_blocks: tuple[int, ...],
        num_refinement_blocks: int,
        num_heads: tuple[int, ...] = (1, 2, 4, 8),
        expansion: float = 2.66,
    ) -> None:
        one_for_each_size("num_blocks", num_blocks)
        one_for_each_size("num_heads", num_heads)
        check_width(width)

        def stage(size: int, channels: int) -> nn.Sequential:
            return transformer_blocks(num_blocks[size], channels, num_heads[size], expansion)

        refinement = transformer_blocks(num_refinement_blocks, 2 * width, num_heads[0], expansion)
        super().__init__(width=width, stage=stage, refinement=refinement)


# Variants --------------------------------------------------------------------------------------------------------


restormer = partial(Restormer, width=48, num_blocks=(4, 6, 6, 8), num_refinement_blocks=4)
"""Restormer as published, and as IRConStyle compares with it (26.1 M parameters)."""

restormer_small = partial(Restormer, width=16, num_blocks=(0, 2, 3, 3), num_refinement_blocks=1)
"""Ours, for a CPU (1.4 M parameters).

No block before the first step down: at full size a block costs most and sees least.
"""


def constyle_restormer(
    *,
    width: int = 48,
    num_blocks: tuple[int, ...] = (4, 6, 6, 8, 6, 6, 4),
    num_refinement_blocks: int = 4,
    num_heads: tuple[int, ...] = (1, 2, 4, 8),
    expansion: float = 2.66,
) -> ConStyleUNet:
    """ConStyle+Restormer (15.6 M parameters).

    Args:
        width: channels at full size, a multiple of 4; 2, 3 and 4 times as many below.
        num_blocks: blocks of the seven stages encoder 1 to 3, bottom, decoder 3 to 1.
        num_refinement_blocks, num_heads, expansion: as in `Restormer`.
    """
    one_for_each_size("num_heads", num_heads)
    refinement = transformer_blocks(num_refinement_blocks, 2 * width, num_heads[0], expansion)
    return ConStyleUNet(
        width=width,
        stage=lambda number, c, i: transformer_blocks(number, c, num_heads[min(i, 6 - i)], expansion),
        num_blocks=num_blocks,
        entry=nn.Conv2d(3, width, 3, padding=1, bias=False),
        exit=nn.Sequential(*refinement, nn.Conv2d(2 * width, 3, 3, padding=1, bias=False)),
        activation=nn.PReLU,
    )


constyle_restormer_small = partial(
    constyle_restormer, width=12, num_blocks=(0, 2, 4, 6, 4, 2, 0), num_refinement_blocks=1
)
"""Ours, for a CPU: the ConStyle form (1.8 M parameters), as many multiplications as `restormer_small`."""


# Published names -------------------------------------------------------------------------------------------------

_PUBLISHED = {
    "patch_embed.proj.": "entry.",
    "encoder_level": "encoder",
    "down1_2.body.0.": "down1.",
    "down2_3.body.0.": "down2.",
    "down3_4.body.0.": "down3.",
    "up4_3.body.0.": "up3.",
    "up3_2.body.0.": "up2.",
    "up2_1.body.0.": "up1.",
    "reduce_chan_level": "reduce",
    "decoder_level": "decoder",
    "output.": "exit.",
}


def published_restormer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published plain Restormer by our names.

    Raises:
        WeightsError: for norms without bias.
    """
    if "encoder_level1.0.norm1.body.weight" in state and "encoder_level1.0.norm1.body.bias" not in state:
        raise WeightsError(
            "the checkpoint's norms have no bias: a variant of Restormer that is not built here; take one whose norms "
            "have it"
        )
    return {_block(_rename(k)): v for k, v in state.items()}


def published_constyle_restormer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle+Restormer by our names."""
    flat = {k.replace("Preprocess_Module.proj", "Preprocess_Module"): v for k, v in state.items()}
    return {_block(k): v for k, v in published_unet(flat).items()}


def _rename(name: str) -> str:
    for published, ours in _PUBLISHED.items():
        if name.startswith(published):
            return ours + name.removeprefix(published)
    return name


def _block(name: str) -> str:
    return name.replace(".body.", ".")
