"""Training patches per second of one core, by the form in which pairs of 1280x720 pictures lie on disk.

    python -m benchmarks.data_loading [--rounds N] [--patches N]

Photographs of scikit-image, enlarged, are linked under many names, so that hardly a patch finds its picture still
decoded; only "kept in memory" starts with all of them decoded, as a set that fits there is after its first epoch.
Processor time is counted, so other programs do not matter, and waiting for the disk does not show. A form is as fast
as this times the number of workers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.alternate import alternate

FORMS = {
    "frames": ("PNG of 1280x720", 100),
    "kept": ("the same, kept in memory", 1),
    "sub": ("PNG sub-images of 384x384, step 120", 3),
    "plain": ("uncompressed TIFF of 1280x720", 100),
}
"""What each form is, and how many names each of its files gets."""


def prepare(folder: Path) -> None:
    """All forms of four pairs."""
    import numpy as np
    import PIL.Image
    import PIL.ImageFilter
    import skimage.data
    import torch

    from fairweather.data.make import make
    from fairweather.images import Picture, write_picture

    frames, sub, plain = (folder / "made" / name for name in ("frames", "sub", "plain"))
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo = PIL.Image.fromarray(getattr(skimage.data, name)()).resize(
            (1280, 720), PIL.Image.Resampling.BICUBIC
        )
        blurred = photo.filter(PIL.ImageFilter.GaussianBlur(2))
        for side, picture in (("input", blurred), ("target", photo)):
            noise = np.random.default_rng(0).normal(
                0, 1, (720, 1280, 3)
            )  # as a camera's, or files would be small
            pixels = (
                torch.from_numpy((np.asarray(picture) + noise).clip(0, 255) / 255).permute(2, 0, 1).float()
            )
            write_picture(Picture(pixels=pixels), frames / side / f"{name}.png")
    make(frames, sub, size=384, step=120)
    make(frames, plain, plain=True)
    for form, made in {"frames": frames, "kept": frames, "sub": sub, "plain": plain}.items():
        for file in [*made.rglob("*.png"), *made.rglob("*.tif")]:
            for number in range(FORMS[form][1]):
                link = folder / form / file.relative_to(made).with_stem(f"{file.stem}_{number}")
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)


def measure(folder: str, form: str, count: int) -> float:
    """In the child: seconds of processor time a patch."""
    import time

    import torch

    from fairweather.data.patches import Pairs, Patches

    torch.set_num_threads(1)
    patches = Patches([Pairs(path=Path(form))], root=Path(folder), size=128, seed=0)
    for index in range(count if form == "kept" else 2):
        patches[index]
    start = time.process_time()
    for index in range(count, 2 * count):
        patches[index]
    return (time.process_time() - start) / count


def main(
    rounds: Annotated[int, typer.Option(help="Times each form is measured.")] = 3,
    patches: Annotated[int, typer.Option(help="Drawn in each round.")] = 40,
) -> None:
    """Print medians, and the size of the files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        code = "from benchmarks.data_loading import measure; print(measure({!r}, {!r}, {!r}))".format
        seconds = alternate([*FORMS], lambda form: code(name, form, patches), rounds=rounds)
        for form, (title, names) in FORMS.items():
            files = [file for file in (folder / form).rglob("*") if file.is_file()]
            megabytes = sum(file.stat().st_size for file in files) / names / 4 / 1e6
            print(f"{title}: {1 / seconds[form]:.0f} patches a second, {megabytes:.2f} MB on disk a pair")


if __name__ == "__main__":
    typer.run(main)
