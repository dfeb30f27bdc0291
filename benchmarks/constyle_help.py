"""Does ConStyle help? The same short training, with and without it, and the scores on test sets that were never seen.

    python -m benchmarks.constyle_help DATA --out RUNS [--steps 800] [--seeds 1] [--only noise] [--plot OUT.png]

DATA is the folder of the sets. Networks: NAFNet and Restormer at our small size, plain and with ConStyle. Losses:
"ours" is PSNR, with cosines and a full queue for ConStyle; "official" is L1, with the release's products and its three
losses from the first step on (but not its average, which after so few steps would still be the random start). The
patches are the same for all. Every run goes to a folder of RUNS of its own; one that is there is not repeated, so
several of these may run at once on different --only or --first-seed.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, NamedTuple

import typer

import fairweather as fw
from benchmarks.network_size import network_size
from fairweather.evaluate import evaluate
from fairweather.training import RECIPES
from fairweather.training.config import (
    OFFICIAL_FREEZE_AFTER,
    OFFICIAL_STEPS,
    Contrast,
    TrainConfig,
)
from fairweather.training.train import train

RECIPE = {"noise": "constyle_denoise", "rain": "constyle_derain", "blur": "constyle_deblur"}
TESTS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "noise": (("cbsd68", {"sigmas": (25.0,)}),),
    "rain": (("rain100", {}), ("roadscene_rain", {})),
    "blur": (("gopro_samples", {}),),
}
NETWORKS = ("nafnet_small", "constyle_nafnet_small", "restormer_small", "constyle_restormer_small")
LOSSES = ("ours", "official")


class Arm(NamedTuple):
    """One training of the comparison."""

    ailment: str
    network: str
    losses: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.ailment}-{self.network}-{self.losses}-{self.seed}"


def arms(ailments: tuple[str, ...], seeds: range) -> Iterator[Arm]:
    for seed in seeds:
        for ailment in ailments:
            for network in NETWORKS:
                for losses in LOSSES:
                    yield Arm(ailment, network, losses, seed)


def config_of(arm: Arm, data: Path, steps: int) -> TrainConfig:
    """The recipe of the ailment, cut short; the encoder is held after the release's share of the steps."""
    config = RECIPES[RECIPE[arm.ailment]]()
    share = OFFICIAL_FREEZE_AFTER / OFFICIAL_STEPS
    contrast = None
    if arm.network.startswith("constyle"):
        official = arm.losses == "official"
        contrast = Contrast(
            queue_size=960,
            normalize=not official,
            fill_queue_first=not official,
            freeze_after=None if config.task == "denoise" else round(steps * share),
        )
    return dataclasses.replace(
        config,
        model=arm.network,
        contrast=contrast,
        loss="psnr" if arm.losses == "ours" else "l1",
        data_root=data,
        steps=steps,
        decay_steps=None,
        warmup=min(50, steps // 2),
        patch=64,
        batch=8,
        seed=arm.seed,
        validate_every=max(1, steps // 4),
        checkpoint_every=max(1, steps // 4),
    )


def run(arm: Arm, data: Path, out: Path, steps: int) -> dict[str, Any]:
    """Train and test; what is there already is read."""
    folder, scores = out / arm.name, out / f"{arm.name}.json"
    if scores.exists():
        found: dict[str, Any] = json.loads(scores.read_text())
        return found
    train(config_of(arm, data, steps), folder, resume=folder.exists(), progress=False)
    restorer = fw.load(str(folder / "weights.safetensors"))
    tests = {}
    for place, options in TESTS[arm.ailment]:
        table = evaluate(restorer, data / place, **options).table
        groups = table.groups()
        for group, means in {**(groups if len(groups) > 1 else {}), "": table.overall()}.items():
            tests[f"{place} {group}".strip()] = [means.psnr, means.ssim, means.input_psnr]
    found = {"arm": arm._asdict(), "steps": steps, "tests": tests, "curve": curve(folder)}
    scores.write_text(json.dumps(found, indent=1))
    return found


def curve(folder: Path) -> list[tuple[int, float]]:
    """(step, PSNR on the pictures held back) at each validation."""
    points = []
    for file in sorted(folder.glob("csv/*/metrics.csv")):
        with file.open() as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("val/psnr")]
        points += [(int(row["step"]) + 1, float(row["val/psnr"])) for row in rows]
    return sorted(points)


def show(results: list[dict[str, Any]]) -> None:
    """A table for each test: PSNR and SSIM, the mean over seeds, and their spread."""
    sizes = {network: network_size(network) for network in NETWORKS}
    for test in dict.fromkeys(test for result in results for test in result["tests"]):
        print(f"\n| {test} | parameters | GMACs | ours | official |\n|---|---|---|---|---|")
        for network in NETWORKS:
            cells = []
            for losses in LOSSES:
                found = [
                    result["tests"][test]
                    for result in results
                    if (result["arm"]["network"], result["arm"]["losses"]) == (network, losses)
                    and test in result["tests"]
                ]
                if not found:
                    cells.append("")
                    continue
                values = [psnr for psnr, _, _ in found]
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                cells.append(f"{mean(values):.2f} / {mean(s for _, s, _ in found):.4f}{spread}")
            print(
                f"| `{network}` | {sizes[network][0]:.2f} M | {sizes[network][1]:.1f} | {' | '.join(cells)} |"
            )


def draw(results: list[dict[str, Any]], file: Path) -> None:
    """Validation PSNR over the steps: a panel for each ailment and kind of losses, the mean over seeds."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(LOSSES), len(RECIPE), figsize=(12, 6.5), squeeze=False, sharex=True)
    for row, losses in enumerate(LOSSES):
        for column, ailment in enumerate(RECIPE):
            panel = panels[row][column]
            for network in NETWORKS:
                curves = [
                    result["curve"]
                    for result in results
                    if result["arm"]["network"] == network
                    and (result["arm"]["ailment"], result["arm"]["losses"]) == (ailment, losses)
                ]
                if curves:
                    steps = [step for step, _ in curves[0]]
                    means = [mean(c[i][1] for c in curves) for i in range(len(steps))]
                    panel.plot(
                        steps,
                        means,
                        "-" if network.startswith("constyle") else "--",
                        color="tab:blue" if "nafnet" in network else "tab:orange",
                        label=network,
                        marker=".",
                    )
            panel.set_title(f"{ailment}, {losses.replace('ours', 'our')} losses", fontsize=10)
            panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("steps")
    for panels_of_row in panels:
        panels_of_row[0].set_ylabel("PSNR in dB, held-back pictures")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def main(
    data: Path,
    out: Annotated[Path, typer.Option()],
    steps: int = 800,
    seeds: int = 1,
    first_seed: int = 0,
    only: Annotated[list[str] | None, typer.Option()] = None,
    plot: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Train what is not trained yet, print the tables and draw the curves."""
    chosen = tuple(name for name in RECIPE if not only or name in only)
    results = []
    for arm in arms(chosen, range(first_seed, first_seed + seeds)):
        results.append(run(arm, data, out, steps))
        scores = ", ".join(f"{test} {psnr:.2f}" for test, (psnr, *_) in results[-1]["tests"].items())
        print(f"{arm.name}: {scores}", flush=True)
    show(results)
    if plot:
        draw(results, plot)


if __name__ == "__main__":
    typer.run(main)
