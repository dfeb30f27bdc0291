"""Data for every recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fairweather.images import Picture, write_picture

FOLDERS = {
    "bsds500/train": 2,
    "bsds500/test": 2,
    "bsds500/val": 2,
    "div2k_crops/train": 2,
    "roadscene_rain/train/Vis/input": 66,
    "roadscene_rain/train/Vis/target": 66,
    "o_haze/train/hazy": 25,
    "o_haze/train/clear": 25,
    "i_haze/train/hazy": 14,
    "i_haze/train/clear": 14,
    "nh_haze/train/hazy": 14,
    "nh_haze/train/clear": 14,
    "rgbd/train/rgb": 2,
}
"""Folders that recipes ask for, with enough pictures for what they hold back."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small pictures under every name that a recipe asks for."""
    root = tmp_path_factory.mktemp("data")
    for folder, count in FOLDERS.items():
        for i in range(count):
            pixels = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(i))
            write_picture(Picture(pixels=pixels), root / folder / f"{i:03}.png")
    depth = np.linspace(1000, 5000, 24 * 32).reshape(24, 32).astype(np.uint16)
    depth[:5, :5] = 0  # unknown
    (root / "rgbd/train/depth").mkdir()
    PIL.Image.fromarray(depth).save(root / "rgbd/train/depth/000.png")
    rows = [f"train,{i},train/rgb/{i % 2:03}.png,train/depth/000.png,depth" for i in range(67)]
    (root / "rgbd/index.csv").write_text("\n".join(["split,name,rgb,depth,kind", *rows]) + "\n")
    return root
