"""Training patches: reproducible by number, alike for both pictures of a pair, sharded without overlap."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from fairweather.data.patches import Clear, Pairs, Patches, Pictures, Steps
from fairweather.data.transforms import augment, extend, random_crop
from fairweather.errors import DataError, UsageError
from fairweather.images import Picture, write_picture


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


PAIRS = Pairs(path=Path("pairs"))
CLEAR = Clear(path=Path("clear"), degradation="noise")


def test_a_patch_is_a_function_of_its_number(root: Path) -> None:
    first, second = (Patches([PAIRS, CLEAR], root=root, size=32, seed=3) for _ in range(2))
    later = [second[i] for i in (7, 2)]  # in another order, from another object
    for (a, b), index in zip(later, (7, 2), strict=True):
        assert torch.equal(first[index][0], a)
        assert torch.equal(first[index][1], b)
    assert not torch.equal(first[7][0], first[2][0])


def test_both_pictures_of_a_pair_get_the_same_window_and_flips(root: Path) -> None:
    patches = Patches([PAIRS], root=root, size=32, seed=0)
    for i in range(20):
        degraded, target = patches[i]
        assert degraded.shape == target.shape == (3, 32, 32)
        torch.testing.assert_close(degraded, target / 2, atol=1e-6, rtol=0)


def test_weights_share_out_the_patches(root: Path) -> None:
    patches = Patches(
        [PAIRS, Clear(path=Path("clear"), degradation="noise", weight=3.0)], root=root, size=16, seed=0
    )
    paired = sum(torch.allclose(d, t / 2, atol=1e-6) for d, t in (patches[i] for i in range(200)))
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


def test_missing_data_and_wrong_names_say_what_to_do(root: Path) -> None:
    with pytest.raises(DataError, match="--set data_root=DIR"):
        Patches([Clear(path=Path("nothing"), degradation="noise")], root=root, size=16, seed=0)
    with pytest.raises(UsageError, match="did you mean 'noise'"):
        Patches([Clear(path=Path("clear"), degradation="nois")], root=root, size=16, seed=0)
    with pytest.raises(DataError, match="none of them in the ranges"):
        Pictures([Clear(path=Path("clear"), degradation="noise", keep=((9, 12),))], root=root)


def test_pairs_that_are_not_whole_or_not_alike_are_not_trained_on(root: Path) -> None:
    (root / "pairs/input/2.png").unlink()
    with pytest.raises(DataError, match=r"1 pictures of .*pairs have no partner .first: 2\.png"):
        Patches([PAIRS], root=root, size=16, seed=0)
    write_picture(Picture(pixels=torch.zeros(3, 64, 63)), root / "pairs/input/2.png")
    with pytest.raises(DataError, match=r"2\.png .63x64. and .*2\.png .64x64. are a pair of different sizes"):
        Pictures([PAIRS], root=root)[2]


def test_a_source_is_described_with_its_share(root: Path) -> None:
    lines = Patches([PAIRS, CLEAR], root=root, size=16, seed=0).describe()
    assert lines[0] == " 50% of patches: 4 pairs from pairs, such as 0.png with 0.png"
