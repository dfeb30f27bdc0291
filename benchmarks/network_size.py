"""How large a network is, for tables."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fairweather.models import create_model


def network_size(name: str) -> tuple[float, float]:
    """Millions of parameters, and GMACs on 256x256 pixels."""
    net = create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 3, 256, 256))
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2e9
