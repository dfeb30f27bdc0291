"""The blocks of EXIF, XMP and colour profiles inside PNG and TIFF files, which Pillow and libvips keep only in part.

PNG keeps them in chunks; TIFF in tags, and an EXIF block is a TIFF of tags alone. Damage raises ValueError or
struct.error; `images.py` turns both into its one kind of error.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Block: TypeAlias = bytes | bytearray | mmap.mmap

# ---------------------------------------------------------------- PNG chunks

PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
XMP_KEYWORD = b"XML:com.adobe.xmp\0"


def png_chunks(data: Block) -> list[tuple[bytes, bytes | memoryview]]:
    """Kind and body of every chunk up to IEND; ValueError where one is cut or its checksum is wrong."""
    chunks: list[tuple[bytes, bytes | memoryview]] = []
    here, kind = 8, b""
    while kind != b"IEND":
        if len(chunks) > 100_000:
            raise ValueError("more than 100,000 chunks")
        size, kind = struct.unpack_from(">I4s", data, here)
        body = memoryview(data)[here + 8 : here + 8 + size]
        (checksum,) = struct.unpack_from(">I", data, here + 8 + size)
        if checksum == zlib.crc32(body, zlib.crc32(kind)):
            chunks.append((kind, body))
        elif kind in PIXEL_CHUNKS:
            raise ValueError(f"wrong checksum in {kind.decode()}")
        here += 12 + size
    return chunks


def join_png(chunks: Sequence[tuple[bytes, bytes | memoryview]]) -> bytes:
    parts: list[bytes | memoryview] = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += [struct.pack(">I4s", len(body), kind), body, struct.pack(">I", checksum)]
    return b"".join(parts)


def png_metadata(chunks: Sequence[tuple[bytes, bytes | memoryview]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, view in chunks:
        if kind == b"iCCP" and "icc" not in found:
            found["icc"] = _inflate(bytes(view).partition(b"\0")[2][1:])
        elif kind == b"eXIf":
            found["exif"] = bytes(view)
        elif kind == b"iTXt" and view[: len(XMP_KEYWORD)] == XMP_KEYWORD and "xmp" not in found:
            compressed, rest = view[18], bytes(view[20:])
            text = rest.split(b"\0", 2)[2]  # behind a language and a translated keyword
            found["xmp"] = _inflate(text) if compressed else text
    return found


def _inflate(packed: bytes, limit: int = 2**24) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, limit)
    if not unpacker.eof:
        raise ValueError(f"a text or profile is cut, or larger than {limit} bytes")
    return data


# ---------------------------------------------------------------- TIFF tags, which are EXIF tags too

Tags: TypeAlias = "dict[int, tuple[int, npt.NDArray[Any] | Tags]]"  # tag -> type, and values or a directory
_NUMBER_BYTES = dict(enumerate((1, 1, 2, 4, 4, 1, 1, 2, 4, 4, 4, 8, 4), start=1))  # of each TIFF type
_RATIONALS = (5, 10)  # types made of two numbers

ORIENTATION = 274
_DIRECTORIES = {34665, 34853, 40965}  # EXIF, GPS, interoperability


def first_tags(block: Block) -> tuple[Tags, int]:
    """The first directory of a TIFF or EXIF block; see read_tags."""
    return read_tags(block, struct.unpack_from(byte_order(block) + "I", block, 4)[0])


def read_tags(block: Block, here: int, depth: int = 0) -> tuple[Tags, int]:
    """The directory at byte `here`, and at which byte the place of the next directory is noted.

    Values are views of the block, in its byte order; those that lie outside are left out. struct.error or
    ValueError if the directory itself is damaged.
    """
    order = byte_order(block)
    (count,) = struct.unpack_from(order + "H", block, here)
    end = here + 2 + 12 * count
    tags: Tags = {}
    total = 0
    for entry in range(here + 2, end, 12):
        tag, kind, length, place = struct.unpack_from(order + "HHII", block, entry)
        if kind not in _NUMBER_BYTES or length == 0:
            continue
        length *= 2 if kind in _RATIONALS else 1
        size = length * _NUMBER_BYTES[kind]
        start = entry + 8 if size <= 4 else place
        if start + size > len(block):
            continue
        total += size
        if total > 2 * len(block):
            raise ValueError("tags on top of each other")
        tags[tag] = kind, np.frombuffer(block, f"{order}u{_NUMBER_BYTES[kind]}", length, start)
    for tag in tags.keys() & _DIRECTORIES:
        place = number(tags, tag)
        del tags[tag]
        with contextlib.suppress(struct.error, ValueError):
            if depth < 2:
                tags[tag] = 4, read_tags(block, place, depth + 1)[0]
    return tags, end


def byte_order(block: Block) -> str:
    return "<" if block[:2] == b"II" else ">"


def values(tags: Tags, tag: int) -> npt.NDArray[Any]:
    found = tags[tag][1] if tag in tags else None
    return found if isinstance(found, np.ndarray) else np.empty(0, np.uint8)


def number(tags: Tags, tag: int, default: int = 0) -> int:
    found = values(tags, tag)
    return int(found[0]) if len(found) else default


def write_tags(tags: Tags, here: int) -> bytes:
    """A little-endian directory to stand at byte `here`, with its values behind it."""
    entries, stored = bytearray(), bytearray()
    for tag, (kind, value) in sorted(tags.items()):
        behind = here + 2 + 12 * len(tags) + 4 + len(stored)
        if isinstance(value, dict):
            length, body = 1, write_tags(value, behind)
        else:
            length = len(value) // (2 if kind in _RATIONALS else 1)
            body = value.astype(value.dtype.newbyteorder("<")).tobytes()
        if len(body) <= 4 and not isinstance(value, dict):
            place, body = body.ljust(4, b"\0"), b""
        else:
            place = struct.pack("<I", behind)
        entries += struct.pack("<HHI", tag, kind, length) + place
        stored += body + b"\0" * (len(body) % 2)
    return struct.pack("<H", len(tags)) + bytes(entries) + bytes(4) + bytes(stored)


def reset_orientation(exif: bytes | None) -> tuple[int, bytes | None]:
    """The orientation in an EXIF block (1 to 8), and the block with it set to 1 and all else as it was.

    The block of a turned picture also loses the link to its thumbnail, which would still lie on its side.
    """
    block = bytearray((exif or b"").removeprefix(b"Exif\0\0"))
    if not block.startswith((b"II", b"MM")):
        return 1, None
    try:
        tags, end = first_tags(block)
        orientation = number(tags, ORIENTATION, 1)
        if orientation in range(2, 9):
            values(tags, ORIENTATION)[0] = 1
            struct.pack_into("I", block, end, 0)
            return orientation, bytes(block)
    except (struct.error, ValueError):  # damaged EXIF is no reason to refuse an intact picture
        pass
    return 1, bytes(block)
