"""Pictures keep their pixels, depth, alpha and metadata; whatever is not a picture is refused in one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import pyvips
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms, ImageOps, PngImagePlugin

from fairweather import images, metadata
from fairweather.errors import PictureError, UsageError
from fairweather.images import (
    Picture,
    encode_picture,
    from_array,
    from_pil,
    read_picture,
    sniff,
    to_array,
    to_pil,
    write_picture,
)

Array = npt.NDArray[Any]
ALL_FORMATS = ("png", "jpg", "webp", "tiff", "bmp")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" note="\xc3\xbc"/></x:xmpmeta>'


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    largest = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, largest, shape, dtype=dtype, endpoint=True)


def pil_bytes(array: Array | PIL.Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif_bytes(orientation: int | None = None) -> bytes:
    exif = PIL.Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    exif[0x010F] = "Böttcher & Söhne"  # Make
    exif[0x011A] = 300.0  # XResolution
    exif.get_ifd(0x8769)[0x829A] = 0.02  # ExposureTime
    exif.get_ifd(0x8769)[0x927C] = bytes(range(256))  # MakerNote
    exif.get_ifd(0x8825)[1] = "N"  # GPSLatitudeRef
    return exif.tobytes()


def exif_contents(block: bytes | None) -> dict[Any, Any]:
    exif = PIL.Image.Exif()
    exif.load(b"Exif\0\0" + (block or b""))
    below = {pointer: dict(exif.get_ifd(pointer)) for pointer in (0x8769, 0x8825)}
    return {tag: value for tag, value in exif.items() if tag not in below} | below


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_png_chunk(data: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    here = data.index(before) - 4
    return data[:here] + png_chunk(kind, body) + data[here:]


def refusal(source: Any, **options: Any) -> str:
    """The message with which a source is refused; it is one line and names the source."""
    with pytest.raises(PictureError) as caught:
        read_picture(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("the picture: " if isinstance(source, bytes) else str(source).split("\n")[0])
    return message


def assert_same(one: Picture, other: Picture) -> None:
    assert torch.equal(one.pixels, other.pixels)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None and other.alpha is not None:
        assert torch.equal(one.alpha, other.alpha)
    assert (one.mode, one.bits, one.icc, one.xmp) == (other.mode, other.bits, other.icc, other.xmp)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("png", np.uint8),
        ("png", np.uint16),
        ("tiff", np.uint8),
        ("tiff", np.uint16),
        ("webp", np.uint8),
        ("bmp", np.uint8),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (7, 3), (40, 61)])
def test_lossless_formats_keep_pixels_depth_and_alpha(
    format: str, dtype: Any, channels: int, size: tuple[int, int]
) -> None:
    source = images._assemble(noise(*size, channels, dtype=dtype), format="png", lossless=True)
    back = read_picture(encode_picture(source, format=format))
    assert torch.equal(back.pixels, source.pixels)
    assert (back.format, back.lossless, back.bits) == (format, True, source.bits)
    assert back.mode == ("rgb" if format == "webp" else source.mode)  # WebP has no grey
    assert (back.alpha is None) == (source.alpha is None or format == "bmp")
    if back.alpha is not None and source.alpha is not None:
        assert torch.equal(back.alpha, source.alpha)
    assert_same(read_picture(encode_picture(back)), back)


def test_every_16_bit_value_survives() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for format in ("png", "tiff"):
        back = read_picture(encode_picture(from_array(values), format=format))
        assert np.array_equal(to_array(back, values), values)


def test_dark_16_bit_stays_16_bit() -> None:
    """Depth is what the header says, even if no value exceeds 255."""
    dark = noise(9, 9, 3, dtype=np.uint8).astype(np.uint16)
    data = encode_picture(from_array(dark))
    assert read_picture(data).bits == 16
    assert read_picture(data).pixels.max() < 0.01
    assert read_picture(encode_picture(from_array(dark.astype(np.uint8)))).bits == 8


def test_16_bit_becomes_8_where_the_format_has_no_more() -> None:
    picture = from_array(noise(8, 8, 3, dtype=np.uint16))
    for format in ("jpg", "webp", "bmp"):
        assert read_picture(encode_picture(picture, format=format)).bits == 8
    eight = read_picture(encode_picture(picture, format="webp")).pixels
    assert (eight - picture.pixels).abs().max() <= 0.5 / 255 + 1e-6


def test_values_are_clamped_and_rounded() -> None:
    pixels = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0, float("inf")]).expand(3, 1, 5)
    back = read_picture(encode_picture(Picture(pixels=pixels)))
    assert (back.pixels[0, 0] * 255).round().tolist() == [0, 0, 1, 255, 255]


def test_grey_is_written_as_the_mean() -> None:
    grey = from_array(noise(4, 5))
    changed = replace(grey, pixels=torch.tensor([0.2, 0.4, 0.9]).reshape(3, 1, 1).expand(3, 4, 5))
    back = read_picture(encode_picture(changed))
    assert back.mode == "grey"
    assert torch.allclose(back.pixels, torch.full((3, 4, 5), 0.5), atol=0.5 / 255)


def test_jpeg_is_444_at_quality_95_and_keeps_grey() -> None:
    smooth = np.asarray(PIL.Image.fromarray(noise(8, 8, 3)).resize((64, 48), PIL.Image.Resampling.BICUBIC))
    data = encode_picture(from_array(smooth), format="jpg")
    image = PIL.Image.open(io.BytesIO(data))
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    assert np.abs(np.asarray(image).astype(int) - smooth).mean() < 2
    assert len(data) > len(encode_picture(from_array(smooth), format="jpg", quality=50))
    assert len(data) < len(pil_bytes(smooth, "JPEG", quality=95, subsampling=0))  # optimized tables
    back = read_picture(encode_picture(from_array(smooth[..., 0]), format="jpg"))
    assert (back.mode, back.lossless, back.format) == ("grey", False, "jpg")


def test_jpeg_of_pure_noise_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    """Pillow fails here with optimize at 4:4:4, as the file outgrows its buffer."""
    assert read_picture(encode_picture(from_array(noise(300, 400, 3)), format="jpg", quality=100)).bits == 8
    assert capfd.readouterr() == ("", "")


def test_webp_is_lossless_only_if_its_source_was() -> None:
    lossless = encode_picture(from_array(noise(32, 32, 4)), format="webp")
    assert read_picture(lossless).lossless
    lossy = read_picture(pil_bytes(noise(32, 32, 4), "WEBP", quality=80))
    assert not lossy.lossless
    assert b"VP8L" not in encode_picture(lossy)
    assert not read_picture(
        encode_picture(replace(from_array(noise(32, 32, 3)), lossless=False), format="webp")
    ).lossless


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {"quality": 70}), ("WEBP", {"quality": 80}), ("TIFF", {"compression": "jpeg"})],
)
def test_what_nothing_is_done_to_loses_no_more(format: str, options: dict[str, Any]) -> None:
    data = pil_bytes(noise(24, 31, 3), format, icc_profile=ICC, **options)
    picture = read_picture(data)
    assert encode_picture(picture) == data
    assert sniff(encode_picture(picture, format="png")) == "png"
    assert encode_picture(picture, quality=20) != data
    assert read_picture(encode_picture(replace(picture, icc=None))).icc is None
    assert sniff(encode_picture(replace(picture, format="png"))) == "png"
    assert encode_picture(replace(picture, pixels=1 - picture.pixels)) != data


def test_jpeg_inside_tiff_is_not_lossless() -> None:
    assert not read_picture(pil_bytes(noise(32, 32, 3), "TIFF", compression="jpeg")).lossless
    assert read_picture(pil_bytes(noise(32, 32, 3), "TIFF", compression="tiff_lzw")).lossless


def test_colours_under_transparent_pixels_are_kept() -> None:
    array = noise(12, 13, 4)
    array[..., 3] = 0
    for format in ("png", "tiff", "webp"):
        assert np.array_equal(
            to_array(read_picture(encode_picture(from_array(array), format=format)), array), array
        )


# ---------------------------------------------------------------- what files hold


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_modes_of_files(mode: str, format: str) -> None:
    image = PIL.Image.fromarray(noise(10, 11, 4 if mode.endswith("A") else 3)).convert(mode)
    picture = read_picture(pil_bytes(image, format))
    expected = {"1": "L", "P": "RGB"}.get(mode, mode)
    assert picture.mode == ("grey" if expected in ("L", "LA") else "rgb")
    assert (picture.alpha is not None) == expected.endswith("A")
    assert np.array_equal(np.asarray(to_pil(picture)), np.asarray(image.convert(expected)))


def test_palettes_become_rgb_even_if_grey() -> None:
    image = PIL.Image.fromarray(noise(10, 11)).convert("P")
    assert [read_picture(pil_bytes(image, format)).mode for format in ("PNG", "TIFF")] == ["rgb", "rgb"]


@pytest.mark.parametrize(
    ("mode", "transparency"), [("L", 7), ("1", 0), ("RGB", (9, 8, 7)), ("P", b"\x00\x80")]
)
def test_transparent_colours_of_png_become_alpha(mode: str, transparency: Any) -> None:
    image = PIL.Image.new(mode, (4, 4), transparency if mode != "P" else 0)
    picture = read_picture(pil_bytes(image, "PNG", transparency=transparency))
    assert picture.alpha is not None
    assert picture.alpha.max() == 0
    assert picture.mode == ("grey" if mode in ("1", "L") else "rgb")


def test_transparent_colour_of_16_bit_png_becomes_alpha() -> None:
    array = noise(6, 7, 3, dtype=np.uint16)
    data = encode_picture(from_array(array))
    picture = read_picture(with_png_chunk(data, b"tRNS", struct.pack(">HHH", *array[2, 3].tolist())))
    assert picture.bits == 16
    assert picture.alpha is not None
    assert picture.alpha[0, 2, 3] == 0
    assert picture.alpha.sum() == 41


def test_cmyk_becomes_rgb_and_loses_its_profile() -> None:
    cmyk = PIL.Image.fromarray(noise(16, 16, 4), "CMYK")
    for data in (pil_bytes(cmyk, "TIFF"), pil_bytes(cmyk, "JPEG", quality=100)):
        picture = read_picture(data)
        difference = np.asarray(to_pil(picture)).astype(int) - np.asarray(cmyk.convert("RGB"))
        assert (picture.mode, picture.alpha, picture.icc) == ("rgb", None, None)
        assert np.abs(difference).mean() < 12  # JPEG noise; an inverted picture would be near 85
    broken = read_picture(pil_bytes(cmyk, "TIFF", icc_profile=ICC))  # an RGB profile cannot be of CMYK
    assert torch.equal(broken.pixels, read_picture(pil_bytes(cmyk, "TIFF")).pixels)
    assert broken.icc is None


def test_cmyk_goes_through_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def convert(image: PIL.Image.Image, source: Any, target: Any, outputMode: str) -> PIL.Image.Image:  # noqa: N803
        seen.append(image.mode + outputMode)
        return PIL.Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    picture = read_picture(pil_bytes(PIL.Image.fromarray(noise(4, 4, 4), "CMYK"), "JPEG", icc_profile=ICC))
    assert seen == ["CMYKRGB"]
    assert (picture.pixels[:, 0, 0] * 255).round().tolist() == [1, 2, 3]
    assert picture.icc is None


@pytest.mark.parametrize(
    "options", [{"tile": True}, {"bigtiff": False, "compression": "lzw"}, {"premultiply": True}]
)
def test_other_layouts_of_16_bit_tiff(options: dict[str, Any]) -> None:
    array = noise(50, 33, 4, dtype=np.uint16)
    array[..., 3] |= 0x8000
    image = pyvips.Image.new_from_array(array).copy(interpretation="rgb16")
    back = to_array(read_picture(image.tiffsave_buffer(**options)), array)
    assert np.abs(back.astype(int) - array).max() <= (2 if "premultiply" in options else 0)


def test_smaller_copies_in_a_tiff_are_not_pages() -> None:
    image = pyvips.Image.new_from_array(noise(300, 300, 3))
    assert read_picture(image.tiffsave_buffer(tile=True, pyramid=True)).pixels.shape == (3, 300, 300)


def test_bit_depths_below_8() -> None:
    rows = b"\0\x1b" * 3  # filter 0, then the values 0 1 2 3
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 2, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    assert (read_picture(data).pixels[0, 0] * 255).round().tolist() == [0, 85, 170, 255]
    assert read_picture(data).bits == 8


# ---------------------------------------------------------------- orientation and metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff", "png 16", "tiff 16"])
def test_orientation_is_applied_and_reset(format: str, orientation: int) -> None:
    format, _, sixteen = format.partition(" ")
    array = noise(6, 9, 3, dtype=np.uint16 if sixteen else np.uint8)
    exif = exif_bytes(orientation).removeprefix(b"Exif\0\0")
    data = encode_picture(replace(from_array(array), exif=exif, xmp=XMP), format=format)
    stored = read_picture(encode_picture(from_array(array), format=format))
    picture = read_picture(data)

    flips = {1: [], 2: [2], 3: [1, 2], 4: [1], 5: [], 6: [2], 7: [1, 2], 8: [1]}[orientation]
    upright = (stored.pixels.transpose(1, 2) if orientation > 4 else stored.pixels).flip(flips)
    assert torch.equal(picture.pixels, upright)
    assert picture.bits == (16 if sixteen else 8)
    assert exif_contents(picture.exif) == exif_contents(exif) | {0x0112: 1}
    assert picture.xmp == (XMP if orientation == 1 else XMP.replace(b'"6"', b'"1"'))
    if not sixteen and format in ("jpg", "png"):  # Pillow agrees
        image = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
        assert np.array_equal(np.asarray(to_pil(picture)), np.asarray(image))


def test_orientation_of_a_pillow_tiff_is_applied_once() -> None:
    data = pil_bytes(noise(6, 9, 3), "TIFF", exif=exif_bytes(6))
    expected = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(to_pil(read_picture(data))), np.asarray(expected))


@pytest.mark.parametrize("order", ["<", ">"])
def test_resetting_touches_only_the_orientation(order: str) -> None:
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, 8, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    exif = head + entry + struct.pack(order + "I", 26) + b"thumbnail"
    orientation, reset = metadata.reset_orientation(b"Exif\0\0" + exif)
    assert orientation == 8
    assert reset == head + struct.pack(order + "HHIHH", 0x0112, 3, 1, 1, 0) + bytes(4) + b"thumbnail"


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"hello"])
def test_damaged_exif_does_not_stop_a_picture(exif: bytes) -> None:
    data = pil_bytes(noise(4, 4, 3), "JPEG", exif=b"Exif\0\0" + exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read_picture(data)
    for format in ALL_FORMATS:
        assert encode_picture(picture, format=format)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 4])
def test_metadata_are_kept(format: str, dtype: Any, channels: int) -> None:
    exif = exif_bytes().removeprefix(b"Exif\0\0")
    array = noise(5, 6, channels, dtype=dtype)
    source = replace(from_array(array), icc=ICC, exif=exif, xmp=XMP)
    picture = read_picture(encode_picture(source, format=format))
    assert picture.icc == ICC
    assert picture.xmp == XMP
    assert exif_contents(picture.exif) == exif_contents(exif)
    if format != "tiff":  # there the tags are taken apart
        assert picture.exif == exif
    again = read_picture(encode_picture(picture))
    assert (again.icc, again.exif, again.xmp) == (picture.icc, picture.exif, picture.xmp)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_pillow_finds_our_metadata(format: str) -> None:
    exif, xmp = exif_bytes().removeprefix(b"Exif\0\0"), XMP.replace(b"Orientation", b"Kind")
    data = encode_picture(replace(from_array(noise(5, 6, 3)), icc=ICC, exif=exif, xmp=xmp), format=format)
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    assert image.info["icc_profile"] == ICC
    assert image.info["xmp"] == xmp
    found = image.getexif()
    assert found[0x011A] == 300
    assert float(found.get_ifd(0x8769)[0x829A]) == 0.02
    assert found.get_ifd(0x8825)[1] == "N"


def test_metadata_written_by_pillow_are_found() -> None:
    array = noise(5, 6, 3)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    tags = PIL.Image.Exif()
    tags.load(exif_bytes())
    tags[700] = XMP
    files = {
        "png": pil_bytes(array, "PNG", icc_profile=ICC, exif=exif_bytes(), pnginfo=text),
        "jpg": pil_bytes(array, "JPEG", icc_profile=ICC, exif=exif_bytes(), xmp=XMP),
        "webp": pil_bytes(array, "WEBP", icc_profile=ICC, exif=exif_bytes(), xmp=XMP),
        "tiff": pil_bytes(array, "TIFF", icc_profile=ICC, exif=tags),
    }
    for format, data in files.items():
        picture = read_picture(data)
        wanted = exif_contents(exif_bytes().removeprefix(b"Exif\0\0"))
        assert (picture.format, picture.icc, picture.xmp) == (format, ICC, XMP)
        assert wanted.items() <= exif_contents(picture.exif).items()


def test_exif_behind_the_pixels_of_a_png_is_found() -> None:
    exif = exif_bytes(3).removeprefix(b"Exif\0\0")
    for dtype in (np.uint8, np.uint16):
        array = noise(4, 5, 3, dtype=dtype)
        data = with_png_chunk(encode_picture(from_array(array)), b"eXIf", exif, before=b"IEND")
        assert np.array_equal(to_array(read_picture(data), array), array[::-1, ::-1])


def test_a_picture_without_metadata_gets_none() -> None:
    for format in ALL_FORMATS:
        back = read_picture(encode_picture(from_array(noise(4, 4, 3)), format=format))
        assert (back.icc, back.exif, back.xmp) == (None, None, None)


def test_text_that_jpeg_cannot_hold_is_refused() -> None:
    big = replace(from_array(noise(4, 4, 3)), xmp=b"x" * 70000)
    with pytest.raises(
        PictureError, match=r"cannot be encoded as jpg \(XMP data is too long\); try another format"
    ):
        encode_picture(big, format="jpg")
    assert read_picture(encode_picture(big)).xmp == big.xmp


# ---------------------------------------------------------------- refusals


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "is a folder; expected a picture file" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a device or a pipe" in refusal(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match=r"a\\x00b.png: cannot be read"):
        read_picture("a\0b.png")
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture("x" * 5000 + ".png")


def test_a_text_named_jpg_is_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "letter.jpg"
    for text in (
        b"Dear all,",
        b"BM is the beginning of this text",
        b"\xff\xd8",
        b"\0" * 100,
        b"RIFF____WAVEfmt ",
    ):
        path.write_bytes(text)
        assert refusal(path).endswith("is not a picture; expected PNG, JPEG, WebP, TIFF or BMP")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GIF89a" + bytes(20), "GIF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "AVIF"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "video"),
        (b"8BPS" + bytes(20), "a Photoshop document"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"FUJIFILMCCD-RAW", "camera raw"),
        (b"II\x2b\0\x08\0\0\0", "BigTIFF"),
    ],
)
def test_known_formats_we_do_not_read_are_named(data: bytes, kind: str) -> None:
    assert refusal(data) == (
        f"the picture: is {kind}, which is not supported; convert it to PNG, JPEG, WebP, TIFF or BMP"
    )


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode_picture(from_array(noise(4, 4, 3)), format="webp"))
    assert read_picture(path).format == "webp"


def animation(format: str) -> bytes:
    frames = [PIL.Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    return pil_bytes(frames[0], format, save_all=True, append_images=frames[1:])


def test_animations_and_pages_are_refused() -> None:
    assert "is an animated PNG, which is not supported; extract one frame" in refusal(animation("PNG"))
    assert "is an animated WebP, which is not supported; extract one frame" in refusal(animation("WEBP"))
    assert "is a TIFF of several pages, which is not supported; extract one page" in refusal(
        animation("TIFF")
    )


def test_kinds_of_tiff_that_would_come_out_wrong_are_refused() -> None:
    assert "is a TIFF of 32-bit float or signed numbers" in refusal(
        pil_bytes(noise(4, 4).astype(np.float32), "TIFF")
    )
    assert "is a TIFF of 32-bit float or signed numbers" in refusal(
        pil_bytes(noise(4, 4).astype(np.int32), "TIFF")
    )
    assert "of Lab colour; convert it to RGB" in refusal(pil_bytes(PIL.Image.new("LAB", (4, 4)), "TIFF"))
    cmyk = pyvips.Image.new_from_array(noise(4, 4, 4, dtype=np.uint16)).copy(interpretation="cmyk")
    assert "of 16-bit CMYK colour; convert it to RGB" in refusal(cmyk.tiffsave_buffer())
    assert "is camera raw" in refusal(pil_bytes(noise(4, 4), "TIFF", tiffinfo={50706: b"\1\4\0\0"}))
    assert "is camera raw" in refusal(pil_bytes(noise(4, 4), "TIFF", tiffinfo={254: 1}))


@pytest.mark.parametrize("format", ALL_FORMATS)
def test_too_many_pixels_are_refused_from_the_header(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_picture(from_array(np.zeros((1500, 2000, 3), np.uint8)), format=format)
    monkeypatch.setattr(images, "_assemble", None)  # nothing is decoded
    monkeypatch.setattr(images, "_decode_vips", None)
    monkeypatch.setattr(images, "_pillow_samples", None)
    assert refusal(data, max_megapixels=2.5) == (
        "the picture: has 2000x1500 pixels (3.0 megapixels) and the limit is 2.5; "
        "raise it with --max-megapixels 3"
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "JPEG"])
def test_bombs_meet_our_own_limit_and_pillows_is_left_alone(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pil_bytes(PIL.Image.new("L", (500, 400)), format)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(data).pixels.shape == (3, 400, 500)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(io.BytesIO(data))


def test_a_second_png_header_cannot_hide_a_larger_picture() -> None:
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    for dtype in (np.uint8, np.uint16):
        data = encode_picture(from_array(noise(4, 4, 3, dtype=dtype)))
        refusal(with_png_chunk(data, b"IHDR", huge))
        refusal(with_png_chunk(data, b"IHDR", huge, before=b"IHDR"))


def test_hostile_structures_are_refused_soon() -> None:
    """Small files that say a lot about nothing: each is a second at most."""
    png = encode_picture(from_array(noise(4, 4, 3)))
    refusal(png[:33] + png_chunk(b"tEXt", b"") * 200_000 + png[33:])
    webp = encode_picture(from_array(noise(4, 4, 3)), format="webp")
    many = webp[:12] + b"JUNK\0\0\0\0" * 200_000 + webp[12:]
    refusal(many[:4] + struct.pack("<I", len(many) - 8) + many[8:])
    size = struct.pack("<HHHII", 2, 256, 4, 1, 1) + struct.pack("<HHII", 257, 4, 1, 1)
    smaller = struct.pack("<HHHIII", 1, 254, 4, 1, 1, 38)  # a directory that leads to itself
    assert "of several pages" in refusal(b"II*\0\x08\0\0\0" + size + struct.pack("<I", 38) + smaller)
    entries = b"".join(struct.pack("<HHII", tag, 1, 2**20, 0) for tag in range(1000, 40_000))
    refusal(b"II*\0\x08\0\0\0" + struct.pack("<H", 39_000) + entries + bytes(2**20))


def test_a_text_bomb_in_a_png_does_not_matter() -> None:
    bomb = zlib.compress(bytes(2**25))
    data = encode_picture(from_array(noise(4, 4, 3)))
    assert read_picture(with_png_chunk(data, b"zTXt", b"note\0\0" + bomb)).bits == 8
    assert "larger than" in refusal(with_png_chunk(data, b"iCCP", b"icc\0\0" + bomb))


# ---------------------------------------------------------------- damage


def samples() -> dict[str, bytes]:
    array = np.asarray(PIL.Image.fromarray(noise(7, 9, 3)).resize((45, 37), PIL.Image.Resampling.BICUBIC))
    meta = {"icc": ICC, "exif": exif_bytes(6).removeprefix(b"Exif\0\0"), "xmp": XMP}
    picture = replace(from_array(array), **meta)  # type: ignore[arg-type]
    files = {format: encode_picture(picture, format=format) for format in ALL_FORMATS}
    files["webp lossy"] = encode_picture(replace(picture, lossless=False), format="webp")
    files["jpg progressive"] = pil_bytes(array, "JPEG", progressive=True, exif=exif_bytes(6))
    files["tiff pillow"] = pil_bytes(array, "TIFF", exif=exif_bytes(6))
    files["tiff jpeg"] = pil_bytes(array, "TIFF", compression="jpeg")
    files["bmp palette"] = pil_bytes(PIL.Image.fromarray(array).quantize(16), "BMP")
    for format in ("png", "tiff"):
        sixteen = replace(from_array(array.astype(np.uint16) * 257), **meta)  # type: ignore[arg-type]
        files[f"{format} 16"] = encode_picture(sixteen, format=format)
    return files


SAMPLES = samples()


def try_to_read(data: bytes) -> Picture | None:
    """A Picture or a PictureError of one line; anything else fails the test, warnings too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = read_picture(data, max_megapixels=1)
        except PictureError as error:
            return None if str(error).isprintable() else pytest.fail(repr(str(error)))
    assert 0 <= picture.pixels.min() <= picture.pixels.max() <= 1
    return picture


