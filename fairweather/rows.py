"""Pictures too large for the memory: read from top to bottom and written from top to bottom, by libvips.

    open_rows      a file -> PictureRows, whose rows are decoded when they are asked for
    rows_written   a file that rows are added to, written whole or not at all

What a file may be, what its metadata are and how they are kept is as in `images.py`; PNG, JPEG and TIFF of grey or RGB,
with or without alpha, can be taken this way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import mmap
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from PIL import JpegImagePlugin
from torch import Tensor

from fairweather import images, metadata
from fairweather.errors import PictureError, one_line
from fairweather.files import written_whole
from fairweather.images import Picture
from fairweather.models.layers import reduced

FORMATS = ("png", "jpg", "tiff")
"""Formats that can be read and written in rows."""


@runtime_checkable
class Rows(Protocol):
    """A picture that gives its rows from top to bottom; values in [0, 1]."""

    height: int
    width: int

    def rows(self, first: int, end: int) -> Float[Tensor, "3 n w"]:
        """The rows first to end (exclusive)."""
        ...

    def reduced(self, longest: int) -> Float[Tensor, "3 h2 w2"]:
        """A copy with no side longer than `longest`."""
        ...


class Whole:
    """The `Rows` of a picture in memory."""

    def __init__(self, pixels: Float[Tensor, "3 h w"]) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[-2:]

    def rows(self, first: int, end: int) -> Float[Tensor, "3 n w"]:
        return self._pixels[:, first:end]

    def reduced(self, longest: int) -> Float[Tensor, "3 h2 w2"]:
        return reduced(self._pixels[None], longest)[0]


class PictureRows:
    """A picture whose rows are decoded as they are needed; those asked for last are kept.

    Args:
        path: its file. like: all of it but its pixels. orientation: as in EXIF.

    Attributes:
        like: a `Picture` without pixels. height, width: of the picture, turned upright.
    """

    def __init__(self, path: Path, like: Picture, orientation: int) -> None:
        import pyvips  # here, because most pictures do without it

        self.path, self.like, self._orientation = path, like, orientation
        self._image = self._opened()
        self._region = pyvips.Region.new(self._image)
        self.height, self.width = int(self._image.height), int(self._image.width)
        self._first, self._kept = 0, self._decoded(0, 1)

    def _opened(self) -> Any:
        import pyvips

        # Turned pictures need their pixels in another order: libvips keeps those in a file of its own if they are many.
        access = "sequential" if self._orientation == 1 else "random"
        image = pyvips.Image.new_from_file(str(self.path), access=access, fail_on="error")
        if self._orientation >= 5:
            image = image.rot90().fliphor()
        if self._orientation in (2, 3, 6, 7):
            image = image.fliphor()
        return image.flipver() if self._orientation in (3, 4, 7, 8) else image

    def rows(self, first: int, end: int) -> Float[Tensor, "3 n w"]:
        """The rows first to end (exclusive), in [0, 1]; `first` must not fall from one call to the next."""
        planes = np.moveaxis(self._samples(first, end), -1, 0)
        return images.unit_range(planes[: 1 if len(planes) < 3 else 3], 3)

    def alpha(self, first: int, end: int) -> Float[Tensor, "1 n w"] | None:
        """The same rows' alpha, where the picture has one."""
        planes = np.moveaxis(self._samples(first, end), -1, 0)
        return None if len(planes) in (1, 3) else images.unit_range(planes[-1:], 1)

    def _samples(self, first: int, end: int) -> Shaped[np.ndarray, "n w c"]:
        if first < self._first:
            raise ValueError(f"row {first} is asked for after row {self._first}")
        self._kept = self._kept[first - self._first :]
        self._first = first
        have = first + len(self._kept)
        if end > have:
            self._kept = np.concatenate((self._kept, self._decoded(have, end)))
        return self._kept[: end - first]

    def _decoded(self, first: int, end: int) -> Shaped[np.ndarray, "n w c"]:
        dtype = np.uint16 if self._image.format == "ushort" else np.uint8
        with _told(self.path):
            # A region keeps what was decoded beyond its end; crops would want it decoded again.
            data = self._region.fetch(0, first, self.width, end - first)
            return np.frombuffer(data, dtype).reshape(end - first, self.width, -1)

    def reduced(self, longest: int) -> Float[Tensor, "3 h2 w2"]:
        """A copy with no side longer than `longest`, averaged over what it leaves out."""
        with _told(self.path):
            image = self._opened()
            scale = min(1.0, longest / max(self.height, self.width))
            small = image.resize(scale, kernel="linear").numpy()
        planes = np.moveaxis(small.reshape(*small.shape[:2], -1), -1, 0)
        return images.unit_range(planes[: 1 if len(planes) < 3 else 3], 3)


