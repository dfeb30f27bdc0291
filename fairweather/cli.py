"""The command line: one plain function for each command.

Heavy imports stay inside the commands, so that `fairweather --help` answers at once. Exit codes: 0 all done, 1 some
pictures failed, 2 wrong usage, 3 weights or network missing, 4 not enough memory, 130 interrupted.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from fairweather import __version__
from fairweather.errors import FairweatherError, MissingExtraError, UsageError
from fairweather.runtime import wait_asleep

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="The networks and their weights.", no_args_is_help=True)
data_app = typer.Typer(help="Data sets for training and evaluation.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="bf16 is faster on chips that have it; auto is fp32.")
]
Backend = Annotated[
    str,
    typer.Option(help="What computes: torch, onnx, openvino, or auto, the fastest here by a trial."),
]
Ensemble = Annotated[
    int,
    typer.Option(
        metavar="1|2|4|8",
        help="Average over so many orientations of the picture: a little better, and so many times as slow.",
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        help="auto, or the largest side of the pieces that are worked on; of dehaze, that of the copy haze is found in."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Another model than the usual one: a name of 'models list', or a .safetensors, .onnx or .xml file."
    ),
]


def _print_version(asked: bool) -> bool:
    if asked:
        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def fairweather(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Clears pictures taken in bad conditions."""


def main() -> None:
    """Run the command line; errors become one line on stderr and their exit code."""
    wait_asleep()
    try:
        sys.exit(app(standalone_mode=False))
    except FairweatherError as error:
        _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        # An option that cannot be read; or no command, for which the help was shown and nothing is left to say.
        message = error.format_message().rstrip(".")
        _fail(message and f"{message}; --help lists what there is", error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, exit_code: int) -> NoReturn:
    if message:
        from fairweather.terminal import say

        say(f"fairweather: {message}", style="red")
    sys.exit(exit_code)


# Restoring -------------------------------------------------------------------------------------------------------


COMMANDS = {"auto": "restore"}
"""The commands of tasks that have another name."""
ONLY_FOR: dict[str, set[str]] = {
    "depth": {"dehaze"},
    **{name: {"night"} for name in ("ir", "ir_shift", "ir_offset", "fusion", "keep_steps")},
    "ensemble": {"derain", "denoise", "deblur"},
}
"""Options that not all tasks have."""


