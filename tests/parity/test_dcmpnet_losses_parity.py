"""DCMPNet's losses in all three readings, and their gradients, against the reference's own runs.

The reference computed in double precision from float32 weights and pictures, and stored float32: relative 1e-5 is left
for that rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import published, stored
from torch import Tensor

from fairweather.losses.contrastive import ContrastiveLoss, Projections
from fairweather.losses.difference_perception import (
    READINGS,
    DehazingLoss,
    DepthLoss,
    depth_difference_weights,
    image_difference_weights,
)
from fairweather.losses.vgg import VGG

CASE = {
    name: torch.from_numpy(values).double()
    for name, values in np.load(Path(__file__).parent / "dcmpnet_losses.npz").items()
}


def assert_equal(ours: Tensor, name: str) -> None:
    expected = CASE[name]
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().mean()))


@pytest.fixture(scope="module")
def vgg() -> VGG:
    state = published("dcmpnet.train")
    network = VGG("vgg19")
    network.load_state_dict({k.removeprefix("vgg."): v for k, v in state.items() if k.startswith("vgg.")})
    return network.double()


@pytest.fixture(scope="module")
def projections() -> Projections:
    state = published("dcmpnet.train")
    names = {"cr.mlpA": "anchor", "cr.mlpP": "positive", "cr.mlpN": "negative"}
    module = Projections()
    module.load_state_dict({names[k[:7]] + k[7:]: v for k, v in state.items() if k[:7] in names})
    return module.double()


def losses(reading: str) -> tuple[Tensor, Tensor, DehazingLoss, DepthLoss]:
    """The dehazed picture and the predicted depth, to take gradients of, and both losses."""
    dehazed, predicted = (CASE[name].clone().requires_grad_() for name in ("dehazed", "depth_pred"))
    arguments = (dehazed, CASE["clear"], predicted, CASE["depth_teacher"])
    return dehazed, predicted, READINGS[reading].dehazing(*arguments), READINGS[reading].depth(*arguments)


def untrained() -> list[Tensor]:
    """The released script's terms of a network that is never trained, of which the stored totals are made too."""
    return [(CASE[f"u_clear{i}"] - CASE[f"u_hazy{i}"]).abs().mean() for i in (1, 2, 3)]


def test_features_equal_the_reference(vgg: VGG) -> None:
    maps = vgg(CASE["clear"])
    assert_equal(torch.stack([m.mean() for m in maps]), "cr.vgg_means")
    assert_equal(torch.stack([m.std() for m in maps]), "cr.vgg_stds")


def test_contrastive_terms_equal_the_reference(vgg: VGG, projections: Projections) -> None:
    pictures = CASE["dehazed"], CASE["clear"], CASE["hazy"]
    plain = ContrastiveLoss(vgg)
    assert_equal(plain.terms(*pictures), "cr.levels_plain")
    assert_equal(plain(*pictures), "cr.total_plain")
    official = ContrastiveLoss(vgg, projections=projections)
    assert_equal(official.terms(*pictures), "cr.levels_with_mlp")
    numerators = ContrastiveLoss(vgg, projections=projections, negatives=False)
    assert_equal(numerators(*pictures), "cr.total_no_negative_with_mlp")


def test_the_official_reading_equals_the_reference(vgg: VGG, projections: Projections) -> None:
    dehazed, predicted, dehazing, depth = losses("official")
    contrast = ContrastiveLoss(vgg, projections=projections)(dehazed, CASE["clear"], CASE["hazy"])
    total = torch.stack([dehazing.total, contrast, *untrained()]).sum()
    (total + depth.total).backward()
    weights = image_difference_weights(dehazed, CASE["clear"]) + 3e-7
    parts = {
        "weight": weights,
        "depth_weighted": depth.weighted,
        "depth_plain": depth.plain,
        "depth_total": depth.total,
        "dehaze_l1": dehazing.plain,
        "dehaze_depth": dehazing.consistency,
        "dehaze_cr": contrast,
        **{f"dehaze_u{i}": value for i, value in enumerate(untrained(), 1)},
        "dehaze_total": total,
        "total": total + depth.total,
        "grad_dehazed": dehazed.grad,
        "grad_depth_pred": predicted.grad,
    }
    assert parts.keys() == {name[9:] for name in CASE if name.startswith("official.")}
    for name, part in parts.items():
        assert part is not None
        assert_equal(part, f"official.{name}")


def test_the_terms_of_a_training_step_equal_the_reference(vgg: VGG, projections: Projections) -> None:
    step = {
        k.removeprefix("step."): v.double() for k, v in stored("dcmpnet").items() if k.startswith("step.")
    }
    dehazed, clear = step["dehazed"], step["clear"]
    arguments = dehazed, clear, step["depth_pred"], step["teacher_disp"]
    depth = READINGS["official"].depth(*arguments)
    parts = {
        "depth_plain": depth.plain,
        "depth_weighted": depth.weighted,
        "dehaze_l1": READINGS["official"].dehazing(*arguments).plain,
        "dehaze_cr": ContrastiveLoss(vgg, projections=projections)(dehazed, clear, step["hazy"]),
    }
    for name, part in parts.items():
        torch.testing.assert_close(part, step[name], rtol=1e-5, atol=0)


def test_the_early_reading_equals_the_reference(vgg: VGG, projections: Projections) -> None:
    dehazed, predicted, dehazing, depth = losses("early")
    contrast = ContrastiveLoss(vgg, projections=projections)(dehazed, CASE["clear"], CASE["hazy"])
    total = torch.stack([dehazing.total, contrast, *untrained()]).sum()
    (total + depth.total).backward()
    parts = {
        "weight_depth": depth_difference_weights(predicted, CASE["depth_teacher"]) + 1e-7,
        "dehaze_weighted": dehazing.weighted,
        "dehaze_total": total,
        "depth_weighted": depth.weighted,
        "depth_total": depth.total,
        "grad_dehazed": dehazed.grad,
        "grad_depth_pred": predicted.grad,
    }
    assert parts.keys() == {name[6:] for name in CASE if name.startswith("early.")}
    for name, part in parts.items():
        assert part is not None
        assert_equal(part, f"early.{name}")


def test_the_paper_reading_equals_the_reference(vgg: VGG) -> None:
    dehazed, predicted, dehazing, depth = losses("paper")
    contrast = ContrastiveLoss(vgg)(dehazed, CASE["clear"], CASE["hazy"])
    parts = {
        "weight_image": image_difference_weights(dehazed, CASE["clear"]),
        "weight_depth": depth_difference_weights(predicted, CASE["depth_teacher"]),
        "depth_weighted": depth.weighted,
        "dehaze_weighted": dehazing.weighted,
        "depth_total": depth.total,
        "dehaze_total": dehazing.total + contrast,
    }
    assert parts.keys() == {name[6:] for name in CASE if name.startswith("paper.")}
    for name, part in parts.items():
        assert_equal(part, f"paper.{name}")
