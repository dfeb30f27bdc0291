"""KBNet against the originals, for known weights, within 1e-4 of the values' standard deviation (specification 17).

Stored outputs keep every third row and column.
"""

from __future__ import annotations

import pytest
import torch
from cases import off, published, stored

import fairweather as fw
from fairweather.models.kbnet import published_constyle_kbnet
from fairweather.models.layers import pad_to_multiple

TOLERANCE = 1e-4
INPUTS = stored("irconstyle")  # all cases of the paper's networks have the same two pictures


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    return fw.from_published("kbnet", published("plain_kbnet"))


@pytest.fixture(scope="module")
def conditioned() -> torch.nn.Module:
    state = {f"module.{k}": v for k, v in published("irconstyle_kbnet").items()}
    return fw.from_published("constyle_kbnet", {"params_ema": state, "params": {}})


@torch.inference_mode()
def test_plain_kbnet_equals_the_original(plain: torch.nn.Module) -> None:
    y = plain(INPUTS["in_64x64"])
    assert off(y[..., ::3, ::3], stored("plain_kbnet")["out_64x64@s3"]) < TOLERANCE


@pytest.mark.parametrize(("multiple", "out"), [(1, "out_75x53@s3"), (8, "out_reflect8_75x53@s3")])
@torch.inference_mode()
def test_plain_kbnet_pads_with_zeros_as_the_original(plain: torch.nn.Module, multiple: int, out: str) -> None:
    """Also what is left to do after a loader has padded by reflection."""
    y = plain(pad_to_multiple(INPUTS["in_75x53"], multiple))
    assert off(y[..., ::3, ::3], stored("plain_kbnet")[out]) < TOLERANCE


@torch.inference_mode()
def test_constyle_kbnet_equals_the_original(conditioned: torch.nn.Module) -> None:
    case, x = stored("irconstyle_kbnet"), INPUTS["in_64x64"]
    assert off(conditioned.constyle(x).vector, case["mid_64x64/ConStyle.q1"]) < TOLERANCE
    assert off(conditioned(x)[..., ::3, ::3], case["out_64x64@s3"]) < TOLERANCE


@torch.inference_mode()
def test_constyle_kbnet_pads_by_reflection_as_the_original_and_crops(conditioned: torch.nn.Module) -> None:
    y = conditioned(INPUTS["in_75x53"])
    assert y.shape == (1, 3, 75, 53)
    expected = stored("irconstyle_kbnet")["out_75x53@s3"]
    assert off(y[..., ::3, ::3], expected[..., :25, :18]) < TOLERANCE


@torch.inference_mode()
def test_the_style_matters(conditioned: torch.nn.Module) -> None:
    """A network that ignored its vector or its maps would pass by accident."""
    x = INPUTS["in_64x64"]
    style = conditioned.constyle(x)
    y = conditioned.restore(x, style)
    for other in (
        style._replace(vector=style.hidden),
        style._replace(features=tuple(torch.zeros_like(f) for f in style.features)),
    ):
        assert off(conditioned.restore(x, other), y) > 0.2


def test_training_time_parts_of_a_checkpoint_are_dropped() -> None:
    kept = {
        "Preprocess_Module.0.weight": "entry.weight",
        "Process_Module_l1.0.conv211.weight": "encoder1.0.kba.point.weight",
    }
    dropped = ("ConStyle.queue", "ConStyle.queue_ptr", "ConStyle.encoder_k.stage1.0.0.weight")
    state = dict.fromkeys((*kept, *dropped), torch.zeros(1))
    assert set(published_constyle_kbnet(state)) == set(kept.values())
