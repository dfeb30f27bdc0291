"""Restoring many files: what the inputs mean, where the results go, and one run over all of them.

One bad file does not stop the rest, nothing is overwritten unasked, and the counts add up:
seen = done + skipped + failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from fairweather import images
from fairweather.auto import done_about, told
from fairweather.backends import ENOUGH, Notes
from fairweather.compare import side_by_side
from fairweather.depth_picture import depth_files, depth_written
from fairweather.errors import FairweatherError, OutOfMemoryError, PictureError, UsageError, one_line
from fairweather.files import files_in
from fairweather.loading import AnyRestorer
from fairweather.models import MODELS
from fairweather.night import NightRestorer, check_fusion
from fairweather.partners import READ, listed_pairs, partners
from fairweather.pipeline import (
    BESIDE,
    PAST,
    Restorer,
    Result,
    check_strength,
    check_tile,
    origin_of,
    smaller_tile,
    told_model,
    told_place,
)
from fairweather.rows import FORMATS, PictureRows, open_rows, rows_written
from fairweather.runtime import in_order, memory_for, memory_is_limited, overlapped
from fairweather.tiling import SMALLEST
from fairweather.video import CONTAINERS, VideoResult, chosen_encoder, is_video, restore_video, written_suffix

Existing = Literal["skip", "overwrite", "error", "number"]
STREAM = Path("-")
"""Standard input as a source, standard output as a target."""


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    target: Path
    depth: Path | None = None
    """Where its depth goes, if it is wanted; a coloured picture of it goes beside."""
    infrared: Path | None = None
    """Its partner of the infrared camera, if there is one."""
    keep_steps: bool = False
    """Whether the cleaned picture and the share of infrared go beside the result."""

    def files(self) -> list[Path]:
        """All that it writes, but for standard output."""
        picture = [] if self.target == STREAM else [self.target]
        beside = depth_files(self.depth) if self.depth else ()
        return [*picture, *beside, *(step_files(self.target) if self.keep_steps else ())]


def step_files(target: Path) -> tuple[Path, Path]:
    """Where the steps to a result go: what was cleaned, and the share of infrared (grey, white is all infrared)."""
    return (
        target.with_name(f"{target.stem}.clean{target.suffix}"),
        target.with_name(f"{target.stem}.infrared.png"),
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to restore and write; the same for all jobs of a run."""

    strength: float = 1.0
    fusion: float = 1.0
    """Of infrared pictures; 0 to 1."""
    shift: tuple[float, float] | None = None
    """Of infrared pictures, right and down in pixels of the visible ones; None measures it."""
    infrared_offset: float = 0.0
    """Of infrared videos; see `restore_video`."""
    tile: int | Literal["auto"] = "auto"
    format: str | None = None
    existing: Existing = "skip"
    compare: bool = False
    max_megapixels: float = images.MAX_MEGAPIXELS
    encoder: str | None = None
    """Of videos, as the next two; see `restore_video`."""
    crf: int | None = None
    resume: bool = True
    workers: int = 1
    """Pictures under way at once, each in a thread of its own; see `runtime.share_cores`."""


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
    video: VideoResult | None = field(default=None, repr=False)
    """In place of `result`, where the job is a video."""

    def line(self) -> str:
        """One line for a person."""
        if self.video:
            v = self.video
            found = f"{told(v.findings)}: {done_about(v.findings, v.steps)}; " if v.findings else ""
            said = "".join(f"; {warning}" for warning in v.warnings)
            return f"{self.job.source} -> {self.job.target} ({found}{v.told()}{said})"
        if not self.result:
            return f"{self.status}: {self.message}"
        r = self.result
        tiles = "whole" if r.tiles == 1 else f"{r.tiles} tiles"
        if r.model in MODELS and MODELS[r.model].tiling == "reduced":
            tiles = "no tiles"
        beside = f", compare {self.compare.name}" if self.compare else ""
        if self.job.depth:
            grey, colour = depth_files(self.job.depth)
            beside += f", depth {grey} and {colour.name}"
        if self.job.keep_steps:
            clean, share_of_infrared = step_files(self.job.target)
            written = [clean] if r.infrared_share is None else [clean, share_of_infrared]
            beside += f", steps {' and '.join(file.name for file in written)}"
        found = "left as it was; " if r.unchanged else ""
        if r.findings:
            in_vain = ", which changed nothing" if r.unchanged and r.steps else ""
            found = f"{told(r.findings)}: {done_about(r.findings, r.steps)}{in_vain}; "
        elif r.task == "night":  # what became of the infrared picture is part of the result
            share = [] if r.infrared_share is None else [f"{float(r.infrared_share.mean()):.0%} infrared"]
            found = "".join(f"{said}; " for said in (*share, *r.warnings))
        model, where = told_model(r.model, r.ensemble), told_place(r.device, r.backend)
        near = ""
        if r.bf16_psnr is not None:
            near = f" {r.bf16_psnr:.1f} dB from fp32{' and computed in that' if r.bf16_psnr < ENOUGH else ''}"
        how = f"{found}{model} on {where}, {r.precision}{near}, {tiles}, {r.seconds:.1f} s{beside}"
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
        if self.video:
            record |= {
                "infrared": self.job.infrared and str(self.job.infrared),
                **dataclasses.asdict(self.video),
            }
        if self.result:
            r = self.result
            if self.job.depth:
                record["depth"], record["depth_colour"] = map(str, depth_files(self.job.depth))
            record |= {
                "model": r.model,
                "task": r.task,
                "weights_sha256": r.weights_sha256,
                "device": r.device,
                "precision": r.precision,
                "tiles": r.tiles,
                "seconds": round(r.seconds, 3),
                "unchanged": r.unchanged,
                "warnings": list(r.warnings),
            }
            if r.bf16_psnr is not None:
                record["bf16_psnr"] = round(r.bf16_psnr, 2)
            if r.backend != "torch":
                record["backend"] = r.backend
            if r.ensemble > 1:
                record["ensemble"] = r.ensemble
            if r.task == "night":
                share = r.infrared_share
                record |= {
                    "infrared": self.job.infrared and str(self.job.infrared),
                    "infrared_share": None if share is None else round(float(share.mean()), 4),
                }
            if r.findings:
                record |= {
                    "findings": {k: round(p, 4) for k, p in r.findings.items()},
                    "steps": list(r.steps),
                }
        return record


