"""An infrared picture comes to the place of the visible one when it lies off clearly, and stays where it is if not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.demo import photograph
from fairweather.errors import MissingExtraError, PictureError, UsageError
from fairweather.images import encode_picture, from_array
from fairweather.infrared import align, read_infrared

PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "camera")
MARGIN = 40


def heat_of(scene: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """As another sense would see it: light and dark are hot, the middle is cold, and all is a little blurred."""
    odd = (2 * scene.mean(0, keepdim=True) - 0.8).abs().clamp(0, 1)
    blurred: Tensor = F.avg_pool2d(odd[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    return blurred


def pair(name: str, right: int = 0, down: int = 0) -> tuple[Tensor, Tensor]:
    """Visible and infrared crops of a photograph, of even sizes; what the infrared shows lies off by so much."""
    scene = photograph(name)
    heat = heat_of(scene)
    height, width = (side // 2 * 2 - 2 * MARGIN for side in scene.shape[1:])
    visible = scene[:, MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    top, left = MARGIN - down, MARGIN - right
    return visible, heat[:, top : top + height, left : left + width]


def refusal(image: Any) -> str:
    """The message with which an infrared picture is refused; it is one line."""
    with pytest.raises(PictureError) as caught:
        read_infrared(image)
    assert str(caught.value).isprintable()
    return str(caught.value)


def noise(*shape: int, low: int = 0, high: int = 256, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


# ---------------------------------------------------------------- reading


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    grey = noise(6, 9)
    data = encode_picture(from_array(grey))
    (tmp_path / "a.png").write_bytes(data)
    unit = torch.from_numpy(grey).float() / 255
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), data, PIL.Image.fromarray(grey), from_array(grey)]
    sources += [grey, grey[None], grey[..., None], np.dstack([grey] * 3), unit.numpy(), unit.numpy()[None]]
    for source in [*sources, unit, unit[None], unit.expand(3, -1, -1)]:
        torch.testing.assert_close(read_infrared(source), unit[None])


def test_8_bits_stay_as_they_are_however_few_values_they_have() -> None:
    narrow = noise(20, 30, low=100, high=110)
    assert torch.equal(read_infrared(narrow)[0], torch.from_numpy(narrow).float() / 255)


def test_16_bits_that_use_the_scale_stay_as_they_are() -> None:
    wide = noise(20, 30, low=10_000, high=40_000, dtype=np.uint16)
    torch.testing.assert_close(read_infrared(wide)[0], torch.from_numpy(wide).float() / 65535)


@pytest.mark.parametrize(("low", "high"), [(0, 2**14), (7000, 7600), (29_000, 31_000), (0, 256)])
def test_raw_counts_are_stretched_to_the_whole_scale(low: int, high: int, tmp_path: Path) -> None:
    counts = noise(60, 80, low=low, high=high, dtype=np.uint16)
    (tmp_path / "a.tiff").write_bytes(encode_picture(from_array(counts), format="tiff"))
    stretched = read_infrared(tmp_path / "a.tiff")
    expected = (torch.from_numpy(counts.astype(np.float32))[None] - low) / (high - low)
    torch.testing.assert_close(stretched, expected, atol=0.01, rtol=0)
    assert (stretched.min(), stretched.max()) == (0, 1)


def test_dead_pixels_do_not_change_the_stretch() -> None:
    counts = noise(60, 80, low=7000, high=7600, dtype=np.uint16)
    dead = counts.copy()
    dead[3, 4], dead[5, 6] = 0, 65535
    untouched = torch.from_numpy(dead == counts)
    difference = (read_infrared(dead) - read_infrared(counts))[0][untouched]
    assert difference.abs().max() < 0.01


def test_floating_point_values_are_not_stretched() -> None:
    scaled = noise(20, 30).astype(np.float32) / 2550
    torch.testing.assert_close(read_infrared(scaled)[0], torch.from_numpy(scaled))
    torch.testing.assert_close(read_infrared(torch.from_numpy(scaled))[0], torch.from_numpy(scaled))


def test_equal_channels_with_a_small_coloured_mark_are_grey() -> None:
    grey = np.dstack([noise(60, 80)] * 3)
    grey[:4, :4] = (255, 0, 0)
    assert read_infrared(grey).shape == (1, 60, 80)
    assert read_infrared(encode_picture(from_array(grey), format="jpg")).shape == (1, 60, 80)


def test_a_palette_of_false_colours_is_refused_by_name(tmp_path: Path) -> None:
    heat = noise(20, 30)
    data = encode_picture(from_array(np.dstack([heat, heat // 2, 255 - heat])))
    (tmp_path / "iron\nbow.png").write_bytes(data)
    message = refusal(tmp_path / "iron\nbow.png")
    assert message.startswith(str(tmp_path))
    assert message.endswith("iron\\nbow.png: is in colours; export the infrared picture in greys (white-hot)")
    assert refusal(data).startswith("the infrared picture: is in colours")


@pytest.mark.parametrize(
    "constant",
    [
        np.full((20, 30), 90, np.uint8),
        np.full((20, 30), 7000, np.uint16),
        noise(20, 30, low=7000, high=7010, dtype=np.uint16),  # the noise of the sensor
        np.zeros((20, 30), np.float32),
    ],
)
def test_a_single_value_is_refused(constant: np.ndarray[Any, Any]) -> None:
    expected = "the infrared picture: is the same value everywhere; check the infrared camera"
    assert refusal(constant) == expected


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "is not a picture" in refusal(b"text")
    for wrong in (None, torch.zeros(2, 4, 5), torch.zeros(4, 5, dtype=torch.uint8), torch.full((4, 5), 99.0)):
        with pytest.raises(UsageError):
            read_infrared(wrong)


# ---------------------------------------------------------------- the shift


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_pair_in_line_is_not_touched(name: str) -> None:
    visible, heat = pair(name)
    aligned = align(visible, heat)
    assert torch.equal(aligned.infrared, heat)
    assert (aligned.shift, aligned.valid, aligned.warnings) == ((0.0, 0.0), 1.0, ())
    assert aligned.agreement > 0.15


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize(("right", "down"), [(7, 0), (0, -9), (-12, 5), (6, 14)])
def test_a_shift_is_found_and_taken_back(name: str, right: int, down: int) -> None:
    visible, heat = pair(name, right, down)
    in_line = align(*pair(name)).infrared
    aligned = align(visible, heat)
    assert aligned.shift == pytest.approx((right, down), abs=0.5)
    assert aligned.agreement > 0.15
    assert len(aligned.warnings) == 1
    inside = (slice(None), slice(20, -20), slice(20, -20))
    before, after = (float((picture - in_line)[inside].abs().mean()) for picture in (heat, aligned.infrared))
    assert after < before / 4


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_half_pixels_are_found(name: str) -> None:
    visible, heat = pair(name, right=9, down=-13)
    halved = [F.avg_pool2d(picture[None], 2)[0] for picture in (visible, heat)]
    assert align(*halved).shift == pytest.approx((4.5, -6.5), abs=0.3)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2])
def test_another_size_is_resized_and_its_shift_counted_in_visible_pixels(scale: float) -> None:
    visible, heat = pair("astronaut", right=-8, down=11)
    other = F.interpolate(heat[None], scale_factor=scale, mode="bilinear", antialias=scale < 1)[0]
    aligned = align(visible, other)
    assert aligned.infrared.shape[1:] == visible.shape[1:]
    assert aligned.shift == pytest.approx((-8, 11), abs=0.7)


def test_resizing_and_moving_stay_within_the_range() -> None:
    visible, heat = pair("astronaut", right=-8, down=11)
    stark = (heat > 0.4).float()
    for infrared in (stark, stark[:, ::2, ::2]):
        aligned = align(visible, infrared)
        assert aligned.valid < 1
        assert (aligned.infrared.min(), aligned.infrared.max()) == (0, 1)


def test_black_hot_and_darkness_do_not_matter() -> None:
    visible, heat = pair("coffee", right=10, down=-6)
    assert align(visible, 1 - heat).shift == pytest.approx((10, -6), abs=0.5)
    night = (visible * 0.1 * 255).round() / 255
    assert align(night, heat).shift == pytest.approx((10, -6), abs=0.5)


def test_where_infrared_does_not_reach_it_is_the_visible_luma() -> None:
    visible, heat = pair("astronaut", right=10, down=-6)
    aligned = align(visible, heat)
    luma = (visible * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    same = torch.isclose(aligned.infrared[0], luma, atol=1e-6)
    assert same[:, -9:].all()
    assert same[:5].all()
    assert same[6:, :-10].float().mean() < 0.05
    height, width = visible.shape[1:]
    assert aligned.valid == pytest.approx((1 - 10 / width) * (1 - 6 / height), abs=0.01)
    said = (
        r"the infrared picture lay (9\.[5-9]|10\.\d) pixels to the right and [56]\.\d up; it was moved back"
    )
    assert re.fullmatch(said, aligned.warnings[0])


def test_a_shift_past_the_permitted_is_refused_with_its_length() -> None:
    visible, heat = pair("astronaut", right=-30)  # of 432 pixels; 5 % are 22
    with pytest.raises(
        PictureError, match=r"lies (29|30)\.\d pixels to the left and .* at most 22 pixels are"
    ):
        align(visible, heat)
    assert align(visible, heat, max_shift=0.08).shift == pytest.approx((-30, 0), abs=0.5)
    with pytest.raises(PictureError, match="at most 4 pixels"):
        align(*pair("astronaut", right=10), max_shift=0.01)


def test_a_shift_that_is_far_past_it_is_measured_as_well() -> None:
    scene, right = photograph("astronaut"), 75  # of 432 pixels
    visible, heat = scene[:, :, :-right], heat_of(scene)[:, :, right:]
    with pytest.raises(PictureError, match=r"lies 7[45]\.\d pixels to the left and .* at most"):
        align(visible, heat)


def test_pictures_that_do_not_agree_stay_and_say_so() -> None:
    heat = pair("coffee")[1]
    for visible in (
        pair("rocket")[0],
        pair("astronaut")[0],
        torch.from_numpy(noise(3, 320, 520) / 255).float(),
    ):
        other = F.interpolate(heat[None], size=visible.shape[1:], mode="bilinear", antialias=True)[0]
        aligned = align(visible, other)
        torch.testing.assert_close(aligned.infrared, other)
        assert aligned.shift == (0.0, 0.0)
        assert aligned.agreement < 0.1
        assert not aligned.fits
        assert aligned.warnings[0].startswith(
            "the infrared picture seems to show another view; if it does not, give"
        )


def test_a_black_visible_picture_takes_the_infrared_unchecked() -> None:
    visible, heat = pair("coffee", right=10)
    aligned = align(torch.zeros_like(visible), heat)
    assert torch.equal(aligned.infrared, heat)
    assert (aligned.shift, aligned.valid, aligned.agreement) == ((0.0, 0.0), 1.0, 0.0)
    assert aligned.warnings == (
        "the visible picture is the same value everywhere; the infrared one is used without a check",
    )


def test_infrared_of_one_value_is_never_moved() -> None:
    visible, heat = pair("coffee")
    aligned = align(visible, torch.full_like(heat, 0.5))
    assert (aligned.shift, aligned.agreement, len(aligned.warnings)) == ((0.0, 0.0), 0.0, 1)


# ---------------------------------------------------------------- sizes and manners


@pytest.mark.parametrize("size", [(60, 100), (120, 100), (100, 96), (1, 100)])
def test_sizes_that_cannot_match_are_refused_with_both(size: tuple[int, int]) -> None:
    height, width = size
    expected = f"has {width}x{height} pixels and the visible one 100x80, sizes that cannot match; crop one"
    with pytest.raises(PictureError, match=expected):
        align(torch.rand(3, 80, 100), torch.rand(1, height, width))


def test_a_few_rows_more_are_stretched() -> None:
    visible, heat = pair("coffee")
    aligned = align(visible, heat[:, :-4])
    assert aligned.infrared.shape == heat.shape
    assert aligned.valid == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (14, 17)])
def test_tiny_pictures_are_not_moved(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    visible, heat = torch.rand(3, *size, generator=generator), torch.rand(1, *size, generator=generator)
    aligned = align(visible, heat)
    assert torch.equal(aligned.infrared, heat)


def test_the_pictures_handed_in_are_left_alone() -> None:
    visible, heat = (picture.clone() for picture in pair("coffee", right=8))
    before = visible.clone(), heat.clone()
    align(visible, heat).infrared.zero_()
    assert torch.equal(visible, before[0])
    assert torch.equal(heat, before[1])
    align(*pair("coffee")).infrared.zero_()
    assert pair("coffee")[1].any()


@pytest.mark.parametrize("share", [-0.1, 0.3, float("nan")])
def test_a_permitted_shift_out_of_range_is_a_usage_error(share: float) -> None:
    with pytest.raises(UsageError, match=r"max_shift is .*, expected 0 to 0\.2"):
        align(torch.rand(3, 8, 8), torch.rand(1, 8, 8), max_shift=share)


def test_without_opencv_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"registering an infrared picture .*fairweather\[night\]"):
        align(torch.rand(3, 8, 8), torch.rand(1, 8, 8))
    assert read_infrared(noise(4, 5)).shape == (1, 4, 5)
