"""Networks on other back ends than torch: what is exported, kept, chosen, refused, and how near bf16 must be."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny import DCMPNET, saved
from torch import Tensor, nn

import fairweather as fw
from fairweather import backends, cli, exporting, loading
from fairweather.backends import Computation, Exported, Facts, Kept, Notes, open_exported, size_class
from fairweather.errors import BackendError, FairweatherError, MissingExtraError, UsageError, WeightsError
from fairweather.exporting import facts_of, kept_export, write_exported
from fairweather.models.depth_network import DRDB
from fairweather.models.fusionnet import fusionnet_small
from fairweather.models.inference import for_inference
from fairweather.models.winograd import LEAST_IN_FILES, WinogradConv2d, with_winograd
from fairweather.night import NightRestorer
from fairweather.pipeline import Restorer
from fairweather.quantising import Calibration
from fairweather.runtime import limit_memory
from fairweather.weights import save_weights

BOTH = pytest.mark.parametrize("backend", ["onnx", "openvino"])
SUFFIX = backends.SUFFIXES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def exported(weights: Path) -> dict[str, Path]:
    """The same network as files for both back ends."""
    files = {name: weights.with_name(f"net{suffix}") for name, suffix in SUFFIX.items()}
    for name, file in files.items():
        fw.export(str(weights), file, to=name)
    return files


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("not to be called")


def facts(**changes: Any) -> Facts:
    """Of a network that works on any size."""
    some = {"model": "nafnet_tiny", "task": "derain", "sha256": "0" * 64, "inputs": ("visible",)}
    return Facts(**{**some, "multiple_of": 1, "least": 1, "version": "0", **changes})


# Exported files --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (65, 41), (136, 200)])
def test_an_exported_file_restores_as_its_weights_do(
    backend: str, size: tuple[int, int], exported: dict[str, Path], weights: Path
) -> None:
    picture = noise(3, *size)
    ours, expected = (fw.load(str(path)).restore(picture) for path in (exported[backend], weights))
    torch.testing.assert_close(ours.image, expected.image, rtol=0, atol=1e-5)
    assert (expected.image - picture).abs().max() > 0.01 or size == (1, 1)
    assert (ours.backend, expected.backend) == (backend, "torch")
    assert (ours.model, ours.task, ours.weights_sha256) == ("nafnet_tiny", "derain", expected.weights_sha256)


def test_an_exported_file_holds_the_inference_form_without_copies_of_maps(exported: dict[str, Path]) -> None:
    operations = Counter(node.op_type for node in onnx.load(exported["onnx"]).graph.node)
    # The plain form cuts maps in two, and norms in torch's form turn them twice.
    assert not operations["Split"]
    assert operations["Transpose"] == 1  # of the numbers that say how wide to pad
    assert (
        operations["ReduceL2"] == 2 * operations["ReduceMean"] // 3 == 4
    )  # two norms and a mean in each block


@BOTH
def test_a_network_with_constyle_is_exported_whole(backend: str, tmp_path: Path) -> None:
    arguments = {"width": 8, "num_blocks": (0, 0, 0, 1, 0, 0, 0)}
    torch.manual_seed(0)
    net = fw.create_model("constyle_restormer_small", **arguments)
    metadata = {
        "model": "constyle_restormer_small",
        "task": "derain",
        "model_args": json.dumps(arguments),
    }
    save_weights(net.state_dict(), tmp_path / "net.safetensors", metadata)
    file = tmp_path / f"net{SUFFIX[backend]}"
    fw.export(str(tmp_path / "net.safetensors"), file, to=backend)
    for size in ((40, 56), (73, 31)):  # the gate's matrix is of the picture, its size is not of the file
        picture = noise(3, *size)
        ours, expected = (fw.load(str(x)).restore(picture) for x in (file, tmp_path / "net.safetensors"))
        torch.testing.assert_close(ours.image, expected.image, rtol=0, atol=1e-5)
        assert (expected.image - picture).abs().max() > 0.01


@BOTH
def test_tiles_are_as_those_of_torch(backend: str, exported: dict[str, Path], weights: Path) -> None:
    picture = noise(3, 150, 270)
    ours, expected = (fw.load(str(path)).restore(picture, tile=136) for path in (exported[backend], weights))
    assert ours.tiles == expected.tiles > 1
    torch.testing.assert_close(ours.image, expected.image, rtol=0, atol=1e-5)


@BOTH
def test_an_export_comes_with_a_report(backend: str, exported: dict[str, Path], weights: Path) -> None:
    report = json.loads(backends.report_of(exported[backend]).read_text())
    assert report["model"] == "nafnet_tiny"
    assert report["weights_sha256"] == fw.load(str(weights)).sha256
    assert report["multiple_of"] == 8
    assert len(report["sizes"]) == 12
    assert any(side % 2 for size in report["sizes"] for side in size)
    assert 0 <= report["largest_difference"] < 1e-5
    assert report["versions"].keys() >= {
        "fairweather",
        "torch",
        "onnx",
        "onnxruntime" if backend == "onnx" else backend,
    }
    files = {"onnx": {"net.onnx"}, "openvino": {"net.xml", "net.bin"}}
    assert report["sha256"].keys() == files[backend]


@BOTH
def test_an_export_that_differs_from_torch_leaves_what_was_there(
    backend: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"net{SUFFIX[backend]}"
    file.write_text("old")

    def of_other_weights(path: Path) -> Exported:
        found = open_exported(path)
        return Exported(
            path, found.backend, found.facts, lambda x, half: found.run(x, half) + np.float32(0.01)
        )

    monkeypatch.setattr(exporting, "open_exported", of_other_weights)
    with pytest.raises(FairweatherError, match=r"off by 1\.0e-02 from torch at \d+ x \d+ .* --backend torch"):
        fw.export(str(weights), file, to=backend)
    assert [*tmp_path.iterdir()] == [file]
    assert file.read_text() == "old"


@BOTH
def test_a_damaged_file_is_refused(backend: str, exported: dict[str, Path], tmp_path: Path) -> None:
    for file in exported[backend].parent.glob("net.*"):
        shutil.copy(file, tmp_path)
    file = tmp_path / exported[backend].name
    largest = file if backend == "onnx" else file.with_suffix(".bin")
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{largest.name} is damaged or was changed"):
        fw.load(str(file))
    backends.report_of(file).unlink()  # without it, what is not whole is noticed still
    largest.write_bytes(content[:100])
    with pytest.raises(
        WeightsError, match=f"{file.name} is damaged or not a whole {file.suffix} file"
    ) as raised:
        fw.load(str(file))
    assert "\n" not in str(raised.value)
    file.write_bytes(b"<net")
    with pytest.raises(WeightsError, match="damaged"):
        fw.load(str(file))


def test_a_missing_half_is_told(exported: dict[str, Path], tmp_path: Path) -> None:
    for file in exported["openvino"].parent.glob("net.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(WeightsError, match=r"net\.bin is missing; it belongs to .*net\.xml"):
        fw.load(str(tmp_path / "net.xml"))
    with pytest.raises(WeightsError, match="no exported network at"):
        fw.load(str(tmp_path / "none.onnx"))


def test_a_file_of_another_maker_is_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(exported["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match=r"foreign\.onnx is not ours; make one with: fairweather export"):
        fw.load(str(tmp_path / "foreign.onnx"))


@BOTH
def test_a_file_for_another_task_or_back_end_is_refused(backend: str, exported: dict[str, Path]) -> None:
    file = exported[backend]
    assert fw.load("derain", model=file).backend == backend
    with pytest.raises(UsageError, match="was trained to derain, not to denoise"):
        fw.load("denoise", model=file)
    other = {"onnx": "openvino", "openvino": "onnx"}[backend]
    with pytest.raises(UsageError, match=f"is for {backend}, not for {other}"):
        fw.load(str(file), backend=other)
    with pytest.raises(UsageError, match="is exported already"):
        fw.export(str(file), to=backend)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "derain", "to": "onxx"}, "unknown back end 'onxx'; did you mean 'onnx'"),
        ({"name": "derain", "to": "onnx", "path": "a.xml"}, r"a\.xml: expected a name that ends in \.onnx"),
        ({"name": "auto", "to": "onnx"}, "several networks"),
        ({"name": "derian", "to": "onnx"}, "did you mean 'derain'"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fw.export(**arguments)


def test_a_family_that_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    made = facts(model="constyle_maxim")
    with pytest.raises(FairweatherError, match="constyle_maxim cannot be exported; use --backend torch"):
        write_exported(nn.Identity(), tmp_path / "a.onnx", made)
    assert not [*tmp_path.iterdir()]


@BOTH
def test_wide_convolutions_are_filtered_in_rows_at_every_size(backend: str, tmp_path: Path) -> None:
    """Writing compares with torch at twelve sizes, most of them no multiples of what goes in at once."""
    torch.manual_seed(0)
    wide = nn.Conv2d(LEAST_IN_FILES, LEAST_IN_FILES, 3, padding=1)
    block = DRDB(3, growth=LEAST_IN_FILES // 2)
    net = nn.Sequential(nn.Conv2d(3, LEAST_IN_FILES, 1), wide, nn.Conv2d(LEAST_IN_FILES, 3, 1), block).eval()
    filtered = with_winograd(for_inference(net), LEAST_IN_FILES).modules()
    assert sum(isinstance(part, WinogradConv2d) for part in filtered) == 1 + len(block.dense)
    written = write_exported(net, tmp_path / f"w{SUFFIX[backend]}", facts())
    assert written.largest_difference < 1e-5


@BOTH
def test_a_fusion_of_two_pictures_is_exported(backend: str, tmp_path: Path) -> None:
    net = fusionnet_small(width=4, num_layers=1, exit_widths=(4,))
    made = facts_of(net, model="fusionnet_small", task="night", sha256="")
    assert made.inputs == ("visible", "infrared")
    write_exported(for_inference(net), tmp_path / f"f{SUFFIX[backend]}", made)
    file = open_exported(tmp_path / f"f{SUFFIX[backend]}")
    cleaner = Restorer(
        nn.Identity(), model="nafnet_tiny", task="derain", sha256="", device="cpu", precision="fp32"
    )
    how = {"model": "fusionnet_small", "sha256": "", "device": "cpu", "precision": "fp32"}
    ours, expected = NightRestorer(None, cleaner, **how, exported=file), NightRestorer(net, cleaner, **how)
    visible, infrared = noise(3, 41, 67), noise(1, 41, 67).flip(-1)
    fused = ours.restore(visible, infrared, shift=(0.0, 0.0))
    plain = expected.restore(visible, infrared, shift=(0.0, 0.0))
    torch.testing.assert_close(fused.image, plain.image, rtol=0, atol=1e-5)
    assert fused.backend == backend
    assert not torch.equal(fused.image, visible)


@pytest.fixture(scope="session")
def int8(weights: Path) -> Path:
    """The same network with 1x1 convolutions in 8 bit."""
    done = fw.export(
        str(weights), weights.with_name("net8.xml"), to="openvino", int8=[noise(3, 80, 96), noise(3, 600, 50)]
    )
    assert done.decibels is not None
    return done.path


def test_a_network_in_int8_is_near_its_weights_and_says_what_it_is(int8: Path, weights: Path) -> None:
    picture = noise(3, 65, 90) * 0.8
    ours, expected = (fw.load(str(path)).restore(picture) for path in (int8, weights))
    difference = (ours.image - expected.image).square().mean().sqrt()
    assert 1e-5 < difference < 10 ** (-backends.ENOUGH / 20)  # it is near, and something was rounded
    assert (ours.precision, ours.backend) == ("int8+fp32", "openvino")
    assert fw.load(str(int8), precision="bf16").precision == "int8+bf16"
    assert ours.weights_sha256 == expected.weights_sha256
    report = json.loads(backends.report_of(int8).read_text())
    assert report["int8"]
    assert report["pictures"] == 2
    assert backends.ENOUGH <= report["decibels_from_fp32"] < 80
    assert report["versions"].keys() >= {"onnxruntime", "openvino"}


def test_only_the_inner_1x1_convolutions_are_quantised(weights: Path, tmp_path: Path) -> None:
    net, file = fw.load(str(weights)).net, tmp_path / "net.onnx"
    made = facts_of(net, model="nafnet_tiny", task="derain", sha256="")
    write_exported(net, file, made)
    Calibration([noise(3, 64, 64)], exporting.tensor_function(net, "nafnet_tiny"), made).quantise(file)
    graph = onnx.load(file).graph
    inputs = {node.output[0]: node.op_type for node in graph.node}
    weights_of = [inputs.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    points = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert 0 < weights_of.count("DequantizeLinear") == len(points) < len(weights_of)


def test_a_network_without_1x1_convolutions_is_not_quantised(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 1))
    write_exported(net, tmp_path / "net.onnx", facts())
    backends.report_of(tmp_path / "net.onnx").unlink()
    written = (tmp_path / "net.onnx").read_bytes()
    with pytest.raises(FairweatherError, match="no 1x1 convolution that int8 could make faster"):
        Calibration([noise(3, 8, 8)], net, facts()).quantise(tmp_path / "net.onnx")
    assert [*tmp_path.iterdir()] == [tmp_path / "net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == written


def test_a_network_that_int8_changes_too_much_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ENOUGH", 150.0)
    with pytest.raises(FairweatherError, match=r"in int8 is \d\d\.\d dB from fp32 .* at least 150 is taken"):
        fw.export(str(weights), tmp_path / "net.xml", to="openvino", int8=[noise(3, 64, 64)])
    assert not [*tmp_path.glob("*net*")]


def test_int8_is_refused_where_it_cannot_be(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="int8 is for openvino, not for onnx"):
        fw.export(str(weights), to="onnx", int8=[noise(3, 9, 9)])
    with pytest.raises(UsageError, match="networks of one picture, and fusionnet_small takes 2"):
        fw.export("night", to="openvino", int8=[noise(3, 9, 9)])
    monkeypatch.setattr(loading, "is_there", lambda package: package != "onnxruntime")
    with pytest.raises(
        MissingExtraError, match=r"int8 needs an optional part: pip install 'fairweather\[onnx\]'"
    ):
        fw.export(str(weights), to="openvino", int8=[noise(3, 9, 9)])


def test_a_back_end_that_fails_says_so_in_one_line(exported: dict[str, Path]) -> None:
    def fail(inputs: list[np.ndarray], half: bool) -> np.ndarray:
        raise ValueError("a\nb")

    broken = dataclasses.replace(open_exported(exported["onnx"]), run=fail)
    with pytest.raises(BackendError, match=r"^onnx failed with ValueError \(a b\); use --precision fp32, or"):
        broken(noise(1, 3, 8, 8))


def test_threads_are_those_of_torch(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    import openvino

    asked: dict[str, Any] = {}
    session, core = onnxruntime.InferenceSession, openvino.Core

    class Watched(core):  # type: ignore[misc, valid-type]
        def compile_model(self, net: Any, device: str, settings: dict[str, Any]) -> Any:
            asked.update(settings)
            return super().compile_model(net, device, settings)

    def watched(path: Path, options: Any, **others: Any) -> Any:
        asked["onnx"] = options.intra_op_num_threads
        return session(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    monkeypatch.setattr(openvino, "Core", Watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for file in exported.values():
        fw.load(str(file)).restore(noise(3, 8, 8))
    assert asked["onnx"] == asked["INFERENCE_NUM_THREADS"] == 3
    assert asked["INFERENCE_PRECISION_HINT"] == "f32"  # it would take bf16 by itself


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of all that OpenVINO compiles."""
    import openvino

    asked: list[dict[str, Any]] = []
    core = openvino.Core

    class Watched(core):  # type: ignore[misc, valid-type]
        def compile_model(self, net: Any, device: str, settings: dict[str, Any]) -> Any:
            asked.append(settings)
            return super().compile_model(net, device, settings)

    monkeypatch.setattr(openvino, "Core", Watched)
    return asked


