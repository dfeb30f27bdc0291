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


def constant_then_cosine(
    iteration: int,
    *,
    constant: int = 243_312,
    decay: int = 460_320,
    peak: float = 3e-4,
    final: float = 1e-6,
) -> float:
    """IRConStyle's rate at an iteration (1-based): constant, then one cosine (specification 12.1).

    Iteration t uses the value after t - 1 scheduler steps, as the release does.

    >>> constant_then_cosine(1), constant_then_cosine(243_312 + 460_320 + 1)
    (0.0003, 1e-06)
    """
    return warmup_cosine(
        iteration - 1, steps=constant + decay + 1, warmup=0, hold=constant, peak=peak, final=final
    )
