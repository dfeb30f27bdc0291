"""Training patches and validation pictures, from paired folders and from clear pictures degraded on the fly.

Each comes with the disparity of its clear picture for systems that learn depth: an RGB-D set's own, otherwise what
a teacher gives.

A patch is a pure function of (seed, index) and its size: nothing is remembered from one to the next, so a run that is
resumed at any step sees exactly the patches that it would have seen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from fairweather.data.depth import Scene, Teacher, disparity_target, find_scenes, read_scene
from fairweather.data.make import mapped_pixels
from fairweather.data.pairs import (
    RESIDE_BORDER,
    Pair,
    clear_pictures,
    complete_pairs,
    cropped,
    matched,
)
from fairweather.data.random_degradations import DEGRADATIONS, HAZE_RANGES, Draw, random_depth_haze
from fairweather.data.transforms import (
    Augment,
    augment,
    blacken,
    random_crop,
    reduce,
    reduce_known,
    vary_tones,
)
from fairweather.errors import DataError, UsageError, unknown_name
from fairweather.images import read_picture

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """A degraded picture, what it should become, and how near things are."""

    degraded: Tensor
    """(3, h, w) in [0, 1]; noise that is not clipped may leave the range."""
    target: Tensor
    """(3, h, w) in [0, 1]."""
    disparity: Tensor
    """(1, h, w) in [0, 1], large is near; 0 where unknown. See `fairweather.data.depth.disparity_target`."""


STRICT = {"extra": "forbid"}
"""For reading a recipe from plain values: a misspelt field is an error."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pictures taken in pairs: folders in any layout of `data/pairs.py`."""

    __pydantic_config__ = STRICT
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
    tones: float = 0.0
    """How far gamma and colours of a patch are varied, see `vary_tones`; of both pictures alike."""
    ailment: str = ""
    """What ails the degraded pictures, a finding of the judge; nothing else reads it."""


@dataclass(frozen=True, kw_only=True)
class Clear:
    """Clear pictures, degraded on the fly by one of `DEGRADATIONS`."""

    __pydantic_config__ = STRICT
    path: Path
    """A folder of pictures, relative to the data root."""
    degradation: str
    keep: tuple[tuple[int, int], ...] = ()
    drop: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    augment: Augment = "dihedral"
    tones: float = 0.0
    """How far gamma and colours of a patch are varied before it is degraded, see `vary_tones`."""
    blacks: float = 0.0
    """Share of the patches whose darkest pixels are made black before all else, see `blacken`."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Clear pictures with depth maps (data/depth.py), hazed on the fly by their depth."""

    __pydantic_config__ = STRICT
    path: Path
    """The data set, relative to the data root."""
    split: str | None = None
    ranges: str = "wide"
    """How strong the haze is, one of `HAZE_RANGES`."""
    linear: bool = False
    """Haze in linear light instead of display values."""
    keep: tuple[tuple[int, int], ...] = ()
    drop: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    augment: Augment = "dihedral"
    tones: float = 0.0
    """How far gamma and colours of a patch are varied before it is hazed, see `vary_tones`."""
    strange: float = 0.0
    """Share of the patches that are hazed by the depth of another scene. A network that sees few scenes knows them by
    heart, and their depth with them, instead of looking at the haze."""


Source = Pairs | Clear | Scenes
Item = Pair | Path | Scene
"""What one sample is made of: an item of a Pairs, Clear or Scenes source."""


def _items(source: Source, root: Path) -> list[Item]:
    """The items of a source that its ranges ask for, in natural order."""
    folder = root / source.path
    if not folder.exists():
        raise DataError(f"no folder {folder}; say where the data is with --set data_root=DIR")
    items = _all_items(source, folder)
    chosen = [
        item
        for i, item in enumerate(items)
        if (not source.keep or _within(i, source.keep)) and not _within(i, source.drop)
    ]
    if not chosen:
        raise DataError(f"{folder} has {len(items)} pictures, none of them in the ranges asked for")
    return chosen


def _all_items(source: Source, folder: Path) -> tuple[Item, ...]:
    if isinstance(source, Pairs):
        # Complete: a missing file would shift the ranges, and validation would leak into training.
        return complete_pairs(folder, split=source.split).pairs
    if isinstance(source, Scenes):
        if source.ranges not in HAZE_RANGES:
            raise unknown_name("range of haze", source.ranges, HAZE_RANGES)
        return find_scenes(folder, split=source.split)
    if source.degradation not in DEGRADATIONS:
        raise unknown_name("degradation", source.degradation, DEGRADATIONS)
    return clear_pictures(folder)


