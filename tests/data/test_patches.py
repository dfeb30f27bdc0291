"""Training patches: reproducible by number, alike for both pictures of a pair, sharded without overlap."""

from __future__ import annotations

import math
import re
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Generator, Tensor

from fairweather.data.depth import own_depth
from fairweather.data.patches import (
    Clear,
    Pairs,
    Patches,
    Pictures,
    Sample,
    Scenes,
    Stage,
    Steps,
    Views,
)
from fairweather.data.random_degradations import DEGRADATIONS
from fairweather.data.transforms import augment, extend, random_crop, reduce, reduce_known
from fairweather.errors import DataError, UsageError
from fairweather.images import Picture, read_picture, write_picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pairs whose degraded picture is the target at half brightness, and clear pictures; some smaller than a patch."""
    for i, size in enumerate([(40, 60), (20, 90), (64, 64), (48, 48)]):
        target = torch.rand(3, *size, generator=torch.Generator().manual_seed(i))
        target = (target * 127).round() * 2 / 255
        write_picture(Picture(pixels=target), tmp_path / f"pairs/target/{i}.png")
        write_picture(Picture(pixels=target / 2), tmp_path / f"pairs/input/{i}.png")
        write_picture(Picture(pixels=target), tmp_path / f"clear/{i}.png")
    return tmp_path


@pytest.fixture
def rooms(root: Path) -> Path:
    """Black pictures, blue where it is far (depth 1 against 0.1), green where the depth is not known."""
    (root / "rooms/depth").mkdir(parents=True)
    for i, (height, width) in enumerate([(60, 90), (80, 80)]):
        clear = torch.zeros(3, height, width)
        clear[2, :, width // 2 :] = 1
        clear[1, : height // 3] = 1
        write_picture(Picture(pixels=clear), root / f"rooms/rgb/{i}.png")
        levels = torch.where(clear[2] == 1, 5000, 500) * (clear[1] == 0)
        PIL.Image.fromarray(levels.numpy().astype(np.uint16)).save(root / f"rooms/depth/{i}.png")
    return root


PAIRS = Pairs(path=Path("pairs"))
CLEAR = Clear(path=Path("clear"), degradation="noise")
ROOMS = Scenes(path=Path("rooms"), ranges="its")


def nearness(path: Path) -> Tensor | None:
    """A teacher that makes disparity from the target's red plane, and has nothing for picture 2."""
    return None if path.stem == "2" else 0.5 + read_picture(path).pixels[:1] / 2


def test_a_patch_is_a_function_of_its_number(root: Path) -> None:
    first, second = (Patches([PAIRS, CLEAR], root=root, size=32, seed=3) for _ in range(2))
    later = [second[i] for i in (7, 2)]  # in another order, from another object
    for (a, b, _), index in zip(later, (7, 2), strict=True):
        assert torch.equal(first[index][0], a)
        assert torch.equal(first[index][1], b)
    assert not torch.equal(first[7][0], first[2][0])


def test_other_seeds_have_other_patches(root: Path) -> None:
    """torch heeds 32 bits of a seed: with the seed in the upper ones all runs saw the same patches."""
    seen = [
        Patches([PAIRS, CLEAR], root=root, size=32, seed=seed)[number].degraded
        for seed in (0, 1, 2, 78, 2**20)
        for number in range(6)
    ]
    assert len({picture.numpy().tobytes() for picture in seen}) == len(seen)


def test_without_zoom_a_patch_of_seed_0_is_drawn_as_it_always_was(root: Path) -> None:
    patches = Patches([CLEAR, PAIRS], root=root, size=32, seed=0)
    for index in range(12):
        generator = Generator().manual_seed(index)
        which = int(torch.multinomial(torch.ones(2), 1, generator=generator))
        number = int(torch.randint(4, (), generator=generator))
        folders = ["clear"] if which == 0 else ["pairs/input", "pairs/target"]
        pictures = [read_picture(root / folder / f"{number}.png").pixels for folder in folders]
        pictures = augment(random_crop(pictures, 32, generator), "dihedral", generator)
        degraded, target = DEGRADATIONS["noise"](pictures[0], generator) if which == 0 else pictures
        assert torch.equal(patches[index].degraded, degraded)
        assert torch.equal(patches[index].target, target)