def find_inputs(inputs: Sequence[str], apart: Sequence[str | None] = ()) -> list[tuple[Path, Path]]:
    """(file, its place inside the folder it was found in) for each file, folder, glob or '-', in the order given.

    In folders only files with a picture's extension count. Earlier results are left out: photo.derained.jpg, and
    what lies in folders inside the input that are kept `apart`: for results, or of the infrared camera.

    Raises:
        UsageError: if an input is not there, or holds no pictures.
    """
    found: list[tuple[Path, Path]] = []
    kept_apart = [Path(name).resolve() for name in apart if name]
    for text in inputs:
        if not text:
            raise UsageError("an empty name as input; expected a file, a folder, a glob or -")
        path = Path(text)
        if text == "-":
            found.append((STREAM, Path("stdin")))
        elif path.is_dir():
            others = [other for other in kept_apart if path.resolve() in other.parents]
            inside = [
                pair for pair in files_in(path, READ) if not _is_result(pair[0]) and not _in(pair[0], others)
            ]
            if not inside:
                raise UsageError(
                    f"no pictures to restore in {text} (earlier results do not count); "
                    f"we read {', '.join(sorted(READ))}"
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
    # A link counts where its file is not named.
    for path, inside_ in sorted(found, key=lambda file: file[0].is_symlink()):
        once.setdefault(path if path == STREAM else path.resolve(), (path, inside_))
    return [file for file in dict.fromkeys(found) if file in once.values()]


def _in(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of the resolved folders."""
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _is_result(path: Path) -> bool:
    """photo.derained.jpg, photo.derained-2.jpg, photo.derained.compare.png, photo.depth.png, photo.depth.colour.png"""
    words = "|".join([*PAST.values(), "compare"])
    return bool(re.search(rf"\.(({words})(-\d+)?(\.clean|\.infrared)?|depth(-\d+)?(\.colour)?)$", path.stem))


def plan(
    inputs: Sequence[str],
    *,
    task: str,
    output: str | None = None,
    depth: str | None = None,
    format: str | None = None,
    infrared: str | None = None,
    keep_steps: bool = False,
) -> list[Job]:
    """Where each result goes, and which infrared picture goes with it, see `partners`.

    For night, a CSV file of pairs as the only input stands for its visible pictures, and for their partners.

    Without `output` it lies beside its input: photo.jpg becomes photo.derained.jpg. A folder as output keeps names
    and tree; a file (or '-') takes a single result. The same holds for `depth`, a .png file or a folder, in which
    photo.jpg becomes photo.depth.png and photo.depth.colour.png.

    Raises:
        UsageError: for several inputs and one output file, two inputs that would share an output, or an output
            that is one of the inputs.
    """
    if format and format not in images.FORMATS:
        raise UsageError(f"--format {format!r}: expected one of {', '.join(images.FORMATS)}")
    if task == "night" and infrared is None and len(inputs) == 1 and _is_list(inputs[0]):
        infrared, inputs = inputs[0], [str(visible) for visible, _ in listed_pairs(Path(inputs[0]))]
        if not inputs:
            raise UsageError(f"{infrared} lists no pairs")
    found = find_inputs(inputs, (output, infrared))
    several = len(found) > 1 or any(Path(text).is_dir() for text in inputs)
    to_folder = output is not None and _is_folder("-o", output, several, len(found))
    depth_folder = depth is not None and _is_folder("--depth", depth, several, len(found))
    _check_videos([source for source, _ in found], output, depth=depth, format=format, keep_steps=keep_steps)
    if output and output != "-" and not to_folder and not is_video(found[0][0]):
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
        beside = Path(depth) if depth else None
        if beside and depth_folder:
            beside /= inside.with_name(f"{inside.stem}.depth.png")
        jobs.append(Job(source, target, beside, keep_steps=keep_steps and target != STREAM))
    results: set[Path] = set()  # the shell's *.jpg names earlier results along with their sources
    for job in jobs:
        made = [*depth_files(job.source.with_name(f"{job.source.stem}.depth.png"))]
        made += [job.target, _comparison(job.target), *step_files(job.target)] if output is None else []
        results.update(file.resolve() for file in made)
    jobs = [job for job in jobs if not (_is_result(job.source) and job.source.resolve() in results)]
    if infrared is not None:
        inside_of = dict(found)
        visible = [(job.source, inside_of[job.source]) for job in jobs]
        jobs = [
            dataclasses.replace(job, infrared=partner)
            for job, partner in zip(jobs, partners(visible, infrared), strict=True)
        ]
    _check_clashes(jobs)
    return jobs


def _check_videos(
    sources: Sequence[Path], output: str | None, *, depth: str | None, format: str | None, keep_steps: bool
) -> None:
    """What goes with pictures alone is refused for videos."""
    videos = [source for source in sources if is_video(source)]
    if not videos:
        return
    for option, wanted in (("--depth", depth), ("--format", format), ("--keep-steps", keep_steps)):
        if wanted:
            raise UsageError(f"{option} is for pictures, and {videos[0]} is a video; leave it out")
    if output == "-":
        raise UsageError(f"-o -: a video goes to a file, and {videos[0]} is one; give -o a file or a folder")
    named = Path(output or "").suffix.lower()
    if len(sources) == 1 and named and not Path(output or "").is_dir() and named not in CONTAINERS:
        raise UsageError(f"-o {output}: we write videos as {', '.join(CONTAINERS)}")


def _is_list(text: str) -> bool:
    return Path(text).suffix.lower() == ".csv" and Path(text).is_file()


def _is_folder(option: str, output: str, several: bool, count: int) -> bool:
    """Whether -o or --depth means a folder; several results need one."""
    path = Path(output)
    if output == "":
        raise UsageError(f"an empty name as {option}; expected a file or a folder")
    if path.is_dir() or output.endswith("/"):
        return True
    if several and (output == "-" or path.is_file() or path.suffix.lower() in READ):
        raise UsageError(f"{option} {output} takes one picture, but there are {count} inputs; give a folder")
    return output != "-" and (several or not path.suffix)


def _check_file_name(output: str, format: str | None) -> None:
    wanted = Path(output).suffix.lower()
    if wanted not in images.EXTENSIONS:
        raise UsageError(f"-o {output}: we write {', '.join(sorted(images.EXTENSIONS))}")
    if format and {".jpeg": ".jpg", ".tif": ".tiff"}.get(wanted, wanted) != images.FORMATS[format]:
        raise UsageError(f"-o {output} and --format {format} contradict each other; leave one out")


def _suffix(source: Path, format: str | None) -> str:
    if is_video(source):
        return written_suffix(source)
    if format:
        return images.FORMATS[format]
    return source.suffix if source.suffix.lower() in images.EXTENSIONS else ".png"


def _check_clashes(jobs: list[Job]) -> None:
    inputs = [file for job in jobs for file in (job.source, job.infrared) if file and file != STREAM]
    sources = {file.resolve(): file for file in inputs}
    made: dict[Path, Path] = {}
    for job in jobs:
        for file in job.files():
            place = file.resolve()
            if place in sources:
                option = "--depth" if job.depth and file in depth_files(job.depth) else "-o"
                raise UsageError(
                    f"{file} would overwrite the input {sources[place]}; choose another {option}"
                )
            if place in made:
                both = (
                    f"{made[place]} and {job.source}"
                    if made[place] != job.source
                    else "a result and what goes beside it"
                )
                raise UsageError(f"{both} would share the output {file}; rename one")
            made[place] = job.source


def run(
    jobs: Sequence[Job],
    restorer: AnyRestorer,
    options: Options | None = None,
    *,
    progress: Callable[[Job, int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Restore each job's picture, yielding what became of it; a failure is an outcome and not an exception.

    Args:
        progress: called with (job, tiles done, tiles in all); by the workers, if there are several.

    Raises:
        UsageError: for options that fit no picture, or if depth is wanted of a network that does not find it.
    """
    options = options or Options()
    check_strength(options.strength)  # also where all is skipped
    check_tile(options.tile)
    check_fusion(options.fusion)
    if any(job.depth for job in jobs) and not restorer.finds_depth:
        raise UsageError(
            f"{restorer.model} as loaded finds no depth; leave out --depth or choose a dcmpnet model that does"
        )
    videos = [job for job in jobs if is_video(job.source)]
    if jobs and not videos and (options.encoder or options.crf is not None):
        raise UsageError("--encoder and --crf are for videos, and there is none here; leave them out")
    for video in videos:
        if options.compare:
            raise UsageError(f"--compare is for pictures, and {video.source} is a video; leave it out")
        chosen_encoder(video.target, options.encoder, options.crf)
    steps = _Steps(restorer, options, progress)
    if len(jobs) > 1 and options.workers > 1:
        yield from in_order(steps.all, jobs, workers=options.workers)
    elif len(jobs) > 1 and not memory_is_limited():
        yield from overlapped(steps.read, steps.restore, steps.write, jobs)
    else:
        yield from map(steps.all, jobs)


class Names:
    """The files of a run, given out one at a time: what two workers write is never the same."""

    def __init__(self) -> None:
        self._given: set[Path] = set()
        self._giving = threading.Lock()

    def take(self, job: Job, existing: Existing) -> Job | Outcome:
        """The job with the names it may write, or what became of it where it may not."""
        with self._giving:
            taken = [file for file in job.files() if file.exists()]
            if taken and existing in ("skip", "error"):
                message = f"{taken[0]} exists; --existing overwrite or number writes it"
                failed = existing == "error"
                return Outcome(job, "failed" if failed else "skipped", message, exit_code=int(failed))
            if existing == "number":
                job = self._numbered(job)
            elif folder := next((file for file in taken if file.is_dir()), None):
                raise PictureError(f"{folder} is a folder; expected a file name")
            self._given.update(job.files())
            return job

    def beside(self, path: Path, existing: Existing) -> Path:
        """A name for what goes beside a result."""
        with self._giving:
            if existing != "overwrite" or path in self._given:  # a.png and a.jpg: each keeps its own
                path = self._free(path)
            self._given.add(path)
            return path

    def _numbered(self, job: Job) -> Job:
        """The job with names under which nothing is there yet."""

        def written(target: Path) -> list[Path]:
            return [target, *(step_files(target) if job.keep_steps else ())]

        target = job.target if job.target == STREAM else self._free(job.target, written)
        return dataclasses.replace(job, target=target, depth=job.depth and self._free(job.depth, depth_files))

    def _free(self, path: Path, files: Callable[[Path], Sequence[Path]] = lambda path: [path]) -> Path:
        """The path itself, or photo-2.png and so on: the first of whose files none is there or given."""
        free, number = path, 1
        while any(file in self._given or file.exists() for file in files(free)):
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return free


class _Loaded(NamedTuple):
    """A job whose picture was read."""

    job: Job
    picture: images.Picture | PictureRows | None
    """None of a video, which is read as it is restored."""


class _Restored(NamedTuple):
    """A job whose result is to be written."""

    job: Job
    picture: images.Picture
    result: Result


Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Steps:
    """From a job to its outcome in three steps. What fails is an outcome, which the steps that are left pass on."""

    restorer: AnyRestorer
    options: Options
    progress: Callable[[Job, int, int], None] | None
    names: Names = field(default_factory=Names)

    def all(self, job: Job) -> Outcome:
        return self.write(self.restore(self.read(job)))

    def read(self, job: Job) -> _Loaded | Outcome:
        return _tried(self._read, job, job)

    def restore(self, loaded: _Loaded | Outcome) -> _Restored | Outcome:
        return loaded if isinstance(loaded, Outcome) else _tried(self._restore, loaded, loaded.job)

    def write(self, restored: _Restored | Outcome) -> Outcome:
        return restored if isinstance(restored, Outcome) else _tried(self._write, restored, restored.job)

    def _read(self, job: Job) -> _Loaded | Outcome:
        taken = self.names.take(job, self.options.existing)
        if isinstance(taken, Outcome):
            return taken
        if is_video(job.source):
            return _Loaded(taken, None)
        if (rows := _large(taken, self.restorer, self.options)) is not None:
            return _Loaded(taken, rows)
        source = sys.stdin.buffer.read() if job.source == STREAM else job.source
        return _Loaded(taken, images.read_picture(source, max_megapixels=self.options.max_megapixels))

    def _restore(self, loaded: _Loaded) -> _Restored | Outcome:
        job, picture = loaded
        if picture is None:
            return _restore_video(job, self.restorer, self.options, self.progress)
        moving = self.progress and functools.partial(self.progress, job)
        if isinstance(picture, PictureRows):
            assert isinstance(self.restorer, Restorer)
            return _restore_rows(job, picture, self.restorer, self.options, moving)
        return _Restored(job, picture, _result(job, picture, self.restorer, self.options, moving))

    def _write(self, restored: _Restored) -> Outcome:
        job, picture, result = restored
        with contextlib.ExitStack() as together:  # what goes beside the picture takes its place after it
            if job.depth and result.depth is not None:
                together.enter_context(depth_written(result.depth, job.depth))
            if job.keep_steps:
                clean, share = step_files(job.target)
                if result.clean is not None:
                    together.enter_context(
                        images.picture_written(result.clean, clean, format=self.options.format)
                    )
                if result.infrared_share is not None:
                    grey = images.Picture(pixels=result.infrared_share.expand(3, -1, -1), mode="grey")
                    together.enter_context(images.picture_written(grey, share))
            if job.target != STREAM:
                images.write_picture(result.image, job.target, format=self.options.format)
        if job.target == STREAM:
            sys.stdout.buffer.write(images.encode_picture(result.image, format=self.options.format))
            sys.stdout.buffer.flush()
            return Outcome(job, "done", result=result)
        if not self.options.compare:
            return Outcome(job, "done", result=result)
        beside = self.names.beside(_comparison(job.target), self.options.existing)
        columns = {"before": picture.pixels, f"after ({result.task})": result.image.pixels}
        images.write_picture(images.Picture(pixels=side_by_side(columns)), beside)
        return Outcome(job, "done", result=result, compare=beside)


def _tried(step: Callable[[Given], Made], given: Given, job: Job) -> Made | Outcome:
    try:
        return step(given)
    except UsageError:
        raise
    except OutOfMemoryError as error:  # does not know of which picture
        return Outcome(job, "failed", f"{one_line(job.source)}: {error}", error.exit_code)
    except FairweatherError as error:
        return Outcome(job, "failed", str(error), error.exit_code)
    except OSError as error:  # a name too long for the file system
        return Outcome(job, "failed", f"{error.filename or job.target}: {error.strerror}", 1)


def _restore_video(
    job: Job,
    restorer: AnyRestorer,
    options: Options,
    progress: Callable[[Job, int, int], None] | None,
) -> Outcome:
    result = restore_video(
        job.source,
        job.target,
        restorer,
        infrared=job.infrared,
        infrared_offset=options.infrared_offset,
        strength=options.strength,
        fusion=options.fusion,
        shift=options.shift,
        tile=options.tile,
        encoder=options.encoder,
        crf=options.crf,
        resume=options.resume,
        max_megapixels=options.max_megapixels,
        progress=progress and functools.partial(progress, job),
    )
    return Outcome(job, "done", video=result)


WHOLE = 12 + BESIDE + 12
"""Bytes that a pixel takes where a picture is in memory whole: its values, the result's, and decoding."""


def _large(job: Job, restorer: AnyRestorer, options: Options) -> PictureRows | None:
    """The rows of a picture that memory holds only in part; None for others, and where it must be whole."""
    if job.source == STREAM or job.target == STREAM or job.depth or options.compare:
        return None
    if not isinstance(restorer, Restorer) or images.output_format(job.target, options.format) not in FORMATS:
        return None
    tile = MODELS[restorer.model].bytes_per_pixel * SMALLEST**2
    pixels = (memory_for("cpu", least=tile) - tile) / WHOLE
    if pixels > options.max_megapixels * 1e6 or pixels > math.prod(images.size_of(job.source)):
        return None
    return open_rows(job.source, max_megapixels=options.max_megapixels)


def _restore_rows(
    job: Job,
    source: PictureRows,
    restorer: Restorer,
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> Outcome:
    start = time.perf_counter()
    notes, tiles = Notes(), 1

    def moving(done: int, total: int) -> None:
        nonlocal tiles
        tiles = total
        if progress:
            progress(done, total)

    format = images.output_format(job.target, options.format)
    assert format  # `_large` looked
    tile = options.tile if options.tile != "auto" else restorer.auto_tile(width=source.width)
    while True:
        bands = restorer.restore_rows(
            source, strength=options.strength, tile=tile, progress=moving, notes=notes
        )
        try:
            with rows_written(job.target, source.like, format=format, width=source.width) as add:
                first = 0
                for band in bands:
                    end = first + band.shape[1]
                    add(band, source.alpha(first, end))
                    first = end
            break
        except (MemoryError, RuntimeError) as error:
            tile = smaller_tile(error, min(tile, max(source.height, source.width)), notes)
            again = open_rows(job.source, max_megapixels=options.max_megapixels)  # from the top
            assert again is not None
            source = again
    result = Result(
        image=job.target,
        **origin_of(restorer),
        tiles=tiles,
        seconds=time.perf_counter() - start,
        bf16_psnr=notes.bf16_psnr,
        warnings=tuple(notes.warnings),
    )
    return Outcome(job, "done", result=result)


def _result(
    job: Job,
    picture: images.Picture,
    restorer: AnyRestorer,
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> Result:
    if isinstance(restorer, NightRestorer):
        try:
            return restorer.restore(
                picture,
                job.infrared,
                strength=options.strength,
                fusion=options.fusion,
                shift=options.shift,
                tile=options.tile,
                progress=progress,
            )
        except PictureError as error:  # of the infrared picture, which may be one of many
            raise PictureError(f"{job.source}: {error}") from None
    return restorer.restore(
        picture,
        strength=options.strength,
        tile=options.tile,
        depth=job.depth is not None,
        progress=progress,
    )


def _comparison(target: Path) -> Path:
    return target.with_name(f"{target.stem}.compare.png")
