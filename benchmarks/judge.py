"""How well the judge tells what ails a picture: a table of kinds against findings, on pictures it never saw.

    python -m benchmarks.judge DATA [--model FILE] [--plot OUT.png]

DATA is the folder of the sets. Made pictures are CBSD68, degraded by our own generators; the others are test splits. A
picture counts as judged rightly where what is sure is exactly what ails it; rain by day and rain at night are put right
alike, so either may be told of the other, and how often the right one is told is said apart. Where a degradation shows
only faintly (`fairweather.data.findings`), neither answer is wrong, and the picture is left out.
Apart from the rest: pictures with two ailments, and how often what is said with a probability is true.
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
from fairweather.data.degradations import quantise
from fairweather.data.findings import findings_of
from fairweather.data.pairs import clear_pictures, complete_pairs, matched
from fairweather.data.random_degradations import DEGRADATIONS
from fairweather.images import read_picture
from fairweather.metrics import psnr

MADE = {"clear": "none", "haze": "haze", "rain": "rain", "noise": "noise", "blur": "shake"}
"""What is made by which degradation."""
AT_NIGHT = "night "
"""Before "rain": over a dark picture."""
TWO = (("rain", "noise"), ("haze", "noise"), ("haze", "rain"))
"""What is made with two ailments, one after the other."""
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
HARDLY = "faint"
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
    for ailments in TWO:
        for number, file in enumerate(clear_pictures(data / "cbsd68")):
            generator, picture, truths = Generator().manual_seed(number), read_picture(file).pixels, []
            for ailment in ailments:
                degraded, clear = DEGRADATIONS[ailment](picture, generator)
                truths.append(seen("", ailment, quantise(degraded), clear).ailment)
                picture = quantise(degraded)
            both = (
                "+".join(sorted(ailments))
                if [either(truth) for truth in truths] == list(ailments)
                else HARDLY
            )
            yield Seen("CBSD68, " + " and ".join(ailments), both, picture)
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
    truths = findings_of(ailment, light=float(clear.mean()), apart=apart)
    truth = sum(truths.values())
    likeliest = max(truths, key=lambda name: truths[name])
    return Seen(place, likeliest if truth > 0.5 else "clear" if truth == 0 else HARDLY, picture)


def by_kind(findings: dict[str, float]) -> dict[str, float]:
    """The probability of each kind; of rain by day and rain at night only the likelier is kept."""
    day, night = findings["rain"], findings[AT_NIGHT + "rain"]
    return {name: p for name, p in findings.items() if name != ("rain" if night > day else AT_NIGHT + "rain")}


def either(kinds: str) -> str:
    """Kinds with rain at night as rain, since both are put right alike.

    >>> either("night rain+noise"), either("blur+night rain")
    ('noise+rain', 'blur+rain')
    """
    return "+".join(sorted(kind.removeprefix(AT_NIGHT) for kind in kinds.split("+")))


def reliability(said: list[tuple[float, bool]]) -> Iterator[str]:
    """For each fifth of the probabilities: how many were said, their mean, and how many of them were true."""
    for lower in (0.0, 0.2, 0.4, 0.6, 0.8):
        chosen = [(p, true) for p, true in said if lower <= p < lower + 0.2 or (p == 1 and lower == 0.8)]
        if chosen:
            mean, true = (sum(x) / len(chosen) for x in zip(*chosen, strict=True))
            yield f"said {lower:.1f} to {lower + 0.2:.1f}: {len(chosen)} times, on average {mean:.2f}; true {true:.2f}"


def main(data: Path, model: str | None = None, plot: Annotated[Path | None, typer.Option()] = None) -> None:
    """Print the table, and draw the vectors."""
    judge = fw.load("auto", model=model)
    assert isinstance(judge, AutoRestorer)
    counts: dict[tuple[str, str], Counter[str]] = {}
    said: list[tuple[float, bool]] = []
    vectors: list[Tensor] = []
    names: list[str] = []
    changed = 0
    for place, ailment, picture in pictures(data):
        if ailment == HARDLY:
            continue
        if ailment == "clear":
            result = judge.restore(picture)
            findings = dict(result.findings or {})
            changed += not torch.equal(*map(quantise, (result.picture.pixels, picture)))
        else:
            findings = judge.judge(picture)
        probabilities = by_kind(findings)
        found = sorted(kind for kind, p in probabilities.items() if p >= SURE)
        counts.setdefault((place, ailment), Counter())["+".join(found) or "clear"] += 1
        if "+" not in ailment:
            said += [(p, either(kind) == either(ailment)) for kind, p in probabilities.items()]
        if plot:
            with torch.inference_mode():
                vectors.append(judge.net.vector(picture[None])[0])
            names.append(ailment)
    print(f"{judge.model}, weights {judge.sha256[:12]}, sure from {SURE}")
    rightly = told = ailing = clear = both = all_two = rain_found = hour_right = 0
    for (place, ailment), row in counts.items():
        total, right = row.total(), sum(n for found, n in row.items() if either(found) == either(ailment))
        print(f"{place:34} {ailment:10} {right:3} of {total:3} right   {dict(row.most_common())}")
        if ailment == "clear":  # blur is told and left alone
            clear, told = clear + total, told + total - row["clear"] - row["blur"]
        elif "+" in ailment:
            all_two, both = all_two + total, both + right
        else:
            ailing, rightly = ailing + total, rightly + right
            if either(ailment) == "rain" and place not in ALONE:
                rain_found, hour_right = rain_found + right, hour_right + row[ailment]
    print(f"one ailment: {rightly} of {ailing} judged rightly ({rightly / ailing:.1%})")
    print(f"clear: {told} of {clear} judged to need something ({told / clear:.1%})")
    print(f"clear: {changed} of {clear} changed by what was done then ({changed / clear:.1%})")
    print(f"two ailments: {both} of {all_two} judged rightly ({both / all_two:.1%})")
    print(f"rain: {hour_right} of {rain_found} rightly told to be by day or at night")
    print(*reliability(said), sep="\n")
    if plot:
        draw(torch.stack(vectors), names, plot)


def draw(vectors: Tensor, names: list[str], file: Path) -> None:
    """The vectors on their two main axes (principal components), one colour for each ailment."""
    import matplotlib.pyplot as plt

    centred = vectors - vectors.mean(dim=0)
    _, _, axes = torch.pca_lowrank(centred, q=2)
    places = centred @ axes
    figure, panel = plt.subplots(figsize=(7, 5.5))
    for name in (*MADE, AT_NIGHT + "rain"):
        chosen = torch.tensor([n == name for n in names])
        panel.scatter(*places[chosen].T, s=9, label=name)
    panel.set(
        xlabel="first principal component", ylabel="second", title="The judge's vectors of test pictures"
    )
    panel.legend()
    figure.savefig(file, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    typer.run(main)
