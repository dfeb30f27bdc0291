"""An infrared picture brought into line with a visible one: read, checked, resized, moved.

    read_infrared   any kind of picture -> grey in [0, 1]; raw counts are stretched
    align           visible, infrared   -> the infrared picture at the size and place of the visible one

Heat and light agree on where edges run, hardly ever on which side of them is bright. So the two are compared by their
gradients with the angle doubled, which makes opposite directions the same (as in the orientation correlation of
Fitch et al., BMVC 2002), over all shifts within reach (OpenCV's normalised correlation). For the 181 training pairs
of RoadScene, one picture shifted by up to 20 pixels, this finds the shift within a pixel for 98 of 100; OpenCV's
phase correlation and its ECC, of gradient magnitudes, for 72 and 71. Turns and scales are not corrected: 1 degree and
2 % do no harm to the measurement, 5 % leaves it unclear for half of the pairs.

All that is wrong with an infrared picture is a PictureError: who catches it can still clean the visible one. Of a
camera that saw nothing it is a BlankInfraredError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from fairweather.errors import MissingExtraError, PictureError, UsageError, one_line
from fairweather.images import Picture
from fairweather.models.fusionnet import rgb_to_ycrcb
from fairweather.pipeline import Image, to_picture

_Plane = Float32[np.ndarray, "h w"]

LEVEL = 1 / 255
COLOUR = 10 * LEVEL
"""Channels may differ by this much, as JPEG makes them, and in one pixel of a hundred by more (a coloured mark)."""
RAW_RANGE = 0.25
"""A 16-bit picture that occupies no more than this holds raw counts: 14 bits of 16 are a quarter."""
RAW_NOISE = 16 / 65535
"""Raw counts that differ by less show only the noise of the sensor."""
UNSTRETCHED = (0.0, 1.0)
MAX_STRETCH = 1.03
"""Ratio of the aspect ratios up to which one picture may be stretched to the size of the other."""

WORKING_SIDE = 512
"""Longest side of the copies in which the shift is measured, to 0.13 of their pixels at the median."""
BLUR = 1.5
"""Sigma, in pixels of the copies; 1 and 2 find the shift within a pixel for 97 and 96 of 100 pairs."""
REACH = 0.1
"""Shifts are looked for up to this share of the longer side, so that one past the permitted is recognised."""
FAR = 0.25
"""And up to this where none stood out, to tell how far off the picture lies; less of it is compared then."""
SETTLED = 0.005
"""Share of the longer side up to which the pictures count as in line, as 96 of 100 of RoadScene's pairs do."""
CLEAR = 8.0
"""How much better the best shift must agree than all others, and than none, times the square root of the number of
pixels compared. For unrelated pictures the lead is at most 5 in 99 of 100 cases, at any size; for related ones at
least 13 in 95."""
NEAR = 6
"""Pixels of the copies around the best shift that are that shift still, not others."""


class BlankInfraredError(PictureError):
    """An infrared picture of a single value."""


def read_infrared(image: Image) -> Float32[Tensor, "1 h w"]:
    """A grey picture in [0, 1] of whatever holds an infrared one.

    8 bits stay as they are. So do 16 bits, unless they hold raw counts of the sensor: where the middle 99 % of the
    values occupy a quarter of the scale or less (14 bits always do), these are stretched to the whole. Three equal
    channels are grey. Floating point values are taken to be scaled already, and alpha is dropped.

    Args:
        image: a path, bytes of a file, PIL image, Picture, array (h, w), (1, h, w) or (h, w, c), or tensor (h, w),
            (1, h, w) or (3, h, w) in [0, 1].

    Raises:
        PictureError: no picture, or one in colours. BlankInfraredError: one of a single value.
        UsageError: an object of another kind, or of another shape or range.

    >>> counts = np.array([[7000, 7250], [7500, 8000]], np.uint16)
    >>> read_infrared(counts)[0]
    tensor([[0.0000, 0.2491],
            [0.5019, 1.0000]])
    """
    picture = _to_picture(image)
    name = one_line(image) if isinstance(image, str | Path) else "the infrared picture"
    if is_coloured(picture.pixels):
        raise PictureError(f"{name}: is in colours; export the infrared picture in greys (white-hot)")

    grey = picture.pixels.mean(0, keepdim=True).clamp(0, 1) if picture.mode == "rgb" else picture.pixels[:1]
    scaled = isinstance(image, Tensor) or (isinstance(image, np.ndarray) and image.dtype.kind == "f")
    span = occupied(grey, counts=picture.bits == 16 and not scaled)
    if span is None:
        raise BlankInfraredError(f"{name}: is the same value everywhere; check the infrared camera")
    span = to_stretch(span)
    return grey.contiguous() if span == UNSTRETCHED else stretched(grey, span)


