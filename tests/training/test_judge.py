"""Training of what weighs a judge's evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fairweather.data.findings import Judged
from fairweather.errors import UsageError
from fairweather.models.evidence import EVIDENCE
from fairweather.models.judge import FINDINGS, Judge, Weigher
from fairweather.training import RECIPES, judge
from fairweather.training.config import override
from fairweather.training.judge import Gathered, gather


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


@pytest.mark.parametrize("settings", [["task=denoise", "model=nafnet_tiny"], ["devices=2"]])
def test_evidence_is_for_a_judge_in_one_process(settings: list[str]) -> None:
    with pytest.raises(UsageError, match=r"evidence=8000 is for a judge .* set it to 0"):
        override(RECIPES["judge_evidence"](), settings)
