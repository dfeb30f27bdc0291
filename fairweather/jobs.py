"""Restoring many files: what the inputs mean, where the results go, and one run over all of them.

One bad file does not stop the rest, nothing is overwritten unasked, and the counts add up:
seen = done + skipped + failed.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fairweather import images
from fairweather.compare import side_by_side
from fairweather.errors import FairweatherError, PictureError, UsageError
from fairweather.pipeline import PAST, Restorer, Result

Existing = Literal["skip", "overwrite", "error", "number"]
STREAM = Path("-")
"""Standard input as a source, standard output as a target."""


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    target: Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to restore and write; the same for all jobs of a run."""

    strength: float = 1.0
    tile: int | Literal["auto"] = "auto"
    format: str | None = None
    existing: Existing = "skip"
    compare: bool = False
    max_megapixels: float = images.MAX_MEGAPIXELS


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    message: str = ""
    exit_code: int = 0
    """What the failure means for the program's exit code; 0 where nothing failed."""
    result: Result | None = field(default=None, repr=False)
    compare: Path | None = None

    def line(self) -> str:
        """One line for a person."""
        if not self.result:
            return f"{self.status}: {self.message}"
        r = self.result
        tiles = "whole" if r.tiles == 1 else f"{r.tiles} tiles"
        beside = f", compare {self.compare.name}" if self.compare else ""
        how = f"{r.model} on {r.device}, {r.precision}, {tiles}, {r.seconds:.1f} s{beside}"
        return f"{self.job.source} -> {self.job.target} ({how})"

    def as_dict(self) -> dict[str, object]:
        """For one line of --json."""
        record: dict[str, object] = {
            "input": str(self.job.source),
            "output": str(self.job.target),
            "status": self.status,
        }
        if self.message:
            record["message"] = self.message
        if self.compare:
            record["compare"] = str(self.compare)
        if self.result:
            r = self.result
            record |= {
                "model": r.model,
                "task": r.task,
                "weights_sha256": r.weights_sha256,
                "device": r.device,
                "precision": r.precision,
                "tiles": r.tiles,
                "seconds": round(r.seconds, 3),
                "warnings": list(r.warnings),
            }
        return record


def find_inputs(inputs: Sequence[str], output: str | None = None) -> list[tuple[Path, Path]]:
    """(file, its place inside the folder it was found in) for each file, folder, glob or '-', in the order given.

    In folders only files with a picture's extension count. Earlier results are left out: photo.derained.jpg, and
    what lies in `output` where that is a folder inside the input.

    Raises:
        UsageError: if an input is not there, or holds no pictures.
    """
    found: list[tuple[Path, Path]] = []
    for text in inputs:
        if not text:
            raise UsageError("an empty name as input; expected a file, a folder, a glob or -")
        path = Path(text)
        if text == "-":
            found.append((STREAM, Path("stdin")))
        elif path.is_dir():
            inside = [(p, p.relative_to(path)) for p in sorted(path.rglob("*")) if _is_input(p, path, output)]
            if not inside:
                raise UsageError(
                    f"no pictures to restore in {text} (earlier results do not count); "
                    f"we read {', '.join(sorted(images.EXTENSIONS))}"
                )
            found += inside
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            matches = [Path(m) for m in sorted(glob.glob(text, recursive=True))]
            matched = [(p, Path(p.name)) for p in matches if p.is_file() and not _is_result(p)]
            if not matched:
                raise UsageError(f"no such file or folder: {text}")
            found += matched
    once: dict[Path, tuple[Path, Path]] = {}
    for path, inside_ in found:
        once.setdefault(path if path == STREAM else path.resolve(), (path, inside_))
    return list(once.values())


