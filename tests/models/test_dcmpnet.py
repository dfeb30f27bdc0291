"""DCMPNet's parts alone, the switches of its ablations, and statistics shared between tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from tiny import DCMPNET
from torch import nn

import fairweather as fw
from fairweather.errors import UsageError
from fairweather.models import restored
from fairweather.models.dcmpnet import MFM, DCMPNet
from fairweather.models.depth_network import DRDB
from fairweather.models.haze import Haze, dark_channel_prior
from fairweather.models.inference import for_inference
from fairweather.models.layers import record, replay
from fairweather.models.legm import LEGM
from fairweather.weights import save_weights


def built(**options: Any) -> DCMPNet:
    torch.manual_seed(0)
    net = fw.create_model("dcmpnet", **DCMPNET, **options)
    assert isinstance(net, DCMPNet)
    return net.requires_grad_(False)


def size(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_legm_mfm_and_drdb_stand_alone() -> None:
    x = torch.rand(2, 8, 13, 17)
    assert LEGM(8, depth=2, attention=1, heads=2)(x).shape == x.shape
    assert MFM(8)(x, x.flip(-1)).shape == x.shape
    assert DRDB(8)(x).shape == x.shape


@pytest.mark.parametrize(("depth", "attention", "least"), [(2, 0, 3), (1, 1, 5), (2, 1, 7), (2, 2, 7)])
def test_legm_says_which_maps_are_too_small(depth: int, attention: int, least: int) -> None:
    legm = LEGM(8, depth=depth, attention=attention, heads=2)
    assert legm(torch.rand(1, 8, least, 20)).shape == (1, 8, least, 20)
    with pytest.raises(ValueError, match=f"a map of 20x{least - 1} is too small .*; give it {least} or more"):
        legm(torch.rand(1, 8, 20, least - 1))


@pytest.mark.parametrize("part", ["legm_attention", "mfm", "msaam", "depth_branch", "depth_network"])
def test_a_part_that_is_left_out_is_gone_and_the_rest_runs(part: str) -> None:
    whole, without = built(), built(**{part: False})
    assert size(without) < size(whole)
    out = without(torch.rand(1, 3, 40, 36))
    assert out.clear.shape == (1, 3, 40, 36)
    assert (out.inner_depth is None) == (part == "depth_branch")
    assert (out.depth is None) == (part == "depth_network")


def test_the_decoder_enters_with_the_stage_it_is_told() -> None:
    nets = {entry: built(decoder_entry=entry) for entry in ("m2", "e3")}
    nets["e3"].load_state_dict(nets["m2"].state_dict())  # the same weights
    x = torch.rand(1, 3, 32, 32)
    assert not torch.equal(nets["m2"](x).clear, nets["e3"](x).clear)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("reconstruction", ["residual", "scattering"])
def test_reduced_grids_keep_odd_sizes(patch_size: int, reconstruction: str) -> None:
    net = built(patch_size=patch_size, reconstruction=reconstruction)
    out = net(torch.rand(2, 3, 37, 51))
    assert out.clear.shape == (2, 3, 37, 51)
    assert out.depth.shape == out.inner_depth.shape == (2, 1, 37, 51)


@pytest.mark.parametrize("name", ["dcmpnet", "dcmpnet_small"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 150), (7, 3), (64, 64), (129, 130)])
@torch.inference_mode()
def test_any_size_comes_back_at_its_size(name: str, shape: tuple[int, int]) -> None:
    out = fw.create_model(name, **DCMPNET)(torch.rand(2, 3, *shape))
    assert out.clear.shape == (2, 3, *shape)
    assert out.depth.shape == out.inner_depth.shape == (2, 1, *shape)
    assert all(x.isfinite().all() for x in out[:3])


def test_large_windows_find_pixels_to_mirror_in_small_pictures() -> None:
    assert built(window=16)(torch.rand(1, 3, 20, 61)).clear.shape == (1, 3, 20, 61)


def test_the_picture_alone_is_that_of_the_whole_forward_pass() -> None:
    net, x = built(), torch.rand(1, 3, 33, 40)
    assert torch.equal(restored(net, x), net(x).clear)
    assert torch.equal(net.depth(restored(net, x)), net(x).depth)


def test_a_side_of_25_is_mirrored_and_not_repeated() -> None:
    """As published; only shorter sides are continued by their last row."""
    net, x = built(), torch.rand(1, 3, 25, 40)
    mirrored = F.pad(x, (0, 0, 0, 3), mode="reflect")
    assert torch.equal(net(x).clear, net(mirrored).clear[..., :25, :])


@pytest.fixture
def _annotations_unchecked() -> Iterator[None]:
    """As in use: tests check annotations, and would refuse a tuple of another length first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": (1, 3, 2, 1, 1)}, "attention of 3 heads"),
        ({"heads": (0, 2, 2, 1, 1)}, "attention of 0 heads"),
        ({"attention": (2, 1, 1, 0, 0)}, "in 2 of 1 blocks"),
        ({"attention": (-1, 1, 1, 0, 0)}, "in -1 of 1 blocks"),
        ({"ratios": (0.1,) * 5}, "MLPs of ratio 0.1"),
        ({"widths": (4, 8, 8, 8, 8)}, "must mirror the first two"),
        ({"widths": (4, 8)}, r"widths=\(4, 8\): expected 5 values"),
        ({"depths": (1,) * 6}, "depths=.*: expected 5 values"),
        ({"depths": (0,) * 5, "attention": (0,) * 5}, "must be 1 or more"),
        ({"growth": 0}, "must be 1 or more"),
        ({"patch_size": 0}, "must be 1 or more"),
        ({"window": 0}, "must be 1 or more"),
        ({"patch_size": 1.5}, "cannot be built with .*1.5"),
        ({"reconstruction": "scatering"}, "did you mean 'scattering'"),
        ({"decoder_entry": "m3"}, "did you mean 'm2'"),
        ({"msam": False}, "did you mean 'msaam'"),
    ],
)
def test_impossible_arguments_are_told_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        fw.create_model("dcmpnet", **(DCMPNET | options))
    assert "\n" not in str(caught.value)


