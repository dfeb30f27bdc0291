"""Training runs: every recipe takes a step, a killed run goes on exactly, and what comes out can be used."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from tiny import CONSTYLE, DCMPNET
from torch.utils.data import default_collate

import fairweather as fw
from fairweather import cli
from fairweather.data.patches import Scenes
from fairweather.errors import DataError, UsageError, WeightsError
from fairweather.training import RECIPES
from fairweather.training.checkpoints import Checkpoints
from fairweather.training.config import TrainConfig, override, to_plain
from fairweather.training.judge import WeighingTraining
from fairweather.training.restoration import Restoration, ema
from fairweather.training.train import (
    _check_batches,
    _strategy,
    network,
    saved_config,
    system,
    train,
    training_set,
    validation_set,
)
from fairweather.weights import read_weights

TINY = ["steps=40", "warmup=2", "batch=2", "patch=16", "validate_every=8", "checkpoint_every=4"]
RUNS: dict[str, list[str]] = {
    "denoise_tiny": TINY,
    # Other sizes of patches in the first 6 steps; the queue is full for the sixth; the encoder is held after 8.
    "constyle_denoise": [
        *TINY,
        "steps=16",
        "model_args=" + json.dumps(CONSTYLE),
        "contrast.queue_size=32",
        "contrast.freeze_after=8",
        "progressive=[[3, 16, 8], [6, 32, 4]]",
    ],
    "dcmpnet_small": [
        *TINY,
        "steps=16",
        "init=null",
        "model_args=" + json.dumps(DCMPNET | {"patch_size": 1}),
        'validation=[{"path": "bsds500/val", "degradation": "haze"}]',
    ],
}
"""Recipes of one network, of one with ConStyle and of two, and settings that make them short."""


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_builds_and_takes_a_step(
    name: str, data: Path, tmp_path: Path, fitted: Callable[[Restoration, list[Any]], Trainer]
) -> None:
    settings = [f"data_root={data}", "patch=16", "warmup=1", "precision=fp32", "batch=2"]
    if RECIPES[name]().contrast:
        settings.insert(0, "contrast.fill_queue_first=false")
    if (tasks := RECIPES[name]().two_tasks) and tasks.contrastive:
        settings += ["two_tasks.vgg=random", "two_tasks.teacher=none"]
        settings += ['sources=[{"path": "rgbd", "split": "train", "ranges": "its"}]']
    if RECIPES[name]().evidence:
        settings += ["evidence=3", 'validation=[{"path": "bsds500/val", "degradation": "noise"}]']
    config = override(RECIPES[name](), settings)
    if config.two_tasks:  # pictures with depth teach all parts
        scenes = tuple(source for source in config.sources if isinstance(source, Scenes))
        config = dataclasses.replace(config, sources=scenes)
    torch.manual_seed(0)  # some weights leave parts of a DCMPNet without gradient for two steps
    net = network(dataclasses.replace(config, init=None)).train()
    module = system(net, config)
    patches = training_set(config)
    if isinstance(module, WeighingTraining):
        patches, _ = module.gathered(patches, validation_set(config), tmp_path)
    learning = {k for k, v in net.named_parameters() if v.requires_grad}
    before = {k: v.clone() for k, v in net.named_parameters()}
    # beta and gamma start at 0, so some weights move from the second step on
    fitted(module, [default_collate([patches[2 * step], patches[2 * step + 1]]) for step in range(2)])
    moved = {k for k, v in net.named_parameters() if not torch.equal(before[k], v)}
    shifts = {
        k for k in before if k.endswith("position_bias.mlp.2.bias")
    }  # of a softmax: rounding alone moves them
    assert moved - shifts == learning - shifts
    weighs = {k for k in before if k.startswith("weigher.")}  # a judge's: learnt by itself, in its last stage
    assert learning == (weighs if config.evidence else before.keys() - weighs)


def start(recipe: str, run: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    """As a user does, on the command line."""
    given = [f"--set={setting}" for setting in settings]
    command = [sys.executable, "-m", "fairweather", "train", recipe, "--run", str(run), *given]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begun(
    server: ForkServerContext, config: TrainConfig, run: Path, *, resume: bool = False
) -> ForkServerProcess:
    process = server.Process(target=train, args=(config, run), kwargs={"resume": resume, "progress": False})
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    """Its exit code, once it has one."""
    process.join()
    return process.exitcode


def killed_after(config: TrainConfig, run: Path, step: int) -> None:
    """Train until `step` was taken, and then die as of kill -9.

    From within: a process that watches may look too late on a busy machine, when the run has ended.
    """
    ends = Checkpoints.on_train_batch_end

    def dies(self: Checkpoints, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        ends(self, trainer, *arguments)

    Checkpoints.on_train_batch_end = dies  # type: ignore[method-assign]  # in this process alone
    train(config, run, progress=False)


@pytest.mark.parametrize(
    ("recipe", "kills"),
    [("denoise_tiny", (6, 10, 24)), ("dcmpnet_small", (6,)), ("constyle_denoise", (6, 10))],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    recipe: str, kills: tuple[int, ...], data: Path, tmp_path: Path, server: ForkServerContext
) -> None:
    """kill -9 between checkpoints, after a validation (8) and late, as one is due, then resume: equal to the bit."""
    config = override(RECIPES[recipe](), [f"data_root={data}", *RUNS[recipe]])

    whole = tmp_path / "whole"
    process = begun(server, config, whole)
    runs = {step: tmp_path / f"killed-{step}" for step in kills}
    for step, run in runs.items():
        victim = server.Process(target=killed_after, args=(config, run, step))
        victim.start()
        assert ended(victim) == -signal.SIGKILL
        saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        assert 0 < saved < step
    assert ended(process) == 0
    resumed = [begun(server, config, run, resume=True) for run in runs.values()]
    assert [ended(process) for process in resumed] == [0] * len(runs)
    for file in ("last", "best"):
        expected = torch.load(whole / "checkpoints" / f"{file}.ckpt", weights_only=True)
        for run in runs.values():
            found = torch.load(run / "checkpoints" / f"{file}.ckpt", weights_only=True)
            assert found["global_step"] == expected["global_step"], (run.name, file)
            for name, tensor in expected["state_dict"].items():
                assert torch.equal(tensor, found["state_dict"][name]), (run.name, file, name)
    assert torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == config.steps
    _check_what_a_run_leaves(whole, config)


def test_a_short_run_is_validated_at_its_end_and_published(
    data: Path, tmp_path: Path, server: ForkServerContext
) -> None:
    settings = [*TINY, "steps=6", "validate_every=4", "checkpoint_every=100", f"data_root={data}"]
    config = override(RECIPES["denoise_tiny"](), settings)
    assert ended(begun(server, config, tmp_path / "run")) == 0
    assert read_weights(tmp_path / "run" / "weights.safetensors")[1]["steps"] in ("4", "6")
    csv = next(iter((tmp_path / "run").glob("csv/*/metrics.csv"))).read_text()
    assert len(re.findall(r"^\d+,\d+,.*\d$", csv, flags=re.MULTILINE)) >= 1


def test_the_command_line_goes_on_with_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(RECIPES["denoise_tiny"](), ["steps=777"])
    (tmp_path / "config.json").write_text(json.dumps(to_plain(config)))
    asked: list[Any] = []
    monkeypatch.setattr("fairweather.training.train.train", lambda *a, **k: asked.append((a, k)))
    monkeypatch.setattr("fairweather.terminal.tell_log", lambda: None)
    cli.train("denoise_tiny", run=tmp_path, resume=True)
    assert asked == [((config, tmp_path), {"resume": True})]


def test_two_processes_train_together(data: Path, tmp_path: Path) -> None:
    """As on two GPUs: different patches, one result, written once; a part of DCMPNet learns at a time."""
    short = [
        f"data_root={data}",
        "steps=6",
        "validate_every=3",
        "checkpoint_every=2",
        "device=cpu",
        "devices=2",
    ]
    processes = [start(recipe, tmp_path / recipe, [*settings, *short]) for recipe, settings in RUNS.items()]
    assert [process.wait() for process in processes] == [0] * len(RUNS)
    for recipe in RUNS:
        assert read_weights(tmp_path / recipe / "weights.safetensors")[1]["recipe"] == recipe
    assert list(tmp_path.rglob("*.part")) == []


def test_what_cannot_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    config = RECIPES["denoise_tiny"]()
    with pytest.raises(DataError, match="--set data_root=DIR"):
        train(override(config, [f"data_root={tmp_path}"]), tmp_path / "run")
    with pytest.raises(UsageError, match="unknown argument of nafnet_tiny 'depth'"):
        train(override(config, [f"data_root={data}", "model_args.depth=3"]), tmp_path / "run")
    with pytest.raises(UsageError, match=r"starts from .*derain_start.* train that first"):
        train(override(RECIPES["derain_small"](), [f"data_root={data}"]), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def _check_what_a_run_leaves(run: Path, config: TrainConfig) -> None:
    _, metadata = read_weights(run / "weights.safetensors")
    assert metadata["model"] == config.model
    assert metadata["recipe"] == config.recipe
    assert saved_config(run) == config
    assert list(run.glob("tensorboard/events*"))
    assert "val/psnr" in next(iter(run.glob("csv/*/metrics.csv"))).read_text()
    restorer = fw.load(str(run / "weights.safetensors"))
    assert restorer.task == config.task
    assert restorer.restore(torch.rand(3, 20, 20)).image.shape == (3, 20, 20)


def test_a_run_is_not_overwritten_and_nothing_is_resumed_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    config = RECIPES["denoise_tiny"]()
    with pytest.raises(UsageError, match="already holds a run; use --resume"):
        train(config, tmp_path)
    with pytest.raises(UsageError, match="there is no config"):
        train(config, tmp_path / "other", resume=True)


def test_a_checkpoint_that_cannot_be_gone_on_with_is_told_in_one_line(data: Path, tmp_path: Path) -> None:
    """Another network, damage, a damaged configuration."""
    run = tmp_path / "run"
    settings = [f"data_root={data}", *TINY, "warmup=0", "steps=2", "validate_every=1", "checkpoint_every=1"]
    config = override(RECIPES["denoise_tiny"](), settings)
    train(config, run, progress=False)
    wider = dataclasses.replace(config, model_args={"width": 20}, steps=4)
    with pytest.raises(
        WeightsError, match=r"last\.ckpt is of another network than config\.json says \(.*expected"
    ):
        train(wider, run, resume=True, progress=False)
    for name in ("best", "last"):
        file = run / "checkpoints" / f"{name}.ckpt"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(WeightsError, match=rf"{name}\.ckpt is damaged .* start a new run"):
            train(dataclasses.replace(config, steps=4), run, resume=True, progress=False)
    (run / "config.json").write_text("[]")
    with pytest.raises(UsageError, match=r"config\.json is damaged, or of other code .*; start the run anew"):
        saved_config(run)


def test_a_run_that_fails_on_its_data_can_be_begun_again(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for file in (broken / "bsds500/train").iterdir():
        file.write_bytes(b"no picture")
    config = override(RECIPES["denoise_tiny"](), [f"data_root={broken}", *TINY, "steps=9"])
    with pytest.raises(DataError, match="is not a picture"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("denoise_start", "model=constyle_nafnet_small"),
        ("judge_start", "patch=32"),
        ("constyle_denoise", "contrast=null"),
        ("constyle_denoise", "patch=32"),  # with its contrast
    ],
)
def test_batches_of_one_are_refused_where_an_encoder_learns(
    recipe: str, setting: str, data: Path, tmp_path: Path
) -> None:
    config = override(RECIPES[recipe](), [f"data_root={data}", "patch=16", setting])
    config = dataclasses.replace(config, batch=1, progressive=(), init=None)
    with pytest.raises(UsageError, match="batch=1 must be 2 or more: the encoder learns with batch norm"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("patch", "works"), [(96, False), (112, False), (113, True)])
def test_batches_of_one_are_refused_where_a_map_gets_down_to_one_value(patch: int, works: bool) -> None:
    config = override(RECIPES["dcmpnet_small"](), ["batch=1", f"patch={patch}"])
    net = fw.create_model("dcmpnet_small", **DCMPNET).train()
    if works:
        _check_batches(net, config)
        net(torch.rand(1, 3, patch, patch))
    else:
        with pytest.raises(
            UsageError, match=f"batch=1 with patch={patch} leaves dcmpnet_small's batch norms"
        ):
            _check_batches(net, config)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net(torch.rand(1, 3, patch, patch))


@pytest.mark.parametrize(
    ("recipe", "settings", "expected"),
    [
        ("denoise_start", [], "ddp"),
        ("dcmpnet_small", [], "ddp_find_unused_parameters_true"),
        ("constyle_denoise", [], "ddp"),
        ("constyle_denoise", ["contrast.freeze_after=900"], "ddp_find_unused_parameters_true"),
        ("constyle_pretrain", [], "ddp"),
        ("constyle_pretrain", ["contrast.fill_queue_first=true"], "ddp_find_unused_parameters_true"),
    ],
)
def test_processes_know_what_a_step_leaves_out(recipe: str, settings: list[str], expected: str) -> None:
    config = override(RECIPES[recipe](), settings)
    assert _strategy(config) == "auto"
    assert _strategy(override(config, ["devices=2", "batch=16"])) == expected


def test_a_start_from_weights_that_are_not_there_says_how_to_get_them(tmp_path: Path) -> None:
    for init, said in (
        (
            "runs/denoise_start/weights.safetensors",
            r"train that first \(fairweather train denoise_start\) or give other",
        ),
        ("elsewhere/weights.safetensors", "which is no file; give other weights with --set init=FILE"),
    ):
        config = override(RECIPES["denoise_tiny"](), [f"init={tmp_path / init}"])
        with pytest.raises(UsageError, match=said):
            train(config, tmp_path / "run", progress=False)
