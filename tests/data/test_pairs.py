"""Pairs are found under the names that data sets are published with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairweather.data.pairs import (
    Pair,
    clear_pictures,
    complete_pairs,
    find_pairs,
    has_pairs,
    matched,
    splits,
)
from fairweather.errors import DataError, UsageError


def grow(root: Path, *files: str) -> Path:
    """A folder tree of empty files; pairing looks at names only."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def names(pairs: tuple[Pair, ...], root: Path) -> list[tuple[str, str]]:
    return [(p.degraded.relative_to(root).as_posix(), p.target.relative_to(root).as_posix()) for p in pairs]


@pytest.mark.parametrize(
    ("degraded", "target"),
    [
        ("hazy", "GT"),
        ("hazy", "clear"),
        ("rainy", "gt"),
        ("input", "target"),
        ("rain", "norain"),
        ("LQ", "GT"),
        ("synthetic", "original"),
        ("input", "groundtruth"),
        ("noisy", "clean"),
        ("blur", "sharp"),
        ("Hazy", "CLEAR"),
    ],
)
def test_known_folders_pair_by_stem(tmp_path: Path, degraded: str, target: str) -> None:
    grow(tmp_path, f"{degraded}/1.png", f"{degraded}/2.PNG", f"{target}/1.jpg", f"{target}/2.webp")
    found = find_pairs(tmp_path)
    assert names(found.pairs, tmp_path) == [
        (f"{degraded}/1.png", f"{target}/1.jpg"),
        (f"{degraded}/2.PNG", f"{target}/2.webp"),
    ]
    assert {pair.group for pair in found.pairs} == {degraded}
    assert found.rule == f"{degraded}/ against {target}/, by equal stem"
    assert found.unmatched == ()


def test_two_degraded_folders_share_one_target(tmp_path: Path) -> None:
    grow(tmp_path, "test/rain_heavy/1.webp", "test/rain_light/1.webp", "test/target/1.webp")
    found = find_pairs(tmp_path)
    assert found.rule == "rain_heavy/ and rain_light/ against target/, by equal stem"
    assert [(pair.group, pair.target.name) for pair in found.pairs] == [
        ("rain_heavy", "1.webp"),
        ("rain_light", "1.webp"),
    ]


def test_one_folder_per_degradation(tmp_path: Path) -> None:
    grow(tmp_path, "haze/1.png", "low_haze_rain/1.png", "snow/1.png", "clear/1.png")
    assert [pair.group for pair in find_pairs(tmp_path).pairs] == ["haze", "low_haze_rain", "snow"]


def test_reside_many_hazy_to_one_clear(tmp_path: Path) -> None:
    grow(
        tmp_path,
        "hazy/1400_10.png",
        "hazy/1400_2.png",
        "hazy/1401_1_0.9.png",
        "clear/1400.png",
        "clear/1401.png",
    )
    found = find_pairs(tmp_path)
    assert names(found.pairs, tmp_path) == [
        ("hazy/1400_2.png", "clear/1400.png"),
        ("hazy/1400_10.png", "clear/1400.png"),
        ("hazy/1401_1_0.9.png", "clear/1401.png"),
    ]
    assert "RESIDE identifier" in found.rule


@pytest.mark.parametrize(
    ("degraded", "target"),
    [("hazy/01_outdoor_hazy.jpg", "GT/01_outdoor_GT.jpg"), ("rain/rain-1.png", "norain/norain-1.png")],
)
def test_folder_names_inside_file_names_do_not_matter(tmp_path: Path, degraded: str, target: str) -> None:
    grow(tmp_path, degraded, target)
    assert names(find_pairs(tmp_path).pairs, tmp_path) == [(degraded, target)]


