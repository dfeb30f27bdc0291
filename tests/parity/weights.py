"""Deterministic weights for parity checks.

A parity case lists the parameters of a reference implementation by name, shape
and dtype (`<case>.keys.json.gz`) and holds the outputs that the reference computed
(`<case>.io.npz`).  Nobody needs the reference or its checkpoint: `state_dict`
rebuilds the very weights it ran with, from the names and shapes alone.

    python weights.py dcmpnet.keys.json.gz        # prints one checksum per tensor
"""

from __future__ import annotations

import gzip
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np


def tensor(name: str, shape: list[int], dtype: str, seed: int = 0) -> np.ndarray:
    """The value of one parameter or buffer, a function of its name, shape and seed only."""
    if dtype.startswith("int"):
        return np.zeros(shape, dtype=dtype)
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    noise = rng.standard_normal(shape)
    if name.endswith("running_var"):
        value = 1.0 + 0.2 * np.abs(noise)
    elif len(shape) >= 2 and math.prod(shape[1:]) > 1:
        value = noise / math.sqrt(math.prod(shape[1:]))  # unit gain: activations stay in range
    elif name.endswith("weight"):
        value = 1.0 + 0.1 * noise  # the scale of a normalisation layer
    else:
        value = 0.1 * noise  # biases, temperatures, mixing scalars
    return value.astype(dtype)


def state_dict(keys_json: str | Path, seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of a case, by the reference's own parameter names."""
    keys = json.loads(gzip.decompress(Path(keys_json).read_bytes()))
    # "same_as": one module registered under two names shares one value, so it is drawn under the first name
    values = {k["name"]: tensor(k.get("same_as", k["name"]), k["shape"], k["dtype"], seed) for k in keys}
    for k in (k for k in keys if "scale" in k):  # a power of two tames a branch that would otherwise blow up
        values[k["name"]] *= np.array(k["scale"], k["dtype"])
    return values


if __name__ == "__main__":
    for name, value in state_dict(sys.argv[1]).items():
        print(f"{zlib.crc32(value.tobytes()):08x}  {name}  {tuple(value.shape)}")