def open_rows(path: Path, *, max_megapixels: float = images.MAX_MEGAPIXELS) -> PictureRows | None:
    """The rows of a picture's file; None for a kind that `images.read_picture` alone can take.

    Raises:
        PictureError: as of `images.read_picture`; damage of the pixels shows later, when their rows are read.
    """
    with _told(path), open(path, "rb") as file:
        images.sniff(file.read(64))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        format = images.sniff(data[:64])
        if format == "jpg":
            found = _jpeg_header(path)
        elif format == "png":
            found = _png_header(data)
        elif format == "tiff":
            found = _tiff_header(data)
        else:
            return None
    if found is None:
        return None
    (width, height), blocks = found
    images.check_size(width, height, max_megapixels)
    like, orientation = images.without_pixels(format=format, **blocks)
    with _told(path):
        rows = PictureRows(path, like, orientation)
        turned = (height, width) if orientation >= 5 else (width, height)
        if (rows.width, rows.height) != turned or rows._image.format not in ("uchar", "ushort"):
            raise ValueError(f"its header says {width}x{height}, its pixels {rows.width}x{rows.height}")
    grey = rows._image.bands < 3
    deep = rows._image.format == "ushort"
    rows.like = dataclasses.replace(like, mode="grey" if grey else "rgb", bits=16 if deep else 8)
    return rows


_Header = tuple[tuple[int, int], dict[str, Any]]


def _jpeg_header(path: Path) -> _Header | None:
    with JpegImagePlugin.JpegImageFile(str(path)) as image:
        if image.mode not in ("L", "RGB"):
            return None
        blocks = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}
        return image.size, {k: image.info.get(v) for k, v in blocks.items()} | {"lossless": False}


def _png_header(data: mmap.mmap) -> _Header | None:
    chunks = metadata.png_chunks(data)
    width, height, depth, colours = struct.unpack_from(">IIBB", chunks[0][1])
    indexed = colours == 3 or any(kind in (b"tRNS", b"acTL") for kind, _ in chunks)
    blocks = metadata.png_metadata(chunks) | {"lossless": True}
    return None if indexed or depth < 8 else ((width, height), blocks)


def _tiff_header(data: mmap.mmap) -> _Header | None:
    tags, size, blocks = images.tiff_header(data, math.inf)
    plain = metadata.number(tags, images.PHOTOMETRIC) in (1, 2) and metadata.number(tags, images.BITS) in (
        8,
        16,
    )
    return (size, blocks) if plain else None


