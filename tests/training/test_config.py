"""Configurations: overrides by key, errors in the flag's own words, round trips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairweather.data.patches import Pairs
from fairweather.errors import UsageError
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig, from_plain, override, to_plain


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_names_itself_and_survives_json(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def config() -> TrainConfig:
    return RECIPES["derain_small"]()


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    changed = override(
        config(),
        [
            "steps=1000",
            "learning_rate=5e-4",
            "data_root=some/where",
            "sources.0.weight=2",
            "betas=[0.9,0.999]",
        ],
    )
    assert (changed.steps, changed.learning_rate, changed.data_root) == (1000, 5e-4, Path("some/where"))
    assert changed.sources[0].weight == 2.0
    assert isinstance(changed.sources[0], Pairs)
    assert changed.betas == (0.9, 0.999)
    assert changed.sources[1:] == config().sources[1:]


def test_constructor_arguments_can_be_added() -> None:
    assert override(config(), ["model_args.width=8"]).model_args == {"width": 8}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "expected key=value"),
        ("stepz=3", "unknown setting 'stepz'; did you mean 'steps'"),
        ("steps=many", "--set steps='many': input should be a valid integer"),
        ("steps=10", "steps=10 must be more than warmup=100"),
        ("batch=0", "batch=0 must be 1 or more"),
        ("sources.9.weight=1", "'9' is not an item, expected 0 to"),
        (
            "contrast.normalize=true",
            "contrast is null in this recipe, so nothing is inside; set contrast itself",
        ),
        ("steps.x=1", "nothing named 'x' inside a plain value"),
        ("precision=fp8", "--set precision='fp8'"),
        ("sources=[]", "nothing to train on"),
        ("betas=[2, 2]", "betas=[2.0, 2.0] must be at least 0 and less than 1, each"),
        ("learning_rate=NaN", "learning_rate=nan must be more than 0"),
        ("clip_norm=NaN", "clip_norm=nan must be a number of 0 or more"),
        ("edges=2", "edges=2.0 must be at least 0 and at most 1"),
        ("psnr_ceiling=-5", "psnr_ceiling=-5.0 must be more than 0"),
        ("sources.0.weight=-1", "must be a number of 0 or more"),
        ("sources.0.tones=NaN", "tones=nan of the source"),
        (
            'sources=[{"path": "x", "degradation": "haze", "weight": 0}]',
            "the weights of all sources are 0: there is nothing to train on",
        ),
        (
            'sources=[{"path": "x", "ranges": "wide", "strange": 2}]',
            "strange=2.0 of the source x must be at least 0 and at most 1",
        ),
        (
            'sources=[{"path": "x", "degradation": "haze", "blacks": 1.5}]',
            "blacks=1.5 of the source x must be at least 0 and at most 1",
        ),
        (
            'validation=[{"path": "x", "degradation": "haze", "blacks": 1}]',
            "blacks=1.0 of the source x would do nothing: validation takes every picture, as it is; leave it out",
        ),
        ('validation=[{"path": "x", "weight": 2}]', "weight=2.0 of the source x would do nothing"),
        (
            'validation=[{"path": "x", "augment": "mirror"}]',
            "augment=mirror of the source x would do nothing",
        ),
        ("seed=-1", "seed=-1 must be at least 0"),
        ("task=dance", "unknown task 'dance'"),
        ("sources=[3]", "sources.0"),
        ("model_args.widht.x=3", "unknown setting 'widht'"),
        ("sources.²=3", "'²' is not an item, expected 0 to"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(config(), [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("judge_small", "progressive=[[1000, 64, 16]]"),
        ("judge_evidence", "zoom=[0.5, 1]"),
        ("judge_small", "edges=0.3"),
        ("judge_start", "fft=0.1"),
        ("judge_start", "psnr_ceiling=40"),
        ("fusion_small", "loss=psnr"),
        ("constyle_pretrain", "fft=0.1"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(recipe: str, setting: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^{setting.partition('=')[0]}=.* would do nothing: .* leave it out$"
    ):
        override(RECIPES[recipe](), [setting])
