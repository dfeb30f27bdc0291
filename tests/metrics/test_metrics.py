"""Scores: numbers by hand, properties, and scikit-image as referee."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fairweather.errors import DataError, UsageError
from fairweather.metrics import PROFILES, Profile, Scores, ScoreTable, luma_bt601, psnr, score, ssim
from fairweather.metrics.ssim import Border


def two_pictures(height: int = 37, width: int = 45) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, height, width, generator=generator)
    noise = 0.1 * torch.randn(3, height, width, generator=generator)
    return (target + noise).clamp(0, 1), target


def test_psnr_by_hand() -> None:
    output, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    output[0] = 0.1  # mse 0.01: 20 dB
    output[1, 0] = 0.1  # in one channel of three: 20 + 10 log10(3) dB
    assert psnr(output, target).tolist() == pytest.approx([20.0, 24.7712], abs=1e-4)
    assert psnr(255 * output, 255 * target, data_range=255).tolist() == pytest.approx(
        [20.0, 24.7712], abs=1e-4
    )


def test_psnr_of_identical_pictures_is_infinite() -> None:
    picture = torch.rand(2, 3, 5, 5)
    assert psnr(picture, picture).tolist() == [math.inf, math.inf]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20))
def test_psnr_agrees_with_scikit_image(seed: int, height: int, width: int) -> None:
    output, target = np.random.default_rng(seed).random((2, 3, height, width))
    expected = peak_signal_noise_ratio(target, output, data_range=1)  # type: ignore[no-untyped-call]
    assert psnr(torch.from_numpy(output)[None], torch.from_numpy(target)[None]).item() == pytest.approx(
        expected, abs=1e-6
    )


Padding = Literal["edge", "constant"]


def referee(output: torch.Tensor, target: torch.Tensor, pad: Padding | None) -> float:
    """scikit-image's SSIM, on a picture continued far enough that its own border handling is cut off again."""
    x, y = output.double().numpy(), target.double().numpy()
    if pad is not None:
        x, y = (np.pad(z, ((0, 0), (5, 5), (5, 5)), mode=pad) for z in (x, y))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    value: float = structural_similarity(x, y, data_range=1, **options)  # type: ignore[no-untyped-call]
    return value


@pytest.mark.parametrize(("border", "pad"), [("valid", None), ("replicate", "edge"), ("zero", "constant")])
@pytest.mark.parametrize("size", [(37, 45), (11, 11)])
def test_ssim_agrees_with_scikit_image(border: Border, pad: Padding | None, size: tuple[int, int]) -> None:
    output, target = two_pictures(*size)
    found = ssim(output[None], target[None], border=border).item()
    assert found == pytest.approx(referee(output, target, pad), abs=1e-6)


@pytest.mark.parametrize("size", [(37, 45), (7, 7)])
def test_ssim_with_a_uniform_window_is_scikit_images_default(size: tuple[int, int]) -> None:
    output, target = two_pictures(*size)
    expected = structural_similarity(  # type: ignore[no-untyped-call]
        output.double().numpy(), target.double().numpy(), data_range=1, channel_axis=0
    )
    assert ssim(output[None], target[None], window="uniform").item() == pytest.approx(expected, abs=1e-9)
    assert math.isnan(ssim(output[None, :, :6], target[None, :, :6], window="uniform").item())


def test_ssim_by_hand_for_flat_pictures() -> None:
    # No variance: (2 * .5 * 1 + C1) / (.25 + 1 + C1), C1 = 1e-4
    found = ssim(torch.full((1, 3, 12, 12), 0.5), torch.ones(1, 3, 12, 12))
    assert found.item() == pytest.approx(1.0001 / 1.2501, abs=1e-9)


@pytest.mark.parametrize("border", ["valid", "replicate", "zero"])
def test_identical_images_give_ssim_1_and_order_does_not_matter(border: Border) -> None:
    output, target = two_pictures()
    x, y = output[None], target[None]
    assert ssim(x, x, border=border).item() == pytest.approx(1, abs=1e-12)
    assert ssim(x, y, border=border).item() == pytest.approx(ssim(y, x, border=border).item(), abs=1e-12)


def test_ssim_scales_with_the_data_range() -> None:
    output, target = two_pictures()
    small, large = (
        ssim(output[None], target[None]),
        ssim(output[None] * 255, target[None] * 255, data_range=255),
    )
    assert small.item() == pytest.approx(large.item(), abs=1e-6)


