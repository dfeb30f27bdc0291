"""A visible picture cleaned, and fused with an infrared one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.backends import Notes
from fairweather.errors import PictureError, UsageError
from fairweather.images import Picture, write_picture
from fairweather.models.fusionnet import FusionNet, fusionnet_small, rgb_to_ycrcb
from fairweather.night import NightRestorer, infrared_share
from fairweather.pipeline import Restorer
from fairweather.weights import save_weights


class Nothing(torch.nn.Module):
    """Cleans nothing, so that what is fused is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Mixed(torch.nn.Module):
    """Fuses to 0.75 visible and 0.25 infrared luma."""

    def forward(self, visible: torch.Tensor, infrared: torch.Tensor) -> torch.Tensor:
        return 0.75 * visible + 0.25 * infrared


@pytest.fixture
def night() -> NightRestorer:
    net = fusionnet_small()
    net.dense = Mixed()  # type: ignore[assignment]
    return restorer(net)


def restorer(net: FusionNet) -> NightRestorer:
    cleaner = Restorer(
        Nothing(), model="nafnet_tiny", task="derain", sha256="0" * 64, device="cpu", precision="fp32"
    )
    return NightRestorer(
        net, cleaner, model="fusionnet_small", sha256="1" * 64, device="cpu", precision="fp32"
    )


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 12, 16, generator=generator)
    scene = torch.nn.functional.interpolate(coarse, (96, 128), mode="bicubic").clamp(0, 1)[0]
    colours = torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)
    return scene * colours, (1 - scene).clamp(0, 1)


def test_luma_is_fused_and_chroma_is_the_visible_pictures(
    night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    visible, infrared = pair
    result = night.restore(visible, infrared)
    before, after = rgb_to_ycrcb(visible[None])[0], rgb_to_ycrcb(result.image[None])[0]
    inside = ((result.image > 0) & (result.image < 1)).all(0)  # not where a colour was clamped
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(after[1:, inside], before[1:, inside], atol=1e-5, rtol=0)
    expected = 0.75 * before[0] + 0.25 * infrared[0]
    torch.testing.assert_close(after[0, inside], expected[inside], atol=1e-5, rtol=0)
    assert result.task == "night"
    assert result.warnings == ()


def test_the_share_of_infrared_is_told(night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    result = night.restore(*pair)
    assert result.infrared_share is not None
    assert result.infrared_share.shape == (1, 96, 128)
    assert result.infrared_share.median() == pytest.approx(0.25, abs=0.01)


def test_the_share_is_nothing_where_the_two_are_alike() -> None:
    x = torch.rand(1, 16, 16)
    assert infrared_share(x + 0.1, x, x).max() == 0


@pytest.mark.parametrize("fusion", [0.0, 0.5, 1.0])
def test_fusion_goes_from_the_clean_picture_to_the_networks(
    night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor], fusion: float
) -> None:
    clean, full = pair[0], night.restore(*pair).image
    inside = (full > 0) & (full < 1)
    found = night.restore(*pair, fusion=fusion).image
    torch.testing.assert_close(found[inside], torch.lerp(clean, full, fusion)[inside], atol=1e-5, rtol=0)


def test_without_infrared_it_cleans_and_says_so(
    night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    result = night.restore(pair[0])
    assert torch.equal(result.image, pair[0])
    assert result.infrared_share is None
    assert result.warnings == ("no infrared picture: cleaned, not fused",)


def test_the_cleaned_picture_is_of_the_kind_that_went_in(night: NightRestorer, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    result = night.restore(array, array[..., 0])
    assert isinstance(result.clean, np.ndarray)
    assert result.clean.shape == (40, 50, 3)
    write_picture(Picture(pixels=torch.rand(3, 40, 50)), tmp_path / "v.png")
    Image.fromarray(array[..., 0]).save(tmp_path / "i.png")
    assert isinstance(night.restore(tmp_path / "v.png", infrared=tmp_path / "i.png").image, Image.Image)


def test_a_jpeg_that_nothing_is_done_to_is_not_compressed_again(
    night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    visible, infrared = pair
    write_picture(Picture(pixels=visible), tmp_path / "a.jpg", quality=70)
    data = (tmp_path / "a.jpg").read_bytes()
    assert night.restore(data, infrared, strength=0, fusion=0).image == data
    assert night.restore(data, infrared, strength=0, fusion=1).image != data


def test_large_pictures_are_fused_as_if_whole() -> None:
    torch.manual_seed(0)
    night = restorer(fusionnet_small())
    both = torch.rand(4, 40, 1100)
    tiled = night._fused(both[:3], both[3:], 1.0, 512, Notes())[0]
    whole = night.net(both[None, :3], both[None, 3:]).fused[0].clamp(0, 1)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_another_view_is_not_fused_unless_its_place_is_given(night: NightRestorer) -> None:
    visible, other = (torch.rand(n, 96, 128, generator=torch.Generator().manual_seed(n)) for n in (3, 1))
    result = night.restore(visible, other)
    assert result.infrared_share is None
    assert torch.equal(result.image, result.clean)
    (said,) = result.warnings
    assert said.startswith("the infrared picture seems to show another view; ")
    assert said.endswith(": cleaned, not fused")
    assert night.restore(visible, other, shift=(0.0, 0.0)).infrared_share is not None


def test_with_a_blank_infrared_picture_it_cleans_and_says_so(
    night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    visible, infrared = pair
    result = night.restore(visible, torch.full_like(infrared, 0.5))
    assert result.infrared_share is None
    assert torch.equal(result.image, result.clean)
    said = "the infrared picture: is the same value everywhere; check the infrared camera: cleaned, not fused"
    assert result.warnings == (said,)


def test_what_cannot_be_is_refused(night: NightRestorer, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    visible, infrared = pair
    with pytest.raises(UsageError, match=r"fusion is 1\.5, expected 0 to 1"):
        night.restore(visible, infrared, fusion=1.5)
    with pytest.raises(PictureError, match="128x96"):
        night.restore(visible, infrared[:, :, :60])


def test_weights_of_the_whole_sequence_bring_their_own_cleaner(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {
        "width": 4,
        "num_blocks": [1, 1, 1, 1],
        "num_steps": 1,
        "fusion_width": 4,
        "num_layers": 1,
        "exit_widths": [4],
    }
    file = tmp_path / "night.safetensors"
    net = fw.create_model("nitedr_small", **tiny)
    save_weights(net.state_dict(), file, {"model": "nitedr_small", "model_args": json.dumps(tiny)})
    night = fw.load(str(file))
    assert isinstance(night, NightRestorer)
    assert night.cleaner.model == "cleannet_small"
    assert night.restore(np.zeros((20, 30, 3), np.uint8)).image.shape == (20, 30, 3)
