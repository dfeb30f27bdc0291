"""Restoring a video frame by frame, in a way that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairweather import __version__
from fairweather.auto import AutoRestorer, steps_for
from fairweather.errors import PictureError, UsageError
from fairweather.images import MAX_MEGAPIXELS
from fairweather.loading import AnyRestorer
from fairweather.night import NightRestorer, check_fusion
from fairweather.pipeline import Origin, Result, check_strength, check_tile, origin_of, told_model, told_place
from fairweather.tiling import SMALLEST
from fairweather.video.assembling import assembled
from fairweather.video.flicker import Steadied
from fairweather.video.formats import ENCODERS, chosen_encoder
from fairweather.video.infrared import InfraredFrames, shift_of
from fairweather.video.reading import Look, Pixels, Reader, frames_at, look, pixels, planes, to_rgb
from fairweather.video.segments import Parts, Segment, pixel_format
from fairweather.weights import sha256

SEGMENT_SECONDS = 10.0

SAMPLES = 5
"""Frames, spread evenly over the video, on which is decided what then holds for all."""

FLICKER = 1.05
"""From this on flicker is warned of."""


@dataclass(frozen=True, kw_only=True)
class VideoResult(Origin):
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
    warnings: tuple[str, ...]

    def told(self) -> str:
        """One line for a person, without the names of the files."""
        infrared = f"{self.fused} fused, {self.held} held, {self.alone} alone; " if self.fused else ""
        flicker = "" if self.flicker is None else f", flicker {self.flicker:.2f} before encoding"
        quality = "lossless" if self.crf is None else f"crf {self.crf}"
        resumed = f" after {self.resumed} of an earlier run" if self.resumed else ""
        model, where = told_model(self.model, self.ensemble), told_place(self.device, self.backend)
        return (
            f"{self.frames} frames of {self.duration:.1f} s{flicker}; {infrared}{model} on {where}, "
            f"{self.precision}, {self.fps:.1f} frames/s{resumed}; {self.encoder} ({self.licence}) {quality}"
        )


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
    infrared: InfraredFrames | None,
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
        frames = frames_at(seen.path, chosen)
        pictures = {pts: seen.turn.upright(pixels(to_rgb(frame))) for pts, frame in frames.items()}

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
    found, warnings = shift_of(infrared, clean, max_shift=max_shift, known=shift)
    return held._replace(shift=found, warnings=warnings)


@dataclass
class _Run:
    """Where a run has come to: all that the next frame depends on."""

    held: _Held
    infrared: InfraredFrames | None
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
        self, restorer: AnyRestorer, degraded: Pixels, time: float, *, strength: float, fusion: float
    ) -> Pixels:
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
    def again(
        cls, tensors: dict[str, Tensor], state: dict[str, Any], infrared: InfraredFrames | None
    ) -> _Run:
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
    degraded: Pixels,
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
        encoder: one of `formats.ENCODERS`; None takes the usual one of the container.
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
    pairs: InfraredFrames | None = None
    if others:
        within = 0.5 * max(seen.interval, others[0].interval) + 1e-4
        pairs = InfraredFrames(others[0], offset=infrared_offset, within=within)
        warnings += pairs.compared(seen)
    elif isinstance(restorer, NightRestorer):
        warnings.append("no infrared video: cleaned, not fused")

    options = (strength, fusion, max_shift, shift, tile, infrared_offset, encoder, crf, segment_seconds)
    parts = Parts(target, _key(restorer, inputs, options), resume=resume)
    stored = parts.state()
    if stored:
        run = _Run.again(*stored, pairs)
    else:
        held = _decided(restorer, seen, pairs, max_shift=max_shift, shift=shift, strength=strength, tile=tile)
        run = _Run(held, pairs)
    resumed, total = run.frames, len(seen.pts)
    if progress and resumed:
        progress(resumed, max(total, resumed))

    reader, segment = Reader(source), None
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
        segment = segment or Segment(seen, encoder=encoder, crf=crf, began=at)
        rgb = to_rgb(frame)
        degraded = seen.turn.upright(pixels(rgb))
        restored = run.next(restorer, degraded, at, strength=strength, fusion=fusion)
        for plane, values in zip(planes(rgb), seen.turn.back(restored), strict=True):
            plane[:] = values.numpy()
        segment.add(rgb)
        run.frames, run.last = run.frames + 1, frame.duration
        if progress:
            progress(run.frames, max(total, run.frames))
    if segment:
        parts.add(segment.finished(), *run.saved())
    warnings += [*run.held.warnings, *run.warnings, *reader.warnings()]
    warnings += assembled(seen, target, parts, encoder=encoder, crf=crf, last=run.last)
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
        **origin_of(restorer),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _key(restorer: AnyRestorer, inputs: Sequence[Path], options: Sequence[object]) -> str:
    """What segments of one run have in common: a digest of all that the frames depend on."""
    cleaner = restorer.cleaner if isinstance(restorer, NightRestorer) else restorer
    of_what = [
        __version__,
        restorer.ensemble,
        restorer.backend,
        *((worker.task, worker.model, worker.sha256, worker.precision) for worker in (restorer, cleaner)),
        *(sha256(file) for file in inputs),
        options,
    ]
    return hashlib.sha256(json.dumps(of_what).encode()).hexdigest()


def _bits_lost(encoder: str, seen: Look) -> list[str]:
    written = 10 if pixel_format(encoder, seen).endswith("10le") else 8
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