def test_pictures_smaller_than_the_window_have_no_valid_ssim() -> None:
    output, target = two_pictures(10, 30)
    assert math.isnan(ssim(output[None], target[None]).item())
    assert math.isfinite(ssim(output[None], target[None], border="replicate").item())
    scores = score("rgb", output, target)
    assert math.isfinite(scores.psnr)
    assert math.isnan(scores.ssim)


def test_each_picture_of_a_batch_is_scored_alone() -> None:
    output, target = two_pictures()
    x, y = torch.stack([output, target]), torch.stack([target, output * 0.5])
    for metric in (psnr, ssim):
        alone = [metric(x[i : i + 1], y[i : i + 1]).item() for i in range(2)]
        assert metric(x, y).tolist() == pytest.approx(alone, abs=1e-12)


def test_metrics_are_float64_and_keep_no_gradient() -> None:
    output, target = two_pictures()
    x = output[None].requires_grad_()
    for metric in (psnr, ssim):
        found = metric(x, target[None])
        assert found.dtype == torch.float64
        assert not found.requires_grad


def test_different_shapes_are_refused() -> None:
    for metric in (psnr, ssim):
        # A TypeError where jaxtyping checks the annotations, as it may under pytest.
        with pytest.raises((UsageError, TypeError), match=r"12, ?13"):
            metric(torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 13))


def test_luma_of_the_primaries() -> None:
    rgb = torch.eye(3).view(3, 3, 1, 1)
    assert luma_bt601(rgb).flatten().tolist() == pytest.approx([81.481, 144.553, 40.966], abs=1e-4)
    assert luma_bt601(torch.zeros(1, 3, 1, 1)).item() == 16


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_scores_and_is_described(name: str) -> None:
    output, target = two_pictures()
    found = score(name, output, target)
    assert PROFILES[name].name == name
    assert PROFILES[name].description.endswith(".")
    assert 15 < found.psnr < 35
    assert 0 < found.ssim < 1
    assert score(PROFILES[name], output, target) == found
    assert found.profile == name
    assert score(name, target, target)[:2] == pytest.approx((PROFILES[name].identical, 1.0))


def test_profiles_clamp_the_output() -> None:
    output, target = two_pictures()
    assert score("rgb_float", output + 2, target) == score("rgb_float", torch.ones_like(target), target)


def test_rounding_is_half_to_even() -> None:
    target = torch.zeros(3, 12, 12)
    assert score("rgb", torch.full_like(target, 0.5 / 255), target).psnr == math.inf
    one_and_a_half = torch.full_like(target, 1.5 / 255)
    assert score("rgb", one_and_a_half, target).psnr == pytest.approx(20 * math.log10(255 / 2), abs=1e-9)
    assert score("rgb_float", one_and_a_half, target).psnr == pytest.approx(
        20 * math.log10(255 / 1.5), abs=1e-5
    )


