"""Networks so small that they run in a blink, for tests in any folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fairweather as fw
from fairweather.weights import save_weights

DCMPNET: dict[str, Any] = {
    "widths": (4, 8, 8, 8, 4),
    "depths": (1, 1, 2, 1, 1),
    "attention": (1, 1, 2, 0, 0),
    "heads": (1, 2, 2, 1, 1),
    "ratios": (1.0,) * 5,
    "unet_width": 2,
    "depth_channels": (4, 4, 4, 4),
    "growth": 2,
}
"""Constructor arguments of a DCMPNet with every part."""

CONSTYLE: dict[str, Any] = {"width": 16, "num_blocks": (1,) * 7}
"""Constructor arguments of a backbone with ConStyle."""


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def saved(folder: Path, *, seed: int = 0, task: str = "derain") -> Path:
    """Weights of a tiny network that does something to a picture."""
    torch.manual_seed(seed)
    net = fw.create_model("nafnet_tiny", encoder_blocks=(1, 0, 1), middle_blocks=0, decoder_blocks=(0, 0, 0))
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(("beta", "gamma")):  # blocks start as the identity
                value.fill_(0.5)
    path = folder / f"{task}-{seed}.safetensors"
    arguments = {"encoder_blocks": (1, 0, 1), "middle_blocks": 0, "decoder_blocks": (0, 0, 0)}
    metadata = {"model": "nafnet_tiny", "task": task, "model_args": json.dumps(arguments)}
    save_weights(net.state_dict(), path, metadata)
    return path
