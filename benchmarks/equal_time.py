"""Deraining networks side by side after the same time of training on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.equal_time DATA --out RUNS [--minutes 22] [--network NAME ...]

DATA is the folder of the sets. Each network gets the patches, the loss and the schedule of derain_start, and as many
steps as fit into the minutes by a measurement right before. A run that is there is not repeated.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import fairweather as fw
from benchmarks.network_size import network_size
from benchmarks.training_speed import measure
from fairweather.evaluate import evaluate
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig
from fairweather.training.train import train

NETWORKS = ("nafnet_small", "cleannet_small", "cleannet")
TESTS = ("roadscene_rain", "rain100")


def config_of(network: str, data: Path, steps: int) -> TrainConfig:
    return dataclasses.replace(
        RECIPES["derain_start"](),
        model=network,
        loss="psnr",
        data_root=data,
        patch=64,
        batch=8,
        steps=steps,
        decay_steps=None,
        warmup=max(1, steps // 20),
        ema_decay=0.99,
        validate_every=steps,
        checkpoint_every=max(1, steps // 8),
    )


def run(network: str, data: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Train and test; what is there already is read."""
    folder, scores = out / network, out / f"{network}.json"
    if scores.exists():
        found: dict[str, Any] = json.loads(scores.read_text())
        return found
    seconds = measure(config_of(network, data, 8))
    steps = max(8, round(60 * minutes / seconds))
    start = time.perf_counter()
    train(config_of(network, data, steps), folder, progress=False)
    took = (time.perf_counter() - start) / 60
    restorer = fw.load(str(folder / "weights.safetensors"))
    tests = {}
    for place in TESTS:
        table = evaluate(restorer, data / place).table
        groups = table.groups()
        for group, means in (groups if len(groups) > 1 else {"": table.overall()}).items():
            tests[f"{place} {group}".strip()] = [means.psnr, means.ssim]
    found = {"steps": steps, "minutes": took, "tests": tests}
    scores.write_text(json.dumps(found, indent=1))
    return found


def main(
    data: Path,
    out: Annotated[Path, typer.Option()],
    minutes: float = 22,
    network: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Train what is not trained yet, and print the table."""
    chosen = network or list(NETWORKS)
    results = {name: run(name, data, out, minutes) for name in chosen}
    tests = list(results[chosen[0]]["tests"])
    print(
        f"| network | parameters | GMACs | steps | minutes | {' | '.join(tests)} |\n|{'---|' * (5 + len(tests))}"
    )
    for name, result in results.items():
        millions, gmacs = network_size(name)
        scores = (f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in (result["tests"][test] for test in tests))
        print(
            f"| `{name}` | {millions:.2f} M | {gmacs:.1f} | {result['steps']} | {result['minutes']:.0f} | "
            f"{' | '.join(scores)} |"
        )


if __name__ == "__main__":
    typer.run(main)
