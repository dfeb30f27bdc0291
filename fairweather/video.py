"""Restoring a video: every frame with its own time, everything else of the file copied, and no flicker added.

import fairweather as fw
from fairweather.video import restore_video
result = restore_video("drive.mp4", "drive.night.mp4", fw.load("night"), infrared="thermal.mp4")
result.frames, result.flicker, result.warnings

What is kept: the times of the frames, also where they are uneven; sound, subtitles, data, pictures and attachments
packet for packet, where the container takes them; rotation, colour tags, captions inside the frames, chapters and
metadata. A turned video is restored upright.

What would flicker is held or smoothed over time: the size of the tiles, what a judge found, the shift of the infrared
picture and the stretch of its raw counts. `Steadied` does the rest, and measures what is left.

Restored frames are kept in segments beside the result, in .NAME.fairweather-parts, until all are there; a second run
goes on after the last whole one, with all that the next frame depends on. A segment begins with a key frame and holds
encoded packets with their exact times.

The encoders, all of them inside PyAV's wheel, with their licences:

    libx264      GPL-2.0-or-later      H.264, the usual one of .mp4, .m4v, .mov and .mkv
    libx265      GPL-2.0-or-later      HEVC, smaller files
    libsvtav1    BSD-3-Clause-Clear    AV1, smaller still
    libvpx-vp9   BSD-3-Clause          VP9, the usual one of .webm
    ffv1         LGPL-2.1-or-later     FFV1, lossless, for .mkv

These licences are of the programs: who passes on x264 or x265 has the duties of the GPL, who passes on a video that
they made has not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairweather import __version__
from fairweather.auto import AutoRestorer, steps_for
from fairweather.errors import FairweatherError, MissingExtraError, PictureError, UsageError, unknown_name
from fairweather.files import written_whole
from fairweather.images import EXTENSIONS as PICTURES
from fairweather.images import MAX_MEGAPIXELS
from fairweather.infrared import (
    LEVEL,
    UNSTRETCHED,
    align,
    is_coloured,
    occupied,
    stretched,
    to_stretch,
    told_shift,
)
from fairweather.loading import AnyRestorer
from fairweather.night import NightRestorer, check_fusion
from fairweather.pipeline import Result, check_strength, check_tile
from fairweather.tiling import SMALLEST
from fairweather.weights import sha256

Frame = Any
"""A decoded frame of PyAV, which is imported only when a video is opened."""
_Picture = Float32[Tensor, "3 h w"]


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
READ = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
"""FFmpeg's names of these. Others are refused whatever a file is called: a play list would open other files."""

SEGMENT_SECONDS = 10.0
HOLD = 0.2
"""Seconds for which the last infrared frame stands in for a missing one."""
SAMPLES = 5
"""Frames, spread evenly over the video, on which is decided what then holds for all."""
STRETCH_SECONDS = 10.0
"""Time over which the stretch of raw infrared counts follows them."""

LOOKED_AT = 2**16
"""Pixels of an infrared frame that tell where its raw counts lie."""

TONE_SECONDS = 1.0
"""Time over which contrast and brightness follow what the network says of each frame."""
STATIC = 4 / 255
AREA = 5
"""An area of so many pixels square is static if the mean of the input in it changes by less than STATIC."""
THINNED = 2
"""Of the pixels of the static areas, one in so many of each row and column tells contrast and brightness."""
FINE = 3
"""Noise is finer than what is seen: a mean over so many pixels square is free of most of it."""
NOISE_KEPT = 1.6
"""The largest such mean of an area, seldom exceeded by noise alone, over the median of what the means leave out."""
SEEN = 0.05
"""Share of static area below which there is nothing to hold on to."""
BLOCK, SAME_SCENE = 16, 0.5
"""Correlation of the mean greys of blocks of two frames below which there was a cut between them."""
MOST_HELD = 0.8
"""Of a static area, the largest share that is the last frame's."""
TO_ENCODE = 0.15
"""By so much a result that flickers is held below its input, since encoding adds some again."""
FAINTEST = 0.5 / 255
"""A mean change of less than half a grey level counts as that: nobody sees it."""
FLICKER = 1.05
"""From this on flicker is warned of."""


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """A restored video, and how it came about."""

    frames: int
    """All of them, those that an earlier run had restored included."""
    resumed: int
    """Those that an earlier run had restored."""
    duration: float
    """Of the video, in seconds."""
    seconds: float
    """That this run took."""
    fps: float
    """Frames that it restored in a second."""
    flicker: float | None
    """Mean change from frame to frame of the result over that of the input, in static areas, before encoding; None
    if there were none. 1 is as the input, see `Steadied`."""
    width: int
    height: int
    encoder: str
    crf: int | None
    licence: str
    """Of the encoder, not of the video."""
    fused: int
    """Frames fused with an infrared frame of their time,"""
    held: int
    """with the last one before, as their own was missing,"""
    alone: int
    """or only cleaned. All three are 0 without an infrared video."""
    infrared_share: float | None
    """Mean share of infrared in the luma of the fused frames."""
    findings: Mapping[str, float] | None
    steps: tuple[str, ...]
    """As of `pipeline.Result`, for the whole video."""
    model: str
    task: str
    weights_sha256: str
    device: str
    precision: str
    warnings: tuple[str, ...]

    def told(self) -> str:
        """One line for a person, without the names of the files."""
        infrared = f"{self.fused} fused, {self.held} held, {self.alone} alone; " if self.fused else ""
        flicker = "" if self.flicker is None else f", flicker {self.flicker:.2f} before encoding"
        quality = "lossless" if self.crf is None else f"crf {self.crf}"
        resumed = f" after {self.resumed} of an earlier run" if self.resumed else ""
        return (
            f"{self.frames} frames of {self.duration:.1f} s{flicker}; {infrared}{self.model} on {self.device}, "
            f"{self.precision}, {self.fps:.1f} frames/s{resumed}; {self.encoder} ({self.licence}) {quality}"
        )


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


# Flicker -----------------------------------------------------------------------------------------------------------


