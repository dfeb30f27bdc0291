"""Turn a configuration into objects and run it."""

from __future__ import annotations

import json
import logging
import subprocess
import warnings
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from fairweather.data.patches import Patches, Pictures, Sample, Steps
from fairweather.errors import UsageError
from fairweather.models import create_model
from fairweather.runtime import keep_memory
from fairweather.training.config import TrainConfig, from_plain, to_plain
from fairweather.training.restoration import Restoration
from fairweather.weights import save_weights

log = logging.getLogger(__name__)


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
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    checkpoint = _prepare(config, run, resume)
    keep_memory()
    torch.set_num_threads(config.threads)
    seed_everything(config.seed, verbose=False)
    net = create_model(config.model, weights=config.init, **config.model_args).train()
    module = Restoration(net, config)
    best = ModelCheckpoint(
        run / "checkpoints", "best", monitor="val/psnr", mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(
        run / "checkpoints", "last", every_n_train_steps=config.checkpoint_every, enable_version_counter=False
    )
    start = torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint else 0
    trainer = Trainer(
        accelerator=config.device,
        devices=config.devices,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        gradient_clip_val=config.clip_norm or None,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        use_distributed_sampler=False,  # Steps shards by itself
        logger=[TensorBoardLogger(run, "tensorboard", ""), CSVLogger(run, "csv", f"from_step_{start}")],
        callbacks=[best, last, *([TQDMProgressBar(refresh_rate=10)] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    trainer.fit(
        module, _patches(config, trainer, start), _pictures(config), ckpt_path=checkpoint, weights_only=True
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    return publish(config, run)


def _prepare(config: TrainConfig, run: Path, resume: bool) -> Path | None:
    """Make the run's folder, or find the checkpoint to go on from."""
    saved, checkpoint = run / "config.json", run / "checkpoints" / "last.ckpt"
    if not resume:
        if saved.exists():
            raise UsageError(f"{run} already holds a run; use --resume to go on with it, or another --run")
        run.mkdir(parents=True, exist_ok=True)
        saved.write_text(json.dumps(to_plain(config), indent=2) + "\n")
        (run / "commit").write_text(_commit() + "\n")
        return None
    if not saved.exists():
        raise UsageError(f"{run} holds no run to resume: there is no {saved.name} in it")
    return checkpoint if checkpoint.exists() else None


def saved_config(run: Path) -> TrainConfig:
    """The configuration that a run was started with."""
    file = run / "config.json"
    if not file.exists():
        raise UsageError(f"{run} holds no run: there is no config.json in it")
    return from_plain(json.loads(file.read_text()))


def _patches(config: TrainConfig, trainer: Trainer, start: int) -> DataLoader[Sample]:
    patches = Patches(config.sources, root=config.data_root, size=config.patch, seed=config.seed)
    steps = Steps(batch=config.batch, start=start, rank=trainer.global_rank, processes=trainer.world_size)
    return DataLoader(
        patches,
        batch_sampler=steps,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _pictures(config: TrainConfig) -> DataLoader[Sample]:
    return DataLoader(Pictures(config.validation, root=config.data_root), batch_size=1)


def publish(config: TrainConfig, run: Path) -> Path:
    """Write the averaged weights of the best checkpoint as safetensors, with where they come from."""
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    prefix = "average.module."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    score = next(
        c["best_model_score"] for c in checkpoint["callbacks"].values() if c["monitor"] == "val/psnr"
    )
    metadata = {
        "model": config.model,
        "model_args": json.dumps(config.model_args),
        "task": config.task,
        "recipe": config.recipe,
        "steps": str(checkpoint["global_step"]),
        "seed": str(config.seed),
        "commit": (run / "commit").read_text().strip(),
        "validation": f"{float(score):.3f} dB",
    }
    path = run / "weights.safetensors"
    save_weights(state, path, metadata)
    return path


def _commit() -> str:
    """The code version of a run from a checkout; empty from an installed package."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
