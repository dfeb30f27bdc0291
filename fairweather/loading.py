"""load(name): the weights for a task, ready to restore."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from fairweather import weights
from fairweather.auto import AutoRestorer
from fairweather.errors import UsageError, unknown_name
from fairweather.models import MODELS, choose_weights, create_model, from_file
from fairweather.models.fusionnet import FusionNet
from fairweather.models.judge import Judge
from fairweather.models.nitedr import NiteDR
from fairweather.night import NightRestorer
from fairweather.pipeline import Restorer

AnyRestorer = Restorer | AutoRestorer | NightRestorer

TASKS: dict[str, str] = {
    "dehaze": "dcmpnet_small",
    "derain": "nafnet_small",
    "denoise": "nafnet_small",
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
    backend: Literal["torch"] = "torch",
) -> AnyRestorer:
    """Load the weights for a task, ready to restore.

    Args:
        name: a task (dehaze, derain, denoise, night), "auto", a model name (its first task), or a .safetensors of ours.
            "night" gives a `NightRestorer`, which also takes an infrared picture; "auto", or the file of a judge,
            gives an `AutoRestorer`, which judges each picture and does what it needs.
        model: for a task, another model than its usual one, or a .safetensors of ours.
        device: "auto" takes a GPU where there is one; "cpu", "cuda", "cuda:1".
        precision: "fp32", or "bf16" for about twice the speed on chips that have it; "auto" is fp32.
        backend: what computes.

    Raises:
        UsageError: for an unknown name, with the nearest right one. WeightsError: for missing or damaged weights.
    """
    if name not in TASKS and name not in MODELS and Path(name).suffix != ".safetensors":
        raise unknown_name("task or model", name, [*TASKS, *MODELS])
    if model and name not in TASKS:
        raise UsageError(
            f"load({name!r}, model={str(model)!r}): model= goes with a task, one of {', '.join(TASKS)}"
        )
    if backend != "torch":
        raise unknown_name("backend", backend, ["torch"])
    task, chosen = (name, model or TASKS[name]) if name in TASKS else ("default", name)
    path = Path(chosen)
    if path.suffix == ".safetensors":
        net, metadata = from_file(path)
        model_name = metadata["model"]
        made_for, digest = metadata.get("task", ""), weights.sha256(path)
        if task != "default" and made_for and made_for != task:
            raise UsageError(f"{path} was trained to {made_for}, not to {task}")
        task = made_for if task == "default" else task
    else:
        model_name = str(chosen)
        if model_name not in MODELS:
            raise unknown_name("task or model", model_name, [*TASKS, *MODELS])
        entry = choose_weights(model_name, task)
        net = create_model(model_name, weights=entry.task)
        task, digest = entry.task, entry.sha256
    device, precise = _device(device), _precision(precision)
    if isinstance(net, Judge):

        def of_task(task: str) -> Restorer:
            restorer = load(task, device=device, precision=precision, backend=backend)
            assert isinstance(restorer, Restorer)
            return restorer

        return AutoRestorer(
            net, model=model_name, sha256=digest, device=device, precision=precise, restorer=of_task
        )
    if isinstance(net, NiteDR):
        cleaner = Restorer(
            net.cleannet,
            model=model_name.replace("nitedr", "cleannet"),
            task="derain",
            sha256=digest,
            device=device,
            precision=precise,
        )
        return NightRestorer(
            net.fusionnet, cleaner, model=model_name, sha256=digest, device=device, precision=precise
        )
    if isinstance(net, FusionNet):
        usual = load("derain", device=device, precision=precision, backend=backend)
        assert isinstance(usual, Restorer)
        return NightRestorer(net, usual, model=model_name, sha256=digest, device=device, precision=precise)
    return Restorer(net, model=model_name, task=task, sha256=digest, device=device, precision=precise)


def _precision(name: str) -> str:
    if name == "auto":
        return "fp32"
    if name not in ("fp32", "bf16"):
        raise unknown_name("precision", name, ["auto", "fp32", "bf16"])
    return name


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
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
