"""Bytes of memory that each network needs per pixel, as `MODELS[...].bytes_per_pixel` states it.

    python -m benchmarks.memory [MODEL ...]

Each figure is the growth of a fresh process's peak memory between two picture sizes, per pixel: the inference form, in
fp32 on a CPU. ONNX Runtime and OpenVINO take 1.1 and 0.8 times as much for nafnet_small, and 250 and 450 bytes for
dcmpnet_small, which is stated with what covers both.
"""

from __future__ import annotations

import resource
import subprocess
import sys

SIDES = (256, 768)


def peak(model: str, side: int) -> int:
    """Peak resident bytes of a process that restores one side x side picture."""
    code = f"from benchmarks.memory import run; run({model!r}, {side})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def run(model: str, side: int) -> None:
    """In the child: one forward pass, then print the peak."""
    import torch

    from fairweather import MODELS, create_model
    from fairweather.models.inference import for_inference
    from fairweather.runtime import keep_memory

    keep_memory()
    net = for_inference(create_model(model))
    channels = {"visible": 3, "infrared": 1}
    pictures = [torch.rand(1, channels[name], side, side) for name in MODELS[model].inputs]
    with torch.inference_mode():
        net(*(x.contiguous(memory_format=torch.channels_last) for x in pictures))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    from fairweather.models import list_models

    for name in sys.argv[1:] or list_models():
        small, large = (peak(name, side) for side in SIDES)
        print(f"{name:24} {(large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2):8.0f} bytes per pixel")