def test_both_pictures_of_a_pair_get_the_same_window_and_flips(root: Path) -> None:
    patches = Patches([PAIRS], root=root, size=32, seed=0)
    for i in range(20):
        degraded, target, _ = patches[i]
        assert degraded.shape == target.shape == (3, 32, 32)
        torch.testing.assert_close(degraded, target / 2, atol=1e-6, rtol=0)


def test_weights_share_out_the_patches(root: Path) -> None:
    patches = Patches(
        [PAIRS, Clear(path=Path("clear"), degradation="noise", weight=3.0)], root=root, size=16, seed=0
    )
    paired = sum(torch.allclose(d, t / 2, atol=1e-6) for d, t, _ in (patches[i] for i in range(200)))
    assert 30 <= paired <= 70


def test_held_back_ranges_divide_the_pictures(root: Path) -> None:
    train = Pictures([Clear(path=Path("clear"), degradation="noise", drop=((1, 2),))], root=root)
    held = Pictures([Clear(path=Path("clear"), degradation="noise", keep=((1, 2),))], root=root)
    assert len(train) == len(held) == 2
    assert {train[i][1].shape for i in range(2)} == {(3, 40, 60), (3, 48, 48)}
    assert {held[i][1].shape for i in range(2)} == {(3, 20, 90), (3, 64, 64)}


def test_validation_noise_is_the_same_each_time(root: Path) -> None:
    pictures = Pictures([CLEAR], root=root)
    assert torch.equal(pictures[1][0], pictures[1][0])


def test_steps_go_on_where_they_stopped_and_ranks_share_without_overlap() -> None:
    whole = list(islice(Steps(batch=4), 6))
    assert list(islice(Steps(batch=4, start=2), 4)) == whole[2:]
    ranks = [list(islice(Steps(batch=4, rank=r, processes=2), 3)) for r in (0, 1)]
    seen = [i for step in zip(*ranks, strict=True) for batch in step for i in batch]
    assert seen == list(range(24))


def test_stages_have_their_sizes_go_on_where_they_stopped_and_use_each_number_once() -> None:
    stages = [Stage(2, 32, 5), Stage(3, 24, 4)]
    whole = [list(islice(Steps(batch=2, stages=stages, rank=r, processes=2), 6)) for r in (0, 1)]
    assert [len(batch) for batch in whole[0]] == [5, 5, 4, 2, 2, 2]
    sizes = [{n[1] if isinstance(n, tuple) else None for n in batch} for batch in whole[1]]
    assert sizes == [{32}, {32}, {24}, {None}, {None}, {None}]
    for start in range(6):
        resumed = Steps(batch=2, stages=stages, rank=1, processes=2, start=start)
        assert list(islice(resumed, 6 - start)) == whole[1][start:]
    steps = [batch for step in zip(*whole, strict=True) for batch in step]
    assert [n[0] if isinstance(n, tuple) else n for batch in steps for n in batch] == list(range(40))


def test_a_patch_of_another_size_shows_the_same_picture(root: Path) -> None:
    patches = Patches([CLEAR], root=root, size=32, seed=3)
    assert patches[5, 48].target.shape == (3, 48, 48)
    assert torch.equal(patches[5, 32].degraded, patches[5].degraded)
    assert torch.equal(patches[5, 48].degraded, patches[5, 48].degraded)


def test_views_show_different_windows_of_one_picture(tmp_path: Path) -> None:
    """Each picture has its own red; green grows to the right and blue downwards, and tell where the window lies."""
    for i in range(3):
        y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 90), indexing="ij")
        picture = torch.stack([torch.full_like(x, i / 2), x, y])
        write_picture(Picture(pixels=picture), tmp_path / f"sets/{'ab'[i % 2]}/{i}.png")
    source = Clear(path=Path("sets"), degradation="none", augment="none")
    views = Views(Patches([source], root=tmp_path, size=24, seed=0), classes=2)
    apart = set()
    for i in range(20):
        degraded, clear, label = views[i]
        assert torch.equal(degraded[0], clear[0])
        assert label == int(clear[0, 0, 0] * 2 + 0.5) % 2
        apart.add(torch.equal(degraded, clear))
        assert torch.equal(views[i].clear, clear)
    assert apart == {False}
    assert views[0, 16].degraded.shape == (3, 16, 16)
    unlabelled = Views(Patches([source], root=tmp_path, size=24, seed=0))
    assert unlabelled[0].label == -1
    with pytest.raises(DataError, match="pictures in 2 folders, expected one for each of 1000 classes"):
        Views(Patches([source], root=tmp_path, size=24, seed=0), classes=1000)


