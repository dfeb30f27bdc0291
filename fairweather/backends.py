"""What else than torch computes: exported networks on ONNX Runtime and OpenVINO, and bf16 as long as it is near fp32.

`fairweather.exporting` writes the files that are opened here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.ensemble import ensembled
from fairweather.errors import (
    BackendError,
    FairweatherError,
    MissingExtraError,
    UsageError,
    WeightsError,
    one_line,
    unknown_name,
)
from fairweather.files import cache_folder, written_whole
from fairweather.metrics.psnr import psnr
from fairweather.runtime import memory_is_limited, sharing
from fairweather.weights import sha256

log = logging.getLogger(__name__)

Backend = Literal["torch", "onnx", "openvino"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
"""The back ends that run exported files, and what those end in. OpenVINO keeps the weights beside, in a .bin."""
PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
"""What each needs: to export (always by way of onnx) and to run."""
ENOUGH = 45.0
"""Decibels from fp32 (peak 1) from which on a lower precision is used."""
BEST = 100.0
"""Decibels that are kept of equal pictures: files of JSON have no infinity."""
FLAT = 0.02
"""Standard deviation of a tile below which it says nothing about bf16, such as a black frame."""
KEY = "fairweather"
"""The name of our metadata inside an exported file."""


def installed(precision: str = "fp32") -> list[str]:
    """The back ends that can be used here in a precision, torch first."""
    return ["torch", *(name for name in SUFFIXES if _has(name, precision) and not _missing(name))]


def _has(name: str, precision: str) -> bool:
    return (name, precision) != ("onnx", "bf16")


def check_backend(name: str, *, precision: str, device: str) -> None:
    """Raises UsageError for an unknown back end, or one that cannot do what is asked; MissingExtraError."""
    if name in ("auto", "torch"):
        return
    if name not in get_args(Backend):
        raise unknown_name("backend", name, ["auto", *get_args(Backend)])
    if not device.startswith("cpu"):
        raise UsageError(
            f"backend {name!r} computes on the CPU, not on {device!r}; use --device cpu or --backend torch"
        )
    if not _has(name, precision):
        raise UsageError(
            "ONNX Runtime has no bf16 on a CPU; use --precision fp32, --backend openvino or --backend torch"
        )
    if _missing(name):
        raise MissingExtraError(f"backend {name!r}", name)


def _missing(name: str) -> list[str]:
    return [package for package in PACKAGES[name] if not is_there(package)]


def is_there(package: str) -> bool:
    """Whether a package is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # what a test put in its place has no spec
        return False


# Exported files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an exported file says about itself."""

    model: str
    task: str
    sha256: str
    """Of the weights."""
    inputs: tuple[str, ...]
    """(1, 3, h, w) each, but for "infrared" with one channel; RGB in [0, 1]."""
    multiple_of: int
    """Of both sides; pictures are padded to it, by reflection."""
    least: int
    """The shortest side; shorter ones are continued by their last row and column after padding."""
    version: str
    """Of fairweather."""
    int8: bool = False
    """Whether 1x1 convolutions compute in 8 bit; all else is in the precision asked for."""

    def as_json(self) -> str:
        """For the inside of a file."""
        return json.dumps(self.__dict__)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Raises ValueError, TypeError or KeyError for what `as_json` does not write."""
        fields = json.loads(text)
        return cls(**{**fields, "inputs": tuple(fields["inputs"])})


Run = Callable[[list[np.ndarray], bool], np.ndarray]
"""Inputs, and whether in bf16, to the output."""


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported network, ready to run on the CPU. Safe to use from several threads."""

    path: Path
    backend: str
    facts: Facts
    run: Run = field(repr=False)

    def __call__(self, *pictures: Float[Tensor, "1 _ h w"], half: bool = False) -> Float[Tensor, "1 _ h w"]:
        """Pictures whose sides are multiples of `facts.multiple_of` to what the network makes of them.

        Raises:
            BackendError: a RuntimeError, as of torch, if memory is short or something else fails.
        """
        height, width = pictures[0].shape[-2:]
        below, right = (max(0, self.facts.least - side) for side in (height, width))
        arrays = [
            F.pad(x.float(), (0, right, 0, below), mode="replicate").contiguous().numpy() for x in pictures
        ]
        try:
            result = self.run(arrays, half)
        except Exception as error:  # each library has its own classes
            what = one_line(" ".join(str(error).split()))[:300]
            raise BackendError(
                f"{self.backend} failed with {type(error).__name__} ({what}); use --precision fp32, or --backend torch"
            ) from error
        return torch.from_numpy(result)[..., :height, :width]


def backend_of(path: Path) -> str:
    """What an exported file is for.

    >>> backend_of(Path("derain.xml"))
    'openvino'

    Raises:
        UsageError: if its name ends in neither of SUFFIXES.
    """
    for name, suffix in SUFFIXES.items():
        if suffix == path.suffix:
            return name
    raise UsageError(
        f"{path} is no exported network; expected a name that ends in {' or '.join(SUFFIXES.values())}"
    )


