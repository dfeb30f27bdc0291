"""Training of a plain restorer: one network, degraded picture in, clear picture out.

The LightningModule is short, and the recipes are at the bottom.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from fairweather.data.patches import Clear, Pairs, Source, Stage
from fairweather.errors import FairweatherError
from fairweather.losses.pixel import pixel_loss
from fairweather.metrics import luma_bt601, psnr
from fairweather.models import model_info, restored
from fairweather.models.layers import pad_to_multiple
from fairweather.training.config import TrainConfig
from fairweather.training.schedules import warmup_cosine
from fairweather.training.sets import BSDS, DIV2K, ROADSCENE, ROADSCENE_HELD


def ema(net: nn.Module, decay: float, *, grow: bool = True) -> AveragedModel:
    """Exponential moving average of the weights; buffers are copied (IRConStyle's release forgets them).

    Args:
        grow: let the decay grow from 0.1 to its value over the first steps, so that the start is soon forgotten.
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        weight = min(decay, (1 + int(count)) / (10 + int(count))) if grow else decay
        torch._foreach_lerp_(averaged, current, 1 - weight)

    return AveragedModel(net, multi_avg_fn=update).requires_grad_(False)


def optimizer(net: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """AdamW with warm-up and cosine, as Lightning wants it."""
    adamw = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    schedule = LambdaLR(
        adamw,
        lambda step: warmup_cosine(
            step,
            steps=config.decay_steps or config.steps,
            warmup=config.warmup,
            hold=config.hold,
            peak=1.0,
            final=config.final_learning_rate / config.learning_rate,
        ),
    )
    return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Restoration(LightningModule):
    """Trains `net`, keeps its average, and validates the average on whole pictures."""

    monitor = "val/psnr"
    """The score that the best checkpoint is chosen by."""
    memory_format = torch.channels_last
    """How pictures lie in memory; convolutions on a CPU are faster so."""

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.net = net
        convert_conv2d_weight_memory_format(self.net, self.memory_format)
        self.average = ema(self.net, config.ema_decay)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        degraded, target = (x.contiguous(memory_format=self.memory_format) for x in batch[:2])
        loss = self.pixel_loss(restored(self.net, degraded), target)
        self.note("train/loss", loss)
        return loss

    def pixel_loss(self, restored: Tensor, target: Tensor) -> Tensor:
        """The recipe's loss, in float32 whatever the network's precision."""
        c = self.config
        return pixel_loss(restored.float(), target, loss=c.loss, ceiling=c.psnr_ceiling, fft=c.fft)

    def note(self, name: str, loss: Tensor) -> None:
        """Log a loss; one that is not finite ends the run."""
        if not loss.isfinite():
            raise FairweatherError(
                f"{name} is {loss.item()} at step {self.global_step}; lower learning_rate or clip_norm"
            )
        self.log(name, loss.detach(), prog_bar=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end, which comes after a checkpoint of the same step was written.
        self.average.update_parameters(self.net)

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        """As the product restores: fp32, padded by reflection, rounded to 8 bit."""
        degraded, target = batch[:2]
        padded = pad_to_multiple(degraded, model_info(self.config.model).multiple_of)
        with torch.autocast(self.device.type, enabled=False):
            y = restored(self.average.module, padded.contiguous(memory_format=torch.channels_last))
        y = y[..., : target.shape[-2], : target.shape[-1]].clamp(0, 1).mul(255).round().div(255)
        if self.config.validation_channel == "y":
            scores = psnr(luma_bt601(y), luma_bt601(target), data_range=255)
        else:
            scores = psnr(y, target)
        # One clear picture left as it is would outweigh all others.
        scores = scores.clamp(max=50)
        self.log("val/psnr", scores.mean(), prog_bar=True, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> Any:
        return optimizer(self.net, self.config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            checkpoint["rng_of_gpu"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["rng"])
        if "rng_of_gpu" in checkpoint and torch.cuda.is_available():
            torch.cuda.set_rng_state(checkpoint["rng_of_gpu"])  # the network is still on the CPU here


# Recipes ---------------------------------------------------------------------------------------------------------


def derain_start() -> TrainConfig:
    """First stage of derain_small, half of it wide rain; it stops early in its cosine."""
    return TrainConfig(
        recipe="derain_start",
        model="nafnet_small",
        task="derain",
        validation_channel="y",
        sources=(
            # RoadScene's rain always falls from the upper right: a half turn keeps that, a flip would not.
            Pairs(path=ROADSCENE, split="train", drop=ROADSCENE_HELD, weight=0.4, augment="half_turn"),
            Clear(
                path=ROADSCENE / "train/Vis/target",
                degradation="roadscene_rain",
                drop=ROADSCENE_HELD,
                weight=0.15,
                augment="half_turn",
            ),
            Clear(path=BSDS / "train", degradation="rain", weight=0.14),
            Clear(path=BSDS / "test", degradation="rain", weight=0.21),
            Clear(path=DIV2K, degradation="rain", weight=0.1),
        ),
        validation=(
            Pairs(path=ROADSCENE, split="train", keep=ROADSCENE_HELD),
            Clear(path=BSDS / "val", degradation="rain", keep=((0, 9),)),
        ),
        steps=2000,
        decay_steps=6500,
    )


def _mixed(sources: Sequence[Source], *, pairs: float, fresh: float) -> tuple[Source, ...]:
    """RoadScene-rain's pairs, the same rain freshly drawn, and wide rain for the rest in its own proportions."""
    own, drawn, *wide = sources
    rest = (1 - pairs - fresh) / sum(source.weight for source in wide)
    shares = [(own, pairs), (drawn, fresh), *((source, source.weight * rest) for source in wide)]
    return tuple(dataclasses.replace(source, weight=share) for source, share in shares)


def derain_small() -> TrainConfig:
    """Rain by day and night: RoadScene-rain's own rain, the same rain freshly drawn, and our wide generator."""
    start = derain_start()
    return dataclasses.replace(
        start,
        recipe="derain_small",
        sources=_mixed(start.sources, pairs=0.5, fresh=0.2),
        init=Path("runs/derain_start/weights.safetensors"),
        loss="psnr",
        steps=6500,
        decay_steps=None,
        warmup=100,
    )


def derain_long() -> TrainConfig:
    """Third stage of derain_small: more of the same, other patches, larger ones towards the end."""
    return dataclasses.replace(
        derain_small(),
        recipe="derain_long",
        init=Path("runs/derain_small/weights.safetensors"),
        learning_rate=8e-4,
        steps=12500,
        progressive=(Stage(7500, 96, 8), Stage(10500, 128, 5)),
        patch=192,
        batch=2,
        seed=1,
    )


def derain_finish() -> TrainConfig:
    """Fourth stage of derain_small: twice the patches, more of its own rain, and the luma counted twice."""
    before = derain_long()
    return dataclasses.replace(
        before,
        recipe="derain_finish",
        sources=_mixed(before.sources, pairs=0.56, fresh=0.2),
        init=Path("runs/derain_long/weights.safetensors"),
        loss="psnr_luma",
        learning_rate=1e-3,
        steps=10200,
        progressive=(Stage(6000, 96, 16), Stage(8700, 128, 10)),
        batch=4,
        seed=2,
    )


def derain_lamps() -> TrainConfig:
    """Fifth stage of derain_small: more of the wide rain, since its nights have lamps with halos."""
    before = derain_finish()
    return dataclasses.replace(
        before,
        recipe="derain_lamps",
        sources=_mixed(before.sources, pairs=0.5, fresh=0.18),
        init=Path("runs/derain_finish/weights.safetensors"),
        learning_rate=6e-4,
        steps=5600,
        progressive=(Stage(3300, 96, 16), Stage(4800, 128, 10)),
        seed=3,
    )


def denoise_start() -> TrainConfig:
    """First stage of denoise_small."""
    return TrainConfig(
        recipe="denoise_start",
        model="nafnet_small",
        task="denoise",
        sources=(
            Clear(path=BSDS / "train", degradation="noise", weight=0.32),
            Clear(path=BSDS / "test", degradation="noise", weight=0.48),
            Clear(path=DIV2K, degradation="noise", weight=0.2),
        ),
        validation=(Clear(path=BSDS / "val", degradation="noise", keep=((0, 9),)),),
        steps=6500,
    )


def denoise_small() -> TrainConfig:
    """Colour noise of any strength up to sigma 55, one network for all."""
    return dataclasses.replace(
        denoise_start(),
        recipe="denoise_small",
        init=Path("runs/denoise_start/weights.safetensors"),
        loss="psnr",
        learning_rate=6e-4,
        steps=3400,
        warmup=100,
        seed=1,  # other patches than the first stage saw
    )


def denoise_camera() -> TrainConfig:
    """Third stage of denoise_small: noise as cameras make it, too, which is coarse, coloured and went through JPEG."""
    before = denoise_small()
    made = [
        dataclasses.replace(source, degradation="camera_noise", weight=0.4 * source.weight)
        for source in before.sources
        if isinstance(source, Clear)
    ]
    held_back = Clear(path=BSDS / "val", degradation="camera_noise", keep=((10, 19),))
    return dataclasses.replace(
        before,
        recipe="denoise_camera",
        sources=(*before.sources, *made),
        validation=(*before.validation, held_back),
        init=Path("runs/denoise_small/weights.safetensors"),
        learning_rate=4e-4,
        steps=3500,
        seed=2,
    )


def denoise_long() -> TrainConfig:
    """Fourth stage of denoise_small: twice the patches, larger ones towards the end."""
    return dataclasses.replace(
        denoise_camera(),
        recipe="denoise_long",
        init=Path("runs/denoise_camera/weights.safetensors"),
        learning_rate=8e-4,
        steps=5600,
        progressive=(Stage(3300, 96, 16), Stage(4800, 128, 10)),
        patch=192,
        batch=4,
        seed=3,
    )


def _times_camera(sources: Sequence[Source], factor: float) -> tuple[Source, ...]:
    """The noise of cameras so many times as often."""

    def share(source: Source) -> float:
        camera = isinstance(source, Clear) and source.degradation == "camera_noise"
        return source.weight * (factor if camera else 1)

    return tuple(dataclasses.replace(source, weight=share(source)) for source in sources)


def denoise_coarse() -> TrainConfig:
    """Fifth stage of denoise_small: half of it noise as cameras make it, which has coarse blotches now."""
    before = denoise_long()
    return dataclasses.replace(
        before,
        recipe="denoise_coarse",
        sources=_times_camera(before.sources, 2.5),
        init=Path("runs/denoise_long/weights.safetensors"),
        learning_rate=6e-4,
        steps=2000,
        progressive=(Stage(1400, 96, 16),),
        patch=128,
        batch=10,
        seed=4,
    )


def denoise_finish() -> TrainConfig:
    """Sixth stage of denoise_small: more of the same, of which two thirds are white noise again."""
    before = denoise_coarse()
    return dataclasses.replace(
        before,
        recipe="denoise_finish",
        sources=_times_camera(before.sources, 0.5),
        init=Path("runs/denoise_coarse/weights.safetensors"),
        learning_rate=8e-4,
        steps=9000,
        progressive=(Stage(6400, 96, 16), Stage(8200, 128, 10)),
        patch=192,
        batch=4,
        seed=5,
    )


def denoise_longer() -> TrainConfig:
    """Seventh stage of denoise_small: more of the same, from a lower rate."""
    return dataclasses.replace(
        denoise_finish(),
        recipe="denoise_longer",
        init=Path("runs/denoise_finish/weights.safetensors"),
        learning_rate=6e-4,
        steps=5600,
        progressive=(Stage(3900, 96, 16), Stage(5000, 128, 10)),
        seed=6,
    )


def denoise_last() -> TrainConfig:
    """Eighth stage of denoise_small: four fifths white noise, larger patches from the first step."""
    before = denoise_longer()
    return dataclasses.replace(
        before,
        recipe="denoise_last",
        sources=_times_camera(before.sources, 0.5),
        init=Path("runs/denoise_longer/weights.safetensors"),
        learning_rate=5e-4,
        steps=9200,
        progressive=(Stage(6200, 128, 10),),
        seed=7,
    )


def denoise_settle() -> TrainConfig:
    """Ninth stage of denoise_small: the same from a lower rate, the larger patches for its second half."""
    return dataclasses.replace(
        denoise_last(),
        recipe="denoise_settle",
        init=Path("runs/denoise_last/weights.safetensors"),
        learning_rate=4e-4,
        steps=6400,
        progressive=(Stage(3200, 128, 10),),
        seed=8,
    )


def denoise_tiny() -> TrainConfig:
    """The smallest denoiser, for trying things out."""
    return dataclasses.replace(denoise_start(), recipe="denoise_tiny", model="nafnet_tiny", steps=3000)


def deblur_small() -> TrainConfig:
    """Blur of a moving camera, and what is sharp left alone; from the weights of the denoiser."""
    return TrainConfig(
        recipe="deblur_small",
        model="nafnet_small",
        task="deblur",
        sources=(
            Clear(path=BSDS / "train", degradation="shake", weight=0.33),
            Clear(path=BSDS / "test", degradation="shake", weight=0.5),
            Clear(path=DIV2K, degradation="shake", weight=0.17),
        ),
        validation=(Clear(path=BSDS / "val", degradation="shake", keep=((0, 11),)),),
        init=Path("runs/denoise_coarse/weights.safetensors"),
        loss="psnr",
        patch=128,
        batch=10,
        steps=9000,
        warmup=100,
        validate_every=1000,
    )


def deblur_long() -> TrainConfig:
    """Second stage of deblur_small: more steps, on fewer and larger patches: blur needs context."""
    return dataclasses.replace(
        deblur_small(),
        recipe="deblur_long",
        init=Path("runs/deblur_small/weights.safetensors"),
        learning_rate=8e-4,
        patch=176,
        batch=4,
        steps=11000,
        seed=1,
    )
