"""Contrastive regularisation: be like the clear picture and unlike the hazy one, as VGG-19 sees them.

AECR-Net (Wu et al., CVPR 2021), as DCMPNet uses it (arXiv 2403.01105).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from fairweather.losses.vgg import VGG

LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""

Maps = Sequence[Float[Tensor, "_ _ _ _"]]
"""A map of features for each level."""


def contrastive_terms(anchor: Maps, positive: Maps, negative: Maps | None = None) -> Float[Tensor, " levels"]:
    """mean |a - p| / (mean |a - n| + 1e-7) of each level; the numerator alone without a negative.

    >>> a, p, n = (torch.full((1, 1, 2, 2), value) for value in (1.0, 2.0, 5.0))
    >>> contrastive_terms([a], [p], [n])
    tensor([0.2500])
    """
    near = _distances(anchor, positive)
    return near if negative is None else near / (_distances(anchor, negative) + 1e-7)


def _distances(a: Maps, b: Maps) -> Float[Tensor, " levels"]:
    return torch.stack([(x - y).abs().mean() for x, y in zip(a, b, strict=True)])


class Projections(nn.Module):
    """The released code's quirk: three unlike random perceptrons at the last level, one for each picture.

    It never trains nor stores them, so that its heaviest term compares unrelated projections. Only to compare with.

    Args:
        seed: of the weights, uniform as PyTorch draws them.
    """

    def __init__(self, *, channels: int = 512, seed: int = 0) -> None:
        super().__init__()
        self.anchor, self.positive, self.negative = (_perceptron(channels) for _ in range(3))
        generator = Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(
                parameter, -1 / math.sqrt(channels), 1 / math.sqrt(channels), generator=generator
            )
        self.requires_grad_(False)


def _perceptron(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.Conv2d(channels, channels, 1))


class ContrastiveLoss(nn.Module):
    """The weighted sum of `contrastive_terms`; the gradient goes into the dehazed picture alone.

    Pictures are RGB in [-1, 1] and go into VGG as they are, without ImageNet's mean and deviation.

    Args:
        vgg: with one level for each weight.
        negatives: False leaves the hazy picture out (the paper's ablation): the numerators alone.
        projections: None by default; `Projections()` for the released code's last level.
    """

    def __init__(
        self,
        vgg: VGG,
        *,
        level_weights: tuple[float, ...] = LEVEL_WEIGHTS,
        negatives: bool = True,
        projections: Projections | None = None,
    ) -> None:
        super().__init__()
        if len(level_weights) != len(vgg.levels):
            raise ValueError(f"{len(level_weights)} level weights for the {len(vgg.levels)} levels of VGG")
        self.vgg, self.projections = vgg, projections
        self.level_weights, self.negatives = level_weights, negatives

    def forward(
        self,
        dehazed: Float[Tensor, "b 3 h w"],
        clear: Float[Tensor, "b 3 h w"],
        hazy: Float[Tensor, "b 3 h w"],
    ) -> Float[Tensor, ""]:
        terms = self.terms(dehazed, clear, hazy)
        return (terms * terms.new_tensor(self.level_weights)).sum()

    def terms(
        self,
        dehazed: Float[Tensor, "b 3 h w"],
        clear: Float[Tensor, "b 3 h w"],
        hazy: Float[Tensor, "b 3 h w"],
    ) -> Float[Tensor, " levels"]:
        """The terms before their weights."""
        anchor = self.vgg(dehazed)
        negative = None
        with torch.no_grad():
            positive = self.vgg(clear)
            if self.negatives:
                negative = self.vgg(hazy)
            if self.projections:
                positive[-1] = self.projections.positive(positive[-1])
                if negative:
                    negative[-1] = self.projections.negative(negative[-1])
        if self.projections:
            anchor[-1] = self.projections.anchor(anchor[-1])
        return contrastive_terms(anchor, positive, negative)
