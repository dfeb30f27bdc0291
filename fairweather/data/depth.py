"""Pictures with registered depth (RGB-D): finding them, reading relative depth, and what a depth network learns.

    rgbd/
      index.csv             columns split,name,rgb,depth,kind and, if wanted, set and offset; paths beside it
      train/rgb/room.jpg
      train/depth/room.png

or, without an index.csv, depth maps of one kind beside their pictures:

    set/
      train/                or no splits
        clear/ 17.jpg       or rgb/
        depth/ 17.png       larger is farther

A depth map is a grey PNG of 8 or 16 bits, or a NumPy .npy array; its unit does not matter, and 0 is unknown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fairweather.data.pairs import SPLITS, clear_pictures, cropped, natural_order, split_folder
from fairweather.errors import DataError, UsageError
from fairweather.images import read_picture

INDEX = "index.csv"
OFFSETS = {"Middlebury 2006 third size": 270.0}
"""Levels to add to the disparity of sets whose pictures were cropped sideways, by the `set` column. The files do not
give them; 90 pixels of the third-size pictures, at 3 levels a pixel, are usual. 0 for all other sets."""
FARTHEST = 20.0
"""What disparity puts farther than this many times the nearest thing is taken to be just so far: there, disparity is
mostly error, and one wrong pixel would decide the scale."""

Teacher = Callable[[Path], Tensor | None]
"""From a clear picture's path to its disparity target (1, h, w) in [0, 1], 0 where unknown; None if it has none."""


@dataclass(frozen=True)
class Scene:
    """A clear picture with its depth map."""

    picture: Path
    depth: Path
    kind: Literal["depth", "disparity"] = "depth"
    """Of the values in the file: proportional to depth, or to 1 / depth less `offset`."""
    offset: float = 0.0
    """Added to a disparity, in levels of the file."""


class Depth(NamedTuple):
    """Relative depth (1, h, w): larger is farther, the largest known value is 1."""

    depth: Float[Tensor, "1 h w"]
    """In (0, 1]; unknown pixels have the value of the nearest known one."""
    known: Bool[Tensor, "1 h w"]
    """Where the file has a value."""


# Finding ---------------------------------------------------------------------------------------------------------


def find_scenes(root: Path, *, split: str | None = None) -> tuple[Scene, ...]:
    """Pictures with depth maps under `root`, in natural order of the pictures (2 before 10).

    Args:
        root: a data set, or one of its splits.
        split: "train", "test" ...; needed where the root holds several.

    Raises:
        UsageError: if the root holds several splits and none was named, or not the one that was.
        DataError: if there are none, or if a picture or a depth map has no partner or several.
    """
    if split is None and root.name in SPLITS and (root.parent / INDEX).is_file():
        root, split = root.parent, root.name  # its index knows which files hold disparity
    if (root / INDEX).is_file():
        return _listed(root / INDEX, split)
    base = split_folder(root, split)
    folder = next((base / name for name in ("rgb", "clear") if (base / name).is_dir()), None)
    if folder is None or not (base / "depth").is_dir():
        raise DataError(f"{base} holds no {INDEX} and no folders rgb/ (or clear/) and depth/ side by side")
    maps: dict[Path, list[Path]] = {}
    for path in sorted((base / "depth").rglob("*")):
        if path.suffix.lower() in (".png", ".npy") and path.name[0] != ".":
            maps.setdefault(path.relative_to(base / "depth").with_suffix(""), []).append(path)
    pictures = {path: path.relative_to(folder).with_suffix("") for path in clear_pictures(folder)}
    alone = [path for path, stem in pictures.items() if len(maps.get(stem, [])) != 1]
    alone += [path for stem, paths in maps.items() if stem not in pictures.values() for path in paths]
    if alone:
        raise DataError(
            f"{len(alone)} files of {folder.name}/ and depth/ in {base} have no partner, or two (first: "
            f"{alone[0].relative_to(base)}); a depth map is one .png or .npy with its picture's stem"
        )
    return tuple(Scene(path, maps[stem][0]) for path, stem in pictures.items())


