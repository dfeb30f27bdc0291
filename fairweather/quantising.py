"""1x1 convolutions in 8 bit: a network as an ONNX file, quantised by what goes through it for some pictures.

Each input of a convolution gets one scale for the range of its values in those pictures, each of its kernels one of its
own. All other convolutions stay as they are: in `nafnet_small` they have a small part of the work, were no faster in 8
bit, and doubled the loss; and what the first and the last round is the picture itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fairweather.backends import Exported, Facts
from fairweather.errors import FairweatherError
from fairweather.metrics.psnr import psnr
from fairweather.pipeline import Image, Restorer, to_picture

LARGEST_SIDE = 512
"""Pixels; of larger pictures the middle is taken."""
MOST = 32
"""Pictures; of more, so many are taken evenly."""


class Calibration:
    """Pictures that a network is quantised by, and what it makes of them in fp32.

    Args:
        pictures: like those to be restored later; at least one.
        function: the network, of tensors, as `exporting.tensor_function` gives it.
    """

    def __init__(
        self, pictures: Sequence[Image], function: Callable[[Float[Tensor, "1 3 h w"]], Tensor], facts: Facts
    ) -> None:
        chosen = np.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).round().astype(int)
        self.pictures = [_middle(to_picture(pictures[i]).pixels) for i in chosen]
        self.tiles: list[np.ndarray] = []
        """What comes before the network."""

        def run(inputs: list[np.ndarray], half: bool) -> np.ndarray:
            (tile,) = inputs
            self.tiles.append(tile)
            with torch.inference_mode():
                return function(torch.from_numpy(tile)).numpy()

        self.expected = self._restored(Exported(Path(), "torch", facts, run))

    def _restored(self, network: Exported) -> list[Tensor]:
        facts = network.facts
        restorer = Restorer(
            None,
            model=facts.model,
            task=facts.task,
            sha256=facts.sha256,
            device="cpu",
            precision="fp32",
            exported=network,
        )
        return [restorer.restore(x, depth=False).image for x in self.pictures]

    def decibels(self, network: Exported) -> list[float]:
        """PSNR (peak 1) of what an exported network makes of each picture, against fp32."""
        made = self._restored(network)
        return [float(psnr(y[None], x[None])) for y, x in zip(made, self.expected, strict=True)]

    def quantise(self, path: Path) -> None:
        """Quantise a network, an .onnx file, in its place.

        Raises:
            FairweatherError: if it has no 1x1 convolution but the first and the last.
        """
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        metadata = onnx.load(path).metadata_props
        prepared = path.with_suffix(".prepared.onnx")
        loud = logging.root.level
        logging.root.setLevel(logging.ERROR)  # the library gives advice on the root logger
        try:
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            graph = onnx.load(prepared).graph
            sides = {weight.name: tuple(weight.dims[2:]) for weight in graph.initializer}
            convolutions = [node for node in graph.node if node.op_type == "Conv"]
            inner = [node.name for node in convolutions[1:-1] if sides.get(node.input[1]) == (1, 1)]
            if not inner:  # the library would take them all
                raise FairweatherError(
                    "there is no 1x1 convolution that int8 could make faster; leave --int8 out"
                )
            quantize_static(
                prepared,
                path,
                _Reader(self.tiles, graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=inner,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.root.setLevel(loud)
            prepared.unlink(missing_ok=True)
        quantised = onnx.load(path)
        del quantised.metadata_props[:]
        quantised.metadata_props.extend(metadata)
        onnx.save(quantised, path)


class _Reader:
    """The tiles one after the other, as the library asks for them."""

    def __init__(self, tiles: Sequence[np.ndarray], name: str) -> None:
        self.rest = ({name: tile} for tile in tiles)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rest, None)


def _middle(pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h2 w2"]:
    height, width = (min(side, LARGEST_SIDE) for side in pixels.shape[-2:])
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[:, top : top + height, left : left + width].clone()
