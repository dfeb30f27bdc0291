"""What a data set holds and what is wrong with it, before a training run finds out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fairweather.data.depth import (
    INDEX,
    Depth,
    Scene,
    find_scenes,
    map_beside,
    read_map_beside,
    read_scene,
)
from fairweather.data.pairs import (
    RESIDE_SIZES,
    SPLITS,
    Pair,
    clear_pictures,
    cropped,
    find_pairs,
    has_pairs,
    split_folder,
    splits,
)
from fairweather.errors import DataError, PictureError, UsageError
from fairweather.images import read_picture

OVERLAPS = "overlaps.json"
SAME_PHOTO = 10
"""Hash bits, of 255, in which two versions of one photograph may differ. Measured: half size and JPEG quality 60
change at most 8; different photographs, even two frames of one drive, differ in 56 or more."""
SAME_SCENE = 0.2
"""`likeness` below which a pair hardly shows one scene. Measured: 0.47 and more on 369 pairs with haze, rain, noise and
blur (Dense-HAZE was not at hand); all but 4 of 37414 pairs mixed up within a set, frames of one drive, are below."""
PAIRS_COMPARED = 20
"""Of each split: mixed-up names spoil most pairs, and these are read twice."""
RESIDE_NAME = re.compile(r"(\d+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")
"""Hazy pictures of ITS are named SCENE_INDEX_A, those of OTS SCENE_A_BETA."""
RESIDE_COPY = re.compile(r"(\d+)_(10|[1-9])")
"""In some copies of ITS, and in SOTS indoor: SCENE_INDEX."""
ITS_SCENES = 1399
"""Of the standard release, numbered from 1."""
SOTS_SCENES = set(range(1400, 1450))
"""Those of SOTS indoor."""
ITS, ITS_V0 = (
    "ITS, whose standard release has 13,990 of 1,399",
    "ITS v0 (110,000 of 11,000); most papers train on 13,990 of 1,399: take RESIDE-standard's ITS",
)

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class SplitReport:
    """One split. Paths are relative to the data set, sizes are (width, height)."""

    name: str
    paired: bool
    rule: str
    count: int
    """Pairs, or pictures where there are no pairs."""
    examples: tuple[str, ...]
    sizes: tuple[Size, ...]
    """Smallest, median and largest picture by area; empty if none can be read."""
    different_size: tuple[str, ...]
    """Pairs whose two pictures differ in size."""
    unmatched: tuple[str, ...]
    unreadable: tuple[str, ...]
    """Files that cannot be read, each with the reason."""
    bad_depth: tuple[str, ...]
    """Depth maps that are missing, too many, or cannot be used, each with the reason."""
    colour_gap: tuple[float, ...]
    """Mean of degraded minus target in R, G and B, in [-1, 1]; empty without pairs."""
    notes: tuple[str, ...]
    """What to know of a sound set before using it, such as its release."""

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"{self.name or 'all'}: {self.count} {'pairs' if self.paired else 'pictures'}, {self.rule}"]
        lines += [f"  such as {example}" for example in self.examples]
        if self.sizes:
            lines.append("  smallest, median, largest: " + ", ".join(map(_by, self.sizes)))
        if self.colour_gap:
            gaps = ", ".join(f"{gap:+.3f}" for gap in self.colour_gap)
            lines.append(f"  degraded minus target, mean of R, G, B: {gaps}")
        lines += [f"  note: {note}" for note in self.notes]
        lines += _listed("  pairs of different sizes, refused in training and scoring", self.different_size)
        lines += _listed("  without a partner", self.unmatched)
        lines += _listed("  depth maps amiss", self.bad_depth)
        return lines + _listed("  unreadable", self.unreadable)


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    root: str
    splits: tuple[SplitReport, ...]
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of files with equal bytes."""
    leaks: tuple[str, ...]
    """Pictures that are in two splits, and training pictures listed as shown by a test picture elsewhere."""
    notes: tuple[str, ...]
    """Test pictures listed as shown by training pictures elsewhere: do not train on those."""

    @property
    def ok(self) -> bool:
        """False if a file is unreadable or unmatched, if sizes differ in a pair, or if a picture leaks."""
        amiss = [s.unreadable or s.unmatched or s.different_size or s.bad_depth for s in self.splits]
        return not (self.leaks or any(amiss))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain lists, numbers and strings, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [self.root, *(line for part in self.splits for line in part.lines())]
        lines += _listed("equal files", [" = ".join(group) for group in self.duplicates])
        lines += _listed("leaks", self.leaks)
        lines += _listed("not to be trained on when testing here", self.notes)
        return [*lines, "ok" if self.ok else "not ok: see above"]


