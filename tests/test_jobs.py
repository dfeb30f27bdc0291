"""Many files: where results go, what is refused before work starts, and that no picture is lost or overwritten."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from fairweather.errors import OutOfMemoryError, PictureError, UsageError
from fairweather.images import read_picture
from fairweather.jobs import STREAM, Job, Options, Outcome, plan, run
from fairweather.pipeline import Restorer


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
        ("in/x/y/c.webp", "out/x/y/c.webp"),
    ]
    assert planned("in")[2] == ("in/x/y/c.webp", "in/x/y/c.derained.webp")


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
        "warnings": [],
    }
    assert set(bad) == {"input", "output", "status", "message"}
    assert bad["status"] == "failed"


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
