"""Haze by the scattering model, the prior's guess of it and its correction."""

from __future__ import annotations

import torch

from fairweather.models.haze import Haze, clearness_of, dark_channel_prior


def test_the_dark_channel_undoes_the_haze_that_it_assumes() -> None:
    clear = torch.rand(1, 3, 60, 40)
    clear[..., ::2, ::2] = 0  # a dark pixel in every window
    transmission, airlight = 0.4, 0.9
    hazy = clear * transmission + airlight * (1 - transmission)
    hazy[..., :20, :] = airlight  # sky, from which the airlight is read
    haze = dark_channel_prior(hazy)
    assert haze.airlight.sub(airlight).abs().max() < 1e-5
    found = haze._replace(log_transmission=haze.log_transmission[:, :1]).removed(hazy)
    inside = (..., slice(34, -6), slice(6, -6))  # away from the sky and the windows that see it
    assert found[inside].sub(clear[inside]).abs().mean() < 0.06


def test_haze_of_a_reduced_grid_is_removed_at_full_size() -> None:
    clear = torch.rand(1, 3, 40, 60)
    hazy = clear * 0.4 + 0.9 * 0.6
    haze = Haze(torch.full((1, 1, 10, 15), 0.4).log(), torch.full((1, 3, 10, 15), 0.9))
    torch.testing.assert_close(haze.resized((40, 60)).removed(hazy), clear, atol=1e-5, rtol=0)


def test_each_picture_of_a_batch_is_judged_by_itself() -> None:
    correction = torch.zeros(2, 7, 4, 4)
    correction[1, 0] = -20
    sure_hazy, sure_clear = clearness_of(correction).tolist()
    assert sure_hazy < -5
    assert sure_clear > 5
