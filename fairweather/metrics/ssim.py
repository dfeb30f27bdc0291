"""Structural similarity, one number a picture. Wang et al., IEEE TIP 2004 (equation 13)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.errors import UsageError

SIGMA = 1.5
K1, K2 = 0.01, 0.03

Border = Literal["valid", "replicate", "zero"]
Window = Literal["gaussian", "uniform"]
WINDOWS: dict[Window, int] = {"gaussian": 11, "uniform": 7}
"""Sides of the windows."""


@torch.no_grad()
def ssim(
    output: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    data_range: float = 1.0,
    border: Border = "valid",
    window: Window = "gaussian",
) -> Float[Tensor, " b"]:
    """Structural similarity, per channel, mean of the map.

    SSIM(x, y) = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2)),
    C1 = (0.01 data_range)^2, C2 = (0.03 data_range)^2; the moments mx, sx^2, sxy ... are those of a window. In float64.

    Args:
        output: the pictures to judge, in [0, data_range].
        target: the true pictures, same shape.
        data_range: the largest value a picture can have.
        border: "valid" keeps only windows inside the picture, as MATLAB and scikit-image do; "replicate" and
            "zero" continue the picture by its edge or by black, so that the map has the picture's size.
        window: "gaussian" is the paper's, 11x11 with sigma 1.5 and biased moments (scikit-image: gaussian_weights=True
            and use_sample_covariance=False); "uniform" is scikit-image's default, 7x7 with the moments of a sample.

    Returns:
        float64; nan with border "valid" where a side is shorter than the window, because no window fits.

    Raises:
        UsageError: if the shapes differ.

    >>> ssim(torch.full((1, 3, 16, 16), 0.5), torch.ones(1, 3, 16, 16))  # (1 + C1) / (1.25 + C1)
    tensor([0.8000], dtype=torch.float64)
    """
    return ssim_map(output.double(), target.double(), data_range, border, window).flatten(1).mean(1)


def ssim_map(
    output: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    data_range: float = 1.0,
    border: Border = "valid",
    window: Window = "gaussian",
) -> Float[Tensor, "b c h2 w2"]:
    """What `ssim` is the mean of, with gradients and in the precision that comes in; arguments and errors as there."""
    if output.shape != target.shape:
        raise UsageError(
            f"output is {tuple(output.shape)} and target {tuple(target.shape)}; SSIM needs equal shapes"
        )
    side = WINDOWS[window]
    if border == "valid" and min(output.shape[-2:]) < side:
        return output.new_full((*output.shape[:2], 1, 1), float("nan"))
    x, y = (_bordered(p, border, side // 2) for p in (output, target))
    weights = _weights(window).to(x)
    mean_x, mean_y = _mean(x, weights), _mean(y, weights)
    count = side**2
    of_sample = count / (count - 1) if window == "uniform" else 1
    var_x = of_sample * (_mean(x * x, weights) - mean_x**2)
    var_y = of_sample * (_mean(y * y, weights) - mean_y**2)
    cov = of_sample * (_mean(x * y, weights) - mean_x * mean_y)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return luminance * structure


def _bordered(x: Float[Tensor, "b c h w"], border: Border, half: int) -> Float[Tensor, "b c h2 w2"]:
    """Continue the picture by half a window on each side, unless only whole windows count."""
    if border == "valid":
        return x
    return F.pad(x, (half, half, half, half), mode="replicate" if border == "replicate" else "constant")


def _weights(window: Window) -> Float[Tensor, " s"]:
    """Of one axis; they sum to 1."""
    at = torch.arange(WINDOWS[window], dtype=torch.float64) - WINDOWS[window] // 2
    weights = torch.exp(-(at**2) / (2 * SIGMA**2)) if window == "gaussian" else torch.ones_like(at)
    return weights / weights.sum()


def _mean(x: Float[Tensor, "b c h w"], weights: Float[Tensor, " s"]) -> Float[Tensor, "b c h-s+1 w-s+1"]:
    """Weighted mean over each window that lies inside the picture; one axis after the other."""
    b, c, h, w = x.shape
    x = x.reshape(b * c, 1, h, w)
    x = F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return x.reshape(b, c, *x.shape[-2:])
