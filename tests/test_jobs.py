"""Many files: where results go, what is refused before work starts, and that no picture is lost or overwritten."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import fairweather as fw
from fairweather.depth_picture import INFERNO, normalised
from fairweather.errors import OutOfMemoryError, PictureError, UsageError
from fairweather.images import read_picture
from fairweather.jobs import STREAM, Job, Options, Outcome, plan, run
from fairweather.models import create_model
from fairweather.models.dcmpnet import DCMPNet
from fairweather.models.haze import Haze
from fairweather.pipeline import Restorer
from fairweather.runtime import RECKONED, limit_memory, memory_for, overlapped


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 - x


inverter = Restorer(
    Inverse(), model="nafnet_tiny", task="derain", sha256="0" * 64, device="cpu", precision="fp32"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(*names: str, value: int = 40) -> None:
    """Even pictures, the more the brighter."""
    for number, name in enumerate(names):
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (7, 5), (value + number,) * 3).save(file)


def touch(*names: str) -> None:
    """Files of which only the names matter."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def planned(*inputs: str, **options: Any) -> list[tuple[str, str]]:
    return [(str(job.source), str(job.target)) for job in plan(inputs, task="derain", **options)]


def refused(*inputs: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan(inputs, task="derain", **options)
    return str(caught.value)


def done(*inputs: str, output: str | None = None, **options: Any) -> list[Outcome]:
    jobs = plan(inputs, task="derain", output=output, format=options.get("format"))
    progress = options.pop("progress", None)
    outcomes = list(run(jobs, inverter, Options(**options), progress=progress))
    assert len(outcomes) == len(jobs)
    return outcomes


def statuses(outcomes: list[Outcome]) -> dict[str, int]:
    return dict(Counter(o.status for o in outcomes))


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


def digests() -> dict[str, str]:
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files()}


def value(file: str | Path) -> int:
    """The grey level of an even picture."""
    (level,) = set((read_picture(file).pixels * 255).round().flatten().tolist())
    return int(level)


def test_a_link_does_not_take_the_place_of_its_file() -> None:
    save("in/photo.png")
    Path("in/a_link.png").symlink_to("photo.png")
    assert planned("in", output="out") == [("in/photo.png", "out/photo.png")]
    assert planned("in/a_link.png", output="out") == [("in/a_link.png", "out/a_link.png")]


# Where results go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("photo.png", "photo.derained.png"),
        ("PHOTO.JPG", "PHOTO.derained.JPG"),
        ("a.b.tiff", "a.b.derained.tiff"),
        ("deep/er/photo.webp", "deep/er/photo.derained.webp"),
        ("no extension", "no extension.derained.png"),
        ("ä ö.jpeg", "ä ö.derained.jpeg"),
        ("line\nbreak.png", "line\nbreak.derained.png"),
        ("[1]*.png", "[1]*.derained.png"),
    ],
)
def test_a_result_lies_beside_its_input(source: str, target: str) -> None:
    touch(source)
    assert planned(source) == [(source, target)]


def test_the_task_gives_the_suffix() -> None:
    touch("a.png")
    assert plan(["a.png"], task="denoise")[0].target == Path("a.denoised.png")


@pytest.mark.parametrize(
    ("format", "suffix"), [("png", ".png"), ("jpg", ".jpg"), ("webp", ".webp"), ("tiff", ".tiff")]
)
def test_a_format_changes_the_extension(format: str, suffix: str) -> None:
    touch("a.bmp")
    assert planned("a.bmp", format=format) == [("a.bmp", f"a.derained{suffix}")]
    assert planned("a.bmp", format=format, output="out") == [("a.bmp", f"out/a{suffix}")]


def test_an_unknown_format_is_refused() -> None:
    touch("a.png")
    assert "png, jpg, webp, tiff" in refused("a.png", format="gif")


def test_a_file_as_output() -> None:
    touch("a.png")
    assert planned("a.png", output="new/b.jpg") == [("a.png", "new/b.jpg")]


@pytest.mark.parametrize("output", ["out", "out/", "made.before", "new.with.dots/"])
def test_a_folder_as_output_keeps_the_name(output: str) -> None:
    touch("sub/a.png")
    Path("made.before").mkdir()
    assert planned("sub/a.png", output=output) == [("sub/a.png", f"{output.rstrip('/')}/a.png")]


def test_a_folder_keeps_its_tree() -> None:
    touch("in/b.png", "in/a.jpg", "in/x/y/c.webp", "in/x/notes.txt", "in/x/film.mp4")
    assert planned("in", output="out") == [
        ("in/a.jpg", "out/a.jpg"),
        ("in/b.png", "out/b.png"),
        ("in/x/film.mp4", "out/x/film.mp4"),
        ("in/x/y/c.webp", "out/x/y/c.webp"),
    ]
    assert planned("in")[3] == ("in/x/y/c.webp", "in/x/y/c.derained.webp")


def test_a_folder_of_one_picture_gives_a_folder() -> None:
    touch("in/only.png")
    assert planned("in", output="results.2024") == [("in/only.png", "results.2024/only.png")]


def test_several_files_in_the_order_given() -> None:
    touch("b.png", "a.png", "c.png")
    assert [source for source, _ in planned("b.png", "c.png", "a.png")] == ["b.png", "c.png", "a.png"]


def test_a_glob() -> None:
    touch("a1.png", "a2.png", "b.png", "sub/a3.png")
    assert planned("a*.png", output="out") == [("a1.png", "out/a1.png"), ("a2.png", "out/a2.png")]
    assert [source for source, _ in planned("**/a*.png")] == ["a1.png", "a2.png", "sub/a3.png"]


def test_a_glob_of_folders_alone_is_refused() -> None:
    Path("folder").mkdir()
    assert "fol*" in refused("fol*")


def test_standard_input_and_output() -> None:
    touch("a.png")
    assert plan(["-"], task="derain") == [Job(STREAM, STREAM)]
    assert plan(["a.png"], task="derain", output="-") == [Job(Path("a.png"), STREAM)]
    assert planned("-", output="b.jpg") == [("-", "b.jpg")]
    assert planned("-", output="out") == [("-", "out/stdin.png")]


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["none.png", "none*.png", "no/such/folder", ""])
def test_an_input_that_is_not_there_is_refused(text: str) -> None:
    touch("innocent.png")
    assert text in refused(text)


