"""Finding pairs of degraded and clear pictures on disk, with the names they were published under.

    o_haze/                 the root may be the data set,
      train/                one of its splits,
        hazy/   17.jpg      or the folder that holds the pair of folders
        clear/  17.jpg

Or both kinds lie in one folder, 01_hazy.png with 01_GT.png. Known names of folders are in LAYOUTS and the ways to
match file names in RULES. Anything else is described by a manifest: a CSV or JSON file with `degraded` and `target`
columns (and `group`, if wanted), paths relative to the file. It is given as the root itself or lies in the root as
pairs.csv or pairs.json.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from fairweather.errors import DataError, UsageError
from fairweather.images import EXTENSIONS

# The folder of clear pictures, and the folders of degraded ones that may lie beside it (shell patterns, any letter
# case). Several degraded folders may share one target folder, as in Rain100 and CDD-11.
LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "gt",
        ("hazy", "haze", "rainy", "rain", "lq", "input", "noisy", "blur"),
    ),  # RESIDE, Dense-Haze, Rain800, BasicSR
    ("groundtruth", ("input", "hazy", "rainy")),
    ("clear", ("hazy", "haze", "haze_*", "low", "low_*", "rain", "snow")),  # RESIDE, I-HAZE, NH-HAZE, CDD-11
    ("target", ("input", "rain_heavy", "rain_light")),  # Rain13K, RoadScene-rain, Rain100
    ("norain", ("rain", "rainy")),  # Rain100 as published
    ("original", ("synthetic",)),
    ("its_clear", ("its_haze", "its_hazy")),  # RESIDE v0's ITS
    ("clear_images", ("hazy", "haze")),  # RESIDE's OTS, as some copies name it
    ("clean", ("noisy", "rainy")),
    ("sharp", ("blur",)),  # GoPro
)
SPLITS = ("train", "val", "valid", "validation", "test")
MANIFESTS = ("pairs.csv", "pairs.json")
# Folders of another kind of picture beside the visible ones; never taken for clear pictures.
PARTNERS = ("depth", "disparity", "inf", "infrared", "ir", "mask", "masks", "thermal", "trans", "its_trans")
# RESIDE's test sets, often kept beside its training sets.
TESTS = ("sots", "hsts")
# Width and height of a hazy and a clear picture of RESIDE's indoor sets, whose hazy ones lost their border.
RESIDE_SIZES = ((620, 460), (640, 480))
RESIDE_BORDER = 10


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


def _without_folder(stem: str, folder: str) -> str:
    """O-HAZE's hazy/01_outdoor_hazy and GT/01_outdoor_GT; Rain100's rain/rain-001 and norain/norain-001."""
    return re.sub(rf"^{re.escape(folder)}[-_]|[-_]{re.escape(folder)}$", "", stem, flags=re.IGNORECASE)


RULES: tuple[tuple[str, Key, Key], ...] = (
    ("by equal stem", _stem, _stem),
    ("by the RESIDE identifier before the first underscore", _identifier, _stem),
    ("by stem without those words", _without_folder, _without_folder),
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
        raise DataError(
            f"{len(found.unmatched)} pictures of {root} have no partner (first: {found.unmatched[0].name}); "
            "see fairweather data check"
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
    """The split folders directly in `root` by their lower-case names; none where a manifest lists the pairs."""
    folders = {} if _manifest(root) else _folders(root)
    return {name: folders[name] for name in SPLITS if name in folders}


def split_folder(root: Path, split: str | None) -> Path:
    """The folder of one split; the root itself where it has no splits, the only split where it has one."""
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


def _holders(folder: Path, depth: int = 2) -> dict[Path, Layout]:
    """Folders, at most `depth` below, that hold a known pair of folders. Splits are never mixed."""
    children = _folders(folder)
    if layout := _layout(folder, children) or _side_by_side(folder):
        return {folder: layout}
    inner = [path for name, path in children.items() if name not in SPLITS] if depth else []
    return {holder: layout for path in inner for holder, layout in _holders(path, depth - 1).items()}


def _layout(folder: Path, children: dict[str, Path]) -> Layout | None:
    found = []
    for target, patterns in LAYOUTS:
        sources = [path for name, path in children.items() if any(fnmatch(name, like) for like in patterns)]
        if target in children and sources:
            found.append((children[target], sources))
    if len(found) > 1:
        names = " and ".join(f"{target.name}/" for target, _ in found)
        raise DataError(f"{folder} has several possible targets: {names}; keep one or write a pairs.csv")
    return found[0] if found else None


def _side_by_side(folder: Path) -> Layout | None:
    """NH-HAZE and Dense-HAZE as published: 01_hazy.png and 01_GT.png in one folder."""
    stems = [path.stem for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS]
    ends = [re.search(at, stem) for stem in stems for at in (r"^[A-Za-z]+(?=[-_])", r"(?<=[-_])[A-Za-z]+$")]
    layout = _layout(folder, {end[0].casefold(): folder / end[0] for end in ends if end})
    if layout is None:
        return None
    target, *sources = [
        {_without_folder(p.stem, side.name) for p in _side(side)} for side in (layout[0], *layout[1])
    ]
    found = [source for source, names in zip(layout[1], sources, strict=True) if names & target]
    return (layout[0], found) if found else None


def _side(folder: Path) -> list[Path]:
    """The pictures in a folder; or, if it is only a word, those beside it that are named by it."""
    if folder.is_dir():
        return _pictures(folder)
    beside = [path for path in _pictures(folder.parent) if path.parent == folder.parent]
    return [path for path in beside if _without_folder(path.stem, folder.name) != path.stem]


def _where(folder: Path, base: Path) -> str:
    name = folder.relative_to(base).as_posix()
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
        text = manifest.read_text(encoding="utf-8-sig")
        is_json = manifest.suffix.lower() == ".json"
        for row in json.loads(text) if is_json else csv.DictReader(text.splitlines()):
            degraded, target = folder / row["degraded"], folder / row["target"]
            pairs.append(Pair(degraded, target, row.get("group") or degraded.parent.name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{manifest} is no CSV or JSON list of degraded and target paths ({problem})"
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
