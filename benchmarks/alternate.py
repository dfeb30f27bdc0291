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
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[setting].append(float(done.stdout))
    return {setting: statistics.median(numbers) for setting, numbers in found.items()}
