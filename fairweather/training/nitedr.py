"""Training of FusionNet, NiteDR's second stage: fusion, and a refinement that learns from its results.

NiteDR, arXiv 2402.18172. No picture is the right answer: the losses (losses/fusion.py) compare the fused picture with
its two sources, and the illumination with the picture that it was found in. The refined picture goes through both
networks again, `cascades` times.

Where we differ: both cameras are cropped alike (the release cropped them apart), the visible picture keeps its colour
and its range through all cascades, batch norms learn in every epoch, one forward pass makes one step, and the rate
falls over the whole run. `fusion.official` does as the release does in all but the crops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fairweather.data.night import cleaned_pairs, find_triples
from fairweather.data.patches import Pairs, Source
from fairweather.errors import UsageError
from fairweather.files import cache_folder
from fairweather.images import Picture, read_picture
from fairweather.loading import load
from fairweather.losses.fusion import (
    LAST_LEVELS,
    FusionTerms,
    fusion_terms,
    refinement_terms,
    source_weights,
)
from fairweather.losses.vgg import load_vgg
from fairweather.models.fusionnet import (
    GREY,
    FusionNet,
    official_ycrcb_to_rgb,
    rgb_to_ycrcb,
    ycrcb_to_rgb,
)
from fairweather.pipeline import Restorer
from fairweather.training.config import Fusion, TrainConfig
from fairweather.training.restoration import Restoration, derain_start, optimizer
from fairweather.training.sets import ROADSCENE, ROADSCENE_HELD

# The step, in functions ------------------------------------------------------------------------------------------


class Fused(NamedTuple):
    """What one cascade made, without gradient."""

    rgb: Tensor
    """The fused picture, (b, 3, h, w), nominally in [0, 1]."""
    following: Tensor
    """The visible picture of the next cascade, Y, Cr, Cb in [-1, 1]."""


def fusion_loss(
    luma: Tensor, seen: Tensor, heat: Tensor, weights: Tensor, options: Fusion
) -> tuple[Tensor, FusionTerms]:
    """The loss of a fused luma and its parts; all pictures Y, Cr, Cb in [-1, 1]."""
    f, v, i = ((x[:, :1].float() + 1) / 2 for x in (luma, seen, heat))
    terms = fusion_terms(f, v, i, weights, data_range=options.data_range)
    total = options.ssim * terms.ssim + options.mse * terms.mse
    # Terms of ours are left out where they are off, and not added as 0 times something.
    for factor, term in ((options.edges, terms.edges), (options.light, terms.light)):
        total = total + factor * term if factor else total
    return total, terms


def coloured(luma: Tensor, seen: Tensor, heat: Tensor, *, official: bool) -> Tensor:
    """RGB of a fused luma in [-1, 1], with the visible picture's chroma; as released, see `fusion.official`."""
    if not official:
        return ycrcb_to_rgb((torch.cat((luma, seen[:, 1:]), dim=1) + 1) / 2)
    sizes = [x[:, 1:].abs() + 1e-8 for x in (seen, heat)]
    mixed = (sizes[0] * seen[:, 1:] + sizes[1] * heat[:, 1:]) / (sizes[0] + sizes[1])
    # The luma has its range already, and gets it again with the chroma.
    both = torch.cat(((luma + 1) / 2, mixed.clamp(-1, 1)), dim=1)
    return official_ycrcb_to_rgb((both + 1) / 2)


def next_visible(refined: Tensor, *, official: bool) -> Tensor:
    """A refined picture as the next cascade's visible one."""
    if not official:
        return 2 * rgb_to_ycrcb(refined) - 1
    # The limited range with a wrong weight of green, and in [0, 1] where [-1, 1] is expected.
    matrix = refined.new_tensor([[0.257, 0.564, 0.098], [0.439, -0.368, -0.071], [-0.148, -0.291, 0.439]])
    offset = refined.new_tensor([16 / 255, GREY, GREY]).view(3, 1, 1)
    return torch.einsum("oc,bchw->bohw", matrix, refined) + offset