def _add_task(task: str, help: str) -> None:
    """Add the command of one task; they all take the same options, but for ONLY_FOR."""

    def restore(
        inputs: Annotated[
            list[str], typer.Argument(help="Pictures, videos, folders, globs, or - for stdin.")
        ],
        output: Annotated[
            str | None, typer.Option("-o", "--output", help="A file, a folder, or - for stdout.")
        ] = None,
        model: Model = None,
        strength: Annotated[
            float, typer.Option(help="0 keeps the picture, 1 is the full effect, up to 1.5.")
        ] = 1.0,
        tile: Tile = "auto",
        ensemble: Ensemble = 1,
        format: Annotated[
            str | None, typer.Option(help="png, jpg, webp or tiff; by default the input's format.")
        ] = None,
        existing: Annotated[
            Literal["skip", "overwrite", "error", "number"],
            typer.Option(help="What to do where an output exists."),
        ] = "skip",
        compare: Annotated[
            bool, typer.Option("--compare", help="Also write before and after side by side.")
        ] = False,
        depth: Annotated[
            str | None,
            typer.Option(
                metavar="OUT",
                help="Also write relative depth, near is bright: a 16-bit .png and OUT.colour.png; "
                "for several pictures a folder.",
            ),
        ] = None,
        ir: Annotated[
            str | None,
            typer.Option(
                help="The infrared picture or video; a folder, for those of equal stem; or a CSV file with columns "
                "visible and infrared, which does as the only input, too."
            ),
        ] = None,
        ir_shift: Annotated[
            str | None,
            typer.Option(
                metavar="RIGHT,DOWN",
                help="How far off the infrared picture lies, in pixels of the visible one (0,0 takes it as it is); by "
                "default that is measured.",
            ),
        ] = None,
        ir_offset: Annotated[
            float,
            typer.Option(
                metavar="SECONDS", help="To add to the times of an infrared video with another clock."
            ),
        ] = 0.0,
        fusion: Annotated[
            float, typer.Option(help="How much of the infrared picture: 0 is none, 1 the full effect.")
        ] = 1.0,
        keep_steps: Annotated[
            bool,
            typer.Option(
                "--keep-steps",
                help="Also write the cleaned picture and the share of infrared: NAME.clean.*, NAME.infrared.png.",
            ),
        ] = False,
        encoder: Annotated[
            str | None,
            typer.Option(
                help="For videos: libx264 (GPL), libx265 (GPL), libsvtav1 (BSD), libvpx-vp9 (BSD) or ffv1 (LGPL, "
                "lossless, .mkv); by default libx264, for .webm libvpx-vp9."
            ),
        ] = None,
        crf: Annotated[
            int | None,
            typer.Option(
                help="For videos: quality, 0 to 63, small is good; by default the encoder's usual one."
            ),
        ] = None,
        resume: Annotated[
            bool,
            typer.Option(
                "--resume/--no-resume", help="For videos: go on after what an interrupted run has restored."
            ),
        ] = True,
        device: Device = "auto",
        precision: Precision = "auto",
        backend: Backend = "torch",
        workers: Annotated[
            str,
            typer.Option(
                metavar="auto|N",
                help="Pictures under way at once; auto: on a CPU one for every two cores, if memory allows.",
            ),
        ] = "auto",
        memory_budget: Annotated[
            str | None,
            typer.Option(
                metavar="SIZE",
                help="How much memory to take, such as 2GB; larger pictures go through in rows, and little of it makes "
                "tiles (of dehaze, the copy haze is found in) smaller.",
            ),
        ] = None,
        max_megapixels: Annotated[float, typer.Option(help="Refuse larger pictures.")] = 100.0,
        as_json: Json = False,
        quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
        verbose: Annotated[
            bool, typer.Option("-v", "--verbose", help="Also say what is measured on the way.")
        ] = False,
    ) -> None:
        from fairweather.jobs import STREAM, Job, Options, plan, run
        from fairweather.loading import load
        from fairweather.runtime import keep_memory, limit_memory, share_cores, usual_device, workers_for
        from fairweather.terminal import Bar, print_json, say, tell_log
        from fairweather.video import is_video

        keep_memory()
        if verbose:
            tell_log()
        size = _auto_or("--tile", tile, "a number of pixels")
        for option, wanted in (("--compare", compare), ("--keep-steps", keep_steps)):
            if wanted and output == "-":
                raise UsageError(
                    f"{option} writes more files, and -o - has no place for them; give -o a file"
                )
        several = _auto_or("--workers", workers, "a number of pictures")
        if not max_megapixels > 0:
            raise UsageError(f"--max-megapixels is {max_megapixels:g}, expected more than 0")
        if not math.isfinite(ir_offset):
            raise UsageError(f"--ir-offset is {ir_offset:g}, expected seconds")
        shift = None if ir_shift is None else _two_numbers("--ir-shift", ir_shift)
        jobs = plan(
            inputs,
            task=task,
            output=output,
            depth=depth,
            format=format,
            infrared=ir,
            keep_steps=keep_steps,
        )
        budget = _bytes("--memory-budget", memory_budget)
        limit_memory(budget)
        pictures = sum(not is_video(job.source) for job in jobs)
        at_once = workers_for(several, pictures=pictures, device=usual_device(device))
        limit_memory(budget, workers=at_once)
        share_cores(at_once)
        restorer = load(
            task,
            model=model,
            device=device,
            precision=precision,
            backend=backend,
            ensemble=ensemble,
            tell=(lambda _: None) if quiet else say,
        )
        options = Options(
            strength=strength,
            fusion=fusion,
            shift=shift,
            infrared_offset=ir_offset,
            tile=size,
            format=format,
            existing=existing,
            compare=compare,
            max_megapixels=max_megapixels,
            encoder=encoder,
            crf=crf,
            resume=resume,
            workers=at_once,
        )
        counts = {"done": 0, "skipped": 0, "failed": 0}
        worst = 0

        under_way: dict[Path, float] = {}  # what is done of each picture, by several workers

        def progress(job: Job, done: int, total: int) -> None:
            under_way[job.source] = done / total
            bar.show(sum(counts.values()) + sum(under_way.copy().values()), job.source.name)

        with Bar(len(jobs), what=task, quiet=quiet or as_json) as bar:
            try:
                for outcome in run(jobs, restorer, options, progress=progress):
                    counts[outcome.status] += 1
                    under_way.pop(outcome.job.source, None)
                    worst = max(worst, outcome.exit_code)
                    bar.show(sum(counts.values()))
                    if as_json and outcome.job.target != STREAM:
                        print_json(outcome.as_dict())
                    if outcome.status == "failed":
                        say(outcome.line(), style="red")
                    elif not quiet and not as_json:
                        say(outcome.line())
            except KeyboardInterrupt:
                if resume and any(is_video(job.source) for job in jobs):
                    say(
                        "interrupted; what is restored of a video is kept, and the same command goes on from there"
                    )
                raise
            finally:  # also when interrupted
                if not quiet and not as_json and (len(jobs) > 1 or counts["failed"]) and any(counts.values()):
                    told = ", ".join(f"{n} {status}" for status, n in counts.items())
                    say(f"{told}, of {len(jobs)} pictures")
        if worst:
            raise typer.Exit(worst)

    others = {name for name, tasks in ONLY_FOR.items() if task not in tasks}
    signature = inspect.signature(restore, eval_str=True)
    options = [option for option in signature.parameters.values() if option.name not in others]
    restore.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    app.command(COMMANDS.get(task, task), help=help)(restore)


