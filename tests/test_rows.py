"""Pictures in rows are the pictures that are read and written whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fairweather.errors import PictureError
from fairweather.images import Picture, read_picture, write_picture
from fairweather.rows import open_rows, rows_written

HEIGHT, WIDTH = 37, 23


def picture(mode: str = "rgb", bits: int = 8, *, alpha: bool = False, **options: object) -> Picture:
    generator = torch.Generator().manual_seed(0)
    top = 2**bits - 1
    samples = torch.randint(0, top + 1, (4, HEIGHT, WIDTH), generator=generator) / top
    pixels = samples[:1].repeat(3, 1, 1) if mode == "grey" else samples[:3]
    return Picture(pixels=pixels, mode=mode, bits=bits, alpha=samples[3:] if alpha else None, **options)  # type: ignore[arg-type]


def exif(orientation: int) -> bytes:
    block = PIL.Image.Exif()
    block[274], block[271] = orientation, "a maker"
    return block.tobytes().removeprefix(b"Exif\0\0")


def read_in_rows(path: Path, step: int = 10, overlap: int = 3) -> Picture:
    rows = open_rows(path)
    assert rows is not None
    pixels, alphas = [], []
    for first in range(0, rows.height, step):
        end = min(first + step, rows.height)
        assert rows.rows(first, min(end + overlap, rows.height)).shape[1] >= end - first
        pixels.append(rows.rows(first, end))
        alphas.append(rows.alpha(first, end))
    return dataclasses.replace(
        rows.like,
        pixels=torch.cat(pixels, dim=1),
        alpha=None if alphas[0] is None else torch.cat([a for a in alphas if a is not None], dim=1),
    )


def write_in_rows(path: Path, whole: Picture, format: str) -> None:
    with rows_written(path, whole, format=format, width=WIDTH) as add:
        for first in range(0, HEIGHT, 10):
            part = slice(first, first + 10)
            add(whole.pixels[:, part], None if whole.alpha is None else whole.alpha[:, part])


def assert_same(one: Picture, other: Picture) -> None:
    """But for the file itself, which pictures in rows do not keep."""
    for field in dataclasses.fields(Picture):
        if field.name == "encoded":
            continue
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("mode", ["grey", "rgb"])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_rows_are_those_of_the_whole(tmp_path: Path, format: str, mode: str, bits: int, alpha: bool) -> None:
    whole = picture(mode, bits, alpha=alpha, format=format, icc=b"a profile", xmp=b"<x/>", exif=exif(1))
    write_picture(whole, tmp_path / f"whole.{format}")
    write_in_rows(tmp_path / f"rows.{format}", whole, format)
    assert_same(read_in_rows(tmp_path / f"whole.{format}"), read_picture(tmp_path / f"whole.{format}"))
    assert_same(read_picture(tmp_path / f"rows.{format}"), read_picture(tmp_path / f"whole.{format}"))


@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_jpeg_in_rows_is_the_jpeg_of_the_whole(tmp_path: Path, mode: str) -> None:
    whole = picture(mode, alpha=True, format="jpg", icc=b"p" * 70_000, xmp=b"<x/>", exif=exif(1))
    write_picture(whole, tmp_path / "whole.jpg")
    write_in_rows(tmp_path / "rows.jpg", whole, "jpg")
    assert_same(read_in_rows(tmp_path / "whole.jpg"), read_picture(tmp_path / "whole.jpg"))
    assert_same(read_picture(tmp_path / "rows.jpg"), read_picture(tmp_path / "whole.jpg"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "jpg", "tiff"])
def test_rows_are_turned_upright(tmp_path: Path, format: str, orientation: int) -> None:
    file = tmp_path / f"a.{format}"
    write_picture(picture(format=format, exif=exif(orientation)), file)
    assert_same(read_in_rows(file), read_picture(file))


def test_a_reduced_copy_has_the_same_means(tmp_path: Path) -> None:
    whole = picture()
    write_picture(whole, tmp_path / "a.png")
    rows = open_rows(tmp_path / "a.png")
    assert rows is not None
    small = rows.reduced(12)
    assert max(small.shape[1:]) == 12
    torch.testing.assert_close(small.mean(), whole.pixels.mean(), rtol=0, atol=0.02)
    assert torch.equal(rows.reduced(1000), whole.pixels)


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_kinds_that_need_the_whole_are_left_to_it(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.png" if mode == "P" else "a.jpg")
    PIL.Image.new(mode, (5, 4)).save(file)
    assert open_rows(file) is None


def test_rows_are_asked_for_downwards(tmp_path: Path) -> None:
    write_picture(picture(), tmp_path / "a.png")
    rows = open_rows(tmp_path / "a.png")
    assert rows is not None
    rows.rows(8, 12)
    with pytest.raises(ValueError, match="row 7 is asked for after row 8"):
        rows.rows(7, 12)


@pytest.mark.parametrize("format", ["png", "jpg", "tiff"])
def test_a_cut_file_is_refused_in_one_line(tmp_path: Path, format: str) -> None:
    file = tmp_path / f"a.{format}"
    write_picture(picture(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(PictureError, match=r"a\.\w+: .*copy or download it again") as caught:
        read_in_rows(file)
    assert "\n" not in str(caught.value)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = picture()

    def interrupted() -> None:
        with rows_written(tmp_path / "a.png", whole, format="png", width=WIDTH) as add:
            add(whole.pixels, None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    whole = picture()
    with (
        pytest.raises(PictureError, match=r"a\.png: the pixels are not numbers"),
        rows_written(tmp_path / "a.png", whole, format="png", width=WIDTH) as add,
    ):
        add(whole.pixels * np.nan, None)
    assert list(tmp_path.iterdir()) == []