def test_a_half_turn_keeps_the_direction_of_lines() -> None:
    line = torch.eye(8)[None]
    for seed in range(10):
        (turned,) = augment([line], "half_turn", torch.Generator().manual_seed(seed))
        assert torch.equal(turned, line)
    flipped = [augment([line], "dihedral", torch.Generator().manual_seed(s))[0] for s in range(20)]
    assert any(not torch.equal(f, line) for f in flipped)


def test_a_small_picture_is_mirrored_up_to_the_patch() -> None:
    assert extend(torch.arange(3.0).view(1, 1, 3), 7)[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0]
    (crop,) = random_crop([torch.rand(3, 5, 70)], 32, torch.Generator().manual_seed(0))
    assert crop.shape == (3, 32, 32)


def test_windows_snap_to_edges_as_often_as_asked() -> None:
    column = torch.arange(100.0).view(1, 100, 1).expand(1, 100, 40)

    def tops(edges: float) -> list[int]:
        generators = (torch.Generator().manual_seed(seed) for seed in range(400))
        return [int(random_crop([column], 25, g, edges=edges)[0][0, 0, 0]) for g in generators]

    snapped = [sum(top == end for top in tops(0.8)) / 400 for end in (0, 75)]
    assert snapped == pytest.approx(
        [0.1, 0.1], abs=0.05
    )  # half of 0.8 * 25 / 100 each, and one in 76 by chance
    assert sum(top in (0, 75) for top in tops(0.0)) < 20


def test_a_zoomed_window_is_at_most_the_shorter_side_and_noise_is_made_afterwards(root: Path) -> None:
    patches = Patches([CLEAR], root=root, size=32, seed=0, zoom=(0.25, 1.0))
    seen = set()
    for i in range(40):
        degraded, target, _ = patches[i]
        assert degraded.shape == target.shape == (3, 32, 32)
        seen.add(round(float(target.std()), 2))
        rough = (degraded - target).flatten()
        assert abs(float((rough[1:] * rough[:-1]).mean() / rough.var())) < 0.1  # white, so not reduced
    assert max(seen) - min(seen) > 0.04  # random pixels even out where a window is reduced
    assert torch.equal(patches[5].degraded, patches[5].degraded)
    with pytest.raises(UsageError, match=r"0 < smallest <= largest <= 1"):
        Patches([CLEAR], root=root, size=32, seed=0, zoom=(0.5, 2.0))


def test_a_picture_is_reduced_at_most_until_its_shorter_side_is_whole(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 40)[:, None].expand(3, 40, 90)
    write_picture(Picture(pixels=ramp), tmp_path / "wide/1.png")
    source = Clear(path=Path("wide"), degradation="none", augment="none")
    for zoom, size in ((0.1, 20), (0.4, 20), (0.1, 40)):
        column = Patches([source], root=tmp_path, size=size, seed=0, zoom=(zoom, zoom))[0].target[0, :, 3]
        assert (column.diff() > 0).all()  # not mirrored
        assert column[0] < 0.03
        assert column[-1] > 0.97


