"""Peak signal-to-noise ratio, one number a picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fairweather.errors import UsageError


@torch.no_grad()
def psnr(
    output: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"], data_range: float = 1.0
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB, over all pixels and channels of each picture.

    PSNR = 10 log10(data_range^2 / MSE), in float64; no border is cut off and nothing is rounded or clamped.
    Pictures are not pooled: the mean over a data set is the mean of these numbers.

    Args:
        output: the pictures to judge, in [0, data_range].
        target: the true pictures, same shape.
        data_range: the largest value a picture can have.

    Returns:
        float64, inf where the two pictures are identical.

    Raises:
        UsageError: if the shapes differ.

    >>> psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))
    tensor([20.0000], dtype=torch.float64)
    """
    if output.shape != target.shape:
        raise UsageError(
            f"output is {tuple(output.shape)} and target {tuple(target.shape)}; PSNR needs equal shapes"
        )
    mse = (output.double() - target.double()).square().flatten(1).mean(1)  # b
    return 10 * torch.log10(data_range**2 / mse)
