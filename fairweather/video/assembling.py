"""Putting segments together to a whole video, with all else of its source."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from fairweather.errors import PictureError
from fairweather.files import written_whole
from fairweather.video.formats import CONTAINERS, pyav
from fairweather.video.reading import Look, main_stream, opened, readable_packets
from fairweather.video.segments import Parts, set_up


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


def assembled(
    seen: Look, target: Path, parts: Parts, *, encoder: str, crf: int | None, last: int
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
    parts: Parts,
    *,
    encoder: str,
    crf: int | None,
    last: int,
    but: Sequence[str] = (),
) -> list[str]:
    """`assembled` without streams of some types; returns the names of what is not in it."""
    av, container, lost = pyav(), CONTAINERS[target.suffix.lower()][0], []
    options = {}
    if container in ("mp4", "mov") and seen.pts[0]:  # else a late start is rounded to milliseconds
        options["movie_timescale"] = str(seen.time_base.denominator)
    with opened(seen.path) as source, written_whole(target) as part:
        main, video, copies = main_stream(source, seen.path), None, {}
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
                set_up(video.codec_context, seen, encoder=encoder, crf=crf)
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
    av, taken = pyav(), False
    with (
        contextlib.suppress(av.FFmpegError, ValueError),
        av.open(io.BytesIO(), "w", format=container) as probe,
    ):
        probe.add_stream_from_template(stream, opaque=True)
        probe.start_encoding()
        taken = True
    return taken


def _encoded(parts: Parts, stream: Any, time_base: Fraction, last: int) -> Iterator[Any]:
    """The packets of the video, timed. `last` is the duration of the last frame."""
    pts = parts.pts()
    shown = sorted(pts)
    until = dict(itertools.pairwise([*shown, shown[-1] + max(1, last)]))
    for (data, key), at, dts in zip(parts.packets(), pts, decoding_times(pts), strict=True):
        packet = pyav().Packet(data)
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
    others = readable_packets(source, streams) if streams else iter(())
    other = next(others, None)
    for packet in itertools.chain(encoded, [None]):
        while other is not None and (packet is None or when(other) <= when(packet)):
            name = _name(other.stream)
            other.stream = copies[other.stream_index]
            try:
                out.mux(other)
            except pyav().error.ArgumentError:  # as for times that run backwards
                refused[name] = refused.get(name, 0) + 1
            other = next(others, None)
        if packet is not None:
            out.mux(packet)
    return refused


def _name(stream: Any) -> str:
    return f"{stream.type} stream {stream.index} ({getattr(stream, 'name', None) or 'of no known kind'})"
