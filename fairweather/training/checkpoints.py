"""When a run is saved: regularly, and after each validation that was the best so far."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fairweather.errors import WeightsError

log = logging.getLogger(__name__)


def last_checkpoint(run: Path) -> Path:
    """What a run goes on from."""
    return run / "checkpoints" / "last.ckpt"


def best_checkpoint(run: Path) -> Path:
    """What is published of a run."""
    return run / "checkpoints" / "best.ckpt"


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Raises WeightsError for a damaged one."""
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        found["state_dict"], found["global_step"]
    except Exception as error:  # of many classes, by where it is damaged
        raise WeightsError(
            f"{file} is damaged ({type(error).__name__}); take a copy of it, or start a new run"
        ) from None
    return found


class Checkpoints(Callback):
    """Keeps `last.ckpt`, to go on from, and `best.ckpt`, to publish.

    A checkpoint of a step that is validated is written after its validation: a run killed in between goes back to
    the checkpoint before, and so neither loses nor repeats a score. Files are put in place whole.

    Args:
        run: the run's folder.
        every: steps between checkpoints. validate_every: steps between validations. steps: of the whole run.
        monitor: the score that decides which is best; more is better.
    """

    def __init__(
        self, run: Path, *, every: int, validate_every: int, steps: int, monitor: str = "val/psnr"
    ) -> None:
        self.last_file, self.best_file = last_checkpoint(run), best_checkpoint(run)
        self.every, self.validate_every, self.steps = every, validate_every, steps
        self.monitor = monitor
        self.best: float | None = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        validated = step % self.validate_every == 0 or step == self.steps
        if step % self.every == 0 and not validated:
            self._save(trainer, self.last_file)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        score = float(trainer.callback_metrics[self.monitor])
        if self.best is None or score > self.best:
            self.best = score
            self._save(trainer, self.best_file)
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer, self.last_file)

    def _save(self, trainer: Trainer, file: Path) -> None:
        # Beside its place and not in the system's temporary folder, from where it might have to be copied.
        part = file.with_name(f".{file.name}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, file)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
