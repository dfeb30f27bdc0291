"""Which videos we read and write, and the encoders."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fairweather.errors import MissingExtraError, UsageError, unknown_name


class Encoder(NamedTuple):
    """How a video is encoded."""

    licence: str
    crf: int | None
    """The usual quality, on the encoder's own scale where small is good; None if it is lossless."""
    options: Mapping[str, str]


ENCODERS = {
    "libx264": Encoder("GPL-2.0-or-later", 18, {}),
    "libx265": Encoder("GPL-2.0-or-later", 20, {"x265-params": "log-level=error"}),
    "libsvtav1": Encoder("BSD-3-Clause-Clear", 26, {"preset": "8"}),
    "libvpx-vp9": Encoder("BSD-3-Clause", 24, {"row-mt": "1", "cpu-used": "3"}),
    "ffv1": Encoder("LGPL-2.1-or-later", None, {}),
}

CONTAINERS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
"""The containers that we write, by extension, and their usual encoders."""

EXTENSIONS = frozenset(CONTAINERS) | {
    *(".3gp", ".avi", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".wmv"),
}
"""The files that we read."""
DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
"""FFmpeg's names of these. Others are refused whatever a file is called: a play list would open other files."""


def pyav() -> Any:
    """The library, imported when it is first needed.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("restoring a video", "video") from None
    return av


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its extension.

    >>> is_video(Path("Drive.MP4")), is_video(Path("photo.jpg"))
    (True, False)
    """
    return path.suffix.lower() in EXTENSIONS


def written_suffix(source: Path) -> str:
    """The extension of a result that goes beside its source: the same where we write it, else .mkv.

    >>> written_suffix(Path("a.MOV")), written_suffix(Path("a.avi"))
    ('.MOV', '.mkv')
    """
    return source.suffix if source.suffix.lower() in CONTAINERS else ".mkv"


def chosen_encoder(
    target: Path, encoder: str | None = None, crf: int | None = None
) -> tuple[str, int | None]:
    """The encoder for a file, and its quality.

    Raises:
        UsageError: for a file that we do not write, an encoder that we do not know or that its container does not take,
            or a quality that it does not have.

    >>> chosen_encoder(Path("a.mp4")), chosen_encoder(Path("a.webm"), crf=30)
    (('libx264', 18), ('libvpx-vp9', 30))
    """
    suffix = target.suffix.lower()
    if suffix not in CONTAINERS:
        raise UsageError(f"{target}: we write videos as {', '.join(CONTAINERS)}")
    container, usual = CONTAINERS[suffix]
    name = encoder or usual
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if crf is not None and ENCODERS[name].crf is None:
        raise UsageError(f"crf {crf}: {name} is lossless and has none")
    if crf is not None and not 0 <= crf <= 63:
        raise UsageError(f"crf is {crf}, expected 0 to 63 (small is good; {ENCODERS[name].crf} is usual)")
    av = pyav()
    with av.open(io.BytesIO(), "w", format=container) as probe:
        try:
            probe.add_stream(name)
        except ValueError:
            raise UsageError(
                f"{suffix} files do not take {name}; write .mkv, or choose another encoder"
            ) from None
    return name, ENCODERS[name].crf if crf is None else crf
