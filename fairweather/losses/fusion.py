"""What a fused picture should keep of its two sources, and what its refinement should find in it.

NiteDR: "Nighttime Image De-Raining with Cross-View Sensor Cooperative Learning for Dynamic Driving Scenes", IEEE TMM
26 (2024), arXiv 2402.18172; the fusion loss is U2Fusion's, the refinement's is that of SCI. In the formulas

    F, V, L  lumas of the fused, the visible and the infrared picture, (b, 1, h, w) in [0, 1]
    w_v, w_l how much each source counts, by the information measured in it; they sum to 1
    u, i     the input of a stage of the refinement and the illumination that it finds, (b, 3, h, w)

Where we differ: the release measures the information and then takes 0.5 and 0.5, measures it in the picture itself
instead of VGG-16's maps (`vgg=None`), and leaves SSIM the range of 8 bits, in which its constants drown the picture
(`data_range=255`). Minimised so, the plain average of the two pictures is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.losses.vgg import VGG
from fairweather.metrics.ssim import ssim_map

LAST_LEVELS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""After the last convolution of each block of VGG-16: the maps that information is measured in."""


def detail(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The mean of a pixel's eight neighbours minus the pixel; zeros around the map.

    >>> detail(torch.ones(1, 1, 3, 3))[0, 0, 1]
    tensor([-0.3750,  0.0000, -0.3750])
    """
    channels = maps.shape[1]
    kernel = maps.new_full((channels, 1, 3, 3), 1 / 8)
    kernel[:, :, 1, 1] = -1
    return F.conv2d(maps, kernel, padding=1, groups=channels)


@torch.no_grad()
def information(luma: Float[Tensor, "b 1 h w"], vgg: VGG | None = None) -> Float[Tensor, "b maps"]:
    """Mean squared detail of each of VGG-16's maps of a picture, or of the picture itself."""
    maps = vgg(luma.expand(-1, 3, -1, -1)) if vgg else [luma]
    return torch.stack([detail(m).square().mean(dim=(1, 2, 3)) for m in maps], dim=1)


def source_weights(
    visible: Float[Tensor, "b 1 h w"],
    infrared: Float[Tensor, "b 1 h w"],
    *,
    vgg: VGG | None = None,
    c: float = 3200.0,
) -> Float[Tensor, "b 2"]:
    """(w_v, w_l) of each picture: softmax of the two sources' mean information, divided by `c`; no gradient.

    With the release's 3200 they differ from 0.5 by less than 1e-6.
    """
    measured = [information(source, vgg).mean(dim=1) for source in (visible, infrared)]
    return torch.softmax(torch.stack(measured, dim=1) / c, dim=1)


class FusionTerms(NamedTuple):
    """How unlike its sources a fused picture is, before factors."""

    ssim: Float[Tensor, ""]
    """w_v (1 - SSIM(F, V)) + w_l (1 - SSIM(F, L))"""
    mse: Float[Tensor, ""]
    """w_v MSE(F, V) + w_l MSE(F, L)"""
    edges: Float[Tensor, ""]
    """mean |grad F - G|, where G is at each pixel the steeper of grad V and grad L (our extension, as in PIAFusion)."""
    light: Float[Tensor, ""]
    """mean |M(F) - 0.8 M(max(V, L))|, M the mean over a neighbourhood (our extension): as bright as the brighter
    source, but for room for the detail of the other."""


def fusion_terms(
    fused: Float[Tensor, "b 1 h w"],
    visible: Float[Tensor, "b 1 h w"],
    infrared: Float[Tensor, "b 1 h w"],
    weights: Float[Tensor, "b 2"],
    *,
    data_range: float = 1.0,
) -> FusionTerms:
    """The parts of the fusion loss; the weights' mean over the batch counts, as released.

    Args:
        data_range: of SSIM; the smaller it is, the fainter the detail that counts. 255 is the release's.
    """
    sources = (visible, infrared)
    of_source = weights.mean(dim=0)
    unlike = torch.stack([1 - _similarity(fused, source, data_range) for source in sources])
    apart = torch.stack([F.mse_loss(fused, source) for source in sources])
    return FusionTerms(
        ssim=(of_source * unlike).sum(),
        mse=(of_source * apart).sum(),
        edges=_edges(fused, *sources),
        light=_light(fused, *sources),
    )


def _similarity(
    x: Float[Tensor, "b 1 h w"], y: Float[Tensor, "b 1 h w"], data_range: float
) -> Float[Tensor, ""]:
    """SSIM in valid windows; a picture that is less than unlike counts as unlike."""
    return ssim_map(x, y, data_range).flatten(1).mean(dim=1).clamp(min=0).mean()


def _edges(
    fused: Float[Tensor, "b 1 h w"], visible: Float[Tensor, "b 1 h w"], infrared: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    off = []
    for axis in (-2, -1):
        f, v, i = (x.diff(dim=axis) for x in (fused, visible, infrared))
        off.append((f - torch.where(v.abs() >= i.abs(), v, i)).abs().mean())
    return torch.stack(off).mean()


BRIGHTNESS = 0.8
"""Share of the brighter source's light that a fused picture has."""
SURROUNDINGS = 17
"""Side of the neighbourhood that light is compared in, in pixels."""


def _light(
    fused: Float[Tensor, "b 1 h w"], visible: Float[Tensor, "b 1 h w"], infrared: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    both = torch.cat((fused, torch.maximum(visible, infrared)), dim=1)
    mean = F.avg_pool2d(both, SURROUNDINGS, stride=4, padding=SURROUNDINGS // 2, count_include_pad=False)
    return (mean[:, :1] - BRIGHTNESS * mean[:, 1:]).abs().mean()


NEIGHBOURS = (
    (1, 0),
    (0, 1),
    (1, 1),
    (1, -1),
    (2, 0),
    (0, 2),
    (2, 1),
    (2, -1),
    (1, 2),
    (1, -2),
    (2, 2),
    (2, -2),
)
"""Rows and columns to the pixels that the illumination should be like."""


class RefinementTerms(NamedTuple):
    """The parts of the refinement's loss, each summed over its stages, before factors."""

    fidelity: Float[Tensor, ""]
    """MSE(i, u)"""
    smoothness: Float[Tensor, ""]
    """2 sum over NEIGHBOURS d of w_d |i(p + d) - i(p)|, w_d from how alike u is in p and p + d."""


def refinement_terms(
    inputs: Sequence[Float[Tensor, "b 3 h w"]],
    illumination: Sequence[Float[Tensor, "b 3 h w"]],
    *,
    per_pixel: bool = False,
) -> RefinementTerms:
    """Compare what each stage saw with what it found; gradients reach both.

    Args:
        per_pixel: w_d = exp(-50 (u(p + d) - u(p))^2) of each pixel, as was meant: edges may stay. As released, the
            factor is 0.005 and the mean over the picture counts, so that nearly everything is smoothed alike.
    """
    stages = list(zip(inputs, illumination, strict=True))
    fidelity = torch.stack([F.mse_loss(i, u) for u, i in stages]).sum()
    smoothness = torch.stack([_smoothness(u, i, per_pixel) for u, i in stages]).sum()
    return RefinementTerms(fidelity, smoothness)


def _smoothness(
    u: Float[Tensor, "b 3 h w"], i: Float[Tensor, "b 3 h w"], per_pixel: bool
) -> Float[Tensor, ""]:
    height, width = u.shape[-2:]
    total = u.new_zeros(())
    for dy, dx in NEIGHBOURS:
        here = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        there = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
        du, di = (x[..., *there] - x[..., *here] for x in (u, i))
        alike = torch.exp((-50 if per_pixel else -0.005) * du.square().sum(dim=1, keepdim=True))
        total = total + 2 * ((alike * di.abs()).mean() if per_pixel else alike.mean() * di.abs().mean())
    return total