_add_task("dehaze", "Remove haze and fog.")
_add_task("derain", "Remove rain, by day and by night.")
_add_task("denoise", "Remove colour noise.")
_add_task("deblur", "Remove the blur of a moving camera.")
_add_task("night", "Remove rain at night, and fuse with an infrared camera where there is one.")
_add_task("auto", "Look at each picture, say what ails it, and put that right.")


def _bytes(option: str, text: str | None) -> float:
    """A size in bytes; infinite where none is given."""
    if text is None:
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or float(found[1]) == 0:
        raise UsageError(f"{option} {text!r}: expected a size such as 800MB or 2GB")
    return float(found[1]) * 1024.0 ** " KMG".index(found[2].upper() or " ")


def _two_numbers(option: str, text: str) -> tuple[float, float]:
    try:
        right, down = (float(part) for part in text.split(","))
    except ValueError:
        right = down = math.nan
    if not math.isfinite(right + down):
        raise UsageError(f"{option} {text!r}: expected two numbers of pixels, such as 3,-1.5")
    return right, down


def _auto_or(option: str, text: str, what: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option} {text!r}: expected auto or {what}")
    return int(text)


# Models ----------------------------------------------------------------------------------------------------------


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """All networks, and which weights there are."""
    from fairweather.models import MODELS
    from fairweather.terminal import print_json

    rows = [(name, info, list(info.weights)) for name, info in MODELS.items()]
    if as_json:
        print_json([{"name": n, "params": i.params, "task": i.task, "weights": w} for n, i, w in rows])
        return
    for name, info, weights in rows:
        print(f"{name:24} {info.params / 1e6:6.1f} M  {', '.join(weights) or 'no weights yet: train it'}")