def test_a_folder_without_pictures_is_refused() -> None:
    touch("in/notes.txt")
    assert ".png" in refused("in")


def test_two_inputs_with_one_output_are_refused_by_name() -> None:
    touch("one/a.png", "two/a.png")
    message = refused("one", "two", output="out")
    assert "one/a.png" in message
    assert "two/a.png" in message
    message = refused("one/a.png", "two/a.png", output="out")
    assert "one/a.png" in message
    assert "two/a.png" in message


def test_two_formats_that_become_one_output_are_refused_by_name() -> None:
    touch("a.png", "a.jpg")
    assert len(planned("a.png", "a.jpg")) == 2
    message = refused("a.png", "a.jpg", format="png")
    assert "a.png" in message
    assert "a.jpg" in message


@pytest.mark.parametrize(
    ("inputs", "output"),
    [(["in/a.png"], "in/a.png"), (["in"], "in"), (["in/a.png", "in/b.png"], "in/../in/")],
)
def test_an_output_over_an_input_is_refused(inputs: list[str], output: str) -> None:
    touch("in/a.png", "in/b.png")
    assert "in/a.png" in refused(*inputs, output=output)


def test_an_output_that_links_to_an_input_is_refused() -> None:
    touch("a.png")
    Path("out").mkdir()
    Path("out/a.png").symlink_to(Path("a.png").absolute())
    assert "a.png" in refused("a.png", output="out")


def test_several_inputs_for_one_file_are_refused() -> None:
    touch("a.png", "b.png", "there.png")
    assert "there.png" in refused("a.png", "b.png", output="there.png")
    assert "-" in refused("a.png", "b.png", output="-")
    assert "new.png" in refused("a.png", "b.png", output="new.png")


def test_an_empty_output_is_refused() -> None:
    touch("in/a.png")
    refused("in/a.png", output="")


# Earlier results, files named twice ------------------------------------------------------------------------------


def test_earlier_results_in_a_folder_are_left_out() -> None:
    touch(
        "in/a.png", "in/a.derained.png", "in/a.denoised.jpg", "in/a.derained.compare.png", "in/derained.png"
    )
    assert [source for source, _ in planned("in")] == ["in/a.png", "in/derained.png"]


def test_earlier_results_are_left_out_of_a_glob_too() -> None:
    touch("a.png", "a.derained.png")
    assert [source for source, _ in planned("*.png")] == ["a.png"]


def test_earlier_results_are_left_out_where_the_shell_names_them() -> None:
    """The same `fairweather derain *.png` a second time."""
    touch("a.png", "a.derained.png", "b.png")
    assert planned("a.derained.png", "a.png", "b.png") == [
        ("a.png", "a.derained.png"),
        ("b.png", "b.derained.png"),
    ]


def test_earlier_comparisons_are_left_out_where_the_shell_names_them() -> None:
    touch("a.png", "a.derained.png", "a.derained.compare.png")
    names = sorted(path.name for path in Path().iterdir())
    assert planned(*names) == [("a.png", "a.derained.png")]


def test_hidden_files_in_a_folder_are_left_out() -> None:
    """macOS puts ._a.png beside a.png, and it is no picture."""
    touch("in/a.png", "in/._a.png", "in/.thumbnails/a.png")
    assert [source for source, _ in planned("in")] == ["in/a.png"]


def test_a_second_run_finds_the_same_work() -> None:
    """Whatever the first one wrote, results are not restored again."""
    save("in/a.png", "in/sub/b.jpg")
    for options in ({}, {"existing": "number"}, {"existing": "number", "compare": True}, {"format": "webp"}):
        before = plan(["in"], task="derain")
        assert statuses(done("in", **options)) == {"done": 2}
        assert plan(["in"], task="derain") == before


def test_a_second_run_into_a_folder_inside_the_input_finds_the_same_work() -> None:
    save("in/a.png", "in/b.png")
    before = planned("in", output="in/out")
    assert statuses(done("in", output="in/out")) == {"done": 2}
    assert planned("in", output="in/out") == before
    assert statuses(done("in", output="in/out")) == {"skipped": 2}


def test_an_output_folder_around_the_input_folder() -> None:
    touch("all/in/a.png", "all/b.png")
    assert planned("all/in", output="all") == [("all/in/a.png", "all/a.png")]


def test_a_result_can_be_named_as_an_input() -> None:
    touch("a.derained.png")
    assert planned("a.derained.png") == [("a.derained.png", "a.derained.derained.png")]


def test_a_file_named_twice_is_done_once(here: Path) -> None:
    touch("in/a.png", "in/b.png")
    names = ["in/a.png", "in/../in/a.png", "in", "in/*.png", str(here / "in" / "a.png"), "./in/a.png"]
    for output in (None, "out"):
        targets = [Path(target).name for _, target in planned(*names, output=output)]
        assert len(targets) == 2


def test_a_file_named_twice_keeps_its_first_place() -> None:
    touch("a.png", "b.png", "c.png")
    assert [source for source, _ in planned("b.png", "a.png", "c.png", "b.png")] == [
        "b.png",
        "a.png",
        "c.png",
    ]


# The run ---------------------------------------------------------------------------------------------------------


def test_results_are_written_and_inputs_left_alone() -> None:
    save("in/a.png", "in/x/b.png", "in/x/c.bmp")
    before = digests()
    outcomes = done("in", output="out")
    assert statuses(outcomes) == {"done": 3}
    assert {name: digest for name, digest in digests().items() if name in before} == before
    assert files() == {*before, "out/a.png", "out/x/b.png", "out/x/c.bmp"}
    for outcome in outcomes:
        assert value(outcome.job.target) == 255 - value(outcome.job.source)


def test_one_bad_file_does_not_stop_the_rest() -> None:
    save("in/a.png", "in/z.png")
    Path("in/broken.png").write_bytes(Path("in/a.png").read_bytes()[:60])
    Path("in/empty.png").touch()
    Path("in/text.jpg").write_text("not a picture")
    before = digests()
    outcomes = done("in", output="out")
    assert statuses(outcomes) == {"done": 2, "failed": 3}
    for outcome in outcomes:
        assert (outcome.job.source.name in outcome.message) == (outcome.status == "failed")
    assert files() == {*before, "out/a.png", "out/z.png"}
    assert {name: digest for name, digest in digests().items() if name in before} == before


