"""load(name): the weights for a task, ready to restore; export(name): as a file for another back end."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from fairweather import weights
from fairweather.auto import AutoRestorer
from fairweather.backends import SUFFIXES, Exported, Facts, Kept, check_backend, is_there, open_exported
from fairweather.ensemble import COUNTS
from fairweather.errors import MissingExtraError, UsageError, WeightsError, unknown_name
from fairweather.exporting import (
    Export,
    exported_for,
    facts_of,
    machine,
    tensor_function,
    trusts_bf16,
    warm_up,
    write_exported,
)
from fairweather.models import MODELS, choose_weights, create_model, from_file
from fairweather.models.evidence import WITNESSES
from fairweather.models.fusionnet import FusionNet
from fairweather.models.judge import Judge
from fairweather.models.nitedr import NiteDR
from fairweather.night import NightRestorer
from fairweather.pipeline import Image, Restorer
from fairweather.quantising import Calibration
from fairweather.runtime import has_bf16, memory_is_limited, usual_device

log = logging.getLogger(__name__)

AnyRestorer = Restorer | AutoRestorer | NightRestorer

TASKS: dict[str, str] = {
    "dehaze": "dcmpnet_small",
    "derain": "nafnet_small",
    "denoise": "nafnet_small",
    "deblur": "nafnet_small",
    "night": "fusionnet_small",
    "auto": "judge_small",
}
"""The model that each task uses unless another is named."""


def load(
    name: str,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    backend: str = "torch",
    ensemble: int = 1,
    tell: Callable[[str], None] = log.info,
) -> AnyRestorer:
    """Load the weights for a task, ready to restore.

    Args:
        name: a task (dehaze, derain, denoise, deblur, night), "auto", a model name (its first task), a .safetensors of
            ours, or an .onnx or .xml that `export` wrote.
            "night" gives a `NightRestorer`, which also takes an infrared picture; "auto", or the file of a judge,
            gives an `AutoRestorer`, which judges each picture and does what it needs.
        model: for a task, another model than its usual one, or a file as above.
        device: "auto" takes a GPU where there is one; "cpu", "cuda", "cuda:1".
        precision: "fp32", or "bf16" for about twice the speed on chips that have it; "auto" is fp32.
        backend: what computes: "torch"; "onnx" (ONNX Runtime) or "openvino", on a CPU, for which networks are exported
            into the cache when they are first asked for; or "auto", the fastest here by a trial, which is kept there
            too. An exported file names its own.
        ensemble: 2, 4 or 8 average over so many orientations of a picture, see `ensembled`: a little better, and so
            many times as slow. For one network that restores pictures at their full size: not for "auto", "night" and
            dcmpnet_small.
        tell: called with a line where exporting or a trial takes time, and where bf16 is no gain.

    Raises:
        UsageError: for an unknown name, with the nearest right one; for a back end that cannot do what is asked.
            MissingExtraError: for one that is not installed. WeightsError: for missing or damaged weights.
    """
    if (
        name not in TASKS
        and name not in MODELS
        and Path(name).suffix not in (".safetensors", *SUFFIXES.values())
    ):
        if name == "restore":
            raise UsageError("the task of 'fairweather restore' is called auto; take that name")
        raise _unknown(name)
    if model and name not in TASKS:
        raise UsageError(
            f"load({name!r}, model={str(model)!r}): model= goes with a task, one of {', '.join(TASKS)}"
        )
    task, chosen = (name, model or TASKS[name]) if name in TASKS else ("default", name)
    path = Path(chosen)
    if path.suffix in SUFFIXES.values():
        return _from_exported(
            path, task, device=device, precision=precision, backend=backend, ensemble=ensemble, tell=tell
        )
    device, precise = _device(device, backend), _precision(precision)
    check_backend(backend, precision=precise, device=device)
    if precise == "bf16" and device == "cpu":
        _tell_of_bf16(tell)
    if path.suffix == ".safetensors":
        net, metadata = from_file(path)
        model_name = metadata["model"]
        made_for, digest = metadata.get("task", ""), weights.sha256(path)
        if task != "default" and made_for and made_for != task:
            raise UsageError(f"{path} was trained to {made_for}, not to {task}")
        task = made_for if task == "default" else task
        by_evidence = isinstance(net, Judge) and _fits_witnesses(path, metadata)
    else:
        model_name = str(chosen)
        if model_name not in MODELS:
            raise _unknown(model_name)
        entry = choose_weights(model_name, task)
        net = create_model(model_name, weights=entry.task)
        task, digest, by_evidence = entry.task, entry.sha256, True
    _check_ensemble(ensemble, model_name)
    if isinstance(net, Judge):

        def of_task(task: str) -> Restorer:
            restorer = load(task, device=device, precision=precision, backend=backend, tell=tell)
            assert isinstance(restorer, Restorer)
            return restorer

        return AutoRestorer(
            net,
            model=model_name,
            sha256=digest,
            device=device,
            precision=precise,
            restorer=of_task,
            by_evidence=by_evidence,
        )

    def how(net: nn.Module, model: str, task: str) -> _How:
        facts = facts_of(net, model=model, task=task, sha256=digest)
        exported = exported_for(net, facts, backend, precision=precise, device=device, tell=tell)
        return _how(facts, exported, device=device, precision=precise, ensemble=ensemble, tell=tell)

    if isinstance(net, NiteDR):
        cleannet = model_name.replace("nitedr", "cleannet")
        cleaner = Restorer(net.cleannet, task="derain", **how(net.cleannet, cleannet, "derain"))
        return NightRestorer(net.fusionnet, cleaner, **how(net.fusionnet, model_name, task))
    if isinstance(net, FusionNet):
        usual = load("derain", device=device, precision=precision, backend=backend, tell=tell)
        assert isinstance(usual, Restorer)
        return NightRestorer(net, usual, **how(net, model_name, task))
    return Restorer(net, task=task, ensemble=ensemble, **how(net, model_name, task))


def witness_digests() -> dict[str, str]:
    """The digests of the shipped weights that give evidence, by task: a judge trained with them is for these alone."""
    return {task: choose_weights(TASKS[task], task).sha256 for task in WITNESSES}


def _unknown(name: str) -> UsageError:
    """What to say of a name that is no task and no model; a file may hold weights, but not as ours do."""
    if Path(name).is_file():
        return UsageError(
            f"{name} is no .safetensors of ours; if it is a checkpoint of a paper's authors, make one of it: "
            f"fairweather models convert {name} --model NAME"
        )
    if Path(name).suffix:
        return UsageError(
            f"{name}: there is no such file; expected a file, or a name of 'fairweather models list'"
        )
    return unknown_name("task or model", name, [*TASKS, *MODELS])


def _fits_witnesses(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether the judge in a file was trained with the evidence of the restorers that ship."""
    if "witnesses" not in metadata:  # its last stage is missing
        log.warning(f"{path} was not trained to weigh evidence; it judges by looks alone")
        return False
    if json.loads(metadata["witnesses"]) != witness_digests():
        log.warning(
            f"{path} weighs evidence of other restorers than those that ship; it judges by looks alone"
        )
        return False
    return True


