"""The authors' checkpoints through `fairweather models convert`: what comes out is used as weights of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from cases import published
from safetensors import safe_open
from torch import Tensor

import fairweather as fw
from fairweather.converting import convert
from fairweather.errors import UsageError, WeightsError
from fairweather.models.constyle import ConStyle
from fairweather.training import RECIPES
from fairweather.training.config import override
from fairweather.training.train import network
from fairweather.weights import read_weights, sha256


@pytest.fixture(scope="module")
def uformer() -> dict[str, Tensor]:
    return published("irconstyle_uformer")


@pytest.fixture
def checkpoint(uformer: dict[str, Tensor], tmp_path: Path) -> Path:
    """As the authors save one."""
    torch.save({"params": {}, "params_ema": uformer}, tmp_path / "net_g.pth")
    return tmp_path / "net_g.pth"


def test_a_converted_checkpoint_is_the_published_network(
    checkpoint: Path, uformer: dict[str, Tensor], tmp_path: Path
) -> None:
    done = convert("constyle_uformer", [checkpoint], tmp_path / "ours.safetensors", task="derain")
    assert (done.model, done.task, done.params) == ("constyle_uformer", "derain", 4_142_893)
    assert done.sha256 == sha256(done.path)
    ours = fw.create_model("constyle_uformer", weights=done.path).state_dict()
    for name, tensor in fw.from_published("constyle_uformer", uformer).state_dict().items():
        assert torch.equal(ours[name], tensor), name
    restorer = fw.load("derain", model=done.path)
    assert (restorer.model, restorer.task, restorer.sha256) == ("constyle_uformer", "derain", done.sha256)
    with safe_open(done.path, framework="pt") as file:
        assert file.metadata()["published_sha256"] == sha256(checkpoint)


def test_block_counts_come_from_the_checkpoint(tmp_path: Path) -> None:
    blocks = {"encoder_blocks": (2, 0, 1, 1), "middle_blocks": 3, "decoder_blocks": (0, 2, 1, 1)}
    net = fw.create_model("nafnet_width32", **blocks)
    theirs = {
        re.sub(r"^(ups\.\d)\.", r"\1.0.", name.replace("middle", "middle_blks")).replace(
            "attention.conv", "sca.1"
        ): v
        for name, v in net.state_dict().items()
    }
    torch.save({"params": theirs}, tmp_path / "sidd.pth")
    done = convert("nafnet_width32", [tmp_path / "sidd.pth"], tmp_path / "sidd.safetensors", task="denoise")
    ours = fw.create_model("nafnet_width32", weights=done.path).state_dict()
    assert ours.keys() == net.state_dict().keys()
    assert all(torch.equal(ours[name], v) for name, v in net.state_dict().items())


def test_a_checkpoint_of_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"params": {"weight": torch.ones(1), "downs.0.weight": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="do not fit"):
        convert("nafnet_width32", [tmp_path / "other.pth"], task="denoise")


def test_two_files_become_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fusion_model": published("nitedr_fusion"), "epoch": 3}, "fusion.pth")
    torch.save({"refine_model": published("nitedr_refine"), "epoch": 7}, "refine.pth")
    done = convert("fusionnet", [Path("fusion.pth"), Path("refine.pth")])
    assert done.path == Path("fusionnet-night.safetensors")
    fw.create_model("fusionnet", weights=done.path)
    with safe_open(
        done.path, framework="pt"
    ) as file:  # this refinement is without what it has in training alone
        assert json.loads(file.metadata()["model_args"]) == {"adjust": False}
    with pytest.raises(
        WeightsError, match=r"fusion\.pth holds 'fusion_model', which the file before it held too"
    ):
        convert("fusionnet", [Path("fusion.pth"), Path("fusion.pth")])


def test_the_encoder_of_a_restorer_starts_a_training(
    checkpoint: Path, uformer: dict[str, Tensor], tmp_path: Path
) -> None:
    done = convert("constyle", [checkpoint], tmp_path / "encoder.safetensors")
    config = override(RECIPES["constyle_denoise"](), [f"init={done.path}", "model=constyle_uformer"])
    net = network(config)
    theirs = fw.from_published("constyle_uformer", uformer).state_dict()
    held = {k: v for k, v in net.state_dict().items() if k.startswith("constyle.")}
    assert held
    for name, tensor in held.items():
        assert torch.equal(tensor, theirs[name]), name
    with pytest.raises(WeightsError, match="is a ConStyle encoder alone, which restores nothing"):
        fw.load("derain", model=done.path)


def test_a_part_of_a_checkpoint_can_be_chosen(uformer: dict[str, Tensor], tmp_path: Path) -> None:
    raw = {k: torch.zeros_like(v) for k, v in uformer.items()}
    torch.save({"params": raw, "params_ema": uformer}, tmp_path / "both.pth")
    held = {}
    for part in (None, "params_ema", "params"):
        output = tmp_path / f"{part}.safetensors"
        convert("constyle_uformer", [tmp_path / "both.pth"], output, task="derain", part=part)
        held[part] = read_weights(output)[0]
    assert held[None].keys() == held["params"].keys()
    assert all(torch.equal(held[None][k], held["params_ema"][k]) for k in held[None])
    assert not any(v.any() for v in held["params"].values())
    with pytest.raises(WeightsError, match="no part 'ema'; it has params, params_ema"):
        convert(
            "constyle_uformer", [tmp_path / "both.pth"], tmp_path / "o.safetensors", task="derain", part="ema"
        )
    torch.save(uformer, tmp_path / "one.pth")
    with pytest.raises(WeightsError, match="no part 'params'; it is one set of weights; leave --part out"):
        convert(
            "constyle_uformer",
            [tmp_path / "one.pth"],
            tmp_path / "o.safetensors",
            task="derain",
            part="params",
        )


@pytest.mark.parametrize("prefix", ["encoder_q.", "ConStyle.encoder_q."])
def test_an_encoder_of_the_second_constyle_comes_without_its_classifier(prefix: str, tmp_path: Path) -> None:
    encoder = ConStyle()
    state = {prefix + k: v for k, v in encoder.state_dict().items()}
    for name, shape in (
        ("0.weight", (512, 256)),
        ("0.bias", (512,)),
        ("3.weight", (1000, 512)),
        ("3.bias", (1000,)),
    ):
        state[f"{prefix}classifier.{name}"] = torch.zeros(shape)
    torch.save({"params_ema": state}, tmp_path / "v2.pth")
    done = convert("constyle", [tmp_path / "v2.pth"], tmp_path / "encoder.safetensors")
    held, _ = read_weights(done.path)
    assert held.keys() == encoder.state_dict().keys()


def test_a_restorer_of_the_second_constyle_comes_without_its_classifier(uformer: dict[str, Tensor]) -> None:
    state = uformer | {"ConStyle.encoder_q.classifier.0.weight": torch.zeros(512, 256)}
    fw.from_published("constyle_uformer", state)


@pytest.mark.parametrize(
    ("name", "task", "output", "said"),
    [
        ("constyle_uformer", None, "o.safetensors", "is for denoise, .*; say with --task what"),
        ("constyle_uformer", "derian", "o.safetensors", "did you mean 'derain'"),
        ("constyle_uformer", "derain", "o.pth", r"o\.pth: expected a name that ends in \.safetensors"),
        ("nafnet_small", "derain", "o.safetensors", "nothing is published for it"),
        ("uformer", "derain", "o.safetensors", r"do not fit: of \d+ tensors, \d+ missing"),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_written(
    name: str, task: str | None, output: str, said: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, WeightsError), match=said):
        convert(name, [checkpoint], tmp_path / output, task=task)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_file_of_ours_and_one_that_is_no_checkpoint_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    done = convert("constyle", [checkpoint], tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match="is a file of ours already"):
        convert("constyle", [done.path], tmp_path / "again.safetensors")
    with pytest.raises(UsageError, match="is one of the checkpoints"):
        convert("constyle", [done.path], done.path)
    for data in (b"", b"no weights", checkpoint.read_bytes()[:3000]):
        (tmp_path / "cut.pth").write_bytes(data)
        with pytest.raises(WeightsError, match="not a whole PyTorch file of tensors and plain values"):
            convert("constyle", [tmp_path / "cut.pth"], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
