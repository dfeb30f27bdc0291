"""Bad conditions made from clear pictures, as pure seeded functions.

Each effect is one function with explicit parameters (`add_rain`, `add_noise`, `add_haze`, `motion_blur`, `darken`,
`compress`); the `random_...` functions below draw the parameters and are what training uses. Pictures are
(3, h, w), RGB in [0, 1]; randomness comes only from the generator that is passed in, so the same seed gives
the same picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

Picture = Float[Tensor, "3 h w"]
Degradation = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
"""Takes a clear picture and a generator, gives (degraded, target). The target may differ from the clear picture:
a night scene is darkened in both."""


# Noise -----------------------------------------------------------------------------------------------------------


def add_noise(clear: Picture, *, sigma: float, generator: Generator, clip: bool = False) -> Picture:
    """Add white Gaussian noise of standard deviation `sigma` (in 8-bit grey levels).

    Args:
        clip: clip to [0, 1] and round to 8 bit, as a camera's file would be; denoising papers do not.

    >>> noisy = add_noise(torch.zeros(3, 64, 64), sigma=25, generator=Generator().manual_seed(0))
    >>> round(float(noisy.std()) * 255)
    25
    """
    noisy = clear + sigma / 255 * torch.randn(clear.shape, generator=generator)
    return noisy.clamp(0, 1).mul(255).round().div(255) if clip else noisy


def paper_noise(clear: Picture, *, sigma: float) -> Picture:
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
    half = max(1, math.ceil(length / 2 + 2 * thickness))
    steps = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    radians = math.radians(angle)
    along = y * math.cos(radians) - x * math.sin(radians)
    across = y * math.sin(radians) + x * math.cos(radians)
    kernel = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * torch.exp(-(across**2) / (2 * thickness**2))
    return kernel / kernel.sum()


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
    clear: Picture, streaks: Float[Tensor, "1 h w"], *, brightness: float = 176 / 255, additive: bool = False
) -> Picture:
    """Lay streaks over a picture.

    Blended, I = T + a (C - T), as measured on RoadScene-rain, where bright areas become darker; or additive,
    I = T + a C clipped, as in Rain100.

    Args:
        streaks: opacity a in [0, 1]. brightness: grey level C in [0, 1].

    >>> add_rain(torch.zeros(3, 1, 1), torch.full((1, 1, 1), 0.5), brightness=0.8)[0, 0, 0]
    tensor(0.4000)
    """
    if additive:
        return (clear + streaks * brightness).clamp(0, 1)
    return clear + streaks * (brightness - clear)


# Haze, blur, darkness, compression ------------------------------------------------------------------------------


def add_haze(clear: Picture, depth: Float[Tensor, "1 h w"], *, beta: float, airlight: float = 0.9) -> Picture:
    """Haze a clear picture by its depth, with the atmospheric scattering model.

    I(x) = J(x) t(x) + A (1 - t(x)),  t(x) = exp(-beta d(x))      (He et al., CVPR 2009, section 2)

    Args:
        depth: distance d in metres, >= 0. beta: scattering coefficient in 1/m; 0 leaves the picture as it is.
        airlight: atmospheric light A in [0, 1], grey.

    Raises:
        ValueError: if beta is negative.

    >>> add_haze(torch.zeros(3, 1, 1), torch.ones(1, 1, 1), beta=1.0, airlight=1.0)[0, 0, 0]
    tensor(0.6321)
    """
    if beta < 0:
        raise ValueError(f"beta is a scattering coefficient and must be >= 0 (1/m), got {beta}")
    transmission = torch.exp(-beta * depth)
    return clear * transmission + airlight * (1 - transmission)


def motion_blur(clear: Picture, *, length: float, angle: float) -> Picture:
    """Blur along a straight line, as a camera or an object moving evenly during the exposure.

    Args:
        length: of the motion in pixels; 1 leaves the picture nearly as it is. angle: degrees off vertical.
    """
    kernel = line_kernel(length, angle, 0.4)
    margin = kernel.shape[-1] // 2
    return _convolve(F.pad(clear, (margin,) * 4, mode="replicate"), kernel)


def darken(clear: Picture, *, gain: float, gamma: float, cast: tuple[float, float, float]) -> Picture:
    """A night exposure of a day picture: gain * clear^gamma, with a colour cast of the lamps."""
    return (gain * clear.clamp_min(0) ** gamma * torch.tensor(cast).view(3, 1, 1)).clamp(0, 1)


def compress(picture: Picture, *, quality: int, subsampling: bool) -> Picture:
    """Through JPEG and back, with the losses of a camera's or a web page's file."""
    array = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=2 if subsampling else 0)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float().div_(255)


# Random draws, for training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """Random numbers from one generator."""

    generator: Generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability


def random_noise(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Noise of sigma 0 to 55, one time in five clipped and rounded like a camera's file."""
    draw = _Draw(generator)
    sigma = draw.uniform(0, 55)
    return add_noise(clear, sigma=sigma, generator=generator, clip=draw.chance(0.2)), clear


def random_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rain of many kinds: any direction, fine to coarse, sparse to dense, day and night, sometimes with a veil of mist.

    One picture in twenty stays without rain, so that a clear picture is left alone.
    """
    draw = _Draw(generator)
    target = _random_night(clear, draw) if draw.chance(0.3) else clear
    if draw.chance(0.05):
        return target, target
    height, width = clear.shape[-2:]
    rainy = target
    if draw.chance(0.3):  # distant rain that has merged into a veil
        veil = draw.uniform(0.02, 0.25)
        rainy = rainy + veil * (draw.uniform(0.5, 0.9) - rainy)
    angle = draw.uniform(-60, 60)
    additive = draw.chance(0.5)
    layers = 1 if draw.chance(0.6) else int(draw.uniform(2, 5))
    for _ in range(layers):
        std = draw.log_uniform(0.06, 0.6)
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
        rainy = add_rain(rainy, streaks, brightness=draw.uniform(0.5, 1.0), additive=additive)
    if draw.chance(0.3):
        rainy = compress(rainy, quality=int(draw.uniform(80, 99)), subsampling=draw.chance(0.7))
    return rainy, target


def random_roadscene_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rain with the measured properties of RoadScene-rain, its spread of directions and its JPEG included."""
    draw = _Draw(generator)
    streaks = rain_streaks(
        *clear.shape[-2:],
        mean=draw.uniform(0.12, 0.16),
        std=draw.uniform(0.135, 0.165),
        angle=draw.uniform(26.9, 30.3),
        generator=generator,
    )
    return compress(add_rain(clear, streaks), quality=97, subsampling=True), clear


def _random_night(clear: Tensor, draw: _Draw) -> Tensor:
    cast = (1.0, draw.uniform(0.75, 1.0), draw.uniform(0.5, 1.0))
    cast = cast if draw.chance(0.7) else cast[::-1]
    return darken(clear, gain=draw.uniform(0.25, 0.9), gamma=draw.uniform(1.0, 2.2), cast=cast)


def random_blur(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Straight motion blur of 1 to 25 pixels in any direction."""
    draw = _Draw(generator)
    return motion_blur(clear, length=draw.uniform(1, 25), angle=draw.uniform(-90, 90)), clear


DEGRADATIONS: dict[str, Degradation] = {
    "noise": random_noise,
    "rain": random_rain,
    "roadscene_rain": random_roadscene_rain,
    "blur": random_blur,
}
"""Random degradations by name, as recipes ask for them."""
