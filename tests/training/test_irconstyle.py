"""ConStyle's training: what learns when, what the queue holds on several processes, the encoder before any restorer."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer
from tiny import CONSTYLE
from torch import Tensor, nn

from fairweather.errors import DataError, UsageError, WeightsError
from fairweather.images import Picture, write_picture
from fairweather.losses.constyle import content_loss, info_nce, queue_logits, style_loss
from fairweather.losses.pixel import l1_loss
from fairweather.models import MODELS, create_model
from fairweather.models.constyle import ConStyle
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig, override
from fairweather.training.irconstyle import (
    ConStyleTraining,
    Momentum,
    Prompter,
    encoder_of,
    pooled,
    recalibrate_bn,
)
from fairweather.training.restoration import Restoration
from fairweather.training.train import network, system, train
from fairweather.weights import read_weights, save_weights

Fit = Callable[[Restoration, list[Any]], Trainer]
"""The fixture `fitted`: a step on each batch."""
STEP = 4


def configured(*settings: str) -> TrainConfig:
    """A small network with ConStyle, whose contrast begins at once."""
    config = dataclasses.replace(RECIPES["constyle_denoise"](), model_args=CONSTYLE)
    basic = ["contrast.queue_size=32", "contrast.fill_queue_first=false", "contrast.freeze_after=null"]
    plain = ["batch=4", "warmup=1", "clip_norm=0", "precision=fp32"]
    return override(config, [*basic, *plain, *settings])


def training(*settings: str) -> ConStyleTraining:
    torch.manual_seed(0)
    config = configured(*settings)
    module = system(network(config).train(), config)
    assert isinstance(module, ConStyleTraining)
    return module


def batches(count: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(count, STEP, 3, size, size, generator=generator)
    degraded = clean + 0.2 * torch.randn(clean.shape, generator=generator)
    return [*zip(degraded, clean, strict=True)]


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# What learns when -------------------------------------------------------------------------------------------------


def test_the_loss_of_a_step_is_the_weighted_sum_of_its_parts(fitted: Fit) -> None:
    """Gradients included: each part reaches the encoder, and the pixel loss does through the restorer."""
    module = training("contrast.info_nce=0.5", "contrast.content=3", "contrast.style=7")
    net, momentum = copy.deepcopy(module.net), copy.deepcopy(module.momentum)
    (degraded, clean) = batches(1)[0]
    fitted(module, [(degraded, clean)])
    found = momentum(net.constyle, degraded, clean)
    vectors = (found.query.hidden, found.query.vector)
    logits = queue_logits(found.query.vector, found.key, found.queue, normalize=True)
    parts = [
        l1_loss(net.restore(degraded, found.query), clean),
        0.5 * info_nce(logits),
        3 * content_loss(found.query.vector, found.key),
        7 * style_loss(vectors, found.negatives),
    ]
    gradients = [
        torch.autograd.grad(part, net.constyle.mlp1[0].weight, retain_graph=True)[0] for part in parts
    ]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    ours = module.net.constyle.mlp1[0].weight.grad
    torch.testing.assert_close(ours, torch.stack(gradients).sum(0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("freeze_after", [0, 2])
def test_a_held_encoder_stays_as_it_is_and_the_rest_learns(freeze_after: int, fitted: Fit) -> None:
    module = training(f"contrast.freeze_after={freeze_after}")
    steps = batches(freeze_after + 2)
    if freeze_after:
        fitted(module, steps[:freeze_after])
    whole = training(f"contrast.freeze_after={freeze_after}")
    fitted(whole, steps)
    kept = {name for name in states(module) if name.startswith(("net.constyle.", "momentum."))}
    assert not moved(states(module), whole) & kept  # statistics, slow copy and queue too
    learning = {f"net.{name}" for name, _ in module.net.named_parameters()} - kept
    assert learning - moved(states(module), whole) == set()
    assert not whole.net.constyle.training
    assert int(whole.average.n_averaged) == freeze_after + 2
    assert int(whole.momentum.pushed) == STEP * freeze_after


def test_an_officially_held_encoder_still_moves_its_statistics_and_its_queue(fitted: Fit) -> None:
    module = training("contrast.freeze_after=0", "contrast.official=true")
    before = states(module)
    fitted(module, batches(2))
    changed = moved(before, module)
    assert not {f"net.constyle.{name}" for name, _ in module.net.constyle.named_parameters()} & changed
    assert {"net.constyle.mlp1.1.running_mean", "momentum.queue", "momentum.pushed"} <= changed


def test_the_official_average_lags_a_step(fitted: Fit) -> None:
    for official, expected in (("true", 0), ("false", 1)):
        module = training(f"contrast.official={official}")
        ends = [states(module.net)]
        fitted(module, batches(1))
        ends.append(states(module.net))
        assert torch.equal(module.average.module.exit.weight, ends[expected]["exit.weight"])
        assert not torch.equal(ends[0]["exit.weight"], ends[1]["exit.weight"])


def test_contrast_waits_for_a_queue_of_pictures_alone(fitted: Fit) -> None:
    """Of 32 vectors, 4 a step: after 8 steps none is of the random start, and the ninth is the first to use them."""
    module = training("contrast.fill_queue_first=true")
    start = module.momentum.queue.clone()
    noted: list[tuple[int, str]] = []
    module.note = lambda name, loss: noted.append((module.global_step, name))  # type: ignore[method-assign]
    fitted(module, batches(9))
    assert [step for step, name in noted if name == "train/info_nce"] == [8]
    assert [step for step, name in noted if name == "train/loss"] == [*range(9)]
    assert (start != module.momentum.queue).any(0).all()


def test_a_step_that_does_not_fit_the_end_of_the_queue_goes_on_at_its_start() -> None:
    """As with other sizes of batches, one after the other."""
    momentum = Momentum(ConStyle(), size=12, decay=0.9)
    first, second = torch.rand(8, 128), torch.rand(6, 128)
    momentum.push(first)
    before = momentum.queue.clone()
    following, overwritten = momentum.push(second)
    assert torch.equal(momentum.queue.T, torch.cat([second[4:], first[2:], second[:4]]))
    assert torch.equal(overwritten, torch.cat([before[:, 8:], before[:, :2]], dim=1).T)
    assert torch.equal(following, before[:, 2:8].T)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name.startswith("constyle_") and "small" in name]
)
def test_every_network_with_constyle_learns_by_contrast(name: str, fitted: Fit) -> None:
    config = configured(f"model={name}", "model_args={}")
    module = system(network(config).train(), config)
    assert isinstance(module, ConStyleTraining)
    before = states(module.net)
    fitted(module, batches(2, size=36))  # padded for the restorer, and cropped
    unmoved = {name for name, _ in module.net.named_parameters()} - moved(before, module.net)
    assert unmoved == set()


def test_the_gradients_of_the_encoder_and_of_the_rest_are_clipped_apart(fitted: Fit) -> None:
    module = training("clip_norm=1e-3")
    fitted(module, batches(1))
    grads = {name: p.grad for name, p in module.net.named_parameters() if p.grad is not None}
    for own in (True, False):
        norms = [g.norm() for name, g in grads.items() if name.startswith("constyle.") == own]
        torch.testing.assert_close(torch.stack(norms).norm(), torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_in_bf16_vectors_are_compared_in_float32() -> None:
    module = training()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module.note = lambda name, loss: None  # type: ignore[method-assign]
        style, loss = module.contrasted(module.net.constyle, *batches(1)[0])
    assert style.vector.dtype == torch.bfloat16
    assert (loss.dtype, module.momentum.queue.dtype) == (torch.float32, torch.float32)


# Several processes ------------------------------------------------------------------------------------------------


def _push_from(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    momentum = Momentum(ConStyle(), size=12, decay=0.9)
    pushed = [momentum.push(torch.full((2, 128), 10.0 * step + rank)) for step in range(4)]
    torch.save((momentum.queue, pushed), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_queue(tmp_path: Path, server: ForkServerContext) -> None:
    """Both hold the queries of both; the negatives of a step are shared out."""
    processes = [server.Process(target=_push_from, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    (queue, first), (other, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(queue, other)
    assert queue[0].tolist() == [30, 30, 31, 31, 10, 10, 11, 11, 20, 20, 21, 21]
    overwritten = [n1[0, 0].item() for _, n1 in (first[3], second[3])]
    following = [n0[0, 0].item() for n0, _ in (first[3], second[3])]
    assert (overwritten, following) == ([0, 1], [10, 11])


# Before any restorer ----------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Pictures in folders of three classes, as ImageNet's are."""
    for name in "abc":
        for i in range(2):
            pixels = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(i))
            write_picture(Picture(pixels=pixels), tmp_path / f"pictures/{name}/{i}.png")
    return tmp_path


