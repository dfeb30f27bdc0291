"""Depth as files: what the values are, that brighter is nearer, and that both files are written or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fairweather.depth_picture import INFERNO, coloured, normalised, write_depth
from fairweather.errors import PictureError, UsageError


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB in [0, 1]; channels first."""
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = np.tensordot([0.2126, 0.7152, 0.0722], light, 1)
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_the_range_is_the_pictures_own() -> None:
    disparity = torch.tensor([[[-0.5, 0.0], [0.5, 1.5]]])
    assert normalised(disparity).flatten().tolist() == [0, 0.25, 0.5, 1]
    assert torch.equal(normalised(normalised(disparity)), normalised(disparity))


def test_an_even_depth_is_all_zero() -> None:
    assert torch.equal(normalised(torch.full((1, 3, 4), 0.7)), torch.zeros(1, 3, 4))
    assert normalised(torch.ones(1, 1, 1)).item() == 0


def test_colours_grow_evenly_lighter() -> None:
    light = lightness(coloured(torch.linspace(0, 1, 101)[None, None])[:, 0].double().numpy())
    steps = np.diff(light)
    assert (steps > 0).all()
    assert light[0] < 1
    assert light[-1] > 95
    assert steps.max() < 2.5 * steps.mean()


def test_colours_are_the_anchors_and_lie_between_them() -> None:
    place = torch.linspace(0, 1, 2 * len(INFERNO) - 1)[None, None]
    found = coloured(place)[:, 0].T * 255
    anchors = torch.tensor(INFERNO).float()
    assert torch.allclose(found[::2], anchors, atol=1e-3)
    assert torch.allclose(found[1::2], (anchors[1:] + anchors[:-1]) / 2, atol=1e-2)


def test_the_grey_file_holds_sixteen_bits_and_the_coloured_one_the_same_shapes(tmp_path: Path) -> None:
    disparity = torch.linspace(0.2, 0.9, 60).view(1, 6, 10)
    write_depth(disparity, tmp_path / "new" / "room.depth.png")
    files = {file.name: file for file in (tmp_path / "new").iterdir()}
    assert set(files) == {"room.depth.png", "room.depth.colour.png"}
    with PIL.Image.open(files["room.depth.png"]) as image:
        assert image.mode == "I;16"
        grey = np.asarray(image)
    assert np.abs(grey - np.linspace(0, 65535, 60).reshape(6, 10)).max() <= 1
    with PIL.Image.open(files["room.depth.colour.png"]) as image:
        assert (image.mode, image.size) == ("RGB", (10, 6))
        colour = np.asarray(image)
    assert np.array_equal(colour[0, 0], INFERNO[0])
    assert np.array_equal(colour[-1, -1], INFERNO[-1])


def test_depth_written_twice_is_the_later_one(tmp_path: Path) -> None:
    write_depth(torch.rand(1, 4, 4), tmp_path / "a.png")
    write_depth(torch.tensor([[[0.0, 1.0]]]), tmp_path / "a.png")
    for name in ("a.png", "a.colour.png"):
        with PIL.Image.open(tmp_path / name) as image:
            assert image.size == (2, 1)


@pytest.mark.parametrize("name", ["depth.jpg", "depth", "depth.png.tiff", "."])
def test_other_names_than_png_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png"):
        write_depth(torch.rand(1, 4, 4), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="NaN"):
        write_depth(torch.tensor([[[0.5, torch.nan]]]), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match=r"file/a\.png"):
        write_depth(torch.rand(1, 4, 4), tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["a.png", "a.colour.png"])
def test_a_full_disk_leaves_old_files_as_they_were(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "a.colour.png"):
        (tmp_path / name).write_bytes(b"old")
    write = Path.write_bytes
    sizes: list[int] = []

    def full(path: Path, data: bytes) -> int:
        sizes.append(len(data))
        if len(sizes) == ["a.colour.png", "a.png"].index(failing) + 1:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PictureError, match="No space left"):
        write_depth(torch.rand(1, 4, 4), tmp_path / "a.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.png": b"old",
        "a.colour.png": b"old",
    }
