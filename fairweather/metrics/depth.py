"""Errors of an estimated depth map. Its unit and offset are unknown, so it is fitted to the true one first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fairweather.errors import DataError, UsageError


class DepthScores(NamedTuple):
    """Mean relative error (0 is perfect), and the share of pixels that are within a factor of 1.25 (1 is)."""

    abs_rel: float
    delta_125: float


@torch.no_grad()
def depth_scores(
    disparity: Float[Tensor, "1 h w"], depth: Float[Tensor, "1 h w"], known: Bool[Tensor, "1 h w"]
) -> DepthScores:
    """Score an estimated disparity against the true depth, whatever the estimate's scale and shift.

    Over the known pixels, in float64 (fitted as in MiDaS, Ranftl et al., TPAMI 2022):

        s, t    = argmin sum (s p + t - 1 / d*)^2       for the estimate p and the true depth d*
        d       = 1 / max(s p + t, 1 / max d*)          so nothing lies behind the farthest true pixel
        abs_rel = mean |d - d*| / d*
        delta   = share of pixels with max(d / d*, d* / d) < 1.25      (both: Eigen et al., NeurIPS 2014)

    Args:
        disparity: inverse depth in any unit, large is near. s may come out negative, so a map with near and far
            exchanged is not told apart.
        depth: > 0 where known, in any unit.
        known: the pixels that count.

    Raises:
        UsageError: if the shapes differ. DataError: if no pixel is known, or a known depth is not positive.

    >>> depth = torch.tensor([[[1.0, 4.0]]])  # a flat guess becomes the mean disparity 0.625, depth 1.6
    >>> abs_rel, delta_125 = depth_scores(torch.zeros(1, 1, 2), depth, depth > 0)
    >>> round(abs_rel, 6), delta_125
    (0.6, 0.0)
    """
    if not disparity.shape == depth.shape == known.shape:
        raise UsageError(
            f"disparity is {tuple(disparity.shape)}, depth {tuple(depth.shape)} and known {tuple(known.shape)}; "
            "depth errors need equal shapes"
        )
    p, d_true = disparity[known].double(), depth[known].double()
    if not len(d_true):
        raise DataError("the depth map has no known pixel, so there is nothing to compare with; leave it out")
    if not d_true.min() > 0:
        raise DataError(f"a known depth is {d_true.min():g}; expected above 0, mark the others as unknown")
    d = 1 / _fitted(p, 1 / d_true).clamp(min=1 / d_true.max())
    error = (d - d_true).abs() / d_true
    ratio = torch.maximum(d / d_true, d_true / d)
    return DepthScores(error.mean().item(), (ratio < 1.25).double().mean().item())


def _fitted(p: Float[Tensor, " n"], to: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """s p + t nearest to `to` in least squares; a constant p has no scale and is only shifted."""
    # Both centred: a constant p leaves only rounding errors, and these must not meet the mean of `to`.
    p, rest = p - p.mean(), to - to.mean()
    variance = p.square().mean()
    scale = (p * rest).mean() / variance if variance > 0 else 0.0
    return to.mean() + scale * p
