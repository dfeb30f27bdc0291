"""MAXIM against the originals, for known weights, within 1e-4 of the values' standard deviation (specification 17)."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from cases import off, published, stored
from torch import Tensor

import fairweather as fw
from fairweather.models.constyle import Style

TOLERANCE = 1e-4
INPUTS = stored("irconstyle")  # all cases of the paper's networks have the same two pictures
INNER = {
    "maxim": {
        "downs.1": "stage_0_encoder_block_1.0@s8",
        "bottom": "stage_0_global_block_1@s4",
        "gates.1": "stage_0_cross_gating_block_1.0@s16",
        "decoders.1": "stage_0_decoder_block_1@s16",
    },
    "constyle_maxim": {
        "fusion.gate": "mlp",
        "encoder3": "Process_Module_l3@s8",
        "bottom": "Process_Module_bottom@s4",
        "fusion": "local_fusion@s4",
        "gates.2": "cross_gating_block_2.0@s8",
        "gates.0": "cross_gating_block_0.0@s16",
        "decoder2": "Process_Module_r2@s16",
    },
}
"""Modules, and the original's values there: every n-th row and column where the name ends in @sn."""


def case(name: str) -> str:
    return {"maxim": "plain_maxim", "constyle_maxim": "irconstyle_maxim"}[name]


@cache
def original(name: str) -> torch.nn.Module:
    return fw.from_published(name, published(case(name)))


@cache
def restored(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The 64x64 picture restored, and what the modules of `INNER` gave on the way."""
    net, seen = original(name), {}

    def keep(module: torch.nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[names[module]] = output[0] if isinstance(output, tuple) else output

    names = {net.get_submodule(inner): inner for inner in INNER[name]}
    handles = [module.register_forward_hook(keep) for module in names]
    with torch.inference_mode():
        result: Tensor = net(INPUTS["in_64x64"])
    for handle in handles:
        handle.remove()
    return result, seen


def thinned(x: Tensor, key: str) -> Tensor:
    """The rows and columns that a key's @s tells."""
    if "@s" not in key:
        return x
    step = int(key.rpartition("@s")[2])
    return x[..., ::step, ::step]


@pytest.mark.parametrize("name", list(INNER))
def test_output_equals_the_original(name: str) -> None:
    assert off(restored(name)[0][..., ::3, ::3], stored(case(name))["out_64x64@s3"]) < TOLERANCE


@pytest.mark.parametrize(("name", "inner"), [(n, i) for n in INNER for i in INNER[n]])
def test_inner_values_equal_the_original(name: str, inner: str) -> None:
    key = INNER[name][inner]
    assert off(thinned(restored(name)[1][inner], key), stored(case(name))[f"mid_64x64/{key}"]) < TOLERANCE


@pytest.mark.parametrize("name", list(INNER))
@torch.inference_mode()
def test_pads_to_a_picture_that_is_not_square_as_the_original_and_crops(name: str) -> None:
    """75x53 becomes 128x64; the values behind the crop reach every pixel through the grids."""
    result = original(name)(INPUTS["in_75x53"])
    assert result.shape[-2:] == (75, 53)
    assert off(result[..., ::3, ::3], stored(case(name))["out_75x53@s3"][..., :25, :18]) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        (lambda s: s._replace(vector=torch.zeros_like(s.vector)), 5.9),
        (lambda s: s._replace(vector=s.hidden), 10.4),
        (lambda s: s._replace(features=tuple(torch.zeros_like(f) for f in s.features)), 10.4),
    ],
    ids=["no vector", "the other vector", "no maps"],
)
@torch.inference_mode()
def test_the_style_matters_as_much_as_in_the_original(change: object, moves: float) -> None:
    net, x = original("constyle_maxim"), INPUTS["in_64x64"]
    style: Style = net.constyle(x)
    assert off(style.vector, stored("irconstyle_maxim")["mid_64x64/ConStyle.q1"]) < TOLERANCE
    changed = net.restore(x, change(style))  # type: ignore[operator]
    assert (changed - restored("constyle_maxim")[0]).abs().max() == pytest.approx(moves, abs=0.05)


def test_parts_that_the_original_never_reads_are_dropped() -> None:
    unread = sum(v.numel() for v in published("plain_maxim").values())
    unread -= sum(p.numel() for p in original("maxim").parameters())
    assert unread == 2_041_312
