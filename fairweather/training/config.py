"""What a training run is: one frozen dataclass, and `--set key=value` on it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from fairweather.data.patches import STRICT, Clear, Pairs, Scenes, Stage
from fairweather.errors import UsageError, unknown_name
from fairweather.losses.constyle import Gram
from fairweather.losses.vgg import LEAST_SIDE

TASKS = ("derain", "denoise", "deblur", "dehaze", "night", "auto", "encode")
"""What can be learnt; night is fusion, auto a judge, and encode an encoder alone."""


def _tag(source: Any) -> str:
    """Which source a plain dictionary is, by a field that only it has: a wrong value is then said to be wrong."""
    fields = source if isinstance(source, dict) else getattr(source, "__dict__", ())
    return "clear" if "degradation" in fields else "scenes" if "ranges" in fields else "pairs"


TaggedSource = Annotated[
    Annotated[Pairs, Tag("pairs")] | Annotated[Clear, Tag("clear")] | Annotated[Scenes, Tag("scenes")],
    Discriminator(_tag),
]


def _refuse_below_0(config: object, *names: str, of: str = "") -> None:
    """Raises UsageError for fields that are not 0 or a positive number; `of` names the part of the recipe."""
    for name in names:
        if not 0 <= (value := getattr(config, name)) < math.inf:  # NaN neither
            raise UsageError(f"{of}{name}={value} must be a number of 0 or more")


def _refuse_up_to_0(config: object, *names: str, of: str = "") -> None:
    """Raises UsageError for fields that are not a positive number."""
    for name in names:
        if not 0 < (value := getattr(config, name)) < math.inf:
            raise UsageError(f"{of}{name}={value} must be more than 0")


@dataclass(frozen=True, kw_only=True)
class TwoTasks:
    """How DCMPNet's two networks are trained together (arXiv 2403.01105; see losses/difference_perception.py)."""

    __pydantic_config__ = STRICT
    scheme: Literal["paper", "early", "official", "alone"] = "paper"
    """The reading of difference perception; alone trains the dehazing network without the depth network."""
    weighting: Literal["signed", "absolute", "none"] = "signed"
    """Of the paper's scheme: by the difference as published, by its size (ours), or no difference perception."""
    consistency: float = 0.0
    """Of the paper's scheme: factor of mean |P - T| in the dehazing network's loss; 0.1 in the released script."""
    departure: float = 0.0
    """Weight of how far the haze is from the dark channel prior's guess, in pictures whose depth is known (ours, for
    reconstruction="scattering"): few scenes teach little, and where they are in doubt the guess should stand."""
    restraint: float = 1.0
    """`restraint` of the published network, see `DCMPNet` (ours, for reconstruction="scattering"); chosen on held-back
    pictures after training. Training itself is under that of `model_args`, else of the weights it starts from (`init`),
    else without."""
    inner_depth: float = 0.0
    """Factor of the depth error of the branch inside the dehazing network (ours); 0 leaves it unsupervised."""
    inner_init: bool = False
    """Whether that branch starts with the weights of the depth network in `init`, which has the same layers (ours)."""
    features: float = 0.0
    """Factor of the L1 between the U-Net's features of the hazy and of the clear picture, the latter without gradient
    (ours; the released script compares features of a random U-Net, which teach nothing)."""
    contrastive: float = 0.0
    """Factor of the contrastive loss; 1 in the paper."""
    negatives: bool = True
    """False leaves the hazy picture out of the contrastive loss (the paper's ablation)."""
    vgg: str = ""
    """Weights of VGG-19 for it: a file with torchvision's names, "download", or "random"."""
    teacher: str = "none"
    """Depth of pictures that are not of an RGB-D set, which brings its own: none, own:DIR, folder:DIR or
    transformers:NAME; see data/teachers.py."""
    teacher_values: Literal["disparity", "depth"] = "disparity"
    """What the maps of a folder, or a network of transformers, give."""

    def __post_init__(self) -> None:
        if self.scheme != "paper" and (self.weighting != "signed" or self.consistency):
            raise UsageError(
                f"two_tasks.weighting and consistency are of scheme=paper, not of {self.scheme}; leave them out"
            )
        if self.teacher != "none" and not self.learns_depth:
            raise UsageError(
                f"two_tasks.teacher={self.teacher} would do nothing: scheme=alone with inner_depth=0 learns no depth; "
                "leave it out"
            )
        if not self.negatives and not self.contrastive:
            raise UsageError(
                "two_tasks.negatives=false is of the contrastive loss: set two_tasks.contrastive too"
            )
        if self.teacher_values != "disparity" and not self.teacher.startswith(("folder:", "transformers:")):
            raise UsageError(
                f"two_tasks.teacher_values={self.teacher_values} is of folders and of transformers, not of "
                f"two_tasks.teacher={self.teacher}; leave it out"
            )
        if self.vgg and not self.contrastive:
            raise UsageError(
                f"two_tasks.vgg={self.vgg} is of the contrastive loss: set two_tasks.contrastive too"
            )
        _refuse_below_0(
            self, "consistency", "departure", "inner_depth", "features", "contrastive", of="two_tasks."
        )
        if not 0 < self.restraint <= 1:
            raise UsageError(f"two_tasks.restraint={self.restraint} must be more than 0 and at most 1")
        if self.contrastive and not self.vgg:
            raise UsageError(
                "two_tasks.contrastive needs VGG-19: set two_tasks.vgg to a file with torchvision's weights, to "
                "download, or to random"
            )

    @property
    def learns_depth(self) -> bool:
        """Whether depth is part of any loss."""
        return self.scheme != "alone" or self.inner_depth > 0


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How a network's ConStyle encoder learns (arXiv 2402.15784; see losses/constyle.py and training/irconstyle.py)."""

    __pydantic_config__ = STRICT
    info_nce: float = 1.0
    """Factor of the cross entropy that picks the clean picture's vector among those in the queue."""
    content: float = 1.0
    """Factor of the distance to the clean picture's vector."""
    style: float = 1.0
    """Factor of the likeness to earlier degraded pictures."""
    queue_size: int = 65_760
    """Earlier degraded pictures that are kept as negatives; a multiple of the patches of a step, of all processes."""
    momentum: float = 0.999
    """How much of itself the encoder of the clean pictures keeps at each step."""
    temperature: float = 0.07
    """Divides the products of vectors."""
    normalize: bool = True
    """Give the vectors unit length before their products; the release does not."""
    gram: Gram = "batch"
    """Of the style loss: over the batch, as released (unbounded below), or over channels (within 0 and 2; ours)."""
    fill_queue_first: bool = True
    """Leave the three losses out until the queue holds pictures alone; the release starts among random vectors."""
    freeze_after: int | Literal["released"] | None = None
    """Steps after which the encoder is held and the pixel loss trains the rest; null never, 0 from the start; released
    as the release does for the task and the backbone, in proportion to the steps (`TrainConfig.freeze_after`)."""
    official: bool = False
    """The release's order of things: the average is taken before the step, its decay does not grow, and a held encoder
    still moves its statistics, keys and queue."""

    def __post_init__(self) -> None:
        _refuse_below_0(self, "info_nce", "content", "style", of="contrast.")
        if isinstance(self.freeze_after, int):
            _refuse_below_0(self, "freeze_after", of="contrast.")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"contrast.momentum={self.momentum} must be at least 0 and less than 1")
        if self.temperature <= 0 or self.queue_size < 1:
            raise UsageError("contrast.temperature and contrast.queue_size must be more than 0")


