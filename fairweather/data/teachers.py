"""Depth teachers: the disparity of a clear picture that a depth network learns from, by the words of a recipe.

    none                 no depth is known
    own:PATH             what an RGB-D set measured (data/depth.py)
    folder:PATH          maps in a folder, from any source
    transformers:NAME    a depth-estimation network of Hugging Face transformers, such as
                         depth-anything/Depth-Anything-V2-Small-hf (Apache-2.0); needs the `teacher` extra

A teacher takes the path of a clear picture and returns its `disparity_target`: (1, h, w) in [0.05, 1] relative to the
whole picture, large is near, 0 where unknown. PATH starts at the data root. Before training, `check_teacher` tells
pictures without a map.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from glob import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from fairweather.data.depth import OwnDepth, Teacher, disparity_target, own_depth, read_depth
from fairweather.data.pairs import natural_order
from fairweather.errors import DataError, MissingExtraError, UsageError, WeightsError, one_line
from fairweather.images import Picture, read_picture, to_pil, write_picture
from fairweather.weights import sha256

log = logging.getLogger(__name__)

Values = Literal["disparity", "depth"]
"""What a map or a network gives: larger is nearer, or larger is farther."""


def teacher(
    spec: str,
    *,
    root: Path,
    cache: Path,
    split: str | None = None,
    values: Values = "disparity",
    download: bool = False,
    device: str = "cpu",
) -> Teacher:
    """The teacher that a recipe asks for: "none", "own:PATH", "folder:PATH" or "transformers:NAME".

    Args:
        root: the data root; PATH is relative to it, and nothing after "own" or "folder" is the root itself.
        cache: the folder that disparity from a network is kept in.
        split: of an RGB-D set. values: see `folder_teacher` and `transformers_teacher`, as for the rest.

    Raises:
        UsageError: another spec, or as the teacher asked for.
    """
    kind, _, name = spec.partition(":")
    if spec == "none":
        return no_teacher
    if kind == "own":
        return own_depth(root / name, split=split)
    if kind == "folder":
        return folder_teacher(root / name, root, values=values)
    if kind == "transformers" and name:
        return transformers_teacher(name, cache, values=values, download=download, device=device)
    raise UsageError(f"no depth teacher {spec!r}; expected none, own:PATH, folder:PATH or transformers:NAME")


def no_teacher(picture: Path) -> Tensor | None:
    """Knows the depth of no picture."""
    return None


def check_teacher(teach: Teacher, pictures: Sequence[Path], *, needed: bool = False) -> None:
    """Look for the maps of these pictures before any is drawn; the log says how many have one.

    A network is not asked: it knows every picture.

    Args:
        needed: whether no depth comes from elsewhere, so that there must be some here.

    Raises:
        DataError: if pictures have no map in a folder, or, where one is needed, none in the RGB-D set.
    """
    if not isinstance(teach, OwnDepth | FolderOfMaps) or not pictures:
        return
    asked = list(dict.fromkeys(pictures))
    without = [picture for picture in asked if not teach.knows(picture)]
    if isinstance(teach, FolderOfMaps) and without:
        others = f" ({len(without)} of {len(asked)} pictures have none)" if len(without) > 1 else ""
        raise DataError(teach.missing(without[0]) + others)
    if isinstance(teach, OwnDepth) and needed and len(without) == len(asked):
        raise DataError(
            f"two_tasks.teacher knows the depth of none of the {len(asked)} pictures, such as {asked[0]}; expected "
            f"pictures of its own set, such as {next(iter(teach.scenes))}"
        )
    log.info("the teacher knows the depth of %d of %d pictures", len(asked) - len(without), len(asked))


# ---------------------------------------------------------------- maps in a folder


def folder_teacher(folder: Path, root: Path, *, values: Values = "disparity") -> FolderOfMaps:
    """Maps as `read_depth` takes them: grey .png of 8 or 16 bits, or .npy; any unit, 0 is unknown.

    The map of root/clear/17.jpg is folder/clear/17.png (or .npy) if there is one, else folder/17.png (or .npy), else
    the first of folder/17_*.png: RESIDE's ITS has transmission maps, large is near, one for each hazy picture.

    Raises:
        DataError: there is no such folder. From the teacher: a picture without a map, or a map that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder} of {values} maps")
    return FolderOfMaps(folder, root, values)


@dataclass(frozen=True)
class FolderOfMaps:
    """The teacher that `folder_teacher` makes."""

    folder: Path
    root: Path
    values: Values

    def __call__(self, picture: Path) -> Tensor | None:
        path = self._map(picture)
        if path is None:
            raise DataError(self.missing(picture))
        return _target(path, self.values)

    def knows(self, picture: Path) -> bool:
        """Whether there is a map of it; it may still be damaged."""
        return self._map(picture) is not None

    def missing(self, picture: Path) -> str:
        """What to say of a picture without a map."""
        return f"no {self.values} map for {picture}; expected {self.folder / picture.stem}.png (or .npy)"

    def _map(self, picture: Path) -> Path | None:
        names = [picture.relative_to(self.root)] if picture.is_relative_to(self.root) else []
        for name in (*names, Path(picture.name)):
            for suffix in (".png", ".npy"):
                if (path := self.folder / name.with_suffix(suffix)).is_file():
                    return path
        several = self.folder.glob(f"{escape(picture.stem)}_*.png")
        return min(several, key=lambda path: natural_order(path.name), default=None)


