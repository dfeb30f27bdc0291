"""The table of networks, and how to build one.

A new network is one file in this folder and one line in `MODELS`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairweather import weights as weights_table
from fairweather.errors import UsageError, WeightsError, unknown_name
from fairweather.models import (
    cleannet,
    dcmpnet,
    fusionnet,
    judge,
    kbnet,
    maxim,
    nafnet,
    nitedr,
    restormer,
    uformer,
)
from fairweather.models.constyle import ConStyle, by_todays_names, published_encoder
from fairweather.models.dcmpnet import DCMPNet
from fairweather.weights import Weights

StateDict = dict[str, Tensor]
ENCODER = "constyle"
"""The ConStyle encoder alone: no network of the table, but weights to train from."""


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
    published_parts: tuple[str, ...] = ()
    """Dictionaries inside a published file that hold its networks, where there are several."""
    published_arguments: Callable[[StateDict], Mapping[str, Any]] = lambda _: {}
    """Constructor arguments that a checkpoint (by our names) asks for."""
    inputs: tuple[str, ...] = ("visible",)
    restores: bool = True
    """False for a network that judges pictures and gives none."""
    tiling: Literal["exact", "approximate", "consistent", "reduced"] = "approximate"
    """approximate: averages over the picture (channel attention) see the tile instead; consistent: they are taken
    over a reduced copy of the whole picture and shared by its tiles; reduced: no tiles, what is wrong is found in a
    reduced copy and put right at full size."""
    overlap: int = 32
    """Pixels that tiles share on each side."""
    align: int = 1
    """Tiles start at multiples of it and of `multiple_of`: the side of the coarsest attention windows, in pixels."""
    paper: str = ""
    licence: str = "Apache-2.0"
    """Of our code and our weights; published checkpoints keep their authors' terms."""

    @property
    def weights(self) -> dict[str, Weights]:
        """The weights that we publish for it, by task."""
        return {w.task: w for w in weights_table.WEIGHTS if MODELS.get(w.model) is self}