@pytest.mark.parametrize(
    ("root", "degraded", "target"),
    [
        ("ITS", "ITS/hazy/1_1_0.90179.png", "ITS/clear/1.png"),
        ("ITS/train", "ITS/train/ITS_haze/0499_05_0.8353.png", "ITS/train/ITS_clear/0499.png"),
        ("ITS/val", "ITS/val/haze/10001_05_0.8353.png", "ITS/val/clear/10001.png"),
        ("OTS", "OTS/hazy/0025_0.8_0.04.jpg", "OTS/clear/0025.jpg"),
        ("OTS", "OTS/hazy/part2/0036_1_0.08.jpg", "OTS/clear/0036.jpg"),
        ("OTS_BETA", "OTS_BETA/haze/0025_0.8_0.04.jpg", "OTS_BETA/clear_images/0025.jpg"),
        ("SOTS/indoor", "SOTS/indoor/hazy/1400_10.png", "SOTS/indoor/gt/1400.png"),
        ("SOTS", "SOTS/indoor/nyuhaze500/hazy/1400_10.png", "SOTS/indoor/nyuhaze500/gt/1400.png"),
        ("SOTS/outdoor", "SOTS/outdoor/hazy/0036_1_0.08.jpg", "SOTS/outdoor/gt/0036.png"),
        ("RESIDE-IN/train", "RESIDE-IN/train/hazy/1_1_0.9.png", "RESIDE-IN/train/GT/1_1_0.9.png"),
        ("RESIDE-IN", "RESIDE-IN/test/hazy/1400_1.png", "RESIDE-IN/test/GT/1400_1.png"),
        ("O-HAZY", "O-HAZY/hazy/01_outdoor_hazy.jpg", "O-HAZY/GT/01_outdoor_GT.jpg"),
        ("O-HAZE", "O-HAZE/# O-HAZY NTIRE 2018/hazy/1_hazy.jpg", "O-HAZE/# O-HAZY NTIRE 2018/GT/1_GT.jpg"),
        ("I-HAZE", "I-HAZE/hazy/01_indoor_hazy.jpg", "I-HAZE/GT/01_indoor_GT.jpg"),
        ("Dense", "Dense/hazy/01_hazy.png", "Dense/GT/01_GT.png"),
        ("NH-HAZE", "NH-HAZE/01_hazy.png", "NH-HAZE/01_GT.png"),
        ("NTIRE", "NTIRE/NH-HAZE/01_hazy.png", "NTIRE/NH-HAZE/01_GT.png"),
        ("NH-HAZE", "NH-HAZE/test/51_hazy.png", "NH-HAZE/test/51_GT.png"),
    ],
)
def test_dehazing_sets_pair_as_they_were_published(
    tmp_path: Path, root: str, degraded: str, target: str
) -> None:
    grow(tmp_path, degraded, target)
    grow((tmp_path / target).parents[1], "trans/1_1.png", "ITS_trans/0499_05.png", "depth/1.png")
    found = find_pairs(tmp_path / root)
    assert names(found.pairs, tmp_path) == [(degraded, target)]
    assert found.unmatched == ()


@pytest.mark.parametrize(
    ("root", "degraded", "target"),
    [
        ("GOPRO_Large/train", "GOPR0372_07_00/blur/000047.png", "GOPR0372_07_00/sharp/000047.png"),
        ("GOPRO_Large/train/GOPR0372_07_00", "blur/000047.png", "sharp/000047.png"),
        ("GoPro", "train/blur/GOPR0372_07_00/000047.png", "train/sharp/GOPR0372_07_00/000047.png"),
        ("GoPro", "test/input/000047.png", "test/target/000047.png"),
        ("HIDE/test", "input/1fromGOPR1096.MP4.png", "target/1fromGOPR1096.MP4.png"),
        ("HIDE", "test/test-close-ups/1fromGOPR1096.png", "test/GT/1fromGOPR1096.png"),
        ("test/RealBlur_J", "input/1.png", "target/1.png"),
        ("RealBlur_R", "blur/scene001_blur_1.png", "gt/scene001_gt_1.png"),
        ("Rain100H", "rain/norain-1.png", "norain/norain-1.png"),
        ("rain_data_test_Light", "rain/X2/norain-1x2.png", "norain/norain-1.png"),
        ("rain_data_train_Light", "rain/norain-1x2.png", "norain/norain-1.png"),
        ("Rain100L", "rainy/rain-001.png", "norain-001.png"),
        ("RainTrainL", "rain-1.png", "norain-1.png"),
        ("rain100", "test/rain_light/001.webp", "test/target/001.webp"),
        ("Rain13K", "train/Rain13K/input/1.jpg", "train/Rain13K/target/1.jpg"),
        ("Rain1400", "rainy_image/901_14.jpg", "ground_truth/901.jpg"),
    ],
)
def test_deblurring_and_deraining_sets_pair_as_they_were_published(
    tmp_path: Path, root: str, degraded: str, target: str
) -> None:
    grow(tmp_path / root, degraded, target, "rainstreak-1.png", "readme.txt")
    found = find_pairs(tmp_path / root)
    assert names(found.pairs, tmp_path / root) == [(degraded, target)]
    assert found.unmatched == ()


