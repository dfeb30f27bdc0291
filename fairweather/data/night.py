"""Pictures of two cameras: finding visible and infrared ones that belong together, and cleaning the visible ones once.

    roadscene_rain/ train/  Vis/input/ 017.jpg   Vis/target/ 017.jpg   Inf/input/ 017.jpg
    msrs/                   vi/ 00123D.png                             ir/ 00123D.png

A clear picture of the same stem may lie in target/ beside the rainy ones in input/.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairweather.data.pairs import natural_order, split_folder
from fairweather.errors import DataError
from fairweather.files import written_whole
from fairweather.images import EXTENSIONS, Picture, write_picture
from fairweather.weights import sha256

log = logging.getLogger(__name__)

VISIBLE, INFRARED = ("vis", "vi", "visible", "rgb"), ("inf", "ir", "infrared", "thermal", "lwir")
"""Names of the two cameras' folders, in any letter case."""
INSIDE = ("input", "rainy", "rain")
"""Folders inside those that may hold the pictures, beside a target/."""


@dataclass(frozen=True)
class Triple:
    """One scene through two cameras."""

    visible: Path
    """As the camera gave it, rainy perhaps."""
    infrared: Path
    clear: Path | None
    """The visible picture without rain, where it is known."""


def find_triples(root: Path, *, split: str | None = None) -> tuple[Triple, ...]:
    """Visible and infrared pictures of equal stem under `root`, in natural order (2 before 10).

    Args:
        root: a data set or one of its splits. split: "train", "test" ...; needed where the root holds several.

    Raises:
        UsageError: if the root holds several splits and none was named, or not the one that was.
        DataError: if the two folders are not there, or a picture has no partner.
    """
    base = split_folder(root, split)
    folders = {p.name.casefold(): p for p in sorted(base.iterdir()) if p.is_dir() and p.name[0] != "."}
    visible, infrared = (
        next((folders[n] for n in names if n in folders), None) for names in (VISIBLE, INFRARED)
    )
    if visible is None or infrared is None:
        seen = ", ".join(f"{p.name}/" for p in folders.values()) or "none"
        raise DataError(
            f"no folders of two cameras in {base}; folders seen: {seen}; expected one of {', '.join(VISIBLE)} "
            f"and one of {', '.join(INFRARED)}"
        )
    pictures, heat = by_stem(_inner(visible)), by_stem(_inner(infrared))
    clear = by_stem(visible / "target") if (visible / "target").is_dir() else {}
    alone = sorted((pictures.keys() ^ heat.keys()) | (clear.keys() - pictures.keys()), key=natural_order)
    alone += [stem for stem in pictures if clear and stem not in clear]
    if alone or not pictures:
        raise DataError(
            f"{len(alone)} of {len(pictures)} visible and {len(heat)} infrared pictures of {base} have no partner of "
            f"equal stem: {', '.join(alone[:3])}; add their partners or leave them out"
        )
    return tuple(
        Triple(pictures[stem], heat[stem], clear.get(stem)) for stem in sorted(pictures, key=natural_order)
    )


def by_stem(folder: Path) -> dict[str, Path]:
    """The pictures directly in a folder by their stems.

    Raises:
        DataError: if two share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name[0] == "." or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem].name} share a stem; which one is meant?")
        found[path.stem] = path
    return found


def _inner(folder: Path) -> Path:
    return next((folder / name for name in INSIDE if (folder / name).is_dir()), folder)


def cleaned_pairs(
    triples: Sequence[Triple], clean: Callable[[Path], Picture], *, by: str, cache: Path
) -> Path:
    """A manifest of cleaned visible pictures and their infrared partners, for `data/pairs.py` to read.

    Each visible picture is cleaned once: the result is kept as an 8-bit PNG under its digest, and read from there
    ever after.

    Args:
        clean: gives the cleaned picture. by: what it is done by, such as the digest of its weights; results of
            another are not taken for its own.
        cache: the folder that results are kept in.
    """
    folder = cache / by[:16]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, triple in enumerate(triples, start=1):
        path = folder / f"{sha256(triple.visible)}.png"
        if not path.is_file():
            write_picture(clean(triple.visible), path)
            log.info("cleaned %s, %d of %d", triple.visible.name, number, len(triples))
        rows.append((path.name, str(triple.infrared.resolve())))
    listed = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    manifest = folder / f"{listed}.csv"
    with written_whole(manifest) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([("degraded", "target"), *rows])
    return manifest
