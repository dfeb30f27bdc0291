"""FusionNet, which fuses a visible picture with an infrared one; the second half of NiteDR.

NiteDR: "Nighttime Image De-Raining with Cross-View Sensor Cooperative Learning for Dynamic Driving Scenes", IEEE TMM
26 (2024), arXiv 2402.18172. The luma of the two pictures is fused by a dense convolutional network (DenseNet, that of
U2Fusion), the chroma is the visible picture's, and a small network finds the illumination that the result is divided
by (Refinement, that of SCI): it can brighten and never darken.

Where we differ: colours go to luma and chroma and back by one formula and its exact inverse, at the precision of the
picture. The release rounds to 8 bits and comes back by the formula of the limited range, which stretches contrast by
1.16 and saturation by 1.14; `official=True` does so too. The figure shows the adjusted infrared picture entering the
first stage of the refinement; as in the released code, it enters from the second on, in training alone.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import without_batch_norms

GREY = 128 / 255
"""Chroma of what has no colour: 128 of 8 bits, so that published weights meet the values that they know."""


def rgb_to_ycrcb(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Luma and chroma Y, Cr, Cb of the full range, [0, 1] as RGB; the formula of JPEG, in OpenCV's order.

    Y = 0.299 R + 0.587 G + 0.114 B,  Cr = 0.713 (R - Y) + 128/255,  Cb = 0.564 (B - Y) + 128/255

    >>> rgb_to_ycrcb(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.2990, 1.0018, 0.3333])
    """
    r, g, b = rgb.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return torch.stack((y, 0.713 * (r - y) + GREY, 0.564 * (b - y) + GREY), dim=1)


