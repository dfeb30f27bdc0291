"""Uformer against the originals, for known weights, within 1e-4 of the values' standard deviation (specification 17).

Stored outputs keep every third row and column. The originals take no other sizes: only square pictures.
"""

from __future__ import annotations

import pytest
import torch
from cases import off, published, stored

import fairweather as fw
from fairweather.models.uformer import published_constyle_uformer, published_uformer

TOLERANCE = 1e-4


@torch.inference_mode()
def test_plain_uformer_equals_the_original() -> None:
    case = stored("plain_uformer")
    y = fw.from_published("uformer", published("plain_uformer"))(case["in_128x128"])
    assert off(y[..., ::3, ::3], case["out_128x128@s3"]) < TOLERANCE


@pytest.fixture(scope="module")
def conditioned() -> torch.nn.Module:
    state = {f"module.{k}": v for k, v in published("irconstyle_uformer").items()}
    return fw.from_published("constyle_uformer", {"params_ema": state, "params": {}})


@torch.inference_mode()
def test_constyle_uformer_equals_the_original(conditioned: torch.nn.Module) -> None:
    case, x = stored("irconstyle_uformer"), stored("irconstyle")["in_64x64"]
    assert off(conditioned.constyle(x).vector, case["mid_64x64/ConStyle.q1"]) < TOLERANCE
    assert off(conditioned(x)[..., ::3, ::3], case["out_64x64@s3"]) < TOLERANCE


@torch.inference_mode()
def test_the_style_matters(conditioned: torch.nn.Module) -> None:
    """A network that ignored its vector or its maps would pass by accident."""
    x = stored("irconstyle")["in_64x64"]
    style = conditioned.constyle(x)
    y = conditioned.restore(x, style)
    for other in (
        style._replace(vector=style.hidden),
        style._replace(features=tuple(torch.zeros_like(f) for f in style.features)),
    ):
        assert off(conditioned.restore(x, other), y) > 0.2


def test_constants_and_training_time_parts_of_a_checkpoint_are_dropped() -> None:
    kept = {
        "Preprocess_Module.proj.0.weight": "entry.0.weight",
        "Process_Module_r1.blocks.1.modulator.weight": "decoder1.1.attention.modulator",
        "Process_Module_bottom.blocks.0.attn.qkv.to_kv.bias": "bottom.0.attention.kv.bias",
    }
    dropped = (
        "Process_Module_l1.blocks.0.attn.relative_position_index",
        "ConStyle.queue",
        "ConStyle.encoder_k.stage1.0.0.weight",
    )
    state = dict.fromkeys((*kept, *dropped), torch.zeros(1))
    assert set(published_constyle_uformer(state)) == set(kept.values())
    plain = {"encoderlayer_0.blocks.0.attn.relative_position_index": torch.zeros(64, 64)}
    assert published_uformer(plain) == {}
