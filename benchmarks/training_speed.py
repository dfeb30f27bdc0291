"""Training steps per second of recipes, as PyTorch comes and as we train, alternating in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.training_speed DATA [--recipe NAME ...] [--rounds N] [--each]

DATA is the folder of the sets. A step is all of it: preparing patches, forward, backward, clipping, optimiser, average.
With --each also what is lost where one thing alone is as it comes. Each setting runs in a process of its own, since
the allocator cannot be changed back.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from lightning import Callback, Trainer
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.data import DataLoader

from benchmarks.alternate import alternate
from fairweather.data.patches import Steps
from fairweather.runtime import keep_memory
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig
from fairweather.training.train import network, system, training_set


class Setting(NamedTuple):
    """What of our ways is in use."""

    allocator: bool
    """Freed memory is kept."""
    channels_last: bool
    own_precision: bool
    """The recipe's, which is bf16 for most; fp32 otherwise."""
    kept_pictures: bool
    """Decoded pictures stay in memory: patches are drawn a second time from those that were read before."""
    threads: int = 1


OURS = Setting(True, True, True, True)
AS_IT_COMES = Setting(False, False, False, False)


class _Times(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def measure(config: TrainConfig, setting: Setting = OURS, *, steps: int = 8) -> float:
    """Median seconds of a step in this process; the allocator's setting stays."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(setting.threads)
    if setting.allocator:
        keep_memory()
    module = system(network(config).train(), config)
    if not setting.channels_last:
        module.memory_format = torch.contiguous_format
        convert_conv2d_weight_memory_format(module.net, torch.contiguous_format)
    patches = training_set(config)
    numbers = Steps(batch=config.batch, stages=config.progressive)
    if setting.kept_pictures:
        for _, batch in zip(range(steps), numbers, strict=False):
            for number in batch:
                patches[number]
    times = _Times()
    bf16 = setting.own_precision and config.precision == "bf16"
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed" if bf16 else "32-true",
        max_steps=steps,
        limit_val_batches=0,
        gradient_clip_val=(config.clip_norm or None) if module.automatic_optimization else None,
        logger=False,
        callbacks=[times],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(patches, batch_sampler=numbers))
    return statistics.median(b - a for a, b in zip(times.ends[1:], times.ends[2:], strict=False))


def measure_recipe(recipe: str, data: str, setting: Setting, steps: int) -> float:
    """In the child."""
    return measure(
        dataclasses.replace(RECIPES[recipe](), init=None, data_root=Path(data)), setting, steps=steps
    )


def ordinary(data: Path) -> list[str]:
    """The recipes whose data lie in the folder and whose steps take patches; a judge's evidence is gathered first."""
    made = {name: recipe() for name, recipe in RECIPES.items()}
    return [
        name
        for name, config in made.items()
        if not config.evidence and all((data / source.path).exists() for source in config.sources)
    ]


def main(
    data: Path,
    recipe: Annotated[list[str] | None, typer.Option(help="Recipes; all that can be measured here.")] = None,
    rounds: Annotated[int, typer.Option(help="Times each setting runs.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of a run; the median counts.")] = 8,
    each: Annotated[bool, typer.Option(help="Also leave out one thing at a time.")] = False,
) -> None:
    """Print the table."""
    settings = {"as PyTorch comes": AS_IT_COMES, "ours": OURS}
    if each:
        settings |= {
            f"without {name}": OURS._replace(**{name: False}) for name in Setting._fields if name != "threads"
        }
        settings["two threads"] = OURS._replace(threads=2)
    print(f"| recipe | {' | '.join(settings)} |\n|{'---|' * (1 + len(settings))}")
    for name in recipe or ordinary(data):

        def code(setting: Setting, name: str = name) -> str:
            fields = ", ".join(map(str, setting))
            return (
                "from benchmarks.training_speed import Setting, measure_recipe; "
                f"print(measure_recipe({name!r}, {str(data)!r}, Setting({fields}), {steps}))"
            )

        medians = alternate(list(settings.values()), code, rounds=rounds)
        slowest = medians[AS_IT_COMES]
        cells = (f"{1 / medians[s]:.2f} ({slowest / medians[s]:.2f}x)" for s in settings.values())
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
