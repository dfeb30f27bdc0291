"""Training of FusionNet: it learns, from pictures that were cleaned once, and publishes a network that loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

import fairweather as fw
from fairweather.errors import UsageError
from fairweather.images import Picture, write_picture
from fairweather.losses.fusion import fusion_terms, refinement_terms, source_weights
from fairweather.night import NightRestorer
from fairweather.training import RECIPES, nitedr
from fairweather.training.config import TrainConfig, override
from fairweather.training.train import saved_config, train

TINY = ['model_args={"width": 4, "num_layers": 1, "exit_widths": [4]}', "patch=16", "batch=2", "device=cpu"]


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As RoadScene-rain, with enough pictures for what the recipes hold back."""
    root = tmp_path_factory.mktemp("cameras")
    generator = torch.Generator().manual_seed(0)
    for i in range(66):
        for folder in ("Vis/input", "Vis/target", "Inf/input"):
            pixels = torch.rand(3, 24, 32, generator=generator)
            pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1) if folder == "Inf/input" else pixels
            write_picture(Picture(pixels=pixels), root / "roadscene_rain/train" / folder / f"{i:03}.png")
    return root


def recipe(root: Path, *settings: str, name: str = "fusion_small") -> TrainConfig:
    return override(RECIPES[name](), [f"data_root={root}", "fusion.cleaner=none", *TINY, *settings])


def test_a_run_publishes_a_network_that_fuses(two_cameras: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = recipe(two_cameras, "steps=4", "warmup=1", "validate_every=2", "checkpoint_every=2")
    weights = train(config, run, progress=False)
    night = fw.load(str(weights))
    assert isinstance(night, NightRestorer)
    assert night.net.dense.entry[0].out_channels == 4
    assert saved_config(run).fusion == config.fusion
    start = fw.create_model("fusionnet_small", **config.model_args)
    moved = {k for k, v in night.net.state_dict().items() if not torch.equal(v, start.state_dict()[k])}
    assert any(k.startswith("dense.") for k in moved)
    assert any(k.startswith("refinement.adjust.") for k in moved)


def test_losses_are_not_computed_in_the_precision_of_the_network(
    two_cameras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 the variances of SSIM are differences of equal numbers, and the loss is noise."""
    seen: list[bool] = []
    terms = nitedr.fusion_terms

    def watched(*pictures: Any, **options: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return terms(*pictures, **options)

    monkeypatch.setattr(nitedr, "fusion_terms", watched)
    config = recipe(two_cameras)
    module = nitedr.FusionTraining(fw.create_model("fusionnet_small", **config.model_args), config)
    pictures = torch.rand(2, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        monkeypatch.setattr(module, "_descend", lambda *_: None)
        monkeypatch.setattr(module, "note", lambda *_: None)
        monkeypatch.setattr(module, "optimizers", lambda: [MagicMock(), MagicMock()])
        module.cascade(pictures[0], pictures[1], last=True)
    assert seen == [False]


def test_visible_pictures_are_cleaned_by_the_named_weights_once(
    two_cameras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(
        two_cameras, "fusion.cleaner=derain", "sources.0.keep=[[0, 1]]", "validation.0.keep=[[2, 3]]"
    )
    asked: list[str] = []
    load = nitedr.load

    def counted(name: str) -> Any:
        restorer = load(name)
        restore = restorer.restore

        def restored(picture: Any, **options: Any) -> Any:
            asked.append(name)
            return restore(picture, **options)

        monkeypatch.setattr(restorer, "restore", restored)
        return restorer

    monkeypatch.setattr(nitedr, "load", counted)
    first = nitedr.fused_sources(config.sources, config)
    assert asked == ["derain"] * 66
    assert nitedr.fused_sources(config.validation, config)[0].path == first[0].path
    assert asked == ["derain"] * 66
    assert first[0].keep == ((0, 1),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["fusion.measure=vgg"], "needs VGG-16: set fusion.vgg"),
        (["fusion.c=0"], "fusion.c=0.0 must be more than 0"),
        (["fusion.edges=-1"], "fusion.edges=-1.0 must be a number of 0 or more"),
        (["model=nafnet_tiny", "model_args={}"], "model=nafnet_tiny is none; take fusionnet_small"),
        (["model_args.adjust=false"], "training needs AdjustModule"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    two_cameras: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(recipe(two_cameras, *settings), tmp_path / "run", progress=False)


# The losses ------------------------------------------------------------------------------------------------------


def test_the_richer_source_counts_more() -> None:
    rich, poor = torch.rand(2, 1, 32, 32), torch.full((2, 1, 32, 32), 0.5)
    weights = source_weights(rich, poor, c=0.002)
    assert (weights[:, 0] > 0.9).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_edges_are_right_where_the_steeper_source_is_copied() -> None:
    step = torch.zeros(1, 1, 32, 32)
    step[..., 16:] = 1
    flat, even = torch.zeros_like(step), torch.full((1, 2), 0.5)
    assert fusion_terms(step, step, flat, even).edges == 0
    assert fusion_terms(step, flat, step, even).edges == 0
    assert fusion_terms(flat, step, flat, even).edges > 0


def test_smoothing_per_pixel_lets_the_illumination_follow_edges() -> None:
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 1
    free = refinement_terms([step], [step], per_pixel=True).smoothness
    assert free < 1e-6 < refinement_terms([step], [step]).smoothness
    assert refinement_terms([torch.zeros_like(step)], [step], per_pixel=True).smoothness > 0.1
