"""Copies of a data set that a trainer reads faster: sub-images, and pictures whose windows need no decoding.

    fairweather data make GOPRO_Large gopro_384 --split train --size 384 --step 120     36 sub-images of 1280x720
    fairweather data make GOPRO_Large gopro_plain --split train --plain                 uncompressed TIFF

Pairs become OUT/input and OUT/target, clear pictures OUT. A file is named after its picture, that of a pair after the
degraded one, with its folders and the number of the sub-image: input/GOPR0372_07_00/blur/000047_s001.png. Pixels are
8 bit, as training reads them, so that the patches are the same. benchmarks/data_loading.py says when it pays.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, UInt8
from PIL.TiffImagePlugin import ROWSPERSTRIP, SOFTWARE, TiffImageFile
from torch import Tensor

from fairweather.data.pairs import clear_pictures, complete_pairs, has_pairs, matched, split_folder
from fairweather.errors import DataError, UsageError
from fairweather.files import written_whole
from fairweather.images import Picture, read_picture, write_picture

RECORD = "make.json"
"""In the folder that was made: how, so that nothing else is added to it."""
MARK = "fairweather plain"
"""The Software tag of TIFF files that `mapped_pixels` may look into."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What `make` did."""

    pairs: bool
    pictures: int
    """Pairs, or clear pictures."""
    kept: int
    """Of those, how many were there already."""
    files: int
    """Written now."""


@dataclass(frozen=True)
class _Job:
    """The files of one picture or pair, and what each becomes, without number and extension."""

    sources: tuple[Path, ...]
    targets: tuple[Path, ...]


def starts(length: int, size: int, step: int) -> list[int]:
    """Where windows begin along a side: at each step, and the last one flush with the border.

    A side that is shorter than a window is kept whole.

    >>> len(starts(1280, 384, 120)) * len(starts(720, 384, 120))  # IRConStyle on GoPro
    36
    >>> starts(720, 256, 150)  # ConStyle v2 on GoPro
    [0, 150, 300, 450, 464]
    """
    return sorted({*range(0, length - size, step), max(length - size, 0)})


def make(
    root: Path,
    out: Path,
    *,
    split: str | None = None,
    size: int | None = None,
    step: int | None = None,
    plain: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Write sub-images or uncompressed copies of a data set. What is there already is left alone, so it can go on.

    Args:
        root: pairs in any layout of `data/pairs.py`, or clear pictures. Nothing in it is changed.
        out: a new folder, or one that was begun with the same arguments.
        size: side of the sub-images in pixels; None writes whole pictures.
        step: from one sub-image to the next; the last of a row or column is flush with the border.
        plain: write TIFF without compression instead of PNG.

    Raises:
        UsageError: for arguments that make no sense, or an `out` that holds something else or lies in the data set.
        DataError: for a data set that is not complete, pairs of different sizes, or two pictures of one name.
        PictureError: for a picture that cannot be read or written.
    """
    if size is None and step is None:
        if not plain:
            raise UsageError("nothing to do; ask for sub-images (--size and --step) or --plain, or for both")
    elif size is None or step is None or not 1 <= step <= size:
        raise UsageError(f"--size is {size} and --step {step}; expected both, with 1 <= step <= size")
    pairs, jobs = _jobs(root, out, split)
    record = {"of": root.resolve().name, "split": split, "size": size, "step": step, "plain": plain}
    _begin(root, out, record | {"pictures": len(jobs)})
    work = partial(_make, size=size, step=step, plain=plain)
    files, kept = 0, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, written in enumerate(pool.map(work, jobs), start=1):
            files += written
            kept += not written
            if progress:
                progress(number, len(jobs))
    return Made(pairs=pairs, pictures=len(jobs), kept=kept, files=files)


def _jobs(root: Path, out: Path, split: str | None) -> tuple[bool, list[_Job]]:
    base = split_folder(root, split) if root.is_dir() else root
    pairs = not root.is_dir() or has_pairs(base)
    sources: list[tuple[Path, ...]]
    folders: tuple[str, ...]
    if pairs:
        found = complete_pairs(root, split=split).pairs
        sources, folders = [(pair.degraded, pair.target) for pair in found], ("input", "target")
    else:
        sources, folders = [(path,) for path in clear_pictures(root, split=split)], (".",)
    names = [_name(files[0], base) for files in sources]
    jobs = [
        _Job(files, tuple(out / folder / name for folder in folders))
        for files, name in zip(sources, names, strict=True)
    ]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{len(twice)} names are of two pictures, such as {twice[0]}; rename one of them")
    return pairs, jobs


def _name(path: Path, base: Path) -> Path:
    """The path inside the data set, without extension."""
    folder = base if base.is_dir() else base.parent
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        raise DataError(
            f"{path} is not inside {folder}; put the list of pairs into a folder that holds them all"
        )
    return path.relative_to(folder).with_suffix("")


def _begin(root: Path, out: Path, record: dict[str, Any]) -> None:
    """Refuse a folder with anything else in it, or note what it is going to hold."""
    source, target = (root if root.is_dir() else root.parent).resolve(), out.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UsageError(f"{out} and {root} lie in one another; give a folder of its own")
    file, wanted = out / RECORD, json.dumps(record) + "\n"
    if file.is_file():
        if (begun := file.read_text()) != wanted:
            raise UsageError(f"{out} was begun as {begun.strip()}, not {wanted.strip()}; give another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something else already; give a new folder")
    else:
        with written_whole(file) as part:
            part.write_text(wanted)


def _make(job: _Job, *, size: int | None, step: int | None, plain: bool) -> int:
    """Write what a picture or pair becomes; the number of files, 0 if they are there."""

    def file(target: Path, number: int) -> Path:
        return target.with_name(
            target.name + (f"_s{number:03}" if size else "") + (".tif" if plain else ".png")
        )

    if all(file(target, 1).is_file() for target in job.targets):
        return 0
    pictures = [read_picture(path).pixels for path in job.sources]
    if len(pictures) == 2:
        pictures = [*matched(*pictures, files=job.sources)]
    height, width = pictures[0].shape[-2:]
    side = size or max(height, width)
    corners = [*product(starts(height, side, step or side), starts(width, side, step or side))]
    # The first comes last: where it is, all are.
    for number, (top, left) in reversed([*enumerate(corners, start=1)]):
        for picture, target in zip(pictures, job.targets, strict=True):
            _write(picture[:, top : top + side, left : left + side], file(target, number), plain=plain)
    return len(corners) * len(pictures)


def _write(pixels: Float[Tensor, "3 h w"], path: Path, *, plain: bool) -> None:
    if not plain:
        write_picture(Picture(pixels=pixels), path)
        return
    levels = pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    tags = {ROWSPERSTRIP: levels.shape[0], SOFTWARE: MARK}  # all rows in one piece
    with written_whole(path) as part:
        PIL.Image.fromarray(levels).save(part, "TIFF", tiffinfo=tags)


def mapped_pixels(path: Path) -> UInt8[Tensor, "3 h w"] | None:
    """The pixels of a file that `make(plain=True)` wrote, as a view of the file; None for any other file.

    Nothing is read before it is looked at, and several processes share what was read.
    """
    if path.suffix != ".tif":
        return None
    try:
        with PIL.Image.open(path) as image:
            if not isinstance(image, TiffImageFile) or image.tag_v2.get(SOFTWARE) != MARK:
                return None
            (width, height), offset = image.size, image.tile[0][2]
        pixels = np.memmap(path, np.uint8, "c", offset, (height, width, 3))
    except (OSError, ValueError):  # cut short, or no picture: whoever reads it whole will say so
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)
