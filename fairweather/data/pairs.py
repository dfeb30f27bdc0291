"""Finding pairs of degraded and clear pictures on disk, with the names they were published under.

    o_haze/                 the root may be the data set,
      train/                one of its splits,
        hazy/   17.jpg      or the folder that holds the pair of folders
        clear/  17.jpg

Or both kinds lie in one folder, 01_hazy.png with 01_GT.png. Known names of folders are in LAYOUTS and the ways to
match file names in RULES. HIDE's GT/ beside train/ and test/, and RealBlur's lists of pairs, are known too. Anything
else is described by a manifest: a CSV or JSON file with `degraded` and `target` columns (and `group`, if wanted), or
a text file with a clear and a degraded path a line, in any order; paths are relative to the file. It is given as the
root itself or lies in the root as pairs.csv or pairs.json.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from fairweather.errors import DataError, UsageError
from fairweather.images import EXTENSIONS

# The folder of clear pictures, and the folders of degraded ones that may lie beside it (shell patterns, any letter
# case). Several degraded folders may share one target folder, as in Rain100 and CDD-11. For a target the first line
# that applies counts.
HIDE_TESTS = ("test-close-ups", "test-long-shot")
LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "gt",
        ("hazy", "haze", "rainy", "rain", "lq", "input", "noisy", "blur", *HIDE_TESTS),
    ),  # RESIDE, Dense-Haze, Rain800, BasicSR, RealBlur's scenes
    ("groundtruth", ("input", "hazy", "rainy")),
    ("ground_truth", ("rainy_image",)),  # Rain1400
    ("clear", ("hazy", "haze", "haze_*", "low", "low_*", "rain", "snow")),  # RESIDE, I-HAZE, NH-HAZE, CDD-11
    ("target", ("input", "rain_heavy", "rain_light")),  # Rain13K, RoadScene-rain, Rain100
    ("norain", ("rain", "rainy")),  # Rain100 as published
    ("original", ("synthetic",)),
    ("its_clear", ("its_haze", "its_hazy")),  # RESIDE v0's ITS
    ("clear_images", ("hazy", "haze")),  # RESIDE's OTS, as some copies name it
    ("clean", ("noisy", "rainy")),
    ("sharp", ("blur",)),  # GoPro, of whose two kinds of blur most papers take this one
    ("sharp", ("blur_gamma",)),
)
WORDS = {name for target, patterns in LAYOUTS for name in (target, *patterns) if "*" not in name}
SPLITS = ("train", "val", "valid", "validation", "test")
MANIFESTS = ("pairs.csv", "pairs.json")
# Folders of another kind of picture beside the visible ones; never taken for clear pictures.
PARTNERS = ("depth", "disparity", "inf", "infrared", "ir", "mask", "masks", "thermal", "trans", "its_trans")
# RESIDE's test sets, often kept beside its training sets.
TESTS = ("sots", "hsts")
# The two halves of RealBlur as published, of one name each, and the lists of their training and test pairs.
REALBLUR = re.compile(r"realblur-([jr])_(bm3d_)?ecc", re.IGNORECASE)
REALBLUR_LIST = "RealBlur_{half}_{split}_list.txt"
# Width and height of a hazy and a clear picture of RESIDE's indoor sets, whose hazy ones lost their border.
RESIDE_SIZES = ((620, 460), (640, 480))
RESIDE_BORDER = 10
"""Pixels that these lost on each side."""


@dataclass(frozen=True)
class Pair:
    """A degraded picture and the clear one it should become."""

    degraded: Path
    target: Path
    group: str
    """The degraded folder, such as "rain_heavy"; several groups may share their targets."""


@dataclass(frozen=True)
class PairedFolders:
    """What `find_pairs` found."""

    root: Path
    rule: str
    """One sentence, such as "rain_heavy/ and rain_light/ against target/, by equal stem"."""
    pairs: tuple[Pair, ...]
    unmatched: tuple[Path, ...]
    """Degraded or clear pictures without a partner."""


# How a degraded and a clear file name become equal: the phrase for people, the key of each side. `folder` is the
# folder's own name. The rule that matches most files of a folder is taken, the earlier one if they tie.
Key = Callable[[str, str], str]


def _stem(stem: str, folder: str) -> str:
    return stem


def _identifier(stem: str, folder: str) -> str:
    """RESIDE: 1400_1 ... 1400_10 are hazy versions of 1400."""
    return stem.partition("_")[0]


def _without_words(stem: str, folder: str) -> str:
    """O-HAZE's hazy/01_outdoor_hazy and GT/01_outdoor_GT; Rain100's rainy/rain-001 and norain-001."""
    parts = re.split("[-_]", stem)
    return "_".join(part for part in parts if part.casefold() not in WORDS | {folder.casefold()})


def _without_x2(stem: str, folder: str) -> str:
    """Rain100L's rain/X2/norain-1x2 of norain/norain-1."""
    return stem.removesuffix("x2")


