"""What ails a picture: haze, rain, rain at night, noise, blur, several at once, or nothing.

One small ConStyle encoder (IRConStyle, arXiv 2402.15784) looks at a reduced copy of the whole picture, for what fills
the scene, another at the fine structure of pieces at full size, for what is in the pixels; a linear layer on their
vectors judges. The paper's encoder only guides a restorer: the judgement is ours.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.constyle import ConStyle
from fairweather.models.layers import reduced

FINDINGS = ("haze", "rain", "night rain", "noise", "blur")
"""What can be found, in the order of the logits."""
WHOLE, DETAIL = 192, 128
"""Longest side of the reduced copy, and side of the pieces, in pixels."""
PIECES = 2
"""Pieces along each side of a picture that is large enough, the same distance apart."""


COARSE = 8
"""Pixels that are averaged for what is taken away from a piece: what is left is noise, streaks and edges."""


class Judge(nn.Module):
    """A picture to one logit for each of FINDINGS; sigmoid gives calibrated probabilities.

    Args:
        far, near: widths of the encoders of the reduced copy and of the pieces, see `ConStyle`.

    >>> Judge(far=4, near=4).eval()(torch.rand(2, 3, 75, 53)).shape
    torch.Size([2, 5])
    """

    multiple_of = 1

    def __init__(self, *, far: int, near: int) -> None:
        super().__init__()
        # Two, because their batch norms meet different pictures.
        self.far, self.near = ConStyle(far), ConStyle(near)
        self.head = nn.Linear(2 * 128, len(FINDINGS))

    def forward(self, x: Float[Tensor, "b 3 h w"], *, whole: int = WHOLE) -> Float[Tensor, "b findings"]:
        logits: Tensor = self.head(self.vector(x, whole=whole))
        return logits

    def vector(self, x: Float[Tensor, "b 3 h w"], *, whole: int = WHOLE) -> Float[Tensor, "b 256"]:
        """ConStyle's vector of the picture reduced to `whole` pixels, and the mean of those of its pieces."""
        pieces = details(x)
        far: Tensor = self.far(reduced(x, whole)).vector
        near: Tensor = self.near(fine(torch.cat(pieces))).vector
        near = near.view(len(pieces), len(x), -1).mean(dim=0)
        return torch.cat((far, near), dim=1)


def details(x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 3 h2 w2"]]:
    """Pieces at full resolution, spread evenly; a side that is shorter than a piece gives one.

    >>> len(details(torch.zeros(1, 3, 800, 600))), len(details(torch.zeros(1, 3, 100, 600)))
    (4, 2)
    """
    rows, columns = (_starts(side) for side in x.shape[-2:])
    return [x[..., top : top + DETAIL, left : left + DETAIL] for top in rows for left in columns]


def fine(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Each pixel's difference to the light around it, enlarged to be about as large as colours are.

    >>> bool(fine(torch.full((1, 3, 20, 21), 0.5)).abs().max() < 1e-5)
    True
    """
    height, width = x.shape[-2:]
    coarse = F.adaptive_avg_pool2d(x, (max(1, height // COARSE), max(1, width // COARSE)))
    return 8 * (x - F.interpolate(coarse, (height, width), mode="bilinear"))


def _starts(side: int) -> list[int]:
    spare = side - DETAIL
    if spare <= 0:
        return [0]
    count = min(PIECES, math.ceil(side / DETAIL))
    return [round(spare * (i + 0.5) / count) for i in range(count)]


judge_small = partial(Judge, far=8, near=16)
"""Ours, for a CPU (1.5 M parameters)."""
