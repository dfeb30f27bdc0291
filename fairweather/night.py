"""night: a visible picture cleaned of rain, and fused with an infrared one where there is one.

import fairweather as fw
result = fw.load("night").restore("car.jpg", infrared="car-ir.png")
result.image            # fused
result.clean            # before fusion
result.infrared_share   # how much of each pixel is infrared
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.backends import Computation, Exported, Notes, compute
from fairweather.errors import UsageError
from fairweather.infrared import BlankInfraredError, align, check_shape, read_infrared
from fairweather.models import MODELS
from fairweather.models.fusionnet import FusionNet, rgb_to_ycrcb
from fairweather.models.inference import for_inference
from fairweather.pipeline import Image, Restorer, Result, like, origin_of, tile_for, to_picture, with_pixels
from fairweather.runtime import give_back_memory, memory_is_limited
from fairweather.tiling import run_tiled

TILE = 512
"""Side of the largest tiles of a fusion; they are exact, so that memory is all that it decides."""
NEIGHBOURHOOD = 11
"""Side of the window that the share of infrared is found in, in pixels."""


def infrared_share(
    fused: Float[Tensor, "1 h w"], visible: Float[Tensor, "1 h w"], infrared: Float[Tensor, "1 h w"]
) -> Float[Tensor, "1 h w"]:
    """How far a fused luma has gone from the visible one to the infrared one, 0 to 1, around each pixel.

    s = sum (F - V)(L - V) / sum (L - V)^2 over a window: the share with which V + s (L - V) is nearest to F. Where the
    two pictures are alike, it is 0.

    >>> v, i = torch.rand(1, 16, 16), torch.rand(1, 16, 16)
    >>> infrared_share(0.7 * v + 0.3 * i, v, i).mean().round(decimals=2)
    tensor(0.3000)
    """
    apart = infrared - visible
    products = torch.stack(((fused - visible) * apart, apart * apart))
    half = NEIGHBOURHOOD // 2
    above, below = F.avg_pool2d(products, NEIGHBOURHOOD, stride=1, padding=half, count_include_pad=False)
    share: Tensor = (above / below.clamp_min(1e-5)).clamp(0, 1)
    return share


def check_fusion(fusion: float) -> None:
    """Raises UsageError out of range."""
    if not 0 <= fusion <= 1:
        raise UsageError(f"fusion is {fusion:g}, expected 0 to 1 (1 is what the network says)")


class NightRestorer:
    """A cleaning restorer, and a FusionNet after it. Safe to use from several threads.

    Args:
        cleaner: removes rain from the visible picture.
        net, model, sha256: of the fusion.
        exported, measured: as of `Restorer`.
    """

    task = "night"
    finds_depth = False
    ensemble = 1

    def __init__(
        self,
        net: FusionNet | None,
        cleaner: Restorer,
        *,
        model: str,
        sha256: str,
        device: str,
        precision: str,
        exported: Exported | None = None,
        measured: MutableMapping[str, float] | None = None,
    ) -> None:
        if net is None and exported is None:
            raise ValueError("neither a network nor an exported one")
        self.net = None if net is None else for_inference(net.to(device))
        self.cleaner = cleaner
        self.model, self.sha256 = model, sha256
        self.device, self.precision = device, precision
        self.exported = exported
        self.computation = Computation(model=model, precision=precision, measured=measured)

    @property
    def backend(self) -> str:
        """What computes the fusion: "torch", "onnx" or "openvino"."""
        return self.exported.backend if self.exported else "torch"

    def restore(
        self,
        image: Image,
        infrared: Image | None = None,
        *,
        strength: float = 1.0,
        fusion: float = 1.0,
        max_shift: float = 0.05,
        shift: tuple[float, float] | None = None,
        tile: int | Literal["auto"] = "auto",
        depth: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """Clean one visible picture and fuse it with an infrared one.

        Without one, or with one that is blank or seems to show another view, it is cleaned alone.

        Args:
            image: the visible picture, as of `Restorer.restore`.
            infrared: a path, bytes, PIL image, array or tensor; 8, 14 or 16 bits, of any size, see
                `fairweather.infrared`. What was done to bring it into line is in the result's warnings.
            strength: of the cleaning, as of `Restorer.restore`.
            fusion: 0 leaves the cleaned picture, 1 is what the network says.
            max_shift: the largest shift of the infrared picture that is corrected, as a share of the longer side.
            shift: of the infrared picture, right and down in pixels of the visible one, where it is known: then none is
                measured, see `infrared.align`.
            depth: has no effect; there is none.

        Raises:
            PictureError: for what is not a picture, or an infrared one that does not fit the visible one.
            UsageError: for a strength, fusion or tile out of range. Others as of `Restorer.restore`.
        """
        check_fusion(fusion)
        start = time.perf_counter()
        picture = to_picture(image)
        heat, missing = None, "no infrared picture"
        try:
            heat = None if infrared is None else read_infrared(infrared)
        except BlankInfraredError as error:
            missing = str(error)
        if heat is not None:
            check_shape(picture.pixels.shape[1], picture.pixels.shape[2], heat)  # before the work of cleaning
        # Before the cleaning, whose tiles' memory a fusion's take again: after it, little of a budget would seem left.
        side = min(TILE, tile_for(self.model, self.device, pixels=picture.pixels[0].numel()))
        cleaned = self.cleaner.restore(picture, strength=strength, tile=tile, depth=False, progress=progress)
        after, notes, share = cleaned.image, Notes([*cleaned.warnings], cleaned.bf16_psnr), None
        if heat is None:
            notes.warnings.append(f"{missing}: cleaned, not fused")
        else:
            aligned = align(after.pixels, heat, max_shift=max_shift, shift=shift)
            heat = aligned.infrared
            if aligned.fits:
                notes.warnings += aligned.warnings
                if memory_is_limited():
                    give_back_memory()
                pixels, share = self._fused(after.pixels, heat, fusion, side, notes)
                after = with_pixels(after, pixels)
            else:
                notes.warnings += [f"{said}: cleaned, not fused" for said in aligned.warnings]
        return Result(
            image=like(image, after),
            clean=like(image, cleaned.image),
            infrared=heat,
            infrared_share=share,
            picture=after,
            **origin_of(self),
            tiles=cleaned.tiles,
            seconds=time.perf_counter() - start,
            bf16_psnr=notes.bf16_psnr,
            unchanged=cleaned.unchanged and share is None,
            warnings=tuple(notes.warnings),
        )

    @torch.inference_mode()
    def _fused(
        self,
        clean: Float[Tensor, "3 h w"],
        infrared: Float[Tensor, "1 h w"],
        fusion: float,
        side: int,
        notes: Notes,
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """The fused picture, by tiles of this side, and the share of infrared in it."""
        fused = run_tiled(
            partial(self._network, notes=notes),
            torch.cat((clean, infrared)),
            tile=side,
            overlap=MODELS[self.model].overlap,
        )
        # Both have the same chroma, so that this mixes their lumas alone.
        fused = torch.lerp(clean, fused, fusion)
        before, now = (rgb_to_ycrcb(x[None])[0, :1] for x in (clean, fused))
        return fused.clamp(0, 1), infrared_share(now, before, infrared)

    def _network(self, both: Float[Tensor, "b 4 h w"], *, notes: Notes) -> Float[Tensor, "b 3 h w"]:
        """One tile, the visible picture's channels and the infrared one's, fused."""
        x = both.to(self.device)
        forward = self.exported or (self.net and self.net.fuse)
        assert forward, "one of them is there"
        fused = self.computation.run(
            lambda half: compute(forward, x[:, :3], x[:, 3:], half=half, device=self.device),
            (both.shape[-2], both.shape[-1]),
            notes=notes,
        )
        return fused.float().cpu()

    def __repr__(self) -> str:
        return f"NightRestorer({self.model}, weights {self.sha256[:12]}, after {self.cleaner!r})"
