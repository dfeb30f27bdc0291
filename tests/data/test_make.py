"""Sub-images and uncompressed copies give training the same pixels, under names that pair again."""

from __future__ import annotations

import hashlib
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fairweather import cli
from fairweather.data.make import make, mapped_pixels, starts
from fairweather.data.pairs import clear_pictures, complete_pairs
from fairweather.data.patches import Clear, Pairs, Patches
from fairweather.errors import DataError, FairweatherError, UsageError
from fairweather.images import Picture, read_picture, write_picture


def save(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return pixels


def read(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path))


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def digests(root: Path) -> dict[str, str]:
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files(root)}


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    """Two sequences in GoPro's tree, whose frames have equal names."""
    for seed, scene in enumerate(("a", "b")):
        for kind in ("blur", "blur_gamma", "sharp"):
            save(tmp_path / "gopro/train" / scene / kind / "000001.png", 20, 33, seed + len(kind))
    save(tmp_path / "gopro/test/c/blur/000001.png", 20, 20)
    save(tmp_path / "gopro/test/c/sharp/000001.png", 20, 20)
    return tmp_path / "gopro"


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 80), st.integers(1, 80))
def test_windows_cover_a_side_and_end_at_the_border(length: int, size: int, step: int) -> None:
    found = starts(length, size, min(step, size))
    assert found[0] == 0
    assert found[-1] == max(length - size, 0)
    assert all(0 < b - a <= min(step, size) for a, b in pairwise(found))


def test_sub_images_of_published_protocols_are_as_many_as_they_say() -> None:
    assert 2103 * len(starts(1280, 384, 120)) * len(starts(720, 384, 120)) == 75_708  # IRConStyle
    assert 2103 * len(starts(1280, 256, 150)) * len(starts(720, 256, 150)) == 84_120  # ConStyle v2


def test_pairs_are_cut_alike_row_by_row_and_pair_again_under_the_degraded_name(
    gopro: Path, tmp_path: Path
) -> None:
    made = make(gopro, tmp_path / "out", split="train", size=16, step=10)
    assert (made.pairs, made.pictures, made.kept, made.files) == (True, 2, 0, 24)
    assert files(tmp_path / "out/input") == [
        f"{scene}/blur/000001_s00{n}.png" for scene in "ab" for n in range(1, 7)
    ]
    found = complete_pairs(tmp_path / "out")
    assert found.rule == "input/ against target/, by equal stem"
    assert len(found.pairs) == 12
    for kind, folder in (("blur", "input"), ("sharp", "target")):
        whole = read(gopro / "train/b" / kind / "000001.png")
        corners = [(0, 0), (0, 10), (0, 17), (4, 0), (4, 10), (4, 17)]
        for number, (top, left) in enumerate(corners, start=1):
            cut = read(tmp_path / "out" / folder / f"b/blur/000001_s00{number}.png")
            np.testing.assert_array_equal(cut, whole[top : top + 16, left : left + 16])


def test_sides_shorter_than_a_sub_image_are_kept_whole(tmp_path: Path) -> None:
    whole = save(tmp_path / "clear/train/x.png", 10, 40)
    make(tmp_path / "clear", tmp_path / "out", size=32, step=32)
    assert [path.name for path in clear_pictures(tmp_path / "out")] == ["x_s001.png", "x_s002.png"]
    np.testing.assert_array_equal(read(tmp_path / "out/x_s002.png"), whole[:, 8:])


def test_one_clear_picture_of_several_hazy_ones_is_repeated_under_their_names(tmp_path: Path) -> None:
    for name in ("1400_1", "1400_2"):
        save(tmp_path / f"sots/hazy/{name}.png", 8, 8)
    save(tmp_path / "sots/gt/1400.png", 8, 8)
    make(tmp_path / "sots", tmp_path / "out", size=8, step=8)
    pairs = complete_pairs(tmp_path / "out").pairs
    assert [(p.degraded.stem, p.target.stem) for p in pairs] == [
        ("1400_1_s001", "1400_1_s001"),
        ("1400_2_s001", "1400_2_s001"),
    ]


