"""How fast a task is on this machine: back ends and precisions side by side, at several sizes.

Machines drift, so all settings of a size are measured in turn and reported as ratios to torch in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.backends import backend_of, installed
from fairweather.errors import UsageError
from fairweather.loading import load
from fairweather.pipeline import Restorer, Result
from fairweather.runtime import in_turn

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The median time of one setting at one size."""

    task: str
    model: str
    weights_sha256: str
    backend: str
    precision: str
    side: int
    """Of a square picture, in pixels."""
    threads: int
    seconds: float
    ratio: float
    """How many times as fast as torch in fp32 it is, at the same size and in the same run."""
    bf16_psnr: float | None
    """As of `Result`, so perhaps of an earlier picture; below `backends.ENOUGH`, fp32 is what was measured."""


def veiled_shades(side: int) -> Float[Tensor, "3 side side"]:
    """A picture to measure with, in which every restorer finds something to do: light and shade, a veil, and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bilinear")[0]
    return (0.45 + 0.5 * smooth + torch.randn(smooth.shape, generator=generator) * 0.05).clamp(0, 1)


def bench(
    task: str,
    *,
    files: Sequence[Path] = (),
    sides: Sequence[int] = (512, 1024),
    rounds: int = 5,
    tell: Callable[[str], None],
) -> Iterator[Measured]:
    """Measure a task with every back end that is installed, in the precisions that it has and that are near fp32.

    Args:
        task: one that restores by one network, such as "derain". files: exported ones to measure too, such as in int8.
        sides: of square pictures, in pixels.
        rounds: times that each setting runs. tell: called with a line where exporting takes time.

    Raises:
        UsageError: for "auto" and "night", which are several networks, a file of other weights, or a side or number of
            rounds below 1. Others as of `load`.
    """
    if rounds < 1 or min(sides) < 1:
        raise UsageError(f"{rounds} rounds of sides {', '.join(map(str, sides))}: expected 1 or more each")
    weights = load(task, device="cpu").sha256 if files else ""
    for file in files:  # what is missing, damaged or of other weights shows before any work
        backend_of(file)
        if load(str(file), device="cpu").sha256 != weights:
            raise UsageError(f"{file} has other weights than {task}; export {task} to compare with it")
    restorers: dict[str, Restorer] = {}
    for precision in PRECISIONS:
        known = installed(precision)
        settings = [(task, backend) for backend in known]
        settings += [(str(file), "torch") for file in files if backend_of(file) in known]
        for name, backend in settings:
            restorer = load(name, backend=backend, precision=precision, device="cpu", tell=tell)
            if not isinstance(restorer, Restorer):
                raise UsageError(f"{name} is several networks; measure those that it uses, such as derain")
            if restorer.precision.endswith(precision):  # else fp32 takes its place
                restorers[f"{name} {backend} {precision}"] = restorer
    for side in sides:
        found, results = _restored_in_turn(restorers, veiled_shades(side), rounds)
        for name, seconds in found.items():
            restorer = restorers[name]
            yield Measured(
                task=restorer.task,
                model=restorer.model,
                weights_sha256=restorer.sha256,
                backend=restorer.backend,
                precision=restorer.precision,
                side=side,
                threads=torch.get_num_threads(),
                seconds=seconds,
                ratio=found[f"{task} torch fp32"] / seconds,
                bf16_psnr=results[name].bf16_psnr,
            )


def _restored_in_turn(
    restorers: Mapping[str, Restorer], picture: Tensor, rounds: int
) -> tuple[dict[str, float], dict[str, Result]]:
    """The median seconds of each, and its last result."""
    results: dict[str, Result] = {}

    def restore(name: str) -> None:
        results[name] = restorers[name].restore(picture, depth=False)

    return in_turn({name: partial(restore, name) for name in restorers}, rounds), results
