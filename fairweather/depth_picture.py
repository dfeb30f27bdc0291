"""Depth as files: a 16-bit grey PNG with the values, and beside it a coloured one to look at.

    photo.depth.png           near is white, far is black
    photo.depth.colour.png    the same from yellow (near) over red to black (far)

The values are relative disparity: proportional to 1 / distance but for an unknown offset, and stretched to the
picture's own range. They say what is nearer than what, not how far anything is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fairweather.errors import PictureError, UsageError, one_line
from fairweather.files import written_whole
from fairweather.images import Picture, encode_picture

INFERNO = (
    (0x00, 0x00, 0x04),
    (0x18, 0x0C, 0x3C),
    (0x42, 0x0A, 0x68),
    (0x6C, 0x18, 0x6E),
    (0x93, 0x26, 0x67),
    (0xBC, 0x37, 0x54),
    (0xDD, 0x51, 0x3A),
    (0xF3, 0x78, 0x19),
    (0xFC, 0xA5, 0x0A),
    (0xF6, 0xD7, 0x46),
    (0xFC, 0xFF, 0xA4),
)
"""Every tenth of the colour map of that name (van der Walt and Smith, 2015, CC0), whose lightness grows evenly."""


def normalised(disparity: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Disparity stretched to [0, 1] by its own smallest and largest value; 0 where all are equal.

    >>> normalised(torch.tensor([[[0.25, 0.5, 1.25]]]))
    tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    values = disparity.detach().to("cpu", torch.float32)
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp_min(1e-12)


def coloured(disparity: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 h w"]:
    """RGB in [0, 1] of normalised disparity: near is bright.

    >>> (coloured(torch.tensor([[[0.0, 0.7, 1.0]]]))[:, 0] * 255).round().int().T.tolist()
    [[0, 0, 4], [243, 120, 25], [252, 255, 164]]
    """
    levels = normalised(disparity)[0].numpy()
    rgb = np.empty((3, *levels.shape), np.float32)
    for channel, anchors in zip(rgb, np.array(INFERNO).T, strict=True):
        channel[:] = np.interp(levels, np.linspace(0, 1, len(anchors)), anchors / 255)
    return torch.from_numpy(rgb)


def depth_files(path: Path) -> tuple[Path, Path]:
    """The grey file and the coloured one of a depth written to `path`.

    Raises:
        UsageError: if the name does not end in .png.

    >>> [file.name for file in depth_files(Path("photo.depth.png"))]
    ['photo.depth.png', 'photo.depth.colour.png']
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"depth is written as 16-bit PNG, not to {path}; expected a name that ends in .png")
    return path, path.with_name(f"{path.stem}.colour.png")


@contextlib.contextmanager
def depth_written(disparity: Float[Tensor, "1 h w"], path: Path) -> Iterator[None]:
    """Both files of a depth; they take their places if the block ends well, and are gone if it does not.

    Raises:
        PictureError: if they cannot be written. UsageError: if the name does not end in .png.
    """
    grey, colour = depth_files(path)
    values = normalised(disparity)
    try:
        with written_whole(colour) as colour_part, written_whole(grey) as grey_part:
            colour_part.write_bytes(encode_picture(Picture(pixels=coloured(values))))
            three = values.expand(3, -1, -1)
            grey_part.write_bytes(encode_picture(Picture(pixels=three, mode="grey", bits=16)))
            yield
    except OSError as error:
        message = (
            f"{one_line(path)}: cannot be written ({error.strerror or error}); check the folder and the disk"
        )
        raise PictureError(message) from error


def write_depth(disparity: Float[Tensor, "1 h w"], path: Path) -> None:
    """Write disparity as a 16-bit grey PNG, near is bright, and beside it NAME.colour.png, whole or not at all.

    Args:
        disparity: relative, large is near, any range; see `normalised`.
        path: NAME.png. Missing folders are made; what is there is replaced.

    Raises:
        PictureError: if they cannot be written. UsageError: if the name does not end in .png.
    """
    with depth_written(disparity, path):
        pass
