"""The ConStyle encoder, its losses, schedule and noise against the original's own runs."""

from __future__ import annotations

import pytest
import torch
from cases import off, published, stored

from fairweather.data.degradations import paper_noise
from fairweather.losses.constyle import content_loss, info_nce, style_loss
from fairweather.models.constyle import ConStyle, published_encoder
from fairweather.models.layers import pad_to_multiple

TOLERANCE = 1e-4
CASE = stored("irconstyle")


@pytest.mark.parametrize("size", ["64x64", "75x53"])
@torch.inference_mode()
def test_encoder_equals_the_original(size: str) -> None:
    encoder = ConStyle().eval()
    encoder.load_state_dict(published_encoder(published("irconstyle")))
    style = encoder(CASE[f"in_{size}"])
    assert off(style.hidden, CASE[f"enc_{size}/out1"]) < TOLERANCE
    assert off(style.vector, CASE[f"enc_{size}/out2"]) < TOLERANCE
    assert off(style.features[2], CASE[f"enc_{size}/feat3"]) < TOLERANCE
    if size == "64x64":
        assert off(style.features[0][..., ::2, ::2], CASE["enc_64x64/feat1@s2"]) < TOLERANCE


def test_losses_equal_the_original() -> None:
    q1, q2, n0, n1 = (CASE[f"loss/{k}"] for k in ("q1", "q2", "neg0", "neg1"))
    torch.testing.assert_close(content_loss(q2, q1), CASE["loss/content_q2_vs_q1"])
    torch.testing.assert_close(style_loss((q1, q2), (n0, n1)), CASE["loss/style"], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(info_nce(CASE["loss/nce_logits"]), CASE["loss/nce"])
    q, k, queue = (CASE[f"loss/nce_{name}"] for name in ("q", "k", "queue"))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue], dim=1) / 0.07
    torch.testing.assert_close(logits, CASE["loss/nce_logits"], rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_keys_and_negatives() -> None:
    vectors = [torch.rand(2, 4, requires_grad=True) for _ in range(5)]
    q1, q2, k, n0, n1 = vectors
    (content_loss(q2, k) + style_loss((q1, q2), (n0, n1))).backward()
    assert [v.grad is not None for v in vectors] == [True, True, False, False, False]


@pytest.mark.parametrize(("sigma", "multiple"), [(15, 8), (50, 8), (15, 64)])
def test_test_noise_equals_the_original(sigma: int, multiple: int) -> None:
    bgr = CASE["denoise/image_bgr_u8"]
    clear = bgr.flip(-1).permute(2, 0, 1).float() / 255
    noisy = pad_to_multiple(paper_noise(clear, sigma=sigma)[None], multiple)[0]
    torch.testing.assert_close(noisy, CASE[f"denoise/sigma{sigma}_pad{multiple}_lq"], rtol=0, atol=1e-6)
