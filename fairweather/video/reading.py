"""Reading a video: what is known of it before any work, and its frames one after another."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fairweather.errors import PictureError
from fairweather.images import EXTENSIONS as PICTURES
from fairweather.images import MAX_MEGAPIXELS
from fairweather.video.formats import DEMUXERS, pyav

Frame = Any
"""A decoded frame of PyAV, which is imported only when a video is opened."""

Pixels = Float32[Tensor, "3 h w"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A video open for reading; what FFmpeg says against it becomes a PictureError."""
    av = pyav()
    options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    try:
        with av.open(f"file:{path}", container_options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise PictureError(f"{path}: no video that can be read ({error.strerror})") from None


def main_stream(container: Any, path: Path) -> Any:
    """The first stream of moving pictures."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    raise PictureError(f"{path}: holds no video that can be decoded")


class Turn(NamedTuple):
    """How coded pixels are turned for showing: first rows may become columns, then axes are flipped."""

    transposed: bool
    flipped: tuple[int, ...]

    def upright(self, x: Tensor) -> Tensor:
        return (x.transpose(-1, -2) if self.transposed else x).flip(self.flipped).contiguous()

    def back(self, x: Tensor) -> Tensor:
        x = x.flip(self.flipped)
        return x.transpose(-1, -2) if self.transposed else x


def turn_of(matrix: Sequence[int]) -> Turn:
    """What a display matrix of FFmpeg (9 numbers) does, rounded to quarter turns.

    x' = a x + c y, y' = b x + d y, with a, b, c, d the numbers 0, 1, 3, 4.

    >>> turn_of([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])  # a quarter clockwise
    Turn(transposed=True, flipped=(-1,))
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    x, y = (c, b) if transposed else (a, d)
    return Turn(transposed, tuple(axis for axis, sign in ((-1, x), (-2, y)) if sign < 0))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known of a video before any work."""

    path: Path
    width: int
    height: int
    """As coded."""
    bits: int
    matrix: tuple[int, ...]
    """For showing; empty if there is none."""
    colour: tuple[int, int, int, int]
    """Matrix, range, primaries and transfer, in FFmpeg's numbers, as they are written."""
    aspect: Fraction | None
    """Of a pixel."""
    rate: Fraction
    time_base: Fraction
    pts: tuple[int, ...]
    """Of all frames, in order, in units of `time_base`."""
    warnings: tuple[str, ...]

    @property
    def turn(self) -> Turn:
        return turn_of(self.matrix) if self.matrix else Turn(False, ())

    @cached_property
    def times(self) -> list[float]:
        """In seconds."""
        return [float(pts * self.time_base) for pts in self.pts]

    @cached_property
    def interval(self) -> float:
        """Seconds from a frame to the next, usually."""
        gaps = [after - before for before, after in itertools.pairwise(self.times)]
        return statistics.median(gaps) if gaps else float(1 / self.rate)


def look(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Look:
    """Look at a video: its first frame, and the times of all.

    Raises:
        PictureError: if there is none, it cannot be read, or is larger than permitted.
    """
    if not path.is_file():
        raise PictureError(f"{path}: no such file")
    if path.suffix.lower() in PICTURES:
        raise PictureError(f"{path}: is a picture; give a video")
    with opened(path) as container:
        stream = main_stream(container, path)
        if stream.width * stream.height > max_megapixels * 1e6:
            raise PictureError(
                f"{path}: {stream.width}x{stream.height} pixels, more than {max_megapixels:g} megapixels; raise "
                "--max-megapixels if it is meant to be so large"
            )
        frame = next(Reader(path).frames(), None)
        if frame is None:
            raise PictureError(f"{path}: not one frame can be decoded")
        matrix: tuple[int, ...] = ()
        with contextlib.suppress(KeyError):
            matrix = tuple(np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).tolist())
        warnings = []
        if frame.interlaced_frame:
            warnings.append("the video is interlaced; frames are restored as a whole, de-interlace it before")
        if any(component.is_alpha for component in frame.format.components):
            warnings.append("the video has transparency, which is not kept")
        if frame.color_trc in (16, 18):  # PQ, HLG
            warnings.append("high dynamic range: restored as coded, which no model was trained for")
        rgb = to_rgb(frame)
        times = []
        for packet in readable_packets(container, stream):
            at = packet.dts if packet.pts is None else packet.pts
            if at is not None and not packet.is_discard:
                times.append(at)
        if not times:
            raise PictureError(f"{path}: its frames have no times; copy it into another container before")
        return Look(
            path=path,
            width=frame.width,
            height=frame.height,
            bits=max(component.bits for component in frame.format.components),
            matrix=matrix,
            colour=(rgb.colorspace, rgb.color_range, rgb.color_primaries, rgb.color_trc),
            aspect=stream.sample_aspect_ratio,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            time_base=frame.time_base or stream.time_base,
            pts=tuple(sorted(times)),
            warnings=tuple(warnings),
        )


def readable_packets(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets that can be read; `Reader` tells of a damaged end."""
    with contextlib.suppress(pyav().FFmpegError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


class Reader:
    """The frames of a video, in order, each later than the one before; and what was wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Packets that could not be decoded."""
        self.moved = 0
        """Frames without a time, or not later than the one before."""
        self.stopped = ""

    def frames(self) -> Iterator[Frame]:
        av = pyav()
        with opened(self.path) as container:
            stream = main_stream(container, self.path)
            stream.thread_type = "AUTO"
            last, step = None, 1
            for packet in self._all_packets(container, stream):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    self.damaged += 1
                    continue
                for frame in decoded:
                    pts = frame.dts if frame.pts is None else frame.pts
                    if last is not None and (pts is None or pts <= last):
                        pts = last + (step if pts is None else 1)
                        self.moved += 1
                    frame.pts = pts or 0
                    last, step = frame.pts, max(1, frame.pts - last) if last is not None else step
                    yield frame

    def _all_packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """The empty one at the end, which asks for the last frames, included."""
        try:
            yield from container.demux(stream)
        except pyav().FFmpegError as error:
            self.stopped = error.strerror

    def warnings(self) -> list[str]:
        said = []
        if self.damaged:
            said.append(f"{self.path.name}: {self.damaged} damaged packets could not be decoded")
        if self.stopped:
            said.append(f"{self.path.name}: damaged towards the end ({self.stopped}); all before is there")
        if self.moved:
            said.append(
                f"{self.path.name}: {self.moved} frames had no time of their own and were put in order"
            )
        return said


def frames_at(path: Path, wanted: Sequence[int]) -> dict[int, Frame]:
    """The frames of these times (pts), those that can be found."""
    found = {}
    with opened(path) as container, contextlib.suppress(pyav().FFmpegError):
        stream = main_stream(container, path)
        for pts in wanted:
            container.seek(pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= pts:
                    if frame.pts == pts:
                        found[pts] = frame
                    break
    return found


def reformatted(frame: Frame, pixels: str) -> Frame:
    """A frame in another pixel format; it keeps all else, colour tags included.

    Chroma is interpolated by cubics at full accuracy: from 8 bits to floats and back, luma keeps 65 dB, chroma 50.
    """
    from av.video.reformatter import Interpolation as How

    how = How.BICUBIC | How.ACCURATE_RND | How.FULL_CHR_H_INT | How.FULL_CHR_H_INP
    return frame.reformat(format=pixels, interpolation=how)


def to_rgb(frame: Frame) -> Frame:
    """A frame of planes of floats, RGB in [0, 1]."""
    if frame.format.has_palette:
        frame = frame.reformat(format="rgb24")
    rgb = reformatted(frame, "gbrpf32le")
    if rgb is frame:
        rgb.make_writable()
    if frame.format.is_rgb:  # which has no matrix and range; players expect these of YUV
        rgb.colorspace, rgb.color_range = 1, 1
    return rgb


def planes(rgb: Frame) -> list[Float32[np.ndarray, "h w"]]:
    """Views of red, green and blue."""
    green, blue, red = (
        np.frombuffer(plane, np.float32).reshape(plane.height, -1)[:, : plane.width] for plane in rgb.planes
    )
    return [red, green, blue]


def pixels(rgb: Frame) -> Pixels:
    return torch.from_numpy(np.stack(planes(rgb)))
