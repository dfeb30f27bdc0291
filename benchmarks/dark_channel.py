"""Dehazing without learning: the dark channel prior, to compare networks with.

    python -m benchmarks.dark_channel DATA/o_haze       # pairs in any layout of data/pairs.py
    python -m benchmarks.dark_channel DATA/rgbd         # clear pictures with depth maps, hazed as `evaluate` does

He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior" (CVPR 2009), with the guided filter of the same
authors (ECCV 2010) in place of soft matting. Patch and radius are theirs, for pictures of about 600x400 pixels.
"""

from __future__ import annotations

from pathlib import Path

import typer
from jaxtyping import Float
from torch import Tensor

from fairweather.evaluate import pictures_of
from fairweather.metrics import ScoreTable, score
from fairweather.models.haze import dark_channel
from fairweather.models.layers import guided_filter

PATCH = 15
OMEGA, LOWEST = 0.95, 0.1  # how much of the haze is taken away, and the least transmission that is divided by
BRIGHTEST = 0.001  # share of the pixels that airlight is looked for in
RADIUS, EPSILON = 60, 1e-3


def airlight(hazy: Float[Tensor, "3 h w"], dark: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 1 1"]:
    """The brightest pixel of the 0.1 % whose dark channel is brightest."""
    flat = hazy.flatten(1)
    candidates = flat[:, dark.flatten().topk(max(1, round(BRIGHTEST * flat.shape[1]))).indices]
    return candidates[:, candidates.sum(0).argmax()].view(3, 1, 1)


def dehaze(hazy: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Solve I = J t + A (1 - t) for J, with t = 1 - 0.95 dark(I / A)."""
    light = airlight(hazy, dark_channel(hazy[None], PATCH)[0])
    rough = 1 - OMEGA * dark_channel(hazy[None] / light, PATCH)[0]
    guide = hazy.mean(0, keepdim=True).double()[None]
    transmission = guided_filter(guide, rough.double()[None], radius=RADIUS, eps=EPSILON)[0].float()
    return ((hazy - light) / transmission.clamp(min=LOWEST) + light).clamp(0, 1)


def main(data: Path, split: str = "test") -> None:
    """Score the baseline, and the hazy pictures as they are."""
    tables = {"dehazeformer": ScoreTable(), "rgb": ScoreTable()}
    _, _, items = pictures_of(data, task="dehaze", split=split)
    for item in items:
        hazy, clear, _ = item.read()
        dehazed = dehaze(hazy)
        for profile, table in tables.items():
            table.add(item.name, item.group, score(profile, dehazed, clear), score(profile, hazy, clear))
    for profile, table in tables.items():
        m = table.overall()
        print(f"{m.count} pictures, profile {profile}: {m.psnr:.2f} dB / {m.ssim:.4f}", end="; ")
        print(f"input: {m.input_psnr:.2f} dB / {m.input_ssim:.4f}")


if __name__ == "__main__":
    typer.run(main)
