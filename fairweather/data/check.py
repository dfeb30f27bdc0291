"""What a data set holds and what is wrong with it, before a training run finds out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fairweather.data.pairs import Pair, clear_pictures, find_pairs, has_pairs, split_folder, splits
from fairweather.errors import DataError, PictureError
from fairweather.images import read_picture

OVERLAPS = "overlaps.json"
SAME_PHOTO = 10
"""Hash bits, of 255, in which two versions of one photograph may differ. Measured: half size and JPEG quality 60
change at most 8; different photographs, even two frames of one drive, differ in 56 or more."""


@dataclass(frozen=True)
class SplitReport:
    """One split. Paths are relative to the data set, sizes are (width, height)."""

    name: str
    paired: bool
    rule: str
    count: int
    """Pairs, or pictures where there are no pairs."""
    examples: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """Smallest, median and largest picture by area; empty if none can be read."""
    different_size: tuple[str, ...]
    """Pairs whose two pictures differ in size."""
    unmatched: tuple[str, ...]
    unreadable: tuple[str, ...]
    """Files that cannot be read, each with the reason."""
    colour_gap: tuple[float, ...]
    """Mean of degraded minus target in R, G and B, in [-1, 1]; empty without pairs."""

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"{self.name or 'all'}: {self.count} {'pairs' if self.paired else 'pictures'}, {self.rule}"]
        lines += [f"  such as {example}" for example in self.examples]
        if self.sizes:
            lines.append("  smallest, median, largest: " + ", ".join(f"{w}x{h}" for w, h in self.sizes))
        if self.colour_gap:
            gaps = ", ".join(f"{gap:+.3f}" for gap in self.colour_gap)
            lines.append(f"  degraded minus target, mean of R, G, B: {gaps}")
        lines += _listed("  pairs of different sizes", self.different_size)
        lines += _listed("  without a partner", self.unmatched)
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
        return not (self.leaks or any(s.unreadable or s.unmatched or s.different_size for s in self.splits))

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
    size: tuple[int, int] | None = None
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
        here = {path: _look(path) for path in paths}
        reports.append(_split_report(base, name, rule, pairs, unmatched, here))
        originals.append({path: here[path] for path in clear})
        looks |= here
    leaks = [leak for one, two in combinations(originals, 2) for leak in _same_photos(base, one, two)]
    listed, notes = _listed_overlaps(known, looks)
    return Report(str(root), tuple(reports), _duplicates(base, looks), (*leaks, *listed), notes)


def _look(path: Path) -> Look:
    """Read one picture, and keep little of it."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pixels = read_picture(path).pixels
    except (OSError, PictureError) as error:
        return Look(reason=str(error))
    _, height, width = pixels.shape
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


def _split_report(
    base: Path,
    name: str,
    rule: str,
    pairs: Sequence[Pair],
    unmatched: Sequence[Path],
    looks: dict[Path, Look],
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
        different_size=tuple(label for label, one, two in both if one.size != two.size),
        unmatched=tuple(_rel(path, base) for path in unmatched),
        unreadable=tuple(f"{_rel(path, base)}: {look.reason}" for path, look in looks.items() if look.reason),
        colour_gap=tuple(np.mean(gaps, axis=0).tolist()) if gaps else (),
    )


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
