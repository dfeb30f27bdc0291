"""Fusion scores: values stored with four fused pictures, properties, numbers by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fairweather.errors import MissingExtraError, UsageError
from fairweather.metrics import psnr
from fairweather.metrics.fusion import (
    PAPER,
    FusionScores,
    correlation,
    edge_map,
    feature_information,
    fusion_scores,
    grey_8bit,
    mutual_information,
    peak_ratio,
    wavelet_map,
)

STORED = np.load(Path(__file__).parents[1] / "parity" / "nitedr_metrics.io.npz")


def picture(name: str) -> Tensor:
    return torch.from_numpy(STORED[name])[None].float() / 255  # 1 h w


def pair() -> tuple[Tensor, Tensor]:
    return picture("vi_a"), picture("ir_a")


@pytest.mark.parametrize("fused", ["avg_a", "mix_a", "avg_b", "mix_b"])
def test_scores_are_the_stored_ones(fused: str) -> None:
    scene = fused[-1]
    found = fusion_scores(picture(f"fused_{fused}"), picture(f"vi_{scene}"), picture(f"ir_{scene}"))
    expected = FusionScores(*STORED[f"metrics_{fused}"].tolist())
    assert found._asdict() == pytest.approx(expected._asdict(), rel=1e-9)


def test_the_paper_is_consistent_with_the_unusual_peak() -> None:
    # Its PSNR is a mean of logarithms, so it lies a little above the PSNR of its mean MSE.
    assert 0 < PAPER.psnr - 10 * math.log10(255**2 / PAPER.mse) < 1.5


def test_the_plain_average_has_the_largest_psnr() -> None:
    visible, infrared = (grey_8bit(p) for p in pair())
    average = peak_ratio((visible + infrared) / 2, visible, infrared)
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.49, 0.51, 0.7, 1.0):
        assert peak_ratio(share * visible + (1 - share) * infrared, visible, infrared) < average
    for noise in (0.1, 1, 10):
        other = (visible + infrared) / 2 + noise * rng.standard_normal(visible.shape)
        assert peak_ratio(other, visible, infrared) < average


def test_psnr_reads_48_db_too_high() -> None:
    visible, _ = pair()
    fused = picture("fused_avg_a")
    found = fusion_scores(fused, visible, visible).psnr
    assert found == pytest.approx(psnr(fused[None], visible[None]).item() + 20 * math.log10(255), abs=1e-4)


def test_identical_pictures_have_the_largest_scores() -> None:
    visible, _ = pair()
    found = fusion_scores(visible, visible, visible)
    counts = np.unique(STORED["vi_a"], return_counts=True)[1] / visible.numel()
    assert found._asdict() == pytest.approx(
        FusionScores(
            psnr=math.inf,
            ssim=1,
            ms_ssim=1,
            mi=-2 * (counts * np.log2(counts)).sum(),  # the picture's own entropy, twice
            vif=2,
            cc=1,
            fmi_pixel=1,
            fmi_dct=1,
            fmi_w=1,
            mse=0,
            qabf=0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)),
        )._asdict(),
        abs=1e-3,
    )
    assert found.cc == pytest.approx(1, abs=1e-12)
    assert found.vif == pytest.approx(2, abs=1e-9)


def test_the_two_sources_count_alike_but_for_fmi() -> None:
    visible, infrared = pair()
    fused = picture("fused_mix_a")
    one, other = fusion_scores(fused, visible, infrared), fusion_scores(fused, infrared, visible)
    for name in set(FusionScores._fields) - {"fmi_pixel", "fmi_dct", "fmi_w"}:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9), name
    assert one.fmi_pixel != other.fmi_pixel  # the collection's quirk: the infrared picture comes first


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_pictures_give_finite_scores(level: float) -> None:
    visible, infrared = pair()
    flat = torch.full_like(visible, level)
    for pictures in ((flat, visible, infrared), (visible, flat, infrared), (visible, infrared, flat)):
        assert np.isfinite(fusion_scores(*pictures)).all()
    found = fusion_scores(flat, flat, flat)
    assert found.psnr == math.inf
    assert np.isfinite(found[1:]).all()
    assert (found.mi, found.vif, found.cc) == (0, 0, 0)  # nothing to share
    assert fusion_scores(flat, visible, infrared).cc == 0


def test_an_inverted_picture_has_correlation_minus_one_and_the_same_information() -> None:
    visible = grey_8bit(pair()[0])
    inverted = 255 - visible
    assert correlation(inverted, visible, visible) == pytest.approx(-1, abs=1e-12)
    assert mutual_information(inverted, visible, visible) == pytest.approx(
        mutual_information(visible, visible, visible), rel=1e-12
    )


def test_255_counts_as_254_only_in_the_joint_histogram() -> None:
    x = np.array([[254.0, 255.0], [254.0, 255.0]])
    assert mutual_information(x, x, x) == 2 * (1 + 1 - 0)


def test_windows_that_rise_and_fall_together_hold_all_of_each_other() -> None:
    i, j = np.mgrid[:6, :7].astype(float)
    rising = i + 3 * j  # along each window, column by column
    assert feature_information(2 * rising + 1, rising, rising) == pytest.approx(1, abs=1e-12)
    assert feature_information(-rising, rising, rising) == pytest.approx(1, abs=1e-12)
    flat = np.zeros_like(rising)
    assert feature_information(flat, rising, rising) == pytest.approx(0, abs=1e-12)
    assert feature_information(rising, flat, rising) == pytest.approx(0.5, abs=1e-12)


def test_a_flat_fused_window_is_not_found_flat_in_the_visible_one_once_the_infrared_one_differs() -> None:
    rng = np.random.default_rng(0)
    flat, textured = np.zeros((5, 6)), rng.random((5, 6))
    assert feature_information(flat, textured, flat) == pytest.approx(0.5)
    assert feature_information(flat, flat, textured) == pytest.approx(0)


def test_a_step_has_one_thin_edge() -> None:
    step = np.zeros((20, 30))
    step[:, 15:] = 200
    for found in (edge_map(step), edge_map(step.T).T):
        assert found.sum() == 20
        assert set(np.flatnonzero(found.any(0))) < {14, 15}
    assert not edge_map(np.full((20, 30), 7.0)).any()


def test_the_wavelet_map_fills_zero_to_one() -> None:
    found = wavelet_map(grey_8bit(pair()[0]))
    assert (found.min(), found.max()) == (0, 1)
    assert not wavelet_map(np.zeros((50, 60))).any()


def test_grey_pictures_in_three_channels_score_like_one() -> None:
    visible, infrared = pair()
    fused = picture("fused_avg_a")
    expected = fusion_scores(fused, visible, infrared)
    assert fusion_scores(fused.expand(3, -1, -1), visible.expand(3, -1, -1), infrared) == expected


def test_values_outside_the_range_are_clamped() -> None:
    found = grey_8bit(torch.tensor([-0.5, 0.4 / 255, 1.6 / 255, 2.0]).view(1, 1, 4))
    assert found.tolist() == [[0, 0, 2, 255]]
    assert grey_8bit(torch.full((3, 1, 1), 1.7)).item() == 255


def test_pictures_that_do_not_fit_are_refused_in_one_line() -> None:
    visible, infrared = pair()
    narrow, two = infrared[:, :, :-1], infrared.expand(2, -1, -1)
    nan = torch.full_like(visible, math.nan)
    small = visible[:, :40]
    for pictures, message in (
        ((visible, visible, narrow), r"infrared is \(1, 72, 87\) and fused \(1, 72, 88\)"),
        ((visible, two, infrared), r"visible is \(2, 72, 88\) .* 1 or 3 channels"),
        ((two, visible, infrared), r"fused is \(2, 72, 88\)"),
        ((small, small, small), r"fused is \(1, 40, 88\); .* at least 41"),
        ((nan, visible, infrared), "fused holds NaN"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            fusion_scores(*pictures)
        assert "\n" not in str(caught.value)


def test_the_smallest_picture_has_scores() -> None:
    visible, infrared = (p[:, :41, :41] for p in pair())
    assert np.isfinite(fusion_scores(picture("fused_avg_a")[:, :41, :41], visible, infrared)).all()


@pytest.mark.parametrize("module", ["scipy.ndimage", "scipy.fft", "pywt"])
def test_a_missing_package_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"fairweather\[night\]"):
        fusion_scores(picture("fused_avg_a"), *pair())
