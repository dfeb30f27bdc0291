"""Seconds per training step by number of threads and by the allocator's setting, alternating in one run.

    python -m benchmarks.training_speed [RECIPE] [--rounds N]

Each setting runs in a process of its own, since neither can be changed back. A step is forward, backward and the
optimiser on random patches, without preparing them; no data is needed.
"""

from __future__ import annotations

import statistics
from typing import Annotated

import typer

from benchmarks.alternate import allocator, alternate, print_ratios

SETTINGS = [(threads, keep) for threads in (1, 2) for keep in (False, True)]


def measure(recipe: str, threads: int, keep: bool, steps: int = 8) -> float:
    """In the child: median seconds of a step."""
    import time

    import torch

    from fairweather.models import create_model
    from fairweather.runtime import keep_memory
    from fairweather.training import RECIPES
    from fairweather.training.restoration import Restoration, restoration_loss

    torch.set_num_threads(threads)
    if keep:
        keep_memory()
    config = RECIPES[recipe]()
    net = Restoration(create_model(config.model, **config.model_args), config).net
    optimizer = torch.optim.AdamW(net.parameters(), config.learning_rate)
    shape = (config.batch, 3, config.patch, config.patch)
    degraded, target = (torch.rand(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            loss = restoration_loss(net, degraded, target, config.loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def main(
    recipe: Annotated[str, typer.Argument()] = "derain_small",
    rounds: Annotated[int, typer.Option(help="Times each setting runs.")] = 3,
) -> None:
    """Print medians and their ratio to one thread with the allocator as it comes."""

    def code(setting: tuple[int, bool]) -> str:
        return f"from benchmarks.training_speed import measure; print(measure({recipe!r}, *{setting!r}))"

    print_ratios(alternate(SETTINGS, code, rounds=rounds), lambda s: f"{s[0]} threads, {allocator(s[1])}")


if __name__ == "__main__":
    typer.run(main)
