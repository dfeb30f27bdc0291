"""The weights table: every file is there, whole, small, and refused when damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from fairweather.errors import WeightsError
from fairweather.loading import witness_digests
from fairweather.models import MODELS, create_model
from fairweather.weights import FOLDER, WEIGHTS, Weights, checked, read_weights, save_weights, sha256


@pytest.mark.parametrize("entry", WEIGHTS, ids=lambda w: f"{w.model}-{w.task}")
def test_a_shipped_file_is_what_the_table_says(entry: Weights) -> None:
    assert sha256(entry.path) == entry.sha256
    assert entry.path.stat().st_size <= 8_000_000
    assert entry.task in MODELS[entry.model].task
    _, metadata = read_weights(entry.path, model=entry.model)
    assert (metadata["task"], metadata["recipe"]) == (entry.task, entry.recipe)
    assert (entry.path.with_suffix(".md")).read_text().startswith(f"# {entry.model} for {entry.task}")
    assert create_model(entry.model, weights=entry.task)


def test_all_shipped_files_are_in_the_table_and_together_small() -> None:
    files = set(FOLDER.glob("*.safetensors"))
    assert files == {entry.path for entry in WEIGHTS}
    assert sum(f.stat().st_size for f in files) <= 30_000_000


def test_every_entry_has_scores() -> None:
    for entry in WEIGHTS:
        assert entry.scores, f"{entry.model} {entry.task} has no measured score"


def test_the_judge_weighs_what_the_shipped_restorers_would_change() -> None:
    """Other weights change pictures in other ways: train judge_evidence again."""
    judge = next(entry for entry in WEIGHTS if entry.task == "auto")
    assert json.loads(read_weights(judge.path)[1]["witnesses"]) == witness_digests()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_weights({"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}, path, {"model": "nafnet"})
    return path


def test_weights_come_back_as_float32_and_integers_as_they_were(file: Path) -> None:
    tensors, metadata = read_weights(file)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["a"].dtype == torch.float32
    assert tensors["n"].dtype == torch.int64
    assert metadata == {"model": "nafnet"}


def test_a_truncated_file_is_refused_at_every_length(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"is not a whole \.safetensors file"):
            read_weights(file)


def test_a_pickle_never_runs(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    file = tmp_path / "bad.safetensors"
    file.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(WeightsError):
        read_weights(file)
    assert not (tmp_path / "ran").exists()


def test_another_model_and_a_missing_file_are_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds weights of nafnet, not of maxim"):
        read_weights(file, model="maxim")
    with pytest.raises(WeightsError, match="no weights at"):
        read_weights(tmp_path / "none.safetensors")


def test_every_flipped_byte_of_a_shipped_file_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = WEIGHTS[0]
    whole = bytearray(entry.path.read_bytes())
    monkeypatch.setattr("fairweather.weights.FOLDER", tmp_path)
    for position in range(0, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        entry.path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="is damaged"):
            checked(entry)