def test_gopro_s_sequences_pair_each_for_itself_and_gamma_blur_only_where_it_is_alone(tmp_path: Path) -> None:
    for split, scene in (("train", "a"), ("train", "b"), ("test", "c")):
        for kind in ("blur", "blur_gamma", "sharp"):
            grow(tmp_path / split / scene / kind, "000001.png", "000002.png")
    found = find_pairs(tmp_path, split="train")
    assert [pair.group for pair in found.pairs] == ["a/blur", "a/blur", "b/blur", "b/blur"]
    assert names(found.pairs, tmp_path)[2] == ("train/b/blur/000001.png", "train/b/sharp/000001.png")
    assert found.unmatched == ()
    (tmp_path / "test/c/blur").rename(tmp_path / "elsewhere")
    assert {pair.group for pair in find_pairs(tmp_path, split="test").pairs} == {"blur_gamma"}


def test_hide_s_sharp_pictures_serve_all_its_parts(tmp_path: Path) -> None:
    blurry = ("train/1.png", "test/test-close-ups/2.png", "test/test-long-shot/3.png")
    grow(tmp_path, *blurry, "GT/1.png", "GT/2.png", "GT/3.png", "annotations/1.txt")
    parts = {"train": blurry[:1], "test": blurry[1:]}
    for split, files in parts.items():
        for root, named in ((tmp_path, split), (tmp_path / split, None)):
            found = find_pairs(root, split=named)
            assert names(found.pairs, tmp_path) == [(file, f"GT/{Path(file).name}") for file in files]
            assert found.unmatched == ()  # GT/ holds the other part's too
    found = find_pairs(tmp_path / "test/test-long-shot")
    assert names(found.pairs, tmp_path) == [("test/test-long-shot/3.png", "GT/3.png")]
    assert found.rule == "test-long-shot/ against GT/, by equal stem"
    grow(tmp_path, "test/test-long-shot/4.png")
    with pytest.raises(DataError, match=r"1 pictures of .* test-long-shot/4\.png; add"):
        complete_pairs(tmp_path / "test")


J, R = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref", "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"


def realblur(root: Path, half: str) -> None:
    """Two scenes, one for training and one for testing, each with a list of the form in which they come."""
    for number, split in ((1, "train"), (2, "test")):
        scene = f"{half}/scene00{number}"
        grow(root, f"{scene}/blur/blur_1.png", f"{scene}/gt/gt_1.png")
        line = f"{scene}/gt/gt_1.png {scene}/blur/blur_1.png \n"
        (root / f"RealBlur_{half[9]}_{split}_list.txt").write_text(line)


