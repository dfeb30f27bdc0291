"""Training of DCMPNet: the dehazing network and the depth network, each weighted by the other's errors.

The paper's scheme alternates: the depth network learns from the dehazed picture as it is, then the dehazing network
learns with the depth network held still. The readings of the released code take one step for both at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairweather.data.patches import Clear, Pairs, Scenes
from fairweather.errors import UsageError
from fairweather.losses.contrastive import ContrastiveLoss, Projections
from fairweather.losses.difference_perception import (
    READINGS,
    mean_over,
    paper_dehazing_loss,
    paper_depth_loss,
)
from fairweather.losses.pixel import fft_loss, l1_loss, psnr_loss
from fairweather.losses.vgg import load_vgg
from fairweather.models.dcmpnet import DCMPNet, Dehazed
from fairweather.training.config import TrainConfig, TwoTasks
from fairweather.training.restoration import Restoration, optimizer
from fairweather.training.sets import (
    BSDS,
    DIV2K,
    I_HAZE,
    I_HELD,
    NH_HAZE,
    NH_HELD,
    O_HAZE,
    O_HELD,
    RGBD,
    ROADSCENE,
    SCENES_HELD,
)


class TwoTaskTraining(Restoration):
    """Both networks of a DCMPNet, each with its own optimiser. Pictures are in [-1, 1] here, as in the paper."""

    net: DCMPNet

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        tasks = config.two_tasks
        if not isinstance(net, DCMPNet) or tasks is None:
            raise UsageError(f"two_tasks is for DCMPNet; model={config.model} has no second task")
        if net.depth_network is None and tasks.scheme != "alone":
            raise UsageError(
                f"two_tasks.scheme={tasks.scheme} needs a depth network and model_args leaves it out; use alone"
            )
        if net.depth_network is not None and tasks.scheme == "alone":
            raise UsageError(
                "two_tasks.scheme=alone would publish a depth network that was never trained; leave it out with "
                "--set 'model_args={\"depth_network\": false}'"
            )
        if tasks.inner_depth and net.dehazing.depth_branch is None:
            raise UsageError(
                "two_tasks.inner_depth teaches the depth branch and model_args leaves it out; set it to 0"
            )
        if tasks.inner_init:
            _start_branch(net, config)
        if net.dehazing.reconstruction != "scattering" and (tasks.departure or tasks.restraint != 1):
            raise UsageError(
                f"two_tasks.departure={tasks.departure:g} and restraint={tasks.restraint:g} are of networks that "
                "correct a guess (reconstruction=scattering); set two_tasks.departure=0 and two_tasks.restraint=1"
            )
        super().__init__(net, config)
        self.automatic_optimization = False
        self.tasks = tasks
        # In a tuple, so that VGG is no part of the module and of its checkpoints.
        self.contrast = (contrastive_loss(tasks),) if tasks.contrastive else ()

    def training_step(self, batch: Sequence[Tensor], _: int) -> None:  # type: ignore[override]
        degraded, target, disparity = batch
        hazy, clear = (2 * x.contiguous(memory_format=self.memory_format) - 1 for x in (degraded, target))
        found: Dehazed = self.net.dehazing(hazy)
        dehazed = found.clear.float()
        added = self._added(found, dehazed, clear, hazy, disparity)
        if self.config.loss == "psnr":  # in place of the plain L1 term, which is in every scheme
            quality = psnr_loss((dehazed + 1) / 2, (clear + 1) / 2, ceiling=self.config.psnr_ceiling)
            added = added + quality / 100 - l1_loss(dehazed, clear)
        if self.config.fft:
            added = added + self.config.fft * fft_loss(dehazed, clear)
        if self.tasks.scheme == "alone":
            loss = l1_loss(dehazed, clear)
            self._descend(loss + added)
        elif self.tasks.scheme == "paper":
            loss = self._alternate(dehazed, clear, disparity, added)
        else:
            loss = self._together(dehazed, clear, disparity, added)
        self.note("train/loss", loss)
        self.average.update_parameters(self.net)
        for schedule in _listed(self.lr_schedulers()):
            schedule.step()

    def _alternate(self, dehazed: Tensor, clear: Tensor, disparity: Tensor, added: Tensor) -> Tensor:
        """The paper's scheme: first a step of the depth network, then one of the dehazing network."""
        assert self.net.depth_network is not None
        known, how, consistency = disparity > 0, self.tasks.weighting, self.tasks.consistency
        predicted = self._depth(dehazed.detach())
        loss = paper_depth_loss(dehazed, clear, predicted, disparity, known=known, weighting=how).total
        self._descend(loss, depth=True, dehazing=False)
        self.note("train/depth", loss)
        self.net.depth_network.requires_grad_(False)
        with torch.set_grad_enabled(consistency > 0):
            predicted = self._depth(dehazed)
        loss = paper_dehazing_loss(
            dehazed, clear, predicted, disparity, known=known, weighting=how, consistency=consistency
        ).total
        self._descend(loss + added)
        self.net.depth_network.requires_grad_(True)
        return loss

    def _together(self, dehazed: Tensor, clear: Tensor, disparity: Tensor, added: Tensor) -> Tensor:
        """The released code's schemes: one step of both networks down the sum of their losses."""
        reading = READINGS[self.tasks.scheme]
        predicted, known = self._depth(dehazed), disparity > 0
        # These readings know no gaps: where depth is unknown, the prediction counts as right and is not taught.
        predicted = torch.where(known, predicted, predicted.detach())
        teacher = torch.where(known, disparity, predicted.detach())
        loss = reading.dehazing(dehazed, clear, predicted, teacher).total
        loss_of_depth = reading.depth(dehazed, clear, predicted, teacher).total
        self._descend(loss + loss_of_depth + added, depth=True)
        self.note("train/depth", loss_of_depth)
        return loss

    def _depth(self, dehazed: Tensor) -> Tensor:
        """The depth network's view, cropped to the picture."""
        assert self.net.depth_network is not None
        depth: Tensor = self.net.depth_network(dehazed)
        return depth[..., : dehazed.shape[-2], : dehazed.shape[-1]].float()

    def _added(
        self, found: Dehazed, dehazed: Tensor, clear: Tensor, hazy: Tensor, disparity: Tensor
    ) -> Tensor:
        """What is ours or optional: contrast, departure from the prior, depth of the branch inside, features."""
        added = dehazed.new_zeros(())
        if self.contrast:
            with torch.autocast(self.device.type, enabled=False):  # differences of features vanish in bf16
                contrast = self.contrast[0].to(self.device)(dehazed, clear, hazy)
            self.note("train/contrast", contrast)
            added = added + self.tasks.contrastive * contrast
        if self.tasks.departure and found.departure is not None:
            # Scenes with depth are few and would be known by heart, see `Scenes.strange`.
            apart = (found.departure * (disparity > 0).flatten(1).any(dim=1)).mean()
            self.note("train/departure", apart)
            added = added + self.tasks.departure * apart
        if self.tasks.inner_depth and found.inner_depth is not None:
            apart = mean_over(found.inner_depth.float() - disparity, disparity > 0)
            self.note("train/inner_depth", apart)
            added = added + self.tasks.inner_depth * apart
        if self.tasks.features and found.features is not None:
            with torch.no_grad():
                aims = self.net.dehazing.features(clear)
            apart = sum_of_l1(found.features, aims)
            self.note("train/features", apart)
            added = added + self.tasks.features * apart
        return added

    def _descend(self, loss: Tensor, *, dehazing: bool = True, depth: bool = False) -> None:
        """One step of one or both networks down a loss."""
        optimizers = _listed(self.optimizers())
        # Lightning counts the dehazing network's steps alone, so that a step of the run is one batch.
        chosen = [*optimizers[:1]] * dehazing + [one.optimizer for one in optimizers[1:]] * depth
        for one in chosen:
            one.zero_grad()
        self.manual_backward(loss)
        for one in chosen:
            if self.config.clip_norm:
                nn.utils.clip_grad_norm_(one.param_groups[0]["params"], self.config.clip_norm)
            one.step()

    def configure_optimizers(self) -> Any:
        networks = [net for net in (self.net.dehazing, self.net.depth_network) if net is not None]
        return [optimizer(net, self.config) for net in networks]