def _within(index: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= index <= last for first, last in ranges)


# What is read is kept: decoding would starve the trainer. Bytes for pictures and 16-bit integers for depth take a
# quarter and half of the space of floats; torch cannot flip uint16.
KEPT = 4000
"""Pictures that stay decoded, the last ones used; of RESIDE's 620x460 pixels they take 3.4 GB."""


def _packed(values: Tensor, dtype: torch.dtype) -> Tensor:
    return (values * torch.iinfo(dtype).max).round().to(dtype)


def _unpacked(values: Tensor) -> Tensor:
    return values.float() / torch.iinfo(values.dtype).max


@lru_cache(KEPT)
def _pixels(path: Path) -> Tensor:
    mapped = mapped_pixels(path)
    return _packed(read_picture(path).pixels, torch.uint8) if mapped is None else mapped


@lru_cache(KEPT)
def _scene(scene: Scene) -> list[Tensor]:
    """Picture, depth for haze, and disparity target, both relative to the whole picture."""
    picture, (depth, known) = read_scene(scene)
    relative = [_packed(x, torch.int16) for x in (depth, disparity_target(depth, known))]
    return [_packed(picture, torch.uint8), *relative]


@lru_cache(KEPT)
def _taught(path: Path, teacher: Teacher) -> Tensor | None:
    disparity = teacher(path)
    if disparity is None:
        return None
    if not 0 <= float(disparity.min()) <= float(disparity.max()) <= 1:  # NaN neither
        raise DataError(
            f"the teacher gives a disparity outside 0 to 1 for {path}; 0 is unknown, 1 is nearest"
        )
    return _packed(disparity, torch.int16)


def _layers(item: Item, teacher: Teacher | None) -> list[Tensor]:
    """What is cropped together, as integers: the pictures (and the depth for haze), and the disparity target last."""
    if isinstance(item, Scene):
        return _scene(item)
    paths = [item.degraded, item.target] if isinstance(item, Pair) else [item]
    pictures = [_pixels(path) for path in paths]
    height, width = pictures[0].shape[-2:]
    disparity = None if teacher is None else _taught(paths[-1], teacher)
    if disparity is None:
        disparity = torch.zeros(1, 1, 1, dtype=torch.int16).expand(1, height, width)
    if isinstance(item, Pair):
        pictures = [*matched(*pictures, files=paths)]
        disparity = cropped(disparity, (width, height))
    if disparity.shape != (1, height, width):
        raise DataError(
            f"the teacher gives a disparity of shape {tuple(disparity.shape)} for {paths[-1]} ({width}x{height})"
        )
    return [*pictures, disparity]


def _sample(source: Source, layers: Sequence[Tensor], generator: Generator) -> Sample:
    """The sample of a patch or of a whole picture, from its layers in [0, 1]."""
    *pictures, disparity = layers
    if isinstance(source, Pairs):
        degraded, target = pictures
    elif isinstance(source, Clear):
        degraded, target = DEGRADATIONS[source.degradation](pictures[0], generator)
    else:
        clear, depth = pictures
        degraded, target = random_depth_haze(
            clear, depth, generator, ranges=source.ranges, linear=source.linear
        )
    return Sample(degraded, target, disparity)


def drawn_by(seed: int, number: int) -> Generator:
    """What the sample of this number is drawn from; other seeds have other samples.

    torch heeds the lower 32 bits of a generator's seed alone. In these the stretches of seeds from 0 on lie far apart
    (golden ratio).
    """
    return Generator().manual_seed((seed * 0x9E3779B1 + number) % 2**32)


Number = int | tuple[int, int]
"""Which patch: its number, or (number, size) for another size than the usual."""


