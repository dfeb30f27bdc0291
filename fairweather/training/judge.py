"""Training of the judge, which finds what ails a picture: one yes or no for each finding."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from fairweather.auto import witness
from fairweather.data.findings import Judged, JudgedPictures
from fairweather.data.patches import Clear, Pairs, Scenes, drawn_by
from fairweather.errors import UsageError
from fairweather.files import written_whole
from fairweather.loading import load
from fairweather.models.evidence import WITNESSES, evidence
from fairweather.models.inference import for_inference
from fairweather.models.judge import WHOLE, Judge
from fairweather.pipeline import Restorer
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

log = logging.getLogger(__name__)


class JudgeTraining(Restoration):
    """Binary cross entropy of all findings, by looks alone. The reduced copy changes its size as pictures in use do."""

    net: Judge
    monitor = "val/score"

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        if not isinstance(net, Judge):
            raise UsageError(f"task=auto trains a judge, and model={config.model} is none; take judge_small")
        super().__init__(net, config)
        net.weigher.requires_grad_(False)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.momentum = 0.01  # statistics over as many steps as the averaged weights they go with

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        pictures, findings = batch
        whole = round(WHOLE * 2 ** float(torch.empty(()).uniform_(-0.7, 0.4)))
        logits = self.net(pictures.contiguous(memory_format=self.memory_format), whole=whole)
        return self._loss(logits, findings)

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        """Minus the cross entropy of the average, in fp32 and on whole pictures; and how many are judged rightly."""
        pictures, findings = batch
        with torch.autocast(self.device.type, enabled=False):
            logits = self.average.module(pictures)
        self._score(logits, findings)

    def _loss(self, logits: Tensor, findings: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits.float(), findings)
        self.note("train/loss", loss)
        return loss

    def _score(self, logits: Tensor, findings: Tensor) -> None:
        score = -F.binary_cross_entropy_with_logits(logits, findings)
        right = ((logits > 0) == (findings > 0.5)).all(dim=1).float().mean()
        for name, value in ((self.monitor, score), ("val/right", right)):
            self.log(name, value, prog_bar=True, on_epoch=True, batch_size=1)


class Seen(NamedTuple):
    """What a judge with held encoders needs of a picture."""

    looks: Tensor
    """Its logits by looks."""
    evidence: Tensor
    """What the shipped restorers would change; see `models/evidence.py`."""
    findings: Tensor


class Gathered(Dataset[Seen]):
    """What was seen in a number of pictures. Item i is one of them, drawn by (seed, i) alone; in order without seed."""

    def __init__(self, seen: Seen, *, seed: int | None = None) -> None:
        self.seen, self.seed = seen, seed

    def __len__(self) -> int:
        return len(self.seen.findings)

    def __getitem__(self, index: int) -> Seen:
        if self.seed is not None:
            generator = drawn_by(self.seed, index)
            index = int(torch.randint(len(self), (), generator=generator))
        return Seen(*(values[index] for values in self.seen))


class WeighingTraining(JudgeTraining):
    """The encoders are held: what weighs their logits and the evidence learns, from a number of patches.

    Evidence takes up to half a second a picture, so it is gathered once, and kept in the run's folder. The average is
    chosen by its cross entropy at a temperature of 1, and published with those that fit the held-back pictures.
    """

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        super().__init__(net, config)
        self.net.requires_grad_(False)
        self.net.weigher.requires_grad_(True)
        self.net.get_buffer("temperature").fill_(1)  # `init` may be calibrated

    def gathered(
        self, patches: Dataset[Any], held_back: Dataset[Any], run: Path
    ) -> tuple[Gathered, Gathered]:
        """What is trained on and what is validated on; a run that was killed goes on where it was.

        Args:
            patches, held_back: `JudgedPatches` and `JudgedPictures`.
        """
        assert isinstance(held_back, JudgedPictures)
        seen = gather(self.net, patches, self.config.evidence, run / "evidence.safetensors", half=True)
        self.net.weigher.learn_scales(torch.cat(seen[:2], dim=1))  # the average copies buffers
        validation = gather(self.net, held_back, len(held_back), run / "evidence_held_back.safetensors")
        return Gathered(seen, seed=self.config.seed), Gathered(validation)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        looks, evidence, findings = batch
        return self._loss(self.net.weigh(looks, evidence), findings)

    @property
    def _averaged(self) -> Judge:
        judge = self.average.module
        assert isinstance(judge, Judge)
        return judge

    def on_validation_epoch_start(self) -> None:
        self._averaged.get_buffer("temperature").fill_(1)
        self._said: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        """As `JudgeTraining` does."""
        looks, evidence, findings = batch
        with torch.autocast(self.device.type, enabled=False):
            logits = self._averaged.weigh(looks, evidence)
        self._said.append((logits, findings))
        self._score(logits, findings)

    def on_validation_epoch_end(self) -> None:
        """The average is calibrated for the checkpoint that comes now; the next step takes its buffers back."""
        logits, findings = zip(*self._said, strict=True)
        self._averaged.calibrate(torch.cat(logits), torch.cat(findings))


KEEP_EVERY = 100
"""Pictures after which what was gathered is written."""


@torch.inference_mode()
def gather(net: Judge, pictures: Dataset[Judged], count: int, file: Path, *, half: bool = False) -> Seen:
    """What the judge and the shipped restorers see in the first `count` pictures; the file keeps what is done.

    Args:
        half: in two of three pictures the restorers compute in bf16, so that the judge knows what either shows.
    """
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16", "bf16") if half else ("fp32",)
    restorers = {precision: _witnesses(precision) for precision in set(precisions)}
    held = for_inference(net.eval())
    rows: list[Seen] = []
    if file.exists():
        kept = load_file(file)
        rows = [Seen(*row) for row in zip(*(kept[name] for name in Seen._fields), strict=True)]
    for i in range(len(rows), count):
        picture, findings = pictures[i]
        looks = held(picture[None])[0]
        rows.append(Seen(looks, evidence(picture, restorers[precisions[i % len(precisions)]]), findings))
        if len(rows) % KEEP_EVERY == 0 or len(rows) == count:
            log.info(f"evidence of {len(rows)} of {count} pictures")
            with written_whole(file) as part:
                save_file(
                    {k: torch.stack(v) for k, v in zip(Seen._fields, zip(*rows, strict=True), strict=True)},
                    part,
                )
    net.train()
    return Seen(*(torch.stack(values) for values in zip(*rows[:count], strict=True)))


def _witnesses(precision: Literal["fp32", "bf16"]) -> dict[str, Callable[[Tensor], Tensor]]:
    """The shipped restorers, as `evidence` asks them."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for task in WITNESSES:
        restorer = load(task, device="cpu", precision=precision)
        assert isinstance(restorer, Restorer)
        found[task] = witness(restorer)
    return found


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


