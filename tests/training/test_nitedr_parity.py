"""Three cascades of the official second stage on one pair of pictures, its faults included, through our own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import published, stored
from lightning import Trainer
from torch import Tensor

from fairweather.models.fusionnet import fusionnet, published_fusionnet
from fairweather.training.nitedr import Fused, FusionTraining, fusion_official

CASE = stored("nitedr_stage2")
MODULE, LOSS, STEPPED = 1e-5, 1e-4, 1e-3
"""Absolute for pictures; relative for losses, and for gradients and what the steps have changed."""


class Watched(FusionTraining):
    """Keeps what each cascade made; a batch is what the release has after its colour conversion."""

    def __init__(self) -> None:
        net = fusionnet()
        net.load_state_dict(
            published_fusionnet(published("nitedr_fusion") | published("nitedr_refine.train"))
        )
        super().__init__(net.train(), fusion_official())
        self.found: list[Fused] = []
        self.noted: dict[str, list[Tensor]] = {}

    def training_step(self, batch: Sequence[Tensor], _: int) -> None:
        self.found, self.noted = [], {}
        seen, heat = (2 * x.permute(2, 0, 1)[None].float() / 255 - 1 for x in batch)
        for number in (1, 2, 3):
            self.found.append(self.cascade(seen, heat, last=number == 3))
            seen = self.found[-1].following

    def note(self, name: str, loss: Tensor) -> None:
        self.noted.setdefault(name, []).append(loss.detach())


@pytest.fixture(scope="module")
def trained(fitted: Callable[[Watched, list[Any]], Trainer]) -> Watched:
    module = Watched()
    trainer = fitted(module, [(CASE["vis_ycrcb_u8"], CASE["ir_ycrcb_u8"])])
    assert trainer.global_step == 1  # three cascades are one step of the run
    return module


def test_every_loss_equals_the_originals(trained: Watched) -> None:
    names = {"train/ssim": "ssim", "train/mse": "mse", "train/loss": "fusion", "train/refinement": "refine"}
    for name, original in names.items():
        torch.testing.assert_close(
            torch.stack(trained.noted[name]), CASE[f"loss_{original}"], rtol=LOSS, atol=0
        )


def test_what_each_cascade_makes_equals_the_originals(trained: Watched) -> None:
    for number, fused in enumerate(trained.found):
        for ours, original in ((fused.rgb, "rgb"), (fused.following, "next_v")):
            expected = CASE[f"{original}_{number}@s4"]
            assert (ours[..., ::4, ::4] - expected).abs().max() < 3 * MODULE, (original, number)


def test_weights_and_statistics_after_the_step_equal_the_originals(trained: Watched) -> None:
    state = trained.net.state_dict()
    names = {
        "dense.exit.3.weight": "fusion_sub3_weight_after",
        "refinement.balance.out_conv.0.weight": "refine_out_weight_after",
        "refinement.balance.conv.1.running_mean": "refine_bn_mean_after",
        "refinement.balance.conv.1.running_var": "refine_bn_var_after",
        "refinement.adjust.convs.1.running_mean": "adjust_bn_mean_after",
    }
    for ours, original in names.items():
        expected = CASE[original]
        assert (state[ours] - expected).norm() < STEPPED * expected.norm(), ours
    counted = ("balance.conv.1", "adjust.in_conv.1", "adjust.convs.1")
    counts = [int(state[f"refinement.{name}.num_batches_tracked"]) for name in counted]
    assert counts == CASE["bn_counts_after"].tolist()