RULES: tuple[tuple[str, Key, Key], ...] = (
    ("by equal stem", _stem, _stem),
    ("by the RESIDE identifier before the first underscore", _identifier, _stem),
    ("by stem without those words", _without_words, _without_words),
    ("by stem without Rain100L's x2", _without_x2, _stem),
)


def find_pairs(root: Path, *, split: str | None = None) -> PairedFolders:
    """Pairs of degraded and clear pictures under `root`, in natural order (2 before 10).

    Args:
        root: a data set, one of its splits, the folder that holds the pair of folders, or a manifest file.
        split: "train", "test" ...; needed where the root holds several.

    Raises:
        UsageError: if the root holds several splits and none was named, or not the one that was; or if it holds
            both training and test sets of RESIDE.
        DataError: if no known layout is found, a target is ambiguous, or no names match.
    """
    manifest = _manifest(root) if split is None else None
    base = root if manifest else split_folder(root, split)
    manifest = manifest or _manifest(base)
    if manifest:
        return _from_manifest(manifest)
    holders = _holders(base)
    if not holders:
        seen = ", ".join(f"{path.name}/" for path in _folders(base).values()) or "none"
        known = "; ".join(f"{target} with {' or '.join(patterns)}" for target, patterns in LAYOUTS)
        raise DataError(
            f"no pair of folders in {base} or two levels below; folders seen: {seen}; known layouts: {known}; "
            "list pairs in any other layout in pairs.csv (columns degraded,target)"
        )
    if any(REALBLUR.match(part) for at in holders for part in (base.name, *at.relative_to(base).parts)):
        lists = " and ".join(REALBLUR_LIST.format(half="J", split=part) for part in ("train", "test"))
        raise DataError(
            f"{base} holds RealBlur's training and test pairs together; put its lists, such as {lists}, beside the "
            "folders that they name"
        )
    tests = [at for at in holders if {part.casefold() for part in at.relative_to(base).parts} & set(TESTS)]
    if tests and len(tests) < len(holders):
        raise UsageError(
            f"{base} holds training sets and the test set {_where(tests[0], base)}; give one of them"
        )
    pairs: list[Pair] = []
    unmatched: list[Path] = []
    rules: dict[tuple[str, str], list[str]] = {}  # (target folder, phrase): degraded folders
    for target, sources in holders.values():
        clear = _side(target)
        alone = dict.fromkeys(clear)
        for source in sources:
            phrase, partners = _match(source, target, clear)
            group = source.name if len(holders) == 1 else source.relative_to(base).as_posix()
            rules.setdefault((_where(target, base), phrase), []).append(_where(source, base))
            for degraded, partner in partners.items():
                if partner is None:
                    unmatched.append(degraded)
                else:
                    pairs.append(Pair(degraded, partner, group))
                    alone.pop(partner, None)
        if target.is_relative_to(base):  # HIDE's GT/ serves other splits too
            unmatched += alone
    said = [f"{' and '.join(names)} against {to}, {phrase}" for (to, phrase), names in rules.items()]
    more = f"; and {len(said) - 2} more folders" if len(said) > 2 else ""
    return PairedFolders(root, "; ".join(said[:2]) + more, tuple(pairs), tuple(unmatched))


