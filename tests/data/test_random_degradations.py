"""Random bad conditions: what training draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from fairweather.data.degradations import add_light
from fairweather.data.random_degradations import (
    DEGRADATIONS,
    imagined_depth,
    random_clouds,
    random_depth_haze,
    random_lamps,
    random_street_lamps,
    random_transmission,
)
from fairweather.metrics import psnr


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name != "none"])
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(name: str) -> None:
    clear = torch.rand(3, 40, 48, generator=seeded())
    outcomes = [DEGRADATIONS[name](clear, seeded(s)) for s in (5, 5, 6)]
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert not torch.equal(outcomes[0][0], outcomes[2][0])


@pytest.mark.parametrize("name", list(DEGRADATIONS))
def test_random_degradations_are_finite_keep_the_size_and_leave_the_clear_picture(name: str) -> None:
    clear = torch.rand(3, 33, 50, generator=seeded())
    before = clear.clone()
    for seed in range(30):
        degraded, target = DEGRADATIONS[name](clear, seeded(seed))
        assert degraded.shape == target.shape == clear.shape
        assert degraded.isfinite().all()
        assert 0 <= target.min() <= target.max() <= 1
    assert torch.equal(clear, before)


def test_random_transmission_is_thin_to_dense_smooth_and_mostly_thicker_above() -> None:
    maps = [random_transmission(96, 128, seeded(s)) for s in range(300)]
    means = torch.stack([t.mean() for t in maps])
    assert all(0 < t.min() <= t.max() <= 1 for t in maps)
    assert 0.09 < means.min() < 0.15
    assert 0.9 < means.max() < 0.97
    assert max(float((t.diff(dim=1)).abs().max()) for t in maps) < 0.25
    assert 20 <= sum(float(t.std()) < 1e-4 for t in maps) <= 70  # even haze
    assert 0.5 < sum(bool(t[:, :30].mean() < t[:, -30:].mean() - 1e-4) for t in maps) / 300 < 0.75


def test_an_imagined_depth_steps_where_the_picture_does_and_nowhere_else() -> None:
    halves = torch.full((3, 96, 128), 0.2)
    halves[:, :, 64:] = 0.8
    depths = [imagined_depth(halves, seeded(s)) for s in range(40)]
    assert all(d.min() > 0 and d.max() == pytest.approx(1) for d in depths)
    steps = torch.stack(
        [d.diff(dim=2).abs().mean(dim=(0, 1)) for d in depths]
    )  # between neighbouring columns
    assert steps[:, 60:67].amax(dim=1).median() > 5 * steps[:, 20:40].amax(dim=1).median()
    assert sum(bool(d[:, :30].mean() > d[:, -30:].mean()) for d in depths) > 22  # above is mostly farther


def test_clouds_leave_holes_and_lamps_have_colours() -> None:
    clouds = [random_clouds(64, 64, seeded(s)) for s in range(40)]
    assert sum(bool(t.max() - t.min() > 0.25) for t in clouds) > 20
    lamps = [random_lamps(64, 64, seeded(s)) for s in range(40)]
    assert all(0 <= light.min() <= light.max() <= 1 for light in lamps)
    assert sum(bool((light[0] - light[2]).max() > 0.1) for light in lamps) > 20  # warm


def test_rain_makes_halos_of_lamps_and_a_dry_night_has_none() -> None:
    dark = torch.full((3, 64, 64), 0.1)
    lamps = [random_street_lamps(64, 64, seeded(s)) for s in range(40)]
    seen = [x for x in lamps if x.light.amax() > 0.5]
    assert len(seen) > 20  # the others are outside the picture
    assert all(0 <= x.halo.min() <= x.halo.max() <= 1 for x in lamps)
    bright = [(x.light > 0.5 * x.light.max()).sum() for x in seen]
    wide = [(x.halo > 0.5 * x.halo.max()).sum() for x in seen]
    assert 5 * sum(bright) < sum(wide)
    differs = torch.stack([(add_light(dark, x.halo) - dark).mean() for x in lamps])
    assert differs.min() > 0
    nights = [DEGRADATIONS["rain"](dark, seeded(s)) for s in range(400)]
    lit = [(rainy, target) for rainy, target in nights if target.amax() > 0.5]
    assert 20 < len(lit) < 100
    assert 0 < sum(torch.equal(rainy, target) for rainy, target in lit) < 12  # dry, lamps and all


def test_showers_show_before_what_is_dark_and_not_before_a_bright_sky() -> None:
    scene = torch.full((3, 96, 96), 0.15)
    scene[:, :48] = 1.0
    showers = [DEGRADATIONS["showers"](scene, seeded(s)) for s in range(60)]
    assert all(torch.equal(target, scene) for _, target in showers)
    # JPEG and sharpening reach a few pixels over the horizon
    sky, ground = (
        torch.stack([(rainy - scene)[:, rows] for rainy, _ in showers]) for rows in (slice(40), slice(56, 96))
    )
    assert (sky.std(dim=(1, 2, 3)) <= 0.1 * ground.std(dim=(1, 2, 3))).all()
    assert (ground.amax(dim=(1, 2, 3)) > 0.1).float().mean() > 0.9
    apart = torch.stack([psnr(rainy[None], scene[None]).squeeze() for rainy, _ in showers])
    assert 18 < apart.median() < 32  # lighter than the rain of random_rain


def test_a_picture_that_is_not_degraded_stays_as_it_is() -> None:
    clear = torch.rand(3, 8, 9, generator=seeded())
    degraded, target = DEGRADATIONS["none"](clear, seeded())
    assert torch.equal(degraded, clear)
    assert torch.equal(target, clear)


@pytest.mark.parametrize(
    ("ranges", "betas", "least"),
    [("its", (0.6, 1.8), 0.7), ("ots", (0.4, 2), 0.8), ("wide", (0.25, 3), 0.52)],
)
def test_haze_by_depth_stays_in_its_ranges_and_rounds_to_8_bit(
    ranges: str, betas: tuple[float, float], least: float
) -> None:
    clear = torch.stack([torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1, 3)])
    depth = torch.tensor([[[0.0, 1.0, 1000.0]]])
    for seed in range(60):
        hazy, target = random_depth_haze(clear, depth, seeded(seed), ranges=ranges)
        assert torch.equal(target, clear)
        torch.testing.assert_close(hazy * 255, (hazy * 255).round(), atol=1e-4, rtol=0)
        airlight = hazy[0, 0, 2]
        assert least <= airlight + 0.01
        beta = -math.log(1 - float(hazy[0, 0, 1] / airlight))
        assert betas[0] - 0.1 < beta < betas[1] + 0.2
    linear = random_depth_haze(clear, depth, seeded(0), ranges=ranges, linear=True)[0]
    assert linear[0, 0, 1] > random_depth_haze(clear, depth, seeded(0), ranges=ranges)[0][0, 0, 1]


def test_snow_falls_twice() -> None:
    """Black has no contrast to lose; each fall mixes it with grey by 0.1 to 0.45, so two leave at least this."""
    black = torch.zeros(3, 24, 24)
    darkest = [2 * float(DEGRADATIONS["snow"](black, seeded(s))[0].min()) for s in range(20)]
    assert max(darkest) > 0.45
    assert min(darkest) > 1 - (1 - 0.1) ** 2 - 0.01


def test_mixed_pictures_are_of_both_kinds_and_worse_than_the_clear_one() -> None:
    """Snow lowers the contrast and brightens; the other keeps the mean."""
    clear = torch.rand(3, 8, 8, generator=seeded()).repeat_interleave(6, 1).repeat_interleave(6, 2)
    changes = [DEGRADATIONS["mixed"](clear, seeded(s))[0].mean() - clear.mean() for s in range(60)]
    snowy = sum(bool(change.abs() > 0.05) for change in changes)
    assert 12 <= snowy <= 36
    assert all((DEGRADATIONS["mixed"](clear, seeded(s))[0] - clear).abs().mean() > 0.01 for s in range(20))
