"""Losses between pictures: what the difference of spectra sees."""

from __future__ import annotations

import pytest
import torch

from fairweather.losses.pixel import fft_loss, l1_loss, pixel_loss, psnr_loss, psnr_luma_loss
from fairweather.metrics import luma_bt601, psnr


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    return a, b


def test_equal_pictures_have_equal_spectra_and_a_shift_of_all_is_in_one_frequency() -> None:
    a, _ = pictures()
    assert fft_loss(a, a) == 0
    shift = fft_loss(a + 0.5, a) * 8 * 7  # of 8 x 12 frequencies, half are mirrored
    torch.testing.assert_close(shift, torch.tensor(0.5 * 8 * 12), rtol=1e-4, atol=1e-4)


def test_the_difference_of_spectra_is_that_of_the_transforms() -> None:
    a, b = pictures()
    torch.testing.assert_close(fft_loss(a, b), (torch.fft.rfft2(a) - torch.fft.rfft2(b)).abs().mean())


@pytest.mark.parametrize(
    ("loss", "of"), [("l1", l1_loss), ("psnr", psnr_loss), ("psnr_luma", psnr_luma_loss)]
)
def test_it_is_added_to_any_loss_by_its_factor(loss: str, of: object) -> None:
    a, b = pictures()
    assert callable(of)
    assert torch.equal(pixel_loss(a, b, loss=loss), of(a, b))
    torch.testing.assert_close(pixel_loss(a, b, loss=loss, fft=0.1), of(a, b) + 0.1 * fft_loss(a, b))


@pytest.mark.parametrize("loss", ["psnr", "psnr_luma"])
def test_losses_by_psnr_level_out_at_the_ceiling(loss: str) -> None:
    a, _ = pictures()
    assert pixel_loss(a, a, loss=loss, ceiling=40).item() == pytest.approx(-40, abs=1e-3)
    assert pixel_loss(a + 1e-3, a, loss=loss, ceiling=40) > pixel_loss(a + 1e-3, a, loss=loss, ceiling=50)


def test_luma_counts_errors_of_colour_once_and_of_light_twice() -> None:
    a, b = pictures()
    opposite = torch.tensor([1 / 65.481, 0, -1 / 24.966]).view(3, 1, 1)  # red against blue: the same luma
    assert psnr_luma_loss(a + opposite, a) < psnr_loss(a + opposite, a) - 10
    as_scored = psnr(luma_bt601(a), luma_bt601(b), data_range=255).mean().float()
    torch.testing.assert_close(psnr_luma_loss(a, b), (psnr_loss(a, b) - as_scored) / 2, rtol=1e-3, atol=1e-3)


def test_its_gradient_is_right_even_where_pictures_agree() -> None:
    a, b = (x.double()[:1, :, :4, :4] for x in pictures())
    assert torch.autograd.gradcheck(lambda x: fft_loss(x, b), a.requires_grad_())
    b = b.clone().requires_grad_()
    fft_loss(b, b.detach()).backward()
    assert b.grad is not None
    assert b.grad.isfinite().all()