@models_app.command("info")
def models_info(name: str, as_json: Json = False) -> None:
    """Everything about one network: tasks, size, paper, weights and their measured scores."""
    import dataclasses

    from fairweather.models import model_info
    from fairweather.terminal import print_json

    info = model_info(name)
    facts = {
        "name": name,
        "task": info.task,
        "params": info.params,
        "multiple_of": info.multiple_of,
        "tiling": info.tiling,
        "inputs": info.inputs,
        "paper": info.paper,
        "licence": info.licence,
        "published_checkpoints": info.from_published is not None,
        "weights": [dataclasses.asdict(w) for w in info.weights.values()],
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if key != "weights":
            print(f"{key:22} {', '.join(value) if isinstance(value, tuple) else value}")
    for entry in facts["weights"]:  # type: ignore[attr-defined]
        print(f"weights for {entry.pop('task')}")
        entry.pop("model")
        for key, value in (entry | entry.pop("scores")).items():
            print(f"  {key:20} {value}")


@models_app.command("convert")
def models_convert(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="The authors' file; both, where they split a network (DCMPNet's depth, NiteDR's two).",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A name of 'models list'; constyle for the encoder alone, to train from.")
    ],
    task: Annotated[
        str | None, typer.Option(help="What it was trained for, where the network is for several tasks.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .safetensors file; by default MODEL-TASK.safetensors, here."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Of a checkpoint with several sets of weights; by default params_ema, else params."
        ),
    ] = None,
) -> None:
    """Make a file of ours, for --model and for training, of a checkpoint that the papers' authors publish."""
    from fairweather.converting import convert
    from fairweather.terminal import say

    done = convert(model, checkpoints, output, task=task, part=part)
    use = f"{done.task} --model " if done.task else "train RECIPE --set init="
    say(
        f"{done.path}: {done.model}, {done.params / 1e6:.1f} M parameters, SHA-256 {done.sha256[:12]}; its authors' "
        f"terms hold for it; next: fairweather {use}{done.path}"
    )