def is_coloured(pixels: Float32[Tensor, "3 h w"]) -> bool:
    """Whether a picture has colours of its own, and not grey ones that were compressed."""
    return bool((pixels.amax(0) - pixels.amin(0) > COLOUR).float().mean() > 0.01)


def occupied(
    grey: Float32[Tensor, "1 h w"], *, counts: bool, at_most: int = 2**20
) -> tuple[float, float] | None:
    """Where the middle 99 % of raw counts lie, and UNSTRETCHED for other pictures; None if it is one value everywhere.

    Args:
        counts: whether the picture may hold raw counts. at_most: pixels that are looked at, spread evenly.
    """
    low, high = (float(x) for x in grey.aminmax())
    if counts:
        sample = grey.flatten()[:: 1 + grey.numel() // at_most]
        low, high = sample.quantile(torch.tensor([0.005, 0.995])).tolist()
    if high - low < (RAW_NOISE if counts else LEVEL):
        return None
    return (low, high) if counts else UNSTRETCHED


def to_stretch(span: tuple[float, float]) -> tuple[float, float]:
    """What becomes black and white, of what is occupied."""
    return span if span[1] - span[0] <= RAW_RANGE else UNSTRETCHED


def stretched(grey: Float32[Tensor, "1 h w"], span: tuple[float, float]) -> Float32[Tensor, "1 h w"]:
    """A picture in which the ends of a span are black and white."""
    low, high = span
    return ((grey - low) / (high - low)).clamp_(0, 1)


def _to_picture(image: Image) -> Picture:
    """`to_picture`, which also takes one plane as (h, w) or (1, h, w)."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and len(image) == 1 and image.shape[2] > 4:
        return to_picture(image[0])
    if isinstance(image, Tensor) and (image.ndim == 2 or (image.ndim == 3 and len(image) == 1)):
        return to_picture(image.expand(3, *image.shape[-2:]))
    return to_picture(image)


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """An infrared picture at the size and place of a visible one."""

    infrared: Float32[Tensor, "1 h w"]
    """In [0, 1]; where the infrared picture does not reach, the luma of the visible one: fused with itself that stays
    what it is, while an edge drawn out would be heat that nobody saw."""
    valid: float
    """Share of the visible picture that the infrared one covers; 1 if it was not moved."""
    shift: tuple[float, float]
    """How far right and down it lay, in pixels of the visible picture, and was moved back; (0, 0) if it was not."""
    agreement: float
    """Correlation of the edges of both as they are now, at most 1: about 0.3 for a pair, seldom above 0.1 for
    pictures of different scenes; 0 if the visible picture has no edges."""
    fits: bool = True
    """False if the edges of both agree clearly at no shift, 0 included: as far as one can see, two different views."""
    warnings: tuple[str, ...] = ()


@torch.no_grad()
def align(
    visible: Float32[Tensor, "3 h w"],
    infrared: Float32[Tensor, "1 y x"],
    *,
    max_shift: float = 0.05,
    shift: tuple[float, float] | None = None,
) -> Aligned:
    """Bring an infrared picture to the size and, if it lies off clearly, to the place of a visible one.

    It is moved only where that makes the edges of the two agree better by a clear margin; otherwise it stays. Of
    RoadScene's training pairs, seen from every sixth, all fit, also with the visible picture at 20 % of its light in
    noise, and 30 of 31 at 3 %; of pairs put together from two scenes none does.

    Args:
        visible: RGB in [0, 1]; the cleaned picture if there is one, since streaks of rain hide and mimic edges.
        infrared: what `read_infrared` gave, of any size, but of the aspect ratio of the visible one within 3 %.
        max_shift: largest shift that is corrected, as a share of the longer side of the visible picture.
        shift: how far right and down it lies, in pixels of the visible picture, where that is known, such as from
            other frames of a video; then nothing is measured, and `agreement` is 0.

    Raises:
        PictureError: sizes that cannot match, or a shift past `max_shift`.
        UsageError: a `max_shift` outside 0 to 0.2.
        MissingExtraError: OpenCV is not installed.

    >>> scene = torch.rand(1, 150, 200, generator=torch.Generator().manual_seed(0))
    >>> found = align(scene[:, 20:140, 23:193].expand(3, -1, -1), 1 - scene[:, 20:140, 20:190])
    >>> print(found.warnings[0])
    the infrared picture lay 3.0 pixels to the right and 0.0 up; it was moved back
    """
    if not 0 <= max_shift <= 0.2:
        raise UsageError(f"max_shift is {max_shift:g}, expected 0 to 0.2 (a share of the longer side)")
    height, width = visible.shape[1:]
    check_shape(height, width, infrared)

    luma = rgb_to_ycrcb(visible[None])[0, :1]
    heat = _resized(infrared[0].cpu().numpy(), height, width).clip(0, 1)
    as_it_is = torch.from_numpy(heat)[None].to(luma)
    if shift == (0.0, 0.0):
        return Aligned(infrared=as_it_is, valid=1.0, shift=shift, agreement=0.0)
    if shift is not None:
        placed, valid = _moved_back(luma, heat, *shift)
        return Aligned(infrared=placed, valid=valid, shift=shift, agreement=0.0)
    if luma.max() - luma.min() < LEVEL:
        said = "the visible picture is the same value everywhere; the infrared one is used without a check"
        return Aligned(infrared=as_it_is, valid=1.0, shift=(0.0, 0.0), agreement=0.0, warnings=(said,))

    found = _find(luma[0].cpu().numpy(), heat, reach=max(REACH, 2 * max_shift))
    longer = max(height, width)
    if not found.clear and found.distance > SETTLED * longer:
        far = _find(luma[0].cpu().numpy(), heat, reach=FAR)
        found = far if far.clear else found
    off = found.distance > SETTLED * longer
    lies = told_shift(found.right, found.down)
    if off and found.clear and found.distance > max_shift * longer:
        raise PictureError(
            f"the infrared picture lies {lies}; at most {max_shift * longer:.0f} pixels are corrected: "
            "take a pair of the same view, or register it before"
        )
    if off and found.clear and found.gain >= CLEAR:
        placed, valid = _moved_back(luma, heat, found.right, found.down)
        return Aligned(
            infrared=placed,
            valid=valid,
            shift=(found.right, found.down),
            agreement=found.best,
            warnings=(f"the infrared picture lay {lies}; it was moved back",),
        )
    fits = found.clear or not off
    said = "the infrared picture seems to show another view; if it does not, give its shift (0,0 is none)"
    return Aligned(
        infrared=as_it_is,
        valid=1.0,
        shift=(0.0, 0.0),
        agreement=found.unmoved,
        fits=fits,
        warnings=() if fits else (said,),
    )


def check_shape(height: int, width: int, infrared: Float32[Tensor, "1 y x"]) -> None:
    """Raises PictureError if an infrared picture cannot be brought to the size of a visible one."""
    rows, columns = infrared.shape[1:]
    stretch = (width / height) / (columns / rows)
    if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
        raise PictureError(
            f"the infrared picture has {columns}x{rows} pixels and the visible one {width}x{height}, sizes that "
            "cannot match; crop one to the shape of the other"
        )


def _moved_back(
    luma: Float32[Tensor, "1 h w"], heat: _Plane, right: float, down: float
) -> tuple[Float32[Tensor, "1 h w"], float]:
    """The picture moved left and up by so much, the luma where it does not reach, and the share that it covers."""
    moved, covered = _moved(heat, right, down)
    placed = torch.where(torch.from_numpy(covered).to(luma.device), torch.from_numpy(moved).to(luma), luma)
    return placed, float(covered.mean())


class _Found(NamedTuple):
    right: float
    down: float
    best: float
    """Agreement at this shift."""
    unmoved: float
    """Agreement at none."""
    lead: float
    """How much better the best is than all shifts that are not near it, in units of chance."""
    gain: float
    """How much better it is than none, in the same units."""

    @property
    def distance(self) -> float:
        return math.hypot(self.right, self.down)

    @property
    def clear(self) -> bool:
        return self.lead >= CLEAR


def _find(luma: _Plane, heat: _Plane, *, reach: float) -> _Found:
    """By how much what is seen in `heat` lies off what is seen in `luma`, in pixels."""
    shrink = min(1.0, WORKING_SIDE / max(luma.shape))
    height, width = (max(1, round(side * shrink)) for side in luma.shape)
    where = _edges(_resized(luma, height, width))
    what = _edges(_resized(heat, height, width))
    farthest = round(reach * max(height, width))
    down, right = min(farthest, height // 4), min(farthest, width // 4)
    middle = np.ascontiguousarray(what[down : height - down, right : width - right])
    cv2 = _opencv()
    agreement = cv2.matchTemplate(where, middle, cv2.TM_CCORR_NORMED)

    y, x = (int(at) for at in np.unravel_index(agreement.argmax(), agreement.shape))
    best, unmoved = float(agreement[y, x]), float(agreement[down, right])
    others = np.ones(agreement.shape, bool)
    others[max(0, y - NEAR) : y + NEAR + 1, max(0, x - NEAR) : x + NEAR + 1] = False
    runner_up = agreement.max(initial=-1.0, where=others) if others.any() else best
    units = middle[..., 0].size ** 0.5
    return _Found(
        right=(right - x - _summit(agreement[y], x)) / shrink,
        down=(down - y - _summit(agreement[:, x], y)) / shrink,
        best=best,
        unmoved=unmoved,
        lead=(best - float(runner_up)) * units,
        gain=(best - unmoved) * units,
    )


def _summit(values: Float32[np.ndarray, " n"], at: int) -> float:
    """Where, within half a step of the largest value, the parabola through it and its neighbours has its top."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _edges(plane: _Plane) -> Float32[np.ndarray, "h w 2"]:
    """Gradients as vectors of twice their angle, as long as the square root of theirs: strong edges count for more,
    but do not drown the others."""
    cv2 = _opencv()
    smooth = cv2.GaussianBlur(plane, (0, 0), BLUR)
    x, y = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    squares = np.maximum(x * x + y * y, np.float32(1e-12))
    doubled: Float32[np.ndarray, "h w 2"] = np.dstack((x * x - y * y, 2 * x * y)) / squares[..., None] ** 0.75
    return doubled


def _resized(
    plane: Float32[np.ndarray, "y x"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width}"]:
    cv2 = _opencv()
    kind = cv2.INTER_AREA if height * width < plane.size else cv2.INTER_CUBIC
    resized: _Plane = cv2.resize(plane, (width, height), interpolation=kind)
    return resized


def _moved(heat: _Plane, right: float, down: float) -> tuple[_Plane, Bool[np.ndarray, "h w"]]:
    """The picture moved left and up by so much, and where it is then seen."""
    cv2 = _opencv()
    height, width = heat.shape
    back = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(
        heat,
        back,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = np.arange(width) + right, np.arange(height) + down
    covered = ((y > -0.5) & (y < height - 0.5))[:, None] & ((x > -0.5) & (x < width - 0.5))
    return moved.clip(0, 1), covered


def told_shift(right: float, down: float) -> str:
    """For a person.

    >>> told_shift(3, -0.5)
    '3.0 pixels to the right and 0.5 up'
    """
    sideways = f"{abs(right):.1f} pixels to the {'right' if right >= 0 else 'left'}"
    return f"{sideways} and {abs(down):.1f} {'down' if down > 0 else 'up'}"


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("registering an infrared picture", "night") from None
    return cv2
