"""Evaluation of networks that also estimate depth, and of what profiles decide; test_cli.py has the rest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fairweather import cli, loading
from fairweather.data.depth import read_depth
from fairweather.errors import DataError, UsageError
from fairweather.evaluate import evaluate
from fairweather.metrics import depth_scores, score
from fairweather.models.fusionnet import fusionnet_small
from fairweather.night import NightRestorer
from fairweather.pipeline import Restorer, Result


class Seer(Restorer):
    """Leaves pictures as they are and sees the same disparity in all of them, if any."""

    def __init__(
        self, disparity: torch.Tensor | None = None, task: str = "dehaze", model: str = "nafnet_small"
    ) -> None:
        net = nn.Identity()
        super().__init__(net, model=model, task=task, sha256="0" * 64, device="cpu", precision="fp32")
        self.disparity = disparity
        self.seen: list[torch.Tensor] = []

    def restore(self, image: Any, **options: Any) -> Result:
        self.seen.append(image)
        return dataclasses.replace(super().restore(image, **options), depth=self.disparity)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(path)


def depth_levels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A depth map as 16-bit levels, with some unknown pixels."""
    levels = np.random.default_rng(seed).integers(13_000, 65_000, (height, width)).astype(np.uint16)
    levels[:5] = 0
    return levels


@pytest.fixture
def hazy_set(tmp_path: Path) -> Path:
    """Named as SOTS: two hazy versions of one clear picture, and one of another; only the first has a depth map."""
    random = np.random.default_rng(0)
    for name in ("1400", "1401"):
        clear = random.integers(0, 256, (30, 40, 3)).astype(np.uint8)
        write(tmp_path / "test" / "clear" / f"{name}.png", clear)
        for version in (1, 2) if name == "1400" else (7,):
            write(tmp_path / "test" / "hazy" / f"{name}_{version}.png", clear // 2 + 100)
    write(tmp_path / "test" / "depth" / "1400.png", depth_levels(30, 40))
    return tmp_path


def test_dehazing_is_scored_as_its_papers_do(hazy_set: Path) -> None:
    report = evaluate(Seer(), hazy_set)
    assert report.profile == "dehazeformer"
    rgb = evaluate(Seer(), hazy_set, profile="rgb_float")  # nothing is shrunk at this size
    assert report.table.overall() == rgb.table.overall()


def test_depth_is_scored_where_there_is_a_depth_map(hazy_set: Path, tmp_path: Path) -> None:
    depth, known = read_depth(hazy_set / "test" / "depth" / "1400.png")
    disparity = 3 / depth + torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(0))
    report = evaluate(Seer(disparity), hazy_set)
    expected = depth_scores(disparity, depth, known)
    assert expected.abs_rel > 0.01
    assert report.depth is not None
    assert report.depth.count == 2  # of the three pictures
    assert (report.depth.abs_rel, report.depth.delta_125) == pytest.approx(expected)
    report.save(tmp_path / "scores.json")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["count"] == 3
    assert written["depth"]["count"] == 2
    assert written["depth"]["abs_rel"] == pytest.approx(expected.abs_rel)
    assert len(written["depth"]["data_sha256"]) == 64


def test_depth_scores_are_means_over_pictures(hazy_set: Path) -> None:
    write(hazy_set / "test" / "depth" / "1401.png", depth_levels(30, 40, seed=1))
    maps = [read_depth(hazy_set / "test" / "depth" / f"{name}.png") for name in ("1400", "1401")]
    disparity = 1 / maps[0].depth
    first, second = (depth_scores(disparity, *found) for found in maps)
    report = evaluate(Seer(disparity), hazy_set)
    assert report.depth is not None
    assert report.depth.abs_rel == pytest.approx((2 * first.abs_rel + second.abs_rel) / 3)
    assert report.depth.delta_125 == pytest.approx((2 * first.delta_125 + second.delta_125) / 3)


def test_networks_without_depth_and_sets_without_depth_maps_have_no_depth_scores(hazy_set: Path) -> None:
    assert evaluate(Seer(), hazy_set).depth is None
    (hazy_set / "test" / "depth" / "1400.png").unlink()
    report = evaluate(Seer(torch.rand(1, 30, 40)), hazy_set)
    assert report.depth is None
    assert report.as_dict()["depth"] is None


