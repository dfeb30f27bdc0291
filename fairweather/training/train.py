"""Turn a configuration into objects and run it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import subprocess
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from fairweather.data.depth import Teacher
from fairweather.data.findings import JudgedPatches, JudgedPictures
from fairweather.data.patches import Patches, Pictures, Steps, Views
from fairweather.data.teachers import check_teacher, teacher
from fairweather.errors import DataError, PictureError, UsageError, WeightsError
from fairweather.files import cache_folder, written_whole
from fairweather.loading import witness_digests
from fairweather.models import ENCODER, create_model
from fairweather.models.dcmpnet import DCMPNet
from fairweather.runtime import keep_memory
from fairweather.training import RECIPES
from fairweather.training.checkpoints import Checkpoints, best_checkpoint, last_checkpoint, load_checkpoint
from fairweather.training.config import TrainConfig, from_plain, to_plain
from fairweather.training.dcmpnet import TwoTaskTraining
from fairweather.training.irconstyle import (
    RELEASED_CLASSES,
    TRAINING_ONLY,
    ConStyleTraining,
    Prompter,
    PrompterTraining,
    encoder_of,
    recalibrate_bn,
)
from fairweather.training.judge import JudgeTraining, WeighingTraining
from fairweather.training.nitedr import FusionTraining, fused_sources
from fairweather.training.restoration import Restoration
from fairweather.weights import read_weights, save_weights, sha256

log = logging.getLogger(__name__)

_OF_THE_MACHINE = {"data_root", "init", "device", "devices", "threads", "workers"}
"""Settings that say where a run took place and not what it learnt; nobody's business."""
CONFIG_FILE, COMMIT_FILE, WEIGHTS_FILE = "config.json", "commit", "weights.safetensors"


