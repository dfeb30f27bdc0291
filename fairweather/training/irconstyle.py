"""Training of networks with ConStyle: the pixel loss for the restorer, and contrast for its encoder.

IRConStyle, Fan, Zhao and Chang, arXiv 2402.15784; ConStyle v2, arXiv 2406.18242, which trains the encoder before any
restorer (`PrompterTraining`).

The encoder sees the degraded picture. A slow copy of it sees the clean one, and a queue keeps the vectors of earlier
degraded pictures (MoCo, arXiv 1911.05722, but with queries in the queue). Both exist in training only: the network
and its published weights know nothing of them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from fairweather.data.patches import Clear, Pairs
from fairweather.errors import UsageError
from fairweather.losses.constyle import class_divergence, content_loss, info_nce, queue_logits, style_loss
from fairweather.models import model_info
from fairweather.models.constyle import ConStyle, ConStyleRestorer, Style
from fairweather.models.layers import pad_to_multiple
from fairweather.training.config import OFFICIAL_CONTRAST, OFFICIAL_STEPS, Contrast, Pretrain, TrainConfig
from fairweather.training.dcmpnet import dcmpnet_small
from fairweather.training.restoration import (
    Restoration,
    deblur_small,
    denoise_start,
    derain_start,
    ema,
)
from fairweather.training.sets import BSDS, DIV2K

# The training-time parts ------------------------------------------------------------------------------------------


class Contrasted(NamedTuple):
    """What the losses of `losses/constyle.py` compare, in float32."""

    query: Style
    """Of the degraded pictures, in the precision of the encoder; the restorer takes it."""
    key: Float[Tensor, "b 128"]
    """The clean pictures' vectors by the slow copy; no gradient."""
    queue: Float[Tensor, "128 k"]
    """Earlier queries, without this step's; no gradient."""
    negatives: tuple[Float[Tensor, "b 128"], Float[Tensor, "b 128"]]
    """n0, the queue's columns that the next step overwrites, and n1, those that this one did."""


