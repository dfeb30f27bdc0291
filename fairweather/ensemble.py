"""Self-ensemble: one network sees a picture in several orientations, and what it makes of them is averaged.

A network trained on turned and mirrored patches does the same to a turned picture up to small errors of its own, which
the mean has less of. After "geometric self-ensemble" of EDSR (arXiv 1707.02921), which takes all eight.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

COUNTS = (1, 2, 4, 8)
"""As it is; also upside down; also mirrored; also on its side."""


def ensembled(
    forward: Callable[..., Tensor], *inputs: Float[Tensor, "b _ h w"], count: int
) -> Float[Tensor, "b _ h w"]:
    """The mean of what `forward` gives for so many orientations of its inputs, each turned back.

    Args:
        count: one of COUNTS.

    >>> import torch
    >>> x = torch.rand(1, 3, 4, 6)
    >>> torch.allclose(ensembled(torch.square, x, count=8), x.square())  # which is the same in all orientations
    True
    >>> ensembled(lambda x: x.cumsum(3), torch.tensor([[[[1.0, 0.0]]]]), count=2)
    tensor([[[[1.0000, 0.5000]]]])
    """
    mean = forward(*inputs)
    if count > 1:
        mean = mean.float() / count
    for turns, mirrored in ORIENTATIONS[1:count]:
        y = forward(*(turned(x, turns, mirrored) for x in inputs))
        mean += turned(y, turns if mirrored else -turns, mirrored) / count
    return mean


ORIENTATIONS = ((0, False), (2, False), (0, True), (2, True), (1, False), (3, False), (1, True), (3, True))
"""Quarter turns, and whether mirrored after them; those that keep a picture's height and width come first."""


def turned(x: Float[Tensor, "*b h w"], turns: int, mirrored: bool) -> Float[Tensor, "*b h2 w2"]:
    """Turned by so many quarters, then mirrored left to right; what is mirrored comes back by the same again."""
    x = x.rot90(turns, (-2, -1)) if turns else x
    return x.flip(-1) if mirrored else x
