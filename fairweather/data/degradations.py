"""Bad conditions made from clear pictures, as pure seeded functions.

Each effect is one function with explicit parameters (`add_rain`, `add_noise`, `add_haze`, `scatter`, `motion_blur`,
`darken`, `compress`); the `random_...` functions below draw the parameters and are what training uses. Pictures are
(3, h, w), RGB in [0, 1]; randomness comes only from the generator that is passed in, so the same seed gives
the same picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from fairweather.models.layers import guided_filter, reduced

Pixels = Float[Tensor, "3 h w"]
Degradation = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
"""Takes a clear picture and a generator, gives (degraded, target). The target may differ from the clear picture:
a night scene is darkened in both."""
Airlight = float | tuple[float, float, float] | Tensor
"""The colour of dense haze as a picture shows it, in [0, 1]: grey, RGB, or (3, h, w) where it varies."""


# Noise -----------------------------------------------------------------------------------------------------------


def add_noise(clear: Pixels, *, sigma: float, generator: Generator, clip: bool = False) -> Pixels:
    """Add white Gaussian noise of standard deviation `sigma` (in 8-bit grey levels).

    Args:
        clip: clip to [0, 1] and round to 8 bit, as a camera's file would be; denoising papers do not.

    >>> noisy = add_noise(torch.zeros(3, 64, 64), sigma=25, generator=Generator().manual_seed(0))
    >>> round(float(noisy.std()) * 255)
    25
    """
    noisy = clear + sigma / 255 * torch.randn(clear.shape, generator=generator)
    return quantise(noisy) if clip else noisy


def quantise(picture: Pixels) -> Pixels:
    """Clip to [0, 1] and round to 8 bit, as a file holds it."""
    return picture.clamp(0, 1).mul(255).round().div(255)


def paper_noise(clear: Pixels, *, sigma: float) -> Pixels:
    """The test noise of the denoising papers: NumPy's legacy generator, seeded with 0 for every picture.

    Drawn in (h, w, channel) order in float64 and added in float32, not clipped (IRConStyle, specification 12.2).
    """
    height, width = clear.shape[-2:]
    noise = np.random.RandomState(0).normal(0, sigma / 255, (height, width, 3))
    return clear + torch.from_numpy(noise.astype(np.float32)).permute(2, 0, 1)


# Rain ------------------------------------------------------------------------------------------------------------


def line_kernel(length: float, angle: float, thickness: float) -> Float[Tensor, "k k"]:
    """A straight, anti-aliased line, normalised to sum 1.

    Args:
        length: in pixels. angle: degrees off vertical; positive leans the top to the right.
        thickness: standard deviation across the line, in pixels.

    >>> line_kernel(1, 0, 0.1).round(decimals=3)[1]
    tensor([0., 1., 0.])
    """
    along, across = _axes(math.ceil(length / 2 + 2 * thickness), angle)
    kernel = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * torch.exp(-(across**2) / (2 * thickness**2))
    return kernel / kernel.sum()


def _axes(half: int, angle: float) -> tuple[Tensor, Tensor]:
    """Along and across a line through the centre of a kernel of 2 half + 1 pixels, at least 3; see `line_kernel`."""
    half = max(1, half)
    steps = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    radians = math.radians(angle)
    along = y * math.cos(radians) - x * math.sin(radians)
    across = y * math.sin(radians) + x * math.cos(radians)
    return along, across


def rain_streaks(
    height: int,
    width: int,
    *,
    mean: float = 0.14,
    std: float = 0.15,
    skew: float = 0.12,
    length: float = 22.0,
    angle: float = 28.7,
    thickness: float = 0.6,
    generator: Generator,
) -> Float[Tensor, "1 h w"]:
    """Opacity of a layer of rain streaks, in [0, 1]: motion-blurred white noise, scaled and clipped.

    The defaults are the measured properties of the night-rain set RoadScene-rain (NiteDR, arXiv 2402.18172):
    opacity about N(0.134, 0.148) clipped at 0 with a longer tail, streaks of 22 pixels at 28.7 degrees off
    vertical. A mean below zero leaves only the strongest streaks: sparse rain.

    Args:
        mean, std: of the opacity before clipping. skew: lengthens the tail towards strong streaks; 0 is Gaussian.
        length, thickness: of a streak, in pixels. angle: degrees off vertical, positive leans the top right.
    """
    kernel = line_kernel(length, angle, thickness)
    k = kernel.shape[-1]
    noise = torch.randn(1, height + k - 1, width + k - 1, generator=generator)
    layer = _convolve(noise, kernel) / kernel.norm()  # unit variance again
    layer = (layer + skew * (layer**2 - 1)) / math.sqrt(1 + 2 * skew**2)
    opacity: Tensor = mean + std * layer
    return opacity.clamp(0, 1)


def _convolve(x: Float[Tensor, "c h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "c h2 w2"]:
    """Valid convolution by FFT: streaks of 60 pixels make kernels too large for a direct one."""
    k = kernel.shape[-1]
    size = x.shape[-2:]
    spectrum = torch.fft.rfft2(x) * torch.fft.rfft2(kernel, s=size)
    whole: Tensor = torch.fft.irfft2(spectrum, s=size)
    return whole[..., k - 1 :, k - 1 :]


def add_rain(
    clear: Pixels,
    streaks: Float[Tensor, "1 h w"],
    *,
    brightness: float | Float[Tensor, "3 h w"] = 176 / 255,
    additive: bool = False,
) -> Pixels:
    """Lay streaks over a picture.

    Blended, I = T + a (C - T), as measured on RoadScene-rain, where bright areas become darker; or additive,
    I = T + a C clipped, as in Rain100.

    Args:
        streaks: opacity a in [0, 1]. brightness: C in [0, 1], a grey level or the colour of the light at each place.

    >>> add_rain(torch.zeros(3, 1, 1), torch.full((1, 1, 1), 0.5), brightness=0.8)[0, 0, 0]
    tensor(0.4000)
    """
    if additive:
        return (clear + streaks * brightness).clamp(0, 1)
    return clear + streaks * (brightness - clear)


# Haze, blur, darkness, compression ------------------------------------------------------------------------------


def add_haze(
    clear: Pixels,
    depth: Float[Tensor, "1 h w"],
    *,
    beta: float,
    airlight: Airlight = 0.9,
    linear: bool = False,
) -> Pixels:
    """Haze a clear picture by its depth: `scatter` with t(x) = exp(-beta d(x)).

    (He et al., CVPR 2009, section 2)

    Args:
        depth: distance d, >= 0, in metres or relative. beta: scattering coefficient in 1 over the unit of depth; 0
            leaves the picture as it is.
        airlight, linear: see `scatter`.

    Raises:
        ValueError: if beta is negative.

    >>> add_haze(torch.zeros(3, 1, 1), torch.ones(1, 1, 1), beta=1.0, airlight=1.0)[0, 0, 0]
    tensor(0.6321)
    """
    if beta < 0:
        raise ValueError(f"beta is a scattering coefficient and must be >= 0 (1/m), got {beta}")
    return scatter(clear, torch.exp(-beta * depth), airlight=airlight, linear=linear)


def scatter(
    clear: Pixels, transmission: Float[Tensor, "1 h w"], *, airlight: Airlight = 0.9, linear: bool = False
) -> Pixels:
    """See a clear picture through haze: the atmospheric scattering model.

    I(x) = J(x) t(x) + A (1 - t(x))      (He et al., CVPR 2009, section 2)

    Args:
        transmission: t, the share of light that arrives, in [0, 1]; 1 leaves the picture as it is.
        airlight: atmospheric light A.
        linear: mix amounts of light, as nature does (values are decoded from sRGB and encoded again), instead of
            display values, as RESIDE does. Haze over dark things is then brighter.

    >>> scatter(torch.zeros(3, 1, 1), torch.full((1, 1, 1), 0.5), airlight=(1.0, 0.8, 0.6)).flatten()
    tensor([0.5000, 0.4000, 0.3000])
    """
    light = torch.as_tensor(airlight, dtype=clear.dtype)
    light = light if light.dim() == 3 else light.view(-1, 1, 1)
    if not linear:
        return clear * transmission + light * (1 - transmission)
    return encode_srgb(decode_srgb(clear) * transmission + decode_srgb(light) * (1 - transmission))


def decode_srgb(display: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Amounts of light in [0, 1] of display values in [0, 1] (IEC 61966-2-1); below 0 counts as 0.

    >>> decode_srgb(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.2140, 1.0000])
    """
    display = display.clamp_min(0)
    return torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of `decode_srgb`.

    >>> encode_srgb(torch.tensor([0.0, 0.2140, 1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    light = light.clamp_min(0)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def add_light(clear: Pixels, light: Float[Tensor, "3 h w"]) -> Pixels:
    """What a camera sees with this light added: amounts of light add up, display values do not; clipped at 1.

    >>> add_light(torch.zeros(3, 1, 1), torch.full((3, 1, 1), 0.214))[0, 0, 0]
    tensor(0.5000)
    """
    return encode_srgb(decode_srgb(clear) + light).clamp(0, 1)


def motion_blur(clear: Pixels, *, length: float, angle: float) -> Pixels:
    """Blur along a straight line, as a camera or an object moving evenly during the exposure.

    Args:
        length: of the motion in pixels; 1 leaves the picture nearly as it is. angle: degrees off vertical.
    """
    kernel = line_kernel(length, angle, 0.4)
    margin = kernel.shape[-1] // 2
    return _convolve(F.pad(clear, (margin,) * 4, mode="replicate"), kernel)


def gaussian_kernel(sigma: float, *, across: float, angle: float) -> Float[Tensor, "k k"]:
    """A bell, normalised to sum 1.

    Args:
        sigma, across: standard deviations along and across its axis, in pixels. angle: of the axis, see `line_kernel`.

    >>> gaussian_kernel(0.5, across=0.5, angle=0).shape
    torch.Size([5, 5])
    """
    along, aside = _axes(math.ceil(3 * max(sigma, across)), angle)
    kernel = torch.exp(-((along / sigma) ** 2 + (aside / across) ** 2) / 2)
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float) -> Float[Tensor, "21 21"]:
    """A low pass with a sharp edge, which leaves rings, as sharpening and strong compression do.

    h(r) = w J1(w r) / (2 pi r), normalised to sum 1      (Wang et al., Real-ESRGAN, ICCVW 2021, equation 4)

    Args:
        cutoff: w, the highest frequency that stays, in radians a pixel; pi keeps nearly everything.
    """
    r = torch.hypot(*_axes(10, 0))
    r[10, 10] = 1.0  # the limit is put in below
    kernel: Tensor = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[10, 10] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def add_photon_noise(clear: Pixels, *, photons: float, generator: Generator) -> Pixels:
    """Count photons (Poisson noise): brighter pixels are noisier, relatively less so.

    Args:
        photons: what white counts; 30 is very noisy, 10,000 hardly.
    """
    return torch.poisson(clear.clamp_min(0) * photons, generator=generator) / photons


def add_camera_noise(
    clear: Pixels, *, sigma: float, read: float, smoothing: float, generator: Generator
) -> Pixels:
    """The noise of a camera's file: made in linear light on a mosaic of single colours, then interpolated.

    Each pixel of a Bayer mosaic counts photons of one colour, and red and blue are amplified to the white of daylight;
    the two other colours of a pixel are means of its neighbours (only the noise is interpolated here, not the picture),
    and the camera may smooth the result. So the noise is coarse, coloured, and depends on brightness.

    Args:
        sigma: standard deviation over the whole picture, in 8-bit grey levels of the file. read: share of it that does
            not depend on brightness, 0 to 1. smoothing: sigma of a blur of the noise, in pixels; 0 is none.

    >>> noisy = add_camera_noise(
    ...     torch.full((3, 64, 64), 0.5), sigma=8, read=0.3, smoothing=0.5, generator=Generator().manual_seed(0)
    ... )
    >>> round(float(noisy.std()) * 255)
    8
    """
    bell = gaussian_kernel(smoothing, across=smoothing, angle=0) if smoothing > 0 else None
    margin = 1 + (0 if bell is None else bell.shape[-1] // 2)
    light = decode_srgb(clear)
    around = F.pad(light[None], (margin,) * 4, mode="replicate")[0]
    gains = torch.tensor(WHITE_BALANCE).view(3, 1, 1)
    deviation = (gains * ((1 - read) * around + read * around.mean())).sqrt()
    height, width = around.shape[-2:]
    sites = torch.zeros(3, height, width)
    sites[0, ::2, ::2] = sites[1, ::2, 1::2] = sites[1, 1::2, ::2] = sites[2, 1::2, 1::2] = 1
    noise = sites * deviation * torch.randn(1, height, width, generator=generator)
    tent = torch.tensor([0.5, 1.0, 0.5]).outer(torch.tensor([0.5, 1.0, 0.5]))
    noise = _convolve(noise, tent) / _convolve(sites, tent)  # at least one site of each colour in nine pixels
    if bell is not None:
        noise = _convolve(noise, bell)
    # To display values by the slope of the tone curve, which is steep in the shadows, though cameras cap it there.
    noise = noise / (light.clamp_min(0.02) ** (1 - 1 / 2.4))
    scale = sigma / 255 / noise.square().mean().sqrt().clamp_min(1e-8)
    return clear + scale * noise


WHITE_BALANCE = (2.0, 1.0, 1.6)
"""Gains of red, green and blue in daylight, as of most sensors."""


def lower_contrast(clear: Pixels, *, factor: float) -> Pixels:
    """Draw all values towards the mean of their channel; 1 leaves the picture as it is, 0 leaves the mean.

    >>> lower_contrast(torch.tensor([0.0, 1.0]).view(1, 1, 2).expand(3, 1, 2), factor=0.5)[0, 0]
    tensor([0.2500, 0.7500])
    """
    return torch.lerp(clear.mean(dim=(1, 2), keepdim=True), clear, factor)


def add_snow(clear: Pixels, flakes: Float[Tensor, "1 h w"], *, whiteness: float) -> Pixels:
    """Whiten a picture as snowfall does, and lay flakes over it, clipped to [0, 1].

    As in ImageNet-C (Hendrycks and Dietterich, ICLR 2019): mixed with max(x, 1.5 grey + 0.5), and the flakes added
    twice, the second time turned by 180 degrees.

    Args:
        flakes: brightness of the flakes in [0, 1]. whiteness: share of the whitened picture, in [0, 1].

    >>> add_snow(torch.zeros(3, 1, 1), torch.zeros(1, 1, 1), whiteness=0.2)[0, 0, 0]
    tensor(0.1000)
    """
    grey = (clear * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)  # BT.601
    white = torch.lerp(clear, torch.maximum(clear, 1.5 * grey + 0.5), whiteness)
    return (white + flakes + flakes.flip(-1, -2)).clamp(0, 1)


def snow_flakes(
    height: int,
    width: int,
    *,
    mean: float,
    size: float,
    threshold: float,
    length: float,
    angle: float,
    generator: Generator,
) -> Float[Tensor, "1 h w"]:
    """Brightness of falling flakes, in [0, 1]: the strongest of blown-up noise, blurred along their fall.

    Args:
        mean: of the noise, whose deviation is 0.3; more makes more flakes. size: of a flake in pixels, 1 or more.
        threshold: noise below it is no flake. length, angle: of the fall during the exposure, see `motion_blur`.
    """
    small = math.ceil(height / size), math.ceil(width / size)
    noise = mean + 0.3 * torch.randn(1, 1, *small, generator=generator)
    layer = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False).clamp(0, 1)
    kernel = line_kernel(length, angle, 0.5)
    layer = F.pad(layer.where(layer >= threshold, 0.0), (kernel.shape[-1] // 2,) * 4)
    return _convolve(layer[0], kernel).clamp(0, 1)


def shake_kernel(extent: float, generator: Generator) -> Float[Tensor, "k k"]:
    """The path of a point over the sensor while a hand shakes, normalised to sum 1 and centred on its mean.

    Its direction drifts at random, its pace too, and `extent` is the distance between the points farthest apart.

    >>> kernel = shake_kernel(12, Generator().manual_seed(0))
    >>> round(float(kernel.sum()), 3), kernel.shape[0] % 2
    (1.0, 1)
    """
    turns = torch.randn(64, generator=generator).cumsum(0) * 0.25 * torch.rand((), generator=generator) * 2
    heading = 2 * math.pi * torch.rand((), generator=generator) + turns
    pace = torch.exp(0.3 * torch.randn(64, generator=generator).cumsum(0).mul(0.5))
    path = torch.stack((heading.sin(), heading.cos()), dim=1).mul(pace[:, None]).cumsum(0)  # 64 2
    path = path * (extent / torch.cdist(path[None], path[None]).max().clamp_min(1e-6))
    # Points between, so that a fast stretch leaves a line and not dots.
    dense = F.interpolate(path.T[None], size=16 * 64, mode="linear", align_corners=True)[0].T
    dense = dense - dense.mean(dim=0)
    half = math.ceil(float(dense.abs().max())) + 1
    side = 2 * half + 1
    kernel = torch.zeros(side * side)
    floor = dense.floor()
    part = dense - floor
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (part[:, 0] if down else 1 - part[:, 0]) * (part[:, 1] if right else 1 - part[:, 1])
        place = (floor[:, 0] + half + down) * side + floor[:, 1] + half + right
        kernel.index_add_(0, place.long(), share)
    return (kernel / kernel.sum()).view(side, side)


def blur_by(clear: Pixels, kernel: Float[Tensor, "k k"], *, gamma: float = 1.0) -> Pixels:
    """Blur by a kernel of odd side, in light (display values to the power gamma) if gamma is above 1.

    Sensors add up light: a lamp leaves a bright path, which a blur of display values does not.
    """
    margin = kernel.shape[-1] // 2
    light = F.pad(clear.clamp_min(0) ** gamma, (margin,) * 4, mode="replicate")
    return _convolve(light, kernel).clamp_min(0) ** (1 / gamma)  # the transform rounds zeros to either side


def darken(clear: Pixels, *, gain: float, gamma: float, cast: tuple[float, float, float]) -> Pixels:
    """A night exposure of a day picture: gain * clear^gamma, with a colour cast of the lamps."""
    return (gain * clear.clamp_min(0) ** gamma * torch.tensor(cast).view(3, 1, 1)).clamp(0, 1)


def compress(picture: Pixels, *, quality: int, subsampling: bool) -> Pixels:
    """Through JPEG and back, with the losses of a camera's or a web page's file."""
    array = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=2 if subsampling else 0)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float().div_(255)


# Random draws, for training --------------------------------------------------------------------------------------


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
    """Lowered contrast, then falling snow, light to heavy, in any direction near the vertical (ImageNet-C's two)."""
    draw = Draw(generator)
    flakes = snow_flakes(
        *clear.shape[-2:],
        mean=draw.uniform(0.1, 0.5),
        size=draw.uniform(1, 4),
        threshold=draw.uniform(0.5, 0.8),
        length=draw.uniform(4, 16),
        angle=draw.uniform(-45, 45),
        generator=generator,
    )
    dull = lower_contrast(clear, factor=draw.uniform(0.1, 0.7))
    return quantise(add_snow(dull, flakes, whiteness=draw.uniform(0.1, 0.45))), clear


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