# Research --------------------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            help="A data set: pairs; clear pictures for denoising; an RGB-D set for dehazing; two cameras for night."
        ),
    ],
    task: Annotated[str, typer.Option(help="derain, dehaze, denoise, deblur, night or auto.")],
    model: Model = None,
    split: Annotated[
        str | None, typer.Option(help="By default the test split, where there are splits.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="rgb, y, nitedr, rgb_float, dehazeformer, dehazeformer_8bit, dcmpnet, irconstyle, irconstyle_padded, "
            "irconstyle_padded_y or all_in_one; by default the task's."
        ),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="Noise for clear pictures (again for more); by default 15, 25, 50."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all scores to this file.")
    ] = None,
    tile: Annotated[
        str, typer.Option(help="auto (whole pictures, where memory allows), or the largest side of pieces.")
    ] = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "torch",
    ensemble: Ensemble = 1,
) -> None:
    """Score a model on a data set; every number names what it depends on."""
    from fairweather.evaluate import evaluate as run
    from fairweather.loading import load
    from fairweather.metrics import PROFILES
    from fairweather.runtime import keep_memory
    from fairweather.terminal import Bar, say

    keep_memory()
    if json_file:
        if json_file.is_dir():
            raise UsageError(f"--json {json_file} is a folder; expected a file name")
        json_file.parent.mkdir(parents=True, exist_ok=True)
        # An unwritable place shows now, and not after the work.
        tempfile.TemporaryFile(dir=json_file.parent).close()
    restorer = load(
        task,
        model=model,
        device=device,
        precision=precision,
        backend=backend,
        ensemble=ensemble,
        tell=say,
    )
    with Bar(None, what="evaluate") as bar:
        report = run(
            restorer,
            data,
            split=split,
            profile=profile,
            sigmas=sigma or (),
            tile=_auto_or("--tile", tile, "a number of pixels"),
            progress=lambda done, total: bar.show(done, total=total),
        )
    print(f"{report.model} ({report.task}, weights {report.weights_sha256[:12]}) on {data}")
    print(f"profile {report.profile}: {PROFILES[report.profile].description}")
    print(report.rule)
    if report.ensemble > 1:
        print(f"mean over {report.ensemble} orientations")
    if report.tiles > 1:
        print(f"in up to {report.tiles} tiles")
    groups = report.table.groups()
    rows = {**(groups if len(groups) > 1 else {}), "all": report.table.overall()}
    print(f"{'':16} {'pictures':>8} {'PSNR':>7} {'SSIM':>7}   input: {'PSNR':>7} {'SSIM':>7}")
    for name, means in rows.items():
        print(
            f"{name:16} {means.count:8} {means.psnr:7.2f} {means.ssim:7.4f}          "
            f"{means.input_psnr:7.2f} {means.input_ssim:7.4f}"
        )
    if report.depth:
        print(
            f"depth, up to scale and shift, of {report.depth.count} pictures: "
            f"abs-rel {report.depth.abs_rel:.4f}, within a factor of 1.25 {report.depth.delta_125:.4f}"
        )
    if report.fusion:
        from fairweather.metrics.fusion import PAPER, FusionScores

        print("fused, against the infrared and the clear visible pictures (lower is better for mse alone)")
        print(f"{'':16} " + " ".join(f"{name:>9}" for name in FusionScores._fields))
        of = {"ours": report.fusion.fused, "plain average": report.fusion.average, "paper's NiteDR": PAPER}
        for who, scores in of.items():
            print(f"{who:16} " + " ".join(f"{value:9.4f}" for value in scores))
    if json_file:
        report.save(json_file)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe; 'fairweather train list' names them.")],
    run: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, logs and weights; by default runs/RECIPE.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value; 'train RECIPE --show' lists the keys.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Train a network; the weights are reproducible from recipe, seed and data."""
    try:
        from fairweather.training import RECIPES
        from fairweather.training.config import override, to_plain
        from fairweather.training.train import is_first_process, saved_config
        from fairweather.training.train import train as run_training
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("lightning", "pydantic", "tensorboard"):
            raise
        raise MissingExtraError("training", "train") from None
    from fairweather.errors import unknown_name
    from fairweather.loading import TASKS
    from fairweather.terminal import say, tell_log

    if recipe == "list":
        for name, make in RECIPES.items():
            print(f"{name:20} {(make.__doc__ or '').splitlines()[0]}")
        return
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    folder = run or Path("runs") / recipe
    if resume and settings:
        raise UsageError("--resume goes on with the saved configuration; --set would change it")
    config = saved_config(folder) if resume else override(RECIPES[recipe](), settings or [])
    if config.recipe != recipe:
        raise UsageError(
            f"{folder} is a run of {config.recipe}, not of {recipe}; name that, or another --run"
        )
    if show:
        import json

        print(json.dumps(to_plain(config), indent=2))
        return
    tell_log()
    weights = run_training(config, folder, resume=resume)
    if not is_first_process():
        return
    if config.pretrain:
        say(f"weights: {weights}; start a network with ConStyle from them with --set init={weights}")
    elif config.task in TASKS:
        command = COMMANDS.get(config.task, config.task)
        say(f"weights: {weights}; try them with fairweather {command} PICTURE --model {weights}")
    else:
        say(f"weights: {weights}; try them in Python with fairweather.load({str(weights)!r})")


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(help="A data set, or one of its splits.")],
    split: Annotated[str | None, typer.Option(help="Look at this split only.")] = None,
    overlaps: Annotated[
        Path | None,
        typer.Option(help="A list of photographs shared by data sets; found beside the data by itself."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pairs, sizes, unreadable files, duplicates, and photographs that would leak from training into a test."""
    from fairweather.data.check import check
    from fairweather.errors import one_line
    from fairweather.terminal import print_json

    report = check(folder, split=split, overlaps=overlaps)
    if as_json:
        print_json(report.as_dict())
    else:
        print("\n".join(map(one_line, report.lines())))
    if not report.ok:
        raise typer.Exit(1)