OFFICIAL_CONTRAST = Contrast(normalize=False, fill_queue_first=False, freeze_after="released", official=True)
"""What the release does."""
OFFICIAL_STEPS, OFFICIAL_FREEZE_AFTER = 703_632, 250_000
"""Of the release, where it holds the encoder at all."""


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """ConStyle v2's training of the encoder alone, before any restorer (arXiv 2406.18242)."""

    __pydantic_config__ = STRICT
    classes: int = 0
    """Folders of classes that the sources hold (ImageNet: 1000), each picture in one; 0 leaves cross entropy out."""
    class_steps: int = 50_000
    """Steps with the cross entropy of classes."""
    divergence: float = 1.0
    """Factor of the divergence of the two encoders' class distributions."""

    def __post_init__(self) -> None:
        _refuse_below_0(self, "classes", "class_steps", "divergence", of="pretrain.")


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How FusionNet is trained (arXiv 2402.18172; see losses/fusion.py and training/nitedr.py)."""

    __pydantic_config__ = STRICT
    cleaner: str = "derain"
    """What cleans the visible pictures, once, before the first step: a task, a model or a .safetensors; "none" takes
    them as they are."""
    measure: Literal["vgg", "picture", "none"] = "vgg"
    """Where the information of the sources is measured, which weighs them: in VGG-16's maps, in the picture itself
    (what the release does), or nowhere: both count alike (what it then uses)."""
    vgg: str = ""
    """Weights of VGG-16 for it: a file with torchvision's names, "download", or "random"."""
    c: float = 3200.0
    """Divides the information; with 3200 both count alike, with 0.002 the richer source counts more."""
    data_range: float = 1.0
    """Of SSIM; 255 is the release's, and less than 1 counts fainter detail."""
    ssim: float = 1.0
    """Factor of 1 - SSIM with the sources."""
    mse: float = 20.0
    """Factor of the squared difference from the sources."""
    edges: float = 0.0
    """Factor of the difference from the steeper of the two gradients (ours)."""
    light: float = 0.0
    """Factor of the difference from the brighter source's light (ours)."""
    cascades: int = 3
    """Times that a refined picture goes through the networks again."""
    fidelity: float = 1.5
    """Factor of the illumination's squared difference from the picture, beside its smoothness."""
    per_pixel: bool = False
    """Smooth the illumination except at the picture's edges, as was meant; see losses/fusion.py."""
    refinement_rate: float = 3e-4
    """Learning rate of the refinement."""
    official: bool = False
    """The release's order of things: colours of both sources mixed, limited ranges, two passes a step."""

    def __post_init__(self) -> None:
        if self.measure == "vgg" and not self.vgg:
            raise UsageError(
                "fusion.measure=vgg needs VGG-16: set fusion.vgg to a file with torchvision's weights, to download, or "
                "to random; or set fusion.measure to picture or none"
            )
        _refuse_below_0(self, "ssim", "mse", "edges", "light", "fidelity", of="fusion.")
        _refuse_up_to_0(self, "c", "data_range", "cascades", "refinement_rate", of="fusion.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One complete run. `fairweather train RECIPE --set steps=1000 --set batch=4` changes any field."""

    __pydantic_config__ = STRICT
    recipe: str
    """The name it was asked for by."""
    model: str
    """A name of `fairweather models list`; "constyle" is the encoder alone, for pretrain."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the network."""
    task: str
    """What it learns, one of TASKS."""
    sources: tuple[TaggedSource, ...]
    """Where training patches come from."""
    validation: tuple[TaggedSource, ...]
    """Pictures held back from training; the best checkpoint is chosen on them."""
    data_root: Path = Path("data")
    """The folder that the sources' paths are relative to."""
    validation_channel: Literal["rgb", "y"] = "rgb"
    """The channel of the validation PSNR."""

    two_tasks: TwoTasks | None = None
    """For DCMPNet: train the depth network beside the dehazing network."""
    contrast: Contrast | None = None
    """For a network with ConStyle: train its encoder by contrast; null trains it by the pixel loss alone."""
    pretrain: Pretrain | None = None
    """For model=constyle: train the encoder without a restorer."""
    fusion: Fusion | None = None
    """For FusionNet: how it learns to fuse visible and infrared pictures, which sources of pairs bring."""
    evidence: int = 0
    """For a judge: patches of which evidence is gathered before the first step, to learn from them alone how it weighs;
    0 trains the encoders, by looks."""
    recalibrate_bn: int = 0
    """Batches to compute the statistics of ConStyle's batch norms from before the first step: published averages
    hold none."""
    loss: Literal["l1", "psnr", "psnr_luma"] = "l1"
    """Of the restored picture against the target; see losses/pixel.py."""
    psnr_ceiling: float = 60.0
    """dB at which a loss by PSNR levels out (l1 never does): where clear pictures are left alone, little is asked."""
    fft: float = 0.0
    """Factor of the difference of the two spectra, added to the loss; 0.1 in SymUNet."""
    steps: int
    """Optimiser steps of the whole run."""
    decay_steps: int | None = None
    """Steps over which the learning rate falls, where a first stage stops before the end of its cosine."""
    batch: int = 8
    """Patches a step, in each process."""
    patch: int = 96
    """Side of a patch in pixels."""
    progressive: tuple[Stage, ...] = ()
    """Other sizes to begin with, as (until step, patch, batch), such as [[1000, 64, 16], [2000, 80, 12]]."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Factors (smallest, largest) that windows are reduced by to become patches, so that they show more."""
    edges: float = 0.0
    """How readily windows snap to the picture's edges, see `random_crop`; 0.1 in DCMPNet's release."""
    learning_rate: float = 1e-3
    """After the warm-up."""
    final_learning_rate: float = 1e-6
    """At the last step, reached by a cosine."""
    warmup: int = 200
    """Steps of linear warm-up."""
    hold: int = 0
    """Steps at the full learning rate before it falls."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is validated and published."""
    init: Path | None = None
    """Weights to start from, a .safetensors of ours."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 computes convolutions in bfloat16 and keeps the weights in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    devices: int = 1
    """GPUs (or CPU processes) to train on."""
    threads: int = 1
    """CPU threads of the trainer; see docs/training.md for when 2 is slower."""
    workers: int = 0
    """Processes that prepare patches; 0 prepares them in the trainer."""
    seed: int = 0
    validate_every: int = 500
    """Steps between validations."""
    checkpoint_every: int = 250
    """Steps between checkpoints that a killed run resumes from."""

    def __post_init__(self) -> None:
        if self.steps <= self.warmup:
            raise UsageError(f"steps={self.steps} must be more than warmup={self.warmup}")
        for name in ("batch", "patch", "validate_every", "checkpoint_every", "threads", "devices"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be 1 or more")
        _refuse_below_0(
            self,
            "warmup",
            "hold",
            "workers",
            "weight_decay",
            "clip_norm",
            "final_learning_rate",
            "fft",
            "recalibrate_bn",
            "evidence",
        )
        _refuse_up_to_0(self, "learning_rate", "psnr_ceiling")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas={[*self.betas]} must be at least 0 and less than 1, each")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed} must be at least 0 and less than 2**32")
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if not 0 <= self.edges <= 1:
            raise UsageError(f"edges={self.edges} must be at least 0 and at most 1")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay={self.ema_decay} must be at least 0 and less than 1")
        if self.evidence and (self.task != "auto" or self.devices > 1):
            raise UsageError(
                f"evidence={self.evidence} is for a judge (task=auto) in one process (devices=1); set it to 0"
            )
        self._check_unused()
        if not self.sources:
            raise UsageError("sources is empty: there is nothing to train on")
        if not self.validation:
            raise UsageError("validation is empty: no checkpoint could be chosen")
        self._check_sources()
        tasks = self.two_tasks
        if tasks and tasks.learns_depth and tasks.teacher == "none" and not self.brings_depth:
            raise UsageError(
                f"two_tasks.scheme={tasks.scheme} with inner_depth={tasks.inner_depth:g} learns depth, and no source "
                "has any: add an RGB-D set, set two_tasks.teacher (data/teachers.py), or set two_tasks.scheme=alone "
                "and two_tasks.inner_depth=0"
            )
        smallest = min([self.patch, *(stage.patch for stage in self.progressive)])
        if tasks and tasks.contrastive and smallest < LEAST_SIDE:
            raise UsageError(
                f"patch={smallest} is too small for the contrastive loss: VGG-19 needs {LEAST_SIDE} pixels a side "
                "or more"
            )
        if tasks and self.loss == "psnr_luma":
            raise UsageError("loss=psnr_luma is for plain restorers; with two_tasks take l1 or psnr")
        ends = [stage.until for stage in self.progressive]
        if any(min(stage) < 1 for stage in self.progressive) or ends != sorted(set(ends)):
            raise UsageError(
                f"progressive={[[*stage] for stage in self.progressive]} must be (until step, patch, batch) of 1 or "
                "more, each until later than the one before"
            )
        if self.fusion and not all(isinstance(source, Pairs) for source in self.sources + self.validation):
            raise UsageError(
                "fusion learns from pictures of two cameras: sources and validation must be pairs"
            )
        if self.contrast:
            self._check_contrast(self.contrast)
        if (self.pretrain is None) != (self.model != "constyle"):
            raise UsageError(
                "model=constyle, the encoder alone, and pretrain go together; set both or neither"
            )
        if self.pretrain and (self.init or self.recalibrate_bn):
            raise UsageError("pretrain starts from random weights: leave init and recalibrate_bn out")
        if self.pretrain and (not self.contrast or self.freeze_after is not None):
            raise UsageError(
                "pretrain needs contrast, and contrast.freeze_after=null: nothing else would learn"
            )

    def _check_unused(self) -> None:
        """Raises UsageError for a setting that would do nothing."""
        kinds = {
            "a judge (task=auto)": (
                self.task == "auto",
                ("progressive", "zoom", "edges", "fusion", "contrast", "two_tasks"),
            ),
            "fusion": (self.fusion is not None, ("contrast", "two_tasks")),
            "pretrain": (self.pretrain is not None, ("two_tasks", "model_args")),
        }
        usual = {setting.name: setting.default for setting in fields(self)} | {"model_args": {}}
        for kind, (chosen, others) in kinds.items():
            for name in ("loss", "psnr_ceiling", "fft", *others) if chosen else ():
                if (value := getattr(self, name)) != usual[name]:
                    shown = value if isinstance(value, str | float | tuple) else "..."
                    raise UsageError(
                        f"{name}={shown} would do nothing: {kind} has no use for it; leave it out"
                    )

    def _check_sources(self) -> None:
        for source in self.sources:
            for name, most in (("weight", math.inf), ("tones", math.inf), ("strange", 1.0), ("blacks", 1.0)):
                value = getattr(source, name, 0.0)
                if not 0 <= value <= most or value == math.inf:
                    upto = f"at least 0 and at most {most:g}" if most < math.inf else "a number of 0 or more"
                    raise UsageError(f"{name}={value} of the source {source.path} must be {upto}")
        for source in self.validation:
            for name in ("weight", "augment", "tones", "strange", "blacks"):
                usual = getattr(type(source), name, None)
                if (value := getattr(source, name, usual)) != usual:
                    raise UsageError(
                        f"{name}={value} of the source {source.path} would do nothing: validation takes every picture, "
                        "as it is; leave it out"
                    )
        if not any(source.weight for source in self.sources):
            raise UsageError("the weights of all sources are 0: there is nothing to train on")

    def _check_contrast(self, contrast: Contrast) -> None:
        if self.two_tasks:
            raise UsageError(
                "two_tasks is for DCMPNet and contrast for networks with ConStyle; set one to null"
            )
        alike = f" in each of {self.devices} processes" if self.devices > 1 else ""
        for batch in (self.batch, *(stage.batch for stage in self.progressive)):
            together = batch * self.devices
            if contrast.queue_size % together:
                raise UsageError(
                    f"contrast.queue_size={contrast.queue_size} is not a multiple of the {together} patches of a step "
                    f"(batch={batch}{alike}); take another batch, or a queue of "
                    f"{-(-contrast.queue_size // together) * together}"
                )
        end = self.steps if self.freeze_after is None else min(self.steps, self.freeze_after)
        if contrast.fill_queue_first and 0 < self._patches(end) < contrast.queue_size:
            raise UsageError(
                f"contrast.queue_size={contrast.queue_size} would not be full after the {end} steps that the encoder "
                "learns, so contrast would never begin; take a smaller queue or contrast.fill_queue_first=false"
            )

    @property
    def brings_depth(self) -> bool:
        """Whether a source that is drawn knows its depth, without a teacher."""
        return any(isinstance(source, Scenes) and source.weight > 0 for source in self.sources)

    @property
    def freeze_after(self) -> int | None:
        """Steps after which ConStyle's encoder is held, None never.

        The release never holds it when denoising, nor when deblurring with Restormer's blocks.
        """
        after = self.contrast.freeze_after if self.contrast else None
        if after != "released":
            return after
        never = self.task == "denoise" or (self.task == "deblur" and "restormer" in self.model)
        return None if never else round(self.steps * OFFICIAL_FREEZE_AFTER / OFFICIAL_STEPS)

    def _patches(self, steps: int) -> int:
        """How many patches all processes together see in so many steps."""
        seen = since = 0
        for stage in (*self.progressive, Stage(steps, self.patch, self.batch)):
            until = min(stage.until, steps)
            seen, since = seen + (until - since) * stage.batch * self.devices, until
        return seen


_ADAPTER = TypeAdapter(TrainConfig)


def override(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """A copy with `key=value` settings applied; values are JSON, or plain text where that is what is wanted.

    `sources.0.weight=2` reaches into a list.

    Raises:
        UsageError: for a setting that is not key=value, an unknown key, or a value of the wrong type.
    """
    plain = to_plain(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r}: expected key=value, for example --set steps=1000")
        _assign(plain, key.split("."), _value(text), key)
    return from_plain(plain)


def _assign(node: Any, path: list[str], value: Any, key: str) -> None:
    head: Any = path[0]
    if isinstance(node, list):
        if not head.isdecimal() or int(head) >= len(node):
            raise UsageError(f"--set {key}: {head!r} is not an item, expected 0 to {len(node) - 1}")
        head = int(head)
    elif node is None:
        part = key.removesuffix("." + ".".join(path))
        raise UsageError(
            f"--set {key}: {part} is null in this recipe, so nothing is inside; set {part} itself, or take a recipe "
            "that has it (fairweather train list)"
        )
    elif not isinstance(node, dict):
        raise UsageError(f"--set {key}: there is nothing named {head!r} inside a plain value")
    elif head not in node and not (key.startswith("model_args.") and len(path) == 1):
        raise unknown_name("setting", head, node)
    if len(path) == 1:
        node[head] = value
    else:
        _assign(node[head], path[1:], value, key)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def from_plain(plain: Any) -> TrainConfig:
    """The configuration from JSON values; a wrong one raises UsageError with its key."""
    try:
        return _ADAPTER.validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # fields that contradict each other, said by __post_init__
            raise UsageError(first["msg"].removeprefix("Value error, ")) from None
        where = ".".join(str(part) for part in first["loc"] if part not in ("pairs", "clear", "scenes"))
        raise UsageError(f"--set {where}={first['input']!r}: {first['msg'].lower()}") from None