MODELS: dict[str, ModelInfo] = {
    "dcmpnet": ModelInfo(
        build=dcmpnet.dcmpnet,
        task=("dehaze",),
        params=19_301_553,
        bytes_per_pixel=2750,
        multiple_of=4,
        from_published=dcmpnet.published_dcmpnet,
        published_parts=("dehaze_net", "depth_net"),
        published_arguments=dcmpnet.published_arguments,
        tiling="consistent",
        overlap=64,
        align=32,
        paper="arXiv 2403.01105",
    ),
    "dcmpnet_small": ModelInfo(
        build=dcmpnet.dcmpnet_small,
        task=("dehaze",),
        params=2_825_483,
        bytes_per_pixel=500,
        multiple_of=16,
        tiling="reduced",
        paper="arXiv 2403.01105, our size",
    ),
    "judge_small": ModelInfo(
        build=judge.judge_small,
        task=("auto",),
        params=1_524_049,
        bytes_per_pixel=30,
        multiple_of=1,
        restores=False,
        paper="arXiv 2402.15784, our size of its encoder",
    ),
    "cleannet": ModelInfo(
        build=cleannet.cleannet,
        task=("derain",),
        params=33_655_424,
        bytes_per_pixel=8600,
        multiple_of=8,
        from_published=cleannet.published_cleannet,
        paper="arXiv 2402.18172",
    ),
    "cleannet_small": ModelInfo(
        build=cleannet.cleannet_small,
        task=("derain",),
        params=1_899_360,
        bytes_per_pixel=1750,
        multiple_of=8,
        paper="arXiv 2402.18172, our size",
    ),
    "fusionnet": ModelInfo(
        build=fusionnet.fusionnet,
        task=("night",),
        params=665_673,
        bytes_per_pixel=5950,
        multiple_of=1,
        inputs=("visible", "infrared"),
        from_published=fusionnet.published_fusionnet,
        published_parts=("fusion_model", "refine_model"),
        published_arguments=fusionnet.published_arguments,
        tiling="exact",
        paper="arXiv 2402.18172",
    ),
    "fusionnet_small": ModelInfo(
        build=fusionnet.fusionnet_small,
        task=("night",),
        params=73_849,
        bytes_per_pixel=900,
        multiple_of=1,
        inputs=("visible", "infrared"),
        tiling="exact",
        paper="arXiv 2402.18172, our size",
    ),
    "nitedr": ModelInfo(
        build=nitedr.nitedr,
        task=("night",),
        params=34_321_097,
        bytes_per_pixel=8350,
        multiple_of=8,
        inputs=("visible", "infrared"),
        from_published=nitedr.published_nitedr,
        published_parts=("params", "fusion_model", "refine_model"),
        published_arguments=fusionnet.published_arguments,
        paper="arXiv 2402.18172",
    ),
    "nitedr_small": ModelInfo(
        build=nitedr.nitedr_small,
        task=("night",),
        params=1_973_209,
        bytes_per_pixel=1650,
        multiple_of=8,
        inputs=("visible", "infrared"),
        paper="arXiv 2402.18172, our size",
    ),
    "nafnet": ModelInfo(
        build=nafnet.nafnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=87_404_483,
        bytes_per_pixel=2150,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        paper="arXiv 2204.04676, as configured in arXiv 2402.15784",
    ),
    "nafnet_width32": ModelInfo(
        build=nafnet.nafnet_width32,
        task=("deblur", "denoise"),
        params=17_111_907,
        bytes_per_pixel=1000,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        published_arguments=nafnet.published_arguments,
        paper="arXiv 2204.04676",
    ),
    "nafnet_width64": ModelInfo(
        build=nafnet.nafnet_width64,
        task=("deblur", "denoise"),
        params=67_888_835,
        bytes_per_pixel=2300,
        multiple_of=16,
        from_published=nafnet.published_nafnet,
        published_arguments=nafnet.published_arguments,
        paper="arXiv 2204.04676",
    ),
    "nafnet_small": ModelInfo(
        build=nafnet.nafnet_small,
        task=("derain", "denoise", "deblur"),
        params=2_330_931,
        bytes_per_pixel=1500,
        multiple_of=8,
        paper="arXiv 2204.04676, our size",
    ),
    "nafnet_tiny": ModelInfo(
        build=nafnet.nafnet_tiny,
        task=("derain", "denoise"),
        params=164_775,
        bytes_per_pixel=650,
        multiple_of=8,
        paper="arXiv 2204.04676, our size",
    ),
    "constyle_nafnet": ModelInfo(
        build=nafnet.constyle_nafnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=12_739_872,
        bytes_per_pixel=6750,
        multiple_of=8,
        from_published=nafnet.published_constyle_nafnet,
        paper="arXiv 2402.15784",
    ),
    "constyle_nafnet_small": ModelInfo(
        build=nafnet.constyle_nafnet_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_739_360,
        bytes_per_pixel=2000,
        multiple_of=8,
        paper="arXiv 2402.15784, our size",
    ),
    "restormer": ModelInfo(
        build=restormer.restormer,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=26_126_644,
        bytes_per_pixel=6850,
        multiple_of=8,
        from_published=restormer.published_restormer,
        paper="arXiv 2111.09881",
    ),
    "restormer_small": ModelInfo(
        build=restormer.restormer_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_439_707,
        bytes_per_pixel=2100,
        multiple_of=8,
        paper="arXiv 2111.09881, our size",
    ),
    "constyle_restormer": ModelInfo(
        build=restormer.constyle_restormer,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=15_574_960,
        bytes_per_pixel=7650,
        multiple_of=8,
        from_published=restormer.published_constyle_restormer,
        paper="arXiv 2402.15784",
    ),
    "constyle_restormer_small": ModelInfo(
        build=restormer.constyle_restormer_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_840_811,
        bytes_per_pixel=2200,
        multiple_of=8,
        paper="arXiv 2402.15784, our size",
    ),
    "maxim": ModelInfo(
        build=maxim.maxim,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=6_134_371,
        bytes_per_pixel=4800,
        multiple_of=64,
        from_published=maxim.published_maxim,
        align=64,
        paper="arXiv 2201.02973, as configured in arXiv 2402.15784",
    ),
    "constyle_maxim": ModelInfo(
        build=maxim.constyle_maxim,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=6_572_576,
        bytes_per_pixel=7450,
        multiple_of=64,
        from_published=maxim.published_constyle_maxim,
        align=64,
        paper="arXiv 2402.15784",
    ),
    "uformer": ModelInfo(
        build=uformer.uformer,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=20_751_197,
        bytes_per_pixel=10_900,
        multiple_of=128,
        from_published=uformer.published_uformer,
        overlap=64,
        align=128,
        paper="arXiv 2106.03106, as configured in arXiv 2402.15784",
    ),
    "uformer_small": ModelInfo(
        build=uformer.uformer_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_314_919,
        bytes_per_pixel=2500,
        multiple_of=64,
        overlap=64,
        align=64,
        paper="arXiv 2106.03106, our size",
    ),
    "constyle_uformer": ModelInfo(
        build=uformer.constyle_uformer,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=4_142_893,
        bytes_per_pixel=10_450,
        multiple_of=64,
        from_published=uformer.published_constyle_uformer,
        overlap=64,
        align=64,
        paper="arXiv 2402.15784",
    ),
    "constyle_uformer_small": ModelInfo(
        build=uformer.constyle_uformer_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_929_287,
        bytes_per_pixel=2350,
        multiple_of=64,
        overlap=64,
        align=64,
        paper="arXiv 2402.15784, our size",
    ),
    "kbnet": ModelInfo(
        build=kbnet.kbnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=130_249_283,
        bytes_per_pixel=4000,
        multiple_of=16,
        from_published=kbnet.published_kbnet,
        paper="arXiv 2303.02881, as configured in arXiv 2402.15784",
    ),
    "kbnet_small": ModelInfo(
        build=kbnet.kbnet_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_516_371,
        bytes_per_pixel=600,
        multiple_of=8,
        paper="arXiv 2303.02881, our size",
    ),
    "constyle_kbnet": ModelInfo(
        build=kbnet.constyle_kbnet,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=7_094_128,
        bytes_per_pixel=5900,
        multiple_of=8,
        from_published=kbnet.published_constyle_kbnet,
        paper="arXiv 2402.15784",
    ),
    "constyle_kbnet_small": ModelInfo(
        build=kbnet.constyle_kbnet_small,
        task=("denoise", "deblur", "derain", "dehaze"),
        params=1_989_360,
        bytes_per_pixel=1150,
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
        weights: None for random weights; "default" for those we ship (the first of `MODELS[name].weights`);
            a task, such as "derain", where a model has weights for several; or a path to a .safetensors of ours.
            The constructor arguments that it was trained with hold unless overridden.
        overrides: constructor arguments, such as width=16.

    Returns:
        the network, in evaluation mode.

    Raises:
        UsageError: for an unknown name or argument. WeightsError: for weights that do not fit.
    """
    if weights is None:
        return _built(name, overrides).eval()
    path = Path(weights)
    if path.suffix != ".safetensors":
        path = weights_table.checked(choose_weights(name, str(weights)))
    return from_file(path, model=name, **overrides)[0]


def from_file(path: Path, *, model: str | None = None, **overrides: Any) -> tuple[nn.Module, dict[str, str]]:
    """Build the network that a .safetensors of ours was trained with, and fill it.

    Args:
        model: refuse weights of another model.

    Returns:
        the network in evaluation mode, and the file's metadata (model, task, recipe, ...).

    Raises:
        WeightsError: if the file is damaged, does not say what it is, or does not fit.
    """
    state, metadata = weights_table.read_weights(path, model=model)
    name = metadata.get("model") or model
    if name == ENCODER:
        raise WeightsError(
            f"{path} is a ConStyle encoder alone, which restores nothing; train from it with --set init={path}"
        )
    if name not in MODELS:
        raise WeightsError(
            f"{path} does not say which of our models it belongs to; train it with fairweather, or convert the "
            "authors' checkpoint with 'fairweather models convert'"
        )
    try:
        arguments = json.loads(metadata.get("model_args", "{}"))
        net = _built(name, dict(arguments.items()) | overrides)
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{path} has unusable model_args ({error}); train it again") from None
    return _filled(net, by_todays_names(state), f"weights of {name}"), metadata


def _built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Random weights; an unknown or impossible argument is a UsageError."""
    # Numbers that came through JSON are in lists, and constructors take tuples.
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    build = model_info(name).build
    known = inspect.signature(build).parameters
    for argument, value in arguments.items():
        if argument not in known:
            raise unknown_name(f"argument of {name}", argument, known)
        if isinstance(known[argument].default, bool) and not isinstance(value, bool):
            raise UsageError(f"{argument}={value!r} of {name}: expected true or false")
    try:
        return build(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot be built with {arguments}: {error}") from None


def choose_weights(name: str, task: str) -> Weights:
    """The weights of a model for a task; "default" is the first task it has weights for."""
    available = model_info(name).weights
    if not available:
        raise WeightsError(
            f"no weights come with {name}: train it, convert its authors' checkpoint (fairweather models convert), "
            f"or take one with weights: {', '.join(sorted({w.model for w in weights_table.WEIGHTS}))}"
        )
    if task == "default":
        return next(iter(available.values()))
    if task not in available:
        raise WeightsError(f"{name} has no weights for {task!r}; it has them for {', '.join(available)}")
    return available[task]


def from_published(name: str, state_dict: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """Build a network and fill it from a published checkpoint, by the original's own parameter names.

    Args:
        name: one of `list_models()` that has a published form; "constyle" is the encoder alone.
        state_dict: the checkpoint, `torch.load(FILE, weights_only=True)`, or the dictionary in the file around
            it (`params_ema` before `params`); a `module.` prefix is removed.

    Returns:
        the network, in evaluation mode.

    Raises:
        WeightsError: naming what is missing, left over or of another shape.
    """
    return published_network(name, state_dict, **overrides)[0]


def published_network(
    name: str, state_dict: Mapping[str, Any], **overrides: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """As `from_published`, with the constructor arguments that the network was built with."""
    what = f"the tensors of this checkpoint for {name}"
    if name == ENCODER:
        return _filled(ConStyle(**overrides), published_encoder(_tensors(state_dict)), what), overrides
    info = model_info(name)
    if info.from_published is None:
        raise UsageError(f"{name} is our own configuration; nothing is published for it")
    ours = info.from_published(_tensors(state_dict, info.published_parts))
    arguments = {**info.published_arguments(ours), **overrides}
    return _filled(_built(name, arguments), ours, what), arguments


def _tensors(checkpoint: Mapping[str, Any], parts: Sequence[str] = ()) -> StateDict:
    """The tensors of a checkpoint or of its parts, out of the dictionary around them."""
    state = checkpoint
    if not any(part in state for part in parts):
        around = (state.get(key) for key in ("params_ema", "params", "state_dict"))
        state = next((inner for inner in around if isinstance(inner, Mapping)), state)
    if there := [part for part in parts if isinstance(state.get(part), Mapping)]:
        # Of two files joined, one may hold its part by name and the other its tensors as they are.
        bare = state if len(there) == 1 < len(parts) else {}
        bare = {k: v for k, v in bare.items() if isinstance(v, Tensor | np.ndarray)}
        state = bare | {f"{p}.{k.removeprefix('module.')}": v for p in there for k, v in state[p].items()}
    for key, value in state.items():
        if not isinstance(value, Tensor | np.ndarray | np.generic):
            raise WeightsError(f"{key!r} of the checkpoint is a {type(value).__name__}, expected a tensor")
    return {k.removeprefix("module."): torch.as_tensor(v) for k, v in state.items()}


def restored(net: nn.Module, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The restored picture alone, without the cost of what a network can give beside it, such as depth."""
    y: Tensor = net.clear(x) if isinstance(net, DCMPNet) else net(x)
    return y


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
