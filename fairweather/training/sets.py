"""Where recipes find their pictures, and what is held back of them: whoever learns from a set leaves the same out."""

from __future__ import annotations

from pathlib import Path

BSDS, DIV2K, RGBD = Path("bsds500"), Path("div2k_crops"), Path("rgbd")
O_HAZE, I_HAZE, NH_HAZE = Path("o_haze"), Path("i_haze"), Path("nh_haze")
ROADSCENE = Path("roadscene_rain")
# Held back for validation: the last pairs of each real set of haze, and five scenes whole (some have several views).
O_HELD, I_HELD, NH_HELD = ((21, 24),), ((12, 13),), ((12, 13),)
SCENES_HELD = ((22, 22), (29, 30), (64, 66))
# Neighbouring numbers are neighbouring frames of one drive, so whole stretches are held back.
ROADSCENE_HELD = ((61, 67), (173, 180))