@contextlib.contextmanager
def rows_written(
    path: Path, like: Picture, *, format: str, width: int, quality: int = 95
) -> Iterator[Callable[[Float[Tensor, "3 n w"], Float[Tensor, "1 n w"] | None], None]]:
    """Gives a function that adds rows, with their alpha, to a picture's file; whole or not at all.

    The rows are kept in a file beside `path`, as large as the pixels, until all of them are there.

    Args:
        like: the source's depth, mode, metadata. format: one of FORMATS. quality: of jpg.

    Raises:
        PictureError: if it cannot be encoded or written.
    """
    bits = like.bits if format != "jpg" else 8
    height, bands = 0, 0
    try:
        with written_whole(path) as part:
            raw = part.with_suffix(".rows")
            try:
                with open(raw, "wb") as file:

                    def add(pixels: Float[Tensor, "3 n w"], alpha: Float[Tensor, "1 n w"] | None) -> None:
                        nonlocal height, bands
                        picture = dataclasses.replace(like, pixels=pixels, alpha=alpha)
                        samples = images.quantised(picture, bits, alpha=format != "jpg")
                        height, bands = height + samples.shape[0], samples.shape[2]
                        file.write(np.ascontiguousarray(samples).data)

                    yield add
                _encode(
                    raw, part, like, format=format, size=(width, height), bands=bands, bits=bits, q=quality
                )
            finally:
                raw.unlink(missing_ok=True)
    except PictureError as error:
        raise PictureError(f"{one_line(path)}: {error}") from error.__cause__
    except (OSError, ValueError) as error:
        reason = images.reason(error)
        raise PictureError(
            f"{one_line(path)}: cannot be written ({reason}); check the folder and the disk"
        ) from error


def _encode(
    raw: Path, part: Path, like: Picture, *, format: str, size: tuple[int, int], bands: int, bits: int, q: int
) -> None:
    """The file of a picture from that of its samples, with its metadata."""
    import pyvips

    kind = images.INTERPRETATIONS[bits][bands >= 3]
    depth = "ushort" if bits == 16 else "uchar"
    image = pyvips.Image.rawload(
        str(raw), *size, bands, format=depth, interpretation=kind, access="sequential"
    )
    try:
        if format == "tiff":
            image.tiffsave(str(part), compression="deflate", predictor="horizontal", keep="none")
        elif format == "png":
            image.pngsave(str(part), filter="all", keep="none")
        else:
            image.jpegsave(str(part), Q=q, subsample_mode="off", keep="none")
    except pyvips.Error as error:
        reason = images.reason(error)
        raise PictureError(f"cannot be encoded as {format} ({reason}); try another format") from error
    if format == "tiff":
        with open(part, "r+b") as file:
            here = file.seek(0, os.SEEK_END)
            file.write(b"\0" * (here % 2))
            here += here % 2
            directory = images.tiff_directory(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), like, here
            )
            file.write(directory)
            file.seek(4)
            file.write(struct.pack("<I", here))
    elif format == "png":
        _inserted(part, 33, metadata.join_png(images.png_metadata(like))[8:])  # behind signature and header
    else:
        _inserted(part, 2, _jpeg_segments(like))


def _inserted(path: Path, at: int, block: bytes) -> None:
    """Put a block into a file."""
    if not block:
        return
    with written_whole(path) as part, open(path, "rb") as source, open(part, "wb") as file:
        file.write(source.read(at) + block)
        shutil.copyfileobj(source, file, 2**20)


def _jpeg_segments(like: Picture) -> bytes:
    """EXIF, XMP and colour profile of a JPEG file."""
    segments = io.BytesIO()
    blocks = [(0xE1, b"Exif\0\0" + like.exif)] if like.exif else []
    if like.xmp:
        blocks.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + like.xmp))
    pieces = [like.icc[i : i + 65000] for i in range(0, len(like.icc), 65000)] if like.icc else []
    for number, piece in enumerate(pieces, start=1):
        blocks.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(pieces))) + piece))
    for marker, block in blocks:
        if len(block) > 65533:
            raise PictureError("its metadata are more than JPEG can hold; write png or tiff")
        segments.write(struct.pack(">BBH", 0xFF, marker, len(block) + 2) + block)
    return segments.getvalue()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong in reading, as the one kind of error that there is."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{one_line(path)}: {error}") from None
    except OSError as error:
        raise PictureError(
            f"{one_line(path)}: cannot be read ({images.reason(error)}); check its path"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with a dozen kinds of exceptions
        raise images.damaged(one_line(path), error) from error
