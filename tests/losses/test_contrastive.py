from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairweather.losses.contrastive import ContrastiveLoss, Projections
from fairweather.losses.vgg import VGG, load_vgg

LEVELS = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def vgg() -> VGG:
    return load_vgg("vgg19", levels=LEVELS, weights="random")


@pytest.fixture
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(2 * torch.rand(2, 3, 16, 16, generator=generator) - 1).requires_grad_() for _ in range(3)]


def test_the_loss_is_the_weighted_sum_of_ratios(vgg: VGG, pictures: list[Tensor]) -> None:
    a, p, n = (vgg(picture) for picture in pictures)
    ratios = [(x - y).abs().mean() / (x - z).abs().mean() for x, y, z in zip(a, p, n, strict=True)]
    loss = ContrastiveLoss(vgg, level_weights=(0.25, 2.0))
    torch.testing.assert_close(loss(*pictures), 0.25 * ratios[0] + 2 * ratios[1], rtol=1e-5, atol=0)


def test_a_perfect_result_costs_nothing(vgg: VGG, pictures: list[Tensor]) -> None:
    _, clear, hazy = pictures
    loss = ContrastiveLoss(vgg, level_weights=(1.0, 1.0))(clear, clear, hazy)
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-5)


def test_the_hazy_picture_itself_costs_more_than_one_nearer_to_the_clear(
    vgg: VGG, pictures: list[Tensor]
) -> None:
    _, clear, hazy = pictures
    loss = ContrastiveLoss(vgg, level_weights=(1.0, 1.0))
    assert loss(0.9 * hazy + 0.1 * clear, clear, hazy) > 10 * loss(0.1 * hazy + 0.9 * clear, clear, hazy)


def test_the_gradient_goes_into_the_dehazed_picture_alone(vgg: VGG, pictures: list[Tensor]) -> None:
    loss = ContrastiveLoss(vgg, level_weights=(1.0, 1.0), projections=Projections(channels=128))
    loss(*pictures).backward()
    assert [picture.grad is not None for picture in pictures] == [True, False, False]
    assert pictures[0].grad is not None
    assert pictures[0].grad.isfinite().all()
    assert pictures[0].grad.any()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_without_negatives_the_hazy_picture_does_not_matter(vgg: VGG, pictures: list[Tensor]) -> None:
    dehazed, clear, hazy = pictures
    loss = ContrastiveLoss(vgg, level_weights=(1.0, 1.0), negatives=False)
    assert torch.equal(loss(dehazed, clear, hazy), loss(dehazed, clear, clear))
    distances = [(x - y).abs().mean() for x, y in zip(vgg(dehazed), vgg(clear), strict=True)]
    torch.testing.assert_close(loss(dehazed, clear, hazy), sum(distances))


def test_projections_change_the_last_level_alone_and_are_fixed_by_their_seed(
    vgg: VGG, pictures: list[Tensor]
) -> None:
    def terms(projections: Projections | None) -> list[float]:
        loss = ContrastiveLoss(vgg, level_weights=(1.0, 1.0), projections=projections)
        return loss.terms(*pictures).tolist()  # type: ignore[no-any-return]

    plain, official, again, other = (
        terms(p) for p in (None, *(Projections(channels=128, seed=seed) for seed in (0, 0, 1)))
    )
    assert plain[0] == official[0] == other[0]
    assert len({plain[1], official[1], other[1]}) == 3
    assert official == again


def test_as_many_weights_as_levels_are_asked_for(vgg: VGG) -> None:
    with pytest.raises(ValueError, match="5 level weights for the 2 levels of VGG"):
        ContrastiveLoss(vgg)
