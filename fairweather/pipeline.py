"""A network on a device restores pictures: any kind of picture in, the same kind and size out.

>>> import fairweather as fw
>>> restorer = fw.load("denoise")
>>> restorer.restore(np.zeros((5, 7, 3), np.uint8)).image.shape
(5, 7, 3)
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather import images
from fairweather.backends import Computation, Exported, Notes, compute
from fairweather.depth_picture import write_depth
from fairweather.errors import BackendError, OutOfMemoryError, UsageError
from fairweather.exporting import tensor_function
from fairweather.images import Picture
from fairweather.models import MODELS
from fairweather.models.dcmpnet import DCMPNet
from fairweather.models.haze import Haze
from fairweather.models.inference import for_inference
from fairweather.models.layers import enlarged_rows, pad_to_multiple, record, reduced, replay
from fairweather.rows import Rows, Whole
from fairweather.runtime import memory_for
from fairweather.tiling import SMALLEST, run_bands

log = logging.getLogger(__name__)

PAST: dict[str, str] = {
    "derain": "derained",
    "denoise": "denoised",
    "dehaze": "dehazed",
    "deblur": "deblurred",
    "night": "night",
    "auto": "restored",
}
"""What a restored file is called: photo.derained.jpg."""

Image = Any
"""A path, bytes of a file, PIL.Image, Picture, numpy array (h, w[, c]) or tensor ([b,] 3, h, w)."""


Forward = Callable[..., Tensor]
"""What computes a tile, or tiles: forward(x, half=True) in bf16, else in fp32."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a result, of a picture, a video or a test set."""

    model: str
    task: str
    weights_sha256: str
    device: str
    precision: str
    backend: str = "torch"
    """What computed: "torch", "onnx" or "openvino"."""
    ensemble: int = 1
    """Orientations of the picture that it is the mean over."""


def origin_of(restorer: Any) -> dict[str, Any]:
    """The fields of `Origin`, of a restorer of any kind."""
    return {
        "model": restorer.model,
        "task": restorer.task,
        "weights_sha256": restorer.sha256,
        "device": restorer.device,
        "precision": restorer.precision,
        "backend": restorer.backend,
        "ensemble": restorer.ensemble,
    }


@dataclass(frozen=True, kw_only=True)
class Result(Origin):
    """A restored picture and how it came about."""

    image: Image
    """Of the kind that went in, same size: bytes for bytes, an array for an array; a PIL image for a path."""
    depth: Tensor | None = None
    """Relative disparity (1, h, w) of the restored picture, large is near, from networks that estimate depth; None
    from the others."""
    picture: Picture | None = field(default=None, repr=False)
    """Pixels with the file's metadata, for `save`; None for a batch of tensors."""
    tiles: int
    """Pieces that went through the network; 1 if it was the whole picture at once."""
    seconds: float
    """From decoded pixels to restored pixels."""
    bf16_psnr: float | None = None
    """Decibels (peak 1) from fp32 to bf16, as measured on a tile, the least of all sizes of tiles; under 45 such tiles
    were computed in fp32. None if they were not compared: fp32 was asked for, nothing was done, the tiles are flat or
    were left as they are, or bf16 gave values that are not finite."""
    unchanged: bool = False
    """Whether it is what went in, as far as a file of as many bits can tell; False for a batch."""
    warnings: tuple[str, ...] = ()
    findings: Mapping[str, float] | None = None
    """What ails the picture that went in, with probabilities; from an `AutoRestorer` alone."""
    steps: tuple[str, ...] = ()
    """The tasks that were done about it, in order; from an `AutoRestorer` alone."""
    clean: Image | None = None
    """The visible picture cleaned, before any fusion, of the kind of `image`; from a `NightRestorer` alone."""
    infrared: Tensor | None = None
    """(1, h, w) in [0, 1]: the infrared picture in line with the visible one; from a `NightRestorer` that got one."""
    infrared_share: Tensor | None = None
    """(1, h, w) in [0, 1]: how much of the fused luma is the infrared picture's, see `night.infrared_share`; None if
    nothing was fused."""

    def save(self, path: str | Path, *, format: str | None = None, quality: int | None = None) -> None:
        """Write the picture with the metadata of its source, whole or not at all; see `images.encode_picture`."""
        if self.picture is None:
            raise UsageError("a batch of tensors has no file to write; save its pictures one by one")
        images.write_picture(self.picture, Path(path), format=format, quality=quality)

    def save_depth(self, path: str | Path) -> None:
        """Write the depth as a 16-bit grey PNG, near is bright, and beside it NAME.colour.png; see `write_depth`."""
        if self.depth is None or self.picture is None:
            raise UsageError(
                f"{self.model} gave no depth of one picture; dcmpnet models do, one picture at a time"
            )
        write_depth(self.depth, Path(path))


