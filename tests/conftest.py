"""One thread for all tests: a second one waiting on a taken core makes convolutions many times slower."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent / "parity"))  # cases.py, for tests in any folder