def test_a_file_that_vanishes_fails_alone() -> None:
    save("a.png", "b.png")
    jobs = plan(["a.png", "b.png"], task="derain")
    Path("a.png").unlink()
    assert [o.status for o in run(jobs, inverter)] == ["failed", "done"]


def test_a_picture_too_large_fails_alone() -> None:
    save("small.png")
    PIL.Image.new("RGB", (2000, 1000)).save("large.png")
    outcomes = done("large.png", "small.png", max_megapixels=1)
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "--max-megapixels 2" in outcomes[0].message


@pytest.mark.parametrize(
    "name",
    [
        "two words.png",
        "größe.png",
        "line\nbreak.png",
        "\x1b[31mred.png",
        "quote'\".png",
        "-dash.png",
        "[*].png",
        "☂.png",
    ],
)
def test_names_of_all_kinds(name: str) -> None:
    save(f"in/{name}")
    assert statuses(done("in")) == {"done": 1}
    assert files() == {f"in/{name}", f"in/{name.removesuffix('.png')}.derained.png"}


def test_a_name_that_is_not_unicode() -> None:
    save("in/a.png")
    os.rename(b"in/a.png", b"in/caf\xe9.png")
    outcomes = done("in", output="out")
    assert statuses(outcomes) == {"done": 1}
    assert os.listdir(b"out") == [b"caf\xe9.png"]


def test_a_name_too_long_fails_alone() -> None:
    """The input's name fits, that of the result does not."""
    long = "x" * 248 + ".png"
    save(f"in/{long}", "in/z.png")
    outcomes = done("in")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "xxx" in outcomes[0].message


def test_an_output_folder_that_cannot_be_made() -> None:
    save("in/a.png", "in/b.png")
    touch("file")
    before = digests()
    try:
        outcomes = done("in", output="file/out")
    except UsageError as error:
        message = str(error)
    else:
        assert statuses(outcomes) == {"failed": 2}
        message = outcomes[0].message
    assert "file" in message
    assert digests() == before


# Existing outputs ------------------------------------------------------------------------------------------------


def test_existing_outputs_are_skipped_unless_asked() -> None:
    save("a.png", "b.png")
    Path("a.derained.png").write_bytes(b"mine")
    outcomes = done("a.png", "b.png")
    assert [o.status for o in outcomes] == ["skipped", "done"]
    assert "a.derained.png exists" in outcomes[0].message
    assert Path("a.derained.png").read_bytes() == b"mine"


def test_existing_overwrite() -> None:
    save("a.png")
    Path("a.derained.png").write_bytes(b"old")
    assert statuses(done("a.png", existing="overwrite")) == {"done": 1}
    assert value("a.derained.png") == 255 - value("a.png")
    assert files() == {"a.png", "a.derained.png"}


def test_existing_error_fails_alone() -> None:
    save("a.png", "b.png")
    Path("a.derained.png").write_bytes(b"mine")
    outcomes = done("a.png", "b.png", existing="error")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert Path("a.derained.png").read_bytes() == b"mine"


def test_existing_number_counts_up() -> None:
    save("a.png")
    targets = [done("a.png", existing="number")[0].job.target.name for _ in range(3)]
    assert targets == ["a.derained.png", "a.derained-2.png", "a.derained-3.png"]
    assert files() == {"a.png", *targets}


