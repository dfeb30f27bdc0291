"""Training of what weighs a judge's evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import fairweather as fw
from fairweather.data.findings import Judged
from fairweather.errors import UsageError
from fairweather.loading import witness_digests
from fairweather.models.evidence import EVIDENCE
from fairweather.models.judge import FINDINGS, Judge, Weigher
from fairweather.training import RECIPES, judge
from fairweather.training.config import override
from fairweather.training.judge import Gathered, WeighingTraining, gather
from fairweather.training.train import train
from fairweather.weights import WEIGHTS, read_weights


class Pictures(Dataset[Judged]):
    """Noise of growing strength; it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Judged:
        self.asked.append(index)
        noise = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(index))
        return Judged(0.4 + 0.1 * index * noise, torch.eye(len(FINDINGS))[index])


def test_gathering_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "KEEP_EVERY", 2)
    net, pictures = Judge(far=2, near=2), Pictures()
    whole = gather(net, pictures, 4, tmp_path / "whole.safetensors", half=True)
    assert [values.shape for values in whole] == [(4, len(FINDINGS)), (4, EVIDENCE), (4, len(FINDINGS))]
    gather(net, pictures, 2, tmp_path / "killed.safetensors", half=True)
    pictures.asked.clear()
    resumed = gather(net, pictures, 4, tmp_path / "killed.safetensors", half=True)
    assert pictures.asked == [2, 3]
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)
    assert net.training


def test_evidence_is_seen_in_either_precision(tmp_path: Path) -> None:
    net = Judge(far=2, near=2)
    full = gather(net, Pictures(), 3, tmp_path / "full.safetensors").evidence
    mixed = gather(net, Pictures(), 3, tmp_path / "mixed.safetensors", half=True).evidence
    assert torch.equal(full[0], mixed[0])
    assert not torch.equal(full[1], mixed[1])
    assert float((full[1:] - mixed[1:]).abs().max()) < 5


def test_items_are_drawn_by_seed_and_number_alone() -> None:
    numbers = torch.arange(50.0)
    seen = Gathered(judge.Seen(numbers, numbers, numbers), seed=3)
    again = Gathered(judge.Seen(numbers, numbers, numbers), seed=3)
    drawn = [int(seen[i].looks) for i in range(40)]
    assert drawn == [int(again[i].looks) for i in reversed(range(40))][::-1]
    assert len(set(drawn)) > 15
    assert [int(x.looks) for x in (Gathered(seen.seen)[i] for i in range(50))] == list(range(50))


def test_numbers_far_from_what_was_learnt_count_no_more_than_four_deviations() -> None:
    weigher = Weigher(3, 2).eval()
    weigher.learn_scales(torch.tensor([[0.0, 10, 5], [2, 30, 5]]))

    def at(x: float) -> Tensor:
        return weigher(torch.tensor([[x, 20.0, 5.0]]))

    far = 1 + 4 * 2**0.5
    assert not torch.equal(at(1.0), at(far))
    assert torch.equal(at(far + 0.1), at(1e6))


def test_a_judge_that_is_too_sure_is_calibrated_and_decides_as_before() -> None:
    judge = Judge(far=2, near=2)
    generator = torch.Generator().manual_seed(0)
    fair = 2 * torch.randn(4000, len(FINDINGS), generator=generator)
    findings = (torch.rand(fair.shape, generator=generator) < fair.sigmoid()).float()
    too_sure = fair * torch.tensor([1.0, 1.5, 1 / 1.5, 1.2, 8])  # of the last, more than is put right
    judge.calibrate(too_sure, findings)
    assert torch.allclose(judge.temperature, torch.tensor([1, 1.5, 1 / 1.5, 1.2, 2]), rtol=0.06)
    looks, evidence = torch.randn(20, len(FINDINGS)), torch.randn(20, EVIDENCE)
    judge.eval()
    said = judge.weigh(looks, evidence)
    judge.temperature.fill_(1)
    plain = judge.weigh(looks, evidence)
    assert torch.equal(said > 0, plain > 0)
    assert not torch.allclose(said, plain)


def test_the_average_is_calibrated_on_what_is_held_back_and_chosen_by_what_it_said_before() -> None:
    net = Judge(far=2, near=2)
    net.temperature.fill_(2)  # as of weights that were calibrated
    training = WeighingTraining(net, RECIPES["judge_evidence"]()).eval()
    scores: dict[str, list[Tensor]] = {}
    training.log = lambda name, value, **_: scores.setdefault(name, []).append(value)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    looks = 4 * torch.randn(60, 1, len(FINDINGS), generator=generator)
    findings = (torch.rand(looks.shape, generator=generator) < (looks / 2).sigmoid()).float()
    evidence = torch.zeros(60, 1, EVIDENCE)
    for _ in range(2):  # the second time it has a temperature of its own
        training.on_validation_epoch_start()
        for batch in zip(looks, evidence, findings, strict=True):
            training.validation_step(batch, 0)
        training.on_validation_epoch_end()
    first, second = torch.stack(scores["val/score"]).view(2, 60)
    assert torch.equal(first, second)
    averaged = training.average.module.temperature
    assert 1.5 < float(averaged[0]) <= 2  # haze by looks, which are twice too sure
    assert float(net.temperature[0]) == 1  # what is trained


@pytest.mark.parametrize("settings", [["task=denoise", "model=nafnet_tiny"], ["devices=2"]])
def test_evidence_is_for_a_judge_in_one_process(settings: list[str]) -> None:
    with pytest.raises(UsageError, match=r"evidence=8000 is for a judge .* set it to 0"):
        override(RECIPES["judge_evidence"](), settings)


def test_a_run_on_evidence_keeps_the_looks_and_says_whose_evidence_it_weighs(
    data: Path, tmp_path: Path
) -> None:
    shipped = next(entry.path for entry in WEIGHTS if entry.task == "auto")
    settings = [
        f"data_root={data}",
        f"init={shipped}",
        'validation=[{"path": "bsds500/val", "degradation": "noise"}]',
        "evidence=5",
        "patch=16",
        "batch=4",
        "steps=6",
        "warmup=1",
        "validate_every=3",
    ]
    run = tmp_path / "run"
    published = train(override(RECIPES["judge_evidence"](), settings), run, progress=False)
    assert {file.stem for file in run.glob("*.safetensors")} == {
        "evidence",
        "evidence_held_back",
        "weights",
    }
    before, (after, metadata) = read_weights(shipped)[0], read_weights(published)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} <= {"weigher", "temperature"}
    assert json.loads(metadata["witnesses"]) == witness_digests()
    result = fw.load(str(published)).restore(torch.rand(3, 40, 48))
    assert result.image.shape == (3, 40, 48)
