"""Any kind of picture in, the same kind and size out; damaged weights, wrong names and little memory are said so."""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from tiny import DCMPNET, Call
from torch import Tensor, nn

import fairweather as fw
from fairweather import images, pipeline, weights
from fairweather.backends import size_class
from fairweather.errors import FairweatherError, OutOfMemoryError, PictureError, UsageError, WeightsError
from fairweather.images import Picture
from fairweather.loading import TASKS
from fairweather.models import restored
from fairweather.pipeline import PAST, Restorer
from fairweather.runtime import has_bf16
from fairweather.weights import WEIGHTS, save_weights

Array = npt.NDArray[Any]
SIZES = [(1, 1), (1, 500), (7, 3), (33, 65)]


class Inverse(nn.Module):
    """A network whose result is known: dark becomes light."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x


def restorer_of(
    net: nn.Module | Callable[[Tensor], Tensor],
    *,
    model: str = "nafnet_tiny",
    device: str = "cpu",
    precision: str = "fp32",
) -> Restorer:
    module = net if isinstance(net, nn.Module) else Call(net)
    return Restorer(module, model=model, task="derain", sha256="0" * 64, device=device, precision=precision)


inverter = restorer_of(Inverse())


@pytest.fixture(scope="session")
def derainer() -> Restorer:
    return fw.load("derain")


@pytest.fixture(scope="session")
def denoiser() -> Restorer:
    return fw.load("denoise")


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape, dtype=np.float32).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def scene(height: int, width: int) -> Tensor:
    """A made-up picture of smooth colours, edges and noise of sigma 20."""
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 12, width), indexing="ij")
    clear = 0.5 + 0.4 * torch.stack(
        [torch.sin(x + y), (torch.sin(2 * x) * torch.cos(y)).sign(), torch.cos(x)]
    )
    grain = torch.randn(clear.shape, generator=torch.Generator().manual_seed(0))
    return (clear + 20 / 255 * grain).clamp(0, 1)


def psnr(output: Tensor, target: Tensor) -> float:
    error = (output - target).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def png(array: Array) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# Type in, type out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 1), (9, 11, 3), (9, 11, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_array_in_array_out(dtype: Any, shape: tuple[int, ...]) -> None:
    array = noise(*shape, dtype=dtype)
    before = array.copy()
    result = inverter.restore(array)
    expected = (1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max) - array
    if shape[-1] == 4:
        expected[..., 3] = array[..., 3]  # opacity is not restored
    assert isinstance(result.image, np.ndarray)
    assert (result.image.dtype, result.image.shape) == (array.dtype, array.shape)
    np.testing.assert_allclose(result.image, expected, rtol=0, atol=1e-6)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 9, 11), (2, 3, 9, 11), (1, 3, 1, 1)])
def test_tensor_in_tensor_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = tensor.clone()
    image = inverter.restore(tensor).image
    assert isinstance(image, Tensor)
    assert (image.dtype, image.shape) == (dtype, tensor.shape)
    torch.testing.assert_close(image, 1 - tensor, rtol=0, atol=1e-3 if dtype == torch.float16 else 1e-6)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("mode", "shape"), [("L", (9, 11)), ("LA", (9, 11, 2)), ("RGB", (9, 11, 3)), ("RGBA", (9, 11, 4))]
)
def test_pil_in_pil_out(mode: str, shape: tuple[int, ...]) -> None:
    image = PIL.Image.fromarray(noise(*shape))
    assert image.mode == mode
    output = inverter.restore(image).image
    assert isinstance(output, PIL.Image.Image)
    assert (output.mode, output.size) == (mode, image.size)
    expected = 255 - np.asarray(image)
    if mode in ("LA", "RGBA"):
        expected[..., -1] = np.asarray(image)[..., -1]
    assert np.array_equal(np.asarray(output), expected)


def test_16_bit_pil_in_16_bit_pil_out() -> None:
    image = PIL.Image.fromarray(noise(9, 11, dtype=np.uint16))
    output = inverter.restore(image).image
    assert output.mode == "I;16"
    assert np.array_equal(np.asarray(output), 65535 - np.asarray(image))


def test_palette_pil_in_rgb_pil_out() -> None:
    image = PIL.Image.fromarray(noise(9, 11, 3)).quantize(16)
    output = inverter.restore(image).image
    assert output.mode == "RGB"
    assert np.array_equal(np.asarray(output), 255 - np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", [str, Path])
def test_path_in_pil_out(kind: type, tmp_path: Path) -> None:
    array = noise(9, 11, 3)
    file = tmp_path / "rainy street ü.png"
    file.write_bytes(png(array))
    output = inverter.restore(kind(file)).image
    assert isinstance(output, PIL.Image.Image)
    assert np.array_equal(np.asarray(output), 255 - array)
    assert file.read_bytes() == png(array)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_bytes_in_bytes_of_the_same_format_out(format: str) -> None:
    data = images.encode_picture(images.from_array(np.full((20, 30, 3), 40, np.uint8)), format=format)
    output = inverter.restore(data).image
    assert isinstance(output, bytes)
    back = images.read_picture(output)
    assert back.format == format
    assert back.pixels.shape == (3, 20, 30)
    assert (back.pixels * 255 - 215).abs().max() < 3


def test_picture_in_picture_out_with_all_that_is_not_pixels() -> None:
    picture = replace(
        images.from_array(noise(5, 6, 4, dtype=np.uint16)), icc=b"profile", exif=b"II*\0", xmp=b"x"
    )
    output = inverter.restore(picture).image
    assert isinstance(output, Picture)
    assert torch.equal(output.pixels, 1 - picture.pixels)
    assert replace(output, pixels=picture.pixels).__dict__ == picture.__dict__


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(4, 9, 9), "expected a float tensor"),
        (torch.zeros(9, 9), "expected a float tensor"),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), "expected a float tensor"),
        (torch.zeros(3, 0, 9), "expected a float tensor"),
        (torch.zeros(0, 3, 9, 9), "empty"),
        (torch.zeros(2, 1, 9, 9), "expected a float tensor"),
        (np.zeros((9, 9, 2), np.uint8), "shape"),
        (np.zeros((0, 9, 3), np.uint8), "shape"),
        (np.zeros((9, 9, 3), np.int32), "type"),
        (np.full((9, 9, 3), 200.0), "scale it"),
        (np.full((9, 9, 3), np.nan), "scale it"),
        (None, "expected a path"),
        (42, "expected a path"),
        ("no/such/file.png", "no such file"),
        (b"not a picture", "not a picture"),
        (b"", "empty"),
    ],
)
def test_what_is_not_a_picture_is_refused(image: Any, said: str) -> None:
    with pytest.raises((UsageError, PictureError), match=said):
        inverter.restore(image)


@pytest.mark.parametrize("wrong", [255.0, -40.0, math.nan])
def test_a_tensor_that_is_not_in_unit_range_is_refused(wrong: float) -> None:
    """As an array is; otherwise 0 to 255 comes back white. A little beyond [0, 1] is noise, and fine."""
    noisy = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    assert inverter.restore(noisy).image.shape == noisy.shape
    noisy[0, 0, 0] = wrong
    with pytest.raises((UsageError, PictureError)):
        inverter.restore(noisy)


# Sizes and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back_at_its_size(
    size: tuple[int, int], denoiser: Restorer, derainer: Restorer
) -> None:
    array = noise(*size, 3)
    for restorer in (denoiser, derainer):
        result = restorer.restore(array)
        assert result.image.shape == array.shape
        assert np.ptp(result.image) > 0 or size == (1, 1)


def test_a_result_says_how_it_came_about(denoiser: Restorer) -> None:
    result = denoiser.restore(noise(20, 30, 3))
    entry = next(w for w in WEIGHTS if w.task == "denoise")
    assert (result.model, result.task, result.weights_sha256) == ("nafnet_small", "denoise", entry.sha256)
    assert (result.precision, result.tiles, result.warnings) == ("fp32", 1, ())
    assert result.device in ("cpu", "cuda")
    assert result.seconds > 0


def test_denoising_denoises(denoiser: Restorer) -> None:
    clear = scene(96, 128) * 0 + 0.5
    noisy = clear + 25 / 255 * torch.randn(clear.shape, generator=torch.Generator().manual_seed(1))
    assert psnr(denoiser.restore(noisy).image, clear) > psnr(noisy.clamp(0, 1), clear) + 5


def test_a_result_is_saved_with_the_metadata_of_its_source(tmp_path: Path) -> None:
    source = replace(images.from_array(noise(9, 11, 3, dtype=np.uint16)), xmp=b"<x/>")
    result = inverter.restore(images.encode_picture(source))
    result.save(tmp_path / "new folder" / "out.png")
    back = images.read_picture(tmp_path / "new folder" / "out.png")
    assert (back.bits, back.xmp) == (16, b"<x/>")
    torch.testing.assert_close(back.pixels, 1 - source.pixels, rtol=0, atol=1e-6)


def test_a_batch_has_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch"):
        inverter.restore(torch.zeros(2, 3, 4, 4)).save(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


# Strength --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_0_gives_the_picture_back(dtype: Any, derainer: Restorer) -> None:
    array = noise(33, 65, 3, dtype=dtype)
    assert np.array_equal(derainer.restore(array, strength=0).image, array)
    assert not np.array_equal(derainer.restore(array, strength=1).image, array)


def test_a_jpeg_that_nothing_is_done_to_is_not_compressed_again(tmp_path: Path, derainer: Restorer) -> None:
    file = tmp_path / "a.jpg"
    images.write_picture(Picture(pixels=torch.rand(3, 33, 40)), file, quality=70)
    result = derainer.restore(file.read_bytes(), strength=0)
    assert result.image == file.read_bytes()
    result.save(tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes() == file.read_bytes()
    assert derainer.restore(file.read_bytes()).image != file.read_bytes()


def test_strength_goes_in_a_straight_line(derainer: Restorer) -> None:
    picture = 0.3 + 0.4 * scene(40, 56)
    full = derainer.restore(picture).image
    half = derainer.restore(picture, strength=0.5).image
    beyond = derainer.restore(picture, strength=1.5).image
    torch.testing.assert_close(half, (picture + full) / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(beyond, (full + (full - picture) / 2).clamp(0, 1), rtol=0, atol=1e-5)
    assert not torch.allclose(half, full, atol=1e-3)


def test_strength_beyond_1_stays_in_range() -> None:
    output = inverter.restore(torch.tensor([0.0, 0.5, 1.0]).expand(3, 1, 3), strength=1.5).image
    assert output[0, 0].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("strength", [-0.01, 1.51, math.nan, math.inf])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match=r"0 to 1\.5"):
        inverter.restore(noise(4, 4, 3), strength=strength)


# Tiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tile", "decibels"), [(128, 35), (256, 38)])
def test_tiles_agree_with_the_whole_picture(tile: int, decibels: float, derainer: Restorer) -> None:
    """Channel attention sees the tile instead of the picture, so they are not equal.

    Measured with the first weights on 300x400 pieces of coffee, astronaut, rocket and this scene: derain 39 to 45 dB
    at tile 128, 43 to 47 dB at 256 (single values differ by up to 0.22); denoise 39 to 50 and 42 to 52 dB.
    """
    picture = scene(300, 400)
    whole = derainer.restore(picture)
    tiled = derainer.restore(picture, tile=tile)
    assert whole.tiles == 1
    assert tiled.tiles == {128: 24, 256: 4}[tile]
    assert psnr(tiled.image, whole.image) >= decibels


def test_tiles_of_a_network_that_looks_nowhere_are_exact() -> None:
    picture = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(0))
    told: list[tuple[int, int]] = []
    result = inverter.restore(picture, tile=128, progress=lambda i, n: told.append((i, n)))
    torch.testing.assert_close(result.image, 1 - picture, rtol=0, atol=1e-6)
    assert told == [(i, 24) for i in range(1, 25)]
    assert result.tiles == 24


@pytest.fixture(scope="session")
def dehazer() -> Restorer:
    """A small DCMPNet with random weights."""
    torch.manual_seed(0)
    net = fw.create_model("dcmpnet_small", depths=(1, 1, 2, 1, 1), attention=(1, 1, 2, 0, 0), unet_width=4)
    return Restorer(
        net, model="dcmpnet_small", task="dehaze", sha256="0" * 64, device="cpu", precision="fp32"
    )


@pytest.mark.parametrize("tile", [256, 512])
def test_tiles_that_share_what_is_seen_of_the_whole_agree_with_it(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = fw.create_model("dcmpnet", **DCMPNET)
    dehazer = Restorer(net, model="dcmpnet", task="dehaze", sha256="", device="cpu", precision="fp32")
    picture = scene(600, 700) * torch.linspace(0.1, 1, 600)[:, None]  # what a tile sees is not like the whole
    whole = dehazer.restore(picture).image
    shared = dehazer.restore(picture, tile=tile)
    assert shared.tiles > 1
    monkeypatch.setattr(Restorer, "_forward", lambda *_: lambda x, *, half: restored(net, x))
    own = dehazer.restore(picture, tile=tile).image
    assert psnr(shared.image, whole) > max(40, psnr(own, whole) + 3)


def test_haze_is_found_in_a_copy_and_removed_at_full_size(
    dehazer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = scene(601, 403)
    usual = dehazer.restore(picture)
    assert usual.warnings == ()
    whole = usual.image
    copied = dehazer.restore(picture, tile=300)
    assert copied.tiles == 1
    assert [text[:57] for text in copied.warnings] == [
        "haze was looked for in a copy of only 201x300 pixels, as "
    ]
    assert 30 < psnr(copied.image, whole) < 60
    detail = copied.image.diff() - copied.image.roll(1, dims=-1).diff()  # as sharp as what went in
    assert detail.abs().mean() > 0.9 * (whole.diff() - whole.roll(1, dims=-1).diff()).abs().mean()
    monkeypatch.setattr(pipeline, "BAND", 1000)
    torch.testing.assert_close(dehazer.restore(picture, tile=300).image, copied.image)


def test_bf16_finds_the_same_haze(dehazer: Restorer) -> None:
    half = Restorer(
        dehazer.net, model="dcmpnet_small", task="dehaze", sha256="", device="cpu", precision="bf16"
    )
    picture = scene(400, 420)
    assert psnr(half.restore(picture, tile=256).image, dehazer.restore(picture, tile=256).image) > 30


def test_depth_comes_in_the_size_of_the_picture_where_it_is_found(dehazer: Restorer) -> None:
    picture = torch.rand(3, 37, 700, generator=torch.Generator().manual_seed(0))
    assert dehazer.finds_depth
    result = dehazer.restore(picture)
    assert result.depth is not None
    assert result.depth.shape == (1, 37, 700)
    result.depth.mul_(2)  # an ordinary tensor, not one of inference mode
    batch = dehazer.restore(torch.stack([picture, picture.flip(-1)]))
    assert batch.depth is not None
    assert batch.depth.shape == (2, 1, 37, 700)
    assert dehazer.restore(picture, depth=False).depth is None
    assert inverter.restore(picture).depth is None
    assert not inverter.finds_depth


def test_strength_0_gives_a_hazy_picture_back(dehazer: Restorer) -> None:
    picture = scene(50, 70)
    assert torch.equal(dehazer.restore(picture, strength=0).image, picture)
    assert not torch.allclose(dehazer.restore(picture).image, picture, atol=1e-3)
    with pytest.raises(UsageError, match=r"0 to 1\.5"):
        dehazer.restore(picture, strength=1.6)


def test_depth_does_not_follow_strength(dehazer: Restorer) -> None:
    picture = scene(64, 80)
    depths = [dehazer.restore(picture, strength=strength).depth for strength in (0.0, 1.0)]
    assert torch.equal(*depths)  # type: ignore[arg-type]


def test_depth_is_saved_and_a_missing_one_is_said_so(dehazer: Restorer, tmp_path: Path) -> None:
    dehazer.restore(scene(40, 50)).save_depth(tmp_path / "near.png")
    assert images.read_picture(tmp_path / "near.png").pixels.shape == (3, 40, 50)
    assert (tmp_path / "near.colour.png").is_file()
    with pytest.raises(UsageError, match="gave no depth"):
        inverter.restore(scene(4, 4)).save_depth(tmp_path / "none.png")


@pytest.mark.parametrize("tile", [3, 0, -1, 127])
def test_a_tile_too_small_is_refused(tile: int) -> None:
    with pytest.raises(UsageError, match=f"tile is {tile}, .*128"):
        inverter.restore(noise(4, 4, 3), tile=tile)


def test_little_free_memory_means_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.zeros(3, 200, 300)
    assert inverter.restore(picture).tiles == 1
    monkeypatch.setattr("fairweather.runtime.available_memory", lambda device: 2**20)
    assert inverter.restore(picture).tiles > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_device_with_a_number(precision: str) -> None:
    """As cuda:1, which not every machine has."""
    net = restorer_of(nn.Conv2d(3, 3, 1), device="cpu:0", precision=precision)
    assert net.restore(noise(9, 11, 3)).image.shape == (9, 11, 3)


# Out of memory, not a number -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_out_of_memory_goes_on_with_smaller_tiles(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def small_only(x: Tensor) -> Tensor:
        if max(x.shape[-2:]) > 160:
            raise error
        return 1 - x

    picture = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING, logger="fairweather"):
        result = restorer_of(small_only).restore(picture)
    torch.testing.assert_close(result.image, 1 - picture, rtol=0, atol=1e-6)
    assert result.tiles > 1
    assert len(result.warnings) == 2  # 200, then 128
    assert all("memory" in warning for warning in result.warnings)
    assert [record.message for record in caplog.records] == list(result.warnings)


def test_out_of_memory_keeps_tiles_on_the_grid_of_the_network() -> None:
    """Of its attention windows while tiles are large, of its reduced copy when they are small."""
    seen: list[int] = []

    def blocks(x: Tensor) -> Tensor:
        """Works at a quarter of the size, as DCMPNet."""
        coarse = nn.functional.avg_pool2d(x, 4)
        return coarse.repeat_interleave(4, -2).repeat_interleave(4, -1)

    def small_only(x: Tensor) -> Tensor:
        seen.append(max(x.shape[-2:]))
        if seen[-1] > 250:
            raise MemoryError
        return blocks(x)

    picture = torch.rand(3, 600, 900, generator=torch.Generator().manual_seed(0))
    result = restorer_of(small_only, model="dcmpnet").restore(picture)
    torch.testing.assert_close(result.image, blocks(picture[None])[0], rtol=0, atol=1e-6)
    assert [text[:17] for text in result.warnings] == [
        "not enough memory",
        "dcmpnet looks at ",
        "not enough memory",
    ]
    assert max(seen[-result.tiles :]) <= 225 + 15


@pytest.mark.parametrize("size", [(300, 400), (5, 5)])
def test_out_of_memory_at_the_smallest_tile_is_our_error(size: tuple[int, int]) -> None:
    asked: list[int] = []

    def never(x: Tensor) -> Tensor:
        asked.append(max(x.shape[-2:]))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="128 pixels") as caught:
        restorer_of(never).restore(torch.zeros(3, *size))
    assert caught.value.exit_code == 4
    assert asked[-1] <= 128
    assert len(asked) <= 4


def test_another_error_of_a_network_is_not_hidden() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        restorer_of(broken).restore(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("known", [True, False])
def test_bf16_that_overflows_is_replaced_by_fp32(
    bad: float, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    precisions: list[bool] = []

    def overflowing(x: Tensor) -> Tensor:
        precisions.append(torch.is_autocast_enabled("cpu"))
        return x * bad if precisions[-1] else 1 - x

    picture = torch.linspace(0.1, 0.8, 192).view(3, 8, 8)
    restorer = restorer_of(overflowing, precision="bf16")
    if known:
        restorer.computation.measured[size_class(8, 8)] = 60
    with caplog.at_level(logging.WARNING, logger="fairweather"):
        result = restorer.restore(picture)
    assert precisions == ([True, False] if known else [False, True])
    assert torch.equal(result.image, 1 - picture)
    assert "bf16" in caplog.text
    assert any("bf16" in warning for warning in result.warnings)


@pytest.mark.parametrize("there", [True, False, None])
def test_bf16_without_instructions_for_it_is_told_once(
    there: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairweather.loading.has_bf16", lambda: there)
    told: list[str] = []
    say = told.append
    for precision in ("fp32", "bf16", "bf16"):
        fw.load("denoise", precision=precision, device="cpu", tell=say)
    expected = ["this processor has no instructions for bf16, which is slower here than fp32"]
    assert told == (expected if there is False else [])


def test_what_a_processor_says_of_bf16_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (
        ("processor : 0\nflags : fpu avx512f avx512_bf16 sse\n", True),
        ("flags : fpu avx2\n", False),
        ("Features : fp asimd bf16\n", True),
        ("processor : 0\n", None),
    ):
        monkeypatch.setattr(Path, "read_text", lambda _, text=text: text)
        assert has_bf16() is expected


def test_bf16_is_near_fp32(denoiser: Restorer) -> None:
    picture = scene(64, 96)
    rough = fw.load("denoise", precision="bf16").restore(picture)
    assert rough.precision == "bf16"
    assert rough.image.dtype == torch.float32
    assert 35 < psnr(rough.image, denoiser.restore(picture).image) < 100


def test_a_result_that_is_not_a_number_is_not_written() -> None:
    with pytest.raises(FairweatherError, match="not finite"):
        restorer_of(lambda x: x * math.nan).restore(noise(4, 4, 3))


# Threads, gradients, imports -------------------------------------------------------------------------------------


def test_threads_give_what_one_gives(denoiser: Restorer) -> None:
    pictures = [scene(40 + i, 56)[:, i:] for i in range(8)]
    alone = [denoiser.restore(p).image for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: denoiser.restore(p).image, pictures))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_gradients() -> None:
    conv = nn.Conv2d(3, 3, 1)
    seen: list[bool] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled() or x.requires_grad)
        y: Tensor = conv(x)
        return y

    picture = torch.rand(3, 8, 8, requires_grad=True)
    output = restorer_of(watched).restore(picture).image
    assert seen == [False]
    assert not output.requires_grad
    assert torch.is_grad_enabled()
    output.add_(1)  # an ordinary tensor, that its owner may change


def test_a_restorer_is_in_evaluation_mode_without_gradients(denoiser: Restorer) -> None:
    assert not denoiser.net.training
    assert not any(p.requires_grad for p in denoiser.net.parameters())


def test_importing_is_light() -> None:
    code = (
        "import sys, fairweather; print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    assert {"load", "Restorer", "Result", "MODELS", "list_models", "create_model", "from_published"} <= set(
        fw.__all__
    )
    assert all(hasattr(fw, name) for name in fw.__all__)
    assert set(fw.__all__) <= set(dir(fw))
    with pytest.raises(AttributeError, match="lode"):
        fw.lode  # noqa: B018


def test_every_task_has_a_model_weights_and_a_word_for_its_files() -> None:
    for task, model in TASKS.items():
        assert task in PAST
        assert any((w.model, w.task) == (model, task) for w in WEIGHTS)


# Names and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "nearest"),
    [
        ("derian", None, "derain"),
        ("nafnet_smal", None, "nafnet_small"),
        ("derain", "nafnet_smal", "nafnet_small"),
        ("denoize", "nafnet_small", "denoise"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(name: str, model: str | None, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        fw.load(name, model=model)


def test_a_file_that_is_missing_is_not_taken_for_a_name() -> None:
    for load in (lambda: fw.load("checkpoint.pk"), lambda: fw.load("dehaze", model="checkpoint.pk")):
        with pytest.raises(
            UsageError, match=r"checkpoint\.pk: there is no such file; expected a file, or a name"
        ):
            load()


def test_a_wrong_device_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        fw.load("denoise", device="cudaa")


def test_a_model_name_loads_its_first_task() -> None:
    assert fw.load("nafnet_small").task == "derain"
    assert "derain" in repr(fw.load("nafnet_small"))


@pytest.mark.parametrize("name", ["nafnet", "constyle_nafnet"])
def test_a_model_without_weights_says_which_have_them(name: str) -> None:
    with pytest.raises(WeightsError, match="nafnet_small"):
        fw.load("derain", model=name)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped derain weights in a folder of their own, that loading looks into."""
    file = tmp_path / "nafnet_small-derain.safetensors"
    shutil.copy(weights.FOLDER / file.name, file)
    monkeypatch.setattr("fairweather.weights.FOLDER", tmp_path)
    assert fw.load("derain").task == "derain"
    return file


