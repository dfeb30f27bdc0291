"""Seconds and peak memory of the command line against the size of a picture, and pictures per minute against workers.

    python -m benchmarks.scaling [--task denoise] [--plot scaling.png] [OPTION ...]

Each figure is of a process of its own, as a user starts it, with its start and the reading and writing of files. The
pictures are scikit-image's `astronaut`, laid out as often as needed, with noise. Options after -- go to the command.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyvips
import typer
from skimage import data

MEGAPIXELS = (0.25, 1, 4, 16, 64)
WORKERS = (1, 2)
FOLDER = 8
"""Pictures in a folder, of a megapixel each."""


def picture(path: Path, megapixels: float) -> None:
    side = round((megapixels * 1e6) ** 0.5)
    tile = pyvips.Image.new_from_array(np.ascontiguousarray(data.astronaut()))
    times = -(-side // tile.width)
    noise = pyvips.Image.gaussnoise(side, side, sigma=20)
    noisy = tile.replicate(times, times).crop(0, 0, side, side) + noise
    noisy.cast("uchar").copy(interpretation="srgb").write_to_file(str(path))


def spent(*arguments: str) -> tuple[float, float]:
    """Seconds and peak GiB of one run of the command."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "fairweather", *arguments, "-q", "--existing", "overwrite"]
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"fairweather {' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024**2


def plot(path: Path, task: str, sizes: dict[float, tuple[float, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog([*sizes], [seconds for seconds, _ in sizes.values()], "o-", color="tab:blue")
    axes.set(xlabel="megapixels", ylabel="seconds", title=f"{task}: time and memory against size")
    right = axes.twinx()
    right.semilogx([*sizes], [memory for _, memory in sizes.values()], "s--", color="tab:orange")
    right.set(ylabel="peak memory, GiB (dashed)", ylim=(0, None))
    figure.savefig(path, dpi=120)


def main(
    options: Annotated[list[str] | None, typer.Argument(help="Options for the command.")] = None,
    task: str = "denoise",
    rounds: int = 3,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Needs matplotlib.")] = None,
) -> None:
    """Print two tables in Markdown."""
    more = options or []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| megapixels | seconds | seconds per megapixel | peak memory, GiB |\n|---|---|---|---|")
        sizes: dict[float, tuple[float, float]] = {}
        for megapixels in MEGAPIXELS:
            picture(folder / "a.tif", megapixels)
            runs = [spent(task, str(folder / "a.tif"), *more) for _ in range(rounds if megapixels < 4 else 1)]
            seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
            sizes[megapixels] = seconds, memory
            print(f"| {megapixels} | {seconds:.1f} | {seconds / megapixels:.1f} | {memory:.2f} |", flush=True)
        several = folder / "several"
        several.mkdir()
        for number in range(FOLDER):
            picture(several / f"{number}.png", 1)
        print("\n| workers | pictures per minute | against 1 | peak memory, GiB |\n|---|---|---|---|")
        found: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
        for _ in range(rounds):
            for workers, runs in found.items():
                out = ("-o", str(folder / "out"), "--workers", str(workers))
                runs.append(spent(task, str(several), *out, *more))
        base = statistics.median(seconds for seconds, _ in found[1])
        for workers, runs in found.items():
            seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
            rate = 60 * FOLDER / seconds
            print(f"| {workers} | {rate:.1f} | {base / seconds:.2f}x | {memory:.2f} |", flush=True)
    if plot_file:
        plot(plot_file, task, sizes)


if __name__ == "__main__":
    typer.run(main)