@data_app.command("make")
def data_make(
    folder: Annotated[Path, typer.Argument(help="A data set of pairs, or of clear pictures.")],
    out: Annotated[Path, typer.Argument(help="A new folder, or one that was begun with the same options.")],
    split: Annotated[str | None, typer.Option(help="Take this split, where there are several.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of sub-images in pixels.")] = None,
    step: Annotated[int | None, typer.Option(help="Pixels from one sub-image to the next.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Uncompressed TIFF, whose windows are read without decoding.")
    ] = False,
) -> None:
    """Write sub-images or uncompressed copies of a data set for training; goes on where it was stopped."""
    from fairweather.data.make import make
    from fairweather.terminal import Bar

    with Bar(None, what="make") as bar:
        made = make(
            folder,
            out,
            split=split,
            size=size,
            step=step,
            plain=plain,
            progress=lambda done, total: bar.show(done, total=total),
        )
    kind = "pairs" if made.pairs else "pictures"
    print(f"{made.pictures} {kind} in {out}, {made.kept} of them there already; {made.files} files written")


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A task, a name of 'models list', or a .safetensors file.")],
    to: Annotated[str, typer.Option(help="onnx or openvino.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .onnx or .xml file; by default MODEL-TASK, here."),
    ] = None,
    model: Model = None,
    int8: Annotated[
        str | None,
        typer.Option(
            help="For OpenVINO: 1x1 convolutions in 8 bit, scaled by the pictures of this folder, like those to "
            "be restored."
        ),
    ] = None,
) -> None:
    """Write a network as a file for ONNX Runtime or OpenVINO, of any height and width, checked against torch."""
    from fairweather.backends import report_of
    from fairweather.jobs import find_inputs
    from fairweather.loading import export as run
    from fairweather.terminal import say

    pictures = [path for path, _ in find_inputs([int8])] if int8 is not None else []
    done = run(name, output, to=to, model=model, int8=pictures)
    near = f"at most {done.largest_difference:.1e} from torch at {len(done.sizes)} sizes"
    if done.decibels is not None:
        near = f"int8, {done.decibels:.1f} dB or more from fp32 for the pictures of {int8}"
    say(f"{done.path}: {near}; see {report_of(done.path)}")


# The product itself ----------------------------------------------------------------------------------------------


@app.command()
def bench(
    task: Annotated[
        str, typer.Argument(help="dehaze, derain, denoise or deblur; or a name of 'models list'.")
    ],
    side: Annotated[
        list[int] | None, typer.Option(help="Of square pictures (again for more); by default 512, 1024.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="An exported file to measure as well, such as one in int8 (again for more)."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times that each setting runs.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure the back ends and precisions side by side on this machine, in turn; medians."""
    import dataclasses

    from fairweather.backends import ENOUGH
    from fairweather.bench import bench as run
    from fairweather.runtime import keep_memory, processor
    from fairweather.terminal import print_json, say

    keep_memory()
    last = 0
    for m in run(task, files=file or (), sides=side or (512, 1024), rounds=rounds, tell=say):
        if as_json:
            print_json(dataclasses.asdict(m) | {"processor": processor()})
            continue
        if m.side != last:
            threads = f"{m.threads} thread{'s' if m.threads > 1 else ''}"
            print(
                f"{m.task} ({m.model}, weights {m.weights_sha256[:12]}), {m.side}x{m.side}, {threads}, {processor()}"
            )
        last = m.side
        told = ""
        if m.bf16_psnr is not None:
            told = f"  {m.bf16_psnr:.1f} dB from fp32"
            told += ", too far: computed in fp32" if m.bf16_psnr < ENOUGH else ""
        print(f"  {m.backend:9} {m.precision:9}  {m.seconds:8.3f} s  {m.ratio:5.2f}x{told}")


@app.command()
def doctor() -> None:
    """Check that everything is in place, and restore a small picture."""
    from fairweather.doctor import examine

    red = 0
    for finding in examine():
        print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:24} {finding.text}")
        if not finding.ok:
            red += 1
            print(f"     {'':24} {finding.advice}")
    if red:
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = Path("demo"),
    device: Device = "auto",
) -> None:
    """Degrade photographs, restore them, and write before and after."""
    from fairweather.demo import run_demo
    from fairweather.runtime import keep_memory

    keep_memory()
    print(f"{'':40} PSNR before  after")
    for shown in run_demo(output, device=device):
        title = f"{shown.scene.photograph}: {shown.scene.title} ({shown.scene.task})"
        print(
            f"{title:40} {shown.psnr_before:8.2f} dB {shown.psnr_after:6.2f} dB "
            f"in {shown.seconds:.1f} s  {shown.comparison}"
        )
        if shown.found:
            print(f"  {shown.found}")


if __name__ == "__main__":
    main()