def test_reducing_keeps_an_even_picture_and_the_edge_of_what_is_known() -> None:
    torch.testing.assert_close(reduce(torch.full((3, 50, 50), 0.3), 32), torch.full((3, 32, 32), 0.3))
    disparity = torch.full((1, 40, 40), 0.6)
    disparity[..., 20:] = 0
    reduced = reduce_known(disparity, 16)
    torch.testing.assert_close(reduced[..., :8], torch.full((1, 16, 8), 0.6))
    assert (reduced[..., 8:] == 0).all()


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.4, 0.7)])
def test_scenes_are_hazed_by_the_depth_of_the_whole_picture(rooms: Path, zoom: tuple[float, float]) -> None:
    patches = Patches([ROOMS], root=rooms, size=24, seed=0, zoom=zoom)
    for i in range(30):
        degraded, clear, disparity = patches[i]
        near, far, unknown = clear[2] == 0, clear[2] == 1, clear[1] == 1
        # beta 0.6 to 1.8, airlight 0.7 to 1: the red plane shows the haze alone, in unknown depth too.
        assert (degraded[0][near] < 1 - np.exp(-0.18) + 0.003).all()
        assert (degraded[0][far] > 0.7 * (1 - np.exp(-0.6)) - 0.003).all()
        assert (disparity[0][unknown] == 0).all()
        assert ((disparity == 0) | (disparity > 0.0499)).all()  # no mean of known and unknown
        known = clear[1] == 0
        torch.testing.assert_close(disparity[0][near & known], torch.ones(int((near & known).sum())))
        assert (disparity[0][far & known] - 0.05).abs().lt(1e-4).all()


def test_strange_depth_hazes_a_scene_without_regard_to_what_it_shows(rooms: Path) -> None:
    """In these rooms blue is far: with their own depth, what is near and known is always hazed less."""
    own, strange = (
        Patches(
            [Scenes(path=Path("rooms"), ranges="its", augment="mirror", strange=share)],
            root=rooms,
            size=48,
            seed=4,
        )
        for share in (0.0, 1.0)
    )

    def contradicted(patches: Patches) -> int:
        count = 0
        for i in range(40):
            patch = patches[i]
            added = (patch.degraded - patch.target)[0]  # red, which no scene has
            known = patch.target[1] == 0
            near, far = added[known & (patch.target[2] == 0)], added[known & (patch.target[2] == 1)]
            count += len(near) > 0 and len(far) > 0 and bool(near.max() > far.min() + 0.01)
        return count

    assert contradicted(own) == 0
    assert contradicted(strange) > 0


def test_tones_vary_alike_in_both_pictures_of_a_pair_and_not_unasked(root: Path) -> None:
    plain, varied = (
        Patches([Pairs(path=Path("pairs"), tones=tones, augment="none")], root=root, size=32, seed=3)
        for tones in (0.0, 0.5)
    )
    before, after = plain[0], varied[0]
    assert (after.target - before.target).abs().max() > 0.02
    unclipped = (after.target < 1) & (after.target > 0.05)
    ratio = (after.degraded / after.target)[unclipped].log() / math.log(
        0.5
    )  # half the light, to the power gamma
    assert ratio.std() < 1e-3
    assert not 0.99 < ratio.mean() < 1.01