@pytest.mark.parametrize(("side", "ratio"), [(383, 1), (384, 2), (640, 2)])
def test_dehazing_ssim_shrinks_to_about_256_with_halves_to_even(side: int, ratio: int) -> None:
    output, target = two_pictures(side, side + 12)
    small = [F.adaptive_avg_pool2d(x, (side // ratio, (side + 12) // ratio)) for x in (output, target)]
    assert score("dehazeformer", output, target).ssim == pytest.approx(
        score("rgb_float", small[0], small[1]).ssim, abs=1e-6
    )
    assert score("dehazeformer", output, target).psnr == score("rgb_float", output, target).psnr


def test_all_in_one_scores_are_scikit_images_of_clamped_pictures_without_rounding() -> None:
    output, target = two_pictures()
    output = output * 1.2
    found = score("all_in_one", output, target)
    x, y = output.clamp(0, 1).double().numpy(), target.double().numpy()
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-9)  # type: ignore[no-untyped-call]
    assert found.ssim == pytest.approx(
        structural_similarity(y, x, data_range=1, channel_axis=0),  # type: ignore[no-untyped-call]
        abs=1e-9,
    )
    irconstyle = score("irconstyle", output, target)
    assert irconstyle.psnr != found.psnr  # rounded
    assert abs(irconstyle.ssim - found.ssim) > 1e-4  # another window


def test_irconstyle_scores_are_those_of_rgb_and_y() -> None:
    output, target = two_pictures()
    for name, same in (("irconstyle", "rgb"), ("irconstyle_padded", "rgb"), ("irconstyle_padded_y", "y")):
        assert score(name, output, target)[:2] == score(same, output, target)[:2]
    assert [name for name, profile in PROFILES.items() if profile.score_padding] == [
        "irconstyle_padded",
        "irconstyle_padded_y",
    ]


def test_dehazing_scores_of_a_saved_file_are_those_of_its_8_bit_values() -> None:
    output, target = two_pictures()
    saved = (output * 255).round() / 255
    assert score("dehazeformer_8bit", output, target) != score("dehazeformer", output, target)
    assert score("dehazeformer_8bit", output, target).psnr == score("rgb", saved, target).psnr


def test_half_precision_outputs_are_scored() -> None:
    output, target = two_pictures()
    assert score("rgb", output.half(), target).psnr == pytest.approx(
        score("rgb", output, target).psnr, abs=0.05
    )


def test_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'nitedr'"):
        score("nitdr", *two_pictures())


def test_own_profile_is_accepted() -> None:
    mine = Profile("mine", "y", False, "zero", "Unrounded luma on a black border.")
    assert score(mine, *two_pictures()).ssim < 1


def filled_table() -> ScoreTable:
    table = ScoreTable()
    for i in range(20):
        table.add(f"{i:02}.png", "heavy" if i % 2 else "light", Scores(30.0 + i, 0.8), Scores(20.0, 0.5))
    return table


def test_table_averages_per_picture_and_per_group() -> None:
    table = filled_table()
    assert dataclasses.astuple(table.overall()) == pytest.approx((20, 39.5, 0.8, 20.0, 0.5))
    assert {name: means.psnr for name, means in table.groups().items()} == {"light": 39.0, "heavy": 40.0}
    assert sum(means.count for means in table.groups().values()) == 20
    assert table.rows[3].name == "03.png"


def test_scores_of_two_profiles_never_share_a_table() -> None:
    table, (output, target) = ScoreTable(), two_pictures()
    first, second = score("irconstyle", output, target), score("all_in_one", output, target)
    table.add("1.png", "light", first, first)
    for mixed in ((second, second), (first, second)):
        with pytest.raises(
            UsageError, match="of the profiles all_in_one and irconstyle cannot share a table"
        ):
            table.add("2.png", "light", *mixed)
    assert len(table.rows) == 1


def test_table_lists_the_worst_pictures_first() -> None:
    table = filled_table()
    assert [row.name for row in table.worst()] == [f"{i:02}.png" for i in range(10)]
    table.add("broken.png", "light", Scores(math.nan, math.nan), Scores(20.0, 0.5))
    assert table.worst(1)[0].name == "broken.png"
    assert math.isnan(table.overall().psnr)  # nothing is left out silently


def test_interval_is_seeded_and_holds_the_mean() -> None:
    table = filled_table()
    low, high = table.interval()
    assert low < table.overall().psnr < high
    # Standard error by hand: sd 5.766 / sqrt(20) = 1.29, so about 39.5 - 2.53 and 39.5 + 2.53
    assert (low, high) == pytest.approx((36.97, 42.03), abs=0.4)
    assert table.interval() == (low, high)
    assert table.interval(seed=1) != (low, high)


def test_identical_pictures_make_the_interval_infinite_but_not_nan() -> None:
    table = filled_table()
    table.add("same.png", "light", Scores(math.inf, 1.0), Scores(math.inf, 1.0))
    low, high = table.interval()
    assert math.isfinite(low)
    assert high == math.inf


def test_empty_table_says_so() -> None:
    for ask in (ScoreTable().overall, ScoreTable().interval):
        with pytest.raises(DataError, match="no picture has been scored"):
            ask()


def test_dehazing_codes_score_identical_pictures_with_100() -> None:
    picture = torch.rand(3, 20, 20)
    found = {
        name: score(name, picture, picture).psnr for name in ("dcmpnet", "dehazeformer", "dehazeformer_8bit")
    }
    assert found == dict.fromkeys(found, 100.0)
    assert score("dcmpnet", picture + 1e-6, picture).psnr > 100  # nearly identical ones are not cut
