"""The stored parity cases: weights rebuilt from names and shapes, and what the originals made of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("parity_weights", HERE / "weights.py")
assert _spec
assert _spec.loader
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


def published(case: str) -> dict[str, Tensor]:
    """The state dict that the original network ran with, by its own names."""
    return {
        k: torch.from_numpy(np.array(v)) for k, v in weights.state_dict(HERE / f"{case}.keys.json.gz").items()
    }


def stored(case: str) -> dict[str, Tensor]:
    """Inputs and outputs of a case."""
    return {k: torch.from_numpy(v) for k, v in np.load(HERE / f"{case}.io.npz").items()}


def off(output: Tensor, expected: Tensor) -> float:
    """Largest difference, in standard deviations of what was expected."""
    return float((output.detach() - expected).abs().max() / expected.std())
