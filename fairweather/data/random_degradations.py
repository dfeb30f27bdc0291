"""Random bad conditions, for training: the effects of degradations.py, with parameters that are drawn.

Each takes a clear picture, (3, h, w), RGB in [0, 1], and a generator that all randomness comes from, and gives the
degraded picture and its target. Recipes ask for them by their names in DEGRADATIONS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from fairweather.data.degradations import (
    Airlight,
    Pixels,
    add_camera_noise,
    add_haze,
    add_light,
    add_noise,
    add_photon_noise,
    add_rain,
    add_snow,
    blur_by,
    compress,
    darken,
    encode_srgb,
    gaussian_kernel,
    line_kernel,
    lower_contrast,
    motion_blur,
    quantise,
    rain_streaks,
    scatter,
    shake_kernel,
    sinc_kernel,
    snow_flakes,
)
from fairweather.models.layers import guided_filter, reduced

Degradation = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
"""Takes a clear picture and a generator, gives (degraded, target). The target may differ from the clear picture:
a night scene is darkened in both."""


@dataclass(frozen=True)
class Draw:
    """Random numbers from one generator."""

    generator: Generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def one_of(self, *values: float) -> float:
        return values[int(torch.randint(len(values), (), generator=self.generator))]

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability


def random_noise(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Noise of sigma 0 to 55, one time in five clipped and rounded like a camera's file."""
    draw = Draw(generator)
    sigma = draw.uniform(0, 55)
    return add_noise(clear, sigma=sigma, generator=generator, clip=draw.chance(0.2)), clear