def sum_of_l1(found: Sequence[Tensor], aims: Sequence[Tensor]) -> Tensor:
    """The sum of the mean absolute errors of several maps."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(found, aims, strict=True)]).sum()


def _start_branch(net: DCMPNet, config: TrainConfig) -> None:
    """Give the depth branch inside the dehazing network the weights of the depth network."""
    if config.init is None or net.depth_network is None or net.dehazing.depth_branch is None:
        raise UsageError(
            "two_tasks.inner_init starts the depth branch from a trained depth network: set init to weights that "
            "have one, and leave out neither by model_args"
        )
    net.dehazing.depth_branch.load_state_dict(net.depth_network.state_dict())


def _listed(one_or_several: Any) -> list[Any]:
    """Lightning gives a list of several optimisers, but the one itself of one."""
    return one_or_several if isinstance(one_or_several, list) else [one_or_several]


def contrastive_loss(tasks: TwoTasks) -> ContrastiveLoss:
    """The contrastive loss that a scheme asks for; its heavy features are frozen and in no checkpoint."""
    projections = None if tasks.scheme in ("paper", "alone") else Projections()
    return ContrastiveLoss(
        load_vgg("vgg19", weights=tasks.vgg), negatives=tasks.negatives, projections=projections
    )


# Recipes ---------------------------------------------------------------------------------------------------------

_STILL_LIFES = ((31, 61),)  # Middlebury's; rooms and streets are what haze is in


def dcmpnet_small() -> TrainConfig:
    """Our size, by the paper's two-task scheme, but on PSNR: real haze, haze by true depth, random haze, no haze.

    Many kinds of clear pictures, in colours of many kinds, are in the mix: those that were not came back changed.
    Random transmission, depth of other scenes and varied colours keep a network that sees few scenes from knowing them
    by heart instead of looking at the haze. Large patches show it whole rooms, as in use.
    """

    def scenes(ranges: str, weight: float, drop: tuple[tuple[int, int], ...] = ()) -> Scenes:
        return Scenes(
            path=RGBD,
            split="train",
            ranges=ranges,
            drop=(*SCENES_HELD, *drop),
            weight=weight,
            augment="mirror",
            tones=0.5,
            strange=0.4,
        )

    def clear(
        path: Path,
        weight: float,
        *,
        drop: tuple[tuple[int, int], ...] = (),
        tones: float = 0.3,
        augment: Literal["mirror", "dihedral"] = "mirror",
    ) -> Clear:
        return Clear(path=path, degradation="none", drop=drop, weight=weight, augment=augment, tones=tones)

    return TrainConfig(
        recipe="dcmpnet_small",
        model="dcmpnet_small",
        task="dehaze",
        two_tasks=TwoTasks(inner_depth=0.1, departure=0.3, restraint=0.6),
        sources=(
            # The sky stays above, but for I-HAZE, where some photographs lie on their side.
            scenes("wide", 0.08),
            scenes("its", 0.16),
            scenes("its", 0.22, _STILL_LIFES),
            Pairs(path=O_HAZE, split="train", drop=O_HELD, weight=0.08, augment="mirror", tones=0.2),
            Pairs(path=I_HAZE, split="train", drop=I_HELD, weight=0.08, tones=0.2),
            Pairs(path=NH_HAZE, split="train", drop=NH_HELD, weight=0.1, augment="mirror", tones=0.2),
            Clear(path=BSDS / "train", degradation="haze", weight=0.06, augment="mirror", tones=0.4),
            Clear(path=BSDS / "test", degradation="haze", weight=0.08, augment="mirror", tones=0.4),
            Clear(path=I_HAZE / "train/clear", degradation="haze", drop=I_HELD, weight=0.03, tones=0.4),
            Clear(path=DIV2K, degradation="haze", weight=0.03, augment="mirror", tones=0.4),
            clear(BSDS / "train", 0.08, tones=0.4),
            clear(BSDS / "test", 0.12, tones=0.4),
            clear(DIV2K, 0.03, tones=0.4),
            clear(ROADSCENE / "train/Vis/target", 0.04),
            clear(RGBD / "train/rgb", 0.05, drop=SCENES_HELD),
            clear(O_HAZE / "train/clear", 0.03, drop=O_HELD, augment="dihedral"),
            clear(NH_HAZE / "train/clear", 0.02, drop=NH_HELD, augment="dihedral"),
            clear(I_HAZE / "train/clear", 0.02, drop=I_HELD, augment="dihedral"),
        ),
        validation=(
            Pairs(path=O_HAZE, split="train", keep=O_HELD),
            Pairs(path=I_HAZE, split="train", keep=I_HELD),
            Pairs(path=NH_HAZE, split="train", keep=NH_HELD),
            Scenes(path=RGBD, split="train", ranges="its", keep=SCENES_HELD),
            Clear(path=BSDS / "val", degradation="haze", keep=((0, 5),)),
            Clear(path=BSDS / "val", degradation="none", keep=((6, 21),)),
        ),
        loss="psnr",
        psnr_ceiling=40.0,
        patch=320,
        batch=3,
        zoom=(0.5, 1.0),
        learning_rate=4e-4,
        warmup=100,
        steps=6000,
        validate_every=500,
        checkpoint_every=125,
    )


def dcmpnet_imagined() -> TrainConfig:
    """Second stage of dcmpnet_small: more haze that steps where pictures do, as that of rooms does.

    After the first stage its corrections of the prior held for real haze and for smooth haze, but not for the depth of
    rooms that it had not seen: it had met such haze on few scenes. Here it learns under the restraint of the first
    stage, which those weights bring along; what is published does somewhat less.
    """
    before = dcmpnet_small()

    def imagined(path: Path, weight: float, drop: tuple[tuple[int, int], ...] = ()) -> Clear:
        return Clear(
            path=path, degradation="imagined_haze", drop=drop, weight=weight, augment="mirror", tones=0.4
        )

    return dataclasses.replace(
        before,
        recipe="dcmpnet_imagined",
        sources=(
            *(
                dataclasses.replace(
                    source, weight=source.weight * (0.5 if isinstance(source, Scenes) else 0.8)
                )
                for source in before.sources
            ),
            imagined(BSDS / "train", 0.1),
            imagined(BSDS / "test", 0.14),
            imagined(DIV2K, 0.04),
            imagined(ROADSCENE / "train/Vis/target", 0.03),
            imagined(RGBD / "train/rgb", 0.06, SCENES_HELD),
        ),
        validation=(
            *before.validation,
            Clear(path=BSDS / "val", degradation="imagined_haze", keep=((22, 27),)),
        ),
        init=Path("runs/dcmpnet_small/weights.safetensors"),
        two_tasks=TwoTasks(inner_depth=0.1, departure=0.3, restraint=0.5),
        learning_rate=2e-4,
        steps=2400,
        validate_every=2400,
        seed=1,
    )


def dcmpnet_blacks() -> TrainConfig:
    """Third stage of dcmpnet_small: haze over pictures whose blacks are black.

    Most of the clear photographs to learn from are scanned film with grey blacks, and what learnt from them left grey
    blacks, and with them haze, in pictures of digital cameras. It learns under the restraint of the second stage, which
    those weights bring along.
    """
    before = dcmpnet_imagined()
    return dataclasses.replace(
        before,
        recipe="dcmpnet_blacks",
        sources=tuple(
            dataclasses.replace(source, blacks=0.8)
            if isinstance(source, Clear) and source.degradation != "none"
            else source
            for source in before.sources
        ),
        init=Path("runs/dcmpnet_imagined/weights.safetensors"),
        two_tasks=TwoTasks(inner_depth=0.1, departure=0.3, restraint=0.3),
        steps=4000,
        validate_every=4000,
        seed=2,
    )


def dcmpnet_long() -> TrainConfig:
    """Fourth stage of dcmpnet_small: longer, at the rate of the first, and without restraint while it learns.

    After the third stage the network did little better on most scenes that it learnt from than on others: it seemed
    to have learnt too little, rather than too much.
    """
    return dataclasses.replace(
        dcmpnet_blacks(),
        recipe="dcmpnet_long",
        init=Path("runs/dcmpnet_blacks/weights.safetensors"),
        model_args={"restraint": 1.0},  # not what those weights bring along
        two_tasks=TwoTasks(inner_depth=0.1, departure=0.1, restraint=0.6),
        learning_rate=4e-4,
        steps=6200,
        validate_every=6200,
        seed=5,
    )


def dcmpnet_longer() -> TrainConfig:
    """Fifth stage of dcmpnet_small: more of the fourth, at whose end scores were still rising."""
    return dataclasses.replace(
        dcmpnet_long(),
        recipe="dcmpnet_longer",
        init=Path("runs/dcmpnet_long/weights.safetensors"),
        two_tasks=TwoTasks(inner_depth=0.1, departure=0.1, restraint=0.7),
        steps=9000,
        validate_every=9000,
        seed=6,
    )


def dcmpnet_official() -> TrainConfig:
    """The full network as the released script trains it, but chosen on held-back pictures: for a large GPU.

    RESIDE's indoor set (ITS) in DIR/its, about 600 times through in batches of 8 patches of 256 pixels, Adam at 1e-4
    down to 1e-6. The last 10 of its 1,399 scenes are held back, and scored every 5000 steps; the release scored the
    test set each time through. It takes half precision by fp16, here bf16, and RA-Depth for a teacher.
    `--set two_tasks.scheme=paper` is the paper's reading.
    """
    held_back = ((13_890, 13_989),)
    return TrainConfig(
        recipe="dcmpnet_official",
        model="dcmpnet",
        task="dehaze",
        two_tasks=TwoTasks(
            scheme="official",
            contrastive=1.0,
            vgg="download",
            teacher="transformers:depth-anything/Depth-Anything-V2-Small-hf",
        ),
        sources=(Pairs(path=Path("its"), drop=held_back),),
        validation=(Pairs(path=Path("its"), keep=held_back),),
        patch=256,
        batch=8,
        edges=0.1,
        learning_rate=1e-4,
        final_learning_rate=1e-6,
        warmup=0,
        betas=(0.9, 0.999),
        weight_decay=0,
        clip_norm=0,
        ema_decay=0,
        workers=8,
        steps=1_048_800,
        validate_every=5000,
        checkpoint_every=5000,
    )


def dcmpnet_outdoor() -> TrainConfig:
    """The full network on RESIDE's outdoor set (OTS) in DIR/ots: for a large GPU.

    For outdoors nothing is released; this is `dcmpnet_official` with DehazeFormer's outdoor settings (arXiv
    2204.03883): about 30 times through in batches of 32, AdamW at 4e-4, mirrored and never turned. The last 10 of the
    2,061 scenes are held back.
    """
    held_back = ((71_785, 72_134),)
    return dataclasses.replace(
        dcmpnet_official(),
        recipe="dcmpnet_outdoor",
        sources=(Pairs(path=Path("ots"), drop=held_back, augment="mirror"),),
        validation=(Pairs(path=Path("ots"), keep=held_back),),
        batch=32,
        edges=0,
        learning_rate=4e-4,
        weight_decay=0.01,
        steps=67_290,
    )
