"""NiteDR's losses in the release's reading and in ours, against the reference's own runs."""

from __future__ import annotations

import pytest
import torch
from cases import published, stored

from fairweather.losses.fusion import (
    LAST_LEVELS,
    detail,
    fusion_terms,
    information,
    refinement_terms,
    source_weights,
)
from fairweather.losses.vgg import VGG

CASE = stored("nitedr_losses")
LOSS, GRADIENT = 1e-4, 1e-3
"""Relative."""
V, L, FUSED = ((CASE[name] + 1) / 2 for name in ("v", "l", "fused"))


@pytest.fixture(scope="module")
def vgg() -> VGG:
    net = VGG("vgg16", levels=LAST_LEVELS)
    state = published("nitedr_vgg")
    net.load_state_dict({name.removeprefix("vgg."): value for name, value in state.items()})
    return net


def test_detail_equals_the_original() -> None:
    torch.testing.assert_close(detail(CASE["fg_in"]), CASE["fg_out"], rtol=0, atol=1e-6)


def test_information_in_vgg_equals_the_original(vgg: VGG) -> None:
    for name, source in (("v", V), ("l", L)):
        torch.testing.assert_close(information(source, vgg), CASE[f"measure_vgg_{name}"], rtol=LOSS, atol=0)


def test_information_as_released_is_that_of_the_picture_itself() -> None:
    for name, source in (("v", V), ("l", L)):
        expected = CASE[f"measure_as_run_{name}"]
        torch.testing.assert_close(information(source).expand(-1, 5), expected, rtol=LOSS, atol=0)


@pytest.mark.parametrize("measure", ["as_run", "vgg"])
@pytest.mark.parametrize(("c", "of_c"), [(3200.0, "c3200"), (0.002, "c0002")])
def test_weights_and_weighted_losses_equal_the_original(vgg: VGG, measure: str, c: float, of_c: str) -> None:
    weights = source_weights(V, L, vgg=vgg if measure == "vgg" else None, c=c)
    torch.testing.assert_close(weights, CASE[f"w_{measure}_{of_c}"], rtol=LOSS, atol=0)
    for data_range in (255, 1):
        terms = fusion_terms(FUSED, V, L, weights, data_range=data_range)
        found = torch.stack((terms.ssim, terms.mse, terms.ssim + 20 * terms.mse))
        expected = CASE[f"weighted_{measure}_{of_c}_range{data_range}"]
        torch.testing.assert_close(found, expected, rtol=LOSS, atol=0)


def test_the_released_loss_and_its_gradient_equal_the_original() -> None:
    fused = CASE["fused"].clone().requires_grad_()
    terms = fusion_terms((fused + 1) / 2, V, L, torch.full((2, 2), 0.5), data_range=255)
    torch.testing.assert_close(terms.ssim.detach(), CASE["official_ssim"], rtol=LOSS, atol=0)
    torch.testing.assert_close(terms.mse.detach(), CASE["official_mse"], rtol=LOSS, atol=0)
    (terms.ssim + 20 * terms.mse).backward()
    expected = CASE["official_grad_fused"]
    assert fused.grad is not None
    assert (fused.grad - expected).norm() < GRADIENT * expected.norm()


def test_the_refinements_loss_and_its_gradients_equal_the_original() -> None:
    u, i = (CASE[name].clone().requires_grad_() for name in ("ref_input", "ref_illu"))
    terms = refinement_terms([u], [i])
    total = 1.5 * terms.fidelity + terms.smoothness
    torch.testing.assert_close(total.detach(), CASE["ref_total"], rtol=LOSS, atol=0)
    total.backward()
    for found, name in ((u.grad, "ref_grad_input"), (i.grad, "ref_grad_illu")):
        assert found is not None
        assert (found - CASE[name]).norm() < GRADIENT * CASE[name].norm(), name
