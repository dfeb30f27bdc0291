"""The authors' checkpoints as files of ours, to restore with, to evaluate, and to train from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairweather.errors import UsageError, WeightsError, unknown_name
from fairweather.models import ENCODER, model_info, published_network
from fairweather.models.dcmpnet import is_depth_alone
from fairweather.weights import read_checkpoint, save_weights, sha256


@dataclass(frozen=True)
class Converted:
    """A file that was written, and what is in it."""

    path: Path
    model: str
    task: str
    """"" for an encoder alone."""
    params: int
    sha256: str


def convert(
    name: str,
    checkpoints: Sequence[Path],
    output: Path | None = None,
    *,
    task: str | None = None,
    part: str | None = None,
) -> Converted:
    """Write published weights as a .safetensors of ours, in float32 as they are.

    Args:
        name: of a network with a published form; "constyle" takes the encoder alone out of a ConStyle checkpoint, to
            train from.
        checkpoints: PyTorch files, of which nothing but tensors is read; several where the authors split a network,
            such as DCMPNet's dehazing and depth files.
        output: ends in .safetensors; by default MODEL-TASK in the folder we are in. Overwritten.
        task: what the weights were trained for; needed where the network is for several.
        part: which weights, where a checkpoint holds several: BasicSR's has averages, "params_ema", which are taken
            by default, and "params". (The averages of the authors of ConStyle hold no statistics of batch norm.)

    Raises:
        UsageError: for a wrong name, task or ending. WeightsError: for a damaged checkpoint, or one that does not fit;
            then nothing is written.
    """
    task = "" if name == ENCODER else _task(name, task)
    output = output or Path(f"{name}-{task}".strip("-") + ".safetensors")
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: expected a name that ends in .safetensors")
    if any(output.resolve() == file.resolve() for file in checkpoints):
        raise UsageError(f"{output} is one of the checkpoints; give it another name with -o")
    joined = _joined(checkpoints)
    net, arguments = published_network(name, joined if part is None else _part(joined, part))
    metadata = {
        "model": name,
        "model_args": json.dumps(arguments),
        "task": task,
        "recipe": "published by the authors",
        "published_sha256": ", ".join(sha256(file) for file in checkpoints),
    }
    save_weights(net.state_dict(), output, metadata, half=False)
    return Converted(output, name, task, sum(p.numel() for p in net.parameters()), sha256(output))


def _task(name: str, task: str | None) -> str:
    tasks = model_info(name).task
    if task is None and len(tasks) > 1:
        raise UsageError(
            f"{name} is for {', '.join(tasks)}; say with --task what these weights were trained for"
        )
    if task is not None and task not in tasks:
        raise unknown_name(f"task of {name}", task, tasks)
    return task or tasks[0]


def _joined(checkpoints: Sequence[Path]) -> dict[str, Any]:
    """What is in several files; none may take another's tensors' place."""
    joined: dict[str, Any] = {}
    for file in checkpoints:
        found, metadata = read_checkpoint(file)
        if "model" in metadata:
            raise UsageError(f"{file} is a file of ours already; nothing to convert")
        if len(checkpoints) > 1 and is_depth_alone(found):  # its names are the dehazing network's in part
            found = {"depth_net": found}
        twice = next((k for k, v in found.items() if k in joined and isinstance(v, Tensor | Mapping)), None)
        if twice is not None:
            raise WeightsError(f"{file} holds {twice!r}, which the file before it held too; give one of them")
        joined |= found
    return joined


def _part(checkpoint: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    parts = [name for name, held in checkpoint.items() if isinstance(held, Mapping)]
    if part not in parts:
        there = (
            f"it has {', '.join(map(str, parts))}" if parts else "it is one set of weights; leave --part out"
        )
        raise WeightsError(f"the checkpoint has no part {part!r}; {there}")
    held: Mapping[str, Any] = checkpoint[part]
    return held
