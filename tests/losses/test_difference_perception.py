from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fairweather.losses.difference_perception import (
    READINGS,
    Weighting,
    depth_difference_weights,
    image_difference_weights,
    paper_dehazing_loss,
    paper_depth_loss,
)

WEIGHTINGS: list[Weighting] = ["signed", "absolute"]


@pytest.fixture
def case() -> dict[str, Tensor]:
    """Two samples of 5x4; the dehazed picture and the predicted depth take gradients."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    return {
        "dehazed": (2 * draw(2, 3, 5, 4) - 1).requires_grad_(),
        "clear": 2 * draw(2, 3, 5, 4) - 1,
        "predicted": draw(2, 1, 5, 4).requires_grad_(),
        "teacher": draw(2, 1, 5, 4),
    }


def left(case: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[..., :2] for name, value in case.items()}


def known_on_the_left() -> Tensor:
    known = torch.zeros(2, 1, 5, 4, dtype=torch.bool)
    known[..., :2] = True
    return known


def weights(case: dict[str, Tensor], **options: Any) -> list[Tensor]:
    return [
        image_difference_weights(case["dehazed"], case["clear"], **options),
        depth_difference_weights(case["predicted"], case["teacher"], **options),
    ]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_sum_to_one_over_known_pixels_and_are_zero_elsewhere(
    case: dict[str, Tensor], weighting: Weighting
) -> None:
    known = known_on_the_left()
    known[1] = False
    for w in weights(case, known=known, weighting=weighting):
        torch.testing.assert_close(w.sum((1, 2, 3)), torch.tensor([1.0, 0.0], dtype=torch.float64))
        assert (w[0, :, :, :2] > 0).all()
        assert not w[~known].any()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_over_known_pixels_are_those_of_that_part_alone(
    case: dict[str, Tensor], weighting: Weighting
) -> None:
    masked = weights(case, known=known_on_the_left(), weighting=weighting)
    for w, alone in zip(masked, weights(left(case), weighting=weighting), strict=True):
        torch.testing.assert_close(w[..., :2], alone)


def test_signed_weights_are_smaller_where_the_result_is_too_dark_absolute_ones_are_not() -> None:
    clear = torch.zeros(1, 3, 1, 3)
    dehazed = clear + torch.tensor([-0.3, 0.0, 0.3])
    signed = image_difference_weights(dehazed, clear)[0, 0, 0].tolist()
    assert signed == sorted(signed)
    dark, right, bright = image_difference_weights(dehazed, clear, weighting="absolute")[0, 0, 0].tolist()
    assert dark == pytest.approx(bright)
    assert dark > 2 * right


def test_absolute_weights_depend_on_where_the_differences_are_not_on_their_size(
    case: dict[str, Tensor],
) -> None:
    small = {name: 0.01 * value.detach() for name, value in case.items()}
    signed, absolute = weights(small), weights(small, weighting="absolute")
    for w, of_large, even in zip(absolute, weights(case, weighting="absolute"), signed, strict=True):
        torch.testing.assert_close(w, of_large.detach())
        assert w.std() > 20 * even.std()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_difference_gives_even_weights(weighting: Weighting) -> None:
    picture = torch.rand(2, 3, 4, 5)
    even = torch.full((2, 1, 4, 5), 1 / 20)
    torch.testing.assert_close(image_difference_weights(picture, picture, weighting=weighting), even)


def test_the_paper_losses_are_the_formulas(case: dict[str, Tensor]) -> None:
    k, j, p, t = case.values()
    w_image = (k - j).flatten(1).softmax(1).view_as(k).sum(1, keepdim=True)
    w_depth = (p - t).flatten(1).softmax(1).view_as(p)
    everywhere = torch.ones_like(t, dtype=torch.bool)
    for known in (None, everywhere):
        dehazing, depth = paper_dehazing_loss(**case, known=known), paper_depth_loss(**case, known=known)
        assert torch.equal(dehazing.plain, (k - j).abs().mean())
        assert torch.equal(depth.plain, (p - t).abs().mean())
        torch.testing.assert_close(
            dehazing.weighted, (w_depth * (k - j).abs().mean(1, keepdim=True)).sum((1, 2, 3)).mean()
        )
        torch.testing.assert_close(depth.weighted, (w_image * (p - t).abs()).sum((1, 2, 3)).mean())
        assert torch.equal(dehazing.total, dehazing.plain + dehazing.weighted)
        assert torch.equal(depth.total, depth.plain + depth.weighted)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_knowing_all_is_the_same_as_no_mask_to_the_last_bit(
    case: dict[str, Tensor], weighting: Weighting
) -> None:
    everywhere = torch.ones(2, 1, 5, 4, dtype=torch.bool)
    dehazing = partial(paper_dehazing_loss, **case, weighting=weighting, consistency=0.1)
    depth = partial(paper_depth_loss, **case, weighting=weighting)
    assert dehazing(known=everywhere) == dehazing()
    assert depth(known=everywhere) == depth()


def test_in_the_paper_reading_each_loss_teaches_its_own_network_alone(case: dict[str, Tensor]) -> None:
    dehazed, predicted = case["dehazed"], case["predicted"]
    paper_dehazing_loss(**case).total.backward()
    assert predicted.grad is None
    weighted = depth_difference_weights(predicted.detach(), case["teacher"]) / (2 * 3)  # batch, channels
    expected = (dehazed - case["clear"]).sign() * (1 / dehazed.numel() + weighted)
    assert dehazed.grad is not None
    torch.testing.assert_close(dehazed.grad, expected.detach())

    dehazed.grad = None
    paper_depth_loss(**case).total.backward()
    assert dehazed.grad is None
    weighted = image_difference_weights(dehazed.detach(), case["clear"]) / 2
    expected = (predicted - case["teacher"]).sign() * (1 / predicted.numel() + weighted)
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, expected.detach())


def test_consistency_reaches_the_depth_by_its_factor(case: dict[str, Tensor]) -> None:
    known = known_on_the_left()
    loss = paper_dehazing_loss(**case, known=known, consistency=0.1)
    loss.total.backward()
    predicted = case["predicted"]
    assert predicted.grad is not None
    torch.testing.assert_close(
        predicted.grad, ((predicted - case["teacher"]).sign() * known * 0.1 / known.sum()).detach()
    )
    torch.testing.assert_close(loss.total, loss.plain + loss.weighted + 0.1 * loss.consistency)


def test_the_depth_loss_over_known_pixels_is_that_of_this_part_alone(case: dict[str, Tensor]) -> None:
    masked = paper_depth_loss(**case, known=known_on_the_left())
    torch.testing.assert_close(masked, paper_depth_loss(**left(case)))
    weighted = paper_dehazing_loss(**case, known=known_on_the_left()).weighted
    torch.testing.assert_close(weighted, paper_dehazing_loss(**left(case)).weighted)


def test_a_sample_without_depth_adds_nothing(case: dict[str, Tensor]) -> None:
    known = torch.ones(2, 1, 5, 4, dtype=torch.bool)
    known[1] = False
    first = {name: value[:1] for name, value in case.items()}
    depth = paper_depth_loss(**case, known=known)
    torch.testing.assert_close(depth, paper_depth_loss(**first))
    depth.total.backward()
    assert case["predicted"].grad is not None
    assert case["predicted"].grad[0].all()
    assert not case["predicted"].grad[1].any()

    dehazing = paper_dehazing_loss(**case, known=known)
    torch.testing.assert_close(dehazing.weighted, paper_dehazing_loss(**first).weighted / 2)
    torch.testing.assert_close(dehazing.plain, paper_dehazing_loss(**case).plain)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_batch_without_depth_gives_exactly_zero_and_no_gradient(
    case: dict[str, Tensor], weighting: Weighting
) -> None:
    nowhere = torch.zeros(2, 1, 5, 4, dtype=torch.bool)
    depth = paper_depth_loss(**case, known=nowhere, weighting=weighting)
    assert torch.equal(torch.stack(depth), torch.zeros(3, dtype=torch.float64))
    dehazing = paper_dehazing_loss(**case, known=nowhere, weighting=weighting, consistency=0.1)
    assert torch.equal(dehazing.total, (case["dehazed"] - case["clear"]).abs().mean())
    (depth.total + dehazing.total).backward()
    assert case["predicted"].grad is not None
    assert not case["predicted"].grad.any()


def test_published_weightings_nearly_vanish_and_the_paper_one_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    clear, teacher = (
        torch.rand(1, 3, 32, 32, generator=generator),
        torch.rand(1, 1, 32, 32, generator=generator),
    )
    share = {
        name: reading.depth(clear + 0.1, clear, teacher + 0.1, teacher) for name, reading in READINGS.items()
    }
    assert float(share["paper"].weighted / share["paper"].plain) == pytest.approx(1, rel=1e-4)
    for name in ("early", "official"):
        assert float(share[name].weighted / share[name].plain) == pytest.approx(1 / 32**2, rel=1e-2)
