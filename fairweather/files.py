"""Finding files in a folder, writing one whole or not at all, and where the cache lies."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Container, Iterator
from pathlib import Path


def files_in(folder: Path, extensions: Container[str]) -> list[tuple[Path, Path]]:
    """(file, its place inside the folder) of all in the folder's tree with such an extension, but for hidden ones.

    Args:
        extensions: in lower case, with the dot; the files' own may be in any case.
    """
    found = [(path, path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    return [
        (path, inside)
        for path, inside in found
        if path.suffix.lower() in extensions
        and not any(part.startswith(".") for part in inside.parts)
        and path.is_file()
    ]


def cache_folder() -> Path:
    """For what can be made again: $FAIRWEATHER_CACHE, or ~/.cache/fairweather."""
    return Path(os.environ.get("FAIRWEATHER_CACHE") or "~/.cache/fairweather").expanduser()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block ends well, and is gone if it does not.

    Missing folders are made. What was at `path` stays as it was until the new file is complete on the disk.

    Raises:
        OSError: if the folder cannot be made or the file cannot be put in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".fairweather-{secrets.token_hex(8)}.part"
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):  # gone already when all went well
            part.unlink()