def random_noise_of(least: float, most: float) -> Degradation:
    """Noise as IRConStyle trains with, of a sigma between these two, not clipped (specification 12.2)."""

    def noisy(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        sigma = Draw(generator).uniform(least, most)
        return add_noise(clear, sigma=sigma, generator=generator), clear

    return noisy


def random_camera_noise(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A camera's file in poor light: noise of sigma 1 to 15 from a mosaic, smoothed at times, mostly through JPEG.

    Six in ten are coarse as well, of blotches a few pixels wide, as what cameras' own smoothing leaves; often of colour
    more than of brightness, since they smooth colour more.
    """
    draw = Draw(generator)
    sigma, read = draw.log_uniform(1, 15), draw.uniform(0.05, 0.8)
    smoothing = draw.uniform(0.3, 1.2) if draw.chance(0.5) else 0.0
    coarse = draw.uniform(0.2, 0.9) if draw.chance(0.6) else 0.0  # share of the variance
    noisy = add_camera_noise(
        clear, sigma=sigma * (1 - coarse) ** 0.5, read=read, smoothing=smoothing, generator=generator
    )
    if coarse:
        blotchy = add_camera_noise(
            clear,
            sigma=sigma * coarse**0.5,
            read=read,
            smoothing=draw.uniform(1, 3),
            generator=generator,
        )
        blotches = blotchy - clear
        noisy = noisy + blotches - draw.uniform(0, 0.9) * blotches.mean(dim=0, keepdim=True)
    if draw.chance(0.7):
        return compress(noisy, quality=int(draw.uniform(80, 99)), subsampling=draw.chance(0.5)), clear
    return quantise(noisy), clear


def random_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rain of many kinds: any direction, fine to coarse, sparse to dense, day and night, sometimes with a veil of mist.

    Six nights in ten have lamps, with a halo each that the rain makes, and streaks that shine in it. One picture in
    twenty stays without rain, so that a clear picture is left alone, lamps and all.
    """
    draw = Draw(generator)
    height, width = clear.shape[-2:]
    night = draw.chance(0.3)
    target = _random_night(clear, draw) if night else clear
    lamps = random_street_lamps(height, width, generator) if night and draw.chance(0.6) else None
    if lamps:
        target = add_light(target, lamps.light)
    if draw.chance(0.05):
        return target, target
    rainy = add_light(target, lamps.halo) if lamps else target
    # By lamps the streaks shine in the halos and are dim elsewhere.
    ambient = draw.uniform(0.2, 1) if lamps else 1.0
    lit = ambient + (1 - ambient) * encode_srgb(lamps.halo) if lamps else 1.0
    if draw.chance(0.3):  # distant rain that has merged into a veil
        veil = draw.uniform(0.02, 0.25)
        rainy = rainy + veil * (draw.uniform(0.5, 0.9) - rainy)
    angle = draw.uniform(-60, 60)
    additive = draw.chance(0.5)
    layers = 1 if draw.chance(0.6) else int(draw.uniform(2, 5))
    for _ in range(layers):
        std = draw.log_uniform(0.03, 0.6)  # faint streaks are what is left in photographs
        streaks = rain_streaks(
            height,
            width,
            mean=std * draw.uniform(-1.8, 0.9),
            std=std,
            skew=draw.uniform(0, 0.3),
            length=draw.log_uniform(6, 60),
            angle=angle + draw.uniform(-20, 20),
            thickness=draw.log_uniform(0.5, 2.5),
            generator=generator,
        )
        rainy = add_rain(rainy, streaks, brightness=draw.uniform(0.5, 1.0) * lit, additive=additive)
    if draw.chance(0.3):
        rainy = compress(rainy, quality=int(draw.uniform(80, 99)), subsampling=draw.chance(0.7))
    return rainy, target


def random_showers(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rain as photographs of showers show it: light that streaks add, so only before what is darker than they are.

    Fine streaks of far drops, and seven times in ten coarser ones of near drops as well; both come in gusts, strong in
    one part of the picture and weak in another. Mist at times, and the sharpening and JPEG of pictures from the web.
    """
    draw = Draw(generator)
    height, width = clear.shape[-2:]
    rainy = clear
    if draw.chance(0.4):
        veil = draw.uniform(0.02, 0.2)
        rainy = rainy + veil * (draw.uniform(0.6, 0.95) - rainy)
    angle, light = draw.uniform(-35, 35), draw.uniform(0.6, 1.0)
    blobs = _fractal(generator, cells=int(draw.uniform(2, 5)), octaves=2)
    gusts = _enlarge(
        torch.sigmoid(draw.uniform(0.5, 2.5) * (blobs + draw.uniform(-0.5, 1.5)))[None], height, width
    )
    # length, thickness and share of the strength of each layer
    layers = [(12, 0.7, 1.0)] if draw.chance(0.3) else [(9, 0.6, 1.0), (28, 1.2, draw.uniform(0.5, 1.5))]
    strength = draw.log_uniform(0.05, 0.35)
    for length, thickness, share in layers:
        std = strength * share
        streaks = rain_streaks(
            height,
            width,
            mean=std * draw.uniform(-1.6, -0.2),
            std=std,
            skew=draw.uniform(0.1, 0.3),
            length=length * draw.log_uniform(0.6, 1.7),
            angle=angle + draw.uniform(-6, 6),
            thickness=thickness * draw.log_uniform(0.8, 1.4),
            generator=generator,
        )
        rainy = add_rain(rainy, gusts * streaks, brightness=rainy.clamp_min(light))
    if draw.chance(0.4):
        rainy = rainy + draw.uniform(0.2, 0.8) * (
            rainy - blur_by(rainy, gaussian_kernel(1, across=1, angle=0))
        )
    if draw.chance(0.7):
        return compress(rainy, quality=int(draw.uniform(60, 97)), subsampling=draw.chance(0.7)), clear
    return quantise(rainy), clear


def random_roadscene_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rain with the measured properties of RoadScene-rain, its spread of directions and its JPEG included."""
    draw = Draw(generator)
    streaks = rain_streaks(
        *clear.shape[-2:],
        mean=draw.uniform(0.12, 0.16),
        std=draw.uniform(0.135, 0.165),
        angle=draw.uniform(26.9, 30.3),
        generator=generator,
    )
    return compress(add_rain(clear, streaks), quality=95, subsampling=True), clear


def _random_night(clear: Tensor, draw: Draw) -> Tensor:
    cast = (1.0, draw.uniform(0.75, 1.0), draw.uniform(0.5, 1.0))
    cast = cast if draw.chance(0.7) else cast[::-1]
    return darken(clear, gain=draw.uniform(0.25, 0.9), gamma=draw.uniform(1.0, 2.2), cast=cast)


def random_blur(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Straight motion blur of 1 to 25 pixels in any direction."""
    draw = Draw(generator)
    return motion_blur(clear, length=draw.uniform(1, 25), angle=draw.uniform(-90, 90)), clear


def random_shake(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Blur of a moving camera: straight or crooked, one path or two that change over smoothly (a camera that turns, a
    scene that moves), mixed in light; sometimes with a little noise and JPEG. One picture in twenty stays sharp.
    """
    draw = Draw(generator)
    if draw.chance(0.05):
        return clear, clear
    gamma = draw.one_of(1.0, 2.2, 2.2)
    extent = draw.log_uniform(2, 32)
    blurred = blur_by(clear, _random_path(draw, extent), gamma=gamma)
    if draw.chance(0.4):
        other = blur_by(clear, _random_path(draw, extent * draw.uniform(0.1, 1)), gamma=gamma)
        height, width = clear.shape[-2:]
        share = random_clouds(height, width, generator)
        blurred = torch.lerp(other, blurred, (share - share.min()) / (share.max() - share.min() + 1e-6))
    return _photograph(blurred, draw, tones=False), clear


def _random_path(draw: Draw, extent: float) -> Float[Tensor, "k k"]:
    if draw.chance(0.3):
        return line_kernel(extent, draw.uniform(-90, 90), 0.5)
    return shake_kernel(extent, draw.generator)


def random_snow(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Lowered contrast, then snow twice, light to heavy, in any direction near the vertical (ImageNet-C's two)."""
    draw = Draw(generator)
    snowy = lower_contrast(clear, factor=draw.uniform(0.1, 0.7))
    for _ in range(2):
        flakes = snow_flakes(
            *clear.shape[-2:],
            mean=draw.uniform(0.1, 0.5),
            size=draw.uniform(1, 4),
            threshold=draw.uniform(0.5, 0.8),
            length=draw.uniform(4, 16),
            angle=draw.uniform(-45, 45),
            generator=generator,
        )
        snowy = add_snow(snowy, flakes, whiteness=draw.uniform(0.1, 0.45))
    return quantise(snowy), clear


def random_two_rounds(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Blur, resizing, noise and JPEG, twice, then rings: pictures that were passed on (Real-ESRGAN, ICCVW 2021).

    The order is the paper's, the ranges are near its own. The size of the picture stays.
    """
    draw = Draw(generator)
    height, width = clear.shape[-2:]
    degraded = _one_round(clear, draw, (height, width), blurred=1.0, sigma=3.0, shrink=0.15, noise=30)
    degraded = _one_round(degraded, draw, (height, width), blurred=0.8, sigma=1.5, shrink=0.3, noise=25)
    degraded = _resized(degraded, (height, width), draw)
    if draw.chance(0.8):
        degraded = blur_by(degraded, sinc_kernel(draw.uniform(math.pi / 3, math.pi)))
    return quantise(degraded), clear


def _one_round(
    picture: Tensor,
    draw: Draw,
    whole: tuple[int, int],
    *,
    blurred: float,
    sigma: float,
    shrink: float,
    noise: float,
) -> Tensor:
    if draw.chance(blurred):
        kernel = gaussian_kernel(
            draw.uniform(0.2, sigma), across=draw.uniform(0.2, sigma), angle=draw.uniform(-90, 90)
        )
        picture = blur_by(picture, kernel)
    factor = draw.one_of(1.0, *[draw.uniform(shrink, 1)] * 7, *[draw.uniform(1, 1.5)] * 2)
    height, width = (max(8, round(side * factor)) for side in whole)
    picture = _resized(picture, (height, width), draw)
    if draw.chance(0.5):
        picture = add_noise(picture, sigma=draw.uniform(1, noise), generator=draw.generator)
    else:
        picture = add_photon_noise(picture, photons=draw.log_uniform(30, 10_000), generator=draw.generator)
    return compress(picture, quality=int(draw.uniform(30, 95)), subsampling=True)


def _resized(picture: Tensor, size: tuple[int, int], draw: Draw) -> Tensor:
    mode = ("area", "bilinear", "bicubic")[int(draw.uniform(0, 3))]
    return F.interpolate(picture[None], size, mode=mode)[0].clamp(0, 1)


def random_mixed(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Of every kind, to learn what ails a picture: four times in ten `random_snow`, else `random_two_rounds`.

    What ConStyle v2 trains its encoder on (arXiv 2406.18242).
    """
    return (random_snow if Draw(generator).chance(0.4) else random_two_rounds)(clear, generator)


def untouched(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The clear picture as it is: a restorer must leave it alone."""
    return clear, clear


# Random haze -----------------------------------------------------------------------------------------------------

_GRID = 48
"""Side of the small grid that haze maps are drawn on; haze is smooth, and a whole picture of noise is slow."""


def _fractal(generator: Generator, *, cells: int, octaves: int) -> Float[Tensor, "g g"]:
    """Smooth noise of mean 0 and standard deviation 1: blobs of 1/cells of the side, and finer ones, fading."""
    total = torch.zeros(_GRID, _GRID)
    for octave in range(octaves):
        side = min(cells * 2**octave, _GRID)
        coarse = torch.randn(1, 1, side, side, generator=generator) * 0.55**octave
        total += F.interpolate(coarse, (_GRID, _GRID), mode="bicubic", align_corners=True)[0, 0]
    return (total - total.mean()) / total.std()


def _positions() -> tuple[Float[Tensor, "g g"], Float[Tensor, "g g"]]:
    """y and x of the small grid, 0 to 1."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, _GRID)] * 2, indexing="ij")
    return y, x


def _enlarge(
    grid: Float[Tensor, "c g g"], height: int, width: int, *, low: float = 0.0
) -> Float[Tensor, "c h w"]:
    """A map on the small grid at the size of the picture, in [low, 1]."""
    return F.interpolate(grid[None], (height, width), mode="bicubic", align_corners=True)[0].clamp(low, 1)


def random_transmission(height: int, width: int, generator: Generator) -> Float[Tensor, "1 h w"]:
    """A smooth transmission map in [0.04, 1], dense to thin: even haze, ramps, blobs, or ramps with blobs.

    The optical thickness -log t has a random shape and a mean of -log m, m uniform between 0.1 and 0.95; so the mean
    transmission is m or, where the haze is uneven, somewhat more. Ramps mostly grow thicker upwards, as outdoors.
    It is not tied to any depth map, so a network learns what haze is and not the depth of a few rooms.
    """
    draw = Draw(generator)
    thickness = torch.ones(_GRID, _GRID)
    if not draw.chance(0.15):
        ramp = draw.chance(0.65)
        if ramp:
            thickness = draw.uniform(0.02, 0.5) + _ramp(draw) ** draw.log_uniform(0.5, 3)
        if not ramp or draw.chance(0.5):
            blobs = _fractal(generator, cells=int(draw.uniform(2, 7)), octaves=int(draw.uniform(1, 4)))
            thickness = thickness * torch.exp(draw.uniform(0.1, 0.8) * blobs)
    transmission = torch.exp(math.log(draw.uniform(0.1, 0.95)) * thickness / thickness.mean())
    return _enlarge(transmission[None], height, width, low=0.04)  # 1 h w


def _ramp(draw: Draw) -> Float[Tensor, "g g"]:
    """From 0 at one side to 1 at the other, upwards or nearly so three times in four."""
    upwards = draw.chance(0.75)
    angle = math.radians(draw.uniform(-20, 20) if upwards else draw.uniform(-180, 180))
    y, x = _positions()
    ramp = x * math.sin(angle) - y * math.cos(angle)
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def random_clouds(height: int, width: int, generator: Generator) -> Float[Tensor, "1 h w"]:
    """Transmission of haze that hangs in clouds, in [0.04, 1]: a thin even veil, and dense patches with soft edges.

    Ours, after the look of NH-HAZE (Ancuti et al., CVPRW 2020), where a machine blows the haze.
    """
    draw = Draw(generator)
    blobs = _fractal(generator, cells=int(draw.uniform(2, 4)), octaves=int(draw.uniform(1, 4)))
    cover = torch.sigmoid(draw.uniform(0.8, 2) * (blobs - draw.uniform(-0.5, 1)))
    thickness = draw.uniform(0.1, 0.8) + draw.uniform(0.6, 2.5) * cover
    return _enlarge(torch.exp(-thickness)[None], height, width, low=0.04)  # 1 h w


_LEVELS = 4
"""Of light, at which an imagined depth is drawn anew."""


def imagined_depth(clear: Pixels, generator: Generator) -> Float[Tensor, "1 h w"]:
    """A depth that the picture could have, its largest value 1: a slope, mostly upwards, and things of their own depth.

    Smooth noise over place and light, so that it steps where the picture does and is even where the picture is. There
    are few pictures with true depth; a network that sees many with this one looks at the haze of things and walls.
    """
    draw = Draw(generator)
    height, width = clear.shape[-2:]
    colours = torch.tensor([draw.uniform(-0.3, 1) for _ in range(3)]).view(1, 3, 1, 1)
    guide = (clear[None] * colours).sum(dim=1, keepdim=True)
    low, high = reduced(guide, 256).flatten().quantile(torch.tensor((0.02, 0.98)))
    guide = ((guide - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
    smooth = guided_filter(
        guide, guide, radius=max(2, max(height, width) // 60), eps=draw.log_uniform(3e-3, 5e-2)
    )
    cells = int(draw.uniform(2, 6))
    noise = torch.randn(1, 1, _LEVELS, cells, cells, generator=generator)
    places = F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
    where = torch.cat([places, 2 * smooth[:, 0, ..., None] - 1], dim=-1)  # 1 h w (x y light)
    steps = F.grid_sample(noise, where[:, None], align_corners=True)[0, :, 0]  # 1 h w
    slope = _enlarge(_ramp(draw)[None] ** draw.log_uniform(0.7, 2), height, width)
    depth = draw.uniform(0, 1.5) * slope + draw.uniform(0.05, 0.5) * steps
    nearest = draw.uniform(0.02, 0.4)
    return nearest + (1 - nearest) * (depth - depth.amin() + 1e-6) / (depth.amax() - depth.amin() + 1e-6)


class Lamps(NamedTuple):
    """Lamps in a picture, as amounts of light (see `decode_srgb`)."""

    light: Float[Tensor, "3 h w"]
    """Of the lamps themselves, 1 and more where the camera is blinded."""
    halo: Float[Tensor, "3 h w"]
    """What the drops in the air scatter of it, in [0, 1]."""


def random_street_lamps(height: int, width: int, generator: Generator) -> Lamps:
    """One to four lamps, mostly warm, small to large and some of them outside the picture, and their halos in rain.

    Ours. Drops scatter light forward, so a halo is brightest at its lamp and falls off as (1 + (r / radius)^2)^-1.5,
    r the distance; without rain a lamp has only the narrow gleam that a lens makes.
    """
    draw = Draw(generator)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    light, halo = torch.zeros(3, height, width), torch.zeros(3, height, width)
    for _ in range(int(draw.uniform(1, 5))):
        squared = (y - height * draw.uniform(-0.2, 1.2)) ** 2 + (x - width * draw.uniform(-0.2, 1.2)) ** 2
        size = draw.log_uniform(0.7, 6)  # in pixels, the radius of the lamp
        colour = torch.tensor(_lamp_colour(draw)).view(3, 1, 1)
        light += torch.sigmoid((size - squared.sqrt()) / 0.5) * draw.uniform(0.8, 2) * colour
        light += _falloff(squared, 2 * size) * draw.uniform(0, 0.1) * colour
        halo += _falloff(squared, draw.log_uniform(6, 60)) * draw.log_uniform(0.01, 0.3) * colour
    return Lamps(light, halo.clamp(0, 1))


def _falloff(squared: Float[Tensor, "h w"], radius: float) -> Float[Tensor, "h w"]:
    """Of the light around a lamp: 1 at its centre; from the squared distance, in the unit of the radius."""
    return (1 + squared / radius**2) ** -1.5


def _lamp_colour(draw: Draw) -> tuple[float, float, float]:
    if draw.chance(0.25):
        return draw.uniform(0.7, 1.0), 0.95, 1.0
    green = draw.uniform(0.6, 0.95)
    return 1.0, green, green * draw.uniform(0.4, 1.0)


def random_lamps(height: int, width: int, generator: Generator) -> Float[Tensor, "3 h w"]:
    """Airlight of a hazy night in [0, 1]: a dark sky and one to five lamps, mostly warm, each with its soft glow.

    Ours. A lamp adds colour * strength / (1 + (r / radius)^2)^1.5, r its distance.
    """
    draw = Draw(generator)
    y, x = _positions()
    sky = draw.uniform(0.03, 0.2)
    light = torch.tensor([sky, sky, sky * draw.uniform(1, 1.4)]).view(3, 1, 1).repeat(1, _GRID, _GRID)
    for _ in range(int(draw.uniform(1, 6))):
        squared = (y - draw.uniform(-0.1, 0.8)) ** 2 + (x - draw.uniform(-0.1, 1.1)) ** 2
        glow = draw.uniform(0.3, 1.0) * _falloff(squared, draw.log_uniform(0.05, 0.4))
        light += glow * torch.tensor(_lamp_colour(draw)).view(3, 1, 1)
    return _enlarge(light, height, width)


def _random_airlight(
    draw: Draw, *, darkest: float = 0.6, brightest: float = 1.0, most_tint: float = 0.12
) -> Airlight:
    """Grey with the bright ones favoured, one time in three tinted bluish or yellowish as real haze is."""
    grey = brightest - (brightest - darkest) * draw.uniform(0, 1) ** 1.7
    tint = draw.uniform(0, most_tint) if draw.chance(0.35) else 0.0
    bluish = (grey * (1 - tint), grey * (1 - tint / 3), grey)
    return bluish if draw.chance(0.65) else bluish[::-1]


def random_haze(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Haze of many kinds without a depth map: thin to dense, grey or tinted, now and then patchy, rarely at night.

    Some pictures also differ from the clear one in gamma and contrast, or have noise or JPEG, as photographs of
    real haze do. All are rounded to 8 bit, which is much where the haze is dense.
    """
    draw = Draw(generator)
    if draw.chance(0.03):
        return random_night_haze(clear, generator)
    if draw.chance(0.12):
        return random_patchy_haze(clear, generator)
    height, width = clear.shape[-2:]
    transmission = random_transmission(height, width, generator)
    hazy = scatter(clear, transmission, airlight=_random_airlight(draw), linear=draw.chance(0.25))
    return _photograph(hazy, draw), clear


def random_patchy_haze(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Clouds of haze as NH-HAZE has them, darker and bluer than outdoor haze; an extension of ours."""
    draw = Draw(generator)
    height, width = clear.shape[-2:]
    transmission = random_clouds(height, width, generator)
    airlight = _random_airlight(draw, darkest=0.45, brightest=0.9, most_tint=0.2)
    return _photograph(scatter(clear, transmission, airlight=airlight, linear=draw.chance(0.25)), draw), clear


def random_night_haze(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A dark scene in haze that glows around lamps; the target is dark but clear. An extension of ours."""
    draw = Draw(generator)
    target = _random_night(clear, draw)
    height, width = clear.shape[-2:]
    transmission = random_transmission(height, width, generator)
    lamps = random_lamps(height, width, generator)
    return _photograph(scatter(target, transmission, airlight=lamps), draw), target


def _photograph(hazy: Tensor, draw: Draw, *, tones: bool = True) -> Tensor:
    """What a camera and a file do to a picture, each only sometimes; rounding to 8 bit always.

    Args:
        tones: also change gamma and contrast, as haze sets do between their pictures.
    """
    if tones and draw.chance(0.25):
        hazy = hazy.clamp_min(0) ** draw.log_uniform(0.87, 1.15)
        mean = hazy.mean()
        hazy = mean + (hazy - mean) * draw.uniform(0.88, 1.1)
    if draw.chance(0.2):
        hazy = add_noise(hazy, sigma=draw.log_uniform(0.5, 4), generator=draw.generator)
    if draw.chance(0.2):
        return compress(hazy, quality=int(draw.uniform(75, 99)), subsampling=draw.chance(0.7))
    return quantise(hazy)


def _its(draw: Draw) -> tuple[float, Airlight]:
    return draw.uniform(0.6, 1.8), draw.uniform(0.7, 1.0)


def _ots(draw: Draw) -> tuple[float, Airlight]:
    beta = draw.one_of(0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)
    return OTS_DEPTH * beta, draw.one_of(0.8, 0.85, 0.9, 0.95, 1.0)


def _wide(draw: Draw) -> tuple[float, Airlight]:
    return draw.log_uniform(0.25, 3), _random_airlight(draw)


OTS_DEPTH = 10.0
"""The largest depth, in the unit that RESIDE's outdoor beta belong to. Assumed: beta times it is then 0.4 to 2, about
what it is indoors."""
HAZE_RANGES: dict[str, Callable[[Draw], tuple[float, Airlight]]] = {"its": _its, "ots": _ots, "wide": _wide}
"""Random beta (for depth whose largest value is 1) and airlight. its: as RESIDE's indoor training set, beta 0.6-1.8
and airlight 0.7-1.0, both uniform. ots: as its outdoor one, beta one of seven and airlight one of five values (Li et
al., TIP 2019). wide, ours: beta log-uniform in 0.25-3, airlight 0.6-1.0 with bright ones favoured, at times tinted."""


def random_depth_haze(
    clear: Pixels,
    depth: Float[Tensor, "1 h w"],
    generator: Generator,
    *,
    ranges: str,
    linear: bool = False,
) -> tuple[Pixels, Pixels]:
    """Haze a clear picture by a depth, rounded to 8 bit as a file is; gives (hazy, clear).

    Args:
        depth: relative, its largest value over the whole picture 1. ranges: a name of HAZE_RANGES.
        linear: see `scatter`; RESIDE's haze is not.
    """
    beta, airlight = HAZE_RANGES[ranges](Draw(generator))
    return quantise(add_haze(clear, depth, beta=beta, airlight=airlight, linear=linear)), clear


def random_imagined_haze(clear: Pixels, generator: Generator) -> tuple[Pixels, Pixels]:
    """Haze by an imagined depth, two times in three in the ranges of RESIDE's rooms, else in ours."""
    draw = Draw(generator)
    depth = imagined_depth(clear, generator)
    return random_depth_haze(clear, depth, generator, ranges="its" if draw.chance(2 / 3) else "wide")


DEGRADATIONS: dict[str, Degradation] = {
    "noise": random_noise,
    "noise15": random_noise_of(15, 15),
    "noise25": random_noise_of(25, 25),
    "noise50": random_noise_of(50, 50),
    "noise_blind": random_noise_of(0, 50),
    "camera_noise": random_camera_noise,
    "rain": random_rain,
    "showers": random_showers,
    "roadscene_rain": random_roadscene_rain,
    "blur": random_blur,
    "snow": random_snow,
    "two_rounds": random_two_rounds,
    "mixed": random_mixed,
    "shake": random_shake,
    "haze": random_haze,
    "patchy_haze": random_patchy_haze,
    "night_haze": random_night_haze,
    "imagined_haze": random_imagined_haze,
    "none": untouched,
}
"""Random degradations by name, as recipes ask for them."""
