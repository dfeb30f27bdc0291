"""Named ways to score a picture, and a table that collects the scores.

A bare "SSIM" means little: one noisy photograph scores 26.8 dB on RGB and 31.7 dB on Y. Every score we print
therefore names its profile, which fixes channel, rounding and border, and what is done to the pictures before they
are restored. Averages are per picture, and scores of two profiles never share a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.errors import DataError, UsageError, unknown_name
from fairweather.metrics.psnr import psnr
from fairweather.metrics.ssim import Border, Window, ssim


@dataclass(frozen=True)
class Profile:
    """How a picture is scored: `score` does it, and `fairweather.evaluate` what comes before."""

    name: str
    channel: Literal["rgb", "y"]
    """All three channels, or the limited-range luma of ITU-R BT.601."""
    quantise: bool
    """Round both pictures to 8 bit first, half to even, as a saved file would be."""
    ssim_border: Border
    description: str
    ssim_shrunk: bool = False
    """Average both pictures down by round(shorter side / 256) before SSIM, as dehazing codes do."""
    ssim_window: Window = "gaussian"
    identical: float = math.inf
    """PSNR of a picture that is the true one; 100 in dehazing codes."""
    crop_multiple: int = 1
    """First of all, crop both pictures around the centre to sides that are multiples of this."""
    clip_noise: bool = False
    """Noise added to clear pictures is clipped to [0, 255] and truncated to 8 bit, not left as it was drawn."""
    score_padding: bool = False
    """Pad both pictures to multiples of `padding`, by reflection to the right and below, and score that too."""

    def padding(self, model: str) -> int:
        """What IRConStyle's loader pads to, whatever the network needs: 64 for MAXIM, else 8; 1 for no padding.

        >>> [PROFILES[name].padding("nafnet") for name in ("irconstyle", "irconstyle_padded")]
        [1, 8]
        """
        return (64 if "maxim" in model else 8) if self.score_padding else 1


PROFILES: dict[str, Profile] = {
    "rgb": Profile("rgb", "rgb", True, "valid", "RGB after rounding to 8 bit; SSIM on whole windows only."),
    "y": Profile("y", "y", True, "valid", "BT.601 luma of the 8-bit picture; SSIM on whole windows only."),
    "nitedr": Profile(
        "nitedr", "y", True, "replicate", "As y, but SSIM continues the border, as NiteDR's code does."
    ),
    "rgb_float": Profile(
        "rgb_float", "rgb", False, "valid", "RGB clamped but not rounded; SSIM on whole windows only."
    ),
    "dehazeformer": Profile(
        "dehazeformer",
        "rgb",
        False,
        "valid",
        "As rgb_float, but SSIM of pictures shrunk to a shorter side of about 256, as DehazeFormer's code does.",
        ssim_shrunk=True,
        identical=100.0,
    ),
    "dehazeformer_8bit": Profile(
        "dehazeformer_8bit",
        "rgb",
        True,
        "valid",
        "As dehazeformer after rounding to 8 bit, as a saved file is.",
        ssim_shrunk=True,
        identical=100.0,
    ),
    "dcmpnet": Profile(
        "dcmpnet",
        "rgb",
        False,
        "zero",
        "As dehazeformer, but SSIM continues the border by black, as DCMPNet's code does: it reads higher.",
        ssim_shrunk=True,
        identical=100.0,
    ),
    "irconstyle": Profile(
        "irconstyle",
        "rgb",
        True,
        "valid",
        "As rgb: what IRConStyle's code computes, without the padding that it scores too.",
    ),
    "irconstyle_padded": Profile(
        "irconstyle_padded",
        "rgb",
        True,
        "valid",
        "As rgb, of pictures padded by reflection to multiples of 8 (MAXIM: 64), padding included: IRConStyle's code.",
        score_padding=True,
    ),
    "irconstyle_padded_y": Profile(
        "irconstyle_padded_y", "y", True, "valid", "As irconstyle_padded, on luma as y.", score_padding=True
    ),
    "all_in_one": Profile(
        "all_in_one",
        "rgb",
        False,
        "valid",
        "As all-in-one papers do: cropped to multiples of 16, noise clipped and cut to 8 bit, RGB clamped but not "
        "rounded, SSIM with a uniform 7x7 window.",
        ssim_window="uniform",
        crop_multiple=16,
        clip_noise=True,
    ),
}


class Scores(NamedTuple):
    """PSNR in dB and SSIM, and the name of the profile that they were taken with."""

    psnr: float
    ssim: float
    profile: str = ""


def luma_bt601(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Luma Y of ITU-R BT.601 in its limited range: 16 (black) to 235 (white), not rounded.

    Y = 16 + 65.481 R + 128.553 G + 24.966 B for R, G, B in [0, 1]; this is MATLAB's rgb2ycbcr.

    >>> luma_bt601(torch.ones(1, 3, 1, 1)).item()
    235.0
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=rgb.dtype, device=rgb.device)
    return 16 + (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


@torch.no_grad()
def score(profile: Profile | str, output: Float[Tensor, "3 h w"], target: Float[Tensor, "3 h w"]) -> Scores:
    """Score one picture against the true one.

    Args:
        profile: a name in PROFILES or a Profile of your own.
        output: RGB; clamped to [0, 1] first, since a network may leave that range.
        target: RGB in [0, 1].

    Returns:
        psnr is inf for identical pictures, or what the profile says; ssim is nan where border is "valid" and a side is
        under 11 pixels, or 7 with the uniform window (after shrinking, where the profile shrinks).

    Raises:
        UsageError: if the profile is unknown or the shapes differ.

    >>> grey = torch.full((3, 16, 16), 0.5)
    >>> score("rgb", grey, grey)
    Scores(psnr=inf, ssim=1.0, profile='rgb')
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise unknown_name("profile", profile, PROFILES)
        profile = PROFILES[profile]
    x, y = _prepared(profile, output), _prepared(profile, target)
    data_range = 255.0 if profile.channel == "y" else 1.0
    decibels = psnr(x, y, data_range).item()
    decibels = profile.identical if decibels == math.inf else decibels
    if profile.ssim_shrunk:
        x, y = _shrunk(x), _shrunk(y)
    similarity = ssim(x, y, data_range, profile.ssim_border, profile.ssim_window).item()
    return Scores(decibels, similarity, profile.name)