def test_realblur_pairs_by_its_lists(tmp_path: Path) -> None:
    realblur(tmp_path, J)
    expected = [(f"{J}/scene002/blur/blur_1.png", f"{J}/scene002/gt/gt_1.png")]
    for root, split in (
        (tmp_path, "test"),
        (tmp_path / J, "test"),
        (tmp_path / "RealBlur_J_test_list.txt", None),
    ):
        found = complete_pairs(root, split=split)
        assert names(found.pairs, tmp_path) == expected
        assert found.rule == "as listed in RealBlur_J_test_list.txt"
    with pytest.raises(UsageError, match=r"several splits \(train, test\)"):
        find_pairs(tmp_path)


def test_the_halves_of_realblur_are_kept_apart(tmp_path: Path) -> None:
    realblur(tmp_path, J)
    realblur(tmp_path, R)
    with pytest.raises(UsageError, match=f"holds {J} and {R}, which are scored apart"):
        find_pairs(tmp_path, split="test")
    (pair,) = find_pairs(tmp_path / R, split="train").pairs
    assert pair.target == tmp_path / R / "scene001/gt/gt_1.png"


def test_realblur_without_its_lists_would_mix_training_and_test(tmp_path: Path) -> None:
    realblur(tmp_path, J)
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    for root in (tmp_path, tmp_path / J):
        with pytest.raises(
            DataError, match=r"together; put its lists, such as RealBlur_J_train_list\.txt and"
        ):
            find_pairs(root)
    (tmp_path / J).rename(tmp_path / "my_own_test")
    assert len(find_pairs(tmp_path / "my_own_test").pairs) == 2


def test_rain13k_s_five_test_sets_are_groups_of_their_own(tmp_path: Path) -> None:
    sets = ["Rain100H", "Rain100L", "Test100", "Test1200", "Test2800"]
    grow(tmp_path, *(f"test/{name}/{side}/1.png" for name in sets for side in ("input", "target")))
    grow(tmp_path, *(f"train/Rain13K/{side}/{n}.jpg" for n in (1, 2) for side in ("input", "target")))
    assert [pair.group for pair in find_pairs(tmp_path, split="test").pairs] == [
        f"{name}/input" for name in sets
    ]
    assert len(find_pairs(tmp_path, split="train").pairs) == 2


@pytest.mark.parametrize("root", ["OTS", "SOTS/outdoor"])
def test_dehazing_pairs_by_identifier_and_never_by_position(tmp_path: Path, root: str) -> None:
    hazy = ["0003_1_0.2.jpg", "0010_0.8_0.08.jpg", "0003_0.8_0.2.jpg"]
    grow(tmp_path / root, *(f"hazy/{name}" for name in hazy))
    grow(
        tmp_path / root, *(f"gt/{name}.png" for name in ("0003", "0010", "0007"))
    )  # as many, one of another scene
    found = find_pairs(tmp_path / root)
    assert [(pair.degraded.name, pair.target.name) for pair in found.pairs] == [
        ("0003_0.8_0.2.jpg", "0003.png"),
        ("0003_1_0.2.jpg", "0003.png"),
        ("0010_0.8_0.08.jpg", "0010.png"),
    ]
    assert found.unmatched == (tmp_path / root / "gt/0007.png",)