def test_blacks_are_black_in_their_share_of_the_patches_before_these_are_degraded(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(60, 200, (40, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")

    def patches(share: float) -> list[Sample]:
        source = Clear(path=Path(), degradation="haze", augment="none", blacks=share)
        return list(islice(Patches([source], root=tmp_path, size=32, seed=0), 40))

    before, after = patches(0.0)[0], patches(1.0)[0]
    assert before.target.min() > 0.23
    assert after.target.min() == 0
    assert 0 < before.target.max() - after.target.max() < 0.1  # whites stay nearly as bright
    assert 0.01 < (after.target.amin(dim=0) == 0).float().mean() < 0.03
    assert after.degraded.min() > 0.01  # the haze is over the blackened picture
    assert 10 < sum(bool(patch.target.min() == 0) for patch in patches(0.5)) < 30


def test_disparity_comes_from_the_teacher_turned_like_its_picture(root: Path) -> None:
    patches = Patches([PAIRS, CLEAR], root=root, size=16, seed=0, zoom=(0.8, 1.0), teacher=nearness)
    unknown = 0
    for i in range(30):
        _, target, disparity = patches[i]
        if (disparity == 0).all():
            unknown += 1
        else:
            torch.testing.assert_close(disparity, 0.5 + target[:1] / 2, atol=1e-4, rtol=0)
    assert 0 < unknown < 15
    assert (Patches([PAIRS], root=root, size=16, seed=0)[0].disparity == 0).all()


def test_a_teacher_of_another_size_or_range_is_refused(root: Path) -> None:
    for bad in (1.5, -0.1, float("nan")):
        patches = Patches(
            [CLEAR], root=root, size=16, seed=0, teacher=lambda path, bad=bad: torch.full((1, 1, 1), bad)
        )
        with pytest.raises(DataError, match=r"disparity outside 0 to 1 for .*png"):
            patches[0]
    patches = Patches([CLEAR], root=root, size=16, seed=0, teacher=lambda path: torch.ones(1, 5, 5))
    with pytest.raises(DataError, match=r"disparity of shape .1, 5, 5. for .*png"):
        patches[0]


def test_validation_scenes_are_whole_and_the_same_each_time(rooms: Path) -> None:
    pictures = Pictures([ROOMS, PAIRS], root=rooms, teacher=own_depth(rooms / "rooms"))
    first, again = pictures[0], pictures[0]
    assert isinstance(first, Sample)
    assert [x.shape for x in first] == [(3, 60, 90), (3, 60, 90), (1, 60, 90)]
    assert torch.equal(first.degraded, again.degraded)
    assert (first.disparity[:, :20] == 0).all()
    assert (first.disparity[:, 20:] > 0).all()
    assert (pictures[2].disparity == 0).all()  # the teacher does not know it


def test_missing_data_and_wrong_names_say_what_to_do(root: Path) -> None:
    with pytest.raises(DataError, match="--set data_root=DIR"):
        Patches([Clear(path=Path("nothing"), degradation="noise")], root=root, size=16, seed=0)
    with pytest.raises(UsageError, match="did you mean 'noise'"):
        Patches([Clear(path=Path("clear"), degradation="nois")], root=root, size=16, seed=0)
    with pytest.raises(UsageError, match="unknown range of haze 'it'; did you mean 'its'"):
        Patches([Scenes(path=Path("clear"), ranges="it")], root=root, size=16, seed=0)
    with pytest.raises(DataError, match="none of them in the ranges"):
        Pictures([Clear(path=Path("clear"), degradation="noise", keep=((9, 12),))], root=root)


def test_pairs_that_are_not_whole_or_not_alike_are_not_trained_on(root: Path) -> None:
    (root / "pairs/input/2.png").unlink()
    with pytest.raises(DataError, match=r"1 pictures of .*pairs have no partner .*: target/2\.png"):
        Patches([PAIRS], root=root, size=16, seed=0)
    write_picture(Picture(pixels=torch.zeros(3, 64, 63)), root / "pairs/input/2.png")
    with pytest.raises(DataError, match=r"2\.png .63x64. and .*2\.png .64x64. are a pair of different sizes"):
        Pictures([PAIRS], root=root)[2]


def test_the_first_picture_smaller_than_a_patch_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = Patches([PAIRS, CLEAR], root=root, size=8, seed=0)
    large = Patches([PAIRS, CLEAR], root=root, size=500, seed=0)
    for i in range(3):
        small[i]
    assert not caplog.messages
    for i in range(3):
        large[i]
    (line,) = caplog.messages
    assert re.search(r"has \d+x\d+ pixels, less than a patch of 500: .* continued by mirroring", line)


def test_a_source_is_described_with_its_share(root: Path) -> None:
    lines = Patches([PAIRS, CLEAR], root=root, size=16, seed=0).describe()
    assert lines[0] == " 50% of patches: 4 pairs from pairs, such as 0.png with 0.png"


def test_what_is_done_to_targets_of_reside_is_said(tmp_path: Path) -> None:
    for name, (height, width) in {"hazy/1_1": (460, 620), "clear/1": (480, 640)}.items():
        write_picture(Picture(pixels=torch.zeros(3, height, width)), tmp_path / f"its/{name}.png")
    (line,) = Patches([Pairs(path=Path("its"))], root=tmp_path, size=16, seed=0).describe()
    assert line.endswith("1_1.png with 1.png; clear pictures of 640x480 lose RESIDE's border of 10 pixels")
