"""Training of the judge, which finds what ails a picture: one yes or no for each finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairweather.data.patches import Clear, Pairs, Scenes
from fairweather.errors import UsageError
from fairweather.models.judge import WHOLE, Judge
from fairweather.training.config import TrainConfig
from fairweather.training.restoration import Restoration
from fairweather.training.sets import (
    BSDS,
    DIV2K,
    I_HAZE,
    I_HELD,
    NH_HAZE,
    NH_HELD,
    O_HAZE,
    O_HELD,
    RGBD,
    ROADSCENE,
    ROADSCENE_HELD,
    SCENES_HELD,
)


class JudgeTraining(Restoration):
    """Binary cross entropy of all findings. The reduced copy changes its size, as pictures in use do."""

    net: Judge
    monitor = "val/score"

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        if not isinstance(net, Judge):
            raise UsageError(f"task=auto trains a judge, and model={config.model} is none; take judge_small")
        super().__init__(net, config)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.momentum = 0.01  # statistics over as many steps as the averaged weights they go with

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        pictures, findings = batch
        whole = round(WHOLE * 2 ** float(torch.empty(()).uniform_(-0.7, 0.4)))
        logits = self.net(pictures.contiguous(memory_format=self.memory_format), whole=whole)
        loss = F.binary_cross_entropy_with_logits(logits.float(), findings)
        self.note("train/loss", loss)
        return loss

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        """Minus the cross entropy of the average, in fp32 and on whole pictures; and how many are judged rightly."""
        pictures, findings = batch
        with torch.autocast(self.device.type, enabled=False):
            logits = self.average.module(pictures)
        score = -F.binary_cross_entropy_with_logits(logits, findings)
        right = ((logits > 0) == (findings > 0.5)).all(dim=1).float().mean()
        for name, value in ((self.monitor, score), ("val/right", right)):
            self.log(name, value, prog_bar=True, on_epoch=True, batch_size=1)


Ranges = tuple[tuple[int, int], ...]

# Recipes ---------------------------------------------------------------------------------------------------------


def judge_start() -> TrainConfig:
    """First stage of judge_small: every kind of degradation that the other recipes know, real ones too."""
    made = (("haze", 0.09), ("rain", 0.16), ("noise", 0.1), ("shake", 0.13), ("none", 0.16))
    return TrainConfig(
        recipe="judge_start",
        model="judge_small",
        task="auto",
        sources=(
            *(
                Clear(path=BSDS / "train", degradation=name, weight=0.4 * share, tones=0.3)
                for name, share in made
            ),
            *(
                Clear(path=BSDS / "test", degradation=name, weight=0.6 * share, tones=0.3)
                for name, share in made
            ),
            Scenes(path=RGBD, split="train", drop=SCENES_HELD, weight=0.04),
            Pairs(path=O_HAZE, split="train", drop=O_HELD, weight=0.03, ailment="haze"),
            Pairs(path=I_HAZE, split="train", drop=I_HELD, weight=0.02, ailment="haze"),
            Pairs(path=NH_HAZE, split="train", drop=NH_HELD, weight=0.02, ailment="haze"),
            Clear(path=O_HAZE / "train/clear", degradation="none", drop=O_HELD, weight=0.02),
            Clear(path=I_HAZE / "train/clear", degradation="none", drop=I_HELD, weight=0.02),
            Clear(path=NH_HAZE / "train/clear", degradation="none", drop=NH_HELD, weight=0.02),
            Pairs(path=ROADSCENE, split="train", drop=ROADSCENE_HELD, weight=0.06, ailment="rain"),
            *(
                Clear(
                    path=ROADSCENE / "train/Vis/target",
                    degradation=name,
                    drop=ROADSCENE_HELD,
                    weight=share,
                )
                for name, share in (("roadscene_rain", 0.03), ("rain", 0.03), ("none", 0.1))
            ),
            Clear(path=DIV2K, degradation="none", weight=0.02),
        ),
        validation=(
            *(
                Clear(path=BSDS / "val", degradation=name, keep=((first, first + 5),))
                for first, name in zip(
                    range(0, 30, 6), ("none", "haze", "rain", "noise", "shake"), strict=True
                )
            ),
            Pairs(path=O_HAZE, split="train", keep=O_HELD, ailment="haze"),
            Pairs(path=I_HAZE, split="train", keep=I_HELD, ailment="haze"),
            Pairs(path=NH_HAZE, split="train", keep=NH_HELD, ailment="haze"),
            Scenes(path=RGBD, split="train", keep=SCENES_HELD),
            Pairs(path=ROADSCENE, split="train", keep=ROADSCENE_HELD, ailment="rain"),
            Clear(path=ROADSCENE / "train/Vis/target", degradation="none", keep=ROADSCENE_HELD),
            Clear(path=O_HAZE / "train/clear", degradation="none", keep=O_HELD),
            Clear(path=I_HAZE / "train/clear", degradation="none", keep=I_HELD),
        ),
        patch=256,
        batch=24,
        learning_rate=1e-3,
        warmup=50,
        steps=6000,
        validate_every=500,
        checkpoint_every=100,
    )


def judge_small() -> TrainConfig:
    """What ails a picture, second stage: more kinds of cameras, rooms and light, above all in clear pictures.

    After the first stage rooms were taken for blurred, their haze was not seen, and pale pictures were taken for hazy.
    """
    before = judge_start()

    def made(path: Path, weight: float, shares: Sequence[float], drop: Ranges = ()) -> Iterator[Clear]:
        kinds = ("none", "haze", "rain", "noise", "camera_noise", "shake")
        for kind, share in zip(kinds, shares, strict=True):
            if share:
                yield Clear(path=path, degradation=kind, weight=weight * share, tones=0.5, drop=drop)

    of_all = (0.28, 0.17, 0.2, 0.1, 0.08, 0.17)
    real = [
        source
        for source in before.sources
        if isinstance(source, Pairs) or source.path not in (BSDS / "train", BSDS / "test", DIV2K, RGBD)
    ]
    return dataclasses.replace(
        before,
        recipe="judge_small",
        sources=(
            *made(BSDS / "train", 0.18, of_all),
            *made(BSDS / "test", 0.27, of_all),
            *made(DIV2K, 0.08, of_all),
            *made(RGBD / "train/rgb", 0.12, (0.5, 0, 0.14, 0.06, 0.1, 0.2), SCENES_HELD),
            Scenes(path=RGBD, split="train", drop=SCENES_HELD, weight=0.07, tones=0.3),
            Scenes(path=RGBD, split="train", drop=SCENES_HELD, weight=0.04, tones=0.3, ranges="its"),
            *real,
        ),
        init=Path("runs/judge_start/weights.safetensors"),
        learning_rate=5e-4,
        steps=2400,
        validate_every=400,
        seed=1,
    )
