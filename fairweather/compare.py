"""Before and after in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def side_by_side(columns: Mapping[str, Float[Tensor, "3 h w"]], *, gap: int = 8) -> Float[Tensor, "3 h2 w2"]:
    """Pictures of equal height beside each other on white, each under its label.

    >>> side_by_side({"a": torch.zeros(3, 50, 60), "b": torch.zeros(3, 50, 60)}).shape
    torch.Size([3, 78, 128])
    """
    height = next(iter(columns.values())).shape[-2]
    bar = max(28, height // 24)
    spacer = torch.ones(3, height + bar, gap)
    parts: list[Tensor] = []
    for label, pixels in columns.items():
        parts += [torch.cat([_label(label, pixels.shape[-1], bar), pixels.clamp(0, 1)], dim=1), spacer]
    return torch.cat(parts[:-1], dim=2)


def _label(text: str, width: int, height: int) -> Float[Tensor, "3 h w"]:
    image = Image.new("L", (width, height), 255)
    font = ImageFont.load_default(size=height * 0.6)
    ImageDraw.Draw(image).text((height * 0.2, height / 2), text, fill=0, font=font, anchor="lm")
    return torch.from_numpy(np.array(image)).float().div_(255).expand(3, -1, -1)
