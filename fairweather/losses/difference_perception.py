"""Difference perception: DCMPNet's two networks teach each other where to look (arXiv 2403.01105).

Where the dehazed picture is still unlike the clear one, the depth network is taught harder; where the depth of the
dehazed picture is still unlike the teacher's, the dehazing network is. In the formulas

    K  `dehazed`, as the network gives it (not clamped), and J, `clear`: RGB in [-1, 1], not in [0, 1]
    P  `predicted`, the depth network's view of K, and T, `teacher`: disparity (large is near), T in (0, 1]

and "mean" is over all elements, the batch included. What those losses are can be read in three ways:

    paper     what the abstract asks for: both weightings, in an alternating optimisation. The weights carry no
              gradient, sum to 1 over a picture, and the weighted loss is a sum over it: as large as the plain mean.
              Step the depth network on its loss with K detached, then the dehazing network on its own. Our default;
              the reduction is our choice, the paper's equations were not at hand.
    early     what the authors' first loss modules did: both weightings, but as a mean over the picture.
    official  what the released script does: one weighting, gradients into both networks at once.

With weights that sum to 1, a mean over h x w pixels makes the weighted term 1 / (h w) of the plain one: in `early` and
`official` difference perception has next to no effect. They are here to compare with.
The contrastive term, which all three add to the dehazing loss, is in losses/contrastive.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Weighting = Literal["signed", "absolute", "none"]
"""signed: of the difference as it is, as published; a pixel that is too dark counts less than a right one.
absolute: of its size, relative to the mean size in the picture; our extension. Published weights are nearly even once
differences are a few hundredths, these are not.
none: leaves the weighted terms out, an ablation."""


class DehazingLoss(NamedTuple):
    """`total` is what to minimise; the parts are as they are before their factors, 0 where a reading has none."""

    total: Float[Tensor, ""]
    plain: Float[Tensor, ""]
    """mean |K - J|"""
    weighted: Float[Tensor, ""]
    """|K - J| weighted by the difference in depth."""
    consistency: Float[Tensor, ""]
    """mean |P - T|, which reaches the dehazing network through the depth network."""


class DepthLoss(NamedTuple):
    """`total` is what to minimise; the parts are as they are before their factors."""

    total: Float[Tensor, ""]
    plain: Float[Tensor, ""]
    """mean |P - T|"""
    weighted: Float[Tensor, ""]
    """|P - T| weighted by the difference in the picture."""


# ---------------------------------------------------------------- weights


def image_difference_weights(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    *,
    known: Bool[Tensor, "b 1 h w"] | None = None,
    weighting: Weighting = "signed",
) -> Float[Tensor, "b 1 h w"]:
    """Softmax of K - J over channels and pixels, summed over channels.

    Args:
        known: pixels to share the weight among; the others get 0.

    Returns:
        weights that sum to 1 in each sample, to 0 in a sample without any known pixel, and to 0 with "none".

    >>> image_difference_weights(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))[0, 0, 0]
    tensor([0.2500, 0.2500])
    """
    return _softmax(dehazed - clear, known, weighting).sum(1, keepdim=True)


def depth_difference_weights(
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
    *,
    known: Bool[Tensor, "b 1 h w"] | None = None,
    weighting: Weighting = "signed",
) -> Float[Tensor, "b 1 h w"]:
    """Softmax of P - T over pixels; arguments and result as of `image_difference_weights`.

    >>> depth_difference_weights(torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1, 1, 1, 2))
    tensor([[[[0.2689, 0.7311]]]])
    """
    return _softmax(predicted - teacher, known, weighting)


def _softmax(
    difference: Float[Tensor, "b c h w"], known: Bool[Tensor, "b 1 h w"] | None, weighting: Weighting
) -> Float[Tensor, "b c h w"]:
    if weighting == "none":
        return torch.zeros_like(difference)
    known = (_everywhere(difference) if known is None else known).expand_as(difference)
    if weighting == "absolute":
        difference = difference.abs()
        total = (difference * known).sum((1, 2, 3), keepdim=True)
        mean = total / known.sum((1, 2, 3), keepdim=True).clamp_min(1)
        difference = difference / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    logits = difference.masked_fill(
        ~known, torch.finfo(difference.dtype).min
    )  # -inf: NaN where none is known
    return logits.flatten(1).softmax(1).view_as(difference) * known


def _everywhere(like: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b 1 h w"]:
    return torch.ones_like(like[:, :1], dtype=torch.bool)


# ---------------------------------------------------------------- the paper's reading


def paper_dehazing_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
    *,
    known: Bool[Tensor, "b 1 h w"] | None = None,
    weighting: Weighting = "signed",
    consistency: float = 0.0,
) -> DehazingLoss:
    """mean |K - J| + mean over the batch of sum W |K - J|, W = softmax(P - T), |K - J| a mean over channels.

    Args:
        known: where the teacher's depth is known; everywhere by default. A sample without any has no weighted part,
            but counts in the mean over the batch, so that the others are not weighted up for it.
        consistency: factor of mean |P - T| over known pixels, the released script's 0.1, say. With 0 no gradient
            reaches `predicted`.

    >>> picture, depth = torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 2, 2)
    >>> loss = paper_dehazing_loss(picture, picture + 0.5, depth, depth)
    >>> float(loss.plain), float(loss.weighted), float(loss.total)
    (0.5, 0.5, 1.0)
    """
    weights = depth_difference_weights(predicted.detach(), teacher, known=known, weighting=weighting)
    error = (dehazed - clear).abs()
    plain = error.mean()
    weighted = (weights * error.mean(1, keepdim=True)).sum() / len(error)
    apart = mean_over(predicted - teacher, known) if consistency else plain.new_zeros(())
    return DehazingLoss(plain + weighted + consistency * apart, plain, weighted, apart)


def paper_depth_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
    *,
    known: Bool[Tensor, "b 1 h w"] | None = None,
    weighting: Weighting = "signed",
) -> DepthLoss:
    """mean |P - T| + mean over the batch of sum W |P - T|, W = softmax(K - J) summed over channels.

    The gradient goes into `predicted` alone; it stays in the depth network if `predicted` was made of a detached K.

    Args:
        known: where the teacher's depth is known; everywhere by default. Means are over known pixels, and over
            samples that have any; the loss is 0 where there is none.

    >>> picture, depth = torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 2, 2)
    >>> float(paper_depth_loss(picture, picture, depth, 0.5 * depth).total)
    1.0
    """
    known = _everywhere(teacher) if known is None else known
    weights = image_difference_weights(dehazed.detach(), clear, known=known, weighting=weighting)
    plain = mean_over(predicted - teacher, known)
    samples = known.flatten(1).any(1).sum().clamp_min(1)
    weighted = (weights * (predicted - teacher).abs()).sum() / samples
    return DepthLoss(plain + weighted, plain, weighted)


def mean_over(
    difference: Float[Tensor, "b 1 h w"], known: Bool[Tensor, "b 1 h w"] | None
) -> Float[Tensor, ""]:
    """Mean size of the difference over known pixels; 0 where there is none."""
    known = _everywhere(difference) if known is None else known
    return (difference.abs() * known).sum() / known.sum().clamp_min(1)


# ---------------------------------------------------------------- the code's readings


def early_dehazing_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
) -> DehazingLoss:
    """mean |K - J| + mean |W K - W J|, W = softmax(P - T) + 1e-7, with gradient through W."""
    weights = depth_difference_weights(predicted, teacher) + 1e-7
    plain = (dehazed - clear).abs().mean()
    weighted = (weights * (dehazed - clear)).abs().mean()
    return DehazingLoss(plain + weighted, plain, weighted, plain.new_zeros(()))


def early_depth_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
) -> DepthLoss:
    """mean |P - T| + 0.1 mean |W P - W T|, W as in `official_depth_loss`, without gradient through W."""
    _, plain, weighted = official_depth_loss(dehazed.detach(), clear, predicted, teacher)
    return DepthLoss(plain + 0.1 * weighted, plain, weighted)


def official_dehazing_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
) -> DehazingLoss:
    """mean |K - J| + 0.1 mean |P - T|, nothing detached.

    The script adds three more terms of a network that is never trained; without any gradient, they are left out.
    """
    plain = (dehazed - clear).abs().mean()
    apart = (predicted - teacher).abs().mean()
    return DehazingLoss(plain + 0.1 * apart, plain, plain.new_zeros(()), apart)


def official_depth_loss(
    dehazed: Float[Tensor, "b 3 h w"],
    clear: Float[Tensor, "b 3 h w"],
    predicted: Float[Tensor, "b 1 h w"],
    teacher: Float[Tensor, "b 1 h w"],
) -> DepthLoss:
    """mean |P - T| + mean |W P - W T|, W = softmax(K - J) + 1e-7 summed over channels, nothing detached."""
    weights = image_difference_weights(dehazed, clear) + 3e-7  # 1e-7 in each of three channels
    plain = (predicted - teacher).abs().mean()
    weighted = (weights * (predicted - teacher)).abs().mean()
    return DepthLoss(plain + weighted, plain, weighted)


class Reading(NamedTuple):
    """The two losses, both of (dehazed, clear, predicted, teacher); only the paper's take more."""

    dehazing: Callable[..., DehazingLoss]
    depth: Callable[..., DepthLoss]


READINGS: dict[str, Reading] = {
    "paper": Reading(paper_dehazing_loss, paper_depth_loss),
    "early": Reading(early_dehazing_loss, early_depth_loss),
    "official": Reading(official_dehazing_loss, official_depth_loss),
}
"""By name, as recipes ask for them."""
