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
        ("steps.x=1", "nothing named 'x' inside a plain value"),
        ("precision=fp8", "--set precision='fp8'"),
        ("sources=[]", "nothing to train on"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(config(), [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
