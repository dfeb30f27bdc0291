"""Bad conditions made from clear pictures, as pure seeded functions.

Each effect is one function with explicit parameters (`add_rain`, `add_noise`, `add_haze`, `scatter`, `motion_blur`,
`darken`, `compress`); random_degradations.py draws the parameters, for training. Pictures are (3, h, w), RGB in
[0, 1]; randomness comes only from the generator that is passed in, so the same seed gives the same picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

Pixels = Float[Tensor, "3 h w"]
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
