"""Outputs of the original networks, for known weights, within 1e-4 of their standard deviation (specification 17)."""

from __future__ import annotations

import pytest
import torch
from cases import off, published, stored

import fairweather as fw
from fairweather.models.layers import pad_to_multiple

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    return fw.from_published("nafnet", published("plain_nafnet"))


@pytest.fixture(scope="module")
def conditioned() -> torch.nn.Module:
    return fw.from_published("constyle_nafnet", {"params_ema": published("irconstyle_nafnet"), "params": {}})


@pytest.mark.parametrize("size", ["64x64", "75x53"])
@torch.inference_mode()
def test_plain_nafnet_equals_the_original(plain: torch.nn.Module, size: str) -> None:
    case = stored("plain_nafnet")
    assert off(plain(case[f"in_{size}"]), case[f"out_{size}"]) < TOLERANCE


@torch.inference_mode()
def test_plain_nafnet_equals_the_original_on_a_reflected_picture(plain: torch.nn.Module) -> None:
    case = stored("plain_nafnet")
    assert off(plain(pad_to_multiple(case["in_75x53"], 8)), case["out_reflect8_75x53"]) < TOLERANCE


@torch.inference_mode()
def test_constyle_nafnet_equals_the_original(conditioned: torch.nn.Module) -> None:
    case = stored("irconstyle_nafnet")
    assert off(conditioned(case["in_64x64"]), case["out_64x64"]) < TOLERANCE


@torch.inference_mode()
def test_constyle_nafnet_pads_as_the_original_and_crops(conditioned: torch.nn.Module) -> None:
    case = stored("irconstyle_nafnet")
    assert off(conditioned(case["in_75x53"]), case["out_75x53"][..., :75, :53]) < TOLERANCE


@torch.inference_mode()
def test_constyle_nafnet_inner_values(conditioned: torch.nn.Module) -> None:
    case = stored("irconstyle_nafnet")
    style = conditioned.constyle(case["in_64x64"])
    assert off(style.hidden, case["mid_64x64/ConStyle.q0"]) < TOLERANCE
    assert off(style.vector, case["mid_64x64/ConStyle.q1"]) < TOLERANCE
    assert off(conditioned.fusion.gate(style.vector), case["mid_64x64/mlp"]) < TOLERANCE


@torch.inference_mode()
def test_the_style_matters(conditioned: torch.nn.Module) -> None:
    """A network that ignored its style would pass by accident: without v2 the original moves by 0.12."""
    case = stored("irconstyle_nafnet")
    x = case["in_64x64"]
    style = conditioned.constyle(x)
    without = conditioned.restore(x, style._replace(vector=torch.zeros_like(style.vector)))
    assert (without - case["out_64x64"]).abs().max() == pytest.approx(0.12, abs=0.01)


def test_training_time_parts_of_a_checkpoint_are_dropped() -> None:
    state = published("irconstyle_nafnet")
    state["ConStyle.queue"] = torch.zeros(128, 32)
    state["ConStyle.encoder_k.stage1.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    fw.from_published("constyle_nafnet", {f"module.{k}": v for k, v in state.items()})
