"""What can be had on RoadScene-rain without learning: a median across the streaks, then the mean veil undone.

    python -m benchmarks.classical_derain DATA

Its rain always falls at 28.7 degrees and blends on average 14.75 % of grey 175.7 over the picture (NiteDR's data,
measured on all its pairs), so this baseline knows more about the rain than a network is told. On other rain it is lost.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float
from torch import Tensor

from fairweather.data.pairs import find_pairs
from fairweather.images import read_picture
from fairweather.metrics import ScoreTable, score

ANGLE, VEIL, GREY = 28.7, 0.1475, 175.7 / 255


def classical_derain(rainy: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """5-tap median across the streaks, one pixel apart, then T = (I - a C) / (1 - a)."""
    height, width = rainy.shape[-2:]
    dy, dx = math.sin(math.radians(ANGLE)), math.cos(math.radians(ANGLE))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    taps = []
    for step in range(-2, 3):
        grid = torch.stack(
            [2 * (x + step * dx) / (width - 1) - 1, 2 * (y + step * dy) / (height - 1) - 1], -1
        )
        taps.append(F.grid_sample(rainy[None], grid[None], padding_mode="border", align_corners=True)[0])
    median = torch.stack(taps).median(dim=0).values
    return ((median - VEIL * GREY) / (1 - VEIL)).clamp(0, 1)


def main(data: Path, split: str = "test", profile: str = "y") -> None:
    """Score the baseline on the pairs of a data set."""
    table = ScoreTable()
    for pair in find_pairs(data, split=split).pairs:
        rainy, target = read_picture(pair.degraded).pixels, read_picture(pair.target).pixels
        table.add(
            pair.degraded.name,
            pair.group,
            score(profile, classical_derain(rainy), target),
            score(profile, rainy, target),
        )
    means = table.overall()
    print(f"{means.count} pictures, profile {profile}: {means.psnr:.2f} dB, SSIM {means.ssim:.4f}")
    print(f"input: {means.input_psnr:.2f} dB, SSIM {means.input_ssim:.4f}")


if __name__ == "__main__":
    typer.run(main)
