"""ConStyle: a contrastive encoder that tells a restoration network what ails the picture.

IRConStyle, Fan, Zhao and Chang, arXiv 2402.15784. This file holds the encoder (`ConStyle`), what a conditioned network
has (`ConStyleRestorer`), and the U-Net that any block type plugs into (`ConStyleUNet`, the paper's "general restoration
network"). Backbones are one file each and build on it. What trains the encoder is in `training/irconstyle.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import merged_through_shuffle, part, without_batch_norms
from fairweather.models.layers import pad_to_multiple


class Style(NamedTuple):
    """What the encoder says of a picture."""

    hidden: Float[Tensor, "b 128"]
    """v1, the first projection; only the style loss reads it."""
    vector: Float[Tensor, "b 128"]
    """v2, the style vector that gates the restorer's bottleneck."""
    features: tuple[Float[Tensor, "b c1 h2 w2"], Float[Tensor, "b c2 h4 w4"], Float[Tensor, "b c3 h8 w8"]]
    """f1, f2, f3 at 1/2, 1/4 and 1/8 of the picture (sides rounded up): 32, 64 and 128 channels in the paper."""


def _convs(*steps: tuple[int, int, int]) -> nn.Sequential:
    """3x3 convolutions (channels in, channels out, stride), each followed by LeakyReLU 0.1."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.LeakyReLU(0.1))
            for cin, cout, stride in steps
        )
    )


def _projection(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(cin, cout), nn.BatchNorm1d(cout), nn.GELU())


class ConStyle(nn.Module):
    """The encoder: one 128-vector and three feature maps (arXiv 2402.15784, 1.19 M parameters).

    Args:
        width: channels of the first convolutions; 16 in the paper, whose features have 2, 4 and 8 times as many.

    >>> style = ConStyle().eval()(torch.rand(1, 3, 75, 53))
    >>> style.vector.shape, style.features[2].shape
    (torch.Size([1, 128]), torch.Size([1, 128, 10, 7]))
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stage1 = _convs((3, w, 1), (w, w, 1), (w, 2 * w, 2))
        self.stage2 = _convs((2 * w, 2 * w, 1), (2 * w, 4 * w, 2))
        self.stage3 = _convs((4 * w, 8 * w, 1), (8 * w, 8 * w, 2))
        self.stage4 = _convs((8 * w, 16 * w, 1), (16 * w, 16 * w, 2))
        self.mlp1 = _projection(16 * w, 128)
        self.mlp2 = _projection(128, 128)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Style:
        f1: Tensor = self.stage1(x)  # b 2w h/2 w/2
        f2: Tensor = self.stage2(f1)  # b 4w h/4 w/4
        f3: Tensor = self.stage3(f2)  # b 8w h/8 w/8
        pooled = self.stage4(f3).mean(dim=(2, 3))  # b 16w
        v1: Tensor = self.mlp1(pooled)
        v2: Tensor = self.mlp2(v1)
        return Style(v1, v2, (f1, f2, f3))

    def inference_form(self) -> nn.Module:
        """The batch norms go into the linear layers."""
        self.mlp1, self.mlp2 = without_batch_norms(self.mlp1), without_batch_norms(self.mlp2)
        return self