# The system ------------------------------------------------------------------------------------------------------


class FusionTraining(Restoration):
    """Both networks of a FusionNet, each with its own optimiser."""

    net: FusionNet
    monitor = "val/score"

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        options = config.fusion
        if not isinstance(net, FusionNet) or options is None:
            raise UsageError(
                f"fusion trains a FusionNet, and model={config.model} is none; take fusionnet_small"
            )
        if net.refinement.adjust is None:
            raise UsageError("training needs AdjustModule; leave model_args.adjust out")
        super().__init__(net, config)
        self.automatic_optimization = False
        self.options = options
        # In a tuple, so that VGG is no part of the module and of its checkpoints.
        self.vgg = (
            (load_vgg("vgg16", levels=LAST_LEVELS, weights=options.vgg),) if options.measure == "vgg" else ()
        )

    def training_step(self, batch: Sequence[Tensor], _: int) -> None:  # type: ignore[override]
        seen, heat = (2 * rgb_to_ycrcb(x) - 1 for x in batch[:2])
        for number in range(1, self.options.cascades + 1):
            seen = self.cascade(seen, heat, last=number == self.options.cascades).following
        self.average.update_parameters(self.net)
        schedules: Any = self.lr_schedulers()
        for schedule in schedules:
            schedule.step()

    def cascade(self, seen: Tensor, heat: Tensor, *, last: bool) -> Fused:
        """One step of each network. Y, Cr, Cb in [-1, 1]."""
        optimizers: Any = self.optimizers()  # a list, since there are two
        fusing, refining = optimizers
        # Lightning counts the last cascade's alone, so that a step of the run is one batch.
        fusing = fusing if last else fusing.optimizer
        luma = self.net.dense(seen[:, :1], heat[:, :1]).float()
        with torch.autocast(self.device.type, enabled=False):  # variances vanish in bf16
            loss, terms = fusion_loss(luma, seen, heat, self.weights(seen, heat), self.options)
        for name, value in terms._asdict().items():
            self.note(f"train/{name}", value)
        self._descend(loss, fusing, self.config.clip_norm)
        self.note("train/loss", loss)
        official = self.options.official
        rgb = coloured(luma.detach(), seen, heat, official=official)
        if official:
            with torch.no_grad():  # batch norms count this pass too
                self.net.refinement.cascade(rgb, heat)
        found = self.net.refinement.cascade(rgb, heat)
        parts = refinement_terms(
            *([x.float() for x in xs] for xs in (found.inputs, found.illumination)),
            per_pixel=self.options.per_pixel,
        )
        loss = self.options.fidelity * parts.fidelity + parts.smoothness
        self._descend(loss, refining.optimizer, 5.0)
        self.note("train/refinement", loss)
        return Fused(rgb, next_visible(found.refined[0].detach().float(), official=official))

    def weights(self, seen: Tensor, heat: Tensor) -> Tensor:
        """How much each source counts, (b, 2)."""
        if self.options.measure == "none":
            return seen.new_full((len(seen), 2), 0.5)
        vgg = self.vgg[0].to(self.device) if self.vgg else None
        v, i = ((x[:, :1] + 1) / 2 for x in (seen, heat))
        return source_weights(v, i, vgg=vgg, c=self.options.c)

    def _descend(self, loss: Tensor, optimizer: Any, clip: float) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if clip:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
        optimizer.step()

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        """Minus the fusion loss of the average, in fp32 and on whole pictures."""
        seen, heat = (2 * rgb_to_ycrcb(x) - 1 for x in batch[:2])
        with torch.autocast(self.device.type, enabled=False):
            average: Any = self.average.module
            luma: Tensor = average.dense(seen[:, :1], heat[:, :1])
            loss, _terms = fusion_loss(luma, seen, heat, self.weights(seen, heat), self.options)
        self.log(self.monitor, -loss, prog_bar=True, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> Any:
        fusing = optimizer(self.net.dense, self.config)
        refining = torch.optim.Adam(
            self.net.refinement.parameters(),
            lr=self.options.refinement_rate,
            betas=(0.9, 0.99),
            weight_decay=3e-4,
        )
        shape = fusing["lr_scheduler"]["scheduler"].lr_lambdas[0]
        return [fusing, {"optimizer": refining, "lr_scheduler": LambdaLR(refining, shape)}]


def fused_sources(sources: Sequence[Source], config: TrainConfig) -> tuple[Pairs, ...]:
    """The sources as pairs of cleaned visible and infrared pictures; cleaned now, where that was not done before."""
    name = config.fusion.cleaner if config.fusion else "none"
    cleaner = None if name == "none" else load(name)
    if cleaner is not None and not isinstance(cleaner, Restorer):
        raise UsageError(f"fusion.cleaner={name} judges pictures; take a task such as derain")

    def clean(path: Path) -> Picture:
        picture = read_picture(path)
        restored: Picture = cleaner.restore(picture, depth=False).image if cleaner else picture
        return restored

    found = []
    for source in sources:
        assert isinstance(source, Pairs)  # as the configuration has checked
        triples = find_triples(config.data_root / source.path, split=source.split)
        manifest = cleaned_pairs(
            triples, clean, by=cleaner.sha256 if cleaner else "as they are", cache=cache_folder() / "cleaned"
        )
        found.append(dataclasses.replace(source, path=manifest, split=None))
    return tuple(found)


# Recipes ---------------------------------------------------------------------------------------------------------


def cleannet_small() -> TrainConfig:
    """First stage of NiteDR at our size: as derain_start, with CleanNet's blocks."""
    return dataclasses.replace(derain_start(), recipe="cleannet_small", model="cleannet_small")


def cleannet_official() -> TrainConfig:
    """First stage of NiteDR as the released script trains it, but chosen on held-back pictures: for a large GPU."""
    return TrainConfig(
        recipe="cleannet_official",
        model="cleannet",
        task="derain",
        sources=(Pairs(path=ROADSCENE, split="train", drop=ROADSCENE_HELD),),
        validation=(Pairs(path=ROADSCENE, split="train", keep=ROADSCENE_HELD),),
        validation_channel="y",
        patch=64,
        batch=8,
        learning_rate=3e-4,
        final_learning_rate=1e-6,
        warmup=0,
        hold=92_000,
        betas=(0.9, 0.999),
        clip_norm=0.01,
        ema_decay=0.0,
        precision="fp32",
        seed=100,
        steps=300_000,
        validate_every=1000,
    )


def fusion_small() -> TrainConfig:
    """Visible and infrared pictures of RoadScene-rain, the visible ones cleaned by our derain network; our size.

    The paper's loss is least for the plain average of the two. So the steeper gradient of the two counts here, and the
    light of the brighter one; SSIM counts faint detail. Their factors were chosen on held-back pictures, and so was a
    short run: with more steps the network picks edges rather than mixing, which gains Qabf and costs FMI.
    """
    return TrainConfig(
        recipe="fusion_small",
        model="fusionnet_small",
        task="night",
        sources=(Pairs(path=ROADSCENE, split="train", drop=ROADSCENE_HELD, augment="mirror"),),
        validation=(Pairs(path=ROADSCENE, split="train", keep=ROADSCENE_HELD),),
        fusion=Fusion(
            measure="none", data_range=0.05, mse=0.5, edges=40.0, light=0.7, cascades=1, per_pixel=True
        ),
        patch=64,
        batch=8,
        learning_rate=2e-3,
        warmup=60,
        steps=600,
        validate_every=600,
    )


def fusion_official() -> TrainConfig:
    """FusionNet as the released script trains it: the average of the two pictures, at best."""
    return dataclasses.replace(
        fusion_small(),
        recipe="fusion_official",
        model="fusionnet",
        fusion=Fusion(measure="none", data_range=255, official=True),
        patch=64,
        batch=1,
        learning_rate=1e-4,
        final_learning_rate=0.0,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        clip_norm=0.0,
        warmup=0,
        steps=90_500,
        precision="fp32",
    )