def test_both_kinds_may_lie_side_by_side_in_one_folder(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{n}_{side}.png" for n in (2, 10, 3) for side in ("GT", "hazy")), "readme.png")
    (tmp_path / "3_GT.png").unlink()
    found = find_pairs(tmp_path)
    assert names(found.pairs, tmp_path) == [("2_hazy.png", "2_GT.png"), ("10_hazy.png", "10_GT.png")]
    assert found.unmatched == (tmp_path / "3_hazy.png",)
    assert {pair.group for pair in found.pairs} == {"hazy"}
    assert found.rule == "files named hazy against files named GT, by stem without those words"
    with pytest.raises(DataError, match="holds pairs"):
        clear_pictures(tmp_path)


def test_side_by_side_the_word_may_come_first_and_two_kinds_may_share_a_target(tmp_path: Path) -> None:
    grow(tmp_path, "norain-001.png", "rain-001.png", "rainy-001.png")
    assert names(find_pairs(tmp_path).pairs, tmp_path) == [
        ("rain-001.png", "norain-001.png"),
        ("rainy-001.png", "norain-001.png"),
    ]


def test_side_by_side_two_targets_are_ambiguous(tmp_path: Path) -> None:
    grow(tmp_path, "1_hazy.png", "1_GT.png", "1_GT.jpg")
    with pytest.raises(DataError, match=r"several possible targets .*: 1_GT\.jpg, 1_GT\.png"):
        find_pairs(tmp_path)


def test_words_alone_do_not_make_a_folder_of_pairs(tmp_path: Path) -> None:
    grow(tmp_path, "summer_rain.jpg", "night_clear.jpg")
    assert not has_pairs(tmp_path)
    assert len(clear_pictures(tmp_path)) == 2


def test_the_two_parts_of_sots_are_joined_but_never_with_training_sets(tmp_path: Path) -> None:
    grow(tmp_path, "SOTS/indoor/hazy/1_1.png", "SOTS/indoor/gt/1.png")
    grow(tmp_path, "SOTS/outdoor/hazy/2_0.8_0.2.jpg", "SOTS/outdoor/gt/2.png")
    assert [pair.group for pair in find_pairs(tmp_path / "SOTS").pairs] == ["indoor/hazy", "outdoor/hazy"]
    grow(tmp_path, "OTS/hazy/1_0.8_0.2.jpg", "OTS/clear/1.jpg")
    with pytest.raises(UsageError, match="training sets and the test set SOTS/indoor/; give one of them"):
        find_pairs(tmp_path)


def test_equal_stems_win_over_identifiers(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/1.png", "hazy/1_2.png", "clear/1.png", "clear/1_2.png")
    assert names(find_pairs(tmp_path).pairs, tmp_path) == [
        ("hazy/1.png", "clear/1.png"),
        ("hazy/1_2.png", "clear/1_2.png"),
    ]


def test_roadscene_rain_ignores_infrared_and_stray_files(tmp_path: Path) -> None:
    grow(
        tmp_path,
        *(f"{split}/Vis/{side}/000.jpg" for split in ("train", "test") for side in ("input", "target")),
    )
    grow(tmp_path, "train/Inf/input/000.jpg", "train/Inf/input/_init_.py", "train/Vis/input/_init_.py")
    grow(tmp_path, "train/Vis/input/._000.jpg", "train/Vis/target/.thumbs/000.jpg")
    for root, split in ((tmp_path, "train"), (tmp_path / "train", None), (tmp_path / "train/Vis", None)):
        found = find_pairs(root, split=split)
        assert names(found.pairs, tmp_path / "train/Vis") == [("input/000.jpg", "target/000.jpg")]
        assert found.pairs[0].group == "input"
        assert found.unmatched == ()
    assert find_pairs(tmp_path, split="train").rule == "Vis/input/ against Vis/target/, by equal stem"


def test_files_without_partner_are_listed(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/1.png", "hazy/3.png", "clear/1.png", "clear/2.png")
    found = find_pairs(tmp_path)
    assert len(found.pairs) == 1
    assert [path.relative_to(tmp_path).as_posix() for path in found.unmatched] == [
        "hazy/3.png",
        "clear/2.png",
    ]


def test_a_set_that_must_be_complete_names_the_rule_and_three_pictures_without_a_partner(
    tmp_path: Path,
) -> None:
    grow(tmp_path, *(f"test/blur/{n}.png" for n in range(9)), *(f"test/sharp/{n}.png" for n in range(4)))
    with pytest.raises(DataError) as raised:
        complete_pairs(tmp_path, split="test")
    assert str(raised.value) == (
        f"5 pictures of {tmp_path} have no partner beside its 4 pairs (blur/ against sharp/, by equal stem): "
        "test/blur/4.png, test/blur/5.png, test/blur/6.png; add their partners or leave them out; "
        "fairweather data check lists all"
    )


def test_numbers_may_start_anew_in_each_sub_folder(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{side}/{scene}/1.png" for side in ("blur", "sharp") for scene in ("a", "b")))
    assert names(find_pairs(tmp_path).pairs, tmp_path) == [
        ("blur/a/1.png", "sharp/a/1.png"),
        ("blur/b/1.png", "sharp/b/1.png"),
    ]


def test_several_pairs_of_folders_are_joined_and_named_by_path(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{scene}/{side}/1.png" for side in ("blur", "sharp") for scene in ("a", "b")))
    assert [pair.group for pair in find_pairs(tmp_path).pairs] == ["a/blur", "b/blur"]


def test_csv_manifest_is_relative_to_itself(tmp_path: Path) -> None:
    grow(tmp_path, "x/1.png", "y/one.png", "y/2.png", "train/z.png")
    (tmp_path / "pairs.csv").write_text("degraded,target\nx/1.png,y/one.png\ny/2.png,y/one.png\n")
    expected = [("x/1.png", "y/one.png"), ("y/2.png", "y/one.png")]
    for root in (tmp_path, tmp_path / "pairs.csv"):
        found = find_pairs(root)
        assert names(found.pairs, tmp_path) == expected
        assert [pair.group for pair in found.pairs] == ["x", "y"]
        assert found.rule == "as listed in pairs.csv"


def test_json_manifest_may_name_groups(tmp_path: Path) -> None:
    grow(tmp_path, "a.png", "b.png")
    manifest = tmp_path / "mine.json"
    manifest.write_text(json.dumps([{"degraded": "a.png", "target": "b.png", "group": "fog"}]))
    assert find_pairs(manifest).pairs == (Pair(tmp_path / "a.png", tmp_path / "b.png", "fog"),)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("pairs.csv", "hazy,clear\na.png,b.png\n", "'degraded'"),
        ("pairs.csv", "degraded,target\n", "no pairs"),
        ("pairs.csv", "degraded,target\na.png,gone.png\n", "1 missing files, such as .*gone.png"),
        ("list.txt", "gt/a.png\n", "'gt/a.png' is not a path in .*, gt, .* and one elsewhere"),
        ("list.txt", "gt/a.png sharp/b.png\n", "no CSV, JSON or text list"),
        ("list.txt", "gt/a.png blur/b.png\n", "2 missing files, such as .*blur/b.png"),
        ("pairs.csv", "degraded,target\na.png\n", "no CSV, JSON or text list"),
        ("pairs.json", "{", "no CSV, JSON or text list"),
        ("pairs.json", '["a.png"]', "no CSV, JSON or text list"),
    ],
)
def test_wrong_manifests_say_what_is_wrong(tmp_path: Path, file: str, text: str, said: str) -> None:
    grow(tmp_path, "a.png", "b.png")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        find_pairs(tmp_path / file)


def test_several_splits_must_be_chosen_from(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{split}/{side}/1.png" for split in ("Test", "train") for side in ("hazy", "gt")))
    assert list(splits(tmp_path)) == ["train", "test"]
    with pytest.raises(UsageError, match=r"several splits \(train, test\)"):
        find_pairs(tmp_path)
    with pytest.raises(UsageError, match=r"no split 'val'.*train, test"):
        find_pairs(tmp_path, split="val")
    assert find_pairs(tmp_path, split="test").pairs[0].target == tmp_path / "Test/gt/1.png"
    assert find_pairs(tmp_path / "Test", split="test").pairs


def test_a_folder_of_data_sets_does_not_mix_their_splits(tmp_path: Path) -> None:
    grow(tmp_path, *(f"set/{split}/{side}/1.png" for split in ("test", "train") for side in ("hazy", "gt")))
    with pytest.raises(DataError, match="no pair of folders"):
        find_pairs(tmp_path)
    with pytest.raises(UsageError, match="test and train"):
        clear_pictures(tmp_path)


def test_unknown_layout_lists_what_was_seen_and_what_is_known(tmp_path: Path) -> None:
    grow(tmp_path, "bad/1.png", "good/1.png")
    with pytest.raises(
        DataError, match=r"folders seen: bad/, good/; known layouts: gt with hazy or .*pairs\.csv"
    ):
        find_pairs(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_pairs(tmp_path / "nowhere")


def test_two_target_folders_are_ambiguous(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/1.png", "gt/1.png", "clear/1.png")
    with pytest.raises(DataError, match="several possible targets: gt/ and clear/"):
        find_pairs(tmp_path)


def test_two_target_files_are_ambiguous(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/1.png", "gt/1.png", "gt/1.jpg")
    with pytest.raises(DataError, match=r"several possible targets by equal stem: 1\.jpg, 1\.png"):
        find_pairs(tmp_path)


def test_unequal_names_give_the_rules_and_examples(tmp_path: Path) -> None:
    grow(tmp_path, *(f"hazy/h{i}.png" for i in range(5)), *(f"clear/c{i}.png" for i in range(5)))
    with pytest.raises(
        DataError, match=r"tried by equal stem, .*degraded: h0\.png, h1\.png, h2\.png; targets: c0\.png"
    ):
        find_pairs(tmp_path)


def test_empty_folders_are_named(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/readme.txt", "clear/1.png")
    with pytest.raises(DataError, match="hazy holds no pictures"):
        find_pairs(tmp_path)


def test_clear_pictures_are_a_flat_list_in_natural_order(tmp_path: Path) -> None:
    grow(tmp_path, "train/10.png", "train/2.jpg", "train/b/1.png", "train/notes.txt", "train/depth/2.png")
    found = [path.relative_to(tmp_path).as_posix() for path in clear_pictures(tmp_path)]
    assert found == ["train/2.jpg", "train/10.png", "train/b/1.png"]


def test_clear_pictures_refuse_a_set_of_pairs(tmp_path: Path) -> None:
    grow(tmp_path, "hazy/1.png", "clear/1.png")
    with pytest.raises(DataError, match="give its clear folder alone"):
        clear_pictures(tmp_path)
    assert clear_pictures(tmp_path / "clear") == (tmp_path / "clear/1.png",)
    with pytest.raises(DataError, match="no pictures under"):
        clear_pictures(grow(tmp_path / "empty", "a.txt"))


FILES = (Path("hazy/1400_1.png"), Path("gt/1400.png"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_pair_of_equal_sizes_is_left_alone(dtype: torch.dtype) -> None:
    degraded, target = torch.ones(3, 5, 7, dtype=dtype), torch.zeros(1, 5, 7, dtype=dtype)
    found = matched(degraded, target, files=FILES)
    assert found[0] is degraded
    assert found[1] is target


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_frame_of_reside_s_clear_pictures_is_cropped_evenly(dtype: torch.dtype) -> None:
    inner = (torch.arange(3 * 460 * 620) % 251).reshape(3, 460, 620).to(dtype)
    framed = torch.nn.functional.pad(inner, (10, 10, 10, 10), value=255)
    degraded, target = matched(torch.zeros_like(inner), framed, files=FILES)
    assert torch.equal(target, inner)
    assert degraded.shape == target.shape


@pytest.mark.parametrize(
    ("degraded", "target"),
    [
        ((460, 620), (460, 640)),
        ((480, 640), (460, 620)),
        ((620, 460), (640, 480)),
        ((460, 620), (500, 660)),
        ((40, 60), (60, 80)),
    ],
)
def test_no_other_difference_in_size_is_cropped(degraded: tuple[int, int], target: tuple[int, int]) -> None:
    with pytest.raises(DataError) as raised:
        matched(torch.zeros(3, *degraded), torch.zeros(3, *target), files=FILES)
    said = str(raised.value)
    assert f"1400_1.png ({degraded[1]}x{degraded[0]}) and " in said
    assert f"1400.png ({target[1]}x{target[0]}) are a pair of different sizes" in said
    assert "fairweather data check" in said
    assert "\n" not in said
