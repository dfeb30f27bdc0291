"""FusionNet: any size, gradients, colours, refinement, and what `official` changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairweather.models.fusionnet import (
    GREY,
    FusionNet,
    Refinement,
    fusionnet,
    official_rgb_to_ycrcb,
    official_ycrcb_to_rgb,
    published_arguments,
    rgb_to_ycrcb,
    ycrcb_to_rgb,
)

TINY: dict[str, Any] = {"width": 4, "num_layers": 2, "exit_widths": (4, 4)}


def tiny(**arguments: Any) -> FusionNet:
    torch.manual_seed(0)
    return FusionNet(**(TINY | arguments)).eval()


class FirstLuma(nn.Module):
    """A fusion that keeps the visible picture's luma."""

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return visible


def pictures(*size: int) -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, *size), torch.rand(2, 1, *size)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (33, 32)])
@torch.inference_mode()
def test_any_size_comes_back_at_its_size(size: tuple[int, int], official: bool) -> None:
    fused, refined = tiny(official=official)(*pictures(*size))
    assert fused.shape == refined.shape == (2, 3, *size)
    assert fused.isfinite().all()
    assert refined.isfinite().all()


def test_every_parameter_receives_a_gradient() -> None:
    net = tiny()  # in evaluation mode: a bias before a batch norm has no gradient in training
    visible, infrared = pictures(16, 16)
    net(visible, infrared).fused.square().mean().backward()
    cascade = net.refinement.cascade(visible, 2 * infrared.expand(-1, 3, -1, -1) - 1)
    torch.stack(cascade.illumination).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_pictures_receive_gradients_in_our_form() -> None:
    visible, infrared = (x.requires_grad_() for x in pictures(8, 8))
    tiny()(visible, infrared).fused.sum().backward()
    assert visible.grad is not None
    assert infrared.grad is not None
    assert visible.grad.any()
    assert infrared.grad.any()


@torch.inference_mode()
def test_what_is_fused_keeps_the_visible_pictures_chroma() -> None:
    visible, infrared = pictures(16, 16)
    fused = tiny()(visible, infrared).fused
    torch.testing.assert_close(rgb_to_ycrcb(fused)[:, 1:], rgb_to_ycrcb(visible)[:, 1:])
    assert (rgb_to_ycrcb(fused)[:, 0] - rgb_to_ycrcb(visible)[:, 0]).abs().max() > 0.1


@torch.inference_mode()
def test_a_fusion_that_keeps_the_luma_changes_nothing_but_in_the_official_form() -> None:
    """Whose 8 bits round, and whose limited range stretches contrast by 1.164."""
    visible, infrared = pictures(16, 16)
    net, official = tiny(), tiny(official=True)
    net.dense = official.dense = FirstLuma()
    torch.testing.assert_close(net(visible, infrared).fused, visible)
    eight_bits = (visible * 255).round() / 255
    stretched = official(visible, infrared).fused
    assert torch.equal(stretched, official(eight_bits, infrared).fused)
    grey = visible[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        official(grey, infrared).fused, 1.164 * (grey - 16 / 255), rtol=0, atol=1.164 * 0.51 / 255
    )


@torch.inference_mode()
def test_both_forms_of_luma_agree_but_for_rounding() -> None:
    rgb = torch.rand(2, 3, 32, 32)
    ours = rgb_to_ycrcb((rgb * 255).round() / 255).clamp(0, 1)
    assert (official_rgb_to_ycrcb(rgb) - ours).abs().max() * 255 < 1.01  # chroma is of the rounded luma


def test_grey_has_the_chroma_of_128() -> None:
    grey = torch.rand(1, 1, 4, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(rgb_to_ycrcb(grey)[:, 1:], torch.full((1, 2, 4, 4), GREY))
    assert torch.equal(official_rgb_to_ycrcb(grey)[:, 1:], torch.full((1, 2, 4, 4), 128.0) / 255)


def test_colours_outside_the_range_come_back() -> None:
    rgb = 4 * torch.rand(1, 3, 8, 8, dtype=torch.float64) - 2
    torch.testing.assert_close(ycrcb_to_rgb(rgb_to_ycrcb(rgb)), rgb)
    assert official_ycrcb_to_rgb(rgb).max() > 1


@torch.inference_mode()
def test_refinement_never_darkens() -> None:
    fused, refined = tiny()(*pictures(24, 24))
    assert (refined >= fused.clamp(0, 1)).all()
    assert (refined > fused + 0.1).any()


def test_the_first_stage_of_the_cascade_is_what_is_used() -> None:
    net, (fused, infrared) = Refinement().eval(), torch.rand(2, 1, 3, 8, 8)
    cascade = net.cascade(fused, infrared, stages=2)
    assert torch.equal(cascade.refined[0], net(fused, infrared))
    assert torch.equal(cascade.inputs[1], cascade.refined[0] + cascade.adjusted[0])
    assert torch.equal(cascade.refined[1], (fused / cascade.illumination[1]).clamp(0, 1))


def test_later_stages_teach_the_adjustment() -> None:
    net, (fused, infrared) = Refinement().eval(), torch.rand(2, 1, 3, 8, 8)
    taught = []
    for stage in net.cascade(fused, infrared).illumination:
        net.zero_grad()
        stage.mean().backward(retain_graph=True)
        taught.append(any(p.grad is not None and p.grad.any() for p in net.adjust.parameters()))
    assert taught == [False, True, True]


def test_weights_for_testing_alone_make_a_network_without_cascade() -> None:
    state = {f"fusionnet.{name}": value for name, value in tiny(adjust=False).state_dict().items()}
    assert published_arguments(state) == {"adjust": False}
    assert published_arguments(tiny().state_dict()) == {"adjust": True}
    with pytest.raises(ValueError, match=r"the cascade needs AdjustModule; build .* adjust=True"):
        Refinement(adjust=False).cascade(*torch.rand(2, 1, 3, 8, 8))


@torch.inference_mode()
def test_a_pixel_reaches_13_pixels_so_tiles_that_share_32_are_exact() -> None:
    net = fusionnet().eval()
    visible, infrared = pictures(41, 41)
    before = net(visible, infrared)
    visible[..., 20, 20] = 1 - visible[..., 20, 20]
    for a, b, reach in zip(before, net(visible, infrared), (10, 13), strict=True):
        moved = (a != b).any(dim=0).any(dim=0).nonzero()
        assert 0 < (moved - 20).abs().max() <= reach


@torch.inference_mode()
def test_half_precision_stays_near_float32() -> None:
    """Luma leaves the network in bfloat16; colours are made of it in float32."""
    net, (visible, infrared) = tiny(), pictures(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused, refined = net(visible, infrared)
    assert fused.dtype == refined.dtype == torch.float32
    assert (fused - net(visible, infrared).fused).abs().max() < 0.01
