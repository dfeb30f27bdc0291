"""The package as a whole: what it depends on, what importing it does, and whether the README is true."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fairweather as fw

ROOT = Path(__file__).parent.parent


def test_torchvision_is_not_installed() -> None:
    """There is no CPU build of it for our torch, and its presence breaks other imports."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert "torch" in installed
    assert "torchvision" not in installed


def test_public_names() -> None:
    assert set(fw.__all__) == {
        "MODELS",
        "FairweatherError",
        "Restorer",
        "Result",
        "__version__",
        "create_model",
        "export",
        "from_published",
        "list_models",
        "load",
    }
    for name in fw.__all__:
        assert getattr(fw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = fw.unknown


def test_importing_the_package_does_no_work() -> None:
    code = "import sys, fairweather; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_constraints_are_exact_and_cover_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=]+", line) for line in lines)
    assert "torch==2.13.0" in lines
    wanted = {
        re.split(r"[\s\[<>=;(]", requirement)[0].lower()
        for requirement in importlib.metadata.requires("fairweather") or ()
    } - {"fairweather"}
    assert wanted <= pinned


def test_documented_recipes_exist() -> None:
    from fairweather.training import RECIPES

    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {n for page in pages for n in re.findall(r"fairweather train (\w+)", page.read_text())}
    assert named <= {*RECIPES, "list", "RECIPE"}
    assert "derain_small" in named


def test_pictures_and_pages_that_the_docs_link_are_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_readme_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block of the README runs, in a folder with a photograph."""
    from fairweather.demo import photograph
    from fairweather.images import Picture, write_picture

    monkeypatch.chdir(tmp_path)
    write_picture(Picture(pixels=photograph("astronaut")[:, :96, :128]), Path("photo.jpg"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert list(tmp_path.glob("photo.*.jpg"))