@dataclass(frozen=True)
class Look:
    """What is kept of a picture after reading it; `reason` says why it could not be read."""

    digest: str = ""
    size: Size | None = None
    """Of the file."""
    mean: tuple[float, ...] = ()
    hash: Bool[np.ndarray, " bits"] | None = None
    reason: str = ""


def check(root: Path, *, split: str | None = None, overlaps: Path | None = None) -> Report:
    """Read every picture of a data set and report what it holds and what is wrong with it.

    Args:
        root: a data set of pairs, or of clear pictures alone; see fairweather.data.pairs.
        split: look at this one only, instead of all.
        overlaps: a list of photographs that several data sets share; by default overlaps.json in the root or
            up to two folders above it, where there is one.

    Raises:
        UsageError: if there is no such split.
        DataError: if there are no pictures, no names that match, or if the overlaps cannot be read.
    """
    known = _known_overlaps(overlaps or _nearby_overlaps(root))
    folders = splits(root) if split is None else {split: split_folder(root, split)}
    base = root if root.is_dir() else root.parent
    reports: list[SplitReport] = []
    looks: dict[Path, Look] = {}
    repeats: set[Path] = set()
    originals: list[dict[Path, Look]] = []  # the clear pictures of each split: rain and haze change a hash
    for name, folder in (folders or {"": root}).items():
        pairs: Sequence[Pair] = ()
        rule, clear, unmatched = "no degraded pictures beside them", tuple[Path, ...](), tuple[Path, ...]()
        if has_pairs(folder):
            found = find_pairs(folder)
            rule, pairs, unmatched = found.rule, found.pairs, found.unmatched
            clear = tuple(pair.target for pair in pairs)
        else:
            clear = clear_pictures(folder)
        paths = dict.fromkeys([*(pair.degraded for pair in pairs), *clear, *unmatched])
        beside = {pair.target: pair.degraded for pair in pairs}
        here: dict[Path, Look] = {}
        for path in paths:
            near = here.get(beside.get(path, path))
            here[path] = _look(path, near.size if near else None)
        again = _repeats(pairs, here)
        bad_depth, notes = _depth(folder, pairs, here)
        notes = [*_notes(base, pairs, here, again), *notes]
        reports.append(_split_report(base, name, rule, pairs, unmatched, here, bad_depth, notes))
        originals.append({path: here[path] for path in clear if path not in again})
        looks |= here
        repeats |= again
    leaks = [leak for one, two in combinations(originals, 2) for leak in _same_photos(base, one, two)]
    listed, shown = _listed_overlaps(known, looks)
    unexpected = {path: look for path, look in looks.items() if path not in repeats}
    return Report(str(root), tuple(reports), _duplicates(base, unexpected), (*leaks, *listed), shown)


def _look(path: Path, near: Size | None = None) -> Look:
    """Read one picture, cropped if its degraded partner's size asks for it, and keep little of it."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pixels = read_picture(path).pixels
    except (OSError, PictureError) as error:
        return Look(reason=str(error))
    _, height, width = pixels.shape
    pixels = cropped(pixels, near)
    return Look(digest, (width, height), tuple(pixels.double().mean((1, 2)).tolist()), photo_hash(pixels))


def photo_hash(pixels: Float[Tensor, "3 h w"]) -> Bool[np.ndarray, " bits"] | None:
    """255 bits that say what a photograph shows, nearly the same after resizing or re-encoding.

    The 16x16 lowest frequencies of the DCT of the 32x32 grey picture, without the mean: above their median or not.
    An even picture shows nothing that could be compared, and has no hash.
    """
    grey = pixels.double().mean(0)[None, None]  # 1 1 h w
    # Antialiased, since plain average pooling alone moves up to 10 bits when a photograph is resized.
    grey = F.interpolate(grey, (32, 32), mode="bilinear", antialias=True)[0, 0]  # 32 32
    if grey.std() < 1 / 255:
        return None
    at = torch.arange(32, dtype=torch.float64)
    dct = torch.cos(torch.pi / 32 * (at + 0.5) * at[:16, None])  # 16 32
    low = (dct @ grey @ dct.T).flatten()[1:].numpy()
    return np.asarray(low > np.median(low))


def likeness(degraded: Float[Tensor, "3 h w"], target: Float[Tensor, "3 h2 w2"]) -> float:
    """Correlation of the gradients of two pictures, grey and at 64x64: 1 if they show the same, about 0 if not.

    An even picture shows nothing that could differ; its likeness is 1.
    """
    small = [
        F.interpolate(p.double().mean(0)[None, None], (64, 64), mode="bilinear", antialias=True)[0, 0]
        for p in (degraded, target)
    ]
    one, two = [torch.stack([p.diff(dim=0)[:, 1:], p.diff(dim=1)[1:]]).flatten() for p in small]
    strength = float(one.norm() * two.norm())
    return float(one @ two) / strength if strength > 1e-6 else 1.0


def _repeats(pairs: Sequence[Pair], looks: dict[Path, Look]) -> set[Path]:
    """Clear pictures that repeat another of their scene: DehazeFormer's layout has one for each hazy picture."""
    first: dict[tuple[str, Path, str], Path] = {}
    again: set[Path] = set()
    for pair in pairs:
        path = pair.target
        if path.stem == pair.degraded.stem and re.match(r"\d+_\d", path.stem):
            key = looks[path].digest, path.parent, path.stem.partition("_")[0]
            if looks[path].digest and first.setdefault(key, path) != path:
                again.add(path)
    return again