def matched(
    degraded: Shaped[Tensor, "c h w"], target: Shaped[Tensor, "c2 h2 w2"], *, files: Sequence[Path]
) -> tuple[Shaped[Tensor, "c h w"], Shaped[Tensor, "c2 h w"]]:
    """A pair at one size: RESIDE's 640x480 clear picture is cropped to its 620x460 hazy one; see `cropped`.

    Args:
        files: where the two come from, for the message.

    Raises:
        DataError: if the sizes differ otherwise: whatever was cropped or resized there, it is not ours to guess.
    """
    aligned = cropped(target, (degraded.shape[2], degraded.shape[1]))
    if aligned.shape[1:] != degraded.shape[1:]:
        sizes = [f"{p} ({t.shape[2]}x{t.shape[1]})" for p, t in zip(files, (degraded, target), strict=True)]
        raise DataError(
            f"{' and '.join(sizes)} are a pair of different sizes; cut them alike or leave them out; "
            "fairweather data check lists all such pairs"
        )
    return degraded, aligned


def cropped(target: Shaped[Tensor, "c h w"], size: tuple[int, int] | None) -> Shaped[Tensor, "c h2 w2"]:
    """A target without RESIDE's border of 10 pixels, if it has one beside a degraded picture of `size`.

    SOTS indoor, and ITS in some copies, have clear pictures of 640x480 for hazy ones of 620x460, which lost
    the white frame of NYU-v2's pictures. Any other size is left as it is.

    Args:
        size: width and height of the degraded picture.

    >>> cropped(torch.zeros(3, 480, 640), (620, 460)).shape
    torch.Size([3, 460, 620])
    """
    if (size, (target.shape[2], target.shape[1])) != RESIDE_SIZES:
        return target
    return target[:, RESIDE_BORDER:-RESIDE_BORDER, RESIDE_BORDER:-RESIDE_BORDER]


def complete_pairs(root: Path, *, split: str | None = None) -> PairedFolders:
    """As `find_pairs`, but pictures without a partner are a DataError: training or scores would be of another set."""
    found = find_pairs(root, split=split)
    if found.unmatched:
        names = ", ".join(path.relative_to(root).as_posix() for path in found.unmatched[:3])
        raise DataError(
            f"{len(found.unmatched)} pictures of {root} have no partner beside its {len(found.pairs)} pairs ("
            f"{found.rule}): {names}; add their partners or leave them out; fairweather data check lists all"
        )
    return found


def clear_pictures(root: Path, *, split: str | None = None) -> tuple[Path, ...]:
    """All pictures under a plain folder, in natural order; folders of depth or infrared are left out.

    Raises:
        UsageError: if the root holds several splits and none was named, or not the one that was.
        DataError: if there are none, or if the folder holds pairs, half of which are not clear.
    """
    base = split_folder(root, split)
    if has_pairs(base):
        raise DataError(f"{base} holds pairs of degraded and clear pictures; give its clear folder alone")
    folders = {path: path.relative_to(base).as_posix().casefold().split("/")[:-1] for path in _pictures(base)}
    inside = sorted({part for parts in folders.values() for part in parts if part in SPLITS})
    if len(inside) > 1:
        raise UsageError(f"{base} holds data sets with {' and '.join(inside)} folders; give one at a time")
    pictures = tuple(path for path, parts in folders.items() if not set(parts) & set(PARTNERS))
    if not pictures:
        raise DataError(f"no pictures under {base}; known file types: {', '.join(sorted(EXTENSIONS))}")
    return pictures


def has_pairs(root: Path) -> bool:
    """Whether `root` is or holds a manifest or a known pair of folders; its splits are not looked into."""
    return _manifest(root) is not None or bool(_holders(root))


def splits(root: Path) -> dict[str, Path]:
    """The split folders directly in `root`, or RealBlur's lists, by their lower-case names; none beside a manifest.

    Raises:
        UsageError: if the root holds both RealBlur-J and RealBlur-R.
    """
    found = {} if _manifest(root) else _folders(root) | _realblur_lists(root)
    return {name: found[name] for name in SPLITS if name in found}


def _realblur_lists(root: Path) -> dict[str, Path]:
    """The lists of pairs of one half of RealBlur, by split; `root` is that half or the folder that holds it."""
    folders = [root, *_folders(root).values()]
    halves = [(found[1].upper(), path) for path in folders if (found := REALBLUR.match(path.name))]
    if len(halves) > 1:
        names = " and ".join(path.name for _, path in halves)
        raise UsageError(f"{root} holds {names}, which are scored apart; give one of them")
    lists = {
        split: half.parent / REALBLUR_LIST.format(half=letter, split=split)
        for letter, half in halves
        for split in SPLITS
    }
    return {split: path for split, path in lists.items() if path.is_file()}


