"""Partners of the infrared camera: by name and place, or by a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairweather.errors import UsageError
from fairweather.partners import listed_pairs, partners


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def partners_of(*visible: str, ir: str, folder: str = "vis") -> list[str | None]:
    files = [(Path(folder) / name, Path(name)) for name in visible]
    return [found and found.as_posix() for found in partners(files, ir)]


def test_partners_in_a_folder_have_the_same_stem_and_one_may_be_missing() -> None:
    touch("ir/a.png", "ir/c.png", "ir/b.txt", "ir/.b.png")
    assert partners_of("a.jpg", "b.jpg", ir="ir") == ["ir/a.png", None]


def test_partners_in_a_tree_lie_at_the_same_place() -> None:
    touch("ir/day/1.png", "ir/night/1.png")
    assert partners_of("night/1.jpg", "day/1.jpg", ir="ir") == ["ir/night/1.png", "ir/day/1.png"]


def test_a_flat_folder_does_for_a_tree_unless_two_would_share_a_picture() -> None:
    touch("ir/1.png", "ir/2.png")
    assert partners_of("day/1.jpg", "night/2.jpg", "day/1.png", ir="ir") == [
        "ir/1.png",
        "ir/2.png",
        "ir/1.png",
    ]
    with pytest.raises(UsageError, match=r"vis/day/1\.jpg and vis/night/1\.jpg would share ir/1\.png; sort"):
        partners_of("day/1.jpg", "night/1.jpg", ir="ir")


def test_videos_go_with_videos_and_pictures_with_pictures() -> None:
    touch("ir/a.png", "ir/a.mkv")
    assert partners_of("a.mp4", "a.jpg", ir="ir") == ["ir/a.mkv", "ir/a.png"]


def test_two_of_one_stem_are_refused_only_where_one_is_wanted() -> None:
    touch("ir/a.png", "ir/z.png", "ir/z.tiff")
    assert partners_of("a.jpg", ir="ir") == ["ir/a.png"]
    with pytest.raises(UsageError, match=r"ir/z\.png and ir/z\.tiff share the stem of vis/z\.jpg; which one"):
        partners_of("z.jpg", ir="ir")


def test_one_picture_takes_one_partner() -> None:
    touch("x.tiff")
    assert partners_of("a.jpg", ir="x.tiff") == ["x.tiff"]


def test_a_list_names_partners_of_any_name_and_none_where_a_frame_is_missing() -> None:
    touch("vis/a.jpg", "ir/x.png")
    Path("vis/pairs.csv").write_text(
        "infrared, visible , note\n../ir/x.png, a.jpg,\n,b.jpg\ngone.png,c.jpg\n,d.jpg,,,\n"
    )
    assert partners_of("a.jpg", "b.jpg", "c.jpg", "e.jpg", ir="vis/pairs.csv") == [
        "vis/../ir/x.png",
        None,
        None,
        None,
    ]
    listed = [file.name for file, _ in listed_pairs(Path("vis/pairs.csv"))]
    assert listed == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("ir", "message"),
    [
        ("", "an empty name as --ir; expected a file, a folder or a CSV file"),
        ("nothing", "--ir nothing: no such file or folder"),
        ("other", "none of the 2 visible pictures has a partner of equal stem in other, which holds z"),
        ("x.tiff", r"x\.tiff is one picture, but there are 2 visible ones"),
        ("bad.csv", r"bad\.csv has the columns left, right; expected visible and infrared"),
        ("broken.csv", r"broken\.csv is no CSV file that can be read: 'utf-8' codec"),
        ("void.csv", r"void\.csv has the columns none; expected visible and infrared"),
        ("gone.csv", r"none of the 2 visible pictures has a partner in gone\.csv, which lists a\.jpg"),
        ("empty.csv", r"none of the 2 visible pictures has a partner in empty\.csv, which lists no pairs"),
    ],
)
def test_partners_that_cannot_be_are_refused(ir: str, message: str) -> None:
    touch("other/z.png", "x.tiff", "void.csv")
    Path("bad.csv").write_text("left,right\na,b\n")
    Path("broken.csv").write_bytes(b"visible,infrared\n\xff\xfe\n")
    Path("gone.csv").write_text("visible,infrared\nvis/a.jpg,gone.png\n")
    Path("empty.csv").write_text("visible,infrared\n")
    with pytest.raises(UsageError, match=message):
        partners_of("a.jpg", "b.jpg", ir=ir)
