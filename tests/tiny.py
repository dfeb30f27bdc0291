"""Networks so small that they run in a blink, for tests in any folder."""

from __future__ import annotations

from typing import Any

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