def split_folder(root: Path, split: str | None) -> Path:
    """The folder or list of one split; the root itself where it has no splits, the only split where it has one."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {problem}; give a data set, one of its splits, or a manifest alone")
    found = splits(root)
    names = ", ".join(found) or "none"
    if split is None:
        if len(found) > 1:
            raise UsageError(f"{root} holds several splits ({names}); name one of them")
        return next(iter(found.values()), root)
    if split.casefold() in found:
        return found[split.casefold()]
    if root.name.casefold() == split.casefold():
        return root
    raise UsageError(f"no split {split!r} in {root}; splits found: {names}")


def _folders(folder: Path) -> dict[str, Path]:
    """Visible folders directly inside, by lower-case name."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name.casefold(): path for path in inside if path.is_dir() and path.name[0] != "."}


def _pictures(folder: Path) -> list[Path]:
    """Pictures at any depth, in natural order; not the ._001.jpg that macOS writes beside 001.jpg."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    names = [name for name, path in files.items() if path.suffix.lower() in EXTENSIONS and path.is_file()]
    return [files[name] for name in sorted(names, key=natural_order) if not f"/{name}".count("/.")]


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A sorting key that puts 2 before 10: text and number take turns."""
    parts = enumerate(re.split(r"(\d+)", name))
    return [int(part) if i % 2 else part.casefold() for i, part in parts], name


# The target folder and its degraded ones. Where both lie side by side these are only words: NH-HAZE/GT, NH-HAZE/hazy.
Layout = tuple[Path, list[Path]]


def _holders(folder: Path) -> dict[Path, Layout]:
    """Folders, at most two below, that hold a known pair of folders; or the folder itself, as a part of HIDE."""
    found = _holders_below(folder, 2)
    return found or ({folder: layout} if (layout := _part_of_hide(folder)) else {})


def _holders_below(folder: Path, depth: int) -> dict[Path, Layout]:
    """Splits are never mixed."""
    children = _folders(folder)
    if layout := _layout(folder, children) or _side_by_side(folder, children):
        return {folder: layout}
    inner = [path for name, path in children.items() if name not in SPLITS] if depth else []
    return {holder: layout for path in inner for holder, layout in _holders_below(path, depth - 1).items()}


def _part_of_hide(folder: Path) -> Layout | None:
    """HIDE as published: train/, test/test-close-ups/ and test/test-long-shot/ share a GT/ beside train/ and test/."""
    name = folder.name.casefold()
    if name not in ("train", "test", *HIDE_TESTS):
        return None
    around = _folders(folder.parent.parent if name in HIDE_TESTS else folder.parent)
    halves = [path for half, path in _folders(around.get("test", folder)).items() if half in HIDE_TESTS]
    if "gt" not in around or not halves:
        return None
    return around["gt"], halves if name == "test" else [folder]


def _layout(folder: Path, children: dict[str, Path]) -> Layout | None:
    found: dict[Path, list[Path]] = {}
    for target, patterns in LAYOUTS:
        sources = [path for name, path in children.items() if any(fnmatch(name, like) for like in patterns)]
        if target in children and sources:
            found.setdefault(children[target], sources)
    if len(found) > 1:
        names = " and ".join(f"{target.name}/" for target in found)
        raise DataError(f"{folder} has several possible targets: {names}; keep one or write a pairs.csv")
    return next(iter(found.items()), None)


def _side_by_side(folder: Path, children: dict[str, Path]) -> Layout | None:
    """NH-HAZE as published: 01_hazy.png and 01_GT.png in one folder; Rain100: rainy/rain-1.png beside norain-1.png."""
    stems = [path.stem for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS]
    ends = [re.search(at, stem) for stem in stems for at in (r"^[A-Za-z]+(?=[-_])", r"(?<=[-_])[A-Za-z]+$")]
    words = {end[0].casefold(): folder / end[0] for end in ends if end}
    layout = _layout(folder, words | children) if words else None
    if layout is None:
        return None
    target, *sources = [
        {_without_words(p.stem, side.name) for p in _side(side)} for side in (layout[0], *layout[1])
    ]
    found = [source for source, names in zip(layout[1], sources, strict=True) if names & target]
    return (layout[0], found) if found else None


