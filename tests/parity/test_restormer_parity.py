"""Outputs of the original networks, for known weights, within 1e-4 of their standard deviation (specification 17).

Stored outputs keep every third row and column, at the padded size; inner values every fourth.
"""

from __future__ import annotations

import re

import pytest
import torch
from cases import off, published, stored
from torch import Tensor

import fairweather as fw
from fairweather.errors import WeightsError
from fairweather.models.restormer import published_constyle_restormer

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    return fw.from_published("restormer", published("plain_restormer"))


@pytest.fixture(scope="module")
def conditioned() -> torch.nn.Module:
    state = {f"module.{k}": v for k, v in published("irconstyle_restormer").items()}
    return fw.from_published("constyle_restormer", {"params_ema": state, "params": {}})


def inner(net: torch.nn.Module, part: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output for x, and that of one part of the network on the way."""
    found: list[Tensor] = []
    hook = net.get_submodule(part).register_forward_hook(lambda _, __, out: found.append(out))
    y = net(x)
    hook.remove()
    return y, found[0]


@pytest.fixture(scope="module")
def run(conditioned: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """The conditioned network's output on the 64x64 picture, and that of its bottom."""
    with torch.inference_mode():
        return inner(conditioned, "bottom", stored("irconstyle_restormer")["in_64x64"])


@torch.inference_mode()
def test_plain_restormer_equals_the_original_on_the_way_and_at_the_end(plain: torch.nn.Module) -> None:
    case = stored("plain_restormer")
    y, latent = inner(plain, "latent", case["in_64x64"])
    assert off(latent[..., ::4, ::4], case["mid_64x64/latent@s4"]) < TOLERANCE
    assert off(y[..., ::3, ::3], case["out_64x64@s3"]) < TOLERANCE


def test_constyle_restormer_equals_the_original_on_the_way_and_at_the_end(run: tuple[Tensor, Tensor]) -> None:
    case = stored("irconstyle_restormer")
    y, bottom = run
    assert off(bottom[..., ::4, ::4], case["mid_64x64/Process_Module_bottom@s4"]) < TOLERANCE
    assert off(y[..., ::3, ::3], case["out_64x64@s3"]) < TOLERANCE


@torch.inference_mode()
def test_conditioning_equals_the_original(conditioned: torch.nn.Module) -> None:
    case = stored("irconstyle_restormer")
    style = conditioned.constyle(case["in_64x64"])
    affine = conditioned.affine[2](style.features[2])  # with PReLU's own slopes
    assert off(affine[..., ::4, ::4], case["mid_64x64/AffineTransform2@s4"]) < TOLERANCE
    assert off(conditioned.fusion.gate(style.vector), case["mid_64x64/mlp"]) < TOLERANCE


@pytest.mark.parametrize("kind", ["plain", "irconstyle"])
@torch.inference_mode()
def test_padding_is_the_originals_and_is_cropped(kind: str, request: pytest.FixtureRequest) -> None:
    net = request.getfixturevalue({"plain": "plain", "irconstyle": "conditioned"}[kind])
    case = stored(f"{kind}_restormer")
    y = net(case["in_75x53"])
    assert y.shape == (1, 3, 75, 53)
    assert off(y[..., ::3, ::3], case["out_75x53@s3"][..., :25, :18]) < TOLERANCE


@pytest.mark.parametrize(("without", "change"), [("vector", 1.15), ("features", 9.26)])
@torch.inference_mode()
def test_the_style_matters(
    conditioned: torch.nn.Module, run: tuple[Tensor, Tensor], without: str, change: float
) -> None:
    """A network that ignored its style would pass by accident: the original moves by 1.2 and by 9.3 without."""
    x = stored("irconstyle_restormer")["in_64x64"]
    style = conditioned.constyle(x)
    nothing = {
        "vector": torch.zeros_like(style.vector),
        "features": tuple(torch.zeros_like(f) for f in style.features),
    }
    moved = conditioned.restore(x, style._replace(**{without: nothing[without]})) - run[0]
    assert moved.abs().max() == pytest.approx(change, abs=0.01)


def test_training_time_parts_of_a_checkpoint_are_dropped() -> None:
    kept = {
        "AffineTransform0.1.weight": "affine.0.1.weight",
        "Preprocess_Module.proj.weight": "entry.weight",
        "Finetune_Module.0.norm1.body.weight": "exit.0.norm1.weight",
        "Finetune_Module.4.weight": "exit.4.weight",
    }
    dropped = ("ConStyle.queue", "ConStyle.queue_ptr", "ConStyle.encoder_k.stage1.0.0.weight")
    state = dict.fromkeys((*kept, *dropped), torch.zeros(1))
    assert set(published_constyle_restormer(state)) == set(kept.values())


def test_norms_without_bias_are_named() -> None:
    state = {k: v for k, v in published("plain_restormer").items() if not re.search(r"norm\d\.body\.bias", k)}
    with pytest.raises(
        WeightsError, match="norms have no bias: a variant of Restormer that is not built here"
    ):
        fw.from_published("restormer", state)