def open_exported(path: Path) -> Exported:
    """Open a file that `fairweather export` wrote.

    Raises:
        WeightsError: if it is missing, damaged or not ours. MissingExtraError: if what runs it is not installed.
    """
    backend = backend_of(path)
    check_backend(backend, precision="fp32", device="cpu")
    if not path.is_file():
        raise WeightsError(f"no exported network at {path}")
    _check_digests(path)
    threads = torch.get_num_threads()
    try:
        text, run = (_onnx if backend == "onnx" else _openvino)(path, threads)
    except ImportError as error:
        raise UsageError(
            f"backend {backend!r} is installed but cannot be loaded ({_first(error)}); install it anew"
        ) from None
    except Exception as error:  # each library has its own classes
        raise WeightsError(f"{path} is damaged or not a whole {path.suffix} file ({_first(error)})") from None
    try:
        facts = Facts.from_json(text)
    except (ValueError, TypeError, KeyError):
        raise WeightsError(
            f"{path} is not ours; make one with: fairweather export MODEL --to {backend}"
        ) from None
    return Exported(path, backend, facts, run)


def report_of(path: Path) -> Path:
    """Where the report of an exported file lies.

    >>> report_of(Path("derain.onnx")).name
    'derain.onnx.json'
    """
    return path.with_name(f"{path.name}.json")


def _check_digests(path: Path) -> None:
    """Raises WeightsError if a file is not the one that its report, where there is one, tells of."""
    try:
        digests = json.loads(report_of(path).read_text())["sha256"].items()
        for name, digest in digests:
            if sha256(path.with_name(name)) != digest:
                raise WeightsError(
                    f"{path.with_name(name)} is damaged or was changed since its export; export again"
                )
    except FileNotFoundError as error:
        if error.filename != str(report_of(path)):
            raise WeightsError(f"{error.filename} is missing; it belongs to {path}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{report_of(path)} is damaged; export {path.name} again") from None


def _first(error: BaseException) -> str:
    """What an error says, in brief."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"


def _onnx(path: Path, threads: int) -> tuple[str, Run]:
    """Our metadata ("" if there is none), and what runs the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait by spinning take the cores from those that work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = not memory_is_limited()  # it would keep all that a tile took
    options.log_severity_level = 4  # what fails is raised
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]

    def run(inputs: list[np.ndarray], half: bool) -> np.ndarray:
        assert not half, "check_backend refuses it"
        output: np.ndarray = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return output

    return session.get_modelmeta().custom_metadata_map.get(KEY, ""), run


FIXED = 2
"""Shapes that OpenVINO keeps a network compiled for; it is 1.2 times as fast then, and 1.6 times in bf16."""


def _openvino(path: Path, threads: int) -> tuple[str, Run]:
    """As `_onnx`. A shape that comes a second time gets the network compiled for it; with a memory budget none does."""
    import openvino

    text = path.read_text()
    if not (text.startswith("<?xml") and text.rstrip().endswith("</net>")):
        raise ValueError("no whole XML")  # the reader would print what it thinks of it
    core = openvino.Core()
    network = core.read_model(path)
    streams = sharing()  # workers compute side by side, each with as many threads
    frugal = memory_is_limited()
    seen: Counter[Any] = Counter()
    # Each with its requests that are idle, which have buffers of their own.
    compiled: dict[Any, tuple[Any, list[Any]]] = {}
    lock = threading.Lock()

    def compile_for(shapes: tuple[tuple[int, ...], ...] | None, half: bool) -> Any:
        net = network
        if shapes:
            net = network.clone()
            net.reshape(dict(enumerate(shapes)))
        settings = {
            # Without it the library takes bf16 by itself, where the chip has it.
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # other processes may have chosen the same core
        }
        return core.compile_model(net, "CPU", settings)

    def run(inputs: list[np.ndarray], half: bool) -> np.ndarray:
        key: Any = tuple(x.shape for x in inputs), half
        with lock:
            seen[key] += 1
            if (seen[key] == 1 or frugal) and key not in compiled:
                key = None, half  # any shape
            if key not in compiled:
                fixed = [k for k in compiled if k[0]]
                if key[0] and len(fixed) >= FIXED:
                    del compiled[fixed[0]]
                compiled[key] = compile_for(*key), []
            net, idle = compiled[key]
            request = idle.pop() if idle else net.create_infer_request()
        output = np.array(request.infer(inputs)[0])
        if not frugal:
            with lock:
                idle.append(request)
        return output

    metadata = network.get_rt_info([KEY]).value if network.has_rt_info([KEY]) else ""
    return str(metadata), run


# Precision -------------------------------------------------------------------------------------------------------


def compute(
    forward: Callable[..., Tensor],
    *inputs: Float[Tensor, "b _ h w"],
    half: bool,
    device: str,
    ensemble: int = 1,
) -> Float[Tensor, "b _ h w"]:
    """What a network in torch or an exported one gives, in bf16 or fp32, on average over so many orientations."""
    if isinstance(forward, Exported):
        return ensembled(partial(forward, half=half), *inputs, count=ensemble)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=half):
        return ensembled(forward, *inputs, count=ensemble)


