"""DCMPNet's two networks: which loss moves which of them, by every scheme, and what cannot be trained is said so."""

from __future__ import annotations

import copy
import dataclasses
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from lightning import Trainer
from tiny import DCMPNET
from torch import Tensor, nn

from fairweather.data.patches import Pairs, Scenes
from fairweather.errors import UsageError, WeightsError
from fairweather.losses.difference_perception import (
    READINGS,
    mean_over,
    paper_dehazing_loss,
    paper_depth_loss,
)
from fairweather.losses.pixel import l1_loss
from fairweather.models import create_model
from fairweather.training import RECIPES
from fairweather.training.config import TrainConfig, TwoTasks, from_plain, override, to_plain
from fairweather.training.dcmpnet import TwoTaskTraining, _listed, contrastive_loss, sum_of_l1
from fairweather.training.restoration import Restoration
from fairweather.training.train import _teacher, train
from fairweather.training.train import system as system_of

SMALL: dict[str, Any] = DCMPNET | {"patch_size": 1}
SCHEMES = ("paper", "early", "official", "alone")
Batch = tuple[Tensor, Tensor, Tensor]
Fit = Callable[[TwoTaskTraining, list[Batch]], Trainer]
"""The fixture `fitted`: a step on each batch."""


def configured(
    *, model: str = "dcmpnet_small", model_args: dict[str, Any] = SMALL, **tasks: Any
) -> TrainConfig:
    return TrainConfig(
        recipe="test",
        model=model,
        model_args=model_args,
        task="dehaze",
        two_tasks=TwoTasks(**tasks),
        sources=(Scenes(path=Path("rgbd"), split="train"),),
        validation=(Scenes(path=Path("rgbd"), split="train"),),
        steps=100,
        warmup=1,
        clip_norm=0,
        precision="fp32",
    )


def system(**tasks: Any) -> TwoTaskTraining:
    torch.manual_seed(0)
    args = SMALL | {"depth_network": tasks.get("scheme") != "alone"}
    config = configured(model_args=args, **tasks)
    net = create_model(config.model, **config.model_args).train()
    # As after some steps: at zero nothing else learns.
    nn.init.normal_(net.dehazing.patch_unembed.weight, std=0.02)
    return TwoTaskTraining(net, config)