def _is_input(path: Path, folder: Path, output: str | None) -> bool:
    """Whether a file of a folder is a picture to restore: not hidden, and not written by an earlier run."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix.lower() not in images.EXTENSIONS or not path.is_file() or _is_result(path):
        return False
    if not output or output == "-":
        return True
    results = Path(output).resolve()  # an output folder may lie inside the input folder
    return not (folder.resolve() in results.parents and path.resolve().is_relative_to(results))


def _is_result(path: Path) -> bool:
    """photo.derained.jpg, photo.derained-2.jpg, photo.derained.compare.png"""
    words = "|".join([*PAST.values(), "compare"])
    return bool(re.search(rf"\.({words})(-\d+)?$", path.stem))


def plan(
    inputs: Sequence[str],
    *,
    task: str,
    output: str | None = None,
    format: str | None = None,
) -> list[Job]:
    """Where each result goes.

    Without `output` it lies beside its input: photo.jpg becomes photo.derained.jpg. A folder as output keeps names
    and tree; a file (or '-') takes a single result.

    Raises:
        UsageError: for several inputs and one output file, two inputs that would share an output, or an output
            that is one of the inputs.
    """
    if format and format not in images.FORMATS:
        raise UsageError(f"--format {format!r}: expected one of {', '.join(images.FORMATS)}")
    found = find_inputs(inputs, output)
    several = len(found) > 1 or any(Path(text).is_dir() for text in inputs)
    to_folder = output is not None and _is_folder(output, several, len(found))
    if output and output != "-" and not to_folder:
        _check_file_name(output, format)
    jobs = []
    for source, inside in found:
        if output == "-" or (output is None and source == STREAM):
            target = STREAM
        elif output is None:
            target = source.with_name(f"{source.stem}.{PAST[task]}{_suffix(source, format)}")
        elif to_folder:
            target = Path(output) / inside.with_name(f"{inside.stem}{_suffix(inside, format)}")
        else:
            target = Path(output)
        jobs.append(Job(source, target))
    if output is None:  # the shell's *.jpg names earlier results along with their sources
        results = {job.target.resolve() for job in jobs if job.source != STREAM}
        jobs = [job for job in jobs if not (_is_result(job.source) and job.source.resolve() in results)]
    _check_clashes(jobs)
    return jobs


def _is_folder(output: str, several: bool, count: int) -> bool:
    """Whether -o means a folder; several results need one."""
    path = Path(output)
    if output == "":
        raise UsageError("an empty name as -o; expected a file, a folder or -")
    if path.is_dir() or output.endswith("/"):
        return True
    if several and (output == "-" or path.is_file() or path.suffix.lower() in images.EXTENSIONS):
        raise UsageError(f"-o {output} takes one picture, but there are {count} inputs; give a folder")
    return output != "-" and (several or not path.suffix)


def _check_file_name(output: str, format: str | None) -> None:
    wanted = Path(output).suffix.lower()
    if wanted not in images.EXTENSIONS:
        raise UsageError(f"-o {output}: we write {', '.join(sorted(images.EXTENSIONS))}")
    if format and {".jpeg": ".jpg", ".tif": ".tiff"}.get(wanted, wanted) != images.FORMATS[format]:
        raise UsageError(f"-o {output} and --format {format} contradict each other; leave one out")


def _suffix(source: Path, format: str | None) -> str:
    if format:
        return images.FORMATS[format]
    return source.suffix if source.suffix.lower() in images.EXTENSIONS else ".png"


def _check_clashes(jobs: list[Job]) -> None:
    sources = {job.source.resolve(): job.source for job in jobs if job.source != STREAM}
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target == STREAM:
            continue
        target = job.target.resolve()
        if target in sources:
            raise UsageError(f"{job.target} would overwrite the input {sources[target]}; choose another -o")
        if target in targets:
            raise UsageError(
                f"{targets[target]} and {job.source} would share the output {job.target}; rename one"
            )
        targets[target] = job.source


def run(
    jobs: Sequence[Job],
    restorer: Restorer,
    options: Options | None = None,
    *,
    progress: Callable[[Job, int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Restore each job's picture, yielding what became of it; a failure is an outcome and not an exception.

    Args:
        progress: called with (job, tiles done, tiles in all).

    Raises:
        UsageError: for options that fit no picture.
    """
    options = options or Options()
    compared: set[Path] = set()
    for job in jobs:
        try:
            target = _free_target(job.target, options.existing)
            if target is None:
                message = f"{job.target} exists; --existing overwrite or number writes it"
                failed = options.existing == "error"
                yield Outcome(job, "failed" if failed else "skipped", message, exit_code=int(failed))
                continue
            yield _restore_one(Job(job.source, target), restorer, options, compared, progress)
        except UsageError:
            raise
        except FairweatherError as error:
            yield Outcome(job, "failed", str(error), error.exit_code)
        except OSError as error:  # a name too long for the file system
            yield Outcome(job, "failed", f"{job.target}: {error.strerror}", 1)


def _restore_one(
    job: Job,
    restorer: Restorer,
    options: Options,
    compared: set[Path],
    progress: Callable[[Job, int, int], None] | None,
) -> Outcome:
    source = sys.stdin.buffer.read() if job.source == STREAM else job.source
    picture = images.read_picture(source, max_megapixels=options.max_megapixels)
    result = restorer.restore(
        picture,
        strength=options.strength,
        tile=options.tile,
        progress=progress and (lambda i, n: progress(job, i, n)),
    )
    if job.target == STREAM:
        sys.stdout.buffer.write(images.encode_picture(result.image, format=options.format))
        sys.stdout.buffer.flush()
        return Outcome(job, "done", result=result)
    images.write_picture(result.image, job.target, format=options.format)
    if not options.compare:
        return Outcome(job, "done", result=result)
    beside = job.target.with_name(f"{job.target.stem}.compare.png")
    if options.existing != "overwrite" or beside in compared:  # a.png and a.jpg: each keeps its own
        beside = _free_target(beside, "number") or beside
    compared.add(beside)
    columns = {"before": picture.pixels, f"after ({restorer.task})": result.image.pixels}
    images.write_picture(images.Picture(pixels=side_by_side(columns)), beside)
    return Outcome(job, "done", result=result, compare=beside)


def _free_target(target: Path, existing: Existing) -> Path | None:
    """Where to write, or None where something is there already and may not be touched."""
    if target == STREAM or existing == "overwrite" or not target.exists():
        if target.is_dir():
            raise PictureError(f"{target} is a folder; expected a file name")
        return target
    if existing != "number":
        return None
    number = 2
    while (free := target.with_name(f"{target.stem}-{number}{target.suffix}")).exists():
        number += 1
    return free
