"""Scores equal those of the published evaluation codes, on pictures stored with them."""

from __future__ import annotations

from pathlib import Path

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
    found = score("rgb", output, target)
    assert found.psnr == pytest.approx(stored["psnr_rgb"].item(), abs=1e-9)
    assert found.ssim == pytest.approx(stored["ssim_rgb"].item(), abs=1e-9)
    found = score("y", output, target)  # theirs is computed in float32
    assert found.psnr == pytest.approx(stored["psnr_y"].item(), abs=1e-6)
    assert found.ssim == pytest.approx(stored["ssim_y"].item(), abs=1e-6)
    found = score("rgb", output[:, :53, :75], target[:, :53, :75])  # the picture without its padding
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