def judge_rooms() -> TrainConfig:
    """What ails a picture, third stage: more haze that steps where pictures do, as that of rooms does.

    After the second stage haze in rooms that it had not seen was taken for clear.
    """
    before = judge_small()
    imagined = (
        Clear(path=path, degradation="imagined_haze", drop=drop, weight=weight, tones=0.5)
        for path, weight, drop in (
            (BSDS / "train", 0.05, ()),
            (BSDS / "test", 0.07, ()),
            (DIV2K, 0.02, ()),
            (RGBD / "train/rgb", 0.05, SCENES_HELD),
            (ROADSCENE / "train/Vis/target", 0.01, ROADSCENE_HELD),
        )
    )
    kinds = ("none", "haze", "imagined_haze", "rain", "noise", "shake")
    return dataclasses.replace(
        before,
        recipe="judge_rooms",
        sources=(*(dataclasses.replace(x, weight=0.8 * x.weight) for x in before.sources), *imagined),
        validation=(
            *(Clear(path=BSDS / "val", degradation=name) for name in kinds),
            *(x for x in before.validation if x.path != BSDS / "val"),
            Clear(path=RGBD / "train/rgb", degradation="none", keep=SCENES_HELD),
            Scenes(path=RGBD, split="train", keep=SCENES_HELD, ranges="its"),
        ),
        init=Path("runs/judge_small/weights.safetensors"),
        learning_rate=3e-4,
        steps=1800,
        validate_every=300,
        seed=2,
    )


def judge_evidence() -> TrainConfig:
    """What ails a picture, last stage: the shipped restorers' changes are weighed with what the encoders see.

    Of what is hard to see: rain as photographs of showers show it, and more noise of cameras. Haze is judged by looks
    alone, so it needs no more of it than the second stage has, but whatever the third is validated on counts here too.
    """
    small = judge_small()
    faint = (("showers", 0.12), ("camera_noise", 0.08))
    more = (
        Clear(path=path, degradation=kind, drop=drop, weight=weight * share, tones=0.5)
        for kind, weight in faint
        for path, share, drop in (
            (BSDS / "train", 0.28, ()),
            (BSDS / "test", 0.42, ()),
            (DIV2K, 0.12, ()),
            (RGBD / "train/rgb", 0.18, SCENES_HELD),
        )
    )
    return dataclasses.replace(
        small,
        recipe="judge_evidence",
        sources=(*(dataclasses.replace(x, weight=0.8 * x.weight) for x in small.sources), *more),
        validation=(
            *judge_rooms().validation,
            *(Clear(path=BSDS / "val", degradation=kind) for kind, _ in faint),
        ),
        init=Path("runs/judge_rooms/weights.safetensors"),
        evidence=8000,
        patch=320,
        batch=256,
        learning_rate=3e-3,
        weight_decay=0.5,
        precision="fp32",
        ema_decay=0.99,
        steps=2000,
        validate_every=200,
        checkpoint_every=500,
        seed=79,
    )
