"""Losses between a restored picture and the clear one, both in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fairweather.metrics import luma_bt601


def l1_loss(restored: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean absolute error.

    >>> l1_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    tensor(1.)
    """
    return (restored - target).abs().mean()


def psnr_loss(
    restored: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"], *, ceiling: float = 60.0
) -> Float[Tensor, ""]:
    """Minus the mean of the pictures' PSNR in dB (NAFNet, arXiv 2204.04676, trains with it).

    A picture that is nearly right counts as much as one that is far off, as in the averages that papers report. It
    levels out at `ceiling` dB, so that pictures without any fault do not drown the others.

    >>> psnr_loss(torch.full((1, 3, 2, 2), 0.1), torch.zeros(1, 3, 2, 2)).round(decimals=2)
    tensor(-20.)
    """
    mse = (restored - target).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(mse + 10 ** (-ceiling / 10)).mean()


def psnr_luma_loss(
    restored: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"], *, ceiling: float = 60.0
) -> Float[Tensor, ""]:
    """Mean of `psnr_loss` of the colours and of their luma alone (ITU-R BT.601), which deraining is scored in.

    >>> psnr_luma_loss(torch.full((1, 3, 2, 2), 0.1), torch.zeros(1, 3, 2, 2)).round(decimals=2)
    tensor(-20.6600)
    """
    luma = psnr_loss(luma_bt601(restored) / 255, luma_bt601(target) / 255, ceiling=ceiling)
    return (psnr_loss(restored, target, ceiling=ceiling) + luma) / 2


def fft_loss(restored: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean size of the complex differences between the pictures' spectra (our extension, as SymUNet has it).

    mean |F(restored) - F(target)|, F the two-dimensional Fourier transform, not normalised: errors that are spread over
    the picture count with its side, so that a weight of 0.1 is large beside a mean absolute error of 1/255.

    >>> fft_loss(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
    tensor(1.)
    """
    # Of the difference: the transform is linear, and one costs half of two.
    error: Tensor = torch.fft.rfft2(restored - target)
    return error.abs().mean()


PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1_loss,
    "psnr": psnr_loss,
    "psnr_luma": psnr_luma_loss,
}
"""By name, as recipes ask for them."""


def pixel_loss(
    restored: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    *,
    loss: str = "l1",
    ceiling: float = 60.0,
    fft: float = 0.0,
) -> Float[Tensor, ""]:
    """A loss of PIXEL_LOSSES, by PSNR up to `ceiling` dB, and `fft` times the difference of the spectra."""
    levels_out = {} if loss == "l1" else {"ceiling": ceiling}
    total = PIXEL_LOSSES[loss](restored, target, **levels_out)
    return total + fft * fft_loss(restored, target) if fft else total