class _How(TypedDict):
    """The arguments that all restorers take."""

    model: str
    sha256: str
    device: str
    precision: str
    exported: Exported | None
    measured: MutableMapping[str, float] | None


def _how(
    facts: Facts,
    exported: Exported | None,
    *,
    device: str,
    precision: str,
    ensemble: int,
    tell: Callable[[str], None],
) -> _How:
    measured = None
    if precision == "bf16" and exported and not trusts_bf16(exported.backend, facts.model):
        tell(f"{facts.model}: {exported.backend} is too far from fp32 in bf16; computed in fp32")
        precision = "fp32"
    if exported and memory_is_limited():
        warm_up(exported, half=precision == "bf16")
    if precision == "bf16" and facts.sha256:
        backend = exported.backend if exported else "torch"
        versions = machine(*([backend] if exported else []))
        form = f"{backend} int8" if facts.int8 else backend
        if ensemble > 1:  # a mean is nearer
            form += f" x{ensemble}"
        measured = Kept("bf16", facts.sha256, facts.model, form, device, *versions)
    return _How(
        model=facts.model,
        sha256=facts.sha256,
        device=device,
        precision=precision,
        exported=exported,
        measured=measured,
    )


def _from_exported(
    path: Path,
    task: str,
    *,
    device: str,
    precision: Any,
    backend: str,
    ensemble: int,
    tell: Callable[[str], None],
) -> AnyRestorer:
    """As `load`, of a file that `export` wrote."""
    exported = open_exported(path)
    facts = exported.facts
    if backend not in ("auto", "torch", exported.backend):
        raise UsageError(f"{path} is for {exported.backend}, not for {backend}; leave --backend out")
    device, precise = _device(device, exported.backend), _precision(precision)
    check_backend(exported.backend, precision=precise, device=device)
    if facts.model not in MODELS:
        raise WeightsError(f"{path} is of {facts.model!r}, which this version of fairweather does not know")
    if task not in ("default", facts.task):
        raise UsageError(f"{path} was trained to {facts.task}, not to {task}")
    _check_ensemble(ensemble, facts.model)
    how = _how(facts, exported, device=device, precision=precise, ensemble=ensemble, tell=tell)
    if facts.inputs == ("visible",):
        return Restorer(None, task=facts.task, ensemble=ensemble, **how)
    usual = load("derain", device=device, precision=precision, backend=exported.backend, tell=tell)
    assert isinstance(usual, Restorer)
    return NightRestorer(None, usual, **how)


