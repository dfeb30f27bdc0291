"""When a run is saved: regularly, and after each validation that was the best so far."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Keeps `last.ckpt`, to go on from, and `best.ckpt`, to publish.

    A checkpoint of a step that is validated is written after its validation: a run killed in between goes back to
    the checkpoint before, and so neither loses nor repeats a score. Files are put in place whole.

    Args:
        folder: where the two files lie.
        every: steps between checkpoints. validate_every: steps between validations. steps: of the whole run.
        monitor: the score that decides which is best; more is better.
    """

    def __init__(
        self, folder: Path, *, every: int, validate_every: int, steps: int, monitor: str = "val/psnr"
    ) -> None:
        self.folder, self.every, self.validate_every, self.steps = folder, every, validate_every, steps
        self.monitor = monitor
        self.best: float | None = None

    @property
    def last_file(self) -> Path:
        """What a run goes on from."""
        return self.folder / "last.ckpt"

    @property
    def best_file(self) -> Path:
        """What is published."""
        return self.folder / "best.ckpt"

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
