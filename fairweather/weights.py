"""The weights that we publish: one table, and safe reading of a file.

Weights are safetensors, kept in half precision and computed with in float32. A file is read only if its SHA-256 is
the one in the table: damage that still parses would otherwise go unnoticed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairweather.errors import WeightsError
from fairweather.files import written_whole

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One weights file: what it is for, where it comes from, how good it measured."""

    model: str
    task: str
    sha256: str
    recipe: str
    """Of the last stage; docs/training.md has the stages in order."""
    steps: int
    seed: int
    commit: str
    """Of this repository, at training."""
    data: str
    licence: str = "Apache-2.0"
    scores: dict[str, float] = field(default_factory=dict)
    """Measured on test data: 'data set, profile, metric' -> value; docs/results.md has the commands."""

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.model}-{self.task}.safetensors"


WEIGHTS: tuple[Weights, ...] = (
    Weights(
        model="dcmpnet_small",
        task="dehaze",
        sha256="e6332bdbb499e2f76a765aeebe8de95c57a5362ee1d31597838f3d48c8fba494",
        recipe="dcmpnet_longer",
        steps=9000,
        seed=6,
        commit="0be0188",
        data="O-HAZE, I-HAZE and NH-HAZE train (but 8 pairs); 61 RGB-D pictures hazed by true and imagined depth; own "
        "haze over BSDS500 train and test, DIV2K crops, I-HAZE train and RoadScene-rain train; clear pictures of these",
        scores={
            "SOTS-indoor, dehazeformer, PSNR": 21.80,
            "RGB-D test, dehazeformer, PSNR": 18.81,
            "O-HAZE test, dehazeformer, PSNR": 21.10,
            "I-HAZE test, dehazeformer, PSNR": 15.60,
            "NH-HAZE test, dehazeformer, PSNR": 16.27,
        },
    ),
    Weights(
        model="nafnet_small",
        task="derain",
        sha256="a5ffb3d846405edc0b0de551804d692177b78d220cb17cb19ca2bf39c6937523",
        recipe="derain_lamps",
        steps=5600,
        seed=3,
        commit="208ba76",
        data="RoadScene-rain train (166 of 181 pairs); own rain over BSDS500 train and test, DIV2K crops",
        scores={
            "RoadScene-rain test, y, PSNR": 42.20,
            "RoadScene-rain test, y, SSIM": 0.9831,
            "Rain100 light, y, PSNR": 34.44,
            "Rain100 heavy, y, PSNR": 24.42,
        },
    ),
    Weights(
        model="nafnet_small",
        task="denoise",
        sha256="24434bb7dbd570fa24f196327289f7e51238ac9452028fee22afc07499215943",
        recipe="denoise_longer",
        steps=5600,
        seed=6,
        commit="02fa169",
        data="own noise and camera noise over BSDS500 train and test, DIV2K crops",
        scores={
            "CBSD68 sigma 15, rgb, PSNR": 33.98,
            "CBSD68 sigma 25, rgb, PSNR": 31.34,
            "CBSD68 sigma 50, rgb, PSNR": 28.11,
            "PolyU, rgb, PSNR": 36.83,
        },
    ),
    Weights(
        model="nafnet_small",
        task="deblur",
        sha256="2de252c5f073e1b6827e18457fffc54e48667c0dbb6882480a74740856aaf68d",
        recipe="deblur_long",
        steps=11_000,
        seed=1,
        commit="6161470",
        data="own blur of a moving camera over BSDS500 train and test, DIV2K crops",
        scores={"GoPro, 3 frames, rgb, PSNR": 23.88, "CBSD68 in our blur, rgb, PSNR": 27.36},
    ),
    Weights(
        model="judge_small",
        task="auto",
        sha256="47dadd13d2f7b08319cb26e7d445e03c15ea3ba5cc8d2106ef46618528901a55",
        recipe="judge_evidence",
        steps=1200,
        seed=79,
        commit="c736d3c",
        data="BSDS500 train and test, DIV2K crops and RGB-D train, made worse by our own haze, rain, noise and blur or "
        "left clear; O-HAZE, I-HAZE, NH-HAZE and RoadScene-rain train; but what is held back",
        scores={"one ailment judged rightly, %": 85.5, "clear pictures touched, %": 9.6},
    ),
    Weights(
        model="fusionnet_small",
        task="night",
        sha256="1b2f0ff385b231037bbfd10a0a6f25807681210bc50b21fc5fec419c19889054",
        recipe="fusion_small",
        steps=600,
        seed=0,
        commit="56ef7e9",
        data="RoadScene-rain train (166 of 181 triples), the visible pictures cleaned by nafnet_small-derain",
        scores={
            "RoadScene-rain test, Qabf": 0.5607,
            "RoadScene-rain test, FMI w": 0.4325,
            "RoadScene-rain test, FMI dct": 0.3870,
            "RoadScene-rain test, fusion SSIM": 0.4944,
            "RoadScene-rain test, fusion VIF": 0.6261,
        },
    ),
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked(entry: Weights) -> Path:
    """The file of an entry of the table, checked by digest.

    Raises:
        WeightsError: if it is missing or differs from what was published.
    """
    if not entry.path.is_file():
        raise WeightsError(f"{entry.path} is missing; reinstall fairweather to get it back")
    digest = sha256(entry.path)
    if digest != entry.sha256:
        raise WeightsError(
            f"{entry.path} is damaged: SHA-256 {digest[:12]}..., expected {entry.sha256[:12]}...; reinstall fairweather"
        )
    return entry.path


def read_weights(path: Path, *, model: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a .safetensors of ours, as float32.

    Args:
        model: refuse a file that says it belongs to another model.

    Returns:
        the tensors by our names, and the file's metadata (model, task, recipe, ...).

    Raises:
        WeightsError: if it is missing, not safetensors, truncated, or of another model.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole .safetensors file ({error})") from None
    if model and metadata.get("model", model) != model:
        raise WeightsError(f"{path} holds weights of {metadata['model']}, not of {model}")
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, metadata


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a PyTorch file or a .safetensors of others holds. Nothing in it is run: tensors and plain values alone.

    Returns:
        what is in it by name, and the metadata of a .safetensors.

    Raises:
        WeightsError: if it is missing, damaged, or holds anything else.
    """
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; there is no such file")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True)), {}
    except Exception as error:  # damaged files meet a dozen kinds of exceptions
        raise WeightsError(
            f"{path} is not a whole PyTorch file of tensors and plain values ({type(error).__name__}); anything else "
            "is not read, since it could run"
        ) from None


def save_weights(
    state: dict[str, Tensor], path: Path, metadata: dict[str, str], *, half: bool = True
) -> None:
    """Write tensors, in half precision or as they are, whole or not at all."""
    kept = {
        k: (v.to(torch.float16) if half and v.is_floating_point() else v).contiguous()
        for k, v in state.items()
    }
    with written_whole(path) as part:
        save_file(kept, part, metadata=metadata)
        part.chmod(0o644)
