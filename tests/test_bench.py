"""Settings are measured in turn, and compared with torch in fp32."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(("task", "sides"), [("auto", [64]), ("derain", [0])])
def test_what_cannot_be_measured_is_refused(task: str, sides: list[int]) -> None:
    with pytest.raises(UsageError):
        list(bench(task, sides=sides, tell=lambda _: None))
