"""Pairs are found under the names that data sets are published with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairweather.data.pairs import Pair, clear_pictures, find_pairs, splits
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
        ("pairs.csv", "degraded,target\na.png\n", "no CSV or JSON list"),
        ("pairs.json", "{", "no CSV or JSON list"),
        ("pairs.json", '["a.png"]', "no CSV or JSON list"),
    ],
)
def test_wrong_manifests_say_what_is_wrong(tmp_path: Path, file: str, text: str, said: str) -> None:
    grow(tmp_path, "a.png", "b.png")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        find_pairs(tmp_path)


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
