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
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fairweather import __version__
from fairweather.data.degradations import paper_noise
from fairweather.data.depth import read_depth
from fairweather.data.pairs import (
    Pair,
    clear_pictures,
    complete_pairs,
    cropped,
    has_pairs,
    matched,
    split_folder,
    splits,
)
from fairweather.errors import DataError, UsageError, unknown_name
from fairweather.files import written_whole
from fairweather.images import read_picture
from fairweather.metrics import PROFILES, DepthScores, ScoreTable, depth_scores, score
from fairweather.pipeline import Restorer

PROFILE_OF_TASK = {"derain": "y", "denoise": "rgb", "dehaze": "dehazeformer"}
"""What the papers of each task score by; rgb for the others."""
SIGMAS = (15.0, 25.0, 50.0)
"""Noise of the denoising papers' tables, in 8-bit grey levels."""


@dataclass(frozen=True, kw_only=True)
class DepthMeans:
    """Means of `metrics.depth_scores` over the pictures that have a depth map."""

    count: int
    abs_rel: float
    delta_125: float
    data_sha256: str
    """Of the depth maps, as in Evaluation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one data set."""

    model: str
    weights_sha256: str
    task: str
    profile: str
    data: str
    data_sha256: str
    """Of the names and bytes of all pictures that were scored, in their order."""
    split: str
    rule: str
    """How pictures were paired, or what was added to clear ones."""
    version: str
    device: str
    precision: str
    tile: int | Literal["auto"]
    table: ScoreTable
    depth: DepthMeans | None
    """None where the network gives no depth or the data set has no depth maps."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: at least model, weights_sha256, task, profile, count, mean and input."""
        overall = self.table.overall()
        plain = [f.name for f in dataclasses.fields(self) if f.name not in ("table", "depth")]
        record = {name: getattr(self, name) for name in plain}
        return record | {
            "count": overall.count,
            "mean": {"psnr": overall.psnr, "ssim": overall.ssim},
            "input": {"psnr": overall.input_psnr, "ssim": overall.input_ssim},
            "psnr_interval_95": list(self.table.interval()),
            "depth": dataclasses.asdict(self.depth) if self.depth else None,
            "groups": {name: dataclasses.asdict(means) for name, means in self.table.groups().items()},
            "pictures": [row._asdict() for row in self.table.rows],
        }

    def save(self, path: Path) -> None:
        """Write `as_dict` as JSON, whole or not at all."""
        with written_whole(path) as part:
            part.write_text(json.dumps(_finite(self.as_dict()), indent=1) + "\n")


def evaluate(
    restorer: Restorer,
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
        root: pairs in any layout of `data/pairs.py`, or, for denoising, clear pictures that get noise.
        split: by default the test split, where the set is split.
        profile: a name in `metrics.PROFILES`; by default what the task's papers use.
        sigmas: noise to add to clear pictures, each its own group; by default 15, 25 and 50.

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
    found = splits(root) if root.is_dir() else {}
    if split is None and "test" in found:
        split = "test"
    base = split_folder(root, split) if root.is_dir() else root
    if not root.is_dir() or has_pairs(base):
        if sigmas:
            raise UsageError(f"{root} holds pairs already; --sigma is for clear pictures")
        rule, files, items = _paired(root, split)
    elif restorer.task == "denoise":
        rule, files, items = _with_noise(root, split, sigmas or SIGMAS)
    else:
        raise DataError(f"{base} holds no pairs of degraded and clear pictures to score {restorer.task} on")
    table = ScoreTable()
    depths: list[tuple[Path, DepthScores]] = []
    for number, (name, group, depth_map, pictures) in enumerate(items, start=1):
        degraded, target = pictures()
        result = restorer.restore(degraded, tile=tile)
        table.add(name, group, score(chosen, result.image, target), score(chosen, degraded, target))
        if depth_map and result.depth is not None:
            depths.append((depth_map, _depth_scores(result.depth, depth_map)))
        if progress:
            progress(number, len(items))
    return Evaluation(
        model=restorer.model,
        weights_sha256=restorer.sha256,
        task=restorer.task,
        profile=chosen,
        data=root.resolve().name,
        data_sha256=_digest(files),
        split=split or "",
        rule=rule,
        version=__version__,
        device=restorer.device,
        precision=restorer.precision,
        tile=tile,
        table=table,
        depth=_depth_means(depths),
    )


def _finite(value: Any) -> Any:
    """JSON has no inf and nan; they become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Item = tuple[str, str, Path | None, Callable[[], tuple[Tensor, Tensor]]]
"""Name, group, depth map, and a call that reads (degraded, target): only one pair is in memory at a time."""


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _paired(root: Path, split: str | None) -> tuple[str, list[Path], list[Item]]:
    found = complete_pairs(root, split=split)
    files = [file for p in found.pairs for file in (p.degraded, p.target)]
    items: list[Item] = [
        (p.degraded.name, p.group, _depth_map(p.target), partial(_read_pair, p)) for p in found.pairs
    ]
    return found.rule, files, items


def _read_pair(pair: Pair) -> tuple[Tensor, Tensor]:
    degraded, target = read_picture(pair.degraded).pixels, read_picture(pair.target).pixels
    return matched(degraded, target, files=(pair.degraded, pair.target))


def _with_noise(root: Path, split: str | None, sigmas: Sequence[float]) -> tuple[str, list[Path], list[Item]]:
    files = list(clear_pictures(root, split=split))
    rule = "noise on clear pictures: NumPy legacy generator seeded 0 for each, not clipped"
    items: list[Item] = [
        (f.name, f"sigma {s:g}", None, partial(_read_noisy, f, s)) for s in sigmas for f in files
    ]
    return rule, files, items


def _read_noisy(file: Path, sigma: float) -> tuple[Tensor, Tensor]:
    clear = read_picture(file).pixels
    return paper_noise(clear, sigma=sigma), clear


def _depth_map(target: Path) -> Path | None:
    maps = [target.parent.with_name("depth") / f"{target.stem}{kind}" for kind in (".png", ".npy")]
    return next((path for path in maps if path.is_file()), None)


def _depth_scores(disparity: Tensor, depth_map: Path) -> DepthScores:
    """The scores of the network's disparity (1, h, w), over the pixels whose depth is known."""
    height, width = disparity.shape[-2:]
    depth, known = (cropped(x, (width, height)) for x in read_depth(depth_map))
    if depth.shape != disparity.shape:
        raise DataError(
            f"{depth_map} is {depth.shape[-1]}x{depth.shape[-2]}, its picture {width}x{height}; "
            "depth must be registered to the picture"
        )
    return depth_scores(disparity, depth, known)


def _depth_means(scored: Sequence[tuple[Path, DepthScores]]) -> DepthMeans | None:
    if not scored:
        return None
    abs_rel, delta_125 = np.mean([scores for _, scores in scored], axis=0).tolist()
    files = list(dict.fromkeys(path for path, _ in scored))  # hazy pictures may share a clear one
    return DepthMeans(count=len(scored), abs_rel=abs_rel, delta_125=delta_125, data_sha256=_digest(files))
