"""What a training run is: one frozen dataclass, and `--set key=value` on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from fairweather.data.patches import STRICT, Clear, Pairs, Scenes
from fairweather.errors import UsageError, unknown_name


def _tag(source: Any) -> str:
    """Which source a plain dictionary is, by a field that only it has: a wrong value is then said to be wrong."""
    fields = source if isinstance(source, dict) else vars(source)
    return "clear" if "degradation" in fields else "scenes" if "ranges" in fields else "pairs"


TaggedSource = Annotated[
    Annotated[Pairs, Tag("pairs")] | Annotated[Clear, Tag("clear")] | Annotated[Scenes, Tag("scenes")],
    Discriminator(_tag),
]


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
    inner_depth: float = 0.0
    """Factor of the depth error of the branch inside the dehazing network (ours); 0 leaves it unsupervised."""
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
        for name in ("consistency", "inner_depth", "contrastive"):
            if getattr(self, name) < 0:
                raise UsageError(f"two_tasks.{name}={getattr(self, name)} must be 0 or more")
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
class TrainConfig:
    """One complete run. `fairweather train RECIPE --set steps=1000 --set batch=4` changes any field."""

    __pydantic_config__ = STRICT
    recipe: str
    """The name it was asked for by."""
    model: str
    """A name of `fairweather models list`."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the network."""
    task: str
    """What it learns: derain, denoise, deblur, dehaze."""
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
    loss: Literal["l1", "psnr"] = "l1"
    """Of the restored picture against the target; see losses/pixel.py."""
    steps: int
    """Optimiser steps of the whole run."""
    decay_steps: int | None = None
    """Steps over which the learning rate falls, where a first stage stops before the end of its cosine."""
    batch: int = 8
    """Patches a step, in each process."""
    patch: int = 96
    """Side of a patch in pixels."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Factors (smallest, largest) that windows are reduced by to become patches, so that they show more."""
    learning_rate: float = 1e-3
    """After the warm-up."""
    final_learning_rate: float = 1e-6
    """At the last step, reached by a cosine."""
    warmup: int = 200
    """Steps of linear warm-up."""
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
        for name in ("warmup", "workers", "weight_decay", "clip_norm", "final_learning_rate"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate={self.learning_rate} must be more than 0")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay={self.ema_decay} must be at least 0 and less than 1")
        if not self.sources:
            raise UsageError("sources is empty: there is nothing to train on")
        if not self.validation:
            raise UsageError("validation is empty: no checkpoint could be chosen")
        tasks = self.two_tasks
        knows_depth = any(isinstance(source, Scenes) for source in self.sources)
        if tasks and tasks.learns_depth and tasks.teacher == "none" and not knows_depth:
            raise UsageError(
                f"two_tasks.scheme={tasks.scheme} with inner_depth={tasks.inner_depth:g} learns depth, and no source "
                "has any: add an RGB-D set, set two_tasks.teacher (data/teachers.py), or set two_tasks.scheme=alone "
                "and two_tasks.inner_depth=0"
            )


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
        if not head.isdigit() or int(head) >= len(node):
            raise UsageError(f"--set {key}: {head!r} is not an item, expected 0 to {len(node) - 1}")
        head = int(head)
    elif not isinstance(node, dict):
        raise UsageError(f"--set {key}: there is nothing named {head!r} inside a plain value")
    elif head not in node and not key.startswith("model_args."):
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


def from_plain(plain: dict[str, Any]) -> TrainConfig:
    """The configuration from JSON values; a wrong one raises UsageError with its key."""
    try:
        return _ADAPTER.validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # fields that contradict each other, said by __post_init__
            raise UsageError(first["msg"].removeprefix("Value error, ")) from None
        where = ".".join(str(part) for part in first["loc"] if part not in ("pairs", "clear", "scenes"))
        raise UsageError(f"--set {where}={first['input']!r}: {first['msg'].lower()}") from None
