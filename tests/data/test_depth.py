"""Pictures with depth: found whole and in order, read as relative depth, and refused where they are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fairweather.data.depth import (
    Scene,
    disparity_target,
    fill_nearest,
    find_scenes,
    own_depth,
    read_depth,
    read_scene,
)
from fairweather.errors import DataError, UsageError
from fairweather.images import Picture, write_picture


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        PIL.Image.fromarray(values).save(path)
    return path


def levels(*rows: list[int], dtype: type = np.uint16) -> np.ndarray:
    return np.array(rows, dtype=dtype)


def rgb(path: Path, height: int = 2, width: int = 3) -> Path:
    write_picture(Picture(pixels=torch.full((3, height, width), 0.5)), path)
    return path


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    rows = ["split,name,rgb,depth,set,kind"]
    kinds = ["disparity (stereo-matched)", '"depth, sparse"', '"inverse (bright is near), unit unknown"']
    for split, number, kind in zip(("train", "train", "test"), (10, 2, 1), kinds, strict=True):
        files = [f"{split}/rgb/{number}.png", f"{split}/depth/{number}.png"]
        rgb(tmp_path / files[0])
        save(tmp_path / files[1], levels([100, 200, 400], [100, 200, 400]))
        rows.append(f"{split},{number},{','.join(files)},some set,{kind}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    return tmp_path


# Finding ---------------------------------------------------------------------------------------------------------


def test_an_index_gives_a_split_in_natural_order_with_its_kinds(indexed: Path) -> None:
    for scenes in (find_scenes(indexed, split="train"), find_scenes(indexed / "train")):
        assert [(scene.picture.name, scene.kind) for scene in scenes] == [
            ("2.png", "depth"),
            ("10.png", "disparity"),
        ]
    assert find_scenes(indexed, split="test")[0].kind == "disparity"


def test_the_offset_comes_from_the_index_or_from_what_is_known_of_the_set(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        rgb(tmp_path / f"{name}.png")
    rows = ["a,Middlebury 2006 third size,", "b,Middlebury 2003,", "c,Middlebury 2006 third size,7"]
    lines = [f"train,{row[0]}.png,{row[0]}.png,disparity,{row[2:]}" for row in rows]
    (tmp_path / "index.csv").write_text("\n".join(["split,rgb,depth,kind,set,offset", *lines]))
    assert [scene.offset for scene in find_scenes(tmp_path)] == [270, 0, 7]


@pytest.mark.parametrize("folder", ["rgb", "clear"])
def test_plain_folders_pair_by_stem_in_natural_order(tmp_path: Path, folder: str) -> None:
    for name, suffix in (("10", ".png"), ("2", ".npy")):
        rgb(tmp_path / f"train/{folder}/{name}.png")
        save(tmp_path / f"train/depth/{name}{suffix}", levels([1, 2, 3], [1, 2, 3]))
    assert [scene.depth.name for scene in find_scenes(tmp_path)] == ["2.npy", "10.png"]


def test_what_is_not_whole_is_refused(tmp_path: Path, indexed: Path) -> None:
    with pytest.raises(UsageError, match=r"several splits .train, test.; name one"):
        find_scenes(indexed)
    with pytest.raises(UsageError, match="no split 'val'"):
        find_scenes(indexed, split="val")
    (indexed / "train/depth/2.png").unlink()
    with pytest.raises(DataError, match=r"lists 1 missing files, such as .*2\.png"):
        find_scenes(indexed, split="train")
    (indexed / "index.csv").write_text("split,rgb,depth,kind\ntrain,a.png,b.png,stereo\n")
    with pytest.raises(DataError, match="kind 'stereo', expected depth or disparity"):
        find_scenes(indexed)
    plain = tmp_path / "plain"
    rgb(plain / "rgb/1.png")
    with pytest.raises(DataError, match=r"no index\.csv and no folders rgb/"):
        find_scenes(plain)
    save(plain / "depth/1.png", levels([1]))
    save(plain / "depth/2.png", levels([1]))
    with pytest.raises(DataError, match=r"1 files of rgb/ and depth/ in .*depth.2\.png"):
        find_scenes(plain)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_is_relative_and_holes_take_the_nearest_value(tmp_path: Path, dtype: type) -> None:
    file = save(tmp_path / "a.png", levels([50, 0, 0, 100], [0, 0, 200, 0], dtype=dtype))
    depth, known = read_depth(file)
    assert known.int().tolist() == [[[1, 0, 0, 1], [0, 0, 1, 0]]]
    assert depth[0, 0].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert depth[0, 1].tolist() in (
        [0.25, 1, 1, 1],
        [0.25, 0.25, 1, 1],
        [0.25, 1, 1, 0.5],
        [0.25, 0.25, 1, 0.5],
    )
    assert depth.max() == 1


def test_16_bit_depth_keeps_its_small_steps(tmp_path: Path) -> None:
    depth, _ = read_depth(save(tmp_path / "a.png", levels([59999, 60000])))
    assert depth[0, 0, 0] == pytest.approx(59999 / 60000, abs=1e-7)
    assert depth[0, 0, 0] < 1


def test_disparity_becomes_depth_with_its_offset_and_a_farthest_value(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", levels([0, 10, 100, 400]))
    near = read_depth(file, kind="disparity").depth[0, 0]
    assert near.tolist() == pytest.approx([1, 1, 0.2, 0.05])  # 10 counts as 400 / 20
    moved = read_depth(file, kind="disparity", offset=100).depth[0, 0]
    assert moved.tolist() == pytest.approx([1, 1, 110 / 200, 110 / 500])


def test_nearest_fill_agrees_with_looking_at_every_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 13, 17, generator=generator)
    known = torch.rand(1, 13, 17, generator=generator) < 0.06
    filled = fill_nearest(values, known)[0]
    places = known[0].nonzero()
    for y in range(13):
        for x in range(17):
            way = (places - torch.tensor([y, x])).abs().sum(1)
            assert filled[y, x] in [values[0, a, b] for a, b in places[way == way.min()]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1.0, np.nan]]), "NaN, infinity or negative"),
        (np.array([[1.0, -1.0]]), "NaN, infinity or negative"),
        (np.array([[1.0, np.inf]]), "NaN, infinity or negative"),
        (np.zeros((2, 2)), "0 everywhere"),
        (np.zeros((2, 2, 2)), r"shape .2, 2, 2."),
        (np.array([["x"]]), "cannot be read as a depth map"),
    ],
)
def test_wrong_values_are_refused_in_one_line(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_depth(save(tmp_path / "a.npy", values))
    assert "\n" not in str(error.value)


def test_files_that_are_no_depth_maps_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png cannot be read as a depth map .FileNotFoundError"):
        read_depth(tmp_path / "a.png")
    with pytest.raises(DataError, match="mode RGB; expected grey"):
        read_depth(rgb(tmp_path / "a.png"))
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        read_depth(tmp_path / "b.png")
    (tmp_path / "b.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.npy cannot be read as a depth map \(not a whole \.npy array"):
        read_depth(tmp_path / "b.npy")
    other = save(tmp_path / "c.png", levels([1, 2]))
    with pytest.raises(DataError, match=r"c\.png is 2x1, its picture a\.png 3x2"):
        read_scene(Scene(tmp_path / "a.png", other))


def test_resides_frame_goes_where_the_map_is_of_the_hazy_picture(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    known = save(tmp_path / "b.npy", np.ones((460, 620)))
    picture, (depth, _) = read_scene(Scene(tmp_path / "a.png", known))
    assert depth.shape == (1, 460, 620)
    assert torch.equal(
        (picture * 255).round().byte().permute(1, 2, 0), torch.from_numpy(grey[10:470, 10:630])
    )


# The target ------------------------------------------------------------------------------------------------------


def test_the_target_is_large_where_near_robust_and_0_where_unknown() -> None:
    depth = torch.linspace(0.1, 1, 1000).view(1, 10, 100)
    depth[0, 0, 0] = 1e-6  # one wrong pixel
    known = torch.ones(1, 10, 100, dtype=torch.bool)
    known[0, 9, 90:] = False
    target = disparity_target(depth, known)
    assert (target[~known] == 0).all()
    assert target[known].min() == pytest.approx(0.05)
    assert target.max() == 1
    assert (target[0, 0, 1:19] == 1).all()  # 2 % are clipped
    assert target[0, 0, 60] < 1
    assert (target[known].diff() <= 0).all()


def test_the_target_does_not_depend_on_scale_or_offset_and_an_even_depth_is_1() -> None:
    inverse = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    known = torch.ones(1, 9, 9, dtype=torch.bool)
    torch.testing.assert_close(
        disparity_target(1 / inverse, known), disparity_target(1 / (3 * inverse + 2), known)
    )
    assert (disparity_target(torch.ones(1, 9, 9), known) == 1).all()


def test_an_rgbd_set_teaches_its_own_depth_and_nothing_else(indexed: Path) -> None:
    teacher = own_depth(indexed, split="train")
    far_right = teacher(indexed / "train/rgb/2.png")
    near_right = teacher(indexed / "train/rgb/10.png")
    assert far_right is not None
    assert near_right is not None
    assert far_right[0, 0, 0] > far_right[0, 0, 2]
    assert near_right[0, 0, 0] < near_right[0, 0, 2]
    assert teacher(indexed / "test/rgb/1.png") is None