def _side(folder: Path) -> list[Path]:
    """The pictures in a folder; or, if it is only a word, those beside it that are named by it."""
    if folder.is_dir():
        return _pictures(folder)
    beside = [path for path in _pictures(folder.parent) if path.parent == folder.parent]
    word = folder.name.casefold()
    return [path for path in beside if word in re.split("[-_]", path.stem.casefold())]


def _where(folder: Path, base: Path) -> str:
    inside = folder != base and folder.is_relative_to(base)
    name = folder.relative_to(base).as_posix() if inside else folder.name
    return f"{name}/" if folder.is_dir() else f"files named {name}"


def _match(source: Path, target: Path, clear: list[Path]) -> tuple[str, dict[Path, Path | None]]:
    """The rule that matches most files of `source`, and each file's partner."""
    degraded = _side(source)
    for folder, pictures in ((source, degraded), (target, clear)):
        if not pictures:
            raise DataError(f"{folder} holds no pictures; known file types: {', '.join(sorted(EXTENSIONS))}")
    nested = target.is_dir() and any(path.parent != target for path in clear)

    def key(path: Path, folder: Path, of: Key) -> str:
        # Numbers may start anew in each sub-folder of the target; a flat target takes all sub-folders together.
        prefix = path.parent.relative_to(folder).as_posix() if nested else ""
        return f"{prefix}/{of(path.stem, folder.name)}"

    best, matched = "", dict[Path, list[Path]]()
    for phrase, of_source, of_target in RULES:
        index: dict[str, list[Path]] = {}
        for path in clear:
            index.setdefault(key(path, target, of_target), []).append(path)
        tried = {path: index.get(key(path, source, of_source), []) for path in degraded}
        if sum(map(bool, tried.values())) > sum(map(bool, matched.values())):
            best, matched = phrase, tried
    if not matched:
        raise DataError(
            f"no file of {source} has a partner in {target.name}/; tried {', '.join(rule[0] for rule in RULES)}; "
            f"degraded: {_three(degraded)}; targets: {_three(clear)}; rename them or write a pairs.csv"
        )
    for path, found in matched.items():
        if len(found) > 1:
            raise DataError(f"{path} has several possible targets {best}: {_three(found)}; keep one of them")
    return best, {path: found[0] if found else None for path, found in matched.items()}


def _three(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3])


def _manifest(root: Path) -> Path | None:
    """The manifest that `root` is or holds."""
    if root.is_file():
        return root
    return next((root / name for name in MANIFESTS if (root / name).is_file()), None)


def _from_manifest(manifest: Path) -> PairedFolders:
    folder, pairs = manifest.parent, []
    try:
        for row in _rows(manifest):
            degraded, target = folder / row["degraded"], folder / row["target"]
            pairs.append(Pair(degraded, target, row.get("group") or degraded.parent.name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{manifest} is no CSV, JSON or text list of degraded and target paths ({problem})"
        ) from error
    if not pairs:
        raise DataError(f"{manifest} lists no pairs; expected rows with degraded and target")
    missing = [path for pair in pairs for path in (pair.degraded, pair.target) if not path.is_file()]
    if missing:
        names = ", ".join(map(str, missing[:3]))
        raise DataError(
            f"{manifest} lists {len(missing)} missing files, such as {names}; paths start beside it"
        )
    return PairedFolders(manifest, f"as listed in {manifest.name}", tuple(pairs), ())


def _rows(manifest: Path) -> Iterable[Any]:
    text = manifest.read_text(encoding="utf-8-sig")
    if manifest.suffix.lower() == ".json":
        rows: list[Any] = json.loads(text)
        return rows
    if manifest.suffix.lower() == ".txt":
        return [_row(line) for line in text.splitlines() if line.strip()]
    return csv.DictReader(text.splitlines())


def _row(line: str) -> dict[str, str]:
    """A line of RealBlur's lists, scene1/gt/gt_1.png scene1/blur/blur_1.png; gt/ is known as the target's folder."""
    known = {target for target, _ in LAYOUTS}
    targets = [path for path in line.split() if Path(path).parent.name.casefold() in known]
    others = [path for path in line.split() if path not in targets]
    if len(targets) != 1 or len(others) != 1:
        raise ValueError(f"{line.strip()!r} is not a path in {', '.join(sorted(known))} and one elsewhere")
    return {"degraded": others[0], "target": targets[0]}