def test_one_flipped_byte_of_the_shipped_weights_is_noticed(shipped: Path) -> None:
    data = bytearray(shipped.read_bytes())
    data[len(data) // 2] ^= 1
    shipped.write_bytes(data)
    with pytest.raises(WeightsError, match=r"damaged.*reinstall") as caught:
        fw.load("derain")
    assert caught.value.exit_code == 3


def test_missing_weights_are_said_so(shipped: Path) -> None:
    shipped.unlink()
    with pytest.raises(WeightsError, match=r"missing.*reinstall"):
        fw.load("derain")


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_truncated_weights_are_refused(keep: float, shipped: Path) -> None:
    data = shipped.read_bytes()
    cut = shipped.with_name("cut.safetensors")
    cut.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        fw.load("derain", model=cut)


@pytest.mark.parametrize(
    "content", [b"hello, these are no weights\n" * 50, b"PK\x03\x04", b"\x80\x04.", b"\xff" * 99]
)
def test_another_file_by_the_name_of_weights_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"text\.safetensors"):
        fw.load(str(file))


@pytest.mark.parametrize("as_model", [False, True])
def test_a_checkpoint_of_others_is_sent_to_be_converted(as_model: bool, tmp_path: Path) -> None:
    file = tmp_path / "published.pk"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(
        UsageError, match=r"published\.pk is no \.safetensors of ours; .* models convert .*published"
    ):
        fw.load("dehaze", model=file) if as_model else fw.load(str(file))


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none.safetensors", tmp_path / "folder.safetensors"):
        if wrong.stem == "folder":
            wrong.mkdir()
        with pytest.raises(WeightsError, match=wrong.name):
            fw.load("derain", model=wrong)