def _prepared(profile: Profile, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 c h w"]:
    """The channels that the profile looks at, in float64."""
    # Half precision cannot hold 8-bit steps near white, and rounding in float32 is what the published codes do.
    x = picture[None].to(torch.promote_types(picture.dtype, torch.float32)).clamp(0, 1)  # 1 3 h w
    x = (x * 255).round().double() / 255 if profile.quantise else x.double()
    return luma_bt601(x) if profile.channel == "y" else x


def _shrunk(x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h2 w2"]:
    """Means over about r x r pixels, r = max(1, round(min(h, w) / 256)) with halves to even, to (h // r, w // r)."""
    height, width = x.shape[-2:]
    ratio = max(1, round(min(height, width) / 256))
    return F.adaptive_avg_pool2d(x, (height // ratio, width // ratio))


class Row(NamedTuple):
    """One picture of a ScoreTable; `input_*` are the scores of the degraded picture itself."""

    name: str
    group: str
    psnr: float
    ssim: float
    input_psnr: float
    input_ssim: float


@dataclass(frozen=True)
class Means:
    """Means over `count` pictures; inf or nan in one of them shows here, since nothing is left out."""

    count: int
    psnr: float
    ssim: float
    input_psnr: float
    input_ssim: float


class ScoreTable:
    """Scores of many pictures by one profile, one row each, and what is said about them at the end.

    >>> table = ScoreTable()
    >>> table.add("001.png", "heavy", Scores(30.0, 0.9), Scores(20.0, 0.6))
    >>> table.add("002.png", "heavy", Scores(34.0, 0.7), Scores(22.0, 0.4))
    >>> table.overall().psnr, table.worst(1)[0].name
    (32.0, '001.png')
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.profiles: set[str] = set()

    def add(self, name: str, group: str, output: Scores, degraded: Scores) -> None:
        """Note one picture: the scores of the network's output and of its input.

        Raises:
            UsageError: if they are of another profile than the rows before.
        """
        profiles = self.profiles | {output.profile, degraded.profile}
        if len(profiles) > 1:
            raise UsageError(
                f"scores of the profiles {' and '.join(sorted(profiles))} cannot share a table; fill one for each"
            )
        self.profiles = profiles
        self.rows.append(Row(name, group, *output[:2], *degraded[:2]))

    def overall(self) -> Means:
        """Means over all pictures."""
        return _means(self.rows)

    def groups(self) -> dict[str, Means]:
        """Means of each group, in the order in which the groups came."""
        names = dict.fromkeys(row.group for row in self.rows)
        return {name: _means([row for row in self.rows if row.group == name]) for name in names}

    def interval(self, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap 95 % interval of the mean PSNR: how far another draw of such pictures might move it."""
        values = np.array([row.psnr for row in _filled(self.rows)])
        rng = np.random.default_rng(seed)
        means = np.sort([rng.choice(values, len(values)).mean() for _ in range(resamples)])
        # Taken from the sorted list, not interpolated: inf (an identical picture) would turn into nan.
        return float(means[int(0.025 * resamples)]), float(means[math.ceil(0.975 * resamples) - 1])

    def worst(self, count: int = 10) -> list[Row]:
        """The pictures with the lowest PSNR, worst first; nan comes before everything."""
        return sorted(self.rows, key=lambda row: -math.inf if math.isnan(row.psnr) else row.psnr)[:count]


def _filled(rows: Sequence[Row]) -> Sequence[Row]:
    if not rows:
        raise DataError("no picture has been scored, so there is nothing to average; add one first")
    return rows


def _means(rows: Sequence[Row]) -> Means:
    psnr_, ssim_, input_psnr, input_ssim = np.mean([row[2:] for row in _filled(rows)], axis=0).tolist()
    return Means(len(rows), psnr_, ssim_, input_psnr, input_ssim)
