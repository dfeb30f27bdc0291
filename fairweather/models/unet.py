"""The U-Net that DCMPNet takes features from, beside its encoder, and its inference form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import bias_of, part, relus_in_place, set_bias, without_batch_norms


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def inference_form(self) -> nn.Module:
        """The norms go into the convolutions."""
        layers = without_batch_norms(self)
        relus_in_place(layers)
        return layers


class UpConv(DoubleConv):
    """DoubleConv on a skip beside as many channels of the smaller map, enlarged."""

    def forward(  # type: ignore[override]
        self, small: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h2 w2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        y = torch.cat((skip, _enlarged(small, skip)), dim=1)
        for layer in self:
            y = layer(y)
        return y

    def inference_form(self) -> nn.Module:
        """As of DoubleConv, and the maps are not joined."""
        return _UpConv(self)


class _UpConv(nn.Module):
    """The inference form of UpConv."""

    def __init__(self, plain: UpConv) -> None:
        super().__init__()
        layers = without_batch_norms(plain)
        conv = layers[0]
        assert isinstance(conv, nn.Conv2d)
        n = conv.in_channels // 2
        self.skip, self.small = part(conv, 0, n), part(conv, n, 2 * n)
        set_bias(self.skip, bias_of(conv))
        self.layers = layers[1:]
        relus_in_place(self.layers)

    def forward(
        self, small: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h2 w2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        out: Tensor = self.layers(self.skip(skip).add_(self.small(_enlarged(small, skip))))
        return out


class UNet(nn.Module):
    """The feature extractor beside the encoder: a U-Net whose last three decoder maps are its result.

    Args:
        width: channels at full size; they double with each of the first three steps down.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        w = width
        self.entry = DoubleConv(3, w)
        self.downs = nn.ModuleList(
            DoubleConv(i, o) for i, o in ((w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w), (8 * w, 8 * w))
        )
        self.ups = nn.ModuleList(
            UpConv(i, o) for i, o in ((16 * w, 4 * w), (8 * w, 2 * w), (4 * w, w), (2 * w, w))
        )
        self.exit = nn.Conv2d(w, 3, 1)

    def forward(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c1 h4 w4"], Float[Tensor, "b c2 h2 w2"], Float[Tensor, "b 3 h w"]]:
        """Maps at a quarter (2 width), half (width) and full size (3 channels)."""
        maps: list[Tensor] = [self.entry(x)]
        for down in self.downs:
            maps.append(down(F.max_pool2d(maps[-1], 2)))
        y = maps.pop()
        results: list[Tensor] = []
        for up in self.ups:
            y = up(y, maps.pop())
            results.append(y)
        return results[1], results[2], self.exit(y)


def _enlarged(
    small: Float[Tensor, "b c h w"], like: Float[Tensor, "b c2 h2 w2"]
) -> Float[Tensor, "b c h2 w2"]:
    """A map enlarged twice and padded with zeros to the size of another."""
    large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)
    rows, columns = like.shape[-2] - large.shape[-2], like.shape[-1] - large.shape[-1]
    return F.pad(large, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
