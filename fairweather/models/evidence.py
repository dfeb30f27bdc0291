"""What the denoiser and the derainer would change in a picture, as numbers: evidence of what ails it.

A derainer that was taught to leave clear pictures alone and changes this one has seen rain. The judge
(`models/judge.py`) weighs this evidence against what the picture looks like.

>>> evidence(torch.rand(3, 40, 50), {task: lambda x: x for task in WITNESSES}).shape == (EVIDENCE,)
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.models.pieces import details, fine

WITNESSES = ("denoise", "derain")
"""The tasks whose restorers give evidence. The dehazer is not heard: it knows its scenes by heart."""
BLOCK = 16
"""Side of the blocks that a change is looked at in, in pixels."""
CHANGE, STRUCTURE = 12, 10
"""How many numbers say what a restorer changed, and what a piece looks like."""
EVIDENCE = len(WITNESSES) * 3 * CHANGE + 2 * STRUCTURE
"""How many there are of a picture: of changes mean, most and least over its pieces, of structure mean and most."""


def evidence(
    picture: Float[Tensor, "3 h w"], restore: Mapping[str, Callable[[Tensor], Tensor]]
) -> Float[Tensor, " evidence"]:
    """The numbers, on scales on which they vary by some units; all are finite.

    Args:
        picture: in [0, 1], as an 8-bit file holds it.
        restore: for each of WITNESSES what restores a picture (3, h, w), to one of the same size in [0, 1].
    """
    pieces = [piece[0] for piece in details(picture[None])]
    found: list[Tensor] = []
    for task in WITNESSES:
        changed = torch.stack([_change(piece, restore[task](piece)) for piece in pieces])
        found += [changed.mean(dim=0), changed.amax(dim=0), changed.amin(dim=0)]
    looks = torch.stack([_structure(piece) for piece in pieces])
    found += [looks.mean(dim=0), looks.amax(dim=0)]
    return torch.cat(found)


def _decibels(x: Tensor) -> Tensor:
    """Mean square in decibels; what 8 bit cannot show is as nothing."""
    return _level(x.square().mean())


def _level(power: Tensor) -> Tensor:
    return 10 * power.clamp_min(1e-7).log10()


def _across(x: Float[Tensor, "*c h w"]) -> Tensor:
    """How much more it varies along rows than along columns, in decibels: streaks of rain do."""
    return _decibels(_steps(x, -1)) - _decibels(_steps(x, -2))


def _steps(x: Float[Tensor, "*c h w"], dim: int) -> Float[Tensor, "*c h2 w2"]:
    return x.diff(dim=dim) if x.shape[dim] > 1 else torch.zeros_like(x)


def _change(before: Float[Tensor, "3 h w"], after: Float[Tensor, "3 h w"]) -> Float[Tensor, " 12"]:
    """How much was changed, in fine structure and in the coarse, where, in what direction and colours."""
    change = after - before
    small = fine(change[None])[0]
    light = change.mean(dim=0)
    height, width = light.shape
    blocks = F.adaptive_avg_pool2d(
        change.square().mean(dim=0)[None], (max(1, height // BLOCK), max(1, width // BLOCK))
    )
    spread = _shares(_level(blocks), 0.1, 0.5, 0.9)
    thin = small.mean(dim=0)
    one_sided = thin.pow(3).mean() / (thin.square().mean() + 1e-7).pow(1.5)  # as drops and specks are
    return torch.stack(
        (
            _decibels(change),
            _decibels(small),
            _decibels(change - small),
            20 * change.mean(),
            *spread,
            _decibels(light),
            _decibels(change - light),
            10 * ((change > 0).float().mean() - 0.5),
            one_sided,
            _across(light),
        )
    )


def _structure(piece: Float[Tensor, "3 h w"]) -> Float[Tensor, " 10"]:
    """Light, contrast, gradients and three octaves of detail of a piece, which blur takes away from the finest on."""
    steepness = _steps(piece, -1).abs().mean(dim=0)
    gradients = _shares(steepness, 0.5, 0.9, 0.99).clamp_min(1e-4).log10()
    light = piece.mean(dim=0)
    octaves = []
    for _ in range(3):
        height, width = light.shape
        half = F.adaptive_avg_pool2d(light[None], (-(-height // 2), -(-width // 2)))[0]
        coarse = F.interpolate(half[None, None], (height, width), mode="bilinear")[0, 0]
        octaves.append(_decibels(light - coarse))
        light = half
    return torch.stack(
        (
            5 * piece.mean(),
            10 * (1 + piece.std(correction=0)).log(),
            *(10 * gradients),
            octaves[0],
            octaves[0] - octaves[1],
            octaves[1] - octaves[2],
            _decibels(fine(piece[None])),
            _across(piece),
        )
    )


def _shares(x: Tensor, *shares: float) -> Tensor:
    """The values that these shares of all are below."""
    return x.flatten().quantile(torch.tensor(shares))