def _listed(index: Path, split: str | None) -> tuple[Scene, ...]:
    try:
        rows = list(csv.DictReader(index.read_text(encoding="utf-8-sig").splitlines()))
        found = {row["split"]: None for row in rows}
        scenes = [_scene(index.parent, row) for row in rows if row["split"] == (split or row["split"])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{index} is no list of split, rgb, depth and kind ({problem})") from error
    if not rows:
        raise DataError(f"{index} lists no pictures")
    if split is None and len(found) > 1:
        raise UsageError(f"{index.parent} holds several splits ({', '.join(found)}); name one of them")
    if not scenes:
        raise UsageError(f"no split {split!r} in {index}; splits found: {', '.join(found)}")
    missing = [path for scene in scenes for path in (scene.picture, scene.depth) if not path.is_file()]
    if missing:
        raise DataError(
            f"{index} lists {len(missing)} missing files, such as {missing[0]}; paths start beside it"
        )
    return tuple(sorted(scenes, key=lambda scene: natural_order(scene.picture.as_posix())))


def _scene(folder: Path, row: dict[str, str]) -> Scene:
    """A row of an index; of its kind only the first word is looked at, as in "disparity (stereo-matched)"."""
    kinds: dict[str, Literal["depth", "disparity"]]
    kinds = {"depth": "depth", "disparity": "disparity", "inverse": "disparity"}
    word = row["kind"].replace(",", " ").split()[0]
    if word not in kinds:
        raise ValueError(f"kind {row['kind']!r}, expected {' or '.join(kinds)}")
    offset = float(row.get("offset") or OFFSETS.get(row.get("set", ""), 0.0))
    if not math.isfinite(offset):
        raise ValueError(f"offset {row['offset']!r}, expected a number")
    return Scene(folder / row["rgb"], folder / row["depth"], kinds[word], offset)


# Reading ---------------------------------------------------------------------------------------------------------


def read_scene(scene: Scene) -> tuple[Float[Tensor, "3 h w"], Depth]:
    """A clear picture in [0, 1] and its relative depth.

    RESIDE's clear picture of 640x480 loses its border where the map is of the hazy one's 620x460; see `cropped`.

    Raises:
        DataError: if the two differ in size, or as `read_depth`.
        PictureError: if the picture cannot be read.
    """
    picture = read_picture(scene.picture).pixels
    depth = read_depth(scene.depth, kind=scene.kind, offset=scene.offset)
    picture = cropped(picture, (depth.depth.shape[-1], depth.depth.shape[-2]))
    (height, width), (h, w) = picture.shape[-2:], depth.depth.shape[-2:]
    if (height, width) != (h, w):
        raise DataError(
            f"{scene.depth} is {w}x{h}, its picture {scene.picture.name} {width}x{height}; "
            "depth must be registered to the picture"
        )
    return picture, depth


def read_depth(path: Path, *, kind: Literal["depth", "disparity"] = "depth", offset: float = 0.0) -> Depth:
    """Relative depth from a grey PNG or a .npy array (h, w), holes filled by the nearest known value.

    A disparity becomes depth proportional to 1 / max(disparity + offset, largest / FARTHEST).

    Args:
        kind: what the values are proportional to. offset: added to known disparities, in levels of the file.

    Raises:
        DataError: if the file is missing or no depth map, or if it holds NaN, infinity, a negative value, or no
            value but 0.
    """
    try:
        raw = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _grey(path)
        raw = raw.astype(np.float32)
    except Exception as error:  # decoders meet damaged files with many kinds of exceptions
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if path.suffix == ".npy" and isinstance(
            error, ValueError
        ):  # NumPy's advice is to let the file run code
            problem = "not a whole .npy array of numbers, as numpy.save writes it"
        raise DataError(f"{path} cannot be read as a depth map ({problem})") from error
    if raw.ndim != 2 or not raw.size:
        raise DataError(f"{path} has the shape {raw.shape}; expected height and width")
    if not np.isfinite(raw).all() or raw.min() < 0:
        raise DataError(f"{path} holds NaN, infinity or negative values; 0 is what marks unknown depth")
    known = raw > 0
    if not known.any():
        raise DataError(f"{path} is 0 everywhere: no depth is known; leave this picture out")
    if kind == "disparity":
        raw = raw + offset
        raw = 1 / np.maximum(raw, raw[known].max() / FARTHEST)
    depth = torch.from_numpy(raw / raw[known].max())[None]  # 1 h w
    mask = torch.from_numpy(known)[None]
    return Depth(fill_nearest(depth, mask), mask)


def _grey(path: Path) -> Shaped[np.ndarray, "h w"]:
    with PIL.Image.open(path) as image:
        if image.mode not in ("L", "I", "I;16", "I;16B"):
            raise ValueError(f"a picture of mode {image.mode}; expected grey of 8 or 16 bits")
        return np.asarray(image)


def map_beside(target: Path) -> Path | None:
    """The depth map of a pair's clear picture, in the folder depth/ beside the clear ones'; None if there is none."""
    maps = [target.parent.with_name("depth") / f"{target.stem}{kind}" for kind in (".png", ".npy")]
    return next((path for path in maps if path.is_file()), None)


def read_map_beside(path: Path, size: tuple[int, int]) -> Depth:
    """As `read_depth`, of a degraded picture of this width and height; RESIDE's border goes, see `cropped`.

    Raises:
        DataError: as of `read_depth`, or if the map is of another size.
    """
    depth = Depth(*(cropped(x, size) for x in read_depth(path)))
    height, width = depth.known.shape[-2:]
    if (width, height) != size:
        raise DataError(
            f"{path} is {width}x{height}, its picture {size[0]}x{size[1]}; depth must be registered to the picture"
        )
    return depth


def fill_nearest(values: Float[Tensor, "1 h w"], known: Bool[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Each unknown pixel gets the value of the nearest known one, rows and columns of way added up.

    >>> fill_nearest(torch.tensor([[[0.0, 0.5, 0.0, 0.0, 0.9]]]), torch.tensor([[[False, True, False, False, True]]]))
    tensor([[[0.5000, 0.5000, 0.5000, 0.9000, 0.9000]]])
    """
    filled = values[0].numpy().copy()
    way = np.where(known[0].numpy(), np.float32(0), np.float32(np.inf))
    # From column to column and back, then from row to row and back: each line hands on to the next (all are views).
    for v, d in ((filled.T, way.T), (filled.T[::-1], way.T[::-1]), (filled, way), (filled[::-1], way[::-1])):
        for i in range(1, len(d)):
            nearer = d[i - 1] + 1 < d[i]
            np.copyto(d[i], d[i - 1] + 1, where=nearer)
            np.copyto(v[i], v[i - 1], where=nearer)
    return torch.from_numpy(filled)[None]


# What a depth network learns -------------------------------------------------------------------------------------


def disparity_target(depth: Float[Tensor, "1 h w"], known: Bool[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Relative inverse depth of a whole picture in [0.05, 1], large is near; 0 where it is unknown.

    The 2nd to the 98th percentile of 1 / depth become 0.05 to 1, the rest is clipped. An even depth becomes 1.

    >>> disparity_target(torch.tensor([[[1.0, 0.5, 0.25]]]), torch.tensor([[[True, True, False]]]))
    tensor([[[0.0500, 1.0000, 0.0000]]])
    """
    inverse = 1 / depth.clamp_min(1e-6)
    low, high = np.quantile(inverse[known].numpy(), (0.02, 0.98)).tolist() if known.any() else (0.0, 0.0)
    share = (inverse - low) / (high - low) if high > low else torch.ones_like(inverse)
    return (0.05 + 0.95 * share.clamp(0, 1)) * known


def own_depth(root: Path, *, split: str | None = None) -> OwnDepth:
    """A teacher that gives the depth of an RGB-D set itself, and None for any other picture.

    Args:
        root, split: see `find_scenes`, whose errors it raises.
    """
    return OwnDepth({scene.picture.resolve(): scene for scene in find_scenes(root, split=split)})


@dataclass(frozen=True, eq=False)
class OwnDepth:
    """The teacher that `own_depth` makes."""

    scenes: dict[Path, Scene]
    """By the resolved paths of their pictures."""

    def __call__(self, picture: Path) -> Tensor | None:
        scene = self.scenes.get(picture.resolve())
        return None if scene is None else disparity_target(*read_scene(scene)[1])

    def knows(self, picture: Path) -> bool:
        """Whether it is a picture of the set."""
        return picture.resolve() in self.scenes