def test_nothing_of_the_data_set_is_touched(gopro: Path, tmp_path: Path) -> None:
    before = digests(gopro)
    make(gopro, tmp_path / "out", split="train", size=16, step=16)
    make(gopro, tmp_path / "plain", split="train", plain=True)
    assert digests(gopro) == before


def test_what_was_stopped_in_the_middle_goes_on(
    gopro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(gopro, tmp_path / "whole", split="train", size=16, step=10)
    calls = count()

    def until_stopped(picture: Picture, path: Path) -> None:
        if next(calls) >= 15:
            raise KeyboardInterrupt
        write_picture(picture, path)

    with monkeypatch.context() as patch:
        patch.setattr("fairweather.data.make.write_picture", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            make(gopro, tmp_path / "out", split="train", size=16, step=10)
    assert 0 < len(list((tmp_path / "out").rglob("*.png"))) < 24
    make(gopro, tmp_path / "out", split="train", size=16, step=10)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_what_is_there_is_left_alone(gopro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(gopro, out, split="train", size=16, step=10)
    (out / "input/a/blur/000001_s002.png").write_bytes(b"mine")
    (out / "target/b/blur/000001_s001.png").unlink()
    made = make(gopro, out, split="train", size=16, step=10)
    assert (made.pictures, made.kept, made.files) == (2, 1, 12)
    assert (out / "input/a/blur/000001_s002.png").read_bytes() == b"mine"


def test_a_pair_that_cannot_be_cut_ends_it_with_its_name_and_the_rest_can_follow(
    gopro: Path, tmp_path: Path
) -> None:
    out, bad = tmp_path / "out", gopro / "train/b/blur/000001.png"
    save(bad, 20, 34)
    with pytest.raises(DataError, match=r"b/blur/000001\.png .34x20. and .* are a pair of different sizes"):
        make(gopro, out, split="train", size=16, step=16)
    save(bad, 20, 33)
    make(gopro, out, split="train", size=16, step=16)
    assert len(complete_pairs(out).pairs) == 12
    assert not list(out.rglob("*.part"))


def test_uncompressed_copies_are_mapped_and_give_the_same_patches(gopro: Path, tmp_path: Path) -> None:
    made = make(gopro, tmp_path / "plain", split="train", plain=True)
    assert (made.pictures, made.files) == (2, 4)
    copy = tmp_path / "plain/target/a/blur/000001.tif"
    mapped = mapped_pixels(copy)
    assert mapped is not None
    np.testing.assert_array_equal(mapped.permute(1, 2, 0).numpy(), read(gopro / "train/a/sharp/000001.png"))
    assert torch.equal(read_picture(copy).pixels, read_picture(gopro / "train/a/sharp/000001.png").pixels)
    sources = (Pairs(path=Path("gopro"), split="train"), Pairs(path=Path("plain")))
    whole, plain = (Patches([source], root=tmp_path, size=16, seed=0) for source in sources)
    for index in range(8):
        assert torch.equal(whole[index].degraded, plain[index].degraded)
        assert torch.equal(whole[index].target, plain[index].target)


def test_sub_images_may_be_uncompressed_too_and_clear_pictures_train(tmp_path: Path) -> None:
    save(tmp_path / "clear/1.png", 20, 20)
    make(tmp_path / "clear", tmp_path / "out", size=16, step=4, plain=True)
    assert files(tmp_path / "out") == ["1_s001.tif", "1_s002.tif", "1_s003.tif", "1_s004.tif", "make.json"]
    assert mapped_pixels(tmp_path / "out/1_s004.tif") is not None
    patches = Patches([Clear(path=Path("out"), degradation="none")], root=tmp_path, size=16, seed=0)
    assert patches[0].target.shape == (3, 16, 16)


def test_mapping_is_a_view_of_the_file_and_changes_nothing_in_it(tmp_path: Path) -> None:
    save(tmp_path / "clear/1.png", 12, 12)
    make(tmp_path / "clear", tmp_path / "out", plain=True)
    file = tmp_path / "out/1.tif"
    before = file.read_bytes()
    mapped = mapped_pixels(file)
    assert mapped is not None
    assert mapped.stride() == (1, 36, 3)
    mapped[:] = 0
    assert file.read_bytes() == before


def test_other_files_are_not_mapped(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 12, 12)
    save(tmp_path / "clear/other.tif", 12, 12)
    make(tmp_path / "clear", tmp_path / "out", plain=True)
    cut = tmp_path / "cut.tif"
    cut.write_bytes((tmp_path / "out/other.tif").read_bytes()[:-1])
    (tmp_path / "empty.tif").touch()
    for path in (
        tmp_path / "1.png",
        tmp_path / "clear/other.tif",
        cut,
        tmp_path / "empty.tif",
        tmp_path / "no.tif",
    ):
        assert mapped_pixels(path) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nothing to do; ask"),
        ({"size": 16}, "--size is 16 and --step None; expected both"),
        ({"step": 16, "plain": True}, "--size is None and --step 16"),
        ({"size": 16, "step": 17}, "1 <= step <= size"),
        ({"size": 0, "step": 0}, "1 <= step <= size"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    gopro: Path, tmp_path: Path, arguments: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        make(gopro, tmp_path / "out", split="train", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("no split", "holds several splits"),
        ("inside", "lie in one another"),
        ("around", "lie in one another"),
        ("full", "holds something else already"),
        ("a file", "holds something else already"),
        ("begun otherwise", "was begun as .*120.*, not .*give another folder"),
        ("twins", "1 names are of two pictures, such as 1;"),
        ("outside", "is not inside"),
        ("no partner", "1 pictures of .* have no partner"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    problem: str, said: str, gopro: Path, tmp_path: Path
) -> None:
    root, out, split = gopro, tmp_path / "out", "train"
    if problem == "no split":
        split = ""
    elif problem == "inside":
        out = gopro / "train/sub"
    elif problem == "around":
        out = tmp_path
    elif problem == "full":
        save(out / "mine.png", 8, 8)
    elif problem == "a file":
        out.write_text("mine")
    elif problem == "begun otherwise":
        make(gopro, out, split="train", size=384, step=120)
    elif problem == "twins":
        root, split = tmp_path / "twins", ""
        save(root / "1.png", 20, 20)
        save(root / "1.jpg", 20, 20)
    elif problem == "outside":
        root, split = tmp_path / "lists", ""
        root.mkdir()
        (root / "pairs.csv").write_text(
            "degraded,target\n../gopro/test/c/blur/000001.png,../gopro/test/c/sharp/000001.png\n"
        )
    else:
        save(gopro / "train/a/sharp/000002.png", 20, 33)
    before = digests(tmp_path)
    with pytest.raises(FairweatherError, match=said) as raised:
        make(root, out, split=split or None, size=16, step=16)
    assert "\n" not in str(raised.value)
    assert digests(tmp_path) == before


def test_the_command_says_what_it_made(gopro: Path, tmp_path: Path) -> None:
    command = [
        "data",
        "make",
        str(gopro),
        str(tmp_path / "out"),
        "--split",
        "train",
        "--size",
        "16",
        "--step",
        "10",
    ]
    ended = CliRunner().invoke(cli.app, command)
    assert ended.exit_code == 0
    assert ended.stdout == f"2 pairs in {tmp_path / 'out'}, 0 of them there already; 24 files written\n"
    again = CliRunner().invoke(cli.app, command)
    assert again.stdout.endswith("2 of them there already; 0 files written\n")