def export(
    name: str,
    path: str | Path | None = None,
    *,
    to: str,
    model: str | Path | None = None,
    int8: Sequence[Image] = (),
) -> Export:
    """Write the network of a task as a file for ONNX Runtime or OpenVINO, of any height and width.

    The file says what it is, `load` takes it, and it agrees with torch at 12 sizes; how well is in a .json beside.

    Args:
        name, model: as of `load`. For "night", the fusion alone.
        path: ends in .onnx or .xml; by default MODEL-TASK in the folder we are in, with -int8 where it is. Overwritten.
        to: "onnx" or "openvino".
        int8: pictures like those to be restored, for OpenVINO: 1x1 convolutions then compute in 8 bit, scaled by what
            comes up in these pictures.

    Raises:
        UsageError: for a wrong name, back end or ending, for "auto", which is several networks, and for int8 where
            it cannot be.
            FairweatherError: if what was exported differs from torch by more than 1e-4, or one of the pictures in int8
            by less than 45 dB; then nothing is written. Others as of `load`.
    """
    if to not in SUFFIXES:
        raise unknown_name("back end", to, SUFFIXES)
    check_backend(to, precision="fp32", device="cpu")
    if path is not None and Path(path).suffix != SUFFIXES[to]:
        raise UsageError(f"{path}: expected a name that ends in {SUFFIXES[to]}, for {to}")
    if Path(model or name).suffix in SUFFIXES.values():
        raise UsageError(f"{model or name} is exported already; give a task, a model or a .safetensors")
    restorer = load(name, model=model, device="cpu")
    if isinstance(restorer, AutoRestorer):
        raise UsageError("'auto' is several networks; export the tasks that it does, such as derain")
    if restorer.model.startswith("nitedr"):
        raise UsageError(
            f"{restorer.model} is two networks, one after the other; export cleannet and fusionnet"
        )
    net = restorer.net
    assert net is not None
    facts = facts_of(net, model=restorer.model, task=restorer.task, sha256=restorer.sha256)
    if not int8:
        return write_exported(net, Path(path or f"{facts.model}-{facts.task}{SUFFIXES[to]}"), facts)
    if to != "openvino":
        raise UsageError(f"int8 is for openvino, not for {to}, which is no faster by it; use --to openvino")
    if len(facts.inputs) > 1:
        raise UsageError(f"int8 is for networks of one picture, and {facts.model} takes {len(facts.inputs)}")
    if not is_there("onnxruntime"):
        raise MissingExtraError("int8", "onnx")
    calibration = Calibration(int8, tensor_function(net, facts.model), facts)
    facts = dataclasses.replace(facts, int8=True)
    target = Path(path or f"{facts.model}-{facts.task}-int8{SUFFIXES[to]}")
    return write_exported(net, target, facts, calibration=calibration)


@cache  # restore and night load several networks
def _tell_of_bf16(tell: Callable[[str], None]) -> None:
    if has_bf16() is False:
        tell("this processor has no instructions for bf16, which is slower here than fp32")


def _precision(name: str) -> str:
    if name == "auto":
        return "fp32"
    if name not in ("fp32", "bf16"):
        raise unknown_name("precision", name, ["auto", "fp32", "bf16"])
    return name


def _check_ensemble(count: int, model: str) -> None:
    if count not in COUNTS:
        raise UsageError(f"ensemble is {count}, expected one of {', '.join(map(str, COUNTS))}")
    info = MODELS[model]
    if count > 1 and not (info.restores and info.inputs == ("visible",) and info.tiling != "reduced"):
        raise UsageError(
            f"{model} takes no ensemble, which is for networks that restore one picture at its full size; leave it out"
        )


def _device(name: str, backend: str) -> str:
    if name == "auto":
        return "cpu" if backend in SUFFIXES else usual_device(name)
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise unknown_name("device", name, ["auto", "cpu", "cuda"]) from None
    if kind == "cuda" and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if kind not in ("cpu", "cuda"):
        raise unknown_name("device", name, ["auto", "cpu", "cuda"])
    return name
