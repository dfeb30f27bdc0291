"""The infrared frames that go with visible ones: by time, brought into line, their raw counts stretched evenly."""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fairweather.errors import PictureError
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
from fairweather.video.reading import Frame, Look, Reader, Turn, frames_at, pixels, to_rgb

HOLD = 0.2
"""Seconds for which the last infrared frame stands in for a missing one."""

STRETCH_SECONDS = 10.0
"""Time over which the stretch of raw infrared counts follows them."""

LOOKED_AT = 2**16
"""Pixels of an infrared frame that tell where its raw counts lie."""


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
    return turn.upright(pixels(to_rgb(frame)).mean(0, keepdim=True)), False


class InfraredFrames:
    """The infrared frames that go with visible ones, by time."""

    def __init__(self, seen: Look, *, offset: float, within: float) -> None:
        self.seen, self.within = seen, within
        self.span = UNSTRETCHED
        self.times = [time + offset for time in seen.times]
        self.reader = Reader(seen.path)
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


def shift_of(
    infrared: InfraredFrames,
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
    for pts, frame in frames_at(seen.path, sorted(clean)).items():
        if is_coloured(pixels(to_rgb(frame))):
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
