"""How large networks are: parameters, and multiplications with additions (MACs) of convolutions and matrix products.

    python -m benchmarks.network_size NAME...

What is counted is the network as it is trained, not its inference form; only those of one picture.
"""

from __future__ import annotations

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from fairweather.models import create_model

SIDE = 256


def network_size(name: str) -> tuple[float, float]:
    """Millions of parameters, and GMACs on SIDE x SIDE pixels."""
    net = create_model(name).eval()
    # Attention that a CPU has one operation for would not be counted.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 3, SIDE, SIDE))
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2e9


def main(names: list[str]) -> None:
    """A line for each network."""
    for name in names:
        millions, gmacs = network_size(name)
        print(f"{name:26} {millions:7.2f} M {gmacs:7.2f} GMACs at {SIDE}x{SIDE}")


if __name__ == "__main__":
    typer.run(main)
