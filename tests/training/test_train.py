"""Training runs: every recipe takes a step, a killed run goes on exactly, and what comes out can be used."""

from __future__ import annotations

import json
import os
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
from fairweather.errors import UsageError
from fairweather.images import Picture, write_picture
from fairweather.models import create_model
from fairweather.training import RECIPES
from fairweather.training.config import override
from fairweather.training.restoration import Restoration, ema
from fairweather.training.train import saved_config
from fairweather.weights import read_weights

TINY = ["steps=40", "warmup=2", "batch=2", "patch=16", "validate_every=8", "checkpoint_every=4"]


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
def test_a_recipe_builds_and_takes_a_step(name: str, data: Path) -> None:
    config = override(RECIPES[name](), [f"data_root={data}", "patch=16", "warmup=1"])
    net = create_model(config.model, **config.model_args)
    module = Restoration(net, config)
    patches = Patches(config.sources, root=config.data_root, size=config.patch, seed=config.seed)
    optimizer = module.configure_optimizers()["optimizer"]
    before = {k: v.clone() for k, v in net.named_parameters()}
    for step in range(2):  # beta and gamma start at 0, so some weights move from the second step on
        degraded, target = default_collate([patches[2 * step], patches[2 * step + 1]])
        optimizer.zero_grad()
        loss = (module.net(degraded) - target).abs().mean()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    moved = sum(not torch.equal(before[k], v) for k, v in net.named_parameters())
    assert moved == len(before)


def start(run: Path, data: Path, *more: str) -> subprocess.Popen[bytes]:
    settings = [f"--set={s}" for s in (f"data_root={data}", *TINY)] if "--resume" not in more else []
    command = [
        sys.executable,
        "-m",
        "fairweather",
        "train",
        "denoise_tiny",
        "--run",
        str(run),
        *settings,
        *more,
    ]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then --resume: every tensor of the last checkpoint is equal to the bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole, data)
    victim = start(killed, data)
    checkpoint = killed / "checkpoints" / "last.ckpt"
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    stopped_at = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < stopped_at < 40
    assert start(killed, data, "--resume").wait() == 0
    assert process.wait() == 0
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 40
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
    published = [read_weights(run / "weights.safetensors")[0] for run in (whole, killed)]
    for name, tensor in published[0].items():
        assert torch.equal(tensor, published[1][name]), name
    _check_what_a_run_leaves(whole)


def _check_what_a_run_leaves(run: Path) -> None:
    _, metadata = read_weights(run / "weights.safetensors")
    assert metadata["model"] == "nafnet_tiny"
    assert metadata["recipe"] == "denoise_tiny"
    assert saved_config(run).steps == 40
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
    with pytest.raises(UsageError, match="holds no run to resume"):
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