@pytest.mark.parametrize("kind", SAMPLES)
def test_cut_files_are_refused_never_half_read(kind: str) -> None:
    """Whatever is cut off, no grey rows: an error, or every pixel."""
    whole = SAMPLES[kind]
    expected = read_picture(whole)
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}:
        picture = try_to_read(whole[:length])
        assert picture is None or torch.equal(picture.pixels, expected.pixels), length
    message = refusal(whole[: len(whole) // 2])
    assert "damaged or incomplete (" in message
    assert message.endswith("; copy or download it again")


@pytest.mark.parametrize("kind", SAMPLES)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_flipped_bytes_give_a_picture_or_our_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[kind])
    places = st.integers(0, len(damaged) - 1) | st.integers(0, min(200, len(damaged) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        damaged[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    picture = try_to_read(bytes(damaged))
    if picture is not None:
        for format in ("jpg", "tiff"):
            encode_picture(picture, format=format)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([data[:12] for data in SAMPLES.values()]), st.binary(max_size=400))
def test_random_bytes_behind_a_true_beginning(beginning: bytes, rest: bytes) -> None:
    try_to_read(beginning + rest)


def test_a_flip_among_png_pixels_is_noticed() -> None:
    for kind in ("png", "png 16"):
        damaged = bytearray(SAMPLES[kind])
        damaged[damaged.index(b"IDAT") + 60] ^= 1
        assert "wrong checksum in IDAT" in refusal(bytes(damaged))


# ---------------------------------------------------------------- writing files


def test_the_format_is_the_one_asked_then_the_extension_then_the_source(tmp_path: Path) -> None:
    picture = replace(from_array(noise(4, 4, 3)), format="bmp")
    for name, asked, expected in [
        ("a.jpeg", "png", "png"),
        ("a.TIF", None, "tiff"),
        ("a.webp", None, "webp"),
        ("a", None, "bmp"),
        ("a.xyz", None, "bmp"),
    ]:
        write_picture(picture, tmp_path / name, format=asked)
        assert read_picture(tmp_path / name).format == expected


def test_names_of_any_kind_in_new_folders(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        array = noise(4, 4, 3, dtype=dtype)
        for name in (
            "mit Umlaut äöü/ein Bild.png",
            "line\nbreak.tiff",
            "-dash.png",
            "日本.png",
            "x" * 250 + ".png",
        ):
            write_picture(from_array(array), tmp_path / "new" / name)
            assert np.array_equal(to_array(read_picture(tmp_path / "new" / name), array), array)
            assert np.array_equal(to_array(read_picture(str(tmp_path / "new" / name)), array), array)
    message = refusal(tmp_path / "a\nb.png")
    assert "a\\nb.png: no such file" in message


def test_an_unknown_format_or_quality_is_a_usage_error(tmp_path: Path) -> None:
    picture = from_array(noise(4, 4, 3))
    with pytest.raises(UsageError, match=r"unknown format 'gif'.* Known: jpg, png, tiff, webp"):
        write_picture(picture, tmp_path / "a.png", format="gif")
    with pytest.raises(UsageError, match="quality 0 is outside 1 to 100"):
        encode_picture(picture, quality=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failure: BaseException
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"older")

    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(os, call, fail)
    if isinstance(failure, OSError):
        with pytest.raises(
            PictureError, match=r"a.png: cannot be written \(No space left on device\); check"
        ):
            write_picture(from_array(noise(4, 4, 3)), path)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_picture(from_array(noise(4, 4, 3)), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"older"


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = from_array(noise(4, 4, 3))
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(picture, tmp_path / "file" / "a.png")
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(picture, tmp_path)  # a folder of that name
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(picture, Path("a\0b.png"))

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(PictureError, match=r"a.png: cannot be written \(Permission denied\)"):
        write_picture(picture, tmp_path / "a.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "touched").touch()
    write_picture(from_array(noise(4, 4, 3)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "touched").stat().st_mode


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    wide = from_array(np.zeros((1, 16384), np.uint8))
    with pytest.raises(
        PictureError, match="webp holds at most 16383 pixels a side, this has 16384x1; write png"
    ):
        encode_picture(wide, format="webp")
    assert read_picture(encode_picture(wide, format="png")).pixels.shape == (3, 1, 16384)
    broken = Picture(pixels=torch.full((3, 2, 2), float("nan")))
    with pytest.raises(PictureError, match=r"a.png: the pixels are not numbers \(NaN\)"):
        write_picture(broken, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- Pillow images and arrays


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (1, 1), (1, 500, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_come_back_with_their_type_and_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    integers = np.issubdtype(dtype, np.integer)
    array = noise(*shape, dtype=dtype) if integers else noise(*shape).astype(dtype) / 255
    picture = from_array(array)
    assert picture.mode == ("rgb" if shape[2:] in ((3,), (4,)) else "grey")
    assert (picture.alpha is not None) == (shape[2:] == (4,))
    back = to_array(picture, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_allclose(back, array, atol=0 if integers else 1e-7)


def test_an_array_is_not_shared_with_its_picture() -> None:
    for array in (noise(4, 4, 3), noise(4, 4, 3).astype(np.float32) / 255):
        before = array.copy()
        from_array(array).pixels.zero_()
        assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5), np.uint8), r"has shape \(3, 4, 5\); expected \(h, w\)"),
        (np.zeros((4, 5, 2), np.uint8), "has shape"),
        (np.zeros((0, 5, 3), np.uint8), "has shape"),
        (np.zeros((4,), np.uint8), "has shape"),
        (np.zeros((4, 5), np.int64), "has type int64; expected uint8, uint16, or float"),
        (np.zeros((4, 5), bool), "has type bool"),
        (np.full((4, 5), 255.0), r"has values from 255 to 255; scale it to \[0, 1\]"),
        (np.full((4, 5), np.nan), "has values from nan"),
    ],
)
def test_other_arrays_are_refused(array: Array, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        from_array(array)


@pytest.mark.parametrize(
    ("mode", "back"),
    [
        ("L", "L"),
        ("LA", "LA"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("P", "RGB"),
        ("PA", "RGBA"),
        ("1", "L"),
        ("CMYK", "RGB"),
    ],
)
def test_pillow_modes(mode: str, back: str) -> None:
    image = PIL.Image.fromarray(noise(6, 7, 4 if mode.endswith("A") else 3))
    image = image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)
    result = to_pil(from_pil(image))
    assert result.mode == back
    assert np.array_equal(np.asarray(result), np.asarray(image.convert(back)))


def test_16_bit_pillow_images() -> None:
    array = noise(6, 7, dtype=np.uint16)
    assert np.array_equal(np.asarray(to_pil(from_pil(PIL.Image.fromarray(array)))), array)
    big_endian = PIL.Image.frombytes("I;16B", (7, 6), array.byteswap().tobytes())
    assert np.array_equal(np.asarray(to_pil(from_pil(big_endian))), array)
    assert to_pil(from_array(noise(6, 7, 3, dtype=np.uint16))).mode == "RGB"  # Pillow has no 16-bit RGB


def test_a_palette_with_transparency_from_pillow() -> None:
    image = PIL.Image.new("P", (2, 2))
    image.info["transparency"] = 0
    assert to_pil(from_pil(image)).mode == "RGBA"


def test_pillow_images_are_turned_upright_and_keep_their_metadata() -> None:
    data = pil_bytes(noise(6, 9, 3), "PNG", icc_profile=ICC, exif=exif_bytes(6))
    image = PIL.Image.open(io.BytesIO(data))
    result = to_pil(from_pil(image))
    assert np.array_equal(np.asarray(result), np.asarray(ImageOps.exif_transpose(image)))
    assert result.info["icc_profile"] == ICC
    assert result.getexif()[0x0112] == 1


def test_other_pillow_images_are_refused() -> None:
    for mode in ("F", "I", "LAB"):
        with pytest.raises(
            PictureError, match=f"the image: has Pillow mode {mode}, .* convert it to L or RGB"
        ):
            from_pil(PIL.Image.new(mode, (2, 2)))
    with pytest.raises(PictureError, match="the image: cannot be used"):
        from_pil(PIL.Image.open(io.BytesIO(SAMPLES["jpg"][:-20])))


# ---------------------------------------------------------------- manners


def test_importing_is_quiet_and_leaves_libvips_alone() -> None:
    code = "import sys, fairweather.images; assert 'pyvips' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout + result.stderr == ""


def test_extensions_and_formats_agree() -> None:
    assert set(images._OF_EXTENSION) == images.EXTENSIONS
    assert set(images.FORMATS.values()) <= images.EXTENSIONS
    assert all(images._OF_EXTENSION[extension] == name for name, extension in images.FORMATS.items())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory through /proc")
def test_reading_needs_less_than_two_float_copies(tmp_path: Path) -> None:
    write_picture(from_array(np.zeros((2000, 3000, 3), np.uint8)), tmp_path / "a.png")
    code = """
import sys
from fairweather.images import read_picture
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
read_picture(sys.argv[2]); before = peak()
print((peak_after := (read_picture(sys.argv[1]), peak())[1]) - before)
"""
    write_picture(from_array(np.zeros((2, 3, 3), np.uint8)), tmp_path / "small.png")
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "small.png")]
    used = int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert used < 2 * 2000 * 3000 * 3 * 4
