"""The pieces of a picture that are looked at where the whole would take too long, and their fine structure."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DETAIL = 128
"""Side of the pieces, in pixels."""
PIECES = 2
"""Pieces along each side of a picture that is large enough, the same distance apart."""
COARSE = 8
"""Pixels that are averaged for what is taken away from a piece: what is left is noise, streaks and edges."""


def details(x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 3 h2 w2"]]:
    """Pieces at full resolution, spread evenly; a side that is shorter than a piece gives one.

    >>> len(details(torch.zeros(1, 3, 800, 600))), len(details(torch.zeros(1, 3, 100, 600)))
    (4, 2)
    """
    rows, columns = (_starts(side) for side in x.shape[-2:])
    return [x[..., top : top + DETAIL, left : left + DETAIL] for top in rows for left in columns]


def fine(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Each pixel's difference to the light around it.

    >>> bool(fine(torch.full((1, 3, 20, 21), 0.5)).abs().max() < 1e-6)
    True
    """
    height, width = x.shape[-2:]
    coarse = F.adaptive_avg_pool2d(x, (max(1, height // COARSE), max(1, width // COARSE)))
    return x - F.interpolate(coarse, (height, width), mode="bilinear")


def _starts(side: int) -> list[int]:
    spare = side - DETAIL
    if spare <= 0:
        return [0]
    count = min(PIECES, math.ceil(side / DETAIL))
    return [round(spare * (i + 0.5) / count) for i in range(count)]