def shift_between(before: Float[Tensor, "h w"], after: Float[Tensor, "h w"]) -> tuple[int, int]:
    """How many pixels down and right the view has moved, by phase correlation; (0, 0) if that agrees no worse.

    >>> scene = torch.rand(50, 60)
    >>> shift_between(scene[4:44, 6:46], scene[1:41, 8:48])
    (3, -2)
    """
    height, width = before.shape
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    one, two = (torch.fft.rfft2((x - x.mean()) * window.to(x)) for x in (before, after))
    cross = two * one.conj()
    peak = int(torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9), s=(height, width)).argmax())
    down, right = (
        (at + side // 2) % side - side // 2
        for at, side in zip(divmod(peak, width), (height, width), strict=True)
    )
    if 2 * abs(down) >= height or 2 * abs(right) >= width:
        return 0, 0
    moved, still = ((b - a).abs().mean() for a, b in (in_line(before, after, down, right), (before, after)))
    return (down, right) if moved < still else (0, 0)


def in_line(before: Tensor, after: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Views of what both frames show, where the second has moved so far."""
    height, width = before.shape[-2:]
    return (
        before[..., max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)],
        after[..., max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)],
    )


def static_areas(before: _Picture, after: _Picture) -> Bool[Tensor, "h w"] | None:
    """Where two frames in line show the same, noise apart; None if there was a cut between."""
    blocks = (F.avg_pool2d(x.mean(0, keepdim=True), BLOCK, ceil_mode=True) for x in (before, after))
    one, two = (x - x.mean() for x in blocks)  # in which rain hides no scene
    if (one * two).sum() < SAME_SCENE * one.norm() * two.norm():
        return None
    change = F.avg_pool2d((after - before)[None], AREA, ceil_mode=True, count_include_pad=False)[0]
    return _spread(change.abs().mean(0) < STATIC, before)


def static_heat(before: Float32[Tensor, "1 h w"], after: Float32[Tensor, "1 h w"]) -> Bool[Tensor, "h w"]:
    """Where two infrared frames in line show the same, noise apart.

    A far person is a few warm pixels that may well move within an area, so that the largest change in it counts, not
    the mean. Thermal cameras adjust the brightness of the whole picture, which moves nothing.
    """
    change = after - before
    change = change - change.median()
    smooth = F.avg_pool2d(change, FINE, stride=1, padding=FINE // 2, count_include_pad=False)
    noise = (change - smooth).abs().median()
    largest = F.max_pool2d(smooth.abs(), AREA, ceil_mode=True)[0]
    return _spread(largest < torch.clamp(NOISE_KEPT * noise, min=STATIC), before)


def _spread(areas: Bool[Tensor, "y x"], picture: Tensor) -> Bool[Tensor, "h w"]:
    """What holds of areas, for each pixel of a picture."""
    height, width = picture.shape[-2:]
    return areas.repeat_interleave(AREA, 0).repeat_interleave(AREA, 1)[:height, :width]


@dataclass
class Steadied:
    """Keeps a restored video from flickering more than its input, and measures how much it does.

    In static areas, a result that changes from frame to frame flickers, unless the input does too. Each frame is
    aligned with the last by a shift of the whole; static is where the input then changes by no more than noise. Of a
    fused frame that is where neither camera sees a change: in the dark, what moves is seen by the infrared one alone.

    1. Contrast and brightness: a gain and an offset for each channel, for the whole frame, make the static areas those
       of the last result, but for what they changed in the input. They fade over TONE_SECONDS. Dehazing needs it.
    2. If the static areas still change more than the input's, they are mixed with the last result as far as that
       takes. Dehazing, which amplifies noise, needs it; deraining and denoising change less by themselves.

    A cut, or a frame without static areas, begins anew, and so does the first frame with or without infrared: fused
    and cleaned pictures differ everywhere, and mixed area by area they would show as a mosaic.
    """

    degraded: Tensor | None = None
    restored: Tensor | None = None
    """The last frame (3, h, w), before and after."""
    infrared: Tensor | None = None
    """What it was fused with (1, h, w), if it was."""
    time: float = 0.0
    changes: tuple[float, float] = (0.0, 0.0)
    """Of the static areas of input and result, summed."""
    area: int = 0
    """Static pixels so far."""

    @property
    def flicker(self) -> float | None:
        """Mean change of the static areas in the result over that in the input; None if there were none yet."""
        if not self.area:
            return None
        before, after = (max(change / self.area, FAINTEST) for change in self.changes)
        return after / before

    def next(
        self,
        degraded: _Picture,
        restored: _Picture,
        time: float,
        infrared: Float32[Tensor, "1 h w"] | None = None,
    ) -> _Picture:
        """The restored frame, steadied.

        Args:
            time: in seconds. infrared: what the frame was fused with, in line with it.
        """
        switched = (infrared is None) != (self.infrared is None)
        if self.degraded is not None and self.restored is not None and not switched:
            was, done = self.degraded.to(degraded.device), self.restored.to(restored.device)
            heat = None if self.infrared is None else self.infrared.to(degraded.device)
            shift = shift_between(_seen(was, heat), _seen(degraded, infrared))
            before, now = in_line(was, degraded, *shift)
            static = static_areas(before, now)
            if static is not None and heat is not None and infrared is not None:
                static &= static_heat(*in_line(heat, infrared, *shift))
            if static is not None and static.float().mean() >= SEEN:
                last, new = in_line(done, restored, *shift)
                every = static[::THINNED, ::THINNED]
                samples = (x[:, ::THINNED, ::THINNED][:, every] for x in (before, now, last, new))
                gain, offset = tone_kept(*samples)
                share = math.exp(-max(0.0, time - self.time) / TONE_SECONDS)
                restored = restored * (1 + share * (gain - 1)) + share * offset
                restored.clamp_(0, 1)
                last, new = in_line(done, restored, *shift)
                self._hold(now - before, last, new, static)
        self.degraded, self.restored, self.infrared, self.time = degraded, restored, infrared, time
        return restored

    def _hold(self, seen: Tensor, last: Tensor, new: Tensor, static: Tensor) -> None:
        """Mix `new` with `last` in place, as far as that takes, and note how much both sides have changed."""
        change = (new - last) * static
        count = int(static.sum())
        allowed, changed = (float(x.abs().mean(0).sum()) for x in (seen * static, change))
        excess = max(changed, FAINTEST * count) / max(allowed, FAINTEST * count)
        target = 1 - min(max(excess - 1, 0), TO_ENCODE)
        share = min(max(1 - target / excess, 0.0), MOST_HELD)
        new.sub_(change, alpha=share)
        self.changes = self.changes[0] + allowed, self.changes[1] + (1 - share) * changed
        self.area += count


def _seen(picture: _Picture, infrared: Float32[Tensor, "1 h w"] | None) -> Float32[Tensor, "h w"]:
    """One plane with all edges that tell how the view moved; in the dark the infrared ones are the clearer."""
    grey = picture.mean(0)
    return grey if infrared is None else grey + infrared[0]


def tone_kept(
    before: Float[Tensor, "3 n"],
    now: Float[Tensor, "3 n"],
    last: Float[Tensor, "3 n"],
    new: Float[Tensor, "3 n"],
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Gain and offset of each channel with which a result changes its mean and spread as its input did.

    Args:
        before, now: the same pixels of the input in two frames. last, new: of the result.
    """
    was, is_, had, has = (x.mean(1, keepdim=True) for x in (before, now, last, new))
    pairs = ((before, was), (now, is_), (last, had), (new, has))
    one, two, old, out = ((x - mean).square().mean(1, keepdim=True).sqrt() + LEVEL / 4 for x, mean in pairs)
    gain = (two / one * old / out).clamp(0.5, 2)
    offset = had + is_ - was - gain * has
    return gain[..., None], offset[..., None]


# Reading -----------------------------------------------------------------------------------------------------------


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError("restoring a video", "video") from None
    return av


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A video open for reading; what FFmpeg says against it becomes a PictureError."""
    av = _av()
    options = {"protocol_whitelist": "file", "format_whitelist": READ}
    try:
        with av.open(f"file:{path}", container_options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise PictureError(f"{path}: no video that can be read ({error.strerror})") from None


def _main(container: Any, path: Path) -> Any:
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
    with _opened(path) as container:
        stream = _main(container, path)
        if stream.width * stream.height > max_megapixels * 1e6:
            raise PictureError(
                f"{path}: {stream.width}x{stream.height} pixels, more than {max_megapixels:g} megapixels; raise "
                "--max-megapixels if it is meant to be so large"
            )
        frame = next(_Reader(path).frames(), None)
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
        rgb = _rgb(frame)
        times = []
        for packet in _packets(container, stream):
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


def _packets(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets that can be read; `_Reader` tells of a damaged end."""
    with contextlib.suppress(_av().FFmpegError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


class _Reader:
    """The frames of a video, in order, each later than the one before; and what was wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Packets that could not be decoded."""
        self.moved = 0
        """Frames without a time, or not later than the one before."""
        self.stopped = ""

    def frames(self) -> Iterator[Frame]:
        av = _av()
        with _opened(self.path) as container:
            stream = _main(container, self.path)
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
        except _av().FFmpegError as error:
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


def _frames_at(path: Path, wanted: Sequence[int]) -> dict[int, Frame]:
    """The frames of these times (pts), those that can be found."""
    found = {}
    with _opened(path) as container, contextlib.suppress(_av().FFmpegError):
        stream = _main(container, path)
        for pts in wanted:
            container.seek(pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= pts:
                    if frame.pts == pts:
                        found[pts] = frame
                    break
    return found


def _reformatted(frame: Frame, pixels: str) -> Frame:
    """A frame in another pixel format; it keeps all else, colour tags included.

    Chroma is interpolated by cubics at full accuracy: from 8 bits to floats and back, luma keeps 65 dB, chroma 50.
    """
    from av.video.reformatter import Interpolation as How

    how = How.BICUBIC | How.ACCURATE_RND | How.FULL_CHR_H_INT | How.FULL_CHR_H_INP
    return frame.reformat(format=pixels, interpolation=how)


def _rgb(frame: Frame) -> Frame:
    """A frame of planes of floats, RGB in [0, 1]."""
    if frame.format.has_palette:
        frame = frame.reformat(format="rgb24")
    rgb = _reformatted(frame, "gbrpf32le")
    if rgb is frame:
        rgb.make_writable()
    if frame.format.is_rgb:  # which has no matrix and range; players expect these of YUV
        rgb.colorspace, rgb.color_range = 1, 1
    return rgb


def _planes(rgb: Frame) -> list[Float32[np.ndarray, "h w"]]:
    """Views of red, green and blue."""
    green, blue, red = (
        np.frombuffer(plane, np.float32).reshape(plane.height, -1)[:, : plane.width] for plane in rgb.planes
    )
    return [red, green, blue]


def _pixels(rgb: Frame) -> _Picture:
    return torch.from_numpy(np.stack(_planes(rgb)))


# Infrared ----------------------------------------------------------------------------------------------------------


def nearest(times: Sequence[float], time: float, *, within: float) -> int | None:
    """Which of the sorted times is nearest; None if that is farther off than `within`.

    >>> nearest([0.0, 0.1, 0.2], 0.14, within=0.05), nearest([0.0, 0.1, 0.2], 0.3, within=0.05)
    (1, None)
    """
    after = bisect_left(times, time)
    near = [place for place in (after - 1, after) if 0 <= place < len(times)]
    best = min(near, key=lambda place: abs(times[place] - time), default=None)
    return best if best is not None and abs(times[best] - time) <= within else None


def _grey(frame: Frame, turn: Turn) -> tuple[Float32[Tensor, "1 y x"], bool]:
    """An infrared frame in [0, 1], upright, and whether it may hold raw counts."""
    name, bits = frame.format.name, frame.format.components[0].bits
    if name.startswith("gray") and 8 < bits <= 16:
        values = torch.from_numpy(frame.to_ndarray().astype(np.float32) / (2**bits - 1))[None]
        return turn.upright(values), True
    return turn.upright(_pixels(_rgb(frame)).mean(0, keepdim=True)), False


class _Infrared:
    """The infrared frames that go with visible ones, by time."""

    def __init__(self, seen: Look, *, offset: float, within: float) -> None:
        self.seen, self.within = seen, within
        self.span = UNSTRETCHED
        self.times = [time + offset for time in seen.times]
        self.reader = _Reader(seen.path)
        self._frames = self.reader.frames()
        self.pts: int | None = None
        """Of the frame last read, and"""
        self.heat: Tensor | None = None
        """what it is, as it is fused; the one before if it was blank."""
        self.blank = False
        """Whether it was, as while a shutter is closed."""
        self.used = -math.inf
        """When that was last seen in time."""

    def compared(self, visible: Look) -> list[str]:
        """What is to be said of the times of two videos.

        Raises:
            PictureError: if no frame has a partner.
        """
        times, others, within = visible.times, self.times, self.within
        if all(self.partner(time) is None for time in times):
            raise PictureError(
                f"{self.seen.path}: runs from {others[0]:.2f} to {others[-1]:.2f} s and {visible.path.name} from "
                f"{times[0]:.2f} to {times[-1]:.2f} s, so that no frame has a partner; check that they show the same "
                f"drive, and if only the clocks differ, give the offset (both begin together with --ir-offset "
                f"{times[0] - others[0]:.2f})"
            )
        said = []
        if max(abs(others[0] - times[0]), abs(others[-1] - times[-1])) > max(HOLD, 2 * within):
            spans = [f"{x[0]:.2f} to {x[-1]:.2f} s" for x in (others, times)]
            said.append(f"the infrared video runs from {spans[0]}, the visible one from {spans[1]}")
        missed = sum(
            bisect_left(others, after - within) - bisect_left(others, before + within)
            for before, after in itertools.pairwise(times)
            if after - before > 2 * within + visible.interval
        )
        if missed:
            said.append(f"{missed} infrared frames lie in gaps of the visible video, which stay as they are")
        return said

    def partner(self, time: float) -> int | None:
        """The time (pts) of the infrared frame for a visible one."""
        place = nearest(self.times, time, within=self.within)
        return None if place is None else self.seen.pts[place]

    def at(self, time: float) -> tuple[Tensor | None, Literal["fused", "held", "alone"]]:
        """The infrared picture (1, y, x) for this time, in seconds."""
        if self.looked_up(time) and not self.blank:
            self.used = time
            return self.heat, "fused"
        if time - self.used <= HOLD:
            return self.heat, "held"
        return None, "alone"

    def looked_up(self, time: float) -> bool:
        """Go on to the partner of this time; False if there is none, or it is not to be found."""
        pts = self.partner(time)
        if pts is None or self.pts == pts:
            return pts is not None
        frame = next((frame for frame in self._frames if frame.pts >= pts), None)
        if frame is None:
            return False
        if frame.pts != pts:  # it is the partner of a later time
            self._frames = itertools.chain([frame], self._frames)
            return False
        heat = self._heat(frame)
        self.pts, self.blank = pts, heat is None
        self.heat = self.heat if heat is None else heat
        return True

    def _heat(self, frame: Frame) -> Tensor | None:
        """What is to be fused of a frame; None if it is blank."""
        grey, counts = _grey(frame, self.seen.turn)
        span = occupied(grey, counts=counts, at_most=LOOKED_AT)
        if span is None:
            return None
        if self.span != UNSTRETCHED:
            # Raw counts drift with the sensor's warmth, and jump when it is adjusted.
            (low, high), (new_low, new_high) = self.span, span
            passed = 0.0 if self.pts is None else float((frame.pts - self.pts) * self.seen.time_base)
            apart = new_high < low or new_low > high
            share = 1.0 if apart else 1 - math.exp(-passed / STRETCH_SECONDS)
            # By ratios: of a span a hundred times as wide, a hundredth would already halve all contrast.
            width = (high - low) ** (1 - share) * (new_high - new_low) ** share
            low += share * (new_low - low)
            self.span = low, low + width
        heat = stretched(grey, self.span)
        return None if heat.max() - heat.min() < LEVEL else heat


class _Held(NamedTuple):
    """What is decided once and then holds for all frames of a video."""

    tile: int
    findings: dict[str, float] | None
    steps: tuple[str, ...]
    shift: tuple[float, float]
    """Of the infrared picture."""
    warnings: tuple[str, ...]


def _decided(
    restorer: AnyRestorer,
    seen: Look,
    infrared: _Infrared | None,
    *,
    max_shift: float,
    shift: tuple[float, float] | None,
    strength: float,
    tile: int | Literal["auto"],
) -> _Held:
    """Look at a few frames, spread evenly, and decide; this also sets the span of the infrared video."""
    partners: dict[int, int] = {}
    if infrared is not None:
        with_partner = ((pts, infrared.partner(time)) for pts, time in zip(seen.pts, seen.times, strict=True))
        partners = {pts: partner for pts, partner in with_partner if partner is not None}
    usable = [*partners] if infrared else seen.pts
    chosen = sorted({usable[round(x)] for x in np.linspace(0, len(usable) - 1, SAMPLES)})
    pictures: dict[int, Tensor] = {}
    if infrared or isinstance(restorer, AutoRestorer):
        frames = _frames_at(seen.path, chosen)
        pictures = {pts: seen.turn.upright(_pixels(_rgb(frame))) for pts, frame in frames.items()}

    findings: dict[str, float] | None = None
    if isinstance(restorer, AutoRestorer):
        judged = [restorer.judge(picture) for picture in pictures.values()]
        if not judged:
            raise PictureError(f"{seen.path}: no frame could be found again to judge it; name a task")
        findings = {name: statistics.fmean(each[name] for each in judged) for name in judged[0]}
        workers = [restorer.restorer(task) for task in steps_for(findings)]
    else:
        workers = [restorer.cleaner if isinstance(restorer, NightRestorer) else restorer]
    # Taken frame by frame, the seams of tiles would come and go with the free memory.
    side = min((worker.auto_tile() for worker in workers), default=SMALLEST) if tile == "auto" else tile
    held = _Held(side, findings, steps_for(findings) if findings else (), (0.0, 0.0), ())
    if infrared is None:
        return held
    clean = {
        partners[pts]: workers[0].restore(picture, strength=strength, tile=side, depth=False).image
        for pts, picture in pictures.items()
    }
    found, warnings = _shift(infrared, clean, max_shift=max_shift, known=shift)
    return held._replace(shift=found, warnings=warnings)


def _shift(
    infrared: _Infrared,
    clean: Mapping[int, Tensor],
    *,
    max_shift: float,
    known: tuple[float, float] | None,
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """How far the infrared video lies off, right and down, and what is to be said of it; sets its span, too.

    Args:
        clean: cleaned pictures by the times (pts) of their partners. known: the shift, if it need not be measured.

    Raises:
        PictureError: if the sizes do not match, all of them lie too far off or seem to show another view, or the
            infrared video is in colours.
    """
    seen = infrared.seen
    spans, found, errors = [], [], []
    for pts, frame in _frames_at(seen.path, sorted(clean)).items():
        if is_coloured(_pixels(_rgb(frame))):
            raise PictureError(f"{seen.path}: is in colours; export the infrared video in greys (white-hot)")
        grey, counts = _grey(frame, seen.turn)
        if (span := occupied(grey, counts=counts, at_most=LOOKED_AT)) is None:
            continue
        spans.append(span)
        try:
            heat = stretched(grey, to_stretch(span))
            found.append(align(clean[pts], heat, max_shift=max_shift, shift=known))
        except PictureError as error:
            errors.append(error)
    if errors and not found:
        raise PictureError(f"{seen.path}: {errors[0]}")
    if found and not any(one.fits for one in found):
        raise PictureError(f"{seen.path}: {found[0].warnings[0]}")
    if spans:
        low, high = (statistics.median(end) for end in zip(*spans, strict=True))
        infrared.span = to_stretch((low, high))
    clear = [one.shift for one in found if one.shift != (0.0, 0.0) or not one.warnings]
    if not clear:
        return (0.0, 0.0), tuple(dict.fromkeys(said for one in found for said in one.warnings))
    right, down = statistics.median(x for x, _ in clear), statistics.median(y for _, y in clear)
    if (right, down) == (0.0, 0.0):
        return (0.0, 0.0), ()
    said = f"the infrared video lay {told_shift(right, down)}; it was moved back"
    return (right, down), (said,)


# Segments ----------------------------------------------------------------------------------------------------------


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
    av = _av()
    with av.open(io.BytesIO(), "w", format=container) as probe:
        try:
            probe.add_stream(name)
        except ValueError:
            raise UsageError(
                f"{suffix} files do not take {name}; write .mkv, or choose another encoder"
            ) from None
    return name, ENCODERS[name].crf if crf is None else crf


def _pixel_format(encoder: str, seen: Look) -> str:
    """8 bits, or 10 of a source that has more than 8; chroma is halved, but for odd sizes of H.264 and HEVC."""
    odd = (seen.width | seen.height) & 1 and encoder in ("libx264", "libx265")
    eight = "yuv444p" if odd else "yuv420p"
    ten = f"{eight}10le"
    known = [known.name for known in _av().Codec(encoder, "w").video_formats]
    return ten if seen.bits > 8 and ten in known else eight


def _set_up(context: Any, seen: Look, *, encoder: str, crf: int | None) -> None:
    """Make an encoder's context that of a video; that of each segment and that of the whole are the same."""
    from av.codec.context import Flags

    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it else prints to the terminal
    context.width, context.height = seen.width, seen.height
    context.pix_fmt = _pixel_format(encoder, seen)
    context.time_base, context.framerate = seen.time_base, seen.rate
    context.colorspace, context.color_range, context.color_primaries, context.color_trc = seen.colour
    if seen.aspect:
        context.sample_aspect_ratio = seen.aspect
    context.flags |= Flags.global_header
    context.options = {**ENCODERS[encoder].options, **({} if crf is None else {"crf": str(crf)})}


class _Segment:
    """Frames being encoded, from a key frame on."""

    def __init__(self, seen: Look, *, encoder: str, crf: int | None, began: float) -> None:
        self.context = _av().CodecContext.create(encoder, "w")
        _set_up(self.context, seen, encoder=encoder, crf=crf)
        self.began = began
        self.pts: list[int] = []
        self.packets: list[Any] = []

    def add(self, rgb: Frame) -> None:
        frame = _reformatted(rgb, self.context.pix_fmt)
        frame.pict_type = 0  # the encoder's choice, not the source's
        self.pts.append(frame.pts)
        self._encode(frame)

    def finished(self) -> dict[str, Tensor]:
        """Packets in order of decoding, with their times."""
        self._encode(None)
        pts = [packet.pts for packet in self.packets]
        if sorted(pts) != self.pts:
            raise FairweatherError(
                f"{self.context.name} gave {len(pts)} packets for {len(self.pts)} frames, or other times; report it"
            )
        return {
            "data": torch.frombuffer(bytearray().join(bytes(x) for x in self.packets), dtype=torch.uint8),
            "sizes": torch.tensor([packet.size for packet in self.packets]),
            "keys": torch.tensor([packet.is_keyframe for packet in self.packets]),
            "pts": torch.tensor(pts),
        }

    def _encode(self, frame: Frame | None) -> None:
        try:
            self.packets += self.context.encode(frame)
        except _av().FFmpegError as error:
            size = f"{self.context.width}x{self.context.height}"
            raise PictureError(
                f"{self.context.name} cannot encode {size} pixels ({error.strerror}); choose another encoder"
            ) from None


class _Parts:
    """The folder of segments beside a result. Each has a state beside it, with which the next one goes on."""

    def __init__(self, target: Path, key: str, *, resume: bool) -> None:
        self.folder = target.with_name(f".{target.name}.fairweather-parts")
        self.key = key
        self.count = 0
        while resume and self._key_of(self._file(self.count, "segment")) == key:
            self.count += 1
        if self.count and self._key_of(self._file(self.count - 1, "state")) != key:
            self.count = 0
        if not self.count:  # of another source, model or options
            self.remove()

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:05}.{kind}.safetensors"

    @staticmethod
    def _key_of(path: Path) -> str | None:
        try:
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("key")
        except (SafetensorError, OSError):
            return None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """After the last segment; None if there is none."""
        if not self.count:
            return None
        with safe_open(self._file(self.count - 1, "state"), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118

    def add(self, segment: dict[str, Tensor], tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._write("state", tensors, {"key": self.key, "state": json.dumps(state)})
        self._write("segment", segment, {"key": self.key})
        self.count += 1
        if self.count > 1:  # with frames in it, it is not small
            self._file(self.count - 2, "state").unlink(missing_ok=True)

    def _write(self, kind: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        with written_whole(self._file(self.count, kind)) as part:
            save_file({name: x.contiguous() for name, x in tensors.items()}, part, metadata)

    def pts(self) -> list[int]:
        """Of all packets, in order of decoding."""
        found: list[int] = []
        for number in range(self.count):
            with safe_open(self._file(number, "segment"), framework="pt") as file:
                found += file.get_tensor("pts").tolist()
        return found

    def packets(self) -> Iterator[tuple[bytes, bool]]:
        """All packets, in order of decoding, and whether each is a key frame."""
        for number in range(self.count):
            with safe_open(self._file(number, "segment"), framework="pt") as file:
                data, sizes, keys = (file.get_tensor(name) for name in ("data", "sizes", "keys"))
            encoded, end = data.numpy().tobytes(), 0
            for size, key in zip(sizes.tolist(), keys.tolist(), strict=True):
                end += size
                yield encoded[end - size : end], key

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def decoding_times(pts: Sequence[int]) -> list[int]:
    """When packets are decoded, given when they are shown: in their order, growing, and never after being shown.

    Those of each segment's encoder would run into those of the segment before.

    >>> decoding_times([0, 40, 20, 30, 60, 50])
    [-20, 0, 20, 30, 40, 50]
    """
    shown = sorted(pts)
    rank = {at: place for place, at in enumerate(shown)}
    depth = max(place - rank[at] for place, at in enumerate(pts))
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return [shown[0] - back * step for back in range(depth, 0, -1)] + shown[: len(shown) - depth]


def _assembled(
    seen: Look, target: Path, parts: _Parts, *, encoder: str, crf: int | None, last: int
) -> list[str]:
    """Write the result: the segments, and all other streams of the source. Returns what could not be kept."""
    try:
        lost = _written(seen, target, parts, encoder=encoder, crf=crf, last=last)
    except PictureError:  # data streams are of all kinds, and some muxers find out late
        lost = _written(seen, target, parts, encoder=encoder, crf=crf, last=last, but=("data", "attachment"))
    suffix = target.suffix.lower()
    said = [f"not in the result, since {suffix} does not take it: {what}" for what in lost]
    if CONTAINERS[suffix][0] in ("matroska", "webm"):
        rounded = any((pts * seen.time_base * 1000).denominator > 1 for pts in seen.pts)
        said += [f"the times are rounded to milliseconds: {suffix} holds no finer ones"] if rounded else []
    return said


def _written(
    seen: Look,
    target: Path,
    parts: _Parts,
    *,
    encoder: str,
    crf: int | None,
    last: int,
    but: Sequence[str] = (),
) -> list[str]:
    """`_assembled` without streams of some types; returns the names of what is not in it."""
    av, container, lost = _av(), CONTAINERS[target.suffix.lower()][0], []
    options = {}
    if container in ("mp4", "mov") and seen.pts[0]:  # else a late start is rounded to milliseconds
        options["movie_timescale"] = str(seen.time_base.denominator)
    with _opened(seen.path) as source, written_whole(target) as part:
        main, video, copies = _main(source, seen.path), None, {}
        try:
            with av.open(f"file:{part}", "w", format=container, container_options=options) as out:
                for stream in source.streams:
                    if stream.index == main.index:
                        made = video = out.add_stream(encoder, rate=seen.rate, time_base=seen.time_base)
                    elif _written_anew(stream, source):
                        continue
                    elif stream.type not in but and _takes(container, stream):
                        made = copies[stream.index] = out.add_stream_from_template(stream, opaque=True)
                    else:
                        lost.append(_name(stream))
                        continue
                    made.metadata.update(_metadata(stream, but=OF_THE_CODED if made is video else ()))
                    made.disposition = stream.disposition
                assert video is not None
                _set_up(video.codec_context, seen, encoder=encoder, crf=crf)
                if encoder == "libx265" and container != "matroska":
                    video.codec_context.codec_tag = "hvc1"  # which Apple's players ask for
                if seen.matrix:
                    video.set_display_matrix(seen.matrix)
                out.metadata.update(_metadata(source, but=OF_THE_CONTAINER))
                if chapters := source.chapters():
                    out.set_chapters(chapters)
                out.start_encoding()
                dropped = _interleave(out, _encoded(parts, video, seen.time_base, last), source, copies)
                lost += [f"{count} packets of {name}" for name, count in dropped.items()]
        except av.FFmpegError as error:
            raise PictureError(f"{target}: cannot be written ({error.strerror})") from None
    return lost


OF_THE_CONTAINER = ("encoder", "major_brand", "minor_version", "compatible_brands")
OF_THE_CODED = ("encoder", "duration", "bps", "number_of_", "_statistics_")
"""Beginnings of metadata that tell of the coded file or stream and no longer hold."""


def _metadata(of: Any, *, but: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in of.metadata.items() if not name.lower().startswith(but)}


def _written_anew(stream: Any, source: Any) -> bool:
    """Whether a stream holds a time code or the titles of chapters, which .mp4 and .mov make of the metadata."""
    chapters = stream.type == "data" and stream.name == "bin_data" and bool(source.chapters())
    return chapters or (stream.type == "data" and "timecode" in stream.metadata)


def _takes(container: str, stream: Any) -> bool:
    """Whether a container takes a stream as it is: by trying, in memory."""
    av, taken = _av(), False
    with (
        contextlib.suppress(av.FFmpegError, ValueError),
        av.open(io.BytesIO(), "w", format=container) as probe,
    ):
        probe.add_stream_from_template(stream, opaque=True)
        probe.start_encoding()
        taken = True
    return taken


def _encoded(parts: _Parts, stream: Any, time_base: Fraction, last: int) -> Iterator[Any]:
    """The packets of the video, timed. `last` is the duration of the last frame."""
    pts = parts.pts()
    shown = sorted(pts)
    until = dict(itertools.pairwise([*shown, shown[-1] + max(1, last)]))
    for (data, key), at, dts in zip(parts.packets(), pts, decoding_times(pts), strict=True):
        packet = _av().Packet(data)
        packet.stream, packet.time_base = stream, time_base
        packet.pts, packet.dts, packet.duration, packet.is_keyframe = at, dts, until[at] - at, key
        yield packet


def _interleave(out: Any, encoded: Iterator[Any], source: Any, copies: Mapping[int, Any]) -> dict[str, int]:
    """Write the packets of the video and those to be copied, by time; returns how many of the latter were refused."""

    def when(packet: Any) -> Fraction:
        at = packet.pts if packet.dts is None else packet.dts
        return Fraction(at or 0) * Fraction(packet.time_base)  # a cover picture has no time

    refused: dict[str, int] = {}
    streams = [source.streams[index] for index, copy in copies.items() if copy.type != "attachment"]
    others = _packets(source, streams) if streams else iter(())
    other = next(others, None)
    for packet in itertools.chain(encoded, [None]):
        while other is not None and (packet is None or when(other) <= when(packet)):
            name = _name(other.stream)
            other.stream = copies[other.stream_index]
            try:
                out.mux(other)
            except _av().error.ArgumentError:  # as for times that run backwards
                refused[name] = refused.get(name, 0) + 1
            other = next(others, None)
        if packet is not None:
            out.mux(packet)
    return refused


def _name(stream: Any) -> str:
    return f"{stream.type} stream {stream.index} ({getattr(stream, 'name', None) or 'of no known kind'})"


# Restoring ---------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Where a run has come to: all that the next frame depends on."""

    held: _Held
    infrared: _Infrared | None
    steadied: Steadied = field(default_factory=Steadied)
    frames: int = 0
    last: int = 0
    """Duration of the last frame, in units of its time base."""
    counts: dict[str, int] = field(default_factory=lambda: {"fused": 0, "held": 0, "alone": 0})
    blank: int = 0
    """Frames whose infrared partner holds one value only."""
    share: float = 0.0
    """Of infrared, summed over the frames with any."""
    warnings: dict[str, None] = field(default_factory=dict)

    def next(
        self, restorer: AnyRestorer, degraded: _Picture, time: float, *, strength: float, fusion: float
    ) -> _Picture:
        """A frame restored, in line with those before."""
        heat = None
        if self.infrared is not None:
            heat, how = self.infrared.at(time)
            self.counts[how] += 1
            self.blank += self.infrared.blank and self.infrared.partner(time) == self.infrared.pts
        restored, infrared = degraded, None
        for result in _results(restorer, degraded, heat, self.held, strength=strength, fusion=fusion):
            restored, infrared = result.image, result.infrared
            self.warnings |= dict.fromkeys(result.warnings)
            if result.infrared_share is not None:
                self.share += float(result.infrared_share.mean())
        if isinstance(restorer, AutoRestorer) and strength != 1:
            restored = torch.lerp(degraded, restored, strength).clamp(0, 1)
        device = restorer.device
        infrared = None if infrared is None else infrared.to(device)
        return self.steadied.next(degraded.to(device), restored.to(device), time, infrared).cpu()

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As tensors, and as what JSON can hold."""
        steadied, infrared = self.steadied, self.infrared
        tensors = {name: getattr(steadied, name) for name in _LAST}
        state: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        state |= {"held": self.held._asdict(), "warnings": [*self.warnings]}
        state["steadied"] = {"time": steadied.time, "changes": steadied.changes, "area": steadied.area}
        if infrared is not None:
            tensors["heat"] = infrared.heat
            state["infrared"] = {name: getattr(infrared, name) for name in ("pts", "blank", "used", "span")}
        return {name: x.cpu() for name, x in tensors.items() if x is not None}, state

    @classmethod
    def again(cls, tensors: dict[str, Tensor], state: dict[str, Any], infrared: _Infrared | None) -> _Run:
        """The run that was saved."""
        then, held = state["steadied"], state["held"]
        held |= {name: tuple(held[name]) for name in ("steps", "shift", "warnings")}
        if infrared is not None:
            infrared.heat = tensors.get("heat")
            camera = state["infrared"]
            infrared.pts, infrared.blank, infrared.used = (camera[x] for x in ("pts", "blank", "used"))
            infrared.span = tuple(camera["span"])
        return cls(
            held=_Held(**held),
            infrared=infrared,
            steadied=Steadied(
                **{name: tensors.get(name) for name in _LAST},
                time=then["time"],
                changes=tuple(then["changes"]),
                area=then["area"],
            ),
            warnings=dict.fromkeys(state["warnings"]),
            **{name: state[name] for name in _PLAIN},
        )


_PLAIN = ("frames", "last", "counts", "blank", "share")
_LAST = ("degraded", "restored", "infrared")


def _results(
    restorer: AnyRestorer,
    degraded: _Picture,
    heat: Tensor | None,
    held: _Held,
    *,
    strength: float,
    fusion: float,
) -> Iterator[Result]:
    """One frame, step by step, with what holds for all of them."""
    if isinstance(restorer, AutoRestorer):
        for task in held.steps:
            result = restorer.restorer(task).restore(degraded, tile=held.tile, depth=False)
            degraded = result.image
            yield result
    elif isinstance(restorer, NightRestorer) and heat is not None:
        yield restorer.restore(
            degraded, heat, strength=strength, fusion=fusion, shift=held.shift, tile=held.tile
        )
    else:
        cleaner = restorer.cleaner if isinstance(restorer, NightRestorer) else restorer
        yield cleaner.restore(degraded, strength=strength, tile=held.tile, depth=False)


def restore_video(
    source: Path | str,
    target: Path | str,
    restorer: AnyRestorer,
    *,
    infrared: Path | str | None = None,
    infrared_offset: float = 0.0,
    strength: float = 1.0,
    fusion: float = 1.0,
    max_shift: float = 0.05,
    shift: tuple[float, float] | None = None,
    tile: int | Literal["auto"] = "auto",
    encoder: str | None = None,
    crf: int | None = None,
    segment_seconds: float = SEGMENT_SECONDS,
    resume: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> VideoResult:
    """Restore a video, and with a `NightRestorer` fuse it with an infrared one.

    A frame goes with the infrared frame nearest in time, up to half a frame interval of the slower camera away. Where
    there is none, the last one stands in for HOLD seconds; after that frames are cleaned alone, and counted. The shift
    of the infrared picture is the median of those of SAMPLES pairs spread over the video. An `AutoRestorer` judges as
    many frames, and does for all what their mean asks for.

    Args:
        source, infrared: videos; never changed.
        target: .mp4, .m4v, .mov, .mkv or .webm; written whole or not at all, over what was there.
        infrared_offset: seconds to add to the times of the infrared video, if its clock is another.
        strength, fusion, max_shift, shift, tile: as of the restorers.
        encoder: one of ENCODERS, see above; None takes the usual one of the container.
        crf: quality, small is good; None takes the encoder's usual one.
        segment_seconds: how much of the video an interruption loses at most.
        resume: go on after the segments of an earlier run of the same source, model and options; False begins anew.
        progress: called with (frames done, frames in all).

    Raises:
        PictureError: if a video cannot be read, the result cannot be written, or no frame has an infrared partner.
        UsageError: for options that do not fit. MissingExtraError: PyAV is not installed.
        Others as of the restorer. Whatever is raised, finished segments stay for the next run.
    """
    start = time.perf_counter()
    check_strength(strength)
    check_fusion(fusion)
    check_tile(tile)
    if not segment_seconds > 0:
        raise UsageError(f"segment_seconds is {segment_seconds:g}, expected more than 0")
    if infrared is not None and not isinstance(restorer, NightRestorer):
        raise UsageError(f"an infrared video goes with night; {restorer.task} takes none")
    source, target = Path(source), Path(target)
    inputs = [Path(file) for file in (source, infrared) if file is not None]
    if target.resolve() in [file.resolve() for file in inputs]:
        raise UsageError(f"{target} would overwrite an input; choose another output")
    encoder, crf = chosen_encoder(target, encoder, crf)

    seen, *others = (look(file, max_megapixels=max_megapixels) for file in inputs)
    warnings = [*seen.warnings, *_bits_lost(encoder, seen)]
    pairs: _Infrared | None = None
    if others:
        within = 0.5 * max(seen.interval, others[0].interval) + 1e-4
        pairs = _Infrared(others[0], offset=infrared_offset, within=within)
        warnings += pairs.compared(seen)
    elif isinstance(restorer, NightRestorer):
        warnings.append("no infrared video: cleaned, not fused")

    options = (strength, fusion, max_shift, shift, tile, infrared_offset, encoder, crf, segment_seconds)
    parts = _Parts(target, _key(restorer, inputs, options), resume=resume)
    stored = parts.state()
    if stored:
        run = _Run.again(*stored, pairs)
    else:
        held = _decided(restorer, seen, pairs, max_shift=max_shift, shift=shift, strength=strength, tile=tile)
        run = _Run(held, pairs)
    resumed, total = run.frames, len(seen.pts)
    if progress and resumed:
        progress(resumed, max(total, resumed))

    reader, segment = _Reader(source), None
    for frame in itertools.islice(reader.frames(), resumed, None):
        at = float(frame.pts * seen.time_base)
        if (frame.width, frame.height) != (seen.width, seen.height):
            raise PictureError(
                f"{source}: the picture changes from {seen.width}x{seen.height} to {frame.width}x{frame.height} "
                f"pixels at {at:.2f} s; split the video there"
            )
        if segment and at - segment.began >= segment_seconds:
            parts.add(segment.finished(), *run.saved())
            segment = None
        segment = segment or _Segment(seen, encoder=encoder, crf=crf, began=at)
        rgb = _rgb(frame)
        degraded = seen.turn.upright(_pixels(rgb))
        restored = run.next(restorer, degraded, at, strength=strength, fusion=fusion)
        for plane, values in zip(_planes(rgb), seen.turn.back(restored), strict=True):
            plane[:] = values.numpy()
        segment.add(rgb)
        run.frames, run.last = run.frames + 1, frame.duration
        if progress:
            progress(run.frames, max(total, run.frames))
    if segment:
        parts.add(segment.finished(), *run.saved())
    warnings += [*run.held.warnings, *run.warnings, *reader.warnings()]
    warnings += _assembled(seen, target, parts, encoder=encoder, crf=crf, last=run.last)
    parts.remove()

    if pairs is not None:
        warnings += [*pairs.reader.warnings(), *_unpaired(run)]
    flicker = run.steadied.flicker
    if flicker is not None and flicker > FLICKER:
        warnings.append(
            f"flickers: static areas change {flicker:.2f} times as much as those of the input, before encoding"
        )
    seconds = time.perf_counter() - start
    paired = run.counts["fused"] + run.counts["held"]
    return VideoResult(
        frames=run.frames,
        resumed=resumed,
        duration=seen.times[-1] - seen.times[0] + seen.interval,
        seconds=seconds,
        fps=(run.frames - resumed) / seconds,
        flicker=flicker,
        width=seen.width,
        height=seen.height,
        encoder=encoder,
        crf=crf,
        licence=ENCODERS[encoder].licence,
        fused=run.counts["fused"],
        held=run.counts["held"],
        alone=run.counts["alone"],
        infrared_share=run.share / paired if paired else None,
        findings=run.held.findings,
        steps=run.held.steps,
        model=restorer.model,
        task=restorer.task,
        weights_sha256=restorer.sha256,
        device=restorer.device,
        precision=restorer.precision,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _key(restorer: AnyRestorer, inputs: Sequence[Path], options: Sequence[object]) -> str:
    """What segments of one run have in common: a digest of all that the frames depend on."""
    cleaner = restorer.cleaner if isinstance(restorer, NightRestorer) else restorer
    of_what = [
        __version__,
        *((worker.task, worker.model, worker.sha256, worker.precision) for worker in (restorer, cleaner)),
        *(sha256(file) for file in inputs),
        options,
    ]
    return hashlib.sha256(json.dumps(of_what).encode()).hexdigest()


def _bits_lost(encoder: str, seen: Look) -> list[str]:
    written = 10 if _pixel_format(encoder, seen).endswith("10le") else 8
    return [f"{encoder} writes {written} bits of the {seen.bits} that came"] if written < seen.bits else []


def _unpaired(run: _Run) -> list[str]:
    held, alone = run.counts["held"], run.counts["alone"]
    missing = held + alone - run.blank
    reasons = [f"{missing} of {run.frames} frames have no infrared partner"] if missing else []
    if run.blank:
        reasons.append(f"of {run.blank} of {run.frames} frames the infrared partner holds one value only")
    if not reasons:
        return []
    said = f"{held} were fused with the last one before, {alone} cleaned alone"
    return [f"{' and '.join(reasons)}: {said}"]
