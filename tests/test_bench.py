"""Settings are measured in turn, and compared with torch in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import saved

import fairweather as fw
from fairweather.backends import BEST, ENOUGH
from fairweather.bench import bench
from fairweather.errors import UsageError
from fairweather.runtime import in_turn


def test_settings_are_measured_in_turn_and_in_alternating_order() -> None:
    order: list[str] = []
    found = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order[-4:] == ["a", "b", "b", "a"]
    assert found.keys() == {"a", "b"}


def test_every_back_end_is_compared_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairweather.bench.installed", lambda precision: ["torch"])
    first, second = bench("dehaze", sides=[64], rounds=1, tell=lambda _: None)
    assert (first.backend, first.precision, first.ratio) == ("torch", "fp32", 1.0)
    assert (second.precision, second.side) == ("bf16", 64)
    assert second.ratio == pytest.approx(first.seconds / second.seconds)
    assert first.bf16_psnr is None
    assert second.bf16_psnr is not None  # the picture is not left alone
    assert ENOUGH < second.bf16_psnr < BEST


def test_an_exported_file_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fairweather.bench.installed", lambda precision: ["torch", "onnx"][: 1 + (precision == "fp32")]
    )
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    weights, file = str(saved(tmp_path)), tmp_path / "net.onnx"
    fw.export(weights, file, to="onnx")
    found = [*bench(weights, files=[file], sides=[64], rounds=1, tell=lambda _: None)]
    assert [(m.backend, m.precision) for m in found] == [
        ("torch", "fp32"),
        ("onnx", "fp32"),
        ("onnx", "fp32"),
        ("torch", "bf16"),
    ]
    other = str(saved(tmp_path, seed=1))
    with pytest.raises(UsageError, match=r"net\.onnx has other weights than .*derain-1\.safetensors"):
        next(bench(other, files=[file], sides=[64], rounds=1, tell=lambda _: None))


@pytest.mark.parametrize(("task", "sides"), [("auto", [64]), ("derain", [0])])
def test_what_cannot_be_measured_is_refused(task: str, sides: list[int]) -> None:
    with pytest.raises(UsageError):
        list(bench(task, sides=sides, tell=lambda _: None))
