"""Scoring a model on a data set, with everything named that a number depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from fairweather import __version__
from fairweather.data.degradations import paper_noise
from fairweather.data.depth import Depth, Scene, find_scenes, map_beside, read_map_beside, read_scene
from fairweather.data.night import find_triples
from fairweather.data.pairs import (
    RESIDE_BORDER,
    Pair,
    clear_pictures,
    complete_pairs,
    has_pairs,
    matched,
    split_folder,
    splits,
)
from fairweather.data.random_degradations import random_depth_haze
from fairweather.errors import DataError, UsageError, unknown_name
from fairweather.files import written_whole
from fairweather.images import read_picture
from fairweather.loading import AnyRestorer
from fairweather.metrics import PROFILES, DepthScores, Profile, ScoreTable, depth_scores, score
from fairweather.metrics.fusion import FusionScores, fusion_scores
from fairweather.models import MODELS
from fairweather.models.fusionnet import rgb_to_ycrcb
from fairweather.models.layers import pad_to_multiple
from fairweather.night import NightRestorer
from fairweather.pipeline import Origin, Restorer, Result, origin_of
from fairweather.tiling import SMALLEST

PROFILE_OF_TASK = {"derain": "y", "denoise": "rgb", "dehaze": "dehazeformer", "night": "nitedr"}
"""What the papers of each task score by; rgb for the others."""
SIGMAS = (15.0, 25.0, 50.0)
"""Noise of the denoising papers' tables, in 8-bit grey levels."""


class Read(NamedTuple):
    """What one picture is scored on."""

    degraded: Tensor
    target: Tensor
    depth: Depth | None
    """Where it is known."""
    bordered: bool = False
    """Whether the target lost RESIDE's border, see `cropped`."""


class Item(NamedTuple):
    """One picture to score; it is read when its turn comes, so that only one is in memory at a time."""

    name: str
    group: str
    depth: Path | None
    """Its depth map, where there is one."""
    read: Callable[[], Read]
    infrared: Path | None = None
    """Its partner of the infrared camera, for fusion."""


@dataclass(frozen=True, kw_only=True)
class DepthMeans:
    """Means of `metrics.depth_scores` over the pictures that have a depth map."""

    count: int
    abs_rel: float
    delta_125: float
    data_sha256: str
    """Of the depth maps, as in Evaluation."""


@dataclass(frozen=True, kw_only=True)
class FusionMeans:
    """Means of `metrics.fusion.fusion_scores` over the pictures, against the infrared and the clear visible one."""

    count: int
    fused: FusionScores
    average: FusionScores
    """Of the plain average of the cleaned and the infrared picture: what costs nothing."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"count": self.count, "fused": self.fused._asdict(), "average": self.average._asdict()}


@dataclass(frozen=True, kw_only=True)
class Evaluation(Origin):
    """Scores of one model on one data set."""

    profile: str
    data: str
    data_sha256: str
    """Of the names and bytes of all pictures that were scored, in their order."""
    split: str
    rule: str
    """How pictures were paired, or what was added to clear ones."""
    version: str
    tile: int | Literal["auto"]
    tiles: int
    """The most that one picture went through the network in."""
    table: ScoreTable
    depth: DepthMeans | None
    """None where the network gives no depth or the data set has no depth maps."""
    fusion: FusionMeans | None = None
    """Of the task night: the table is of the cleaned pictures, this of the fused ones."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: at least model, weights_sha256, task, profile, count, mean and input."""
        overall = self.table.overall()
        plain = [f.name for f in dataclasses.fields(self) if f.name not in ("table", "depth", "fusion")]
        record = {name: getattr(self, name) for name in plain}
        return record | {
            "count": overall.count,
            "mean": {"psnr": overall.psnr, "ssim": overall.ssim},
            "input": {"psnr": overall.input_psnr, "ssim": overall.input_ssim},
            "psnr_interval_95": list(self.table.interval()),
            "depth": dataclasses.asdict(self.depth) if self.depth else None,
            "fusion": self.fusion.as_dict() if self.fusion else None,
            "groups": {name: dataclasses.asdict(means) for name, means in self.table.groups().items()},
            "pictures": [row._asdict() for row in self.table.rows],
        }

    def save(self, path: Path) -> None:
        """Write `as_dict` as JSON, whole or not at all."""
        with written_whole(path) as part:
            part.write_text(json.dumps(_finite(self.as_dict()), indent=1) + "\n")