def test_a_fresh_network_starts_at_the_guess_of_the_prior() -> None:
    """Nearly: it trusts the guess by sigmoid(2), and is sure by sigmoid(10) that there is haze."""
    hazy = torch.rand(1, 3, 64, 64) * 0.4 + 0.5
    guess = dark_channel_prior(hazy)
    share = torch.tensor([2.0, 10.0]).sigmoid().prod()
    expected = Haze(guess.log_transmission[:, 1:2] * share, guess.airlight).removed(hazy)
    found = built(reconstruction="scattering").eval()(hazy).clear
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_replayed_statistics_of_the_picture_itself_change_nothing() -> None:
    net, x = built(reconstruction="scattering"), torch.rand(1, 3, 48, 48)
    with record() as statistics:
        alone = restored(net, x)
    assert statistics
    with replay(statistics):
        again = restored(net, x)
    assert torch.equal(alone, again)


@pytest.mark.parametrize("name", ["dcmpnet", "dcmpnet_small"])
def test_statistics_mean_the_same_in_the_inference_form(name: str) -> None:
    """Those of another picture, recorded by either form, change what both make of a picture in the same way."""
    torch.manual_seed(0)
    net = fw.create_model(name, **DCMPNET).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    fast = for_inference(net)
    x, other = torch.rand(2, 1, 3, 48, 64)
    results = []
    for recorder in (net, fast):
        with record() as statistics:
            restored(recorder, other)
        for form in (net, fast):
            with replay(statistics):
                results.append(restored(form, x))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)
    assert not torch.allclose(restored(net, x), results[0], atol=1e-5)


def test_statistics_recorded_in_bf16_serve_in_fp32() -> None:
    """A tile that overflows in bf16 is computed again in fp32, with the statistics that there are."""
    net, x = built(), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16), record() as statistics:
        restored(net, x)
    assert {value.dtype for values in statistics for value in values} == {torch.float32}
    with replay(statistics):
        assert restored(net, x).isfinite().all()


@pytest.mark.parametrize("name", ["dcmpnet", "dcmpnet_small"])
def test_every_parameter_receives_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    wide = {"unet_width": 16, "growth": 16, "depth_channels": (16, 16, 16, 16)}  # else some ReLU is dead
    net = fw.create_model(name, **(DCMPNET | wide))
    torch.nn.init.normal_(net.dehazing.patch_unembed.weight, std=0.02)  # dcmpnet_small's starts at zero
    out = net(torch.rand(4, 3, 128, 128))
    (out.clear.square().mean() + out.depth.square().mean()).backward()
    without = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    # Instance norm takes away what a bias before it adds.
    assert without <= {"dehazing.msaam.to_half.bias", "dehazing.msaam.to_quarter.bias"}


def test_saved_weights_load_again(tmp_path: Path) -> None:
    net = fw.create_model("dcmpnet_small", **DCMPNET)
    net.load_state_dict({k: v.half().to(v.dtype) for k, v in net.state_dict().items()})
    save_weights(net.state_dict(), tmp_path / "net.safetensors", {"model": "dcmpnet_small"})
    again = fw.create_model("dcmpnet_small", weights=tmp_path / "net.safetensors", **DCMPNET)
    x = torch.rand(1, 3, 50, 40)
    with torch.inference_mode():
        for one, other in zip(net(x)[:3], again(x)[:3], strict=True):
            assert torch.equal(one, other)


@torch.inference_mode()
def test_a_restrained_network_does_a_share_of_what_it_learnt() -> None:
    nets = [fw.create_model("dcmpnet_small", restraint=share).eval() for share in (1.0, 0.25)]
    x = torch.rand(1, 3, 64, 64)
    prior = nets[0].haze(x).airlight
    nn.init.normal_(nets[0].dehazing.patch_unembed.weight, std=0.01)
    nets[1].load_state_dict(nets[0].state_dict())
    learnt, done = (net.haze(x).airlight for net in nets)
    assert not torch.allclose(learnt, prior, atol=1e-3)
    torch.testing.assert_close(done, torch.lerp(prior, learnt, 0.25))


@torch.inference_mode()
def test_a_picture_that_the_prior_is_wrong_about_is_left_alone() -> None:
    net = fw.create_model("dcmpnet_small", restraint=0.25).eval()
    nn.init.normal_(net.dehazing.patch_unembed.weight, std=0.01)
    x = 0.3 + 0.4 * torch.rand(2, 3, 64, 64)
    assert float((net(x).clear - x).abs().mean()) > 0.05
    net.dehazing.patch_unembed.bias[0] = -20.0
    torch.testing.assert_close(net(x).clear, x, atol=1e-6, rtol=0)
