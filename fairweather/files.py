"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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