def own_weights(file: Path, **metadata: str) -> Path:
    """Weights of a small network, as training writes them."""
    state = fw.create_model("nafnet_tiny").state_dict()
    save_weights(state, file, {"model": "nafnet_tiny", "task": "denoise", **metadata})
    return file


def test_own_weights_load_by_their_file(tmp_path: Path) -> None:
    file = own_weights(tmp_path / "mine.safetensors")
    for restorer in (fw.load("denoise", model=file), fw.load(str(file))):
        assert (restorer.model, restorer.task) == ("nafnet_tiny", "denoise")
        assert restorer.sha256 == weights.sha256(file)
        assert restorer.restore(noise(9, 11, 3)).image.shape == (9, 11, 3)


def test_weights_for_another_task_are_refused(tmp_path: Path) -> None:
    file = own_weights(tmp_path / "mine.safetensors")
    with pytest.raises((UsageError, WeightsError), match=r"denoise.*derain"):
        fw.load("derain", model=file)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = own_weights(tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=r"nafnet_tiny.*nafnet_small"):
        fw.create_model("nafnet_small", weights=file)
    liar = own_weights(tmp_path / "liar.safetensors", model="nafnet_small")
    with pytest.raises(WeightsError, match="do not fit"):
        fw.load("denoise", model=liar)


