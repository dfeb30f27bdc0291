"""Scores equal those of the published evaluation codes, on pictures stored with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairweather.metrics import score

HERE = Path(__file__).parent


def rgb(bgr_u8: np.ndarray) -> torch.Tensor:
    """8-bit "h w 3" BGR, as OpenCV reads it, to "3 h w" RGB in [0, 1]."""
    return torch.from_numpy(bgr_u8[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def test_irconstyle_scores() -> None:
    stored = np.load(HERE / "irconstyle_metric.npz")
    output, target = rgb(stored["a_bgr_u8"]), rgb(stored["b_bgr_u8"])
    found = score("irconstyle_padded", output, target)
    assert found.psnr == pytest.approx(stored["psnr_rgb"].item(), abs=1e-9)
    assert found.ssim == pytest.approx(stored["ssim_rgb"].item(), abs=1e-9)
    found = score("irconstyle_padded_y", output, target)  # theirs is computed in float32
    assert found.psnr == pytest.approx(stored["psnr_y"].item(), abs=1e-6)
    assert found.ssim == pytest.approx(stored["ssim_y"].item(), abs=1e-6)
    found = score("irconstyle", output[:, :53, :75], target[:, :53, :75])  # the picture without its padding
    assert found.psnr == pytest.approx(stored["cropped_psnr_rgb"].item(), abs=1e-9)
    assert found.ssim == pytest.approx(stored["cropped_ssim_rgb"].item(), abs=1e-9)


@pytest.mark.parametrize("case", ["a", "b"])
def test_nitedr_scores(case: str) -> None:
    stored = np.load(HERE / "nitedr_derain_metric.npz")
    output, target = rgb(stored[f"rain_bgr_{case}"]), rgb(stored[f"target_bgr_{case}"])
    psnr_y, ssim_y, psnr_rgb = stored[f"derain_{case}"].tolist()
    found = score("nitedr", output, target)  # theirs is computed in float32
    assert found.psnr == pytest.approx(psnr_y, abs=1e-5)
    assert found.ssim == pytest.approx(ssim_y, abs=1e-6)
    assert score("rgb", output, target).psnr == pytest.approx(psnr_rgb, abs=1e-9)


def large_pictures(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair that dcmpnet_metric.npz scores as metric_large: smooth waves, and the same with a fine pattern."""
    y, x = np.mgrid[:height, :width]
    c = np.arange(3)[:, None, None]
    output = 0.5 + 0.5 * np.sin(0.05 * y * (1 + c) + 0.031 * x)
    target = 0.9 * output + 0.1 * (0.5 + 0.5 * np.cos(0.4 * x + 0.2 * y))
    return torch.from_numpy(output).float(), torch.from_numpy(target).float()


def test_dehazing_scores_of_a_small_picture() -> None:
    stored = np.load(HERE / "dcmpnet_metric.npz")
    output, target = (torch.from_numpy(stored[f"metric_small.{name}"][0]) for name in "ab")
    assert stored["metric_small.down_ratio"] == 1
    agree("small", stored, output, target)


def test_dehazing_scores_of_a_picture_that_is_shrunk() -> None:
    stored = np.load(HERE / "dcmpnet_metric.npz")
    output, target = large_pictures(*stored["metric_large.shape"].tolist())
    assert stored["metric_large.down_ratio"] == 2
    agree("large", stored, output, target)
    full, shrunk = score("rgb_float", output, target).ssim, score("dehazeformer", output, target).ssim
    assert abs(full - shrunk) > 1e-3  # the pictures tell whether they were shrunk


def agree(case: str, stored: Any, output: torch.Tensor, target: torch.Tensor) -> None:
    valid, zero = score("dehazeformer", output, target), score("dcmpnet", output, target)
    assert valid.psnr == zero.psnr == pytest.approx(stored[f"metric_{case}.psnr"].item(), abs=1e-6)
    assert valid.ssim == pytest.approx(stored[f"metric_{case}.ssim_valid"].item(), abs=5e-8)
    # Their window with a zero border is float32 and sums to a little more than 1.
    assert zero.ssim == pytest.approx(stored[f"metric_{case}.ssim_zero_padded"].item(), abs=2e-6)