class Momentum(nn.Module):
    """The slow copy of an encoder, and the queue of earlier queries, shared by all processes.

    Args:
        encoder: what is copied. size: K, vectors in the queue. decay: m, how much of itself the copy keeps at a step.
    """

    queue: Tensor
    pushed: Tensor

    def __init__(self, encoder: ConStyle, *, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("queue", torch.randn(128, size))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def full(self) -> bool:
        """Whether the queue holds nothing but pictures' vectors."""
        return bool(self.pushed >= self.queue.shape[1])

    def forward(
        self, encoder: ConStyle, degraded: Float[Tensor, "b 3 h w"], clean: Float[Tensor, "b 3 h2 w2"]
    ) -> Contrasted:
        """One training call: both encoders run, the copy follows, the queue takes the queries of all processes."""
        query: Style = encoder(degraded)
        with torch.no_grad():
            # Parameters alone: the copy's batch norm has statistics of its own.
            torch._foreach_lerp_([*self.encoder.parameters()], [*encoder.parameters()], 1 - self.decay)
            key: Tensor = self.encoder(clean).vector.float()
            queue = self.queue.clone()  # the gradient of the products reads it later
            negatives = self.push(query.vector.float())
        return Contrasted(query, key, queue, negatives)

    @torch.no_grad()
    def push(self, vectors: Float[Tensor, "b 128"]) -> tuple[Tensor, Tensor]:
        """Put the vectors of all processes into the queue; this process's share of n0 and n1."""
        rank, processes = 0, 1
        together = [vectors]
        if dist.is_available() and dist.is_initialized():
            rank, processes = dist.get_rank(), dist.get_world_size()
            together = [torch.empty_like(vectors) for _ in range(processes)]
            dist.all_gather(together, vectors.contiguous())
        count = processes * len(vectors)
        at = (self.pushed + torch.arange(2 * count, device=vectors.device)) % self.queue.shape[1]
        columns = self.queue[:, at].T
        self.queue[:, at[:count]] = torch.cat(together).T
        self.pushed += count
        overwritten, following = (part.chunk(processes)[rank] for part in (columns[:count], columns[count:]))
        return following, overwritten


def contrast_terms(found: Contrasted, options: Contrast) -> dict[str, Tensor]:
    """The three losses by the names of their factors, before those."""
    hidden, vector = found.query.hidden.float(), found.query.vector.float()
    logits = queue_logits(
        vector, found.key, found.queue, temperature=options.temperature, normalize=options.normalize
    )
    return {
        "info_nce": info_nce(logits),
        "content": content_loss(vector, found.key),
        "style": style_loss((hidden, vector), found.negatives, gram=options.gram),
    }


# The systems ------------------------------------------------------------------------------------------------------


def encoder_of(net: nn.Module) -> ConStyle | None:
    """The ConStyle encoder that a network is or has."""
    found = net if isinstance(net, ConStyle) else getattr(net, "constyle", None)
    return found if isinstance(found, ConStyle) else None


class ConStyleTraining(Restoration):
    """A restorer with ConStyle: its pixel loss, and, until the encoder is held, the encoder's contrast."""

    net: ConStyleRestorer

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        encoder, contrast = encoder_of(net), config.contrast
        if encoder is None or contrast is None:
            raise UsageError(
                f"contrast is for networks with ConStyle and model={config.model} has none; take another, such as "
                "constyle_nafnet_small, or leave it out with --set contrast=null"
            )
        super().__init__(net, config)
        self.contrast = contrast
        self.momentum = Momentum(encoder, size=contrast.queue_size, decay=contrast.momentum)
        if contrast.official:
            self.average = ema(net, config.ema_decay, grow=False)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        degraded, target = (x.contiguous(memory_format=self.memory_format) for x in batch[:2])
        height, width = target.shape[-2:]
        padded = pad_to_multiple(degraded, model_info(self.config.model).multiple_of)
        style, contrast = self.contrasted(self.net.constyle, padded, target)
        restored = self.net.restore(padded, style)[..., :height, :width]
        loss = self.pixel_loss(restored, target)
        self.note("train/loss", loss)
        return loss + contrast

    def contrasted(self, encoder: ConStyle, degraded: Tensor, clean: Tensor) -> tuple[Style, Tensor]:
        """The style of degraded pictures, and the encoder's loss; 0 while it is held or the queue is being filled."""
        options, none = self.contrast, degraded.new_zeros(())
        after = self.config.freeze_after
        held = after is not None and self.global_step >= after
        encoder.requires_grad_(not held).train(not held or options.official)
        if held and not options.official:
            return encoder(degraded), none
        waiting = options.fill_queue_first and not self.momentum.full
        found: Contrasted = self.momentum(encoder, degraded, clean)
        if held or waiting:
            return found.query, none
        with torch.autocast(self.device.type, enabled=False):  # bf16 is too coarse for so low a temperature
            terms = contrast_terms(found, options)
        for name, term in terms.items():
            self.note(f"train/{name}", term)
        return found.query, torch.stack([getattr(options, name) * term for name, term in terms.items()]).sum()

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """The encoder and the rest apart: contrast makes gradients tens of times those of the pixel loss."""
        encoder, clip = encoder_of(self.net), self.config.clip_norm
        assert encoder
        own = {id(parameter) for parameter in encoder.parameters()}
        rest = [parameter for parameter in self.net.parameters() if id(parameter) not in own]
        for parameters in ([*encoder.parameters()], rest):
            if clip and parameters:
                nn.utils.clip_grad_norm_(parameters, clip)

    def on_before_backward(self, loss: Tensor) -> None:
        if self.contrast.official:
            self.average.update_parameters(self.net)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if self.contrast.official:  # the average has been taken
            LightningModule.optimizer_step(self, *args, **kwargs)
        else:
            super().optimizer_step(*args, **kwargs)


class Prompter(ConStyle):
    """The encoder with ConStyle v2's classifier of its pooled features, which exists in training only."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, classes)
        )


TRAINING_ONLY = "classifier."
"""What names of `Prompter`'s parts begin with that are not published."""
RELEASED_CLASSES = 1000
"""ImageNet's, and the size of the classifier where there are no classes: its divergence is a loss all the same."""


@contextmanager
def pooled(encoder: ConStyle) -> Iterator[list[Tensor]]:
    """The pooled features, (b, 256), of each forward pass inside.

    >>> encoder = ConStyle().eval()
    >>> with pooled(encoder) as features:
    ...     _ = encoder(torch.rand(2, 3, 32, 32))
    >>> features[0].shape
    torch.Size([2, 256])
    """
    seen: list[Tensor] = []
    handle = encoder.mlp1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


class PrompterTraining(ConStyleTraining):
    """The encoder alone, before any restorer: contrast, and classes as far as they are known (ConStyle v2)."""

    net: Prompter  # type: ignore[assignment]
    monitor = "val/match"

    def __init__(self, net: Prompter, config: TrainConfig) -> None:
        super().__init__(net, config)
        self.vectors: list[list[Tensor]] = []
        """Of the validation pictures: degraded, and clean."""

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        degraded, clean = (x.contiguous(memory_format=self.memory_format) for x in batch[:2])
        pretrain, slow = self.config.pretrain, self.momentum.encoder
        assert pretrain
        assert isinstance(slow, Prompter)
        with pooled(self.net) as features, pooled(slow) as clean_features:
            loss = self.contrasted(self.net, degraded, clean)[1]
        found = self.net.classifier(features[0]).float()
        with torch.no_grad():
            expected = slow.classifier(clean_features[0]).float()
        divergence = class_divergence(found, expected)
        self.note("train/divergence", divergence)
        loss = loss + pretrain.divergence * divergence
        if pretrain.classes and self.global_step < pretrain.class_steps:
            classes = F.cross_entropy(found, batch[2])
            self.note("train/classes", classes)
            loss = loss + classes
        self.note("train/loss", loss)
        return loss

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            self.vectors.append([F.normalize(self.average.module(x).vector) for x in batch[:2]])

    def on_validation_epoch_end(self) -> None:
        """How well a degraded picture's vector finds its clean one's among all: mean log probability, at most 0."""
        degraded, clean = (torch.cat(vectors) for vectors in zip(*self.vectors, strict=True))
        self.vectors.clear()
        own = torch.arange(len(degraded), device=degraded.device)
        self.log("val/match", -F.cross_entropy(degraded @ clean.T / self.contrast.temperature, own))


def recalibrate_bn(encoder: ConStyle, batches: Iterable[Tensor]) -> None:
    """Compute the running statistics of batch norm anew: their means over these batches of pictures.

    The averages that IRConStyle's authors publish hold mean 0 and variance 1 instead.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm1d)]
    before, momenta = encoder.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain means
    encoder.train()
    with torch.no_grad():
        for pictures in batches:
            encoder(pictures)
    encoder.train(before)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# Recipes ----------------------------------------------------------------------------------------------------------


def _small(recipe: str, plain: TrainConfig) -> TrainConfig:
    """A plain recipe with a small network with ConStyle, whose encoder is held after the release's share of steps."""
    return dataclasses.replace(
        plain,
        recipe=recipe,
        model="constyle_nafnet_small",
        contrast=Contrast(
            # Full after 480 steps, and a multiple of what two or four processes take.
            queue_size=480 * plain.batch,
            freeze_after="released",
        ),
        steps=plain.decay_steps or plain.steps,
        decay_steps=None,
    )


def constyle_derain() -> TrainConfig:
    """derain_start's rain, with ConStyle; for the plain network --set model=nafnet_small --set contrast=null."""
    return _small("constyle_derain", derain_start())


def constyle_denoise() -> TrainConfig:
    """denoise_start's noise, with ConStyle; for the plain network --set model=nafnet_small --set contrast=null."""
    return _small("constyle_denoise", denoise_start())


def constyle_deblur() -> TrainConfig:
    """deblur_small's blur, with ConStyle; for the plain network --set model=nafnet_small --set contrast=null."""
    plain = dataclasses.replace(
        deblur_small(), init=None, batch=8, steps=4000, warmup=200, validate_every=500
    )
    return _small("constyle_deblur", plain)


def constyle_dehaze() -> TrainConfig:
    """dcmpnet_small's haze on smaller patches, with ConStyle and without depth.

    For the plain network --set model=nafnet_small --set contrast=null.
    """
    plain = dataclasses.replace(dcmpnet_small(), two_tasks=None, patch=192, batch=4, steps=4000, warmup=200)
    return _small("constyle_dehaze", plain)


def constyle_official() -> TrainConfig:
    """The release's schedule and losses to the number, for pairs of your own in DIR/train and DIR/val.

    703,632 iterations of 16 patches of 128 pixels in fp32, 3e-4 for 243,312 of them, then a cosine to 1e-6, no warm-up,
    no clipping. Written for deraining. With Restormer's blocks the release takes 8 patches, but 16 for dehazing and for
    plain blind denoising.
    """
    return TrainConfig(
        recipe="constyle_official",
        model="constyle_nafnet",
        task="derain",
        sources=(Pairs(path=Path("train")),),
        validation=(Pairs(path=Path("val")),),
        contrast=OFFICIAL_CONTRAST,
        steps=OFFICIAL_STEPS,
        decay_steps=OFFICIAL_STEPS + 1,  # its last iteration is one step before the end of the cosine
        hold=243_312,
        warmup=0,
        learning_rate=3e-4,
        final_learning_rate=1e-6,
        betas=(0.9, 0.999),
        clip_norm=0,
        batch=16,
        patch=128,
        precision="fp32",
        workers=8,
        seed=10,
        validate_every=5000,
        checkpoint_every=5000,
    )


def constyle_pretrain() -> TrainConfig:
    """ConStyle v2's encoder before any restorer, by its numbers: 400,000 steps of 32 views of 224 pixels.

    The release takes ImageNet, with --set pretrain.classes=1000. What comes out is for init of any constyle_ network,
    with contrast.freeze_after=0.
    """
    return TrainConfig(
        recipe="constyle_pretrain",
        model="constyle",
        task="encode",
        sources=(
            Clear(path=BSDS / "train", degradation="mixed", weight=0.32),
            Clear(path=BSDS / "test", degradation="mixed", weight=0.48),
            Clear(path=DIV2K, degradation="mixed", weight=0.2),
        ),
        validation=(Clear(path=BSDS / "val", degradation="mixed"),),
        contrast=Contrast(fill_queue_first=False),
        pretrain=Pretrain(),
        steps=400_000,
        warmup=0,
        learning_rate=3e-4,
        final_learning_rate=1e-4,
        betas=(0.9, 0.999),
        batch=32,
        patch=224,
        zoom=(0.5, 1.0),
        validate_every=5000,
        checkpoint_every=1000,
    )
