"""Seconds of the papers' networks on one thread: as published, our plain and inference forms, and our back ends.

    python -m benchmarks.inference_speed [--rounds N] [NAME:SIDE ...]

All forms of one network share their (random) weights and are measured in turn; medians, as ratios to the published
form. It runs twice: beside ours with our settings of the allocator, and in a process of its own as PyTorch comes, which
is what users of the papers' code have. Beside them the arithmetic each gets through, against what a convolution of this
machine does.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published_forms import as_published
from fairweather.backends import open_exported
from fairweather.exporting import facts_of, tensor_function, write_exported
from fairweather.models import create_model
from fairweather.models.inference import for_inference
from fairweather.runtime import in_turn, keep_memory

BASE = "as published, fp32"
NETWORKS = ("dcmpnet:256", "cleannet:128", "constyle_restormer:128", "constyle_nafnet:128")


def peaks(rounds: int) -> tuple[float, float]:
    """GFLOP/s of a 3x3 convolution of 256 channels, in fp32 and bf16."""
    conv = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.rand(1, 256, 64, 64).to(memory_format=torch.channels_last)
    half, small = nn.Conv2d(256, 256, 3, padding=1).bfloat16(), x.bfloat16()
    half = half.to(memory_format=torch.channels_last)
    found = in_turn({"fp32": lambda: conv(x), "bf16": lambda: half(small)}, 5 * rounds)
    work = 2 * 9 * 256 * 256 * 64 * 64 / 1e9
    return work / found["fp32"], work / found["bf16"]


_as_it_comes: list[Callable[[], object]] = []
"""In the other process: the published network at work."""


def _set_up(name: str, side: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = tensor_function(as_published(create_model(name)), name)
    x = torch.rand(1, 3, side, side)
    _as_it_comes.append(torch.inference_mode()(lambda: net(x)))


def _run() -> None:
    _as_it_comes[0]()


@contextmanager
def as_it_comes(name: str, side: int) -> Iterator[Callable[[], object]]:
    """The published form in a process of its own, where the allocator is as PyTorch finds it."""
    with multiprocessing.get_context("spawn").Pool(1, _set_up, (name, side)) as process:
        yield lambda: process.apply(_run)


def forms_of(name: str, side: int, folder: Path) -> tuple[dict[str, Callable[[], object]], float]:
    """All forms of a network on one picture, and the GFLOP of the published one."""
    torch.manual_seed(0)
    plain = create_model(name)
    published = as_published(create_model(name))
    published.load_state_dict(plain.state_dict())
    fast = for_inference(plain)
    x = torch.rand(1, 3, side, side)
    last = x.contiguous(memory_format=torch.channels_last)

    def run(net: nn.Module, picture: Tensor, half: bool = False) -> Callable[[], object]:
        function = tensor_function(net, name)

        def call() -> object:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                return function(picture)

        return call

    expected = run(published, x)()
    for net, picture in ((plain, x), (fast, last)):
        found = run(net, picture)()
        assert isinstance(found, Tensor)
        assert isinstance(expected, Tensor)
        # Not the largest difference: a sparse attention may choose another of two equals.
        assert (found - expected).square().mean() < 1e-6, name
    with FlopCounterMode(display=False) as counter:
        run(published, x)()
    forms = {
        BASE: run(published, x),
        "plain, fp32": run(plain, x),
        "inference form, fp32": run(fast, last),
        "inference form, bf16": run(fast, last, half=True),
    }
    facts = facts_of(plain, model=name, task="derain", sha256="0" * 64)
    for backend, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        write_exported(plain, folder / f"{name}{suffix}", facts)
        exported = open_exported(folder / f"{name}{suffix}")
        forms[f"{backend}, fp32"] = lambda exported=exported: exported(x, half=False)  # type: ignore[misc]
        if backend == "openvino":
            forms["openvino, bf16"] = lambda exported=exported: exported(x, half=True)  # type: ignore[misc]
    return forms, counter.get_total_flops() / 1e9


@torch.inference_mode()
def main(
    networks: Annotated[list[str] | None, typer.Argument(help="NAME:SIDE of the picture.")] = None,
    rounds: Annotated[int, typer.Option(help="Times each form runs.")] = 5,
) -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    keep_memory()
    fp32, bf16 = peaks(rounds)
    print(f"convolution of 256 channels: {fp32:.0f} GFLOP/s in fp32, {bf16:.0f} in bf16\n")
    print("| network | form | seconds | against the published | against it as PyTorch comes | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for network in networks or NETWORKS:
        name, _, side = network.partition(":")
        with tempfile.TemporaryDirectory() as folder, as_it_comes(name, int(side)) as original:
            forms, work = forms_of(name, int(side), Path(folder))
            found = in_turn({f"{BASE}, as PyTorch comes": original, **forms}, rounds)
        for form, seconds in found.items():
            print(
                f"| {name} {side}x{side} | {form} | {seconds:.2f} | {found[BASE] / seconds:.2f}x "
                f"| {found[f'{BASE}, as PyTorch comes'] / seconds:.2f}x | {work / seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