class Patches(Dataset[Sample]):
    """An endless set of training patches; item i is a function of (seed, i) alone.

    Args:
        sources: where pictures come from; each patch draws one by weight, then a picture, then a window.
        root: the folder that the sources' paths are relative to.
        size: side of a patch in pixels.
        zoom: (smallest, largest) factor that windows are reduced by, drawn log-uniformly, so that more of a picture
            is seen; limited by the picture's shorter side. Noise and haze are made at the final size.
        edges: see `random_crop`.
        teacher: gives the disparity of the pictures of Pairs and Clear; must be a function of the path alone.

    Raises:
        UsageError: if zoom is not within 0 and 1, or for an unknown degradation or range of haze.
        DataError: if a source has no pictures, or is not complete.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        root: Path,
        size: int,
        seed: int,
        zoom: tuple[float, float] = (1.0, 1.0),
        edges: float = 0.0,
        teacher: Teacher | None = None,
    ) -> None:
        if not 0 < zoom[0] <= zoom[1] <= 1:
            raise UsageError(f"zoom={zoom} must be (smallest, largest) with 0 < smallest <= largest <= 1")
        self.sources, self.size, self.seed = tuple(sources), size, seed
        self.zoom, self.edges, self.teacher = zoom, edges, teacher
        self._told_of_small = False
        self.items = [_items(source, root) for source in sources]
        self.weights = torch.tensor([source.weight for source in sources])
        if not (self.weights >= 0).all() or not self.weights.sum() > 0:
            raise UsageError(
                f"weights of sources are {self.weights.tolist()}; expected 0 or more, and one above 0"
            )

    def describe(self) -> list[str]:
        """A line for each source: what it is, how much there is, its share of the patches."""
        shares = (self.weights / self.weights.sum()).tolist()
        return [
            f"{share:4.0%} of patches: {len(items)} {_kind(source)} from {source.path}, such as {_name(items[0])}"
            f"{_bordered(items[0])}"
            for source, items, share in zip(self.sources, self.items, shares, strict=True)
        ]

    def taught(self) -> list[Path]:
        """The clear pictures that the teacher is asked about: of all sources that bring no depth and are drawn."""
        return [
            item.target if isinstance(item, Pair) else item
            for source, items in zip(self.sources, self.items, strict=True)
            for item in items
            if source.weight > 0 and not isinstance(item, Scene)
        ]

    def __getitem__(self, index: Number) -> Sample:
        size, generator = self._begin(index)
        source, item = self._item(generator)
        window = self._drawn(source, item, size, generator)
        return _sample(source, window, generator)

    def _begin(self, index: Number) -> tuple[int, Generator]:
        """The size of a patch, and what all else is drawn from."""
        number, size = index if isinstance(index, tuple) else (index, self.size)
        return size, drawn_by(self.seed, number)

    def _item(self, generator: Generator) -> tuple[Source, Item]:
        which = int(torch.multinomial(self.weights, 1, generator=generator))
        items = self.items[which]
        return self.sources[which], items[int(torch.randint(len(items), (), generator=generator))]

    def _drawn(self, source: Source, item: Item, size: int, generator: Generator) -> list[Tensor]:
        """A window of an item, with what the source varies in it."""
        layers = _layers(item, self.teacher)
        height, width = layers[0].shape[-2:]
        if min(height, width) < size and not self._told_of_small:
            self._told_of_small = True
            log.warning(
                f"{_name(item)} has {width}x{height} pixels, less than a patch of {size}: it and others like it are "
                "continued by mirroring; a smaller patch (--set patch=N) would not need that"
            )
        window, draw = self._window(source, layers, size, generator), Draw(generator)
        # Without them nothing is drawn, so that recipes from before see what they saw.
        if isinstance(source, Scenes) and source.strange and draw.chance(source.strange):
            items = self.items[self.sources.index(source)]
            other = items[int(torch.randint(len(items), (), generator=generator))]
            window[1] = self._window(source, _layers(other, self.teacher), size, generator)[1]
        if isinstance(source, Clear) and source.blacks and draw.chance(source.blacks):
            window[0] = blacken(window[0])
        if source.tones:
            pictures = 2 if isinstance(source, Pairs) else 1
            window[:pictures] = vary_tones(window[:pictures], source.tones, generator)
        return window

    def _window(self, source: Source, layers: list[Tensor], size: int, generator: Generator) -> list[Tensor]:
        """The layers of a random window in [0, 1], at the size of a patch."""
        side = self._side(min(layers[0].shape[-2:]), size, generator)
        window = [_unpacked(x) for x in random_crop(layers, side, generator, edges=self.edges)]
        if side > size:
            *others, disparity = window
            window = [*(reduce(x, size) for x in others), reduce_known(disparity, size)]
        return augment(window, source.augment, generator)

    def _side(self, shorter: int, size: int, generator: Generator) -> int:
        """Side of the window that becomes a patch; that of the patch in a picture that is hardly larger."""
        low, high = self.zoom
        if low == high == 1:  # draws nothing, so that recipes from before zoom see the patches that they saw
            return size
        zoom: float = low * (high / low) ** float(torch.rand((), generator=generator))
        return max(size, min(round(size / zoom), shorter))


def _kind(source: Source) -> str:
    if isinstance(source, Clear):
        return source.degradation
    return "pairs" if isinstance(source, Pairs) else f"pictures hazed by depth ({source.ranges})"


def _name(item: Item) -> str:
    if isinstance(item, Pair):
        return f"{item.degraded.name} with {item.target.name}"
    return item.name if isinstance(item, Path) else item.picture.name


def _bordered(item: Item) -> str:
    """What is done to a target of RESIDE's, if this is one."""
    if not isinstance(item, Pair):
        return ""
    degraded, target = (_pixels(path) for path in (item.degraded, item.target))
    if cropped(target, (degraded.shape[2], degraded.shape[1])) is target:
        return ""
    return f"; clear pictures of 640x480 lose RESIDE's border of {RESIDE_BORDER} pixels"


