"""Pictures of two cameras are found whole, and cleaned once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairweather.data.night import cleaned_pairs, find_triples
from fairweather.data.pairs import complete_pairs
from fairweather.errors import DataError
from fairweather.images import Picture, read_picture, write_picture


def write(folder: Path, *stems: str, value: float = 0.5) -> None:
    for stem in stems:
        write_picture(Picture(pixels=torch.full((3, 8, 9), value)), folder / f"{stem}.png")


@pytest.fixture
def roadscene(tmp_path: Path) -> Path:
    for inside in ("Vis/input", "Vis/target", "Inf/input"):
        write(tmp_path / "train" / inside, "10", "2")
    (tmp_path / "train/Inf/input/_init_.py").write_text("")
    return tmp_path


def test_roadscene_is_matched_by_stem_in_natural_order_and_strays_are_left_out(roadscene: Path) -> None:
    found = find_triples(roadscene, split="train")
    assert [t.visible.stem for t in found] == ["2", "10"]
    assert all(t.visible.stem == t.infrared.stem for t in found)
    assert [t.clear and t.clear.parent.name for t in found] == ["target", "target"]


def test_plain_folders_of_two_cameras_have_no_clear_pictures(tmp_path: Path) -> None:
    write(tmp_path / "vi", "a")
    write(tmp_path / "IR", "a")
    (found,) = find_triples(tmp_path)
    assert (found.visible.parent.name, found.infrared.parent.name, found.clear) == ("vi", "IR", None)


def test_a_picture_without_a_partner_is_refused_by_name(roadscene: Path) -> None:
    write(roadscene / "train/Inf/input", "11")
    with pytest.raises(DataError, match=r"1 of 2 visible and 3 infrared .* equal stem: 11"):
        find_triples(roadscene, split="train")


def test_a_missing_clear_picture_is_refused(roadscene: Path) -> None:
    (roadscene / "train/Vis/target/2.png").unlink()
    with pytest.raises(DataError, match="equal stem: 2"):
        find_triples(roadscene, split="train")


def test_folders_of_one_camera_are_named(tmp_path: Path) -> None:
    write(tmp_path / "vi", "a")
    with pytest.raises(DataError, match=r"folders seen: vi/; expected one of vis, vi.* and one of inf"):
        find_triples(tmp_path)


def test_two_pictures_of_one_stem_are_refused(roadscene: Path) -> None:
    write_picture(Picture(pixels=torch.zeros(3, 8, 9)), roadscene / "train/Inf/input/2.jpg")
    with pytest.raises(DataError, match="share a stem"):
        find_triples(roadscene, split="train")


def test_a_picture_is_cleaned_once_by_each_cleaner(roadscene: Path, tmp_path: Path) -> None:
    triples = find_triples(roadscene, split="train")
    write(roadscene / "train/Vis/input", "2", value=0.25)  # two different pictures
    asked: list[str] = []

    def clean(path: Path) -> Picture:
        asked.append(path.stem)
        return Picture(pixels=1 - read_picture(path).pixels)

    cache = tmp_path / "cache"
    first = cleaned_pairs(triples, clean, by="a" * 64, cache=cache)
    assert asked == ["2", "10"]
    assert cleaned_pairs(triples, clean, by="a" * 64, cache=cache) == first
    assert asked == ["2", "10"]
    assert cleaned_pairs(triples, clean, by="b" * 64, cache=cache) != first
    assert asked == ["2", "10", "2", "10"]

    pairs = complete_pairs(first).pairs
    assert [p.target.name for p in pairs] == ["2.png", "10.png"]
    assert read_picture(pairs[0].degraded).pixels.mean() == pytest.approx(0.75, abs=0.003)
