"""Is everything in place? Each finding has a line, and advice where it is red."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairweather.errors import FairweatherError

SELF_TEST_GAIN = 3.0
"""Decibels that the self-test picture must gain; the shipped weights gain more."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    text: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Versions, devices, memory, disk, weights, and a small picture restored."""
    yield _python()
    yield from _packages()
    yield _torchvision()
    yield _devices()
    yield _backends()
    yield _memory()
    yield _disk()
    yield from _weights()
    yield from _self_test()


def _python() -> Finding:
    version = platform.python_version()
    ok = tuple(map(int, version.split(".")[:2])) >= (3, 11)
    return Finding("python", ok, version, "install Python 3.11 or later")


def _packages() -> Iterator[Finding]:
    for name in ("fairweather", "torch", "pillow", "pyvips"):
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "pip install fairweather")


def _torchvision() -> Finding:
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return Finding("torchvision", True, "absent, as it should be")
    if "+cpu" not in importlib.metadata.version("torch"):
        return Finding("torchvision", True, version)
    return Finding(
        "torchvision",
        False,
        f"{version}: beside a CPU build of torch it breaks imports",
        "pip uninstall torchvision, or use a virtual environment",
    )


def _devices() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return Finding("devices", True, ", ".join([*names, f"cpu ({threads})"]))


def _backends() -> Finding:
    from fairweather.backends import PACKAGES, installed

    names = installed()
    missing = [f"{name} is not installed ([{name}])" for name in PACKAGES if name not in names]
    for package in {package for name in names if name != "torch" for package in PACKAGES[name]}:
        try:
            importlib.import_module(package)
        except ImportError as error:
            return Finding("back ends", False, f"{package} cannot be loaded ({error})", "install it anew")
    return Finding("back ends", True, ", ".join([*names, *missing]))


def _memory() -> Finding:
    from fairweather.runtime import available_memory

    free = available_memory("cpu") / 1024**3
    return Finding("memory", free >= 1, f"{free:.1f} GiB free", "close other programs, or use --tile 256")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1024**3
    return Finding("disk", free >= 1, f"{free:.1f} GiB free here", "make room before restoring folders")


def _weights() -> Iterator[Finding]:
    from fairweather.weights import WEIGHTS, checked

    for entry in WEIGHTS:
        name = f"{entry.model} {entry.task}"
        try:
            checked(entry)
            yield Finding(name, True, f"weights {entry.sha256[:12]}")
        except FairweatherError as error:
            yield Finding(name, False, str(error), "reinstall fairweather")


def _self_test() -> Iterator[Finding]:
    """Restore a small made-up picture, through files as a user would."""
    import torch

    from fairweather.data.degradations import add_noise
    from fairweather.images import Picture, read_picture, write_picture
    from fairweather.loading import load
    from fairweather.metrics import score

    y, x = torch.meshgrid(torch.linspace(0, 6, 96), torch.linspace(0, 9, 128), indexing="ij")
    clear = 0.5 + 0.35 * torch.stack([torch.sin(x + y), torch.sin(x * y / 4), torch.cos(x - 2 * y)])
    noisy = add_noise(clear, sigma=25, generator=torch.Generator().manual_seed(0), clip=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "noisy.png"
            write_picture(Picture(pixels=noisy), file)
            load("denoise").restore(file).save(Path(folder) / "clear.png")
            restored = read_picture(Path(folder) / "clear.png").pixels
    except FairweatherError as error:
        yield Finding("self-test", False, str(error), "reinstall fairweather")
        return
    before, after = score("rgb", noisy, clear).psnr, score("rgb", restored, clear).psnr
    text = f"a noisy picture of {before:.1f} dB came out at {after:.1f} dB"
    yield Finding("self-test", after - before >= SELF_TEST_GAIN, text, "report this with your machine's type")