def pretraining(root: Path, *settings: str) -> TrainConfig:
    source = '[{"path": "pictures", "degradation": "mixed"}]'
    return override(
        RECIPES["constyle_pretrain"](),
        [
            f"sources={source}",
            f"validation={source}",
            f"data_root={root}",
            "steps=2",
            "batch=4",
            "patch=32",
            "contrast.queue_size=32",
            "precision=fp32",
            "validate_every=2",
            *settings,
        ],
    )


def test_an_encoder_trained_alone_begins_any_network_with_constyle(
    classes: Path, caplog: pytest.LogCaptureFixture, fitted: Fit
) -> None:
    weights = train(pretraining(classes, "pretrain.classes=3"), classes / "run", progress=False)
    state, metadata = read_weights(weights)
    assert metadata["model"] == "constyle"
    assert state.keys() == ConStyle().state_dict().keys()  # no classifier, no slow copy, no queue
    config = configured(f"init={weights}", "contrast.freeze_after=0")
    with caplog.at_level("INFO"):
        net = network(config)
    assert "the encoder of constyle_nafnet_small is" in caplog.text
    fitted(system(net.train(), config), batches(2))
    for name, value in state.items():
        assert torch.equal(net.constyle.state_dict()[name], value), name
    with pytest.raises(UsageError, match="holds a ConStyle encoder, and model=nafnet_small has none"):
        network(override(config, ["model=nafnet_small", "model_args={}", "contrast=null"]))
    save_weights({"x": torch.zeros(1)}, weights, metadata)
    with pytest.raises(WeightsError, match="is no whole ConStyle encoder"):
        network(config)


