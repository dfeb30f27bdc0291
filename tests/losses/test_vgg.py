from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fairweather.errors import UsageError, WeightsError
from fairweather.losses import vgg
from fairweather.losses.vgg import VGG, load_vgg

SMALL = ("relu1_1", "relu2_1")  # a few thousand parameters


def published(seed: int = 0) -> dict[str, Tensor]:
    """What torchvision stores, as far as SMALL needs it, and more: a later convolution and the classifier."""
    state = load_vgg(levels=SMALL, weights="random", seed=seed).state_dict()
    return state | {"features.7.weight": torch.zeros(128, 128, 3, 3), "classifier.6.bias": torch.zeros(1000)}


def as_file(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def no_network(url: str) -> IO[bytes]:
    raise URLError("no route to host")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], IO[bytes]]:
    """A stand-in for the place where torchvision publishes: one small file under an address with its digest."""
    data = as_file(published(seed=3))
    address = f"https://example.org/models/vgg19-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setitem(vgg.PUBLISHED, "vgg19", address)

    def opener(url: str) -> IO[bytes]:
        assert url == address
        return io.BytesIO(data)

    return opener


def test_levels_are_the_modules_that_the_losses_name() -> None:
    with torch.device("meta"):
        assert VGG("vgg19").modules_of_levels == [1, 6, 11, 20, 29]
        last = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
        assert VGG("vgg16", levels=last).modules_of_levels == [3, 8, 15, 22, 29]
        names = VGG("vgg19").state_dict().keys()
    numbers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)  # torchvision's, up to the last level
    assert names == {f"features.{i}.{kind}" for i in numbers for kind in ("weight", "bias")}


def test_maps_come_in_the_order_asked_for_and_are_positive() -> None:
    network = load_vgg("vgg16", levels=("relu2_2", "relu1_2"), weights="random")
    maps = network(torch.randn(1, 3, 17, 20))
    assert [tuple(m.shape) for m in maps] == [(1, 128, 8, 10), (1, 64, 17, 20)]
    assert all((m >= 0).all() for m in maps)


def test_an_unknown_level_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown level of vgg16 'relu3_4'; did you mean 'relu3_3'"):
        VGG("vgg16", levels=("relu3_4",))


def test_nothing_is_trained_but_gradients_pass() -> None:
    picture = torch.randn(1, 3, 8, 8, requires_grad=True)
    network = load_vgg(levels=SMALL, weights="random")
    torch.stack([m.mean() for m in network(picture)]).sum().backward()
    assert picture.grad is not None
    assert picture.grad.any()
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_load_with_or_without_the_classifier(tmp_path: Path, suffix: str) -> None:
    for rest in ("features", ""):
        state = {name: value for name, value in published(seed=5).items() if name.startswith(rest)}
        path = tmp_path / f"vgg{rest}{suffix}"
        if suffix == ".pth":
            path.write_bytes(as_file(state))
        else:
            save_file(state, path)
        for name, value in load_vgg(levels=SMALL, weights=path).state_dict().items():
            assert torch.equal(value, state[name])


def test_random_features_are_he_normal_and_fixed_by_their_seed() -> None:
    first, again, other = (
        load_vgg(levels=SMALL, weights="random", seed=seed).features[5].weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    path.write_bytes(as_file(published() | {"features.5.weight": torch.zeros(128, 3, 3, 3)}))
    with pytest.raises(
        WeightsError, match=r"vgg19: features.5.weight is \(128, 3, 3, 3\), expected \(128, 64"
    ):
        load_vgg(levels=SMALL, weights=path)
    path.write_bytes(as_file({"state_dict": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"features.0.weight is nothing, expected \(64, 3, 3, 3\)"):
        load_vgg(levels=SMALL, weights=path)


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    with pytest.raises(WeightsError, match=r"no weights at .*; expected a file, 'download' or 'random'"):
        load_vgg(levels=SMALL, weights=str(path))
    code = as_file({"features.0.weight": Path()})  # a pickle may hold any object; only tensors are taken
    for data in (b"", as_file(published())[:3000], b"no weights", code):
        path.write_bytes(data)
        with pytest.raises(
            WeightsError, match="not a whole PyTorch file of tensors and plain values"
        ) as caught:
            load_vgg(levels=SMALL, weights=path)
        assert "\n" not in str(caught.value)


def test_a_download_is_pulled_once_and_checked_by_its_name(
    tmp_path: Path, site: Callable[[str], IO[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for opener in (site, no_network):
        network = load_vgg(levels=SMALL, weights="download", cache=tmp_path, opener=opener)
        assert torch.equal(network.features[5].weight, published(seed=3)["features.5.weight"])
    file = next(tmp_path.iterdir())
    said = [message for message in caplog.messages if "random" not in message]  # that is the test's own
    assert said[0].startswith("downloading https://example.org/models/vgg19-")
    assert said[1:] == [f"features of vgg19: {file}"] * 2

    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"is damaged: its SHA-256 does not start with .*; delete it"):
        load_vgg(levels=SMALL, weights="download", cache=tmp_path, opener=no_network)


def test_a_damaged_download_leaves_nothing_behind(tmp_path: Path, site: Callable[[str], IO[bytes]]) -> None:
    def cut_short(url: str) -> IO[bytes]:
        return io.BytesIO(site(url).read()[:-1])

    with pytest.raises(WeightsError, match="came damaged"):
        load_vgg(levels=SMALL, weights="download", cache=tmp_path, opener=cut_short)
    assert not list(tmp_path.iterdir())


def test_offline_says_in_one_line_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"cannot download https://download.pytorch.org/.*no route"
    ) as caught:
        load_vgg(levels=SMALL, weights="download", cache=tmp_path, opener=no_network)
    assert f"put it into {tmp_path}, or use 'random' features" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_log_says_that_features_are_random(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_vgg(levels=SMALL, weights="random", seed=7)
    assert caplog.messages == ["features of vgg19: random (He-normal, seed 7), not ImageNet's"]