class View(NamedTuple):
    """Two windows of one picture, which show different parts of it."""

    degraded: Tensor
    """(3, s, s), as of `Sample`."""
    clear: Tensor
    """(3, s, s) in [0, 1]; another window."""
    label: int
    """The number of the picture's class; -1 where there are no classes."""


class Views(Dataset[View]):
    """Patches whose degraded and clear pictures are cropped independently, to learn what ails a picture.

    Args:
        patches: draw the picture, and each of its windows. classes: how many folders of classes the sources hold,
            each picture lying in one (ImageNet's layout); 0 for pictures without classes.

    Raises:
        DataError: if the sources hold another number of such folders.
    """

    def __init__(self, patches: Patches, *, classes: int = 0) -> None:
        self.patches = patches
        names = {_class(item) for items in patches.items for item in items} if classes else set()
        if len(names) != classes:
            raise DataError(
                f"the sources hold pictures in {len(names)} folders, expected one for each of {classes} classes"
            )
        self.numbers = {name: number for number, name in enumerate(sorted(names))}

    def __getitem__(self, index: Number) -> View:
        patches = self.patches
        size, generator = patches._begin(index)
        source, item = patches._item(generator)
        first, second = (patches._drawn(source, item, size, generator) for _ in range(2))
        clear = second[1 if isinstance(source, Pairs) else 0]
        return View(_sample(source, first, generator).degraded, clear, self.numbers.get(_class(item), -1))


def _class(item: Item) -> str:
    """The name of the folder that a picture lies in."""
    picture = item.target if isinstance(item, Pair) else item.picture if isinstance(item, Scene) else item
    return picture.parent.name


class Stage(NamedTuple):
    """Patches of one size, in batches of one size, up to a step (progressive learning, as Restormer's)."""

    until: int
    """The step that the next stage begins with."""
    patch: int
    """Side of a patch in pixels."""
    batch: int
    """Patches a step, in each process."""


class Steps(Sampler[list[Number]]):
    """The patch numbers of each step's batch, from a given step on, for one of several processes.

    It has no length on purpose: the trainer counts steps, not epochs.

    Args:
        batch: patches a step, after all stages.
        stages: patches of other sizes before that; their numbers come as (number, size).

    >>> steps = iter(Steps(batch=2, stages=[Stage(1, 32, 3)]))
    >>> next(steps), next(steps)
    ([(0, 32), (1, 32), (2, 32)], [3, 4])
    """

    def __init__(
        self, *, batch: int, start: int = 0, rank: int = 0, processes: int = 1, stages: Sequence[Stage] = ()
    ) -> None:
        self.batch, self.start, self.rank, self.processes = batch, start, rank, processes
        self.stages = tuple(stages)

    def __iter__(self) -> Iterator[list[Number]]:
        step = self.start
        while True:
            yield self._numbers(step)
            step += 1

    def _numbers(self, step: int) -> list[Number]:
        before = since = 0  # patches before the stage, and its first step
        for stage in self.stages:
            if step < stage.until:
                return [(number, stage.patch) for number in self._range(before, step - since, stage.batch)]
            before += (stage.until - since) * stage.batch * self.processes
            since = stage.until
        return [*self._range(before, step - since, self.batch)]

    def _range(self, before: int, step: int, batch: int) -> range:
        first = before + (step * self.processes + self.rank) * batch
        return range(first, first + batch)


class Pictures(Dataset[Sample]):
    """Whole validation pictures; clear ones are degraded with their number as seed, the same at every validation.

    Raises:
        DataError: if a source has no pictures, or for a depth map that cannot be used: not only after the first steps.
    """

    def __init__(self, sources: Sequence[Source], *, root: Path, teacher: Teacher | None = None) -> None:
        self.items = [(source, item) for source in sources for item in _items(source, root)]
        self.teacher = teacher
        for _, item in self.items:
            if isinstance(item, Scene):
                _scene(item)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        source, item = self.items[index]
        layers = [_unpacked(x) for x in _layers(item, self.teacher)]
        return _sample(source, layers, Generator().manual_seed(index))