def test_weights_of_no_known_model_are_refused(tmp_path: Path) -> None:
    for model in ("", "somebody_elses"):
        file = own_weights(tmp_path / "mine.safetensors", model=model)
        with pytest.raises((UsageError, WeightsError), match="mine"):
            fw.load("denoise", model=file)


@pytest.mark.parametrize("arguments", ["{", "[]", '{"width": "wide"}', '{"widht": 8}', '{"width": -1}'])
def test_weights_with_damaged_arguments_are_refused(arguments: str, tmp_path: Path) -> None:
    file = own_weights(tmp_path / "mine.safetensors", model="nafnet", model_args=arguments)
    with pytest.raises((UsageError, WeightsError)):
        fw.load("denoise", model=file)


def test_arguments_of_own_weights_are_used(tmp_path: Path) -> None:
    size: dict[str, Any] = {"width": 4, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,)}
    net = fw.create_model("nafnet", **size)
    file = tmp_path / "narrow.safetensors"
    metadata = {"model": "nafnet", "task": "deblur", "model_args": json.dumps(size)}
    save_weights(net.state_dict(), file, metadata)
    restorer = fw.load(str(file))
    assert restorer.task == "deblur"
    assert sum(p.numel() for p in restorer.net.parameters()) < 10_000
    assert restorer.restore(noise(5, 5, 3)).image.shape == (5, 5, 3)


def test_a_network_that_gives_no_number_is_told_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = fw.load("denoise")
    monkeypatch.setattr(restorer.net, "forward", lambda x: x * float("nan"))
    with pytest.raises(fw.FairweatherError, match="nafnet_small gave a value that is not finite"):
        restorer.restore(torch.rand(3, 8, 8))
