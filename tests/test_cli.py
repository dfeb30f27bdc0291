"""The command line as its users meet it: what it writes where, what it says, and with which code it ends."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from fairweather import cli
from fairweather.errors import OutOfMemoryError
from fairweather.models import create_model
from fairweather.models.constyle import ConStyle
from fairweather.weights import WEIGHTS, save_weights, sha256

COMMANDS = [
    [],
    ["dehaze"],
    ["derain"],
    ["denoise"],
    ["deblur"],
    ["night"],
    ["evaluate"],
    ["train"],
    ["doctor"],
    ["demo"],
    ["models"],
    ["models", "list"],
    ["models", "info"],
    ["models", "convert"],
    ["data"],
    ["data", "check"],
    ["data", "make"],
]


@dataclass(frozen=True)
class Ended:
    """How a command ended; `err` is what it said."""

    code: int
    out: str
    err: str
    raw: bytes

    def lines(self) -> list[str]:
        return self.err.splitlines()

    def records(self) -> list[dict[str, Any]]:
        """stdout as lines of JSON, read as strictly as other languages do."""
        return [strict_json(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fairweather(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The program, run in this process through the main() that the shell calls."""

    def call(*arguments: str, stdin: bytes = b"") -> Ended:
        capsysbinary.readouterr()
        monkeypatch.setattr("sys.argv", ["fairweather", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsysbinary.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Ended(code, out.decode(errors="replace"), err.decode(), out)

    return call


def program(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own."""
    command = [sys.executable, "-m", "fairweather", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, env=environment, timeout=120
    )


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def noisy(name: str, size: tuple[int, int] = (24, 16), *, seed: int = 0, noise: float = 25) -> np.ndarray:
    """Write a smooth picture with noise; returns it without."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / 8.0
    clear = 128 + 60 * np.stack([np.sin(x + seed), np.cos(y), np.sin(x - y)], axis=-1)
    grain = noise * np.random.default_rng(seed).standard_normal(clear.shape)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((clear + grain).clip(0, 255).round().astype(np.uint8)).save(name)
    return clear


def digests() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def size(file: str | Path) -> tuple[int, int]:
    with PIL.Image.open(file) as image:
        return image.size


# Help and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(command: list[str], flag: str, fairweather: Run) -> None:
    ended = fairweather(*command, flag)
    assert ended.code == 0
    assert "Usage" in ended.out
    assert " ".join(command) in ended.out
    assert ended.err == ""


def test_help_names_all_commands(fairweather: Run) -> None:
    shown = fairweather("--help").out
    assert all(command[0] in shown for command in COMMANDS if command)


def test_help_does_not_import_torch() -> None:
    code = f"""
import sys
from fairweather.cli import main
for command in {COMMANDS}:
    sys.argv = ["fairweather", *command, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0
print([name for name in ("torch", "numpy", "PIL", "pyvips", "lightning") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["derain"], "inputs"),
        (["derain", "a.png", "--strength", "much"], "--strength"),
        (["derain", "a.png", "--existing", "keep"], "overwrite"),
        (["derain", "a.png", "--format"], "--format"),
        (["clear", "a.png"], "clear"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(arguments: list[str], named: str) -> None:
    done = program(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("fairweather: ")
    assert named in line


def test_without_a_command_it_shows_the_help_alone() -> None:
    done = program()
    assert done.returncode == 2
    assert b"Usage: " in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["derian", "a.png"], "derain"),
        (["dehase", "a.png"], "dehaze"),
        (["dehaze", "a.png", "--deepth", "d.png"], "--depth"),
        (["derain", "a.png", "--strenght", "1"], "--strength"),
        (["derain", "a.png", "--model", "nafnet_smal"], "nafnet_small"),
        (["derain", "a.png", "--device", "cudaa"], "cuda"),
        (["derain", "a.png", "--precision", "fp23"], "fp32"),
        (["derain", "a.png", "--existing", "overwritten"], "overwrite"),
        (["derain", "a.png", "--format", "jpgg"], "jpg"),
        (["models", "info", "nafnet_tinny"], "nafnet_tiny"),
        (["evaluate", "--task", "denoize", "--data", "."], "denoise"),
        (["evaluate", "--task", "denoize", "--model", "nafnet_small", "--data", "."], "denoise"),
        (["evaluate", "--task", "denoise", "--data", ".", "--profile", "rbg"], "rgb"),
        (["train", "denoise_tin"], "denoise_tiny"),
        (["train", "denoise_tiny", "--set", "stepps=1", "--show"], "steps"),
    ],
)
def test_a_wrong_word_ends_with_2_and_names_the_nearest(
    arguments: list[str], nearest: str, fairweather: Run
) -> None:
    noisy("a.png")
    before = digests()
    ended = fairweather(*arguments)
    assert ended.code == 2
    assert nearest in ended.err
    assert ended.out == ""
    assert digests() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["derain"],
        ["derain", "none.png"],
        ["derain", "no*.png"],
        ["derain", "a.png", "--strength", "2"],
        ["derain", "a.png", "--strength", "nan"],
        ["derain", "a.png", "--strength", "strong"],
        ["derain", "a.png", "--tile", "3"],
        ["derain", "a.png", "--tile", "-1"],
        ["derain", "a.png", "--tile", "large"],
        ["derain", "a.png", "--tile", "²"],
        ["derain", "a.png", "--memory-budget", "much"],
        ["derain", "a.png", "--memory-budget", "0GB"],
        ["derain", "a.png", "--workers", "0"],
        ["derain", "a.png", "--workers", "many"],
        ["derain", "a.png", "a.png", "b.png", "-o", "-"],
        ["derain", "a.png", "-o", "a.png"],
        ["derain", "a.png", "-o", "b.gif"],
        ["derain", "a.png", "-o", "c.png", "--format", "jpg"],
        ["derain", "a.png", "-o", "-", "--compare"],
        ["derain", "a.png", "-o", ""],
        ["derain", ""],
        ["derain", "a.png", "--depth", "d.png"],
        ["denoise", "a.png", "--depth", "d.png"],
        ["dehaze", "a.png", "--depth"],
        ["dehaze", "a.png", "--depth", "d.jpg"],
        ["dehaze", "a.png", "--depth", "-"],
        ["dehaze", "a.png", "--depth", ""],
        ["dehaze", "a.png", "--depth", "b.png", "b.png"],
        ["dehaze", "a.png", "b.png", "--depth", "d.png"],
        ["dehaze", "a.png", "--depth", "a.png"],
        ["dehaze", "a.png", "-o", "c.png", "--depth", "c.png"],
        ["evaluate", "--task", "denoise", "--data", ".", "--tile", "3"],
        ["train", "denoise_tiny", "--resume"],
        ["evaluate", "--task", "denoise"],
        ["evaluate", "--task", "denoise", "--data", ".", "--sigma", "-5"],
        ["evaluate", "--task", "denoise", "--data", ".", "--sigma", "nan"],
        ["train", "denoise_tiny", "--set", "steps", "--show"],
        ["train", "denoise_tiny", "--set", "steps=many", "--show"],
        ["data", "check"],
        ["data", "make", "."],
        ["data", "make", ".", "out"],
        ["data", "make", ".", "out", "--size", "384"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_touches_nothing(arguments: list[str], fairweather: Run) -> None:
    noisy("a.png")
    noisy("b.png", seed=1)
    before = digests()
    ended = fairweather(*arguments)
    assert ended.code == 2
    assert ended.err
    assert ended.out == ""
    assert digests() == before


@pytest.mark.parametrize("command", [[], ["models"], ["data"]], ids=" ".join)
def test_a_bare_command_shows_its_help(command: list[str], fairweather: Run) -> None:
    ended = fairweather(*command)
    assert ended.code == 2
    assert "Usage" in ended.out + ended.err


# Restoring -------------------------------------------------------------------------------------------------------


def test_derain_writes_beside_the_picture_and_says_one_line(fairweather: Run) -> None:
    noisy("photo.png", (33, 21))
    before = Path("photo.png").read_bytes()
    ended = fairweather("derain", "photo.png")
    assert ended.code == 0
    assert ended.out == ""
    assert len(ended.lines()) == 1
    assert ended.err.startswith("photo.png -> photo.derained.png (nafnet_small on cpu, fp32, whole, ")
    assert size("photo.derained.png") == (33, 21)
    assert set(digests()) == {"photo.png", "photo.derained.png"}
    assert Path("photo.png").read_bytes() == before


def test_denoise_denoises(fairweather: Run) -> None:
    clear = noisy("photo.png", (96, 64))
    assert fairweather("denoise", "photo.png").code == 0

    def error(name: str) -> float:
        return float(np.square(np.asarray(PIL.Image.open(name)) - clear).mean())

    assert error("photo.denoised.png") < error("photo.png") / 4


def test_folders_give_folders_and_counts(fairweather: Run) -> None:
    noisy("in/a.png")
    noisy("in/sub/b.jpg", seed=1)
    Path("in/c.png").write_bytes(b"broken")
    ended = fairweather("derain", "in", "-o", "out", "--format", "webp")
    assert ended.code == 1
    assert {name for name in digests() if name.startswith("out")} == {"out/a.webp", "out/sub/b.webp"}
    assert len(ended.lines()) == 4
    assert ended.lines()[-1] == "2 done, 0 skipped, 1 failed, of 3 pictures"
    again = fairweather("derain", "in", "-o", "out", "--format", "webp")
    assert again.lines()[-1] == "0 done, 2 skipped, 1 failed, of 3 pictures"


def test_json_is_one_line_for_each_picture_and_nothing_else(fairweather: Run) -> None:
    noisy("a.png")
    noisy("b.png", seed=1)
    noisy("b.derained.png", seed=2)
    Path("c.png").write_bytes(b"broken")
    ended = fairweather("derain", "a.png", "b.png", "c.png", "--json")
    assert ended.code == 1
    a, b, c = ended.records()
    assert (a["input"], a["output"], a["status"]) == ("a.png", "a.derained.png", "done")
    assert (a["model"], a["task"], a["tiles"]) == ("nafnet_small", "derain", 1)
    assert a["weights_sha256"] == next(w.sha256 for w in WEIGHTS if w.task == "derain")
    assert (b["status"], c["status"]) == ("skipped", "failed")
    assert "not a picture" in c["message"]


def test_quiet_says_nothing_but_errors(fairweather: Run) -> None:
    noisy("a.png")
    assert fairweather("derain", "a.png", "-q") == Ended(0, "", "", b"")
    Path("b.png").write_bytes(b"broken")
    ended = fairweather("derain", "b.png", "-q")
    assert (ended.code, len(ended.lines())) == (1, 1)


def test_a_broken_file_ends_with_1_and_its_reason() -> None:
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    done = program("derain", "broken.png")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"broken.png" in done.stderr
    assert b"damaged" in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_input_to_standard_output() -> None:
    noisy("a.jpg", (33, 21))
    done = program("derain", "-", stdin=Path("a.jpg").read_bytes())
    assert done.returncode == 0
    with PIL.Image.open(io.BytesIO(done.stdout)) as image:
        image.load()
        assert (image.format, image.size) == ("JPEG", (33, 21))
    assert b"Traceback" not in done.stderr
    assert list(digests()) == ["a.jpg"]


def test_standard_output_has_the_picture_alone(fairweather: Run) -> None:
    noisy("a.png")
    for more in ([], ["--json"]):
        ended = fairweather("derain", "a.png", "-o", "-", "--format", "webp", *more)
        assert ended.code == 0
        with PIL.Image.open(io.BytesIO(ended.raw)) as image:
            assert image.format == "WEBP"


def test_nothing_on_standard_input_fails(fairweather: Run) -> None:
    ended = fairweather("derain", "-")
    assert (ended.code, ended.out) == (1, "")
    assert "empty" in ended.err


def test_strength_0_keeps_the_picture(fairweather: Run) -> None:
    noisy("a.png")
    assert fairweather("derain", "a.png", "--strength", "0").code == 0
    assert np.array_equal(np.asarray(PIL.Image.open("a.png")), np.asarray(PIL.Image.open("a.derained.png")))


def test_tiles_are_told(fairweather: Run) -> None:
    noisy("a.png", (200, 100))
    ended = fairweather("derain", "a.png", "--tile", "128")
    assert ended.code == 0
    assert ", 3 tiles, " in ended.err
    assert size("a.derained.png") == (200, 100)


def test_compare_writes_before_and_after(fairweather: Run) -> None:
    noisy("a.png", (30, 20))
    ended = fairweather("derain", "a.png", "--compare")
    assert ended.code == 0
    assert set(digests()) == {"a.png", "a.derained.png", "a.derained.compare.png"}
    width, height = size("a.derained.compare.png")
    assert width > 2 * 30
    assert height > 20
    assert "a.derained.compare.png" in ended.err


def test_a_limit_on_pixels(fairweather: Run) -> None:
    noisy("a.png", (200, 100))
    ended = fairweather("derain", "a.png", "--max-megapixels", "0.01")
    assert ended.code == 1
    assert "0.01" in ended.err


@pytest.mark.parametrize(
    "name", ["line\nbreak.png", "\x1b[31mred\x07.png", "a:smile:[b]b.png", "trail\\.png"]
)
def test_names_do_not_break_the_line(name: str, fairweather: Run) -> None:
    noisy(name)
    noisy("bad " + name)
    Path("bad " + name).write_bytes(b"broken")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    ended = fairweather("derain", name, "bad " + name)
    assert ended.code == 1
    assert len(ended.lines()) == 3
    assert ended.lines()[0].startswith(f"{shown} -> {shown.removesuffix('.png')}.derained.png (")
    assert f"bad {shown}" in ended.lines()[1]
    assert "\x1b" not in ended.err
    assert [r["input"] for r in fairweather("derain", name, "bad " + name, "--json").records()] == [
        name,
        "bad " + name,
    ]
    missing = fairweather("derain", "no " + name)
    assert (missing.code, len(missing.lines())) == (2, 1)


def test_names_do_not_break_the_lines_of_the_data_check(fairweather: Run) -> None:
    noisy("set/clear/a\x1b[31m\nb.png")
    noisy("set/hazy/a\x1b[31m\nb.png")
    ended = fairweather("data", "check", "set")
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert not any(line.startswith("b.png") for line in ended.out.splitlines())


# Dehazing, depth -------------------------------------------------------------------------------------------------


def saved_weights(folder: Path, **overrides: Any) -> str:
    """A dehazing network of random weights, as a file."""
    torch.manual_seed(0)
    net = create_model("dcmpnet_small", **overrides)
    file = folder / "random.safetensors"
    facts = {"model": "dcmpnet_small", "task": "dehaze", "model_args": json.dumps(overrides)}
    save_weights(net.state_dict(), file, facts)
    return str(file)


@pytest.fixture(scope="module")
def dehazer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_weights(tmp_path_factory.mktemp("weights"))


def test_dehaze_and_the_depth_beside(dehazer: str, fairweather: Run) -> None:
    noisy("photo.jpg", (33, 21))
    ended = fairweather("dehaze", "photo.jpg", "--model", dehazer, "--depth", "photo.depth.png")
    assert (ended.code, ended.out, len(ended.lines())) == (0, "", 1)
    assert ended.err.startswith("photo.jpg -> photo.dehazed.jpg (dcmpnet_small on cpu, fp32, no tiles, ")
    assert ended.err.endswith(", depth photo.depth.png and photo.depth.colour.png)\n")
    names = {"photo.dehazed.jpg", "photo.depth.png", "photo.depth.colour.png"}
    assert set(digests()) == {"photo.jpg", *names}
    assert {size(name) for name in names} == {(33, 21)}


def test_depth_of_a_folder_and_a_second_run(dehazer: str, fairweather: Run) -> None:
    noisy("in/a.png")
    noisy("in/sub/b.jpg", seed=1)
    command = ["dehaze", "in", "--model", dehazer, "--depth", "in", "--json"]
    ended = fairweather(*command)
    assert ended.code == 0
    a, b = ended.records()
    assert (a["output"], a["depth"], a["depth_colour"]) == (
        "in/a.dehazed.png",
        "in/a.depth.png",
        "in/a.depth.colour.png",
    )
    assert b["depth"] == "in/sub/b.depth.png"
    before = digests()
    assert {record[key] for record in (a, b) for key in ("input", "output", "depth", "depth_colour")} == set(
        before
    )
    again = fairweather(*command)
    assert [record["status"] for record in again.records()] == ["skipped", "skipped"]
    assert digests() == before


def test_depth_goes_to_its_file_where_the_picture_goes_to_standard_output(
    dehazer: str, fairweather: Run
) -> None:
    noisy("a.png", (33, 21))
    ended = fairweather("dehaze", "a.png", "--model", dehazer, "-o", "-", "--depth", "d.png", "--json")
    assert ended.code == 0
    with PIL.Image.open(io.BytesIO(ended.raw)) as image:
        assert (image.format, image.size) == ("PNG", (33, 21))
    assert set(digests()) == {"a.png", "d.png", "d.colour.png"}
    piped = fairweather(
        "dehaze", "-", "--model", dehazer, "--depth", "e.png", stdin=Path("a.png").read_bytes()
    )
    assert piped.raw == ended.raw
    assert Path("e.png").read_bytes() == Path("d.png").read_bytes()


def test_strength_of_dehazing_goes_from_nothing_to_beyond(dehazer: str, fairweather: Run) -> None:
    noisy("a.png")
    shown: dict[str, Any] = {}
    for strength in ("0", "1", "1.5"):
        options = ["--strength", strength, "-o", f"{strength}.png"]
        assert fairweather("dehaze", "a.png", "--model", dehazer, *options).code == 0
        shown[strength] = np.asarray(PIL.Image.open(f"{strength}.png")).astype(int)
    before = np.asarray(PIL.Image.open("a.png")).astype(int)
    assert np.array_equal(shown["0"], before)
    effect = np.abs(shown["1"] - before).mean()
    assert effect > 1
    assert effect < np.abs(shown["1.5"] - before).mean() < 1.6 * effect


@pytest.mark.parametrize("names", [["a.png"], ["a.png", "b.png"]])
def test_depth_of_a_model_that_finds_none_ends_with_2_and_one_line(
    names: list[str], fairweather: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = saved_weights(tmp_path_factory.mktemp("weights"), depth_network=False)
    for name in names:
        noisy(name)
    before = digests()
    ended = fairweather("dehaze", *names, "--model", weights, "--depth", "d/")
    assert (ended.code, ended.out, len(ended.lines())) == (2, "", 1)
    assert "no depth" in ended.err
    assert "--depth" in ended.err
    assert digests() == before


# Exit codes 3, 4, 130 --------------------------------------------------------------------------------------------


def test_a_model_without_weights_ends_with_3(fairweather: Run) -> None:
    noisy("a.png")
    ended = fairweather("derain", "a.png", "--model", "nafnet")
    assert (ended.code, len(ended.lines())) == (3, 1)
    assert "nafnet_small" in ended.err


def test_missing_weights_end_with_3(fairweather: Run, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    noisy("a.png")
    monkeypatch.setattr("fairweather.weights.FOLDER", here / "empty")
    ended = fairweather("derain", "a.png")
    assert (ended.code, len(ended.lines())) == (3, 1)
    assert "missing" in ended.err
    assert fairweather("derain", "a.png", "--model", "none.safetensors").code == 3


def test_too_little_memory_ends_with_4(fairweather: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy("a.png")

    def never(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fairweather.models.nafnet.NAFNet.forward", never)
    ended = fairweather("derain", "a.png")
    assert ended.code == 4 == OutOfMemoryError.exit_code
    assert "memory" in ended.err
    assert "Traceback" not in ended.err
    assert list(digests()) == ["a.png"]


def test_an_interrupt_ends_with_130(fairweather: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy("a.png")

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fairweather.models.nafnet.NAFNet.forward", interrupted)
    ended = fairweather("derain", "a.png")
    assert ended.code == 130
    assert list(digests()) == ["a.png"]


def test_an_interrupted_video_says_how_to_go_on(fairweather: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    Path("a.mp4").touch()
    monkeypatch.setattr("fairweather.jobs.restore_video", interrupted)
    ended = fairweather("derain", "a.mp4")
    assert ended.code == 130
    assert "what is restored of a video is kept" in ended.err


@pytest.mark.parametrize("wrong", ["3", "3,x", "nan,0", "1,2,3"])
def test_a_shift_that_is_none_is_refused(fairweather: Run, wrong: str) -> None:
    noisy("a.png")
    ended = fairweather("night", "a.png", "--ir-shift", wrong)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"--ir-shift '{wrong}': expected two numbers of pixels, such as 3,-1.5" in ended.err


# Models ----------------------------------------------------------------------------------------------------------


def test_models_convert_says_what_it_wrote_and_how_to_use_it(fairweather: Run) -> None:
    state = {f"encoder_q.{name}": tensor for name, tensor in ConStyle().state_dict().items()}
    torch.save(state, "encoder.pth")
    ended = fairweather("models", "convert", "encoder.pth", "--model", "constyle")
    assert ended.code == 0
    digest = sha256(Path("constyle.safetensors"))[:12]
    assert f"constyle.safetensors: constyle, 1.2 M parameters, SHA-256 {digest}" in ended.err
    assert "fairweather train RECIPE --set init=constyle.safetensors" in ended.err
    ended = fairweather("models", "convert", "missing.pth", "--model", "constyle")
    assert (ended.code, ended.lines()) == (
        3,
        ["fairweather: no weights at missing.pth; there is no such file"],
    )


def test_models_list(fairweather: Run) -> None:
    ended = fairweather("models", "list")
    assert ended.code == 0
    assert re.search(r"nafnet_small +2\.3 M +derain, denoise", ended.out)
    assert re.search(r"constyle_nafnet +12\.7 M +no weights", ended.out)


def test_models_list_as_json(fairweather: Run) -> None:
    ended = fairweather("models", "list", "--json")
    models = {model["name"]: model for model in strict_json(ended.out)}
    assert models["nafnet_small"]["weights"] == ["derain", "denoise", "deblur"]
    assert models["nafnet"]["weights"] == []
    assert models["nafnet"]["params"] == 87_404_483


def test_models_info(fairweather: Run) -> None:
    ended = fairweather("models", "info", "nafnet_small")
    assert ended.code == 0
    assert "2330931" in ended.out
    assert all(w.sha256 in ended.out for w in WEIGHTS if w.model == "nafnet_small")


def test_models_info_as_json(fairweather: Run) -> None:
    facts = strict_json(fairweather("models", "info", "nafnet_small", "--json").out)
    assert (facts["name"], facts["multiple_of"], facts["licence"]) == ("nafnet_small", 8, "Apache-2.0")
    ours = {w.task: w.sha256 for w in WEIGHTS if w.model == "nafnet_small"}
    assert {w["task"]: w["sha256"] for w in facts["weights"]} == ours
    assert strict_json(fairweather("models", "info", "nafnet", "--json").out)["weights"] == []


# Evaluation, data, training --------------------------------------------------------------------------------------


@pytest.fixture
def pairs(here: Path) -> Path:
    """Two noisy pictures, and the same without noise."""
    for number in (1, 2):
        noisy(f"set/noisy/{number}.png", (48, 40), seed=number)
        noisy(f"set/clean/{number}.png", (48, 40), seed=number, noise=0)
    return Path("set")


def test_evaluate_on_pairs(pairs: Path, fairweather: Run) -> None:
    ended = fairweather("evaluate", "--task", "denoise", "--data", str(pairs), "--json", "new/scores.json")
    assert ended.code == 0
    assert "profile rgb" in ended.out
    assert "noisy/ against clean/, by equal stem" in ended.out
    scores = strict_json(Path("new/scores.json").read_text())
    assert (scores["model"], scores["task"], scores["profile"]) == ("nafnet_small", "denoise", "rgb")
    assert scores["weights_sha256"] == next(w.sha256 for w in WEIGHTS if w.task == "denoise")
    assert scores["count"] == 2
    assert 18 < scores["input"]["psnr"] < 23  # sigma 25, clipped
    assert scores["mean"]["psnr"] > scores["input"]["psnr"] + 4
    assert 1 > scores["mean"]["ssim"] > scores["input"]["ssim"] > 0
    assert f"{scores['mean']['psnr']:.2f}" in ended.out
    assert f"{scores['input']['psnr']:.2f}" in ended.out
    assert [row["name"] for row in scores["pictures"]] == ["1.png", "2.png"]


def test_evaluate_on_clear_pictures_with_noise(pairs: Path, fairweather: Run) -> None:
    data = ["--data", str(pairs / "clean")]
    ended = fairweather(
        "evaluate", "--task", "denoise", *data, "--sigma", "15", "--sigma", "50", "--json", "s.json"
    )
    assert ended.code == 0
    scores = strict_json(Path("s.json").read_text())
    assert scores["count"] == 4
    assert list(scores["groups"]) == ["sigma 15", "sigma 50"]
    light, heavy = scores["groups"].values()
    # Not clipped: the noise alone decides, but for the rounding of what is outside of [0, 1].
    assert light["input_psnr"] == pytest.approx(24.6, abs=0.5)
    assert heavy["input_psnr"] == pytest.approx(14.2, abs=1)
    assert light["psnr"] > light["input_psnr"] + 2
    assert heavy["psnr"] > heavy["input_psnr"] + 4


def test_evaluate_where_the_input_is_the_target(pairs: Path, fairweather: Run) -> None:
    for file in (pairs / "clean").iterdir():
        (pairs / "noisy" / file.name).write_bytes(file.read_bytes())
    arguments = ["evaluate", "--task", "derain", "--data", str(pairs), "--profile", "y", "--json", "s.json"]
    ended = fairweather(*arguments)
    assert ended.code == 0
    scores = json.loads(Path("s.json").read_text())
    assert scores["profile"] == "y"
    assert scores["input"]["ssim"] == 1
    assert scores["input"]["psnr"] in (None, "inf", float("inf"))
    assert 20 < scores["mean"]["psnr"] < 100
    assert "inf" in ended.out


def test_scores_are_json_that_every_language_reads(pairs: Path, fairweather: Run) -> None:
    """Also where a score is infinite (equal pictures) or not defined (SSIM of pictures under 11 pixels)."""
    noisy("set/noisy/1.png", (8, 8), noise=0)
    noisy("set/clean/1.png", (8, 8), noise=0)
    assert fairweather("evaluate", "--task", "denoise", "--data", str(pairs), "--json", "s.json").code == 0
    assert strict_json(Path("s.json").read_text())["count"] == 2


@pytest.mark.parametrize("problem", ["missing", "empty", "unpaired", "unequal", "unreadable", "clear"])
def test_evaluate_refuses_a_data_set_that_is_not_sound(problem: str, pairs: Path, fairweather: Run) -> None:
    data, task = pairs, "denoise"
    if problem == "missing":
        data = Path("nowhere")
    elif problem == "empty":
        data = Path("empty")
        data.mkdir()
    elif problem == "unpaired":
        (pairs / "clean" / "2.png").unlink()
    elif problem == "unequal":
        noisy("set/noisy/2.png", (50, 40))
    elif problem == "unreadable":
        (pairs / "noisy" / "2.png").write_bytes(b"broken")
    else:
        data, task = pairs / "clean", "derain"
    ended = fairweather("evaluate", "--task", task, "--data", str(data), "--json", "s.json")
    assert (ended.code, len(ended.lines()), ended.out) == (1, 1, "")
    assert not Path("s.json").exists()


def test_data_check(pairs: Path, fairweather: Run) -> None:
    ended = fairweather("data", "check", str(pairs))
    assert ended.code == 0
    assert "2 pairs, noisy/ against clean/, by equal stem" in ended.out
    (report,) = fairweather("data", "check", str(pairs), "--json").records()
    assert report["ok"] is True


def test_data_check_of_a_broken_set_ends_with_1(pairs: Path, fairweather: Run) -> None:
    (pairs / "noisy" / "2.png").write_bytes(b"broken")
    ended = fairweather("data", "check", str(pairs))
    assert ended.code == 1
    assert "noisy/2.png" in ended.out
    ended = fairweather("data", "check", str(pairs), "--json")
    assert ended.code == 1
    assert ended.records()[0]["ok"] is False
    assert fairweather("data", "check", "nowhere").code == 1


def test_train_list_names_the_recipes(fairweather: Run) -> None:
    from fairweather.training import RECIPES

    ended = fairweather("train", "list")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == list(RECIPES)
    assert {w.recipe for w in WEIGHTS} <= set(RECIPES)


def test_train_shows_a_configuration_without_training(fairweather: Run) -> None:
    ended = fairweather("train", "denoise_tiny", "--set", "steps=777", "--show")
    assert ended.code == 0
    config = strict_json(ended.out)
    assert (config["recipe"], config["steps"]) == ("denoise_tiny", 777)
    assert digests() == {}


# Two cameras -----------------------------------------------------------------------------------------------------


def test_night_fuses_what_has_a_partner_cleans_the_rest_and_says_so(fairweather: Run) -> None:
    noisy("vis/a.png", (64, 48), noise=0)
    noisy("vis/b.png", (64, 48), noise=0, seed=1)
    noisy("ir/a.png", (32, 24), noise=0)
    PIL.Image.open("ir/a.png").convert("L").save("ir/a.png")
    ended = fairweather("night", "vis", "--ir", "ir", "--ir-shift", "0,0", "-o", "out", "--keep-steps")
    assert ended.code == 0
    fused, cleaned, counts = ended.lines()
    assert re.search(r"vis/a.png -> out/a.png \(\d+% infrared; .*steps a.clean.png and a.infrared.png", fused)
    assert "no infrared picture: cleaned, not fused" in cleaned
    assert counts == "2 done, 0 skipped, 0 failed, of 2 pictures"
    assert set(digests()) >= {
        "out/a.png",
        "out/a.clean.png",
        "out/a.infrared.png",
        "out/b.png",
        "out/b.clean.png",
    }
    assert "out/b.infrared.png" not in digests()


def test_an_infrared_picture_that_does_not_fit_fails_with_both_names(fairweather: Run) -> None:
    noisy("a.png", (64, 48), noise=0)
    noisy("flat.png", (64, 20), noise=0)
    PIL.Image.open("flat.png").convert("L").save("flat.png")
    ended = fairweather("night", "a.png", "--ir", "flat.png")
    assert ended.code == 1
    assert ended.lines()[0].startswith("failed: a.png: the infrared picture has 64x20 pixels")
    assert set(digests()) == {"a.png", "flat.png"}


# Doctor and demo -------------------------------------------------------------------------------------------------


def test_doctor_finds_all_in_place(fairweather: Run) -> None:
    ended = fairweather("doctor")
    assert ended.code == 0
    assert all(line.startswith("ok ") for line in ended.out.splitlines())
    for name in ("python", "torch", "devices", "memory", "nafnet_small derain", "self-test"):
        assert f"ok   {name} " in ended.out
    assert digests() == {}


def test_a_back_end_that_cannot_be_loaded_is_told(fairweather: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("broken").mkdir()
    Path("broken/openvino.py").write_text("raise ImportError('libopenvino.so: cannot open')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend("broken")
    ended = fairweather("doctor")
    assert "openvino cannot be loaded (libopenvino.so: cannot open)" in ended.out
    PIL.Image.new("RGB", (8, 8)).save("a.png")
    Path("x.xml").write_text("<?xml?></net>")
    ended = fairweather("denoise", "a.png", "--model", "x.xml")
    assert ended.code == 2
    assert "backend 'openvino' is installed but cannot be loaded (ImportError: libopenvino.so" in ended.err


def test_doctor_advises_where_weights_are_missing(
    fairweather: Run, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setattr("fairweather.weights.FOLDER", here)
    ended = fairweather("doctor")
    assert ended.code == 1
    bad = [line for line in ended.out.splitlines() if line.startswith("BAD")]
    assert len(bad) == len(WEIGHTS) + 1  # and the self-test
    assert ended.out.count("reinstall fairweather") >= len(bad)


def test_demo_gains_in_every_scene(fairweather: Run) -> None:
    ended = fairweather("demo", "-o", "new/demo")
    assert ended.code == 0
    scenes = re.findall(r"\((\w+)\) +([\d.]+) dB +([\d.]+) dB in [\d.]+ s  (\S+)", ended.out)
    assert {task for task, *_ in scenes} == {"dehaze", "derain", "denoise", "deblur", "night", "auto"}
    found = re.findall(r"^  (\w.*)$", ended.out, re.MULTILINE)  # what ailed the picture of auto
    assert len(scenes) == len(ended.out.splitlines()) - 1 - len(found)
    assert [told.rpartition(": ")[2] for told in found] == ["denoised, derained"]
    for _, before, after, comparison in scenes:
        assert float(after) > float(before) + 1
        stem = comparison.removesuffix("-comparison.png")
        sizes = {size(f"{stem}-{name}.png") for name in ("before", "after")}
        assert len(sizes) == 1
        width = sizes.pop()[0]
        assert size(comparison)[0] // width == (4 if re.search("dehaze|night", comparison) else 3)
    assert len(digests()) == 3 * len(scenes)


def test_demo_into_a_file_ends_with_1(fairweather: Run) -> None:
    Path("file").touch()
    ended = fairweather("demo", "-o", "file")
    assert ended.code in (1, 2)
    assert len(ended.lines()) == 1
    assert "file" in ended.err


def test_the_version_is_that_of_the_package(fairweather: Run) -> None:
    ended = fairweather("--version")
    assert (ended.code, ended.out.strip()) == (0, importlib.metadata.version("fairweather"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_threads_that_wait_sleep_unless_told_otherwise(
    given: dict[str, str], expected: dict[str, str], fairweather: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
    for name in settings:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert fairweather("--version").code == 0
    assert {name: os.environ[name] for name in settings if name in os.environ} == expected


def test_torch_is_not_loaded_before_threads_know_how_to_wait() -> None:
    code = "import sys, fairweather.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_budget_that_is_too_small_says_what_would_do(fairweather: Run) -> None:
    noisy("a.png")
    ended = fairweather("denoise", "a.png", "--memory-budget", "10MB")
    assert ended.code == 4
    assert "--memory-budget of 10MB is too small: the least that would do is" in ended.err
    assert not Path("a.denoised.png").exists()
    assert fairweather("denoise", "a.png", "--memory-budget", "20GB").code == 0


def test_bench_says_how_far_bf16_is_from_fp32_and_where_it_is_too_far(
    fairweather: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairweather.bench.installed", lambda precision: ["torch"])
    command = "bench", "dehaze", "--side", "64", "--rounds", "1"
    head, full, half = fairweather(*command).out.splitlines()
    assert "64x64" in head
    assert re.fullmatch(r"  torch     fp32 .* s   1\.00x", full)
    assert re.fullmatch(r"  torch     bf16 .*x  \d\d\.\d dB from fp32", half)
    monkeypatch.setattr("fairweather.backends.ENOUGH", 99)
    assert fairweather(*command).out.endswith(" dB from fp32, too far: computed in fp32\n")