def train(config: TrainConfig, run: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Train, and write the best average as weights.

    The run's folder gets config.json, the code's commit, checkpoints/, TensorBoard and CSV logs, and at the end
    weights.safetensors.
    A run that was killed goes on from its last checkpoint exactly: on a CPU the weights are the same to the bit.

    Args:
        run: the run's folder; it must be new, unless `resume`.

    Returns:
        the weights file.

    Raises:
        UsageError: if the folder holds another run, or none to resume. DataError: for missing or unreadable data.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices found, tips
    _check(config, run, resume)
    keep_memory()
    torch.set_num_threads(config.threads)
    seed_everything(config.seed, verbose=False)
    module = system(network(config).train(), config)
    _check_batches(module.net, config)
    patches = training_set(config)
    held_back = validation_set(config)
    checkpoints = Checkpoints(
        run,
        every=config.checkpoint_every,
        validate_every=config.validate_every,
        steps=config.steps,
        monitor=module.monitor,
    )
    checkpoint = checkpoints.last_file if resume and checkpoints.last_file.exists() else None
    start = _steps_done(checkpoint, module) if checkpoint else 0
    if resume and checkpoints.best_file.exists():
        load_checkpoint(checkpoints.best_file)  # damage shows now, and not after the work
    if config.recalibrate_bn and not checkpoint:
        _recalibrate(module.net, patches, config)
    if not resume and is_first_process():
        _write_start(config, run)
    if isinstance(module, WeighingTraining):
        patches, held_back = module.gathered(patches, held_back, run)
    trainer = Trainer(
        accelerator=config.device,
        devices=config.devices,
        strategy=_strategy(config),
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=min(config.validate_every, config.steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=(config.clip_norm or None) if module.automatic_optimization else None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, config.steps),
        use_distributed_sampler=False,  # Steps shards by itself
        logger=[TensorBoardLogger(run, "tensorboard", ""), CSVLogger(run, "csv", f"from_step_{start}")],
        callbacks=[checkpoints, *([TQDMProgressBar(refresh_rate=10)] if progress else [])],
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    steps = Steps(
        batch=config.batch,
        start=start,
        rank=trainer.global_rank,
        processes=trainer.world_size,
        stages=config.progressive,
    )
    loader = DataLoader(
        patches,
        batch_sampler=steps,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    pictures = DataLoader(held_back, batch_size=1)
    try:
        trainer.fit(module, loader, pictures, ckpt_path=checkpoint, weights_only=True)
    except Exception as error:
        if progress:
            print()  # its bar leaves the line open
        if is_first_process():
            _clear_up(run)
        if not isinstance(error, DataError | PictureError):
            raise
        # Out of a worker process it comes with a traceback in its message.
        raise DataError(re.split(r"fairweather\.errors\.\w+: ", str(error).strip())[-1]) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    if config.steps % config.validate_every:  # the last steps, at the lowest rate, are candidates too
        trainer.validate(module, pictures, verbose=False)
    if trainer.is_global_zero:
        publish(config, run)
    return run / WEIGHTS_FILE


def network(config: TrainConfig) -> nn.Module:
    """The network of a configuration; where `init` is an encoder alone, the rest of it stays random.

    Raises:
        WeightsError: if the weights do not fit. UsageError: for an encoder where there is no ConStyle.
    """
    if config.pretrain:
        return Prompter(config.pretrain.classes or RELEASED_CLASSES)
    state, metadata = read_weights(config.init) if config.init else ({}, {})
    if metadata.get("model") != ENCODER:
        return create_model(config.model, weights=config.init, **config.model_args)
    net = create_model(config.model, **config.model_args)
    encoder = encoder_of(net)
    if encoder is None:
        raise UsageError(
            f"init={config.init} holds a ConStyle encoder, and model={config.model} has none; take a constyle_ model"
        )
    try:
        encoder.load_state_dict(state)
    except RuntimeError:
        raise WeightsError(f"{config.init} is no whole ConStyle encoder; train it again") from None
    log.info(f"the encoder of {config.model} is {config.init}; the rest starts from random weights")
    return net


def system(net: nn.Module, config: TrainConfig) -> Restoration:
    """What trains a network in the way that its configuration asks for."""
    if config.pretrain and isinstance(net, Prompter):
        return PrompterTraining(net, config)
    if config.task == "auto":
        return WeighingTraining(net, config) if config.evidence else JudgeTraining(net, config)
    if config.fusion:
        return FusionTraining(net, config)
    if config.contrast:
        return ConStyleTraining(net, config)
    if config.two_tasks:
        return TwoTaskTraining(net, config)
    if isinstance(net, DCMPNet) and net.depth_network is not None:
        raise UsageError(
            "without two_tasks the depth network would be published as it is, never trained; leave it out with "
            "--set 'model_args={\"depth_network\": false}'"
        )
    return Restoration(net, config)


def training_set(config: TrainConfig) -> Dataset[Any]:
    """The patches that a configuration asks for, as its system takes them; the log says what they are made of."""
    patches = Patches(
        fused_sources(config.sources, config) if config.fusion else config.sources,
        root=config.data_root,
        size=config.patch,
        seed=config.seed,
        zoom=config.zoom,
        edges=config.edges,
        teacher=_teacher(config),
    )
    if is_first_process():
        for line in patches.describe():
            log.info(line)
    if patches.teacher:
        check_teacher(patches.teacher, patches.taught(), needed=not config.brings_depth)
    if config.task == "auto":
        return JudgedPatches(config.sources, root=config.data_root, size=config.patch, seed=config.seed)
    if config.pretrain is None:
        return patches
    if not config.pretrain.classes:
        log.info("the pictures have no classes, so no cross entropy of them (--set pretrain.classes=N)")
    return Views(patches, classes=config.pretrain.classes)


def validation_set(config: TrainConfig) -> Dataset[Any]:
    """The whole pictures, held back from training, that the best checkpoint is chosen on."""
    if config.task == "auto":
        return JudgedPictures(config.validation, root=config.data_root)
    sources = fused_sources(config.validation, config) if config.fusion else config.validation
    return Pictures(sources, root=config.data_root)


def _steps_done(checkpoint: Path, module: nn.Module) -> int:
    """Of the run that a checkpoint is of, whose module this is.

    Raises:
        WeightsError: if it is damaged, or of another network.
    """
    held = load_checkpoint(checkpoint)
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in held["state_dict"].items()}
    if differing := sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)):
        name = differing[0]
        raise WeightsError(
            f"{checkpoint} is of another network than {CONFIG_FILE} says ({name} is {theirs.get(name, 'missing')}, "
            f"expected {ours.get(name, 'none')}); put {CONFIG_FILE} back as it was, or start a new run"
        )
    steps: int = held["global_step"]
    return steps


def _recalibrate(net: nn.Module, patches: Dataset[Any], config: TrainConfig) -> None:
    encoder = encoder_of(net)
    if encoder is None:
        raise UsageError(f"recalibrate_bn is for ConStyle and model={config.model} has none; set it to 0")
    numbers = Steps(batch=config.batch, stages=config.progressive)
    batches = islice(numbers, config.recalibrate_bn)
    recalibrate_bn(encoder, (default_collate([patches[i][0] for i in batch]) for batch in batches))


def _teacher(config: TrainConfig) -> Teacher | None:
    tasks = config.two_tasks
    if tasks is None or not tasks.learns_depth:
        return None
    return teacher(
        tasks.teacher, root=config.data_root, cache=cache_folder() / "depth", values=tasks.teacher_values
    )