def ycrcb_to_rgb(ycrcb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The inverse of `rgb_to_ycrcb`; nothing is clamped.

    >>> x = torch.rand(1, 3, 4, 4)
    >>> torch.testing.assert_close(ycrcb_to_rgb(rgb_to_ycrcb(x)), x)
    """
    y, cr, cb = ycrcb.unbind(1)
    r = y + (cr - GREY) / 0.713
    b = y + (cb - GREY) / 0.564
    return torch.stack((r, (y - 0.299 * r - 0.114 * b) / 0.587, b), dim=1)


def official_rgb_to_ycrcb(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """As `rgb_to_ycrcb` on pictures of 8 bits, in OpenCV's arithmetic of whole numbers.

    >>> official_rgb_to_ycrcb(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten() * 255
    tensor([ 76., 255.,  85.])
    """
    r, g, b = (rgb.clamp(0, 1) * 255).round().int().unbind(1)
    half = 1 << 13
    y = (4899 * r + 9617 * g + 1868 * b + half) >> 14
    cr = (11682 * (r - y) + (128 << 14) + half) >> 14
    cb = (9241 * (b - y) + (128 << 14) + half) >> 14
    return torch.stack((y, cr, cb), dim=1).clamp(0, 255).to(rgb.dtype) / 255


def official_ycrcb_to_rgb(ycrcb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The formula of the limited range, as the release applies it to the full range; nothing is clamped.

    >>> official_ycrcb_to_rgb(torch.tensor([1.0, GREY, GREY]).view(1, 3, 1, 1)).flatten()
    tensor([1.0910, 1.0910, 1.0910])
    """
    y, cr, cb = ycrcb.unbind(1)
    y, cr, cb = 1.164 * (y - 16 / 255), cr - GREY, cb - GREY
    return torch.stack((y + 1.596 * cr, y - 0.392 * cb - 0.813 * cr, y + 2.017 * cb), dim=1)


def _conv(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, padding=1)


def _leaky(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(_conv(cin, cout), nn.LeakyReLU(0.2, inplace=True))


class DenseNet(nn.Module):
    """Fuses two lumas; each layer sees what all before it found.

    Args:
        width: channels that each layer adds.
        num_layers: layers after the entry.
        exit_widths: channels on the way from all that was found to one luma.
    """

    def __init__(self, *, width: int, num_layers: int, exit_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.entry = _leaky(2, width)
        self.layers = nn.ModuleList(_leaky(i * width, width) for i in range(1, num_layers + 1))
        found = (num_layers + 1) * width
        self.exit = nn.Sequential(
            *(_leaky(a, b) for a, b in zip((found, *exit_widths), exit_widths, strict=False)),
            _conv((found, *exit_widths)[-1], 1),
        )

    def forward(
        self, visible: Float[Tensor, "b 1 h w"], infrared: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 1 h w"]:
        """Two lumas in [-1, 1] to one in [-1, 1]."""
        y: Tensor = self.entry(torch.cat((visible, infrared), dim=1))
        for layer in self.layers:
            y = torch.cat((y, layer(y)), dim=1)
        return torch.tanh(self.exit(y))


def _normed(cin: int, cout: int) -> list[nn.Module]:
    return [_conv(cin, cout), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]


class BalanceModule(nn.Module):
    """Finds the illumination of a picture, which is never below the picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(_conv(6, 6), nn.ReLU(inplace=True))
        self.conv = nn.Sequential(*_normed(6, 6))
        self.out_conv = nn.Sequential(_conv(6, 3), nn.Sigmoid())

    def forward(
        self, picture: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 h w"]:
        """RGB in [0, 1] and the infrared picture's Y, Cr, Cb in [-1, 1] to the illumination in [0.0001, 1]."""
        y: Tensor = self.in_conv(torch.cat((picture, infrared), dim=1))
        y = y + self.conv(y)
        s: Tensor = self.out_conv(y)
        return (s + picture).clamp(1e-4, 1)

    def inference_form(self) -> nn.Module:
        """The batch norm goes into its convolution."""
        self.conv = without_batch_norms(self.conv)
        return self


class AdjustModule(nn.Module):
    """What the infrared picture adds to the next stage's input; the same layers are passed three times."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(*_normed(3, 16))
        self.convs = nn.Sequential(*_normed(16, 16), *_normed(16, 16))
        self.out_conv = nn.Sequential(_conv(16, 3), nn.Sigmoid())

    def forward(self, infrared: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Y, Cr, Cb in [-1, 1] to values in [-2, 1]."""
        y: Tensor = self.in_conv(infrared)
        for _ in range(3):
            y = y + self.convs(y)
        s: Tensor = self.out_conv(y)
        return infrared - s


class Cascade(NamedTuple):
    """What each stage of the refinement saw and found; the loss compares the first two."""

    inputs: list[Tensor]
    """u: the fused picture, then the last stage's result with the adjusted infrared picture."""
    illumination: list[Tensor]
    """i, in [0.0001, 1]."""
    refined: list[Tensor]
    """r, the fused picture divided by i, in [0, 1]."""
    adjusted: list[Tensor]
    """What the infrared picture adds to the next stage's input, in [-2, 1]."""


class Refinement(nn.Module):
    """Brightens a fused picture by the illumination that it finds in it.

    Args:
        adjust: also build AdjustModule, which the cascade alone needs; False for weights without it.
    """

    def __init__(self, *, adjust: bool = True) -> None:
        super().__init__()
        self.balance = BalanceModule()
        self.adjust = AdjustModule() if adjust else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.02)

    def forward(
        self, fused: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 h w"]:
        """RGB of nominally [0, 1] and the infrared picture's Y, Cr, Cb in [-1, 1] to RGB in [0, 1]."""
        i: Tensor = self.balance(fused, infrared)
        return (fused / i).clamp(0, 1)

    def cascade(
        self, fused: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 3 h w"], *, stages: int = 3
    ) -> Cascade:
        """The stages that training compares; the first is `forward`. Gradients pass from each stage to those before.

        Raises:
            ValueError: if it was built without AdjustModule.
        """
        if self.adjust is None:
            raise ValueError("the cascade needs AdjustModule; build the network with adjust=True")
        out = Cascade([], [], [], [])
        u = fused
        for _ in range(stages):
            i: Tensor = self.balance(u, infrared)
            r = (fused / i).clamp(0, 1)
            a: Tensor = self.adjust(infrared)  # each time anew: its batch norms count the calls
            for found, values in zip(out, (u, i, r, a), strict=True):
                found.append(values)
            u = r + a
        return out


class Fusion(NamedTuple):
    """What FusionNet makes of two pictures."""

    fused: Float[Tensor, "b 3 h w"]
    """RGB, nominally in [0, 1] but not clamped."""
    refined: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1], nowhere darker than `fused` within that range."""


class FusionNet(nn.Module):
    """Fuses a clean visible picture with an infrared one and refines the result.

    Args:
        width: channels that each dense layer adds.
        num_layers: dense layers.
        exit_widths: channels on the way from the dense layers to the fused luma.
        adjust: also build what training's cascade needs; False for weights without it.
        official: 8-bit pictures and the faulty colours of the release; not differentiable by the pictures.

    >>> net = FusionNet(width=4, num_layers=1, exit_widths=(4,))
    >>> net(torch.rand(1, 3, 7, 3), torch.rand(1, 1, 7, 3)).refined.shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(
        self,
        *,
        width: int,
        num_layers: int,
        exit_widths: tuple[int, ...],
        adjust: bool = True,
        official: bool = False,
    ) -> None:
        super().__init__()
        self.multiple_of = 1
        self.official = official
        self.dense = DenseNet(width=width, num_layers=num_layers, exit_widths=exit_widths)
        self.refinement = Refinement(adjust=adjust)

    def forward(self, visible: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 1 h w"]) -> Fusion:
        """Two aligned pictures in [0, 1] and of one size, any size."""
        fused = self.fuse(visible, infrared)
        return Fusion(fused, self.refinement(fused, self._ycrcb(infrared.expand_as(visible))))

    def fuse(
        self, visible: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 3 h w"]:
        """The fused picture alone."""
        seen, heat = self._ycrcb(visible), self._ycrcb(infrared.expand_as(visible))
        luma: Tensor = self.dense(seen[:, :1], heat[:, :1])
        to_rgb = official_ycrcb_to_rgb if self.official else ycrcb_to_rgb
        return to_rgb((torch.cat((luma, seen[:, 1:]), dim=1) + 1) / 2)

    def _ycrcb(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """In [-1, 1]."""
        return 2 * (official_rgb_to_ycrcb if self.official else rgb_to_ycrcb)(rgb) - 1


# Variants --------------------------------------------------------------------------------------------------------


fusionnet = partial(FusionNet, width=44, num_layers=5, exit_widths=(128, 64, 32))
"""FusionNet as published (0.7 M parameters)."""
fusionnet_small = partial(FusionNet, width=16, num_layers=5, exit_widths=(32, 16))
"""Ours, for a CPU (0.1 M parameters, a tenth of the time)."""


# Published names -------------------------------------------------------------------------------------------------

_PUBLISHED = {
    r"^(fusion_model|refine_model)\.": "",
    r"^conv_1\.": "dense.entry.",
    r"^dense_layers\.(\d+)\.conv\.": r"dense.layers.\1.",
    r"^sub\.": "dense.exit.",
    r"^(balance|adjust)\.": r"refinement.\1.",
}


def published_fusionnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published FusionNet by our names: the dictionaries `fusion_model` and `refine_model` of its file, in one.

    What the release stores twice, under the names `blocks`, is kept once.
    """
    return {_rename(name): value for name, value in state.items() if ".blocks." not in name}


def published_arguments(state: dict[str, Tensor]) -> dict[str, bool]:
    """Weights for testing alone lack AdjustModule (by our names)."""
    return {"adjust": any("refinement.adjust." in name for name in state)}


def _rename(name: str) -> str:
    for pattern, ours in _PUBLISHED.items():
        name = re.sub(pattern, ours, name)
    return name
