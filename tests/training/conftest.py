"""Data for every recipe, and a few steps of training."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from fairweather.images import Picture, write_picture

FOLDERS = {
    "bsds500/train": 2,
    "bsds500/test": 2,
    "bsds500/val": 2,
    "div2k_crops/train": 2,
    "roadscene_rain/train/Vis/input": 66,
    "roadscene_rain/train/Vis/target": 66,
    "roadscene_rain/train/Inf/input": 66,
    "o_haze/train/hazy": 25,
    "o_haze/train/clear": 25,
    "i_haze/train/hazy": 14,
    "i_haze/train/clear": 14,
    "nh_haze/train/hazy": 14,
    "nh_haze/train/clear": 14,
    "rgbd/train/rgb": 2,
    "train/input": 2,
    "train/target": 2,
    "val/input": 2,
    "val/target": 2,
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


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what can be made again is kept: not among the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def server() -> ForkServerContext:
    """Starts processes from one that has imported everything, which takes seconds, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fairweather.training.train"])
    return context


@pytest.fixture(scope="session")
def fitted() -> Callable[[LightningModule, Sequence[Any]], Trainer]:
    """A function that trains a module, a step on each batch."""

    def fit(module: LightningModule, batches: Sequence[Any]) -> Trainer:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=len(batches),
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        with warnings.catch_warnings():  # those that `train` ignores
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*treespec.*")
            trainer.fit(module, loader, loader)
        return trainer

    return fit