@pytest.mark.parametrize("existing", ["skip", "overwrite", "error", "number"])
def test_a_folder_in_the_place_of_an_output_does_not_stop_the_rest(existing: Any) -> None:
    save("a.png", "b.png")
    Path("a.derained.png").mkdir()
    outcomes = done("a.png", "b.png", existing=existing)
    expected = {"skip": "skipped", "number": "done"}.get(existing, "failed")
    assert [o.status for o in outcomes] == [expected, "done"]
    assert list(Path("a.derained.png").iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_result() -> None:
    Path("a.png").write_bytes(b"broken")
    save("a.derained.png", value=90)
    assert statuses(done("a.png", existing="overwrite")) == {"failed": 1}
    assert value("a.derained.png") == 90


# Nothing left behind ---------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png", "b.png")
    before = digests()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairweather.files.os.replace", full)
    outcomes = done("a.png", "b.png", existing="overwrite")
    assert statuses(outcomes) == {"failed": 2}
    assert "No space left" in outcomes[0].message
    assert digests() == before


def fails_on_the_second(error: BaseException) -> Restorer:
    """A restorer that inverts, but raises for the brighter of two saved pictures."""

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 40.5 / 255:
                raise error
            return 1 - x

    return Restorer(Second(), model="nafnet_tiny", task="derain", sha256="", device="cpu", precision="fp32")


def test_the_next_picture_is_read_and_the_last_written_while_one_is_restored() -> None:
    read, restored = ([threading.Event() for _ in range(4)] for _ in range(2))
    steps: list[str] = []

    def reading(x: int) -> int:
        steps.append(f"read {x}")
        read[x].set()
        return x

    def restoring(x: int) -> int:
        assert x == 3 or read[x + 1].wait(10)
        steps.append(f"restored {x}")
        restored[x].set()
        return x

    def writing(x: int) -> int:
        assert x == 3 or restored[x + 1].wait(10)
        return x

    assert [*overlapped(reading, restoring, writing, range(4))] == [0, 1, 2, 3]
    for x in range(2):  # one is read ahead, not all
        assert steps.index(f"restored {x}") < steps.index(f"read {x + 2}")


def test_a_budget_leaves_no_picture_waiting_beside_the_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png", "b.png")
    monkeypatch.setattr("fairweather.jobs.overlapped", None)
    limit_memory(2**50)  # more than the tests themselves hold
    try:
        assert statuses(done("a.png", "b.png")) == {"done": 2}
    finally:
        limit_memory(math.inf)


def test_an_interrupted_run_leaves_whole_files_alone() -> None:
    save("a.png", "b.png")
    running = run(plan(["a.png", "b.png"], task="derain"), fails_on_the_second(KeyboardInterrupt()))
    assert next(running).status == "done"
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert files() == {"a.png", "b.png", "a.derained.png"}


def test_a_picture_too_large_for_memory_fails_alone_with_4() -> None:
    save("a.png", "b.png")
    restorer = fails_on_the_second(torch.OutOfMemoryError("CUDA out of memory"))
    outcomes = list(run(plan(["b.png", "a.png"], task="derain"), restorer))
    assert [(o.status, o.exit_code) for o in outcomes] == [
        ("failed", OutOfMemoryError.exit_code),
        ("done", 0),
    ]
    assert files() == {"a.png", "b.png", "a.derained.png"}


@pytest.mark.parametrize("options", [{"strength": 2.0}, {"tile": 3}])
def test_a_wrong_option_stops_at_once(options: dict[str, Any]) -> None:
    save("a.png")
    with pytest.raises(UsageError, match="expected"):
        done("a.png", **options)
    assert files() == {"a.png"}


# What is told, comparisons ---------------------------------------------------------------------------------------


def test_progress_is_told_for_each_job() -> None:
    save("a.png", "b.png")
    told: list[tuple[str, int, int]] = []
    done("a.png", "b.png", progress=lambda job, i, n: told.append((job.source.name, i, n)))
    assert told == [("a.png", 1, 1), ("b.png", 1, 1)]


def test_an_outcome_as_a_record() -> None:
    save("a.png")
    Path("b.png").write_bytes(b"broken")
    good, bad = (outcome.as_dict() for outcome in done("a.png", "b.png"))
    assert good["seconds"] >= 0  # type: ignore[operator]
    assert good == {
        "input": "a.png",
        "output": "a.derained.png",
        "status": "done",
        "model": "nafnet_tiny",
        "task": "derain",
        "weights_sha256": "0" * 64,
        "device": "cpu",
        "precision": "fp32",
        "tiles": 1,
        "seconds": good["seconds"],
        "unchanged": False,
        "warnings": [],
    }
    assert set(bad) == {"input", "output", "status", "message"}
    assert bad["status"] == "failed"


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_that_was_left_as_it_was_is_told(name: str) -> None:
    save(name)
    same = Restorer(
        nn.Identity(), model="nafnet_tiny", task="derain", sha256="", device="cpu", precision="fp32"
    )
    (outcome,) = run(plan([name], task="derain"), same)
    assert outcome.as_dict()["unchanged"]
    assert (
        f"{name} -> {Path(name).stem}.derained{Path(name).suffix} (left as it was; nafnet_tiny on"
        in outcome.line()
    )


def test_how_far_bf16_is_from_fp32_is_told() -> None:
    save("a.png")
    (job,) = plan(["a.png"], task="derain")
    outcome = Outcome(job, "done", result=dataclasses.replace(inverter.restore("a.png"), bf16_psnr=71.234))
    assert outcome.as_dict()["bf16_psnr"] == 71.23
    assert "71.2 dB from fp32, whole" in outcome.line()


def test_compare_shows_both_side_by_side() -> None:
    save("a.png")
    (outcome,) = done("a.png", compare=True)
    assert outcome.compare == Path("a.derained.compare.png")
    pixels = (read_picture(outcome.compare).pixels * 255).round()
    assert pixels.shape[2] == 7 + 8 + 7
    assert np.all(pixels[:, -5:, :7].numpy() == 40)
    assert np.all(pixels[:, -5:, -7:].numpy() == 215)
    assert files() == {"a.png", "a.derained.png", "a.derained.compare.png"}


def test_two_results_never_share_a_comparison() -> None:
    save("a.png", "a.jpg")
    outcomes = done("a.png", "a.jpg", compare=True)
    assert len({outcome.compare for outcome in outcomes}) == 2
    assert len(files()) == 6


def test_a_comparison_does_not_overwrite_a_picture() -> None:
    save("a.png")
    save("a.derained.compare.png", value=90)
    done("a.png", compare=True)
    assert value("a.derained.compare.png") == 90


def test_a_broken_picture_is_the_error_of_reading_it() -> None:
    Path("a.png").write_bytes(b"broken")
    (outcome,) = done("a.png")
    with pytest.raises(PictureError) as caught:
        read_picture(Path("a.png"))
    assert outcome.message == str(caught.value)


# Depth -----------------------------------------------------------------------------------------------------------


class Bright(DCMPNet):
    """Gives the picture back, and finds bright things near."""

    multiple_of = 1

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.depth_network = nn.Identity()  # type: ignore[assignment]

    def haze(self, x: Tensor) -> Haze:
        return Haze(torch.zeros_like(x), torch.zeros_like(x))

    def depth(self, clear: Tensor) -> Tensor:
        return clear.mean(1, keepdim=True)


def dehazer(net: nn.Module) -> Restorer:
    return Restorer(net, model="dcmpnet_small", task="dehaze", sha256="", device="cpu", precision="fp32")


def dehazed(
    *inputs: str, output: str | None = None, depth: str | None = None, **options: Any
) -> list[Outcome]:
    jobs = plan(inputs, task="dehaze", output=output, depth=depth)
    return list(run(jobs, dehazer(Bright()), Options(**options)))


def depths(*inputs: str, **options: Any) -> list[str]:
    return [str(job.depth) for job in plan(inputs, task="dehaze", **options)]


def ramp(name: str, width: int = 7, height: int = 5, **options: Any) -> None:
    """A picture that grows brighter to the right and downwards, so that no turn of it looks the same."""
    y, x = np.mgrid[0:height, 0:width]
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    grey = (10 + 20 * x + 3 * y).astype(np.uint8)
    PIL.Image.fromarray(np.stack([grey] * 3, -1)).save(name, **options)


def test_no_depth_unless_it_is_asked_for() -> None:
    save("a.png")
    (outcome,) = dehazed("a.png")
    assert outcome.result is not None
    assert outcome.result.depth is None
    assert files() == {"a.png", "a.dehazed.png"}


@pytest.mark.parametrize(
    ("source", "depth", "place"),
    [
        ("a.png", "d.png", "d.png"),
        ("a.png", "new/D.PNG", "new/D.PNG"),
        ("sub/a.jpg", "d", "d/a.depth.png"),
        ("sub/a.jpg", "made.before", "made.before/a.depth.png"),
        ("a.b.jpg", "new.with.dots/", "new.with.dots/a.b.depth.png"),
        ("sub/a.jpg", ".", "a.depth.png"),
        ("-", "d", "d/stdin.depth.png"),
    ],
)
def test_where_the_depth_of_one_picture_goes(source: str, depth: str, place: str) -> None:
    touch(source)
    Path("made.before").mkdir()
    assert depths(source, depth=depth) == [place]


def test_depth_keeps_the_tree_of_a_folder() -> None:
    touch("in/a.jpg", "in/x/b.webp")
    assert depths("in", depth="d", output="out") == ["d/a.depth.png", "d/x/b.depth.png"]
    assert depths("in/a.jpg", "in/x/b.webp", depth="d") == ["d/a.depth.png", "d/b.depth.png"]


@pytest.mark.parametrize("depth", ["", "-", "d.jpg", "d.with.dots"])
def test_names_that_cannot_hold_the_depth_are_refused(depth: str) -> None:
    touch("a.png")
    assert "expected a" in refused("a.png", depth=depth)


@pytest.mark.parametrize("depth", ["", "-", "d.png", "d.jpg", "there.txt"])
def test_depth_of_several_pictures_needs_a_folder(depth: str) -> None:
    touch("in/a.png", "in/b.png", "there.txt")
    assert "folder" in refused("in", depth=depth)


@pytest.mark.parametrize(
    ("inputs", "options", "shared"),
    [
        (["a.png"], {"depth": "a.png"}, "the input a.png"),
        (["a.png", "x.depth.colour.png", "x.jpg"], {"depth": "sub/.."}, ""),
        (["x.jpg", "d/x.depth.colour.png"], {"depth": "x.depth.png"}, "one picture"),
        (["a.png"], {"output": "b.png", "depth": "b.png"}, "share the output b.png"),
        (["a.png"], {"output": "b.colour.png", "depth": "b.png"}, "share the output b.colour.png"),
        (["a.png", "a.jpg"], {"depth": "d"}, "a.png and a.jpg"),
        (["one", "two"], {"depth": "d"}, "one/a.png and two/a.png"),
    ],
)
def test_depth_shares_its_place_with_nothing(inputs: list[str], options: dict[str, str], shared: str) -> None:
    touch("a.png", "a.jpg", "x.jpg", "x.depth.colour.png", "d/x.depth.colour.png", "one/a.png", "two/a.png")
    Path("sub").mkdir()
    if shared:
        assert shared in refused(*inputs, **options)
    else:  # an earlier coloured depth, named by the shell
        assert depths(*inputs, **options) == ["sub/../a.depth.png", "sub/../x.depth.png"]


def test_depth_over_a_coloured_picture_that_is_an_input_is_refused() -> None:
    touch("a.colour.png")
    Path("b.png").symlink_to("a.colour.png")
    assert "the input b.png; choose another --depth" in refused("b.png", depth="a.png")


def test_earlier_depths_are_no_inputs() -> None:
    touch(
        "in/a.png", "in/a.depth.png", "in/a.depth.colour.png", "in/a.depth-2.png", "in/a.depth-2.colour.png"
    )
    touch("in/b.colour.png", "in/depth.png")
    assert [Path(source).name for source, _ in planned("in")] == ["a.png", "b.colour.png", "depth.png"]


def test_earlier_depths_are_left_out_where_the_shell_names_them() -> None:
    """The same `fairweather dehaze *.png --depth .` a second time, with and without its options."""
    touch("a.dehazed.png", "a.depth.colour.png", "a.depth.png", "a.png")
    names = sorted(path.name for path in Path().iterdir())
    for depth in (".", None):
        assert [job.source.name for job in plan(names, task="dehaze", depth=depth)] == ["a.png"]
    jobs = plan(names, task="dehaze", depth=".", output="out")
    assert [job.source.name for job in jobs] == ["a.dehazed.png", "a.png"]


def test_a_depth_picture_alone_can_be_an_input() -> None:
    touch("a.depth.png")
    assert depths("a.depth.png", depth="d") == ["d/a.depth.depth.png"]
    refused("a.depth.png", depth="a.depth.png")


@pytest.mark.parametrize("options", [{}, {"existing": "number"}, {"existing": "number", "compare": True}])
def test_a_second_run_with_depth_finds_the_same_work(options: dict[str, Any]) -> None:
    save("in/a.png", "in/sub/b.jpg")
    before = plan(["in"], task="dehaze", depth="in")
    assert statuses(dehazed("in", depth="in", **options)) == {"done": 2}
    assert len(files()) == 2 + 2 * (3 + ("compare" in options))
    assert plan(["in"], task="dehaze", depth="in") == before


def test_depth_lies_over_the_result_as_written() -> None:
    """Also where the file is turned by its EXIF: here a quarter to the right."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    ramp("in/a.png")
    ramp("in/turned.png", exif=exif)
    assert statuses(dehazed("in", output="out", depth="d")) == {"done": 2}
    assert read_picture(Path("out/a.png")).pixels.shape == (3, 5, 7)
    assert read_picture(Path("out/turned.png")).pixels.shape == (3, 7, 5)
    for name in ("a", "turned"):
        restored = read_picture(Path(f"out/{name}.png")).pixels.mean(0, keepdim=True)
        depth = read_picture(Path(f"d/{name}.depth.png"))
        assert (depth.mode, depth.bits) == ("grey", 16)
        assert torch.allclose(depth.pixels[:1], normalised(restored), atol=2e-5)
        colour = read_picture(Path(f"d/{name}.depth.colour.png"))
        assert (colour.mode, colour.bits, colour.pixels.shape) == ("rgb", 8, depth.pixels.shape)
        brightest = colour.pixels.flatten(1)[:, restored.flatten().argmax()]
        assert (brightest * 255).round().int().tolist() == list(INFERNO[-1])


@pytest.mark.parametrize("strength", [0, 1.5])
def test_depth_is_that_of_the_full_effect(strength: float) -> None:
    """How much of the haze is taken away does not move things nearer."""
    torch.manual_seed(0)
    restorer = dehazer(create_model("dcmpnet_small"))
    ramp("a.png")
    for folder, share in (("full", 1.0), ("other", strength)):
        jobs = plan(["a.png"], task="dehaze", output=f"{folder}/", depth=folder)
        assert [o.status for o in run(jobs, restorer, Options(strength=share))] == ["done"]
    assert Path("full/a.depth.png").read_bytes() == Path("other/a.depth.png").read_bytes()


@pytest.mark.parametrize("there", ["a.dehazed.png", "d/a.depth.png", "d/a.depth.colour.png"])
def test_one_existing_file_skips_all_three(there: str) -> None:
    save("a.png")
    touch(there)
    before = digests()
    for existing, status in (("skip", "skipped"), ("error", "failed")):
        (outcome,) = dehazed("a.png", depth="d", existing=existing)
        assert (outcome.status, outcome.exit_code) == (status, int(existing == "error"))
        assert outcome.message.startswith(f"{there} exists")
        assert digests() == before


@pytest.mark.parametrize("there", ["a.dehazed.png", "d/a.depth.png", "d/a.depth.colour.png"])
def test_existing_depth_is_overwritten_or_numbered_if_asked(there: str) -> None:
    save("a.png")
    touch(there)
    (outcome,) = dehazed("a.png", depth="d", existing="number")
    assert outcome.status == "done"
    assert Path(there).read_bytes() == b""
    pictures = {"a.png", *(str(file) for file in outcome.job.files())}
    assert files() == {there, *pictures}
    assert len(pictures) == 4
    assert statuses(dehazed("a.png", depth="d", existing="overwrite")) == {"done": 1}
    assert files() == {there, *pictures, "a.dehazed.png", "d/a.depth.png", "d/a.depth.colour.png"}
    assert Path(there).read_bytes() != b""


def test_numbers_are_shared_by_a_depth_and_its_colours() -> None:
    save("a.png")
    touch("d/a.depth.png", "d/a.depth-2.colour.png")
    (outcome,) = dehazed("a.png", depth="d", existing="number")
    assert [file.name for file in outcome.job.files()] == [
        "a.dehazed.png",
        "a.depth-3.png",
        "a.depth-3.colour.png",
    ]


def test_a_folder_in_the_place_of_a_depth_fails_alone() -> None:
    save("a.png", "b.png")
    Path("d/a.depth.colour.png").mkdir(parents=True)
    outcomes = dehazed("a.png", "b.png", depth="d", existing="overwrite")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "a.depth.colour.png is a folder" in outcomes[0].message
    assert files() == {"a.png", "b.png", "b.dehazed.png", "d/b.depth.png", "d/b.depth.colour.png"}


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_neither_picture_nor_depth(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png", "a.dehazed.png", "d/a.depth.png")
    before = digests()
    write, calls = Path.write_bytes, iter(range(1, 4))

    def full(path: Path, data: bytes) -> int:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    (outcome,) = dehazed("a.png", depth="d", existing="overwrite")
    assert outcome.status == "failed"
    assert "No space left" in outcome.message
    assert digests() == before


def test_a_depth_name_too_long_fails_alone() -> None:
    long = "x" * 240
    save(f"in/{long}.png", "in/z.png")
    outcomes = dehazed("in", output="out", depth="d")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert f"{long}.depth" in outcomes[0].message
    assert "too long" in outcomes[0].message


def test_a_depth_folder_that_cannot_be_made_is_told_by_name() -> None:
    save("a.png")
    touch("file")
    (outcome,) = dehazed("a.png", depth="file/d.png")
    assert outcome.status == "failed"
    assert "file/d.png" in outcome.message
    assert files() == {"a.png", "file"}


def test_a_comparison_does_not_overwrite_a_depth() -> None:
    save("a.png")
    (outcome,) = dehazed("a.png", depth="a.dehazed.compare.png", compare=True, existing="overwrite")
    assert outcome.compare == Path("a.dehazed.compare-2.png")
    assert len(files()) == 5


@pytest.mark.parametrize("net", ["nafnet_tiny", "dcmpnet_small"])
def test_a_network_without_depth_is_refused_before_any_work(net: str) -> None:
    overrides = {"depth_network": False} if net == "dcmpnet_small" else {}
    restorer = dehazer(create_model(net, **overrides))
    save("a.png", "b.png")
    with pytest.raises(UsageError, match="no depth"):
        next(run(plan(["a.png", "b.png"], task="dehaze", depth="d"), restorer))
    assert files() == {"a.png", "b.png"}


def test_depth_files_are_told() -> None:
    save("a.png", "b.png")
    Path("c.png").write_bytes(b"broken")
    touch("b.dehazed.png")
    good, skipped, failed = dehazed("a.png", "b.png", "c.png", depth="d")
    assert good.line().endswith(" s, depth d/a.depth.png and a.depth.colour.png)")
    record = good.as_dict()
    assert (record["depth"], record["depth_colour"]) == ("d/a.depth.png", "d/a.depth.colour.png")
    for outcome in (skipped, failed):
        assert not {"depth", "depth_colour"} & set(outcome.as_dict())


# Infrared partners -----------------------------------------------------------------------------------------------


def test_an_infrared_picture_is_never_written_over() -> None:
    save("vis/a.png", "ir/a.png", "b.png", "b.night.infrared.png")
    with pytest.raises(UsageError, match=r"ir/a\.png would overwrite the input ir/a\.png; choose another -o"):
        plan(["vis"], task="night", infrared="ir", output="ir")
    with pytest.raises(UsageError, match=r"b\.night\.infrared\.png would overwrite the input"):
        plan(["b.png"], task="night", infrared="b.night.infrared.png", keep_steps=True)


def test_an_infrared_folder_inside_the_visible_one_is_no_input() -> None:
    touch("vis/a.jpg", "vis/ir/a.png")
    jobs = plan(["vis"], task="night", infrared="vis/ir", output="out")
    assert [(job.source.as_posix(), job.infrared) for job in jobs] == [("vis/a.jpg", Path("vis/ir/a.png"))]


def test_a_list_of_pairs_is_an_input_of_its_own() -> None:
    touch("vis/a.jpg", "vis/b.jpg", "vis/c.jpg", "x.png")
    Path("pairs.csv").write_text("visible, infrared\nvis/b.jpg, x.png\nvis/a.jpg,\n")
    jobs = plan(["pairs.csv"], task="night", output="out")
    assert [(job.source.name, job.infrared) for job in jobs] == [("b.jpg", Path("x.png")), ("a.jpg", None)]
    Path("pairs.csv").write_text("visible,infrared\n")
    with pytest.raises(UsageError, match=r"pairs\.csv lists no pairs"):
        plan(["pairs.csv"], task="night", output="out")


def test_only_steps_that_were_written_are_told() -> None:
    save("a.png")
    (job,) = plan(["a.png"], task="night", keep_steps=True)
    result = inverter.restore("a.png")
    assert Outcome(job, "done", result=result).line().endswith(", steps a.night.clean.png)")


@pytest.mark.parametrize("wrong", [{"fusion": 2.0}, {"fusion": float("nan")}, {"strength": -1.0}])
def test_an_option_out_of_range_is_refused_even_if_all_is_there_already(wrong: dict[str, float]) -> None:
    save("a.png", "a.night.png")
    with pytest.raises(UsageError, match="expected 0 to 1"):
        list(run(plan(["a.png"], task="night"), inverter, Options(**wrong)))


def test_steps_lie_beside_the_result_and_are_no_inputs_of_a_second_run() -> None:
    save("a.png")
    (job,) = plan(["."], task="night", keep_steps=True)
    names = ["a.night.png", "a.night.clean.png", "a.night.infrared.png"]
    assert [file.name for file in job.files()] == names
    save(*names)
    assert [job.source.name for job in plan(["."], task="night", keep_steps=True)] == ["a.png"]


def test_a_step_that_is_there_already_is_not_overwritten() -> None:
    save("a.png", "a.night.clean.png")
    jobs = plan(["a.png"], task="night", keep_steps=True)
    (outcome,) = run(jobs, inverter, Options())
    assert outcome.status == "skipped"
    assert "a.night.clean.png exists" in outcome.message


def test_steps_take_their_places_with_the_result_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png")
    jobs = plan(["a.png"], task="night", keep_steps=True)
    (job,) = jobs
    result = inverter.restore("a.png")
    cleaned = dataclasses.replace(result, clean=result.picture, infrared_share=torch.zeros(1, 5, 7))
    monkeypatch.setattr(
        "fairweather.jobs._result", lambda *_: dataclasses.replace(cleaned, image=result.picture)
    )

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("fairweather.images.write_picture", interrupted)  # of the result itself
        with pytest.raises(KeyboardInterrupt):
            list(run(jobs, inverter, Options()))
    assert [p.name for p in Path().iterdir()] == ["a.png"]
    assert [o.status for o in run(jobs, inverter, Options())] == ["done"]
    assert all(file.exists() for file in job.files())


def test_a_numbered_result_keeps_the_steps_that_are_there() -> None:
    save("a.png", "a.night.png", "a.night-2.clean.png")
    jobs = plan(["a.png"], task="night", keep_steps=True)
    (outcome,) = run(jobs, inverter, Options(existing="number"))
    assert outcome.job.target.name == "a.night-3.png"


def test_steps_of_an_earlier_run_that_the_shell_names_are_no_inputs() -> None:
    save("a.png", "a.night.png", "a.night.clean.png", "a.night.infrared.png")
    names = [file.name for file in sorted(Path().glob("*.png"))]
    assert [job.source.name for job in plan(names, task="night", keep_steps=True)] == ["a.png"]


# Videos ----------------------------------------------------------------------------------------------------------


def film(name: str, *, frames: int = 4, grey: int = 90) -> None:
    """A lossless video of even frames."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with av.open(name, "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr0"
        for i in range(frames):
            pixels = np.full((24, 32, 3), grey + i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_a_folder_of_pictures_and_videos_is_restored_whole() -> None:
    save("in/a.png")
    film("in/b.mkv")
    outcomes = done("in", output="out", encoder="ffv1")
    assert statuses(outcomes) == {"done": 2}
    assert {"out/a.png", "out/b.mkv"} <= files()
    with av.open("out/b.mkv") as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert abs(int(first.mean()) - (255 - 90)) <= 2  # the inverse of 90
    line = outcomes[1].line()
    assert line.startswith("in/b.mkv -> out/b.mkv (4 frames of 0.4 s")
    assert outcomes[1].as_dict()["frames"] == 4


def test_a_video_lies_beside_its_source_in_a_container_that_we_write() -> None:
    touch("a.mp4", "b.avi")
    assert planned("a.mp4", "b.avi") == [("a.mp4", "a.derained.mp4"), ("b.avi", "b.derained.mkv")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "png"}, "--format is for pictures, and a.mp4 is a video"),
        ({"depth": "d/"}, "--depth is for pictures"),
        ({"keep_steps": True}, "--keep-steps is for pictures"),
        ({"output": "-"}, "a video goes to a file"),
        ({"output": "b.png"}, "we write videos as .mp4"),
    ],
)
def test_what_is_for_pictures_is_refused_for_videos(options: dict[str, Any], message: str) -> None:
    touch("a.mp4")
    assert message in refused("a.mp4", **options)


