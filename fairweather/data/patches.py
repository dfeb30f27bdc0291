"""Training patches and validation pictures, from paired folders and from clear pictures degraded on the fly.

A patch is a pure function of (seed, index): nothing is remembered from one to the next, so a run that is resumed at
any step sees exactly the patches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from fairweather.data.degradations import DEGRADATIONS
from fairweather.data.pairs import clear_pictures, complete_pairs
from fairweather.data.transforms import Augment, augment, random_crop
from fairweather.errors import DataError, unknown_name
from fairweather.images import read_picture

Sample = tuple[Tensor, Tensor]
"""(degraded, target), each (3, h, w) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pictures taken in pairs: folders in any layout of `data/pairs.py`."""

    path: Path
    """The data set, relative to the data root."""
    split: str | None = None
    """train, val or test, where the set is split."""
    keep: tuple[tuple[int, int], ...] = ()
    """Ranges (first, last) of pairs to use, in natural order; () is all."""
    drop: tuple[tuple[int, int], ...] = ()
    """Ranges of pairs to leave out (held back for validation)."""
    weight: float = 1.0
    """Share of the patches, relative to the other sources."""
    augment: Augment = "dihedral"


@dataclass(frozen=True, kw_only=True)
class Clear:
    """Clear pictures, degraded on the fly by one of `DEGRADATIONS`."""

    path: Path
    """A folder of pictures, relative to the data root."""
    degradation: str
    keep: tuple[tuple[int, int], ...] = ()
    drop: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    augment: Augment = "dihedral"


Source = Pairs | Clear


@cache
def _pixels(path: Path) -> Tensor:
    """A decoded picture, kept as bytes: the sets we train on fit into memory, and decoding would starve the trainer."""
    return (read_picture(path).pixels * 255).round().to(torch.uint8)


def _files(source: Source, root: Path) -> list[tuple[Path, ...]]:
    """The (degraded, target) or (clear,) files of a source, in natural order."""
    folder = root / source.path
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; say where the data is with --set data_root=DIR")
    files: list[tuple[Path, ...]]
    if isinstance(source, Pairs):
        # Complete: a missing file would shift the ranges, and validation would leak into training.
        files = [(p.degraded, p.target) for p in complete_pairs(folder, split=source.split).pairs]
    else:
        if source.degradation not in DEGRADATIONS:
            raise unknown_name("degradation", source.degradation, DEGRADATIONS)
        files = [(p,) for p in clear_pictures(folder)]
    chosen = [
        f
        for i, f in enumerate(files)
        if (not source.keep or _within(i, source.keep)) and not _within(i, source.drop)
    ]
    if not chosen:
        raise DataError(f"{folder} has {len(files)} pictures, none of them in the ranges asked for")
    return chosen


def _alike(files: tuple[Path, ...]) -> list[Tensor]:
    """The pixels of a pair (or of one picture), which must be of equal size."""
    pictures = [_pixels(path) for path in files]
    if len({p.shape for p in pictures}) > 1:
        sizes = " and ".join(
            f"{path} ({p.shape[2]}x{p.shape[1]})" for path, p in zip(files, pictures, strict=True)
        )
        raise DataError(f"{sizes} are a pair of different sizes; see fairweather data check")
    return pictures


def _within(index: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= index <= last for first, last in ranges)


class Patches(Dataset[Sample]):
    """An endless set of training patches; item i is a function of (seed, i) alone.

    Args:
        sources: where pictures come from; each patch draws one by weight, then a picture, then a window.
        root: the folder that the sources' paths are relative to.
        size: side of a patch in pixels.
    """

    def __init__(self, sources: Sequence[Source], *, root: Path, size: int, seed: int) -> None:
        self.sources, self.size, self.seed = tuple(sources), size, seed
        self.files = [_files(source, root) for source in sources]
        self.weights = torch.tensor([source.weight for source in sources])

    def describe(self) -> list[str]:
        """A line for each source: what it is, how much there is, its share of the patches."""
        shares = (self.weights / self.weights.sum()).tolist()
        return [
            f"{share:4.0%} of patches: {len(files)} {'pairs' if isinstance(source, Pairs) else source.degradation} "
            f"from {source.path}, such as {' with '.join(path.name for path in files[0])}"
            for source, files, share in zip(self.sources, self.files, shares, strict=True)
        ]

    def __getitem__(self, index: int) -> Sample:
        generator = Generator().manual_seed((self.seed << 32) + index)
        which = int(torch.multinomial(self.weights, 1, generator=generator))
        source, files = self.sources[which], self.files[which]
        chosen = files[int(torch.randint(len(files), (), generator=generator))]
        window = random_crop(_alike(chosen), self.size, generator)
        patches = augment([p.float() / 255 for p in window], source.augment, generator)
        if isinstance(source, Pairs):
            return patches[0], patches[1]
        return DEGRADATIONS[source.degradation](patches[0], generator)


class Steps(Sampler[list[int]]):
    """The patch numbers of each step's batch, from a given step on, for one of several processes.

    It has no length on purpose: the trainer counts steps, not epochs.
    """

    def __init__(self, *, batch: int, start: int = 0, rank: int = 0, processes: int = 1) -> None:
        self.batch, self.start, self.rank, self.processes = batch, start, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            first = (step * self.processes + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            step += 1


class Pictures(Dataset[Sample]):
    """Whole validation pictures; clear ones are degraded with their number as seed, the same at every validation."""

    def __init__(self, sources: Sequence[Source], *, root: Path) -> None:
        self.items = [(source, files) for source in sources for files in _files(source, root)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        source, files = self.items[index]
        pictures = [pixels.float() / 255 for pixels in _alike(files)]
        if isinstance(source, Pairs):
            return pictures[0], pictures[1]
        return DEGRADATIONS[source.degradation](pictures[0], Generator().manual_seed(index))
