"""Settings measured in turn, each in a process of its own: machines drift, so only ratios within one run count."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Setting = TypeVar("Setting", bound=Hashable)


def alternate(
    settings: Sequence[Setting], code: Callable[[Setting], str], *, rounds: int
) -> dict[Setting, float]:
    """Median over `rounds` of the number that Python code prints, for each setting, A B C A B C ..."""
    found: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for _ in range(rounds):
        for setting in settings:
            command = [sys.executable, "-c", code(setting)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[setting].append(float(done.stdout))
    return {setting: statistics.median(numbers) for setting, numbers in found.items()}


def print_ratios(medians: dict[Setting, float], label: Callable[[Setting], str]) -> None:
    """A line for each setting: its seconds, and how many times as fast as the first it is."""
    base = next(iter(medians.values()))
    for setting, median in medians.items():
        print(f"{label(setting)}: {median:.3f} s, {base / median:.2f}x")


def allocator(keep: bool) -> str:
    """How `fairweather.runtime.keep_memory` is called in tables."""
    return f"allocator {'keeps memory' if keep else 'as it comes'}"
