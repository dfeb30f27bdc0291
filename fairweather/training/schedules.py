"""Learning rates by step, as plain functions."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup: int, peak: float, final: float, hold: int = 0) -> float:
    """Linear warm-up to `peak`, `hold` steps at it, then a cosine to `final` at the last step (0-based).

    >>> [round(warmup_cosine(s, steps=5, warmup=2, peak=1.0, final=0.0), 3) for s in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    begin = warmup + hold
    progress = min(1.0, max(0, step - begin) / max(1, steps - 1 - begin))
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