def test_an_unreadable_video_fails_alone(here: Path) -> None:
    touch("in/a.mp4")
    save("in/b.png")
    outcomes = done("in", output="out")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "in/a.mp4" in outcomes[0].line()
    assert files() == {"in/a.mp4", "in/b.png", "out/b.png"}


def test_an_encoder_that_a_container_does_not_take_is_refused_before_work_starts() -> None:
    film("a.mkv")
    jobs = plan(["a.mkv"], task="derain", output="b.webm")
    with pytest.raises(UsageError, match="webm"):
        list(run(jobs, inverter, Options(encoder="libx264")))
    assert files() == {"a.mkv"}


@pytest.mark.parametrize("option", [{"encoder": "ffv1"}, {"crf": 0}])
def test_options_of_videos_are_refused_where_there_is_none(option: dict[str, Any]) -> None:
    save("a.png")
    with pytest.raises(UsageError, match=r"--encoder and --crf are for videos, and there is none here"):
        list(run(plan(["a.png"], task="derain"), inverter, Options(**option)))
    assert files() == {"a.png"}


# Workers ---------------------------------------------------------------------------------------------------------


def test_workers_give_what_one_gives_in_the_same_order() -> None:
    names = [f"{letter}.png" for letter in "abcdefg"]
    save(*names)
    Path("c.png").write_bytes(b"no picture")
    one = list(run(plan(names, task="derain", output="one"), inverter))
    several = list(run(plan(names, task="derain", output="several"), inverter, Options(workers=3)))
    assert [o.status for o in several] == [o.status for o in one]
    assert [o.job.source for o in several] == [o.job.source for o in one]
    for a, b in zip(sorted(Path("one").iterdir()), sorted(Path("several").iterdir()), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_workers_number_their_files_apart() -> None:
    save("a.png", "a.derained.png", "b.png", "b.derained.png")
    jobs = plan(["a.png", "b.png"], task="derain")
    outcomes = list(run(jobs, inverter, Options(existing="number", workers=2)))
    assert sorted(o.job.target.name for o in outcomes) == ["a.derained-2.png", "b.derained-2.png"]


def test_several_pictures_are_under_way_at_once_and_not_too_many() -> None:
    names = [f"{i}.png" for i in range(12)]
    save(*names)
    both = threading.Barrier(2, timeout=20)
    begun: list[str] = []

    class Meeting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            begun.append("one")
            both.wait()
            return 1 - x

    restorer = Restorer(
        Meeting(), model="nafnet_tiny", task="derain", sha256="0" * 64, device="cpu", precision="fp32"
    )
    outcomes = run(plan(names, task="derain"), restorer, Options(workers=2))
    assert next(outcomes).status == "done"
    time.sleep(0.5)
    assert len(begun) <= 8  # those handed out, and those that take their place
    assert [o.status for o in outcomes] == ["done"] * 11


def test_an_interrupted_run_of_workers_begins_nothing_more() -> None:
    names = [f"{i}.png" for i in range(9)]
    save(*names)
    outcomes = run(plan(names, task="derain"), inverter, Options(workers=2))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert len(list(Path().glob("*.derained.png"))) < 9
    assert not list(Path().glob(".fairweather*"))


# Memory ----------------------------------------------------------------------------------------------------------


def test_what_other_workers_hold_is_in_their_parts_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([300e6, 500e6, 400e6])
    monkeypatch.setattr("fairweather.runtime.taken_memory", lambda: next(taken))
    monkeypatch.setattr("fairweather.runtime.available_memory", lambda device: 1e12)
    limit_memory(1000e6, workers=2)
    try:
        assert [memory_for("cpu") for _ in range(3)] == [(RECKONED * 1000e6 - 300e6) / 2] * 3
    finally:
        limit_memory()


def test_what_the_allocator_kept_is_not_taken_from_the_next_picture() -> None:
    """In a process of its own, as the allocator's settings stay."""
    code = """if True:
        import torch
        from fairweather.runtime import keep_memory, limit_memory, memory_for, taken_memory

        keep_memory()
        before = taken_memory()
        pieces = [torch.ones(2**18) for _ in range(400)]  # a megabyte each
        del pieces
        assert taken_memory() > before + 300 * 2**20, "it is kept"
        limit_memory(2 * before + 200 * 2**20)
        assert memory_for("cpu", least=100 * 2**20) > 0
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tiles_of_a_fusion_keep_to_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "fairweather.night.run_tiled", lambda f, x, *, tile, overlap: seen.append(tile) or x[:3]
    )
    monkeypatch.setattr("fairweather.runtime.taken_memory", lambda: 0)
    restorer = fw.load("night", model="fusionnet_small")
    picture = np.zeros((600, 700, 3), np.uint8)
    heat = np.arange(420_000, dtype=np.uint32).reshape(600, 700).astype(np.uint8)
    for budget in (math.inf, 100 * 2**20):
        limit_memory(budget)
        try:
            restorer.restore(picture, infrared=heat)
        finally:
            limit_memory()
    whole, part = seen
    assert whole == 512
    assert 64 <= part < 400


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pictures hardly fitted."""
    monkeypatch.setattr("fairweather.jobs.memory_for", lambda device, **_: 0)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_large_pictures_in_rows_come_out_as_whole_ones(
    strength: float, request: pytest.FixtureRequest
) -> None:
    generator = np.random.default_rng(0)
    PIL.Image.fromarray(generator.integers(0, 256, (300, 150, 4), np.uint8)).save("a.png")
    options = Options(tile=128, strength=strength)
    list(run(plan(["a.png"], task="derain", output="whole.png"), inverter, options))
    request.getfixturevalue("little_memory")
    (outcome,) = run(plan(["a.png"], task="derain", output="rows.png"), inverter, options)
    assert outcome.result is not None
    assert outcome.result.tiles == 8
    assert "8 tiles" in outcome.line()
    whole, rows = read_picture("whole.png"), read_picture("rows.png")
    assert torch.equal(whole.pixels, rows.pixels)
    assert whole.alpha is not None
    assert rows.alpha is not None
    assert torch.equal(whole.alpha, rows.alpha)


@pytest.mark.usefixtures("little_memory")
def test_where_memory_runs_out_in_rows_tiles_shrink_or_the_picture_fails_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 900, 3), np.uint8)
    PIL.Image.fromarray(pixels).save("a.png")

    def restorer(most: int) -> Restorer:
        class Narrow(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                if x.shape[-1] > most:
                    raise MemoryError
                return 1 - x

        return Restorer(
            Narrow(), model="nafnet_tiny", task="derain", sha256="0" * 64, device="cpu", precision="fp32"
        )

    (outcome,) = run(plan(["a.png"], task="derain"), restorer(300), Options(tile=512))
    assert outcome.result is not None
    assert outcome.result.warnings == ("not enough memory; went on with tiles of 256 pixels",)
    assert np.array_equal(np.asarray(PIL.Image.open("a.derained.png")), 255 - pixels)

    save("b.png")
    jobs = plan(["a.png", "b.png"], task="derain", output="out")
    outcomes = list(run(jobs, restorer(100), Options(tile=512)))
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert outcomes[0].exit_code == OutOfMemoryError.exit_code
    assert [p.name for p in Path("out").iterdir()] == ["b.png"]


@pytest.mark.usefixtures("little_memory")
def test_haze_is_removed_in_rows() -> None:
    pixels = np.random.default_rng(0).integers(100, 200, (40, 60, 3), np.uint8)
    PIL.Image.fromarray(pixels).save("a.png")
    (outcome,) = run(plan(["a.png"], task="dehaze"), dehazer(Bright()))
    assert outcome.status == "done"
    assert read_picture(outcome.job.target).pixels.shape == (3, 40, 60)


@pytest.mark.usefixtures("little_memory")
def test_what_rows_cannot_hold_is_restored_whole() -> None:
    save("a.png")
    PIL.Image.new("P", (7, 5)).save("b.png")
    jobs = [*plan(["a.png"], task="derain", format="webp"), *plan(["b.png"], task="derain")]
    assert [o.status for o in run(jobs, inverter)] == ["done", "done"]


@pytest.mark.usefixtures("little_memory")
def test_a_large_picture_that_fails_leaves_nothing() -> None:
    save("a.png")
    (outcome,) = run(
        plan(["a.png"], task="derain"), fails_on_the_second(KeyboardInterrupt()), Options(max_megapixels=1e-6)
    )
    assert outcome.status == "failed"
    assert "--max-megapixels" in outcome.message
    assert [p.name for p in Path().iterdir()] == ["a.png"]
