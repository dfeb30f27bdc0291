"""How much each task changes a picture that has nothing to remove: PSNR of the result against the clear input.

    python -m benchmarks.clear_pictures DATA

DATA is a folder of clear pictures. High is good: a clear picture should be left alone.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import typer

import fairweather as fw
from fairweather.data.pairs import clear_pictures
from fairweather.images import read_picture
from fairweather.loading import TASKS
from fairweather.metrics import score


def main(data: Path) -> None:
    """Print how many come out unchanged, median and worst of the others, and how many fall under 35 dB."""
    files = clear_pictures(data)
    for task in TASKS:
        restorer = fw.load(task)
        kept = {}
        for file in files:
            pixels = read_picture(file).pixels
            kept[file.name] = score("rgb", restorer.restore(pixels).image, pixels).psnr
        worst = min(kept, key=kept.__getitem__)
        changed = [value for value in kept.values() if value < math.inf]
        under = sum(value < 35 for value in changed)
        median = statistics.median(changed or [math.inf])
        print(
            f"{task}: {len(kept)} clear pictures, {len(kept) - len(changed)} unchanged, "
            f"median of the others {median:.1f} dB, worst {kept[worst]:.1f} dB ({worst}), {under} under 35 dB"
        )


if __name__ == "__main__":
    typer.run(main)
