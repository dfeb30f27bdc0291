"""Pictures with what ails them: named by their source, and only where it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator

from fairweather.data.findings import AILMENTS, JudgedPatches, JudgedPictures, ailment_of, findings_of, judged
from fairweather.data.patches import Clear, Pairs, Sample, Scenes
from fairweather.data.random_degradations import DEGRADATIONS
from fairweather.images import Picture, write_picture
from fairweather.models.judge import FINDINGS

NOTHING = torch.zeros(1, 8, 8)


def found(sample: Sample, ailment: str, second: str = "") -> set[str]:
    picture, findings = judged(sample, ailment, second, Generator().manual_seed(0))
    assert picture.mul(255).sub(picture.mul(255).round()).abs().max() < 1e-3  # as a file holds it
    return {name for name, there in zip(FINDINGS, findings.tolist(), strict=True) if there > 0.5}


def test_rain_over_a_dark_scene_is_rain_at_night() -> None:
    for light, name in ((0.6, "rain"), (0.1, "night rain")):
        target = torch.full((3, 8, 8), light)
        assert found(Sample(target + 0.2, target, NOTHING), "rain") == {name}


def test_what_does_not_show_is_no_finding() -> None:
    target = torch.full((3, 8, 8), 0.5)
    assert found(Sample(target + 0.1, target, NOTHING), "haze") == {"haze"}
    assert found(Sample(target + 0.005, target, NOTHING), "haze") == set()


def test_at_dusk_rain_is_a_little_of_both() -> None:
    found = findings_of("rain", light=0.25, apart=20.0)
    assert found == pytest.approx({"rain": 0.5, "night rain": 0.5})


def test_a_second_degradation_is_found_beside_the_first() -> None:
    target = torch.rand(3, 40, 40, generator=Generator().manual_seed(1))
    both = found(Sample(target * 0.5 + 0.4, target, torch.zeros(1, 40, 40)), "haze", "noise")
    assert both == {"haze", "noise"}
    assert found(Sample(target, target, torch.zeros(1, 40, 40)), "", "noise") == {"noise"}


def test_every_ailment_is_a_finding_of_a_degradation_that_there_is() -> None:
    assert AILMENTS.keys() <= DEGRADATIONS.keys()
    assert set(AILMENTS.values()) <= set(FINDINGS)


def test_a_source_says_what_ails_its_pictures() -> None:
    here = Path("x")
    assert ailment_of(Clear(path=here, degradation="shake")) == "blur"
    assert ailment_of(Clear(path=here, degradation="none")) == ""
    assert ailment_of(Pairs(path=here, ailment="rain")) == "rain"
    assert ailment_of(Scenes(path=here)) == "haze"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(3):
        picture = torch.rand(3, 60, 60, generator=Generator().manual_seed(i))
        write_picture(Picture(pixels=picture), tmp_path / f"clear/{i}.png")
    return tmp_path


def test_a_patch_is_a_function_of_its_number_and_some_have_two_ailments(root: Path) -> None:
    sources = [Clear(path=Path("clear"), degradation=name) for name in ("noise", "haze", "none")]
    first, again = (JudgedPatches(sources, root=root, size=48, seed=2) for _ in range(2))
    patches = [first[i] for i in range(60)]
    assert all(torch.equal(patches[i].picture, again[i].picture) for i in (59, 7))
    counts = {int((patch.findings > 0.5).sum()) for patch in patches}
    assert counts == {0, 1, 2}


def test_validation_pictures_are_whole_and_the_same_each_time(root: Path) -> None:
    pictures = JudgedPictures([Clear(path=Path("clear"), degradation="noise")], root=root)
    assert len(pictures) == 3
    assert pictures[1].picture.shape == (3, 60, 60)
    assert torch.equal(pictures[1].picture, pictures[1].picture)
