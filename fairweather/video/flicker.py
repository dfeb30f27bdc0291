"""No flicker added: what is static in the input stays so in the result, and how far that holds is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from fairweather.infrared import (
    LEVEL,
)
from fairweather.video.reading import Pixels

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


def static_areas(before: Pixels, after: Pixels) -> Bool[Tensor, "h w"] | None:
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
        degraded: Pixels,
        restored: Pixels,
        time: float,
        infrared: Float32[Tensor, "1 h w"] | None = None,
    ) -> Pixels:
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


def _seen(picture: Pixels, infrared: Float32[Tensor, "1 h w"] | None) -> Float32[Tensor, "h w"]:
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
