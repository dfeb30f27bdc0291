"""Which infrared picture or video goes with each visible one: by name, or by a list of pairs."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fairweather import images
from fairweather.errors import UsageError
from fairweather.files import files_in
from fairweather.video import EXTENSIONS as VIDEOS
from fairweather.video import is_video

READ = images.EXTENSIONS | VIDEOS
"""Extensions of what is restored from a folder."""
COLUMNS = "visible", "infrared"
"""Of a list of pairs."""


def partners(visible: Sequence[tuple[Path, Path]], infrared: str) -> list[Path | None]:
    """The infrared picture of each visible one, or video of each video; None where there is none.

    Args:
        visible: each file, and its place inside the folder that it was found in.
        infrared: a file for one visible picture; a folder, for those of equal stem at the same place in it, or else
            directly in it; or a list of pairs, see `listed_pairs`.

    Raises:
        UsageError: if there is no such file or folder, the list is none, no picture has a partner, or which one is
            meant is not clear.
    """
    path = Path(infrared)
    if not infrared:
        raise UsageError("an empty name as --ir; expected a file, a folder or a CSV file")
    if path.is_dir():
        there = _by_place(path)
        found = [_of_equal_stem(file, inside, there) for file, inside in visible]
        _check_shared(visible, found)
        names = [place.name for _, place in there][:3]
        rule = f"of equal stem in {infrared}, which holds {', '.join(names) or 'no pictures'}"
    elif not path.is_file():
        raise UsageError(f"--ir {infrared}: no such file or folder")
    elif path.suffix.lower() == ".csv":
        pairs = listed_pairs(path)
        partner_of = {file.resolve(): partner for file, partner in pairs}
        found = [partner_of.get(file.resolve()) for file, _ in visible]
        names = [file.name for file, _ in pairs][:3]
        rule = f"in {infrared}, which lists {', '.join(names) or 'no pairs'}"
    elif len(visible) > 1:
        raise UsageError(
            f"--ir {infrared} is one picture, but there are {len(visible)} visible ones; give a folder or a CSV file"
        )
    else:
        return [path]
    if not any(found):
        raise UsageError(f"--ir: none of the {len(visible)} visible pictures has a partner {rule}")
    return found


def listed_pairs(path: Path) -> list[tuple[Path, Path | None]]:
    """Visible files and their partners, from a CSV file with columns visible and infrared, its paths relative to it.

    A partner that is left empty, or is not there, is None: a camera that missed a frame.

    Raises:
        UsageError: if the file is none, or holds other columns.
    """
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True)
        reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
        rows = [*reader]
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV file that can be read: {error}") from None
    if not set(COLUMNS) <= set(columns):
        raise UsageError(
            f"{path} has the columns {', '.join(columns) or 'none'}; expected {' and '.join(COLUMNS)}"
        )
    files = [[path.parent / (row.get(name) or "").strip() for name in COLUMNS] for row in rows]
    return [(visible, partner if partner.is_file() else None) for visible, partner in files]


Places = dict[tuple[bool, Path], list[Path]]
"""The files of a folder by (is it a video, place inside the folder without the file's extension)."""


def _by_place(folder: Path) -> Places:
    found: Places = defaultdict(list)
    for file, inside in files_in(folder, READ):
        found[is_video(file), inside.with_suffix("")].append(file)
    return dict(found)


def _of_equal_stem(file: Path, inside: Path, there: Places) -> Path | None:
    kind, place = is_video(file), inside.with_suffix("")
    candidates = there.get((kind, place)) or there.get((kind, Path(place.name)), [])
    if len(candidates) > 1:
        raise UsageError(
            f"{' and '.join(map(str, candidates))} share the stem of {file}; which one is meant?"
        )
    return candidates[0] if candidates else None


def _check_shared(visible: Sequence[tuple[Path, Path]], found: Sequence[Path | None]) -> None:
    """One partner for pictures of several folders is that of one of them at most."""
    owners: dict[Path, tuple[Path, Path]] = {}
    for (file, inside), partner in zip(visible, found, strict=True):
        if partner is None:
            continue
        owner, place = owners.setdefault(partner, (file, inside))
        if place.parent != inside.parent:
            raise UsageError(
                f"{owner} and {file} would share {partner}; sort the infrared pictures into folders as the visible ones"
            )
