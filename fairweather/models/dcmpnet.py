"""DCMPNet: a dehazing network that looks at depth, and a depth network that looks at the dehazed picture.

Zhang, Zhou and Li, "Depth Information Assisted Collaborative Mutual Promotion Network for Single Image Dehazing",
CVPR 2024, arXiv 2403.01105. Its parts: MFM (fusion of two maps) and MSAAM (aggregation over scales) here, LEGM
(transformer blocks) in legm.py, the U-Net of the features in unet.py, and the depth network of dilated dense blocks
(DRDB) in depth_network.py.

Where we differ: nowhere in numbers with `dcmpnet()`. Weights of the published checkpoints that no output depends on
are not kept. Ours: `patch_size` (the network works on a reduced grid), `reconstruction="scattering"` (it corrects the
dark channel prior's guess of the haze, haze.py), and `dcmpnet_small()`, which uses both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.errors import WeightsError, unknown_name
from fairweather.models.depth_network import DRDB, DepthNetwork
from fairweather.models.folding import bias_of, convolution, merged, mixed, part, relus_in_place
from fairweather.models.haze import (
    WINDOWS,
    Haze,
    clearness_of,
    corrected_guess,
    dark_channel_prior,
    departure_of,
)
from fairweather.models.layers import affine, at_least_float32, concatenated, over_picture, pad_to_multiple
from fairweather.models.legm import LEGM
from fairweather.models.unet import UNet

Reconstruction = Literal["residual", "scattering"]
SMALLEST = 28
"""Least side of the padded input: at a quarter of it, windows of 8 must find pixels to mirror."""


class MFM(nn.Module):
    """Multi-scale fusion: two maps, mixed channel by channel with weights that sum to 1.

    >>> ones = torch.ones(1, 24, 2, 2)
    >>> torch.testing.assert_close(MFM(24)(ones, ones), ones)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 8, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * channels, 1, bias=False),
        )

    def forward(self, a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        (mean,) = over_picture(lambda: (_mean(a + b),))
        weights: Tensor = self.mlp(mean)
        first, second = torch.stack(weights.chunk(2, dim=1)).softmax(dim=0)  # b c 1 1 each
        mixed: Tensor = first * a + second * b
        return mixed


class MSAAM(nn.Module):
    """Multi-scale aggregation: three maps, one scalar weight each, to maps at half and at a quarter of the size.

    Args:
        channels: of the maps at full, half and a quarter of the size.
        hidden: of the layer that weighs the scales.
    """

    def __init__(self, channels: tuple[int, int, int], hidden: int = 128) -> None:
        super().__init__()
        total = sum(channels)
        self.weigh = nn.Sequential(nn.Conv2d(total, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 3, 1))
        self.to_half = nn.Conv2d(total, channels[1], 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(total, channels[2], 5, stride=4, padding=1)

    def forward(
        self,
        e1: Float[Tensor, "b c1 h w"],
        e2: Float[Tensor, "b c2 h//2 w//2"],
        e3: Float[Tensor, "b c3 h//4 w//4"],
    ) -> tuple[Float[Tensor, "b c2 h//2 w//2"], Float[Tensor, "b c3 h//4 w//4"]]:
        a1, a2, a3 = _weighed(self.weigh, e1, e2, e3)
        together = torch.cat(
            (
                e1 * a1,
                F.interpolate(e2 * a2, scale_factor=2, mode="nearest"),
                F.interpolate(e3 * a3, scale_factor=4, mode="nearest"),
            ),
            dim=1,
        )
        return _instance_norm(self.to_half(together)).relu(), _instance_norm(self.to_quarter(together)).relu()

    def inference_form(self) -> nn.Module:
        """Taps that read the same pixel of a map before it is enlarged are summed, and it is never enlarged."""
        return _MSAAM(self)


class _MSAAM(nn.Module):
    """The inference form of MSAAM: each map convolved at its own size."""

    half_bias: Tensor
    quarter_bias: Tensor

    def __init__(self, plain: MSAAM) -> None:
        super().__init__()
        self.weigh = plain.weigh
        relus_in_place(self.weigh)
        half, quarter = plain.to_half, plain.to_quarter
        c2 = half.out_channels
        c1 = half.in_channels - c2 - quarter.out_channels
        (half1, half2, half3), (quarter1, quarter2, quarter3) = (
            conv.weight.double().tensor_split((c1, c1 + c2), dim=1) for conv in (half, quarter)
        )
        # Places in the smaller map that the taps fall on, counted from one before the output's; at half the size the
        # smallest map has two outputs for each of its rows.
        even, odd = (0, 1, 1), (1, 1, 1)
        phases = [[_summed(half3, rows, columns) for columns in (even, odd)] for rows in (even, odd)]
        half3 = torch.stack([torch.stack(row, dim=1) for row in phases], dim=1).flatten(0, 2)
        self.to_half = nn.ModuleList(
            (
                convolution(half1, None, like=half),
                _unstrided(convolution(_summed(half2, even, even), None, like=half)),
                _unstrided(convolution(half3, None, like=half)),
            )
        )
        twos, four = (0, 1, 1, 2, 2), (0, 1, 1, 1, 1)
        self.to_quarter = nn.ModuleList(
            (
                convolution(quarter1, None, like=quarter),
                convolution(_summed(quarter2, twos, twos), None, like=half),
                _unstrided(convolution(_summed(quarter3, four, four), None, like=quarter)),
            )
        )
        for name, conv in (("half_bias", half), ("quarter_bias", quarter)):
            self.register_buffer(name, bias_of(conv)[:, None, None].to(conv.weight.dtype))

    def forward(
        self,
        e1: Float[Tensor, "b c1 h w"],
        e2: Float[Tensor, "b c2 h//2 w//2"],
        e3: Float[Tensor, "b c3 h//4 w//4"],
    ) -> tuple[Float[Tensor, "b c2 h//2 w//2"], Float[Tensor, "b c3 h//4 w//4"]]:
        a1, a2, a3 = _weighed(self.weigh, e1, e2, e3)
        half1, half2, half3 = (conv(e) for conv, e in zip(self.to_half, (e1, e2, e3), strict=True))
        half = _added(self.half_bias, half1, a1)
        half = _added(half, half2[..., :-1, :-1], a2)
        half = _added(half, F.pixel_shuffle(half3[..., :-1, :-1], 2), a3)
        quarter1, quarter2, quarter3 = (
            conv(e) for conv, e in zip(self.to_quarter, (e1, e2, e3), strict=True)
        )
        quarter = _added(self.quarter_bias, quarter1, a1)
        quarter = _added(quarter, quarter2, a2)
        quarter = _added(quarter, quarter3[..., :-1, :-1], a3)
        return _instance_norm(half).relu_(), _instance_norm(quarter).relu_()


def _added(
    total: Float[Tensor, "*shape"], x: Float[Tensor, "b c h w"], share: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, "b c h w"]:
    return torch.addcmul(total.to(x.dtype), x, share.to(x.dtype))


def _summed(
    weight: Float[Tensor, "o i k k"], rows: tuple[int, ...], columns: tuple[int, ...]
) -> Float[Tensor, "o i k2 k3"]:
    """A kernel whose taps are added up at the places that are given for each."""
    size = max(*rows, *columns) + 1
    down, across = (
        F.one_hot(torch.tensor(x, device=weight.device), size).to(weight) for x in (rows, columns)
    )
    return torch.einsum("oihw,hy,wx->oiyx", weight, down, across)


def _unstrided(conv: nn.Conv2d) -> nn.Conv2d:
    """At each place; its last row and column, which read behind the map, are to be cut off."""
    conv.stride = (1, 1)
    return conv


class Mixer(nn.Conv2d):
    """A 1x1 convolution of several maps; None stands for one that is left out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, *maps: Tensor | None) -> Float[Tensor, "b c h w"]:
        return super().forward(torch.cat([x for x in maps if x is not None], dim=1))


class _Mixer(Mixer):
    """The inference form of a mixer.

    Args:
        conv: on all maps or, with `ahead`, on all but the first, which the layer before has mixed.
    """

    def __init__(self, conv: nn.Conv2d, *, ahead: bool = False) -> None:
        super().__init__(conv.in_channels, conv.out_channels)
        self.weight, self.bias = conv.weight, conv.bias
        self.ahead = ahead

    def forward(self, *maps: Tensor | None) -> Float[Tensor, "b c h w"]:
        first, *rest = (x for x in maps if x is not None)
        if self.ahead:
            return first + super().forward(concatenated(*rest))
        return super().forward(concatenated(first, *rest))


def _unprojected(mixer: nn.Conv2d, first: int, project: nn.Conv2d) -> nn.Conv2d:
    """A mixer that takes what a projection reads instead of what it gives, from input channel `first` on."""
    end = first + project.out_channels
    projected = merged(project, part(mixer, first, end))
    before, _, behind = mixer.weight.double().tensor_split((first, end), dim=1)
    weight = torch.cat((before, projected.weight.double(), behind), dim=1)
    return convolution(weight, bias_of(mixer) + bias_of(projected), like=mixer)


def _mixed_ahead(conv: nn.Conv2d, mixer: nn.Conv2d) -> tuple[nn.Conv2d, _Mixer]:
    """A convolution that does the mixer's work on its result, and the mixer without that."""
    first = conv.out_channels
    own = convolution(mixer.weight.double()[:, :first], bias_of(mixer), like=mixer)
    return mixed(conv, own), _Mixer(part(mixer, first, mixer.in_channels), ahead=True)


def _weighed(weigh: nn.Module, *maps: Float[Tensor, "b _ _h _w"]) -> tuple[Float[Tensor, "b 1 1 1"], ...]:
    """A weight for each map, of the means of them all."""
    (means,) = over_picture(lambda: (torch.cat([_mean(e) for e in maps], dim=1),))
    weights: Tensor = weigh(means)
    return weights.chunk(len(maps), dim=1)


def _mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
    return at_least_float32(x).mean(dim=(2, 3), keepdim=True)


def _instance_norm(x: Float[Tensor, "b c h w"], eps: float = 1e-5) -> Float[Tensor, "b c h w"]:
    """Each channel of each picture to mean 0 and variance 1, by its own statistics also when evaluating."""
    variance, mean = over_picture(
        lambda: torch.var_mean(at_least_float32(x), dim=(2, 3), keepdim=True, correction=0)
    )
    scale = (variance + eps).rsqrt()
    return affine(x, scale, -mean * scale)


class Features(NamedTuple):
    """Projected U-Net features at a quarter, half and full size of the working grid; they are not cropped."""

    quarter: Tensor
    half: Tensor
    full: Tensor


class Dehazed(NamedTuple):
    """What DCMPNet makes of a hazy picture."""

    clear: Float[Tensor, "b 3 h w"]
    """Dehazed, RGB, nominally in [0, 1], not clamped."""
    depth: Float[Tensor, "b 1 h w"] | None
    """Relative disparity (large is near) that the depth network sees in `clear`; None without that network."""
    inner_depth: Float[Tensor, "b 1 h w"] | None
    """What the depth branch inside makes of the hazy picture; None without that branch."""
    features: Features | None
    """None in the inference form."""
    haze: Haze | None = None
    """What was taken away, at the picture's size; None with reconstruction="residual"."""
    departure: Tensor | None = None
    """(b,) how far that is from the dark channel prior's guess: mean square of the differences of log transmission and
    airlight."""


class DehazingNetwork(nn.Module):
    """The dehazing network, in the paper's own range [-1, 1]. `DCMPNet` documents the arguments."""

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int, int],
        depths: tuple[int, int, int, int, int],
        attention: tuple[int, int, int, int, int],
        heads: tuple[int, int, int, int, int],
        ratios: tuple[float, float, float, float, float],
        window: int,
        unet_width: int,
        depth_channels: tuple[int, int, int, int],
        growth: int,
        patch_size: int,
        reconstruction: Reconstruction,
        legm_attention: bool,
        mfm: bool,
        msaam: bool,
        depth_branch: bool,
        decoder_entry: Literal["m2", "e3"],
        restraint: float,
    ) -> None:
        super().__init__()
        stages = {
            "widths": widths,
            "depths": depths,
            "attention": attention,
            "heads": heads,
            "ratios": ratios,
        }
        for name, values in stages.items():
            if len(values) != 5:
                raise ValueError(f"{name}={values}: expected 5 values, one for each LEGM")
        if min(*widths, *depths, *depth_channels, unet_width, growth, window, patch_size) < 1:
            raise ValueError("widths, depths, channels and sizes must be 1 or more")
        if reconstruction not in get_args(Reconstruction):
            raise unknown_name("reconstruction", reconstruction, get_args(Reconstruction))
        if decoder_entry not in ("m2", "e3"):
            raise unknown_name("decoder_entry", decoder_entry, ("m2", "e3"))
        if widths[0] != widths[4] or widths[1] != widths[3]:
            raise ValueError(f"widths={widths}: the last two must mirror the first two, for the skips")
        if not 0 < restraint <= 1:
            raise ValueError(f"restraint is {restraint}, expected more than 0 and at most 1")
        self.patch_size, self.reconstruction, self.decoder_entry = patch_size, reconstruction, decoder_entry
        self.restraint = restraint
        w1, w2, w3 = widths[:3]
        gain = (8 * sum(depths)) ** -0.25

        def legm(i: int) -> LEGM:
            return LEGM(
                widths[i],
                depth=depths[i],
                attention=attention[i] if legm_attention else 0,
                heads=heads[i],
                ratio=ratios[i],
                window=window,
                gain=gain,
            )

        self.unet = UNet(unet_width)
        self.projects = True
        self.project1 = nn.Conv2d(2 * unet_width, w3, 1)
        self.project2 = nn.Conv2d(unet_width, w2, 1)
        self.project3 = nn.Conv2d(3, w1, 1)
        self.depth_branch = DepthNetwork(channels=depth_channels, growth=growth) if depth_branch else None
        self.depth_dense = DRDB(1, growth) if depth_branch else None
        p = patch_size
        self.least = p * max(SMALLEST, 4 * (window - 1))
        self.patch_embed = nn.Conv2d(3, w1, p + 2, stride=p, padding=1, padding_mode="reflect")
        guessed = (len(WINDOWS) + 6) * (reconstruction == "scattering")
        self.mix1 = Mixer(2 * w1 + depth_branch + guessed, w1)
        self.legm1 = legm(0)
        self.merge1 = nn.Conv2d(w1, w2, 2, stride=2)
        self.mix2 = Mixer(2 * w2, w2)
        self.legm2 = legm(1)
        self.merge2 = nn.Conv2d(w2, w3, 2, stride=2)
        self.mix3 = Mixer(2 * w3, w3)
        self.legm3 = legm(2)
        self.msaam = MSAAM((w1, w2, w3)) if msaam else None
        self.mix_d1 = Mixer(w3 * (1 + msaam), w3)
        self.split1 = nn.Conv2d(w3, 4 * w2, 1)
        self.skip2 = nn.Conv2d(w2, w2, 1)
        self.mfm1 = MFM(w2) if mfm else None
        self.mix4 = Mixer(2 * w2, w2)
        self.legm4 = legm(3)
        self.mix_d2 = Mixer(w2 * (1 + msaam), w2)
        self.split2 = nn.Conv2d(w2, 4 * w1, 1)
        self.skip1 = nn.Conv2d(w1, w1, 1)
        self.mfm2 = MFM(w1) if mfm else None
        self.mix5 = Mixer(2 * w1, w1)
        self.legm5 = legm(4)
        out = 3 * p * p if reconstruction == "residual" else 7
        self.patch_unembed = nn.Conv2d(w1, out, 3, padding=1, padding_mode="reflect")
        if reconstruction == "scattering":  # training starts at the guess
            nn.init.zeros_(self.patch_unembed.weight)
            nn.init.zeros_(self.patch_unembed.bias)  # type: ignore[arg-type]

    def smallest_map(self, side: int) -> int:
        """Places along a side of the U-Net's smallest map, of a picture with sides of so many pixels."""
        p = self.patch_size
        return max(math.ceil(side / (4 * p)) * 4 * p, self.least) // p // 16

    def forward(self, hazy: Float[Tensor, "b 3 h w"]) -> Dehazed:
        """A hazy picture in [-1, 1] to the dehazed one in [-1, 1]; depth is left to the depth network."""
        height, width = hazy.shape[-2:]
        p = self.patch_size
        x0, grid = self._working(hazy)
        d1, d2, d3 = self._features(grid)
        start = [self.patch_embed(x0), d3]
        guess: Haze | None = None
        if self.reconstruction == "scattering":
            with torch.autocast(x0.device.type, enabled=False):  # logarithms and quotients need float32
                guess = dark_channel_prior((at_least_float32(grid) + 1) / 2)
                seen = guess._replace(log_transmission=guess.log_transmission[:, 1:2]).removed(
                    (at_least_float32(grid) + 1) / 2
                )
            start += [*guess, seen.clamp(-0.5, 1.5)]
        depth: Tensor | None = None
        if self.depth_branch is not None and self.depth_dense is not None:
            depth = self.depth_branch(grid)[..., : grid.shape[-2], : grid.shape[-1]]
            start.append(self.depth_dense(depth))
        e1 = self.legm1(self.mix1(*start))
        e2 = self.legm2(self.mix2(self.merge1(e1), d2))
        m2: Tensor = self.merge2(e2)
        e3 = self.legm3(self.mix3(m2, d1))
        # The released network enters its decoder with m2: the deepest stage gets there through MSAAM alone.
        deepest = m2 if self.decoder_entry == "m2" else e3
        half, quarter = self.msaam(e1, e2, e3) if self.msaam is not None else (None, None)
        y = F.pixel_shuffle(self.split1(self.mix_d1(quarter, deepest)), 2)
        y = _fused(self.mfm1, y, self.skip2(e2))
        y = self.legm4(self.mix4(y, d2))
        y = F.pixel_shuffle(self.split2(self.mix_d2(half, y)), 2)
        y = _fused(self.mfm2, y, self.skip1(e1))
        y = self.legm5(self.mix5(y, d3))
        r: Tensor = self.patch_unembed(y).to(x0.dtype)
        haze: Haze | None = None
        departure: Tensor | None = None
        if guess is None:
            out = (F.pixel_shuffle(r, p) + x0)[..., :height, :width]
        else:
            with torch.autocast(x0.device.type, enabled=False):
                size = (x0.shape[-2], x0.shape[-1])
                correction = at_least_float32(r)
                corrected = corrected_guess(guess, correction * self.restraint, clearness_of(correction))
                departure = departure_of(guess, corrected)
                haze = corrected.resized(size).cropped(height, width)
                out = 2 * haze.removed((at_least_float32(hazy) + 1) / 2).to(x0.dtype) - 1
        if depth is not None and p > 1:
            depth = F.interpolate(depth, scale_factor=p, mode="bilinear")
        return Dehazed(
            clear=out,
            depth=None,
            inner_depth=None if depth is None else depth[..., :height, :width],
            features=Features(d1, d2, d3) if self.projects else None,
            haze=haze,
            departure=departure,
        )

    def features(self, x: Float[Tensor, "b 3 h w"]) -> Features:
        """The U-Net's features of a picture in [-1, 1], as `forward` gives them, without the rest."""
        return self._features(self._working(x)[1])

    def _working(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 3 h2 w2"], Float[Tensor, "b 3 h3 w3"]]:
        """A picture padded to the sizes that are worked on, and the grid of it, of one place for each patch."""
        x0 = pad_to_least(pad_to_multiple(x, 4 * self.patch_size), self.least)
        return x0, F.avg_pool2d(x0, self.patch_size) if self.patch_size > 1 else x0

    def _features(self, grid: Float[Tensor, "b 3 h w"]) -> Features:
        u1, u2, u3 = self.unet(grid)
        return Features(self.project1(u1), self.project2(u2), self.project3(u3))

    def inference_form(self) -> nn.Module:
        """Each 1x1 convolution goes into the linear map before or behind it; U-Net features are not projected."""
        w1, w2, w3 = self.project3.out_channels, self.project2.out_channels, self.project1.out_channels
        self.patch_embed, self.mix1 = _mixed_ahead(
            self.patch_embed, _unprojected(self.mix1, w1, self.project3)
        )
        self.merge1, self.mix2 = _mixed_ahead(self.merge1, _unprojected(self.mix2, w2, self.project2))
        mix3 = _unprojected(self.mix3, w3, self.project1)
        if self.decoder_entry == "e3":
            self.merge2, self.mix3 = _mixed_ahead(self.merge2, mix3)
        else:  # the decoder needs what merge2 gives
            self.mix3 = _Mixer(mix3)
        self.mix4 = _Mixer(_unprojected(self.mix4, w2, self.project2))
        self.mix5 = _Mixer(_unprojected(self.mix5, w1, self.project3))
        self.mix_d1, self.split1 = _Mixer(merged(self.mix_d1, self.split1)), nn.Identity()  # type: ignore[assignment]
        self.mix_d2, self.split2 = _Mixer(merged(self.mix_d2, self.split2)), nn.Identity()  # type: ignore[assignment]
        self.project1 = self.project2 = self.project3 = nn.Identity()  # type: ignore[assignment]
        self.projects = False
        return self


def _fused(
    mfm: MFM | None, y: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """The decoder's map added to its fusion with the skip; without MFM to the skip itself."""
    return y + (skip if mfm is None else mfm(y, skip))


def pad_to_least(x: Float[Tensor, "b c h w"], least: int) -> Float[Tensor, "b c h2 w2"]:
    """Continue the last row and column until no side is shorter than `least`."""
    bottom, right = max(0, least - x.shape[-2]), max(0, least - x.shape[-1])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


class DCMPNet(nn.Module):
    """The dehazing network and the depth network that is trained beside it.

    Args:
        widths: channels of the five LEGM stages. depths: their blocks. attention: how many of these, from the
            last, have attention. heads: of the attention. ratios: of the MLPs. window: side of a window.
        unet_width: channels of the U-Net at full size.
        depth_channels, growth: of both depth networks, the branch inside and the one on the dehazed picture.
        patch_size: work on a grid reduced by this factor (ours; 1 in the paper).
        reconstruction: "residual", y = x + r (paper); "scattering", the network corrects the transmission and the
            airlight that the dark channel prior finds, and y is the scattering model solved for the clear picture
            (ours).
        legm_attention, mfm, msaam, depth_branch, depth_network: False leaves the part out, for ablations.
        decoder_entry: "m2" as released, or "e3", the deepest stage itself.
        restraint: how much of its correction of the prior the network does (ours, for "scattering"): few scenes teach
            more than holds for others, and what is shipped does less than it learnt.
    """

    multiple_of: int

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int, int],
        depths: tuple[int, int, int, int, int],
        attention: tuple[int, int, int, int, int],
        heads: tuple[int, int, int, int, int],
        ratios: tuple[float, float, float, float, float],
        window: int = 8,
        unet_width: int,
        depth_channels: tuple[int, int, int, int],
        growth: int,
        patch_size: int = 1,
        reconstruction: Reconstruction = "residual",
        legm_attention: bool = True,
        mfm: bool = True,
        msaam: bool = True,
        depth_branch: bool = True,
        depth_network: bool = True,
        decoder_entry: Literal["m2", "e3"] = "m2",
        restraint: float = 1.0,
    ) -> None:
        super().__init__()
        self.multiple_of = 4 * patch_size
        self.dehazing = DehazingNetwork(
            widths=widths,
            depths=depths,
            attention=attention,
            heads=heads,
            ratios=ratios,
            window=window,
            unet_width=unet_width,
            depth_channels=depth_channels,
            growth=growth,
            patch_size=patch_size,
            reconstruction=reconstruction,
            legm_attention=legm_attention,
            mfm=mfm,
            msaam=msaam,
            depth_branch=depth_branch,
            decoder_entry=decoder_entry,
            restraint=restraint,
        )
        self.depth_network = (
            DepthNetwork(channels=depth_channels, growth=growth, reduce=patch_size) if depth_network else None
        )

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Dehazed:
        """A hazy RGB picture in [0, 1], any size, to the dehazed one and its depth."""
        found: Dehazed = self.dehazing(2 * x - 1)
        clear = found.clear * 0.5 + 0.5
        return found._replace(clear=clear, depth=self.depth(clear))

    def clear(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The dehazed picture alone, without the cost of its depth."""
        found: Dehazed = self.dehazing(2 * x - 1)
        return found.clear * 0.5 + 0.5

    def haze(self, x: Float[Tensor, "b 3 h w"]) -> Haze:
        """The haze of a picture in [0, 1], with reconstruction="scattering"; it may be found in a small copy."""
        found: Dehazed = self.dehazing(2 * x - 1)
        if found.haze is None:
            raise ValueError("reconstruction='residual' finds no haze, only the clear picture")
        return found.haze

    def depth(self, clear: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"] | None:
        """Disparity of a clear (or dehazed) picture in [0, 1]; None without a depth network."""
        if self.depth_network is None:
            return None
        disparity: Tensor = self.depth_network(2 * clear - 1)
        return disparity[..., : clear.shape[-2], : clear.shape[-1]]


# Variants --------------------------------------------------------------------------------------------------------


dcmpnet = partial(
    DCMPNet,
    widths=(24, 48, 96, 48, 24),
    depths=(8, 8, 8, 4, 4),
    attention=(2, 4, 6, 0, 0),
    heads=(2, 4, 6, 1, 1),
    ratios=(2.0, 4.0, 4.0, 2.0, 2.0),
    unet_width=64,
    depth_channels=(24, 48, 96, 128),
    growth=32,
)
"""As released (17.3 M parameters, and 2.0 M of the depth network)."""

dcmpnet_small = partial(
    DCMPNet,
    widths=(24, 48, 64, 48, 24),
    depths=(2, 4, 6, 2, 2),
    attention=(1, 2, 4, 0, 0),
    heads=(2, 4, 4, 1, 1),
    ratios=(2.0, 2.0, 3.0, 2.0, 2.0),
    unet_width=16,
    depth_channels=(24, 48, 64, 96),
    growth=12,
    patch_size=4,
    reconstruction="scattering",
    decoder_entry="e3",
)
"""Ours, for a CPU: works at a quarter of the size, so that it sees much of a picture at little cost."""


# Published names -------------------------------------------------------------------------------------------------

DEAD = ("conv11.", "conv22.", "conv_fu.", "ccc.", "fuse_conv1.")
"""In published files, without influence on any output."""

_NAMES: Sequence[tuple[str, str]] = (
    (r"^patch_(merge|split)(\d)\.proj(\.0)?", r"\1\2"),
    (r"^patch_(un)?embed\.proj(\.0)?", r"patch_\1embed"),
    (r"\.norm1\.meta1", ".norm.rescale"),
    (r"\.norm1\.meta2", ".norm.rebias"),
    (r"\.norm1\.", ".norm."),
    (r"\.attn\.attn\.meta", ".attention.position_bias.mlp"),
    (r"\.attn\.conv", ".local"),
    (r"\.attn\.V", ".value"),
    (r"\.attn\.QK", ".query_key"),
    (r"\.attn\.proj", ".proj"),
    (r"\.mlp\.mlp", ".mlp"),
    (r"^conv(\d)\.", r"mix\1."),
    (r"^conv_d(\d)\.", r"mix_d\1."),
    (r"^d(\d)_conv", r"project\1"),
    (r"^ca\.", "msaam.weigh."),
    (r"^fuse_conv2\.0", "msaam.to_half"),
    (r"^fuse_conv3\.0", "msaam.to_quarter"),
    (r"^Unet1\.inc\.conv", "unet.entry"),
    (r"^Unet1\.outc", "unet.exit"),
    (r"^drdb\.", "depth_dense."),
)


def published_dcmpnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published dehazing checkpoint (names as they are, or under `dehaze_net.`) and, where it is there too, the
    depth network (under `depth_net.`), by our names.

    Raises:
        WeightsError: for the depth network alone, and for the variant of before July 2024, whose code could not run.
    """
    depth = {k.removeprefix("depth_net."): v for k, v in state.items() if k.startswith("depth_net.")}
    rest = {k.removeprefix("dehaze_net."): v for k, v in state.items() if not k.startswith("depth_net.")}
    if is_depth_alone(rest) or (depth and not rest):
        raise WeightsError(
            "this is DCMPNet's depth network alone; give the dehazing network with it: both files to models convert, "
            "or from_published('dcmpnet', {'dehaze_net': ..., 'depth_net': ...})"
        )
    mixer = rest.get("conv2.weight")
    if mixer is not None and mixer.ndim == 4 and mixer.shape[1] % 2:
        raise WeightsError(
            f"conv2.weight of this checkpoint takes {mixer.shape[1]} channels: it is DCMPNet's variant of before July "
            "2024, which is incompatible (its own code could not run); expected 96 channels"
        )
    ours = {
        f"dehazing.{_our_name(k)}": v
        for k, v in rest.items()
        if not k.startswith(DEAD) and not k.endswith("relative_positions")
    }
    return ours | {f"depth_network.{_depth_name(k)}": v for k, v in depth.items()}


def is_depth_alone(state: Mapping[str, Any]) -> bool:
    """Whether a published file holds the tensors of the depth network, by their bare names."""
    return any(name.removeprefix("module.") == "final_conv.weight" for name in state)


def published_arguments(state: dict[str, Tensor]) -> dict[str, bool]:
    """Constructor arguments that a mapped checkpoint asks for: the dehazing file alone has no depth network."""
    return {"depth_network": any(k.startswith("depth_network.") for k in state)}


def _our_name(name: str) -> str:
    if name.startswith("dpn."):
        return "depth_branch." + _depth_name(name.removeprefix("dpn."))
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    name = re.sub(r"^Unet1\.down(\d)\.mpconv\.1\.conv", lambda m: f"unet.downs.{int(m[1]) - 1}", name)
    name = re.sub(r"^Unet1\.up(\d)\.conv\.conv", lambda m: f"unet.ups.{int(m[1]) - 1}", name)
    return _dense_name(name)


def _depth_name(name: str) -> str:
    layer = re.match(r"DRDB_layer(\d)\.", name)
    if layer:
        number = int(layer[1]) - 1
        name = f"{'encoder' if number < 4 else 'decoder'}.{number % 4}." + name[layer.end() :]
    else:
        name = re.sub(r"^conv(\d)", lambda m: f"downs.{int(m[1]) - 1}", name)
        name = re.sub(r"^up(\d)", lambda m: f"ups.{int(m[1]) - 1}", name)
        name = name.replace("final_conv", "final")
    return _dense_name(name)


def _dense_name(name: str) -> str:
    """Names inside a DRDB."""
    if name.startswith(("encoder.", "decoder.", "depth_dense.")):
        name = re.sub(r"Dcov(\d)", lambda m: f"dense.{int(m[1]) - 1}", name)
        name = re.sub(r"\.conv\.", ".mix.", name)
    return name