def test_a_depth_map_of_another_size_is_refused(hazy_set: Path) -> None:
    write(hazy_set / "test" / "depth" / "1400.png", depth_levels(30, 41))
    with pytest.raises(DataError, match=r"1400\.png is 41x30, its picture 40x30"):
        evaluate(Seer(torch.rand(1, 30, 40)), hazy_set)


def test_the_border_of_resides_clear_pictures_and_depth_maps_does_not_count(tmp_path: Path) -> None:
    """SOTS indoor as published: 640x480 with a frame of 10 pixels, for hazy pictures of 620x460."""
    inside = np.random.default_rng(0).integers(0, 256, (460, 620, 3)).astype(np.uint8)
    framed = np.pad(inside, ((10, 10), (10, 10), (0, 0)), constant_values=255)
    levels = depth_levels(480, 640)
    write(tmp_path / "clear" / "1400.png", framed)
    write(tmp_path / "hazy" / "1400_1.png", inside // 2 + 100)
    write(tmp_path / "depth" / "1400.png", levels)
    depth = torch.from_numpy(levels[10:-10, 10:-10].astype(np.float32))[None]
    report = evaluate(Seer(1 / depth), tmp_path)
    hazy, clear = (torch.from_numpy(x).permute(2, 0, 1).float() / 255 for x in (inside // 2 + 100, inside))
    assert report.table.overall().psnr == pytest.approx(score("dehazeformer", hazy, clear).psnr, abs=1e-5)
    assert report.rule.endswith("; 1 clear pictures of 640x480 lost RESIDE's border of 10 pixels")
    assert report.depth is not None
    assert (report.depth.abs_rel, report.depth.delta_125) == pytest.approx((0, 1), abs=1e-5)


def test_pictures_are_scored_whole_unless_tiles_are_asked_for(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (8, 1100, 3)).astype(np.uint8)
    write(tmp_path / "input" / "a.png", wide // 2)
    write(tmp_path / "target" / "a.png", wide)
    whole = evaluate(Seer(task="derain"), tmp_path)
    assert (whole.tile, whole.tiles) == ("auto", 1)
    assert evaluate(Seer(task="derain"), tmp_path, tile=512).tiles > 1


def test_the_command_prints_depth_scores(
    hazy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = read_depth(hazy_set / "test" / "depth" / "1400.png").depth
    monkeypatch.setattr(loading, "load", lambda *_, **__: Seer(1 / depth))
    ended = CliRunner().invoke(cli.app, ["evaluate", "--task", "dehaze", "--data", str(hazy_set)])
    assert ended.exit_code == 0
    assert "profile dehazeformer:" in ended.stdout
    assert "of 2 pictures: abs-rel 0.0000, within a factor of 1.25 1.0000" in ended.stdout


def test_clear_pictures_with_depth_maps_are_hazed_by_their_depth(tmp_path: Path) -> None:
    clear = np.random.default_rng(0).integers(0, 128, (30, 40, 3)).astype(np.uint8)
    write(tmp_path / "test" / "rgb" / "room.png", clear)
    write(tmp_path / "test" / "depth" / "room.png", depth_levels(30, 40))
    depth = read_depth(tmp_path / "test" / "depth" / "room.png").depth
    report = evaluate(Seer(1 / depth), tmp_path)
    assert "RESIDE's ITS" in report.rule
    assert report.table.overall().psnr < 20  # beta is 0.6 or more: the haze can be seen
    assert report.as_dict() == evaluate(Seer(1 / depth), tmp_path).as_dict()  # the same haze each time
    assert report.depth is not None
    assert (report.depth.abs_rel, report.depth.delta_125) == pytest.approx((0, 1), abs=1e-5)


@pytest.fixture
def clear_set(tmp_path: Path) -> Path:
    """Clear pictures for denoising, of sides that are no multiple of anything."""
    for seed, size in enumerate([(53, 75), (33, 49)]):
        clear = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
        write(tmp_path / "clear" / f"{seed}.png", clear)
    return tmp_path / "clear"


def pixels(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(PIL.Image.open(file))).permute(2, 0, 1).float() / 255


def test_noise_of_the_denoising_papers_is_added_to_the_whole_picture_and_not_clipped(clear_set: Path) -> None:
    restorer = Seer(task="denoise")
    report = evaluate(restorer, clear_set, sigmas=(50,), profile="irconstyle")
    noise = np.random.RandomState(0).normal(0, 50 / 255, (53, 75, 3)).astype(np.float32)
    expected = pixels(clear_set / "0.png") + torch.from_numpy(noise).permute(2, 0, 1)
    torch.testing.assert_close(restorer.seen[0], expected)
    assert expected.min() < 0
    assert "not clipped" in report.rule


def test_all_in_one_crops_around_the_centre_then_adds_noise_that_is_clipped_and_cut_off(
    clear_set: Path,
) -> None:
    restorer = Seer(task="denoise")
    report = evaluate(restorer, clear_set, sigmas=(15, 50), profile="all_in_one")
    levels = np.asarray(PIL.Image.open(clear_set / "0.png"))[2:50, 5:69]  # 53 is 48 + 5, 75 is 64 + 11
    noise = np.random.RandomState(0).normal(0, 50, (48, 64, 3))
    noisy = np.clip(levels + noise, 0, 255).astype(np.uint8)
    torch.testing.assert_close(restorer.seen[2], torch.from_numpy(noisy).permute(2, 0, 1).float() / 255)
    assert [tuple(x.shape) for x in restorer.seen] == [(3, 48, 64), (3, 32, 48)] * 2
    assert list(report.table.groups()) == ["sigma 15", "sigma 50"]
    assert report.rule.endswith("clipped and cut to 8 bit; cropped around the centre to multiples of 16")
    mse = np.square(noisy / 255 - levels / 255).mean()
    assert report.table.rows[2].psnr == pytest.approx(-10 * np.log10(mse), abs=1e-4)


def test_all_in_one_refuses_what_is_smaller_than_its_crop(clear_set: Path) -> None:
    write(clear_set / "tiny.png", np.zeros((15, 40, 3), np.uint8))
    with pytest.raises(DataError, match="a picture of 40x15 is too small to be cropped to multiples of 16"):
        evaluate(Seer(task="denoise"), clear_set, profile="all_in_one")


def test_padding_is_mirrored_to_the_networks_multiple_restored_and_scored(clear_set: Path) -> None:
    restorer = Seer(task="denoise")
    padded = evaluate(restorer, clear_set, sigmas=(25,), profile="irconstyle_padded")
    plain = evaluate(Seer(task="denoise"), clear_set, sigmas=(25,), profile="irconstyle")
    assert [tuple(x.shape) for x in restorer.seen] == [(3, 56, 80), (3, 40, 56)]  # of nafnet_small's 8
    assert torch.equal(restorer.seen[0][:, 53], restorer.seen[0][:, 51])  # the edge itself is not repeated
    assert padded.rule.endswith("not clipped; padded by reflection to multiples of 8")
    clear, noisy = (np.pad(x, ((0, 0), (0, 3), (0, 5)), mode="reflect") for x in noisy_pair(clear_set))
    expected = score("rgb", torch.from_numpy(noisy), torch.from_numpy(clear))
    assert padded.table.rows[0].psnr == pytest.approx(expected.psnr, abs=1e-9)
    assert padded.table.rows[0].ssim == pytest.approx(expected.ssim, abs=1e-9)
    assert padded.table.rows[0].psnr != plain.table.rows[0].psnr
    wide = evaluate(
        Seer(task="denoise", model="nafnet"), clear_set, sigmas=(25,), profile="irconstyle_padded"
    )
    assert wide.rule.endswith(
        "multiples of 8"
    )  # the release's loader does not ask that network, which needs 16
    luma = evaluate(Seer(task="denoise"), clear_set, sigmas=(25,), profile="irconstyle_padded_y")
    assert luma.table.rows[0].psnr == pytest.approx(
        score("y", torch.from_numpy(noisy), torch.from_numpy(clear)).psnr, abs=1e-9
    )


def noisy_pair(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    clear = pixels(folder / "0.png")
    noise = np.random.RandomState(0).normal(0, 25 / 255, (53, 75, 3)).astype(np.float32)
    return clear.numpy(), (clear + torch.from_numpy(noise).permute(2, 0, 1)).numpy()


@pytest.mark.parametrize("profile", ["all_in_one", "irconstyle_padded"])
def test_pairs_and_their_depth_are_cropped_or_padded_alike(hazy_set: Path, profile: str) -> None:
    depth, known = read_depth(hazy_set / "test" / "depth" / "1400.png")
    if profile == "all_in_one":  # 30x40 to 16x32
        depth, known = depth[:, 7:23, 4:36], known[:, 7:23, 4:36]
        disparity = 1 / depth
    else:  # 30x40 to 32x40
        disparity = torch.nn.functional.pad(1 / depth[None], (0, 0, 0, 2), mode="reflect")[0]
    disparity = disparity + torch.linspace(0, 1, disparity.shape[2])
    report = evaluate(Seer(disparity), hazy_set, profile=profile)
    assert report.profile == profile
    assert report.depth is not None
    expected = depth_scores(disparity[:, : depth.shape[1], : depth.shape[2]], depth, known)
    assert report.depth.abs_rel == pytest.approx(expected.abs_rel, abs=1e-6)


def test_one_evaluation_has_one_profile(clear_set: Path) -> None:
    with pytest.raises(UsageError, match="unknown profile 'irconstyle,all_in_one'"):
        evaluate(Seer(task="denoise"), clear_set, profile="irconstyle,all_in_one")


# Two cameras -----------------------------------------------------------------------------------------------------


class Averaging(nn.Module):
    """Fuses to the plain average of the lumas."""

    def forward(self, visible: torch.Tensor, infrared: torch.Tensor) -> torch.Tensor:
        return (visible + infrared) / 2


@pytest.fixture
def night() -> NightRestorer:
    """Cleans nothing, and fuses to the average."""
    net = fusionnet_small()
    net.dense = Averaging()  # type: ignore[assignment]
    return NightRestorer(
        net, Seer(task="derain"), model="fusionnet_small", sha256="1" * 64, device="cpu", precision="fp32"
    )


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    """Two grey scenes with rain that is a bright veil, and their infrared pictures."""
    random = np.random.default_rng(0)
    for name in ("000", "001"):
        coarse = random.integers(40, 200, (6, 8)).astype(np.uint8)
        clear = np.kron(coarse, np.ones((8, 8), np.uint8))
        for folder, values in (
            ("Vis/target", np.dstack([clear] * 3)),
            ("Vis/input", np.dstack([clear] * 3) + 30),
            ("Inf/input", 240 - clear),
        ):
            write(tmp_path / "test" / folder / f"{name}.png", values)
    return tmp_path


def test_night_scores_the_cleaned_picture_and_the_fused_one_apart(
    night: NightRestorer, two_cameras: Path
) -> None:
    report = evaluate(night, two_cameras)
    assert report.profile == "nitedr"
    overall = report.table.overall()
    assert (overall.psnr, overall.ssim) == (overall.input_psnr, overall.input_ssim)  # nothing was cleaned
    assert report.fusion is not None
    assert report.fusion.count == 2
    assert report.fusion.fused == pytest.approx(report.fusion.average, rel=0.02)  # rounded differently
    assert report.as_dict()["fusion"]["fused"]["qabf"] == report.fusion.fused.qabf


def test_night_of_a_set_without_clear_pictures_says_so(night: NightRestorer, two_cameras: Path) -> None:
    for file in (two_cameras / "test/Vis/target").iterdir():
        file.unlink()
    (two_cameras / "test/Vis/target").rmdir()
    report = evaluate(night, two_cameras)
    assert "the visible ones count as clear" in report.rule
    assert report.table.overall().psnr == np.inf
    assert report.fusion is not None


def test_night_names_the_infrared_picture_that_cannot_be_scored(
    night: NightRestorer, two_cameras: Path
) -> None:
    write(two_cameras / "test/Inf/input/001.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(DataError, match=r"001\.png: is the same value everywhere.* nothing to score"):
        evaluate(night, two_cameras)


def test_night_prints_ours_beside_the_average_and_the_papers(
    night: NightRestorer, two_cameras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_, **__: night)
    done = CliRunner().invoke(cli.app, ["evaluate", "--task", "night", "--data", str(two_cameras)])
    assert done.exit_code == 0
    lines = {line[:15].strip(): line[16:].split() for line in done.stdout.splitlines()[-3:]}
    assert list(lines) == ["ours", "plain average", "paper's NiteDR"]
    assert all(len(values) == 11 for values in lines.values())
    assert lines["paper's NiteDR"][-1] == "0.4597"