class Restorer:
    """A network with its weights on a device, ready to restore pictures. Safe to use from several threads.

    Args:
        net: None where there is only an exported file of it; then there is no depth.
        exported: the same network on another back end; it computes in the place of `net`.
        measured: how near bf16 is to fp32, see `Computation`.
        ensemble: orientations of a picture that results are averaged over, see `ensembled`.
    """

    def __init__(
        self,
        net: nn.Module | None,
        *,
        model: str,
        task: str,
        sha256: str,
        device: str,
        precision: str,
        exported: Exported | None = None,
        measured: MutableMapping[str, float] | None = None,
        ensemble: int = 1,
    ) -> None:
        if net is None and exported is None:
            raise ValueError("neither a network nor an exported one")
        self.net = None if net is None else for_inference(net.to(device))
        self.model, self.task, self.sha256 = model, task, sha256
        self.device, self.exported, self.ensemble = device, exported, ensemble
        self.precision = f"int8+{precision}" if exported and exported.facts.int8 else precision
        self.computation = Computation(model=model, precision=precision, measured=measured)

    @property
    def backend(self) -> str:
        """What computes: "torch", "onnx" or "openvino"."""
        return self.exported.backend if self.exported else "torch"

    @property
    def finds_depth(self) -> bool:
        """Whether results have a depth."""
        return isinstance(self.net, DCMPNet) and self.net.depth_network is not None

    def restore(
        self,
        image: Image,
        *,
        strength: float = 1.0,
        tile: int | Literal["auto"] = "auto",
        depth: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """Restore one picture (or a batch of tensors).

        Args:
            image: a path, the bytes of a file, a PIL image, an array, or a tensor in [0, 1].
            strength: 0 gives the picture back, 1 what the network says, up to 1.5 goes beyond.
            tile: largest side of the pieces that go through the network, or of the copy in which `dcmpnet_small`
                looks for haze; "auto" takes what is best where memory allows.
            depth: also find the depth, where the network can.
            progress: called with (tiles done, tiles in all).

        Raises:
            FairweatherError: if the network's output is not finite.
            PictureError: for what is not a picture. UsageError: for a strength or tile out of range.
            OutOfMemoryError: if even the smallest tile does not fit.
        """
        check_strength(strength)
        check_tile(tile)
        if isinstance(image, Tensor) and image.ndim == 4:
            done = [
                self.restore(x, strength=strength, tile=tile, depth=depth, progress=progress) for x in image
            ]
            if not done:
                raise UsageError("the batch is empty: expected a tensor of at least one picture")
            depths = [r.depth for r in done if r.depth is not None]
            notes = Notes()
            for r in done:
                notes.add(r.warnings, r.bf16_psnr)
            return dataclasses.replace(
                done[0],
                image=torch.stack([r.image for r in done]),
                depth=torch.stack(depths) if depths else None,
                picture=None,
                unchanged=False,
                tiles=sum(r.tiles for r in done),
                seconds=sum(r.seconds for r in done),
                bf16_psnr=notes.bf16_psnr,
                warnings=tuple(notes.warnings),
            )
        picture = to_picture(image)
        start = time.perf_counter()
        pixels, tiles, notes = self._run(picture.pixels, tile, progress)
        disparity = self._disparity(pixels) if depth else None
        if strength != 1:
            pixels.mul_(strength).add_(picture.pixels, alpha=1 - strength)
        pixels.clamp_(0, 1)
        seconds = time.perf_counter() - start
        after = with_pixels(picture, pixels)
        return Result(
            image=like(image, after),
            depth=disparity,
            picture=after,
            **origin_of(self),
            tiles=tiles,
            seconds=seconds,
            bf16_psnr=notes.bf16_psnr,
            unchanged=are_equal(picture, after.pixels),
            warnings=tuple(notes.warnings),
        )

    def restore_rows(
        self,
        source: Rows,
        *,
        strength: float = 1.0,
        tile: int | Literal["auto"] = "auto",
        progress: Callable[[int, int], None] | None = None,
        notes: Notes | None = None,
    ) -> Iterator[Float[Tensor, "3 n w"]]:
        """The result from top to bottom, some rows at a time, of a picture that is never whole in memory.

        After each yield the same rows may be asked of `source` again, for what goes with them.

        Args:
            source: such as `rows.PictureRows`. notes: what comes up is added. Others as of `restore`.

        Raises:
            As `restore` does; where memory runs out in the middle, begin again with `smaller_tile`.
        """
        check_strength(strength)
        check_tile(tile)
        size = tile if tile != "auto" else self.auto_tile(width=source.width)
        done = 0
        for band in self._bands(source, size, notes or Notes(), progress):
            if strength != 1:
                before = source.rows(done, done + band.shape[1])
                band = strength * band + (1 - strength) * before
            done += band.shape[1]
            yield band.clamp_(0, 1)

    def _run(
        self,
        pixels: Float[Tensor, "3 h w"],
        tile: int | Literal["auto"],
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Float[Tensor, "3 h w"], int, Notes]:
        """Restored pixels, number of tiles, what came up. Out of memory means smaller tiles, then a clear error."""
        size = tile if tile != "auto" else self.auto_tile(pixels[0].numel())
        notes = Notes()
        count = 1

        def moving(done: int, total: int) -> None:
            nonlocal count
            count = total
            if progress:
                progress(done, total)

        while True:
            try:
                result, done = torch.empty_like(pixels), 0
                for band in self._bands(Whole(pixels), size, notes, moving):
                    result[:, done : done + band.shape[1]] = band
                    done += band.shape[1]
                return result, count, notes
            except (MemoryError, RuntimeError) as error:
                size = smaller_tile(error, min(size, max(pixels.shape[-2:])), notes)

    def _bands(
        self, source: Rows, size: int, notes: Notes, progress: Callable[[int, int], None] | None
    ) -> Iterator[Float[Tensor, "3 n w"]]:
        """Restored rows from top to bottom, by tiles of `size`."""
        info = MODELS[self.model]
        if info.tiling == "reduced":
            yield from self._without_haze(source, size, notes)
            return
        # Off the grid of its steps down a network's result differs by up to 56 grey levels (`nafnet_small`);
        # small tiles give up the grid of the attention windows alone.
        grid = max(info.align, info.multiple_of)
        align = grid if size >= 4 * info.overlap + grid else min(info.multiple_of, size)
        yield from run_bands(
            partial(self._network, forward=self._forward(source, size, notes), notes=notes),
            source.rows,
            height=source.height,
            width=source.width,
            tile=size,
            overlap=min(info.overlap, (size - align + 1) // 4),
            align=align,
            progress=progress,
        )

    def _forward(self, source: Rows, tile: int, notes: Notes) -> Forward:
        """The network for tiles of a picture; they share what it takes over the whole picture, from a reduced copy."""
        whole = max(source.height, source.width) <= tile or MODELS[self.model].tiling != "consistent"
        how: dict[str, Any] = {"device": self.device, "ensemble": self.ensemble}
        if whole and self.exported:
            return partial(compute, self.exported, **how)
        if self.net is None:
            raise BackendError(
                f"{self.model} takes pictures of more than {tile} pixels a side apart in a way that {self.backend} "
                f"cannot; use --backend torch with its weights"
            )
        forward = partial(compute, tensor_function(self.net, self.model), **how)
        if whole:
            return forward
        if self.exported:
            notes.warn(
                f"tiles of {self.model} share what they see of the whole, which {self.backend} cannot; took torch"
            )
        notes.warn(
            f"{self.model} looks at the whole picture; its tiles share what a reduced copy shows, and come near to it"
        )
        small = pad_to_multiple(source.reduced(tile)[None].to(self.device), MODELS[self.model].multiple_of)
        with record() as statistics, torch.inference_mode():
            forward(small.contiguous(memory_format=torch.channels_last), half=False)  # also for tiles in bf16

        def replayed(x: Tensor, *, half: bool) -> Tensor:
            with replay(statistics):
                return forward(x, half=half)

        return replayed

    def _without_haze(self, source: Rows, longest: int, notes: Notes) -> Iterator[Float[Tensor, "3 n w"]]:
        """Find the haze in a copy with no side longer than `longest`, and remove it at full size, band by band."""
        height, width = source.height, source.width
        copy = source.reduced(longest)
        if longest < min(max(height, width), LARGEST["reduced"]):
            notes.warn(
                f"haze was looked for in a copy of only {copy.shape[-1]}x{copy.shape[-2]} pixels, as --tile or memory "
                "had it; more show it better"
            )
        maps = self._network(copy[None], forward=self._forward(source, longest, notes), notes=notes)
        rows = max(1, BAND // width)
        for first in range(0, height, rows):
            end = min(first + rows, height)
            haze = Haze(*enlarged_rows(maps, (height, width), first, end).chunk(2, dim=1))
            yield haze.removed(source.rows(first, end)[None])[0]

    @torch.no_grad()
    def _disparity(self, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"] | None:
        """The disparity that the network sees in a restored picture, found in a reduced copy."""
        if not isinstance(self.net, DCMPNet):
            return None
        small = reduced(pixels[None].clamp(0, 1), DEPTH_SIDE).to(self.device)
        disparity = self.net.depth(small)
        if disparity is None:
            return None
        return F.interpolate(disparity.float().cpu(), size=pixels.shape[-2:], mode="bilinear")[0]

    @torch.inference_mode()
    def _network(
        self, x: Float[Tensor, "b 3 h w"], *, forward: Forward, notes: Notes
    ) -> Float[Tensor, "b c h w"]:
        """One tile through the network, padded by reflection to what it works on."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x.to(self.device), MODELS[self.model].multiple_of)
        padded = padded.contiguous(memory_format=torch.channels_last)

        def picture(y: Tensor) -> Tensor:
            """What comes of an output: where that is haze, the picture without it."""
            return y if y.shape == padded.shape else Haze(*y.chunk(2, dim=1)).removed(padded)

        y = self.computation.run(
            lambda half: forward(padded, half=half),
            (padded.shape[-2], padded.shape[-1]),
            notes=notes,
            seen=picture,
            given=padded,
        )
        return y[..., :height, :width].float().cpu()

    def auto_tile(self, pixels: int = 0, *, width: int = 0, largest: int | None = None) -> int:
        """As `tile_for`, of this network here."""
        return tile_for(self.model, self.device, pixels=pixels, width=width, largest=largest)

    def __repr__(self) -> str:
        model = told_model(self.model, self.ensemble)
        return f"Restorer({self.task}: {model}, weights {self.sha256[:12]}, {self.device}, {self.precision})"


def told_model(model: str, ensemble: int) -> str:
    """What computed, for a person.

    >>> told_model("nafnet_small", 1), told_model("nafnet_small", 8)
    ('nafnet_small', 'nafnet_small in 8 orientations')
    """
    return model if ensemble == 1 else f"{model} in {ensemble} orientations"


def told_place(device: str, backend: str) -> str:
    """Where something was computed, for a person.

    >>> told_place("cpu", "torch"), told_place("cpu", "openvino")
    ('cpu', 'cpu (openvino)')
    """
    return device if backend == "torch" else f"{device} ({backend})"


def tile_for(model: str, device: str, *, pixels: int = 0, width: int = 0, largest: int | None = None) -> int:
    """The side of the largest tile that memory allows, beside the result of a picture, or of a row of tiles.

    Args:
        pixels: of a picture in memory. width: of one that goes through in rows.
        largest: what is enough; by default what pays, see LARGEST.

    Raises:
        OutOfMemoryError: if a budget was set (`runtime.limit_memory`) and the smallest tile takes more.
    """
    info = MODELS[model]
    row = BAND_BYTES * width
    least = SMALLEST**2 * info.bytes_per_pixel + SMALLEST * row
    free = memory_for(device, beside=BESIDE * pixels, least=least)
    # side ** 2 * bytes_per_pixel + side * row = free
    side = (math.sqrt(row**2 + 4 * info.bytes_per_pixel * max(free, 0)) - row) / (2 * info.bytes_per_pixel)
    return max(SMALLEST, min(int(side), largest or LARGEST[info.tiling]))


LARGEST = {"exact": 1024, "approximate": 1024, "consistent": 2048, "reduced": 1024}
"""Side of the largest tile, by the network's `tiling`: beyond 1024 pixels it is no faster on a CPU, only larger, but
the tiles of networks that look at the whole picture only come near to it. For "reduced", that of the copy."""
BAND = 2**20
"""Pixels that haze is removed from at a time."""
BAND_BYTES = 48
"""Bytes that a pixel of a row of tiles takes: samples and values of the source and of the result, and encoding."""
BESIDE = 18
"""Bytes that a pixel of the result takes while it is made (float32) and encoded (8 bit)."""
DEPTH_SIDE = 128
"""Longest side of the copy that depth is found in: the shipped network sees layout, not details. On held-back scenes
its depth is off by 20 % at 128 pixels, 24 % at 256 and 33 % at 512."""


def smaller_tile(error: Exception, tile: int, notes: Notes) -> int:
    """The tile to go on with after memory ran out; what is told of it is added to the notes.

    Raises:
        OutOfMemoryError: if there is no smaller one. The error itself, if it is of another kind.
    """
    if not _is_out_of_memory(error):
        raise error
    if tile <= SMALLEST:
        raise OutOfMemoryError(
            f"not enough memory even for tiles of {SMALLEST} pixels; close other programs or "
            "choose a smaller model (fairweather models list)"
        ) from None
    tile = max(SMALLEST, tile // 2)
    notes.warn(f"not enough memory; went on with tiles of {tile} pixels")
    return tile


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "memory" in text and ("alloc" in text or "out of" in text)
    )


def check_strength(strength: float) -> None:
    """Raises UsageError out of range."""
    if not 0 <= strength <= 1.5:
        raise UsageError(f"strength is {strength:g}, expected 0 to 1.5 (1 is what the network says)")


def check_tile(tile: int | Literal["auto"]) -> None:
    """Raises UsageError out of range."""
    if tile != "auto" and tile < SMALLEST:
        raise UsageError(f"tile is {tile}, expected 'auto' or at least {SMALLEST} pixels")


def to_picture(image: Image) -> Picture:
    """One picture of any kind; raises PictureError or UsageError for what is none."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path | bytes):
        return images.read_picture(image)
    if isinstance(image, PIL.Image.Image):
        return images.from_pil(image)
    if isinstance(image, np.ndarray):
        return images.from_array(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or 0 in image.shape:
            raise UsageError(
                f"a tensor of shape {tuple(image.shape)} and {image.dtype}; "
                "expected a float tensor (3, h, w), RGB in [0, 1]"
            )
        pixels = image.detach().to("cpu", torch.float32)
        low, high = pixels.aminmax()
        if not (low >= -8 and high <= 9):  # noise may leave [0, 1]; 0 to 255 and NaN are mistakes
            raise UsageError(f"a tensor with values from {low:g} to {high:g}; scale it to [0, 1]")
        return Picture(pixels=pixels)
    raise UsageError(
        f"a picture of type {type(image).__name__}; expected a path, bytes, PIL image, numpy array or tensor"
    )


def with_pixels(picture: Picture, pixels: Float[Tensor, "3 h w"]) -> Picture:
    """The picture with other pixels; itself if its lossy file could not hold the difference, which is then kept."""
    if picture.encoded is not None and are_equal(picture, pixels):
        return picture
    return dataclasses.replace(picture, pixels=pixels)


def are_equal(picture: Picture, pixels: Float[Tensor, "3 h w"]) -> bool:
    """Whether no pixel is as much as half a step of the picture's bits from the picture's own."""
    if pixels is picture.pixels:
        return True
    step = 1 / (2**picture.bits - 1)
    pairs = zip(picture.pixels, pixels, strict=True)  # plane by plane, for less memory
    return all(float((before - after).abs().amax()) < step / 2 for before, after in pairs)


def like(image: Image, restored: Picture) -> Image:
    """The restored picture as the kind of thing that went in."""
    if isinstance(image, Picture):
        return restored
    if isinstance(image, bytes):
        return images.encode_picture(restored)
    if isinstance(image, np.ndarray):
        return images.to_array(restored, image)
    if isinstance(image, Tensor):
        return restored.pixels.to(image)
    return images.to_pil(restored)
