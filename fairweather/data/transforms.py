"""Crops and flips that treat every picture of a pair alike."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

Augment = Literal["none", "half_turn", "dihedral"]
"""half_turn keeps the direction of lines (rain); dihedral is all eight flips and quarter turns."""


def random_crop(
    pictures: list[Shaped[Tensor, "c h w"]], size: int, generator: Generator
) -> list[Shaped[Tensor, "c s1 s2"]]:
    """The same size x size window of every picture; a shorter side is kept whole and extended by `extend`."""
    height, width = pictures[0].shape[-2:]
    top = int(torch.randint(max(1, height - size + 1), (), generator=generator))
    left = int(torch.randint(max(1, width - size + 1), (), generator=generator))
    return [extend(p[..., top : top + size, left : left + size], size) for p in pictures]


def extend(picture: Shaped[Tensor, "c h w"], size: int) -> Shaped[Tensor, "c h2 w2"]:
    """Mirror a picture to the right and downwards until both sides have at least `size` pixels."""
    for axis in (-2, -1):
        while (short := size - picture.shape[axis]) > 0:
            mirror = picture.flip(axis).narrow(axis, 0, min(short, picture.shape[axis]))
            picture = torch.cat([picture, mirror], dim=axis)
    return picture


def augment(
    pictures: list[Float[Tensor, "c s s"]], how: Augment, generator: Generator
) -> list[Float[Tensor, "c s s"]]:
    """Flip and turn all pictures alike, with equal chances."""
    if how == "none":
        return pictures
    horizontal, vertical, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
    if how == "half_turn":
        vertical, transpose = horizontal, False
    if horizontal:
        pictures = [p.flip(-1) for p in pictures]
    if vertical:
        pictures = [p.flip(-2) for p in pictures]
    return [p.transpose(-1, -2) for p in pictures] if transpose else pictures