def batches(count: int, size: int = 32) -> list[Batch]:
    """Hazy, clear and disparity, which is unknown in a corner, and everywhere in the first picture."""
    generator = torch.Generator().manual_seed(0)
    hazy, clear = torch.rand(2, count, 2, 3, size, size, generator=generator)
    disparity = torch.rand(count, 2, 1, size, size, generator=generator) * 0.9 + 0.1
    disparity[..., :9, :7] = 0
    disparity[0, 0] = 0
    return list(zip(hazy, clear, disparity, strict=True))


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def moved(before: dict[str, Tensor], net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


# What moves what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_moves_the_networks_of_its_scheme_and_their_average(scheme: str, fitted: Fit) -> None:
    module = system(scheme=scheme)
    before = weights(module.net)
    fitted(module, batches(2))
    assert moved(before, module.net) == before.keys()
    assert moved(before, module.average.module) == before.keys()
    assert int(module.average.n_averaged) == 2


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("inner_depth", [0.0, 0.5])
def test_the_gradients_of_a_step_are_those_of_the_losses(
    scheme: str, inner_depth: float, fitted: Fit
) -> None:
    """Of the depth network too: in the paper's scheme the dehazing loss adds nothing to them."""
    check_gradients(fitted, scheme=scheme, inner_depth=inner_depth)


@pytest.mark.parametrize("tasks", [{"weighting": "absolute"}, {"weighting": "none"}, {"consistency": 0.3}])
def test_the_gradients_of_the_options_of_the_paper_are_those_of_the_losses(
    tasks: dict[str, Any], fitted: Fit
) -> None:
    check_gradients(fitted, scheme="paper", **tasks)


@pytest.mark.parametrize("scheme", ["paper", "official", "alone"])
def test_psnr_takes_the_place_of_the_plain_term(scheme: str, fitted: Fit) -> None:
    check_gradients(fitted, scheme=scheme, loss="psnr")


@pytest.mark.parametrize("scheme", ["paper", "alone"])
def test_the_difference_of_the_spectra_is_added(scheme: str, fitted: Fit) -> None:
    check_gradients(fitted, scheme=scheme, fft=0.3)


def check_gradients(
    fitted: Fit,
    *,
    scheme: str,
    loss: str = "l1",
    fft: float = 0.0,
    inner_depth: float = 0.0,
    **options: Any,
) -> None:
    module = system(scheme=scheme, inner_depth=inner_depth, **options)
    module.config = override(module.config, [f"loss={loss}", f"fft={fft}"])
    start = copy.deepcopy(module.net)
    batch = batches(1)[0]
    fitted(module, [batch])
    hazy, clear, disparity = 2 * batch[0] - 1, 2 * batch[1] - 1, batch[2]
    known = disparity > 0
    found = start.dehazing(hazy)
    added = inner_depth * mean_over(found.inner_depth - disparity, known)
    if loss == "psnr":
        mse = ((found.clear - clear) / 2).square().mean(dim=(1, 2, 3))
        added = added + 0.1 * torch.log10(mse + 1e-6).mean() - (found.clear - clear).abs().mean()
    added = added + fft * torch.fft.fft2(found.clear - clear).abs()[..., : clear.shape[-1] // 2 + 1].mean()
    depth: dict[str, Tensor] = {}
    if scheme == "alone":
        (l1_loss(found.clear, clear) + added).backward()
    elif scheme == "paper":
        consistency = options.pop("consistency", 0.0)
        predicted = start.depth_network(found.clear.detach())
        paper_depth_loss(found.clear, clear, predicted, disparity, known=known, **options).total.backward()
        depth = gradients(start.depth_network)
        start.depth_network.load_state_dict(module.net.depth_network.state_dict())  # after its step
        predicted = start.depth_network(found.clear)
        dehazing = paper_dehazing_loss(
            found.clear, clear, predicted, disparity, known=known, consistency=consistency, **options
        )
        (dehazing.total + added).backward()
    else:
        predicted = start.depth_network(found.clear)
        predicted = torch.where(known, predicted, predicted.detach())
        teacher = torch.where(known, disparity, predicted.detach())
        losses = [of(found.clear, clear, predicted, teacher).total for of in READINGS[scheme]]
        (losses[0] + losses[1] + added).backward()
        depth = gradients(start.depth_network)
    if scheme != "alone":
        torch.testing.assert_close(gradients(module.net.depth_network), depth, rtol=1e-4, atol=5e-7)
    torch.testing.assert_close(
        gradients(module.net.dehazing), gradients(start.dehazing), rtol=1e-4, atol=5e-7
    )
    assert any(g.any() for g in gradients(module.net.dehazing).values())


def test_options_change_the_step(fitted: Fit) -> None:
    """Or the two tests above would compare nothing."""
    ends = []
    for options in (
        {},
        {"weighting": "absolute"},
        {"consistency": 0.3},
        {"inner_depth": 0.5},
        {"features": 0.5},
    ):
        module = system(**options)
        fitted(module, batches(1))
        ends.append(gradients(module.net.dehazing))
    for other in ends[1:]:
        assert any(not torch.allclose(g, other[name]) for name, g in ends[0].items())


@pytest.mark.parametrize("scheme", ["paper", "early", "official"])
def test_without_known_depth_the_networks_that_learn_depth_get_no_gradient(scheme: str, fitted: Fit) -> None:
    module = system(scheme=scheme, inner_depth=0.5)
    plain = system(scheme=scheme, inner_depth=0.0)
    hazy, clear, disparity = batches(1)[0]
    for one in (module, plain):
        fitted(one, [(hazy, clear, disparity * 0)])
    assert module.net.depth_network is not None
    assert not any(g.any() for g in gradients(module.net.depth_network).values())
    torch.testing.assert_close(gradients(module.net.dehazing), gradients(plain.net.dehazing), rtol=0, atol=0)


def test_the_inner_branch_learns_depth_where_it_is_asked_to(fitted: Fit) -> None:
    hazy, clear, known = batches(1)[0]
    disparity = 0.9 * (known > 0)

    def error(inner_depth: float) -> float:
        module = system(scheme="alone", inner_depth=inner_depth)
        module.config = override(module.config, ["learning_rate=1e-2"])
        fitted(module, [(hazy, clear, disparity)] * 10)
        found = module.net.dehazing(2 * hazy - 1).inner_depth
        return float(mean_over(found - disparity, disparity > 0).detach())

    assert error(1.0) < 0.5 * error(0.0)


def test_features_of_hazy_pictures_come_near_to_those_of_clear_ones_where_asked_to(fitted: Fit) -> None:
    hazy, clear, disparity = batches(1)[0]

    def error(features: float) -> float:
        module = system(scheme="alone", features=features)
        module.config = override(module.config, ["learning_rate=3e-3"])
        fitted(module, [(hazy, clear, disparity)] * 10)
        net = module.net.dehazing
        return float(sum_of_l1(net.features(2 * hazy - 1), net.features(2 * clear - 1)).detach())

    assert error(1.0) < 0.7 * error(0.0)


def test_a_step_of_the_run_is_a_batch(fitted: Fit) -> None:
    """Though the paper's scheme takes two steps of optimisers for each."""
    for scheme in SCHEMES:
        module = system(scheme=scheme)
        assert fitted(module, batches(3)).global_step == 3
        schedules = _listed(module.lr_schedulers())
        assert [schedule.last_epoch for schedule in schedules] == [3] * (1 if scheme == "alone" else 2)


def test_the_gradient_is_clipped_for_each_network(fitted: Fit) -> None:
    module = system()
    module.config = override(module.config, ["clip_norm=1e-3"])
    fitted(module, batches(1))
    for net in (module.net.dehazing, module.net.depth_network):
        assert net is not None
        norm = torch.stack([g.norm() for g in gradients(net).values()]).norm()
        torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_a_loss_that_is_not_finite_ends_the_run(fitted: Fit) -> None:
    module = system()
    hazy, clear, disparity = batches(1)[0]
    with pytest.raises(Exception, match=r"is nan at step 0; lower learning_rate"):
        fitted(module, [(hazy, clear * torch.nan, disparity)])


# The contrastive term --------------------------------------------------------------------------------------------


def test_vgg_is_in_no_checkpoint_and_does_not_learn(tmp_path: Path, fitted: Fit) -> None:
    module = system(contrastive=0.5, vgg="random")
    vgg = module.contrast[0].vgg
    before = weights(vgg)
    trainer = fitted(module, batches(1))
    assert trainer.callback_metrics["train/contrast"] > 0
    assert moved(before, vgg) == set()
    trainer.save_checkpoint(tmp_path / "file.ckpt")
    saved = torch.load(tmp_path / "file.ckpt", weights_only=True)["state_dict"]
    assert not any("vgg" in name or "contrast" in name for name in saved)
    assert saved.keys() == system().state_dict().keys()


def test_the_contrastive_term_moves_the_dehazing_network_alone(fitted: Fit) -> None:
    plain, contrastive = system(), system(contrastive=1.0, vgg="random")
    for module in (plain, contrastive):
        fitted(module, batches(1))
    assert plain.net.depth_network is not None
    assert contrastive.net.depth_network is not None
    torch.testing.assert_close(
        gradients(plain.net.depth_network), gradients(contrastive.net.depth_network), rtol=0, atol=0
    )
    other = gradients(contrastive.net.dehazing)
    assert any(not torch.allclose(g, other[name]) for name, g in gradients(plain.net.dehazing).items())


def test_random_projections_belong_to_the_released_code_alone() -> None:
    for scheme in SCHEMES:
        loss = contrastive_loss(TwoTasks(scheme=scheme, contrastive=1, vgg="random"))  # type: ignore[arg-type]
        assert (loss.projections is not None) == (scheme in ("early", "official"))


# What cannot be trained ------------------------------------------------------------------------------------------


def test_a_model_without_a_second_task_is_refused() -> None:
    config = configured(model="nafnet_tiny", model_args={})
    with pytest.raises(UsageError, match=r"two_tasks is for DCMPNet; model=nafnet_tiny has no second task"):
        TwoTaskTraining(create_model("nafnet_tiny"), config)


def test_a_depth_branch_that_is_not_there_cannot_be_taught() -> None:
    config = configured(model_args=SMALL | {"depth_branch": False}, inner_depth=0.1)
    with pytest.raises(UsageError, match=r"two_tasks\.inner_depth teaches the depth branch"):
        TwoTaskTraining(create_model(config.model, **config.model_args).train(), config)


def test_the_inner_branch_can_start_from_a_trained_depth_network(tmp_path: Path) -> None:
    config = dataclasses.replace(configured(inner_init=True), init=tmp_path / "trained.safetensors")
    net = create_model(config.model, **config.model_args).train()
    inner, outer = net.dehazing.depth_branch, net.depth_network
    assert not torch.equal(inner.final.weight, outer.final.weight)
    module = TwoTaskTraining(net, config)
    averaged = module.average.module.dehazing.depth_branch
    for branch in (inner, averaged):
        assert all(torch.equal(a, b) for a, b in zip(branch.parameters(), outer.parameters(), strict=True))
    assert inner.final.weight is not outer.final.weight


@pytest.mark.parametrize("missing", ["init", "depth_branch", "depth_network"])
def test_the_inner_branch_starts_from_nothing_untrained(missing: str, tmp_path: Path) -> None:
    left_out = {missing: False} if missing != "init" else {}
    scheme = "alone" if missing == "depth_network" else "paper"
    config = configured(model_args=SMALL | left_out, inner_init=True, scheme=scheme)
    if missing != "init":
        config = dataclasses.replace(config, init=tmp_path / "trained.safetensors")
    with pytest.raises(UsageError, match=r"two_tasks\.inner_init .* set init to weights that have one"):
        TwoTaskTraining(create_model(config.model, **config.model_args).train(), config)


@pytest.mark.parametrize("setting", [{"departure": 0.3}, {"restraint": 0.5}])
def test_what_corrects_a_guess_is_refused_where_there_is_none(setting: dict[str, float]) -> None:
    config = configured(model_args=SMALL | {"reconstruction": "residual"}, **setting)
    with pytest.raises(
        UsageError, match=r"correct a guess .*; set two_tasks\.departure=0 and two_tasks\.restraint=1"
    ):
        TwoTaskTraining(create_model(config.model, **config.model_args).train(), config)


def test_a_loss_that_two_tasks_do_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"loss=psnr_luma is for plain restorers; .* take l1 or psnr"):
        override(configured(), ["loss=psnr_luma"])


def test_a_depth_network_that_is_never_trained_is_not_published() -> None:
    config = configured(scheme="alone")
    with pytest.raises(UsageError, match="a depth network that was never trained; leave it out"):
        TwoTaskTraining(create_model(config.model, **config.model_args).train(), config)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_without_its_depth_network_is_refused(scheme: str, fitted: Fit) -> None:
    config = configured(model_args=SMALL | {"depth_network": False}, scheme=scheme)
    net = create_model(config.model, **config.model_args).train()
    if scheme == "alone":
        module = TwoTaskTraining(net, config)
        before = weights(net)
        fitted(module, batches(3))  # the last layer starts at zero, and the first step of the warm-up too
        assert moved(before, net) == before.keys()
    else:
        with pytest.raises(
            UsageError, match=rf"two_tasks\.scheme={scheme} needs a depth network and model_args"
        ):
            TwoTaskTraining(net, config)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("two_tasks.contrastive=1", "two_tasks.contrastive needs VGG-19: set two_tasks.vgg to a file"),
        ("two_tasks.inner_depth=-1", "two_tasks.inner_depth=-1.0 must be a number of 0 or more"),
        ("two_tasks.consistency=-0.5", "two_tasks.consistency=-0.5 must be a number of 0 or more"),
        ("two_tasks.negatives=false", "two_tasks.negatives=false is of the contrastive loss"),
        ("two_tasks.vgg=random", "two_tasks.vgg=random is of the contrastive loss"),
        ("two_tasks.teacher_values=depth", "not of two_tasks.teacher=none; leave it out"),
        (
            'two_tasks={"scheme":"alone","teacher":"own:rgbd"}',
            "two_tasks.teacher=own:rgbd would do nothing: scheme=alone with inner_depth=0 learns no depth",
        ),
        ("two_tasks.scheme=offical", "--set two_tasks.scheme='offical': input should be 'paper', 'early'"),
        ("two_tasks.schem=paper", "unknown setting 'schem'; did you mean 'scheme'"),
        ("two_tasks.weighting=abs", "--set two_tasks.weighting='abs'"),
        ('two_tasks={"scheme":"paper","contrast":1}', "two_tasks.contrast=1: unexpected keyword"),
        ('sources.0={"path":"x","degradaton":"haze"}', "sources.0.degradaton='haze': unexpected keyword"),
        ("sources.0.linear=maybe", "sources.0.linear='maybe': input should be a valid boolean"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(RECIPES["dcmpnet_small"](), [setting])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_settings_of_the_two_tasks_survive_json() -> None:
    config = override(RECIPES["dcmpnet_small"](), ["two_tasks.scheme=official", "two_tasks.teacher=own:rgbd"])
    assert config.two_tasks is not None
    assert (config.two_tasks.scheme, config.two_tasks.teacher) == ("official", "own:rgbd")
    assert config.two_tasks.inner_depth == RECIPES["dcmpnet_small"]().two_tasks.inner_depth  # type: ignore[union-attr]
    assert from_plain(to_plain(config)) == config
    assert override(config, ["two_tasks=null"]).two_tasks is None


@pytest.mark.parametrize("tasks", [{"scheme": "paper"}, {"scheme": "alone", "inner_depth": 0.1}])
def test_no_depth_anywhere_is_refused(tasks: dict[str, Any]) -> None:
    config = RECIPES["dcmpnet_small"]()
    pairs = tuple(source for source in config.sources if isinstance(source, Pairs))
    settings = {
        "sources": pairs,
        "validation": config.validation,
        "recipe": "test",
        "model": "dcmpnet_small",
        "task": "dehaze",
    }
    with pytest.raises(UsageError, match=r"learns depth, and no source has any: .* two_tasks\.scheme=alone"):
        TrainConfig(**settings, steps=300, two_tasks=TwoTasks(**tasks))  # type: ignore[arg-type]
    for fine in (TwoTasks(scheme="alone"), TwoTasks(**tasks, teacher="own:rgbd")):
        assert TrainConfig(**settings, steps=300, two_tasks=fine).two_tasks == fine  # type: ignore[arg-type]


def test_whoever_learns_depth_has_the_teacher(data: Path) -> None:
    picture = data / "rgbd/train/rgb/000.png"
    for scheme, inner_depth in (("paper", 0.0), ("alone", 0.1)):
        config = override(
            configured(scheme=scheme, inner_depth=inner_depth, teacher="own:rgbd"), [f"data_root={data}"]
        )
        teacher = _teacher(config)
        assert teacher is not None
        assert teacher(picture) is not None
    assert _teacher(configured(scheme="alone")) is None


def test_patches_that_vgg_cannot_take_are_refused() -> None:
    tasks = json.dumps({"contrastive": 1, "vgg": "random"})
    settings = [f"two_tasks={tasks}", "init=null", "progressive=[[200, 12, 4]]"]
    with pytest.raises(UsageError, match=r"patch=12 is too small .* VGG-19 needs 16 pixels a side or more"):
        override(RECIPES["dcmpnet_small"](), settings)


def test_without_vgg_nothing_is_started(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for vgg, said in (("download", "cannot download .*vgg19"), ("none.pth", "no weights at none.pth")):
        tasks = json.dumps({"contrastive": 1, "vgg": vgg})
        config = override(
            RECIPES["dcmpnet_small"](), [f"two_tasks={tasks}", f"data_root={data}", "init=null"]
        )
        with pytest.raises(WeightsError, match=said) as caught:
            train(config, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe().two_tasks])
def test_no_picture_that_is_validated_is_trained_on(name: str) -> None:
    """In whatever form: hazy pictures, their clear ones, and pictures of scenes."""
    config = RECIPES[name]()
    for held in config.validation:
        for source in config.sources:
            if held.path == source.path or held.path in source.path.parents:
                assert held.keep
                assert set(held.keep) <= set(source.drop)


def test_a_depth_network_that_nothing_trains_is_refused() -> None:
    config = override(RECIPES["dcmpnet_small"](), ["two_tasks=null", "init=null"])
    with pytest.raises(
        UsageError, match=r"without two_tasks the depth network would be published .* never trained"
    ):
        system_of(create_model("dcmpnet_small", **DCMPNET), config)
    alone = create_model("dcmpnet_small", **DCMPNET | {"depth_network": False})
    assert type(system_of(alone, config)) is Restoration


def test_sources_that_are_never_drawn_bring_no_depth() -> None:
    config = RECIPES["dcmpnet_small"]()
    scenes = [i for i, source in enumerate(config.sources) if isinstance(source, Scenes)]
    with pytest.raises(UsageError, match="learns depth, and no source has any"):
        override(config, ["two_tasks.teacher=none", *(f"sources.{i}.weight=0" for i in scenes)])