def _target(path: Path, values: Values) -> Float[Tensor, "1 h w"]:
    return disparity_target(*read_depth(path, kind=values))


# ---------------------------------------------------------------- a network


def transformers_teacher(
    name: str, cache: Path, *, values: Values = "disparity", download: bool = False, device: str = "cpu"
) -> Teacher:
    """A depth-estimation network of Hugging Face transformers, run once a picture, on the whole picture.

    Its result is kept as a 16-bit grey PNG, by the picture's digest, in a folder of the network's name and digest; it
    is read from there ever after. The network is deterministic, in float32 and without gradient.

    Args:
        name: of a repository on the Hugging Face hub, or a folder that holds one.
        values: what it gives. Depth Anything and MiDaS give disparity; networks of metric depth, depth.
        download: fetch it if it is not on this machine; by default nothing is asked of the internet.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the network is not on this machine, damaged, or not one of depth estimation.
        UsageError: it says that it gives depth, and `values` says otherwise.
        DataError: from the teacher: it gave NaN or infinity.
    """
    network = _network(name, download, device)
    if values == "disparity" and getattr(network.model.config, "depth_estimation_type", "") == "metric":
        raise UsageError(f"{name} gives depth in metres, not disparity; say so: values='depth'")
    log.info("depth teacher: %s, its %s kept in %s", name, values, cache)
    folder = cache / (re.sub(r"[^\w.-]+", "--", name).strip("-") + f"-{network.digest[:12]}-{values}")
    return partial(_of_network, name, folder, values, download, device)


class _Network(NamedTuple):
    processor: Any
    model: Any
    digest: str
    """SHA-256 of the weights and of how pictures are prepared: a name may come to stand for another network."""


@cache  # once a process; not part of the teacher, which worker processes get a copy of
def _network(name: str, download: bool, device: str) -> _Network:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingExtraError("a depth network of transformers", "teacher") from None
    where = {"local_files_only": not download}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **where)
        auto = transformers.AutoModelForDepthEstimation
        model = auto.from_pretrained(name, dtype=torch.float32, **where)
    except OSError as error:
        local = Path(name).exists() or Path(name).is_absolute() or name.startswith(".")
        remedy = f"fetch it once with: hf download {name}"
        if local or download:
            remedy = f"check the name and {'the folder' if local else 'the network'} ({_first_line(error)})"
        raise WeightsError(f"the depth network {name} is not on this machine; {remedy}") from None
    except (ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"{name} is no depth network that transformers can run here, or is damaged ({_first_line(error)})"
        ) from None
    model = model.eval().requires_grad_(False)
    digest = hashlib.sha256(processor.to_json_string().encode())
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.numpy().tobytes())
    return _Network(processor, model.to(device), digest.hexdigest())


def _first_line(error: Exception) -> str:
    return one_line(str(error).partition("\n")[0])


def _of_network(
    name: str, folder: Path, values: Values, download: bool, device: str, picture: Path
) -> Tensor | None:
    path = folder / f"{sha256(picture)}.png"
    if path.is_file():
        try:
            return _target(path, "disparity")
        except DataError as error:
            log.warning("%s; the picture is looked at again", error)
    clear = read_picture(picture)
    found = _estimated(_network(name, download, device), clear, device)
    if values == "depth":
        found = 1 / found.clamp_min(1e-3 * found.max())
    if not found.isfinite().all():
        raise DataError(f"{name} gives NaN or infinity for {picture}; leave it out or take another network")
    low, high = found.min(), found.max()
    share = (found - low) / (high - low) if high > low else torch.ones_like(found)
    grey = (0.05 + 0.95 * share).expand(3, -1, -1)  # 0 would say unknown
    write_picture(Picture(pixels=grey, mode="grey", bits=16), path)
    return _target(path, "disparity")


@torch.inference_mode()
def _estimated(network: _Network, clear: Picture, device: str) -> Float[Tensor, "1 h w"]:
    image = to_pil(replace(clear, mode="rgb", bits=8, alpha=None))
    inputs = network.processor(images=image, return_tensors="pt").to(device)
    # By position: ZoeDepth calls the second argument source_sizes, and needs it; all others target_sizes.
    found = network.processor.post_process_depth_estimation(
        network.model(**inputs), [(image.height, image.width)]
    )
    depth: Tensor = found[0]["predicted_depth"]
    return depth.reshape(1, image.height, image.width).float().cpu()
