"""Restoring without a task: what is sure is put right, in order; what is not is told and left alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from fairweather.auto import REMEDIES, SURE, AutoRestorer, done_about, steps_for, told
from fairweather.errors import FairweatherError, UsageError
from fairweather.loading import TASKS, load, witness_digests
from fairweather.models.evidence import WITNESSES
from fairweather.models.judge import FINDINGS, Judge, details
from fairweather.pipeline import Restorer
from fairweather.weights import save_weights


class Fixed(Judge):
    """A judge of one mind."""

    def __init__(self, **probabilities: float) -> None:
        super().__init__(far=1, near=1)
        self.logits = torch.tensor(
            [probabilities.get(name.replace(" ", "_"), 0.02) for name in FINDINGS]
        ).logit()

    def forward(self, x: Tensor, *, whole: int = 0) -> Tensor:
        return self.logits[None]

    def weigh(self, looks: Tensor, evidence: Tensor) -> Tensor:
        return looks


class Plus(nn.Module):
    """Adds a number to every pixel, so that the order of steps shows."""

    def __init__(self, number: float, factor: float = 1.0) -> None:
        super().__init__()
        self.number, self.factor = number, factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.number


NETS = {"denoise": Plus(0.1), "derain": Plus(0, 2), "dehaze": Plus(-0.05)}


def auto(judge: Judge, *, by_evidence: bool = True) -> tuple[AutoRestorer, list[str]]:
    """An automatic restorer with known networks, and the tasks that it has asked for so far."""
    asked: list[str] = []

    def restorer(task: str) -> Restorer:
        asked.append(task)
        return Restorer(NETS[task], model="nafnet_tiny", task=task, sha256="", device="cpu", precision="fp32")

    found = AutoRestorer(
        judge,
        model="judge_small",
        sha256="0" * 64,
        device="cpu",
        precision="fp32",
        restorer=restorer,
        by_evidence=by_evidence,
    )
    return found, asked


PICTURE = torch.full((3, 20, 30), 0.25)


def test_a_clear_picture_comes_back_as_it_is() -> None:
    restorer, _ = auto(Fixed())
    result = restorer.restore(PICTURE)
    assert torch.equal(result.image, PICTURE)
    assert result.steps == ()


def test_a_clear_jpeg_is_not_compressed_again() -> None:
    file = io.BytesIO()
    noisy = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    PIL.Image.fromarray(noisy).save(file, "JPEG", quality=80)
    clear, _ = auto(Fixed(noise=0.2))
    assert clear.restore(file.getvalue()).image == file.getvalue()
    noisy_one, _ = auto(Fixed(noise=0.9))
    assert noisy_one.restore(file.getvalue(), strength=0).image == file.getvalue()
    assert noisy_one.restore(file.getvalue()).image != file.getvalue()


def test_a_tile_that_is_none_is_refused_even_if_nothing_is_done() -> None:
    clear, _ = auto(Fixed())
    with pytest.raises(UsageError, match="tile is -3"):
        clear.restore(torch.rand(3, 32, 32), tile=-3)


def test_what_the_restorers_would_change_is_told_to_the_judge() -> None:
    class Listening(Fixed):
        def weigh(self, looks: Tensor, evidence: Tensor) -> Tensor:
            heard.append(evidence[0])
            return looks

    heard: list[Tensor] = []
    restorer, asked = auto(Listening())
    restorer.judge(PICTURE)
    restorer.judge(PICTURE)
    assert sorted(asked) == sorted(WITNESSES)  # each loaded once
    assert torch.equal(heard[0], heard[1])
    assert float(heard[0][0]) == pytest.approx(-20, abs=0.01)  # 0.1 is added by the denoiser
    assert float(heard[0][3]) == pytest.approx(2, abs=0.01)


def test_a_judge_that_was_not_trained_with_the_restorers_judges_by_looks(tmp_path: Path) -> None:
    restorer, asked = auto(Fixed(noise=0.9), by_evidence=False)
    assert restorer.judge(PICTURE)["noise"] == pytest.approx(0.9)
    assert asked == []

    judge = Judge(far=1, near=1)
    metadata = {"model": "judge_small", "model_args": json.dumps({"far": 1, "near": 1}), "task": "auto"}
    shipped = {"witnesses": json.dumps(witness_digests())}
    others = {"witnesses": json.dumps(witness_digests() | {"denoise": "0" * 64})}
    for more, expected in (({}, False), (others, False), (shipped, True)):
        save_weights(judge.state_dict(), tmp_path / "judge.safetensors", metadata | more)
        loaded = load("auto", model=tmp_path / "judge.safetensors")
        assert isinstance(loaded, AutoRestorer)
        assert loaded.by_evidence == expected


def test_a_batch_is_refused_in_words_that_fit() -> None:
    restorer, _ = auto(Fixed())
    with pytest.raises(UsageError, match=r"expected a float tensor \(3, h, w\), RGB"):
        restorer.restore(PICTURE[None])


def test_what_is_sure_is_done_in_order_and_once() -> None:
    restorer, asked = auto(Fixed(blur=0.9, rain=0.8, night_rain=0.7, noise=0.6, haze=0.4))
    result = restorer.restore(PICTURE)
    assert result.steps == ("denoise", "derain")  # blur is told, but nothing is done about it
    torch.testing.assert_close(result.image, (PICTURE + 0.1) * 2)
    restorer.restore(PICTURE)
    assert asked == ["denoise", "derain"]  # each loaded once


def test_strength_blends_the_whole_chain() -> None:
    restorer, _ = auto(Fixed(noise=0.9, rain=0.9))
    full = restorer.restore(PICTURE).image
    half = restorer.restore(PICTURE, strength=0.5).image
    torch.testing.assert_close(half, (full + PICTURE) / 2)
    with pytest.raises(UsageError, match=r"0 to 1\.5"):
        restorer.restore(PICTURE, strength=2)


def test_progress_counts_all_steps() -> None:
    restorer, _ = auto(Fixed(noise=0.9, rain=0.9))
    seen: list[tuple[int, int]] = []
    restorer.restore(PICTURE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_every_kind_of_picture_comes_back_as_its_kind() -> None:
    restorer, _ = auto(Fixed(noise=0.9))
    array = np.full((9, 7, 3), 60, np.uint8)
    assert restorer.restore(array).image.dtype == np.uint8
    assert restorer.restore(PIL.Image.fromarray(array)).image.size == (7, 9)
    assert restorer.judge(array).keys() == set(FINDINGS)


def test_every_finding_but_blur_has_a_remedy_that_has_weights() -> None:
    assert REMEDIES.keys() == set(FINDINGS) - {"blur"}
    assert set(REMEDIES.values()) <= TASKS.keys()
    for finding, task in REMEDIES.items():
        assert steps_for(dict.fromkeys(FINDINGS, 0.0) | {finding: SURE}) == (task,)


def test_what_is_unsure_is_told_and_not_done() -> None:
    findings = dict.fromkeys(FINDINGS, 0.01) | {"haze": 0.45}
    assert told(findings) == "haze 0.45 (unsure)"
    assert steps_for(findings) == ()
    assert done_about(findings, ()) == "left alone"


def test_a_judgement_that_is_not_finite_is_our_error() -> None:
    restorer, _ = auto(Fixed(noise=float("nan")))
    with pytest.raises(FairweatherError, match="not finite"):
        restorer.restore(PICTURE)


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (128, 128), (129, 300), (1000, 1500)])
def test_a_judge_takes_any_size(size: tuple[int, int]) -> None:
    net = Judge(far=2, near=2).eval()
    x = torch.rand(1, 3, *size)
    with torch.inference_mode():
        assert net(x).isfinite().all()
    assert all(piece.shape[-2] <= 128 and piece.shape[-1] <= 128 for piece in details(x))


def test_pictures_of_a_batch_are_judged_each_by_itself() -> None:
    net, x = Judge(far=2, near=2).eval(), torch.rand(3, 3, 150, 200)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), torch.cat([net(one[None]) for one in x]), atol=1e-5, rtol=0)
