"""Crops, reductions and flips that treat every picture of a pair alike."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

Augment = Literal["none", "mirror", "half_turn", "dihedral"]
"""mirror leaves the sky above (haze); half_turn keeps the direction of lines (rain); dihedral is all eight flips and
quarter turns."""


def vary_tones(
    pictures: list[Float[Tensor, "3 h w"]], amount: float, generator: Generator
) -> list[Float[Tensor, "3 h w"]]:
    """Every picture with the same random gamma, brightness and colour balance, as of another camera or light.

    Args:
        amount: gamma is log-uniform within exp(-amount / 3) and exp(amount), since photographs have deep shadows, and
            the gain of each channel within a third of that; values above 1 are clipped.

    >>> vary_tones([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)], 0.0, Generator())[1].flatten()
    tensor([1., 1., 1.])
    """
    drawn = torch.rand(4, generator=generator)
    gamma = torch.exp(amount * (drawn[0] * 4 - 1) / 3)
    gain = torch.exp(amount / 3 * (drawn[1:] * 2 - 1)).view(3, 1, 1)
    return [(gain * picture.clamp_min(0) ** gamma).clamp(0, 1) for picture in pictures]


BLACK = 0.01
"""Share of a picture's pixels that are black once it is blackened."""


def blacken(picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The picture with its levels spread downwards, so that its darkest pixels are black in some channel.

    Scanned film has grey blacks, a digital photograph of a room has not: who learns haze from the former takes grey
    blacks for clear.

    >>> blacken(torch.tensor([0.2, 0.6, 1.0]).expand(3, 1, 3))[0, 0]
    tensor([0.0000, 0.5000, 1.0000])
    """
    darkest = picture.amin(dim=0).flatten()
    black = darkest.kthvalue(1 + int(BLACK * (darkest.numel() - 1))).values.clamp_max(0.5)
    return (picture - black).clamp_min(0) / (1 - black)


def random_crop(
    pictures: list[Shaped[Tensor, "_ h w"]], size: int, generator: Generator, *, edges: float = 0.0
) -> list[Shaped[Tensor, "_ s1 s2"]]:
    """The same size x size window of every picture; a shorter side is kept whole and extended by `extend`.

    Args:
        edges: along each side the window snaps to one of its two ends with this probability, times size over side.
            Otherwise few windows show the picture's edge (0.1 in DCMPNet's release).
    """
    height, width = pictures[0].shape[-2:]
    top, left = (_start(side, size, generator, edges) for side in (height, width))
    return [extend(p[..., top : top + size, left : left + size], size) for p in pictures]


def _start(side: int, size: int, generator: Generator, edges: float) -> int:
    """Where a window begins along a side."""
    last = max(0, side - size)
    # Without `edges` nothing more is drawn, so that recipes from before it see the patches that they saw.
    if edges and float(torch.rand((), generator=generator)) < edges * size / side:
        return last * int(torch.randint(2, (), generator=generator))
    return int(torch.randint(last + 1, (), generator=generator))


def extend(picture: Shaped[Tensor, "c h w"], size: int) -> Shaped[Tensor, "c h2 w2"]:
    """Mirror a picture to the right and downwards until both sides have at least `size` pixels."""
    for axis in (-2, -1):
        while (short := size - picture.shape[axis]) > 0:
            mirror = picture.flip(axis).narrow(axis, 0, min(short, picture.shape[axis]))
            picture = torch.cat([picture, mirror], dim=axis)
    return picture


def reduce(picture: Float[Tensor, "c h w"], size: int) -> Float[Tensor, "c s s"]:
    """A window at size x size; each pixel is a mean over the area that it covers, tapering off (antialiased)."""
    return F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)[0]


def reduce_known(values: Float[Tensor, "1 h w"], size: int) -> Float[Tensor, "1 s s"]:
    """As `reduce`, of known values (above 0) alone; 0 where not more than half of the area is known.

    >>> reduce_known(torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]] * 2]), 2)
    tensor([[[0.5000, 0.0000],
             [0.5000, 0.0000]]])
    """
    known = reduce((values > 0).float(), size)
    return torch.where(known > 0.5, reduce(values, size) / known.clamp_min(0.5), 0.0)


def augment(
    pictures: list[Float[Tensor, "_ s s"]], how: Augment, generator: Generator
) -> list[Float[Tensor, "_ s s"]]:
    """Flip and turn all pictures alike, with equal chances."""
    if how == "none":
        return pictures
    horizontal, vertical, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
    if how == "half_turn":
        vertical, transpose = horizontal, False
    if how == "mirror":
        vertical = transpose = False
    if horizontal:
        pictures = [p.flip(-1) for p in pictures]
    if vertical:
        pictures = [p.flip(-2) for p in pictures]
    return [p.transpose(-1, -2) for p in pictures] if transpose else pictures
