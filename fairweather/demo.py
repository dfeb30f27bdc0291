"""Before and after on photographs that everybody has: scikit-image's, degraded by our own synthesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fairweather import images
from fairweather.auto import done_about, told
from fairweather.compare import side_by_side
from fairweather.data.degradations import (
    add_haze,
    add_noise,
    add_rain,
    blur_by,
    darken,
    gaussian_kernel,
    quantise,
    rain_streaks,
    shake_kernel,
)
from fairweather.data.depth import fill_nearest
from fairweather.depth_picture import coloured
from fairweather.errors import MissingExtraError
from fairweather.loading import load
from fairweather.metrics import score
from fairweather.night import NightRestorer


@dataclass(frozen=True)
class Scene:
    """One demonstration: a photograph, what befalls it, and the task that mends it."""

    photograph: str
    """A name in skimage.data."""
    title: str
    task: str
    degrade: Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
    heat: Callable[[Tensor], Tensor] | None = None
    """What an infrared camera would see of the clear photograph, for tasks that take its picture."""


@dataclass(frozen=True)
class Shown:
    """What a scene gave."""

    scene: Scene
    psnr_before: float
    psnr_after: float
    """Of the restored picture; where two cameras were fused, of the cleaned one, since fusing has no truth."""
    seconds: float
    found: str
    """What was found in the picture and done about it; "" where the task was given."""
    comparison: Path


def night_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Dusk, slanting streaks of two layers, and a little mist."""
    dusk = darken(clear, gain=0.9, gamma=1.3, cast=(0.9, 0.93, 1.0))
    height, width = clear.shape[-2:]
    near = rain_streaks(
        height, width, mean=0.0, std=0.14, length=34, angle=24, thickness=0.9, generator=generator
    )
    far = rain_streaks(height, width, mean=0.08, std=0.12, length=20, angle=27, generator=generator)
    return add_rain(add_rain(dusk, far), near, brightness=0.8), dusk


def warmth(clear: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """A stand-in for an infrared picture, since nobody photographed these scenes with one: red and skin colours are
    warm, dark and blue things cold, and all of it is less sharp than light."""
    red, _, blue = clear.unbind(0)
    warm = (0.1 + 0.3 * clear.mean(dim=0) + 0.7 * (red - blue).clamp_min(0)).clamp(0, 1)
    return blur_by(warm.expand(3, -1, -1), gaussian_kernel(1.2, across=1.2, angle=0))[:1]


def late_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """As `night_rain`, much darker."""
    rainy, night = night_rain(darken(clear, gain=0.55, gamma=1.5, cast=(1.0, 1.0, 1.0)), generator)
    return rainy, night


def heavy_rain(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Bright streaks by day."""
    height, width = clear.shape[-2:]
    streaks = rain_streaks(
        height, width, mean=-0.12, std=0.22, length=26, angle=-14, thickness=0.8, generator=generator
    )
    return add_rain(clear, streaks, brightness=0.85, additive=True), clear


def strong_noise(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A small sensor in the dark: sigma 40, clipped and rounded as a file is."""
    return add_noise(clear, sigma=40, generator=generator, clip=True), clear


def dense_haze(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Haze by the measured depth of skimage.data.stereo_motorcycle: three fifths of the light of the nearest things
    arrive, three tenths of that of the farthest, at 5 m."""
    return add_haze(clear, motorcycle_depth(), beta=1.2, airlight=0.9), clear


def shaken(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A crooked path of a hand-held camera, 9 pixels across, added up in light."""
    return quantise(blur_by(clear, shake_kernel(9, generator), gamma=2.2)), clear


def rain_and_noise(clear: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Bright streaks, and a small sensor."""
    rainy, _ = heavy_rain(clear, generator)
    return add_noise(rainy, sigma=15, generator=generator, clip=True), clear


def motorcycle_depth() -> Float[Tensor, "1 h w"]:
    """Relative depth of the motorcycle scene, 1 for the farthest: 1 / (disparity + 31.086), the number of pixels by
    which the principal points of its two cameras differ. Holes in the disparity have the nearest known value."""
    disparity = torch.from_numpy(_skimage("stereo_motorcycle")[2].astype("float32"))[None]
    known = disparity.isfinite()
    inverse = fill_nearest(disparity.where(known, torch.tensor(0.0)), known) + 31.086
    return inverse.min() / inverse


SCENES: tuple[Scene, ...] = (
    Scene("stereo_motorcycle", "haze by true depth", "dehaze", dense_haze),
    Scene("rocket", "rain at night", "derain", night_rain),
    Scene("coffee", "rain by day", "derain", heavy_rain),
    Scene("astronaut", "noise, sigma 40", "denoise", strong_noise),
    Scene("astronaut", "rain in the dark, and an infrared camera", "night", late_rain, warmth),
    Scene("coffee", "a shaken camera", "deblur", shaken),
    Scene("chelsea", "rain and noise", "auto", rain_and_noise),
)


def photograph(name: str) -> Float[Tensor, "3 h w"]:
    """A photograph that comes with scikit-image; of a stereo pair the left one."""
    found = _skimage(name)
    return images.from_array(found[0] if isinstance(found, tuple) else found).pixels


def _skimage(name: str) -> Any:
    try:
        from skimage import data
    except ImportError:
        raise MissingExtraError("the demo", "demo") from None
    return getattr(data, name)()


def run_demo(output: Path, *, device: str = "auto") -> Iterator[Shown]:
    """Degrade, restore and write `<photograph>-<task>-before.png`, `-after.png` and `-comparison.png`."""
    restorers = {task: load(task, device=device) for task in {scene.task for scene in SCENES}}
    for scene in SCENES:
        clear = photograph(scene.photograph)
        degraded, target = scene.degrade(clear, Generator().manual_seed(0))
        before = (degraded.clamp(0, 1) * 255).round() / 255  # as its file holds it
        restorer = restorers[scene.task]
        if isinstance(restorer, NightRestorer) and scene.heat:
            heat = scene.heat(clear)
            result = restorer.restore(before, heat)
            columns = {
                f"before: {scene.title}": before,
                "infrared (synthetic)": heat.expand(3, -1, -1),
                "cleaned": result.clean,
                "fused": result.image,
            }
        else:
            result = restorer.restore(before)
            columns = {f"before: {scene.title}": before, "after": result.image, "truth": target}
        stem = f"{scene.photograph}-{scene.task}"
        found = (
            f"{told(result.findings)}: {done_about(result.findings, result.steps)}" if result.findings else ""
        )
        if result.depth is not None:
            columns["depth found: near is bright"] = coloured(result.depth)
        for name, pixels in (
            ("before", before),
            ("after", result.image),
            ("comparison", side_by_side(columns)),
        ):
            images.write_picture(images.Picture(pixels=pixels), output / f"{stem}-{name}.png")
        yield Shown(
            scene,
            score("rgb", before, target).psnr,
            score("rgb", result.image if result.clean is None else result.clean, target).psnr,
            result.seconds,
            found,
            output / f"{stem}-comparison.png",
        )
