"""Seconds and peak memory of the command line on a 24-megapixel photograph, and how far tiles stay from the whole.

    python -m benchmarks.large_picture

The picture is scikit-image's astronaut, laid out 6000x4000, with noise. The second part compares tiles with the whole
picture, with the shipped weights: channel attention averages over what it sees at once (noise and rain, 1024x1024), and
haze is looked for in a reduced copy whose size the tile says (2048x1382).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import fairweather as fw
from fairweather.data.degradations import add_haze, add_noise, add_rain, rain_streaks
from fairweather.demo import motorcycle_depth, photograph
from fairweather.images import Picture, write_picture
from fairweather.metrics import psnr


def restore_large(folder: Path, task: str, *options: str) -> None:
    """One process, as a user starts it."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "fairweather", task, str(folder / "large.jpg"), *options]
    subprocess.run([*command, "--existing", "overwrite", "-q"], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    print(f"6000x4000 {task} {' '.join(options) or '(defaults)'}: {seconds:.0f} s, peak {peak:.2f} GiB")


def compare_tiles() -> None:
    """PSNR between the tiled and the whole result, in fp32."""
    clear = photograph("astronaut").repeat(1, 2, 2)
    generator = torch.Generator().manual_seed(0)
    noisy = add_noise(clear, sigma=25, generator=generator)
    rainy = add_rain(clear, rain_streaks(1024, 1024, generator=generator))
    scene, depth = photograph("stereo_motorcycle"), motorcycle_depth()
    hazy = F.interpolate(add_haze(scene, depth, beta=1.2)[None], size=(1382, 2048), mode="bicubic")[0].clamp(
        0, 1
    )
    for task, degraded, tiles in (
        ("denoise", noisy, (256, 512)),
        ("derain", rainy, (256, 512)),
        ("dehaze", hazy, (512, 768, 1024)),  # sides of the copy
    ):
        restorer = fw.load(task)
        whole = restorer.restore(degraded, tile=2048).image
        for tile in tiles:
            tiled = restorer.restore(degraded, tile=tile).image
            what = "copy" if task == "dehaze" else "tiles"
            apart = psnr(tiled[None], whole[None]).item()
            print(f"{task}, {what} of {tile} against the whole: {apart:.1f} dB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = photograph("astronaut").repeat(1, 8, 12)[:, :4000, :6000]
        noisy = add_noise(large, sigma=20, generator=torch.Generator().manual_seed(0), clip=True)
        write_picture(Picture(pixels=noisy), folder / "large.jpg")
        # Of several processes the largest peak is told, so from small to large.
        restore_large(folder, "dehaze")
        restore_large(folder, "denoise", "--precision", "bf16")
        restore_large(folder, "denoise")
    compare_tiles()
