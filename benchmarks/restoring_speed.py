"""Seconds to restore a 1024x1024 picture on one thread, by precision and by the allocator's setting.

python -m benchmarks.restoring_speed [--task TASK] [--rounds N]
"""

from __future__ import annotations

import statistics
from typing import Annotated, Literal

import typer

from benchmarks.alternate import allocator, alternate, print_ratios

Precision = Literal["fp32", "bf16"]
SETTINGS: list[tuple[Precision, bool]] = [
    ("fp32", False),
    ("fp32", True),
    ("bf16", False),
    ("bf16", True),
]


def measure(task: str, precision: Precision, keep: bool) -> float:
    """In the child: median seconds of one picture."""
    import torch

    import fairweather as fw
    from fairweather.bench import veiled_shades
    from fairweather.runtime import keep_memory

    torch.set_num_threads(1)
    if keep:
        keep_memory()
    restorer = fw.load(task, precision=precision)
    picture = veiled_shades(1024)
    return statistics.median([restorer.restore(picture).seconds for _ in range(4)][1:])


def main(
    task: str = "denoise", rounds: Annotated[int, typer.Option(help="Times each setting runs.")] = 3
) -> None:
    """Print medians and their ratio to fp32 with the allocator as it comes."""

    def code(setting: tuple[Precision, bool]) -> str:
        return f"from benchmarks.restoring_speed import measure; print(measure({task!r}, *{setting!r}))"

    print_ratios(alternate(SETTINGS, code, rounds=rounds), lambda s: f"{s[0]}, {allocator(s[1])}")


if __name__ == "__main__":
    typer.run(main)