def _check(config: TrainConfig, run: Path, resume: bool) -> None:
    """Refuse what cannot work before anything is written."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda: this machine has no CUDA device; use --set device=cpu")
    if config.init and not config.init.is_file():
        before = config.init.parent.name
        first = f"train that first (fairweather train {before}) or " if before in RECIPES else ""
        raise UsageError(
            f"{config.recipe} starts from {config.init}, which is no file; {first}give other weights with --set "
            "init=FILE"
        )
    if resume:
        saved_config(run)
    elif (run / CONFIG_FILE).exists() and is_first_process():
        raise UsageError(f"{run} already holds a run; use --resume to go on with it, or another --run")


def _strategy(config: TrainConfig) -> str:
    """How processes train together, by Lightning's names: some leave parameters out of a step's loss.

    Of two networks, only one is in the loss that takes a step; nor is an encoder that is held, nor all of one that is
    trained alone while its queue fills.
    """
    if config.devices == 1:
        return "auto"
    contrast = config.contrast
    held = config.freeze_after is not None
    filling = contrast is not None and config.pretrain is not None and contrast.fill_queue_first
    apart = config.two_tasks or config.fusion or held or filling
    return "ddp_find_unused_parameters_true" if apart else "ddp"


def _check_batches(net: nn.Module, config: TrainConfig) -> None:
    """Raises UsageError for batches of one where batch norm is left with a single value while the network learns."""
    sizes = ((config.patch, config.batch), *((stage.patch, stage.batch) for stage in config.progressive))
    alone = [patch for patch, batch in sizes if batch < 2]
    held = config.evidence or config.freeze_after == 0
    if alone and not held and any(isinstance(layer, nn.BatchNorm1d) for layer in net.modules()):
        raise UsageError("batch=1 must be 2 or more: the encoder learns with batch norm")
    if alone and isinstance(net, DCMPNet) and net.dehazing.smallest_map(min(alone)) < 2:
        raise UsageError(
            f"batch=1 with patch={min(alone)} leaves {config.model}'s batch norms a single value; take batch=2 or "
            "more, or a larger patch"
        )


def _clear_up(run: Path) -> None:
    """Take away what a run wrote that failed before its first checkpoint, so that it can be begun again."""
    if last_checkpoint(run).exists() or best_checkpoint(run).exists() or any(run.glob("evidence*")):
        return
    for name in (CONFIG_FILE, COMMIT_FILE):
        (run / name).unlink(missing_ok=True)
    for name in ("csv", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    with contextlib.suppress(OSError):  # what else is in it is not ours
        run.rmdir()


def is_first_process() -> bool:
    """Lightning starts the others by running the same command again; they must not write what the first has written."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _write_start(config: TrainConfig, run: Path) -> None:
    """What was asked for and with which code, before the first step."""
    run.mkdir(parents=True, exist_ok=True)
    (run / COMMIT_FILE).write_text(_commit() + "\n")
    with written_whole(run / CONFIG_FILE) as part:
        part.write_text(json.dumps(to_plain(config), indent=2) + "\n")


def saved_config(run: Path) -> TrainConfig:
    """The configuration that a run was started with."""
    file = run / CONFIG_FILE
    if not file.exists():
        raise UsageError(f"{run} holds no run: there is no {file.name} in it")
    try:
        return from_plain(json.loads(file.read_text()))
    except (json.JSONDecodeError, UsageError) as error:
        raise UsageError(f"{file} is damaged, or of other code ({error}); start the run anew") from None


def publish(config: TrainConfig, run: Path) -> Path:
    """Write the averaged weights of the best checkpoint as safetensors, with where they come from.

    The network alone: parts of the training, such as ConStyle's queue, are not published.
    """
    checkpoint = load_checkpoint(best_checkpoint(run))
    prefix = "average.module."
    average = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    state = {k: v for k, v in average.items() if not k.startswith(TRAINING_ONLY)}
    arguments = dict(config.model_args)
    if config.two_tasks and config.two_tasks.restraint != 1:
        arguments["restraint"] = config.two_tasks.restraint
    metadata = {
        "model": config.model,
        "model_args": json.dumps(arguments),
        "task": config.task,
        "recipe": config.recipe,
        "steps": str(checkpoint["global_step"]),
        "seed": str(config.seed),
        "commit": (run / COMMIT_FILE).read_text().strip(),
        "init_sha256": sha256(config.init) if config.init else "",
        "config": json.dumps(_told(config)),
    }
    if config.evidence:
        metadata["witnesses"] = json.dumps(witness_digests())
    path = run / WEIGHTS_FILE
    save_weights(state, path, metadata)
    return path


def _told(config: TrainConfig) -> dict[str, Any]:
    """The configuration without places on the machine."""
    plain = {k: v for k, v in to_plain(config).items() if k not in _OF_THE_MACHINE}
    if tasks := plain.get("two_tasks"):
        kind, colon, name = tasks["teacher"].partition(":")
        where = name if kind == "transformers" else Path(name).name
        tasks |= {"vgg": Path(tasks["vgg"]).name, "teacher": kind + colon + where}
    return plain


def _commit() -> str:
    """The code version of a run from a checkout, "-dirty" if it was changed since; empty otherwise."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
