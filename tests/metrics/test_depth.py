"""Depth errors: numbers by hand, and what must not change them."""

from __future__ import annotations

import pytest
import torch

from fairweather.errors import DataError, UsageError
from fairweather.metrics import depth_scores


def row(*values: float) -> torch.Tensor:
    return torch.tensor([[values]], dtype=torch.float64)


def scene() -> torch.Tensor:
    """Depth from 0.2 to 1, as haze models take it."""
    return 0.2 + 0.8 * torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("disparity", "depth", "abs_rel", "delta_125"),
    [
        # Fitted by 0.25 p + 1/3: 5/6, 1/3, 7/12, so depth 6/5, 3, 12/7 against 1, 2, 4.
        (row(2, 0, 1), row(1, 2, 4), (1 / 5 + 1 / 2 + 4 / 7) / 3, 1 / 3),
        # Fitted by 0.375 p + 0.5: 1/8, 1/2, 7/8. The first would be behind the farthest true pixel: 1/4.
        (row(-1, 0, 1), row(4, 4, 1), (0 + 1 / 2 + 1 / 7) / 3, 2 / 3),
    ],
)
def test_depth_errors_by_hand(
    disparity: torch.Tensor, depth: torch.Tensor, abs_rel: float, delta_125: float
) -> None:
    found = depth_scores(disparity, depth, depth > 0)
    assert found.abs_rel == pytest.approx(abs_rel, abs=1e-12)
    assert found.delta_125 == pytest.approx(delta_125, abs=1e-12)


def test_exact_disparity_gives_no_error() -> None:
    found = depth_scores(1 / scene(), scene(), scene() > 0)
    assert found == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(7.0, 0.0), (1.0, -20.0), (0.01, 3.0), (500.0, 1000.0)])
def test_scale_and_shift_of_the_estimate_do_not_matter(scale: float, shift: float) -> None:
    depth, known = scene(), scene() > 0.3
    estimate = 1 / depth + torch.rand(depth.shape, generator=torch.Generator().manual_seed(1))
    plain = depth_scores(estimate.double(), depth, known)
    assert 0.01 < plain.abs_rel < 0.2
    assert 0.7 < plain.delta_125 < 1
    assert depth_scores(estimate.double() * scale + shift, depth, known) == pytest.approx(plain, abs=1e-9)


def test_the_unit_of_the_true_depth_does_not_matter() -> None:
    estimate = torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(1))
    near, far = (depth_scores(estimate, unit * scene(), scene() > 0) for unit in (1, 1000))
    assert near == pytest.approx(far, abs=1e-5)


def test_unknown_pixels_do_not_count() -> None:
    depth, estimate = scene(), 1 / scene() ** 2
    known = torch.rand(depth.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    plain = depth_scores(estimate, depth, known)
    assert plain.abs_rel > 0.01
    elsewhere = depth_scores(estimate.where(known, 1e6), depth.where(known, 0), known)
    assert elsewhere == plain
    assert depth_scores(estimate, depth, torch.ones_like(known)) != plain


def test_a_constant_estimate_is_only_shifted() -> None:
    depth = row(1, 1, 2)  # disparity 1, 1, 0.5: mean 5/6, depth 6/5
    found = depth_scores(torch.full_like(depth, 0.1), depth, depth > 0)
    assert found == pytest.approx(((0.2 + 0.2 + 0.4) / 3, 2 / 3), abs=1e-9)


@pytest.mark.parametrize(("disparity", "share"), [(1.48, 1.0), (1.52, 0.5)])
def test_delta_counts_pixels_within_a_factor_of_1_25(disparity: float, share: float) -> None:
    # A flat guess is the mean disparity, 1.24 or 1.26: off by that factor at depth 1, by 1.2 at the other.
    depth = row(1, 1 / disparity)
    assert depth_scores(torch.zeros_like(depth), depth, depth > 0).delta_125 == share


def test_what_cannot_be_compared_is_refused() -> None:
    depth = row(1, 2, 0)
    with pytest.raises(DataError, match="no known pixel"):
        depth_scores(depth, depth, depth > 5)
    with pytest.raises(DataError, match="a known depth is 0"):
        depth_scores(depth, depth, depth >= 0)
    # A TypeError where jaxtyping checks the annotations, as it may under pytest.
    with pytest.raises((UsageError, TypeError), match=r"1, ?1, ?4"):
        depth_scores(torch.zeros(1, 1, 4), depth, depth > 0)