@dataclass
class Notes:
    """What comes up while a picture is restored."""

    warnings: list[str] = field(default_factory=list)
    """What a user should know."""
    bf16_psnr: float | None = None
    """Decibels (peak 1) from fp32 to bf16, the least of all sizes of tiles; None where they were not compared."""

    def warn(self, text: str) -> None:
        """Add to the warnings, and log it, unless it is there already."""
        if text not in self.warnings:
            self.warnings.append(text)
            log.warning(text)

    def add(self, warnings: Iterable[str], bf16_psnr: float | None) -> None:
        """Add what came up in a part of the work and was logged there, each warning once."""
        self.warnings += [text for text in dict.fromkeys(warnings) if text not in self.warnings]
        self.compared(bf16_psnr)

    def compared(self, decibels: float | None) -> None:
        """Add how far bf16 is from fp32 for a tile; None says nothing."""
        known = [x for x in (self.bf16_psnr, decibels) if x is not None]
        self.bf16_psnr = min(known, default=None)


class Computation:
    """Runs tiles in the precision asked for; bf16 only where it was measured to be near fp32. Thread-safe.

    For the first tile of each size class both are computed. Until one comes that is not flat and not left as it was,
    fp32 is: such tiles show nothing of what bf16 would do.

    Args:
        model: what computes, for messages.
        precision: "fp32" or "bf16".
        measured: decibels between the two for each size class, as far as they are known; what is found is added.
    """

    def __init__(
        self, *, model: str, precision: str, measured: MutableMapping[str, float] | None = None
    ) -> None:
        self.model, self.precision = model, precision
        self.measured: MutableMapping[str, float] = {} if measured is None else measured

    def run(
        self,
        forward: Callable[[bool], Tensor],
        size: tuple[int, int],
        *,
        notes: Notes,
        seen: Callable[[Tensor], Tensor] = lambda y: y,
        given: Tensor | None = None,
    ) -> Tensor:
        """What `forward` gives, all of it finite.

        Args:
            forward: computes one tile; its argument says whether in bf16.
            size: height and width of the tile.
            notes: how far bf16 is from fp32 at this size, and what a user should know, are added.
            seen: the picture that comes of an output, where they differ.
            given: the picture that went in; one that comes back as it was shows nothing of bf16.

        Raises:
            FairweatherError: if a value is not finite in fp32 either.
        """
        y = forward(False) if self.precision != "bf16" else self._half(forward, size, notes, seen, given)
        if not y.isfinite().all():
            raise FairweatherError(
                f"{self.model} gave a value that is not finite for this picture; report it"
            )
        return y

    def _half(
        self,
        forward: Callable[[bool], Tensor],
        size: tuple[int, int],
        notes: Notes,
        seen: Callable[[Tensor], Tensor],
        given: Tensor | None,
    ) -> Tensor:
        key = size_class(*size)
        decibels = self.measured.get(key)
        notes.compared(decibels)
        exact = cache(partial(forward, False))
        if decibels is None:
            picture = seen(exact().float())
            if picture.std() < FLAT or (given is not None and float(psnr(picture, given).mean()) >= BEST):
                return exact()
        if decibels is None or decibels >= ENOUGH:
            y = forward(True)
            if not y.isfinite().all():
                notes.warn("bf16 gave a value that is not finite; computed again in fp32")
                return exact()
            if decibels is None:
                decibels = min(float(psnr(seen(y.float()), picture).mean()), BEST)
                log.info("%s: bf16 is %.1f dB from fp32 at %d x %d pixels", self.model, decibels, *size)
                self.measured[key] = decibels
                notes.compared(decibels)
            if decibels >= ENOUGH:
                return y
        notes.warn(
            f"bf16 is {decibels:.1f} dB from fp32 for pictures of this size, less than {ENOUGH:.0f}; "
            "computed in fp32"
        )
        return exact()


def size_class(height: int, width: int) -> str:
    """Sizes within a factor of two in pixels share one.

    >>> size_class(256, 256), size_class(360, 360), size_class(512, 256)
    ('16', '16', '17')
    """
    return str((height * width).bit_length() - 1)


# What is kept between runs ---------------------------------------------------------------------------------------


def digest_of(*parts: object) -> str:
    """A name for what depends on all of these.

    >>> digest_of("a", 1) == digest_of("a", 1) != digest_of("a", 2)
    True
    """
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class Kept(dict[str, Any]):
    """A small dictionary in the cache; one that cannot be read is empty, one that cannot be written is not kept."""

    def __init__(self, *key: object) -> None:
        self.path = cache_folder() / "measured" / f"{digest_of(*key)}.json"
        try:
            super().__init__(json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            super().__init__()

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        try:
            with written_whole(self.path) as part:
                part.write_text(json.dumps(self))
        except OSError as error:
            log.info("%s cannot be kept: %s", self.path, error)
