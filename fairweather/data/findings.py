"""Pictures with what ails them, for training and testing the judge.

>>> findings_of("rain", light=0.1, apart=24.0)
{'rain': 0.0, 'night rain': 1.0}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from fairweather.data.degradations import quantise
from fairweather.data.patches import Pairs, Patches, Pictures, Sample, Scenes, Source, drawn_by
from fairweather.data.random_degradations import DEGRADATIONS, Draw
from fairweather.metrics import psnr
from fairweather.models.judge import FINDINGS

AILMENTS: dict[str, str] = {
    "haze": "haze",
    "patchy_haze": "haze",
    "night_haze": "haze",
    "imagined_haze": "haze",
    "rain": "rain",
    "showers": "rain",
    "roadscene_rain": "rain",
    "noise": "noise",
    "noise15": "noise",
    "noise25": "noise",
    "noise50": "noise",
    "noise_blind": "noise",
    "camera_noise": "noise",
    "blur": "blur",
    "shake": "blur",
}
"""What each random degradation does to a picture; what is not here does nothing."""
NIGHT = (0.3, 0.2)
"""Mean of a clear picture above which rain over it is no rain at night, and below which it is nothing else."""
FAINT = {"haze": (28.0, 22.0)}
"""PSNR in dB above which a degradation does not show, and below which it does. Haze moves all pixels a little: what
is far from the clear picture by that measure may look clear."""
USUALLY_FAINT = (37.0, 31.0)
"""Of the others; noise of sigma 5 has 34."""


class Judged(NamedTuple):
    """A picture and what ails it."""

    picture: Tensor
    """(3, h, w) in [0, 1], as an 8-bit file holds it."""
    findings: Tensor
    """How far each of FINDINGS is true, 0 to 1; see `findings_of`."""


def findings_of(ailment: str, *, light: float, apart: float) -> dict[str, float]:
    """How far each finding is true, 0 to 1, of a picture that has one ailment ("" is none); between, nobody can say.

    Args:
        light: mean of the clear picture. apart: PSNR in dB of the picture against the clear one.
    """
    there = _ramp(apart, *FAINT.get(ailment, USUALLY_FAINT))
    if ailment == "rain":
        night = _ramp(light, *NIGHT)
        return {"rain": there * (1 - night), "night rain": there * night}
    return {ailment: there} if ailment else {}


def _ramp(value: float, nothing: float, everything: float) -> float:
    return min(1.0, max(0.0, (nothing - value) / (nothing - everything)))


def judged(sample: Sample, ailment: str, second: str, generator: Generator) -> Judged:
    """The picture of a sample, with a second degradation on top where one is named, and what ails it visibly."""
    light = float(sample.target.mean())
    picture = quantise(sample.degraded)
    found = findings_of(ailment, light=light, apart=float(psnr(picture[None], sample.target[None])))
    if second:
        worse, before = DEGRADATIONS[second](picture, generator)
        picture = quantise(worse)
        apart = float(psnr(picture[None], before[None]))
        for name, there in findings_of(AILMENTS.get(second, ""), light=light, apart=apart).items():
            found[name] = max(there, found.get(name, 0.0))
    return Judged(picture, torch.tensor([found.get(name, 0.0) for name in FINDINGS]))


def ailment_of(source: Source) -> str:
    """What ails the pictures of a source; "" is nothing."""
    if isinstance(source, Pairs):
        return source.ailment
    return "haze" if isinstance(source, Scenes) else AILMENTS.get(source.degradation, "")


class JudgedPatches(Dataset[Judged]):
    """An endless set of patches with their findings; item i is a function of (seed, i) alone.

    Args:
        sources, root, size, seed: as of `Patches`.
        second: degradations of which one comes on top of one patch in five.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        root: Path,
        size: int,
        seed: int,
        second: Sequence[str] = ("noise", "rain", "haze", "shake"),
    ) -> None:
        self.ailments = [ailment_of(source) for source in sources]
        self.patches = [Patches([source], root=root, size=size, seed=seed) for source in sources]
        self.weights = torch.tensor([source.weight for source in sources])
        self.seed, self.second = seed, tuple(second)

    def __getitem__(self, index: int) -> Judged:
        generator = drawn_by(self.seed, index)
        which = int(torch.multinomial(self.weights, 1, generator=generator))
        second = ""
        if self.second and Draw(generator).chance(0.2):
            second = self.second[int(torch.randint(len(self.second), (), generator=generator))]
        return judged(self.patches[which][index], self.ailments[which], second, generator)


class JudgedPictures(Dataset[Judged]):
    """Whole pictures with their findings, the same at every validation."""

    def __init__(self, sources: Sequence[Source], *, root: Path) -> None:
        self.sets = [(Pictures([source], root=root), ailment_of(source)) for source in sources]
        self.places = [(k, i) for k, (pictures, _) in enumerate(self.sets) for i in range(len(pictures))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Judged:
        which, number = self.places[index]
        pictures, ailment = self.sets[which]
        return judged(pictures[number], ailment, "", Generator().manual_seed(index))
