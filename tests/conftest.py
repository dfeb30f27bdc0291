"""One thread for all tests: a second one waiting on a taken core makes convolutions many times slower."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "parity")]  # tiny.py and cases.py, for tests in any folder
