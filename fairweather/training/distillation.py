"""Training of a plain restorer by a better one beside the clear pictures.

Late in training a small network is held back less by its size than by the noise of its gradient: most of what a patch
says is what nobody could know of it. A teacher's result leaves that out. The teacher here is averaged over the
orientations of a patch, which makes it better than itself, and each of them is a patch to learn from (ours).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairweather.ensemble import ORIENTATIONS, ensembled, turned
from fairweather.errors import UsageError
from fairweather.losses.pixel import taught_psnr_loss
from fairweather.models import from_file, restored
from fairweather.models.inference import for_inference
from fairweather.training.config import Distillation, TrainConfig
from fairweather.training.restoration import Restoration


class DistillationTraining(Restoration):
    """Trains `net` by what the teacher makes of a batch, in all its orientations."""

    def __init__(self, net: nn.Module, config: TrainConfig, distillation: Distillation) -> None:
        super().__init__(net, config)
        self.distillation = distillation
        teacher, metadata = from_file(distillation.teacher)
        if (task := metadata.get("task", config.task)) != config.task:
            raise UsageError(
                f"{distillation.teacher} was trained to {task} and cannot teach to {config.task}"
            )
        # Not registered: it is neither trained, nor in checkpoints, nor shared among processes.
        self._teacher = [for_inference(teacher).requires_grad_(False)]

    def on_fit_start(self) -> None:
        self._teacher[0].to(self.device)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        degraded, target = (x.contiguous(memory_format=self.memory_format) for x in batch[:2])
        count = self.distillation.ensemble
        taught = self._taught(degraded, count)
        degraded, target, taught = (in_orientations(x, count) for x in (degraded, target, taught))
        loss = taught_psnr_loss(
            restored(self.net, degraded).float(),
            target,
            taught,
            doubt=self.distillation.doubt,
            ceiling=self.config.psnr_ceiling,
        )
        self.note("train/loss", loss)
        return loss

    @torch.no_grad()
    def _taught(self, degraded: Tensor, count: int) -> Tensor:
        return ensembled(lambda x: restored(self._teacher[0], x).float(), degraded, count=count)


def in_orientations(x: Tensor, count: int) -> Tensor:
    """Square patches (b, c, n, n) in so many orientations: (count * b, c, n, n), as `ensembled` takes them."""
    together = torch.cat([turned(x, turns, mirrored) for turns, mirrored in ORIENTATIONS[:count]])
    return together.contiguous(memory_format=torch.channels_last)
