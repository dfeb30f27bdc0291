"""A network as a file for ONNX Runtime or OpenVINO: written, checked against torch at 12 sizes, kept, and chosen.

import fairweather as fw
fw.export("derain", "derain.onnx", to="onnx")
fw.load("derain.onnx").restore("photo.jpg")
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

import fairweather
from fairweather.backends import (
    ENOUGH,
    KEY,
    PACKAGES,
    SUFFIXES,
    Exported,
    Facts,
    Kept,
    backend_of,
    check_backend,
    compute,
    digest_of,
    installed,
    open_exported,
    report_of,
)
from fairweather.errors import BackendError, FairweatherError, UsageError, WeightsError
from fairweather.files import cache_folder
from fairweather.models import MODELS, restored
from fairweather.models.cleannet import CleanNet
from fairweather.models.dcmpnet import DCMPNet
from fairweather.models.fusionnet import FusionNet
from fairweather.models.inference import for_inference
from fairweather.models.layers import pad_to_multiple
from fairweather.models.winograd import LEAST_IN_FILES, with_winograd
from fairweather.runtime import in_turn, processor
from fairweather.weights import sha256

if TYPE_CHECKING:
    from fairweather.quantising import Calibration

Tell = Callable[[str], None]

SIZES = (
    (64, 64),
    (65, 97),
    (96, 64),
    (75, 128),
    (101, 67),
    (128, 75),
    (131, 83),
    (90, 160),
    (161, 90),
    (177, 113),
    (113, 177),
    (144, 192),
)
"""Heights and widths that an exported network is compared with torch at; our pipeline pads the odd ones."""
LARGEST_DIFFERENCE = 1e-4
"""From torch, of a range of 1, up to which an exported network is taken."""
LARGEST_DIFFERENCE_OF_CHOICES = 6e-3
"""The same for CleanNet: which entries its sparse attention keeps is a matter of rounding where two are equal, and each
such choice changes the picture by 1e-3 to 5e-3."""
OPSET = 17
"""Of ONNX; the first with layer norm as one operation."""
NOT_EXPORTED = ("maxim", "kbnet")
"""Families whose operations depend on the size in ways that a file cannot hold: MAXIM's resizing with antialiasing is
another in each library (off by 0.004 and 0.02), KBNet's rows are taken in a number of steps of their own."""


