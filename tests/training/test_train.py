"""Training runs: every recipe takes a step, a killed run goes on exactly, and what comes out can be used."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

import fairweather as fw
from fairweather.data.patches import Patches
from fairweather.errors import DataError, UsageError
from fairweather.images import Picture, write_picture
from fairweather.models import create_model
from fairweather.training import RECIPES
from fairweather.training.config import override
from fairweather.training.restoration import Restoration, ema
from fairweather.training.train import saved_config
from fairweather.weights import read_weights

TINY = ["steps=64", "warmup=2", "batch=2", "patch=16", "validate_every=8", "checkpoint_every=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small pictures under every name that a recipe asks for."""
    root = tmp_path_factory.mktemp("data")
    folders = ("bsds500/train", "bsds500/test", "bsds500/val", "div2k_crops/train")
    for folder in (*folders, "roadscene_rain/train/Vis/input", "roadscene_rain/train/Vis/target"):
        for i in range(66 if "roadscene" in folder else 2):
            pixels = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(i))
            write_picture(Picture(pixels=pixels), root / folder / f"{i:03}.png")
    return root


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_builds_and_takes_a_step(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(RECIPES[name](), [f"data_root={data}", "patch=16", "warmup=1"])
    net = create_model(config.model, **config.model_args).train()
    module = Restoration(net, config)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer
    patches = Patches(config.sources, root=config.data_root, size=config.patch, seed=config.seed)
    optimizer = module.configure_optimizers()["optimizer"]
    before = {k: v.clone() for k, v in net.named_parameters()}
    for step in range(2):  # beta and gamma start at 0, so some weights move from the second step on
        optimizer.zero_grad()
        loss = module.training_step(default_collate([patches[2 * step], patches[2 * step + 1]]), step)
        loss.backward()
        optimizer.step()
    moved = sum(not torch.equal(before[k], v) for k, v in net.named_parameters())
    assert moved == len(before)


def start(run: Path, data: Path, *more: str, settings: list[str] = TINY) -> subprocess.Popen[bytes]:
    given = [f"--set={s}" for s in (f"data_root={data}", *settings)] if "--resume" not in more else []
    command = [sys.executable, "-m", "fairweather", "train", "denoise_tiny", "--run", str(run), *given, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_at(run: Path, data: Path, step: int) -> int:
    """Start a run, kill -9 it as soon as it has saved `step` or a later one, and say which it had saved."""
    victim = start(run, data)
    checkpoint, saved = run / "checkpoints" / "last.ckpt", 0
    while saved < step and victim.poll() is None:
        time.sleep(0.002)
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)["global_step"]
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    """kill -9 between validations (4), after one (8) and late (44), then --resume: equal to the bit."""
    whole = tmp_path / "whole"
    process = start(whole, data)
    runs = {step: tmp_path / f"killed-{step}" for step in (4, 8, 44)}
    for step, run in runs.items():
        assert step <= killed_at(run, data, step) < 64
    assert process.wait() == 0
    resumed = [start(run, data, "--resume") for run in runs.values()]
    assert [process.wait() for process in resumed] == [0] * len(runs)
    for file in ("last", "best"):
        expected = torch.load(whole / "checkpoints" / f"{file}.ckpt", weights_only=True)
        for run in runs.values():
            found = torch.load(run / "checkpoints" / f"{file}.ckpt", weights_only=True)
            assert found["global_step"] == expected["global_step"], (run.name, file)
            for name, tensor in expected["state_dict"].items():
                assert torch.equal(tensor, found["state_dict"][name]), (run.name, file, name)
    assert torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 64
    _check_what_a_run_leaves(whole)


def test_a_short_run_is_validated_at_its_end_and_published(data: Path, tmp_path: Path) -> None:
    settings = ["steps=6", "warmup=2", "batch=2", "patch=16", "validate_every=4", "checkpoint_every=100"]
    assert start(tmp_path / "run", data, settings=settings).wait() == 0
    assert read_weights(tmp_path / "run" / "weights.safetensors")[1]["steps"] in ("4", "6")
    csv = next(iter((tmp_path / "run").glob("csv/*/metrics.csv"))).read_text()
    assert len(re.findall(r"^\d+,\d+,.*\d$", csv, flags=re.MULTILINE)) >= 1


def test_two_processes_train_together(data: Path, tmp_path: Path) -> None:
    """As on two GPUs: different patches, one result, written once."""
    settings = ["steps=6", "warmup=2", "batch=2", "patch=16", "validate_every=3", "checkpoint_every=2"]
    process = start(tmp_path / "run", data, settings=[*settings, "device=cpu", "devices=2"])
    assert process.wait() == 0
    assert read_weights(tmp_path / "run" / "weights.safetensors")[1]["recipe"] == "denoise_tiny"
    assert list((tmp_path / "run").rglob("*.part")) == []


def test_what_cannot_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    from fairweather.training.train import train

    config = RECIPES["denoise_tiny"]()
    with pytest.raises(DataError, match="--set data_root=DIR"):
        train(override(config, [f"data_root={tmp_path}"]), tmp_path / "run")
    with pytest.raises(UsageError, match="unknown argument of nafnet_tiny 'depth'"):
        train(override(config, [f"data_root={data}", "model_args.depth=3"]), tmp_path / "run")
    with pytest.raises(UsageError, match=r"starts from .*derain_start.* train that first"):
        train(override(RECIPES["derain_small"](), [f"data_root={data}"]), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def _check_what_a_run_leaves(run: Path) -> None:
    _, metadata = read_weights(run / "weights.safetensors")
    assert metadata["model"] == "nafnet_tiny"
    assert metadata["recipe"] == "denoise_tiny"
    assert saved_config(run).steps == 64
    assert list(run.glob("tensorboard/events*"))
    assert "val/psnr" in next(iter(run.glob("csv/*/metrics.csv"))).read_text()
    restorer = fw.load(str(run / "weights.safetensors"))
    assert restorer.task == "denoise"
    assert restorer.restore(torch.rand(3, 20, 20)).image.shape == (3, 20, 20)


def test_a_run_is_not_overwritten_and_nothing_is_resumed_where_nothing_is(tmp_path: Path) -> None:
    from fairweather.training.train import train

    (tmp_path / "config.json").write_text(json.dumps({}))
    config = RECIPES["denoise_tiny"]()
    with pytest.raises(UsageError, match="already holds a run; use --resume"):
        train(config, tmp_path)
    with pytest.raises(UsageError, match="there is no config"):
        train(config, tmp_path / "other", resume=True)


def test_the_average_copies_buffers_and_forgets_the_start() -> None:
    """IRConStyle's release leaves the buffers of its average at their start for ever."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = ema(net, decay=0.5)
    average.update_parameters(net)  # the first update copies
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    net(torch.rand(8, 2))
    for _ in range(40):
        average.update_parameters(net)
    torch.testing.assert_close(average.module[0].weight, torch.ones(2, 2), atol=1e-3, rtol=0)
    assert torch.equal(average.module[1].running_mean, net[1].running_mean)
