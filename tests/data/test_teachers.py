from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from fairweather.data import teachers
from fairweather.data.depth import own_depth
from fairweather.data.teachers import check_teacher, folder_teacher, teacher, transformers_teacher
from fairweather.errors import DataError, MissingExtraError, UsageError, WeightsError

SIZE = (6, 9)  # height, width


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "clear" / "17.png"
    path.parent.mkdir(parents=True)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
    return path


def ramp(dtype: Any) -> np.ndarray[Any, Any]:
    """Grows from left to right."""
    return (1 + np.arange(SIZE[1], dtype=np.float64) * np.ones((SIZE[0], 1))).astype(dtype)


def save(values: np.ndarray[Any, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        PIL.Image.fromarray(values).save(path)


def grows(disparity: Tensor | None) -> bool:
    """Whether it is a target, larger to the right."""
    assert disparity is not None
    assert disparity.shape == (1, *SIZE)
    assert disparity.dtype == torch.float32
    assert float(disparity.min()) >= 0.05 - 1e-6
    assert float(disparity.max()) == 1
    steps = disparity.diff(dim=-1)
    assert (steps >= 0).all() or (steps <= 0).all()
    return bool(steps.sum() > 0)


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("name", ["clear/17.png", "17.png", "clear/17.npy", "17.npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maps_are_found_by_relative_path_or_stem(
    tmp_path: Path, picture: Path, name: str, dtype: type
) -> None:
    save(ramp(dtype), tmp_path / "maps" / name)
    assert grows(folder_teacher(tmp_path / "maps", tmp_path / "data")(picture))


def test_the_relative_path_goes_before_the_stem(tmp_path: Path, picture: Path) -> None:
    save(ramp(np.uint8), tmp_path / "maps" / "clear" / "17.png")
    save(ramp(np.uint8)[:, ::-1].copy(), tmp_path / "maps" / "17.png")
    assert grows(folder_teacher(tmp_path / "maps", tmp_path / "data")(picture))
    assert not grows(folder_teacher(tmp_path / "maps", tmp_path / "elsewhere")(picture))


def test_of_several_maps_as_in_resides_its_the_first_is_taken(tmp_path: Path, picture: Path) -> None:
    save(ramp(np.uint8), tmp_path / "maps" / "17_2.png")
    save(ramp(np.uint8)[:, ::-1].copy(), tmp_path / "maps" / "17_10.png")
    assert grows(folder_teacher(tmp_path / "maps", tmp_path / "data")(picture))


def test_maps_of_depth_are_turned_round(tmp_path: Path, picture: Path) -> None:
    save(ramp(np.float32), tmp_path / "maps" / "17.npy")
    assert not grows(folder_teacher(tmp_path / "maps", tmp_path, values="depth")(picture))


def test_zero_stays_unknown(tmp_path: Path, picture: Path) -> None:
    values = ramp(np.uint16)
    values[2:4] = 0
    save(values, tmp_path / "maps" / "17.png")
    disparity = folder_teacher(tmp_path / "maps", tmp_path)(picture)
    assert disparity is not None
    assert ((disparity[0] == 0) == torch.from_numpy(values == 0)).all()


def test_missing_maps_and_folders_are_said_in_one_line(tmp_path: Path, picture: Path) -> None:
    maps = tmp_path / "maps"
    with pytest.raises(DataError, match=r"no folder .*maps of depth maps$"):
        folder_teacher(maps, tmp_path, values="depth")
    maps.mkdir()
    with pytest.raises(DataError, match=r"no disparity map for .*17.png; expected .*17.png \(or .npy\)$"):
        folder_teacher(maps, tmp_path)(picture)


def test_missing_maps_show_before_any_is_drawn(
    tmp_path: Path, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    save(ramp(np.uint8), tmp_path / "maps" / "17.png")
    teach = folder_teacher(tmp_path / "maps", tmp_path)
    check_teacher(teach, [picture, picture])
    assert caplog.messages == ["the teacher knows the depth of 1 of 1 pictures"]
    with pytest.raises(DataError, match=r"^no disparity map for .*18.jpg; .* \(2 of 3 pictures have none\)$"):
        check_teacher(teach, [picture, tmp_path / "18.jpg", tmp_path / "19.jpg"])


def test_a_set_that_knows_no_picture_is_refused_where_depth_comes_from_nowhere_else(
    tmp_path: Path, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    room = tmp_path / "rooms" / "clear" / "1.png"
    save(ramp(np.uint8), room)
    save(ramp(np.uint8), tmp_path / "rooms" / "depth" / "1.png")
    teach = own_depth(tmp_path / "rooms")
    with pytest.raises(
        DataError, match=r"the depth of none of the 1 pictures, such as .*17.png; expected .*1.png$"
    ):
        check_teacher(teach, [picture], needed=True)
    check_teacher(teach, [picture])
    check_teacher(teach, [picture, room], needed=True)
    assert caplog.messages[-2:] == [f"the teacher knows the depth of {n} of {n + 1} pictures" for n in (0, 1)]


# ---------------------------------------------------------------- networks


class Stub(ModuleType):
    """What is used of transformers: a processor and a network that sees the red channel of a picture."""

    def __init__(
        self, *, raises: Exception | None = None, kind: str = "relative", blank: bool = False
    ) -> None:
        super().__init__("transformers")
        self.calls: list[dict[str, Any]] = []
        self.runs = 0
        self.config = SimpleNamespace(depth_estimation_type=kind)
        self.raises, self.blank, self.weight = raises, blank, 1.0
        self.AutoImageProcessor = SimpleNamespace(from_pretrained=self.processor)
        self.AutoModelForDepthEstimation = SimpleNamespace(from_pretrained=self.network)

    def processor(self, name: str, **options: Any) -> Any:
        self.calls.append({"name": name, **options})
        if self.raises:
            raise self.raises
        return self

    def network(self, name: str, *, dtype: torch.dtype, **options: Any) -> torch.nn.Module:
        stub = self

        class Network(torch.nn.Module):
            config = self.config

            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.tensor(stub.weight))

            def forward(self, pixel_values: Tensor) -> SimpleNamespace:
                stub.runs += 1
                assert not torch.is_grad_enabled()
                assert not self.training
                assert pixel_values.dtype == dtype == torch.float32
                assert options == {"local_files_only": stub.calls[-1]["local_files_only"]}
                red = pixel_values[:, 0, ::2, ::2]
                return SimpleNamespace(predicted_depth=red * float("nan") if stub.blank else red)

        return Network()

    def __call__(self, images: PIL.Image.Image, return_tensors: str) -> Any:
        class Batch(dict[str, Tensor]):
            def to(self, device: str) -> Batch:
                return self

        assert return_tensors == "pt"
        assert images.mode == "RGB"
        values = torch.from_numpy(np.array(images, np.float32)).permute(2, 0, 1)[None]
        return Batch(pixel_values=values)

    @staticmethod
    def to_json_string() -> str:
        return "{}"

    @staticmethod
    def post_process_depth_estimation(found: Any, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        wide = torch.nn.functional.interpolate(found.predicted_depth[:, None], sizes[0], mode="bilinear")
        return [{"predicted_depth": wide[0, 0]}]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a stub; networks of earlier tests are forgotten."""

    def install(**options: Any) -> Stub:
        teachers._network.cache_clear()
        module = Stub(**options)
        monkeypatch.setitem(sys.modules, "transformers", module)
        return module

    yield install
    teachers._network.cache_clear()


@pytest.fixture
def brighter(tmp_path: Path) -> Path:
    """A picture that grows brighter from left to right, a step every two pixels."""
    path = tmp_path / "ramp.png"
    grey = (10 + 25 * (np.arange(SIZE[1]) // 2)) * np.ones((SIZE[0], 1))
    PIL.Image.fromarray(grey.astype(np.uint8)).save(path)  # grey, and still RGB for the network
    return path


def test_a_network_runs_once_a_picture_and_is_read_from_disk_after(
    tmp_path: Path, stub: Any, picture: Path, brighter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    module = stub()
    teach = transformers_teacher("some/network", tmp_path / "cache")
    first = teach(brighter)
    assert grows(first)
    renamed = brighter.rename(tmp_path / "renamed.png")
    for again in (teach(renamed), transformers_teacher("some/network", tmp_path / "cache")(renamed)):
        assert again is not None
        assert torch.equal(first, again)
    assert module.runs == 1
    teach(picture)
    assert module.runs == 2
    assert len(list((tmp_path / "cache").glob("some--network-*-disparity/*.png"))) == 2
    assert module.calls == [{"name": "some/network", "local_files_only": True}]
    assert caplog.messages[0] == f"depth teacher: some/network, its disparity kept in {tmp_path / 'cache'}"


def test_another_network_has_a_cache_of_its_own(tmp_path: Path, stub: Any, brighter: Path) -> None:
    module = stub()
    for name in ("a/b", "a/c"):
        transformers_teacher(name, tmp_path)(brighter)
    assert module.runs == 2


def test_a_name_that_comes_to_stand_for_other_weights_has_another_cache(
    tmp_path: Path, stub: Any, brighter: Path
) -> None:
    module = stub()
    transformers_teacher("a/b", tmp_path)(brighter)
    teachers._network.cache_clear()
    module.weight = 2.0
    transformers_teacher("a/b", tmp_path)(brighter)
    assert module.runs == 2


def test_a_damaged_file_of_the_cache_is_made_anew(
    tmp_path: Path, stub: Any, brighter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub()
    teach = transformers_teacher("a/b", tmp_path / "cache")
    first = teach(brighter)
    (kept,) = (tmp_path / "cache").glob("*/*.png")
    kept.write_bytes(b"half")
    assert torch.equal(teach(brighter), first)
    assert "cannot be read as a depth map" in caplog.messages[-1]
    assert kept.stat().st_size > 4


def test_the_disparity_of_a_network_is_kept_to_sixteen_bits(tmp_path: Path, stub: Any, picture: Path) -> None:
    stub()
    found = transformers_teacher("a/b", tmp_path)(picture)
    red = torch.from_numpy(np.array(PIL.Image.open(picture), np.float32))[None, None, ::2, ::2, 0]
    wide = torch.nn.functional.interpolate(red, SIZE, mode="bilinear")[0, 0]
    low, high = torch.quantile(wide, torch.tensor([0.02, 0.98])).tolist()
    expected = 0.05 + 0.95 * ((wide - low) / (high - low)).clamp(0, 1)
    assert found is not None
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)


def test_networks_of_metric_depth_are_turned_round_and_must_be_named_so(
    tmp_path: Path, stub: Any, brighter: Path
) -> None:
    stub(kind="metric")
    with pytest.raises(UsageError, match="a/b gives depth in metres, not disparity; say so: values='depth'"):
        transformers_teacher("a/b", tmp_path)
    assert not grows(transformers_teacher("a/b", tmp_path, values="depth")(brighter))


def test_an_even_result_is_even(tmp_path: Path, stub: Any) -> None:
    stub()
    PIL.Image.new("RGB", SIZE[::-1], "grey").save(tmp_path / "grey.png")
    found = transformers_teacher("a/b", tmp_path / "cache")(tmp_path / "grey.png")
    assert found is not None
    assert torch.equal(found, torch.ones(1, *SIZE))


def test_nan_is_refused_and_not_kept(tmp_path: Path, stub: Any, brighter: Path) -> None:
    stub(blank=True)
    for values in ("disparity", "depth"):
        with pytest.raises(DataError, match=r"a/b gives NaN or infinity for .*ramp.png; leave it out"):
            teacher("transformers:a/b", root=tmp_path, cache=tmp_path / "c", values=values)(brighter)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("c/*/*"))


def test_a_network_that_is_not_here_says_how_to_get_it(tmp_path: Path, stub: Any) -> None:
    stub(raises=OSError("offline\nand a long story"))
    with pytest.raises(WeightsError, match=r"not on this machine; fetch it once with: hf download a/b$"):
        transformers_teacher("a/b", tmp_path)
    with pytest.raises(
        WeightsError, match=r"not on this machine; check the name and the network \(offline\)$"
    ):
        transformers_teacher("a/b", tmp_path, download=True)
    stub(raises=OSError("no config.json"))
    with pytest.raises(
        WeightsError, match=r"is not on this machine; check the name and the folder \(no config"
    ):
        transformers_teacher(str(tmp_path / "nothing"), tmp_path)
    for damage in (SafetensorError("header too large"), RuntimeError("size mismatch")):
        stub(raises=damage)
        with pytest.raises(WeightsError, match=r"a/b is no depth network .* or is damaged \((header|size)"):
            transformers_teacher("a/b", tmp_path)
    stub(raises=ValueError("Unrecognized configuration class\nand a long list"))
    with pytest.raises(WeightsError, match=r"is no depth network .*\(Unrecognized configuration class\)$"):
        transformers_teacher("a/b", tmp_path)


def test_without_transformers_the_install_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fairweather\[teacher\]'"):
        transformers_teacher("a/b", tmp_path)


# ---------------------------------------------------------------- recipes


def test_a_recipe_says_its_teacher_in_words(tmp_path: Path, stub: Any, picture: Path, brighter: Path) -> None:
    module = stub()
    root = tmp_path / "data"
    save(ramp(np.uint8), root / "depth" / "17.png")
    asked = {"root": root, "cache": tmp_path / "cache"}
    assert teacher("none", **asked)(picture) is None
    assert grows(teacher("folder:depth", **asked)(picture))
    assert not grows(teacher("folder:depth", values="depth", **asked)(picture))
    assert not grows(teacher("own", **asked)(picture))  # of the set in the root itself, as depth
    assert teacher("own:.", **asked)(tmp_path / "other.png") is None
    assert grows(teacher("transformers:a/b", download=True, **asked)(brighter))
    assert module.calls == [{"name": "a/b", "local_files_only": False}]


@pytest.mark.parametrize("spec", ["", "nothing", "transformers", "transformers:", "None"])
def test_other_words_are_refused(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match="expected none, own:PATH, folder:PATH or transformers:NAME"):
        teacher(spec, root=tmp_path, cache=tmp_path)


def test_teachers_can_be_handed_to_worker_processes(tmp_path: Path, stub: Any, brighter: Path) -> None:
    stub()
    save(ramp(np.uint8), tmp_path / "ramp.png")
    for teach in (
        teacher("none", root=tmp_path, cache=tmp_path),
        folder_teacher(tmp_path, tmp_path),
        transformers_teacher("a/b", tmp_path / "cache"),
    ):
        here, there = teach(brighter), pickle.loads(pickle.dumps(teach))(brighter)
        assert (here is None and there is None) or torch.equal(here, there)