def _notes(base: Path, pairs: Sequence[Pair], looks: dict[Path, Look], again: set[Path]) -> list[str]:
    notes: list[str] = []
    for group in dict.fromkeys(pair.group for pair in pairs):
        hazy = [pair.degraded for pair in pairs if pair.group == group]
        notes += reside_notes(hazy, [looks[path].size for path in hazy])
    beside = {
        pair.degraded.parent.with_name("blur_gamma") for pair in pairs if pair.degraded.parent.name == "blur"
    }
    if left_out := sum(folder.is_dir() for folder in beside):
        notes.append(
            f"{left_out} folders blur_gamma/ beside blur/ are left out: GoPro's authors took them, most papers after "
            "them blur/; say which your figures are of (to use them, move blur/ away or list the pairs in pairs.csv)"
        )
    sizes = [(looks[pair.degraded].size, looks[pair.target].size) for pair in pairs]
    if framed := sizes.count(RESIDE_SIZES):
        notes.append(
            f"{framed:,} pairs are RESIDE's hazy 620x460 with clear 640x480: the clear picture is cropped by 10 pixels "
            "on each side wherever it is used; nothing to do"
        )
    if again:
        notes.append(
            f"{len(again):,} clear pictures repeat another of their scene, one for each hazy picture; nothing to do"
        )
    fitting = [pair for pair, both in zip(pairs, sizes, strict=True) if _fit(*both)]
    some = fitting[:: -(-len(fitting) // PAIRS_COMPARED) or 1]
    unlike = [pair for pair in some if _unlike(pair)]
    if unlike:
        notes.append(
            f"{len(unlike)} of {len(some)} pairs looked at hardly show one scene, such as "
            f"{_rel(unlike[0].degraded, base)} and {_rel(unlike[0].target, base)}: compare them by eye; "
            "where names mislead, list the pairs in pairs.csv"
        )
    return notes


def _unlike(pair: Pair) -> bool:
    degraded, target = read_picture(pair.degraded).pixels, read_picture(pair.target).pixels
    target = cropped(target, (degraded.shape[2], degraded.shape[1]))
    return likeness(degraded, target) < SAME_SCENE


def reside_notes(hazy: Sequence[Path], sizes: Sequence[Size | None]) -> list[str]:
    """What to know of hazy pictures that are all named as RESIDE's: the release, what is not from it, small ones.

    Args:
        hazy, sizes: the pictures of one folder, and the width and height of each, None where it cannot be read.
    """
    fields = [found.groups() for path in hazy if (found := RESIDE_NAME.fullmatch(path.stem))]
    if not fields or len(fields) < len(hazy):
        return _reside_copy(hazy)
    scenes = len({scene for scene, _, _ in fields})
    if any("." in second for _, second, _ in fields):
        ranges = "OTS (A 0.8 to 1, beta 0.04 to 0.2)"
        fits = [0.8 <= float(a) <= 1 and 0.04 <= float(beta) <= 0.2 for _, a, beta in fields]
        release = "OTS, whose standard release has 72,135 of 2,061"
        if scenes > 2061 or len(hazy) > 72135:
            release = "OTS in the large release (313,950 of 8,970), not in that of 72,135 of 2,061; say which you use"
        if len(hazy) <= 2 * scenes:  # SOTS outdoor, whose names are alike
            release = ""
    else:
        ranges = "ITS (A 0.7 to 1)"
        fits = [0.7 <= float(a) <= 1 for _, _, a in fields]
        foreign_names = any(index[0] == "0" or int(scene) > ITS_SCENES for scene, index, _ in fields)
        release = ITS_V0 if foreign_names else ITS
    notes: list[str] = []
    if release and 2 * sum(fits) > len(fits):
        notes.append(f"{len(hazy):,} hazy pictures of {scenes:,} scenes, named as RESIDE {release}")
    foreign = [path for path, fit in zip(hazy, fits, strict=True) if not fit]
    if foreign:
        notes.append(
            f"{len(foreign):,} hazy pictures are named with values outside those of RESIDE's {ranges}, such as "
            f"{foreign[0].name}: leave them out of figures for RESIDE"
        )
    small = [(path, size) for path, size in zip(hazy, sizes, strict=True) if size and min(size) < 256]
    if small:
        path, size = small[0]
        notes.append(
            f"{len(small):,} hazy pictures have a side below 256 pixels, such as {path.name} ({_by(size)}): "
            "training mirrors them; leave them out to train as DehazeFormer did"
        )
    return notes


def _reside_copy(hazy: Sequence[Path]) -> list[str]:
    """As `reside_notes`, of pictures in a folder of haze whose names tell their scene and index alone."""
    fields = [found.groups() for path in hazy if (found := RESIDE_COPY.fullmatch(path.stem))]
    of_haze = all(path.parent.name.casefold().startswith("haz") for path in hazy)
    scenes = {int(scene) for scene, _ in fields}
    if not fields or len(fields) < len(hazy) or not of_haze or scenes <= SOTS_SCENES:
        return []
    release = ITS_V0 if max(scenes) > ITS_SCENES else ITS
    return [f"{len(hazy):,} hazy pictures of {len(scenes):,} scenes, named as in copies of RESIDE {release}"]


def _depth(folder: Path, pairs: Sequence[Pair], looks: Mapping[Path, Look]) -> tuple[list[str], list[str]]:
    """(what is wrong with the depth maps of a folder, what to know of them); nothing where it holds none."""
    index = (folder.parent if folder.name.casefold() in SPLITS else folder) / INDEX
    listed = index.is_file() and "depth" in index.read_text(errors="replace").partition("\n")[0]
    beside = (folder / "depth").is_dir() and ((folder / "rgb").is_dir() or (folder / "clear").is_dir())
    reads: list[Callable[[], Depth]]
    some = ""
    if listed or beside:
        try:
            reads = [partial(_depth_of, scene) for scene in find_scenes(folder)]
        except DataError as error:
            return [str(error)], []
        except UsageError as error:
            return [], [f"depth maps were not looked at: {error}"]
    else:  # where evaluation looks for them
        maps = {path: looks[pair.degraded].size for pair in pairs if (path := map_beside(pair.target))}
        reads = [partial(read_map_beside, path, size) for path, size in maps.items() if size]
        if without := sum(map_beside(pair.target) is None for pair in pairs):
            some = f"; {without:,} of {len(pairs):,} pairs have none"
    bad: list[str] = []
    known: list[float] = []
    for read in reads:
        try:
            known.append(float(read().known.double().mean()))
        except DataError as error:
            bad.append(str(error))
        except PictureError:
            pass  # listed as unreadable already
    return bad, [
        f"{len(known)} depth maps, {np.mean(known):.0%} of their pixels known{some}"
    ] if known else []


def _depth_of(scene: Scene) -> Depth:
    return read_scene(scene)[1]


def _split_report(
    base: Path,
    name: str,
    rule: str,
    pairs: Sequence[Pair],
    unmatched: Sequence[Path],
    looks: dict[Path, Look],
    bad_depth: Sequence[str],
    notes: Sequence[str],
) -> SplitReport:
    labels = [f"{_rel(p.degraded, base)} -> {_rel(p.target, base)}" for p in pairs]
    both = [(label, looks[p.degraded], looks[p.target]) for label, p in zip(labels, pairs, strict=True)]
    both = [(label, one, two) for label, one, two in both if one.size and two.size]
    sizes = sorted((look.size for look in looks.values() if look.size), key=lambda size: size[0] * size[1])
    gaps = [np.subtract(one.mean, two.mean) for _, one, two in both]
    return SplitReport(
        name=name,
        paired=bool(pairs),
        rule=rule,
        count=len(pairs) or len(looks),
        examples=tuple((labels or [_rel(path, base) for path in looks])[:3]),
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (),
        different_size=tuple(
            f"{label} ({_by(one.size)} and {_by(two.size)})"
            for label, one, two in both
            if one.size and two.size and not _fit(one.size, two.size)
        ),
        unmatched=tuple(_rel(path, base) for path in unmatched),
        unreadable=tuple(f"{_rel(path, base)}: {look.reason}" for path, look in looks.items() if look.reason),
        bad_depth=tuple(bad_depth),
        notes=tuple(notes),
        colour_gap=tuple(np.mean(gaps, axis=0).tolist()) if gaps else (),
    )


def _fit(degraded: Size | None, target: Size | None) -> bool:
    """Whether the two can be read and are equal, if need be after RESIDE's crop."""
    return (degraded is not None and degraded == target) or (degraded, target) == RESIDE_SIZES


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _rel(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _listed(title: str, items: Sequence[str], most: int = 10) -> list[str]:
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    more = [f"{indent}and {len(items) - most} more"] if len(items) > most else []
    return [f"{title}: {len(items)}", *(indent + item for item in items[:most]), *more] if items else []


def _duplicates(base: Path, looks: dict[Path, Look]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for path, look in looks.items():
        groups.setdefault(look.digest, []).append(_rel(path, base))
    return tuple(tuple(group) for digest, group in groups.items() if digest and len(group) > 1)


def _same_photos(base: Path, first: dict[Path, Look], second: dict[Path, Look]) -> list[str]:
    """Every two pictures, one of each split, that show the same photograph; even ones only if equal in bytes."""
    files = {look.digest: path for path, look in first.items() if look.size and look.hash is None}
    even = [(files[look.digest], path) for path, look in second.items() if look.digest in files]
    found = [f"{_rel(one, base)} is the same file as {_rel(two, base)}" for one, two in even]
    sides = [[path for path, look in side.items() if look.hash is not None] for side in (first, second)]
    if not all(sides):
        return found
    hashes = [np.array([{**first, **second}[path].hash for path in side], dtype=np.float32) for side in sides]
    signs = [2 * bits - 1 for bits in hashes]
    differ = (255 - signs[0] @ signs[1].T) / 2  # equal bits count +1, different ones -1
    return found + [
        f"{_rel(sides[0][i], base)} is the same photograph as {_rel(sides[1][j], base)} "
        f"({differ[i, j]:.0f} of 255 hash bits differ)"
        for i, j in np.argwhere(differ <= SAME_PHOTO)
    ]


def _nearby_overlaps(root: Path) -> Path | None:
    folder = root.absolute()
    return next((at / OVERLAPS for at in (folder, *folder.parents[:2]) if (at / OVERLAPS).is_file()), None)


def _known_overlaps(file: Path | None) -> dict[str, list[str]]:
    """Names "set/split/stem" of pictures, each with those that show the same; from our overlaps.json."""
    if file is None:
        return {}
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        links = [(pair["a"], pair["b"]) for pair in listed.get("same_place", [])]
        cbsd68 = listed.get("bsds500", {}).get("val_photos_moved_to_cbsd68", [])
        links += [(f"bsds500/val/{photo}", f"cbsd68/test/{photo}") for photo in cbsd68]
        rain100 = listed.get("rain100_test_to_bsds500", {}).items()
        links += [(f"bsds500/{photo.rpartition('.')[0]}", f"rain100/test/{name}") for name, photo in rain100]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is no list of overlaps in our form ({type(error).__name__}: {error})"
        ) from error
    known: dict[str, list[str]] = {}
    for one, two in links:
        known.setdefault(one, []).append(two)
        known.setdefault(two, []).append(one)
    return known


def _listed_overlaps(
    known: dict[str, list[str]], paths: Iterable[Path]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(leaks, notes): training pictures that a test picture shows too, and the other way round."""
    names: dict[str, None] = {}
    for path in paths:
        parts = path.absolute().parts
        names |= {f"{a}/{b}/{path.stem}": None for a, b in pairwise(parts[:-1])}
    leaks: list[str] = []
    notes: list[str] = []
    for one, two in [(name, other) for name in names for other in known.get(name, [])]:
        tested = "/test/" in one
        if tested != ("/test/" in two):
            (notes if tested else leaks).append(f"{one} shows the same scene as {two}, by {OVERLAPS}")
    return tuple(leaks), tuple(notes)
