"""A better network teaches: what it says, what stays of the clear pictures, and what is published of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

import fairweather as fw
from fairweather.ensemble import ensembled
from fairweather.errors import UsageError, WeightsError
from fairweather.losses.pixel import psnr_loss, taught_psnr_loss
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig, override
from fairweather.training.distillation import DistillationTraining, in_orientations
from fairweather.training.restoration import Restoration
from fairweather.training.train import network, system, train
from fairweather.weights import read_weights, save_weights, sha256

SHAPE = {"width": 6, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,)}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A network that changes what goes in, differently in each orientation."""
    torch.manual_seed(0)
    net = fw.create_model("nafnet_tiny", **SHAPE)
    for name, value in net.named_parameters():
        if name.endswith(("beta", "gamma", "ending.weight")):
            torch.nn.init.normal_(value, std=0.3)
    file = tmp_path / "teacher.safetensors"
    metadata = {"model": "nafnet_tiny", "task": "denoise", "model_args": json.dumps(SHAPE)}
    save_weights(net.state_dict(), file, metadata, half=False)
    return file


def configured(teacher: Path, data: Path, *settings: str) -> TrainConfig:
    return override(
        RECIPES["denoise_taught"](),
        [
            "model=nafnet_tiny",
            f"model_args={json.dumps(SHAPE)}",
            f"distillation.teacher={teacher}",
            f"data_root={data}",
            "init=null",
            'validation=[{"path": "bsds500/val", "degradation": "noise"}]',
            "patch=16",
            "warmup=1",
            "precision=fp32",
            *settings,
        ],
    )


def test_what_the_teacher_cannot_know_is_left_out_of_the_gradient() -> None:
    """Where the student says what the teacher says, the clear picture pulls by `doubt` alone."""
    torch.manual_seed(0)
    target, taught = torch.rand(2, 2, 3, 8, 8)
    pulls = []
    for doubt in (0.0, 0.25, 1.0):
        student = taught.clone().requires_grad_()
        taught_psnr_loss(student, target, taught, doubt=doubt).backward()
        pulls.append(student.grad)
    assert not pulls[0].any()
    torch.testing.assert_close(pulls[1], pulls[2] / 4)
    exact = taught.clone().requires_grad_()
    psnr_loss(exact, target).backward()
    torch.testing.assert_close(pulls[2], exact.grad)


def test_the_loss_is_of_a_number_for_any_doubt() -> None:
    """The part of the clear picture can be negative, the whole cannot."""
    target = torch.zeros(1, 3, 4, 4)
    taught = torch.full_like(target, 0.1)
    for doubt in (0.0, 0.5, 1.0):
        assert taught_psnr_loss(target, target, taught, doubt=doubt).isfinite()


def test_a_network_comes_nearer_to_its_teacher_in_all_orientations(
    teacher: Path, data: Path, fitted: Callable[[Restoration, list[Any]], Trainer]
) -> None:
    config = configured(teacher, data, "distillation.doubt=0", "learning_rate=3e-3", "steps=60")
    torch.manual_seed(1)
    module = system(network(config).train(), config)
    assert isinstance(module, DistillationTraining)
    noisy = torch.rand(2, 3, 16, 16)
    said = fw.create_model("nafnet_tiny", weights=teacher)
    with torch.no_grad():
        taught = ensembled(said, noisy, count=8)
        before = (module.net(noisy) - taught).square().mean()
    weights = {name: value.clone() for name, value in said.state_dict().items()}
    fitted(module, [(noisy, torch.rand(2, 3, 16, 16)) for _ in range(40)])
    with torch.no_grad():
        after = (ensembled(module.net, noisy, count=8) - taught).square().mean()
    assert after < before / 2
    assert all(torch.equal(value, weights[name]) for name, value in said.state_dict().items())
    assert not any(
        "teacher" in name for name in module.state_dict()
    )  # of a size that a checkpoint can do without


def test_each_orientation_has_its_own_target() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    together = in_orientations(x, 8)
    assert together.shape == (8, 1, 4, 4)
    assert len({tuple(y.flatten().tolist()) for y in together}) == 8
    assert torch.equal(together[0], x[0])


def test_what_is_published_names_its_teacher_by_digest(teacher: Path, data: Path, tmp_path: Path) -> None:
    config = configured(teacher, data, "steps=3", "validate_every=3", "batch=1")
    _, metadata = read_weights(train(config, tmp_path / "run", progress=False))
    assert json.loads(metadata["config"])["distillation"]["teacher"] == sha256(teacher)
    assert str(tmp_path) not in str(metadata)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss=l1", "distillation goes with loss=psnr, not with loss=l1"),
        ("fft=0.1", "distillation is for a plain restorer trained by PSNR alone: leave it out, or fft"),
        ("distillation.doubt=1.5", "distillation.doubt=1.5 must be at least 0 and at most 1"),
        ("distillation.ensemble=3", "distillation.ensemble"),
    ],
)
def test_settings_that_contradict_distillation(setting: str, message: str, teacher: Path, data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        configured(teacher, data, setting)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_cannot_teach(teacher: Path, data: Path, tmp_path: Path) -> None:
    missing = configured(Path("runs/denoise_longer/weights.safetensors"), data)
    with pytest.raises(UsageError, match=r"learns from .*, which is no file; train .*train denoise_longer"):
        train(missing, tmp_path / "run", progress=False)
    state, metadata = read_weights(teacher)
    save_weights(state, teacher, metadata | {"task": "derain"})
    config = configured(teacher, data)
    with pytest.raises(UsageError, match="was trained to derain and cannot teach to denoise"):
        system(network(config), config)
    teacher.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="is not a whole"):
        system(network(config), config)