class Down(nn.Module):
    """DC: halve the size, keep c channels, and join a ConStyle feature map of `width` channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], style: Float[Tensor, "b d h//2 w//2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        return torch.cat([F.pixel_unshuffle(self.conv(x), 2), style], dim=1)


class Up(nn.Module):
    """UC: double the size, join the skip, and mix to `cout` channels."""

    def __init__(self, channels: int, skip: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(channels + skip, cout, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"]
    ) -> Float[Tensor, "b o h2 w2"]:
        out: Tensor = self.mix(torch.cat([F.pixel_shuffle(self.conv(x), 2), skip], dim=1))
        return out

    def inference_form(self) -> nn.Module:
        """Both convolutions of x are one where that is cheaper: where fewer channels come out than go in."""
        return _Up(self) if self.mix.out_channels <= self.conv.in_channels else self


class _Up(nn.Module):
    """The inference form of an Up whose result has no more channels than its input."""

    def __init__(self, up: Up) -> None:
        super().__init__()
        channels = up.conv.in_channels
        self.conv = merged_through_shuffle(up.conv, part(up.mix, 0, channels))
        self.skip = part(up.mix, channels, up.mix.in_channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"]
    ) -> Float[Tensor, "b o h2 w2"]:
        out: Tensor = F.pixel_shuffle(self.conv(x), 2) + self.skip(skip)
        return out


class GatedFusion(nn.Module):
    """The bottleneck's maps beside themselves gated by the style vector, mixed by a 1x1 convolution.

    Both maps are one, so that both halves of the weights become one for each picture: half of the multiplications.

    >>> fusion, b, vector = GatedFusion(8, 6), torch.rand(1, 8, 5, 4), torch.rand(1, 128)
    >>> gated = b * fusion.gate(vector)[:, :, None, None]
    >>> torch.testing.assert_close(fusion(b, vector), fusion.mix(torch.cat([b, gated], dim=1)))
    """

    def __init__(self, channels: int, cout: int) -> None:
        super().__init__()
        self.gate = nn.Linear(128, channels)
        self.mix = nn.Conv2d(2 * channels, cout, 1, bias=False)

    def forward(
        self, b: Float[Tensor, "b c h w"], vector: Float[Tensor, "b 128"]
    ) -> Float[Tensor, "b o h w"]:
        plain, gated = self.mix.weight.flatten(1).chunk(2, dim=1)  # o c each
        weight = plain + gated * self.gate(vector)[:, None]  # b o c
        y: Tensor = b.permute(0, 2, 3, 1).flatten(1, 2) @ weight.mT  # b n o
        return y.mT.reshape(-1, weight.shape[1], *b.shape[-2:])


class ConStyleRestorer(nn.Module):
    """What every network conditioned by ConStyle has: the encoder, the convolutions on its maps, and the gated fusion.

    A network of this kind adds its own parts and `restore`.

    Args:
        width: d, channels at full size.
        activation: follows each 1x1 convolution on a feature map; called with its channels.
        multiple_of: what both sides are padded to.
    """

    def __init__(self, *, width: int, activation: Callable[[int], nn.Module], multiple_of: int) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width is {width}, expected a multiple of 4")
        self.multiple_of = multiple_of
        self.constyle = ConStyle()
        self.affine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), activation(width)) for c in (32, 64, 128)
        )
        self.fusion = GatedFusion(4 * width, 3 * width)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to the multiple, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        return self.restore(padded, self.constyle(padded))[..., : x.shape[-2], : x.shape[-1]]

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        """The network without its encoder; both sides of x must be multiples of `multiple_of`."""
        raise NotImplementedError

    def maps(self, style: Style) -> list[Tensor]:
        """a0, a1, a2: the feature maps at d channels, for `Down` at 1/2, 1/4 and 1/8."""
        return [affine(f) for affine, f in zip(self.affine, style.features, strict=True)]


class ConStyleUNet(ConStyleRestorer):
    """The general restoration network: a U-Net of any blocks, conditioned by ConStyle (section 3 of the paper).

    Feature maps join the encoder at 1/2, 1/4 and 1/8; the vector gates the bottleneck.

    Args:
        width: d, channels at full size.
        stage: builds a stack of blocks: stage(number of blocks, channels, index of the stage from 0).
        num_blocks: blocks of the seven stages encoder 1 to 3, bottom, decoder 3 to 1.
        entry: 3 -> d channels. exit: 2d -> 3 channels.
        activation: follows each 1x1 convolution on a feature map; called with its channels.
        multiple_of: what both sides are padded to; 8, and more where blocks need it.
    """

    def __init__(
        self,
        *,
        width: int,
        stage: Callable[[int, int, int], nn.Module],
        num_blocks: tuple[int, ...],
        entry: nn.Module,
        exit: nn.Module,
        activation: Callable[[int], nn.Module],
        multiple_of: int = 8,
    ) -> None:
        super().__init__(width=width, activation=activation, multiple_of=multiple_of)
        if len(num_blocks) != 7:
            raise ValueError(f"num_blocks has {len(num_blocks)} numbers, expected 7, one for each stage")
        d = width
        widths = (d, 2 * d, 3 * d, 4 * d, 4 * d, 3 * d, 2 * d)
        self.entry, self.exit = entry, exit
        stages = [stage(n, c, i) for i, (n, c) in enumerate(zip(num_blocks, widths, strict=True))]
        self.encoder1, self.encoder2, self.encoder3, self.bottom = stages[:4]
        self.decoder3, self.decoder2, self.decoder1 = stages[4:]
        self.down1, self.down2, self.down3 = Down(d), Down(2 * d), Down(3 * d)
        self.up3 = Up(3 * d, 3 * d, 4 * d)
        self.up2 = Up(4 * d, 2 * d, 3 * d)
        self.up1 = Up(3 * d, d, 2 * d)

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        a0, a1, a2 = self.maps(style)
        e1 = self.encoder1(self.entry(x))  # d
        e2 = self.encoder2(self.down1(e1, a0))  # 2d at 1/2
        e3 = self.encoder3(self.down2(e2, a1))  # 3d at 1/4
        b = self.bottom(self.down3(e3, a2))  # 4d at 1/8
        y = self.fusion(b, style.vector)  # 3d
        y = self.decoder3(self.up3(y, e3))  # 4d at 1/4
        y = self.decoder2(self.up2(y, e2))  # 3d at 1/2
        y = self.decoder1(self.up1(y, e1))  # 2d
        out: Tensor = self.exit(y) + x
        return out


# Published names -------------------------------------------------------------------------------------------------

_PUBLISHED = {
    "ConStyle.encoder_q.": "constyle.",
    "AffineTransform": "affine.",
    "mlp.0.": "fusion.gate.",
    "Preprocess_Module.": "entry.",
    "Finetune_Module.": "exit.",
    "Process_Module_l": "encoder",
    "Process_Module_r": "decoder",
    "Process_Module_bottom.": "bottom.",
    "local_fusion.": "fusion.mix.",
}
_EARLIER = {
    "gate.weight": "fusion.gate.weight",
    "gate.bias": "fusion.gate.bias",
    "fusion.weight": "fusion.mix.weight",
}
"""What fairweather 0.1 called the tensors of a `GatedFusion`."""
_CLASSIFIER = "encoder_q.classifier."
"""ConStyle v2's, which only training needs, as what follows."""
_TRAINING_ONLY = ("ConStyle.encoder_k.", f"ConStyle.{_CLASSIFIER}", "ConStyle.queue")


