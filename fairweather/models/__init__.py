"""The table of networks, and how to build one.

A new network is one file in this folder and one line in `MODELS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairweather import weights as weights_table
from fairweather.errors import UsageError, WeightsError, unknown_name
from fairweather.models import nafnet
from fairweather.weights import Weights

StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What there is to know about a network without building it."""

    build: Callable[..., nn.Module]
    """Builds it with random weights; its keyword arguments are what `create_model` overrides."""
    task: tuple[str, ...]
    """What it is made for."""
    params: int
    """Number of parameters as built without overrides."""
    multiple_of: int
    """Sides the network works on inside; any size goes in, padding is its own business."""
    bytes_per_pixel: int
    """Peak memory of a forward pass in fp32 on a CPU (benchmarks/memory.py); decides the size of tiles."""
    from_published: Callable[[StateDict], StateDict] | None = None
    """Published checkpoint names to ours; None where nothing is published."""
    inputs: tuple[str, ...] = ("visible",)
    tiling: Literal["exact", "approximate", "discouraged"] = "approximate"
    """approximate: global averages (channel attention) see the tile instead of the picture."""
    paper: str = ""
    licence: str = "Apache-2.0"
    """Of our code and our weights; published checkpoints keep their authors' terms."""


MODELS: dict[str, ModelInfo] = {
    "nafnet": ModelInfo(
        build=nafnet.nafnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=87_404_483,
        bytes_per_pixel=1900,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        paper="arXiv 2204.04676, as configured in arXiv 2402.15784",
    ),
    "nafnet_width32": ModelInfo(
        build=nafnet.nafnet_width32,
        task=("deblur",),
        params=17_111_907,
        bytes_per_pixel=1000,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        paper="arXiv 2204.04676",
    ),
    "nafnet_width64": ModelInfo(
        build=nafnet.nafnet_width64,
        task=("deblur",),
        params=67_888_835,
        bytes_per_pixel=1650,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        paper="arXiv 2204.04676",
    ),
    "nafnet_small": ModelInfo(
        build=nafnet.nafnet_small,
        task=("derain", "denoise"),
        params=2_330_931,
        bytes_per_pixel=800,
        multiple_of=8,
        paper="arXiv 2204.04676, our size",
    ),
    "nafnet_tiny": ModelInfo(
        build=nafnet.nafnet_tiny,
        task=("derain", "denoise"),
        params=164_775,
        bytes_per_pixel=600,
        multiple_of=8,
        paper="arXiv 2204.04676, our size",
    ),
    "constyle_nafnet": ModelInfo(
        build=nafnet.constyle_nafnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=12_739_872,
        bytes_per_pixel=3450,
        multiple_of=8,
        from_published=nafnet.published_constyle_nafnet,
        paper="arXiv 2402.15784",
    ),
    "constyle_nafnet_small": ModelInfo(
        build=nafnet.constyle_nafnet_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_739_360,
        bytes_per_pixel=1450,
        multiple_of=8,
        paper="arXiv 2402.15784, our size",
    ),
}


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return list(MODELS)


def model_info(name: str) -> ModelInfo:
    """The descriptor of a model; a wrong name raises UsageError with the nearest right one."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def create_model(name: str, *, weights: str | Path | None = None, **overrides: Any) -> nn.Module:
    """Build a network by name: float32, on the CPU.

    Args:
        name: one of `list_models()`.
        weights: None for random weights; "default" for those we ship (the first of `weights_for(name)`);
            a task, such as "derain", where a model has weights for several; or a path to a .safetensors of ours.
        overrides: constructor arguments, such as width=16.

    Returns:
        the network in training mode where its weights are random, else in evaluation mode.

    Raises:
        UsageError: for an unknown name or argument. WeightsError: for weights that do not fit.
    """
    info = model_info(name)
    known = set(inspect.signature(info.build).parameters)
    for argument in overrides:
        if argument not in known:
            raise unknown_name(f"argument of {name}", argument, known)
    if weights is None:
        return info.build(**overrides)
    if isinstance(weights, Path) or str(weights).endswith(".safetensors"):
        state, _ = weights_table.read_weights(Path(weights), model=name)
    else:
        state = weights_table.load_weights(choose_weights(name, str(weights)))
    try:
        net = info.build(**overrides)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot be built with {overrides}: {error}") from None
    return _filled(net, state, f"weights of {name}")


def weights_for(name: str) -> dict[str, Weights]:
    """The weights that we publish for a model, by task."""
    model_info(name)
    return {w.task: w for w in weights_table.WEIGHTS if w.model == name}


def choose_weights(name: str, task: str) -> Weights:
    """The weights of a model for a task; "default" is the first task it has weights for."""
    available = weights_for(name)
    if not available:
        raise WeightsError(
            f"there are no weights for {name} yet; models with weights: "
            + ", ".join(sorted({w.model for w in weights_table.WEIGHTS}))
        )
    if task == "default":
        return next(iter(available.values()))
    if task not in available:
        raise WeightsError(f"{name} has no weights for {task!r}; it has them for {', '.join(available)}")
    return available[task]


def from_published(name: str, state_dict: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """Build a network and fill it from a published checkpoint, by the original's own parameter names.

    Args:
        name: one of `list_models()` that has a published form.
        state_dict: the checkpoint, or the file's dictionary around it (`params_ema` before `params`); a
            `module.` prefix is removed.

    Returns:
        the network, in evaluation mode.

    Raises:
        WeightsError: naming what is missing, left over or of another shape.
    """
    info = model_info(name)
    if info.from_published is None:
        raise UsageError(f"{name} is our own configuration; nothing is published for it")
    state = state_dict
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    tensors = {k.removeprefix("module."): torch.as_tensor(v) for k, v in state.items()}
    return _filled(info.build(**overrides), info.from_published(tensors), f"this checkpoint for {name}")


def _filled(net: nn.Module, state: StateDict, what: str) -> nn.Module:
    """Load strictly, with a readable difference."""
    own = net.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(items)} {kind} (first: {items[0]})"
        for kind, items in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if items
    ]
    if problems:
        raise WeightsError(f"{what} do not fit: of {len(own)} tensors, {', '.join(problems)}")
    net.load_state_dict(state)
    return net.eval()