def test_classes_are_a_loss_where_they_are_known_and_for_their_steps(classes: Path, fitted: Fit) -> None:
    views = [torch.rand(2, STEP, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    label = torch.tensor([0, 1, 2, 1])
    for known, steps, expected in ((3, 1, [0]), (3, 5, [0, 1]), (0, 5, [])):
        config = pretraining(classes, f"pretrain.classes={known}", f"pretrain.class_steps={steps}")
        module = system(network(config).train(), config)
        noted: list[tuple[int, str]] = []
        module.note = lambda name, loss: noted.append((module.global_step, name))  # type: ignore  # noqa: B023
        before = states(module)
        fitted(module, [(*pair, label) for pair in views])
        assert [step for step, name in noted if name == "train/classes"] == expected
        assert [step for step, name in noted if name == "train/divergence"] == [0, 1]
        assert [step for step, name in noted if name == "train/info_nce"] == [0, 1]
        changed = moved(before, module)
        assert {f"net.{name}" for name, _ in module.net.named_parameters()} <= changed
        assert {f"momentum.encoder.{name}" for name, _ in module.net.named_parameters()} <= changed


def test_another_number_of_classes_is_refused(classes: Path) -> None:
    with pytest.raises(DataError, match="pictures in 3 folders, expected one for each of 5 classes"):
        train(pretraining(classes, "pretrain.classes=5"), classes / "run")
    assert not (classes / "run").exists()


def test_without_classes_the_log_says_so(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train(pretraining(classes), classes / "run", progress=False)
    assert "no classes, so no cross entropy" in caplog.text
    assert "val/match" in next(iter((classes / "run").glob("csv/*/metrics.csv"))).read_text()


def test_pooled_features_are_what_the_vectors_are_made_of() -> None:
    encoder = Prompter(classes=3).eval()
    with pooled(encoder) as features:
        style = encoder(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(encoder.mlp2(encoder.mlp1(features[0])), style.vector)
    assert encoder.classifier(features[0]).shape == (2, 3)
    encoder(torch.rand(2, 3, 32, 32))
    assert len(features) == 1  # and nothing is kept any more


# Statistics, schedules and bad input ------------------------------------------------------------------------------


def test_recalibrated_statistics_are_the_means_over_the_batches() -> None:
    encoder = ConStyle().eval()
    pictures = [
        torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(i)) * (i + 1) for i in range(3)
    ]
    seen: list[Tensor] = []
    handle = encoder.mlp1[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    recalibrate_bn(encoder, pictures)
    handle.remove()
    norm = encoder.mlp1[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    assert (norm.momentum, encoder.training) == (0.1, False)


def test_a_run_can_begin_with_recalibrated_statistics(data: Path, tmp_path: Path) -> None:
    """With the encoder held, what was computed before the first step is what is published."""
    config = configured(
        f"data_root={data}",
        "steps=2",
        "patch=16",
        "recalibrate_bn=3",
        "contrast.freeze_after=0",
        "validate_every=2",
    )
    state = read_weights(train(config, tmp_path / "run", progress=False))[0]
    assert state["constyle.mlp1.1.num_batches_tracked"] == 3
    with pytest.raises(UsageError, match="model=nafnet_tiny has none; set it to 0"):
        train(
            override(RECIPES["denoise_tiny"](), [f"data_root={data}", "recalibrate_bn=1"]), tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("recipe", "settings", "expected"),
    [
        ("constyle_derain", [], 2309),
        ("constyle_derain", ["steps=13000"], 4619),
        ("constyle_dehaze", [], 1421),
        ("constyle_denoise", [], None),
        ("constyle_deblur", [], 1421),
        ("constyle_deblur", ["model=constyle_restormer_small"], None),
        ("constyle_official", [], 250_000),
        ("constyle_official", ["task=denoise"], None),
        ("constyle_official", ["task=deblur", "model=constyle_restormer"], None),
        ("constyle_official", ["task=deblur", "contrast.freeze_after=7"], 7),
        ("constyle_derain", ["model=nafnet_small", "contrast=null"], None),
    ],
)
def test_the_encoder_is_held_after_the_share_of_steps_that_the_release_does(
    recipe: str, settings: list[str], expected: int | None
) -> None:
    assert override(RECIPES[recipe](), settings).freeze_after == expected


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe().contrast])
def test_the_plain_counterpart_is_the_same_recipe_without_contrast(name: str) -> None:
    config = RECIPES[name]()
    if config.pretrain is None:
        plain = override(config, ["model=nafnet_small", "contrast=null"])
        assert type(system(create_model(plain.model), plain)) is Restoration
        assert encoder_of(create_model(plain.model)) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["batch=7"],
            "queue_size=3840 is not a multiple of the 7 patches of a step (batch=7); take",
        ),
        (
            ["devices=7"],
            "not a multiple of the 56 patches of a step (batch=8 in each of 7 processes); take another batch, or",
        ),
        (["progressive=[[5, 32, 9]]"], "queue_size=3840 is not a multiple of the 9 patches"),
        (["steps=479", "batch=8"], "would not be full after the 479 steps that the encoder learns"),
        (
            ["contrast.freeze_after=300", "progressive=[[200, 32, 10]]"],
            "would not be full after the 300 steps",
        ),
        (["contrast.style=-1"], "contrast.style=-1.0 must be a number of 0 or more"),
        (["contrast.content=NaN"], "contrast.content=nan must be a number of 0 or more"),
        (["contrast.freeze_after=-1"], "contrast.freeze_after=-1 must be a number of 0 or more"),
        (["contrast.momentum=1"], "contrast.momentum=1.0 must be at least 0 and less than 1"),
        (["contrast.temperature=0"], "contrast.temperature and contrast.queue_size must be more than 0"),
        (["contrast.gram=chanel"], "--set contrast.gram='chanel': input should be 'batch' or 'channel'"),
        (["contrast.normalise=true"], "unknown setting 'normalise'; did you mean 'normalize'"),
        (
            ['two_tasks={"scheme": "alone"}'],
            "two_tasks is for DCMPNet and contrast for networks with ConStyle",
        ),
        (["model=constyle"], "model=constyle, the encoder alone, and pretrain go together"),
        (["pretrain={}"], "model=constyle, the encoder alone, and pretrain go together"),
        (["pretrain={}", "model=constyle", "init=x"], "pretrain starts from random weights"),
        (["pretrain={}", "model=constyle", "contrast=null"], "pretrain needs contrast"),
        (
            ["pretrain={}", "model=constyle", "contrast.freeze_after=null", 'model_args={"width": 8}'],
            "model_args=... would do nothing: pretrain has no use for it",
        ),
        (["pretrain={}", "model=constyle", "contrast.freeze_after=3000"], "pretrain needs contrast, and"),
        (["progressive=[[5, 32, 8], [5, 48, 8]]"], "each until later than the one before"),
        (["progressive=[[5, 0, 8]]"], "must be (until step, patch, batch) of 1 or more"),
        (["fft=-1"], "fft=-1.0 must be a number of 0 or more"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(RECIPES["constyle_denoise"](), settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_contrast_for_a_network_without_constyle_is_refused(data: Path, tmp_path: Path) -> None:
    config = override(RECIPES["constyle_denoise"](), [f"data_root={data}", "model=nafnet_tiny"])
    with pytest.raises(
        UsageError, match="model=nafnet_tiny has none; take another, such as constyle_nafnet_small"
    ):
        train(config, tmp_path / "run")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        ["contrast.freeze_after=99999"],
        ["contrast.freeze_after=0"],
        ["steps=480"],
        ["steps=240", "devices=2"],
        ["steps=300", "progressive=[[100, 32, 24]]"],
        ["steps=250", "contrast.fill_queue_first=false"],
    ],
)
def test_what_is_odd_but_works_is_fine(settings: list[str]) -> None:
    assert override(RECIPES["constyle_denoise"](), settings).contrast is not None
