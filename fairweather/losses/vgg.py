"""Feature maps of VGG-16 and VGG-19, frozen: what perceptual losses compare pictures by.

Simonyan and Zisserman, arXiv 1409.1556, table 1, columns D and E. Parameters carry torchvision's names
(`features.0.weight` ...), so that its published ImageNet weights load as they are; torchvision is not needed.
The input is whatever range the loss that uses them was published with; nothing is normalised here.
"""

from __future__ import annotations

import http.client
import logging
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from fairweather.errors import WeightsError, one_line, unknown_name
from fairweather.files import written_whole
from fairweather.weights import read_checkpoint, sha256

log = logging.getLogger(__name__)

Variant = Literal["vgg16", "vgg19"]

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each block; a 2x2 pooling goes between two."""
CONVOLUTIONS: dict[Variant, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each block."""
LEAST_SIDE = 2 ** (len(WIDTHS) - 1)
"""Pixels a side that leave the last block's maps one."""

FIRST_LEVELS = tuple(f"relu{block}_1" for block in range(1, 6))
"""After the first convolution of each block; modules 1, 6, 11, 20, 29 of VGG-19."""

PUBLISHED: dict[Variant, str] = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}
"""torchvision's ImageNet weights (BSD-3-Clause), about 550 MB; a name ends in the first 8 digits of its SHA-256."""


class VGG(nn.Module):
    """VGG up to the deepest level asked for; no parameter is trained.

    Args:
        levels: names such as "relu3_2", the second convolution of the third block after its ReLU.

    >>> [tuple(level.shape) for level in VGG(levels=("relu1_1", "relu2_1"))(torch.zeros(1, 3, 16, 16))]
    [(1, 64, 16, 16), (1, 128, 8, 8)]
    """

    def __init__(self, variant: Variant = "vgg19", *, levels: tuple[str, ...] = FIRST_LEVELS) -> None:
        super().__init__()
        names = [
            f"relu{b}_{n}" for b, count in enumerate(CONVOLUTIONS[variant], 1) for n in range(1, count + 1)
        ]
        for level in levels:
            if level not in names:
                raise unknown_name(f"level of {variant}", level, names)
        layers: list[nn.Module] = []
        index: dict[str, int] = {}
        channels = 3
        for name in names[: max(map(names.index, levels)) + 1]:
            block, number = map(int, name.removeprefix("relu").split("_"))
            if block > 1 and number == 1:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(channels, WIDTHS[block - 1], 3, padding=1), nn.ReLU(inplace=True)]
            index[name] = len(layers) - 1
            channels = WIDTHS[block - 1]
        self.variant, self.levels = variant, levels
        self.modules_of_levels = [index[level] for level in levels]
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The map of each level, in the order they were asked for; for five blocks sides of LEAST_SIDE or more."""
        maps = {}
        for number, layer in enumerate(self.features):
            picture = layer(picture)
            if number in self.modules_of_levels:
                maps[number] = picture
        return [maps[number] for number in self.modules_of_levels]


def _open(url: str) -> IO[bytes]:
    return cast(IO[bytes], urllib.request.urlopen(url, timeout=60))


def load_vgg(
    variant: Variant = "vgg19",
    *,
    levels: tuple[str, ...] = FIRST_LEVELS,
    weights: str | Path,
    cache: Path | None = None,
    seed: int = 0,
    opener: Callable[[str], IO[bytes]] = _open,
) -> VGG:
    """VGG with weights; the log says which.

    Args:
        weights: a .pth or .safetensors with torchvision's names (with or without the classifier); "download" for
            torchvision's own, pulled once; or "random" for He-normal ones.
        cache: the folder that downloads are kept in; by default the one that torchvision keeps them in.
        seed: of random weights.
        opener: opens an address for reading; a test's stand-in for the network.

    Raises:
        WeightsError: the file is missing, damaged or of another network, or cannot be downloaded.
    """
    network = VGG(variant, levels=levels)
    if weights == "random":
        generator = Generator().manual_seed(seed)
        for layer in network.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
        log.info("features of %s: random (He-normal, seed %d), not ImageNet's", variant, seed)
        return network
    if weights == "download":
        folder = cache or Path(torch.hub.get_dir(), "checkpoints")
        path = _downloaded(PUBLISHED[variant], folder, opener)
    else:
        path = Path(weights)
    _fill(network, _read(path), path)
    log.info("features of %s: %s", variant, path)
    return network


def _downloaded(url: str, folder: Path, opener: Callable[[str], IO[bytes]]) -> Path:
    """The published file in `folder`, pulled if it is not there; its digest is checked either way."""
    path = folder / url.rpartition("/")[2]
    expected = path.stem.rpartition("-")[2]
    if path.is_file():
        if not sha256(path).startswith(expected):
            raise WeightsError(f"{path} is damaged: its SHA-256 does not start with {expected}; delete it")
        return path
    log.info("downloading %s (about 550 MB) to %s", url, folder)
    try:
        with opener(url) as response, written_whole(path) as part:
            with part.open("wb") as file:
                shutil.copyfileobj(response, file)
            if not sha256(part).startswith(expected):
                raise WeightsError(
                    f"{url} came damaged: its SHA-256 does not start with {expected}; try again"
                )
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"cannot download {url} ({one_line(error)}); fetch it elsewhere and put it into {folder}, "
            "or use 'random' features"
        ) from None
    return path


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; expected a file, 'download' or 'random'")
    return read_checkpoint(path)[0]


def _fill(network: VGG, state: dict[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        found = tuple(state[name].shape) if name in state else "nothing"
        if found != tuple(tensor.shape):
            raise WeightsError(
                f"{path} is not torchvision's {network.variant}: {name} is {found}, expected {tuple(tensor.shape)}"
            )
    network.load_state_dict({name: state[name] for name in wanted})