def evaluate(
    restorer: AnyRestorer,
    root: Path,
    *,
    split: str | None = None,
    profile: str | None = None,
    sigmas: Sequence[float] = (),
    tile: int | Literal["auto"] = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Restore every degraded picture of a data set and score it; averages are per picture, nothing is left out.

    A network that also estimates depth is scored by it too, where there are depth maps in a folder depth/ beside the
    clear one, with the stem of the clear picture: depth/1400.png of clear/1400.png (values as in data/depth.py).

    Args:
        root: pairs in any layout of `data/pairs.py`; for denoising also clear pictures, which get noise; for dehazing
            also clear pictures with depth maps (data/depth.py), which get haze; for night pictures of two cameras
            (data/night.py), of which the cleaned ones are scored by the profile and the fused ones by
            metrics/fusion.py.
        split: by default the test split, where the set is split.
        profile: a name in `metrics.PROFILES`, by default what the task's papers use; it also decides how pictures are
            cropped or padded, and what noise is like. One call has one profile.
        sigmas: noise to add to clear pictures, each its own group; by default 15, 25 and 50.
        tile: as of `Restorer.restore`, but that "auto" takes pictures whole, as the papers do, where memory allows.

    Raises:
        DataError: for unpaired or unequal pictures, or a bad depth map. PictureError: for an unreadable picture.
        UsageError: for a wrong name.
    """
    chosen = profile or PROFILE_OF_TASK.get(restorer.task, "rgb")
    if chosen not in PROFILES:
        raise unknown_name("profile", chosen, PROFILES)
    if not all(0 <= sigma < 1000 for sigma in sigmas):
        raise UsageError(
            f"--sigma is {', '.join(f'{s:g}' for s in sigmas)}; expected grey levels of 0 or more"
        )
    split = split or _test_split(root)
    protocol = PROFILES[chosen]
    rule, files, items = pictures_of(root, task=restorer.task, split=split, sigmas=sigmas, profile=protocol)
    multiple = protocol.padding(restorer.model)
    if protocol.crop_multiple > 1:
        rule += f"; cropped around the centre to multiples of {protocol.crop_multiple}"
    if multiple > 1:
        rule += f"; padded by reflection to multiples of {multiple}"
    table = ScoreTable()
    framed, tiles = 0, 1
    depths: list[tuple[Path, DepthScores]] = []
    fusions: list[tuple[FusionScores, FusionScores]] = []
    for number, (name, group, depth_file, read, infrared) in enumerate(items, start=1):
        degraded, target, depth, bordered = _cropped(read(), protocol.crop_multiple)
        framed += bordered
        height, width = degraded.shape[-2:]
        degraded, target = (pad_to_multiple(x[None], multiple)[0] for x in (degraded, target))
        side = _tile(restorer, degraded) if tile == "auto" else tile
        if isinstance(restorer, NightRestorer):
            result = restorer.restore(degraded, infrared, tile=side)
            fusions.append(_fusion_scores(result, target))
        else:
            result = restorer.restore(degraded, tile=side)
        tiles = max(tiles, result.tiles)
        restored = result.image if result.clean is None else result.clean
        table.add(name, group, score(chosen, restored, target), score(chosen, degraded, target))
        if depth_file and depth and result.depth is not None:
            disparity = result.depth[..., :height, :width]
            depths.append((depth_file, depth_scores(disparity, depth.depth, depth.known)))
        if progress:
            progress(number, len(items))
    if framed:
        rule += f"; {framed} clear pictures of 640x480 lost RESIDE's border of {RESIDE_BORDER} pixels"
    return Evaluation(
        **origin_of(restorer),
        profile=chosen,
        data=root.resolve().name,
        data_sha256=_digest(files),
        split=split or "",
        rule=rule,
        version=__version__,
        tile=tile,
        tiles=tiles,
        table=table,
        depth=_depth_means(depths),
        fusion=_fusion_means(fusions),
    )


def _tile(restorer: AnyRestorer, picture: Tensor) -> int | Literal["auto"]:
    """The whole picture where memory allows; the copy that `dcmpnet_small` finds haze in stays what it is."""
    network = restorer.cleaner if isinstance(restorer, NightRestorer) else restorer
    if not isinstance(network, Restorer) or MODELS[network.model].tiling == "reduced":
        return "auto"
    return network.auto_tile(picture[0].numel(), largest=max(SMALLEST, *picture.shape[-2:]))


def _test_split(root: Path) -> str | None:
    return "test" if root.is_dir() and "test" in splits(root) else None


def pictures_of(
    root: Path,
    *,
    task: str,
    split: str | None = None,
    sigmas: Sequence[float] = (),
    profile: Profile = PROFILES["rgb"],
) -> tuple[str, list[Path], list[Item]]:
    """What a task is scored on: how it was paired or made, the files, and the pictures; see `evaluate`.

    Args:
        profile: says what noise is like.
    """
    base = split_folder(root, split) if root.is_dir() else root
    if task == "night":
        return _of_two_cameras(root, split)
    if not root.is_dir() or has_pairs(base):
        if sigmas:
            raise UsageError(f"{root} holds pairs already; --sigma is for clear pictures")
        return _paired(root, split)
    if task == "denoise":
        return _with_noise(root, split, sigmas or SIGMAS, profile)
    if task == "dehaze":
        return _with_haze(root, split)
    raise DataError(f"{base} holds no pairs of degraded and clear pictures to score {task} on")


def _finite(value: Any) -> Any:
    """JSON has no inf and nan; they become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def centre_crop(picture: Shaped[Tensor, "c h w"], multiple: int) -> Shaped[Tensor, "c h2 w2"]:
    """The middle of a picture, with both sides the largest multiples of `multiple`; an odd pixel is lost at the end.

    Raises:
        DataError: if a side is shorter than that.

    >>> centre_crop(torch.arange(21.0).view(1, 1, 21).expand(1, 17, 21), 16)[0, 0, 0]
    tensor(2.)
    """
    height, width = picture.shape[-2:]
    if min(height, width) < multiple:
        raise DataError(
            f"a picture of {width}x{height} is too small to be cropped to multiples of {multiple}"
        )
    top, left = height % multiple // 2, width % multiple // 2
    return picture[:, top : top + height // multiple * multiple, left : left + width // multiple * multiple]


def clipped_noise(clear: Float[Tensor, "3 h w"], *, sigma: float) -> Float[Tensor, "3 h w"]:
    """The test noise of the all-in-one papers: as `paper_noise`, but clipped to 8 bit and cut off to whole levels.

    >>> 255 * clipped_noise(torch.full((3, 1, 1), 0.5), sigma=25).flatten()  # 128 + 25 * (1.764, 0.400, 0.979)
    tensor([172., 138., 152.])
    """
    levels = clear.mul(255).round().permute(1, 2, 0).double().numpy()  # h w 3
    noise = np.random.RandomState(0).normal(0, sigma, levels.shape)
    noisy = np.clip(levels + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(noisy).permute(2, 0, 1).float() / 255


def _cropped(read: Read, multiple: int) -> Read:
    cut = partial(centre_crop, multiple=multiple)
    depth = Depth(*map(cut, read.depth)) if read.depth else None
    return read._replace(degraded=cut(read.degraded), target=cut(read.target), depth=depth)


def _paired(root: Path, split: str | None) -> tuple[str, list[Path], list[Item]]:
    found = complete_pairs(root, split=split)
    files = [file for p in found.pairs for file in (p.degraded, p.target)]
    maps = [map_beside(p.target) for p in found.pairs]
    items: list[Item] = [
        Item(p.degraded.name, p.group, m, partial(_read_pair, p, m))
        for p, m in zip(found.pairs, maps, strict=True)
    ]
    return found.rule, files, items


def _read_pair(pair: Pair, depth_map: Path | None) -> Read:
    degraded, target = read_picture(pair.degraded).pixels, read_picture(pair.target).pixels
    whole = target.shape
    degraded, target = matched(degraded, target, files=(pair.degraded, pair.target))
    bordered = target.shape != whole
    if depth_map is None:
        return Read(degraded, target, None, bordered)
    depth = read_map_beside(depth_map, (degraded.shape[2], degraded.shape[1]))
    return Read(degraded, target, depth, bordered)


def _with_noise(
    root: Path, split: str | None, sigmas: Sequence[float], profile: Profile
) -> tuple[str, list[Path], list[Item]]:
    files = list(clear_pictures(root, split=split))
    kind = "clipped and cut to 8 bit" if profile.clip_noise else "not clipped"
    rule = f"noise on clear pictures: NumPy legacy generator seeded 0 for each, {kind}"
    items: list[Item] = [
        Item(f.name, f"sigma {s:g}", None, partial(_read_noisy, f, s, profile)) for s in sigmas for f in files
    ]
    return rule, files, items


def _read_noisy(file: Path, sigma: float, profile: Profile) -> Read:
    # Cropped before the noise is drawn, as those papers do.
    clear = centre_crop(read_picture(file).pixels, profile.crop_multiple)
    noise = clipped_noise if profile.clip_noise else paper_noise
    return Read(noise(clear, sigma=sigma), clear, None)


def _with_haze(root: Path, split: str | None) -> tuple[str, list[Path], list[Item]]:
    scenes = find_scenes(root, split=split)
    files = [file for scene in scenes for file in (scene.picture, scene.depth)]
    rule = "hazed by their depth: beta 0.6 to 1.8 and airlight 0.7 to 1 as RESIDE's ITS, seeded by number"
    items: list[Item] = [
        Item(s.picture.name, "its", s.depth, partial(_read_hazed, s, i)) for i, s in enumerate(scenes)
    ]
    return rule, files, items


def _read_hazed(scene: Scene, number: int) -> Read:
    clear, depth = read_scene(scene)
    hazy, target = random_depth_haze(clear, depth.depth, Generator().manual_seed(number), ranges="its")
    return Read(hazy, target, depth)


def _of_two_cameras(root: Path, split: str | None) -> tuple[str, list[Path], list[Item]]:
    triples = find_triples(root, split=split)
    pairs = [Pair(t.visible, t.clear or t.visible, t.visible.parent.name) for t in triples]
    files = [file for p, t in zip(pairs, triples, strict=True) for file in (p.degraded, p.target, t.infrared)]
    rule = "visible and infrared pictures of equal stem"
    if not all(t.clear for t in triples):
        rule += "; no clear pictures: the visible ones count as clear, and what cleaning changes is scored"
    items = [
        Item(p.degraded.name, p.group, None, partial(_read_pair, p, None), t.infrared)
        for p, t in zip(pairs, triples, strict=True)
    ]
    return rule, files, items


def _fusion_scores(result: Result, target: Tensor) -> tuple[FusionScores, FusionScores]:
    """Of the fused picture, and of the plain average that it should be better than."""
    clean, heat = result.clean, result.infrared
    assert isinstance(clean, Tensor)
    if heat is None:
        raise DataError(
            f"{'; '.join(result.warnings)}, so there is nothing to score; take the pair out of the set"
        )
    average = (rgb_to_ycrcb(clean[None])[0, :1] + heat) / 2
    return fusion_scores(result.image, target, heat), fusion_scores(average, target, heat)


def _fusion_means(scored: Sequence[tuple[FusionScores, FusionScores]]) -> FusionMeans | None:
    if not scored:
        return None
    fused, average = np.mean(np.array(scored), axis=0).tolist()
    return FusionMeans(count=len(scored), fused=FusionScores(*fused), average=FusionScores(*average))


def _depth_means(scored: Sequence[tuple[Path, DepthScores]]) -> DepthMeans | None:
    if not scored:
        return None
    abs_rel, delta_125 = np.mean([scores for _, scores in scored], axis=0).tolist()
    files = list(dict.fromkeys(path for path, _ in scored))  # hazy pictures may share a clear one
    return DepthMeans(count=len(scored), abs_rel=abs_rel, delta_125=delta_125, data_sha256=_digest(files))
