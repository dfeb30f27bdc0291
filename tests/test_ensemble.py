"""Self-ensemble: what orientations are seen, that they come back upright, and where it is offered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tiny import Call
from torch import Tensor, nn

import fairweather as fw
from fairweather import exporting
from fairweather.backends import Exported
from fairweather.cli import main
from fairweather.ensemble import COUNTS, ORIENTATIONS, ensembled, turned
from fairweather.errors import UsageError
from fairweather.models.layers import over_picture
from fairweather.pipeline import Restorer


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def restorer_of(net: nn.Module, *, ensemble: int, model: str = "nafnet_tiny") -> Restorer:
    return Restorer(
        net, model=model, task="denoise", sha256="", device="cpu", precision="fp32", ensemble=ensemble
    )


@pytest.mark.parametrize("count", COUNTS)
def test_every_orientation_is_another_and_comes_back_upright(count: int) -> None:
    seen: list[Tensor] = []

    def same(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    x = noise(1, 3, 4, 6)
    torch.testing.assert_close(ensembled(same, x, count=count), x)
    assert len({(y.shape, tuple(y.flatten().tolist())) for y in seen}) == count == len(seen)
    assert [y.shape == x.shape for y in seen] == [number < 4 for number in range(count)]


@pytest.mark.parametrize(("turns", "mirrored"), ORIENTATIONS)
def test_orientations_are_quarter_turns_then_a_mirror(turns: int, mirrored: bool) -> None:
    x = noise(3, 4, 6)
    expected = np.rot90(x.numpy(), turns, axes=(1, 2))
    expected = expected[:, :, ::-1] if mirrored else expected
    assert np.array_equal(turned(x, turns, mirrored).numpy(), expected)


def test_one_orientation_is_the_network_itself() -> None:
    net = fw.create_model("nafnet_tiny")
    x = noise(3, 33, 50)
    alone, once = (
        Restorer(net, model="nafnet_tiny", task="denoise", sha256="", device="cpu", precision="fp32"),
        restorer_of(net, ensemble=1),
    )
    assert torch.equal(alone.restore(x).image, once.restore(x).image)
    assert alone.restore(x).ensemble == 1


@pytest.mark.parametrize("count", [2, 8])
def test_the_result_is_the_mean_of_those_of_turned_pictures(count: int) -> None:
    torch.manual_seed(0)
    net = fw.create_model("nafnet_tiny")
    x = 0.4 + 0.2 * noise(3, 32, 48)  # nothing is clamped
    one, result = restorer_of(net, ensemble=1), restorer_of(net, ensemble=count).restore(x)
    assert result.ensemble == count

    def restored(batch: Tensor) -> Tensor:
        return one.restore(batch).image

    torch.testing.assert_close(result.image, ensembled(restored, x[None], count=count)[0])
    assert not torch.allclose(result.image, restored(x), atol=1e-4)


def test_what_tiles_share_is_that_of_their_orientation() -> None:
    def from_the_left(x: Tensor) -> Tensor:
        (mean,) = over_picture(lambda: (x[..., : x.shape[-1] // 2].mean(),))
        return mean.expand_as(x)

    picture = torch.zeros(3, 128, 512)
    picture[..., 256:] = 0.5
    for count, expected in ((1, 0.0), (2, 0.25), (4, 0.25)):
        tiled = restorer_of(Call(from_the_left), ensemble=count, model="dcmpnet").restore(picture, tile=256)
        assert tiled.tiles > 1
        torch.testing.assert_close(tiled.image, torch.full_like(picture, expected), rtol=0, atol=0.01)


def test_exported_networks_and_bf16_average_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = fw.create_model("nafnet_tiny")
    facts = exporting.facts_of(net, model="nafnet_tiny", task="denoise", sha256="")
    halves: list[bool] = []

    def run(inputs: list[np.ndarray], half: bool) -> np.ndarray:
        halves.append(half)
        with torch.no_grad():
            return np.asarray(net(torch.from_numpy(inputs[0])))

    x = noise(3, 32, 48)
    exported = Restorer(
        net,
        model="nafnet_tiny",
        task="denoise",
        sha256="",
        device="cpu",
        precision="bf16",
        exported=Exported(tmp_path, "onnx", facts, run),
        ensemble=4,
    )
    expected = restorer_of(net, ensemble=4).restore(x).image
    torch.testing.assert_close(exported.restore(x).image, expected, rtol=0, atol=1e-5)
    assert halves == [False] * 4 + [True] * 4


@pytest.mark.parametrize("task", ["auto", "night", "dehaze"])
def test_what_is_not_one_network_at_full_size_takes_none(task: str) -> None:
    with pytest.raises(UsageError, match="takes no ensemble"):
        fw.load(task, ensemble=2)


def test_another_count_is_refused() -> None:
    with pytest.raises(UsageError, match="ensemble is 3, expected one of 1, 2, 4, 8"):
        fw.load("denoise", ensemble=3)


def test_the_commands_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clear").mkdir()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save("clear/a.png")

    def command(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["fairweather", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        told = capfd.readouterr()
        return told.out + told.err

    assert "nafnet_small in 2 orientations on cpu" in command("denoise", "clear/a.png", "--ensemble", "2")
    again = ["denoise", "clear/a.png", "--ensemble", "4", "--existing", "overwrite", "--json"]
    assert json.loads(command(*again).splitlines()[0])["ensemble"] == 4
    options = ["--data", "clear", "--task", "denoise", "--sigma", "25", "--json", "scores.json"]
    assert "mean over 2 orientations" in command("evaluate", *options, "--ensemble", "2")
    assert json.loads(Path("scores.json").read_text())["ensemble"] == 2