def by_todays_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights of a network with ConStyle, as fairweather 0.1 saved them or since; any others as they are."""
    if not _EARLIER.keys() <= state.keys():
        return state
    return {_EARLIER.get(name, name): value for name, value in state.items()}


def published_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ConStyle's encoder out of a published ConStyle of either version (`encoder_q.*`), or out of a restorer."""
    alone = {k.removeprefix("ConStyle."): v for k, v in state.items()}
    alone = {k: v for k, v in alone.items() if not k.startswith(_CLASSIFIER)}
    return {k.removeprefix("encoder_q."): v for k, v in alone.items() if k.startswith("encoder_q.")}


def published_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle + backbone checkpoint by our names; what only training needs is dropped."""
    return {_rename(k): v for k, v in state.items() if not k.startswith(_TRAINING_ONLY)}


def _rename(name: str) -> str:
    for published, ours in _PUBLISHED.items():
        if name.startswith(published):
            return ours + name.removeprefix(published)
    for published, ours in (("DC", "down"), ("UC", "up")):
        if name.startswith(published):
            number, rest = name[2], name[4:]
            inner = {
                "down.0.weight": "conv.weight",
                "up.0.weight": "conv.weight",
                "down.weight": "mix.weight",
            }
            return f"{ours}{number}.{inner.get(rest, rest)}"
    return name
