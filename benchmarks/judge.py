"""How well the judge tells what ails a picture: a table of kinds against findings, on pictures it never saw.

    python -m benchmarks.judge DATA [--model FILE] [--plot OUT.png]

DATA is the folder of the sets. Made pictures are CBSD68, degraded by our own generators; the others are test splits. A
picture counts as judged rightly where what is sure is exactly what ails it, and rain at night counts as rain. Where a
degradation shows only faintly (`fairweather.data.findings`), neither answer is wrong, and the picture is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Generator, Tensor

import fairweather as fw
from fairweather.auto import SURE, AutoRestorer
from fairweather.data.degradations import DEGRADATIONS, quantise
from fairweather.data.findings import findings_of
from fairweather.data.pairs import clear_pictures, complete_pairs, matched
from fairweather.images import read_picture
from fairweather.metrics import psnr

MADE = {"clear": "none", "haze": "haze", "rain": "rain", "noise": "noise", "blur": "shake"}
PAIRS = {
    "o_haze": "haze",
    "i_haze": "haze",
    "nh_haze": "haze",
    "sots_indoor": "haze",
    "rain100": "rain",
    "roadscene_rain": "rain",
    "polyu_noise": "noise",
    "gopro_samples": "blur",
}
"""Sets in DATA by what ails their degraded pictures; the others are clear."""
ALONE = {"real_haze": "haze", "real_rain": "rain"}
"""Sets whose pictures have no clear partner."""
FAINT = "faint"
"""What hardly shows, so that neither answer is wrong."""


class Seen(NamedTuple):
    place: str
    ailment: str
    picture: Tensor


def pictures(data: Path) -> Iterator[Seen]:
    """Every test picture with what ails it."""
    for ailment, degradation in MADE.items():
        for number, file in enumerate(clear_pictures(data / "cbsd68")):
            degraded, clear = DEGRADATIONS[degradation](
                read_picture(file).pixels, Generator().manual_seed(number)
            )
            yield seen(f"CBSD68, {degradation}", ailment, quantise(degraded), clear)
    for name, ailment in PAIRS.items():
        shown = set()
        for pair in complete_pairs(data / name, split="test").pairs:
            degraded, clear = matched(
                *[read_picture(file).pixels for file in (pair.degraded, pair.target)],
                files=(pair.degraded, pair.target),
            )
            yield seen(name, ailment, degraded, clear)
            if pair.target not in shown:
                shown.add(pair.target)
                yield Seen(f"{name}, clear", "clear", clear)
    for name, ailment in ALONE.items():
        for file in clear_pictures(data / name / "test"):
            yield Seen(name, ailment, read_picture(file).pixels)


def seen(place: str, ailment: str, picture: Tensor, clear: Tensor) -> Seen:
    """What ails a picture as far as it shows, judged by its clear partner."""
    if ailment == "clear":
        return Seen(place, ailment, picture)
    apart = float(psnr(picture[None], clear[None]))
    truth = sum(findings_of(ailment, light=float(clear.mean()), apart=apart).values())
    return Seen(place, ailment if truth > 0.5 else "clear" if truth == 0 else FAINT, picture)


def kinds(findings: dict[str, float]) -> frozenset[str]:
    """What is sure, with rain at night as rain."""
    return frozenset(name.removeprefix("night ") for name, p in findings.items() if p >= SURE)


def main(data: Path, model: str | None = None, plot: Annotated[Path | None, typer.Option()] = None) -> None:
    """Print the table, and draw the vectors."""
    judge = fw.load("auto", model=model)
    assert isinstance(judge, AutoRestorer)
    counts: dict[tuple[str, str], Counter[str]] = {}
    vectors: list[Tensor] = []
    names: list[str] = []
    for place, ailment, picture in pictures(data):
        if ailment == FAINT:
            continue
        found = kinds(judge.judge(picture))
        counts.setdefault((place, ailment), Counter())["+".join(sorted(found)) or "clear"] += 1
        if plot:
            with torch.inference_mode():
                vectors.append(judge.net.vector(picture[None])[0])
            names.append(ailment)
    print(f"{judge.model}, weights {judge.sha256[:12]}, sure from {SURE}")
    rightly = touched = ailing = clear = 0
    for (place, ailment), row in counts.items():
        total = row.total()
        print(f"{place:34} {ailment:6} {row[ailment]:3} of {total:3} right   {dict(row.most_common())}")
        if ailment == "clear":  # blur is told and left alone
            clear, touched = clear + total, touched + total - row["clear"] - row["blur"]
        else:
            ailing, rightly = ailing + total, rightly + row[ailment]
    print(f"one ailment: {rightly} of {ailing} judged rightly ({rightly / ailing:.1%})")
    print(f"clear: {touched} of {clear} touched ({touched / clear:.1%})")
    if plot:
        draw(torch.stack(vectors), names, plot)


def draw(vectors: Tensor, names: list[str], file: Path) -> None:
    """The vectors on their two main axes (principal components), one colour for each ailment."""
    import matplotlib.pyplot as plt

    centred = vectors - vectors.mean(dim=0)
    _, _, axes = torch.pca_lowrank(centred, q=2)
    places = centred @ axes
    figure, panel = plt.subplots(figsize=(7, 5.5))
    for name in MADE:
        chosen = torch.tensor([n == name for n in names])
        panel.scatter(*places[chosen].T, s=9, label=name)
    panel.set(
        xlabel="first principal component", ylabel="second", title="The judge's vectors of test pictures"
    )
    panel.legend()
    figure.savefig(file, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    typer.run(main)