def test_under_a_budget_what_computes_is_there_before_the_rest_is_reckoned(
    exported: dict[str, Path], compiled: list[dict[str, Any]]
) -> None:
    """And nothing is compiled for one size, which would come on top."""
    limit_memory(1e12)
    try:
        network = open_exported(exported["openvino"])
        exporting.warm_up(network, half=True)
        assert sorted(x["INFERENCE_PRECISION_HINT"] for x in compiled) == ["bf16", "f32"]
        for _ in range(3):
            network(torch.rand(1, 3, 24, 24))
        assert len(compiled) == 2
    finally:
        limit_memory()


def test_workers_compute_side_by_side_each_with_its_threads(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, compiled: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    alone = open_exported(exported["openvino"])
    limit_memory(workers=2)
    try:
        network = open_exported(exported["openvino"])
    finally:
        limit_memory()
    pictures = [torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    expected = [alone(picture) for picture in pictures]
    with ThreadPoolExecutor(2) as workers:
        for found, right in zip(workers.map(network, pictures), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
    told = [(settings["NUM_STREAMS"], settings["INFERENCE_NUM_THREADS"]) for settings in compiled]
    assert set(told) == {(1, 3), (2, 6)}


def test_shapes_that_come_again_and_again_give_the_same(exported: dict[str, Path]) -> None:
    network = open_exported(exported["openvino"])
    first = [network(noise(1, 3, 8 * i, 16)) for i in (1, 2, 3, 4)]
    for _ in range(2):
        for i, expected in enumerate(first, start=1):
            torch.testing.assert_close(network(noise(1, 3, 8 * i, 16)), expected, rtol=0, atol=1e-5)


# The cache -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_back_end_exports_once(backend: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    picture = noise(3, 21, 34)
    expected = fw.load(str(weights)).restore(picture).image
    first = fw.load(str(weights), backend=backend, tell=told.append)
    assert len(told) == 1
    assert told[0].startswith(f"exporting nafnet_tiny for {backend}")
    monkeypatch.setattr(exporting, "write_exported", refuse)
    again = fw.load(str(weights), backend=backend, tell=refuse)
    for restorer in (first, again):
        result = restorer.restore(picture)
        assert result.backend == backend
        torch.testing.assert_close(result.image, expected, rtol=0, atol=1e-5)


def test_other_weights_or_code_are_exported_anew(
    weights: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fw.load(str(weights), backend="onnx")
    fw.load(str(saved(tmp_path, seed=1)), backend="onnx")
    assert len([*(cache / "exports").iterdir()]) == 2
    monkeypatch.setattr(exporting, "_sources", lambda: "edited")
    fw.load(str(weights), backend="onnx")
    assert len([*(cache / "exports").iterdir()]) == 3


def test_a_damaged_export_in_the_cache_is_made_again(weights: Path, cache: Path) -> None:
    fw.load(str(weights), backend="onnx")
    (file,) = cache.glob("exports/*/network.onnx")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    fw.load(str(weights), backend="onnx").restore(noise(3, 8, 8))
    assert len(file.read_bytes()) == len(whole)


def test_where_another_process_was_faster_its_export_is_taken(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = fw.create_model("nafnet_tiny", weights=weights)
    made = facts_of(net, model="nafnet_tiny", task="derain", sha256="5" * 64)
    write, there = write_exported, []

    def slowly(*arguments: Any) -> None:
        write(*arguments)
        monkeypatch.setattr(exporting, "write_exported", write)
        there.append(kept_export(net, made, "onnx", tell=lambda _: None).path)

    monkeypatch.setattr(exporting, "write_exported", slowly)
    assert kept_export(net, made, "onnx", tell=lambda _: None).path == there[0]
    assert [*(cache / "exports").iterdir()] == [there[0].parent]


def test_a_cache_that_cannot_be_written_is_told(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be written .* set FAIRWEATHER_CACHE"):
        fw.load(str(weights), backend="onnx")
    Kept("a")["b"] = 1  # a pity, no more


def test_what_is_kept_is_there_next_time_and_damage_is_forgotten() -> None:
    Kept("a", 1)["x"] = 2.5
    assert Kept("a", 1) == {"x": 2.5}
    assert Kept("a", 2) == {}
    Kept("a", 1).path.write_text("{broken")
    assert Kept("a", 1) == {}


# What is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_back_end_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown backend 'openvin'; did you mean 'openvino'"):
        fw.load("derain", backend="openvin")


@BOTH
def test_a_back_end_that_is_not_installed_says_how_to_get_it(
    backend: str, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backends.PACKAGES[backend][-1], None)
    for ask in (
        lambda: fw.load("derain", backend=backend),
        lambda: fw.load(str(exported[backend])),
        lambda: fw.export("derain", to=backend),
    ):
        with pytest.raises(MissingExtraError, match=rf"pip install 'fairweather\[{backend}\]'"):
            ask()
    assert backend not in backends.installed()


def test_what_a_back_end_cannot_do_is_refused(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, backend in (("derain", "onnx"), (str(exported["onnx"]), "torch")):
        with pytest.raises(UsageError, match="ONNX Runtime has no bf16 on a CPU"):
            fw.load(name, backend=backend, precision="bf16")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="computes on the CPU, not on 'cuda'"):
        fw.load("derain", backend="openvino", device="cuda")


def test_a_large_picture_that_needs_shared_statistics_goes_to_torch_or_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = fw.create_model("dcmpnet", **DCMPNET)
    function = exporting.tensor_function(net, "dcmpnet")

    def run(inputs: list[np.ndarray], half: bool) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(function(torch.from_numpy(inputs[0])))

    file = Exported(tmp_path, "onnx", facts_of(net, model="dcmpnet", task="dehaze", sha256=""), run)
    how = {"model": "dcmpnet", "task": "dehaze", "sha256": "", "device": "cpu", "precision": "fp32"}
    alone, both, ours = (
        Restorer(None, **how, exported=file),
        Restorer(net, **how, exported=file),
        Restorer(net, **how),
    )
    small, large = noise(3, 40, 31), noise(3, 40, 300)
    for restorer in (alone, both):
        torch.testing.assert_close(
            restorer.restore(small, depth=False).image, ours.restore(small).image, rtol=0, atol=1e-5
        )
    with pytest.raises(BackendError, match="--backend torch"):
        alone.restore(large, tile=280)
    result = both.restore(large, tile=280)
    assert any("took torch" in warning for warning in result.warnings)
    assert torch.equal(result.image, ours.restore(large, tile=280).image)
    assert alone.restore(small).depth is None
    assert both.restore(small).depth is not None


# bf16 ------------------------------------------------------------------------------------------------------------


def off_by(difference: float, calls: list[bool]) -> Callable[[bool], Tensor]:
    """A tile with something to see; in bf16 it is off."""

    def forward(half: bool) -> Tensor:
        calls.append(half)
        return noise(1, 3, 8, 8) + half * difference

    return forward


def test_bf16_is_used_where_it_is_near_fp32_and_measured_once_for_each_size() -> None:
    calls: list[bool] = []
    notes = Notes()
    computation = Computation(model="m", precision="bf16")
    for _ in range(3):
        y = computation.run(off_by(0.001, calls), (8, 8), notes=notes)
        torch.testing.assert_close(y, noise(1, 3, 8, 8) + 0.001)
    assert calls == [False, True, True, True]
    assert computation.measured == {size_class(8, 8): pytest.approx(60, abs=0.1)}
    computation.run(off_by(0.001, calls), (64, 64), notes=notes)
    assert len(computation.measured) == 2
    assert notes.bf16_psnr == pytest.approx(60, abs=0.1)
    assert not notes.warnings


def test_bf16_that_is_far_from_fp32_is_replaced_and_told() -> None:
    calls: list[bool] = []
    notes = Notes()
    computation = Computation(model="m", precision="bf16")
    for _ in range(2):
        y = computation.run(off_by(0.01, calls), (8, 8), notes=notes)
        assert torch.equal(y, noise(1, 3, 8, 8))
    assert calls == [False, True, False]
    assert notes.bf16_psnr == pytest.approx(40, abs=0.1)
    assert notes.warnings == [
        "bf16 is 40.0 dB from fp32 for pictures of this size, less than 45; computed in fp32"
    ]


def test_a_black_tile_says_nothing_about_bf16() -> None:
    computation = Computation(model="m", precision="bf16")
    notes = Notes()
    computation.run(lambda half: torch.zeros(1, 3, 8, 8), (8, 8), notes=notes)
    assert not computation.measured
    assert notes == Notes()


def test_a_picture_that_is_left_alone_says_nothing_about_bf16() -> None:
    calls: list[bool] = []
    notes = Notes()
    computation = Computation(model="m", precision="bf16")
    for _ in range(2):
        computation.run(off_by(0.1, calls), (8, 8), notes=notes, given=noise(1, 3, 8, 8))
    assert calls == [False, False]
    assert notes == Notes()
    computation.run(off_by(0.001, calls), (8, 8), notes=notes, given=noise(1, 3, 8, 8) + 0.1)
    assert computation.measured == {size_class(8, 8): pytest.approx(60, abs=0.1)}


def test_what_a_result_means_decides_how_far_bf16_is_off() -> None:
    computation = Computation(model="m", precision="bf16")
    computation.run(
        off_by(0.1, []), (8, 8), notes=Notes(), seen=lambda y: 0.01 * y.clamp(0, 1) + noise(1, 3, 8, 8)
    )
    assert computation.measured[size_class(8, 8)] > 60


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_is_measured_once_and_the_figure_kept(
    backend: str, weights: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = noise(3, 64, 80)
    with caplog.at_level("INFO", logger="fairweather"):
        for _ in range(2):
            restorer = fw.load(str(weights), backend=backend, precision="bf16")
            assert isinstance(restorer, Restorer)
            result = restorer.restore(picture)
    assert sum("dB from fp32 at 64 x 80 pixels" in line for line in caplog.messages) == 1
    (decibels,) = restorer.computation.measured.values()
    assert result.bf16_psnr == decibels
    assert bool(result.warnings) == (decibels < backends.ENOUGH)
    exact = fw.load(str(weights)).restore(picture).image
    assert torch.allclose(result.image, exact, atol=0.05)


def test_haze_is_found_in_fp32_where_bf16_differs_from_picture_to_picture(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not exporting.trusts_bf16("openvino", "dcmpnet_small")
    assert exporting.trusts_bf16("torch", "dcmpnet_small")
    assert exporting.trusts_bf16("openvino", "nafnet_small")
    monkeypatch.setattr("fairweather.loading.trusts_bf16", lambda backend, model: backend == "torch")
    told: list[str] = []
    restorer = fw.load(str(weights), backend="openvino", precision="bf16", tell=told.append)
    assert restorer.precision == "fp32"
    assert told[-1] == "nafnet_tiny: openvino is too far from fp32 in bf16; computed in fp32"
    assert restorer.restore(noise(3, 64, 80)).bf16_psnr is None
    assert fw.load(str(weights), precision="bf16", tell=told.append).precision == "bf16"


# Choosing --------------------------------------------------------------------------------------------------------


def test_auto_times_in_fp32_what_would_not_compute_in_bf16(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: dict[str, set[bool]] = {}

    def compute(forward: object, *_: Tensor, half: bool, device: str) -> None:
        halves.setdefault(getattr(forward, "backend", "torch"), set()).add(half)

    monkeypatch.setattr(exporting, "compute", compute)
    monkeypatch.setattr(exporting, "trusts_bf16", lambda backend, model: backend == "torch")
    told: list[str] = []
    fw.load(str(weights), backend="auto", precision="bf16", tell=told.append)
    assert halves == {"torch": {True}, "openvino": {False}}
    assert any(re.search(r"torch \d+ ms in bf16, openvino \d+ ms in fp32 for", line) for line in told)


def test_auto_times_what_is_installed_and_remembers(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    chosen = fw.load(str(weights), backend="auto", tell=told.append)
    assert told[0] == "nafnet_tiny: finding the fastest of torch, onnx, openvino, once on this machine"
    assert told[-1].endswith(f" ms in fp32 for 256 x 256 pixels; {chosen.backend} it is")
    assert all(f"{name} " in told[-1] for name in ("torch", "onnx", "openvino"))
    monkeypatch.setattr(exporting, "_timed", refuse)
    assert fw.load(str(weights), backend="auto", tell=refuse).backend == chosen.backend


@pytest.mark.parametrize("fastest", ["torch", "openvino"])
def test_auto_takes_the_fastest(fastest: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def timed(net: nn.Module, facts: Facts, names: list[str], *_: Any) -> dict[str, float]:
        asked.append(names)
        return {name: 1.0 + (name != fastest) for name in names}

    monkeypatch.setattr(exporting, "_timed", timed)
    assert fw.load(str(weights), backend="auto").backend == fastest
    assert fw.load(str(weights), backend="auto", precision="bf16").backend == fastest
    assert asked == [["torch", "onnx", "openvino"], ["torch", "openvino"]]


def test_auto_is_torch_where_nothing_else_can(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def cannot(*_: Any) -> None:
        raise FairweatherError("cannot be exported")

    monkeypatch.setattr(exporting, "write_exported", cannot)
    assert fw.load(str(weights), backend="auto", tell=told.append).backend == "torch"
    assert "onnx is left out: cannot be exported" in told
    monkeypatch.setattr(exporting, "installed", lambda precision: ["torch"])
    monkeypatch.setattr(exporting, "Kept", refuse)
    assert fw.load(str(weights), backend="auto", tell=refuse).backend == "torch"


# The command line ------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fairweather", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_export_and_backend_on_the_command_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fw.images.write_picture(fw.images.Picture(pixels=noise(3, 20, 30)), Path("a.png"))  # type: ignore[attr-defined]
    assert run(monkeypatch, "export", "derain", "--model", weights, "--to", "onnx", "-o", "net.onnx") == 0
    assert "at 12 sizes; see net.onnx.json" in capsys.readouterr().err
    assert run(monkeypatch, "derain", "a.png", "--model", "net.onnx") == 0
    assert "nafnet_tiny on cpu (onnx), fp32" in capsys.readouterr().err
    assert (
        run(monkeypatch, "derain", "a.png", "--model", weights, "--backend", "onnx", "-o", "b.png", "--json")
        == 0
    )
    said = capsys.readouterr()
    assert json.loads(said.out)["backend"] == "onnx"
    assert "exporting nafnet_tiny for onnx" in said.err
    assert run(monkeypatch, "derain", "a.png", "--backend", "onxx") == 2
    assert capsys.readouterr().err.startswith("fairweather: unknown backend 'onxx'; did you mean 'onnx'?")
    assert run(monkeypatch, "export", "derain", "--to", "tflite") == 2


def test_int8_on_the_command_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fw.images.write_picture(fw.images.Picture(pixels=noise(3, 40, 50)), Path("like/a.png"))  # type: ignore[attr-defined]
    export = ("export", "derain", "--model", weights, "--to", "openvino", "--int8")
    assert run(monkeypatch, *export, "like") == 0
    told = "nafnet_tiny-derain-int8.xml: int8, 5"
    assert capsys.readouterr().err.startswith(told)
    assert run(monkeypatch, "derain", "like", "--model", "nafnet_tiny-derain-int8.xml", "-o", "out") == 0
    assert "nafnet_tiny on cpu (openvino), int8+fp32" in capsys.readouterr().err
    assert run(monkeypatch, *export, "nowhere") == 2
    assert capsys.readouterr().err == "fairweather: no such file or folder: nowhere\n"


def test_restore_gives_its_back_end_to_the_tasks_that_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = fw.load("auto", backend="onnx")
    assert isinstance(restorer, fw.auto.AutoRestorer)  # type: ignore[attr-defined]
    asked: list[Any] = []
    monkeypatch.setattr(loading, "exported_for", lambda *_, **k: asked.append(_[2]))
    restorer.restorer("derain")
    assert asked == ["onnx"]
