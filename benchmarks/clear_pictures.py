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
    """Print median, worst, how many come out unchanged, and how many fall under 35 dB."""
    files = clear_pictures(data)
    for task in TASKS:
        restorer = fw.load(task)
        kept = {}
        for file in files:
            pixels = read_picture(file).pixels
            kept[file.name] = score("rgb", restorer.restore(pixels).image, pixels).psnr
        worst = min(kept, key=kept.__getitem__)
        same = sum(value == math.inf for value in kept.values())
        under = sum(value < 35 for value in kept.values())
        print(
            f"{task}: {len(kept)} clear pictures, median {statistics.median(kept.values()):.1f} dB, {same} unchanged, "
            f"worst {kept[worst]:.1f} dB ({worst}), {under} under 35 dB"
        )


if __name__ == "__main__":
    typer.run(main)
