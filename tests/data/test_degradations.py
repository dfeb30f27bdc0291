"""Degradations: seeded, in range, and with the properties they claim."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from fairweather.data.degradations import (
    add_haze,
    add_noise,
    add_photon_noise,
    add_rain,
    add_snow,
    blur_by,
    compress,
    darken,
    decode_srgb,
    encode_srgb,
    gaussian_kernel,
    line_kernel,
    motion_blur,
    paper_noise,
    rain_streaks,
    scatter,
    shake_kernel,
    sinc_kernel,
    snow_flakes,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_noise_has_its_sigma_and_clipping_gives_8_bit_values() -> None:
    grey = torch.full((3, 128, 128), 0.5)
    assert (add_noise(grey, sigma=25, generator=seeded()) - grey).std() * 255 == pytest.approx(25, rel=0.02)
    clipped = add_noise(grey, sigma=200, generator=seeded(), clip=True) * 255
    assert torch.allclose(clipped, clipped.round(), atol=1e-4)
    assert clipped.min() == 0


def test_paper_noise_is_the_same_for_every_picture() -> None:
    a, b = torch.zeros(3, 8, 9), torch.ones(3, 8, 9)
    torch.testing.assert_close(paper_noise(a, sigma=50), paper_noise(b, sigma=50) - 1)


def test_rain_has_the_measured_properties_of_roadscene_rain() -> None:
    """Specification of NiteDR, section 7: opacity mean 0.154, sd 0.140; percentiles; 0.14 correlation across 2 px."""
    layer = rain_streaks(400, 600, generator=seeded())
    assert layer.mean() == pytest.approx(0.154, abs=0.015)
    assert layer.std() == pytest.approx(0.140, abs=0.01)
    for quantile, value in ((0.5, 0.134), (0.75, 0.234), (0.9, 0.346), (0.99, 0.576)):
        assert torch.quantile(layer[0, ::2], quantile) == pytest.approx(value, abs=0.03)


def _correlation(layer: Tensor, dy: int, dx: int) -> float:
    n = layer[0] - layer.mean()
    a = n[: n.shape[0] - dy, max(0, -dx) : n.shape[1] - max(0, dx)]
    b = n[dy:, max(0, dx) : n.shape[1] - max(0, -dx)]
    return float((a * b).mean() / n.var())


def test_streaks_run_along_their_angle() -> None:
    layer = rain_streaks(300, 300, angle=45.0, length=20, generator=seeded())
    assert _correlation(layer, 6, -6) > 0.35  # from upper right to lower left
    assert abs(_correlation(layer, 6, 6)) < 0.1


def test_a_blended_streak_darkens_bright_and_brightens_dark() -> None:
    streak = torch.full((1, 1, 1), 0.5)
    assert add_rain(torch.ones(3, 1, 1), streak)[0, 0, 0] < 1
    assert add_rain(torch.zeros(3, 1, 1), streak)[0, 0, 0] > 0


def test_additive_rain_never_darkens() -> None:
    clear = torch.rand(3, 20, 20, generator=seeded())
    streaks = rain_streaks(20, 20, generator=seeded())
    assert (add_rain(clear, streaks, additive=True) >= clear).all()


@pytest.mark.parametrize("angle", [0.0, 30.0, -75.0, 90.0])
def test_a_line_kernel_sums_to_one_and_lies_along_its_angle(angle: float) -> None:
    kernel = line_kernel(15, angle, 0.5)
    half = kernel.shape[0] // 2
    y, x = torch.meshgrid(*[torch.arange(-half, half + 1.0)] * 2, indexing="ij")
    across = y * math.sin(math.radians(angle)) + x * math.cos(math.radians(angle))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel * across**2).sum() < 0.5


def test_blur_of_an_even_picture_is_that_picture_and_keeps_the_mean() -> None:
    even = torch.full((3, 20, 30), 0.3)
    torch.testing.assert_close(motion_blur(even, length=9, angle=20), even)
    dot = torch.zeros(3, 41, 41)
    dot[:, 20, 20] = 1
    blurred = motion_blur(dot, length=9, angle=0)
    torch.testing.assert_close(blurred.sum(dim=(1, 2)), torch.ones(3))
    assert blurred[0, 16:25, 20].min() > 0.05  # along the vertical
    assert blurred[0, 20, 24] < 1e-3  # not across


def test_haze_goes_to_the_airlight_with_depth_and_refuses_a_negative_beta() -> None:
    depth = torch.tensor([[[0.0, 1.0, 1000.0]]])
    hazy = add_haze(torch.zeros(3, 1, 3), depth, beta=1.0, airlight=0.8)
    assert hazy[0, 0, 0] == 0
    assert hazy[0, 0, 2] == pytest.approx(0.8)
    with pytest.raises(ValueError, match="beta is a scattering coefficient"):
        add_haze(torch.zeros(3, 1, 3), depth, beta=-1.0)


def test_dense_haze_shows_the_airlight_in_linear_light_too() -> None:
    clear, airlight = torch.rand(3, 4, 5, generator=seeded()), (0.9, 0.8, 0.7)
    for linear in (False, True):
        hazy = scatter(clear, torch.zeros(1, 4, 5), airlight=airlight, linear=linear)
        torch.testing.assert_close(hazy[:, 2, 3], torch.tensor(airlight), atol=1e-5, rtol=0)
        kept = scatter(clear, torch.ones(1, 4, 5), airlight=airlight, linear=linear)
        torch.testing.assert_close(kept, clear, atol=1e-5, rtol=0)


def test_linear_haze_over_dark_is_brighter_than_display_haze() -> None:
    dark, half = torch.zeros(3, 1, 1), torch.full((1, 1, 1), 0.5)
    assert scatter(dark, half, airlight=1.0)[0, 0, 0] == 0.5
    assert scatter(dark, half, airlight=1.0, linear=True)[0, 0, 0] == pytest.approx(0.7354, abs=1e-4)


def test_encoding_srgb_undoes_decoding_it() -> None:
    values = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(encode_srgb(decode_srgb(values)), values, atol=1e-5, rtol=0)


def test_a_bell_has_its_deviations_along_and_across_its_axis() -> None:
    kernel = gaussian_kernel(3.0, across=1.0, angle=0)  # of the vertical
    steps = torch.arange(kernel.shape[0]) - kernel.shape[0] // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    for axis, sigma in ((1, 3.0), (0, 1.0)):
        assert float((kernel.sum(axis) * steps**2).sum()) ** 0.5 == pytest.approx(sigma, rel=0.05)
    torch.testing.assert_close(gaussian_kernel(3.0, across=1.0, angle=90), kernel.T, atol=1e-5, rtol=0)


def test_a_sharp_low_pass_keeps_what_is_slow_rings_and_drops_what_is_fast() -> None:
    kernel = sinc_kernel(math.pi / 2)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() < -1e-3
    x = torch.arange(120.0)
    slow, fast = (torch.sin(w * x).expand(3, 120, 120) * 0.4 + 0.5 for w in (0.3, 2.8))
    torch.testing.assert_close(
        blur_by(slow, kernel)[:, 20:-20, 20:-20], slow[:, 20:-20, 20:-20], atol=0.05, rtol=0
    )
    assert blur_by(fast, kernel)[:, 20:-20, 20:-20].std() < 0.1 * fast.std()


def test_photon_noise_grows_with_the_root_of_the_light() -> None:
    clear = torch.stack([torch.full((200, 200), v) for v in (0.0, 0.25, 1.0)])
    noisy = add_photon_noise(clear, photons=100, generator=seeded())
    assert noisy[0].abs().max() == 0
    assert noisy[1].std() == pytest.approx(0.05, rel=0.05)
    assert noisy[2].std() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(noisy.mean(dim=(1, 2)), clear.mean(dim=(1, 2)), atol=0.003, rtol=0)


def test_snow_only_brightens_and_heavier_snow_more() -> None:
    clear = torch.rand(3, 60, 70, generator=seeded())
    light, heavy = (
        snow_flakes(60, 70, mean=mean, size=2, threshold=0.6, length=8, angle=20, generator=seeded())
        for mean in (0.1, 0.5)
    )
    assert 0 <= light.min() <= light.mean() < heavy.mean() <= heavy.max() <= 1
    assert (add_snow(clear, heavy, whiteness=0.3) >= clear - 1e-6).all()


def test_night_is_darker_and_jpeg_is_close() -> None:
    clear = torch.rand(3, 64, 64, generator=seeded()).cumsum(1) / 64
    assert darken(clear, gain=0.5, gamma=1.5, cast=(1.0, 0.9, 0.8)).mean() < 0.6 * clear.mean()
    assert (compress(clear, quality=95, subsampling=False) - clear).abs().mean() < 0.05


@pytest.mark.parametrize("extent", [2.0, 9.0, 30.0])
def test_a_shaken_point_leaves_a_centred_path_as_long_as_asked(extent: float) -> None:
    for seed in range(10):
        kernel = shake_kernel(extent, seeded(seed))
        side = len(kernel)
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1, abs=1e-4)
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        middle = (side - 1) / 2
        assert (kernel * y).sum() == pytest.approx(middle, abs=0.01)
        assert (kernel * x).sum() == pytest.approx(middle, abs=0.01)
        places = kernel.nonzero().float()
        assert torch.cdist(places, places).max() == pytest.approx(extent, abs=3)


def test_blur_in_light_keeps_lamps_brighter_than_blur_of_display_values() -> None:
    lamp = torch.zeros(3, 21, 21)
    lamp[:, 10, 10] = 1
    kernel = line_kernel(9, 0, 0.5)
    assert blur_by(lamp, kernel, gamma=2.2).max() > 2 * blur_by(lamp, kernel).max()
    flat = torch.full((3, 21, 21), 0.4)
    torch.testing.assert_close(blur_by(flat, kernel, gamma=2.2), flat)
