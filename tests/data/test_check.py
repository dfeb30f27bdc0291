"""The check reads every picture and says what is wrong with a data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairweather.data.check import check, likeness, photo_hash, reside_notes
from fairweather.errors import DataError, UsageError


def photo(seed: int, width: int = 96, height: int = 80) -> Image.Image:
    """Smooth random colours: a stand-in for a photograph, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, picture: Image.Image, quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=quality)


def pair(folder: Path, name: str, seed: int) -> None:
    save(folder / "clear" / f"{name}.png", photo(seed))
    save(folder / "hazy" / f"{name}.png", Image.blend(photo(seed), Image.new("RGB", (96, 80), "white"), 0.3))


def pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound set: three training pairs and one test pair."""
    for name, seed in (("1", 1), ("2", 2), ("10", 3)):
        pair(tmp_path / "o_haze" / "train", name, seed)
    pair(tmp_path / "o_haze" / "test", "4", 4)
    return tmp_path / "o_haze"


def test_sound_set_is_ok(root: Path) -> None:
    report = check(root)
    train, test = report.splits
    assert report.ok
    assert (train.name, train.count, test.name, test.count) == ("train", 3, "test", 1)
    assert train.rule == "hazy/ against clear/, by equal stem"
    assert train.examples[0] == "train/hazy/1.png -> train/clear/1.png"
    assert train.sizes == ((96, 80),) * 3
    assert all(gap > 0.05 for gap in train.colour_gap)  # white haze brightens
    assert report.lines()[-1] == "ok"
    assert "train: 3 pairs, hazy/ against clear/, by equal stem" in report.lines()


def test_report_goes_through_json(root: Path) -> None:
    read = json.loads(json.dumps(check(root).as_dict()))
    assert read["ok"] is True
    assert [part["count"] for part in read["splits"]] == [3, 1]


def test_one_split_can_be_checked_alone(root: Path) -> None:
    assert [part.name for part in check(root, split="test").splits] == ["test"]
    assert [part.name for part in check(root / "test").splits] == [""]
    with pytest.raises(UsageError, match="no split 'val'"):
        check(root, split="val")


def test_unreadable_files_are_listed_with_the_reason(root: Path) -> None:
    (root / "train/hazy/2.png").write_bytes(b"no picture")
    report = check(root)
    (bad,) = report.splits[0].unreadable
    assert bad.startswith("train/hazy/2.png: ")
    assert not report.ok
    assert report.splits[0].count == 3


def test_pairs_of_different_size_are_listed(root: Path) -> None:
    save(root / "train/hazy/2.png", photo(2, width=100))
    report = check(root)
    assert report.splits[0].different_size == ("train/hazy/2.png -> train/clear/2.png (100x80 and 96x80)",)
    assert report.splits[0].sizes[-1] == (100, 80)
    assert not report.ok


def test_files_without_partner_are_listed(root: Path) -> None:
    save(root / "test/hazy/9.png", photo(9))
    report = check(root)
    assert report.splits[1].unmatched == ("test/hazy/9.png",)
    assert not report.ok


def test_equal_files_are_listed_but_are_no_failure_within_a_split(root: Path) -> None:
    (root / "train/clear/2.png").write_bytes((root / "train/clear/1.png").read_bytes())
    report = check(root)
    assert report.duplicates == (("train/clear/1.png", "train/clear/2.png"),)
    assert report.ok


def test_the_same_photograph_in_two_splits_leaks_even_resized_and_compressed(root: Path) -> None:
    (root / "test/clear/4.png").unlink()
    save(root / "test/clear/4.jpg", photo(2, 192, 160), quality=60)
    report = check(root)
    (leak,) = report.leaks
    assert leak.startswith("train/clear/2.png is the same photograph as test/clear/4.jpg (")
    assert not report.ok


def test_hash_sees_the_photograph_and_not_its_encoding() -> None:
    def bits(picture: Image.Image) -> np.ndarray:
        found = photo_hash(pixels(picture))
        assert found is not None
        return found

    assert bits(photo(1)).shape == (255,)
    assert (bits(photo(1)) != bits(photo(1, 480, 400))).sum() <= 10
    assert min((bits(photo(1)) != bits(photo(seed))).sum() for seed in range(2, 30)) > 34


def test_even_pictures_have_no_hash_and_do_not_leak(tmp_path: Path) -> None:
    assert photo_hash(torch.full((3, 40, 40), 0.5)) is None
    save(tmp_path / "train/1.png", Image.new("RGB", (40, 40), "black"))
    save(tmp_path / "test/1.png", Image.new("RGB", (40, 41), "black"))
    assert check(tmp_path).leaks == ()
    save(tmp_path / "test/2.png", Image.new("RGB", (40, 40), "black"))
    assert check(tmp_path).leaks == ("train/1.png is the same file as test/2.png",)


def test_plain_folders_are_checked_without_depth_and_infrared(tmp_path: Path) -> None:
    save(tmp_path / "train/rgb/1.png", photo(1))
    save(tmp_path / "train/depth/1.png", photo(1).convert("L"))
    save(tmp_path / "test/rgb/2.png", photo(2))
    save(tmp_path / "test/ir/1.png", photo(1).convert("L"))
    report = check(tmp_path)
    assert report.ok
    assert [(part.count, part.paired, part.colour_gap) for part in report.splits] == [(1, False, ())] * 2
    assert "train: 1 pictures, no degraded pictures beside them" in report.lines()


def test_gopro_s_other_blur_is_noted_and_its_sequences_are_checked(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        for kind in ("blur", "blur_gamma", "sharp"):
            save(tmp_path / split / "GOPR0372_07_00" / kind / "000047.png", photo(seed))
    report = check(tmp_path)
    assert report.ok
    assert [(part.name, part.count) for part in report.splits] == [("train", 1), ("test", 1)]
    (note,) = report.splits[0].notes
    assert note.startswith("1 folders blur_gamma/ beside blur/ are left out")
    save(tmp_path / "test/GOPR0372_07_00/blur/000048.png", photo(3))
    save(tmp_path / "test/GOPR0372_07_00/sharp/000047.png", photo(2, width=100))
    (test,) = check(tmp_path, split="test").splits
    assert test.unmatched == ("test/GOPR0372_07_00/blur/000048.png",)
    assert "(96x80 and 100x80)" in test.different_size[0]


def test_hide_is_checked_with_the_sharp_pictures_beside_its_splits(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "test/test-close-ups", "test/test-long-shot")):
        save(tmp_path / part / f"{number}.png", photo(number))
        save(tmp_path / "GT" / f"{number}.png", photo(number))
    report = check(tmp_path)
    assert report.ok
    assert [(part.name, part.count, part.unmatched) for part in report.splits] == [
        ("train", 1, ()),
        ("test", 2, ()),
    ]
    assert report.splits[0].examples == ("train/0.png -> GT/0.png",)
    save(tmp_path / "GT/0.png", photo(2))  # the scene of a test picture
    assert check(tmp_path).leaks[0].startswith("GT/0.png is the same photograph as GT/2.png")
    (tmp_path / "GT/2.png").write_bytes(b"")
    assert check(tmp_path).splits[1].unreadable[0].startswith("GT/2.png: ")


def test_realblur_is_checked_by_its_lists(tmp_path: Path) -> None:
    half = tmp_path / "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
    for number, split in ((1, "train"), (2, "test")):
        scene = half / f"scene00{number}"
        save(scene / "blur/blur_1.png", photo(number))
        save(scene / "gt/gt_1.png", photo(number))
        line = f"{half.name}/{scene.name}/gt/gt_1.png {half.name}/{scene.name}/blur/blur_1.png"
        (tmp_path / f"RealBlur_J_{split}_list.txt").write_text(line)
    for root in (tmp_path, half):
        report = check(root)
        assert report.ok
        assert [(part.name, part.count) for part in report.splits] == [("train", 1), ("test", 1)]
        assert report.splits[1].rule == "as listed in RealBlur_J_test_list.txt"
    (half / "scene002/gt/gt_1.png").unlink()
    with pytest.raises(DataError, match=r"test_list\.txt lists 1 missing files, such as .*gt_1\.png"):
        check(tmp_path)


def test_manifest_is_checked(tmp_path: Path) -> None:
    pair(tmp_path, "1", 1)
    (tmp_path / "pairs.csv").write_text("degraded,target\nhazy/1.png,clear/1.png\n")
    assert check(tmp_path / "pairs.csv").splits == check(tmp_path).splits


OVERLAPS = {
    "same_place": [
        {"a": "o_haze/train/10", "b": "nh_haze/test/53", "matched_points": 553},
        {"a": "o_haze/train/1", "b": "nh_haze/train/1", "matched_points": 60},
        {"a": "nh_haze/train/7", "b": "o_haze/test/4", "matched_points": 80},
        {"a": "o_haze/train/77", "b": "nh_haze/test/54", "matched_points": 99},
    ]
}


def test_overlaps_beside_the_set_are_found(root: Path) -> None:
    (root.parent / "overlaps.json").write_text(json.dumps(OVERLAPS))
    for at in (root, root / "train"):
        report = check(at)
        assert report.leaks == ("o_haze/train/10 shows the same scene as nh_haze/test/53, by overlaps.json",)
        assert not report.ok
    assert check(root).notes == ("o_haze/test/4 shows the same scene as nh_haze/train/7, by overlaps.json",)
    assert check(root, split="test").ok


def test_overlaps_can_be_given_and_know_bsds500(tmp_path: Path) -> None:
    save(tmp_path / "BSDS/bsds500/val/3096.jpg", photo(1))
    save(tmp_path / "BSDS/bsds500/train/100075.jpg", photo(2))
    save(tmp_path / "BSDS/bsds500/test/1.jpg", photo(3))
    listed = {
        "bsds500": {"val_photos_moved_to_cbsd68": ["3096"]},
        "rain100_test_to_bsds500": {"001": "train/100075.jpg"},
    }
    (tmp_path / "mine.json").write_text(json.dumps(listed))
    leaks = check(tmp_path / "BSDS/bsds500", overlaps=tmp_path / "mine.json").leaks
    assert [leak.split(",")[0] for leak in leaks] == [
        "bsds500/train/100075 shows the same scene as rain100/test/001",
        "bsds500/val/3096 shows the same scene as cbsd68/test/3096",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"same_place": [{"a": "x"}]}'])
def test_overlaps_in_another_form_are_refused(root: Path, text: str) -> None:
    (root / "overlaps.json").write_text(text)
    with pytest.raises(DataError, match="no list of overlaps in our form"):
        check(root)


def test_long_lists_are_shortened_for_people_but_complete_for_json(tmp_path: Path) -> None:
    for name in range(13):
        save(tmp_path / f"clear/{name}.png", photo(name))
    save(tmp_path / "hazy/0.png", photo(0))
    report = check(tmp_path)
    assert "    and 2 more" in report.lines()
    assert len(report.as_dict()["splits"][0]["unmatched"]) == 12


def test_reside_s_frame_is_noted_and_neither_an_error_nor_counted_in_the_colours(tmp_path: Path) -> None:
    inner = photo(1, 620, 460)
    framed = Image.new("RGB", (640, 480), "white")
    framed.paste(inner, (10, 10))
    save(tmp_path / "hazy/1400_1.png", inner)
    save(tmp_path / "gt/1400.png", framed)
    report = check(tmp_path)
    (part,) = report.splits
    assert report.ok
    assert part.different_size == ()
    assert part.colour_gap == (0, 0, 0)
    (note,) = part.notes
    assert "1 pairs are RESIDE's hazy 620x460 with clear 640x480" in note
    assert "cropped by 10 pixels" in note
    assert f"  note: {note}" in report.lines()


def test_clear_pictures_repeated_for_each_hazy_one_are_no_suspicious_duplicates(tmp_path: Path) -> None:
    for scene in (1, 2):
        for version in (1, 2, 3):
            haze = Image.blend(photo(scene), Image.new("RGB", (96, 80), "white"), version / 10)
            save(tmp_path / f"hazy/{scene}_{version}.png", haze)
            save(tmp_path / f"GT/{scene}_{version}.png", photo(scene))
    report = check(tmp_path)
    assert report.duplicates == ()
    assert "4 clear pictures repeat another of their scene, one for each hazy picture; nothing to do" in (
        report.splits[0].notes
    )
    save(tmp_path / "GT/2_3.png", photo(1))  # another scene's
    assert check(tmp_path).duplicates == (("GT/1_1.png", "GT/2_3.png"),)


def test_pairs_that_show_different_scenes_are_noted_and_sound_ones_are_not(root: Path) -> None:
    assert check(root).splits[0].notes == ()
    save(root / "train/hazy/2.png", photo(7))
    report = check(root)
    (note,) = report.splits[0].notes
    assert note.startswith(
        "1 of 3 pairs looked at hardly show one scene, such as train/hazy/2.png and train/cl"
    )
    assert report.ok  # a guess, not a fact


def test_likeness_sees_the_scene_through_haze_and_noise() -> None:
    clear = pixels(photo(1))
    hazy = 0.3 * clear + 0.7
    assert likeness(clear, clear) == pytest.approx(1)
    assert likeness(hazy, clear) == pytest.approx(1)
    assert likeness(hazy + 0.01 * torch.randn(hazy.shape, generator=torch.manual_seed(0)), clear) > 0.5
    assert likeness(1 - clear, clear) == pytest.approx(-1)
    assert max(likeness(clear, pixels(photo(seed))) for seed in range(2, 20)) < 0.2
    assert likeness(torch.ones_like(clear), clear) == 1


def reside(*stems: str, size: tuple[int, int] | None = (620, 460)) -> list[str]:
    return reside_notes([Path(f"{stem}.png") for stem in stems], [size] * len(stems))


@pytest.mark.parametrize(
    ("stems", "said"),
    [
        (
            ["1_1_0.90179", "1_2_0.7", "2_1_1"],
            "3 hazy pictures of 2 scenes, named as RESIDE ITS, whose standard",
        ),
        (["0499_05_0.8353", "0499_06_0.9"], "named as RESIDE ITS v0 (110,000 of 11,000)"),
        (["1_1_0.9", "9542_1_0.8"], "named as RESIDE ITS v0"),
        (
            ["1_0.8_0.2", "1_1_0.08", "1_0.9_0.04"],
            "3 hazy pictures of 1 scenes, named as RESIDE OTS, whose standard",
        ),
        (
            [f"{i // 3}_0.8_0.{1 + i % 3}" for i in range(3 * 2062)],
            "OTS in the large release (313,950 of 8,970)",
        ),
    ],
)
def test_the_release_of_reside_is_told_from_names_and_counts(stems: list[str], said: str) -> None:
    assert said in reside(*stems)[0]


@pytest.mark.parametrize("stems", [["1400_1"], ["1_0.8_0.2", "2_1_0.08"], ["01", "02"], ["1_1_0.9", "x"]])
def test_test_sets_and_other_names_have_no_release(stems: list[str]) -> None:
    assert reside(*stems) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["hazy/1_1", "hazy/1_10", "hazy/2_3"],
            "3 hazy pictures of 2 scenes, named as in copies of RESIDE ITS, whose",
        ),
        (["haze/1_1", "haze/1400_2"], "named as in copies of RESIDE ITS v0"),
        (["hazy/1400_1", "hazy/1449_10"], None),
        (["hazy/1_1", "hazy/1_11"], None),
        (["blur/1_1", "blur/1_2"], None),
    ],
)
def test_copies_of_reside_are_told_from_the_numbers_of_their_scenes(
    names: list[str], said: str | None
) -> None:
    notes = reside(*names)
    assert said in notes[0] if said else notes == []


@pytest.mark.parametrize(
    ("stems", "said"),
    [
        (
            ["1_0.89_1.56", "2_0.6_0.1", "3_0.8_0.2"],
            r"2 hazy .* RESIDE's OTS \(A 0.8 to 1, .*such as 1_0.89_1.56",
        ),
        (["1_1_0.9", "1_2_0.8", "1_3_0.65"], r"1 hazy .* RESIDE's ITS \(A 0.7 to 1\), such as 1_3_0.65"),
    ],
)
def test_haze_outside_the_official_ranges_is_noted(stems: list[str], said: str) -> None:
    assert re.search(said, reside(*stems)[-1])


def test_a_set_that_only_shares_reside_s_naming_is_not_called_a_release_of_it() -> None:
    (note,) = reside("1_0.89_1.56", "1_0.6_0.9", "1_0.7_1.2")  # as HAZE4K
    assert note.startswith("3 hazy pictures are named with values outside")


def test_small_pictures_of_reside_are_noted() -> None:
    assert (
        "2 hazy pictures have a side below 256 pixels, such as 1_0.8_0.2.png (400x255)"
        in (reside("1_0.8_0.2", "2_0.8_0.2", size=(400, 255))[0])
    )
    assert reside("1_0.8_0.2", size=(400, 256)) == []
    assert reside("1_0.8_0.2", size=None) == []


@pytest.fixture
def rgbd(tmp_path: Path) -> Path:
    for name in (1, 2):
        save(tmp_path / f"train/rgb/{name}.png", photo(name))
        (tmp_path / "train/depth").mkdir(exist_ok=True)
        np.save(tmp_path / f"train/depth/{name}.npy", np.repeat([[0.0], [1.0]], (20, 60), 0).repeat(96, 1))
    return tmp_path


def test_sound_depth_maps_are_counted(rgbd: Path) -> None:
    report = check(rgbd)
    assert report.ok
    assert report.splits[0].notes == ("2 depth maps, 75% of their pixels known",)


@pytest.mark.parametrize(
    ("depth", "said"),
    [
        (np.full((80, 96), np.nan), "2.npy holds NaN, infinity or negative"),
        (np.full((80, 96), -1.0), "2.npy holds NaN, infinity or negative"),
        (np.ones((79, 96)), "2.npy is 96x79, its picture 2.png 96x80"),
        (None, "1 files of rgb/ and depth/"),
    ],
)
def test_useless_depth_maps_are_listed(rgbd: Path, depth: np.ndarray | None, said: str) -> None:
    if depth is None:
        (rgbd / "train/depth/2.npy").unlink()
    else:
        np.save(rgbd / "train/depth/2.npy", depth)
    report = check(rgbd)
    (bad,) = report.splits[0].bad_depth
    assert said in bad
    assert not report.ok
    assert "  depth maps amiss: 1" in report.lines()


def test_depth_maps_listed_in_an_index_are_checked(rgbd: Path) -> None:
    (rgbd / "index.csv").write_text(
        "split,name,rgb,depth,kind\ntrain,1,train/rgb/1.png,train/depth/9.npy,depth\n"
    )
    for at in (rgbd, rgbd / "train"):
        (bad,) = check(at).splits[0].bad_depth
        assert "lists 1 missing files" in bad


def test_other_lists_are_left_alone_and_depth_is_looked_at_where_evaluation_finds_it(root: Path) -> None:
    (root / "index.csv").write_text("file,licence\n1.png,none\n")
    save(root / "test/depth/4.png", photo(4).convert("L"))
    (root / "test/clear").rename(root / "test/gt")
    report = check(root)
    assert report.ok
    assert [part.notes for part in report.splits] == [(), ("1 depth maps, 100% of their pixels known",)]
    (root / "train/depth").mkdir()
    (root / "train/clear").rename(root / "train/gt")
    np.save(root / "train/depth/2.npy", np.ones(photo(2).size[::-1]))
    known = "1 depth maps, 100% of their pixels known; 2 of 3 pairs have none"
    assert check(root).splits[0].notes == (known,)
    (root / "test/depth/4.png").unlink()
    np.save(root / "test/depth/4.npy", np.full(photo(4).size[::-1], np.nan))
    (bad,) = check(root).splits[1].bad_depth
    assert "holds NaN" in bad