class TensorFunction(nn.Module):
    """What the pipeline asks of a network, as one function of tensors whose sides are multiples of what it works on.

    The restored or fused picture; or, where haze is found in a reduced copy and removed by the pipeline, the log
    transmission and the airlight of each channel.
    """

    def __init__(self, net: nn.Module, *, haze: bool) -> None:
        super().__init__()
        self.net, self.haze = net, haze

    def forward(self, *pictures: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """One picture; a visible and an infrared one for FusionNet."""
        if isinstance(self.net, FusionNet):
            return self.net.fuse(*pictures)
        (x,) = pictures
        if self.haze:
            assert isinstance(self.net, DCMPNet)
            return torch.cat(self.net.haze(x), dim=1)
        return restored(self.net, x)


def tensor_function(net: nn.Module, model: str) -> TensorFunction:
    """The function of a network of this model."""
    return TensorFunction(net, haze=MODELS[model].tiling == "reduced")


def facts_of(net: nn.Module, *, model: str, task: str, sha256: str) -> Facts:
    """What an exported file of a network says."""
    fuses = isinstance(net, FusionNet)
    multiple = 1 if fuses else MODELS[model].multiple_of
    least = net.dehazing.least if isinstance(net, DCMPNet) else 1
    return Facts(
        model=model,
        task=task,
        sha256=sha256,
        inputs=("visible", "infrared") if fuses else ("visible",),
        multiple_of=multiple,
        least=-(-least // multiple) * multiple,
        version=fairweather.__version__,
    )


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported network that agrees with torch, and how well."""

    path: Path
    """The file to load; OpenVINO's weights lie beside it in a .bin, and the report of the check in a .json."""
    largest_difference: float
    """From torch at `sizes`, of a range of 1."""
    sizes: tuple[tuple[int, int], ...]
    decibels: float | None = None
    """For int8, what the least like picture of those that it was quantised by is from fp32 (PSNR, peak 1)."""


# Writing ---------------------------------------------------------------------------------------------------------


def write_exported(
    net: nn.Module, path: Path, facts: Facts, *, calibration: Calibration | None = None
) -> Export:
    """Export a network in its inference form, and compare the result with torch; all files are written or none.

    Args:
        path: ends in .onnx or .xml, which decides what it is for.
        calibration: what to quantise by, where `facts` say int8.

    Raises:
        FairweatherError: if the network cannot be exported, or the file gives something else than torch.
        OSError: if the folder cannot be written.
    """
    backend = backend_of(path)
    if facts.model.removeprefix("constyle_").startswith(NOT_EXPORTED):
        raise FairweatherError(
            f"{facts.model} cannot be exported; use --backend torch, or another model (fairweather models list)"
        )
    fast = for_inference(net)
    function = tensor_function(fast, facts.model).eval()
    traced = tensor_function(with_winograd(copy.deepcopy(fast), LEAST_IN_FILES), facts.model).eval()
    with _staged(path.parent) as folder:
        part = folder / path.name
        _write_onnx(traced, part.with_suffix(".onnx"), facts)
        if calibration:
            calibration.quantise(part.with_suffix(".onnx"))
        if backend == "openvino":
            _write_openvino(part, facts)
        exported = open_exported(part)
        differences = _differences(exported, function)
        largest = max(differences.values())
        limit = LARGEST_DIFFERENCE_OF_CHOICES if isinstance(net, CleanNet) else LARGEST_DIFFERENCE
        decibels = min(calibration.decibels(exported)) if calibration else None
        if decibels is not None and not decibels >= ENOUGH:
            raise FairweatherError(
                f"{facts.model} in int8 is {decibels:.1f} dB from fp32 for the worst of its pictures, at least "
                f"{ENOUGH:.0f} is taken; leave --int8 out"
            )
        if decibels is None and not largest <= limit:
            height, width = max(differences, key=lambda size: differences[size])
            raise FairweatherError(
                f"{facts.model} exported for {backend} is off by {largest:.1e} from torch at {width} x {height} "
                f"pixels, at most {limit:.0e} is taken; use --backend torch"
            )
        files = [part.with_suffix(".bin"), part] if backend == "openvino" else [part]
        report = {
            **facts.__dict__,
            "largest_difference": largest,
            "sizes": SIZES,
            "versions": _versions(*({"onnx", backend} if calibration else {backend})),
            "sha256": {file.name: sha256(file) for file in files},
        }
        report["weights_sha256"] = facts.sha256
        if calibration:
            report |= {"pictures": len(calibration.pictures), "decibels_from_fp32": decibels}
        report_of(part).write_text(json.dumps(report, indent=2) + "\n")
        for file in (*files, report_of(part)):
            _place(file, path.with_name(file.name))
    return Export(path=path, largest_difference=largest, sizes=SIZES, decibels=decibels)


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` for files on their way; gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fairweather-", suffix=".part", dir=folder) as name:
        yield Path(name)


def _place(file: Path, target: Path) -> None:
    """Put a finished file in its place, on the disk."""
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.chmod(0o644)
    os.replace(file, target)


def _write_onnx(function: TensorFunction, path: Path, facts: Facts) -> None:
    """By tracing: what torch.export makes of sizes that windows are mirrored and cut by takes it many minutes."""
    import onnx

    for operation, symbolic in (("mT", _transposed), ("floor_divide", _floor_divided)):
        torch.onnx.register_custom_op_symbolic(f"aten::{operation}", symbolic, OPSET)  # type: ignore[attr-defined]
    unit = facts.multiple_of
    least = -(-max(facts.least, 64) // unit)
    example = _pictures(facts, (least + 1) * unit, (least + 2) * unit)
    output = "haze" if function.haze else "restored"
    free = {name: {2: "height", 3: "width"} for name in (*facts.inputs, output)}
    with warnings.catch_warnings(), torch.no_grad():
        # It is the older exporter of two, and tells of every size that it takes for fixed; `_differences` finds those.
        for category in (DeprecationWarning, UserWarning, torch.jit.TracerWarning):  # type: ignore[attr-defined]
            warnings.simplefilter("ignore", category)
        torch.onnx.export(
            function,
            tuple(example),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[*facts.inputs],
            output_names=[output],
            dynamic_axes=free,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: facts.as_json()})
    onnx.save(model, path)


def _transposed(g: Any, x: Any) -> Any:
    """x.mT, which the exporter does not know."""
    rank = x.type().dim()
    return g.op("Transpose", x, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _floor_divided(g: Any, a: Any, b: Any) -> Any:
    """a // b of sizes, which the exporter rounds towards zero."""
    return g.op("Div", g.op("Sub", a, g.op("Mod", a, b)), b)


def _write_openvino(path: Path, facts: Facts) -> None:
    """From the .onnx file beside it."""
    import openvino

    model = openvino.Core().read_model(path.with_suffix(".onnx"))
    model.set_rt_info(facts.as_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _pictures(facts: Facts, height: int, width: int) -> list[Tensor]:
    """Made-up pictures for its inputs, padded as our pipeline does: soft, with a little noise."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    pictures = []
    for name in facts.inputs:
        channels = 1 if name == "infrared" else 3
        soft = torch.rand(1, channels, height // 16 + 2, width // 16 + 2, generator=generator)
        noise = torch.rand(1, channels, height, width, generator=generator)
        picture = F.interpolate(soft, (height, width), mode="bilinear") * 0.9 + noise * 0.1
        pictures.append(pad_to_multiple(picture, facts.multiple_of))
    return pictures


@torch.inference_mode()
def _differences(exported: Exported, function: TensorFunction) -> dict[tuple[int, int], float]:
    """The largest difference from torch at each of SIZES."""
    found = {}
    for size in SIZES:
        pictures = _pictures(exported.facts, *size)
        try:
            y = exported(*pictures)
        except BackendError as error:
            raise FairweatherError(
                f"{exported.facts.model} cannot be exported: at {size[1]} x {size[0]} pixels, {error}"
            ) from None
        expected = function(*pictures)
        found[size] = float((y - expected).abs().max()) if y.shape == expected.shape else float("inf")
    return found


# Keeping ---------------------------------------------------------------------------------------------------------


def kept_export(net: nn.Module, facts: Facts, backend: str, *, tell: Tell) -> Exported:
    """Export a network into the cache, or open what is there. Several processes may do so at once.

    Args:
        net: as it was trained. tell: called with a line where it takes time.

    Raises:
        UsageError: if the cache cannot be written. FairweatherError: as of `write_exported`.
    """
    name = digest_of(facts, backend, _versions(backend), _sources())
    folder = cache_folder() / "exports" / f"{facts.model}-{name}"
    file = folder / f"network{SUFFIXES[backend]}"
    try:
        return open_exported(file)
    except WeightsError:
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there at all
    tell(f"exporting {facts.model} for {backend} into {folder.parent}, once")
    try:
        with _staged(folder.parent) as stage:
            write_exported(net, stage / file.name, facts)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(stage, folder)
                stage.mkdir()  # for its clean-up
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); set FAIRWEATHER_CACHE to a "
            "folder for exported networks, or use --backend torch"
        ) from None
    return open_exported(file)


def _versions(*backends: str) -> dict[str, str]:
    """Of all that has a say in what an exported network computes."""
    names = sorted({"torch", *(package for backend in backends for package in PACKAGES[backend])})
    return {"fairweather": fairweather.__version__} | {
        name: importlib.metadata.version(name) for name in names
    }


@cache
def _sources() -> str:
    """A digest of the code that networks are built and exported by."""
    here = Path(__file__)
    files = [here, here.with_name("backends.py"), *sorted((here.parent / "models").glob("*.py"))]
    return digest_of(*(sha256(file) for file in files))


def warm_up(exported: Exported, *, half: bool) -> None:
    """Compute small pictures, in bf16 as well if `half`: what is held from then on, a budget's rest is without."""
    for precision in {False, half}:
        exported(*_pictures(exported.facts, *SIZES[0]), half=precision)


# Choosing --------------------------------------------------------------------------------------------------------

TRIAL = 256
"""Side of the tile that back ends are timed on."""
RUNS = 3


def trusts_bf16(backend: str, model: str) -> bool:
    """Whether bf16 is as near to fp32 for all pictures as for the first, by which it is judged.

    It is not for haze in OpenVINO, which rounds the prior as well: 14 to 65 dB, by the picture; in torch 56 and more.
    """
    return (backend, MODELS[model].tiling) != ("openvino", "reduced")


def exported_for(
    net: nn.Module, facts: Facts, backend: str, *, precision: str, device: str, tell: Tell
) -> Exported | None:
    """The exported network for a back end; None for torch. "auto" takes the one that is fastest on this machine.

    Raises:
        UsageError: for a back end that is not known or cannot do it. Others as of `kept_export`.
    """
    check_backend(backend, precision=precision, device=device)
    if backend == "auto":
        backend = fastest(net, facts, precision=precision, tell=tell) if device.startswith("cpu") else "torch"
    return None if backend == "torch" else kept_export(net, facts, backend, tell=tell)


def fastest(net: nn.Module, facts: Facts, *, precision: str, tell: Tell) -> str:
    """The back end that takes the least time for a tile, found by a trial; kept in the cache for later.

    Args:
        net: as it was trained. tell: called with a line for each step.
    """
    names = installed(precision)
    if len(names) == 1:
        return "torch"
    found = Kept("fastest", facts, precision, names, *machine(*names[1:]))
    if found.get("backend") not in names:
        tell(f"{facts.model}: finding the fastest of {', '.join(names)}, once on this machine")
        seconds = _timed(net, facts, names, precision, tell)
        found["seconds"] = seconds
        found["backend"] = min(seconds, key=lambda name: seconds[name])
        told = ", ".join(
            f"{name} {1000 * value:.0f} ms in {precision if trusts_bf16(name, facts.model) else 'fp32'}"
            for name, value in seconds.items()
        )
        tell(f"{facts.model}: {told} for {TRIAL} x {TRIAL} pixels; {found['backend']} it is")
    return str(found["backend"])


@torch.inference_mode()
def _timed(net: nn.Module, facts: Facts, names: list[str], precision: str, tell: Tell) -> dict[str, float]:
    """Seconds that each back end takes for a tile; without those that the network cannot be exported for."""
    half = precision == "bf16"
    function = tensor_function(for_inference(net), facts.model)
    pictures = [x.contiguous(memory_format=torch.channels_last) for x in _pictures(facts, TRIAL, TRIAL)]
    computing: dict[str, Callable[..., Tensor]] = {"torch": function}
    for name in names:
        if name != "torch":
            try:
                exported = kept_export(net, facts, name, tell=tell)
            except FairweatherError as error:
                tell(f"{name} is left out: {error}")
                continue
            computing[name] = exported
    return in_turn(
        {
            name: partial(compute, f, *pictures, half=half and trusts_bf16(name, facts.model), device="cpu")
            for name, f in computing.items()
        },
        RUNS,
    )


def machine(*backends: str) -> tuple[object, ...]:
    """All that what is measured here depends on: processor, threads, versions and code."""
    return processor(), torch.get_num_threads(), _versions(*backends), _sources()
